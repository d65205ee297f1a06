"""Webhook subscriptions: what should be there, what is there, and the mending of the difference.

Shopify deletes a subscription made over the API after eight failed deliveries, so this runs again and again.
All subscriptions shown belong to our app at this store; topics we do not use are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from channels.connectors.shopify import documents
from channels.connectors.shopify.client import ShopifyClient
from channels.connectors.shopify.documents import Document
from channels.connectors.shopify.parsing import JsonObject
from channels.connectors.shopify.reading import checking_answer, read_pages
from channels.protocol import Refused, SubscriptionReport

#: Only what is used: names, addresses and payments of customers need not reach us. `updated_at` must be among
#: them, or deliveries that look alike are merged.
_ORDER_FIELDS = (
    "id",
    "admin_graphql_api_id",
    "name",
    "created_at",
    "updated_at",
    "cancelled_at",
    "test",
    "line_items",
    "fulfillments",
    "refunds",
)
_REFUND_FIELDS = ("id", "order_id", "created_at", "refund_line_items")

#: Topic -> fields asked for (none: all). orders/paid, fulfilled and partially_fulfilled come as
#: orders/updated too.
WANTED: dict[str, tuple[str, ...]] = {
    "inventory_levels/update": (),
    "inventory_levels/connect": (),
    "inventory_levels/disconnect": (),
    "orders/create": _ORDER_FIELDS,
    "orders/updated": _ORDER_FIELDS,
    "orders/cancelled": _ORDER_FIELDS,
    "orders/edited": (),
    "orders/delete": (),
    "refunds/create": _REFUND_FIELDS,
    "products/create": (),
    "products/update": (),
    "products/delete": (),
    "inventory_items/create": (),
    "inventory_items/update": (),
    "inventory_items/delete": (),
    "locations/create": (),
    "locations/update": (),
    "locations/activate": (),
    "locations/deactivate": (),
    "locations/delete": (),
    "app/uninstalled": (),
    "bulk_operations/finish": (),
}


@dataclass(frozen=True, slots=True)
class _Subscription:
    gid: str
    topic: str
    uri: str
    format: str
    fields: tuple[str, ...]
    is_filtered: bool


def ensure_webhooks(client: ShopifyClient, callback_url: str) -> SubscriptionReport:
    """Make every wanted topic arrive once at `callback_url`. Safe to repeat at any time, and for several at the same time.

    A topic the store refuses is reported as failed and does not stop the others.
    """
    present: list[str] = []
    created: list[str] = []
    repaired: list[str] = []
    failed: list[tuple[str, str]] = []
    existing = _read_subscriptions(client)
    for topic, fields in WANTED.items():
        mine = sorted(
            (subscription for subscription in existing if subscription.topic == topic),
            key=lambda subscription: not _is_right(subscription, callback_url, fields),
        )
        try:
            if not mine:
                _create(client, topic, callback_url, fields)
                created.append(topic)
            elif _mend(client, mine, callback_url, fields):
                repaired.append(topic)
            else:
                present.append(topic)
        except Refused as refusal:
            failed.append((topic, str(refusal)))
    if failed:
        # What somebody else made since it was looked for, the store does not make a second time.
        made = {mine.topic for mine in _read_subscriptions(client) if _is_wanted(mine, callback_url)}
        present += [topic for topic, _ in failed if topic in made]
        failed = [(topic, why) for topic, why in failed if topic not in made]
    return SubscriptionReport(tuple(present), tuple(created), tuple(repaired), tuple(failed))


def _read_subscriptions(client: ShopifyClient) -> list[_Subscription]:
    with checking_answer("its webhook subscriptions"):
        return [
            _read_subscription(node)
            for page in read_pages(client, documents.WEBHOOKS, "webhookSubscriptions", {}, size=1)
            for node in page
        ]


def _read_subscription(node: JsonObject) -> _Subscription:
    fields = node.get("includeFields")
    return _Subscription(
        gid=str(node.get("id")),
        topic=_TOPIC_OF_ENUM.get(str(node.get("topic")), ""),
        uri=str(node.get("uri")),
        format=str(node.get("format")),
        fields=tuple(str(field) for field in fields) if type(fields) is list else (),
        is_filtered=bool(node.get("filter")),
    )


def _is_right(subscription: _Subscription, callback_url: str, fields: Sequence[str]) -> bool:
    return (
        subscription.uri == callback_url
        and subscription.format == "JSON"
        and set(subscription.fields) == set(fields)
        and not subscription.is_filtered
    )


def _is_wanted(subscription: _Subscription, callback_url: str) -> bool:
    fields = WANTED.get(subscription.topic)
    return fields is not None and _is_right(subscription, callback_url, fields)


def _mend(client: ShopifyClient, mine: list[_Subscription], callback_url: str, fields: Sequence[str]) -> bool:
    """Keep the best one, set right where it is wrong, and delete the others.

    Whether anything had to be done.
    """
    kept, *duplicates = mine
    is_wrong = not _is_right(kept, callback_url, fields)
    if is_wrong:
        variables = {"id": kept.gid, "subscription": _input(callback_url, fields) | {"filter": ""}}
        _carry_out(client, documents.UPDATE_WEBHOOK, variables)
    for duplicate in duplicates:
        _carry_out(client, documents.DELETE_WEBHOOK, {"id": duplicate.gid})
    return is_wrong or bool(duplicates)


def _create(client: ShopifyClient, topic: str, callback_url: str, fields: Sequence[str]) -> None:
    variables = {"topic": _enum_of(topic), "subscription": _input(callback_url, fields)}
    _carry_out(client, documents.CREATE_WEBHOOK, variables)


def _input(callback_url: str, fields: Sequence[str]) -> dict[str, object]:
    return {"uri": callback_url, "format": "JSON", "includeFields": list(fields)}


def _carry_out(client: ShopifyClient, document: Document, variables: Mapping[str, object]) -> None:
    payload = client.mutate(document, variables)
    errors = payload.get("userErrors") if type(payload) is dict else None
    if errors:
        said = "; ".join(str(error.get("message"))[:200] for error in errors if type(error) is dict)
        raise Refused(said or "refused without a reason", code="USER_ERROR")


def _enum_of(topic: str) -> str:
    return topic.replace("/", "_").upper()


_TOPIC_OF_ENUM = {_enum_of(topic): topic for topic in WANTED}
