"""Policies: what is split is never promised twice, whatever is delayed, lost or out of reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from locations.publishing import Numbers, Policy, Pool, Rule, Shelf, Terms, numbers

MUG, SAUCER, SET = 1, 2, 3
MAIN, BARN, ATTIC = 10, 20, 30
SPLIT = Terms(Policy.SPLIT)


def mugs(*ceilings: int, **fields: object) -> list[Shelf]:
    """Stores that show mugs of the main warehouse."""
    return [Shelf(key, {MUG: 1}, (MAIN,), ceiling, **fields) for key, ceiling in enumerate(ceilings)]  # type: ignore[arg-type]


def shown(shelves: Sequence[Shelf], available: int, terms: Terms = SPLIT) -> list[int]:
    """What they show of so many mugs."""
    return list(numbers(shelves, {(MUG, MAIN): available}, terms).shown.values())


def confirmed(shelves: Sequence[Shelf], told: Numbers) -> list[Shelf]:
    """The stores once every number has reached those that can be reached."""
    return [
        replace(shelf, ceiling=told.shown[shelf.key]) if shelf.silent_for is None else shelf for shelf in shelves
    ]


def test_shared_shows_everything_everywhere() -> None:
    assert shown(mugs(0, 7, 3), 7, Terms(Policy.SHARED)) == [7, 7, 7]


def test_split_lowers_first_and_raises_what_is_free() -> None:
    assert shown(mugs(9, 9, 9), 9) == [3, 3, 3]
    assert shown(mugs(9, 0, 0), 9) == [3, 0, 0]
    assert shown(mugs(3, 0, 0), 9) == [3, 3, 3]


def test_an_empty_store_gets_units_only_once_another_has_confirmed_that_it_gave_them() -> None:
    assert shown(mugs(6, 2, 0), 8) == [4, 2, 0]
    assert shown(mugs(4, 2, 0), 8) == [4, 2, 2]
