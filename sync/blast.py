"""Which changes are so big, and so many at once, that a person should see them before a store does. Pure.

A lost mapping, a warehouse unticked, a bad import: each takes hundreds of listings off sale in one run, correctly
computed from wrong facts. Such a run is held until somebody confirms it. What was sold is never held: a number that is
held falls with every unit that is sold anywhere, so that no sold unit stays for sale because of it.
"""

from __future__ import annotations

import enum
from datetime import timedelta
from typing import NamedTuple

#: Changes of so long are one run, in however many batches they come; and sales of so long explain a fall.
WINDOW = timedelta(minutes=15)
#: What was confirmed stays so for this long, should it be computed again.
CONFIRMED_FOR = timedelta(days=1)
#: So long a run waits for the rest of what its cause has marked, before it is judged by what there is.
PATIENCE = timedelta(seconds=60)


class Kind(enum.StrEnum):
    """What is big about a change."""

    ZERO = "zero"
    MUCH = "much"


class Terms(NamedTuple):
    """When a channel's run is held; percents are of the levels that it publishes."""

    levels: int
    zero_percent: int
    change_percent: int


class Run(NamedTuple):
    """What a run would do to a channel: levels taken to zero, levels changed by more than half (these included)."""

    zeroed: int
    changed: int
    of_levels: int


def kind_of(shown: int, wished: int) -> Kind | None:
    """What is big about showing `wished` instead of `shown`; None: nothing.

    A store that shows nothing has nothing to lose, so a raise from zero is never big: goods arrive every day.
    """
    if shown <= 0 or wished == shown:
        return None
    if wished <= 0:
        return Kind.ZERO
    return Kind.MUCH if 2 * abs(wished - shown) > shown else None


def unexplained(shown: int, wished: int, sold: int) -> Kind | None:
    """As `kind_of`, but None where the rest is not big without the units `sold` (below zero: put back)."""
    rest = min(shown, wished + max(0, sold)) if wished < shown else max(shown, wished + min(0, sold))
    return None if kind_of(shown, rest) is None else kind_of(shown, wished)


def held_number(*, first: int, sold: int, wished: int, current: int | None) -> int | None:
    """What a level shows while a change of it is held.

    That is what it showed `first` less the units `sold` since, anywhere; more only where even the new number is more;
    and never more than it was told so far (`current`; None: nothing, then nothing is said before something is sold). A
    held number only falls.
    """
    if current is None and sold <= 0:
        return None
    left = max(0, first - max(0, sold))
    number = max(left, wished) if wished <= first else left
    return number if current is None else min(number, current)


def restored_number(*, first: int, sold: int, wished: int | None, is_divided: bool) -> int:
    """What a level shows that was restored to what it showed `first`: less the units `sold` since.

    Where units are divided among stores (`split`, `guard`), never more than it would be given now: no unit is promised twice.
    """
    left = max(0, first - max(0, sold))
    return min(left, wished or 0) if is_divided else left


def is_big(run: Run, terms: Terms) -> bool:
    """Whether a run is to be held."""
    return (run.zeroed >= terms.levels and 100 * run.zeroed > terms.zero_percent * run.of_levels) or (
        run.changed >= terms.levels and 100 * run.changed > terms.change_percent * run.of_levels
    )


def in_words(run: Run) -> str:
    """Why a run is held."""
    return (
        f"{run.zeroed} of {run.of_levels} listing levels would be taken to zero and {run.changed - run.zeroed} more would "
        "change by more than half, and no sales explain it"
    )
