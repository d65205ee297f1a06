"""Commands of shoppers and of the staff who look after their orders. Pure.

A sale takes its units at once: available -n, committed +n. Shipping takes them out of the building:
committed -n. What a cancel, a refund or an edit puts back depends on how it is asked for, as in the real
thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from channels.sandbox.records import (
    Fulfillment,
    FulfillmentOrder,
    Level,
    Order,
    OrderEdit,
    OrderLine,
    Refund,
    RefundLine,
    Variant,
)
from channels.sandbox.store import Refusal, Store

RESTOCK_TYPES = ("cancel", "return", "no_restock")
CANCEL_REASONS = ("customer", "inventory", "fraud", "declined", "staff", "other")


@dataclass(frozen=True, slots=True)
class Taking:
    """Units of one variant and the location they come from (None: not counted)."""

    variant: Variant
    quantity: int
    location_id: int | None


def place_order(
    store: Store,
    now_us: int,
    *,
    lines: list[dict[str, Any]],
    location: str | None = None,
    source: str = "web",
) -> dict[str, Any]:
    """Sell all lines or none. Raises Refusal `sold_out` (409) where a DENY variant has too few."""
    takings = _takings(store, lines, location)
    event = store.new_event()
    number = store.next_order_number
    store.next_order_number += 1
    order = Order(store.new_id(), number, now_us, [], [], [], source=source)
    for taking in takings:
        _add_line(store, order, taking, event, cause="order", by_edit=False)
    store.orders[order.id] = order
    store.touch_order(order)
    store.count("orders")
    store.announce("orders/create", ("order", order.id, 0), event)
    store.announce("orders/paid", ("order", order.id, 0), event)
    return {
        "id": order.id,
        "name": order.name,
        "at_us": now_us,
        "lines": [_shown(line) for line in order.lines],
    }


def _shown(line: OrderLine) -> dict[str, Any]:
    return {
        "id": line.id,
        "sku": line.sku,
        "variant_id": line.variant_id,
        "quantity": line.quantity,
        "location_id": line.location_id,
    }


def _takings(store: Store, lines: list[dict[str, Any]], location: str | None) -> list[Taking]:
    """Decide where every line comes from, counting what earlier lines of the same order take. Changes
    nothing.
    """
    if not lines:
        raise Refusal("an order needs lines", code="empty")
    taken: dict[tuple[int, int], int] = {}
    takings: list[Taking] = []
    for row in lines:
        quantity = row.get("quantity", 1)
        if type(quantity) is not int or not 0 < quantity <= 1_000_000:
            raise Refusal("quantity must be a whole number above zero")
        variant = store.variant_named(sku=row.get("sku"), variant_id=row.get("variant_id"))
        for part, units in _parts(store, variant):
            place = _place_for(store, part, units * quantity, location, taken)
            if place is not None:
                taken[part.item_id, place] = taken.get((part.item_id, place), 0) + units * quantity
            takings.append(Taking(part, units * quantity, place))
    return takings


def _parts(store: Store, variant: Variant) -> list[tuple[Variant, int]]:
    """A bundle is sold as its components, everything else as itself."""
    if not variant.components:
        return [(variant, 1)]
    return [(store.variant_named(sku=sku), units) for sku, units in variant.components.items()]


def _place_for(
    store: Store, variant: Variant, quantity: int, location: str | None, taken: dict[tuple[int, int], int]
) -> int | None:
    if not variant.tracked:
        return None
    wanted = store.location_named(location).id if location is not None else None
    candidates = [
        level
        for level in store.levels_of(variant.item_id).values()
        if level.active
        and store.locations[level.location_id].active
        and (wanted is None or level.location_id == wanted)
    ]
    for level in candidates:
        if level.available - taken.get((level.item_id, level.location_id), 0) >= quantity:
            return level.location_id
    if variant.policy == "DENY" or not candidates:
        raise Refusal(f"{variant.sku} is sold out", code="sold_out", status=409)
    return candidates[0].location_id


def _add_line(store: Store, order: Order, taking: Taking, event: str, *, cause: str, by_edit: bool) -> OrderLine:
    variant = taking.variant
    line = OrderLine(
        id=store.new_id(),
        variant_id=variant.id,
        item_id=variant.item_id,
        product_id=variant.product_id,
        location_id=taking.location_id,
        sku=variant.sku,
        title=store.products[variant.product_id].title,
        price=variant.price,
        quantity=taking.quantity,
        current_quantity=taking.quantity,
        added_by_edit=by_edit,
    )
    order.lines.append(line)
    variant.units_sold += taking.quantity
    store.count("units_sold", taking.quantity)
    if taking.location_id is not None:
        level = store.levels[variant.item_id, taking.location_id]
        store.change_level(
            level,
            cause=cause,
            event=event,
            available=-taking.quantity,
            committed=taking.quantity,
            order_id=order.id,
        )
    _put_into_fulfillment_order(store, order, line)
    return line


def _put_into_fulfillment_order(store: Store, order: Order, line: OrderLine) -> None:
    place = line.location_id if line.location_id is not None else next(iter(store.locations), 0)
    wanted = next((f for f in order.fulfillment_orders if f.location_id == place), None)
    if wanted is None:
        wanted = FulfillmentOrder(store.new_id(), order.id, place, store.now_us, [])
        order.fulfillment_orders.append(wanted)
    wanted.lines.append((store.new_id(), line.id))


def move_order(store: Store, now_us: int, *, order_id: int, location: str) -> dict[str, Any]:
    """Have another location ship the lines of which nothing was shipped yet; both counters follow at once."""
    order = store.order_numbered(order_id)
    place = store.location_named(location)
    moving = [
        line
        for line in order.lines
        if line.location_id not in (None, place.id) and line.unfulfilled and not line.fulfilled
    ]
    for line in moving:
        level = store.levels.get((line.item_id, place.id))
        if level is None or not level.active:
            raise Refusal(f"{place.name} does not stock {line.sku}", code="not_stocked", status=409)
    if not moving:
        raise Refusal(f"order {order.name} has nothing to move to {place.name}", code="nothing_to_move", status=409)
    event = store.new_event()
    for line in moving:
        _move_line(store, order, line, place.id, event)
    store.touch_order(order)
    store.announce("orders/updated", ("order", order.id, 0), event)
    return {"id": order.id, "at_us": now_us, "lines": [_shown(line) for line in order.lines]}


def _move_line(store: Store, order: Order, line: OrderLine, place: int, event: str) -> None:
    units = line.unfulfilled
    before = _level_of(store, line)
    if before is not None:
        store.change_level(before, cause="move", event=event, available=units, committed=-units, order_id=order.id)
    store.change_level(
        store.levels[line.item_id, place],
        cause="move",
        event=event,
        available=-units,
        committed=units,
        order_id=order.id,
    )
    line.location_id = place
    for wanted in order.fulfillment_orders:
        wanted.lines = [(own, line_id) for own, line_id in wanted.lines if line_id != line.id]
    order.fulfillment_orders = [wanted for wanted in order.fulfillment_orders if wanted.lines]
    _put_into_fulfillment_order(store, order, line)


def cancel_order(
    store: Store, now_us: int, *, order_id: int, restock: bool = True, reason: str = "customer"
) -> dict[str, Any]:
    """Cancel an order nothing of which was shipped. Its open units are refunded, restocked or not."""
    order = store.order_numbered(order_id)
    if order.cancelled_us is not None:
        raise Refusal(f"order {order.name} is cancelled already", code="cancelled", status=409)
    if any(line.fulfilled for line in order.lines):
        raise Refusal(f"order {order.name} was shipped; refund it instead", code="fulfilled", status=409)
    if reason not in CANCEL_REASONS:
        raise Refusal(f"reason must be one of {', '.join(CANCEL_REASONS)}")
    event = store.new_event()
    restock_type = "cancel" if restock else "no_restock"
    open_lines = [
        (line, line.current_quantity, restock_type, line.location_id) for line in order.lines if line.current_quantity
    ]
    order.cancelled_us = now_us
    order.cancel_reason = reason
    if open_lines:
        _book_refund(store, order, open_lines, event, cause="cancel", note="")
    store.touch_order(order)
    store.count("orders_cancelled")
    store.announce("orders/cancelled", ("order", order.id, 0), event)
    store.announce("orders/updated", ("order", order.id, 0), event)
    return {"id": order.id, "at_us": now_us, "cancelled": True, "restock": restock}


def refund_order(
    store: Store, now_us: int, *, order_id: int, lines: list[dict[str, Any]], note: str = ""
) -> dict[str, Any]:
    """Refund units: `cancel` (unshipped, back to available), `return` (shipped, came back), `no_restock`.

    They are put back at `location`, or else where they were taken from.
    """
    order = store.order_numbered(order_id)
    wanted = [_checked_refund(store, order, row) for row in lines]
    if not wanted:
        raise Refusal("a refund needs lines", code="empty")
    per_line: dict[int, int] = {}
    for line, quantity, _, _ in wanted:
        per_line[line.id] = per_line.get(line.id, 0) + quantity
        if per_line[line.id] > line.current_quantity:
            raise Refusal(f"line {line.id} has only {line.current_quantity} units left to refund", status=409)
    event = store.new_event()
    refund = _book_refund(store, order, wanted, event, cause="refund", note=note)
    store.touch_order(order)
    store.announce("orders/updated", ("order", order.id, 0), event)
    return {"id": order.id, "refund_id": refund.id, "at_us": now_us}


def _line_named(order: Order, row: dict[str, Any]) -> OrderLine:
    tail = str(row.get("line_id")).rsplit("/", 1)[-1]
    line = order.line(int(tail)) if tail.isascii() and tail.isdigit() else None
    if line is None:
        raise Refusal(f"order {order.name} has no line {row.get('line_id')!r}", status=404)
    return line


def _checked_refund(store: Store, order: Order, row: dict[str, Any]) -> tuple[OrderLine, int, str, int | None]:
    line = _line_named(order, row)
    quantity = row.get("quantity", line.current_quantity)
    if type(quantity) is not int or quantity <= 0:
        raise Refusal("quantity must be a whole number above zero")
    restock_type = row.get("restock_type", "no_restock")
    if restock_type not in RESTOCK_TYPES:
        raise Refusal(f"restock_type must be one of {', '.join(RESTOCK_TYPES)}")
    if restock_type == "cancel" and quantity > line.unfulfilled:
        raise Refusal(f"line {line.id} has only {line.unfulfilled} unshipped units to cancel", status=409)
    if restock_type == "return" and quantity > line.fulfilled:
        raise Refusal(f"line {line.id} has only {line.fulfilled} shipped units to return", status=409)
    return line, quantity, restock_type, _restocked_at(store, line, row.get("location"))


def _restocked_at(store: Store, line: OrderLine, wanted: object) -> int | None:
    """Where units of the line go back to; None for what is not counted."""
    if wanted is None or line.location_id is None:
        return line.location_id
    place = store.location_named(wanted)
    level = store.levels.get((line.item_id, place.id))
    if level is None or not level.active:
        raise Refusal(f"{place.name} does not stock {line.sku}", code="not_stocked", status=409)
    return place.id


def _book_refund(
    store: Store,
    order: Order,
    wanted: list[tuple[OrderLine, int, str, int | None]],
    event: str,
    *,
    cause: str,
    note: str,
) -> Refund:
    refund = Refund(store.new_id(), order.id, store.now_us, note, [])
    for line, quantity, restock_type, back_at in wanted:
        place = back_at if restock_type != "no_restock" else None
        refund.lines.append(RefundLine(store.new_id(), line.id, quantity, restock_type, place))
        unshipped = min(quantity, line.unfulfilled) if restock_type != "return" else 0
        line.current_quantity -= quantity
        if restock_type == "return" or quantity > unshipped:
            line.fulfilled = max(0, line.fulfilled - (quantity - unshipped))
        _put_back(
            store,
            order,
            line,
            event,
            cause=cause,
            restocked=quantity if restock_type != "no_restock" else 0,
            released=unshipped,
            place=back_at,
        )
    order.refunds.append(refund)
    store.count("refunds")
    store.announce("refunds/create", ("refund", order.id, refund.id), event)
    return refund


def _put_back(
    store: Store,
    order: Order,
    line: OrderLine,
    event: str,
    *,
    cause: str,
    restocked: int,
    released: int,
    place: int | None,
) -> None:
    """Return `restocked` units to available at the place and take `released` units out of committed where they were."""
    level = _level_of(store, line)
    variant = store.variants.get(line.variant_id)
    if variant is not None:
        variant.units_restocked += restocked
    store.count("units_restocked", restocked)
    back_at = store.levels.get((line.item_id, place)) if place is not None else None
    if back_at is not None and back_at is not level and restocked:
        store.change_level(back_at, cause=cause, event=event, available=restocked, order_id=order.id)
        restocked = 0
    if level is not None and (restocked or released):
        store.change_level(level, cause=cause, event=event, available=restocked, committed=-released, order_id=order.id)


def _level_of(store: Store, line: OrderLine) -> Level | None:
    """Where the line was taken from; None for what is not counted or was deleted since."""
    if line.location_id is None:
        return None
    return store.levels.get((line.item_id, line.location_id))


def fulfill_order(
    store: Store, now_us: int, *, order_id: int, lines: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Ship the open units, or those of `lines` ({line_id, quantity})."""
    order = store.order_numbered(order_id)
    if order.cancelled_us is not None:
        raise Refusal(f"order {order.name} is cancelled", code="cancelled", status=409)
    if lines is None:
        wanted = [(line, line.unfulfilled) for line in order.lines if line.unfulfilled]
    else:
        wanted = [_checked_shipment(order, row) for row in lines]
    if not wanted:
        raise Refusal(f"order {order.name} has nothing left to ship", code="fulfilled", status=409)
    event = store.new_event()
    for place in dict.fromkeys(line.location_id for line, _ in wanted):
        _ship_from(store, order, place, [(line, n) for line, n in wanted if line.location_id == place], event)
    store.touch_order(order)
    open_units = sum(line.unfulfilled for line in order.lines)
    store.announce("orders/partially_fulfilled" if open_units else "orders/fulfilled", ("order", order.id, 0), event)
    store.announce("orders/updated", ("order", order.id, 0), event)
    return {"id": order.id, "at_us": now_us}


def _checked_shipment(order: Order, row: dict[str, Any]) -> tuple[OrderLine, int]:
    line = _line_named(order, row)
    quantity = row.get("quantity", line.unfulfilled)
    if type(quantity) is not int or not 0 < quantity <= line.unfulfilled:
        raise Refusal(f"line {line.id} has {line.unfulfilled} units to ship", status=409)
    return line, quantity


def _ship_from(store: Store, order: Order, place: int | None, wanted: list[tuple[OrderLine, int]], event: str) -> None:
    rows = [(store.new_id(), line.id, quantity) for line, quantity in wanted]
    number = len(order.fulfillments) + 1
    fulfillment = Fulfillment(store.new_id(), order.id, number, store.now_us, place, rows)
    order.fulfillments.append(fulfillment)
    for line, quantity in wanted:
        line.fulfilled += quantity
        level = _level_of(store, line)
        if level is not None:
            store.change_level(level, cause="fulfill", event=event, committed=-quantity, order_id=order.id)
    store.announce("fulfillments/create", ("fulfillment", order.id, fulfillment.id), event)


def edit_order(
    store: Store,
    now_us: int,
    *,
    order_id: int,
    additions: list[dict[str, Any]] | None = None,
    removals: list[dict[str, Any]] | None = None,
    restock: bool = True,
) -> dict[str, Any]:
    """Add lines or units ({sku, quantity} or {line_id, quantity}) and remove unshipped units ({line_id,
    quantity}).
    """
    order = store.order_numbered(order_id)
    if order.cancelled_us is not None:
        raise Refusal(f"order {order.name} is cancelled", code="cancelled", status=409)
    fewer = [_checked_shipment(order, row) for row in removals or []]
    more = [_named_again(order, row) for row in additions or []]
    takings = _takings(store, more, None) if more else []
    if not fewer and not takings:
        raise Refusal("an edit needs additions or removals", code="empty")
    event = store.new_event()
    edit = OrderEdit(store.new_id(), order.id, now_us, [], [])
    for line, quantity in fewer:
        line.current_quantity -= quantity
        edit.removals.append((line.id, quantity))
        _put_back(
            store,
            order,
            line,
            event,
            cause="edit",
            restocked=quantity if restock else 0,
            released=quantity,
            place=line.location_id,
        )
    for taking in takings:
        added = _add_line(store, order, taking, event, cause="edit", by_edit=True)
        edit.additions.append((added.id, taking.quantity))
    order.edits.append(edit)
    store.touch_order(order)
    store.announce("orders/edited", ("edit", order.id, edit.id), event)
    store.announce("orders/updated", ("order", order.id, 0), event)
    return {"id": order.id, "at_us": now_us, "lines": [_shown(line) for line in order.lines]}


def _named_again(order: Order, row: dict[str, Any]) -> dict[str, Any]:
    """More of an existing line is a new line of the same variant."""
    if "line_id" not in row:
        return row
    return {"variant_id": _line_named(order, row).variant_id, "quantity": row.get("quantity", 1)}
