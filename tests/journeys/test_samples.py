"""Shopify's official sample payloads, signed and delivered as a store would: each is applied or visibly ignored.

The samples lie beside the repository, not in it. Where they are not, payloads of the same shapes, made by hand for the
tests of the connector, go the same way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from channels import connect
from channels.connectors.shopify.events import TOPICS_READ
from channels.models import ChannelState, EventState, InboxEvent, StoreLocation
from merchants.models import AuditEvent
from tests.factories import Shop, Trade, make_trade
from tests.fakes import FakeChannel
from tests.journeys.doorstep import apply_all, broken_invariants, open_door, post

OFFICIAL = Path(__file__).parents[3] / "shared" / "specs" / "shopify" / "webhook-samples"
HAND_MADE = Path(__file__).parents[1] / "channels" / "fixtures" / "shopify"

pytestmark = pytest.mark.django_db


def official_samples() -> dict[str, dict[str, Any]]:
    """The samples by topic; none when they are not there."""
    samples = [json.loads(path.read_bytes()) for path in sorted(OFFICIAL.glob("*.metadata.json"))]
    return {sample["name"]: sample["response"] for sample in samples}


def hand_made_samples() -> dict[str, dict[str, Any]]:
    """The connector's own fixtures by topic: `orders_updated.json` is of orders/updated."""
    return {"/".join(path.stem.rsplit("_", 1)): json.loads(path.read_bytes()) for path in HAND_MADE.glob("*.json")}


SAMPLES = [
    pytest.param(topic, body, id=f"{source}-{topic.replace('/', '_')}")
    for source, samples in (("official", official_samples()), ("made", hand_made_samples()))
    for topic, body in sorted(samples.items())
]
needs_official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official samples are not beside the repository")


@pytest.fixture
def alder() -> Iterator[Trade]:
    trade = make_trade()
    with open_door(trade):
        yield trade


def deliver(trade: Trade, topic: str, body: object) -> InboxEvent:
    """Deliver to the shop North, apply everything, and return the event as it ended."""
    assert post(trade.shops["north"], topic, json.dumps(body).encode()) == 200
    apply_all(trade)
    return InboxEvent.objects.latest("id")


def sale_of(shop: Shop, sample: dict[str, Any]) -> dict[str, Any]:
    """The sample's order, placed now and of goods that this shop sells."""
    variant = int(shop.listings["MUG"].remote_variant_id)
    lines = [{**line, "variant_id": variant} for line in sample["line_items"]]
    moments = {"created_at": "2026-11-20T12:00:05Z", "updated_at": "2026-11-20T12:00:10Z", "cancelled_at": None}
    return {**sample, **moments, "line_items": lines, "test": False}


@pytest.mark.parametrize(("topic", "body"), SAMPLES)
def test_a_sample_is_applied_or_visibly_ignored(alder: Trade, topic: str, body: object) -> None:
    event = deliver(alder, topic, body)

    assert (event.topic, event.state) in {(topic, EventState.APPLIED), (topic, EventState.IGNORED)}, event.reason
    assert event.reason or event.state == EventState.APPLIED
    is_unused = event.reason.startswith("topic not used")
    assert is_unused is (topic not in TOPICS_READ)
    assert (alder.stock("MUG").available, alder.stock("TEE").available) == (10, 5)
    assert broken_invariants() == []


@needs_official
def test_all_official_samples_in_one_backlog_are_settled(alder: Trade) -> None:
    samples = official_samples()

    statuses = {topic: post(alder.shops["north"], topic, json.dumps(body).encode()) for topic, body in samples.items()}
    apply_all(alder)

    assert statuses == dict.fromkeys(samples, 200)
    assert len(samples) == 40
    states = dict(InboxEvent.objects.values_list("topic", "state"))
    assert states.keys() == samples.keys()
    assert set(states.values()) == {EventState.APPLIED, EventState.IGNORED}


@needs_official
@pytest.mark.parametrize("topic", ["orders/create", "orders/updated", "orders/paid"])
def test_the_official_order_of_our_goods_lowers_the_stock_by_its_units(alder: Trade, topic: str) -> None:
    order = sale_of(alder.shops["north"], official_samples()[topic])
    units = sum(line["current_quantity"] for line in order["line_items"])

    event = deliver(alder, topic, order)

    assert (event.state, event.reason) == (EventState.APPLIED, "")
    assert alder.stock("MUG").available == 10 - units


@needs_official
def test_the_official_cancelled_order_of_our_goods_keeps_its_cancellation(alder: Trade) -> None:
    sample = official_samples()["orders/cancelled"]
    order = {**sale_of(alder.shops["north"], sample), "cancelled_at": "2026-11-20T12:00:10Z"}

    event = deliver(alder, "orders/cancelled", order)

    assert event.state == EventState.APPLIED
    assert alder.stock("MUG").committed == 0


@needs_official
def test_the_official_uninstallation_stops_the_channel(alder: Trade) -> None:
    store = connect.connector_for(alder.shops["north"].channel)
    assert isinstance(store, FakeChannel)
    store.is_installed = False

    deliver(alder, "app/uninstalled", official_samples()["app/uninstalled"])

    alder.shops["north"].channel.refresh_from_db()
    assert alder.shops["north"].channel.state == ChannelState.UNINSTALLED


@needs_official
def test_the_official_location_becomes_one_of_the_shop(alder: Trade) -> None:
    sample = official_samples()["locations/create"]

    deliver(alder, "locations/create", sample)

    location = StoreLocation.objects.get(remote_id=str(sample["id"]))
    assert (location.channel, location.name) == (alder.shops["north"].channel, sample["name"])


@pytest.mark.parametrize("topic", ["customers/data_request", "customers/redact", "shop/redact"])
def test_a_privacy_request_is_recorded(alder: Trade, topic: str) -> None:
    event = deliver(alder, topic, official_samples().get(topic, {"shop_id": 954889}))

    assert (event.state, event.reason) == (EventState.APPLIED, "recorded")
    assert AuditEvent.objects.filter(action=f"compliance.{topic}", correlation_id=event.correlation_id).count() == 1
