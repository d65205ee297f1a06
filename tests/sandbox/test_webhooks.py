"""Webhooks: who gets them, signed how, how often, and what is in them."""

from __future__ import annotations

import re
import time

from synctec.lib.signing import verify_base64
from tests.sandbox.clients import SUBSCRIBE, Receiver, StoreClient, call, wait_until

LEVELS, CREATED = "INVENTORY_LEVELS_UPDATE", "ORDERS_CREATE"


def test_a_sale_sends_the_order_and_the_level_signed(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe(CREATED, receiver.url)
    store.subscribe(LEVELS, receiver.url)

    order = store.buy("APPLE", 2)
    wait_until(lambda: len(receiver.deliveries) == 2)

    (created,) = receiver.of("orders/create")
    (level,) = receiver.of("inventory_levels/update")
    for delivered in (created, level):
        headers = delivered.headers
        assert verify_base64(delivered.body, headers["X-Shopify-Hmac-Sha256"], [store.secret])
        assert headers["X-Shopify-Shop-Domain"] == f"{store.handle}.myshopify.com"
        assert headers["X-Shopify-API-Version"] == "2026-10"
        assert headers["Content-Type"] == "application/json"
        assert re.fullmatch(
            r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
            headers["X-Shopify-Webhook-Id"],
        )
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", headers["X-Shopify-Triggered-At"])
    assert created.headers["X-Shopify-Event-Id"] == level.headers["X-Shopify-Event-Id"]
    assert created.headers["X-Shopify-Webhook-Id"] != level.headers["X-Shopify-Webhook-Id"]
    assert created.json["id"] == order["id"]
    assert level.json["available"] == 3


def test_own_writes_are_announced_too(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe(LEVELS, receiver.url)

    store.set([store.row("APPLE", 9, 5)])
    wait_until(lambda: receiver.deliveries)

    assert receiver.deliveries[0].json["available"] == 9


def test_two_subscriptions_get_two_deliveries_of_one_event(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe(LEVELS, receiver.url + "/one")
    store.subscribe(LEVELS, receiver.url + "/two")

    store.buy("APPLE")
    wait_until(lambda: len(receiver.deliveries) == 2)

    one, two = receiver.deliveries
    assert one.headers["X-Shopify-Webhook-Id"] != two.headers["X-Shopify-Webhook-Id"]
    assert one.headers["X-Shopify-Event-Id"] == two.headers["X-Shopify-Event-Id"]


def test_nobody_else_hears_of_it(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe("PRODUCTS_DELETE", receiver.url)

    store.buy("APPLE")
    store.post("/admin-ui/products/delete", {"product": "PEAR"})
    wait_until(lambda: receiver.deliveries)

    assert [one.topic for one in receiver.deliveries] == ["products/delete"]


def test_a_failed_delivery_is_repeated_with_the_same_id_and_body(store: StoreClient, receiver: Receiver) -> None:
    receiver.statuses = [500, 302]
    store.subscribe(LEVELS, receiver.url)

    store.buy("APPLE")
    wait_until(lambda: len(receiver.deliveries) == 3)
    wait_until(lambda: store.stats()["counters"].get("webhooks_delivered") == 1)

    assert len({one.headers["X-Shopify-Webhook-Id"] for one in receiver.deliveries}) == 1
    assert len({one.body for one in receiver.deliveries}) == 1
    assert store.stats()["counters"]["webhooks_failed"] == 2


def test_after_eight_failed_retries_the_subscription_is_gone(store: StoreClient, receiver: Receiver) -> None:
    store.configure(retry_scale=0.00001)
    receiver.always = 500
    store.subscribe(LEVELS, receiver.url)

    store.buy("APPLE")
    wait_until(lambda: store.stats()["counters"].get("subscriptions_dropped") == 1)

    assert len(receiver.deliveries) == 9
    data = store.ask("{ webhookSubscriptions(first: 9) { nodes { id } } }")
    assert data["webhookSubscriptions"]["nodes"] == []


def test_a_store_can_keep_subscriptions_that_fail(store: StoreClient, receiver: Receiver) -> None:
    store.configure(retry_scale=0.00001, drop_subscriptions=False)
    receiver.always = 500
    store.subscribe(LEVELS, receiver.url)

    store.buy("APPLE")
    wait_until(lambda: store.stats()["counters"].get("webhooks_given_up") == 1)

    assert store.stats()["subscriptions"] == 1


def test_an_address_that_refuses_connections_is_tried_again(store: StoreClient) -> None:
    store.subscribe(LEVELS, "http://127.0.0.1:9/nobody")

    store.buy("APPLE")

    wait_until(lambda: store.stats()["counters"].get("webhooks_failed", 0) >= 2)


def test_subscriptions_can_be_listed_changed_and_deleted(store: StoreClient, receiver: Receiver) -> None:
    made = store.subscribe(CREATED, receiver.url)
    update = """mutation U($id: ID!, $input: WebhookSubscriptionInput!) {
      webhookSubscriptionUpdate(id: $id, webhookSubscription: $input) {
        webhookSubscription { uri } userErrors { message } } }"""
    delete = """mutation D($id: ID!) { webhookSubscriptionDelete(id: $id) {
      deletedWebhookSubscriptionId userErrors { field message } } }"""
    listing = "{ webhookSubscriptions(first: 5, topics: [ORDERS_CREATE]) { nodes { id topic uri } } }"

    store.ask(update, {"id": made["id"], "input": {"uri": receiver.url + "/new"}})
    listed = store.ask(listing)["webhookSubscriptions"]["nodes"]
    deleted = store.ask(delete, {"id": made["id"]})["webhookSubscriptionDelete"]
    again = store.ask(delete, {"id": made["id"]})["webhookSubscriptionDelete"]

    assert listed == [{"id": made["id"], "topic": CREATED, "uri": receiver.url + "/new"}]
    assert deleted == {"deletedWebhookSubscriptionId": made["id"], "userErrors": []}
    assert again["userErrors"] == [{"field": ["id"], "message": "Webhook subscription does not exist"}]


def test_bad_subscriptions_are_refused_in_the_real_words(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe(CREATED, receiver.url)
    tried = [
        {"uri": receiver.url},
        {"uri": ""},
        {"uri": "http://example.com/hooks"},
        {"uri": "ftp://example.com/hooks"},
        {"uri": receiver.url + "/x", "format": "XML"},
        {"uri": receiver.url + "/x", "name": "not good"},
    ]

    messages = [
        store.ask(SUBSCRIBE, {"topic": CREATED, "input": one})["webhookSubscriptionCreate"]["userErrors"][0]["message"]
        for one in tried
    ]

    assert messages == [
        "Address for this topic has already been taken",
        "Address can't be blank",
        "Address protocol http:// is not supported",
        "Address protocol ftp:// is not supported",
        "Format 'xml' is invalid for this webhook topic. Allowed formats: json",
        "Name name field can only contain alphanumeric characters, underscores, and hyphens",
    ]


def test_include_fields_cuts_the_body(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe(LEVELS, receiver.url, includeFields=["inventory_item_id", "available"])

    store.buy("APPLE")
    wait_until(lambda: receiver.deliveries)

    assert set(receiver.deliveries[0].json) == {"inventory_item_id", "available"}


def test_uninstalling_is_told_once_and_locks_the_app_out(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe("APP_UNINSTALLED", receiver.url)

    store.post("/admin-ui/uninstall")
    wait_until(lambda: receiver.deliveries)

    assert receiver.deliveries[0].topic == "app/uninstalled"
    assert store.send("{ shop { name } }")[0] == 401
    assert store.stats()["subscriptions"] == 0


def test_compliance_topics_come_on_demand(store: StoreClient, receiver: Receiver) -> None:
    for topic in ("customers/data_request", "customers/redact", "shop/redact"):
        call("POST", f"{store.control}/compliance", {"topic": topic, "uri": receiver.url})
    wait_until(lambda: len(receiver.deliveries) == 3)

    for delivered in receiver.deliveries:
        assert verify_base64(delivered.body, delivered.headers["X-Shopify-Hmac-Sha256"], [store.secret])
        assert delivered.json["shop_domain"] == f"{store.handle}.myshopify.com"


# --- faults -------------------------------------------------------------------------------------------------


def test_lost_webhooks_never_come(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe(LEVELS, receiver.url)
    store.set_faults(webhook_lost_rate=1.0)

    store.buy("APPLE")

    assert wait_until(lambda: store.stats()["counters"].get("webhooks_lost")) == 1
    assert store.stats()["since_start"]["webhooks_waiting"] == 0
    assert receiver.deliveries == []


def test_doubled_webhooks_carry_the_same_id(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe(LEVELS, receiver.url)
    store.set_faults(webhook_double_rate=1.0)

    store.buy("APPLE")
    wait_until(lambda: len(receiver.deliveries) == 2)

    first, second = receiver.deliveries
    assert first.headers["X-Shopify-Webhook-Id"] == second.headers["X-Shopify-Webhook-Id"]
    assert first.body == second.body


def test_reordered_webhooks_overtake_each_other(store: StoreClient, receiver: Receiver) -> None:
    store.add_variants([{"sku": "MANY", "levels": {"Main": 100}}])
    store.subscribe(LEVELS, receiver.url)
    store.set_faults(webhook_reorder_rate=0.5, seed=1)

    for _ in range(12):
        store.buy("MANY")
    wait_until(lambda: len(receiver.deliveries) == 12)

    seen = [one.json["available"] for one in receiver.deliveries]
    assert sorted(seen, reverse=True) == list(range(99, 87, -1))
    assert seen != sorted(seen, reverse=True)


def test_delayed_webhooks_show_the_value_of_their_own_moment(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe(LEVELS, receiver.url)
    store.set_faults(webhook_delay_ms=300)

    store.buy("APPLE")
    store.buy("APPLE")
    wait_until(lambda: len(receiver.deliveries) == 2)

    assert sorted(one.json["available"] for one in receiver.deliveries) == [3, 4]


def test_merged_webhooks_all_show_the_final_value(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe(LEVELS, receiver.url)
    store.set_faults(webhook_delay_ms=300, webhook_merge=True)

    store.buy("APPLE")
    store.buy("APPLE")
    wait_until(lambda: len(receiver.deliveries) == 2)

    assert [one.json["available"] for one in receiver.deliveries] == [3, 3]


def test_an_outage_holds_webhooks_back_until_it_ends(store: StoreClient, receiver: Receiver) -> None:
    store.subscribe(LEVELS, receiver.url)
    store.set_faults(outage=True)
    store.buy("APPLE")
    time.sleep(0.3)
    held = len(receiver.deliveries)

    store.set_faults()
    wait_until(lambda: receiver.deliveries)

    assert held == 0
    assert receiver.deliveries[0].json["available"] == 4
