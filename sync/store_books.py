"""The practice stores' own books, read over HTTP: the outside truth for measurements, the smoke test and the auditor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from channels.origins import sandbox_session
from sync.measure import Change

#: Changes fetched per request.
PAGE = 20_000


@dataclass(frozen=True, slots=True)
class Good:
    """A variant as its store sees it: what it offers, and what it sold and did not put back."""

    available: int
    net_units_sold: int


class PracticeStores:
    """The control interface of the emulated stores at `base_url`."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._session = sandbox_session(base_url)

    def shelf(self, handle: str) -> dict[tuple[str, str], int]:
        """What the store shows now: available by (inventory item, location)."""
        return {
            (str(variant["inventory_item_id"]), str(level["location_id"])): level["available"]
            for variant in self._get(f"/_control/stores/{handle}/shelf")["variants"]
            for level in variant["levels"]
        }

    def net_units_sold(self, handle: str) -> dict[str, int]:
        """Units sold and not put back, by inventory item, over the life of the store."""
        return {
            str(variant["inventory_item_id"]): variant["units_sold"] - variant["units_restocked"]
            for variant in self._get(f"/_control/stores/{handle}/shelf")["variants"]
        }

    def goods(self, handle: str) -> dict[str, Good]:
        """What the store carries now, by SKU."""
        return {
            variant["sku"]: Good(variant["available"], variant["units_sold"] - variant["units_restocked"])
            for variant in self._get(f"/_control/stores/{handle}/shelf")["variants"]
        }

    def skus(self, handle: str) -> list[str]:
        """The SKUs of the store that have something left to sell."""
        return [sku for sku, good in self.goods(handle).items() if good.available > 0]

    def buy(self, handle: str, sku: str, quantity: int = 1) -> dict[str, Any]:
        """Order as a shopper; the answer has the order's id and the store's clock (`at_us`)."""
        return self.act(handle, "shop/orders", {"lines": [{"sku": sku, "quantity": quantity}]})

    def latest_change(self, handle: str) -> int:
        """The position of the newest change of any level."""
        return int(self._get(f"/_control/stores/{handle}/shelf")["last_change"])

    def changes(self, handle: str, *, after: int) -> Iterator[Change]:
        """Changes of levels since a position, in order.

        Raises:
            LookupError: the store has forgotten some of them.
        """
        while True:
            page = self._get(f"/_control/stores/{handle}/changes?after={after}&limit={PAGE}")
            if page["first_kept"] > after + 1 and page["changes"]:
                raise LookupError(f"{handle} no longer knows all changes since {after}")
            for row in page["changes"]:
                yield Change(
                    store=handle,
                    sku=row["sku"] or "",
                    at_us=row["at_us"],
                    delta=row["delta"],
                    available=row["available"],
                    is_sale=row["cause"] == "order",
                )
            if len(page["changes"]) < PAGE:
                return
            after = page["changes"][-1]["seq"]

    def stats(self, handle: str) -> dict[str, Any]:
        """What the store counted over its life."""
        return dict(self._get(f"/_control/stores/{handle}/stats")["counters"])

    def set_faults(self, faults: dict[str, Any], *, handle: str = "") -> None:
        """Set the fault switches of one store, or of all; {} heals them."""
        self._call("PUT", f"/_control/stores/{handle}/faults" if handle else "/_control/faults", faults)

    def configure(self, handle: str, settings: dict[str, Any]) -> None:
        """Change settings of a store; the others stay."""
        self._call("PATCH", f"/_control/stores/{handle}", settings)

    def expire_tokens(self, handle: str) -> None:
        """End the app's access tokens of the store now."""
        self._call("POST", f"/_control/stores/{handle}/expire_tokens", {})

    def orders(self, handle: str, *, limit: int) -> list[dict[str, Any]]:
        """The newest orders first, as the store's staff sees them."""
        return list(self._call("GET", f"/{handle}/shop/orders?limit={limit}", None))

    def act(self, handle: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Do something as a shopper or as the staff: `shop/orders/7/cancel`, `admin-ui/adjust`."""
        return dict(self._call("POST", f"/{handle}/{path}", body))

    def _get(self, path: str) -> dict[str, Any]:
        return dict(self._call("GET", path, None))

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        response = self._session.request(method, self._base_url + path, json=body)
        response.raise_for_status()
        return response.json()
