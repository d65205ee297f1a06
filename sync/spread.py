"""Where the units of an order line are: how what it takes is spread over warehouses, as it changes. Pure.

A unit stays where it is as long as it can: it is shipped from, put back to and returned to the warehouse it was taken from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from locations.routing import release


class Share(NamedTuple):
    """Units of one component that a line has taken from one warehouse.

    `gone` is below zero where units came back that our books never had: those of orders older than the first count.
    """

    committed: int = 0  # to be shipped
    gone: int = 0  # shipped or written off


class Place(NamedTuple):
    """What a line must have taken at one place, and what it may draw on there."""

    wanted: Share
    warehouses: Sequence[int]  # in the order of drawing
    take: Callable[[int], Mapping[int, int]]  # routes that many more units to them


def spread(
    wanted: Share,
    shares: Mapping[int, Share],
    warehouses: Sequence[int],
    take: Callable[[int], Mapping[int, int]],
) -> dict[int, Share]:
    """The shares per warehouse that add up to `wanted`, with as little change to those there are as can be.

    `warehouses` are those that may be drawn on, in order; `take` routes that many more units to them.
    """
    if not shares and not wanted.gone:
        # The common case, a new sale, needs none of the rest.
        return {warehouse: Share(units) for warehouse, units in take(wanted.committed).items()}
    committed = {warehouse: share.committed for warehouse, share in shares.items()}
    gone = {warehouse: share.gone for warehouse, share in shares.items()}
    to_commit = wanted.committed - sum(committed.values())
    to_go = wanted.gone - sum(gone.values())
    # 1. Units that leave the building, or after all did not, change their state where they are.
    if to_commit < 0 < to_go:
        moved = _move(min(-to_commit, to_go), committed, gone, warehouses[::-1])
        to_commit, to_go = to_commit + moved, to_go - moved
    elif to_go < 0 < to_commit:
        moved = _move(min(-to_go, to_commit), gone, committed, warehouses)
        to_commit, to_go = to_commit - moved, to_go + moved
    # 2. Units that are given back.
    for held, more in ((committed, to_commit), (gone, to_go)):
        if more < 0:
            given = release(-more, held, warehouses)
            for warehouse, units in given.items():
                held[warehouse] -= units
            rest = -more - sum(given.values())
            if rest:
                held[warehouses[0]] = held.get(warehouses[0], 0) - rest
    # 3. Units that are taken besides.
    to_commit, to_go = max(0, to_commit), max(0, to_go)
    if to_commit + to_go:
        for warehouse, units in take(to_commit + to_go).items():
            leaving = min(units, to_go)
            to_go -= leaving
            gone[warehouse] = gone.get(warehouse, 0) + leaving
            committed[warehouse] = committed.get(warehouse, 0) + units - leaving
    return {
        warehouse: Share(committed.get(warehouse, 0), gone.get(warehouse, 0))
        for warehouse in dict.fromkeys((*committed, *gone))
    }


def spread_over(places: Sequence[Place], shares: Mapping[int, Share], *, was_elsewhere: bool) -> dict[int, Share]:
    """As `spread`, for a line at several places, or at none any more.

    `was_elsewhere`: what was taken from warehouses that none of the places draws on was taken at another, and is taken anew
    here. Else it stays: the place had drawn on them when it was taken.
    """
    if len(places) == 1 and not was_elsewhere:
        [(wanted, warehouses, take)] = places
        return spread(wanted, shares, warehouses, take)
    after = dict.fromkeys(shares, Share())
    for place, portion in zip(places, _portions(places, shares, was_elsewhere=was_elsewhere), strict=True):
        for warehouse, share in spread(place.wanted, portion, place.warehouses, place.take).items():
            known = after.get(warehouse, Share())
            after[warehouse] = Share(known.committed + share.committed, known.gone + share.gone)
    return after


def _portions(places: Sequence[Place], shares: Mapping[int, Share], *, was_elsewhere: bool) -> list[dict[int, Share]]:
    """Which of the shares are whose."""
    committed = {warehouse: share.committed for warehouse, share in shares.items()}
    gone = {warehouse: share.gone for warehouse, share in shares.items()}
    drawn_by = Counter(warehouse for place in places for warehouse in place.warehouses)
    portions: list[tuple[dict[int, int], dict[int, int]]] = [({}, {}) for _ in places]
    for place, (_, its_gone) in zip(places, portions, strict=True):
        if place.wanted.gone < 0 and place.warehouses:
            # More came back to the place than had left it: into the first of its warehouses.
            first = place.warehouses[0]
            its_gone[first] = place.wanted.gone
            gone[first] = gone.get(first, 0) - place.wanted.gone
    for place, (its_committed, its_gone) in zip(places, portions, strict=True):
        # What only this place draws on can be nobody else's.
        warehouses = sorted(place.warehouses, key=lambda warehouse: drawn_by[warehouse])
        _claim(place.wanted.committed, committed, its_committed, warehouses)
        _claim(place.wanted.gone, gone, its_gone, warehouses)
    for warehouse in dict.fromkeys((*committed, *gone)) if places else ():
        owner = _owner(places, warehouse)
        if was_elsewhere and owner is None:
            continue
        its_committed, its_gone = portions[owner or 0]
        its_committed[warehouse] = its_committed.get(warehouse, 0) + committed.get(warehouse, 0)
        its_gone[warehouse] = its_gone.get(warehouse, 0) + gone.get(warehouse, 0)
    return [
        {
            warehouse: Share(its_committed.get(warehouse, 0), its_gone.get(warehouse, 0))
            for warehouse in dict.fromkeys((*its_committed, *its_gone))
        }
        for its_committed, its_gone in portions
    ]


def _owner(places: Sequence[Place], warehouse: int) -> int | None:
    """The place that draws on the warehouse, or may have: one that draws on none any more."""
    for n, place in enumerate(places):
        if warehouse in place.warehouses:
            return n
    return next((n for n, place in enumerate(places) if not place.warehouses), None)


def _claim(units: int, free: dict[int, int], claimed: dict[int, int], warehouses: Sequence[int]) -> None:
    """Let a place have up to so many of the units that are free, from its warehouses in order."""
    for warehouse in warehouses:
        share = min(units, free.get(warehouse, 0))
        if share > 0:
            free[warehouse] -= share
            claimed[warehouse] = claimed.get(warehouse, 0) + share
            units -= share


def _move(units: int, source: dict[int, int], target: dict[int, int], warehouses: Sequence[int]) -> int:
    moved = release(units, source, warehouses)
    for warehouse, share in moved.items():
        source[warehouse] -= share
        target[warehouse] = target.get(warehouse, 0) + share
    return sum(moved.values())
