"""Bundles: what they are made of, and how many of them the components make. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

Components = Mapping[int, Mapping[int, int]]  # bundle -> component -> units in one bundle


def explode(sku_id: int, components: Components) -> dict[int, int]:
    """Units of each stocked SKU in one unit of `sku_id`, through all levels; a plain SKU is its own component.

    Raises:
        ValueError: the bundle contains itself.
    """
    totals: dict[int, int] = {}

    def add(sku: int, units: int, path: tuple[int, ...]) -> None:
        if sku in path:
            raise ValueError(f"SKU {sku} contains itself")
        parts = components.get(sku)
        if not parts:
            totals[sku] = totals.get(sku, 0) + units
            return
        for component, quantity in parts.items():
            add(component, units * quantity, (*path, sku))

    add(sku_id, 1, ())
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
