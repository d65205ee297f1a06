"""Finding what others name by its code: SKUs and warehouses of one merchant, many at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from inventory.models import Sku, SkuKind, Warehouse


class Refused(ValueError):
    """One thing asked for cannot be done: the field to blame, and words that say the way out."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Goods:
    """The SKUs (id, kind) and warehouses (id, is active) of a merchant that were asked for, by code."""

    skus: dict[str, tuple[int, str]]
    warehouses: dict[str, tuple[int, bool]]

    @classmethod
    def of(cls, merchant_id: int, *, skus: Iterable[str], warehouses: Iterable[str]) -> Goods:
        """Look them up, two queries however many."""
        found = Sku.objects.filter(merchant_id=merchant_id, code__in=set(skus)).values_list("code", "pk", "kind")
        places = Warehouse.objects.filter(merchant_id=merchant_id, code__in=set(warehouses))
        return cls(
            skus={code: (key, kind) for code, key, kind in found},
            warehouses={
                code: (key, is_active) for code, key, is_active in places.values_list("code", "pk", "is_active")
            },
        )

    def sku(self, code: str) -> int:
        """The id of a SKU that has stock of its own. Raises Refused."""
        key, kind = self.skus.get(code, (0, ""))
        if not key:
            raise Refused("sku", f"There is no SKU {code!r}. Create it first, or correct the code.")
        if kind == SkuKind.BUNDLE:
            raise Refused("sku", f"{code!r} is a bundle and has no stock of its own. Name its components.")
        return key

    def warehouse(self, code: str, *, field: str = "warehouse") -> int:
        """The id of a warehouse in use. Raises Refused."""
        key, is_active = self.warehouses.get(code, (0, False))
        if not key:
            raise Refused(field, f"There is no warehouse {code!r}. Create it first, or correct the code.")
        if not is_active:
            raise Refused(field, f"The warehouse {code!r} is switched off. Switch it on first.")
        return key
