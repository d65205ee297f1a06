"""The algebra of a level: whatever was sold, given back, written and edited, what remains in the end is what was edited.

A store with one counter, which it alone knows, and the engine's books of it, kept by the pure functions alone: orders are
booked by `sync.decide`, readings are judged by `sync.residue`, what was sold after a sample comes from the registers.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from channels.protocol import LineState, OrderState, RefundedUnits, Restock
from sync.decide import Envelope, Level, ListingFacts, Outcome, World, decide
from sync.register import taken_since
from sync.residue import CLOCK_SKEW, Audit, Reading, Ruling, Sample, Suspect, is_known_up_to, judge
from tests.factories import NOON

MUG, MAIN, FLOOR, LISTING, STOCK_LEVEL, CHANNEL = 1, 11, 31, 21, 101, 1
OPENING = 40
#: Longer than what two clocks may differ by, so that nothing happens at the very moment of a sample.
STEP = timedelta(seconds=10)
LAG = timedelta(seconds=60)


@dataclass
class Sold:
    """An order of mugs as its store knows it."""

    order_id: str
    quantity: int
    created_at: datetime
    changed_at: datetime
    cancelled_at: datetime | None = None

    def snapshot(self) -> OrderState:
        refunds: tuple[RefundedUnits, ...] = ()
        if self.cancelled_at is not None:
            refund = RefundedUnits("R", self.order_id, self.quantity, Restock.CANCEL, None, self.cancelled_at)
            refunds = (refund,)
        left = 0 if refunds else self.quantity
        line = LineState(self.order_id, "M", "M", self.quantity, left, 0, None)
        return OrderState(
            self.order_id, "#1", self.changed_at, self.created_at, self.cancelled_at, False, (line,), refunds
        )


class Write(NamedTuple):
    """A write whose answer never came, and what only the store knows of it."""

    delta: int
    was_applied: bool


@dataclass
class Shop:
    """The store's counter, and beside it the engine's books."""

    now: datetime = NOON
    counter: int = OPENING
    edited: int = 0
    written: int = 0
    sold: list[Sold] = field(default_factory=list)
    # The books.
    base: int = OPENING
    pushed: int = 0
    version: int = 0
    sample: Sample | None = None
    unknown: Write | None = None
    found: int = 0
    orders_read_at: datetime | None = None

    def __post_init__(self) -> None:
        self.level = Level(1, OPENING, None, None, None, None, None)
        self.world = World(
            listings_by_variant={(CHANNEL, "M"): ListingFacts(LISTING, MUG)},
            listings_by_item={},
            location_ids={},
            default_locations={CHANNEL: FLOOR},
            warehouses={FLOOR: (MAIN,)},
            parts={MUG: {MUG: 1}},
            bundles={},
            counted_from={CHANNEL: None},
            stock_level_ids={(MUG, MAIN): STOCK_LEVEL},
            available={STOCK_LEVEL: OPENING},
            levels={(LISTING, FLOOR): self.level},
            lines={},
        )

    @property
    def reported(self) -> int:
        return self.base + self.level.order_effects_added + self.pushed

    # --- what happens in the store --------------------------------------------------------------------------------

    def sell(self, units: int, number: int) -> None:
        self.sold.append(Sold(f"O{len(self.sold)}", units, self.now, self.now))
        self.counter -= units

    def cancel(self, units: int, number: int) -> None:
        """One of the orders, whose units go back to the shelf."""
        alive = [order for order in self.sold if order.cancelled_at is None]
        if alive:
            order = alive[number % len(alive)]
            order.cancelled_at = order.changed_at = self.now
            self.counter += order.quantity

    def add_by_hand(self, units: int, number: int) -> None:
        self.counter += units
        self.edited += units

    def take_by_hand(self, units: int, number: int) -> None:
        self.add_by_hand(-units, number)

    # --- what the engine does -------------------------------------------------------------------------------------

    def tell(self, units: int, number: int) -> None:
        """A webhook of one of the orders arrives, perhaps not for the first time, perhaps never."""
        if self.sold:
            self.book(self.sold[number % len(self.sold)])

    def book(self, order: Sold) -> None:
        before = self.level.order_effects_added
        decide(order.snapshot(), Envelope(1, CHANNEL, uuid.UUID(int=1), self.now), self.world, Outcome())
        self.version += self.level.order_effects_added != before

    def push(self, units: int, number: int) -> None:
        """Compare and set; the answer comes."""
        self.write(units if number % 2 else -units)

    def push_without_answer(self, units: int, number: int) -> None:
        """Compare and set; only the store knows what became of it."""
        self.write(units if number % 2 else -units, is_sent=number % 3 > 0, is_answered=False)

    def write(self, delta: int, *, is_sent: bool = True, is_answered: bool = True) -> None:
        if self.unknown is not None or self.sample is not None:
            return
        was_applied = is_sent and self.counter == self.reported
        self.counter += delta if was_applied else 0
        self.written += delta if was_applied else 0
        if not is_answered:
            self.unknown = Write(delta, was_applied)
        elif was_applied:
            self.pushed += delta
            self.version += 1

    def check(self, units: int, number: int) -> None:
        """Read the level, during which nothing is booked, and write down what the reading means."""
        reading = Reading(self.counter, True, self.now, self.now, self.version, self.pushed)
        level = Suspect(
            base=self.base,
            order_effects=self.level.order_effects_added,
            pushed=self.pushed,
            version=self.version,
            is_first_reading=False,
            is_bundle=False,
            sample=self.sample,
            open_delta=self.unknown.delta if self.unknown else None,
        )
        judgement = judge(level, reading, self.audit(), on_loss="adopt", on_gain="override")
        self.base += judgement.residue
        self.found += judgement.residue
        self.sample = judgement.sample
        if judgement.push_applied is not None:
            assert self.unknown is not None
            self.pushed += self.unknown.delta if judgement.push_applied else 0
            self.unknown = None
        self.version += judgement.ruling not in (Ruling.SAMPLED, Ruling.WAIT)

    def audit(self) -> Audit | None:
        if self.sample is None or not is_known_up_to(self.sample.taken_until, self.orders_read_at, LAG):
            return None
        told = [
            taken_since(line.register, self.sample.taken_from - CLOCK_SKEW, self.sample.taken_until + CLOCK_SKEW)
            for line in self.world.lines.values()
        ]
        return Audit(sum(units for units, _ in told), any(is_uncertain for _, is_uncertain in told))

    def read_orders(self, units: int, number: int) -> None:
        """The order list, complete up to now, some time later."""
        self.now += LAG
        for order in self.sold:
            self.book(order)
        self.orders_read_at = self.now

    def settle(self) -> None:
        """Everything is told, and the level is read until nothing about it is in doubt."""
        for _ in range(3):
            self.now += STEP
            self.read_orders(0, 0)
            self.now += STEP
            self.check(0, 0)


Act = Callable[[Shop, int, int], None]
History = list[tuple[Act, int, int]]

STORE = (Shop.sell, Shop.sell, Shop.sell, Shop.cancel)
EDITS = (Shop.add_by_hand, Shop.take_by_hand)
ENGINE = (Shop.tell, Shop.tell, Shop.push, Shop.check, Shop.read_orders)


def histories(*acts: Act) -> st.SearchStrategy[History]:
    return st.lists(st.tuples(st.sampled_from(acts), st.integers(1, 6), st.integers(0, 100)), max_size=25)


def live(history: History) -> Shop:
    shop = Shop()
    for act, units, number in history:
        shop.now += STEP
        act(shop, units, number)
    return shop


@given(histories(*STORE, *EDITS, *ENGINE))
def test_what_remains_of_any_history_is_what_was_edited(history: History) -> None:
    shop = live(history)

    shop.settle()

    assert (shop.found, shop.sample) == (shop.edited, None)
    assert shop.reported == shop.counter


@given(histories(Shop.sell, *ENGINE, Shop.push_without_answer))
def test_without_edits_nothing_remains_and_the_store_tells_what_became_of_each_write(
    history: History,
) -> None:
    shop = live(history)

    shop.settle()

    assert (shop.found, shop.sample, shop.unknown) == (0, None, None)
    assert (shop.pushed, shop.reported) == (shop.written, shop.counter)


@given(histories(*STORE, *ENGINE, Shop.push_without_answer))
def test_units_given_back_beside_a_write_without_an_answer_never_raise_the_pool(
    history: History,
) -> None:
    """A cancellation that nobody has told of yet looks like a lower that was not applied, or like a raise that was."""
    shop = live(history)

    shop.settle()

    assert shop.found <= 0
    assert shop.reported == shop.counter


@given(histories(*STORE, *EDITS, *ENGINE, Shop.push_without_answer))
def test_edits_and_writes_without_an_answer_are_confused_at_most_with_each_other(
    history: History,
) -> None:
    """Which of the two it was may stay open, but not how many units there are."""
    shop = live(history)

    shop.settle()

    assert (shop.sample, shop.unknown) == (None, None)
    assert shop.found + shop.pushed == shop.edited + shop.written
    assert shop.reported == shop.counter
