"""What SKUs are made of and how holds on them are decided, by code: read in one go, or remembered for a moment.

Invariant: what is remembered is only ever used to refuse or to choose a way; what is decided was read in the decision's
own transaction.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from inventory.bom import explode
from synctec.lib import sql

#: How long a process goes on believing a recipe.
REMEMBERED_SECONDS: Final = 5.0
_REMEMBERED_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """A SKU and the stocked SKUs in one of it: itself, unless it is a bundle."""

    sku_id: int
    strategy: str
    parts: Mapping[int, int]  # stocked SKU -> units in one
    codes: Mapping[int, str]  # of the parts


def load(merchant_id: int, codes: Collection[str]) -> dict[str, Recipe]:
    """The recipes of those codes that are SKUs of the merchant."""
    skus = {
        code: (sku_id, kind, strategy)
        for sku_id, code, kind, strategy in sql.rows(
            "SELECT id, code, kind, strategy FROM inventory_sku WHERE merchant_id = %s AND code = ANY(%s::text[])",
            [merchant_id, sorted(set(codes))],
        )
    }
    lines, part_codes = _bom([sku_id for sku_id, kind, _ in skus.values() if kind == "bundle"])
    part_codes |= {sku_id: code for code, (sku_id, _, _) in skus.items()}
    recipes = {}
    for code, (sku_id, _, strategy) in skus.items():
        parts = explode(sku_id, lines)
        recipes[code] = Recipe(sku_id, strategy, parts, {part: part_codes[part] for part in parts})
    return recipes


def _bom(bundle_ids: Collection[int]) -> tuple[dict[int, dict[int, int]], dict[int, str]]:
    """The BOM lines of these bundles through all levels, and the codes of what they name."""
    lines: dict[int, dict[int, int]] = defaultdict(dict)
    codes: dict[int, str] = {}
    if bundle_ids:
        for bundle, component, quantity, code in sql.rows(
            """
            WITH RECURSIVE line (bundle_id, component_id, quantity) AS (
                SELECT bundle_id, component_id, quantity FROM inventory_bomline WHERE bundle_id = ANY(%s::bigint[])
                UNION
                SELECT below.bundle_id, below.component_id, below.quantity FROM inventory_bomline below
                JOIN line ON line.component_id = below.bundle_id)
            SELECT line.bundle_id, line.component_id, line.quantity, sku.code
            FROM line JOIN inventory_sku sku ON sku.id = line.component_id
            """,
            [sorted(bundle_ids)],
        ):
            lines[bundle][component] = quantity
            codes[component] = code
    return lines, codes


def warehouses(merchant_id: int) -> dict[str, int]:
    """The merchant's active warehouses: code -> id."""
    return dict(
        sql.rows(
            "SELECT code, id FROM inventory_warehouse WHERE merchant_id = %s AND is_active ORDER BY id", [merchant_id]
        )
    )


_recipes: dict[tuple[int, str], tuple[float, Recipe]] = {}
_warehouses: dict[int, tuple[float, dict[str, int]]] = {}


def remembered(merchant_id: int, codes: Collection[str]) -> dict[str, Recipe]:
    """As `load`, at most REMEMBERED_SECONDS old. What was no SKU is asked for every time."""
    now = time.monotonic()
    known = {}
    for code in codes:
        until, recipe = _recipes.get((merchant_id, code), (0.0, None))
        if recipe is not None and now < until:
            known[code] = recipe
    missing = [code for code in codes if code not in known]
    if missing:
        if len(_recipes) > _REMEMBERED_MAX:
            _recipes.clear()
        for code, recipe in load(merchant_id, missing).items():
            known[code] = recipe
            _recipes[merchant_id, code] = (now + REMEMBERED_SECONDS, recipe)
    return known


def remembered_warehouses(merchant_id: int) -> dict[str, int]:
    """As `warehouses`, at most REMEMBERED_SECONDS old."""
    now = time.monotonic()
    until, known = _warehouses.get(merchant_id, (0.0, {}))
    if now >= until:
        known = warehouses(merchant_id)
        _warehouses[merchant_id] = (now + REMEMBERED_SECONDS, known)
    return known
