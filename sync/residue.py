"""Judging a reading of a suspect level: is it explained, and if not, whose is the difference? Pure.

A level must show what is `reported` of it: base + effects of known orders + confirmed pushes. A reading counts only if
none of these changed while it was taken. What remains unexplained once the store's order list has been read up to the
moment of the reading is the *residue*: units that somebody took or added in the store by hand.

- A loss lowers the pool at once (held), and for good once it is certain.
- A gain never raises the pool: it is overwritten.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta


class Ruling(enum.StrEnum):
    """What is to be done about a reading."""

    EXPLAINED = "explained"  # it shows what it must: no longer suspect
    MOVED = "moved"  # orders or pushes were booked while it was read: the reading says nothing, look again
    WAIT = "wait"  # unexplained, but the order list is not complete yet: hold what is missing, look again
    FIRST = "first"  # never read before: the reading becomes the base
    ADOPT = "adopt"  # a loss: the pool follows the store
    OVERRIDE = "override"  # a gain: the store follows the pool
    UNSTOCKED = "unstocked"  # the store does not count the item there (any more)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A suspect level as known under its lock, after it was read."""

    reported: int
    version: int
    is_first_reading: bool  # or the first since the store began to count the item there again
    sample: int | None
    sample_version: int | None
    sampled_at: datetime | None
    open_delta: int | None  # of a push whose outcome only the store can tell
    is_bundle: bool
    held: int = 0  # units kept out of the pool because of it


@dataclass(frozen=True, slots=True)
class Reading:
    """What the store showed, and the level's version before it was asked."""

    available: int | None
    is_stocked: bool
    version_before: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """The ruling, with the numbers to write."""

    ruling: Ruling
    hold: int = 0  # units to keep out of the pool from now on
    residue: int = 0
    push_applied: bool | None = None  # of the push whose outcome was unknown
    is_ambiguous: bool = False


def judge(
    level: Suspect, reading: Reading, *, now: datetime, orders_read_at: datetime | None, lag: timedelta
) -> Judgement:
    """Judge a reading.

    `orders_read_at` is when the latest complete reading of the store's orders began that is applied by now; `lag` is how
    late the store's order list may be.
    """
    if not reading.is_stocked or reading.available is None:
        # A write of unknown outcome has nothing left to be seen in; should the item come back, it is read anew.
        return Judgement(Ruling.UNSTOCKED, push_applied=None if level.open_delta is None else False)
    if level.version != reading.version_before:
        return Judgement(Ruling.MOVED, hold=level.held)
    residue, push_applied = _attribute(level, reading.available)
    if residue == 0:
        return Judgement(Ruling.EXPLAINED, push_applied=push_applied)
    if level.is_first_reading:
        return Judgement(Ruling.FIRST, residue=residue, push_applied=push_applied)
    is_settled = (
        level.sample == reading.available
        and level.sample_version == level.version
        and level.sampled_at is not None
        and orders_read_at is not None
        and orders_read_at >= level.sampled_at + lag
    )
    if not is_settled:
        return Judgement(Ruling.WAIT, hold=_missing(level, reading.available))
    ambiguous = level.open_delta is not None
    if residue < 0 and not level.is_bundle:
        return Judgement(Ruling.ADOPT, residue=residue, push_applied=push_applied, is_ambiguous=ambiguous)
    return Judgement(Ruling.OVERRIDE, residue=residue, push_applied=push_applied, is_ambiguous=ambiguous)


def _attribute(level: Suspect, available: int) -> tuple[int, bool | None]:
    """The residue, and whether the push of unknown outcome was applied: whichever leaves less unexplained."""
    without = available - level.reported
    if level.open_delta is None:
        return without, None
    with_push = without - level.open_delta
    if abs(with_push) < abs(without):
        return with_push, True
    return without, False


def _missing(level: Suspect, available: int) -> int:
    """Units that are gone from the store for a reason not known yet. A bundle holds nothing of its own."""
    if level.is_bundle:
        return 0
    expected = level.reported + min(0, level.open_delta or 0)
    return max(0, expected - available)
