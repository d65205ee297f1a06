"""Bulk queries: the rules a query must keep, and how its result becomes lines. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from graphql import FieldNode, OperationDefinitionNode, OperationType, SelectionSetNode, parse
from graphql.error import GraphQLSyntaxError

from channels.sandbox.records import BulkOperation, gid
from channels.sandbox.store import Refusal, Store

RUNNING_AT_ONCE = 5
MAX_CONNECTIONS = 5
MAX_DEPTH = 2
MAX_QUERY_BYTES = 65535


def start(store: Store, now_us: int, *, query: str, base_url: str) -> dict[str, Any]:
    """Returns `{"id": id or None, "errors": [{field, message, code}]}`."""
    running = [op for op in store.bulk_operations.values() if op.status in ("CREATED", "RUNNING")]
    if len(running) >= RUNNING_AT_ONCE:
        names = ", ".join(gid("BulkOperation", op.id) for op in running)
        message = f"A bulk query operation for this app and shop is already in progress: {names}."
        return {"id": None, "errors": [_error(None, message, "OPERATION_IN_PROGRESS")]}
    operation = BulkOperation(store.new_id(), query, now_us, base_url)
    store.bulk_operations[operation.id] = operation
    return {"id": operation.id, "errors": []}


def run(store: Store, now_us: int, *, operation_id: int) -> None:
    operation = store.bulk_operations[operation_id]
    if operation.status == "CREATED":
        operation.status = "RUNNING"


def finish(
    store: Store,
    now_us: int,
    *,
    operation_id: int,
    object_count: int,
    root_object_count: int,
    file_size: int,
    error_code: str | None = None,
) -> None:
    operation = store.bulk_operations[operation_id]
    if operation.status not in ("CREATED", "RUNNING"):
        return
    operation.status = "COMPLETED" if error_code is None else "FAILED"
    operation.error_code = error_code
    operation.completed_us = now_us
    operation.object_count = object_count
    operation.root_object_count = root_object_count
    operation.file_size = file_size
    store.announce("bulk_operations/finish", ("bulk", operation_id, 0), store.new_event())


def cancel(store: Store, now_us: int, *, operation_id: int) -> dict[str, Any]:
    operation = store.bulk_operations.get(operation_id)
    if operation is None:
        return {"id": None, "errors": [{"field": ["id"], "message": "Bulk operation does not exist"}]}
    if operation.status not in ("CREATED", "RUNNING"):
        message = f"A bulk operation cannot be canceled when it is {operation.status.lower()}"
        return {"id": operation_id, "errors": [{"field": None, "message": message}]}
    operation.status = "CANCELED"
    operation.completed_us = now_us
    return {"id": operation_id, "errors": []}


def _error(field: list[str] | None, message: str, code: str) -> dict[str, Any]:
    return {"field": field, "message": message, "code": code}


def query_errors(query: str) -> list[dict[str, Any]]:
    """Why this query cannot run as a bulk operation, as user errors. The schema is checked elsewhere."""
    size = len(query.encode())
    if size > MAX_QUERY_BYTES:
        message = f"Query is too large ({size} bytes; maximum is {MAX_QUERY_BYTES} bytes)"
        return [_error(["query"], message, "INVALID")]
    try:
        document = parse(query)
    except GraphQLSyntaxError as error:
        return [_error(["query"], f"Invalid bulk query: {error.message}", "INVALID")]
    operations = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    if len(operations) != 1 or operations[0].operation is not OperationType.QUERY:
        message = "Invalid operation type. Only `query` operations are supported."
        return [_error(["query"], message, "INVALID")]
    return [_error(["query"], message, "INVALID") for message in _shape_errors(operations[0])]


def _shape_errors(operation: OperationDefinitionNode) -> list[str]:
    messages: list[str] = []
    roots = [n.name.value for n in operation.selection_set.selections if isinstance(n, FieldNode)]
    messages += [
        f"Bulk queries cannot contain a top level `{name}` field." for name in roots if name in ("node", "nodes")
    ]
    found = list(_connections(operation.selection_set, 1))
    if not found:
        messages.append("Bulk queries must contain at least one connection.")
    if len(found) > MAX_CONNECTIONS:
        messages.append(f"Bulk queries cannot contain more than {MAX_CONNECTIONS} connections.")
    if any(depth > MAX_DEPTH for _, depth in found):
        messages.append(f"Bulk queries cannot contain connections with a nesting depth greater than {MAX_DEPTH}.")
    by_nodes = [node.name.value for node, _ in found if _child(node, "edges") is None]
    if by_nodes:
        messages.append(
            "All connection fields in a bulk query must select their contents using 'edges' > 'node', e.g: "
            f"'{by_nodes[0]} {{ edges {{ node {{'. Selecting via 'nodes' is not supported. "
            f"Invalid connection fields: '{by_nodes[0]}'."
        )
    return messages


def _connections(selection: SelectionSetNode, depth: int) -> Iterator[tuple[FieldNode, int]]:
    for node in selection.selections:
        inner = getattr(node, "selection_set", None)
        if inner is None:
            continue
        is_connection = isinstance(node, FieldNode) and (_child(node, "edges") or _child(node, "nodes"))
        if is_connection and isinstance(node, FieldNode):
            yield node, depth
        yield from _connections(inner, depth + 1 if is_connection else depth)


def _child(node: FieldNode, name: str) -> FieldNode | None:
    selections = node.selection_set.selections if node.selection_set else ()
    return next((n for n in selections if isinstance(n, FieldNode) and n.name.value == name), None)


def to_lines(data: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """The result as JSONL lines, and whether each is a root object. Children carry `__parentId` after their
    parent.
    """
    for value in data.values():
        if isinstance(value, dict) and "edges" in value:
            for edge in value["edges"]:
                yield from _object_lines(edge["node"], None)
        elif isinstance(value, dict):
            yield from _object_lines(value, None)


def _object_lines(node: dict[str, Any], parent_id: str | None) -> Iterator[tuple[str, bool]]:
    own: dict[str, Any] = {}
    children: list[dict[str, Any]] = []
    for name, value in node.items():
        if isinstance(value, dict) and "edges" in value:
            children += [edge["node"] for edge in value["edges"]]
        else:
            own[name] = value
    if parent_id is not None:
        own["__parentId"] = parent_id
    yield json.dumps(own, separators=(",", ":")), parent_id is None
    for child in children:
        yield from _object_lines(child, node.get("id"))


def find(store: Store, number: int | None) -> BulkOperation:
    operation = store.bulk_operations.get(number or 0)
    if operation is None:
        raise Refusal("no such bulk operation", status=404)
    return operation
