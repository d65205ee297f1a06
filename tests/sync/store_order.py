"""A small model of an order in a store that tells of itself as Shopify does, and that knows what it really took."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from channels.protocol import LineState, OrderState, RefundedUnits, RefundMade, Restock, UnitsAt
from sync.register import Effect
from tests.factories import NOON


@dataclass
class StoreLine:
    """One line: what it tells, and the truth of its units."""

    line_id: str
    ordered: int
    refunds: list[RefundedUnits] = field(default_factory=list)
    removed: int = 0
    open_at: Counter[str] = field(default_factory=Counter)  # sold, still in the building, to be shipped
    shipped_at: Counter[str] = field(default_factory=Counter)
    #: Units taken from the store's counters: when, at which place, how many.
    moves: list[tuple[datetime, str, int]] = field(default_factory=list)
    was_moved: bool = False
    keeps_assignment: UnitsAt = ()  # what a cancelled order shows of where its units had been

    @property
    def open(self) -> int:
        return self.open_at.total()

    @property
    def shipped(self) -> int:
        return self.shipped_at.total()

    @property
    def current(self) -> int:
        return self.ordered - self.removed - sum(refund.quantity for refund in self.refunds)

    def taken(self, after: datetime | None = None, place: str | None = None) -> int:
        """Units taken from the counters, all of them or those after a moment or at a place."""
        return sum(
            units
            for at, where, units in self.moves
            if (after is None or at > after) and (place is None or where == place)
        )

    def effect_at(self, place: str) -> Effect:
        """What the line has really done at a place."""
        return Effect(self.open_at[place], self.open_at[place] - self.taken(place=place))


class StoreOrder:
    """An order that staff and shopper change step by step; `told` is everything its store sent out on the way.

    With `places`, its lines are split over them, moved between them, and put back at any of them; messages do not tell so,
    but readings do.
    """

    def __init__(
        self, rng: random.Random, *, pauses: Sequence[float] = (0.1, 0.4, 1.5, 40), places: Sequence[str] = ()
    ) -> None:
        self.rng = rng
        self.pauses = pauses
        self.places = places
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
        if self.places:
            acts.append(self._move)
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
            lines=tuple(self._state(line, is_read=read_at is not None) for line in self.lines),
            refunds=tuple(refund for line in self.lines for refund in line.refunds),
            read_at=read_at,
        )

    def _state(self, line: StoreLine, *, is_read: bool) -> LineState:
        assigned: UnitsAt = ()
        shipped: UnitsAt = ()
        if self.places:
            shipped = tuple(sorted(line.shipped_at.items()))
            if is_read:
                assigned = tuple(sorted((line.open_at + line.shipped_at).items())) or line.keeps_assignment
        return LineState(
            line.line_id,
            line.line_id,
            line.line_id,
            line.ordered,
            line.current,
            line.shipped,
            None,
            assigned,
            shipped,
        )

    def _tell(self) -> None:
        self.told.append(self.snapshot())
        if self.places:
            self.told.append(self.snapshot(read_at=self.now + timedelta(seconds=0.05)))

    def _touch(self, line: StoreLine) -> None:
        """A note, a tag, a payment: nothing about units."""

    def _add(self, line: StoreLine | None = None) -> None:
        units = self.rng.randint(1, 4)
        added = StoreLine(f"L{len(self.lines)}", ordered=units)
        for _ in range(units):
            place = self.rng.choice(self.places or [""])
            added.open_at[place] += 1
            added.moves.append((self.now, place, 1))
        self.lines.append(added)

    def _remove(self, line: StoreLine) -> None:
        for _ in range(self.rng.randint(0, line.open)):
            place = self._take_open(line)
            line.removed += 1
            line.moves.append((self.now, place, -1))

    def _ship(self, line: StoreLine) -> None:
        for _ in range(self.rng.randint(0, line.open)):
            line.shipped_at[self._take_open(line)] += 1

    def _move(self, line: StoreLine) -> None:
        """Another place is to ship what is open: the store's counters follow."""
        if line.was_moved:
            return  # back and forth, and a reading in between that is lost: nobody could tell
        line.was_moved = True
        target = self.rng.choice(self.places)
        for _ in range(line.open):
            place = self._take_open(line)
            line.open_at[target] += 1
            line.moves += [(self.now, place, -1), (self.now, target, 1)]

    def _take_open(self, line: StoreLine) -> str:
        place = self.rng.choice(sorted(place for place, units in line.open_at.items() if units))
        line.open_at[place] -= 1
        return place

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
        back_at = self.rng.choice(self.places) if self.places and kind is not Restock.NONE else None
        refund = RefundedUnits(refund_id, line.line_id, units, kind, back_at, _second(self.now))
        line.refunds.append(refund)
        if from_open:
            for _ in range(units):
                self._take_open(line)
        if kind is not Restock.NONE:
            line.moves.append((self.now, back_at or "", -units))
        self.told.append(RefundMade("O", (refund,)))

    def _cancel(self, line: StoreLine) -> None:
        if any(line.shipped for line in self.lines) or not any(line.open for line in self.lines):
            return
        self.cancelled_at = _second(self.now)
        kind = self.rng.choice([Restock.CANCEL, Restock.NONE])
        keeps = self.rng.random() < 0.5
        for each in self.lines:
            if each.open:
                units_at = tuple(sorted((+each.open_at).items()))
                each.keeps_assignment = units_at if keeps else tuple((place, 0) for place, _ in units_at)
                self._book_refund(each, each.open, kind, from_open=True)


def _second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
