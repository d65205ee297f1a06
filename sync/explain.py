"""Why levels differed: the causes of what reconciliations found, told afterwards from what the books have done since.

A level that a pass found to differ is checked like any other suspect (`sync.check`), by the algebra alone. Once that has
settled it, the difference has been made up for: by a change of the base (a residue, or a lower of ours that came true late),
by effects of orders, or by confirmed writes. Nothing else moves what a level must show, so what has moved is the cause.

It writes for people only: no act of the engine reads it, and it may run at any time, any number of times.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db import transaction

from sync.models import Cause, Drift, DriftAction
from sync.residue import CLOCK_SKEW
from sync.tables import differences
from sync.tables.differences import Open
from synctec.lib.ids import uuid7

BATCH = 500
#: Orders that polls have told of are looked at for so long: their events may have to wait to be applied.
LOOKS_BACK = timedelta(hours=1)
#: News of an order takes so long at most, unless it is lost.
IN_FLIGHT = timedelta(seconds=60)

_WORDS = {
    Cause.ORDER_IN_FLIGHT: "an order of this store whose news was on its way",
    Cause.MAPPING: "an order of this store that waited for a mapping",
    Cause.LATE_WRITE: "a write of ours that was given up and came true all the same",
    Cause.OWN_WRITE: "a write of ours that was under way",
    Cause.NOT_STOCKED: "the store does not count the item there",
    Cause.PASSING: "the next reading showed what was expected",
}
_COUNTED_AGAIN = "the store counts the item there again"


def explain(*, now: datetime, looks_back: timedelta = LOOKS_BACK) -> int:
    """Tell the causes of whatever can be told by now; returns how many findings were written."""
    written = differences.note_recovered_orders(since=now - looks_back, in_flight=IN_FLIGHT)
    while True:
        with transaction.atomic():
            found = differences.settled(limit=BATCH, skew=CLOCK_SKEW)
            drifts = [drift for one in found for drift in _explained(one)]
            Drift.objects.bulk_create(drifts)
            differences.give_to_runs(found)
            differences.forget(found)
        written += len(drifts)
        if len(found) < BATCH:
            return written


def _explained(found: Open) -> Iterator[Drift]:
    """What explains a difference, besides the findings that are there already: of the check, and of recovered orders."""
    if found.expected is None or found.actual is None:
        expected, actual = found.expected or 0, found.actual or 0
        words = _COUNTED_AGAIN if found.expected is None else _WORDS[Cause.NOT_STOCKED]
        yield _drift(found, Cause.NOT_STOCKED, expected, actual, words)
        return
    came_true = found.rebased - found.booked
    if came_true:
        yield _drift(found, Cause.LATE_WRITE, found.expected, found.expected + came_true, _WORDS[Cause.LATE_WRITE])
    left = found.actual - found.expected - found.rebased
    cause = _cause(found, left)
    if cause is not None:
        yield _drift(found, cause, found.actual - left, found.actual, _WORDS[cause])


def _cause(found: Open, left: int) -> Cause | None:
    """Why the level differed by what no change of its base accounts for; None: nothing did, or that is told already."""
    if left == 0 or found.has_polled:
        return None
    if found.pushed == left:
        return Cause.OWN_WRITE
    if found.sold:
        return Cause.MAPPING if found.has_waited else Cause.ORDER_IN_FLIGHT
    return Cause.OWN_WRITE if found.pushed else Cause.PASSING


def _drift(found: Open, cause: Cause, expected: int, actual: int, words: str) -> Drift:
    return Drift(
        merchant_id=found.merchant_id,
        channel_id=found.channel_id,
        listing_level_id=found.level_id,
        run_id=found.run_id,
        expected=expected,
        actual=actual,
        action=DriftAction.EXPLAINED,
        cause=cause,
        explanation=words,
        previous_confirmed_at=found.previous_confirmed_at,
        correlation_id=uuid7(),
        found_at=found.found_at,
    )
