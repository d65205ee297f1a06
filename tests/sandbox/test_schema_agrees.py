"""The sandbox's schema says nothing the real one does not say. Runs where the real one is at hand."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLUnionType,
    build_schema,
    is_specified_scalar_type,
    print_ast,
    validate_schema,
)

REAL = Path(__file__).parents[3] / "shared" / "specs" / "shopify" / "admin_2026-10.graphql.gz"


def own_schema() -> GraphQLSchema:
    return build_schema(files("channels.sandbox").joinpath("schema.graphql").read_text())


def arguments(of: Any) -> dict[str, tuple[str, Any]]:
    """Type and default of each, as written."""
    return {
        name: (
            str(argument.type),
            print_ast(argument.ast_node.default_value) if has_default(argument) else "",
        )
        for name, argument in of.items()
    }


def has_default(argument: Any) -> bool:
    return argument.ast_node is not None and argument.ast_node.default_value is not None


def disagreements(own: GraphQLSchema, real: GraphQLSchema) -> Iterator[str]:
    """Each thing in `own` that is missing or different in `real`."""
    for name, kind in own.type_map.items():
        if name.startswith("__") or is_specified_scalar_type(kind):
            continue
        other = real.type_map.get(name)
        if other is None or type(other) is not type(kind):
            yield f"{name}: no such kind of type"
            continue
        yield from of_type(name, kind, other)


def of_type(name: str, kind: GraphQLNamedType, other: GraphQLNamedType) -> Iterator[str]:
    if isinstance(kind, GraphQLEnumType) and isinstance(other, GraphQLEnumType):
        yield from (f"{name}.{value}" for value in kind.values.keys() - other.values.keys())
    elif isinstance(kind, GraphQLUnionType) and isinstance(other, GraphQLUnionType):
        members = {member.name for member in other.types}
        yield from (f"{name}: {member.name}" for member in kind.types if member.name not in members)
    elif isinstance(kind, GraphQLInputObjectType) and isinstance(other, GraphQLInputObjectType):
        theirs = arguments(other.fields)
        for field, value in arguments(kind.fields).items():
            if theirs.get(field) != value:
                yield f"{name}.{field}: {value} but really {theirs.get(field)}"
        required = {f for f, v in theirs.items() if v[0].endswith("!") and not v[1]} - kind.fields.keys()
        yield from (f"{name}.{field} is required and missing" for field in required)
    elif isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
        assert isinstance(other, GraphQLObjectType | GraphQLInterfaceType)
        yield from of_fields(name, kind, other)


def of_fields(
    name: str, kind: GraphQLObjectType | GraphQLInterfaceType, other: GraphQLObjectType | GraphQLInterfaceType
) -> Iterator[str]:
    interfaces = {interface.name for interface in other.interfaces}
    yield from (f"{name} implements {i.name}" for i in kind.interfaces if i.name not in interfaces)
    for field, definition in kind.fields.items():
        theirs = other.fields.get(field)
        if theirs is None:
            yield f"{name}.{field}: no such field"
            continue
        if str(theirs.type) != str(definition.type):
            yield f"{name}.{field}: {definition.type} but really {theirs.type}"
        real_arguments = arguments(theirs.args)
        for argument, value in arguments(definition.args).items():
            if real_arguments.get(argument) != value:
                yield f"{name}.{field}({argument}: {value}) but really {real_arguments.get(argument)}"
        required = {a for a, v in real_arguments.items() if v[0].endswith("!") and not v[1]}
        yield from (f"{name}.{field}({a}) is required and missing" for a in required - definition.args.keys())


def test_the_schema_is_valid_by_itself() -> None:
    assert validate_schema(own_schema()) == []


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="the real schema is not here")
def test_the_schema_agrees_with_the_real_one() -> None:
    real = build_schema(gzip.decompress(REAL.read_bytes()).decode(), assume_valid=True)
    own = own_schema()

    assert list(disagreements(own, real)) == []
    own_directive, real_directive = own.get_directive("idempotent"), real.get_directive("idempotent")
    assert own_directive is not None
    assert real_directive is not None
    assert own_directive.locations == real_directive.locations
    assert arguments(own_directive.args) == arguments(real_directive.args)


def test_a_difference_would_be_found() -> None:
    own = build_schema("type Query { a(x: Int = 1): Int! b: E } enum E { ONE THREE }")
    real = build_schema("type Query { a(x: Int = 2): Int b: E c: Int } enum E { ONE TWO }")

    assert list(disagreements(own, real)) == [
        "Query.a: Int! but really Int",
        "Query.a(x: ('Int', '1')) but really ('Int', '2')",
        "E.THREE",
    ]
