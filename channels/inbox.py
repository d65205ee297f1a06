"""The inbox: writing down what a channel said, so that it may be acknowledged.

Everything here is on the way of every webhook: one statement, one round trip, committed when the function
returns, and shared with the deliveries that arrive in the same moment. What the bytes mean is not looked at; that is the
engine's work, later and at its own pace.
"""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from django.db import InterfaceError, OperationalError, connection

from channels import bodies, protocol
from synctec.lib import sql
from synctec.lib.combiner import Combiner
from synctec.lib.failpoints import failpoint
from synctec.lib.hlc import HybridClock, pack
from synctec.lib.ids import uuid7s

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper

log = structlog.get_logger(__name__)

#: What makes a delivery that delivery: channel, topic, webhook id.
_Identity = tuple[int, str, str]

#: Called with the merchant's id after an event is committed, to wake whoever applies it. Filled by the engine
#: when it starts (`sync.apps`), since this app may not import the engine. A hint, no more: a sweep finds
#: every event anyhow.
on_received: list[Callable[[int], object]] = []

_RECEIVE = """
    WITH arrived AS MATERIALIZED (
        SELECT * FROM unnest(
            %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[],
            %s::date[], %b::bytea[], %b::bytea[], %s::bigint[], %s::bool[], %s::timestamptz[], %s::uuid[], %s::int[])
        AS arrived (merchant_id, channel_id, topic, webhook_id, event_id, api_version, triggered_at,
                    kept_on, sealed, body_sha256, hlc, is_clock_suspect, received_at, correlation_id, duplicates)
    ), stored AS (
        INSERT INTO channels_inboxevent (
            merchant_id, channel_id, topic, webhook_id, event_id, api_version, triggered_at,
            body_kept_on, body_sha256, hlc, is_clock_suspect, received_at, correlation_id, duplicates)
        SELECT merchant_id, channel_id, topic, webhook_id, event_id, api_version, triggered_at,
               kept_on, body_sha256, hlc, is_clock_suspect, received_at, correlation_id, duplicates
          FROM arrived
        ON CONFLICT (channel_id, topic, webhook_id)
            DO UPDATE SET duplicates = channels_inboxevent.duplicates + excluded.duplicates + 1
        RETURNING channel_id, topic, webhook_id, id, correlation_id
    ), kept AS (
        INSERT INTO channels_inboxbody (merchant_id, event_id, kept_on, sealed)
        SELECT arrived.merchant_id, stored.id, arrived.kept_on, arrived.sealed
          FROM stored JOIN arrived USING (correlation_id)  -- of a duplicate, that of the first delivery
    )
    SELECT channel_id, topic, webhook_id, id, correlation_id FROM stored
"""

_RECEIVE_MANY = """
    WITH arrived AS MATERIALIZED (
        SELECT %s::bigint AS merchant_id, %s::bigint AS channel_id, %s::text AS topic, %s::timestamptz AS received_at,
               %s::date AS kept_on, told.*
          FROM unnest(%s::text[], %s::timestamptz[], %s::bytea[], %s::bytea[], %s::bigint[], %s::bool[], %s::uuid[])
            AS told (webhook_id, triggered_at, sealed, body_sha256, hlc, is_clock_suspect, correlation_id)
    ), stored AS (
        INSERT INTO channels_inboxevent (
            merchant_id, channel_id, topic, webhook_id, triggered_at,
            body_kept_on, body_sha256, hlc, is_clock_suspect, received_at, correlation_id)
        SELECT merchant_id, channel_id, topic, webhook_id, triggered_at,
               kept_on, body_sha256, hlc, is_clock_suspect, received_at, correlation_id
          FROM arrived
        -- What ended dead is taken up again by the next poll that finds it: what was wrong may be mended.
        ON CONFLICT (channel_id, topic, webhook_id) DO UPDATE
            SET state = 'pending', attempts = 0, reason = '', settled_at = NULL, next_attempt_at = now(),
                body_kept_on = excluded.body_kept_on
            WHERE channels_inboxevent.state = 'dead'
        RETURNING id, webhook_id
    ), kept AS (
        INSERT INTO channels_inboxbody (merchant_id, event_id, kept_on, sealed)
        SELECT arrived.merchant_id, stored.id, arrived.kept_on, arrived.sealed FROM stored JOIN arrived USING (webhook_id)
        ON CONFLICT (event_id, kept_on) DO NOTHING
    )
    SELECT count(*) FROM stored
"""

_GREATEST_STAMP = "SELECT max(hlc) FROM channels_inboxevent"

#: Deliveries written with one statement, and their bodies' bytes together: a statement has a gigabyte at most.
BATCH_DELIVERIES = 64
BATCH_BYTES = 32 * 1024 * 1024
#: More than a process can have under way: who comes on top of them is sent away instead of queueing.
WAITING_MAX = 512
#: A channel hangs up after five seconds; an answer should reach it before.
WAIT_SECONDS = 4.0
#: So long the next statement waits for those that were just answered and deliver again; not when one comes alone.
LINGER_SECONDS = 0.004


@dataclass(frozen=True, slots=True)
class Receipt:
    """An event that is stored for good. For a duplicate: the identities of the first delivery."""

    event_id: int
    is_duplicate: bool
    correlation_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A delivery on its way to the disk."""

    channel_id: int
    merchant_id: int
    delivery: protocol.Delivery
    sealed: bytes  # the body
    body_sha256: bytes  # of what was sent
    now: datetime

    @property
    def identity(self) -> _Identity:
        return self.channel_id, self.delivery.topic, self.delivery.webhook_id


def receive(*, channel_id: int, merchant_id: int, delivery: protocol.Delivery, body: bytes, now: datetime) -> Receipt:
    """Store one delivery and commit, then wake the engine. A delivery seen before is only counted.

    Deliveries that arrive meanwhile, in other threads, share the next statement and its commit.

    Raises:
        django.db.Error: it is not known to be stored, so it must not be acknowledged.
        NotDone: likewise; too much is waiting, or it takes too long.
        RuntimeError: called inside a transaction, whose commit would come too late.
    """
    _refuse_inside_transaction()
    sealed = bodies.seal(body, channel_id=channel_id)
    arrived = _Arrived(channel_id, merchant_id, delivery, sealed, hashlib.sha256(body).digest(), now)
    receipt = _intake.submit(arrived)
    failpoint("webhook.after_commit")
    if not receipt.is_duplicate:
        ring(merchant_id)
    return receipt


def _store(batch: Sequence[_Arrived]) -> Sequence[Receipt | Exception]:
    """Store all of them with one statement and commit; should one be impossible to store, each on its own.

    Raises:
        OperationalError, InterfaceError: the database is away; nothing is known to be stored.
    """
    try:
        return _insert(batch)
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        if len(batch) == 1:
            return [error]
        return [outcome for arrived in batch for outcome in _store([arrived])]


def _insert(batch: Sequence[_Arrived]) -> list[Receipt]:
    """One statement for the batch. Of several deliveries with one identity the first is stored, the others counted."""
    same: dict[_Identity, list[_Arrived]] = defaultdict(list)
    for arrived in batch:
        same[arrived.identity].append(arrived)
    # In one order, so that two processes never wait for each other's rows crosswise.
    firsts = [same[identity][0] for identity in sorted(same)]
    ids = dict(zip(sorted(same), uuid7s(len(same)), strict=True))
    stamps = [_stamp(first.delivery.triggered_at, first.now) for first in firsts]
    stored = {
        (channel_id, topic, webhook_id): (event_id, correlation_id)
        for channel_id, topic, webhook_id, event_id, correlation_id in sql.rows(
            _RECEIVE,
            (
                [first.merchant_id for first in firsts],
                [first.channel_id for first in firsts],
                [first.delivery.topic for first in firsts],
                [first.delivery.webhook_id for first in firsts],
                [first.delivery.event_id for first in firsts],
                [first.delivery.api_version for first in firsts],
                [first.delivery.triggered_at for first in firsts],
                [bodies.day_of(first.now) for first in firsts],
                [first.sealed for first in firsts],
                [first.body_sha256 for first in firsts],
                [stamp for stamp, _ in stamps],
                [is_suspect for _, is_suspect in stamps],
                [first.now for first in firsts],
                list(ids.values()),
                [len(same[first.identity]) - 1 for first in firsts],
            ),
        )
    }
    receipts = []
    for arrived in batch:
        event_id, correlation_id = stored[arrived.identity]
        is_new = correlation_id == ids[arrived.identity] and arrived is same[arrived.identity][0]
        receipts.append(Receipt(event_id, not is_new, correlation_id))
    # Whoever leads next must find a connection in the pool, however long this thread's request still takes.
    sql.give_back()
    return receipts


_intake: Combiner[_Arrived, Receipt] = Combiner(
    _store,
    batch_max=BATCH_DELIVERIES,
    waiting_max=WAITING_MAX,
    timeout_seconds=WAIT_SECONDS,
    linger_seconds=LINGER_SECONDS,
    weigh=lambda arrived: len(arrived.sealed),
    weight_max=BATCH_BYTES,
)


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

    An order polled before in the same version is left alone, unless it ended dead. The caller rings after its commit
    (`ring`).
    """
    if not orders:
        return 0
    # A page may shift under the reader and show an order twice.
    orders = list({polled_id(order): order for order in orders}.values())
    stamps = [_stamp(order.version, now) for order in orders]
    cursor.execute(
        _RECEIVE_MANY,
        (
            merchant_id,
            channel_id,
            topic,
            now,
            bodies.day_of(now),
            [polled_id(order) for order in orders],
            [order.version for order in orders],
            [bodies.seal(order.body, channel_id=channel_id) for order in orders],
            [hashlib.sha256(order.body).digest() for order in orders],
            [stamp for stamp, _ in stamps],
            [is_suspect for _, is_suspect in stamps],
            uuid7s(len(orders)),
        ),
    )
    return int(cursor.fetchone()[0])


def polled_id(order: protocol.PolledOrder) -> str:
    """The identity of a polled order in the inbox: the order, the version it was read in, and what was read."""
    fingerprint = order.fingerprint or hashlib.sha256(order.body).hexdigest()[:16]
    return f"poll:{order.order_id}:{order.version.astimezone(UTC).isoformat()}:{fingerprint}"


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


# --- the clock ------------------------------------------------------------------------------------------------

_process_clock: HybridClock | None = None
_process_clock_lock = threading.Lock()


def _stamp(told_at: datetime | None, now: datetime) -> tuple[int, bool]:
    """The stamp of an event received now that its channel says happened at `told_at`, and whether that lies too far in the
    future to be followed."""
    now_ms = _milliseconds(now)
    if told_at is None:
        return _clock().tick(now_ms), False
    return _clock().observe(pack(max(0, _milliseconds(told_at)), 0), now_ms)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _clock() -> HybridClock:
    """This process's hybrid logical clock, started after the greatest stamp stored by any process, so that stamps do not
    go back over a restart even when the machine's clock does.
    """
    global _process_clock
    if _process_clock is None:
        with _process_clock_lock:
            if _process_clock is None:
                ((greatest,),) = sql.rows(_GREATEST_STAMP)
                _process_clock = HybridClock(greatest or 0)
    return _process_clock
