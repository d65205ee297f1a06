"""The arithmetic of counting: what is on hand, given every count and every change there ever was. Pure.

    on_hand = quantity of the newest count + the changes that happened after it

The newest count is the one with the greatest moment; of two for the same moment the one whose key sorts last, so that
everybody picks the same (last writer wins). Changes are a set that only grows. So the result is a function of two sets,
whatever the order in which their members arrived: late counts and late changes, doubled or swapped, end in the same
number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, order=True)
class Count:
    """So many units were there at that moment. The order of fields is the order of counts."""

    counted_at: datetime
    key: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Change:
    """So many units came (or went) at that moment."""

    effective_at: datetime
    units: int


def base_of(counts: Iterable[Count]) -> Count | None:
    """The count everything is reckoned from; None when nobody ever counted."""
    return max(counts, default=None)


def absorbs(counted_at: datetime | None, effective_at: datetime) -> bool:
    """Whether a count saw what happened then: at its very moment counts as seen."""
    return counted_at is not None and effective_at <= counted_at


def on_hand(counts: Iterable[Count], changes: Iterable[Change]) -> int:
    """The units on hand by all counts and changes."""
    base = base_of(counts)
    if base is None:
        return sum(change.units for change in changes)
    return base.quantity + sum(change.units for change in changes if not absorbs(base.counted_at, change.effective_at))


def correction(*, quantity: int, changed_since: int, books: int) -> int:
    """What the books must be moved by so that they say what a new base and the changes after it say."""
    return quantity + changed_since - books
