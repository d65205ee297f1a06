"""What a query costs, and what happens when the points run out. Expected costs are those recorded from real
stores.
"""

from __future__ import annotations

from typing import Any

import pytest

from channels.sandbox.graph import Graph, Rejected
from channels.sandbox.throttle import Bucket, scaled
from tests.sandbox.clients import ADJUST, SET, StoreClient

GRAPH = Graph()


def requested(query: str, variables: dict[str, Any] | None = None) -> int:
    return GRAPH.prepare(query, variables, None).requested_cost


@pytest.mark.parametrize(
    ("size", "cost"),
    [(0, 2), (1, 3), (2, 3), (3, 4), (5, 5), (10, 6), (20, 7), (50, 9), (100, 11), (250, 13)],
)
def test_a_page_of_plain_nodes_costs_what_was_recorded(size: int, cost: int) -> None:
    assert requested(f"{{ products(first: {size}) {{ nodes {{ id }} }} }}") == cost
    assert requested(f"{{ products(first: {size}) {{ edges {{ cursor node {{ id }} }} }} }}") == cost


def test_what_hangs_on_a_node_is_paid_per_node() -> None:
    recorded = """query Q($id: ID!) { inventoryItem(id: $id) { id inventoryLevels(first: 5) { nodes {
      location { id name } quantities(names: ["available", "on_hand"]) { name quantity } } } } }"""

    assert requested(recorded, {"id": "x"}) == 12


def test_a_default_of_a_variable_counts() -> None:
    assert requested("query Q($n: Int = 10) { products(first: $n) { nodes { id } } }") == 6


def test_of_alternatives_by_type_the_dearest_counts() -> None:
    recorded = """query Q($ids: [ID!]!) { nodes(ids: $ids) { __typename id
      ... on Product { title variants(first: 1) { nodes { id title } } }
      ... on ProductVariant { title product { id } } } }"""

    assert requested(recorded, {"ids": ["a"]}) == 4


def test_a_write_of_one_or_two_rows_costs_13() -> None:
    row = {"inventoryItemId": "i", "locationId": "l", "quantity": 1, "changeFromQuantity": None}
    for rows in ([row], [row, row]):
        input = {"name": "available", "reason": "correction", "quantities": rows}
        assert requested(SET, {"input": input, "key": "k"}) == 13


def test_a_write_of_250_rows_costs_moderately_more() -> None:
    row = {"inventoryItemId": "i", "locationId": "l", "quantity": 1, "changeFromQuantity": None}
    input = {"name": "available", "reason": "correction", "quantities": [row] * 250}

    assert requested(SET, {"input": input, "key": "k"}) == 23


def test_a_query_above_the_limit_is_not_run() -> None:
    dear = """{ products(first: 250) { nodes { variants(first: 250) { nodes { inventoryItem {
      inventoryLevels(first: 250) { nodes { id } } } } } } } }"""

    with pytest.raises(Rejected) as rejected:
        requested(dear)

    assert rejected.value.answer["errors"][0]["extensions"]["code"] == "MAX_COST_EXCEEDED"


@pytest.mark.parametrize(("count", "times"), [(0, 0), (1, 1), (2, 1), (3, 2), (250, 11)])
def test_lists_count_by_the_logarithm_of_their_length(count: int, times: int) -> None:
    assert scaled(count) == times


def test_a_bucket_refills_with_time_and_never_above_its_size() -> None:
    bucket = Bucket(capacity=100, restore_per_second=10, available=100, at_us=0)

    assert bucket.take(100, now_us=0) is True
    assert bucket.take(1, now_us=0) is False
    assert bucket.take(10, now_us=1_000_000) is True
    bucket.refill(60_000_000)
    assert bucket.available == 100


def test_a_refused_write_pays_only_for_the_mutation(store: StoreClient) -> None:
    variables = store.set_variables([store.row("APPLE", 1, 99)])

    _, answer = store.send(SET, variables)

    cost = answer["extensions"]["cost"]
    assert (cost["requestedQueryCost"], cost["actualQueryCost"]) == (13, 10)
    assert cost["throttleStatus"] == {
        "maximumAvailable": 2000,
        "currentlyAvailable": 1990,
        "restoreRate": 100,
    }


def test_an_empty_page_gives_points_back(store: StoreClient) -> None:
    _, answer = store.send("{ orders(first: 250) { nodes { id } } }")

    cost = answer["extensions"]["cost"]
    assert (cost["requestedQueryCost"], cost["actualQueryCost"]) == (13, 2)


def test_an_empty_bucket_throttles_with_status_200_and_applies_nothing(store: StoreClient) -> None:
    store.configure(bucket={"maximumAvailable": 15, "restoreRate": 1})
    store.set([store.row("APPLE", 4, 5)])

    status, answer = store.send(SET, store.set_variables([store.row("APPLE", 3, 4)]))

    assert status == 200
    assert answer["errors"][0]["message"] == "Throttled"
    assert answer["errors"][0]["extensions"]["code"] == "THROTTLED"
    assert "data" not in answer
    cost = answer["extensions"]["cost"]
    assert (cost["requestedQueryCost"], cost["actualQueryCost"]) == (13, None)
    assert cost["throttleStatus"]["maximumAvailable"] == 15
    assert store.available("APPLE") == 4


def test_an_answer_without_execution_has_no_cost(store: StoreClient) -> None:
    _, answer = store.send("{ nothing }")

    assert "extensions" not in answer


def test_the_adjust_document_costs_13_too() -> None:
    row = {"inventoryItemId": "i", "locationId": "l", "delta": 1, "changeFromQuantity": None}
    with_places = ADJUST.replace("{ name delta }", "{ name delta item { id } location { id } }")

    input = {"name": "available", "reason": "correction", "changes": [row]}

    assert requested(with_places, {"input": input, "key": "k"}) == 13
