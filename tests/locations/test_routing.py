from hypothesis import given
from hypothesis import strategies as st

from locations.routing import Routing, in_use, ranked, release, route

stocks = st.lists(st.integers(-10, 30), min_size=1, max_size=5).map(lambda units: dict(enumerate(units)))


def test_the_first_warehouse_that_has_it_all_gets_the_sale() -> None:
    assert route(3, [1, 2], {1: 2, 2: 5}) == {2: 3}


def test_a_sale_that_no_warehouse_can_serve_alone_is_split_in_order() -> None:
    assert route(6, [1, 2], {1: 2, 2: 5}) == {1: 2, 2: 4}


def test_what_nobody_has_is_taken_from_the_first_warehouse() -> None:
    assert route(9, [1, 2], {1: 2, 2: 5}) == {1: 4, 2: 5}


def test_only_warehouses_that_are_switched_on_are_drawn_on() -> None:
    assert in_use([(1, False), (2, True), (3, True)]) == (2, 3)


def test_where_all_warehouses_are_switched_off_what_is_sold_leaves_them_all_the_same() -> None:
    assert in_use([(1, False), (2, False)]) == (1, 2)
    assert in_use([]) == ()


def test_by_priority_the_matrix_decides_and_by_stock_the_fullest_warehouse() -> None:
    available = {1: 2, 2: 5, 3: 5}

    assert list(ranked([1, 2, 3], available, Routing.PRIORITY)) == [1, 2, 3]
    assert list(ranked([1, 2, 3], available, Routing.MOST_STOCK)) == [2, 3, 1]
    assert list(ranked([3, 2, 1], available, Routing.MOST_STOCK)) == [3, 2, 1], "equals by priority"


def test_units_go_back_to_the_warehouse_of_least_priority_first() -> None:
    assert release(3, {1: 2, 2: 2}, [1, 2]) == {2: 2, 1: 1}


def test_units_go_back_first_to_a_warehouse_that_is_no_longer_drawn_on() -> None:
    assert release(3, {9: 1, 1: 2, 2: 2}, [1, 2]) == {9: 1, 2: 2}


@given(st.integers(1, 50), stocks, st.sampled_from(Routing))
def test_routing_takes_exactly_the_units_sold_and_releasing_undoes_it(
    units: int, available: dict[int, int], rule: Routing
) -> None:
    warehouses = ranked(list(available), available, rule)

    taken = route(units, warehouses, available)

    assert sum(taken.values()) == units
    assert all(share > 0 for share in taken.values())
    assert all(share <= max(0, available[w]) for w, share in taken.items() if w != warehouses[0])
    assert release(units, taken, warehouses) == taken


@given(st.integers(1, 50), stocks, st.sampled_from(Routing))
def test_only_what_nobody_has_becomes_a_shortage(units: int, available: dict[int, int], rule: Routing) -> None:
    taken = route(units, ranked(list(available), available, rule), available)

    there = sum(max(0, stock) for stock in available.values())
    short = sum(max(0, share - max(0, available[warehouse])) for warehouse, share in taken.items())

    assert short == max(0, units - there)


@given(st.integers(0, 60), stocks, st.lists(st.integers(0, 6), unique=True))
def test_releasing_gives_back_what_is_asked_as_far_as_it_is_there(
    units: int, taken: dict[int, int], warehouses: list[int]
) -> None:
    given_back = release(units, taken, warehouses)

    assert sum(given_back.values()) == min(units, sum(max(0, share) for share in taken.values()))
    assert all(0 < share <= taken[warehouse] for warehouse, share in given_back.items())
