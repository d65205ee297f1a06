"""Orders read over GraphQL, each as the JSON that `orders/polled` events carry.

Most orders fit one request with many others. One with longer lists is read again on its own with wide
sizes; if that is too dear or still not enough, list by list, and taken only if it did not change meanwhile,
so that its body is one state and not pieces of two.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from channels.connectors.shopify import documents
from channels.connectors.shopify.client import ShopifyClient
from channels.connectors.shopify.documents import CAREFUL, GENEROUS, WIDE, Document, OrderSizes
from channels.connectors.shopify.parsing import (
    JsonObject,
    read_moment,
    read_object,
    read_objects,
    read_remote_id,
)
from channels.connectors.shopify.reading import (
    MAX_COST_EXCEEDED,
    PAGES_MAX,
    checking_answer,
    gid,
    next_cursor,
    read_nodes,
)
from channels.protocol import VERSION_IS_FINAL_AFTER, MalformedEvent, OrderPage, PolledOrder, Refused, Unavailable

_LONG_READ_TRIES = 3


class OrderReader:
    """Reads orders with lists as long as the store lets a request be."""

    def __init__(self, client: ShopifyClient) -> None:
        self._client = client
        self._sizes = GENEROUS
        self._is_wide_affordable = True

    def read_since(self, since: datetime, cursor: str | None) -> OrderPage:
        """A page of the orders changed at `since` or later, oldest change first."""
        moment = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # whole seconds, downwards

        def ask(sizes: OrderSizes) -> JsonObject:
            variables = {"first": sizes.orders, "after": cursor, "query": f"updated_at:>='{moment}'"}
            return self._client.query(
                documents.ORDERS_SINCE, variables | sizes.variables(), size=sizes.orders * sizes.lines
            )

        with checking_answer("its orders"):
            read_at = datetime.now(UTC)
            connection = read_object(self._fitting(ask).get("orders"), "orders")
            nodes = read_objects(connection.get("nodes"), "orders.nodes")
            return OrderPage(self._polled(nodes, read_at), next_cursor(connection, "orders"))

    def read(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
        """These orders as of now; those the store does not show (deleted, too old) are left out."""
        ids = [gid("Order", order_id) for order_id in dict.fromkeys(order_ids)]
        polled: list[PolledOrder] = []
        with checking_answer("its orders"):
            while ids:
                read_at = datetime.now(UTC)
                nodes = read_nodes(self._fitting(functools.partial(self._ask_for, ids)))
                ids = ids[self._sizes.orders :]
                polled += self._polled(nodes, read_at)
        return tuple(polled)

    def _ask_for(self, ids: list[str], sizes: OrderSizes) -> JsonObject:
        batch = ids[: sizes.orders]
        return self._client.query(documents.ORDERS, {"ids": batch} | sizes.variables(), size=len(batch) * sizes.lines)

    def _fitting(self, ask: Callable[[OrderSizes], JsonObject]) -> JsonObject:
        """The answer, with careful sizes from the moment the generous ones prove too dear."""
        try:
            return ask(self._sizes)
        except Refused as refusal:
            if refusal.code != MAX_COST_EXCEEDED or self._sizes is CAREFUL:
                raise
            self._sizes = CAREFUL
            return ask(CAREFUL)

    def _polled(self, nodes: Sequence[JsonObject], read_at: datetime) -> tuple[PolledOrder, ...]:
        whole = [self._read_long(node) if _is_cut(node, self._sizes) else node for node in nodes]
        return tuple(_polled_order(node, read_at) for node in whole if node is not None)

    def _read_long(self, node: JsonObject) -> JsonObject | None:
        """The whole of an order that was cut; None when it is gone."""
        order_gid = gid("Order", read_remote_id(node.get("id"), "order.id", kind="Order"))
        if self._is_wide_affordable:
            try:
                found = read_nodes(self._ask_for([order_gid], WIDE))
            except Refused as refusal:
                if refusal.code != MAX_COST_EXCEEDED:
                    raise
                self._is_wide_affordable = False
            else:
                if not found or not _is_cut(found[0], WIDE):
                    return found[0] if found else None
        return self._read_list_by_list(order_gid)

    def _read_list_by_list(self, order_gid: str) -> JsonObject | None:
        for _ in range(_LONG_READ_TRIES):
            head = self._read_head(order_gid)
            if head is None:
                return None
            order = self._read_lists(order_gid, head)
            head_after = self._read_head(order_gid)
            if head_after is not None and head_after.get("updatedAt") == head.get("updatedAt"):
                return order
        raise Unavailable("A long order keeps changing while it is read.", code="ORDER_CHANGING")

    def _read_head(self, order_gid: str) -> JsonObject | None:
        found = read_nodes(self._client.query(documents.ORDER_HEAD, {"ids": [order_gid]}))
        return found[0] if found else None

    def _read_lists(self, order_gid: str, head: JsonObject) -> JsonObject:
        """The order with all its lists, in the form of the ordinary read."""
        places = [
            place | {"lineItems": {"nodes": self._read_list(documents.FULFILLMENT_ORDER_LINES, place.get("id"))}}
            for place in self._read_list(documents.FULFILLMENT_ORDERS, order_gid)
        ]
        return head | {
            "lineItems": {"nodes": self._read_list(documents.ORDER_LINES, order_gid)},
            "fulfillmentOrders": {"nodes": places},
            "fulfillments": [
                shipment
                | {"fulfillmentLineItems": {"nodes": self._read_list(documents.FULFILLMENT_LINES, shipment.get("id"))}}
                for shipment in read_objects(head.get("fulfillments"), "fulfillments")
            ],
            "refunds": [
                refund | {"refundLineItems": {"nodes": self._read_list(documents.REFUND_LINES, refund.get("id"))}}
                for refund in read_objects(head.get("refunds"), "refunds")
            ],
        }

    def _read_list(self, document: Document, node_gid: Any) -> list[JsonObject]:
        nodes: list[JsonObject] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            found = read_nodes(self._client.query(document, {"ids": [node_gid], "after": cursor}))
            if not found:
                raise Unavailable("A part of a long order is not shown any more.", code="ORDER_CHANGING")
            page = read_object(found[0].get("list"), document.name)
            nodes += read_objects(page.get("nodes"), f"{document.name}.nodes")
            cursor = next_cursor(page, document.name)
            if cursor is None:
                return nodes
        raise MalformedEvent(f"{document.name}: expected the pages to end, found ever more", code="malformed")


def _is_cut(order: JsonObject, sizes: OrderSizes) -> bool:
    """Whether one of the lists went on beyond what was asked for.

    Those without a cursor tell by being full.
    """
    fulfillments = read_objects(order.get("fulfillments"), "fulfillments")
    refunds = read_objects(order.get("refunds"), "refunds")
    if len(fulfillments) >= sizes.fulfillments or len(refunds) >= sizes.refunds:
        return True
    places = read_object(order.get("fulfillmentOrders"), "fulfillmentOrders")
    connections = [
        (order.get("lineItems"), "lineItems"),
        (places, "fulfillmentOrders"),
        *((shipment.get("fulfillmentLineItems"), "fulfillmentLineItems") for shipment in fulfillments),
        *((refund.get("refundLineItems"), "refundLineItems") for refund in refunds),
        *((place.get("lineItems"), "lineItems") for place in read_objects(places.get("nodes"), "fulfillmentOrders")),
    ]
    return any(next_cursor(read_object(connection, where), where) for connection, where in connections)


def _polled_order(node: JsonObject, read_at: datetime) -> PolledOrder:
    version = read_moment(node.get("updatedAt"), "order.updatedAt")
    told = json.dumps(node, separators=(",", ":"), sort_keys=True).encode()
    is_final = read_at >= version + VERSION_IS_FINAL_AFTER
    return PolledOrder(
        order_id=read_remote_id(node.get("id"), "order.id", kind="Order"),
        version=version,
        body=json.dumps(node | {"readAt": read_at.isoformat()}, separators=(",", ":")).encode(),
        fingerprint=hashlib.sha256(told).hexdigest()[:16] + ("!" if is_final else ""),
    )
