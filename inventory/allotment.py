"""Which warehouses a hold takes its units from. Pure.

Invariant: exactly what is needed is taken, and nowhere more than is free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inventory.bom import bundles_available

Place = tuple[int, int]  # stocked SKU, warehouse


def allot(
    parts: Mapping[int, int],
    quantity: int,
    free: Mapping[Place, int],
    warehouses: Sequence[int],
    *,
    is_ordered: bool,
    may_split: bool,
) -> dict[Place, int] | None:
    """Units to take from each place for `quantity` of something made of `parts`; None when they are not there.

    All of it comes from the first warehouse that has it; if none does and it may be split, from as many as it takes.
    Unless the caller gave them in order, the warehouse with most of it comes first.
    """
    here = {warehouse: _whole(parts, free, warehouse) for warehouse in warehouses}
    order = warehouses if is_ordered else sorted(warehouses, key=lambda warehouse: (-here[warehouse], warehouse))
    for warehouse in order:
        if here[warehouse] >= quantity:
            return {(sku, warehouse): units * quantity for sku, units in parts.items()}
    if not may_split:
        return None
    taken: dict[Place, int] = {}
    for sku, units in parts.items():
        lacking = units * quantity
        for warehouse in order:
            some = min(lacking, max(0, free.get((sku, warehouse), 0)))
            if some:
                taken[sku, warehouse] = some
                lacking -= some
        if lacking:
            return None
    return taken


def most(parts: Mapping[int, int], free: Mapping[Place, int], warehouses: Sequence[int], *, may_split: bool) -> int:
    """The largest quantity that `allot` would find."""
    whole = max((_whole(parts, free, warehouse) for warehouse in warehouses), default=0)
    if not may_split:
        return max(0, whole)
    together = {sku: sum(max(0, free.get((sku, warehouse), 0)) for warehouse in warehouses) for sku in parts}
    return max(0, whole, bundles_available(parts, together))


def _whole(parts: Mapping[int, int], free: Mapping[Place, int], warehouse: int) -> int:
    return bundles_available(parts, {sku: free.get((sku, warehouse), 0) for sku in parts})
