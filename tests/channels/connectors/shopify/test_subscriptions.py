"""Webhook subscriptions are made, checked and mended."""

from typing import Any

import pytest

from channels.connectors.shopify.connector import ShopifyConnector
from channels.connectors.shopify.events import TOPICS_READ
from channels.connectors.shopify.subscriptions import WANTED
from channels.protocol import Unavailable
from tests.channels.connectors.shopify.scripted import HANG_UP, Answer, ScriptedStore

CALLBACK = "https://hub.example/webhooks/shopify/token/"
DONE: dict[str, Any] = {"data": {"done": {"userErrors": []}}}


def subscription(number: int, topic: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"gid://shopify/WebhookSubscription/{number}",
        "topic": topic.replace("/", "_").upper(),
        "uri": CALLBACK,
        "format": "JSON",
        "includeFields": list(WANTED.get(topic, ())),
        "filter": None,
    } | changes


def listing(*nodes: dict[str, Any]) -> Answer:
    connection = {"nodes": list(nodes), "pageInfo": {"hasNextPage": False, "endCursor": None}}
    return Answer({"data": {"webhookSubscriptions": connection}})


def all_right() -> list[dict[str, Any]]:
    return [subscription(number, topic) for number, topic in enumerate(WANTED)]


def operations(store: ScriptedStore) -> list[str]:
    return [asked.body["operationName"] for asked in store.asked]


def test_what_is_right_is_left_alone(store: ScriptedStore, connector: ShopifyConnector) -> None:
    foreign = subscription(99, "carts/update", uri="https://elsewhere.example/")
    store.answers(listing(*all_right(), foreign))

    report = connector.ensure_webhooks(CALLBACK)

    assert report.present == tuple(WANTED)
    assert (report.created, report.repaired, report.failed) == ((), (), ())
    assert operations(store) == ["Webhooks"]


def test_missing_ones_are_made(store: ScriptedStore, connector: ShopifyConnector) -> None:
    store.answers(listing(*(s for s in all_right() if s["topic"] != "ORDERS_CREATE")), Answer(DONE))

    report = connector.ensure_webhooks(CALLBACK)

    assert report.created == ("orders/create",)
    assert store.variables[1] == {
        "topic": "ORDERS_CREATE",
        "subscription": {"uri": CALLBACK, "format": "JSON", "includeFields": list(WANTED["orders/create"])},
    }


@pytest.mark.parametrize(
    "wrong",
    [{"uri": "https://old.example/"}, {"format": "XML"}, {"includeFields": ["id"]}, {"filter": "id:1"}],
)
def test_wrong_ones_are_set_right(store: ScriptedStore, connector: ShopifyConnector, wrong: dict[str, Any]) -> None:
    existing = [s | wrong if s["topic"] == "ORDERS_CREATE" else s for s in all_right()]
    store.answers(listing(*existing), Answer(DONE))

    report = connector.ensure_webhooks(CALLBACK)

    assert report.repaired == ("orders/create",)
    assert operations(store) == ["Webhooks", "UpdateWebhook"]
    assert store.variables[1]["subscription"]["uri"] == CALLBACK
    assert store.variables[1]["subscription"]["filter"] == ""


def test_of_duplicates_the_right_one_is_kept(store: ScriptedStore, connector: ShopifyConnector) -> None:
    duplicate = subscription(99, "orders/create", uri="https://old.example/")
    store.answers(listing(duplicate, *all_right()), Answer(DONE))

    report = connector.ensure_webhooks(CALLBACK)

    assert report.repaired == ("orders/create",)
    assert operations(store) == ["Webhooks", "DeleteWebhook"]
    assert store.variables[1] == {"id": "gid://shopify/WebhookSubscription/99"}


def test_a_topic_the_store_refuses_does_not_stop_the_others(store: ScriptedStore, connector: ShopifyConnector) -> None:
    refusal = {"data": {"done": {"userErrors": [{"message": "Not this topic."}]}}}
    existing = [s for s in all_right() if s["topic"] not in ("ORDERS_CREATE", "ORDERS_EDITED")]
    store.answers(listing(*existing), Answer(refusal), Answer(DONE), listing(*existing))

    report = connector.ensure_webhooks(CALLBACK)

    assert report.failed == (("orders/create", "Not this topic."),)
    assert report.created == ("orders/edited",)


@pytest.mark.parametrize(
    ("made", "present", "failed"),
    [({}, ("orders/create",), ()), ({"uri": "https://old.example/"}, (), ("orders/create",))],
)
def test_one_that_another_worker_has_just_made_is_there(
    store: ScriptedStore,
    connector: ShopifyConnector,
    made: dict[str, Any],
    present: tuple[str, ...],
    failed: tuple[str, ...],
) -> None:
    refusal = {"data": {"done": {"userErrors": [{"message": "Address for this topic has already been taken"}]}}}
    others = [s for s in all_right() if s["topic"] != "ORDERS_CREATE"]
    store.answers(listing(*others), Answer(refusal), listing(*others, subscription(99, "orders/create", **made)))

    report = connector.ensure_webhooks(CALLBACK)

    assert [topic for topic in report.present if topic == "orders/create"] == list(present)
    assert tuple(topic for topic, _ in report.failed) == failed
    assert report.created == ()


def test_a_store_that_is_away_is_an_error_and_no_report(store: ScriptedStore, connector: ShopifyConnector) -> None:
    store.answers(HANG_UP)

    with pytest.raises(Unavailable):
        connector.ensure_webhooks(CALLBACK)


def test_every_topic_asked_for_is_one_we_read() -> None:
    assert WANTED.keys() <= TOPICS_READ


def test_every_trimmed_body_still_tells_its_time_of_change() -> None:
    for topic, fields in WANTED.items():
        if fields and topic.startswith("orders/"):
            assert "updated_at" in fields, topic
