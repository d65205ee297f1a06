"""Which warehouses a hold takes its units from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inventory.allotment import allot, most

SKUS, WAREHOUSES = (1, 2, 3), (10, 20, 30)
shelves = st.dictionaries(st.tuples(st.sampled_from(SKUS), st.sampled_from(WAREHOUSES)), st.integers(-3, 12))
recipes = st.dictionaries(st.sampled_from(SKUS), st.integers(1, 3), min_size=1)


@given(recipes, st.integers(1, 8), shelves, st.permutations(WAREHOUSES), st.booleans(), st.booleans())
def test_exactly_what_is_needed_is_taken_and_only_what_is_free(
    parts: dict[int, int],
    quantity: int,
    free: dict[tuple[int, int], int],
    order: list[int],
    is_ordered: bool,
    may_split: bool,
) -> None:
    taken = allot(parts, quantity, free, order, is_ordered=is_ordered, may_split=may_split)

    assert (taken is not None) == (quantity <= most(parts, free, order, may_split=may_split))
    if taken is not None:
        assert all(0 < units <= free[place] for place, units in taken.items())
        for sku, units in parts.items():
            assert sum(some for (part, _), some in taken.items() if part == sku) == units * quantity
        if not may_split:
            assert len({warehouse for _, warehouse in taken}) == 1


def test_the_callers_order_counts_before_the_most_units() -> None:
    free = {(1, 10): 5, (1, 20): 9}

    assert allot({1: 1}, 2, free, [10, 20], is_ordered=True, may_split=False) == {(1, 10): 2}
    assert allot({1: 1}, 2, free, [10, 20], is_ordered=False, may_split=False) == {(1, 20): 2}
    assert allot({1: 1}, 12, free, [10, 20], is_ordered=True, may_split=True) == {(1, 10): 5, (1, 20): 7}
