"""Which warehouse a sale takes its units from, and to which it gives them back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def route(units: int, warehouses: Sequence[int], available: Mapping[int, int]) -> dict[int, int]:
    """Distribute a sale of `units` over warehouses given in order of priority; `available` per warehouse.

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
    """Give back `units` of those taken, from the warehouse of least priority first. Unknown warehouses come first of all."""
    order = {warehouse: place for place, warehouse in enumerate(warehouses)}
    given: dict[int, int] = {}
    rest = units
    for warehouse in sorted(taken, key=lambda w: order.get(w, len(order)), reverse=True):
        share = min(rest, taken[warehouse])
        if share > 0:
            given[warehouse] = share
            rest -= share
    assert not rest, "more units given back than were taken"
    return given
