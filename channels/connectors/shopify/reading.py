"""Locations, catalogue and levels, read page by page and checked value by value."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from channels.connectors.shopify import documents
from channels.connectors.shopify.client import ShopifyClient
from channels.connectors.shopify.documents import Document
from channels.connectors.shopify.parsing import (
    JsonObject,
    malformed,
    read_flag,
    read_moment_or_none,
    read_object,
    read_objects,
    read_quantity,
    read_remote_id,
    read_text,
)
from channels.protocol import (
    LevelState,
    LocationState,
    MalformedEvent,
    Refused,
    Unavailable,
    VariantState,
)

VARIANTS_PER_PAGE = 100
#: Shopify pages no further than 25,000 objects; before that the catalogue goes on by id instead of by cursor.
VARIANTS_PER_SWEEP = 20_000
LEVELS_PER_READ = 100
#: Levels asked for with each item; items stocked at more places are read again with `LEVELS_PER_ITEM_LONG`.
LEVELS_PER_ITEM = 10
LEVELS_PER_ITEM_LONG = 100
#: A channel that always has another page is broken.
PAGES_MAX = 5_000

MAX_COST_EXCEEDED = "MAX_COST_EXCEEDED"


@contextlib.contextmanager
def checking_answer(what: str) -> Iterator[None]:
    """Turn nonsense in an answer to a query into Unavailable: nothing was changed by asking."""
    try:
        yield
    except MalformedEvent as error:
        raise Unavailable(
            f"The store's answer about {what} makes no sense: {error}", code="ANSWER_UNREADABLE"
        ) from None


def next_cursor(connection: JsonObject, where: str) -> str | None:
    """Where the next page of a connection begins; None when this was the last."""
    page = read_object(connection.get("pageInfo"), f"{where}.pageInfo")
    if not read_flag(page.get("hasNextPage"), f"{where}.pageInfo.hasNextPage"):
        return None
    cursor = page.get("endCursor")
    if type(cursor) is not str or not cursor:
        malformed(f"{where}.pageInfo.endCursor", "a cursor", cursor)
    return cursor


def read_nodes(answer: JsonObject) -> list[JsonObject]:
    """The nodes found by `nodes(ids:)`, those unknown to the channel left out."""
    nodes = answer.get("nodes")
    if type(nodes) is not list:
        malformed("nodes", "a list", nodes)
    return [read_object(node, "nodes[]") for node in nodes if node]


def read_pages(
    client: ShopifyClient, document: Document, name: str, variables: dict[str, Any], *, size: int
) -> Iterator[list[JsonObject]]:
    """The pages of a root connection, each a list of nodes."""
    cursor: str | None = None
    for _ in range(PAGES_MAX):
        answer = client.query(document, variables | {"after": cursor}, size=size)
        connection = read_object(answer.get(name), name)
        yield read_objects(connection.get("nodes"), f"{name}.nodes")
        following = next_cursor(connection, name)
        if following is None:
            return
        if following == cursor:
            break
        cursor = following
    raise MalformedEvent(f"{name}: expected the pages to end, found ever more", code="malformed")


def gid(kind: str, remote_id: str) -> str:
    """Shopify's global id of a bare one."""
    return f"gid://shopify/{kind}/{remote_id}"


# --- locations ----------------------------------------------------------------------------------------------


def read_locations(client: ShopifyClient) -> tuple[LocationState, ...]:
    """All locations, those switched off and those of fulfilment services included."""
    with checking_answer("its locations"):
        return tuple(
            LocationState(
                location_id=read_remote_id(node.get("id"), "location.id", kind="Location"),
                name=read_text(node.get("name"), "location.name"),
                is_active=read_flag(node.get("isActive"), "location.isActive"),
            )
            for page in read_pages(client, documents.LOCATIONS, "locations", {}, size=1)
            for node in page
        )


# --- catalogue ----------------------------------------------------------------------------------------------


def read_catalogue(client: ShopifyClient) -> Iterator[tuple[VariantState, ...]]:
    """All variants in the order of their ids, page by page."""
    behind: str | None = None
    while True:
        variables = {"first": VARIANTS_PER_PAGE, "query": f"id:>{behind}" if behind else None}
        count = 0
        with checking_answer("its catalogue"):
            for nodes in read_pages(client, documents.CATALOGUE, "productVariants", variables, size=VARIANTS_PER_PAGE):
                page = tuple(_read_variant(node) for node in nodes)
                if page:
                    yield page
                    count += len(page)
                    behind = page[-1].variant_id
                if count >= VARIANTS_PER_SWEEP:
                    break
            else:
                return


def read_variants(client: ShopifyClient, product_id: str) -> tuple[VariantState, ...]:
    """All variants of one product; none when it is gone."""
    variants: list[VariantState] = []
    cursor: str | None = None
    with checking_answer("a product"):
        for _ in range(PAGES_MAX):
            variables = {"ids": [gid("Product", product_id)], "first": VARIANTS_PER_PAGE, "after": cursor}
            products = read_nodes(client.query(documents.PRODUCT_VARIANTS, variables, size=VARIANTS_PER_PAGE))
            if not products:
                return ()
            connection = read_object(products[0].get("variants"), "variants")
            variants += [_read_variant(node) for node in read_objects(connection.get("nodes"), "variants.nodes")]
            cursor = next_cursor(connection, "variants")
            if cursor is None:
                return tuple(variants)
        raise MalformedEvent("variants: expected the pages to end, found ever more", code="malformed")


def _read_variant(node: JsonObject) -> VariantState:
    product = read_object(node.get("product"), "variant.product")
    item = read_object(node.get("inventoryItem"), "variant.inventoryItem")
    return VariantState(
        variant_id=read_remote_id(node.get("id"), "variant.id", kind="ProductVariant"),
        product_id=read_remote_id(product.get("id"), "variant.product.id", kind="Product"),
        inventory_item_id=read_remote_id(item.get("id"), "variant.inventoryItem.id", kind="InventoryItem"),
        sku=read_text(node.get("sku"), "variant.sku"),
        barcode=read_text(node.get("barcode"), "variant.barcode"),
        title=read_text(node.get("displayName"), "variant.displayName"),
        is_tracked=read_flag(item.get("tracked"), "variant.inventoryItem.tracked"),
        is_store_bundle=read_flag(node.get("requiresComponents"), "variant.requiresComponents"),
        sells_when_out_of_stock=node.get("inventoryPolicy") == "CONTINUE",
    )


# --- levels -------------------------------------------------------------------------------------------------


class LevelReader:
    """Reads levels in batches as large as the store lets a request be."""

    def __init__(self, client: ShopifyClient) -> None:
        self._client = client
        self._items_per_call = LEVELS_PER_READ

    def read(self, inventory_item_ids: Sequence[str]) -> tuple[LevelState, ...]:
        """All levels of these items, also where they are not stocked any more; unknown items are left out."""
        ids = list(dict.fromkeys(inventory_item_ids))
        with checking_answer("its stock levels"):
            return tuple(
                level for item, nodes in self._read_items(ids, LEVELS_PER_ITEM) for level in _read_levels(item, nodes)
            )

    def _read_items(self, ids: list[str], width: int) -> Iterator[tuple[JsonObject, list[JsonObject]]]:
        """Each item with the nodes of all its levels."""
        stocked_widely: list[str] = []
        position = 0
        while position < len(ids):
            batch = ids[position : position + self._items_per_call]
            items = self._read_batch(batch, width)
            if items is None:
                continue  # the same again with fewer items
            position += len(batch)
            for item in items:
                connection = read_object(item.get("inventoryLevels"), "inventoryLevels")
                cursor = next_cursor(connection, "inventoryLevels")
                if cursor is None:
                    yield item, read_objects(connection.get("nodes"), "inventoryLevels.nodes")
                elif width < LEVELS_PER_ITEM_LONG:
                    stocked_widely.append(read_remote_id(item.get("id"), "inventoryItem.id"))
                else:
                    yield item, self._read_rest(item, connection, cursor)
        if stocked_widely:
            yield from self._read_items(stocked_widely, LEVELS_PER_ITEM_LONG)

    def _read_batch(self, ids: list[str], width: int) -> list[JsonObject] | None:
        """One request; None when it was too dear and should be made smaller."""
        variables = {"ids": [gid("InventoryItem", item_id) for item_id in ids], "first": width, "after": None}
        try:
            return read_nodes(self._client.query(documents.LEVELS, variables, size=len(ids) * width))
        except Refused as refusal:
            if refusal.code != MAX_COST_EXCEEDED or len(ids) == 1:
                raise
            self._items_per_call = len(ids) // 2
            return None

    def _read_rest(self, item: JsonObject, connection: JsonObject, cursor: str) -> list[JsonObject]:
        nodes = list(read_objects(connection.get("nodes"), "inventoryLevels.nodes"))
        following: str | None = cursor
        for _ in range(PAGES_MAX):
            variables = {"ids": [item["id"]], "first": LEVELS_PER_ITEM_LONG, "after": following}
            found = read_nodes(self._client.query(documents.LEVELS, variables, size=LEVELS_PER_ITEM_LONG))
            if not found:
                return []  # the item was deleted meanwhile
            page = read_object(found[0].get("inventoryLevels"), "inventoryLevels")
            nodes += read_objects(page.get("nodes"), "inventoryLevels.nodes")
            following = next_cursor(page, "inventoryLevels")
            if following is None:
                return nodes
        raise MalformedEvent("inventoryLevels: expected the pages to end, found ever more", code="malformed")


def _read_levels(item: JsonObject, nodes: Iterable[JsonObject]) -> Iterator[LevelState]:
    item_id = read_remote_id(item.get("id"), "inventoryItem.id", kind="InventoryItem")
    is_tracked = read_flag(item.get("tracked"), "inventoryItem.tracked")
    for node in nodes:
        location = read_object(node.get("location"), "level.location")
        is_stocked = read_flag(node.get("isActive"), "level.isActive")
        quantity = next(
            (
                quantity
                for quantity in read_objects(node.get("quantities"), "level.quantities")
                if quantity.get("name") == "available"
            ),
            {},
        )
        changed_at = quantity.get("updatedAt") or node.get("updatedAt")
        available = None
        if is_tracked and is_stocked:  # what a level that is switched off still shows means nothing
            available = read_quantity(quantity.get("quantity"), "level.available")
        yield LevelState(
            inventory_item_id=item_id,
            location_id=read_remote_id(location.get("id"), "level.location.id", kind="Location"),
            available=available,
            is_stocked=is_stocked,
            source_at=read_moment_or_none(changed_at, "level.updatedAt"),
        )
