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

import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction

from channels import credentials, protocol
from channels.models import Channel
from channels.protocol import Connector, QuantityChange, RowOutcome, RowResult
from sync import world
from synctec.lib import sql
from synctec.lib.backoff import MAX_ATTEMPTS, delay_seconds
from synctec.lib.ids import uuid7

log = structlog.get_logger(__name__)

#: Longer than a request can take, so that nobody sends a batch again while its first sender may still be at it.
LEASE = timedelta(seconds=20)
#: Class of the advisory locks that put the claims of a channel in line.
CLAIM_LOCK = 7002
#: A row that the channel refuses for good waits this long, unless its number changes before.
REFUSED_PAUSE = timedelta(minutes=15)
#: While rows fail as a batch without saying which, batches shrink: 250, 50, 10, 2, 1 rows.
SHRINK = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch under way."""

    push_id: int
    level_id: int
    change: QuantityChange


@dataclass(frozen=True, slots=True)
class Batch:
    """A write that is committed and may be sent by the holder of the lease token."""

    id: uuid.UUID
    lease_token: int
    attempt: int
    is_repeat: bool
    rows: tuple[Row, ...]
    is_full: bool = False  # there may be more to write than fits


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


def push_channel(*, channel: Channel, connector: Connector, rng: random.Random, max_batches: int = 20) -> Pushed:
    """Push until the channel has nothing more to be pushed, or asks to wait; `.has_more` when `max_batches` ended it.

    Raises:
        OperationalError: the database is away; whatever was sent is found again by its key.
    """
    done = Pushed()
    rows_per_write = connector.capabilities.rows_per_write
    while done.batches < max_batches:
        batch = claim_repeat(channel.pk) or claim_batch(channel, rows_per_write)
        if batch is None:
            return done
        done.batches += 1
        done.has_more = batch.is_repeat or batch.is_full
        if not _send(channel, connector, batch, rng, done) or not done.has_more:
            return done
    return done


def claim_repeat(channel_id: int) -> Batch | None:
    """Take over an unanswered batch whose sender's lease has run out."""
    with transaction.atomic():
        found = sql.rows(
            """
            WITH due AS (
                SELECT batch.id FROM channels_pushbatch batch
                JOIN channels_channel channel ON channel.id = batch.channel_id
                WHERE batch.channel_id = %s AND batch.state IN ('intent', 'unknown')
                    AND batch.next_attempt_at <= now() AND channel.next_call_at <= now() AND channel.state = 'active'
                ORDER BY batch.next_attempt_at LIMIT 1 FOR UPDATE OF batch SKIP LOCKED
            )
            UPDATE channels_pushbatch batch
            SET lease_token = nextval('channels_lease_token'), attempts = batch.attempts + 1, next_attempt_at = now() + %s
            FROM due WHERE batch.id = due.id RETURNING batch.id, batch.lease_token, batch.attempts
            """,
            [channel_id, LEASE],
        )
        if not found:
            return None
        batch_id, token, attempts = found[0]
        return Batch(batch_id, token, attempts, is_repeat=True, rows=_rows_of(batch_id))


def _rows_of(batch_id: uuid.UUID) -> tuple[Row, ...]:
    return tuple(
        Row(push_id, level_id, QuantityChange(item, location, from_quantity, to_quantity))
        for push_id, level_id, item, location, from_quantity, to_quantity in sql.rows(
            """
            SELECT push.id, push.listing_level_id, listing.inventory_item_id, location.remote_id, push.from_quantity,
                push.to_quantity
            FROM channels_push push
            JOIN channels_listinglevel level ON level.id = push.listing_level_id
            JOIN channels_listing listing ON listing.id = level.listing_id
            JOIN channels_storelocation location ON location.id = level.store_location_id
            WHERE push.batch_id = %s ORDER BY push.position
            """,
            [batch_id],
        )
    )


@transaction.atomic
def claim_batch(channel: Channel, rows_per_write: int) -> Batch | None:
    """Claim levels that show another number than they should, and commit the intention to write it.

    This commit waits for the disk: a write that was sent and then forgotten would look like somebody's edit.
    """
    # One claim of a channel at a time: a second one, begun before this one commits, would not see its open pushes.
    sql.rows("SELECT pg_advisory_xact_lock(%s, %s)", [CLAIM_LOCK, channel.pk % 2**31])
    picked = _out_of_sync(channel.pk, rows_per_write)
    if not picked:
        return None
    batch_id = uuid7()
    chosen = _choose(picked, rows_per_write)
    written = sql.rows(
        """
        WITH batch AS (
            INSERT INTO channels_pushbatch (id, merchant_id, channel_id, state, lease_token, attempts, next_attempt_at,
                sent_at)
            VALUES (%s, %s, %s, 'intent', nextval('channels_lease_token'), 1, now() + %s, now()) RETURNING lease_token
        ), push AS (
            INSERT INTO channels_push (merchant_id, channel_id, batch_id, position, listing_level_id, from_quantity,
                to_quantity, correlation_ids, caused_at)
            SELECT level.merchant_id, level.channel_id, %s, told.position, level.id, told.from_quantity,
                told.to_quantity, level.waiting_correlation_ids, level.waiting_since
            FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::int[]) AS told (id, position, from_quantity, to_quantity)
            JOIN channels_listinglevel level ON level.id = told.id
            RETURNING id, listing_level_id
        ), emptied AS (
            UPDATE channels_listinglevel level SET waiting_correlation_ids = '{}', waiting_since = NULL
            FROM push WHERE level.id = push.listing_level_id
        )
        SELECT batch.lease_token, push.id, push.listing_level_id FROM batch, push
        """,
        [
            batch_id,
            channel.merchant_id,
            channel.pk,
            LEASE,
            batch_id,
            [pick.level_id for pick in chosen],
            list(range(len(chosen))),
            [pick.shown for pick in chosen],
            [pick.desired for pick in chosen],
        ],
    )
    push_ids = {level_id: push_id for _, push_id, level_id in written}
    rows = tuple(
        Row(
            push_ids[pick.level_id],
            pick.level_id,
            QuantityChange(pick.inventory_item_id, pick.location_id, pick.shown, pick.desired),
        )
        for pick in chosen
    )
    return Batch(
        batch_id,
        written[0][0],
        1,
        is_repeat=False,
        rows=rows,
        is_full=len(chosen) < len(picked) or len(picked) == rows_per_write,
    )


@dataclass(frozen=True, slots=True)
class _Picked:
    """A level that shows another number than it should."""

    level_id: int
    inventory_item_id: str
    location_id: str
    shown: int
    desired: int
    failures: int


def _out_of_sync(channel_id: int, rows_per_write: int) -> list[_Picked]:
    """Levels to write next: decreases first, of the longest waiting.

    A suspect level is never raised. It is lowered from what was read of it, or tried from what was expected while only a
    webhook speaks against that; once such a write has been refused as stale, the level is read first.
    """
    return [
        _Picked(*row)
        for row in sql.rows(
            """
            SELECT level.id, listing.inventory_item_id, location.remote_id, level.shown, level.desired,
                level.push_failures
            FROM channels_listinglevel level
            JOIN channels_listing listing ON listing.id = level.listing_id
            JOIN channels_storelocation location ON location.id = level.store_location_id
            JOIN channels_channel channel ON channel.id = level.channel_id
            WHERE level.channel_id = %s AND channel.state = 'active' AND channel.next_call_at <= now()
                AND level.desired IS NOT NULL AND NOT level.desired = level.shown AND level.next_push_at <= now()
                AND (level.suspect_since IS NULL OR (level.desired < level.shown
                    AND (level.sample IS NOT NULL OR level.suspect_available IS NOT NULL)))
                AND level.is_stocked AND listing.is_tracked AND NOT listing.is_store_bundle AND listing.deleted_at IS NULL
                AND NOT EXISTS (
                    SELECT 1 FROM channels_push push WHERE push.listing_level_id = level.id AND push.state = 'open')
            ORDER BY level.desired > level.shown, level.waiting_since NULLS LAST, level.id
            LIMIT %s FOR NO KEY UPDATE OF level SKIP LOCKED
            """,
            [channel_id, rows_per_write],
        )
    ]


def _choose(picked: Sequence[_Picked], rows_per_write: int) -> list[_Picked]:
    """The rows of one write: after failures in ever smaller batches, and one row for listings that share a level."""
    failures = picked[0].failures
    limit = max(1, rows_per_write // SHRINK**failures)
    chosen: dict[tuple[str, str], _Picked] = {}
    for pick in picked:
        if pick.failures == failures and len(chosen) < limit:
            chosen.setdefault((pick.inventory_item_id, pick.location_id), pick)
    return list(chosen.values())


def _send(channel: Channel, connector: Connector, batch: Batch, rng: random.Random, done: Pushed) -> bool:
    """Send one batch and commit what became of it; False when the channel is to be left alone for now."""
    try:
        result = connector.write_quantities(
            [row.change for row in batch.rows],
            key=str(batch.id),
            reference=f"gid://synctec/PushBatch/{batch.id}",
        )
    except protocol.OutcomeUnknown as error:
        done.unknown += len(batch.rows)
        _commit_unknown(channel, batch, error, rng)
        return False
    except protocol.ChannelError as error:
        if batch.is_repeat and isinstance(error, protocol.Refused):
            # Refused this time: the first may have been applied all the same, and asking again will not tell.
            done.has_suspects = _leave_to_reading(batch, str(error))
            return False
        done.wait_seconds = _commit_not_sent(channel, batch, error, rng)
        return False
    _commit_answer(channel, batch, result, done)
    return True


# --- what became of it ------------------------------------------------------------------------------------------


def _fenced(batch: Batch, state: str, *, error: str = "", next_attempt: timedelta | None = None) -> bool:
    """Move the batch on, if it is still ours: a sender whose lease was taken over has nothing to say any more."""
    return bool(
        sql.rows(
            """
            UPDATE channels_pushbatch SET state = %s, error = %s, next_attempt_at = now() + %s,
                answered_at = CASE WHEN %s THEN clock_timestamp() END
            WHERE id = %s AND lease_token = %s AND state IN ('intent', 'unknown') RETURNING id
            """,
            [state, error[:500], next_attempt, state != "unknown", batch.id, batch.lease_token],
        )
    )


@transaction.atomic
def _commit_answer(channel: Channel, batch: Batch, result: protocol.WriteResult, done: Pushed) -> None:
    sql.forgo_flush()  # without this, the same key is sent again
    outcomes = [row.outcome for row in result.rows]
    if batch.is_repeat and any(outcome is not RowOutcome.CONFIRMED for outcome in outcomes):
        # Refused the second time: the first may have been applied all the same. Only the store can tell.
        done.has_suspects = _leave_to_reading(batch, _first_message(result.rows))
        return
    if not _fenced(batch, "done", error=_first_message(result.rows)):
        log.info("push.fenced", batch=str(batch.id), channel_id=channel.pk)
        return
    _channel_answered(channel)
    pairs = list(zip(batch.rows, result.rows, strict=True))
    confirmed = [row for row, told in pairs if told.outcome is RowOutcome.CONFIRMED]
    stale = [row for row, told in pairs if told.outcome is RowOutcome.STALE]
    world.lock_level_rows(row.level_id for row in batch.rows)
    if confirmed:
        confirm([row.push_id for row in confirmed], result.source_at)
    _reject([(row, told) for row, told in pairs if told.outcome is not RowOutcome.CONFIRMED])
    if stale:
        _suspect([row.level_id for row in stale], "changed before our write", timedelta(milliseconds=200))
    done.confirmed += len(confirmed)
    done.stale += len(stale)
    done.refused += outcomes.count(RowOutcome.REFUSED)
    done.has_suspects = done.has_suspects or bool(stale)
    done.has_more = done.has_more or RowOutcome.NOT_APPLIED in outcomes


def _first_message(rows: Sequence[RowResult]) -> str:
    return next((f"{row.code}: {row.message}" for row in rows if row.outcome is not RowOutcome.CONFIRMED), "")


def confirm(push_ids: Sequence[int], source_at: datetime | None) -> None:
    """These pushes were applied by the channel: their differences are now part of what it must show."""
    with sql.cursor() as cursor:
        cursor.execute(
            """
            WITH confirmed AS (
                UPDATE channels_push SET state = 'confirmed', settled_at = clock_timestamp()
                WHERE id = ANY(%s::bigint[]) AND state = 'open'
                RETURNING listing_level_id, to_quantity - from_quantity AS delta
            )
            UPDATE channels_listinglevel level
            SET pushed = level.pushed + confirmed.delta, version = level.version + 1,
                sample = level.sample + confirmed.delta,
                sample_version = CASE WHEN level.sample_version = level.version THEN level.version + 1
                    ELSE level.sample_version END,
                source_at = greatest(level.source_at, %s), confirmed_at = clock_timestamp(),
                push_failures = 0, last_error = ''
            FROM confirmed WHERE level.id = confirmed.listing_level_id
            """,
            [list(push_ids), source_at],
        )


def _reject(pairs: Sequence[tuple[Row, RowResult]]) -> None:
    """These rows were not applied. Their levels stay out of sync; the next batch computes their value anew."""
    if not pairs:
        return
    pauses = {
        RowOutcome.STALE: timedelta(0),
        RowOutcome.REFUSED: REFUSED_PAUSE,
        RowOutcome.NOT_APPLIED: timedelta(0),
    }
    # Not applied although no row was to blame: the batch shrinks until the culprit stands alone.
    nobody_blamed = all(told.outcome is RowOutcome.NOT_APPLIED for _, told in pairs)
    give_back(
        [row.push_id for row, _ in pairs],
        codes=[told.code for _, told in pairs],
        messages=[told.message for _, told in pairs],
        pauses=[pauses[told.outcome] for _, told in pairs],
        failures=[
            int(told.outcome is RowOutcome.REFUSED or (nobody_blamed and told.outcome is RowOutcome.NOT_APPLIED))
            for _, told in pairs
        ],
    )


def give_back(
    push_ids: Sequence[int],
    *,
    codes: Sequence[str],
    messages: Sequence[str],
    pauses: Sequence[timedelta],
    failures: Sequence[int],
) -> None:
    """Mark pushes as not applied; what they stood for waits at their levels again."""
    with sql.cursor() as cursor:
        cursor.execute(
            """
            WITH rejected AS (
                UPDATE channels_push push
                SET state = 'rejected', settled_at = clock_timestamp(), error_code = told.code, error = told.message
                FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::interval[], %s::int[])
                    AS told (id, code, message, pause, failures)
                WHERE push.id = told.id AND push.state = 'open'
                RETURNING push.listing_level_id, push.correlation_ids, push.caused_at, told.pause, told.failures,
                    told.code, told.message
            )
            UPDATE channels_listinglevel level
            SET waiting_correlation_ids = (level.waiting_correlation_ids || rejected.correlation_ids)[1:%s],
                waiting_since = least(level.waiting_since, rejected.caused_at),
                next_push_at = now() + rejected.pause, push_failures = level.push_failures + rejected.failures,
                last_error = left(concat_ws(': ', nullif(rejected.code, ''), rejected.message), 500)
            FROM rejected WHERE level.id = rejected.listing_level_id
            """,
            [
                list(push_ids),
                [code[:80] for code in codes],
                [message[:500] for message in messages],
                list(pauses),
                list(failures),
                world.STORY_EVENTS,
            ],
        )


def _suspect(level_ids: Sequence[int], reason: str, check_after: timedelta) -> None:
    """What these levels show is not known any more: whatever was read of them is out of date."""
    with sql.cursor() as cursor:
        cursor.execute(
            """
            UPDATE channels_listinglevel
            SET suspect_since = coalesce(suspect_since, now()), suspect_reason = %s, suspect_available = NULL,
                sample = NULL, sampled_at = NULL, sample_version = NULL, next_check_at = now() + %s
            WHERE id = ANY(%s::bigint[])
            """,
            [reason, check_after, sorted(level_ids)],
        )


@transaction.atomic
def _leave_to_reading(batch: Batch, error: str) -> bool:
    """Only the store can tell what became of this batch; False when it is not ours any more."""
    if not _fenced(batch, "unresolved", error=error):
        return False
    world.lock_level_rows(row.level_id for row in batch.rows)
    _suspect([row.level_id for row in batch.rows], "outcome of a write unknown", timedelta(0))
    return True


@transaction.atomic
def _commit_unknown(channel: Channel, batch: Batch, error: protocol.ChannelError, rng: random.Random) -> None:
    """No whole answer: the same key again, later; after the last attempt the store is read instead."""
    if batch.attempt > MAX_ATTEMPTS:
        _leave_to_reading(batch, str(error))
        return
    delay = max(delay_seconds(batch.attempt, rng), error.retry_after or 0.0)
    _fenced(batch, "unknown", error=str(error), next_attempt=timedelta(seconds=delay))


@transaction.atomic
def _commit_not_sent(channel: Channel, batch: Batch, error: protocol.ChannelError, rng: random.Random) -> float:
    """This time it was not applied. A first attempt is given up, a repeat stays unknown; the channel rests."""
    if isinstance(error, protocol.NotAuthorized):
        credentials.needs_authorization(channel, reason=str(error))
    wait = _channel_failed(channel, error, rng)
    is_asked_to_wait = isinstance(error, protocol.Throttled) and not isinstance(error, protocol.Paced)
    if batch.is_repeat or is_asked_to_wait:
        # The same key again, at no cost of an attempt. No channel promises that what it throttled was not applied.
        if _fenced(batch, "unknown", error=str(error), next_attempt=timedelta(seconds=wait)):
            with sql.cursor() as cursor:
                cursor.execute("UPDATE channels_pushbatch SET attempts = attempts - 1 WHERE id = %s", [batch.id])
        return wait
    if _fenced(batch, "done", error=str(error)):
        world.lock_level_rows(row.level_id for row in batch.rows)
        refused = isinstance(error, protocol.Refused)
        give_back(
            [row.push_id for row in batch.rows],
            codes=[error.code] * len(batch.rows),
            messages=[str(error)] * len(batch.rows),
            pauses=[REFUSED_PAUSE if refused and len(batch.rows) == 1 else timedelta(0)] * len(batch.rows),
            failures=[int(refused)] * len(batch.rows),
        )
    return wait


def _channel_answered(channel: Channel) -> None:
    if channel.failures:
        channel.failures = 0
        Channel.objects.filter(pk=channel.pk).update(failures=0, last_error="")


def _channel_failed(channel: Channel, error: protocol.ChannelError, rng: random.Random) -> float:
    """Leave the whole account alone for a while; returns the seconds. Throttling is no failure."""
    if isinstance(error, protocol.Refused):
        return 0.0
    if isinstance(error, protocol.Throttled):
        wait = error.retry_after or 1.0
    else:
        channel.failures += 1
        wait = max(error.retry_after or 0.0, delay_seconds(min(channel.failures, MAX_ATTEMPTS), rng))
    with sql.cursor() as cursor:
        cursor.execute(
            """
            UPDATE channels_channel SET next_call_at = now() + %s, failures = %s, last_error = %s WHERE id = %s
            """,
            [timedelta(seconds=wait), channel.failures, str(error)[:500], channel.pk],
        )
    return wait
