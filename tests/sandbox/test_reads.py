"""Reading through the Admin API."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.sandbox.clients import StoreClient

ORDERS = """
query Orders($query: String, $after: String, $first: Int = 50) {
  orders(first: $first, after: $after, query: $query, sortKey: UPDATED_AT) {
    pageInfo { hasNextPage endCursor }
    nodes {
      id name createdAt updatedAt cancelledAt test
      lineItems(first: 20) { nodes { id sku quantity currentQuantity variant { id } } }
      refunds { id refundLineItems(first: 20) {
        nodes { quantity restockType location { id } lineItem { id } } } }
      fulfillments { id status fulfillmentLineItems(first: 5) { nodes { quantity lineItem { id } } } }
      fulfillmentOrders(first: 5) {
        nodes { status assignedLocation { location { id } }
          lineItems(first: 5) { nodes { remainingQuantity } } }
      }
    }
  }
}
"""


def orders(store: StoreClient, query: str | None = None, **more: Any) -> dict[str, Any]:
    return dict(store.ask(ORDERS, {"query": query} | more)["orders"])


def test_a_wrong_token_opens_nothing(store: StoreClient) -> None:
    store.token = "shpat_wrong"

    status, answer = store.send("{ shop { name } }")

    assert status == 401
    assert answer["errors"].startswith("[API] Invalid API key or access token")


def test_the_shop_and_what_the_app_may_do(store: StoreClient) -> None:
    data = store.ask(
        "{ shop { name myshopifyDomain currencyCode } currentAppInstallation { accessScopes { handle } } }"
    )

    assert data["shop"]["myshopifyDomain"] == f"{store.handle}.myshopify.com"
    handles = [scope["handle"] for scope in data["currentAppInstallation"]["accessScopes"]]
    assert "write_inventory" in handles


def test_a_missing_scope_closes_its_fields(store: StoreClient) -> None:
    store.configure(scopes=["read_products"])

    _, answer = store.send("{ orders(first: 1) { nodes { id } } }")

    assert answer["errors"][0]["extensions"]["code"] == "ACCESS_DENIED"
    assert answer["errors"][0]["message"] == "Access denied for orders field."


def test_writing_implies_reading(store: StoreClient) -> None:
    store.configure(scopes=["write_inventory"])

    data = store.ask("{ inventoryItems(first: 1) { nodes { sku } } }")

    assert [node["sku"] for node in data["inventoryItems"]["nodes"]] == ["APPLE"]


def test_inactive_locations_are_left_out_unless_asked_for(store: StoreClient) -> None:
    store.post("/admin-ui/locations/deactivate", {"location": "Back"})
    query = "query L($all: Boolean!) { locations(first: 9, includeInactive: $all) { nodes { name isActive } } }"

    active = store.ask(query, {"all": False})["locations"]["nodes"]
    every = store.ask(query, {"all": True})["locations"]["nodes"]

    assert [one["name"] for one in active] == ["Main"]
    assert [(one["name"], one["isActive"]) for one in every] == [("Back", False), ("Main", True)]


def test_variants_come_in_pages_that_neither_skip_nor_repeat(store: StoreClient) -> None:
    store.add_variants([{"sku": f"S{n}", "levels": {"Main": n}} for n in range(5)])
    query = """query V($after: String) { productVariants(first: 3, after: $after) {
      pageInfo { hasNextPage endCursor } nodes { sku inventoryItem { id } product { title } } } }"""
    skus: list[str] = []
    after = None
    while True:
        page = store.ask(query, {"after": after})["productVariants"]
        skus += [node["sku"] for node in page["nodes"]]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]

    assert skus == ["APPLE", "PEAR", "S0", "S1", "S2", "S3", "S4"]


def test_levels_are_read_in_one_call_by_their_ids(store: StoreClient) -> None:
    store.buy("APPLE", 2)
    ids = [
        store.level("APPLE")["level_id"],
        store.items["PEAR"],
        "gid://shopify/InventoryLevel/1?inventory_item_id=1",
    ]
    query = """query N($ids: [ID!]!) { nodes(ids: $ids) { __typename id
      ... on InventoryLevel { isActive item { id } location { id }
        quantities(names: ["available", "committed", "on_hand"]) { name quantity updatedAt } }
      ... on InventoryItem { sku tracked } } }"""

    level, item, missing = store.ask(query, {"ids": ids})["nodes"]

    assert (level["__typename"], level["id"], level["item"]["id"]) == (
        "InventoryLevel",
        ids[0],
        store.items["APPLE"],
    )
    assert [(q["name"], q["quantity"]) for q in level["quantities"]] == [
        ("available", 3),
        ("committed", 2),
        ("on_hand", 5),
    ]
    assert [q["updatedAt"] is not None for q in level["quantities"]] == [True, False, False]
    assert (item["sku"], item["tracked"]) == ("PEAR", True)
    assert missing is None


def test_inactive_levels_are_left_out_unless_asked_for(store: StoreClient) -> None:
    store.post("/admin-ui/levels/disconnect", {"sku": "APPLE", "location": "Back"})
    query = """query I($id: ID!, $all: Boolean!) { inventoryItem(id: $id) {
      inventoryLevels(first: 5, includeInactive: $all) { nodes { isActive } } } }"""

    active = store.ask(query, {"id": store.items["APPLE"], "all": False})["inventoryItem"]
    every = store.ask(query, {"id": store.items["APPLE"], "all": True})["inventoryItem"]

    assert active["inventoryLevels"]["nodes"] == [{"isActive": True}]
    assert every["inventoryLevels"]["nodes"] == [{"isActive": True}, {"isActive": False}]


def test_an_order_tells_where_its_lines_come_from_and_what_became_of_them(store: StoreClient) -> None:
    order = store.buy("APPLE", 3)
    line = order["lines"][0]["id"]
    refund = {"line_id": line, "quantity": 1, "restock_type": "cancel"}
    store.post(f"/shop/orders/{order['id']}/refund", {"lines": [refund]})
    store.post(f"/shop/orders/{order['id']}/fulfill", {"lines": [{"line_id": line, "quantity": 1}]})

    (shown,) = orders(store)["nodes"]

    gid = f"gid://shopify/LineItem/{line}"
    assert [(n["sku"], n["quantity"], n["currentQuantity"]) for n in shown["lineItems"]["nodes"]] == [("APPLE", 3, 2)]
    assert shown["refunds"][0]["refundLineItems"]["nodes"] == [
        {
            "quantity": 1,
            "restockType": "CANCEL",
            "location": {"id": store.locations["Main"]},
            "lineItem": {"id": gid},
        }
    ]
    assert shown["fulfillments"][0]["fulfillmentLineItems"]["nodes"] == [{"quantity": 1, "lineItem": {"id": gid}}]
    (wanted,) = shown["fulfillmentOrders"]["nodes"]
    assert wanted["assignedLocation"]["location"]["id"] == store.locations["Main"]
    assert wanted["lineItems"]["nodes"] == [{"remainingQuantity": 1}]


def test_an_order_changed_again_moves_to_the_end_of_the_list(store: StoreClient) -> None:
    first, second = store.buy("APPLE"), store.buy("PEAR")
    store.post(f"/shop/orders/{first['id']}/cancel")

    names = [node["name"] for node in orders(store)["nodes"]]

    assert names == [second["name"], first["name"]]


def test_orders_are_read_from_a_watermark_inclusively_in_whole_seconds(store: StoreClient) -> None:
    store.buy("APPLE")
    time.sleep(1.1)
    store.buy("PEAR")
    moment = orders(store)["nodes"][1]["updatedAt"]

    since = orders(store, f"updated_at:>='{moment}'")["nodes"]
    after = orders(store, f"updated_at:>'{moment}'")["nodes"]

    assert [node["name"] for node in since] == ["#1002"]
    assert after == []


def test_orders_come_in_pages(store: StoreClient) -> None:
    for _ in range(3):
        store.buy("APPLE")

    page = orders(store, first=2)
    rest = orders(store, first=2, after=page["pageInfo"]["endCursor"])

    assert page["pageInfo"]["hasNextPage"] is True
    assert [n["name"] for n in page["nodes"] + rest["nodes"]] == ["#1001", "#1002", "#1003"]
    assert rest["pageInfo"]["hasNextPage"] is False


def test_a_lagging_list_does_not_show_what_just_happened(store: StoreClient) -> None:
    store.set_faults(order_list_lag_ms=60_000)
    store.buy("APPLE")

    hidden = orders(store)["nodes"]
    store.set_faults()
    shown = orders(store)["nodes"]

    assert hidden == []
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("{ orders { nodes { id } } }", "you must provide one of first or last"),
        ("{ orders(first: 1, last: 1) { nodes { id } } }", "providing both first and last is not supported"),
    ],
)
def test_a_page_needs_one_size(store: StoreClient, query: str, message: str) -> None:
    _, answer = store.send(query)

    assert answer["errors"][0]["message"] == message
    assert answer["errors"][0]["extensions"]["code"] == "BAD_REQUEST"


def test_a_group_can_be_read_back_with_its_reference(store: StoreClient) -> None:
    payload = store.set([store.row("APPLE", 1, 5)], referenceDocumentUri="gid://synctec/Push/9")
    query = """query G($id: ID!) { node(id: $id) { ... on InventoryAdjustmentGroup {
      reason referenceDocumentUri createdAt app { title } } } }"""

    node = store.ask(query, {"id": payload["inventoryAdjustmentGroup"]["id"]})["node"]

    assert (node["reason"], node["referenceDocumentUri"]) == ("correction", "gid://synctec/Push/9")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"[" * 50_000, b'{"query": 7}', b'{"query": "{"}', b"\xff"])
def test_nonsense_is_answered_without_a_server_error(store: StoreClient, body: bytes) -> None:
    import urllib.error
    import urllib.request

    headers = {"X-Shopify-Access-Token": store.token}
    url = f"{store.url}/admin/api/2026-10/graphql.json"
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310

    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            status = response.status
    except urllib.error.HTTPError as error:
        with error:
            status = error.code

    assert status in (200, 400)
