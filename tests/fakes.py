"""FakeChannel: a store in memory that keeps a connector's promises and fails as real ones do.

Its truth is a number per level; writes compare and set, remember their keys, and can be lost before or after they are
applied. The contract suite holds it to the same promises as the real connectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from channels.protocol import (
    Capabilities,
    ChannelError,
    LevelState,
    LocationState,
    NotAuthorized,
    OrderPage,
    OutcomeUnknown,
    PolledOrder,
    QuantityChange,
    RowOutcome,
    RowResult,
    SubscriptionReport,
    VariantState,
    WriteResult,
)
from tests.factories import Shop

Where = tuple[str, str]


@dataclass
class FakeChannel:
    """One store. `faults` are taken from the front, one per call of a write."""

    levels: dict[Where, int] = field(default_factory=dict)
    orders: list[PolledOrder] = field(default_factory=list)
    writes: list[tuple[str, tuple[QuantityChange, ...]]] = field(default_factory=list)
    faults: list[str | ChannelError] = field(default_factory=list)
    refused: set[Where] = field(default_factory=set)
    forgets_keys: bool = False
    is_installed: bool = True
    while_reading: Callable[[], None] | None = None
    clock: datetime | None = None
    capabilities: Capabilities = Capabilities(
        compare_and_set=True, idempotency_keys=True, rows_per_write=250, levels_per_read=250, orders_per_read=50
    )
    _answers: dict[str, WriteResult] = field(default_factory=dict)

    @classmethod
    def of(cls, shop: Shop) -> Self:
        """A store that shows what the engine believes it shows."""
        fake = cls()
        for code in shop.listings:
            fake.levels[fake.where(shop, code)] = shop.level(code).reported
        return fake

    @property
    def its_time(self) -> datetime | None:
        return self.clock

    @staticmethod
    def where(shop: Shop, code: str) -> Where:
        return shop.listings[code].inventory_item_id, shop.location.remote_id

    def sell(self, shop: Shop, code: str, quantity: int = 1) -> None:
        """A shopper buys: the counter falls at once."""
        self.levels[self.where(shop, code)] -= quantity

    def write_quantities(self, changes: Sequence[QuantityChange], *, key: str, reference: str) -> WriteResult:
        self.writes.append((key, tuple(changes)))
        fault = self.faults.pop(0) if self.faults else ""
        if isinstance(fault, ChannelError):
            raise fault
        if fault == "lost before":
            raise OutcomeUnknown("no answer")
        result = self._answers.get(key)
        if result is None:
            result = self._write(changes)
            if not self.forgets_keys:
                self._answers[key] = result
        if fault == "lost after":
            raise OutcomeUnknown("no answer")
        return result

    def _write(self, changes: Sequence[QuantityChange]) -> WriteResult:
        outcomes = [self._judge(change) for change in changes]
        if any(outcome is not RowOutcome.CONFIRMED for outcome in outcomes):
            # All or nothing, like the real one.
            outcomes = [RowOutcome.NOT_APPLIED if o is RowOutcome.CONFIRMED else o for o in outcomes]
        else:
            for change in changes:
                self.levels[(change.inventory_item_id, change.location_id)] = change.to_quantity
        codes = {RowOutcome.STALE: "CHANGE_FROM_QUANTITY_STALE", RowOutcome.REFUSED: "NON_MUTABLE_INVENTORY_ITEM"}
        return WriteResult(tuple(RowResult(o, codes.get(o, ""), str(o)) for o in outcomes), self.clock)

    def _judge(self, change: QuantityChange) -> RowOutcome:
        where = (change.inventory_item_id, change.location_id)
        if where in self.refused:
            return RowOutcome.REFUSED
        return RowOutcome.CONFIRMED if self.levels[where] == change.from_quantity else RowOutcome.STALE

    def read_levels(self, inventory_item_ids: Sequence[str]) -> tuple[LevelState, ...]:
        states = tuple(
            LevelState(item, location, available, is_stocked=True, source_at=self.clock)
            for (item, location), available in self.levels.items()
            if item in inventory_item_ids
        )
        if self.while_reading is not None:
            self.while_reading()
        return states

    def read_orders_since(self, since: datetime, *, cursor: str | None) -> OrderPage:
        return OrderPage(tuple(order for order in self.orders if order.version >= since), None)

    def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
        return tuple(order for order in self.orders if order.order_id in order_ids)

    def read_locations(self) -> tuple[LocationState, ...]:
        return tuple(LocationState(location, location, is_active=True) for _, location in self.levels)

    def read_catalogue(self) -> Iterator[tuple[VariantState, ...]]:
        yield ()

    def read_variants(self, product_id: str) -> tuple[VariantState, ...]:
        return ()

    def activate_level(self, *, inventory_item_id: str, location_id: str, key: str) -> None:
        self.levels.setdefault((inventory_item_id, location_id), 0)

    def ensure_webhooks(self, callback_url: str) -> SubscriptionReport:
        return SubscriptionReport()

    def read_scopes(self) -> frozenset[str]:
        if not self.is_installed:
            raise NotAuthorized("the app was removed")
        return frozenset({"read_orders"})
