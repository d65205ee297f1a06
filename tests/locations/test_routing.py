from hypothesis import given
from hypothesis import strategies as st

from locations.routing import release, route


def test_the_first_warehouse_that_has_it_all_gets_the_sale() -> None:
    assert route(3, [1, 2], {1: 2, 2: 5}) == {2: 3}


def test_a_sale_that_no_warehouse_can_serve_alone_is_split_in_order() -> None:
    assert route(6, [1, 2], {1: 2, 2: 5}) == {1: 2, 2: 4}


def test_what_nobody_has_is_taken_from_the_first_warehouse() -> None:
    assert route(9, [1, 2], {1: 2, 2: 5}) == {1: 4, 2: 5}


def test_units_go_back_to_the_warehouse_of_least_priority_first() -> None:
    assert release(3, {1: 2, 2: 2}, [1, 2]) == {2: 2, 1: 1}


@given(
    st.integers(1, 50),
    st.lists(st.integers(-10, 30), min_size=1, max_size=5),
)
def test_routing_takes_exactly_the_units_sold(units: int, available: list[int]) -> None:
    warehouses = list(range(len(available)))

    taken = route(units, warehouses, dict(enumerate(available)))

    assert sum(taken.values()) == units
    assert all(share > 0 for share in taken.values())
    assert all(share <= max(0, available[w]) for w, share in taken.items() if w != 0)
    assert release(units, taken, warehouses) == taken
