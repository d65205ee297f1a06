"""Policies: what is split is never promised twice, whatever is delayed, lost or out of reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from locations.publishing import Numbers, Policy, Pool, Rule, Shelf, Terms, numbers

MUG, SAUCER, SET = 1, 2, 3
MAIN, BARN, ATTIC = 10, 20, 30
SPLIT = Terms(Policy.SPLIT)

#: Scenes are large, and are settled step by step; a busy machine takes its time to draw them.
SCENES = settings(max_examples=settings().max_examples // 10, suppress_health_check=[HealthCheck.too_slow])


def mugs(*ceilings: int, **fields: object) -> list[Shelf]:
    """Stores that show mugs of the main warehouse."""
    return [Shelf(key, {MUG: 1}, (MAIN,), ceiling, **fields) for key, ceiling in enumerate(ceilings)]  # type: ignore[arg-type]


def shown(shelves: Sequence[Shelf], available: int, terms: Terms = SPLIT) -> list[int]:
    """What they show of so many mugs."""
    return list(numbers(shelves, {(MUG, MAIN): available}, terms).shown.values())


def confirmed(shelves: Sequence[Shelf], told: Numbers) -> list[Shelf]:
    """The stores once every number has reached those that can be reached."""
    return [shelf._replace(ceiling=told.shown[shelf.key]) if shelf.silent_for is None else shelf for shelf in shelves]


def test_shared_shows_everything_everywhere() -> None:
    assert shown(mugs(0, 7, 3), 7, Terms(Policy.SHARED)) == [7, 7, 7]


def test_split_lowers_first_and_raises_what_is_free() -> None:
    assert shown(mugs(9, 9, 9), 9) == [3, 3, 3]
    assert shown(mugs(9, 0, 0), 9) == [3, 0, 0]
    assert shown(mugs(3, 0, 0), 9) == [3, 3, 3]


def test_an_empty_store_gets_units_only_once_another_has_confirmed_that_it_gave_them() -> None:
    assert shown(mugs(6, 2, 0), 8) == [4, 2, 0]
    assert shown(mugs(4, 2, 0), 8) == [4, 2, 2]


def test_a_store_with_half_its_share_is_given_more_if_that_is_soon_sold_out() -> None:
    """Of ten mugs each of two stores has a share of five. Moving units costs two calls, so it must pay."""

    def other_lowers_to(held: int, sold_out_in_seconds: float) -> int:
        poor = mugs(held, velocity=held / sold_out_in_seconds)[0]
        rich = mugs(0, 10 - held)[1]
        return shown([poor, rich], 10, replace(SPLIT, cover_seconds=900))[1]

    assert other_lowers_to(2, 899) == 5
    assert other_lowers_to(2, 901) == 8, "what it has lasts for long enough"
    assert other_lowers_to(3, 1) == 7, "it has more than half its share"


def test_an_empty_store_is_given_units_however_seldom_it_sells() -> None:
    assert shown(mugs(0, 10), 10, replace(SPLIT, cover_seconds=0)) == [0, 5]


def test_a_store_that_cannot_be_reached_keeps_what_it_shows() -> None:
    silent = mugs(5, silent_for=60.0)
    assert shown([*silent, *mugs(0, 0, 0)[1:]], 9) == [5, 2, 2]


def test_guard_divides_what_is_scarce_and_waits_before_it_shares_again() -> None:
    guard = Terms(Policy.GUARD, {MUG: 6}, slack=3)

    assert shown(mugs(7, 7), 7, guard) == [7, 7]
    assert shown(mugs(6, 6), 6, guard) == [3, 3]
    assert shown(mugs(3, 3), 9, guard) == [5, 4]
    assert shown(mugs(5, 4), 10, guard) == [10, 10]


def test_guard_sets_aside_what_an_unreachable_store_may_have_sold() -> None:
    def told(available: int, silent_for: float | None) -> list[int]:
        stores = mugs(30, 30, velocity=0.01)
        stores[0] = stores[0]._replace(silent_for=silent_for)
        return shown(stores, available, Terms(Policy.GUARD, {MUG: 6}))

    assert told(30, None) == [30, 30]
    assert 20 <= told(30, 60.0)[1] < 30
    assert told(30, 600.0)[1] < told(30, 60.0)[1]
    assert told(6, 60.0)[1] == 0


def test_guard_judges_what_each_store_can_draw_on() -> None:
    stores = [Shelf(0, {MUG: 1}, (MAIN,), 0), Shelf(1, {MUG: 1}, (MAIN,), 0), Shelf(2, {MUG: 1}, (MAIN, BARN), 0)]

    told = numbers(stores, {(MUG, MAIN): 4, (MUG, BARN): 50}, Terms(Policy.GUARD, {MUG: 6}))

    assert told.shown == {0: 2, 1: 2, 2: 50}
    assert told.quotas == {(MUG, MAIN): 0, (MUG, BARN): None}


def test_a_bundle_claims_its_parts_and_the_parts_of_others() -> None:
    stores = [Shelf(0, {MUG: 1}, (MAIN,), 0), Shelf(1, {MUG: 1, SAUCER: 2}, (MAIN,), 0)]

    assert numbers(stores, {(MUG, MAIN): 6, (SAUCER, MAIN): 40}, SPLIT).shown == {0: 3, 1: 3}
    assert numbers(stores, {(MUG, MAIN): 6, (SAUCER, MAIN): 3}, SPLIT).shown == {0: 5, 1: 1}


def test_what_a_cap_or_a_floor_leaves_over_goes_to_the_others() -> None:
    stores = mugs(0, 0, 0)

    assert shown([stores[0]._replace(rule=Rule(cap=1)), *stores[1:]], 9) == [1, 4, 4]
    assert shown([stores[0]._replace(rule=Rule(floor=4)), *stores[1:]], 9) == [0, 5, 4]


def test_holds_get_their_share_or_what_no_store_shows() -> None:
    pool = {(MUG, MAIN): 8}

    weighing = replace(SPLIT, holds_weight=2.0)
    assert numbers(mugs(0, 0), pool, weighing) == Numbers({0: 2, 1: 2}, {(MUG, MAIN): 4})
    assert numbers(mugs(8, 0), pool, weighing) == Numbers({0: 2, 1: 0}, {(MUG, MAIN): 0})
    assert numbers(mugs(0, 0), pool, SPLIT).quotas == {(MUG, MAIN): 0}
    assert numbers(mugs(0, 0, rule=Rule(cap=3)), pool, SPLIT).quotas == {(MUG, MAIN): 2}
    assert numbers(mugs(0, 0), pool, replace(weighing, policy=Policy.SHARED)).quotas == {(MUG, MAIN): None}


def test_units_do_not_wander_for_the_sake_of_rounding() -> None:
    assert shown(mugs(4, 2, 3), 9) == [4, 2, 3]
    assert shown(mugs(2, 1, 1, weight=1.0), 4) == [2, 1, 1]


RECIPES: list[Mapping[int, int]] = [{MUG: 1}, {SAUCER: 1}, {MUG: 1, SAUCER: 2}, {MUG: 2}]
RULES = st.builds(
    Rule,
    buffer_units=st.none() | st.integers(0, 3),
    cap=st.none() | st.integers(0, 6),
    floor=st.none() | st.integers(0, 4),
)


@st.composite
def scenes(draw: st.DrawFn, *, silent: bool = True) -> tuple[list[Shelf], Pool, Terms]:
    """Some stores with mugs, saucers, and bundles of them, that draw on some of three warehouses, in any state."""
    places = st.lists(st.sampled_from([MAIN, BARN, ATTIC]), min_size=1, max_size=3, unique=True)
    count = draw(st.integers(1, 6))
    shelves = [
        Shelf(
            key=key,
            parts=draw(st.sampled_from(RECIPES)),
            warehouses=tuple(draw(places)),
            ceiling=draw(st.integers(0, 12)),
            rule=draw(st.just(Rule()) | RULES),
            weight=draw(st.sampled_from([1.0, 1.0, 0.0]) | st.floats(0.01, 5)),
            velocity=draw(st.sampled_from([0.0, 0.001, 0.1])),
            silent_for=draw(st.sampled_from([None, None, 60.0])) if silent else None,
            can_raise=draw(st.sampled_from([True, True, False])) if silent else True,
        )
        for key in range(count)
    ]
    cells = [(sku, warehouse) for sku in (MUG, SAUCER) for warehouse in (MAIN, BARN, ATTIC)]
    pool = {cell: draw(st.integers(-3, 12)) for cell in cells}
    terms = Terms(
        Policy.SPLIT,
        allows_split_shipment=draw(st.booleans()),
        holds_weight=draw(st.sampled_from([0.0, 1.0])),
        quotas=draw(st.dictionaries(st.sampled_from(cells), st.integers(0, 5))),
    )
    return shelves, pool, terms


def hang_together(shelves: Sequence[Shelf]) -> bool:
    """Whether one can go from each to each through warehouses that both draw on."""
    reached, rest = set(shelves[0].warehouses), list(shelves[1:])
    while near := [shelf for shelf in rest if not reached.isdisjoint(shelf.warehouses)]:
        reached.update(*(shelf.warehouses for shelf in near))
        rest = [shelf for shelf in rest if shelf not in near]
    return not rest


def groups(shelves: Sequence[Shelf]) -> Iterable[Sequence[Shelf]]:
    return chain.from_iterable(combinations(shelves, size) for size in range(1, len(shelves) + 1))


@SCENES
@given(scenes())
def test_nothing_is_promised_twice_whichever_numbers_have_arrived(scene: tuple[list[Shelf], Pool, Terms]) -> None:
    shelves, pool, terms = scene

    told = numbers(shelves, pool, terms)

    for sku in (MUG, SAUCER):
        sellers = [shelf for shelf in shelves if sku in shelf.parts]
        for some in filter(hang_together, groups(sellers)):
            warehouses = set(chain.from_iterable(shelf.warehouses for shelf in some))
            available = sum(pool[sku, warehouse] for warehouse in warehouses)
            before = sum(shelf.parts[sku] * shelf.ceiling for shelf in some)
            # The worst: every raise has arrived, and no lower has.
            after = sum(shelf.parts[sku] * max(shelf.ceiling, told.shown[shelf.key]) for shelf in some)
            quotas = sum(told.quotas[sku, warehouse] or 0 for warehouse in warehouses)
            assert after + quotas <= max(available, before, 0)


@SCENES
@given(scenes())
def test_what_is_told_is_within_the_rule_and_what_is_silent_is_not_raised(
    scene: tuple[list[Shelf], Pool, Terms],
) -> None:
    shelves, pool, terms = scene
    alone = numbers(shelves, pool, replace(terms, policy=Policy.SHARED)).shown

    told = numbers(shelves, pool, terms)

    for shelf in shelves:
        number = told.shown[shelf.key]
        assert 0 <= number <= alone[shelf.key]
        assert number == 0 or number >= (shelf.rule.floor or 0)
        if shelf.silent_for is not None or not shelf.can_raise:
            assert number <= shelf.ceiling
    assert all(quota is not None and quota >= 0 for quota in told.quotas.values())


def settle(shelves: list[Shelf], pool: Pool, terms: Terms) -> tuple[list[Shelf], Terms]:
    """Publish and confirm until nothing changes any more."""
    for _ in range(4 * len(shelves) + 4):
        told = numbers(shelves, pool, terms)
        quotas = {cell: quota for cell, quota in told.quotas.items() if quota is not None}
        after = confirmed(shelves, told)
        if after == shelves and quotas == terms.quotas:
            return shelves, terms
        shelves, terms = after, replace(terms, quotas=quotas)
    raise AssertionError("the numbers do not come to rest")


@SCENES
@given(scenes(silent=False))
def test_without_news_the_numbers_come_to_rest_within_what_is_available(
    scene: tuple[list[Shelf], Pool, Terms],
) -> None:
    shelves, pool, terms = scene

    shelves, terms = settle(shelves, pool, terms)

    for sku in (MUG, SAUCER):
        sellers = [shelf for shelf in shelves if sku in shelf.parts]
        for some in filter(hang_together, groups(sellers)):
            warehouses = set(chain.from_iterable(shelf.warehouses for shelf in some))
            available = sum(pool[sku, warehouse] for warehouse in warehouses)
            assert sum(shelf.parts[sku] * shelf.ceiling for shelf in some) <= max(0, available)


@SCENES
@given(scenes(silent=False))
def test_not_all_stores_are_left_with_nothing(scene: tuple[list[Shelf], Pool, Terms]) -> None:
    shelves, pool, terms = scene
    pool = {cell: max(0, units) for cell, units in pool.items()}
    terms = replace(terms, holds_weight=0.0)

    shelves, terms = settle(shelves, pool, terms)

    for shelf in shelves:
        alone = numbers([shelf._replace(ceiling=0)], pool, terms).shown[shelf.key]
        rivals = [other for other in shelves if other.parts.keys() & shelf.parts.keys()]
        if alone:
            assert any(rival.ceiling for rival in rivals)


@given(st.integers(0, 500), st.integers(1, 12), st.lists(st.integers(0, 60), min_size=12, max_size=12))
def test_equal_weights_get_equal_shares(available: int, stores: int, ceilings: list[int]) -> None:
    from_nothing = shown(mugs(*[0] * stores), available)
    settled, _ = settle(mugs(*ceilings[:stores]), {(MUG, MAIN): available}, SPLIT)

    assert sum(from_nothing) == available
    assert max(from_nothing) - min(from_nothing) <= 1
    assert sum(shelf.ceiling for shelf in settled) == available


class Trade(RuleBasedStateMachine):
    """Stores that sell as fast as they can, and a publisher that learns of it late, in any order, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.shelves = [
            Shelf(0, {MUG: 1}, (MAIN,), 0),
            Shelf(1, {MUG: 1}, (MAIN, BARN), 0),
            Shelf(2, {MUG: 1, SAUCER: 2}, (MAIN, BARN), 0),
            Shelf(3, {SAUCER: 1}, (BARN,), 0),
        ]
        self.terms = replace(SPLIT, holds_weight=0.5, quotas={})
        self.pool = {(sku, warehouse): 4 for sku in (MUG, SAUCER) for warehouse in (MAIN, BARN)}
        self.stock = {MUG: 8, SAUCER: 8}  # the truth
        self.counters = [0, 0, 0, 0]  # what the stores really show
        self.models = [0, 0, 0, 0]  # what they must show as far as we know
        self.pushes: dict[int, tuple[int, int, bool | None]] = {}  # store -> (from, to, whether it took effect)
        self.news: list[tuple[int, int]] = []  # (store, units sold) not learnt of yet
        self.told = dict.fromkeys(range(4), 0)
        self.silent = {0: False, 1: False, 2: False, 3: False}
        self.publish()

    def seen(self) -> list[Shelf]:
        return [
            shelf._replace(
                ceiling=max(0, self.models[shelf.key] + self.risen(shelf.key)),
                silent_for=30.0 if self.silent[shelf.key] else None,
            )
            for shelf in self.shelves
        ]

    def risen(self, store: int) -> int:
        """By how much a write under way may have raised the store: units that sell meanwhile move what it starts from."""
        before, after, _ = self.pushes.get(store, (0, 0, None))
        return max(0, after - before)

    @rule()
    def publish(self) -> None:
        told = numbers(self.seen(), self.pool, self.terms)
        self.told = told.shown
        quotas = {cell: quota for cell, quota in told.quotas.items() if quota is not None}
        self.terms = replace(self.terms, quotas=quotas)

    @rule(store=st.integers(0, 3), wanted=st.integers(1, 4))
    def sell(self, store: int, wanted: int) -> None:
        sold = min(wanted, self.counters[store])
        if sold > 0:
            self.counters[store] -= sold
            for sku, units in self.shelves[store].parts.items():
                self.stock[sku] -= units * sold
            self.news.append((store, sold))

    @rule(store=st.integers(0, 3))
    def take_back(self, store: int) -> None:
        self.counters[store] += 1
        for sku, units in self.shelves[store].parts.items():
            self.stock[sku] += units
        self.news.append((store, -1))

    @precondition(lambda self: self.news)
    @rule(data=st.data())
    def learn(self, data: st.DataObject) -> None:
        store, sold = self.news.pop(data.draw(st.integers(0, len(self.news) - 1)))
        self.models[store] -= sold
        warehouse = data.draw(st.sampled_from(self.shelves[store].warehouses))
        for sku, units in self.shelves[store].parts.items():
            self.pool[sku, warehouse] -= sold * units

    @rule()
    def send(self) -> None:
        """Commit the intentions to set stores from what they must show to what they were told."""
        for store, number in self.told.items():
            if store not in self.pushes and number != self.models[store]:
                self.pushes[store] = (self.models[store], number, None)

    @rule(store=st.integers(0, 3))
    def arrive(self, store: int) -> None:
        """The request reaches the store: compare and set."""
        if store in self.pushes and not self.silent[store] and self.pushes[store][2] is None:
            before, after, _ = self.pushes[store]
            is_current = self.counters[store] == before
            if is_current:
                self.counters[store] = after
            self.pushes[store] = (before, after, is_current)

    @rule(store=st.integers(0, 3), is_lost=st.booleans())
    def confirm(self, store: int, is_lost: bool) -> None:
        """The outcome is learnt. A request that never arrived is known, in the end, to have done nothing."""
        if store in self.pushes and not self.silent[store] and (self.pushes[store][2] is not None or is_lost):
            before, after, took_effect = self.pushes.pop(store)
            if took_effect:
                self.models[store] += after - before

    @rule(store=st.integers(0, 3))
    def lose_or_find(self, store: int) -> None:
        self.silent[store] = not self.silent[store]

    @rule(cell=st.sampled_from([(MUG, MAIN), (MUG, BARN), (SAUCER, MAIN), (SAUCER, BARN)]), units=st.integers(1, 3))
    def hold(self, cell: tuple[int, int], units: int) -> None:
        quota = self.terms.quotas.get(cell, 0)
        if units <= quota:
            self.terms = replace(self.terms, quotas={**self.terms.quotas, cell: quota - units})
            self.pool[cell] -= units
            self.stock[cell[0]] -= units

    @rule(cell=st.sampled_from([(MUG, MAIN), (SAUCER, BARN)]), units=st.integers(1, 4))
    def receive(self, cell: tuple[int, int], units: int) -> None:
        self.pool[cell] += units
        self.stock[cell[0]] += units

    @invariant()
    def nothing_is_sold_that_is_not_there(self) -> None:
        for sku, units in self.stock.items():
            for_sale = sum(
                shelf.parts.get(sku, 0) * counter for shelf, counter in zip(self.shelves, self.counters, strict=True)
            )
            quotas = sum(quota for (held, _), quota in self.terms.quotas.items() if held == sku)
            assert for_sale + quotas <= units


TestTrade = Trade.TestCase
# An example is a whole day of trade.
TestTrade.settings = settings(max_examples=settings().max_examples // 20, stateful_step_count=50)
