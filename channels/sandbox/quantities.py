"""The inventory writes of the Admin API, version 2026-10. Pure.

Each returns `{"group": id or None, "errors": [{field, message, code}]}` and is all-or-nothing: with one
error nothing is applied. Codes, messages and field paths are those recorded from real stores. Not in any
recording, decided here: the order in which several kinds of error are reported, and that a `set` to the
number already there makes no group (recorded for `adjust` by zero).
"""

from __future__ import annotations

from typing import Any

from channels.sandbox.catalogue import activate_level, deactivate_level
from channels.sandbox.idempotency import Verdict, fingerprint_of
from channels.sandbox.records import (
    ON_HAND_STATES,
    WRITABLE_STATES,
    AdjustmentGroup,
    Level,
    Location,
    Variant,
    number_of,
)
from channels.sandbox.store import Store

Errors = list[dict[str, Any]]

BILLION = 1_000_000_000
REASONS = (
    "correction",
    "cycle_count_available",
    "damaged",
    "movement_canceled",
    "movement_created",
    "movement_received",
    "movement_updated",
    "other",
    "promotion",
    "quality_control",
    "received",
    "reservation_created",
    "reservation_deleted",
    "reservation_updated",
    "restock",
    "safety_stock",
    "shrinkage",
)
_MESSAGES = {
    "CHANGE_FROM_QUANTITY_STALE": "The changeFromQuantity argument no longer matches the persisted quantity.",
    "IDEMPOTENCY_CONCURRENT_REQUEST": "This request is currently in progress, please try again.",
    "IDEMPOTENCY_KEY_PARAMETER_MISMATCH": (
        "The same idempotency key cannot be used with different operation parameters."
    ),
    "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED": (
        "A previous request with this idempotency key failed. Retry with a new idempotency key."
    ),
    "INVALID_INVENTORY_ITEM": "The specified inventory item could not be found.",
    "INVALID_LOCATION": "The specified location could not be found.",
    "INVALID_REASON": f"The specified reason is invalid. Valid values are: {', '.join(REASONS)}.",
    "INVALID_NAME": "The quantity name must be either 'available' or 'on_hand'.",
    "INVALID_QUANTITY_NAME": (
        f"The specified quantity name is invalid. Valid values are: {', '.join(sorted(WRITABLE_STATES))}."
    ),
    "INVALID_QUANTITY_NEGATIVE": "The quantity can't be negative.",
    "INVALID_QUANTITY_TOO_HIGH": "The quantity can't be higher than 1,000,000,000.",
    "INVALID_QUANTITY_TOO_LOW": "The quantity can't be lower than -1,000,000,000.",
    "INVALID_REFERENCE_DOCUMENT": "The specified reference document is invalid.",
    "NON_MUTABLE_INVENTORY_ITEM": "The specified inventory item is not allowed to be adjusted via API.",
    "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR": (
        "The combination of inventoryItemId and locationId must be unique."
    ),
    "INVALID_QUANTITY_DOCUMENT": "A ledger document URI is required except when adjusting available.",
    "INVALID_AVAILABLE_DOCUMENT": "A ledger document URI is not allowed when adjusting available.",
    "INTERNAL_LEDGER_DOCUMENT": ("Internal (gid://shopify/) ledger documents are not allowed to be adjusted via API."),
    "MAX_ONE_LEDGER_DOCUMENT": (
        "All changes must have the same ledger document URI or, in the case of adjusting available, "
        "no ledger document URI."
    ),
    "DIFFERENT_LOCATIONS": "The quantities can't be moved between different locations.",
    "SAME_QUANTITY_NAME": "The quantity names for each change can't be the same.",
}


def user_error(field: list[str] | None, code: str, message: str | None = None) -> dict[str, Any]:
    return {"field": field, "message": message or _MESSAGES[code], "code": code}


def set_quantities(store: Store, now_us: int, *, input: dict[str, Any], key: str) -> dict[str, Any]:
    """inventorySetQuantities. `input` is the coerced GraphQL input."""
    fingerprint = fingerprint_of("inventorySetQuantities", input)
    known = _remembered(store, now_us, key, fingerprint, lambda: _stale_rows(store, input, "quantities"))
    if known is not None:
        return known
    errors = _common_errors(input) + _set_errors(store, input)
    if errors:
        return _refused(store, now_us, key, fingerprint, errors)
    changes: list[tuple[str, int, int, int, str | None]] = []
    event = store.new_event()
    for row in input["quantities"]:
        level = _level_for(store, row["inventoryItemId"], row["locationId"])
        delta = _set_delta(level, input["name"], row)
        if delta:
            _write(store, level, "available", delta, event, key, input.get("referenceDocumentUri"))
            pair = (delta, level.item_id, level.location_id, None)
            changes += [("available", *pair), ("on_hand", *pair)]
    return _applied(store, now_us, key, fingerprint, input, changes)


def _set_delta(level: Level, name: str, row: dict[str, Any]) -> int:
    """What to add to available.

    At a level that is not active, a set without compare adds instead of replacing: seen by a developer on
    the live API (community.shopify.dev thread 33834) and kept here as the trap it is.
    """
    quantity: int = row["quantity"]
    before = level.on_hand if name == "on_hand" else level.available
    if not level.active and row["changeFromQuantity"] is None:
        return quantity
    return quantity - before


def _set_errors(store: Store, input: dict[str, Any]) -> Errors:
    name = input["name"]
    if name not in ("available", "on_hand"):
        return [user_error(["input", "name"], "INVALID_NAME")]
    errors: Errors = []
    rows = input["quantities"]
    duplicates = _duplicated(rows)
    for index, row in enumerate(rows):
        path = ["input", "quantities", str(index)]
        errors += _place_errors(store, row["inventoryItemId"], row["locationId"], path)
        quantity = row["quantity"]
        if quantity > BILLION:
            errors.append(user_error([*path, "quantity"], "INVALID_QUANTITY_TOO_HIGH"))
        elif name == "on_hand" and quantity < 0:
            errors.append(user_error([*path, "quantity"], "INVALID_QUANTITY_NEGATIVE"))
        elif quantity < -BILLION:
            errors.append(user_error([*path, "quantity"], "INVALID_QUANTITY_TOO_LOW"))
        if (row["inventoryItemId"], row["locationId"]) in duplicates:
            errors.append(user_error([*path, "locationId"], "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR"))
    return errors or _stale_rows(store, input, "quantities")


def _stale_rows(store: Store, input: dict[str, Any], rows_field: str) -> Errors:
    errors: Errors = []
    for index, row in enumerate(input[rows_field]):
        expected = row["changeFromQuantity"]
        if expected is not None and expected != _present(store, row, input["name"]):
            path = ["input", rows_field, str(index), "changeFromQuantity"]
            errors.append(user_error(path, "CHANGE_FROM_QUANTITY_STALE"))
    return errors


def _present(store: Store, row: dict[str, Any], name: str) -> int:
    item = number_of(row["inventoryItemId"], "InventoryItem")
    location = number_of(row["locationId"], "Location")
    level = store.levels.get((item or 0, location or 0))
    return int(getattr(level, name)) if level is not None else 0


def adjust_quantities(store: Store, now_us: int, *, input: dict[str, Any], key: str) -> dict[str, Any]:
    """inventoryAdjustQuantities. A delta of zero changes nothing and makes no group."""
    fingerprint = fingerprint_of("inventoryAdjustQuantities", input)
    known = _remembered(store, now_us, key, fingerprint, lambda: _stale_rows(store, input, "changes"))
    if known is not None:
        return known
    errors = _common_errors(input) + _adjust_errors(store, input)
    if errors:
        return _refused(store, now_us, key, fingerprint, errors)
    name = input["name"]
    changes: list[tuple[str, int, int, int, str | None]] = []
    event = store.new_event()
    for row in input["changes"]:
        if row["delta"]:
            level = _level_for(store, row["inventoryItemId"], row["locationId"])
            _write(store, level, name, row["delta"], event, key, input.get("referenceDocumentUri"))
            pair = (row["delta"], level.item_id, level.location_id)
            changes.append((name, *pair, row.get("ledgerDocumentUri")))
            if name in ON_HAND_STATES:
                changes.append(("on_hand", *pair, None))
    return _applied(store, now_us, key, fingerprint, input, changes)


def _adjust_errors(store: Store, input: dict[str, Any]) -> Errors:
    name = input["name"]
    if name not in WRITABLE_STATES:
        return [{"field": ["input", "name"], "message": _MESSAGES["INVALID_QUANTITY_NAME"], "code": None}]
    errors: Errors = []
    documents = {row.get("ledgerDocumentUri") for row in input["changes"]}
    if len(documents) > 1:
        return [user_error(["input", "changes"], "MAX_ONE_LEDGER_DOCUMENT")]
    for index, row in enumerate(input["changes"]):
        path = ["input", "changes", str(index)]
        errors += _place_errors(store, row["inventoryItemId"], row["locationId"], path)
        errors += _document_errors(name, row.get("ledgerDocumentUri"), [*path, "ledgerDocumentUri"])
        if row["delta"] > 2 * BILLION:
            errors.append(user_error([*path, "delta"], "INVALID_QUANTITY_TOO_HIGH"))
        elif row["delta"] < -2 * BILLION:
            errors.append(user_error([*path, "delta"], "INVALID_QUANTITY_TOO_LOW"))
    return errors or _stale_rows(store, input, "changes")


def _document_errors(name: str, document: str | None, path: list[str]) -> Errors:
    if name == "available":
        return [user_error(path, "INVALID_AVAILABLE_DOCUMENT")] if document else []
    if not document:
        return [user_error(path, "INVALID_QUANTITY_DOCUMENT")]
    if document.startswith("gid://shopify/"):
        return [user_error(path, "INTERNAL_LEDGER_DOCUMENT")]
    return []


def move_quantities(store: Store, now_us: int, *, input: dict[str, Any], key: str) -> dict[str, Any]:
    """inventoryMoveQuantities: between states at one location."""
    fingerprint = fingerprint_of("inventoryMoveQuantities", input)
    known = _remembered(store, now_us, key, fingerprint, lambda: _stale_moves(store, input))
    if known is not None:
        return known
    errors = _common_errors(input) + _move_errors(store, input)
    if errors:
        return _refused(store, now_us, key, fingerprint, errors)
    changes: list[tuple[str, int, int, int, str | None]] = []
    event = store.new_event()
    for row in input["changes"]:
        for end, sign in (("from", -1), ("to", 1)):
            terminal = row[end]
            level = _level_for(store, row["inventoryItemId"], terminal["locationId"])
            delta = sign * row["quantity"]
            _write(store, level, terminal["name"], delta, event, key, input.get("referenceDocumentUri"))
            document = terminal.get("ledgerDocumentUri")
            changes.append((terminal["name"], delta, level.item_id, level.location_id, document))
    return _applied(store, now_us, key, fingerprint, input, changes)


def _move_errors(store: Store, input: dict[str, Any]) -> Errors:
    errors: Errors = []
    for index, row in enumerate(input["changes"]):
        path = ["input", "changes", str(index)]
        for end in ("from", "to"):
            if row[end]["name"] not in WRITABLE_STATES:
                message = _MESSAGES["INVALID_QUANTITY_NAME"]
                return [{"field": [*path, end, "name"], "message": message, "code": None}]
            document = row[end].get("ledgerDocumentUri")
            errors += _document_errors(row[end]["name"], document, [*path, end, "ledgerDocumentUri"])
            if number_of(row[end]["locationId"], "Location") not in store.locations:
                errors.append(user_error([*path, end, "locationId"], "INVALID_LOCATION"))
        errors += _item_errors(store, row["inventoryItemId"], path)
        if row["from"]["locationId"] != row["to"]["locationId"]:
            errors.append(user_error(path, "DIFFERENT_LOCATIONS"))
        if row["from"]["name"] == row["to"]["name"]:
            errors.append(user_error(path, "SAME_QUANTITY_NAME"))
        if row["quantity"] < 0:
            errors.append(user_error([*path, "quantity"], "INVALID_QUANTITY_NEGATIVE"))
        elif row["quantity"] > 2 * BILLION:
            errors.append(user_error([*path, "quantity"], "INVALID_QUANTITY_TOO_HIGH"))
    return errors or _stale_moves(store, input)


def _stale_moves(store: Store, input: dict[str, Any]) -> Errors:
    errors: Errors = []
    for index, row in enumerate(input["changes"]):
        for end in ("from", "to"):
            expected = row[end]["changeFromQuantity"]
            cell = {"inventoryItemId": row["inventoryItemId"], "locationId": row[end]["locationId"]}
            if expected is not None and expected != _present(store, cell, row[end]["name"]):
                path = ["input", "changes", str(index), end, "changeFromQuantity"]
                errors.append(user_error(path, "CHANGE_FROM_QUANTITY_STALE"))
    return errors


def activate(
    store: Store,
    now_us: int,
    *,
    item_id: str,
    location_id: str,
    available: int | None,
    on_hand: int | None,
    key: str,
) -> dict[str, Any]:
    """inventoryActivate. Returns `{"level": [item, location] or None, "errors": ...}`; its errors carry no
    code.
    """
    fingerprint = fingerprint_of("inventoryActivate", [item_id, location_id, available, on_hand])
    verdict, outcome = store.keys.look_up(key, fingerprint, now_us=now_us)
    if verdict is Verdict.SUCCEEDED:
        return dict(outcome)
    if verdict is Verdict.MISMATCH:
        return {"level": None, "errors": [user_error(None, "IDEMPOTENCY_KEY_PARAMETER_MISMATCH")]}
    if verdict is Verdict.FAILED:
        return {"level": None, "errors": [user_error(None, "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED")]}
    variant = store.variant_by_item.get(number_of(item_id, "InventoryItem") or 0)
    location = store.locations.get(number_of(location_id, "Location") or 0)
    errors = _activation_errors(store, variant, location, available, on_hand)
    if errors or variant is None or location is None:
        store.keys.remember(key, fingerprint, None, now_us=now_us)
        return {"level": None, "errors": errors}
    event = store.new_event()
    level = store.ensure_level(variant.item_id, location.id, active=False)
    activate_level(store, level, event)
    wanted = available if available is not None else level.available
    if on_hand is not None:
        wanted = on_hand - (level.on_hand - level.available)
    if wanted != level.available:
        _write(store, level, "available", wanted - level.available, event, key, None)
    answer = {"level": [variant.item_id, location.id], "errors": []}
    store.keys.remember(key, fingerprint, answer, now_us=now_us)
    return answer


def _activation_errors(
    store: Store,
    variant: Variant | None,
    location: Location | None,
    available: int | None,
    on_hand: int | None,
) -> Errors:
    if variant is None:
        return [_plain_error(["inventoryItemId"], "The product couldn't be stocked because it was deleted.")]
    if location is None:
        return [_plain_error(["locationId"], "The product couldn't be stocked because the location was deleted.")]
    stocked = f"The product couldn't be stocked at {location.name} because "
    if available is not None and on_hand is not None:
        message = stocked + "not allowed to set available and on_hand quantities at the same time."
        return [_plain_error(["available"], message), _plain_error(["onHand"], message)]
    level = store.levels.get((variant.item_id, location.id))
    if level is not None and level.active and available is not None:
        message = "Not allowed to set available quantity when the item is already active at the location."
        return [_plain_error(["available"], message)]
    if level is not None and level.active and on_hand is not None:
        message = "Not allowed to set an on_hand quantity when the item is already active at the location."
        return [_plain_error(["onHand"], message)]
    for name, quantity in (("available", available), ("onHand", on_hand)):
        if quantity is not None and abs(quantity) > BILLION:
            message = stocked + "the quantity needs to be between -1 billion and 1 billion."
            return [_plain_error([name], message)]
    return []


def deactivate(store: Store, now_us: int, *, level_id: str) -> dict[str, Any]:
    """inventoryDeactivate. Needs no key; its errors carry neither field nor code."""
    level = find_level(store, level_id)
    if level is None:
        message = "The product couldn't be unstocked because the product was deleted."
        return {"errors": [_plain_error(None, message)]}
    location = store.locations[level.location_id]
    active = [other for other in store.levels_of(level.item_id).values() if other.active]
    if level.active and len(active) == 1:
        message = (
            f"The product couldn't be unstocked from {location.name} because products need to be stocked "
            "at a minimum of 1 location."
        )
        return {"errors": [_plain_error(None, message)]}
    if level.active:
        deactivate_level(store, level)
    return {"errors": []}


def find_level(store: Store, level_id: object) -> Level | None:
    """The level with this composite global id."""
    head, _, query = str(level_id).partition("?")
    number = number_of(head, "InventoryLevel")
    item = query.removeprefix("inventory_item_id=")
    if number is None or not (item.isascii() and item.isdigit()):
        return None
    for location_id, level in store.levels_of(int(item)).items():
        if store.locations[location_id].level_number == number:
            return level
    return None


def _plain_error(field: list[str] | None, message: str) -> dict[str, Any]:
    return {"field": field, "message": message}


def _remembered(store: Store, now_us: int, key: str, fingerprint: str, stale_rows: Any) -> dict[str, Any] | None:
    """The answer to a key that is known already, None for a new one."""
    verdict, outcome = store.keys.look_up(key, fingerprint, now_us=now_us)
    if verdict is Verdict.NEW:
        return None
    store.count("replays")
    if verdict is Verdict.MISMATCH:
        return {"group": None, "errors": [user_error(None, "IDEMPOTENCY_KEY_PARAMETER_MISMATCH")]}
    if verdict is Verdict.FAILED:
        return {"group": None, "errors": [user_error(None, "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED")]}
    if store.settings.replay == "stale" and (errors := stale_rows()):
        return {"group": None, "errors": errors}
    return dict(outcome)


def _refused(store: Store, now_us: int, key: str, fingerprint: str, errors: Errors) -> dict[str, Any]:
    store.keys.remember(key, fingerprint, None, now_us=now_us)
    store.count("writes_refused")
    return {"group": None, "errors": errors}


def _applied(
    store: Store,
    now_us: int,
    key: str,
    fingerprint: str,
    input: dict[str, Any],
    changes: list[tuple[str, int, int, int, str | None]],
) -> dict[str, Any]:
    answer: dict[str, Any] = {"group": None, "errors": []}
    if changes:
        reference = input.get("referenceDocumentUri")
        group = AdjustmentGroup(store.new_id(), now_us, input["reason"], reference, changes)
        store.keep_group(group)
        answer["group"] = group.id
    store.keys.remember(key, fingerprint, answer, now_us=now_us)
    store.count("writes")
    return answer


def _common_errors(input: dict[str, Any]) -> Errors:
    errors: Errors = []
    if input["reason"] not in REASONS:
        errors.append(user_error(["input", "reason"], "INVALID_REASON"))
    reference = input.get("referenceDocumentUri")
    if reference is not None and (":" not in reference or any(c.isspace() for c in reference)):
        errors.append(user_error(["input", "referenceDocumentUri"], "INVALID_REFERENCE_DOCUMENT"))
    return errors


def _duplicated(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    seen: set[tuple[str, str]] = set()
    twice: set[tuple[str, str]] = set()
    for row in rows:
        pair = (row["inventoryItemId"], row["locationId"])
        (twice if pair in seen else seen).add(pair)
    return twice


def _place_errors(store: Store, item_gid: str, location_gid: str, path: list[str]) -> Errors:
    errors = _item_errors(store, item_gid, path)
    if number_of(location_gid, "Location") not in store.locations:
        errors.append(user_error([*path, "locationId"], "INVALID_LOCATION"))
    return errors


def _item_errors(store: Store, item_gid: str, path: list[str]) -> Errors:
    variant = store.variant_by_item.get(number_of(item_gid, "InventoryItem") or 0)
    if variant is None:
        return [user_error([*path, "inventoryItemId"], "INVALID_INVENTORY_ITEM")]
    if variant.requires_components:
        return [user_error([*path, "inventoryItemId"], "NON_MUTABLE_INVENTORY_ITEM")]
    return []


def _level_for(store: Store, item_gid: str, location_gid: str) -> Level:
    """The level to write to; a place the item was never stocked at gets one which is not active."""
    item_id = number_of(item_gid, "InventoryItem")
    location_id = number_of(location_gid, "Location")
    assert item_id is not None
    assert location_id is not None
    return store.ensure_level(item_id, location_id, active=False)


def _write(store: Store, level: Level, name: str, delta: int, event: str, key: str, reference: str | None) -> None:
    if name == "available":
        store.change_level(level, cause="api", event=event, available=delta, key=key, reference=reference)
        return
    setattr(level, name, getattr(level, name) + delta)
    store.note_level(level, cause="api", event=event, delta=0, key=key, reference=reference)
