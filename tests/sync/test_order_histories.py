"""Orders that live through anything a store allows: the register knows in the end what the store really took."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import timedelta

from hypothesis import example, given
from hypothesis import strategies as st

from channels.protocol import OrderState, RefundMade
from sync.register import Effect, Register, effect, join, of_order, of_refunds, parts, taken_since
from tests.sync.store_order import StoreOrder

seeds = st.integers(0, 2**32)


def live(
    seed: int, *, pauses: Sequence[float] = (0.1, 0.4, 1.5, 40), places: Sequence[str] = ()
) -> tuple[StoreOrder, random.Random]:
    """An order after up to seven changes, with pauses of so many seconds between them."""
    rng = random.Random(seed)
    order = StoreOrder(rng, pauses=pauses, places=places)
    for _ in range(rng.randint(0, 7)):
        order.change()
    return order, rng


def mangled(order: StoreOrder, rng: random.Random) -> list[OrderState | RefundMade]:
    """What arrives: shuffled, repeated, and much of it lost, but never the newest state."""
    kept = [event for event in order.told if rng.random() < 0.6]
    arrived = [*kept, *rng.choices(order.told, k=2), order.told[-1]]
    rng.shuffle(arrived)
    return arrived


def registers(events: Iterable[OrderState | RefundMade]) -> dict[str, Register]:
    known: dict[str, Register] = {}
    for event in events:
        if isinstance(event, OrderState):
            news = {line.line_id: of_order(event, line) for line in event.lines}
        else:
            news = {refund.line_id: of_refunds((refund,)) for refund in event.refunds}
        for line_id, said in news.items():
            known[line_id] = join(known.get(line_id, Register()), said)
    return known


@given(seeds)
def test_the_effect_is_what_the_store_took_whatever_was_lost_repeated_or_late(seed: int) -> None:
    order, rng = live(seed)

    known = registers(mangled(order, rng))

    for line in order.lines:
        register = known[line.line_id]
        if not register.needs_reading:
            assert effect(register) == Effect(line.open, line.open - line.taken())


@given(seeds)
def test_what_was_said_twice_within_a_second_is_settled_by_reading_the_order(seed: int) -> None:
    order, rng = live(seed)
    read = order.snapshot(read_at=order.now + timedelta(seconds=3))

    known = registers([*mangled(order, rng), read, *rng.choices(order.told, k=2)])

    for line in order.lines:
        assert not known[line.line_id].needs_reading
        assert effect(known[line.line_id]) == Effect(line.open, line.open - line.taken())


PLACES = ("1", "2", "3")


@given(seeds)
@example(7183)  # an edit and a cancellation after it left the line assigned alike
def test_what_a_line_did_at_each_of_its_places_is_what_the_store_did_there(seed: int) -> None:
    order, rng = live(seed, pauses=(1.5, 40), places=PLACES)
    read = order.snapshot(read_at=order.now + timedelta(seconds=3))
    arrived = [*order.told, read, *rng.choices(order.told, k=2)]
    rng.shuffle(arrived)

    known = registers(arrived)

    for line in order.lines:
        register = known[line.line_id]
        done = {place: part for place, part in parts(register, effect(register)) if part != Effect()}
        assert done == {place: line.effect_at(place) for place in PLACES if line.effect_at(place) != Effect()}


@given(seeds)
def test_the_parts_at_the_places_of_a_line_add_up_whatever_was_lost(seed: int) -> None:
    order, rng = live(seed, places=PLACES)
    arrived = mangled(order, rng)

    known = registers(arrived)
    rng.shuffle(arrived)

    assert registers(arrived) == known
    for register in known.values():
        whole = effect(register)
        found = [part for _, part in parts(register, whole)]
        assert sum(part.committed for part in found) == whole.committed
        assert sum(part.on_hand for part in found) == whole.on_hand
        assert all(part.committed >= 0 for part in found)


@given(seeds)
def test_units_taken_after_a_moment_are_known_or_said_to_be_uncertain(seed: int) -> None:
    order, rng = live(seed)
    read = order.snapshot(read_at=order.now + timedelta(seconds=3))
    moment = (
        order.created_at + (order.now - order.created_at) * rng.random() + timedelta(seconds=rng.choice([-2, 0, 2]))
    )

    known = registers([*mangled(order, rng), read])

    for line in order.lines:
        units, is_uncertain = taken_since(known[line.line_id], moment - timedelta(seconds=1), moment)
        assert is_uncertain or units == line.taken(after=moment)


@given(seeds)
def test_a_line_told_in_time_and_in_full_is_uncertain_only_around_its_changes(seed: int) -> None:
    order, rng = live(seed, pauses=(1.5, 40))
    changes = [at for line in order.lines for at, _, _ in line.moves]
    moment = order.created_at + timedelta(seconds=rng.uniform(0, 200))
    if any(abs(at - moment) < timedelta(seconds=50) for at in changes):
        return

    known = registers(order.told)

    for line in order.snapshot_at_first.lines:
        assert not taken_since(known[line.line_id], moment - timedelta(seconds=1), moment)[1]
