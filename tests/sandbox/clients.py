"""How the tests speak to a sandbox, as operator, app and shopper; and what they receive from it."""

from __future__ import annotations

import itertools
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_keys = itertools.count(1)

SET = """
mutation Set($input: InventorySetQuantitiesInput!, $key: String!) {
  inventorySetQuantities(input: $input) @idempotent(key: $key) {
    inventoryAdjustmentGroup {
      id createdAt reason referenceDocumentUri
      changes { name delta quantityAfterChange item { id } location { id } }
    }
    userErrors { field message code }
  }
}
"""
ADJUST = """
mutation Adjust($input: InventoryAdjustQuantitiesInput!, $key: String!) {
  inventoryAdjustQuantities(input: $input) @idempotent(key: $key) {
    inventoryAdjustmentGroup { id changes { name delta } }
    userErrors { field message code }
  }
}
"""
SUBSCRIBE = """
mutation Subscribe($topic: WebhookSubscriptionTopic!, $input: WebhookSubscriptionInput!) {
  webhookSubscriptionCreate(topic: $topic, webhookSubscription: $input) {
    webhookSubscription { id topic uri apiVersion { handle } }
    userErrors { field message }
  }
}
"""


def call(method: str, url: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """One request; the answer's JSON, or its text. Raises ConnectionError where it was closed."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=headers or {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            status, raw = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, raw = error.code, error.read()
    try:
        return status, json.loads(raw)
    except ValueError:
        return status, raw.decode()


def wait_until(condition: Callable[[], Any], *, seconds: float = 10.0) -> Any:
    """Poll until the condition is truthy, and return it. Fails the test otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@dataclass(slots=True)
class Delivered:
    headers: dict[str, str]
    body: bytes

    @property
    def topic(self) -> str:
        return self.headers["X-Shopify-Topic"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Receiver:
    url: str = ""
    deliveries: list[Delivered] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # of the next answers; then 200
    always: int = 200

    def next_status(self) -> int:
        return self.statuses.pop(0) if self.statuses else self.always

    def of(self, topic: str) -> list[Delivered]:
        return [one for one in self.deliveries if one.topic == topic]


class StoreClient:
    """One store, spoken to in all roles."""

    def __init__(self, base: str, made: dict[str, Any]) -> None:
        self.handle: str = made["handle"]
        self.secret: str = made["client_secret"]
        self.client_id: str = made["client_id"]
        self.token: str = made["access_token"]
        self.url = f"{base}/{self.handle}"
        self.control = f"{base}/_control/stores/{self.handle}"
        self.locations = {one["name"]: one["gid"] for one in made["locations"]}
        self.items: dict[str, str] = {}

    # --- operator

    def add_variants(self, variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
        status, rows = call("POST", f"{self.control}/variants", variants)
        assert status == 200, rows
        for row in rows:
            self.items[row["sku"]] = f"gid://shopify/InventoryItem/{row['inventory_item_id']}"
        return list(rows)

    def set_faults(self, **switches: Any) -> None:
        status, answer = call("PUT", f"{self.control}/faults", switches)
        assert status == 200, answer

    def configure(self, **settings: Any) -> None:
        status, answer = call("PATCH", self.control, settings)
        assert status == 200, answer

    def shelf(self) -> dict[str, Any]:
        return dict(call("GET", f"{self.control}/shelf")[1])

    def level(self, sku: str, location: str = "Main") -> dict[str, Any]:
        variant = next(v for v in self.shelf()["variants"] if v["sku"] == sku)
        return next(dict(level) for level in variant["levels"] if level["location"] == location)

    def available(self, sku: str, location: str = "Main") -> int:
        return int(self.level(sku, location)["available"])

    def changes(self, after: int = 0) -> list[dict[str, Any]]:
        return list(call("GET", f"{self.control}/changes?after={after}")[1]["changes"])

    def stats(self) -> dict[str, Any]:
        return dict(call("GET", f"{self.control}/stats")[1])

    # --- shopper and staff

    def post(self, path: str, body: object = None) -> tuple[int, Any]:
        return call("POST", f"{self.url}{path}", {} if body is None else body)

    def buy(self, sku: str, quantity: int = 1, **more: Any) -> dict[str, Any]:
        status, order = self.post("/shop/orders", {"lines": [{"sku": sku, "quantity": quantity}]} | more)
        assert status == 201, order
        return dict(order)

    # --- app

    def send(self, query: str, variables: dict[str, Any] | None = None) -> tuple[int, Any]:
        body = {"query": query, "variables": variables or {}}
        headers = {"X-Shopify-Access-Token": self.token, "Content-Type": "application/json"}
        return call("POST", f"{self.url}/admin/api/2026-10/graphql.json", body, headers)

    def ask(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        status, answer = self.send(query, variables)
        assert status == 200, answer
        assert "errors" not in answer, answer
        return dict(answer["data"])

    def row(self, sku: str, quantity: int, expected: int | None, location: str = "Main") -> dict[str, Any]:
        return {
            "inventoryItemId": self.items[sku],
            "locationId": self.locations[location],
            "quantity": quantity,
            "changeFromQuantity": expected,
        }

    def set(self, rows: list[dict[str, Any]], *, key: str | None = None, **input: Any) -> dict[str, Any]:
        """inventorySetQuantities of `available`; the payload."""
        return dict(self.ask(SET, self.set_variables(rows, key=key, **input))["inventorySetQuantities"])

    def set_variables(self, rows: list[dict[str, Any]], *, key: str | None = None, **input: Any) -> dict[str, Any]:
        chosen = {"name": "available", "reason": "correction", "quantities": rows} | input
        return {"input": chosen, "key": key or new_key()}

    def adjust(self, rows: list[dict[str, Any]], *, key: str | None = None, **input: Any) -> dict[str, Any]:
        chosen = {"name": "available", "reason": "correction", "changes": rows} | input
        variables = {"input": chosen, "key": key or new_key()}
        return dict(self.ask(ADJUST, variables)["inventoryAdjustQuantities"])

    def subscribe(self, topic: str, uri: str, **input: Any) -> dict[str, Any]:
        data = self.ask(SUBSCRIBE, {"topic": topic, "input": {"uri": uri} | input})
        payload = dict(data["webhookSubscriptionCreate"])
        assert payload["userErrors"] == [], payload
        return dict(payload["webhookSubscription"])


def new_key() -> str:
    return f"key-{next(_keys)}"


def codes(payload: dict[str, Any]) -> list[str | None]:
    return [error["code"] for error in payload["userErrors"]]
