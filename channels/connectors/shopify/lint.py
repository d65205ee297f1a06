"""The two rules Shopify enforces at runtime and its schema does not show, checked over a document.

Since 2026-04 a listed mutation without `@idempotent` fails with BAD_REQUEST, and a quantity without
`changeFromQuantity` with INVALID_FIELD_ARGUMENTS; both validate fine against the schema. (Sources: Shopify's
changelog of December 2025 on mandatory idempotency and on the compare-and-swap redesign.)
"""

from __future__ import annotations

from collections.abc import Iterator

from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    ListValueNode,
    NullValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    ValueNode,
    VariableNode,
)

IDEMPOTENT_MUTATIONS = frozenset(
    {
        "inventorySetQuantities",
        "inventoryAdjustQuantities",
        "inventoryMoveQuantities",
        "inventorySetOnHandQuantities",
        "inventoryActivate",
        "locationActivate",
        "locationDeactivate",
        "refundCreate",
        "inventoryTransferCreate",
        "inventoryTransferCreateAsReadyToShip",
        "inventoryTransferDuplicate",
        "inventoryTransferSetItems",
        "inventoryShipmentCreate",
        "inventoryShipmentCreateInTransit",
        "inventoryShipmentAddItems",
        "inventoryShipmentReceive",
    }
)

#: The list of each mutation whose rows must say what they change from.
_ROWS_OF = {
    "inventorySetQuantities": "quantities",
    "inventoryAdjustQuantities": "changes",
    "inventorySetOnHandQuantities": "setQuantities",
}


def find_faults(document: DocumentNode) -> tuple[str, ...]:
    """What Shopify would refuse at runtime, in words; empty when there is nothing."""
    return tuple(
        fault
        for operation in document.definitions
        if isinstance(operation, OperationDefinitionNode) and operation.operation is OperationType.MUTATION
        for selection in operation.selection_set.selections
        if isinstance(selection, FieldNode)
        for fault in (*_idempotency_faults(selection), *_quantity_faults(selection))
    )


def _idempotency_faults(mutation: FieldNode) -> Iterator[str]:
    name = mutation.name.value
    if name not in IDEMPOTENT_MUTATIONS:
        return
    directive = next((d for d in mutation.directives or () if d.name.value == "idempotent"), None)
    if directive is None:
        yield f"{name}: lacks @idempotent(key: $key) on the field"
        return
    key = next((a.value for a in directive.arguments or () if a.name.value == "key"), None)
    if not isinstance(key, VariableNode) or key.name.value != "key":
        yield f"{name}: @idempotent takes its key from $key, so that every sending has its own"


def _quantity_faults(mutation: FieldNode) -> Iterator[str]:
    rows_name = _ROWS_OF.get(mutation.name.value)
    given = _value_of(mutation.arguments, "input")
    if rows_name is None or not isinstance(given, ObjectValueNode):
        return  # given as a variable: `check_rows` sees it when it is made
    rows = next((f.value for f in given.fields if f.name.value == rows_name), None)
    if not isinstance(rows, ListValueNode):
        return
    for number, row in enumerate(rows.values):
        value = _field_of(row, "changeFromQuantity")
        if value is None or isinstance(value, NullValueNode):
            yield f"{mutation.name.value}: row {number} lacks changeFromQuantity"


def check_rows(rows: list[dict[str, object]]) -> tuple[str, ...]:
    """The same rule for rows sent as a variable: each says what it changes from, and not null."""
    return tuple(
        f"row {number} lacks changeFromQuantity"
        for number, row in enumerate(rows)
        if row.get("changeFromQuantity") is None
    )


def _value_of(arguments: tuple[ArgumentNode, ...] | None, name: str) -> ValueNode | None:
    return next((argument.value for argument in arguments or () if argument.name.value == name), None)


def _field_of(row: ValueNode, name: str) -> ValueNode | None:
    if not isinstance(row, ObjectValueNode):
        return None
    return next((field.value for field in row.fields if field.name.value == name), None)
