"""Bundles: what they are made of, and how many of them the components make. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

Components = Mapping[int, Mapping[int, int]]  # bundle -> component -> units in one bundle

#: A bundle may be made of bundles, and those of others, down to so many levels. The database refuses more.
LEVELS_MAX = 5


def explode(sku_id: int, components: Components) -> dict[int, int]:
    """Units of each stocked SKU in one unit of `sku_id`, through all levels; a plain SKU is its own component.

    Raises:
        ValueError: the bundle contains itself.
    """
    return _explode(sku_id, components, {}, ())


def _explode(
    sku_id: int, components: Components, exploded: dict[int, dict[int, int]], path: tuple[int, ...]
) -> dict[int, int]:
    if sku_id in path:
        raise ValueError(f"SKU {sku_id} contains itself")
    totals = exploded.get(sku_id)  # a part that is shared is taken apart once
    if totals is None:
        parts = components.get(sku_id)
        totals = {} if parts else {sku_id: 1}
        for part, quantity in (parts or {}).items():
            for component, units in _explode(part, components, exploded, (*path, sku_id)).items():
                totals[component] = totals.get(component, 0) + units * quantity
        exploded[sku_id] = totals
    return totals


def bundles_available(parts: Mapping[int, int], available: Mapping[int, int]) -> int:
    """How many bundles the available units make: the scarcest component decides. Below zero when one is short."""
    return min((available.get(sku, 0) // quantity for sku, quantity in parts.items()), default=0)


def find_cycle(edges: Mapping[int, Collection[int]], start: int) -> list[int] | None:
    """The path from `start` back to itself, such as [1, 2, 1], or None."""
    stack: list[tuple[int, tuple[int, ...]]] = [(start, (start,))]
    seen: set[int] = set()
    while stack:
        sku, path = stack.pop()
        for component in edges.get(sku, ()):
            if component == start:
                return [*path, start]
            if component not in seen:
                seen.add(component)
                stack.append((component, (*path, component)))
    return None


def longest_way(edges: Mapping[int, Collection[int]], start: int) -> list[int]:
    """The longest path down from `start`, which it begins with. There must be no cycle."""
    known: dict[int, list[int]] = {}

    def down(sku: int) -> list[int]:
        if sku not in known:
            known[sku] = [sku, *max((down(component) for component in edges.get(sku, ())), key=len, default=[])]
        return known[sku]

    return down(start)
