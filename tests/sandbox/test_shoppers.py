"""What a sale, and what follows it, does to the shelf."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sandbox.clients import StoreClient, call


def numbers(store: StoreClient, sku: str, location: str = "Main") -> tuple[int, int, int]:
    level = store.level(sku, location)
    return level["available"], level["committed"], level["on_hand"]


def test_a_sale_takes_units_at_once_and_leaves_them_on_hand(store: StoreClient) -> None:
    order = store.buy("APPLE", 2)

    assert numbers(store, "APPLE") == (3, 2, 5)
    assert order["name"] == "#1001"
    assert [line["quantity"] for line in order["lines"]] == [2]


def test_a_sale_of_more_than_a_location_has_comes_from_the_next(store: StoreClient) -> None:
    store.buy("APPLE", 4)

    store.buy("APPLE", 3)

    assert store.available("APPLE", "Main") == 1
    assert store.available("APPLE", "Back") == 0


def test_selling_out_is_refused_and_changes_nothing(store: StoreClient) -> None:
    status, answer = store.post("/shop/orders", {"lines": [{"sku": "PEAR", "quantity": 3}]})

    assert (status, answer["error"]) == (409, "sold_out")
    assert numbers(store, "PEAR") == (2, 0, 2)


def test_an_order_with_one_sold_out_line_sells_no_line(store: StoreClient) -> None:
    lines = [{"sku": "APPLE", "quantity": 1}, {"sku": "PEAR", "quantity": 3}]

    status, _ = store.post("/shop/orders", {"lines": lines})

    assert status == 409
    assert numbers(store, "APPLE") == (5, 0, 5)


def test_two_lines_of_one_sku_cannot_sell_the_same_units_twice(store: StoreClient) -> None:
    lines = [{"sku": "PEAR", "quantity": 2}, {"sku": "PEAR", "quantity": 1}]

    status, _ = store.post("/shop/orders", {"lines": lines})

    assert status == 409
    assert numbers(store, "PEAR") == (2, 0, 2)


def test_a_variant_that_may_be_oversold_goes_below_zero(store: StoreClient) -> None:
    store.add_variants([{"sku": "PLUM", "policy": "CONTINUE", "levels": {"Main": 1}}])

    store.buy("PLUM", 3)

    assert numbers(store, "PLUM") == (-2, 3, 1)


def test_an_untracked_variant_sells_without_being_counted(store: StoreClient) -> None:
    store.add_variants([{"sku": "CARD", "tracked": False}])

    order = store.buy("CARD", 9)

    assert order["lines"][0]["location_id"] is None
    assert numbers(store, "CARD") == (0, 0, 0)


def test_a_bundle_is_sold_as_its_components(store: StoreClient) -> None:
    store.add_variants([{"sku": "BASKET", "components": {"APPLE": 2, "PEAR": 1}}])

    order = store.buy("BASKET")

    assert [(line["sku"], line["quantity"]) for line in order["lines"]] == [("APPLE", 2), ("PEAR", 1)]
    assert numbers(store, "APPLE") == (3, 2, 5)
    assert numbers(store, "PEAR") == (1, 1, 2)


def test_cancelling_with_restock_puts_the_units_back(store: StoreClient) -> None:
    order = store.buy("APPLE", 2)

    store.post(f"/shop/orders/{order['id']}/cancel", {"restock": True})

    assert numbers(store, "APPLE") == (5, 0, 5)


def test_cancelling_without_restock_loses_the_units(store: StoreClient) -> None:
    order = store.buy("APPLE", 2)

    store.post(f"/shop/orders/{order['id']}/cancel", {"restock": False})

    assert numbers(store, "APPLE") == (3, 0, 3)


def test_cancelling_twice_is_refused(store: StoreClient) -> None:
    order = store.buy("APPLE", 2)
    store.post(f"/shop/orders/{order['id']}/cancel")

    status, _ = store.post(f"/shop/orders/{order['id']}/cancel")

    assert status == 409
    assert numbers(store, "APPLE") == (5, 0, 5)


def test_shipping_takes_the_units_out_of_the_building(store: StoreClient) -> None:
    order = store.buy("APPLE", 2)

    store.post(f"/shop/orders/{order['id']}/fulfill")

    assert numbers(store, "APPLE") == (3, 0, 3)


def test_a_return_brings_shipped_units_back(store: StoreClient) -> None:
    order = store.buy("APPLE", 2)
    store.post(f"/shop/orders/{order['id']}/fulfill")
    line = {"line_id": order["lines"][0]["id"], "quantity": 1, "restock_type": "return"}

    status, _ = store.post(f"/shop/orders/{order['id']}/refund", {"lines": [line]})

    assert status == 200
    assert numbers(store, "APPLE") == (4, 0, 4)


def test_a_refund_without_restock_releases_unshipped_units_without_selling_them_again(
    store: StoreClient,
) -> None:
    order = store.buy("APPLE", 2)
    line = {"line_id": order["lines"][0]["id"], "quantity": 1, "restock_type": "no_restock"}

    store.post(f"/shop/orders/{order['id']}/refund", {"lines": [line]})

    assert numbers(store, "APPLE") == (3, 1, 4)


def test_returning_what_was_never_shipped_is_refused(store: StoreClient) -> None:
    order = store.buy("APPLE", 2)
    line = {"line_id": order["lines"][0]["id"], "quantity": 1, "restock_type": "return"}

    status, _ = store.post(f"/shop/orders/{order['id']}/refund", {"lines": [line]})

    assert status == 409
    assert numbers(store, "APPLE") == (3, 2, 5)


def test_an_edit_moves_only_the_difference(store: StoreClient) -> None:
    order = store.buy("APPLE", 3)
    edit = {
        "removals": [{"line_id": order["lines"][0]["id"], "quantity": 1}],
        "additions": [{"sku": "PEAR", "quantity": 1}],
    }

    status, _ = store.post(f"/shop/orders/{order['id']}/edit", edit)

    assert status == 200
    assert numbers(store, "APPLE") == (3, 2, 5)
    assert numbers(store, "PEAR") == (1, 1, 2)


def test_units_sold_and_restocked_are_counted_per_variant(store: StoreClient) -> None:
    order = store.buy("APPLE", 3)
    store.buy("APPLE", 1)

    store.post(f"/shop/orders/{order['id']}/cancel")

    apple = next(v for v in store.shelf()["variants"] if v["sku"] == "APPLE")
    assert (apple["units_sold"], apple["units_restocked"]) == (4, 3)


def test_the_feed_tells_every_change_in_order_with_its_cause(store: StoreClient) -> None:
    start = store.shelf()["last_change"]
    order = store.buy("APPLE", 2)
    store.post("/admin-ui/adjust", {"sku": "APPLE", "location": "Main", "delta": 4})
    store.set([store.row("APPLE", 1, 7)], key="the-key", referenceDocumentUri="gid://synctec/Push/1")

    changes = store.changes(start)

    assert [c["seq"] for c in changes] == [start + 1, start + 2, start + 3]
    assert [(c["cause"], c["delta"], c["available"]) for c in changes] == [
        ("order", -2, 3),
        ("admin", 4, 7),
        ("api", -6, 1),
    ]
    assert changes[0]["order_id"] == order["id"]
    assert (changes[2]["key"], changes[2]["reference"]) == ("the-key", "gid://synctec/Push/1")
    assert changes[0]["at_us"] == order["at_us"] < changes[1]["at_us"] < changes[2]["at_us"]


def test_making_a_store_twice_gives_the_same_store(make_store: Callable[..., StoreClient]) -> None:
    store = make_store()
    store.add_variants([{"sku": "A"}])

    status, again = call("POST", store.control.rsplit("/", 1)[0], {"handle": store.handle})

    assert (status, again["client_secret"], again["variants"]) == (200, store.secret, 1)


def test_resetting_empties_a_store_and_keeps_its_credentials(store: StoreClient) -> None:
    store.buy("APPLE")

    _, answer = call("POST", f"{store.control}/reset", {})

    assert (answer["variants"], answer["orders"]) == (0, 0)
    assert answer["access_token"] == store.token
    assert [location["name"] for location in answer["locations"]] == ["Main", "Back"]


def test_senseless_requests_are_answered_and_not_obeyed(store: StoreClient) -> None:
    bodies = [
        {"lines": []},
        {"lines": [{"sku": "APPLE", "quantity": 0}]},
        {"lines": [{"sku": "APPLE", "quantity": "2"}]},
        {"lines": [{"sku": "APPLE", "quantity": 10**30}]},
        {"lines": ["APPLE"]},
        {"lines": {"sku": "APPLE"}},
        {},
        [],
    ]

    statuses = [store.post("/shop/orders", body)[0] for body in bodies]

    assert all(400 <= status < 500 for status in statuses), statuses
    assert numbers(store, "APPLE") == (5, 0, 5)


@pytest.mark.parametrize(
    "settings",
    [
        {"unknown": 1},
        {"replay": "maybe"},
        {"currency": "XYZ"},
        {"currency": 5},
        {"bucket_points": "many"},
        {"drop_subscriptions": 1},
        {"webhook_concurrency": 0},
        {"scopes": [1]},
        {"utc_offset_minutes": 1440},
    ],
)
def test_senseless_settings_are_refused(store: StoreClient, settings: dict[str, object]) -> None:
    before = call("GET", store.control)[1]["settings"]

    status, _ = call("PATCH", store.control, settings)

    assert status == 400
    assert call("GET", store.control)[1]["settings"] == before


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"sku": ""},
        {"sku": "X", "policy": "MAYBE"},
        {"sku": "X", "price": "cheap"},
        {"sku": "X", "status": "GONE"},
        {"sku": "X", "levels": {"Main": 1.5}},
        {"sku": "X", "levels": {"Moon": 1}},
        {"sku": "X", "levels": [1]},
        {"sku": "X", "components": {"APPLE": 0}},
    ],
)
def test_senseless_variants_are_refused_with_all_that_came_along(store: StoreClient, row: dict[str, object]) -> None:
    status, _ = call("POST", f"{store.control}/variants", [{"sku": "FINE"}, row])

    assert 400 <= status < 500
    assert [variant["sku"] for variant in store.shelf()["variants"]] == ["APPLE", "PEAR"]


def test_a_bundle_of_itself_does_no_harm(store: StoreClient) -> None:
    store.add_variants([{"sku": "LOOP", "components": {"LOOP": 1}, "levels": {"Main": 2}}])

    status, live = call("GET", f"{store.url}/live")

    assert status == 200
    assert [v["available"] for v in live["variants"] if v["sku"] == "LOOP"] == [2]
