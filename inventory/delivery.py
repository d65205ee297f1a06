"""Telling a merchant's own systems of changes of stock, by signed webhooks (Standard Webhooks 1.0).

An endpoint is a cursor in the feed: what it has acknowledged. A message tells of the next changes, per stock level and with
its numbers of now, so that a thousand sales of one SKU are a line. Nothing is written per change and per endpoint, and
posting to the ledger knows nothing of endpoints.

- An attempt is claimed, its message composed and both committed before it is sent; a lease keeps a second worker away.
- A message that failed is sent again with its id and its bytes, as long as nothing new has happened. Else a new message,
  with a new id, covers both: an endpoint gets the newest numbers, never yesterday's in a row. It is at-least-once: `seq`
  says which of two states of a level is newer.
- Attempts follow a fixed schedule with jitter, or later if the endpoint asks for it (Retry-After). After five days of
  failure, or a 410, the endpoint is switched off, which people see in the admin. Its cursor stays: switched on again it
  hears what it missed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models.functions import Now

from inventory import feed
from inventory.models import DeliveryState, EndpointState, WebhookDelivery, WebhookEndpoint
from merchants import posting, sealing, trail
from merchants.api import encode_cursor
from merchants.models import ApiKey, Merchant, User
from synctec.lib import sql
from synctec.lib.backoff import redelivery_seconds
from synctec.lib.crypto import CryptoError
from synctec.lib.ids import uuid7
from synctec.lib.secret import Secret
from synctec.lib.signing import new_webhook_secret

log = structlog.get_logger(__name__)

#: Movements one message covers at most.
MESSAGE_MOVEMENTS = 200
#: Nobody else tries for so long; longer than an attempt can take.
LEASE = timedelta(seconds=60)
#: A receiver has this long to change to a new secret; meanwhile both sign.
ROTATION = timedelta(hours=24)
#: Standard Webhooks: an endpoint that fails for so long is switched off.
GIVE_UP_AFTER = timedelta(hours=120)
#: Settled messages are kept so long, for people to look at.
KEPT_FOR = timedelta(days=30)
_FORGOTTEN_AT_ONCE = 5_000
_PAGES_AT_ONCE = 20


class EndpointRefused(ValueError):
    """An address that is not told anything; the text says why."""


# --- endpoints ----------------------------------------------------------------------------------------------


def check_url(url: str) -> None:
    """Raises EndpointRefused for an address that is neither public https nor an origin the operator named."""
    try:
        posting.check_url(url)
    except posting.PostRefused as refused:
        raise EndpointRefused(str(refused)) from None


@transaction.atomic
def create(
    *, merchant: Merchant, url: str, description: str = "", skipped_key: ApiKey | None = None, user: User | None
) -> tuple[WebhookEndpoint, Secret]:
    """A new endpoint, told of what changes from now on, and the secret that signs for it.

    Raises:
        EndpointRefused: the address.
        IntegrityError: the merchant has an endpoint with this address.
    """
    check_url(url)
    position = feed.end_of(merchant.pk)
    endpoint = WebhookEndpoint.objects.create(
        merchant=merchant,
        url=url,
        description=description,
        skipped_key=skipped_key,
        cursor_transaction=position.transaction,
        cursor_movement=position.movement,
    )
    secret = _renew_secret(endpoint)
    endpoint.save(update_fields=["sealed_secret"])
    _record(endpoint, "create", user, after={"url": url})
    return endpoint, secret


@transaction.atomic
def rotate_secret(endpoint: WebhookEndpoint, *, user: User | None, now: datetime) -> Secret:
    """A new secret. For a day the one before signs too, so that no message is refused meanwhile."""
    locked = _lock(endpoint)
    sealing.seal(locked, "previous_secret", sealing.unseal(locked, "secret"))
    locked.previous_until = now + ROTATION
    secret = _renew_secret(locked)
    locked.save(update_fields=["sealed_secret", "sealed_previous_secret", "previous_until"])
    _record(locked, "rotate_secret", user, after={"previous_until": locked.previous_until.isoformat()})
    return secret


@transaction.atomic
def switch_off(endpoint: WebhookEndpoint, *, user: User | None, reason: str = "") -> None:
    """Tell it nothing more, until it is switched on again."""
    locked = _lock(endpoint)
    before = {"state": locked.state}
    locked.state, locked.state_reason, locked.lease = EndpointState.OFF, reason[:300], None
    locked.save(update_fields=["state", "state_reason", "lease"])
    _record(locked, "switch_off", user, before=before, after={"state": locked.state}, reason=reason)


@transaction.atomic
def switch_on(endpoint: WebhookEndpoint, *, user: User | None, now: datetime) -> None:
    """Tell it again, of what it missed first."""
    locked = _lock(endpoint)
    before = {"state": locked.state}
    locked.state, locked.state_reason, locked.lease = EndpointState.ACTIVE, "", None
    locked.failures, locked.failing_since, locked.next_attempt_at = 0, None, now
    locked.save()
    _record(locked, "switch_on", user, before=before, after={"state": locked.state})


def _lock(endpoint: WebhookEndpoint) -> WebhookEndpoint:
    return WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=endpoint.pk)


def _record(
    endpoint: WebhookEndpoint,
    deed: str,
    user: User | None,
    *,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
    reason: str = "",
) -> None:
    trail.record(
        merchant_id=endpoint.merchant_id,
        action=f"webhookendpoint.{deed}",
        subject=endpoint,
        user=user,
        before=before,
        after=after,
        reason=reason,
    )


# --- secrets ------------------------------------------------------------------------------------------------


def _renew_secret(endpoint: WebhookEndpoint) -> Secret:
    secret = new_webhook_secret()
    sealing.seal(endpoint, "secret", secret)
    return secret


def _signing_secrets(endpoint: WebhookEndpoint, now: datetime) -> list[Secret]:
    """Raises CryptoError when one does not open."""
    secrets = [sealing.unseal(endpoint, "secret")]
    if endpoint.previous_until is not None and now < endpoint.previous_until:
        secrets.append(sealing.unseal(endpoint, "previous_secret"))
    return secrets


def reseal_all() -> tuple[int, list[tuple[int, str]]]:
    """Seal every secret with the first key of the ring (see `merchants.sealing`)."""
    return sealing.reseal_all(WebhookEndpoint, ("secret", "previous_secret"))


# --- an attempt ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A message about to be sent, committed with its lease."""

    endpoint: WebhookEndpoint
    delivery: WebhookDelivery
    has_more: bool


def due() -> list[int]:
    """The endpoints whose turn it is and that have something to hear, found by SQL: a probe of the feed for each."""
    found = sql.rows(
        """
        SELECT endpoint.id FROM inventory_webhookendpoint endpoint
        WHERE endpoint.state = 'active' AND endpoint.next_attempt_at <= now() AND (
            EXISTS (SELECT 1 FROM inventory_webhookdelivery delivery
                WHERE delivery.endpoint_id = endpoint.id AND delivery.state = 'open')
            OR EXISTS (SELECT 1 FROM inventory_movement movement
                WHERE movement.merchant_id = endpoint.merchant_id
                    AND (movement.transaction_id, movement.id) > (endpoint.cursor_transaction, endpoint.cursor_movement)
                    AND movement.transaction_id < pg_snapshot_xmin(pg_current_snapshot())::text::bigint))
        ORDER BY endpoint.next_attempt_at
        """
    )
    return [row[0] for row in found]


def deliver(endpoint_id: int, *, now: Callable[[], datetime], rng: random.Random) -> bool:
    """Make one attempt, if it is the endpoint's turn. Returns whether more can be told at once.

    Must not be called inside a transaction: what is sent has been committed.
    """
    attempt = _claim(endpoint_id, now())
    if attempt is None:
        return False
    answer = _send(attempt, now())
    is_settled = _settle(attempt, answer, now(), rng)
    return is_settled and answer.is_acknowledged and attempt.has_more


def _claim(endpoint_id: int, now: datetime) -> _Attempt | None:
    """Take the lease and compose the message, or find that there is nothing to tell."""
    with transaction.atomic(durable=True):
        endpoint = (
            WebhookEndpoint.objects.select_for_update(no_key=True, skip_locked=True, of=("self",))
            .select_related("skipped_key")
            .filter(pk=endpoint_id, state=EndpointState.ACTIVE, next_attempt_at__lte=Now())
            .first()
        )
        if endpoint is None:
            return None
        page = _next_page(endpoint)
        delivery = _compose(endpoint, page, now)
        if delivery is None:
            endpoint.cursor_transaction, endpoint.cursor_movement = page.position
            endpoint.save(update_fields=["cursor_transaction", "cursor_movement"])
            return None
        endpoint.lease = uuid7()
        endpoint.save(update_fields=["lease"])
        WebhookEndpoint.objects.filter(pk=endpoint.pk).update(next_attempt_at=Now() + LEASE)
    return _Attempt(endpoint, delivery, page.has_more)


def _next_page(endpoint: WebhookEndpoint) -> feed.Page:
    """The next changes that are no echo of the endpoint's own."""
    position = feed.Position(endpoint.cursor_transaction, endpoint.cursor_movement)
    skipped = endpoint.skipped_key.prefix if endpoint.skipped_key else ""
    for _ in range(_PAGES_AT_ONCE):
        try:
            page = feed.read(
                merchant_id=endpoint.merchant_id, after=position, limit=MESSAGE_MOVEMENTS, skip_source=skipped
            )
        except feed.CursorOfAnotherTime:
            # The database was restored: everything is told again, and `seq` tells what is new.
            position = feed.START
            continue
        if page.changes or not page.has_more:
            return page
        position = page.position
    return page


def _compose(endpoint: WebhookEndpoint, page: feed.Page, now: datetime) -> WebhookDelivery | None:
    """The message to send: the open one if it says all there is, else a new one in its place; None for nothing."""
    opened = WebhookDelivery.objects.filter(endpoint=endpoint, state=DeliveryState.OPEN).first()
    if opened is not None and page.position == (opened.to_transaction, opened.to_movement):
        return opened
    if opened is not None:
        opened.state, opened.settled_at = DeliveryState.REPLACED, now
        opened.save(update_fields=["state", "settled_at"])
    if not page.changes:
        return None
    document = {
        "type": "stock.changed",
        "timestamp": now.isoformat(),
        "data": {"changes": [change.as_json() for change in page.changes], "next": encode_cursor(*page.position)},
    }
    return WebhookDelivery.objects.create(
        merchant_id=endpoint.merchant_id,
        endpoint=endpoint,
        message_id=f"msg_{uuid7().hex}",
        changes=len(page.changes),
        body=json.dumps(document, separators=(",", ":"), ensure_ascii=False),
        to_transaction=page.position.transaction,
        to_movement=page.position.movement,
    )


def _send(attempt: _Attempt, now: datetime) -> posting.PostAnswer:
    """POST the message. Whatever goes wrong is an answer."""
    try:
        secrets = _signing_secrets(attempt.endpoint, now)
    except CryptoError as error:
        return posting.PostAnswer(False, f"The secret does not open: {error}")
    body, message_id = attempt.delivery.body.encode(), attempt.delivery.message_id
    return posting.post_signed(attempt.endpoint.url, body, message_id=message_id, secrets=secrets, now=now)


def _settle(attempt: _Attempt, answer: posting.PostAnswer, now: datetime, rng: random.Random) -> bool:
    """Write down what came of it; False when the lease was lost meanwhile."""
    with transaction.atomic(durable=True):
        endpoint = (
            WebhookEndpoint.objects.select_for_update(no_key=True)
            .filter(pk=attempt.endpoint.pk, lease=attempt.endpoint.lease, state=EndpointState.ACTIVE)
            .first()
        )
        if endpoint is None:
            return False
        delivery = attempt.delivery
        delivery.attempts += 1
        delivery.answer = answer.says[:300]
        endpoint.lease = None
        if answer.is_acknowledged:
            delivery.state, delivery.settled_at = DeliveryState.DELIVERED, now
            endpoint.cursor_transaction, endpoint.cursor_movement = delivery.to_transaction, delivery.to_movement
            endpoint.failures, endpoint.failing_since = 0, None
            endpoint.last_delivered_at = endpoint.next_attempt_at = now
        else:
            _note_failure(endpoint, answer, now, rng)
        delivery.save(update_fields=["state", "settled_at", "attempts", "answer"])
        endpoint.save()
    return True


def _note_failure(endpoint: WebhookEndpoint, answer: posting.PostAnswer, now: datetime, rng: random.Random) -> None:
    """Try again later, or switch the endpoint off."""
    endpoint.failures += 1
    endpoint.failing_since = endpoint.failing_since or now
    pause = max(timedelta(seconds=redelivery_seconds(endpoint.failures, rng)), answer.retry_after)
    endpoint.next_attempt_at = now + pause
    if not answer.is_gone and now - endpoint.failing_since < GIVE_UP_AFTER:
        return
    why = "It said that it is gone for good (410)" if answer.is_gone else "It failed for five days"
    endpoint.state, endpoint.state_reason = EndpointState.FAILED, f"{why}; at last it {answer.says}"[:300]
    _record(endpoint, "give_up", None, after={"state": endpoint.state}, reason=endpoint.state_reason)
    log.warning("webhook_endpoint.given_up", endpoint_id=endpoint.pk, merchant_id=endpoint.merchant_id)


def forget_old(*, now: datetime) -> int:
    """Delete settled messages nobody will look for any more, so many at a time; returns how many."""
    return sql.execute(
        """
        DELETE FROM inventory_webhookdelivery WHERE id IN (
            SELECT id FROM inventory_webhookdelivery WHERE state <> 'open' AND created_at < %s
            ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED)
        """,
        [now - KEPT_FOR, _FORGOTTEN_AT_ONCE],
    )
