"""The Admin API as something that answers: schema, documents parsed once, costs, and errors worded like the
real ones.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from graphql import (
    DirectiveNode,
    DocumentNode,
    ExecutionResult,
    FieldNode,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    OperationDefinitionNode,
    OperationType,
    StringValueNode,
    VariableDefinitionNode,
    VariableNode,
    build_schema,
    execute_sync,
    parse,
    print_ast,
    validate,
)

from channels.sandbox.resolvers import RESOLVERS, SCOPES, TYPE_NAMES, Resolver, Session
from channels.sandbox.throttle import MAX_QUERY_COST, Costs, plain_value
from channels.sandbox.writes import MUTATIONS

DOCUMENTS_KEPT = 512


@dataclass(slots=True)
class Document:
    """A document that was parsed and validated once."""

    text: str
    ast: DocumentNode | None
    errors: list[dict[str, Any]]
    operations: dict[str | None, OperationDefinitionNode] = field(default_factory=dict)
    fragments: dict[str, FragmentDefinitionNode] = field(default_factory=dict)


@dataclass(slots=True)
class Prepared:
    """A request ready to run: its operation, variables, price and idempotency keys."""

    document: Document
    operation: OperationDefinitionNode
    variables: dict[str, Any]
    requested_cost: int
    keys: frozenset[str]

    @property
    def is_write(self) -> bool:
        return self.operation.operation is OperationType.MUTATION


class Rejected(Exception):
    """A request that is not executed. `answer` is the whole JSON to send, with status 200."""

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(errors[0]["message"] if errors else "rejected")
        self.answer = {"errors": errors}


class Graph:
    """The executable schema, shared by all stores."""

    def __init__(self) -> None:
        self.schema = _executable_schema()
        self._documents: OrderedDict[str, Document] = OrderedDict()

    def prepare(self, text: str, variables: Mapping[str, Any] | None, operation_name: str | None) -> Prepared:
        """Parse (or recall), choose the operation, price it. Raises Rejected."""
        document = self._document(text)
        if document.errors:
            raise Rejected(document.errors)
        operation = document.operations.get(operation_name)
        if operation is None and operation_name is None and len(document.operations) == 1:
            operation = next(iter(document.operations.values()))
        if operation is None:
            message = f'No operation named "{operation_name}"' if operation_name else "An operation name is required"
            raise Rejected([{"message": message}])
        given = _defaults(operation) | dict(variables or {})
        costs = Costs(self.schema, document.fragments)
        requested = costs.requested(operation, given)
        if requested > MAX_QUERY_COST:
            message = (
                f"Query cost is {requested}, which exceeds the single query max cost limit "
                f"({MAX_QUERY_COST}).\n\n"
                "To query larger amounts of data with fewer limits, use bulk operations instead."
            )
            extensions = {"code": "MAX_COST_EXCEEDED", "cost": requested, "maxCost": MAX_QUERY_COST}
            raise Rejected([{"message": message, "extensions": extensions}])
        return Prepared(document, operation, given, requested, _keys(operation, given))

    def run(self, session: Session, prepared: Prepared) -> tuple[dict[str, Any], int | None]:
        """Execute. Returns the answer without extensions, and what it really cost (None: not executed)."""
        document = prepared.document
        assert document.ast is not None
        operation_name = prepared.operation.name.value if prepared.operation.name else None
        result = execute_sync(
            self.schema,
            document.ast,
            context_value=session,
            variable_values=prepared.variables,
            operation_name=operation_name if len(document.operations) > 1 else None,
        )
        assert isinstance(result, ExecutionResult)
        if result.data is None and result.errors and not any(e.path for e in result.errors):
            return {"errors": [_variable_error(error, prepared) for error in result.errors]}, None
        actual = Costs(self.schema, document.fragments).actual(prepared.operation, prepared.variables, result.data)
        answer: dict[str, Any] = {"data": result.data}
        if result.errors:
            answer = {"errors": [_formatted(error) for error in result.errors]} | answer
        return answer, min(actual, prepared.requested_cost)

    def check(self, text: str) -> list[dict[str, Any]]:
        """Errors of the document, none when it is valid."""
        return self._document(text).errors

    def _document(self, text: str) -> Document:
        known = self._documents.get(text)
        if known is not None:
            self._documents.move_to_end(text)
            return known
        document = self._parsed(text)
        self._documents[text] = document
        if len(self._documents) > DOCUMENTS_KEPT:
            self._documents.popitem(last=False)
        return document

    def _parsed(self, text: str) -> Document:
        try:
            ast = parse(text)
        except (GraphQLError, RecursionError) as error:
            message = error.message if isinstance(error, GraphQLError) else "the document is nested too deeply"
            return Document(text, None, [{"message": message}])
        errors = [_validation_error(error) for error in validate(self.schema, ast)]
        document = Document(text, ast, errors)
        for definition in ast.definitions:
            if isinstance(definition, OperationDefinitionNode):
                document.operations[definition.name.value if definition.name else None] = definition
            elif isinstance(definition, FragmentDefinitionNode):
                document.fragments[definition.name.value] = definition
        return document


def _executable_schema() -> GraphQLSchema:
    schema = build_schema(files("channels.sandbox").joinpath("schema.graphql").read_text())
    for type_name, resolvers in (RESOLVERS | {"Mutation": MUTATIONS}).items():
        kind = schema.type_map[type_name]
        assert isinstance(kind, GraphQLObjectType)
        for name, resolver in resolvers.items():
            needed = SCOPES.get(name) if type_name in ("QueryRoot", "Mutation") else None
            kind.fields[name].resolve = _guarded(name, needed, resolver) if needed else resolver
    for kind in schema.type_map.values():
        if isinstance(kind, GraphQLObjectType):
            for definition in kind.fields.values():
                for name, argument in definition.args.items():
                    argument.out_name = re.sub(r"(?=[A-Z])", "_", name).lower()
    for abstract in schema.type_map.values():
        if isinstance(abstract, GraphQLInterfaceType | GraphQLUnionType):
            abstract.resolve_type = _type_name
    return schema


def _guarded(name: str, needed: tuple[str, ...], resolver: Resolver) -> Resolver:
    def resolve(source: Any, info: Any, **args: Any) -> Any:
        scopes = info.context.store.settings.scopes
        if not any(one in scopes or one.replace("read_", "write_") in scopes for one in needed):
            extensions = {
                "code": "ACCESS_DENIED",
                "documentation": "https://shopify.dev/api/usage/access-scopes",
                "requiredAccess": " or ".join(f"`{scope}`" for scope in needed) + " access scope.",
            }
            raise GraphQLError(f"Access denied for {name} field.", extensions=extensions)
        return resolver(source, info, **args)

    return resolve


def _type_name(value: Any, _info: Any, _kind: Any) -> str:
    if isinstance(value, dict):
        return str(value["__typename"])
    return TYPE_NAMES[type(value)]


def _defaults(operation: OperationDefinitionNode) -> dict[str, Any]:
    return {
        definition.variable.name.value: plain_value(definition.default_value, {})
        for definition in operation.variable_definitions or ()
        if definition.default_value is not None and plain_value(definition.default_value, {}) is not None
    }


def _keys(operation: OperationDefinitionNode, variables: Mapping[str, Any]) -> frozenset[str]:
    if operation.operation is not OperationType.MUTATION:
        return frozenset()
    found = (
        _key_in(directive, variables)
        for node in operation.selection_set.selections
        if isinstance(node, FieldNode)
        for directive in node.directives or ()
        if directive.name.value == "idempotent"
    )
    return frozenset(key for key in found if key)


def _key_in(directive: DirectiveNode, variables: Mapping[str, Any]) -> str | None:
    for argument in directive.arguments or ():
        if isinstance(argument.value, StringValueNode):
            return argument.value.value
        if isinstance(argument.value, VariableNode):
            value = variables.get(argument.value.name.value)
            return value if isinstance(value, str) else None
    return None


# How the real API words what graphql-core finds. Others pass as they are.
_WORDINGS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], tuple[str, dict[str, Any]]]], ...] = (
    (
        re.compile(r"Cannot query field '(\w+)' on type '(\w+)'"),
        lambda m: (
            f"Field '{m[1]}' doesn't exist on type '{m[2]}'",
            {"code": "undefinedField", "typeName": m[2], "fieldName": m[1]},
        ),
    ),
    (
        re.compile(r"Unknown argument '(\w+)' on field '(?:\w+\.)?(\w+)'"),
        lambda m: (
            f"Field '{m[2]}' doesn't accept argument '{m[1]}'",
            {"code": "argumentNotAccepted", "name": m[2], "typeName": "Field", "argumentName": m[1]},
        ),
    ),
    (
        re.compile(r"Argument '(?:[\w.]+\()?(\w+):?\)?' of type '[^']+' is required, but it was not provided"),
        lambda m: (
            f"Field is missing required arguments: {m[1]}",
            {"code": "missingRequiredArguments", "className": "Field", "arguments": m[1]},
        ),
    ),
    (
        re.compile(r"Directive '@(\w+)' may not be used on (\w+)"),
        lambda m: (
            f"'@{m[1]}' can't be applied to {m[2].lower()}s",
            {"code": "directiveCannotBeApplied", "name": m[1], "targetName": m[2].lower()},
        ),
    ),
)


_UNKNOWN_INPUT_FIELD = re.compile(r"of type '(\w+)!?' not to include unknown field '(\w+)'")


def _validation_error(error: GraphQLError) -> dict[str, Any]:
    message, extensions = error.message, {"code": "invalid"}
    for pattern, wording in _WORDINGS:
        found = pattern.search(error.message)
        if found:
            message, extensions = wording(found)
            break
    return {"message": message, "locations": _locations(error), "extensions": extensions}


def _variable_error(error: GraphQLError, prepared: Prepared) -> dict[str, Any]:
    definition = next((n for n in error.nodes or () if isinstance(n, VariableDefinitionNode)), None)
    if definition is None:
        return _formatted(error)
    name = definition.variable.name.value
    explanation = error.message.split("; ", 1)[-1]
    unknown = _UNKNOWN_INPUT_FIELD.search(error.message)
    where = f" for {unknown[2]} (Field is not defined on {unknown[1]})" if unknown else ""
    message = f"Variable ${name} of type {print_ast(definition.type)} was provided invalid value{where}"
    problem = {"path": [unknown[2]] if unknown else [], "explanation": explanation}
    extensions = {
        "code": "INVALID_VARIABLE",
        "value": prepared.variables.get(name),
        "problems": [problem],
    }
    return {"message": message, "locations": _locations(error), "extensions": extensions}


def _formatted(error: GraphQLError) -> dict[str, Any]:
    formatted: dict[str, Any] = {"message": error.message}
    if error.locations:
        formatted["locations"] = _locations(error)
    formatted["extensions"] = dict(error.extensions or {}) or {"code": "INTERNAL_SERVER_ERROR"}
    if error.path:
        formatted["path"] = list(error.path)
    return formatted


def _locations(error: GraphQLError) -> list[dict[str, int]]:
    return [{"line": at.line, "column": at.column} for at in error.locations or ()]
