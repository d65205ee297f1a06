"""Where the units of an order line are: how what it takes is spread over warehouses, as it changes. Pure.

A unit stays where it is as long as it can: it is shipped from, put back to and returned to the warehouse it was taken from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from locations.routing import release


class Share(NamedTuple):
    """Units of one component that a line has taken from one warehouse.

    `gone` is below zero where units came back that our books never had: those of orders older than the first count.
    """

    committed: int = 0  # to be shipped
    gone: int = 0  # shipped or written off


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


def _move(units: int, source: dict[int, int], target: dict[int, int], warehouses: Sequence[int]) -> int:
    moved = release(units, source, warehouses)
    for warehouse, share in moved.items():
        source[warehouse] -= share
        target[warehouse] = target.get(warehouse, 0) + share
    return sum(moved.values())
