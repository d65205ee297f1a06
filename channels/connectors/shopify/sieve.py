"""Reading of a large body only what moves stock.

An order has six kilobytes or more, of which the engine uses some hundred bytes. msgspec checks the JSON and skips what is not
named here without making objects of it: a tenth of the time of reading everything. It judges no value: what is kept is of
type Any and goes through the same strict readers (`parsing`), and a body that does not fit is left to them whole, so that
their words name the field.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import msgspec

from channels.connectors.shopify.parsing import JsonObject


class _Line(TypedDict, total=False):
    id: Any
    variant_id: Any
    sku: Any
    quantity: Any
    current_quantity: Any


class _ShippedLine(TypedDict, total=False):
    id: Any
    quantity: Any


class _Fulfillment(TypedDict, total=False):
    status: Any
    location_id: Any
    line_items: list[_ShippedLine] | None


class _RefundedLine(TypedDict, total=False):
    fulfillment_status: Any


class _RefundLine(TypedDict, total=False):
    id: Any
    line_item_id: Any
    line_item: _RefundedLine | None
    quantity: Any
    restock_type: Any
    location_id: Any


class _Refund(TypedDict, total=False):
    order_id: Any
    created_at: Any
    refund_line_items: list[_RefundLine] | None


class _Order(TypedDict, total=False):
    id: Any
    name: Any
    updated_at: Any
    created_at: Any
    cancelled_at: Any
    test: Any
    line_items: list[_Line]
    fulfillments: list[_Fulfillment] | None
    refunds: list[_Refund] | None


Sieve = Callable[[bytes], JsonObject]

#: What `orders.read_order` and `orders.read_refund` look at; a test holds them to it.
ORDER: Sieve = msgspec.json.Decoder(_Order).decode  # type: ignore[assignment]  # a TypedDict is a dict
REFUND: Sieve = msgspec.json.Decoder(_Refund).decode  # type: ignore[assignment]
#: What a sieve raises for a body that does not fit.
DOES_NOT_FIT = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
