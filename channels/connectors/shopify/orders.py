"""Orders, as webhooks tell them and as the GraphQL read shows them, into one `OrderState`.

Both shapes are first reduced to the same three plain lists (lines, shipments, refunds), so that a webhook and
a poll of the same order give the same state and one decides what they mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from channels.connectors.shopify.parsing import (
    JsonObject,
    malformed,
    read_flag,
    read_moment,
    read_moment_or_none,
    read_object,
    read_objects,
    read_objects_or_none,
    read_remote_id,
    read_text,
    read_units,
)
from channels.protocol import LineState, OrderState, RefundedUnits, RefundMade, Restock, UnitsAt

#: A fulfilment counts as shipped only when it succeeded. `pending` and `open` (legacy) are requests to a
#: fulfilment service that it may still decline; Shopify counts their units apart from the fulfilled ones.
#: `available` is the same either way (it fell at the sale), only `committed` and `on_hand` move at the
#: shipment.
_SHIPPED = "success"

#: Fulfilment orders in these states no longer claim units at their location.
_IDLE_ASSIGNMENTS = ("CANCELLED", "INCOMPLETE")

_RESTOCKS = {
    "cancel": Restock.CANCEL,
    "return": Restock.RETURN,
    "no_restock": Restock.NONE,
    "legacy_restock": Restock.LEGACY,
}


@dataclass(slots=True)
class _Line:
    line_id: str
    variant_id: str
    sku: str
    ordered: int
    current: int | None


@dataclass(slots=True)
class _Shipments:
    """Units per line that left, and from where."""

    units: dict[str, int] = field(default_factory=dict)
    places: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, line_id: str, *, units: int, location_id: str | None) -> None:
        self.units[line_id] = self.units.get(line_id, 0) + units
        if location_id is not None:
            _count(self.places, line_id, location_id, units)


def _count(places: dict[str, dict[str, int]], line_id: str, location_id: str, units: int) -> None:
    of_line = places.setdefault(line_id, {})
    of_line[location_id] = of_line.get(location_id, 0) + units


# --- webhooks -----------------------------------------------------------------------------------------------


def read_order(document: JsonObject) -> OrderState:
    """The order in the body of any `orders/...` webhook that carries the whole order."""
    lines = [
        _read_line(line, f"line_items[{n}]")
        for n, line in enumerate(read_objects(document.get("line_items"), "line_items"))
    ]
    shipments = _read_shipments(document)
    refunds: list[RefundedUnits] = []
    for n, refund in enumerate(read_objects_or_none(document.get("refunds"), "refunds")):
        refunds += _read_refund(refund, f"refunds[{n}].")
    return OrderState(
        order_id=read_remote_id(document.get("id"), "id", kind="Order"),
        name=read_text(document.get("name"), "name"),
        version=read_moment(document.get("updated_at"), "updated_at"),
        created_at=read_moment(document.get("created_at"), "created_at"),
        cancelled_at=read_moment_or_none(document.get("cancelled_at"), "cancelled_at"),
        is_test=read_flag(document.get("test", False), "test"),
        lines=_line_states(lines, shipments, {}),
        refunds=tuple(refunds),
    )


def read_refund(document: JsonObject) -> RefundMade:
    """The refund in the body of `refunds/create`."""
    return RefundMade(
        order_id=read_remote_id(document.get("order_id"), "order_id", kind="Order"),
        refunds=tuple(_read_refund(document, "")),
    )


def _read_line(line: JsonObject, where: str) -> _Line:
    variant_id = line.get("variant_id")
    current = line.get("current_quantity")
    return _Line(
        line_id=read_remote_id(line.get("id"), f"{where}.id", kind="LineItem"),
        variant_id="" if variant_id is None else read_remote_id(variant_id, f"{where}.variant_id"),
        sku=read_text(line.get("sku"), f"{where}.sku"),
        ordered=read_units(line.get("quantity"), f"{where}.quantity"),
        current=None if current is None else read_units(current, f"{where}.current_quantity"),
    )


def _read_shipments(document: JsonObject) -> _Shipments:
    shipments = _Shipments()
    for n, fulfillment in enumerate(read_objects_or_none(document.get("fulfillments"), "fulfillments")):
        if fulfillment.get("status") != _SHIPPED:
            continue
        where = f"fulfillments[{n}]"
        location = fulfillment.get("location_id")
        location_id = None if location is None else read_remote_id(location, f"{where}.location_id")
        for m, line in enumerate(read_objects_or_none(fulfillment.get("line_items"), f"{where}.line_items")):
            shipments.add(
                read_remote_id(line.get("id"), f"{where}.line_items[{m}].id"),
                units=read_units(line.get("quantity"), f"{where}.line_items[{m}].quantity"),
                location_id=location_id,
            )
    return shipments


def _read_refund(refund: JsonObject, where: str) -> list[RefundedUnits]:
    occurred_at = read_moment(refund.get("created_at"), f"{where}created_at")
    refunded = []
    for n, units in enumerate(read_objects_or_none(refund.get("refund_line_items"), f"{where}refund_line_items")):
        here = f"{where}refund_line_items[{n}]"
        location = units.get("location_id")
        refunded.append(
            RefundedUnits(
                refund_id=read_remote_id(units.get("id"), f"{here}.id"),
                line_id=read_remote_id(units.get("line_item_id"), f"{here}.line_item_id"),
                quantity=read_units(units.get("quantity"), f"{here}.quantity"),
                restock=_read_restock(units.get("restock_type"), f"{here}.restock_type"),
                location_id=None if location is None else read_remote_id(location, f"{here}.location_id"),
                occurred_at=occurred_at,
            )
        )
    return refunded


# --- the GraphQL read ---------------------------------------------------------------------------------------


def read_polled_order(node: JsonObject) -> OrderState:
    """The order in a node of the GraphQL read (`documents.ORDERS` and `documents.ORDERS_SINCE`)."""
    lines = [_read_line_node(line, f"lineItems[{n}]") for n, line in enumerate(_nodes(node, "lineItems"))]
    shipments = _read_shipment_nodes(node)
    refunds: list[RefundedUnits] = []
    for n, refund in enumerate(read_objects(node.get("refunds"), "refunds")):
        refunds += _read_refund_node(refund, f"refunds[{n}]")
    return OrderState(
        order_id=read_remote_id(node.get("id"), "id", kind="Order"),
        name=read_text(node.get("name"), "name"),
        version=read_moment(node.get("updatedAt"), "updatedAt"),
        created_at=read_moment(node.get("createdAt"), "createdAt"),
        cancelled_at=read_moment_or_none(node.get("cancelledAt"), "cancelledAt"),
        is_test=read_flag(node.get("test"), "test"),
        lines=_line_states(lines, shipments, _read_assignments(node)),
        refunds=tuple(refunds),
        read_at=read_moment_or_none(node.get("readAt"), "readAt"),
    )


def _nodes(parent: JsonObject, name: str, where: str = "") -> list[JsonObject]:
    connection = read_object(parent.get(name), f"{where}{name}")
    return read_objects(connection.get("nodes"), f"{where}{name}.nodes")


def _linked_id(value: object, where: str, *, kind: str) -> str | None:
    """The id of a linked object such as `variant { id }`; None when there is none."""
    if value is None:
        return None
    return read_remote_id(read_object(value, where).get("id"), f"{where}.id", kind=kind)


def _line_id(node: JsonObject, where: str) -> str:
    linked = read_object(node.get("lineItem"), f"{where}.lineItem")
    return read_remote_id(linked.get("id"), f"{where}.lineItem.id", kind="LineItem")


def _read_line_node(line: JsonObject, where: str) -> _Line:
    return _Line(
        line_id=read_remote_id(line.get("id"), f"{where}.id", kind="LineItem"),
        variant_id=_linked_id(line.get("variant"), f"{where}.variant", kind="ProductVariant") or "",
        sku=read_text(line.get("sku"), f"{where}.sku"),
        ordered=read_units(line.get("quantity"), f"{where}.quantity"),
        current=read_units(line.get("currentQuantity"), f"{where}.currentQuantity"),
    )


def _read_shipment_nodes(node: JsonObject) -> _Shipments:
    shipments = _Shipments()
    for n, fulfillment in enumerate(read_objects(node.get("fulfillments"), "fulfillments")):
        if fulfillment.get("status") != _SHIPPED.upper():
            continue
        where = f"fulfillments[{n}]."
        location_id = _linked_id(fulfillment.get("location"), f"{where}location", kind="Location")
        for m, line in enumerate(_nodes(fulfillment, "fulfillmentLineItems", where)):
            here = f"{where}fulfillmentLineItems[{m}]"
            units = line.get("quantity")  # nullable in the schema
            shipments.add(
                _line_id(line, here),
                units=0 if units is None else read_units(units, f"{here}.quantity"),
                location_id=location_id,
            )
    return shipments


def _read_refund_node(refund: JsonObject, where: str) -> list[RefundedUnits]:
    occurred_at = read_moment(refund.get("createdAt") or refund.get("processedAt"), f"{where}.createdAt")
    refunded = []
    for n, units in enumerate(_nodes(refund, "refundLineItems", f"{where}.")):
        here = f"{where}.refundLineItems[{n}]"
        restock = units.get("restockType")
        refunded.append(
            RefundedUnits(
                refund_id=read_remote_id(units.get("id"), f"{here}.id", kind="RefundLineItem"),
                line_id=_line_id(units, here),
                quantity=read_units(units.get("quantity"), f"{here}.quantity"),
                restock=_read_restock(restock.lower() if type(restock) is str else restock, f"{here}.restockType"),
                location_id=_linked_id(units.get("location"), f"{here}.location", kind="Location"),
                occurred_at=occurred_at,
            )
        )
    return refunded


def _read_assignments(node: JsonObject) -> dict[str, dict[str, int]]:
    """How many units of each line are assigned to which location, those that left from there included.

    Idle assignments count only for a line that has no other: they tell where its units had been.
    """
    working: dict[str, dict[str, int]] = {}
    idle: dict[str, dict[str, int]] = {}
    for n, order in enumerate(_nodes(node, "fulfillmentOrders")):
        where = f"fulfillmentOrders[{n}]."
        assigned = read_object(order.get("assignedLocation"), f"{where}assignedLocation")
        location_id = _linked_id(assigned.get("location"), f"{where}assignedLocation.location", kind="Location")
        if location_id is None:
            continue
        claims = idle if order.get("status") in _IDLE_ASSIGNMENTS else working
        for m, line in enumerate(_nodes(order, "lineItems", where)):
            here = f"{where}lineItems[{m}]"
            units = read_units(line.get("totalQuantity"), f"{here}.totalQuantity")
            _count(claims, _line_id(line, here), location_id, units)
    return idle | working


# --- what both mean -----------------------------------------------------------------------------------------


def _read_restock(value: object, where: str) -> Restock:
    if type(value) is not str:
        malformed(where, "a kind of restocking", value)
    # A kind not known yet counts as "not available again": too little stock is the safe mistake.
    return _RESTOCKS.get(value, Restock.NONE)


def _line_states(
    lines: list[_Line], shipments: _Shipments, assignments: dict[str, dict[str, int]]
) -> tuple[LineState, ...]:
    return tuple(
        LineState(
            line_id=line.line_id,
            variant_id=line.variant_id,
            sku=line.sku,
            ordered=line.ordered,
            current=line.current,
            shipped=min(shipments.units.get(line.line_id, 0), line.ordered),
            location_id=_only_location(assignments.get(line.line_id, {})),
            places=_units_at(assignments.get(line.line_id, {})),
            shipped_from=_units_at(shipments.places.get(line.line_id, {})),
        )
        for line in lines
    )


def _only_location(places: dict[str, int]) -> str | None:
    return next(iter(places)) if len(places) == 1 else None


def _units_at(places: dict[str, int]) -> UnitsAt:
    """Places at which nothing is left only where nothing is left at all: they tell where the line's home is."""
    return tuple(sorted((place, units) for place, units in places.items() if units or not any(places.values())))
