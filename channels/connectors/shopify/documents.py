"""Every GraphQL document we send, parsed once.

A request is refused when its worst case passes 1,000 points, and the worst case is taken from the bucket
before it runs. Shopify's page says "connections: sized by `first`"; recordings of real stores show that size
growing with the logarithm. So the sizes are variables: the connector starts with `GENEROUS` ones, made for
the recorded rule, and falls back to `CAREFUL` ones, which stay below the limit even if every node counted in
full (`MAX_COST_EXCEEDED`).

Two rules the schema cannot express are checked by `lint.py`: `@idempotent(key: $key)` on the field of every
mutation that demands it, and quantities with `changeFromQuantity`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gql import gql
from graphql import DocumentNode, OperationDefinitionNode, OperationType, print_ast


@dataclass(frozen=True, slots=True)
class OrderSizes:
    """How much of each list the read of an order asks for; a longer order is read again on its own."""

    orders: int
    lines: int
    fulfillments: int
    fulfilled_lines: int
    refunds: int
    refunded_lines: int
    places: int  # fulfilment orders: the line's units at one location
    placed_lines: int

    def variables(self) -> dict[str, int]:
        """As the variables of `ORDERS`; `ORDERS_SINCE` takes `first` besides."""
        return {
            "lines": self.lines,
            "fulfillments": self.fulfillments,
            "fulfilledLines": self.fulfilled_lines,
            "refunds": self.refunds,
            "refundedLines": self.refunded_lines,
            "places": self.places,
            "placedLines": self.placed_lines,
        }


GENEROUS = OrderSizes(
    orders=50,
    lines=20,
    fulfillments=4,
    fulfilled_lines=20,
    refunds=4,
    refunded_lines=20,
    places=3,
    placed_lines=20,
)
CAREFUL = OrderSizes(
    orders=5,
    lines=10,
    fulfillments=2,
    fulfilled_lines=10,
    refunds=2,
    refunded_lines=8,
    places=2,
    placed_lines=10,
)
#: One long order alone, by the recorded rule.
WIDE = OrderSizes(
    orders=1,
    lines=250,
    fulfillments=30,
    fulfilled_lines=250,
    refunds=30,
    refunded_lines=250,
    places=30,
    placed_lines=250,
)

#: Page size of a list read on its own.
LONG_PAGE = 200


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One operation: its name, its text as sent, and whether it writes."""

    name: str
    node: DocumentNode
    text: str
    is_mutation: bool


ALL: dict[str, Document] = {}


def _document(text: str) -> Document:
    node = gql(text).document
    operation = next(part for part in node.definitions if isinstance(part, OperationDefinitionNode))
    if operation.name is None:
        raise ValueError("a document must name its operation")
    document = Document(
        name=operation.name.value,
        node=node,
        text=print_ast(node),
        is_mutation=operation.operation is OperationType.MUTATION,
    )
    ALL[document.name] = document
    return document


# --- fragments ----------------------------------------------------------------------------------------------

_LINE = "fragment Line on LineItem { id quantity currentQuantity sku variant { id } }"
_FULFILLED_LINE = "fragment FulfilledLine on FulfillmentLineItem { quantity lineItem { id } }"
_REFUNDED_LINE = "fragment RefundedLine on RefundLineItem { id quantity restockType lineItem { id } location { id } }"
_ASSIGNED_LINE = "fragment AssignedLine on FulfillmentOrderLineItem { totalQuantity lineItem { id } }"
_ORDER_HEAD = "fragment OrderHead on Order { id name createdAt updatedAt cancelledAt test }"
_FULFILLMENT_HEAD = "fragment FulfillmentHead on Fulfillment { id status location { id } }"
_REFUND_HEAD = "fragment RefundHead on Refund { id createdAt processedAt }"
_FULFILLMENT_ORDER_HEAD = (
    "fragment FulfillmentOrderHead on FulfillmentOrder { id status assignedLocation { location { id } } }"
)
_PAGE = "fragment Page on PageInfo { hasNextPage endCursor }"

_ORDER_SIZES = (
    "$lines: Int!, $fulfillments: Int!, $fulfilledLines: Int!, $refunds: Int!, $refundedLines: Int!,"
    " $places: Int!, $placedLines: Int!"
)
_ORDER = f"""
fragment OrderRead on Order {{
  ...OrderHead
  lineItems(first: $lines) {{ nodes {{ ...Line }} pageInfo {{ ...Page }} }}
  fulfillments(first: $fulfillments) {{
    ...FulfillmentHead
    fulfillmentLineItems(first: $fulfilledLines) {{ nodes {{ ...FulfilledLine }} pageInfo {{ ...Page }} }}
  }}
  refunds(first: $refunds) {{
    ...RefundHead
    refundLineItems(first: $refundedLines) {{ nodes {{ ...RefundedLine }} pageInfo {{ ...Page }} }}
  }}
  fulfillmentOrders(first: $places) {{
    nodes {{
      ...FulfillmentOrderHead
      lineItems(first: $placedLines) {{ nodes {{ ...AssignedLine }} pageInfo {{ ...Page }} }}
    }}
    pageInfo {{ ...Page }}
  }}
}}
{_ORDER_HEAD} {_LINE} {_FULFILLMENT_HEAD} {_FULFILLED_LINE} {_REFUND_HEAD} {_REFUNDED_LINE}
{_FULFILLMENT_ORDER_HEAD} {_ASSIGNED_LINE} {_PAGE}
"""

_VARIANT = """
fragment Variant on ProductVariant {
  id sku barcode displayName inventoryPolicy requiresComponents product { id } inventoryItem { id tracked }
}
"""

_LEVEL = """
fragment Level on InventoryLevel {
  isActive updatedAt location { id } quantities(names: ["available"]) { name quantity updatedAt }
}
"""

# --- reads --------------------------------------------------------------------------------------------------

LOCATIONS = _document(
    """
    query Locations($after: String) {
      locations(first: 200, after: $after, includeInactive: true, includeLegacy: true) {
        nodes { id name isActive } pageInfo { ...Page }
      }
    }
    """
    + _PAGE
)

CATALOGUE = _document(
    """
    query Catalogue($first: Int!, $after: String, $query: String) {
      productVariants(first: $first, after: $after, query: $query, sortKey: ID) {
        nodes { ...Variant } pageInfo { ...Page }
      }
    }
    """
    + _VARIANT
    + _PAGE
)

PRODUCT_VARIANTS = _document(
    """
    query VariantsOfProduct($ids: [ID!]!, $first: Int!, $after: String) {
      nodes(ids: $ids) {
        ... on Product { id variants(first: $first, after: $after) { nodes { ...Variant } pageInfo { ...Page }
        } }
      }
    }
    """
    + _VARIANT
    + _PAGE
)

LEVELS = _document(
    """
    query Levels($ids: [ID!]!, $first: Int!, $after: String) {
      nodes(ids: $ids) {
        ... on InventoryItem {
          id tracked
          inventoryLevels(first: $first, after: $after, includeInactive: true) {
            nodes { ...Level } pageInfo { ...Page }
          }
        }
      }
    }
    """
    + _LEVEL
    + _PAGE
)

ORDERS_SINCE = _document(
    f"""
    query OrdersSince($first: Int!, $after: String, $query: String!, {_ORDER_SIZES}) {{
      orders(first: $first, after: $after, query: $query, sortKey: UPDATED_AT) {{
        nodes {{ ...OrderRead }} pageInfo {{ ...Page }}
      }}
    }}
    """
    + _ORDER
)

ORDERS = _document(f"query Orders($ids: [ID!]!, {_ORDER_SIZES}) {{ nodes(ids: $ids) {{ ...OrderRead }} }}" + _ORDER)

# A large order, list by list. Lists of fulfilments and refunds have no cursor: 200 of either is beyond any
# real order.

ORDER_HEAD = _document(
    f"""
    query HeadOfOrder($ids: [ID!]!) {{
      nodes(ids: $ids) {{
        ... on Order {{
          ...OrderHead
          fulfillments(first: {LONG_PAGE}) {{ ...FulfillmentHead }}
          refunds(first: {LONG_PAGE}) {{ ...RefundHead }}
        }}
      }}
    }}
    {_ORDER_HEAD} {_FULFILLMENT_HEAD} {_REFUND_HEAD}
    """
)

ORDER_LINES = _document(
    f"""
    query LinesOfOrder($ids: [ID!]!, $after: String) {{
      nodes(ids: $ids) {{
        ... on Order {{ list: lineItems(first: {LONG_PAGE}, after: $after) {{ nodes {{ ...Line }} pageInfo {{
        ...Page }} }} }}
      }}
    }}
    {_LINE} {_PAGE}
    """
)

FULFILLMENT_LINES = _document(
    f"""
    query LinesOfFulfillment($ids: [ID!]!, $after: String) {{
      nodes(ids: $ids) {{
        ... on Fulfillment {{
          list: fulfillmentLineItems(first: {LONG_PAGE}, after: $after) {{
            nodes {{ ...FulfilledLine }} pageInfo {{ ...Page }}
          }}
        }}
      }}
    }}
    {_FULFILLED_LINE} {_PAGE}
    """
)

REFUND_LINES = _document(
    f"""
    query LinesOfRefund($ids: [ID!]!, $after: String) {{
      nodes(ids: $ids) {{
        ... on Refund {{
          list: refundLineItems(first: {LONG_PAGE}, after: $after) {{
            nodes {{ ...RefundedLine }} pageInfo {{ ...Page }}
          }}
        }}
      }}
    }}
    {_REFUNDED_LINE} {_PAGE}
    """
)

FULFILLMENT_ORDERS = _document(
    f"""
    query FulfillmentOrdersOfOrder($ids: [ID!]!, $after: String) {{
      nodes(ids: $ids) {{
        ... on Order {{
          list: fulfillmentOrders(first: {LONG_PAGE}, after: $after) {{
            nodes {{ ...FulfillmentOrderHead }} pageInfo {{ ...Page }}
          }}
        }}
      }}
    }}
    {_FULFILLMENT_ORDER_HEAD} {_PAGE}
    """
)

FULFILLMENT_ORDER_LINES = _document(
    f"""
    query LinesOfFulfillmentOrder($ids: [ID!]!, $after: String) {{
      nodes(ids: $ids) {{
        ... on FulfillmentOrder {{
          list: lineItems(first: {LONG_PAGE}, after: $after) {{ nodes {{ ...AssignedLine }} pageInfo {{
          ...Page }} }}
        }}
      }}
    }}
    {_ASSIGNED_LINE} {_PAGE}
    """
)

WEBHOOKS = _document(
    """
    query Webhooks($after: String) {
      webhookSubscriptions(first: 200, after: $after) {
        nodes { id topic uri format includeFields filter } pageInfo { ...Page }
      }
    }
    """
    + _PAGE
)

SCOPES = _document("query Scopes { currentAppInstallation { accessScopes { handle } } }")

#: What a bulk operation is asked to write down. Every level tells all that is needed of its item, for it may come before it.
BULK_LEVELS = """
{
  inventoryItems {
    edges { node { id inventoryLevels(includeInactive: true) {
      edges { node {
        id isActive updatedAt location { id } item { id tracked }
        quantities(names: ["available"]) { name quantity updatedAt }
      } }
    } } }
  }
}
"""

BULK_OPERATION = _document(
    "query BulkOperation($id: ID!) { bulkOperation(id: $id) { id status errorCode url partialDataUrl } }"
)

# --- writes -------------------------------------------------------------------------------------------------

#: The rows of `$input.quantities` carry `changeFromQuantity` always: see `writing.py`.
SET_QUANTITIES = _document(
    """
    mutation SetQuantities($input: InventorySetQuantitiesInput!, $key: String!) {
      inventorySetQuantities(input: $input) @idempotent(key: $key) {
        inventoryAdjustmentGroup { id createdAt }
        userErrors { field message code }
      }
    }
    """
)

ACTIVATE_LEVEL = _document(
    """
    mutation ActivateLevel($inventoryItemId: ID!, $locationId: ID!, $key: String!) {
      inventoryActivate(inventoryItemId: $inventoryItemId, locationId: $locationId) @idempotent(key: $key) {
        inventoryLevel { id isActive }
        userErrors { field message }
      }
    }
    """
)

CREATE_WEBHOOK = _document(
    """
    mutation CreateWebhook($topic: WebhookSubscriptionTopic!, $subscription: WebhookSubscriptionInput!) {
      webhookSubscriptionCreate(topic: $topic, webhookSubscription: $subscription) {
        webhookSubscription { id }
        userErrors { field message }
      }
    }
    """
)

UPDATE_WEBHOOK = _document(
    """
    mutation UpdateWebhook($id: ID!, $subscription: WebhookSubscriptionInput!) {
      webhookSubscriptionUpdate(id: $id, webhookSubscription: $subscription) {
        webhookSubscription { id }
        userErrors { field message }
      }
    }
    """
)

DELETE_WEBHOOK = _document(
    """
    mutation DeleteWebhook($id: ID!) {
      webhookSubscriptionDelete(id: $id) { deletedWebhookSubscriptionId userErrors { field message } }
    }
    """
)

RUN_BULK_QUERY = _document(
    """
    mutation RunBulkQuery($query: String!) {
      bulkOperationRunQuery(query: $query, groupObjects: false) {
        bulkOperation { id status }
        userErrors { field message code }
      }
    }
    """
)

CANCEL_BULK = _document(
    """
    mutation CancelBulk($id: ID!) {
      bulkOperationCancel(id: $id) { bulkOperation { id status } userErrors { field message } }
    }
    """
)
