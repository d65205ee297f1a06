"""What the reader makes of deliveries: pure, no server."""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args, get_type_hints, is_typeddict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channels.connectors.shopify import events, orders, parsing, sieve
from channels.connectors.shopify.events import ORDERS_POLLED, TOPICS_READ, ShopifyEventReader
from channels.protocol import (
    AppUninstalled,
    BulkFinished,
    CatalogueTouched,
    ComplianceRequest,
    Event,
    ItemTouched,
    LevelTouched,
    LineState,
    LocationTouched,
    MalformedEvent,
    OrderDeleted,
    OrderState,
    OrderTouched,
    RefundedUnits,
    RefundMade,
    Restock,
    Uninteresting,
)

READER = ShopifyEventReader()
FIXTURES = Path(__file__).parents[2] / "fixtures" / "shopify"
OFFICIAL_SAMPLES = Path(__file__).parents[5] / "shared" / "specs" / "shopify" / "webhook-samples"
UPDATED_AT = datetime(2026, 11, 20, 15, 20, tzinfo=UTC)


def body_of(name: str) -> bytes:
    return (FIXTURES / f"{name}.json").read_bytes()


def document_of(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(body_of(name))
    return document


def interpret(topic: str, document: object) -> Event:
    (event,) = READER.interpret(topic=topic, body=json.dumps(document).encode())
    return event


def interpret_order(topic: str, document: object) -> OrderState:
    event = interpret(topic, document)
    assert isinstance(event, OrderState)
    return event


@pytest.mark.parametrize("said", ["1001", "gid://shopify/Order/1001"])
def test_an_order_is_known_by_its_number(said: str) -> None:
    assert READER.read_order_id(said) == "1001"


@pytest.mark.parametrize("said", ["", "#1001", "gid://shopify/Product/1001", "0", "-1001", "9" * 19 + "9", "\u0661"])
def test_what_is_no_order_is_refused(said: str) -> None:
    with pytest.raises(MalformedEvent, match="order"):
        READER.read_order_id(said)


class TestAuthenticate:
    BODY = b'{"id": 1}'

    def signature(self, secret: str) -> str:
        return base64.b64encode(hmac.new(secret.encode(), self.BODY, hashlib.sha256).digest()).decode()

    @pytest.mark.parametrize("header", ["x-shopify-hmac-sha256", "shopify-hmac-sha256"])
    def test_a_good_signature_in_either_header_family_is_accepted(self, header: str) -> None:
        headers = {header: self.signature("current")}

        assert READER.authenticate(headers=headers, body=self.BODY, secrets=["current"])

    @pytest.mark.parametrize("signed_with", ["current", "previous"])
    def test_both_secrets_are_accepted_while_they_are_rotated(self, signed_with: str) -> None:
        headers = {"x-shopify-hmac-sha256": self.signature(signed_with)}

        assert READER.authenticate(headers=headers, body=self.BODY, secrets=["current", "previous"])

    @pytest.mark.parametrize("value", ["", "wrong", "\xe9\xe8", "=" * 10_000, "AAAA", " " * 44])
    def test_any_other_signature_is_refused_without_an_error(self, value: str) -> None:
        headers = {"x-shopify-hmac-sha256": value}

        assert not READER.authenticate(headers=headers, body=self.BODY, secrets=["current"])

    def test_a_missing_signature_is_refused(self) -> None:
        assert not READER.authenticate(headers={}, body=self.BODY, secrets=["current"])

    def test_every_changed_byte_is_noticed(self) -> None:
        headers = {"x-shopify-hmac-sha256": self.signature("current")}

        for position in range(len(self.BODY)):
            changed = bytearray(self.BODY)
            changed[position] ^= 1
            assert not READER.authenticate(headers=headers, body=bytes(changed), secrets=["current"])


class TestReadDelivery:
    HEADERS = {
        "x-shopify-topic": "orders/create",
        "x-shopify-shop-domain": "north.myshopify.com",
        "x-shopify-webhook-id": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
        "x-shopify-event-id": "98880550-7158-44d4-b7cd-2c97c8a091b5",
        "x-shopify-api-version": "2026-10",
        "x-shopify-triggered-at": "2026-11-20T15:00:00.123456789Z",
    }

    def test_the_classic_headers_are_read(self) -> None:
        delivery = READER.read_delivery(self.HEADERS)

        assert delivery.topic == "orders/create"
        assert delivery.account == "north.myshopify.com"
        assert delivery.webhook_id == "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043"
        assert delivery.event_id == "98880550-7158-44d4-b7cd-2c97c8a091b5"
        assert delivery.api_version == "2026-10"
        assert delivery.triggered_at == datetime(2026, 11, 20, 15, 0, 0, 123456, tzinfo=UTC)

    def test_the_new_headers_give_the_same(self) -> None:
        renamed = {name.removeprefix("x-"): value for name, value in self.HEADERS.items()}

        assert READER.read_delivery(renamed) == READER.read_delivery(self.HEADERS)

    @pytest.mark.parametrize("name", ["topic", "shop-domain", "webhook-id"])
    @pytest.mark.parametrize("value", ["", "a b", "a\nb", "\u2603", "x" * 300])
    def test_absurd_values_of_necessary_headers_are_malformed(self, name: str, value: str) -> None:
        with pytest.raises(MalformedEvent, match=name):
            READER.read_delivery(self.HEADERS | {f"x-shopify-{name}": value})

    def test_absurd_values_of_other_headers_are_left_out(self) -> None:
        absurd = {
            "x-shopify-triggered-at": "yesterday",
            "x-shopify-event-id": "\u2603",
            "x-shopify-api-version": "x" * 99,
        }

        delivery = READER.read_delivery(self.HEADERS | absurd)

        assert (delivery.triggered_at, delivery.event_id, delivery.api_version) == (None, "", "")


class TestLevels:
    def test_an_update_tells_the_level_and_what_it_showed(self) -> None:
        event = interpret("inventory_levels/update", document_of("inventory_levels_update"))

        assert event == LevelTouched(
            inventory_item_id="7100000000000000001",
            location_id="4100000001",
            available=10,
            source_at=datetime(2026, 11, 20, 15, 15, 30, tzinfo=UTC),
            is_stocked=None,
        )

    def test_connecting_and_disconnecting_tell_whether_it_is_stocked(self) -> None:
        connected = interpret("inventory_levels/connect", document_of("inventory_levels_connect"))
        disconnected = interpret("inventory_levels/disconnect", document_of("inventory_levels_disconnect"))

        assert isinstance(connected, LevelTouched)
        assert (connected.is_stocked, connected.available) == (True, 0)
        assert disconnected == LevelTouched("7100000000000000001", "4100000001", None, None, is_stocked=False)

    def test_a_negative_or_absent_quantity_is_legal(self) -> None:
        document = document_of("inventory_levels_update")

        below_zero = interpret("inventory_levels/update", document | {"available": -3})
        uncounted = interpret("inventory_levels/update", document | {"available": None})

        assert isinstance(below_zero, LevelTouched)
        assert isinstance(uncounted, LevelTouched)
        assert (below_zero.available, uncounted.available) == (-3, None)


class TestOrders:
    LINES = (
        LineState(
            "6100000000001",
            "9100000001",
            "MUG-BLUE",
            4,
            3,
            shipped=2,
            location_id=None,
            shipped_from=(("4100000001", 2),),
        ),
        LineState("6100000000002", "", "OLD-ONE", 1, 1, shipped=0, location_id=None),
    )
    REFUND = RefundedUnits("1100000001", "6100000000001", 1, Restock.CANCEL, "4100000001", UPDATED_AT)

    @pytest.mark.parametrize(
        "topic",
        [
            "orders/create",
            "orders/updated",
            "orders/paid",
            "orders/fulfilled",
            "orders/partially_fulfilled",
            "orders/cancelled",
        ],
    )
    def test_every_topic_with_a_whole_order_reads_the_same(self, topic: str) -> None:
        event = interpret(topic, document_of("orders_updated"))

        assert event == OrderState(
            order_id="5100000000001",
            name="#1001",
            version=UPDATED_AT,
            created_at=datetime(2026, 11, 20, 15, 0, tzinfo=UTC),
            cancelled_at=None,
            is_test=False,
            lines=self.LINES,
            refunds=(self.REFUND,),
        )

    def test_a_poll_of_the_same_order_agrees_with_its_webhook(self) -> None:
        told = interpret_order("orders/updated", document_of("orders_updated"))
        polled = interpret_order(ORDERS_POLLED, document_of("orders_polled"))

        assert replace(polled.lines[0], places=()) == told.lines[0]
        assert polled.refunds == told.refunds
        assert (polled.order_id, polled.version, polled.name) == (told.order_id, told.version, told.name)

    def test_a_poll_says_how_many_units_of_a_line_are_assigned_where(self) -> None:
        polled = interpret_order(ORDERS_POLLED, document_of("orders_polled"))

        # Of the second line only a cancelled assignment is left: better than no place.
        assert [line.places for line in polled.lines] == [
            (("4100000001", 3), ("4100000002", 1)),
            (("4100000009", 1),),
        ]
        assert [line.location_id for line in polled.lines] == [None, "4100000009"]

    def test_places_where_nothing_is_left_count_only_where_nothing_is_left_at_all(self) -> None:
        document = document_of("orders_polled")
        orders = document["fulfillmentOrders"]["nodes"]
        orders[0]["lineItems"]["nodes"][0]["totalQuantity"] = 0
        one_left = interpret_order(ORDERS_POLLED, document)
        orders[1]["lineItems"]["nodes"][0]["totalQuantity"] = 0
        none_left = interpret_order(ORDERS_POLLED, document)

        assert one_left.lines[0].places == (("4100000001", 3),)
        assert none_left.lines[0].places == (("4100000001", 0), ("4100000002", 0))

    def test_cancelling_is_read_from_its_time(self) -> None:
        order = interpret_order("orders/cancelled", document_of("orders_cancelled"))

        assert order.cancelled_at == UPDATED_AT

    def test_an_absent_current_quantity_stays_unknown(self) -> None:
        document = document_of("orders_updated")
        del document["line_items"][0]["current_quantity"]

        order = interpret_order("orders/updated", document)

        assert order.lines[0].current is None

    def test_shipped_units_never_exceed_the_ordered_ones(self) -> None:
        document = document_of("orders_updated")
        document["fulfillments"][0]["line_items"][0]["quantity"] = 99

        order = interpret_order("orders/updated", document)

        assert order.lines[0].shipped == 4

    def test_a_line_says_how_many_of_its_units_were_shipped_from_where(self) -> None:
        document = document_of("orders_updated")
        document["fulfillments"][1]["status"] = "success"

        order = interpret_order("orders/updated", document)

        assert order.lines[0].shipped_from == (("4100000001", 2), ("4100000002", 4))

    def test_an_old_kind_of_restocking_stays_what_it_is(self) -> None:
        document = document_of("orders_updated")
        document["refunds"][0]["refund_line_items"][0]["restock_type"] = "legacy_restock"

        order = interpret_order("orders/updated", document)

        assert order.refunds[0].restock is Restock.LEGACY

    @pytest.mark.parametrize("name", ["quantity", "current_quantity"])
    @pytest.mark.parametrize("absurd", [1_000_001, 10**9, 10**30, -1, 1.5, True, "3"])
    def test_an_absurd_quantity_is_refused_at_the_door_by_its_name(self, name: str, absurd: object) -> None:
        document = document_of("orders_updated")
        document["line_items"][0][name] = absurd

        with pytest.raises(MalformedEvent, match=rf"line_items\[0\]\.{name}"):
            interpret_order("orders/updated", document)

    def test_a_restocking_never_heard_of_puts_nothing_back(self) -> None:
        document = document_of("orders_updated")
        document["refunds"][0]["refund_line_items"][0]["restock_type"] = "teleported"

        order = interpret_order("orders/updated", document)

        assert order.refunds[0].restock is Restock.NONE

    def test_text_no_database_can_hold_is_made_harmless(self) -> None:
        document = document_of("orders_updated")
        document["line_items"][0]["sku"] = "A\x00B\ud800" + "C" * 300

        order = interpret_order("orders/updated", document)

        assert order.lines[0].sku == "A\ufffdB\ufffd" + "C" * 251

    def test_an_edit_asks_for_the_order_to_be_read(self) -> None:
        assert interpret("orders/edited", document_of("orders_edited")) == OrderTouched("5100000000001", "edited")

    def test_a_deletion_says_which_order_is_gone(self) -> None:
        assert interpret("orders/delete", {"id": 5100000000001}) == OrderDeleted("5100000000001")


class TestRefunds:
    def test_a_refund_tells_the_fate_of_each_line(self) -> None:
        event = interpret("refunds/create", document_of("refunds_create"))

        assert event == RefundMade(
            "5100000000001",
            (
                RefundedUnits("1100000001", "6100000000001", 1, Restock.CANCEL, "4100000001", UPDATED_AT),
                RefundedUnits("1100000002", "6100000000002", 2, Restock.LEGACY, None, UPDATED_AT),
                RefundedUnits("1100000003", "6100000000003", 1, Restock.NONE, None, UPDATED_AT),
            ),
        )

    def test_a_refund_of_money_is_of_no_consequence(self) -> None:
        event = interpret("refunds/create", document_of("refunds_create") | {"refund_line_items": []})

        assert event == Uninteresting("a refund of money, no units")


class TestTheRest:
    def test_a_product_is_to_be_read_again(self) -> None:
        assert interpret("products/update", document_of("products_update")) == CatalogueTouched(
            "8100000001", is_deleted=False, variants=None
        )
        assert interpret("products/delete", {"id": 8100000001}) == CatalogueTouched(
            "8100000001", is_deleted=True, variants=None
        )

    def test_an_item_tells_its_sku_and_whether_it_is_tracked(self) -> None:
        assert interpret("inventory_items/update", document_of("inventory_items_update")) == ItemTouched(
            "7100000000000000001", is_deleted=False, sku="MUG-BLUE", is_tracked=True
        )
        assert interpret("inventory_items/delete", {"id": 71}) == ItemTouched("71", is_deleted=True)

    def test_a_location_tells_its_name_and_state(self) -> None:
        assert interpret("locations/deactivate", document_of("locations_update") | {"active": False}) == (
            LocationTouched("4100000001", "Hamburg", is_active=False)
        )
        assert interpret("locations/delete", {"id": 41}) == LocationTouched("41", "", is_active=False, is_deleted=True)

    def test_a_finished_bulk_operation_tells_its_status_in_lower_case(self) -> None:
        document = document_of("bulk_operations_finish") | {"status": "COMPLETED"}

        assert interpret("bulk_operations/finish", document) == BulkFinished("1475", "completed")

    def test_uninstalling_and_privacy_requests_are_recognized(self) -> None:
        assert interpret("app/uninstalled", {"id": 1}) == AppUninstalled()
        for topic in ("customers/data_request", "customers/redact", "shop/redact"):
            assert interpret(topic, {"shop_id": 1}) == ComplianceRequest(topic)

    def test_other_topics_are_left_unread(self) -> None:
        assert READER.interpret(topic="carts/update", body=b"\xff") == (Uninteresting("topic not used: carts/update"),)


class TestStrictness:
    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"id": None}, "id: expected an id"),
            ({"id": True}, "id: expected an id"),
            ({"id": 1.0}, "id: expected an id"),
            ({"id": 2**63}, "id: expected an id within 63 bits"),
            ({"id": "gid://shopify/Product/1"}, "id: expected the id of a Order"),
            ({"id": "1; DROP TABLE"}, "id: expected the id of a Order"),
            ({"updated_at": "2026-02-30T00:00:00Z"}, "updated_at: expected a date and time that exists"),
            ({"updated_at": "2026-02-20T00:00:00"}, "updated_at: expected a date and time with its offset"),
            ({"updated_at": "2026-W01-1"}, "updated_at: expected a date and time"),
            ({"updated_at": "0001-01-01T00:00:00+14:00"}, "updated_at: expected a date and time that exists"),
            ({"updated_at": "1066-10-14T00:00:00Z"}, "updated_at: expected a year"),
            ({"updated_at": 1_700_000_000}, "updated_at: expected a date and time"),
            ({"line_items": None}, "line_items: expected a list"),
            ({"line_items": {}}, "line_items: expected a list"),
            ({"line_items": [1]}, "line_items: expected a list of objects"),
            ({"line_items": [{}] * 1001}, "line_items: expected at most 1000 entries, found 1001"),
            (
                {"line_items": [{"id": 1, "quantity": True}]},
                r"line_items\[0\].quantity: expected a whole number",
            ),
            (
                {"line_items": [{"id": 1, "quantity": "1"}]},
                r"line_items\[0\].quantity: expected a whole number",
            ),
            ({"line_items": [{"id": 1, "quantity": -1}]}, r"line_items\[0\].quantity: .* zero or more"),
            ({"line_items": [{"id": 1, "quantity": 10**9 + 1}]}, r"line_items\[0\].quantity: .* between"),
            ({"test": "no"}, "test: expected true or false"),
            ({"name": 7}, "name: expected a text"),
            ({"refunds": [{"refund_line_items": []}]}, r"refunds\[0\].created_at"),
            ({"fulfillments": [{"status": "success", "line_items": [7]}]}, r"fulfillments\[0\].line_items"),
        ],
    )
    def test_a_wrong_value_is_named_with_what_was_expected(self, changes: dict[str, Any], field: str) -> None:
        with pytest.raises(MalformedEvent, match=f"^{field}"):
            interpret("orders/updated", document_of("orders_updated") | changes)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b'"text"',
            b"\xff\xfe",
            b"\xef\xbb\xbf{}",
            b'{"id": NaN}',
            b'{"id": -Infinity}',
            b'{"id": 1e400}',
            b'{"id": ' + b"9" * 5000 + b"}",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"id": 1, "deep": ' + b"[" * 60 + b"]" * 60 + b"}",
        ],
    )
    def test_bytes_that_are_no_event_are_malformed(self, body: bytes) -> None:
        for topic in TOPICS_READ - {
            "app/uninstalled",
            "shop/redact",
            "customers/redact",
            "customers/data_request",
        }:
            with pytest.raises(MalformedEvent):
                READER.interpret(topic=topic, body=body)

    def test_nesting_within_the_limit_is_read(self) -> None:
        body = b'{"id": 1, "deep": ' + b"[" * 49 + b"]" * 49 + b"}"

        assert READER.interpret(topic="products/delete", body=body)

    def test_the_value_found_is_not_repeated_in_the_message(self) -> None:
        with pytest.raises(MalformedEvent) as caught:
            interpret("orders/updated", document_of("orders_updated") | {"updated_at": "shpat_secret"})

        assert "shpat_secret" not in str(caught.value)


@pytest.mark.skipif(not OFFICIAL_SAMPLES.is_dir(), reason="the official samples are not beside the repository")
def test_every_official_sample_is_interpreted_or_of_no_interest() -> None:
    """Over all samples: never an exception, and all topics we read among them are really read."""
    seen: dict[str, str] = {}
    for path in sorted(OFFICIAL_SAMPLES.glob("*.metadata.json")):
        sample = json.loads(path.read_bytes())

        (event,) = READER.interpret(topic=sample["name"], body=json.dumps(sample["response"]).encode())

        seen[sample["name"]] = type(event).__name__
    assert {topic for topic, kind in seen.items() if kind != "Uninteresting"} == TOPICS_READ & seen.keys()
    assert len(seen) == 40


# --- fuzz ---------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["gid://shopify/Order/1", "2026-11-20T10:00:00Z", "success", "SUCCESS", "cancel", "é\x00"])
)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
FIXTURE_OF_TOPIC = {
    "orders/updated": "orders_updated",
    "orders/edited": "orders_edited",
    ORDERS_POLLED: "orders_polled",
    "refunds/create": "refunds_create",
    "inventory_levels/update": "inventory_levels_update",
    "products/update": "products_update",
    "inventory_items/update": "inventory_items_update",
    "locations/update": "locations_update",
    "bulk_operations/finish": "bulk_operations_finish",
}


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    if isinstance(value, dict):
        here: list[tuple[Any, Any]] = [(value, key) for key in value]
        return here + [place for key in value for place in places_in(value[key])]
    if isinstance(value, list):
        here = [(value, index) for index in range(len(value))]
        return here + [place for item in value for place in places_in(item)]
    return []


def interpret_or_refuse(topic: str, body: bytes) -> None:
    try:
        events = READER.interpret(topic=topic, body=body)
    except MalformedEvent:
        return
    assert len(events) == 1


@given(topic=st.sampled_from(sorted(TOPICS_READ)), body=st.binary(max_size=200))
def test_random_bytes_are_read_or_malformed(topic: str, body: bytes) -> None:
    interpret_or_refuse(topic, body)


@given(topic=st.sampled_from(sorted(TOPICS_READ)), value=JSON_VALUES)
def test_random_json_is_read_or_malformed(topic: str, value: Any) -> None:
    interpret_or_refuse(topic, json.dumps(value).encode())


# An example is a body of real size.
@settings(max_examples=settings().max_examples // 5, suppress_health_check=[HealthCheck.too_slow])
@given(topic=st.sampled_from(sorted(FIXTURE_OF_TOPIC)), seed=st.integers(0, 2**32), replacement=JSON_VALUES)
def test_any_value_in_a_good_body_may_be_replaced(topic: str, seed: int, replacement: Any) -> None:
    document = document_of(FIXTURE_OF_TOPIC[topic])
    container, key = random.Random(seed).choice(places_in(document))
    container[key] = replacement

    interpret_or_refuse(topic, json.dumps(document).encode())


def test_any_single_field_may_be_missing() -> None:
    for topic, name in FIXTURE_OF_TOPIC.items():
        for index in range(len(places_in(document_of(name)))):
            document = document_of(name)
            container, key = places_in(document)[index]
            del container[key]
            interpret_or_refuse(topic, json.dumps(document).encode())


class Seen(dict[str, Any]):
    """A document that remembers which of its keys were looked at, at any depth."""

    def __init__(self, document: dict[str, Any], path: str, seen: set[str]) -> None:
        super().__init__({name: self._wrap(value, f"{path}.{name}", seen) for name, value in document.items()})
        self._path, self._seen = path, seen

    def get(self, name: str, default: Any = None) -> Any:
        self._seen.add(f"{self._path}.{name}")
        return super().get(name, default)

    @staticmethod
    def _wrap(value: Any, path: str, seen: set[str]) -> Any:
        if type(value) is dict:
            return Seen(value, path, seen)
        return [Seen._wrap(one, path, seen) for one in value] if type(value) is list else value


def kept_by(shape: Any, path: str = "") -> set[str]:
    """The paths that a sieve lets through."""
    names = get_type_hints(shape) if is_typeddict(shape) else {}
    inner = {kept for part in get_args(shape) for kept in kept_by(part, path)}
    return inner.union(*({f"{path}.{name}"} | kept_by(hint, f"{path}.{name}") for name, hint in names.items()))


class TestTheSieve:
    """Of large bodies only what a reader looks at is read at all."""

    @pytest.mark.parametrize(
        ("shape", "reader", "names"),
        [
            (sieve._Order, orders.read_order, ["orders_updated", "orders_cancelled"]),
            (sieve._Refund, orders.read_refund, ["refunds_create"]),
        ],
    )
    def test_lets_through_whatever_the_reader_looks_at(
        self, shape: Any, reader: Callable[[Any], object], names: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: set[str] = set()
        for module in (orders, parsing):
            monkeypatch.setattr(module, "read_object", lambda value, where: value)
            monkeypatch.setattr(module, "read_objects", lambda value, where: value)
            monkeypatch.setattr(module, "read_objects_or_none", lambda value, where: value or [])
        for name in names:
            reader(Seen(document_of(name), "", seen))

        assert seen
        assert seen <= kept_by(shape)

    @pytest.mark.parametrize(
        ("topic", "name"),
        [
            ("orders/updated", "orders_updated"),
            ("orders/cancelled", "orders_cancelled"),
            ("refunds/create", "refunds_create"),
        ],
    )
    def test_changes_nothing(self, topic: str, name: str) -> None:
        whole = events._READERS[topic](parsing.read_document(body_of(name)))

        assert READER.interpret(topic=topic, body=body_of(name)) == (whole,)

    def test_leaves_what_does_not_fit_to_the_reader_that_names_the_field(self) -> None:
        document = document_of("orders_updated")
        for line_items in (None, 7, [7], {"id": 1}):
            with pytest.raises(MalformedEvent, match="line_items: expected a list"):
                interpret("orders/updated", document | {"line_items": line_items})
