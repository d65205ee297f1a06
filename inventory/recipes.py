"""What SKUs are made of and how holds on them are decided, by code: read in one go, or remembered for a moment.

Invariant: what is remembered is only ever used to refuse or to choose a way; what is decided was read in the decision's
own transaction.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

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
    skus = sql.rows(*_ask_skus(merchant_id, codes))
    bundle_ids = [sku_id for sku_id, _, kind, _ in skus if kind == "bundle"]
    return recipes_in(skus, sql.rows(*_ask_bom(bundle_ids)) if bundle_ids else [])


def ask(merchant_id: int, codes: Collection[str], known: Mapping[str, Recipe]) -> tuple[sql.Question, sql.Question]:
    """Asks whether `known` is (still) what there is of these codes: then `recipes_in` the answers equals it."""
    return _ask_skus(merchant_id, codes), _ask_bom({recipe.sku_id for recipe in known.values()})


def recipes_in(skus: Iterable[tuple[Any, ...]], bom: Iterable[tuple[Any, ...]]) -> dict[str, Recipe]:
    """The recipes that rows of SKUs and of BOM lines come to."""
    lines: dict[int, dict[int, int]] = defaultdict(dict)
    part_codes: dict[int, str] = {}
    for bundle, component, quantity, code in bom:
        lines[bundle][component] = quantity
        part_codes[component] = code
    recipes = {}
    for sku_id, code, kind, strategy in skus:
        parts = explode(sku_id, lines) if kind == "bundle" else {sku_id: 1}
        codes = {part: code if part == sku_id else part_codes[part] for part in parts}
        recipes[code] = Recipe(sku_id, strategy, parts, codes)
    return recipes


def _ask_skus(merchant_id: int, codes: Collection[str]) -> sql.Question:
    return (
        "SELECT id, code, kind, strategy FROM inventory_sku WHERE merchant_id = %s AND code = ANY(%s::text[])",
        [merchant_id, sorted(set(codes))],
    )


def _ask_bom(bundle_ids: Collection[int]) -> sql.Question:
    """Asks for the BOM lines of these bundles through all levels, with the codes of what they name."""
    return (
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
    )


def warehouses(merchant_id: int) -> dict[str, int]:
    """The merchant's active warehouses: code -> id."""
    return dict(sql.rows(*ask_warehouses(merchant_id)))


def ask_warehouses(merchant_id: int) -> sql.Question:
    """Asks for the merchant's active warehouses: rows of code and id."""
    return (
        "SELECT code, id FROM inventory_warehouse WHERE merchant_id = %s AND is_active ORDER BY id",
        [merchant_id],
    )


_recipes: dict[tuple[int, str], tuple[float, Recipe]] = {}
_warehouses: dict[int, tuple[float, dict[str, int]]] = {}


def recalled(merchant_id: int, codes: Collection[str]) -> dict[str, Recipe]:
    """What is remembered of these codes: at most REMEMBERED_SECONDS old, and maybe nothing."""
    now = time.monotonic()
    known = {}
    for code in codes:
        until, recipe = _recipes.get((merchant_id, code), (0.0, None))
        if recipe is not None and now < until:
            known[code] = recipe
    return known


def remembered(merchant_id: int, codes: Collection[str]) -> dict[str, Recipe]:
    """As `load`, at most REMEMBERED_SECONDS old. What was no SKU is asked for every time."""
    known = recalled(merchant_id, codes)
    missing = [code for code in codes if code not in known]
    if missing:
        found = load(merchant_id, missing)
        remember(merchant_id, found)
        known |= found
    return known


def remember(merchant_id: int, recipes: Mapping[str, Recipe]) -> None:
    """Believe recipes that were just read."""
    if len(_recipes) > _REMEMBERED_MAX:
        _recipes.clear()
    until = time.monotonic() + REMEMBERED_SECONDS
    for code, recipe in recipes.items():
        _recipes[merchant_id, code] = (until, recipe)


def forget(merchant_id: int, codes: Collection[str]) -> None:
    """Believe nothing of these codes."""
    for code in codes:
        _recipes.pop((merchant_id, code), None)


def remembered_warehouses(merchant_id: int) -> dict[str, int]:
    """As `warehouses`, at most REMEMBERED_SECONDS old."""
    now = time.monotonic()
    until, known = _warehouses.get(merchant_id, (0.0, {}))
    if now >= until:
        known = warehouses(merchant_id)
        _warehouses[merchant_id] = (now + REMEMBERED_SECONDS, known)
    return known
