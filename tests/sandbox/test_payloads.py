"""Bodies of webhooks have the keys of the official samples, where those are at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.clients import Receiver, StoreClient, wait_until

SAMPLES = Path(__file__).parents[3] / "shared" / "specs" / "shopify" / "webhook-samples"
TOPICS = [
    "app/uninstalled",
    "bulk_operations/finish",
    "fulfillments/create",
    "inventory_items/create",
    "inventory_items/delete",
    "inventory_items/update",
    "inventory_levels/connect",
    "inventory_levels/disconnect",
    "inventory_levels/update",
    "locations/activate",
    "locations/create",
    "locations/deactivate",
    "locations/delete",
    "locations/update",
    "orders/cancelled",
    "orders/create",
    "orders/edited",
    "orders/paid",
    "orders/updated",
    "products/create",
    "products/delete",
    "products/update",
    "refunds/create",
]
# Objects the sandbox leaves null or lists it leaves empty; the samples show them filled.
NOT_MODELLED = {"billing_address", "customer", "shipping_address", "destination"}

needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the official samples are not here")


def differences(sample: Any, body: Any, path: str = "") -> Iterator[str]:
    """Where the keys of `body` differ from those of `sample`, at any depth both have."""
    if isinstance(sample, dict) and isinstance(body, dict):
        yield from (f"{path}.{key} is missing" for key in sample.keys() - body.keys())
        yield from (f"{path}.{key} is not in the sample" for key in body.keys() - sample.keys())
        for key in sample.keys() & body.keys():
            if key not in NOT_MODELLED:
                yield from differences(sample[key], body[key], f"{path}.{key}")
    elif isinstance(sample, list) and isinstance(body, list):
        if sample and isinstance(sample[0], dict):
            for item in body:
                yield from differences(sample[0], item, f"{path}[]")
    elif isinstance(sample, dict | list) != isinstance(body, dict | list) and body is not None and sample is not None:
        yield f"{path} is {type(body).__name__}, in the sample {type(sample).__name__}"


def live_through_everything(store: StoreClient, url: str) -> None:
    """Let every topic happen at least once."""
    for topic in TOPICS:
        store.subscribe(topic.upper().replace("/", "_"), url)
    store.add_variants([{"sku": "NEW", "levels": {"Main": 50}}])
    store.add_variants([{"sku": "NEW", "title": "Newer"}])
    kept, cancelled = store.buy("NEW", 5), store.buy("NEW", 1)
    line = kept["lines"][0]["id"]
    at = f"/shop/orders/{kept['id']}"
    store.post(f"{at}/edit", {"removals": [{"line_id": line, "quantity": 1}], "additions": [{"sku": "APPLE"}]})
    store.post(f"{at}/refund", {"lines": [{"line_id": line, "quantity": 1, "restock_type": "cancel"}]})
    store.post(f"{at}/fulfill", {"lines": [{"line_id": line, "quantity": 1}]})
    store.post(f"/shop/orders/{cancelled['id']}/cancel")
    store.post("/admin-ui/levels/disconnect", {"sku": "APPLE", "location": "Back"})
    store.post("/admin-ui/levels/connect", {"sku": "APPLE", "location": "Back"})
    store.post("/admin-ui/locations", {"name": "Third"})
    store.post("/admin-ui/locations/deactivate", {"location": "Third"})
    store.post("/admin-ui/locations/activate", {"location": "Third"})
    store.post("/admin-ui/locations/deactivate", {"location": "Third"})
    store.post("/admin-ui/locations/delete", {"location": "Third"})
    query = "{ products { edges { node { id } } } }"
    store.ask(f'mutation {{ bulkOperationRunQuery(query: "{query}") {{ userErrors {{ message }} }} }}')


@needs_samples
def test_every_body_has_the_keys_of_its_sample(store: StoreClient, receiver: Receiver) -> None:
    live_through_everything(store, receiver.url)
    wait_until(lambda: receiver.of("bulk_operations/finish"))
    store.post("/admin-ui/products/delete", {"product": "NEW"})
    wait_until(lambda: receiver.of("products/delete"))
    store.post("/admin-ui/uninstall")
    wait_until(lambda: {one.topic for one in receiver.deliveries} >= set(TOPICS))

    found = []
    for delivered in receiver.deliveries:
        name = delivered.topic.replace("/", "_")
        sample = json.loads((SAMPLES / f"{name}.metadata.json").read_text())["response"]
        found += [f"{delivered.topic}{difference}" for difference in differences(sample, delivered.json)]

    assert sorted(set(found)) == []


def test_times_have_whole_seconds_and_the_offset_of_the_store(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe("ORDERS_CREATE", receiver.url)
    store.subscribe("INVENTORY_LEVELS_UPDATE", receiver.url)

    store.buy("APPLE")
    wait_until(lambda: len(receiver.deliveries) == 2)

    shape = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d-05:00"
    assert all(re.fullmatch(shape, one.json["updated_at"]) for one in receiver.deliveries)


def test_a_level_body_has_nothing_but_the_official_five_fields(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe("INVENTORY_LEVELS_UPDATE", receiver.url)
    level = store.level("APPLE")

    store.buy("APPLE")
    wait_until(lambda: receiver.deliveries)

    body = receiver.deliveries[0].json
    body.pop("updated_at")
    assert body == {
        "inventory_item_id": int(store.items["APPLE"].rsplit("/", 1)[1]),
        "location_id": level["location_id"],
        "available": 4,
        "admin_graphql_api_id": level["level_id"],
    }


def test_a_refund_body_says_what_was_restocked_where(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe("REFUNDS_CREATE", receiver.url)
    order = store.buy("APPLE", 2)
    line = order["lines"][0]

    store.post(
        f"/shop/orders/{order['id']}/refund",
        {"lines": [{"line_id": line["id"], "quantity": 1, "restock_type": "cancel"}]},
    )
    wait_until(lambda: receiver.deliveries)

    body = receiver.deliveries[0].json
    (row,) = body["refund_line_items"]
    assert (body["order_id"], body["restock"]) == (order["id"], True)
    assert (row["line_item_id"], row["quantity"], row["restock_type"], row["location_id"]) == (
        line["id"],
        1,
        "cancel",
        line["location_id"],
    )


@pytest.mark.parametrize("restock_type", ["cancel", "return"])
def test_units_put_back_elsewhere_raise_the_counter_there_and_not_where_they_were_sold(
    store: StoreClient, receiver: Receiver, restock_type: str
) -> None:
    store.subscribe("REFUNDS_CREATE", receiver.url)
    order = store.buy("APPLE", 2)
    if restock_type == "return":
        store.post(f"/shop/orders/{order['id']}/fulfill", {})
    row = {"line_id": order["lines"][0]["id"], "quantity": 1, "restock_type": restock_type, "location": "Back"}

    store.post(f"/shop/orders/{order['id']}/refund", {"lines": [row]})
    wait_until(lambda: receiver.deliveries)

    (told,) = receiver.deliveries[0].json["refund_line_items"]
    assert told["location_id"] == store.level("APPLE", "Back")["location_id"]
    assert (store.available("APPLE"), store.available("APPLE", "Back")) == (3, 4)


def test_units_cannot_be_put_back_where_they_are_not_stocked(store: StoreClient) -> None:
    order = store.buy("PEAR", 1)
    row = {"line_id": order["lines"][0]["id"], "quantity": 1, "restock_type": "cancel", "location": "Back"}

    status, _ = store.post(f"/shop/orders/{order['id']}/refund", {"lines": [row]})

    assert status == 409
    assert store.available("PEAR") == 1


def test_a_cancelled_order_keeps_its_quantities_and_has_none_left(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe("ORDERS_CANCELLED", receiver.url)
    order = store.buy("APPLE", 2)

    store.post(f"/shop/orders/{order['id']}/cancel", {"reason": "inventory"})
    wait_until(lambda: receiver.deliveries)

    body = receiver.deliveries[0].json
    assert body["cancel_reason"] == "inventory"
    assert body["cancelled_at"] is not None
    assert [(line["quantity"], line["current_quantity"]) for line in body["line_items"]] == [(2, 0)]
    assert [refund["refund_line_items"][0]["restock_type"] for refund in body["refunds"]] == ["cancel"]
