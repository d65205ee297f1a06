"""Where a line's units are, however what it takes goes up and down."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locations.routing import route
from sync.spread import Share, spread

FULL = partial(route, warehouses=(1, 2), available={1: 3, 2: 9})


@pytest.mark.parametrize(
    ("wanted", "shares", "ends"),
    [
        (Share(2), {}, {1: Share(2)}),
        (Share(5), {}, {2: Share(5)}),
        (Share(1, 2), {}, {1: Share(1, 2)}),
        (Share(0, 2), {2: Share(2)}, {2: Share(0, 2)}),
        (Share(1, 2), {1: Share(2), 2: Share(1)}, {1: Share(0, 2), 2: Share(1)}),
        (Share(2, 0), {2: Share(0, 2)}, {2: Share(2)}),
        (Share(2), {1: Share(2), 2: Share(1)}, {1: Share(2), 2: Share()}),
        (Share(0, 1), {2: Share(0, 3)}, {2: Share(0, 1)}),
        (Share(0, -1), {}, {1: Share(0, -1)}),
        (Share(1, 1), {9: Share(1, 1)}, {9: Share(1, 1)}),
    ],
    ids=[
        "a sale goes to the first that has it",
        "or to the next",
        "told only after a part of it was shipped",
        "shipped from where it was taken",
        "shipped from the first of several",
        "the shipment was taken back",
        "a part is put back where it was taken last",
        "a return goes back to where it came from",
        "a unit that was never taken comes back to the first",
        "what does not change stays, mapped or not",
    ],
)
def test_units_stay_where_they_are_as_long_as_they_can(
    wanted: Share, shares: dict[int, Share], ends: dict[int, Share]
) -> None:
    assert spread(wanted, shares, (1, 2), FULL) == ends


wishes = st.builds(Share, st.integers(0, 9), st.integers(-3, 9))
stocks = st.tuples(st.integers(-4, 9), st.integers(-4, 9), st.integers(-4, 9))


@given(st.lists(st.tuples(wishes, stocks, st.permutations([1, 2, 3])), min_size=1, max_size=6))
def test_the_shares_always_add_up_and_end_at_nothing(
    steps: list[tuple[Share, tuple[int, int, int], list[int]]],
) -> None:
    shares: dict[int, Share] = {}
    for wanted, stock, warehouses in steps:
        take = partial(route, warehouses=warehouses, available=dict(zip((1, 2, 3), stock, strict=True)))
        before, shares = shares, spread(wanted, shares, warehouses, take)

        assert sum(share.committed for share in shares.values()) == wanted.committed
        assert sum(share.gone for share in shares.values()) == wanted.gone
        assert all(share.committed >= 0 for share in shares.values())
        assert before.keys() <= shares.keys()
        assert spread(wanted, shares, warehouses, take) == shares

    ended = spread(Share(), shares, [1, 2, 3], FULL)
    assert sum(share.committed for share in ended.values()) == sum(share.gone for share in ended.values()) == 0
