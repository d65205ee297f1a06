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
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from inventory import feed
from inventory.models import DeliveryState, EndpointState, WebhookDelivery, WebhookEndpoint
from merchants import trail
from merchants.api import encode_cursor
from merchants.models import ApiKey, Merchant, User
from synctec.lib import sql
from synctec.lib.backoff import redelivery_seconds
from synctec.lib.crypto import CryptoError, KeyRing
from synctec.lib.http import AddressRefused, AddressRule, GuardedSession, HttpError, Limits
from synctec.lib.ids import uuid7
from synctec.lib.secret import Secret
from synctec.lib.signing import new_webhook_secret, sign_webhook

log = structlog.get_logger(__name__)

#: Movements one message covers at most.
MESSAGE_MOVEMENTS = 200
#: Nobody else tries for so long; longer than an attempt can take.
LEASE = timedelta(seconds=60)
#: A receiver has this long to change to a new secret; meanwhile both sign.
ROTATION = timedelta(hours=24)
#: Standard Webhooks: an endpoint that fails for so long is switched off.
GIVE_UP_AFTER = timedelta(hours=120)
_RETRY_AFTER_MAX = timedelta(hours=24)
_LIMITS = Limits(read_timeout_seconds=15.0, deadline_seconds=20.0, max_response_bytes=65_536)
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
        _rule().judge(url)
    except AddressRefused as refused:
        raise EndpointRefused(f"{refused}. Give an address that begins with https:// and a public host name.") from None


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
    previous = _open(locked, "secret")
    locked.sealed_previous_secret = _seal(locked, "previous_secret", previous)
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


@lru_cache(maxsize=2)
def _ring(keys: str) -> KeyRing:
    return KeyRing.parse(keys)


def _place(endpoint: WebhookEndpoint, name: str) -> str:
    return f"inventory_webhookendpoint:{endpoint.merchant_id}:{endpoint.pk}:{name}"


def _seal(endpoint: WebhookEndpoint, name: str, secret: Secret) -> str:
    return _ring(settings.CREDENTIAL_KEYS).seal(secret, bound_to=_place(endpoint, name))


def _open(endpoint: WebhookEndpoint, name: str) -> Secret:
    """Raises CryptoError when the sealed text does not open."""
    return _ring(settings.CREDENTIAL_KEYS).open(getattr(endpoint, f"sealed_{name}"), bound_to=_place(endpoint, name))


def _renew_secret(endpoint: WebhookEndpoint) -> Secret:
    secret = new_webhook_secret()
    endpoint.sealed_secret = _seal(endpoint, "secret", secret)
    return secret


def _signing_secrets(endpoint: WebhookEndpoint, now: datetime) -> list[Secret]:
    secrets = [_open(endpoint, "secret")]
    if endpoint.previous_until is not None and now < endpoint.previous_until:
        secrets.append(_open(endpoint, "previous_secret"))
    return secrets


def reseal_all() -> tuple[int, list[tuple[int, str]]]:
    """Seal every secret with the first key of the ring, a row per transaction; may be interrupted and run again.

    Returns how many rows were changed, and those that do not open, with the reason.
    """
    resealed, unreadable = 0, []
    for pk in list(WebhookEndpoint.objects.order_by("pk").values_list("pk", flat=True)):
        try:
            resealed += _reseal(pk)
        except CryptoError as error:
            unreadable.append((pk, str(error)))
    return resealed, unreadable


@transaction.atomic
def _reseal(pk: int) -> bool:
    """Whether there was anything to do. Raises CryptoError."""
    endpoint = WebhookEndpoint.objects.select_for_update(no_key=True).filter(pk=pk).first()
    names = ("secret", "previous_secret") if endpoint else ()
    ring = _ring(settings.CREDENTIAL_KEYS)
    stale = [name for name in names if (sealed := getattr(endpoint, f"sealed_{name}")) and not ring.is_current(sealed)]
    if endpoint is None or not stale:
        return False
    for name in stale:
        setattr(endpoint, f"sealed_{name}", _seal(endpoint, name, _open(endpoint, name)))
    endpoint.save(update_fields=[f"sealed_{name}" for name in stale])
    return True


# --- an attempt ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A message about to be sent, committed with its lease."""

    endpoint: WebhookEndpoint
    delivery: WebhookDelivery
    has_more: bool


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of it: whether it was acknowledged, in a few words, and what the endpoint asks for."""

    is_acknowledged: bool
    says: str
    is_gone: bool = False
    retry_after: timedelta = timedelta(0)


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


def _rule() -> AddressRule:
    rule = AddressRule.public_https()
    for origin in settings.WEBHOOK_PRIVATE_ORIGINS:
        rule |= AddressRule.exact_origin(origin)
    return rule


@lru_cache(maxsize=2)
def _session(private_origins: tuple[str, ...]) -> GuardedSession:
    return GuardedSession(_rule(), limits=_LIMITS, purpose="endpoint")


def _send(attempt: _Attempt, now: datetime) -> _Answer:
    """POST the message. Whatever goes wrong is an answer."""
    body, timestamp = attempt.delivery.body.encode(), int(now.timestamp())
    try:
        signature = sign_webhook(
            message_id=attempt.delivery.message_id,
            timestamp=timestamp,
            body=body,
            keys=_signing_secrets(attempt.endpoint, now),
        )
        response = _session(tuple(settings.WEBHOOK_PRIVATE_ORIGINS)).post(
            attempt.endpoint.url,
            data=body,
            headers={
                "Content-Type": "application/json",
                "webhook-id": attempt.delivery.message_id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature,
            },
        )
    except CryptoError as error:
        return _Answer(False, f"The secret does not open: {error}")
    except HttpError as error:
        return _Answer(False, str(error))
    return _Answer(
        HTTPStatus.OK <= response.status_code < HTTPStatus.MULTIPLE_CHOICES,
        f"answered {response.status_code}",
        is_gone=response.status_code == HTTPStatus.GONE,
        retry_after=retry_after(response.headers.get("Retry-After", ""), now),
    )


def retry_after(header: str, now: datetime) -> timedelta:
    """How long an answer asks to be left alone (RFC 9110 10.2.3): seconds or a date, a day at most; 0 for anything else."""
    wait = timedelta(0)
    if header.strip().isdecimal():
        wait = timedelta(seconds=min(int(header.strip()[:10]), _RETRY_AFTER_MAX.total_seconds()))
    elif header:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return wait
        wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    return min(max(wait, timedelta(0)), _RETRY_AFTER_MAX)


def _settle(attempt: _Attempt, answer: _Answer, now: datetime, rng: random.Random) -> bool:
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


def _note_failure(endpoint: WebhookEndpoint, answer: _Answer, now: datetime, rng: random.Random) -> None:
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
