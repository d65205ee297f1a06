import pytest

from inventory.bom import bundles_available, explode, find_cycle, longest_way


def test_a_plain_sku_is_its_own_component() -> None:
    assert explode(7, {}) == {7: 1}


def test_exploding_multiplies_through_all_levels_and_adds_shared_components() -> None:
    components = {1: {2: 2, 3: 1}, 2: {3: 3, 4: 1}}

    assert explode(1, components) == {3: 7, 4: 2}


def test_exploding_a_bundle_that_contains_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="contains itself"):
        explode(1, {1: {2: 1}, 2: {1: 1}})


def test_the_scarcest_component_decides_how_many_bundles_there_are() -> None:
    assert bundles_available({1: 2, 2: 1}, {1: 7, 2: 9}) == 3


def test_a_missing_component_makes_no_bundle() -> None:
    assert bundles_available({1: 1, 2: 1}, {1: 5}) == 0


def test_a_cycle_is_found_with_its_path() -> None:
    assert find_cycle({1: [2], 2: [3], 3: [1]}, 1) == [1, 2, 3, 1]


def test_a_shared_component_is_no_cycle() -> None:
    assert find_cycle({1: [2, 3], 2: [4], 3: [4]}, 1) is None


def test_the_longest_way_down_begins_with_the_bundle() -> None:
    assert longest_way({1: [4, 2], 2: [3], 3: [4]}, 1) == [1, 2, 3, 4]
    assert longest_way({}, 1) == [1]


def test_parts_shared_a_million_ways_are_taken_apart_once() -> None:
    ladder = {
        step: {2 * level + 1: 1, 2 * level + 2: 1} for level in range(1, 40) for step in (2 * level - 1, 2 * level)
    }

    assert explode(1, ladder) == {79: 2**38, 80: 2**38}
