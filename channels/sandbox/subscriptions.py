"""Commands about webhook subscriptions and about what became of deliveries. Pure."""

from __future__ import annotations

import re
from typing import Any

from channels.sandbox.records import Subscription
from channels.sandbox.store import Store

RETRIES = 8
# Seconds before each retry, about four hours in all, as the real thing spreads its eight. Scaled by
# `retry_scale`.
RETRY_SECONDS = (10, 30, 90, 300, 900, 1800, 3600, 7200)
_NAME = re.compile(r"^[A-Za-z0-9_-]{1,50}$")
_CLEARTEXT_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_ADDRESS = ["webhookSubscription", "callbackUrl"]  # what the real API says even when `uri` was given


def create_subscription(
    store: Store, now_us: int, *, topic: str, fields: dict[str, Any], api_version: str
) -> dict[str, Any]:
    """Returns `{"id": id or None, "errors": [{field, message}]}`."""
    uri = fields.get("uri") or fields.get("callbackUrl") or ""
    errors = _uri_errors(uri) + _field_errors(store, fields, None)
    if any(s.topic == topic and s.uri == uri for s in store.subscriptions.values()):
        errors.append({"field": _ADDRESS, "message": "Address for this topic has already been taken"})
    if errors:
        return {"id": None, "errors": errors}
    subscription = Subscription(store.new_id(), topic, uri, now_us, now_us, api_version)
    _copy_fields(subscription, fields)
    store.subscriptions[subscription.id] = subscription
    return {"id": subscription.id, "errors": []}


def update_subscription(store: Store, now_us: int, *, subscription_id: int, fields: dict[str, Any]) -> dict[str, Any]:
    subscription = store.subscriptions.get(subscription_id)
    if subscription is None:
        return {"id": None, "errors": [{"field": ["id"], "message": "Webhook subscription does not exist"}]}
    uri = fields.get("uri", fields.get("callbackUrl"))
    errors = (_uri_errors(uri or "") if uri is not None else []) + _field_errors(store, fields, subscription)
    if errors:
        return {"id": None, "errors": errors}
    if uri is not None:
        subscription.uri = uri
    _copy_fields(subscription, fields)
    subscription.updated_us = now_us
    return {"id": subscription.id, "errors": []}


def delete_subscription(store: Store, now_us: int, *, subscription_id: int) -> dict[str, Any]:
    if store.subscriptions.pop(subscription_id, None) is None:
        return {"id": None, "errors": [{"field": ["id"], "message": "Webhook subscription does not exist"}]}
    return {"id": subscription_id, "errors": []}


def _copy_fields(subscription: Subscription, fields: dict[str, Any]) -> None:
    if "includeFields" in fields:
        subscription.include_fields = list(fields["includeFields"] or [])
    if "metafieldNamespaces" in fields:
        subscription.metafield_namespaces = list(fields["metafieldNamespaces"] or [])
    if "filter" in fields:
        subscription.filter = fields["filter"]
    if "name" in fields:
        subscription.name = fields["name"]


def _uri_errors(uri: str) -> list[dict[str, Any]]:
    """What is wrong with an address. Unlike the real thing, plain http is allowed to this machine itself."""
    scheme, separator, rest = uri.partition("://")
    if not uri:
        return [{"field": _ADDRESS, "message": "Address can't be blank"}]
    if uri.startswith("arn:aws:events:"):
        return []
    if not separator or not rest or any(c.isspace() or not c.isprintable() for c in uri):
        return [{"field": _ADDRESS, "message": "Address is invalid"}]
    if scheme in ("https", "pubsub") or (scheme == "http" and rest.startswith(_CLEARTEXT_HOSTS)):
        return []
    return [{"field": _ADDRESS, "message": f"Address protocol {scheme}:// is not supported"}]


def _field_errors(store: Store, fields: dict[str, Any], own: Subscription | None) -> list[dict[str, Any]]:
    errors: list[dict[str, Any]] = []
    if fields.get("format") == "XML":
        message = "Format 'xml' is invalid for this webhook topic. Allowed formats: json"
        errors.append({"field": ["webhookSubscription", "format"], "message": message})
    name = fields.get("name")
    path = ["webhookSubscription", "name"]
    if name is not None and not _NAME.match(name):
        message = "Name name field can only contain alphanumeric characters, underscores, and hyphens"
        errors.append({"field": path, "message": message})
    elif name is not None and any(s.name == name and s is not own for s in store.subscriptions.values()):
        errors.append({"field": path, "message": "Name already exists, no duplicate allowed"})
    return errors


def deliveries_done(store: Store, now_us: int, *, seqs: list[int]) -> None:
    """These arrived: 200-class answers."""
    for seq in seqs:
        delivery = store.deliveries.pop(seq, None)
        if delivery is None:
            continue
        store.count("webhooks_delivered")
        subscription = store.subscriptions.get(delivery.subscription_id)
        if subscription is not None:
            subscription.last_success_us = now_us


def delivery_lost(store: Store, now_us: int, *, seq: int) -> None:
    """A fault: this one is never sent."""
    if store.deliveries.pop(seq, None) is not None:
        store.count("webhooks_lost")


def delivery_failed(store: Store, now_us: int, *, seq: int, body: str) -> dict[str, Any]:
    """One attempt failed. Returns when to try again (`due_us`, None when given up) and whether the
    subscription went.

    After eight retries the delivery is given up; if the address took nothing else meanwhile, the
    subscription is deleted, as the real thing does with those made through the API.
    """
    delivery = store.deliveries.get(seq)
    if delivery is None:
        return {"due_us": None, "subscription_deleted": False}
    store.count("webhooks_failed")
    delivery.body = body
    if delivery.attempts == 0:
        delivery.first_attempt_us = now_us
    delivery.attempts += 1
    if delivery.attempts <= RETRIES:
        wait_us = int(RETRY_SECONDS[delivery.attempts - 1] * store.settings.retry_scale * 1_000_000)
        delivery.due_us = now_us + wait_us
        return {"due_us": delivery.due_us, "subscription_deleted": False}
    del store.deliveries[seq]
    store.count("webhooks_given_up")
    subscription = store.subscriptions.get(delivery.subscription_id)
    unanswered = subscription is not None and subscription.last_success_us < delivery.first_attempt_us
    if store.settings.drop_subscriptions and unanswered:
        del store.subscriptions[delivery.subscription_id]
        store.count("subscriptions_dropped")
        return {"due_us": None, "subscription_deleted": True}
    return {"due_us": None, "subscription_deleted": False}


def send_compliance(
    store: Store,
    now_us: int,
    *,
    topic: str,
    uri: str,
    api_version: str,
    payload: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Queue one of the compliance topics (or anything with a payload of one's own) to an address."""
    captured = {"payload": payload} if payload is not None else None
    store.queue_delivery(
        topic,
        ("compliance", 0, 0),
        store.new_event(),
        uri=uri,
        subscription_id=0,
        api_version=api_version,
        captured=captured,
    )
    return {"topic": topic, "uri": uri}
