"""Pushing: from what store locations should show to what they show, one batched compare-and-set per channel.

The protocol of one write:
1. unanswered writes of the channel are resolved first: the same rows under the same key;
2. pace: wait for the channel's budget;
3. claim the levels that differ, decreases first; commit the batch and its key;
4. send once;
5. commit what became of it, if the lease token is still ours.

Invariants: an attempt is committed before its request is sent; a level has one open push at most; a value is never
"sent again harder": after a refusal the next batch computes today's value.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from channels import protocol, urgency
from channels.protocol import Connector, RowOutcome, RowResult
from channels.urgency import Urgency
from sync import outage
from sync.ports import DOUBTFUL, Batch, ChannelRef, Engine, GivenBack, Picked, Row
from synctec.lib.backoff import MAX_ATTEMPTS, delay_seconds
from synctec.lib.failpoints import failpoint
from synctec.lib.ids import uuid7

log = structlog.get_logger(__name__)

#: Longer than a request can take, so that nobody sends a batch again while its first sender may still be at it.
LEASE = timedelta(seconds=14)
#: A row that the channel refuses for good waits this long, unless its number changes before.
REFUSED_PAUSE = timedelta(minutes=15)
#: While rows fail as a batch without saying which, batches shrink: 250, 50, 10, 2, 1 rows.
SHRINK = 5
#: How often a write without an answer is sent again under a key that its channel remembers, before the store is read
#: instead: for some three minutes. The key tells for certain; a reading takes a change by hand of the same size for it.
KEYED_RETRIES = 12
#: Shopify remembers a key for 24 hours. Asked again after that, a write that was applied would be applied once more.
KEY_MEMORY = timedelta(hours=23)


@dataclass(slots=True)
class Pushed:
    """What a run came to."""

    batches: int = 0
    confirmed: int = 0
    stale: int = 0
    refused: int = 0
    unknown: int = 0
    has_more: bool = False
    wait_seconds: float = 0.0
    has_suspects: bool = False
    batch_ids: list[uuid.UUID] = field(default_factory=list)


def push_channel(engine: Engine, *, channel: ChannelRef, max_batches: int = 20) -> Pushed:
    """Push until the channel has nothing more to be pushed, or asks to wait; `.has_more` when `max_batches` ended it.

    Raises:
        OperationalError: the database is away; whatever was sent is found again by its key.
    """
    done = Pushed()
    connector = engine.channels.connector(channel.channel_id)
    rows_per_write = connector.capabilities.rows_per_write
    while done.batches < max_batches:
        batch = engine.books.claim_repeat(channel.channel_id, LEASE) or claim_batch(engine, channel, rows_per_write)
        if batch is None:
            return done
        done.batches += 1
        done.batch_ids.append(batch.id)
        done.has_more = batch.is_repeat or batch.is_full
        if not _send(engine, channel, connector, batch, done) or not done.has_more:
            return done
    return done


def claim_batch(engine: Engine, channel: ChannelRef, rows_per_write: int) -> Batch | None:
    """Claim levels that show another number than they should, and commit the intention to write it.

    This commit waits for the disk: a write that was sent and then forgotten would look like somebody's edit.
    """
    books = engine.books
    with books.transaction(waits_for_disk=True):
        books.lock_claims(channel.channel_id)
        picked = books.out_of_sync(channel.channel_id, rows_per_write)
        if not picked:
            return None
        chosen = _choose(picked, rows_per_write)
        batch = books.open_batch(channel, uuid7(), chosen, LEASE)
    return batch._replace(is_full=len(chosen) < len(picked) or len(picked) == rows_per_write)


def _choose(picked: Sequence[Picked], rows_per_write: int) -> list[Picked]:
    """The rows of one write: after failures in ever smaller batches, and one row for listings that share a level."""
    failures = picked[0].failures
    limit = max(1, rows_per_write // SHRINK**failures)
    chosen: dict[tuple[str, str], Picked] = {}
    for pick in picked:
        if pick.failures == failures and len(chosen) < limit:
            chosen.setdefault((pick.inventory_item_id, pick.location_id), pick)
    return list(chosen.values())


def _send(engine: Engine, channel: ChannelRef, connector: Connector, batch: Batch, done: Pushed) -> bool:
    """Send one batch and commit what became of it; False when the channel is to be left alone for now."""
    failpoint("push.after_claim")
    if batch.opened_at is not None and engine.now() - batch.opened_at > KEY_MEMORY:
        with engine.books.transaction():
            done.has_suspects = _leave_to_reading(engine, batch, "its key is older than the channel remembers")
        return True
    key = str(batch.id)
    changes = [row.change for row in batch.rows]
    lowers = any(change.to_quantity < change.from_quantity for change in changes)
    try:
        with urgency.of(Urgency.LOWER if lowers else Urgency.RAISE):
            result = connector.write_quantities(changes, key=key, reference=f"gid://synctec/PushBatch/{key}")
    except protocol.OutcomeUnknown as error:
        done.unknown += len(batch.rows)
        _commit_unknown(engine, batch, error, has_keys=connector.capabilities.idempotency_keys)
        return False
    except protocol.ChannelError as error:
        if batch.is_repeat and isinstance(error, protocol.Refused):
            # Refused this time: the first may have been applied all the same, and asking again will not tell.
            with engine.books.transaction():
                done.has_suspects = _leave_to_reading(engine, batch, str(error))
            return False
        done.wait_seconds = _commit_not_sent(engine, channel, batch, error)
        return False
    failpoint("push.after_send")
    _commit_answer(engine, channel, batch, result, done, has_keys=connector.capabilities.idempotency_keys)
    failpoint("push.after_commit")
    return True


# --- what became of it ------------------------------------------------------------------------------------------


def _commit_answer(
    engine: Engine,
    channel: ChannelRef,
    batch: Batch,
    result: protocol.WriteResult,
    done: Pushed,
    *,
    has_keys: bool,
) -> None:
    books = engine.books
    outcomes = [row.outcome for row in result.rows]
    with books.transaction():
        is_refused = any(outcome is not RowOutcome.CONFIRMED for outcome in outcomes)
        if batch.is_repeat and is_refused and not has_keys:
            # Refused the second time: the first may have been applied all the same. Only the store can tell.
            done.has_suspects = _leave_to_reading(engine, batch, _first_message(result.rows))
            return
        if not books.fence(batch, "done", _first_message(result.rows), None):
            log.info("push.fenced", batch=str(batch.id), channel_id=channel.channel_id)
            return
        outage.answered(engine, channel)
        pairs = list(zip(batch.rows, result.rows, strict=True))
        confirmed = [row for row, told in pairs if told.outcome is RowOutcome.CONFIRMED]
        stale = [row for row, told in pairs if told.outcome is RowOutcome.STALE]
        books.lock_level_rows(row.level_id for row in batch.rows)
        if confirmed:
            books.confirm([row.push_id for row in confirmed], result.source_at)
        _reject(engine, batch, [(row, told) for row, told in pairs if told.outcome is not RowOutcome.CONFIRMED])
        if stale:
            books.suspect([row.level_id for row in stale], "changed before our write", timedelta(milliseconds=200))
            failpoint("push.stale_before_commit")
    done.confirmed += len(confirmed)
    done.stale += len(stale)
    done.refused += outcomes.count(RowOutcome.REFUSED)
    done.has_suspects = done.has_suspects or bool(stale)
    done.has_more = done.has_more or RowOutcome.NOT_APPLIED in outcomes


def _first_message(rows: Sequence[RowResult]) -> str:
    return next((f"{row.code}: {row.message}" for row in rows if row.outcome is not RowOutcome.CONFIRMED), "")


def _reject(engine: Engine, batch: Batch, pairs: Sequence[tuple[Row, RowResult]]) -> None:
    """These rows were not applied. Their levels stay out of sync; the next batch computes their value anew."""
    # A key that had succeeded would have answered so again: that is promised, and not kept everywhere. And an earlier sending
    # may still be on its way.
    doubtful_until = engine.now() + DOUBTFUL if batch.is_repeat else None
    # Not applied although no row was to blame: the batch shrinks until the culprit stands alone.
    nobody_blamed = all(told.outcome is RowOutcome.NOT_APPLIED for _, told in pairs)
    engine.books.give_back(
        [
            GivenBack(
                row.push_id,
                told.code,
                told.message,
                pause=REFUSED_PAUSE if told.outcome is RowOutcome.REFUSED else timedelta(0),
                failures=int(
                    told.outcome is RowOutcome.REFUSED or (nobody_blamed and told.outcome is RowOutcome.NOT_APPLIED)
                ),
                is_doubtful_until=doubtful_until,
                may_be_applied=batch.is_repeat and told.outcome is RowOutcome.STALE and _is_telling(row),
            )
            for row, told in pairs
        ]
    )


def _is_telling(row: Row) -> bool:
    """Whether a lower that may have been applied would be known by its size. A single unit may be gone by anybody's hand, who
    may be why the write came too late: then fewer are offered, and the finding says that it may have been us.
    """
    return row.change.from_quantity - row.change.to_quantity > 1


def give_up(engine: Engine, push_id: int, *, sent_at: datetime) -> None:
    """No answer came, and the store shows that it was not applied; it may still come true until `DOUBTFUL` is over."""
    engine.books.give_back(
        [
            GivenBack(
                push_id,
                "NOT_FOUND_APPLIED",
                "no answer came, and the store shows that it was not applied",
                pause=timedelta(0),
                failures=0,
                is_doubtful_until=sent_at + DOUBTFUL,
            )
        ]
    )


def _leave_to_reading(engine: Engine, batch: Batch, error: str) -> bool:
    """Only the store can tell what became of this batch; False when it is not ours any more."""
    if not engine.books.fence(batch, "unresolved", error, None):
        return False
    engine.books.lock_level_rows(row.level_id for row in batch.rows)
    engine.books.suspect([row.level_id for row in batch.rows], "outcome of a write unknown", timedelta(0))
    return True


def _commit_unknown(engine: Engine, batch: Batch, error: protocol.ChannelError, *, has_keys: bool) -> None:
    """No whole answer: the same key again, later; after the last attempt the store is read instead."""
    with engine.books.transaction():
        failpoint("push.before_unknown_commit")
        if batch.attempt > (KEYED_RETRIES if has_keys else MAX_ATTEMPTS):
            _leave_to_reading(engine, batch, str(error))
            return
        delay = max(delay_seconds(min(batch.attempt, MAX_ATTEMPTS), engine.rng), error.retry_after or 0.0)
        engine.books.fence(batch, "unknown", str(error), timedelta(seconds=delay))


def _commit_not_sent(engine: Engine, channel: ChannelRef, batch: Batch, error: protocol.ChannelError) -> float:
    """This time it was not applied. A first attempt is given up, a repeat stays unknown; the channel rests."""
    books = engine.books
    if isinstance(error, protocol.NotAuthorized):
        engine.channels.needs_authorization(channel.channel_id, str(error))
    with books.transaction():
        wait = outage.failed(engine, channel, error)
        is_asked_to_wait = isinstance(error, protocol.Throttled) and not isinstance(error, protocol.Paced)
        if batch.is_repeat or is_asked_to_wait:
            # The same key again, at no cost of an attempt. No channel promises that what it throttled was not applied.
            if books.fence(batch, "unknown", str(error), timedelta(seconds=wait)):
                books.uncount_attempt(batch)
            return wait
        if books.fence(batch, "done", str(error), None):
            books.lock_level_rows(row.level_id for row in batch.rows)
            refused = isinstance(error, protocol.Refused)
            pause = REFUSED_PAUSE if refused and len(batch.rows) == 1 else timedelta(0)
            if isinstance(error, protocol.Paced) and error.gives_way:
                pause = timedelta(seconds=wait)
            books.give_back(
                [GivenBack(row.push_id, error.code, str(error), pause, failures=int(refused)) for row in batch.rows]
            )
    return wait
