"""A small model of an order in a store that tells of itself as Shopify does, and that knows what it really took."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from channels.protocol import LineState, OrderState, RefundedUnits, RefundMade, Restock
from tests.factories import NOON


@dataclass
class StoreLine:
    """One line: what it tells, and the truth of its units."""

    line_id: str
    ordered: int
    refunds: list[RefundedUnits] = field(default_factory=list)
    removed: int = 0
    shipped: int = 0
    open: int = 0  # sold, still in the building, to be shipped
    moves: list[tuple[datetime, int]] = field(default_factory=list)  # units taken from the store's counter, and when

    @property
    def current(self) -> int:
        return self.ordered - self.removed - sum(refund.quantity for refund in self.refunds)

    def taken(self, after: datetime | None = None) -> int:
        """Units taken from the counter, all of them or those after a moment."""
        return sum(units for at, units in self.moves if after is None or at > after)


class StoreOrder:
    """An order that staff and shopper change step by step; `told` is everything its store sent out on the way."""

    def __init__(self, rng: random.Random, *, pauses: Sequence[float] = (0.1, 0.4, 1.5, 40)) -> None:
        self.rng = rng
        self.pauses = pauses
        self.now = NOON
        self.created_at = NOON
        self.cancelled_at: datetime | None = None
        self.lines: list[StoreLine] = []
        self.told: list[OrderState | RefundMade] = []
        for _ in range(rng.randint(1, 2)):
            self._add()
        self.snapshot_at_first = self.snapshot()
        self._tell()

    def change(self) -> None:
        """One change that a store allows, some time later."""
        self.now += timedelta(seconds=self.rng.choice(self.pauses))
        line = self.rng.choice(self.lines)
        acts = [self._touch, self._add, self._cancel, self._remove, self._ship, self._refund]
        if self.cancelled_at is None:
            self.rng.choice(acts)(line)
        self._tell()

    def snapshot(self, *, read_at: datetime | None = None) -> OrderState:
        """The whole order as it is now, dated in whole seconds."""
        return OrderState(
            order_id="O",
            name="#1",
            version=_second(self.now),
            created_at=_second(self.created_at),
            cancelled_at=self.cancelled_at,
            is_test=False,
            lines=tuple(
                LineState(line.line_id, line.line_id, line.line_id, line.ordered, line.current, line.shipped, None)
                for line in self.lines
            ),
            refunds=tuple(refund for line in self.lines for refund in line.refunds),
            read_at=read_at,
        )

    def _tell(self) -> None:
        self.told.append(self.snapshot())

    def _touch(self, line: StoreLine) -> None:
        """A note, a tag, a payment: nothing about units."""

    def _add(self, line: StoreLine | None = None) -> None:
        units = self.rng.randint(1, 4)
        added = StoreLine(f"L{len(self.lines)}", ordered=units, open=units)
        added.moves.append((self.now, units))
        self.lines.append(added)

    def _remove(self, line: StoreLine) -> None:
        units = self.rng.randint(0, line.open)
        line.removed += units
        line.open -= units
        line.moves.append((self.now, -units))

    def _ship(self, line: StoreLine) -> None:
        units = self.rng.randint(0, line.open)
        line.shipped += units
        line.open -= units

    def _refund(self, line: StoreLine) -> None:
        there = line.current - line.open  # shipped and not yet refunded
        kinds = [Restock.CANCEL] * bool(line.open) + [Restock.RETURN] * bool(there)
        if not line.open or not there:
            # Of a line partly shipped, these two do not tell which of its units they mean.
            kinds += [Restock.NONE, Restock.LEGACY] * bool(line.current)
        if kinds:
            kind = self.rng.choice(kinds)
            from_open = kind is Restock.CANCEL or (kind is not Restock.RETURN and bool(line.open))
            self._book_refund(line, self.rng.randint(1, line.open if from_open else there), kind, from_open)

    def _book_refund(self, line: StoreLine, units: int, kind: Restock, from_open: bool) -> None:
        refund_id = f"R{len(line.refunds)}{line.line_id}"
        refund = RefundedUnits(refund_id, line.line_id, units, kind, None, _second(self.now))
        line.refunds.append(refund)
        if from_open:
            line.open -= units
        if kind is not Restock.NONE:
            line.moves.append((self.now, -units))
        self.told.append(RefundMade("O", (refund,)))

    def _cancel(self, line: StoreLine) -> None:
        if any(line.shipped for line in self.lines) or not any(line.open for line in self.lines):
            return
        self.cancelled_at = _second(self.now)
        kind = self.rng.choice([Restock.CANCEL, Restock.NONE])
        for each in self.lines:
            if each.open:
                self._book_refund(each, each.open, kind, from_open=True)


def _second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
