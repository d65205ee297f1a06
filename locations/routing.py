"""Which warehouses a sale takes its units from, and to which they go back. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

Place = TypeVar("Place")


class Routing(enum.StrEnum):
    """Which of a store location's warehouses is drawn on first."""

    PRIORITY = "priority"  # as the mapping matrix ranks them
    MOST_STOCK = "most_stock"  # the one with the most units; of equals, as ranked


def in_use(places: Iterable[tuple[Place, bool]]) -> tuple[Place, ...]:
    """Those of the places that are in a warehouse that is switched on: (place, is it on), in the order of drawing.

    Where all are off, all of them: what was sold then left one of these buildings all the same.
    """
    known = tuple(places)
    return tuple(place for place, is_on in known if is_on) or tuple(place for place, _ in known)


def ranked(warehouses: Sequence[int], available: Mapping[int, int], rule: Routing) -> Sequence[int]:
    """The warehouses, given by priority, in the order in which they are drawn on. `available` is per warehouse."""
    if rule is Routing.PRIORITY:
        return warehouses
    return sorted(warehouses, key=lambda warehouse: -available.get(warehouse, 0))


def route(units: int, warehouses: Sequence[int], available: Mapping[int, int]) -> dict[int, int]:
    """Distribute a sale of `units` over warehouses given in the order of drawing; `available` is per warehouse.

    The first warehouse that has them all gets the sale whole; else each gives what it has, in order, and the first
    takes what nobody has: sales are facts, so the remainder is a shortage there.
    """
    assert warehouses, "a sale needs a warehouse to be taken from"
    for warehouse in warehouses:
        if available.get(warehouse, 0) >= units:
            return {warehouse: units}
    taken: dict[int, int] = {}
    rest = units
    for warehouse in warehouses:
        share = min(rest, max(0, available.get(warehouse, 0)))
        if share:
            taken[warehouse] = share
            rest -= share
    if rest:
        taken[warehouses[0]] = taken.get(warehouses[0], 0) + rest
    return taken


def release(units: int, taken: Mapping[int, int], warehouses: Sequence[int]) -> dict[int, int]:
    """Give back `units` of those taken, as far as there are any, from the warehouse that is drawn on last first.

    Warehouses that are no longer drawn on come first of all.
    """
    order = {warehouse: place for place, warehouse in enumerate(warehouses)}
    given: dict[int, int] = {}
    for warehouse in sorted(taken, key=lambda w: order.get(w, len(order)), reverse=True):
        share = min(units, taken[warehouse])
        if share > 0:
            given[warehouse] = share
            units -= share
    return given
