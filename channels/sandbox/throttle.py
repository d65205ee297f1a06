"""The cost of a query and the bucket it is paid from. Pure.

The calculation reproduces the costs recorded from real stores (API 2026-04): scalars are free, an object
is 1, a mutation is 10 with its payload's own fields included, a connection asked for n nodes is 2 + s(n) x
the cost of a node, where s(n) = floor(2 ln n), at least 1. (Recorded: 250 nodes 13, 100 -> 11, 50 -> 9, 20
-> 7, 10 -> 6, 5 -> 5.)

Two parts are our own guess, on the careful side: `nodes(ids:)` counts s(number of ids), and an inventory
write with more than two rows costs s(rows) - 1 points more than the 13 recorded for one or two rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    is_abstract_type,
)

MAX_QUERY_COST = 1000
MUTATION_COST = 10


@dataclass(slots=True)
class Bucket:
    """A leaky bucket of points, refilled with time."""

    capacity: float = 2000.0
    restore_per_second: float = 100.0
    available: float = 2000.0
    at_us: int = 0

    def refill(self, now_us: int) -> None:
        if now_us > self.at_us:
            elapsed = (now_us - self.at_us) / 1_000_000
            self.available = min(self.capacity, self.available + elapsed * self.restore_per_second)
            self.at_us = now_us

    def take(self, points: int, *, now_us: int) -> bool:
        """Take the points, or take nothing and return False."""
        self.refill(now_us)
        if self.available < points:
            return False
        self.available -= points
        return True

    def give_back(self, points: int) -> None:
        self.available = min(self.capacity, self.available + points)

    def status(self) -> dict[str, float]:
        return {
            "maximumAvailable": int(self.capacity),
            "currentlyAvailable": int(self.available),
            "restoreRate": int(self.restore_per_second),
        }


def scaled(count: int) -> int:
    """How many times a list of this many nodes counts."""
    return max(1, math.floor(2 * math.log(count))) if count > 0 else 0


class Costs:
    """Requested and actual cost of the operations of one document."""

    def __init__(self, schema: GraphQLSchema, fragments: Mapping[str, FragmentDefinitionNode]) -> None:
        self._schema = schema
        self._fragments = fragments

    def requested(self, operation: OperationDefinitionNode, variables: Mapping[str, Any]) -> int:
        root = self._schema.get_root_type(operation.operation)
        assert root is not None
        return self._walk(operation, root, variables, None, counting=False)

    def actual(
        self, operation: OperationDefinitionNode, variables: Mapping[str, Any], data: Mapping[str, Any] | None
    ) -> int:
        """The same walk over what was really returned: nulls are free, short pages count what they hold."""
        root = self._schema.get_root_type(operation.operation)
        assert root is not None
        return self._walk(operation, root, variables, data or {}, counting=True)

    def _walk(
        self,
        operation: OperationDefinitionNode,
        root: GraphQLObjectType,
        variables: Mapping[str, Any],
        data: Mapping[str, Any] | None,
        *,
        counting: bool,
    ) -> int:
        walk = _Walk(self._schema, self._fragments, variables, counting)
        if operation.operation is OperationType.MUTATION:
            return walk.mutation(operation.selection_set, root, data)
        return walk.selection(operation.selection_set, root, data)


@dataclass(slots=True)
class _Walk:
    schema: GraphQLSchema
    fragments: Mapping[str, FragmentDefinitionNode]
    variables: Mapping[str, Any]
    counting: bool  # over an answer; otherwise over the question alone

    def mutation(self, selection: SelectionSetNode, root: GraphQLObjectType, data: Any) -> int:
        total = 0
        for node in self._plain_fields(selection):
            definition = root.fields.get(node.name.value)
            if definition is None or node.selection_set is None:
                continue
            payload = get_named_type(definition.type)
            below = _below(data, node) if self.counting else None
            inside = self._payload(node.selection_set, payload, below)
            total += MUTATION_COST + inside
            if not self.counting or inside:
                total += max(0, scaled(self._row_count(node)) - 1)
        return total

    def _payload(self, selection: SelectionSetNode, payload: Any, data: Any) -> int:
        """A payload's own fields come with the mutation; what lies below them is paid."""
        total = 0
        for node in self._plain_fields(selection):
            if node.selection_set is None or node.name.value == "userErrors":
                continue
            value = _below(data, node) if self.counting else None
            if self.counting and value is None:
                continue
            total += self.selection(node.selection_set, get_named_type(payload.fields[node.name.value].type), value)
        return total

    def _row_count(self, node: FieldNode) -> int:
        """How many rows an inventory write carries."""
        for argument in node.arguments or ():
            value = plain_value(argument.value, self.variables)
            if argument.name.value == "input" and isinstance(value, dict):
                rows = value.get("quantities") or value.get("changes") or ()
                return len(rows) if isinstance(rows, list) else 0
        return 0

    def selection(self, selection: SelectionSetNode, parent: Any, data: Any) -> int:
        total = 0
        dearest_alternative = 0
        for node in selection.selections:
            if isinstance(node, FieldNode):
                total += self._field(node, parent, data)
                continue
            condition, inner = self._fragment(node)
            if condition is None or condition == parent.name or not is_abstract_type(parent):
                total += self.selection(inner, parent, data)
            elif not self.counting or self._answered(inner, data):
                concrete = self.schema.type_map[condition]
                dearest_alternative = max(dearest_alternative, self.selection(inner, concrete, data))
        return total + dearest_alternative

    def _field(self, node: FieldNode, parent: Any, data: Any) -> int:
        definition = getattr(parent, "fields", {}).get(node.name.value)
        if node.selection_set is None or definition is None:
            return 0
        named = get_named_type(definition.type)
        value = _below(data, node) if self.counting else None
        if self.counting and value is None:
            return 0
        if named.name.endswith("Connection"):
            return self._connection(node, named, value)
        if node.name.value == "nodes" and parent is self.schema.query_type:
            return self._nodes_by_id(node, named, value)
        if isinstance(value, list):
            value = next((item for item in value if item is not None), {})
        return 1 + self.selection(node.selection_set, named, value)

    def _nodes_by_id(self, node: FieldNode, named: Any, value: Any) -> int:
        assert node.selection_set is not None
        present = [item for item in value or () if item is not None]
        ids = plain_value(node.arguments[0].value, self.variables) if node.arguments else []
        count = len(present) if self.counting else len(ids) if isinstance(ids, list) else 1
        sample = present[0] if present else {}
        return scaled(count) * (1 + self.selection(node.selection_set, named, sample))

    def _connection(self, node: FieldNode, named: Any, value: Any) -> int:
        sizes = [
            given
            for argument in node.arguments or ()
            if argument.name.value in ("first", "last")
            and isinstance(given := plain_value(argument.value, self.variables), int)
        ]
        assert node.selection_set is not None
        dearest_page = 0
        for inner in self._plain_fields(node.selection_set):
            if inner.name.value in ("nodes", "edges") and inner.selection_set is not None:
                listed = (_below(value, inner) or []) if self.counting else []
                size = len(listed) if self.counting else max(sizes, default=0)
                sample = listed[0] if listed else {}
                dearest_page = max(dearest_page, scaled(size) * self._node(inner, named, sample))
        return 2 + dearest_page

    def _node(self, inner: FieldNode, connection: Any, sample: Any) -> int:
        """The cost of one node of a page."""
        below = get_named_type(connection.fields[inner.name.value].type)
        assert inner.selection_set is not None
        if inner.name.value == "nodes":
            return 1 + self.selection(inner.selection_set, below, sample)
        for node in self._plain_fields(inner.selection_set):
            if node.name.value == "node" and node.selection_set is not None:
                kind: Any = get_named_type(below.fields["node"].type)
                return 1 + self.selection(node.selection_set, kind, _below(sample, node) or {})
        return 0

    def _plain_fields(self, selection: SelectionSetNode) -> Iterator[FieldNode]:
        """The fields of a selection on a concrete type, fragments opened."""
        for node in selection.selections:
            if isinstance(node, FieldNode):
                yield node
            else:
                yield from self._plain_fields(self._fragment(node)[1])

    def _answered(self, selection: SelectionSetNode, data: Any) -> bool:
        """Whether this alternative by type is the one the answer was made from."""
        return isinstance(data, dict) and all(_key(node) in data for node in self._plain_fields(selection))

    def _fragment(self, node: Any) -> tuple[str | None, SelectionSetNode]:
        if isinstance(node, InlineFragmentNode):
            return (node.type_condition.name.value if node.type_condition else None), node.selection_set
        assert isinstance(node, FragmentSpreadNode)
        fragment = self.fragments[node.name.value]
        return fragment.type_condition.name.value, fragment.selection_set


def _key(node: FieldNode) -> str:
    return node.alias.value if node.alias else node.name.value


def _below(data: Any, node: FieldNode) -> Any:
    return data.get(_key(node)) if isinstance(data, dict) else None


def plain_value(node: ValueNode, variables: Mapping[str, Any]) -> Any:
    """The Python value of an argument as far as counting needs it; scalars other than numbers stay None."""
    if isinstance(node, VariableNode):
        return variables.get(node.name.value)
    if isinstance(node, IntValueNode):
        return int(node.value)
    if isinstance(node, ListValueNode):
        return [plain_value(item, variables) for item in node.values]
    if isinstance(node, ObjectValueNode):
        return {item.name.value: plain_value(item.value, variables) for item in node.fields}
    return None
