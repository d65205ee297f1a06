"""Locations, catalogue, levels and orders as read, page by page, from a store that answers as told."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from channels.connectors.shopify import reading
from channels.connectors.shopify.connector import ShopifyConnector
from channels.connectors.shopify.documents import CAREFUL, GENEROUS, WIDE
from channels.connectors.shopify.events import ORDERS_POLLED, ShopifyEventReader
from channels.protocol import LevelState, LocationState, OrderState, Refused, Unavailable, VariantState
from tests.channels.connectors.shopify.scripted import Answer, ScriptedStore

FIXTURES = Path(__file__).parents[2] / "fixtures" / "shopify"
TOO_DEAR = Answer({"errors": [{"message": "too dear", "extensions": {"code": "MAX_COST_EXCEEDED"}}]})
SINCE = datetime(2026, 11, 20, 15, 0, 0, 999_999, tzinfo=UTC)


def page(*nodes: Any, cursor: str | None = None) -> dict[str, Any]:
    return {"nodes": list(nodes), "pageInfo": {"hasNextPage": cursor is not None, "endCursor": cursor}}


def variant(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"gid://shopify/ProductVariant/{number}",
        "sku": f"SKU-{number}",
        "barcode": None,
        "displayName": f"Mug - {number}",
        "inventoryPolicy": "DENY",
        "requiresComponents": False,
        "product": {"id": "gid://shopify/Product/81"},
        "inventoryItem": {"id": f"gid://shopify/InventoryItem/{number + 1000}", "tracked": True},
    } | changes


def level(location: int, available: int) -> dict[str, Any]:
    return {
        "isActive": True,
        "updatedAt": "2026-11-20T15:00:00Z",
        "location": {"id": f"gid://shopify/Location/{location}"},
        "quantities": [{"name": "available", "quantity": available, "updatedAt": "2026-11-20T15:00:01Z"}],
    }


def item(number: int, *levels: Any, tracked: bool = True, cursor: str | None = None) -> dict[str, Any]:
    return {
        "id": f"gid://shopify/InventoryItem/{number}",
        "tracked": tracked,
        "inventoryLevels": page(*levels, cursor=cursor),
    }


def order(number: int = 1, **changes: Any) -> dict[str, Any]:
    node: dict[str, Any] = json.loads((FIXTURES / "orders_polled.json").read_bytes())
    return node | {"id": f"gid://shopify/Order/{number}"} | changes


class TestLocations:
    def test_all_pages_are_read(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        hamburg = {"id": "gid://shopify/Location/1", "name": "Hamburg", "isActive": True}
        bremen = {"id": "gid://shopify/Location/2", "name": "Bremen", "isActive": False}
        store.answers_data({"locations": page(hamburg, cursor="c1")}, {"locations": page(bremen)})

        locations = connector.read_locations()

        assert locations == (LocationState("1", "Hamburg", True), LocationState("2", "Bremen", False))
        assert [variables["after"] for variables in store.variables] == [None, "c1"]

    def test_pages_that_never_end_are_given_up(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        store.answers_data({"locations": page(cursor="the same")})

        with pytest.raises(Unavailable, match="ever more"):
            connector.read_locations()

        assert len(store.asked) == 2


class TestCatalogue:
    def test_variants_come_page_by_page(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        bundle = variant(2, requiresComponents=True, inventoryPolicy="CONTINUE", sku=None, barcode="40")
        store.answers_data({"productVariants": page(variant(1), cursor="c1")}, {"productVariants": page(bundle)})

        pages = list(connector.read_catalogue())

        assert pages == [
            (VariantState("1", "81", "1001", "SKU-1", "", "Mug - 1", True, False, False),),
            (VariantState("2", "81", "1002", "", "40", "Mug - 2", True, True, True),),
        ]

    def test_a_very_long_catalogue_goes_on_behind_its_last_id(
        self, store: ScriptedStore, connector: ShopifyConnector, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "VARIANTS_PER_SWEEP", 300)
        full = [
            {"productVariants": page(*(variant(100 * n + i) for i in range(100)), cursor=f"c{n}")} for n in range(3)
        ]
        store.answers_data(*full, {"productVariants": page(variant(99_999))})

        count = sum(len(one) for one in connector.read_catalogue())

        assert count == 301
        assert store.variables[-1]["query"] == "id:>299"
        assert store.variables[-1]["after"] is None
        assert store.variables[-2]["query"] is None

    def test_a_product_is_read_with_all_its_variants(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        store.answers_data(
            {"nodes": [{"id": "gid://shopify/Product/81", "variants": page(variant(1), cursor="c1")}]},
            {"nodes": [{"id": "gid://shopify/Product/81", "variants": page(variant(2))}]},
        )

        assert [found.variant_id for found in connector.read_variants("81")] == ["1", "2"]

    def test_a_product_that_is_gone_has_none(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        store.answers_data({"nodes": [None]})

        assert connector.read_variants("81") == ()


class TestLevels:
    def test_levels_are_read_with_the_time_of_their_quantity(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers_data({"nodes": [item(71, level(41, 5), level(42, -2)), None]})

        levels = connector.read_levels(["71", "72"])

        at = datetime(2026, 11, 20, 15, 0, 1, tzinfo=UTC)
        assert levels == (LevelState("71", "41", 5, True, at), LevelState("71", "42", -2, True, at))

    def test_an_inactive_level_or_an_untracked_item_counts_nothing(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers_data(
            {"nodes": [item(71, level(41, 5) | {"isActive": False}), item(72, level(41, 5), tracked=False)]}
        )

        levels = connector.read_levels(["71", "72"])

        assert [(found.available, found.is_stocked) for found in levels] == [(None, False), (None, True)]

    def test_an_item_at_many_places_is_read_again_and_to_the_end(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers_data(
            {"nodes": [item(71, *(level(n, n) for n in range(10)), cursor="c1"), item(72, level(1, 1))]},
            {"nodes": [item(71, *(level(n, n) for n in range(100)), cursor="c2")]},
            {"nodes": [item(71, level(100, 100))]},
        )

        levels = connector.read_levels(["71", "72"])

        assert len(levels) == 102
        assert {found.location_id for found in levels if found.inventory_item_id == "71"} == {
            str(n) for n in range(101)
        }
        assert [(v["first"], v["after"]) for v in store.variables] == [(10, None), (100, None), (100, "c2")]

    def test_too_dear_a_batch_is_halved_from_then_on(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        store.answers(
            TOO_DEAR,
            Answer({"data": {"nodes": [item(1, level(41, 1)), item(2, level(41, 2))]}}),
            Answer({"data": {"nodes": [item(3, level(41, 3))]}}),
        )

        levels = connector.read_levels(["1", "2", "3", "4", "2"])

        assert [found.available for found in levels] == [1, 2, 3]
        assert [len(variables["ids"]) for variables in store.variables] == [4, 2, 2]

    @pytest.mark.parametrize(
        "changes",
        [
            {"quantities": []},
            {"quantities": [{"name": "available", "quantity": "5"}]},
            {"quantities": [{"name": "available", "quantity": 10**12}]},
            {"location": None},
            {"isActive": None},
            {"updatedAt": "yesterday", "quantities": [{"name": "available", "quantity": 5}]},
        ],
    )
    def test_nonsense_is_never_taken_for_a_quantity(
        self, store: ScriptedStore, connector: ShopifyConnector, changes: dict[str, Any]
    ) -> None:
        store.answers_data({"nodes": [item(71, level(41, 5) | changes)]})

        with pytest.raises(Unavailable, match="makes no sense"):
            connector.read_levels(["71"])


class TestOrders:
    def test_a_page_of_changed_orders_carries_what_the_reader_reads(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers_data({"orders": page(order(1), order(2), cursor="c1")})

        found = connector.read_orders_since(SINCE, cursor="c0")

        assert [polled.order_id for polled in found.orders] == ["1", "2"]
        assert found.cursor == "c1"
        assert found.orders[0].version == datetime(2026, 11, 20, 15, 20, tzinfo=UTC)
        (event,) = ShopifyEventReader().interpret(topic=ORDERS_POLLED, body=found.orders[0].body)
        assert isinstance(event, OrderState)
        assert event.version == found.orders[0].version
        assert store.variables[0]["query"] == "updated_at:>='2026-11-20T15:00:00Z'"
        assert store.variables[0]["after"] == "c0"

    def test_orders_the_store_does_not_show_are_left_out(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers_data({"nodes": [order(1), None]})

        assert [polled.order_id for polled in connector.read_orders(["1", "2", "1"])] == ["1"]
        assert store.variables[0]["ids"] == ["gid://shopify/Order/1", "gid://shopify/Order/2"]

    def test_careful_sizes_are_kept_once_the_generous_ones_proved_too_dear(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers(
            TOO_DEAR,
            Answer({"data": {"orders": page()}}),
            Answer({"data": {"orders": page()}}),
        )

        connector.read_orders_since(SINCE, cursor=None)
        connector.read_orders_since(SINCE, cursor=None)

        assert [variables["first"] for variables in store.variables] == [
            GENEROUS.orders,
            CAREFUL.orders,
            CAREFUL.orders,
        ]

    def test_even_careful_sizes_may_be_refused(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        store.answers(TOO_DEAR)

        with pytest.raises(Refused):
            connector.read_orders(["1"])

        assert len(store.asked) == 2

    @pytest.mark.parametrize("is_wide_too_dear", [False, True])
    def test_a_very_long_order_is_read_list_by_list(
        self, store: ScriptedStore, connector: ShopifyConnector, is_wide_too_dear: bool
    ) -> None:
        short = order(1)
        cut = order(1, lineItems=page(*short["lineItems"]["nodes"], cursor="c1"))
        head = {name: short[name] for name in ("id", "name", "createdAt", "updatedAt", "cancelledAt", "test")} | {
            "fulfillments": [
                {key: value for key, value in one.items() if key != "fulfillmentLineItems"}
                for one in short["fulfillments"]
            ],
            "refunds": [
                {key: value for key, value in one.items() if key != "refundLineItems"} for one in short["refunds"]
            ],
        }
        places = [
            {key: value for key, value in one.items() if key != "lineItems"}
            for one in short["fulfillmentOrders"]["nodes"]
        ]
        lists = [
            page(*places),
            *(one["lineItems"] for one in short["fulfillmentOrders"]["nodes"]),
            page(short["lineItems"]["nodes"][0], cursor="c9"),
            page(short["lineItems"]["nodes"][1]),
            *(one["fulfillmentLineItems"] for one in short["fulfillments"]),
            *(one["refundLineItems"] for one in short["refunds"]),
        ]
        still_cut = Answer({"data": {"nodes": [cut]}})
        store.answers(
            still_cut,
            TOO_DEAR if is_wide_too_dear else still_cut,
            *(
                Answer({"data": data})
                for data in (
                    {"nodes": [head]},
                    *({"nodes": [{"list": one}]} for one in lists),
                    {"nodes": [head]},
                )
            ),
        )

        (polled,) = connector.read_orders(["1"])

        reader = ShopifyEventReader()
        body = json.dumps(short | {"readAt": json.loads(polled.body)["readAt"]}).encode()
        assert reader.interpret(topic=ORDERS_POLLED, body=polled.body) == reader.interpret(
            topic=ORDERS_POLLED, body=body
        )

    def test_a_long_order_that_keeps_changing_is_left_for_later(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        cut = order(1, lineItems=page(cursor="c1"))
        empty = {"nodes": [{"list": page()}]}
        heads = [
            {"nodes": [order(1, updatedAt=f"2026-11-20T15:20:0{n}Z", fulfillments=[], refunds=[])]} for n in range(6)
        ]
        rounds = [part for n in range(3) for part in (heads[2 * n], empty, empty, heads[2 * n + 1])]
        store.answers_data({"nodes": [cut]}, {"nodes": [cut]}, *rounds)

        with pytest.raises(Unavailable, match="keeps changing"):
            connector.read_orders(["1"])

    @pytest.mark.parametrize("name", ["fulfillments", "refunds"])
    def test_a_full_list_without_a_cursor_counts_as_cut(
        self, store: ScriptedStore, connector: ShopifyConnector, name: str
    ) -> None:
        entries = order(1)[name][:1] * getattr(GENEROUS, name)
        store.answers_data({"nodes": [order(1, **{name: entries})]}, {"nodes": [order(1)]})

        (polled,) = connector.read_orders(["1"])

        body = json.loads(polled.body)
        assert body == order(1) | {"readAt": body["readAt"]}
        assert [variables["lines"] for variables in store.variables] == [GENEROUS.lines, WIDE.lines]

    def test_a_long_order_that_is_gone_by_then_is_left_out(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers_data({"nodes": [order(1, lineItems=page(cursor="c1"))]}, {"nodes": [None]})

        assert connector.read_orders(["1"]) == ()


class TestActivation:
    ACTIVATED = {"inventoryActivate": {"inventoryLevel": None, "userErrors": [{"message": "No, thank you."}]}}

    def activate(self, connector: ShopifyConnector) -> None:
        connector.activate_level(inventory_item_id="71", location_id="41", key="key-1")

    def test_a_refusal_is_believed_when_the_level_is_not_there(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers_data(self.ACTIVATED, {"nodes": [item(71, level(42, 5))]})

        with pytest.raises(Refused, match="No, thank you"):
            self.activate(connector)

    def test_a_level_that_is_there_after_all_is_enough(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        store.answers_data(self.ACTIVATED, {"nodes": [item(71, level(41, 5))]})

        self.activate(connector)

        assert store.variables[0]["key"] == "key-1"


def test_the_scopes_of_the_token_are_read(store: ScriptedStore, connector: ShopifyConnector) -> None:
    store.answers_data({"currentAppInstallation": {"accessScopes": [{"handle": "read_orders"}]}})

    assert connector.read_scopes() == frozenset({"read_orders"})
