"""Judging a reading of a suspect level: is it explained, and if not, whose is the difference? Pure.

A level must show what is `reported` of it: base + effects of its own orders + confirmed pushes. A reading that shows just
that, and during which nothing of it was booked, is explained at once. Any other becomes the *sample*: a number and the
interval in which it was read. It is audited as of that interval, once the store's order list has been read for long enough
after it: effects of orders that the store dates later are taken out again. So a level whose orders never rest can be
audited all the same. A write of unknown outcome is settled by that audit too, since units sold that nobody has told of yet
look just like a lower that was applied; by a plain reading only where sales cannot look so: the number that stood before a
lower, or the one that a raise has made. So is a raise that was given up, once it can no longer come true: after it came true
and its units were sold, the store shows what it showed before. What then remains is the *residue*: units that somebody took
or added in the store by hand.

- What is missing leaves the pool at once (held), and for good once the residue is certain.
- A gain is overwritten. The pool is raised only where the merchant has said that gains are to be taken over, and never by
  a residue that a write of unknown outcome could explain.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

#: Two clocks, ours and the store's, may differ by this much without anybody noticing; store times are whole seconds.
CLOCK_SKEW = timedelta(seconds=2)


class Ruling(enum.StrEnum):
    """What is to be done about a reading."""

    EXPLAINED = "explained"  # it shows what it must: no longer suspect
    MOVED = "moved"  # something was booked while it was read: look again
    SAMPLED = "sampled"  # unexplained: hold what is missing, and audit it later
    WAIT = "wait"  # sampled before, and the order list is not complete up to there yet
    FIRST = "first"  # never read before: the reading becomes the base
    ADOPT = "adopt"  # the pool follows the store
    OVERRIDE = "override"  # the store follows the pool
    ASK = "ask"  # a person decides; what is missing stays held until then
    GONE = "gone"  # the store does not count the item there any more; what it sold before may not be known yet
    UNSTOCKED = "unstocked"  # the store does not count the item there, and all is known of the time when it did


@dataclass(frozen=True, slots=True)
class Reading:
    """What the store showed, when it was asked, and the level's books before that."""

    available: int | None
    is_stocked: bool
    asked_at: datetime
    answered_at: datetime
    version_before: int
    pushed_before: int
    store_ahead: timedelta = timedelta(0)  # of our clock


class Lower(NamedTuple):
    """A lower of ours that may have been applied before it was refused."""

    units: int
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading that nothing explained, to be audited as of when it was taken."""

    available: int
    taken_from: datetime
    taken_until: datetime
    pushed: int  # confirmed pushes when it was read
    #: By how much the store's clock, which dates its orders, was ahead of ours then. Ours may have been set since.
    store_ahead: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A suspect level as known under its lock, after it was read."""

    base: int
    order_effects: int
    pushed: int
    version: int
    is_first_reading: bool
    is_bundle: bool
    is_gone: bool = False  # the store did not count it any more at an earlier reading, or has deleted it
    is_told: bool = False  # the order list is complete up to when it was gone, or up to the reading
    sample: Sample | None = None
    open_delta: int | None = None  # of a push whose outcome only the store can tell
    held: int = 0  # units kept out of the pool because of it
    is_in_doubt: bool = (
        False  # a write that was given up may have been executed before the sample, or the reading, was taken
    )
    is_doubt_due: bool = False  # a raise was given up that can come true no more: only an audit tells whether it has
    doubtful_lowers: Sequence[Lower] = ()

    @property
    def reported(self) -> int:
        return self.base + self.order_effects + self.pushed


@dataclass(frozen=True, slots=True)
class Audit:
    """What the order list, complete up to the sample and beyond, says of the time after it."""

    taken_since: int  # units that orders took after the sample
    is_ambiguous: bool  # something is dated within the sample's interval


@dataclass(frozen=True, slots=True)
class Judgement:
    """The ruling, with the numbers to write. `sample` is what is to be audited from now on; None: nothing is."""

    ruling: Ruling
    hold: int = 0  # units to keep out of the pool from now on, while this level is suspect
    asked: int = 0  # units to keep out of the pool until a person has decided
    residue: int = 0  # what base changes by
    sample: Sample | None = None
    push_applied: bool | None = None  # of the push whose outcome was unknown
    is_ambiguous: bool = False
    is_audited: bool = False  # it is of the sample, not of the reading alone


def offset_of_clock(told: datetime | None, asked_at: datetime, answered_at: datetime) -> timedelta:
    """By how much a store's clock is ahead of ours, if it must be: it `told` its time, in whole seconds, in its answer."""
    if told is None or asked_at - timedelta(seconds=1) < told <= answered_at:
        return timedelta(0)
    return told + timedelta(seconds=0.5) - (asked_at + (answered_at - asked_at) / 2)


def is_known_up_to(moment: datetime, orders_read_at: datetime | None, lag: timedelta) -> bool:
    """Whether the order list tells of everything up to the moment. `lag` is how late it may be."""
    return orders_read_at is not None and orders_read_at >= moment + lag


def judge(level: Suspect, reading: Reading, audit: Audit | None, *, on_loss: str, on_gain: str) -> Judgement:
    """Judge a reading, and the sample taken before it when `audit` says that this can be done now.

    `on_loss` and `on_gain` say what the merchant wants done about changes by hand: adopt, override or ask.
    """
    is_counted = reading.is_stocked and reading.available is not None
    if not is_counted or level.is_gone:
        # A write of unknown outcome has nothing left to be seen in; should the item come back, it is read anew.
        push_applied = None if level.open_delta is None else False
        if not level.is_told and (level.is_gone or not level.is_first_reading):
            return Judgement(Ruling.GONE, hold=level.held, push_applied=push_applied)
        if not is_counted:
            return Judgement(Ruling.UNSTOCKED, push_applied=push_applied)
    assert reading.available is not None
    has_moved = level.version != reading.version_before
    if not has_moved and level.open_delta is None:
        residue = reading.available - level.reported
        if residue == 0 and (level.is_first_reading or not level.is_doubt_due):
            return Judgement(Ruling.EXPLAINED)
        if level.is_first_reading:
            return Judgement(Ruling.FIRST, residue=residue)
    if not has_moved and level.open_delta is not None and not level.is_doubt_due:
        if level.open_delta < 0 and reading.available == level.reported:
            return Judgement(Ruling.EXPLAINED, push_applied=False)
        if level.open_delta > 0 and reading.available == level.reported + level.open_delta:
            return Judgement(Ruling.EXPLAINED, push_applied=True)
    if level.pushed != reading.pushed_before or (has_moved and level.is_first_reading):
        return Judgement(Ruling.MOVED, hold=level.held, sample=level.sample)
    if level.sample is not None and audit is not None and not audit.is_ambiguous:
        return _settle(level, level.sample, audit, reading, on_loss=on_loss, on_gain=on_gain)
    newest = _sample(reading.available, reading, level)
    if level.sample is None or audit is not None:
        # Nothing to audit yet, or an order is dated within the very second of the sample: the newer reading takes over.
        return Judgement(Ruling.SAMPLED, hold=_missing(level, reading.available), sample=newest)
    return Judgement(Ruling.WAIT, hold=_missing(level, reading.available), sample=level.sample)


def _settle(level: Suspect, sample: Sample, audit: Audit, reading: Reading, *, on_loss: str, on_gain: str) -> Judgement:
    """What remains of the sample when orders and pushes after it are taken out."""
    assert reading.available is not None
    expected = level.base + level.order_effects + audit.taken_since + sample.pushed
    residue, push_applied = _attribute(sample.available - expected, level.open_delta)
    shown_then = level.reported + residue + (level.open_delta or 0 if push_applied else 0)
    newest = None
    if reading.available != shown_then:
        # That was the sample; the newest reading is another matter.
        newest = _sample(reading.available, reading, level)
    hold = 0 if newest is None or level.is_bundle else max(0, shown_then - reading.available)
    # What was opened after the sample was taken is not in it.
    lowers = [lower.units for lower in level.doubtful_lowers if lower.opened_at <= sample.taken_until]
    if residue == 0 or -residue in sums(lowers):
        # Nothing, or lowers of ours that had been applied all the same.
        return Judgement(
            Ruling.EXPLAINED, hold=hold, residue=residue, sample=newest, push_applied=push_applied, is_audited=True
        )
    is_ambiguous = level.open_delta is not None or level.is_in_doubt
    wish = on_loss if residue < 0 else on_gain
    if level.is_bundle or (residue > 0 and is_ambiguous):
        wish = "override"  # a bundle has no stock of its own; what may be our own write is no gain
    return Judgement(
        {"adopt": Ruling.ADOPT, "override": Ruling.OVERRIDE, "ask": Ruling.ASK}[wish],
        hold=hold,
        asked=-residue if wish == "ask" and residue < 0 else 0,
        residue=residue,
        sample=newest,
        push_applied=push_applied,
        is_ambiguous=is_ambiguous,
        is_audited=True,
    )


def _attribute(difference: int, open_delta: int | None) -> tuple[int, bool | None]:
    """The residue, and whether the push of unknown outcome was applied.

    If one of the two explains everything, it is that. Else somebody has edited besides: what leaves less in the pool.
    """
    if open_delta is None:
        return difference, None
    if difference in (0, open_delta):
        return 0, difference == open_delta
    return min((difference, False), (difference - open_delta, True))


def sums(lowers: Sequence[int]) -> set[int]:
    """What some of these may come to together."""
    sums = {0}
    for units in lowers:
        sums |= {units + others for others in sums}
    return sums - {0}


def _sample(available: int, reading: Reading, level: Suspect) -> Sample:
    return Sample(available, reading.asked_at, reading.answered_at, level.pushed, reading.store_ahead)


def _missing(level: Suspect, available: int) -> int:
    """Units that are gone from the store for a reason not known yet. A bundle holds nothing of its own."""
    if level.is_bundle:
        return 0
    expected = level.reported + min(0, level.open_delta or 0) - sum(lower.units for lower in level.doubtful_lowers)
    return max(0, expected - available)
