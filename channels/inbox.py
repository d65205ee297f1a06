"""The inbox: writing down what a channel said, so that it may be acknowledged.

Everything here is on the way of every webhook: one statement, one round trip, committed when the function
returns. What the bytes mean is not looked at; that is the engine's work, later and at its own pace.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from django.db import connection

from channels import protocol
from synctec.lib.failpoints import failpoint
from synctec.lib.hlc import HybridClock
from synctec.lib.ids import uuid7

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper

log = structlog.get_logger(__name__)

#: Called with the merchant's id after an event is committed, to wake whoever applies it. Filled by the engine
#: when it starts (`sync.apps`), since this app may not import the engine. A hint, no more: a sweep finds
#: every event anyhow.
on_received: list[Callable[[int], object]] = []

_RECEIVE = """
    INSERT INTO channels_inboxevent (
        merchant_id, channel_id, topic, webhook_id, event_id, api_version, triggered_at,
        body, body_sha256, hlc, received_at, correlation_id)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (channel_id, topic, webhook_id) DO UPDATE SET duplicates = channels_inboxevent.duplicates + 1
    RETURNING id, duplicates, correlation_id
"""

_RECEIVE_MANY = """
    INSERT INTO channels_inboxevent (
        merchant_id, channel_id, topic, webhook_id, triggered_at,
        body, body_sha256, hlc, received_at, correlation_id)
    SELECT %s, %s, %s, arrived.webhook_id, arrived.triggered_at,
           arrived.body, sha256(arrived.body), arrived.hlc, %s, arrived.correlation_id
      FROM unnest(%s::text[], %s::timestamptz[], %s::bytea[], %s::bigint[], %s::uuid[])
        AS arrived (webhook_id, triggered_at, body, hlc, correlation_id)
    ON CONFLICT (channel_id, topic, webhook_id) DO NOTHING
"""

#: The newest stamps, by the primary key: stamps grow with ids but for a few events received at the same
#: moment.
_NEWEST_STAMP = "SELECT max(hlc) FROM (SELECT hlc FROM channels_inboxevent ORDER BY id DESC LIMIT 1000) AS newest"


@dataclass(frozen=True, slots=True)
class Receipt:
    """An event that is stored for good. For a duplicate: the identities of the first delivery."""

    event_id: int
    is_duplicate: bool
    correlation_id: uuid.UUID


def receive(*, channel_id: int, merchant_id: int, delivery: protocol.Delivery, body: bytes, now: datetime) -> Receipt:
    """Store one delivery and commit, then wake the engine. A delivery seen before is only counted.

    Raises:
        django.db.Error: it is not known to be stored, so it must not be acknowledged.
        RuntimeError: called inside a transaction, whose commit would come too late.
    """
    _refuse_inside_transaction()
    stamp = _clock().tick(_milliseconds(now))
    with connection.cursor() as cursor:
        cursor.execute(
            _RECEIVE,
            (
                merchant_id,
                channel_id,
                delivery.topic,
                delivery.webhook_id,
                delivery.event_id,
                delivery.api_version,
                delivery.triggered_at,
                body,
                hashlib.sha256(body).digest(),
                stamp,
                now,
                uuid7(),
            ),
        )
        event_id, duplicates, correlation_id = cursor.fetchone()
    failpoint("webhook.after_commit")
    if not duplicates:
        ring(merchant_id)
    return Receipt(event_id=event_id, is_duplicate=duplicates > 0, correlation_id=correlation_id)


def receive_many(
    cursor: CursorWrapper,
    *,
    channel_id: int,
    merchant_id: int,
    topic: str,
    orders: Sequence[protocol.PolledOrder],
    now: datetime,
) -> int:
    """Store polled orders in the caller's transaction and tell how many were news.

    An order polled before in the same version is left alone. The caller rings after its commit (`ring`).
    """
    if not orders:
        return 0
    clock = _clock()
    cursor.execute(
        _RECEIVE_MANY,
        (
            merchant_id,
            channel_id,
            topic,
            now,
            [polled_id(order) for order in orders],
            [order.version for order in orders],
            [order.body for order in orders],
            [clock.tick(_milliseconds(now)) for _ in orders],
            [uuid7() for _ in orders],
        ),
    )
    return int(cursor.rowcount)


def polled_id(order: protocol.PolledOrder) -> str:
    """The identity of a polled order in the inbox: the order, the version it was read in, and what was read.

    Versions are whole seconds at Shopify: an order can change once more within the second in which it was read.
    """
    digest = hashlib.sha256(order.body).hexdigest()[:16]
    return f"poll:{order.order_id}:{order.version.astimezone(UTC).isoformat()}:{digest}"


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def ring(merchant_id: int) -> None:
    """Hint that this merchant has events to apply. Never raises: a lost hint only costs the wait for the
    sweep.
    """
    for wake in on_received:
        try:
            wake(merchant_id)
        except Exception:
            log.warning("inbox.hint_failed", merchant_id=merchant_id, exc_info=True)


def _refuse_inside_transaction() -> None:
    """An acknowledgement after `receive` must mean "committed". The transaction of a test around it all is
    let pass.
    """
    blocks = connection.atomic_blocks
    if blocks and not getattr(blocks[-1], "_from_testcase", False):
        msg = "An event must be committed before it is acknowledged: call receive() outside of any transaction."
        raise RuntimeError(msg)


_process_clock: HybridClock | None = None
_process_clock_lock = threading.Lock()


def _clock() -> HybridClock:
    """This process's hybrid logical clock, started from the newest stamp stored, so that stamps do not go
    back over a restart even when the machine's clock does.
    """
    global _process_clock
    if _process_clock is None:
        with _process_clock_lock:
            if _process_clock is None:
                with connection.cursor() as cursor:
                    cursor.execute(_NEWEST_STAMP)
                    (newest,) = cursor.fetchone()
                _process_clock = HybridClock(newest or 0)
    return _process_clock
