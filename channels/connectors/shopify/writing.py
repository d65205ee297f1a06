"""A write of quantities: the rows as Shopify wants them, and what its answer says of each. Pure.

A batch is all or nothing: one bad row fails the call. So an answer with errors means that no row was applied,
and says which rows are to blame, if it says.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from channels.connectors.shopify.parsing import read_moment
from channels.protocol import (
    MalformedEvent,
    OutcomeUnknown,
    QuantityChange,
    Refused,
    RowOutcome,
    RowResult,
    WriteResult,
)

ROWS_PER_WRITE = 250
REASON = "correction"
_REFERENCE_PREFIX = "gid://synctec/PushBatch/"


class Verdict(enum.Enum):
    """What to make of a userError."""

    STALE = "stale"  # the level moved on: read, recompute, write under a new key
    ROW = "row"  # this row cannot work; the others can
    CALL = "call"  # the request is wrong as a whole: a mistake of ours
    SAME_KEY = "same key"  # cannot be told yet: the same request again, soon
    NEW_KEY = "new key"  # nothing applied, and this key is spent


@dataclass(frozen=True, slots=True)
class Meaning:
    """A code in our words."""

    verdict: Verdict
    sentence: str


def _row(sentence: str) -> Meaning:
    return Meaning(Verdict.ROW, sentence)


def _call(sentence: str) -> Meaning:
    return Meaning(Verdict.CALL, sentence)


#: Every code of the 2026-10 enums of the quantity and activation mutations.
MEANINGS: dict[str, Meaning] = {
    "CHANGE_FROM_QUANTITY_STALE": Meaning(Verdict.STALE, "The store's quantity changed in the meantime."),
    "COMPARE_QUANTITY_STALE": Meaning(Verdict.STALE, "The store's quantity changed in the meantime."),
    "IDEMPOTENCY_CONCURRENT_REQUEST": Meaning(
        Verdict.SAME_KEY, "The store is still working on the same request; it is asked again shortly."
    ),
    "IDEMPOTENCY_KEY_PARAMETER_MISMATCH": _call("A key was used twice for different rows: a mistake of SyncTec."),
    "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED": Meaning(
        Verdict.NEW_KEY, "The earlier attempt failed; the quantities are sent again under a new key."
    ),
    "SERVICE_UNAVAILABLE": Meaning(Verdict.SAME_KEY, "The store's inventory service is away; it is asked again."),
    # one row
    "INVALID_INVENTORY_ITEM": _row("The store does not know this item any more."),
    "INVALID_LOCATION": _row("The store does not know this location any more."),
    "NON_MUTABLE_INVENTORY_ITEM": _row("The store computes this bundle's stock itself and takes no number for it."),
    "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR": _row("The same item and location stood in the batch twice."),
    "INVALID_QUANTITY_TOO_HIGH": _row("The quantity is above what the store can hold."),
    "INVALID_QUANTITY_TOO_LOW": _row("The quantity is below what the store can hold."),
    "INVALID_QUANTITY_NEGATIVE": _row("The store takes no negative quantity here."),
    "COMPARE_QUANTITY_REQUIRED": _row("The row did not say which quantity it changes from."),
    "ADJUST_QUANTITIES_FAILED": _row("The store could not adjust the quantity."),
    "MOVE_QUANTITIES_FAILED": _row("The store could not move the quantity."),
    "SET_ON_HAND_QUANTITIES_FAILED": _row("The store could not set the quantity."),
    "DIFFERENT_LOCATIONS": _row("A move must stay within one location."),
    "SAME_QUANTITY_NAME": _row("A move must lead from one state to another."),
    "INTERNAL_LEDGER_DOCUMENT": _row("The ledger document must not be one of the store's own."),
    "INVALID_AVAILABLE_DOCUMENT": _row("A change of the available quantity takes no ledger document."),
    "INVALID_LEDGER_DOCUMENT": _row("The ledger document is no valid address."),
    "INVALID_QUANTITY_DOCUMENT": _row("A change of this quantity needs a ledger document."),
    # the whole call
    "INVALID_NAME": _call("The store does not know the kind of quantity that was set."),
    "INVALID_QUANTITY_NAME": _call("The store does not know the kind of quantity that was changed."),
    "INVALID_REASON": _call("The store does not accept the reason given for the change."),
    "INVALID_REFERENCE_DOCUMENT": _call("The store does not accept the reference given for the change."),
    "MAX_ONE_LEDGER_DOCUMENT": _call("The changes named more than one ledger document."),
    "MAXIMUM_LEDGER_DOCUMENT_URIS": _call("The changes named too many ledger documents."),
    # switching levels on and off
    "CANNOT_DEACTIVATE_FROM_ONLY_LOCATION": _row("An item must stay stocked at one location at least."),
    "COMMITTED_INVENTORY_AT_LOCATION": _row("Units of the item are committed to orders at this location."),
    "INCOMING_INVENTORY_AT_LOCATION": _row("Units of the item are on their way to this location."),
    "RESERVED_INVENTORY_AT_LOCATION": _row("Units of the item are reserved at this location."),
    "COMMITTED_AND_INCOMING_INVENTORY_AT_LOCATION": _row("Units of the item are committed and incoming here."),
    "FAILED_TO_STOCK_AT_LOCATION": _row("The store could not stock the item at this location."),
    "FAILED_TO_UNSTOCK_FROM_LOCATION": _row("The store could not remove the item from this location."),
    "GENERIC_ERROR": _row("The store refused without saying why."),
    "INVENTORY_ITEM_NOT_FOUND": _row("The store does not know this item any more."),
    "INVENTORY_MANAGED_BY_3RD_PARTY": _row("Another service manages this item's stock at the location."),
    "INVENTORY_MANAGED_BY_SHOPIFY": _row("Shopify manages this item's stock; the location cannot."),
    "LOCATION_NOT_FOUND": _row("The store does not know this location any more."),
    "MISSING_SKU": _row("The item needs a SKU before it can be stocked at this location."),
}


def input_of(changes: Sequence[QuantityChange], *, reference: str) -> dict[str, Any]:
    """The `$input` of `documents.SET_QUANTITIES`; the same arguments give the same input, as replays need.

    Raises:
        Refused: no rows, or more than one call may carry.
    """
    if not 1 <= len(changes) <= ROWS_PER_WRITE:
        raise Refused(f"A write carries 1 to {ROWS_PER_WRITE} rows, not {len(changes)}.", code="ROW_COUNT")
    return {
        "name": "available",
        "reason": REASON,
        "referenceDocumentUri": reference if "://" in reference else _REFERENCE_PREFIX + reference,
        "quantities": [
            {
                "inventoryItemId": f"gid://shopify/InventoryItem/{change.inventory_item_id}",
                "locationId": f"gid://shopify/Location/{change.location_id}",
                "quantity": change.to_quantity,
                "changeFromQuantity": change.from_quantity,
            }
            for change in changes
        ],
    }


@dataclass(frozen=True, slots=True)
class _RowError:
    row: int | None  # None: it does not say which
    code: str
    message: str
    verdict: Verdict


def read_write_result(payload: object, *, row_count: int) -> WriteResult:
    """What the payload of `inventorySetQuantities` says of each of the rows sent.

    Raises:
        OutcomeUnknown: the store is still at it, or the payload makes no sense.
        Refused: the request as a whole is a mistake of ours.
    """
    if type(payload) is not dict or type(payload.get("userErrors")) is not list:
        raise OutcomeUnknown("The store's answer to a write has an unknown form.", code="ANSWER_UNREADABLE")
    errors = [_read_error(error, row_count) for error in payload["userErrors"]]
    if not errors:
        confirmed = RowResult(RowOutcome.CONFIRMED)
        return WriteResult((confirmed,) * row_count, source_at=_source_at(payload.get("inventoryAdjustmentGroup")))
    _raise_for_call(errors)
    return WriteResult(_blame(errors, row_count))


def _source_at(group: object) -> datetime | None:
    """When the store applied it. A write that changed nothing has no group."""
    try:
        return read_moment(group.get("createdAt"), "createdAt") if type(group) is dict else None
    except MalformedEvent:
        return None


def _read_error(error: object, row_count: int) -> _RowError:
    if type(error) is not dict:
        raise OutcomeUnknown("The store's answer to a write has an unknown form.", code="ANSWER_UNREADABLE")
    code, said = str(error.get("code") or ""), str(error.get("message") or "")
    meaning = MEANINGS.get(code)
    return _RowError(
        row=_row_of(error.get("field"), row_count),
        code=code[:100] or "UNKNOWN",
        message=meaning.sentence if meaning else f"The store refused it: {said[:200]}",
        verdict=meaning.verdict if meaning else Verdict.ROW,
    )


def _row_of(path: object, row_count: int) -> int | None:
    """The row in a path such as ["input", "quantities", "0", "inventoryItemId"]; the index comes as text."""
    if type(path) is not list:
        return None
    for part in path[1:]:
        if type(part) is int or (type(part) is str and part.isascii() and part.isdigit() and len(part) < 6):
            row = int(part)
            return row if 0 <= row < row_count else None
    return None


def _raise_for_call(errors: list[_RowError]) -> None:
    """Errors about the call as a whole win over those about rows."""
    for error in errors:
        if error.verdict is Verdict.SAME_KEY:
            raise OutcomeUnknown(error.message, code=error.code, retry_after=1.0)
    for error in errors:
        if error.verdict is Verdict.CALL:
            raise Refused(error.message, code=error.code)


_OUTCOMES = {
    Verdict.STALE: RowOutcome.STALE,
    Verdict.ROW: RowOutcome.REFUSED,
    Verdict.NEW_KEY: RowOutcome.NOT_APPLIED,
}


def _blame(errors: list[_RowError], row_count: int) -> tuple[RowResult, ...]:
    """The rows named by errors get their outcome, all others NOT_APPLIED.

    Errors that name no row: the only row is meant, or nobody can tell, and every row carries the code so that
    the batch can be halved until it is found.
    """
    nameless = next((error for error in errors if error.row is None or error.verdict is Verdict.NEW_KEY), None)
    if nameless is not None and (row_count > 1 or nameless.verdict is Verdict.NEW_KEY):
        unblamed = RowResult(RowOutcome.NOT_APPLIED, nameless.code, nameless.message)
    else:
        unblamed = RowResult(RowOutcome.NOT_APPLIED, "", "Another row failed the batch.")
    rows = [unblamed] * row_count
    for error in sorted(errors, key=lambda error: error.verdict is Verdict.ROW):  # a refusal outlasts staleness
        row = 0 if row_count == 1 else error.row
        if row is not None and error.verdict is not Verdict.NEW_KEY:
            rows[row] = RowResult(_OUTCOMES[error.verdict], error.code, error.message)
    return tuple(rows)
