"""Scenes that every merchant fears, played in the simulator: what happened in the stores, and what the books make of it."""

from collections.abc import Callable

import pytest

from sync.simulator.scheduler import Killed, Task
from sync.simulator.stores import Article
from sync.simulator.world import POLICIES, Setting, World
from synctec.lib import failpoints

CRASH_POINTS = [point for point in failpoints.POINTS if point.startswith(("apply.", "publish.", "push.", "check."))]


class Scene:
    """A simulated merchant on whom nobody calls but the test."""

    def __init__(self, *, policy: str = "shared", stores: int = 3, units: int = 1, bundles: int = 0) -> None:
        self.world = World(
            Setting(policy=policy, faults="none", stores=stores, shoppers=2 * units, skus=1, bundles=bundles), seed=1
        )
        (self.shelf,) = self.world.shelves.values()
        assert self.shelf.initial == units
        self.world.open()

    def buy(self, at: float, store: int, units: int = 1, article: int = 0) -> list[bool]:
        """Somebody wants to buy then; the list tells afterwards whether they could."""
        outcome: list[bool] = []
        shop = self.world.stores[store]
        wanted: Article = shop.articles[article]

        def try_it() -> None:
            outcome.append(shop.buy([(wanted, f"l{store}", units)]) is not None)

        self.world.scheduler.at(self.world.scheduler.time + at, "shopper", try_it)
        return outcome

    def play(self, seconds: float = 60.0) -> None:
        """Let it happen, then come to rest and audit everything."""
        self.world.scheduler.run(self.world.scheduler.time + seconds)
        self.world.rest()
        assert not self.world.auditor.violations

    @property
    def shortage(self) -> int:
        return sum(shortage.quantity for row in self.world.books.stock.values() for shortage in row.shortages)

    def shown(self, article: int = 0) -> list[int]:
        return [
            store.counters[(store.articles[article].inventory_item_id, f"l{store.number}")]
            for store in self.world.stores
        ]


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Callable[..., Scene]:
    def make(**chosen: object) -> Scene:
        made = Scene(**chosen)  # type: ignore[arg-type]
        request.addfinalizer(made.world.close)
        return made

    return make


def test_the_last_unit_wanted_in_two_stores_within_a_millisecond(scene: Callable[..., Scene]) -> None:
    """Shared: both shops sell it, and the second sale is declared. Nobody can prevent that, and nobody hides it."""
    play = scene(units=1)

    north, south = play.buy(1.0, 0), play.buy(1.001, 1)
    play.play()

    assert (north, south) == ([True], [True])
    assert play.shelf.oversold == 1
    assert play.shortage == 1
    assert play.shown() == [0, 0, 0]


def test_the_last_unit_wanted_in_two_stores_under_split(scene: Callable[..., Scene]) -> None:
    """Split: one store has it to sell, the other never did."""
    play = scene(policy="split", units=1)

    outcomes = [play.buy(1.0 + place / 1000, place) for place in range(3)]
    play.play()

    assert sorted(outcomes) == [[False], [False], [True]]
    assert play.shelf.oversold == 0
    assert play.shortage == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_the_last_two_units_sold_at_once_in_two_stores(scene: Callable[..., Scene], policy: str) -> None:
    play = scene(policy=policy, stores=2, units=2)

    north, south = play.buy(1.0, 0), play.buy(1.0, 1)
    play.play()

    assert (north, south) == ([True], [True])
    assert play.shelf.left == 0
    assert play.shelf.oversold == 0
    assert play.shortage == 0
    assert play.shown() == [0, 0]


@pytest.mark.parametrize("policy", POLICIES)
def test_105_orders_for_100_units_in_a_minute_over_three_channels(scene: Callable[..., Scene], policy: str) -> None:
    play = scene(policy=policy, units=100)

    outcomes = [play.buy(place * 60 / 105, place % 3) for place in range(105)]
    play.play(90.0)

    sold = sum(outcome == [True] for outcome in outcomes)
    assert sold == 100 + play.shelf.oversold
    assert play.shortage == play.shelf.oversold
    if policy != "shared":
        assert play.shelf.oversold == 0


def test_40_bundles_that_share_a_component(scene: Callable[..., Scene]) -> None:
    """One unit of the component sold on its own changes what 40 bundles in every store may show."""
    play = scene(units=80, bundles=40)
    before = [play.shown(article) for article in range(41)]

    bought = play.buy(1.0, 0)
    play.play()

    assert bought == [True]
    for article, shown in enumerate(before):
        recipe = play.world.recipes[article + 1]
        assert shown == [80 // recipe[1]] * 3
        assert play.shown(article) == [79 // recipe[1]] * 3


def test_a_worker_dies_with_the_lock_in_its_hands(scene: Callable[..., Scene]) -> None:
    """Its lock runs out by itself; others wait no longer than that."""
    play = scene(units=5)
    died_at: list[float] = []

    def die_holding() -> None:
        with play.world.try_lock(["sku:1"]):
            died_at.append(play.world.scheduler.time)
            raise Killed

    play.world.scheduler.spawn("victim", die_holding)
    play.buy(1.0, 0)
    play.world.scheduler.run(play.world.scheduler.time + 5.0)
    stuck = play.world.books.stock[1].committed
    play.play(60.0)

    assert died_at
    assert stuck == 0
    assert play.world.books.stock[1].committed == 1
    assert play.shown() == [4, 4, 4]


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_worker_dies_at_every_point_of_the_way_of_a_sale(scene: Callable[..., Scene], point: str) -> None:
    """Once at each failpoint on the way of a sale, and of a change by hand: everything comes right all the same."""
    play = scene(units=9)
    died: list[str] = []

    def die_once(passed: str) -> None:
        task: Task | None = play.world.scheduler.running
        if passed == point and not died and task is not None:
            died.append(passed)
            raise Killed

    failpoints.handler = die_once
    if point == "push.before_unknown_commit":
        play.world.silence_next_write()
    play.buy(1.0, 0)
    store = play.world.stores[1]
    play.world.scheduler.at(
        play.world.scheduler.time + (1.2 if point.endswith("stale_before_commit") else 20.0),
        "merchant",
        lambda: store.edit_by_hand((store.articles[0].inventory_item_id, "l1"), -1),
    )
    play.play(120.0)

    assert died == [point]
    assert play.shown() == [7, 7, 7]
    assert play.world.books.stock[1].available == 7
