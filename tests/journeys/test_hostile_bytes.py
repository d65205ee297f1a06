"""What a signed delivery may hold without harm: anything. It costs its own event at most.

After each batch of nonsense a good order is delivered and must be applied, every event must have ended in one state
that says why, and the auditor must find nothing.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channels import webhooks
from channels.connectors.shopify.events import TOPICS_READ
from channels.models import EventState, InboxEvent
from sync import publish
from tests.engine import engine
from tests.factories import Shop, Trade, level_body, make_trade, order_body, polled_body, refund_body
from tests.journeys.doorstep import apply_all, broken_invariants, open_door, post

pytestmark = pytest.mark.django_db

_order_ids = itertools.count(7_000_000)

#: Stands in a document where raw JSON is to be put, since no JSON library writes what is wanted here.
MARK = "the value is put here"
#: What a field may hold instead of what it should, as raw JSON.
RAW_VALUES = (
    "null",
    "true",
    "[]",
    "{}",
    "[[]]",
    '{"id": null}',
    '""',
    '"-0"',
    '"gid://shopify/Order/"',
    "-1",
    "0.5",
    "1e400",
    "NaN",
    "-Infinity",
    "9223372036854775808",
    "9" * 5000,
    "[" * 2000 + "]" * 2000,
    '{"a":' * 60 + "1" + "}" * 60,
    r'"\u0000nul"',
    r'"\ud800 alone"',
    r'"2026-11-20T12:00:60Z"',
    '"0001-01-01T00:00:00+23:59"',
    '"' + "x" * 100_000 + '"',
)


@pytest.fixture
def alder() -> Iterator[Trade]:
    trade = make_trade(shops=("north",), stock_of={"MUG": 100_000, "TEE": 1_000})
    with open_door(trade):
        yield trade


def good_bodies(shop: Shop) -> dict[str, dict[str, Any]]:
    """A good body of every shape that is read, by topic."""
    refund = refund_body(1001, 0, 1, "return")
    product = {"id": int(shop.listings["MUG"].remote_product_id), "title": "Mug", "variants": []}
    return {
        "orders/updated": order_body(shop, 1001, ("MUG", 3), ("MUG", 2), refunds=(refund,), shipped=(2, 1)),
        "orders/edited": {"order_edit": {"id": 5, "order_id": 1001, "line_items": {"additions": [{"id": 1}]}}},
        "orders/polled": json.loads(polled_body(shop, 1002, "MUG", 2)),
        "refunds/create": refund,
        "inventory_levels/update": level_body(shop, "MUG", 9),
        "products/update": product,
        "products/delete": {"id": 404},
        "inventory_items/update": {"id": int(shop.listings["MUG"].inventory_item_id), "sku": "MUG", "tracked": True},
        "locations/update": {"id": 404, "name": "Somewhere", "active": True},
        "bulk_operations/finish": {"admin_graphql_api_id": "gid://shopify/BulkOperation/1", "status": "completed"},
    }


def paths_in(node: object) -> Iterator[tuple[str | int, ...]]:
    """The way to every value within a JSON document."""
    steps: list[tuple[str | int, Any]] = []
    if isinstance(node, dict):
        steps = list(node.items())
    elif isinstance(node, list):
        steps = list(enumerate(node))
    for step, child in steps:
        yield (step,)
        for rest in paths_in(child):
            yield (step, *rest)


def parent_of(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path[:-1]:
        document = document[step]
    return document


def mutilations(document: dict[str, Any]) -> Iterator[bytes]:
    """The document with each of its values replaced by each of `RAW_VALUES` in turn, and with each left out."""
    for path in paths_in(document):
        changed = copy.deepcopy(document)
        del parent_of(changed, path)[path[-1]]
        yield json.dumps(changed).encode()
        changed = copy.deepcopy(document)
        parent_of(changed, path)[path[-1]] = MARK
        before, after = json.dumps(changed).split(f'"{MARK}"')
        for value in RAW_VALUES:
            yield f"{before}{value}{after}".encode()


def publish_all(trade: Trade) -> None:
    """Work out what every store shall show; what was applied must not stop that either."""
    while publish.publish_batch(engine(), merchant_id=trade.merchant.pk).skus:
        pass


def assert_unharmed(trade: Trade) -> None:
    """A good order is applied, nothing is undecided, and the books are right."""
    available = trade.stock("TEE").available
    order_id = next(_order_ids)
    shop = trade.shops["north"]

    assert post(shop, "orders/create", json.dumps(order_body(shop, order_id, ("TEE", 2))).encode()) == 200
    apply_all(trade)
    publish_all(trade)

    good = InboxEvent.objects.latest("id")
    assert (good.state, good.reason) == (EventState.APPLIED, "")
    assert trade.stock("TEE").available == available - 2
    undecided = InboxEvent.objects.exclude(state=EventState.APPLIED).exclude(
        state__in=[EventState.IGNORED, EventState.DEAD], reason__gt="", settled_at__isnull=False
    )
    assert list(undecided.values_list("topic", "state", "reason")[:5]) == []
    assert broken_invariants() == []


def failures_of_ours() -> list[tuple[str, str]]:
    """Events that are dead because something here broke, not because their bytes were found to be wrong."""
    dead = InboxEvent.objects.filter(state=EventState.DEAD).exclude(reason__startswith="malformed: ")
    return list(dead.values_list("topic", "reason").order_by("id")[:10])


#: Topics whose mere arrival says all: their bodies are not looked at.
UNREAD_TOPICS = frozenset({"app/uninstalled", "customers/data_request", "customers/redact", "shop/redact"})
#: Topics whose bodies are mutilated: one for every shape.
READ_TOPICS = (
    "bulk_operations/finish",
    "inventory_items/update",
    "inventory_levels/update",
    "locations/update",
    "orders/edited",
    "orders/polled",
    "orders/updated",
    "products/delete",
    "products/update",
    "refunds/create",
)


def test_a_good_body_of_every_shape_is_read(alder: Trade) -> None:
    """What is mutilated below is good to begin with; else nothing would be learned from it."""
    bodies = good_bodies(alder.shops["north"])

    statuses = [post(alder.shops["north"], topic, json.dumps(body).encode()) for topic, body in bodies.items()]
    apply_all(alder)

    assert tuple(sorted(bodies)) == READ_TOPICS
    assert set(statuses) == {200}
    assert not InboxEvent.objects.filter(state=EventState.DEAD).exists()


@pytest.mark.parametrize("topic", READ_TOPICS)
def test_a_wrong_value_in_any_field_costs_its_own_event_at_most(alder: Trade, topic: str) -> None:
    bodies = list(mutilations(good_bodies(alder.shops["north"])[topic]))

    statuses = {post(alder.shops["north"], topic, body) for body in bodies}

    assert statuses == {200}
    assert_unharmed(alder)
    assert failures_of_ours() == []


def test_random_bytes_cost_their_own_event_at_most(alder: Trade) -> None:
    noise = random.Random(20261120)
    truncated = [b"", b"{", b"}", b"\xef\xbb\xbf{}", b"\x00", b"null", b"[]", b'""', b"1e999", b"{}{}", b"[" * 100_000]
    others = [b'{"a":' * 50_000, '{"id": 1}'.encode("utf-16"), b'{"id": "\xed\xa0\x80"}']
    topics = [*sorted(TOPICS_READ), "some/other"]

    statuses = {
        post(alder.shops["north"], topic, body)
        for topic in topics
        for body in (*(noise.randbytes(length) for length in (1, 2, 7, 4096)), *truncated, *others)
        if topic not in UNREAD_TOPICS
    }

    assert statuses == {200}
    assert_unharmed(alder)
    assert failures_of_ours() == []
    assert not InboxEvent.objects.filter(state=EventState.APPLIED).exclude(topic="orders/create").exists()


ODD_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["gid://shopify/Order/1", "2026-11-20T10:00:00Z", "success", "cancel", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    topic=st.sampled_from(["orders/updated", "orders/polled", "refunds/create", "products/update"]),
    seed=st.integers(0, 1000),
    values=st.lists(ODD_VALUES, min_size=1, max_size=4),
)
def test_several_wrong_values_at_once_cost_their_own_event_at_most(
    alder: Trade, topic: str, seed: int, values: list[object]
) -> None:
    choice = random.Random(seed)
    for _ in range(4):
        document = good_bodies(alder.shops["north"])[topic]
        for value in values:
            path = choice.choice(list(paths_in(document)))
            parent_of(document, path)[path[-1]] = copy.deepcopy(value)
        assert post(alder.shops["north"], topic, json.dumps(document).encode()) == 200

    assert_unharmed(alder)


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": 1_000_000_000, "current_quantity": 1_000_000_000},
        {"quantity": 0, "current_quantity": 0},
        {"quantity": 1, "current_quantity": 1_000_000_000},
        {"quantity": 1_000_000_000, "current_quantity": 0},
    ],
)
def test_absurd_but_possible_quantities_leave_the_queue_going(alder: Trade, change: dict[str, int]) -> None:
    shop = alder.shops["north"]
    for number in range(6):
        body = order_body(shop, 1001 + number, ("MUG", 1), ("MUG", 1))
        for line in body["line_items"]:  # type: ignore[attr-defined]  # a list, as the factory makes it
            line.update(change)
        assert post(shop, "orders/create", json.dumps(body).encode()) == 200

    assert_unharmed(alder)


def test_orders_beyond_what_anybody_buys_are_dead_at_once_and_a_later_one_is_applied(alder: Trade) -> None:
    shop = alder.shops["north"]
    for number, quantity in enumerate((1_000_000_000, 1)):
        body = order_body(shop, 1001 + number, ("TEE", quantity))
        assert post(shop, "orders/create", json.dumps(body).encode()) == 200

    apply_all(alder)

    absurd, sane = InboxEvent.objects.order_by("id")
    assert (absurd.state, sane.state) == (EventState.DEAD, EventState.APPLIED)
    assert "quantity" in absurd.reason
    assert_unharmed(alder)


def test_a_thousand_lines_are_read_and_more_are_not(alder: Trade) -> None:
    shop = alder.shops["north"]
    for order_id, lines in ((1001, 1000), (1002, 1001)):
        body = order_body(shop, order_id, *([("MUG", 1)] * lines))
        body["line_items"] = [{**line, "id": 10**9 + n} for n, line in enumerate(body["line_items"])]  # type: ignore[arg-type,var-annotated]
        assert post(shop, "orders/create", json.dumps(body).encode()) == 200

    apply_all(alder)

    assert list(InboxEvent.objects.order_by("id").values_list("state", flat=True)) == ["applied", "dead"]
    assert alder.stock("MUG").available == 99_000
    assert_unharmed(alder)


def test_the_largest_body_is_taken_and_a_larger_one_is_not(alder: Trade) -> None:
    shop = alder.shops["north"]
    order = json.dumps(order_body(shop, 1001, ("MUG", 1))).encode()
    largest = order + b" " * (webhooks.BODY_BYTES_MAX - len(order))

    assert post(shop, "orders/create", largest) == 200
    assert post(shop, "orders/create", largest + b" ") == 413
    assert post(shop, "orders/create", b"[" * webhooks.BODY_BYTES_MAX) == 200
    assert post(shop, "orders/create", b"x" * (2 * webhooks.BODY_BYTES_MAX)) == 413

    assert_unharmed(alder)
    assert alder.stock("MUG").available == 99_999
    assert InboxEvent.objects.count() == 3


@pytest.mark.parametrize(
    "signature",
    [None, "", "AAAA", "=" * 44, "not base64 !", "é" * 44, "\udcff", "A" * 100_000, "0" * 64],
)
def test_a_body_without_a_good_signature_is_not_stored(alder: Trade, signature: str | None) -> None:
    shop = alder.shops["north"]
    noise = random.Random(1)
    bodies = [noise.randbytes(64), b"", json.dumps(order_body(shop, 1001, ("MUG", 1))).encode()]

    statuses = {post(shop, "orders/create", body, x_shopify_hmac_sha256=signature) for body in bodies}

    assert statuses == {401}
    assert not InboxEvent.objects.exists()
    assert_unharmed(alder)


@pytest.mark.parametrize("header", ["topic", "shop_domain", "webhook_id", "event_id", "api_version", "triggered_at"])
def test_a_bad_header_makes_no_server_error(alder: Trade, header: str) -> None:
    shop = alder.shops["north"]
    values = [
        None,
        "",
        " ",
        "\x00",
        "\x7f",
        "é",
        "\udcff",
        "'",
        "%s",
        "x" * 81,
        "x" * 100_000,
        "orders/create\n",
        "1e400",
    ]
    values += ["2026-11-20T12:00:00Z" * 9, "9999-12-31T23:59:59-23:59", "0000-00-00T00:00:00Z", "-", "../..", "{}"]

    statuses = {post(shop, "orders/create", b"{}", **{f"x_shopify_{header}": value}) for value in values}

    assert statuses <= {200, 400, 401}
    assert_unharmed(alder)
