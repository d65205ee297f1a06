"""What a store in shadow mode shows against what it would be told, and why the two may differ. Pure.

The reasons are decided from facts, the first that holds: a person who reads the report then looks at the right place first.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

#: A number that differs by no more than this share of the greater of the two counts as a match.
NEAR_PERCENT = 1
#: What was computed anew, sold or told within this time may still be on its way.
ON_ITS_WAY = timedelta(minutes=10)


class Reason(enum.StrEnum):
    """Why a level likely shows another number than it would be told, in the order in which they are tried."""

    NOT_STOCKED = "not_stocked"
    UNMAPPED = "unmapped"
    TIMING = "timing"
    SHARE = "share"
    BUNDLE = "bundle"
    BUFFER = "buffer"
    EDITED = "edited"
    UNKNOWN = "unknown"


#: What each means, and what to do.
WORDS = {
    Reason.NOT_STOCKED: "The store does not count it there: stock it in the store, or leave it out",
    Reason.UNMAPPED: "Missing mapping: the listing has no SKU, or its location draws on no warehouse",
    Reason.TIMING: "Timing: it changed within the last minutes; compare again",
    Reason.SHARE: "Share: its group divides units among stores, and this is the store's part",
    Reason.BUNDLE: "Bundle: computed from components; check the recipe and the components' stock",
    Reason.BUFFER: "Buffer: a buffer, cap or floor keeps units back",
    Reason.EDITED: "Changed in the store by hand or by another app",
    Reason.UNKNOWN: "Not known: the stock counted here and in the store differ from the start; count it",
}


class Match(enum.StrEnum):
    """How near the two numbers are."""

    EXACT = "exact"
    NEAR = "near"
    OFF = "off"


class Compared(NamedTuple):
    """One level: what it would show, what its store shows now, and what is known around it."""

    intended: int | None  # None: nothing would be told
    actual: int | None  # None: the store does not count it there
    available: int = 0  # to its location, before buffers and the group's policy
    is_mapped: bool = True
    is_stocked: bool = True
    is_bundle: bool = False
    is_divided: bool = False  # its group divides units among stores
    keeps_back: int = 0  # units that a buffer, cap or floor keeps from being shown
    expected: int | None = None  # what the store must show if nobody but its shoppers touched it
    has_edits: bool = False  # it was found changed by hand of late
    changed_at: datetime | None = None  # when something about it changed last


def match_of(intended: int, actual: int) -> Match:
    """Whether the numbers are equal, or within 1 % of the greater."""
    if intended == actual:
        return Match.EXACT
    difference = abs(intended - actual)
    return Match.NEAR if 100 * difference <= NEAR_PERCENT * max(abs(intended), abs(actual)) else Match.OFF


def judge(level: Compared, now: datetime) -> tuple[Match, Reason | None]:
    """How near a level is and, where it is off, the likely reason."""
    if not level.is_stocked or level.actual is None:
        return Match.OFF, Reason.NOT_STOCKED
    if not level.is_mapped or level.intended is None:
        return Match.OFF, Reason.UNMAPPED
    match = match_of(level.intended, level.actual)
    if match is not Match.OFF:
        return match, None
    return match, _reason(level, level.intended, level.actual, now)


def _reason(level: Compared, intended: int, actual: int, now: datetime) -> Reason:
    if level.changed_at is not None and now - level.changed_at < ON_ITS_WAY:
        return Reason.TIMING
    if level.is_divided and intended < level.available - level.keeps_back:
        return Reason.SHARE
    if level.keeps_back and match_of(intended + level.keeps_back, actual) is not Match.OFF:
        # Without what is kept back the two agree.
        return Reason.BUFFER
    if level.has_edits or (level.expected is not None and level.expected != actual):
        return Reason.EDITED
    if level.is_bundle:
        return Reason.BUNDLE
    return Reason.BUFFER if level.keeps_back else Reason.UNKNOWN


class Summary(NamedTuple):
    """A comparison in numbers."""

    levels: int
    exact: int
    near: int
    reasons: dict[str, int]


def summary(judged: Iterable[tuple[Match, Reason | None]]) -> Summary:
    """Count."""
    matches: Counter[Match] = Counter()
    reasons: Counter[str] = Counter()
    for match, reason in judged:
        matches[match] += 1
        if reason is not None:
            reasons[str(reason)] += 1
    return Summary(matches.total(), matches[Match.EXACT], matches[Match.NEAR], dict(sorted(reasons.items())))
