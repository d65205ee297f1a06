"""The mutations of the schema: they check what only the API knows of, and hand over to a command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphql import GraphQLDirective, GraphQLError, GraphQLResolveInfo, get_directive_values

from channels.sandbox import bulk
from channels.sandbox.quantities import user_error
from channels.sandbox.records import gid, number_of
from channels.sandbox.resolvers import Resolver, Session

Info = GraphQLResolveInfo

MAX_ROWS = 250


def _key(info: Info) -> str:
    """The idempotency key of this mutation field. Raises BAD_REQUEST where it is missing or blank."""
    directive = info.schema.get_directive("idempotent")
    assert isinstance(directive, GraphQLDirective)
    values = get_directive_values(directive, info.field_nodes[0], info.variable_values)
    if values is None:
        message = "The @idempotent directive is required for this mutation but was not provided."
        raise GraphQLError(message, extensions={"code": "BAD_REQUEST"})
    key: str = values["key"]
    if not key.strip():
        raise GraphQLError("The idempotency key can't be blank.", extensions={"code": "BAD_REQUEST"})
    return key


def _require_argument(info: Info, rows: list[Mapping[str, Any]], type_name: str) -> None:
    if any("changeFromQuantity" not in row for row in rows):
        message = f"{type_name} must include the following argument: changeFromQuantity."
        raise GraphQLError(message, extensions={"code": "INVALID_FIELD_ARGUMENTS"})


def _limit_rows(info: Info, rows: list[Any], field: str) -> None:
    if len(rows) > MAX_ROWS:
        raise GraphQLError(
            f"The input array size of {len(rows)} is greater than the maximum allowed of {MAX_ROWS}.",
            nodes=info.field_nodes,
            path=[info.field_name, "input", field],
            extensions={"code": "MAX_INPUT_SIZE_EXCEEDED"},
        )


def _write(info: Info, command: str, input: dict[str, Any], key: str) -> dict[str, Any]:
    session: Session = info.context
    if key in session.keys_in_flight:
        errors = [user_error(None, "IDEMPOTENCY_CONCURRENT_REQUEST")]
        return {"inventoryAdjustmentGroup": None, "userErrors": errors}
    answer = session.mall.perform(session.store.handle, command, {"input": input, "key": key})
    group = session.store.groups.get(answer["group"]) if answer["group"] else None
    return {"inventoryAdjustmentGroup": group, "userErrors": answer["errors"]}


def _set(_: Any, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    key = _key(info)
    _limit_rows(info, input["quantities"], "quantities")
    _require_argument(info, input["quantities"], "InventoryQuantityInput")
    return _write(info, "set_quantities", input, key)


def _adjust(_: Any, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    key = _key(info)
    _limit_rows(info, input["changes"], "changes")
    _require_argument(info, input["changes"], "InventoryChangeInput")
    return _write(info, "adjust_quantities", input, key)


def _move(_: Any, info: Info, input: dict[str, Any]) -> dict[str, Any]:
    key = _key(info)
    _limit_rows(info, input["changes"], "changes")
    terminals = [row[end] for row in input["changes"] for end in ("from", "to")]
    _require_argument(info, terminals, "InventoryMoveQuantityTerminalInput")
    return _write(info, "move_quantities", input, key)


def _activate(
    _: Any,
    info: Info,
    inventory_item_id: str,
    location_id: str,
    available: int | None = None,
    on_hand: int | None = None,
    stock_at_legacy_location: bool = False,
) -> dict[str, Any]:
    key = _key(info)
    session: Session = info.context
    if key in session.keys_in_flight:
        return {"inventoryLevel": None, "userErrors": [user_error(None, "IDEMPOTENCY_CONCURRENT_REQUEST")]}
    arguments = {
        "item_id": inventory_item_id,
        "location_id": location_id,
        "available": available,
        "on_hand": on_hand,
        "key": key,
    }
    answer = session.mall.perform(session.store.handle, "activate", arguments)
    pair = answer["level"]
    level = session.store.levels.get((pair[0], pair[1])) if pair else None
    return {"inventoryLevel": level, "userErrors": answer["errors"]}


def _deactivate(_: Any, info: Info, inventory_level_id: str) -> dict[str, Any]:
    session: Session = info.context
    answer = session.mall.perform(session.store.handle, "deactivate", {"level_id": inventory_level_id})
    return {"userErrors": answer["errors"]}


def _subscribe(_: Any, info: Info, topic: str, webhook_subscription: dict[str, Any]) -> dict[str, Any]:
    session: Session = info.context
    arguments = {"topic": topic, "fields": webhook_subscription, "api_version": session.api_version}
    answer = session.mall.perform(session.store.handle, "create_subscription", arguments)
    return _subscription_payload(session, answer)


def _resubscribe(_: Any, info: Info, id: str, webhook_subscription: dict[str, Any]) -> dict[str, Any]:
    session: Session = info.context
    arguments = {
        "subscription_id": number_of(id, "WebhookSubscription") or 0,
        "fields": webhook_subscription,
    }
    answer = session.mall.perform(session.store.handle, "update_subscription", arguments)
    return _subscription_payload(session, answer)


def _subscription_payload(session: Session, answer: dict[str, Any]) -> dict[str, Any]:
    found = session.store.subscriptions.get(answer["id"]) if answer["id"] else None
    return {"webhookSubscription": found, "userErrors": answer["errors"]}


def _unsubscribe(_: Any, info: Info, id: str) -> dict[str, Any]:
    session: Session = info.context
    arguments = {"subscription_id": number_of(id, "WebhookSubscription") or 0}
    answer = session.mall.perform(session.store.handle, "delete_subscription", arguments)
    deleted = gid("WebhookSubscription", answer["id"]) if answer["id"] else None
    return {"deletedWebhookSubscriptionId": deleted, "userErrors": answer["errors"]}


def _bulk_query(_: Any, info: Info, query: str, group_objects: bool = False) -> dict[str, Any]:
    session: Session = info.context
    errors = bulk.query_errors(query)
    if errors:
        return {"bulkOperation": None, "userErrors": errors}
    arguments = {"query": query, "base_url": session.base_url}
    answer = session.mall.perform(session.store.handle, "start", arguments)
    started = session.store.bulk_operations.get(answer["id"]) if answer["id"] else None
    return {"bulkOperation": started, "userErrors": answer["errors"]}


def _bulk_cancel(_: Any, info: Info, id: str) -> dict[str, Any]:
    session: Session = info.context
    arguments = {"operation_id": number_of(id, "BulkOperation") or 0}
    answer = session.mall.perform(session.store.handle, "cancel", arguments)
    found = session.store.bulk_operations.get(answer["id"]) if answer["id"] else None
    return {"bulkOperation": found, "userErrors": answer["errors"]}


MUTATIONS: dict[str, Resolver] = {
    "inventorySetQuantities": _set,
    "inventoryAdjustQuantities": _adjust,
    "inventoryMoveQuantities": _move,
    "inventoryActivate": _activate,
    "inventoryDeactivate": _deactivate,
    "webhookSubscriptionCreate": _subscribe,
    "webhookSubscriptionUpdate": _resubscribe,
    "webhookSubscriptionDelete": _unsubscribe,
    "bulkOperationRunQuery": _bulk_query,
    "bulkOperationCancel": _bulk_cancel,
}
