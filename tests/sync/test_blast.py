"""Which runs are big, and what a level shows while its change is held."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.blast import Kind, Run, Terms, held_number, is_big, kind_of, restored_number, unexplained

UNITS = st.integers(0, 200)


@pytest.mark.parametrize(
    ("shown", "wished", "kind"),
    [
        (10, 0, Kind.ZERO),
        (10, 4, Kind.MUCH),
        (10, 5, None),
        (10, 16, Kind.MUCH),
        (10, 15, None),
        (1, 0, Kind.ZERO),
        (0, 500, None),
        (-2, 0, None),
        (7, 7, None),
    ],
)
def test_a_change_is_big_when_it_takes_off_sale_or_is_more_than_half(
    shown: int, wished: int, kind: Kind | None
) -> None:
    assert kind_of(shown, wished) is kind


@pytest.mark.parametrize(
    ("shown", "wished", "sold", "kind"),
    [
        (10, 0, 10, None),
        (10, 0, 5, None),
        (10, 0, 4, Kind.ZERO),
        (10, 0, 0, Kind.ZERO),
        (10, 20, -10, None),
        (10, 20, 0, Kind.MUCH),
        (10, 0, -5, Kind.ZERO),
    ],
)
def test_sales_explain_a_change_when_the_rest_is_not_big(shown: int, wished: int, sold: int, kind: Kind | None) -> None:
    assert unexplained(shown, wished, sold) is kind


@pytest.mark.parametrize(
    ("run", "is_held"),
    [
        (Run(20, 20, 100), False),
        (Run(21, 21, 100), True),
        (Run(19, 19, 20), False),
        (Run(0, 50, 100), False),
        (Run(0, 51, 100), True),
        (Run(20, 20, 99), True),
        (Run(0, 0, 0), False),
    ],
)
def test_a_run_is_held_beyond_its_share_and_never_below_so_many_levels(run: Run, is_held: bool) -> None:
    assert is_big(run, Terms(20, 20, 50)) is is_held


@given(first=UNITS, sold=st.integers(-20, 220), wished=UNITS, current=UNITS)
def test_no_sold_unit_stays_for_sale_because_of_a_hold(first: int, sold: int, wished: int, current: int) -> None:
    number = held_number(first=first, sold=sold, wished=wished, current=current)

    assert number is not None
    assert 0 <= number <= current
    assert number <= max(wished, first - max(0, sold)) or number == 0
    if wished > first:
        assert number <= max(0, first - max(0, sold))


@given(first=UNITS, sales=st.lists(st.integers(0, 30), max_size=10), wished=UNITS)
def test_a_held_number_only_falls_whatever_is_sold_in_whichever_steps(
    first: int, sales: list[int], wished: int
) -> None:
    shown: list[int] = [first]
    for count in range(len(sales) + 1):
        number = held_number(first=first, sold=sum(sales[:count]), wished=wished, current=shown[-1])
        assert number is not None
        shown.append(number)

    assert shown == sorted(shown, reverse=True)
    # In one step or in many: the same.
    assert shown[-1] == held_number(first=first, sold=sum(sales), wished=wished, current=first)


@given(first=st.integers(1, 200), wished=UNITS)
def test_a_level_that_was_told_nothing_is_told_something_only_once_units_are_sold(first: int, wished: int) -> None:
    assert held_number(first=first, sold=0, wished=wished, current=None) is None
    assert held_number(first=first, sold=first, wished=0, current=None) == 0


@given(first=UNITS, sold=UNITS, wished=st.none() | UNITS)
def test_a_restored_level_never_shows_what_was_sold_nor_more_than_its_share(
    first: int, sold: int, wished: int | None
) -> None:
    assert restored_number(first=first, sold=sold, wished=wished, is_divided=False) == max(0, first - sold)
    assert restored_number(first=first, sold=sold, wished=wished, is_divided=True) <= (wished or 0)


@given(
    changes=st.lists(st.tuples(st.integers(1, 50), UNITS), min_size=1, max_size=60),
    terms=st.builds(Terms, st.integers(1, 30), st.integers(0, 100), st.integers(0, 100)),
)
def test_what_is_measured_does_not_depend_on_how_the_run_was_cut(changes: list[tuple[int, int]], terms: Terms) -> None:
    kinds = [kind for shown, wished in changes if (kind := unexplained(shown, wished, 0)) is not None]
    whole = Run(kinds.count(Kind.ZERO), len(kinds), len(changes))

    # More of the same can only make it bigger: a run that is big at some point stays big until somebody decides.
    grown = [is_big(Run(kinds[:n].count(Kind.ZERO), n, len(changes)), terms) for n in range(len(kinds) + 1)]
    assert grown == sorted(grown)
    assert grown[-1] is is_big(whole, terms)
