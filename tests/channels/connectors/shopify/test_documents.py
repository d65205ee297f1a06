"""Every document against the schemas, our own lint, and the limit of what a request may cost."""

import gzip
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    build_schema,
    parse,
    print_ast,
    validate,
)

from channels.connectors.shopify import documents
from channels.connectors.shopify.documents import CAREFUL, GENEROUS, WIDE, Document
from channels.connectors.shopify.lint import IDEMPOTENT_MUTATIONS, check_rows, find_faults
from channels.connectors.shopify.version import API_VERSION

ROOT = Path(__file__).parents[4]
REAL_SCHEMA = ROOT.parent / "shared" / "specs" / "shopify" / f"admin_{API_VERSION}.graphql.gz"
SANDBOX_SCHEMA = ROOT / "channels" / "sandbox" / "schema.graphql"

each_document = pytest.mark.parametrize("document", documents.ALL.values(), ids=documents.ALL.keys())


@pytest.fixture(scope="module")
def real_schema() -> GraphQLSchema:
    if not REAL_SCHEMA.is_file():
        pytest.skip("the real schema is not beside the repository")
    # graphql-core finds fault with the real schema itself; that is not what is tested here.
    return build_schema(gzip.decompress(REAL_SCHEMA.read_bytes()).decode(), assume_valid=True)


@pytest.fixture(scope="module")
def sandbox_schema() -> GraphQLSchema:
    return build_schema(SANDBOX_SCHEMA.read_text(), assume_valid=True)


@pytest.mark.xdist_group("real_schema")
@each_document
def test_each_document_is_valid_in_the_real_schema(document: Document, real_schema: GraphQLSchema) -> None:
    assert validate(real_schema, document.node) == []


@each_document
def test_each_document_is_valid_in_the_sandbox(document: Document, sandbox_schema: GraphQLSchema) -> None:
    assert validate(sandbox_schema, document.node) == []


@each_document
def test_each_document_keeps_the_rules_the_schema_cannot_express(document: Document) -> None:
    assert find_faults(document.node) == ()


@each_document
def test_each_text_is_the_document_it_claims_to_be(document: Document) -> None:
    assert print_ast(parse(document.text)) == document.text == print_ast(document.node)
    assert document.is_mutation == document.text.lstrip().startswith("mutation")


class TestLint:
    def test_a_mutation_without_a_key_is_found(self) -> None:
        faults = find_faults(parse("mutation($input: X!) { inventorySetQuantities(input: $input) { x } }"))

        assert faults == ("inventorySetQuantities: lacks @idempotent(key: $key) on the field",)

    def test_a_key_on_the_operation_does_not_count(self) -> None:
        faults = find_faults(parse('mutation @idempotent(key: "k") { refundCreate(input: 1) { x } }'))

        assert faults == ("refundCreate: lacks @idempotent(key: $key) on the field",)

    def test_a_fixed_key_is_found(self) -> None:
        faults = find_faults(parse('mutation { inventoryActivate(a: 1) @idempotent(key: "always") { x } }'))

        assert len(faults) == 1
        assert "takes its key from $key" in faults[0]

    @pytest.mark.parametrize(
        ("mutation", "rows"),
        [
            ("inventorySetQuantities", "quantities"),
            ("inventoryAdjustQuantities", "changes"),
            ("inventorySetOnHandQuantities", "setQuantities"),
        ],
    )
    @pytest.mark.parametrize("row", ["{quantity: 1}", "{quantity: 1, changeFromQuantity: null}"])
    def test_a_row_that_changes_from_nothing_is_found(self, mutation: str, rows: str, row: str) -> None:
        field = f"{mutation}(input: {{{rows}: [{row}]}}) @idempotent(key: $key) {{ x }}"
        text = f"mutation($key: String!) {{ {field} }}"

        assert find_faults(parse(text)) == (f"{mutation}: row 0 lacks changeFromQuantity",)

    def test_rows_sent_as_variables_are_checked_alike(self) -> None:
        assert check_rows([{"changeFromQuantity": 0}, {"changeFromQuantity": None}, {}]) == (
            "row 1 lacks changeFromQuantity",
            "row 2 lacks changeFromQuantity",
        )

    def test_the_list_names_only_mutations_that_exist(self, real_schema: GraphQLSchema) -> None:
        assert real_schema.mutation_type is not None

        assert real_schema.mutation_type.fields.keys() >= IDEMPOTENT_MUTATIONS


# --- costs --------------------------------------------------------------------------------------------------


def worst_cost(document: Document, variables: Mapping[str, Any], *, is_logarithmic: bool) -> int:
    """Points of a request: object 1, mutation 10, a list asked for n nodes n (or 2 ln n) times its node.

    Plain lists without a size (quantities, userErrors) count once.
    """
    fragments = {f.name.value: f for f in document.node.definitions if isinstance(f, FragmentDefinitionNode)}

    def times(count: int) -> int:
        return max(1, math.floor(2 * math.log(count))) if is_logarithmic and count else count

    def size_of(field: FieldNode) -> int | None:
        for argument in field.arguments or ():
            value: Any = None
            if isinstance(argument.value, VariableNode):
                value = variables.get(argument.value.name.value)
            elif isinstance(argument.value, IntValueNode):
                value = int(argument.value.value)
            if argument.name.value == "first":
                return int(value)
            if argument.name.value == "ids":
                return len(value)
        return None

    def cost(selection: SelectionSetNode) -> int:
        total = 0
        for node in selection.selections:
            if isinstance(node, FragmentSpreadNode):
                total += cost(fragments[node.name.value].selection_set)
            elif isinstance(node, InlineFragmentNode):
                total += cost(node.selection_set)
            elif isinstance(node, FieldNode) and node.selection_set:
                total += of_field(node, node.selection_set)
        return total

    def of_field(field: FieldNode, below: SelectionSetNode) -> int:
        if field.name.value in ("pageInfo", "userErrors"):
            return 0
        size = size_of(field)
        if size is None:
            return 1 + cost(below)
        is_connection = any(isinstance(n, FieldNode) and n.name.value == "nodes" for n in below.selections)
        return 2 + times(size) * (cost(below) if is_connection else 1 + cost(below))

    operation = next(d for d in document.node.definitions if isinstance(d, OperationDefinitionNode))
    return cost(operation.selection_set) + (10 if document.is_mutation else 0)


@pytest.mark.parametrize("sizes", [GENEROUS, CAREFUL, WIDE], ids=["generous", "careful", "wide"])
def test_the_read_of_orders_stays_within_the_limit_for_which_it_is_made(sizes: documents.OrderSizes) -> None:
    variables = {"first": sizes.orders, "ids": ["x"] * sizes.orders} | sizes.variables()

    for document in (documents.ORDERS, documents.ORDERS_SINCE):
        assert worst_cost(document, variables, is_logarithmic=sizes is not CAREFUL) <= 1000


@pytest.mark.parametrize(
    ("document", "variables"),
    [
        (documents.LOCATIONS, {}),
        (documents.CATALOGUE, {"first": 100}),
        (documents.PRODUCT_VARIANTS, {"ids": ["x"], "first": 100}),
        (documents.LEVELS, {"ids": ["x"] * 24, "first": 10}),
        (documents.LEVELS, {"ids": ["x"], "first": 100}),
        (documents.WEBHOOKS, {}),
        (documents.SCOPES, {}),
        (documents.ORDER_HEAD, {"ids": ["x"]}),
        (documents.ORDER_LINES, {"ids": ["x"]}),
        (documents.FULFILLMENT_LINES, {"ids": ["x"]}),
        (documents.REFUND_LINES, {"ids": ["x"]}),
        (documents.FULFILLMENT_ORDERS, {"ids": ["x"]}),
        (documents.FULFILLMENT_ORDER_LINES, {"ids": ["x"]}),
    ],
    ids=lambda value: value.name if isinstance(value, Document) else None,
)
def test_every_other_read_stays_within_the_limit_even_if_each_node_counts(
    document: Document, variables: dict[str, Any]
) -> None:
    assert worst_cost(document, variables, is_logarithmic=False) <= 1000
