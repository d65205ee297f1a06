"""Bulk queries from start to the lines of their file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.sandbox.clients import Receiver, StoreClient, call, wait_until

RUN = """mutation R($query: String!) { bulkOperationRunQuery(query: $query) {
  bulkOperation { id status } userErrors { field message code } } }"""
POLL = """query P($id: ID!) { bulkOperation(id: $id) {
  id status errorCode objectCount rootObjectCount fileSize url completedAt } }"""
LEVELS = """{ inventoryItems { edges { node { id sku tracked
  inventoryLevels { edges { node { id isActive location { id }
    quantities(names: ["available", "on_hand"]) { name quantity } } } } } } } }"""


def run(store: StoreClient, query: str) -> dict[str, Any]:
    return dict(store.ask(RUN, {"query": query})["bulkOperationRunQuery"])


def test_a_bulk_query_ends_in_a_file_of_parents_and_children(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe("BULK_OPERATIONS_FINISH", receiver.url)

    started = run(store, LEVELS)["bulkOperation"]
    wait_until(lambda: store.ask(POLL, {"id": started["id"]})["bulkOperation"]["status"] == "COMPLETED")
    finished = store.ask(POLL, {"id": started["id"]})["bulkOperation"]

    assert started["status"] == "CREATED"
    assert (finished["objectCount"], finished["rootObjectCount"], finished["errorCode"]) == ("5", "2", None)
    _, content = call("GET", finished["url"])
    lines = [json.loads(line) for line in content.splitlines()]
    assert lines[0] == {"id": store.items["APPLE"], "sku": "APPLE", "tracked": True}
    assert lines[1]["__parentId"] == store.items["APPLE"]
    assert lines[1]["quantities"] == [
        {"name": "available", "quantity": 5},
        {"name": "on_hand", "quantity": 5},
    ]
    assert len(lines) == 5
    wait_until(lambda: receiver.deliveries)
    told = receiver.deliveries[0].json
    assert (told["admin_graphql_api_id"], told["status"], told["type"]) == (
        started["id"],
        "completed",
        "query",
    )


def test_the_sixth_at_once_is_refused(store: StoreClient) -> None:
    store.configure(bulk_seconds=5.0)
    for _ in range(5):
        run(store, LEVELS)

    payload = run(store, LEVELS)

    assert payload["bulkOperation"] is None
    assert payload["userErrors"][0]["code"] == "OPERATION_IN_PROGRESS"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("{ shop { name } }", "at least one connection"),
        ("{ products { nodes { id } } }", "Selecting via 'nodes' is not supported"),
        ("mutation { x }", "Only `query` operations"),
        ("{ products {", "Invalid bulk query"),
        ("{ node(id: 1) { id } }", "top level `node` field"),
    ],
)
def test_queries_that_cannot_run_in_bulk_are_refused(store: StoreClient, query: str, words: str) -> None:
    payload = run(store, query)

    assert payload["bulkOperation"] is None
    assert any(words in error["message"] for error in payload["userErrors"])


def test_a_running_operation_can_be_cancelled(store: StoreClient) -> None:
    store.configure(bulk_seconds=5.0)
    started = run(store, LEVELS)["bulkOperation"]
    query = """mutation C($id: ID!) { bulkOperationCancel(id: $id) {
      bulkOperation { status } userErrors { message } } }"""

    data = store.ask(query, {"id": started["id"]})["bulkOperationCancel"]

    assert data == {"bulkOperation": {"status": "CANCELED"}, "userErrors": []}


def finished(store: StoreClient) -> dict[str, Any]:
    started = run(store, LEVELS)["bulkOperation"]
    wait_until(lambda: poll(store, started["id"])["status"] in ("COMPLETED", "FAILED"))
    return poll(store, started["id"])


def poll(store: StoreClient, operation_id: str) -> dict[str, Any]:
    query = POLL.replace("url completedAt", "url partialDataUrl completedAt")
    return dict(store.ask(query, {"id": operation_id})["bulkOperation"])


def test_the_address_of_a_result_expires_and_a_new_one_is_given(store: StoreClient) -> None:
    store.configure(bulk_url_seconds=0.0)
    operation = finished(store)

    status, _ = call("GET", operation["url"])
    store.configure(bulk_url_seconds=60.0)

    assert status == 403
    assert call("GET", poll(store, operation["id"])["url"])[0] == 200


@pytest.mark.parametrize(("is_partial", "objects"), [(True, "2"), (False, "0")])
def test_an_operation_that_fails_says_why_and_may_leave_half_a_result(
    store: StoreClient, is_partial: bool, objects: str
) -> None:
    store.set_faults(bulk_error="TIMEOUT", bulk_partial=is_partial)

    operation = finished(store)

    assert (operation["status"], operation["errorCode"], operation["objectCount"]) == ("FAILED", "TIMEOUT", objects)
    assert operation["url"] is None
    assert (operation["partialDataUrl"] is not None) is is_partial
    if is_partial:
        assert call("GET", operation["partialDataUrl"])[1].count("\n") == 2
