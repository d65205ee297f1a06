"""Checking suspect levels: reading them again, and settling what is not explained.

A reading is taken without locks and judged under them (see `sync.residue`). What it does not explain is kept as a sample,
so a crash costs one more reading at most, and is audited once the store's order list reaches beyond it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from channels.protocol import LevelState
from inventory.ledger import Entry
from locations.routing import route
from sync import outage, push
from sync.ports import LOOK_AGAIN, ChannelRef, DriftFound, Due, Edits, Engine, Finding, LockedSuspect
from sync.residue import (
    CLOCK_SKEW,
    Audit,
    Judgement,
    Lower,
    Reading,
    Ruling,
    Sample,
    Suspect,
    is_known_up_to,
    judge,
    offset_of_clock,
)
from synctec.lib.failpoints import failpoint
from synctec.lib.ids import uuid7

log = structlog.get_logger(__name__)

#: While a level is being read nobody else reads it.
READ_LEASE = timedelta(seconds=15)
LOOK_AGAIN_AT_ONCE = timedelta(milliseconds=200)

BY_HAND = "no order, refund or push of ours explains it: changed in the store by hand"
AMBIGUOUS = (
    "changed in the store by hand, or by a write of ours that was given up and came true all the same: count, and adjust the "
    "stock if nobody took or added any"
)

UNSETTLED = frozenset({Ruling.MOVED, Ruling.SAMPLED, Ruling.WAIT, Ruling.GONE})
#: Nothing is known that could change what is held.
UNTOLD = frozenset({Ruling.MOVED, Ruling.GONE})
ACTIONS = {Ruling.ADOPT: "adopted", Ruling.OVERRIDE: "overridden", Ruling.ASK: "asked"}


@dataclass(slots=True)
class Checked:
    """What a run came to."""

    read: int = 0
    explained: int = 0
    waiting: int = 0
    adopted: int = 0
    overridden: int = 0
    asked: int = 0
    needs_orders: bool = False  # samples wait for the order list to be read


@dataclass(frozen=True, slots=True)
class Read:
    """A due level, what its store showed, when it was asked and answered by our clock, and how far ahead its own was."""

    due: Due
    state: LevelState
    asked_at: datetime
    answered_at: datetime
    store_ahead: timedelta = timedelta(0)


def check_channel(engine: Engine, *, channel: ChannelRef) -> Checked:
    """Read the channel's due suspects once and settle what can be settled.

    Raises:
        ChannelError: the channel could not be asked; the levels stay suspect.
    """
    connector = engine.channels.connector(channel.channel_id)
    due = engine.books.claim_suspects(channel.channel_id, connector.capabilities.levels_per_read, READ_LEASE)
    done = Checked(read=len(due))
    if not due:
        return done
    asked_at = engine.now()
    states = connector.read_levels(sorted({level.inventory_item_id for level in due}))
    # The database's clock may have been set back meanwhile.
    answered_at = max(asked_at, engine.now())
    offset = offset_of_clock(connector.its_time, asked_at, answered_at)
    outage.answered(engine, channel)
    failpoint("check.after_read")
    found = {(state.inventory_item_id, state.location_id): state for state in states}
    missing = LevelState("", "", None, is_stocked=False, source_at=None)
    readings = {
        level.level_id: Read(
            level, found.get((level.inventory_item_id, level.location_id), missing), asked_at, answered_at, offset
        )
        for level in due
    }
    if abs(offset) > CLOCK_SKEW:
        log.warning("check.clocks_differ", channel_id=channel.channel_id, store_ahead_seconds=offset.total_seconds())
    settle_readings(engine, channel=channel, readings=readings, done=done)
    return done


def settle_readings(engine: Engine, *, channel: ChannelRef, readings: Mapping[int, Read], done: Checked) -> None:
    """Judge readings under the locks of their levels and write what follows."""
    books, now = engine.books, engine.now()
    correlation_id = uuid7()
    with books.transaction():
        orders_read_at = books.orders_applied_since(channel.channel_id)
        edits = books.edits(channel.channel_id)
        places = books.hold_places(list(readings))
        balances = books.lock_balances({level for levels in places.values() for level in levels})
        available = {level: balance.available for level, balance in balances.items()}
        entries: list[Entry] = []
        drifts: list[DriftFound] = []
        findings: list[Finding] = []
        dirty: set[int] = set()
        for locked in books.lock_suspects(list(readings)):
            read = readings[locked.level_id]
            judgement = _judge(engine, locked, read, edits, orders_read_at)
            drawn_on = places[locked.level_id]
            place = _place(locked, judgement, drawn_on, available)
            if judgement.ruling not in UNTOLD and (place is None or locked.sku_id is None):
                # Not mapped to any stock: nothing of ours is missing.
                judgement = replace(judgement, hold=0, asked=0)
            if locked.sku_id is None and judgement.residue < 0:
                # Its orders wait for a mapping, and would take what is missing once more: then it is read again.
                judgement = replace(judgement, ruling=Ruling.EXPLAINED, residue=0)
            if judgement.push_applied is not None:
                _settle_push(engine, locked, judgement.push_applied)
            taken = _entries(locked, judgement, place, drawn_on, available, correlation_id, now)
            for entry in taken:
                available[entry.stock_level_id] += entry.on_hand - entry.held
            entries += taken
            findings.append(_finding(locked, judgement, place, read, now))
            if judgement.ruling in ACTIONS:
                drifts.append(_drift(locked, judgement, place, read, correlation_id, now))
            is_news = judgement.ruling not in UNSETTLED or judgement.hold != locked.held
            if judgement.ruling is Ruling.GONE:
                # Others are to do without what it may have sold, and without what it shows again.
                is_news = locked.gone_at is None or _counted(read) is not None
            if locked.sku_id is not None and is_news:
                dirty.add(locked.sku_id)
            _count(judgement, done)
            awaited = _awaited(locked, judgement, read, now)
            if awaited is not None and now >= awaited + engine.audit_lag:
                done.needs_orders |= not is_known_up_to(awaited, orders_read_at, engine.audit_lag)
        books.write_findings(findings, now)
        books.post(channel.merchant_id, balances, entries, now)
        books.add_drifts(channel, drifts)
        marks = books.bundles_with(channel.merchant_id, dirty) if dirty else set()
        books.mark_dirty(channel.merchant_id, dict.fromkeys(sorted(marks), (correlation_id, now)))
        failpoint("check.before_commit")


def _judge(
    engine: Engine,
    locked: LockedSuspect,
    read: Read,
    edits: Edits,
    orders_read_at: datetime | None,
) -> Judgement:
    sample = _sample(locked, read)
    audit = None
    if sample is not None and is_known_up_to(sample.taken_until, orders_read_at, engine.audit_lag):
        taken, is_ambiguous = engine.books.taken_since(
            locked.level_id,
            sample.taken_from + sample.store_ahead - CLOCK_SKEW,
            sample.taken_until + sample.store_ahead + CLOCK_SKEW,
            sample.taken_from - CLOCK_SKEW,
        )
        audit = Audit(taken, is_ambiguous)
    suspect = Suspect(
        base=locked.base,
        order_effects=locked.order_effects,
        pushed=locked.pushed,
        version=locked.version,
        is_first_reading=locked.is_first_reading,
        is_bundle=locked.is_bundle,
        is_gone=locked.gone_at is not None,
        is_told=is_known_up_to(_gone_at(locked, read, engine.now()), orders_read_at, engine.audit_lag),
        sample=sample,
        open_delta=locked.open_push_delta,
        held=locked.held,
        is_in_doubt=locked.is_in_doubt,
        is_doubt_due=locked.doubt_ends_at is not None and read.asked_at >= locked.doubt_ends_at,
        doubtful_lowers=tuple(map(Lower, locked.doubtful_lowers, locked.doubtful_lowers_at)),
    )
    reading = Reading(
        read.state.available,
        read.state.is_stocked,
        read.asked_at,
        read.answered_at,
        read.due.version,
        read.due.pushed,
        read.store_ahead,
    )
    return judge(suspect, reading, audit, on_loss=edits.losses, on_gain=edits.gains)


def _gone_at(locked: LockedSuspect, read: Read, now: datetime) -> datetime:
    """Since when the item has not been counted any more, at the latest. A moment that is still to come was noted before the
    clock was set back.
    """
    return read.answered_at if locked.gone_at is None else min(locked.gone_at, now)


def _counted(read: Read) -> int | None:
    return read.state.available if read.state.is_stocked else None


def _sample(locked: LockedSuspect, read: Read) -> Sample | None:
    """The sample to be audited. One that is still to come was dated before the clock was set back: nobody can tell when it
    was taken.
    """
    if locked.sample is None:
        return None
    assert locked.sampled_from is not None
    assert locked.sampled_until is not None
    assert locked.sample_pushed is not None
    assert locked.sampled_ahead is not None
    if locked.sampled_until > read.answered_at:
        return None
    return Sample(locked.sample, locked.sampled_from, locked.sampled_until, locked.sample_pushed, locked.sampled_ahead)


def _settle_push(engine: Engine, locked: LockedSuspect, was_applied: bool) -> None:
    """The store has told what became of the write."""
    if locked.open_push_id is None:
        return
    if was_applied:
        engine.books.confirm([locked.open_push_id], None)
    else:
        push.give_up(engine, locked.open_push_id, sent_at=locked.open_push_sent_at or engine.now())


def _place(
    locked: LockedSuspect, judgement: Judgement, drawn_on: Sequence[int], available: Mapping[int, int]
) -> int | None:
    """Where units missing at the level are held: where some are already, else where there are as many, or most."""
    if not drawn_on or locked.held_at is not None:
        return locked.held_at
    wanted = judgement.hold + judgement.asked
    return next(
        (level for level in drawn_on if available[level] >= wanted), max(drawn_on, key=lambda level: available[level])
    )


def _entries(
    locked: LockedSuspect,
    judgement: Judgement,
    place: int | None,
    drawn_on: Sequence[int],
    available: Mapping[int, int],
    correlation_id: uuid.UUID,
    now: datetime,
) -> list[Entry]:
    """Ledger entries: units held or released while a loss is unexplained, and what is taken over into the pool.

    What was lost is taken from where there are units, as a sale is: one warehouse is not short of what another has.
    """
    adopted = judgement.residue if judgement.ruling is Ruling.ADOPT else 0
    change = judgement.hold + judgement.asked - locked.held
    if place is None or (not change and not adopted):
        return []
    left = {**available, place: available[place] - change}
    moved = {level: -units for level, units in route(-adopted, drawn_on, left).items()} if adopted < 0 else {}
    if adopted >= 0:
        moved[place] = adopted
    elif change:
        moved.setdefault(place, 0)
    return [
        Entry(
            stock_level_id=level,
            cause="channel_edit" if units else "check",
            key=f"check:{correlation_id}:{locked.level_id}:{level}",
            reference=f"level {locked.level_id}",
            correlation_id=correlation_id,
            # A count made since then has seen it.
            effective_at=(locked.sampled_until or now) if units else now,
            on_hand=units,
            held=change if level == place else 0,
        )
        for level, units in moved.items()
    ]


def _finding(locked: LockedSuspect, judgement: Judgement, place: int | None, read: Read, now: datetime) -> Finding:
    sample = judgement.sample
    ends_doubt = _ends_doubt(locked, judgement)
    if judgement.ruling is Ruling.MOVED:
        return Finding(level_id=locked.level_id, is_settled=False, next_check_at=now + LOOK_AGAIN_AT_ONCE)
    if judgement.ruling is Ruling.GONE:
        return Finding(
            level_id=locked.level_id,
            is_settled=False,
            gone_at=_gone_at(locked, read, now),
            shows=_counted(read),
            next_check_at=now + LOOK_AGAIN,
        )
    if sample is None:
        return Finding(
            level_id=locked.level_id,
            is_settled=True,
            residue=judgement.residue,
            is_stocked=judgement.ruling is not Ruling.UNSTOCKED,
            source_at=read.state.source_at,
            ends_doubt=ends_doubt,
        )
    assert read.state.available is not None
    return Finding(
        level_id=locked.level_id,
        is_settled=False,
        residue=judgement.residue,
        sample=sample.available,
        sampled_from=sample.taken_from,
        sampled_until=sample.taken_until,
        sample_pushed=sample.pushed,
        sampled_ahead=sample.store_ahead,
        since_sample=read.state.available - sample.available,
        held=judgement.hold,
        held_at=place if judgement.hold else None,
        next_check_at=now + LOOK_AGAIN,
        is_audited=judgement.is_audited,
        ends_doubt=ends_doubt,
    )


def _ends_doubt(locked: LockedSuspect, judgement: Judgement) -> bool:
    """Whether it is told by now if a raise that was given up has come true: what was sampled after it last could is audited,
    or nothing can be sold there any more.
    """
    if locked.doubt_ends_at is None:
        return False
    if judgement.ruling is Ruling.UNSTOCKED:
        return True
    return judgement.is_audited and locked.sampled_from is not None and locked.sampled_from >= locked.doubt_ends_at


def _drift(
    locked: LockedSuspect,
    judgement: Judgement,
    place: int | None,
    read: Read,
    correlation_id: uuid.UUID,
    now: datetime,
) -> DriftFound:
    seen = locked.sample if locked.sample is not None else read.state.available
    assert seen is not None
    return DriftFound(
        level_id=locked.level_id,
        expected=seen - judgement.residue,
        actual=seen,
        action=ACTIONS[judgement.ruling],
        explanation=AMBIGUOUS if judgement.is_ambiguous else BY_HAND,
        is_ambiguous=judgement.is_ambiguous,
        previous_confirmed_at=locked.confirmed_at,
        correlation_id=correlation_id,
        found_at=locked.sampled_until or read.answered_at,
        held=judgement.asked,
        held_at=place if judgement.asked else None,
    )


def _awaited(locked: LockedSuspect, judgement: Judgement, read: Read, now: datetime) -> datetime | None:
    """Up to when the orders must be known before more can be told of the level; None: it waits for none."""
    if judgement.ruling is Ruling.GONE:
        return _gone_at(locked, read, now)
    return None if judgement.sample is None else judgement.sample.taken_until


def _count(judgement: Judgement, done: Checked) -> None:
    match judgement.ruling:
        case Ruling.MOVED | Ruling.SAMPLED | Ruling.WAIT | Ruling.GONE:
            done.waiting += 1
        case Ruling.ADOPT:
            done.adopted += 1
        case Ruling.OVERRIDE:
            done.overridden += 1
        case Ruling.ASK:
            done.asked += 1
        case _:
            done.explained += 1
