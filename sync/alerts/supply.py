"""What is known of the SKUs that somebody wants to hear of when they run low: stock, what is in transit, how fast they sell.

A bundle has no stock: available is what its parts make, counted per warehouse, since each is packed in one. What a bundle
sells its parts sell, so they count both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from inventory.bom import bundles_available, explode
from inventory.reordering import Supply
from locations.pace import USUAL_SECONDS
from synctec.lib import sql


@dataclass(frozen=True, slots=True)
class _Sku:
    sku_id: int
    code: str
    is_bundle: bool
    low_stock_at: int | None
    reorder_point: int | None
    reorder_quantity: int | None
    lead_time_days: int | None
    safety_stock: int


def watched(now: datetime) -> Iterator[tuple[int, dict[str, Supply]]]:
    """Per merchant who watches any: what is known of each watched SKU, by its code."""
    rows = sql.rows(
        """
        SELECT sku.merchant_id, sku.id, sku.code, sku.kind = 'bundle', sku.low_stock_at, sku.reorder_point,
            sku.reorder_quantity, sku.lead_time_days, coalesce(sku.safety_stock, 0)
        FROM inventory_sku sku JOIN merchants_merchant merchant ON merchant.id = sku.merchant_id
        WHERE (sku.low_stock_at IS NOT NULL OR sku.reorder_point IS NOT NULL OR sku.lead_time_days IS NOT NULL)
            AND merchant.is_active
        ORDER BY sku.merchant_id, sku.code
        """
    )
    by_merchant: dict[int, list[_Sku]] = defaultdict(list)
    for merchant_id, *facts in rows:
        by_merchant[merchant_id].append(_Sku(*facts))
    for merchant_id, skus in by_merchant.items():
        yield merchant_id, _supplies(merchant_id, skus, now)


def _supplies(merchant_id: int, skus: Collection[_Sku], now: datetime) -> dict[str, Supply]:
    lines: dict[int, dict[int, int]] = defaultdict(dict)
    for bundle, component, quantity in sql.rows(
        "SELECT bundle_id, component_id, quantity FROM inventory_bomline WHERE merchant_id = %s", [merchant_id]
    ):
        lines[bundle][component] = quantity
    recipes = {bundle: explode(bundle, lines) for bundle in lines}
    parts = {sku.sku_id: recipes.get(sku.sku_id, {}) if sku.is_bundle else {sku.sku_id: 1} for sku in skus}
    stocked = {part for made_of in parts.values() for part in made_of}
    stock, transit = _stock(stocked), _in_transit(stocked)
    pace = _pace(merchant_id, set(parts), recipes, now)
    return {
        sku.code: Supply(
            available=sum(max(0, bundles_available(parts[sku.sku_id], place)) for place in stock.values())
            if sku.is_bundle
            else sum(place.get(sku.sku_id, 0) for place in stock.values()),
            in_transit=0 if sku.is_bundle else transit.get(sku.sku_id, 0),
            units_per_day=pace.get(sku.sku_id, 0.0),
            low_stock_at=sku.low_stock_at,
            reorder_point=sku.reorder_point,
            reorder_quantity=sku.reorder_quantity,
            lead_time_days=sku.lead_time_days,
            safety_stock=sku.safety_stock,
        )
        for sku in skus
    }


def _stock(sku_ids: Collection[int]) -> Mapping[int, Mapping[int, int]]:
    """Units available, per warehouse that is on and per stocked SKU."""
    found: dict[int, dict[int, int]] = defaultdict(dict)
    rows = sql.rows(
        """
        SELECT level.warehouse_id, level.sku_id, level.available FROM inventory_stocklevel level
        JOIN inventory_warehouse warehouse ON warehouse.id = level.warehouse_id
        WHERE level.sku_id = ANY(%s::bigint[]) AND warehouse.is_active
        """,
        [sorted(sku_ids)],
    )
    for warehouse_id, sku_id, available in rows:
        found[warehouse_id][sku_id] = available
    return found


def _in_transit(sku_ids: Collection[int]) -> dict[int, int]:
    """Units on their way between the merchant's warehouses."""
    return dict(
        sql.rows(
            """
            SELECT line.sku_id, sum(line.quantity - line.received - line.returned)::int
            FROM inventory_transferline line JOIN inventory_transfer transfer ON transfer.id = line.transfer_id
            WHERE line.sku_id = ANY(%s::bigint[]) AND transfer.state = 'in_transit' GROUP BY line.sku_id
            """,
            [sorted(sku_ids)],
        )
    )


def _pace(
    merchant_id: int, sku_ids: Collection[int], recipes: Mapping[int, Mapping[int, int]], now: datetime
) -> dict[int, float]:
    """Units sold a day of late: by itself, and as a part of every bundle (see `locations.pace.Velocity`)."""
    sellers = set(sku_ids) | set(recipes)
    sold = dict(
        sql.rows(
            """
            SELECT listing.sku_id, sum(level.usual_units * exp(-greatest(extract(epoch FROM %s - level.sold_at), 0) / %s))
            FROM channels_listing listing JOIN channels_listinglevel level ON level.listing_id = listing.id
            WHERE listing.sku_id = ANY(%s::bigint[]) AND listing.merchant_id = %s AND level.sold_at IS NOT NULL
            GROUP BY listing.sku_id
            """,
            [now, USUAL_SECONDS, sorted(sellers), merchant_id],
        )
    )
    pace = {sku_id: float(sold.get(sku_id, 0.0)) for sku_id in sku_ids}
    for bundle, parts in recipes.items():
        for part, units in parts.items():
            if part in pace and part != bundle:
                pace[part] += units * float(sold.get(bundle, 0.0))
    return pace
