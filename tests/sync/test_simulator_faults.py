"""What goes wrong in the simulator, fault by fault: that it happens as it is meant to, and what the engine makes of it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from channels.protocol import QuantityChange, Throttled
from sync import push
from sync.ports import DOUBTFUL
from sync.simulator import faults
from sync.simulator import world as simulated
from sync.simulator.faults import Faults, Jump, Window
from sync.simulator.memory.rows import BatchRow
from sync.simulator.scheduler import EPOCH
from sync.simulator.world import Setting, World
from synctec.lib.clock import READ_AGAIN_SECONDS

TWO_STORES = Setting(policy="shared", faults="none", stores=2, shoppers=20)


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Callable[..., World]:
    """Worlds in which the first numbers are shown, and nobody comes but whom the test sends."""

    def make(setting: Setting = TWO_STORES, faults: Faults | None = None, **of_stores: object) -> World:
        world = World(setting, seed=1)
        request.addfinalizer(world.close)
        world.open()
        world.faults = world.wire.faults = world.drawn = faults or Faults()
        for store in world.stores:
            for name, value in of_stores.items():
                setattr(store, name, value)
        return world

    return make


def buy_both(world: World, number: int) -> None:
    """Somebody buys one unit of each article in a store."""
    store = world.stores[number]
    assert store.buy([(article, f"l{number}", 1) for article in store.articles]) is not None


def pass_by(world: World, seconds: float) -> None:
    world.scheduler.run(world.scheduler.time + seconds)


def shown(world: World, number: int) -> list[int]:
    store = world.stores[number]
    return [store.counters[(article.inventory_item_id, f"l{number}")] for article in store.articles]


def batches(world: World) -> list[BatchRow]:
    return list({row.batch.id: row.batch for row in world.books.pushes.values()}.values())


class TestRefusedRows:
    def test_the_others_go_on_and_it_is_tried_again_after_a_pause(self, opened: Callable[..., World]) -> None:
        world = opened()
        world.stores[0].refused.add("i0-1")

        buy_both(world, 1)
        pass_by(world, 60.0)
        while_refused = shown(world, 0)
        world.stores[0].refused.clear()
        pass_by(world, push.REFUSED_PAUSE.total_seconds())

        assert while_refused == [5, 4]
        assert shown(world, 0) == [4, 4]

    def test_it_is_tried_at_once_when_its_number_changes(self, opened: Callable[..., World]) -> None:
        world = opened()
        world.stores[0].refused.add("i0-1")
        buy_both(world, 1)
        pass_by(world, 60.0)

        world.stores[0].refused.clear()
        buy_both(world, 1)
        pass_by(world, 60.0)

        assert shown(world, 0) == [3, 3]

    def test_batches_shrink_until_the_culprit_stands_alone(self, opened: Callable[..., World]) -> None:
        world = opened(hides_refusals=True)
        world.stores[0].refused.add("i0-1")

        buy_both(world, 1)
        pass_by(world, 60.0)

        assert shown(world, 0) == [5, 4]
        failed = [row for row in world.books.pushes.values() if row.error_code == "NON_MUTABLE_INVENTORY_ITEM"]
        assert {len(row.batch.pushes) for row in failed} == {1, 2}


class TestOrdersWithTheSameArticleTwice:
    def test_both_lines_must_be_there(self, opened: Callable[..., World]) -> None:
        world = opened()
        store = world.stores[0]
        article = store.articles[0]

        too_many = store.buy([(article, "l0", 3), (article, "l0", 3)])
        enough = store.buy([(article, "l0", 3), (article, "l0", 2)])
        world.rest()

        assert too_many is None
        assert enough is not None
        assert shown(world, 0) == [0, 5]
        assert not world.auditor.violations

    def test_a_line_may_be_added_later(self, opened: Callable[..., World]) -> None:
        world = opened()
        store = world.stores[0]
        article = store.articles[0]
        order = store.buy([(article, "l0", 1)])
        assert order is not None

        store.add_line(order, article, "l0", 4)
        store.add_line(order, article, "l0", 1)  # there is none left
        world.rest()

        assert [line.ordered for line in order.lines] == [1, 4]
        assert shown(world, 0) == [0, 5]
        assert not world.auditor.violations


class TestDeletedOrders:
    def test_what_they_took_stays_taken_and_nobody_can_read_them(self, opened: Callable[..., World]) -> None:
        world = opened()
        store = world.stores[0]
        order = store.buy([(store.articles[0], "l0", 2)])
        assert order is not None
        pass_by(world, 30.0)

        store.cancel(order, restock=False)
        store.delete(order)
        world.rest()

        assert not store.orders_since(EPOCH, None).orders
        assert shown(world, 1) == [3, 5]
        assert not world.auditor.violations

    def test_only_those_that_were_called_off_can_be_deleted(self, opened: Callable[..., World]) -> None:
        world = opened()
        store = world.stores[0]
        order = store.buy([(store.articles[0], "l0", 1)])
        assert order is not None

        store.delete(order)

        assert list(store.orders.values()) == [order]

    def test_one_that_nobody_told_of_looks_like_a_change_by_hand(self, opened: Callable[..., World]) -> None:
        world = opened(faults=Faults(webhook_lost=1.0))
        store = world.stores[0]
        order = store.buy([(store.articles[0], "l0", 2)])
        assert order is not None
        store.cancel(order, restock=False)
        store.delete(order)

        world.rest()

        assert [(drift.action, drift.expected, drift.actual) for drift in world.books.drifts] == [("adopted", 5, 3)]
        assert shown(world, 1) == [3, 5]
        assert not world.auditor.violations


class TestListings:
    """`Window(start, seconds, store)`: its article is the start in thousandths of a second, modulo the articles."""

    window = Window(0.0, 60.0, 0)

    def test_what_an_unmapped_one_sells_is_booked_when_it_is_mapped_again(self, opened: Callable[..., World]) -> None:
        world = opened()
        world._unmap(self.window)
        buy_both(world, 0)
        pass_by(world, 60.0)
        while_unmapped = shown(world, 1)
        reasons = {event.reason for event in world.books.events.values() if "variant" in event.reason}

        world._map_again(self.window)
        world.rest()

        assert reasons == {"unmapped variant v0-1: the rest was applied"}
        assert while_unmapped == [5, 4]
        assert shown(world, 1) == [4, 4]
        assert not world.auditor.violations

    def test_an_unmapped_one_is_not_written_to(self, opened: Callable[..., World]) -> None:
        world = opened()
        world._unmap(self.window)

        buy_both(world, 1)
        pass_by(world, 60.0)

        assert shown(world, 0) == [5, 4]

    def test_what_split_gave_to_others_meanwhile_is_no_fault_of_its_own(self, opened: Callable[..., World]) -> None:
        world = opened(replace(TWO_STORES, policy="split"))
        mine = shown(world, 0)[0]
        world._unmap(self.window)
        pass_by(world, 60.0)
        assert shown(world, 1)[0] == 5 == mine + 2

        world._map_again(self.window)
        shelf = world.shelves[1, 0]
        assert (shelf.excess, shelf.doubled) == (mine, mine)
        world.rest()

        assert (shelf.excess, shelf.doubled) == (0, 0)
        assert not world.auditor.violations

    def test_the_units_of_a_deleted_variant_are_there_for_the_others(self, opened: Callable[..., World]) -> None:
        world = opened(replace(TWO_STORES, policy="split"))
        order = world.stores[0].buy([(world.stores[0].articles[0], "l0", 1)])
        assert order is not None
        world._delete_variant(self.window)
        world._know_deleted(self.window)

        world.stores[0].ship(order)
        world.rest()

        assert world.stores[0].state(order).lines[0].variant_id == ""
        assert world.stores[1].counters["i1-1", "l1"] == 4
        assert not world.auditor.violations

    def test_what_a_deleted_variant_may_have_sold_is_given_to_nobody_before_its_orders_are_known(
        self, opened: Callable[..., World]
    ) -> None:
        world = opened(replace(TWO_STORES, policy="split"), faults=Faults(webhook_lost=1.0))
        sold_unheard = world.stores[0].counters["i0-1", "l0"]
        world.stores[0].buy([(world.stores[0].articles[0], "l0", sold_unheard)])
        world._delete_variant(self.window)
        world._know_deleted(self.window)

        world.rest()

        assert world.stores[1].counters["i1-1", "l1"] == 5 - sold_unheard
        assert (world.shelves[1, 0].excused, world.shelves[1, 0].oversold) == (0, 0)
        assert not world.auditor.violations

    def test_staff_try_again_while_the_database_is_down(self, opened: Callable[..., World]) -> None:
        world = opened()
        world._set_database(True)
        world._unmap(self.window)
        pass_by(world, 10.0)
        assert not world.stores[0].unmapped

        world._set_database(False)
        pass_by(world, 10.0)

        assert world.stores[0].unmapped == {"i0-1": 0}


def test_the_kill_switch_stops_all_writes_until_it_is_off(opened: Callable[..., World]) -> None:
    world = opened()
    world._stop_writing()
    buy_both(world, 1)
    pass_by(world, 60.0)
    while_stopped = shown(world, 0)

    world._write_again()
    world.rest()

    assert while_stopped == [5, 5]
    assert shown(world, 0) == [4, 4]
    assert not world.auditor.violations


def test_a_write_that_was_throttled_may_have_been_executed(opened: Callable[..., World]) -> None:
    world = opened(faults=Faults(throttled=1.0))
    store, connector = world.stores[0], world.connectors[1]
    keys = [f"key {number}" for number in range(40)]

    def ask() -> None:
        for key in keys:
            with pytest.raises(Throttled):
                connector.write_quantities([QuantityChange("i0-1", "l0", 5, 5)], key=key, reference="")

    world.scheduler.spawn("asker", ask)
    pass_by(world, 60.0)

    assert len(connector.calls) >= len(keys)
    assert 0 < len(store.effects) < len(keys)


def test_a_token_that_expires_is_renewed_or_the_channel_waits_for_another(opened: Callable[..., World]) -> None:
    world = opened(faults=Faults(unauthorized=0.5))
    states: set[str] = set()

    for _ in range(5):
        buy_both(world, 1)
        for _ in range(60):
            pass_by(world, 1.0)
            states.add(world.books.channels[1].state)  # type: ignore[attr-defined]
    world.faults = world.wire.faults = Faults()
    pass_by(world, 60.0)

    assert states == {"active", "needs_auth"}
    assert shown(world, 0) == [0, 0]


def test_an_outage_lasts_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    healed_at: list[float] = []
    heal = World._heal

    def watched(world: World) -> None:
        healed_at.append(world.scheduler.time)
        heal(world)

    monkeypatch.setattr(World, "_heal", watched)
    world = World(replace(TWO_STORES, policy="guard", faults="light"), seed=1)
    world.drawn = replace(Faults(), outages=(Window(100.0, 600.0, 1),))

    world.run()

    assert healed_at == [simulated.OPENING_SECONDS + 700.0]
    assert not world.auditor.violations
    calls = [at for at in world.connectors[2].calls if at > 130.0]
    assert calls, "the engine asks now and then whether it is back"


@pytest.mark.parametrize("policy", ["guard", "split"])
def test_a_database_whose_clock_is_set_back_costs_no_time(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    jumps = (Jump(100.0, -1800.0), Jump(200.0, 1.0))
    monkeypatch.setattr(faults, "draw", lambda *_, **__: Faults(clock_jumps=jumps, webhook_lost=0.2))
    world = World(Setting(policy=policy, faults="light"), seed=3)

    world.run()

    assert world.clock_ahead == -1799.0
    assert not world.auditor.violations


def test_workers_know_the_clock_as_they_have_last_read_it(opened: Callable[..., World]) -> None:
    world = opened(faults=Faults(clock_jumps=(Jump(0.0, -1.0),)))
    before = world.workers_clock()
    world.clock_ahead -= 100.0

    unaware = world.workers_clock()
    pass_by(world, READ_AGAIN_SECONDS + 1.0)
    aware = world.workers_clock()

    assert unaware == before
    assert aware == world.clock() < before


def test_faults_last_until_what_was_refused_may_be_tried_again() -> None:
    drawn = Faults(refusals=(Window(50.0, 10.0, 1),), outages=(Window(20.0, 30.0, 0),))

    assert drawn.last(refused_for=900.0) == 960.0
    assert Faults().last(refused_for=900.0) == 0.0


@pytest.mark.parametrize("policy", ["shared", "split"])
def test_a_store_forgets_its_keys_and_nothing_is_written_twice(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    """A day is too long to be played. Here we trust a key for a minute, and the store knows it for as long as a request may
    be under way beyond that.
    """
    monkeypatch.setattr(push, "KEY_MEMORY", timedelta(minutes=1))
    monkeypatch.setattr(simulated, "KEYS_KEPT_SECONDS", 60.0 + DOUBTFUL.total_seconds())
    given_up = 0

    for seed in range(6):
        world = World(Setting(policy=policy), seed)
        world.run()
        given_up += sum("older than the channel remembers" in row.error for row in batches(world))
        assert not world.auditor.violations, f"seed {seed}: {world.auditor.violations[0]}"

    assert given_up > 0
