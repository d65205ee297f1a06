from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from locations.publishing import Rule, buffer_of, most_specific, published


def test_without_a_rule_everything_available_is_shown() -> None:
    assert published(7, Rule()) == 7


def test_nothing_below_zero_is_shown() -> None:
    assert published(-3, Rule()) == 0


def test_a_percentage_is_rounded_up_and_comes_on_top_of_units() -> None:
    assert buffer_of(11, Rule(buffer_units=2, buffer_percent=Decimal(10))) == 4


def test_less_than_the_floor_is_shown_as_nothing() -> None:
    assert published(4, Rule(buffer_units=2, floor=3)) == 0
    assert published(5, Rule(buffer_units=2, floor=3)) == 3


def test_never_more_than_the_cap_is_shown() -> None:
    assert published(500, Rule(cap=20)) == 20


def test_each_field_is_taken_from_the_most_specific_rule_that_sets_it() -> None:
    listing = Rule(buffer_units=0)
    channel = Rule(buffer_units=5, cap=50)

    assert most_specific([listing, None, channel]) == Rule(buffer_units=0, cap=50)


@given(
    st.integers(-100, 10_000),
    st.integers(0, 100),
    st.decimals(0, 100, places=2),
    st.none() | st.integers(0, 500),
    st.none() | st.integers(0, 50),
)
def test_what_is_shown_is_never_more_than_what_is_available(
    available: int, units: int, percent: Decimal, cap: int | None, floor: int | None
) -> None:
    shown = published(available, Rule(units, percent, cap, floor))

    assert 0 <= shown <= max(0, available)
    assert cap is None or shown <= cap
    assert floor is None or shown == 0 or shown >= floor
