"""When stock is low and how much to order. Pure.

The reorder point is the textbook's: what sells while an order is on its way, and a reserve for surprises. Units that are on
their way between the merchant's own warehouses are the merchant's, so they count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Supply:
    """What is known of one SKU: its stock, how fast it sells, and what its merchant has set (None: nothing)."""

    available: int
    in_transit: int = 0
    units_per_day: float = 0.0
    low_stock_at: int | None = None
    reorder_point: int | None = None
    reorder_quantity: int | None = None
    lead_time_days: int | None = None
    safety_stock: int = 0

    @property
    def is_low(self) -> bool:
        """Whether so few are available that somebody wants to hear of it."""
        return self.low_stock_at is not None and self.available <= self.low_stock_at


@dataclass(frozen=True, slots=True)
class Order:
    """What to order more of: at which point, and how many."""

    point: int
    quantity: int


def reorder_point(supply: Supply) -> int | None:
    """The stock at which to order more: as set, else what sells during the lead time and the safety stock; None: never."""
    if supply.reorder_point is not None:
        return supply.reorder_point
    if supply.lead_time_days is None:
        return None
    return _sold_in(supply, supply.lead_time_days) + supply.safety_stock


def to_order(supply: Supply) -> Order | None:
    """What to order now; None when there is enough, or when nothing is known to go by.

    Without a quantity that is set: up to the point and what sells during another lead time, one unit at least.
    """
    point = reorder_point(supply)
    stock = supply.available + supply.in_transit
    if point is None or stock > point or (point == 0 and supply.reorder_point is None):
        return None
    if supply.reorder_quantity:
        return Order(point, supply.reorder_quantity)
    return Order(point, max(1, point + _sold_in(supply, supply.lead_time_days or 0) - stock))


def _sold_in(supply: Supply, days: int) -> int:
    # A fraction of a unit is one: too few are missed, too many are sold later. But not what floats add to a whole number.
    return math.ceil(round(supply.units_per_day * days, 6))
