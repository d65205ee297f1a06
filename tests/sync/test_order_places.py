"""Where the units of an order are: split, moved, put back elsewhere, and at places that nobody has mapped."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import import_module
from itertools import permutations
from typing import Any

import hypothesis
import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from hypothesis import Phase, given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from channels import protocol
from channels.models import InboxEvent, ListingLevel, StoreLocation
from channels.protocol import PolledOrder
from inventory import stock
from inventory.models import StockLevel, Warehouse
from locations import matrix
from locations.models import GroupLocation, GroupWarehouse, Mapping
from merchants.models import User
from sync.apply import apply_batch
from sync.check import check_channel
from sync.invariants import violations
from sync.models import Drift, OrderLine
from sync.ports import Engine
from sync.reconcile import poll_orders
from tests.engine import StoresInMemory, engine, ref
from tests.factories import NOON, Shop, Trade, deliver, later, make_trade, order_body, polled_body, refund_body
from tests.fakes import FakeChannel
from tests.sync.store_order import StoreOrder

pytestmark = pytest.mark.django_db(transaction=True)

ATTIC = "777"
CELLAR = "778"


@pytest.fixture
def alder() -> Trade:
    """North has an attic with a warehouse of its own, and a cellar that nobody has mapped."""
    alder = make_trade(shops=("north",))
    north = alder.shops["north"]
    attic = _add_place(alder, north, ATTIC)
    _add_place(alder, north, CELLAR)
    loft = Warehouse.objects.create(merchant=alder.merchant, code="LOFT", name="Loft")
    GroupWarehouse.objects.create(merchant=alder.merchant, group=alder.group, warehouse=loft)
    Mapping.objects.create(merchant=alder.merchant, group=alder.group, store_location=attic, warehouse=loft)
    stock.open_stock(merchant_id=alder.merchant.pk, quantities={(alder.skus["MUG"].pk, loft.pk): 10}, now=NOON)
    return alder


def _add_place(alder: Trade, shop: Shop, remote_id: str) -> StoreLocation:
    place = StoreLocation.objects.create(
        merchant=alder.merchant, channel=shop.channel, remote_id=remote_id, name=f"Place {remote_id}"
    )
    GroupLocation.objects.create(merchant=alder.merchant, group=alder.group, store_location=place)
    return place


def map_the_cellar(alder: Trade) -> None:
    """It draws on the main warehouse, as the shop floor does."""
    cells = matrix.matrix_of(alder.group)
    cells[StoreLocation.objects.get(remote_id=CELLAR).pk, alder.warehouse.pk] = 1
    matrix.set_matrix(group=alder.group, cells=cells, user=None, now=NOON)


def polled(shop: Shop, places: dict[str, int], *, at: float = 10, shipped: dict[str, int] | None = None) -> bytes:
    """Order 1 of mugs as it is read, its line assigned to several places and shipped from some."""
    units = sum(places.values())
    node = json.loads(polled_body(shop, 1, "MUG", units, at=at))
    line = {"id": "gid://shopify/LineItem/100"}
    node["fulfillmentOrders"]["nodes"] = [
        {
            "status": "OPEN",
            "assignedLocation": {"location": {"id": f"gid://shopify/Location/{place}"}},
            "lineItems": {"nodes": [{"lineItem": line, "totalQuantity": quantity}]},
        }
        for place, quantity in places.items()
    ]
    node["fulfillments"] = [
        {
            "status": "SUCCESS",
            "location": {"id": f"gid://shopify/Location/{place}"},
            "fulfillmentLineItems": {"nodes": [{"lineItem": line, "quantity": quantity}]},
        }
        for place, quantity in (shipped or {}).items()
    ]
    return json.dumps(node).encode()


def refund_at(place: str, units: int, restock: str, *, refund_id: int = 1) -> dict[str, object]:
    """A refund of order 1 whose units are put back there."""
    body: dict[str, Any] = refund_body(1, 0, units, restock, refund_id=refund_id)
    body["refund_line_items"][0]["location_id"] = int(place)
    return body


def apply(trade: Trade, store: FakeChannel | None = None) -> None:
    """Apply what is pending until nothing is, whenever it is due."""
    stores = {trade.shops["north"].channel: store} if store else None
    for _ in range(3):
        _apply_due(engine(later(60), stores), trade)


def _apply_due(ours: Engine, trade: Trade) -> int:
    InboxEvent.objects.filter(state="pending").update(next_attempt_at=NOON)
    return apply_batch(ours, merchant_id=trade.merchant.pk).claimed


def shown(trade: Trade) -> dict[str, int]:
    """By how much each place must show another number of mugs than before."""
    levels = ListingLevel.objects.filter(listing=trade.shops["north"].listings["MUG"]).exclude(order_effects=0)
    return dict(levels.values_list("store_location__remote_id", "order_effects"))


def accounts(trade: Trade) -> dict[str, tuple[int, int]]:
    """Mugs on hand and committed, by warehouse."""
    rows = StockLevel.objects.filter(sku=trade.skus["MUG"]).values_list("warehouse__code", "on_hand", "committed")
    return {code: (on_hand, committed) for code, on_hand, committed in rows}


def floor(trade: Trade) -> str:
    return trade.shops["north"].location.remote_id


# --- places that nobody has mapped -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_told_first", [True, False])
def test_a_sale_at_an_unmapped_place_moves_nothing_of_ours_until_it_is_mapped(
    alder: Trade, is_told_first: bool
) -> None:
    north = alder.shops["north"]
    read = polled(north, {CELLAR: 2})
    events: list[tuple[str, dict[str, object] | bytes]] = [
        ("orders/create", order_body(north, 1, ("MUG", 2))),
        ("orders/polled", read),
    ]
    for topic, body in events if is_told_first else reversed(events):
        deliver(north, topic, body)
        apply(alder, FakeChannel(orders=[PolledOrder("1", later(10), read)]))

    assert accounts(alder) == {"MAIN": (10, 0), "LOFT": (10, 0)}
    assert shown(alder) == {}
    cellar = StoreLocation.objects.get(remote_id=CELLAR)
    assert OrderLine.objects.get().waiting_for == f"location without a warehouse: {cellar.pk}"
    assert set(InboxEvent.objects.values_list("state", flat=True)) == {"ignored"}

    map_the_cellar(alder)
    apply(alder)

    assert accounts(alder) == {"MAIN": (10, 2), "LOFT": (10, 0)}
    assert shown(alder) == {CELLAR: -2}
    assert OrderLine.objects.get().waiting_for == ""
    assert list(violations(when_quiet=False)) == []


def test_a_sale_that_tells_no_place_is_read_though_only_one_of_the_places_is_mapped(alder: Trade) -> None:
    north = alder.shops["north"]
    StoreLocation.objects.filter(remote_id=ATTIC).delete()
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))

    apply(alder)

    assert InboxEvent.objects.get().reason.startswith("waits for the channel")
    assert accounts(alder)["MAIN"] == (10, 0)


def test_a_place_that_the_store_has_closed_keeps_no_sale_from_being_booked(alder: Trade) -> None:
    north = alder.shops["north"]
    StoreLocation.objects.exclude(pk=north.location.pk).update(is_active=False)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 2)))

    apply(alder)

    assert accounts(alder)["MAIN"] == (10, 2)


def test_units_that_turn_out_to_be_at_an_unmapped_place_are_given_back_and_wait(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "orders/polled", polled(north, {floor(alder): 3}))
    apply(alder)
    assert accounts(alder)["MAIN"] == (10, 3)
    moved = deliver(north, "orders/polled", polled(north, {floor(alder): 1, CELLAR: 2}, at=20))

    apply(alder)

    assert accounts(alder)["MAIN"] == (10, 1)
    assert shown(alder) == {floor(alder): -1}
    moved.refresh_from_db()
    assert moved.state == "applied"
    assert moved.reason.startswith("unmapped location without a warehouse: ")
    assert list(violations(when_quiet=False)) == []
    map_the_cellar(alder)
    apply(alder)
    assert accounts(alder)["MAIN"] == (10, 3)
    assert shown(alder) == {floor(alder): -1, CELLAR: -2}


def test_the_page_of_a_line_that_waits_says_where_that_is_mended(alder: Trade, client: Client) -> None:
    north = alder.shops["north"]
    client.force_login(User.objects.create_superuser(username="root", email="root@synctec.test", password="x"))
    deliver(north, "orders/polled", polled(north, {floor(alder): 1, CELLAR: 2}))
    apply(alder)
    line = OrderLine.objects.get()

    def page() -> str:
        return client.get(reverse("admin:sync_orderline_change", args=[line.pk])).content.decode()

    assert "Let the location draw on a warehouse" in page()
    assert reverse("admin:locations_locationgroup_changelist") in page()
    OrderLine.objects.update(waiting_for="SKU BLUE MUG")
    assert f"{reverse('admin:channels_listing_changelist')}?q=BLUE+MUG" in page()


def test_lines_that_waited_without_a_variant_wait_for_their_sku_or_not_at_all(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "orders/polled", polled(north, {CELLAR: 2}))
    apply(alder)
    tip, gone = OrderLine.objects.get(), OrderLine.objects.get()
    gone.pk, gone.line_id, gone.waiting_for, gone.remote_variant_id = None, "2", "variant BLUE-MUG", ""
    gone.facts["sku"] = "BLUE-MUG"
    gone.save()
    OrderLine.objects.filter(pk=tip.pk).update(waiting_for="variant without an id")

    with connection.cursor() as cursor:
        cursor.execute(import_module("sync.migrations.0011_waits_without_variant").WAITS_OF_LINES_WITHOUT_A_VARIANT)

    tip.refresh_from_db()
    gone.refresh_from_db()
    assert (tip.waiting_for, tip.desired_committed) == ("", 0)
    assert (gone.waiting_for, gone.desired_committed) == ("SKU BLUE-MUG", 2)


# --- a line at several places ------------------------------------------------------------------------------------


def test_a_line_split_over_two_places_takes_from_each_what_is_assigned_there(alder: Trade) -> None:
    north = alder.shops["north"]

    deliver(north, "orders/polled", polled(north, {floor(alder): 2, ATTIC: 1}))
    apply(alder)

    assert shown(alder) == {floor(alder): -2, ATTIC: -1}
    assert accounts(alder) == {"MAIN": (10, 2), "LOFT": (10, 1)}
    assert list(violations(when_quiet=False)) == []


def test_shipping_from_one_place_of_a_line_moves_that_part_alone(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "orders/polled", polled(north, {floor(alder): 2, ATTIC: 1}))
    apply(alder)
    body: dict[str, Any] = order_body(north, 1, ("MUG", 3), at=20, shipped=(1,))
    body["fulfillments"][0]["location_id"] = int(ATTIC)

    deliver(north, "orders/partially_fulfilled", body)
    apply(alder)

    assert accounts(alder) == {"MAIN": (10, 2), "LOFT": (9, 0)}
    assert shown(alder) == {floor(alder): -2, ATTIC: -1}
    assert list(violations(when_quiet=False)) == []


def test_a_place_that_ships_more_than_it_was_assigned_has_taken_that_much(alder: Trade) -> None:
    north = alder.shops["north"]
    shipped = polled(north, {floor(alder): 2, ATTIC: 1}, at=20, shipped={ATTIC: 2})

    deliver(north, "orders/polled", shipped)
    apply(alder)

    assert accounts(alder) == {"MAIN": (10, 1), "LOFT": (8, 0)}
    assert shown(alder) == {floor(alder): -1, ATTIC: -2}


def test_a_unit_put_back_elsewhere_stays_taken_where_it_was_sold(alder: Trade) -> None:
    north = alder.shops["north"]
    events: list[tuple[str, dict[str, object] | bytes]] = [
        ("orders/polled", polled(north, {floor(alder): 1})),
        ("refunds/create", refund_at(ATTIC, 1, "return")),
    ]
    for topic, body in events:
        deliver(north, topic, body)
        apply(alder)

    assert shown(alder) == {floor(alder): -1, ATTIC: 1}
    assert accounts(alder) == {"MAIN": (9, 0), "LOFT": (11, 0)}
    assert list(violations(when_quiet=False)) == []


def test_a_unit_put_back_at_an_unmapped_place_is_not_for_sale_until_that_is_mapped(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "orders/polled", polled(north, {floor(alder): 1}))
    deliver(north, "refunds/create", refund_at(CELLAR, 1, "cancel"))

    apply(alder)

    assert shown(alder) == {floor(alder): -1}
    assert accounts(alder)["MAIN"] == (9, 0)
    map_the_cellar(alder)
    apply(alder)
    assert shown(alder) == {floor(alder): -1, CELLAR: 1}
    assert accounts(alder)["MAIN"] == (10, 0)
    assert list(violations(when_quiet=False)) == []


def test_the_order_of_a_split_its_shipment_and_its_refunds_changes_nothing(alder: Trade) -> None:
    north = alder.shops["north"]
    events: list[tuple[str, dict[str, object] | bytes]] = [
        ("orders/polled", polled(north, {floor(alder): 2, ATTIC: 1})),
        ("orders/polled", polled(north, {floor(alder): 2, ATTIC: 1}, at=30, shipped={ATTIC: 1})),
        ("refunds/create", refund_at(floor(alder), 1, "return")),
        ("refunds/create", refund_at(CELLAR, 1, "cancel", refund_id=2)),
    ]

    for arrival in permutations(range(4)):
        with transaction.atomic():
            for place in (*arrival, arrival[0]):
                deliver(north, *events[place])
                _apply_due(engine(later(60)), alder)

            assert shown(alder) == {floor(alder): -1, ATTIC: -1}
            assert accounts(alder) == {"MAIN": (10, 1), "LOFT": (9, 0)}
            assert OrderLine.objects.get().waiting_for.startswith("location without a warehouse: ")
            transaction.set_rollback(True)


# --- audits ------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(alder: Trade, settings: Settings) -> Trade:
    """All levels were read, and all show ten."""
    settings.AUDIT_LAG_SECONDS = 60
    for place in (ATTIC, floor(alder)):
        ListingLevel.objects.update_or_create(
            listing=alder.shops["north"].listings["MUG"],
            store_location=StoreLocation.objects.get(remote_id=place),
            defaults={
                "merchant": alder.merchant,
                "channel": alder.shops["north"].channel,
                "base": 10,
                "desired": 10,
                "confirmed_at": NOON,
                "suspect_since": None,
            },
        )
    return alder


def level_at(trade: Trade, place: str) -> ListingLevel:
    return ListingLevel.objects.get(listing=trade.shops["north"].listings["MUG"], store_location__remote_id=place)


def shows(trade: Trade, counters: dict[str, int]) -> FakeChannel:
    """The store with these counters of mugs."""
    item = trade.shops["north"].listings["MUG"].inventory_item_id
    return FakeChannel(levels={(item, place): units for place, units in counters.items()})


def audit(trade: Trade, store: FakeChannel, at: float) -> None:
    """Read the orders that have changed, and then the levels that are suspect."""
    channel = trade.shops["north"].channel
    ours = engine(later(at), {channel: store})
    poll_orders(ours, channel=ref(channel))
    _apply_due(ours, trade)
    ListingLevel.objects.filter(suspect_since__isnull=False).update(next_check_at=Now())
    check_channel(ours, channel=ref(channel))


def test_a_sale_that_left_for_another_place_before_we_heard_of_it_is_no_loss_besides(counted: Trade) -> None:
    north = counted.shops["north"]
    engine().books.suspect_unsuspected([level_at(counted, floor(counted)).pk], "test", NOON)
    audit(counted, shows(counted, {floor(counted): 9, ATTIC: 10}), 20)
    assert (level_at(counted, floor(counted)).sample, counted.stock("MUG").held) == (9, 1)

    # It is to be shipped from the attic, and another one is sold whose order is not listed yet.
    moved = PolledOrder("1", later(30), polled(north, {ATTIC: 1}, at=30))
    store = shows(counted, {floor(counted): 9, ATTIC: 9})
    store.orders = [moved]
    audit(counted, store, 100)
    another = json.loads(polled_body(north, 2, "MUG", 1, at=95))
    another["createdAt"] = later(95).isoformat()
    store.orders = [moved, PolledOrder("2", later(95), json.dumps(another).encode())]
    for at in (200, 300):
        audit(counted, store, at)

    assert accounts(counted) == {"MAIN": (10, 1), "LOFT": (10, 1)}
    assert counted.stock("MUG").held == 0
    assert level_at(counted, floor(counted)).suspect_since is None
    assert not Drift.objects.exists()


def test_a_loss_is_adopted_once_though_a_sale_left_for_another_place_meanwhile(counted: Trade) -> None:
    north = counted.shops["north"]
    deliver(north, "orders/polled", polled(north, {floor(counted): 1}))
    apply(counted)
    engine().books.suspect_unsuspected([level_at(counted, floor(counted)).pk], "test", NOON)
    audit(counted, shows(counted, {floor(counted): 8, ATTIC: 10}), 20)
    assert (level_at(counted, floor(counted)).sample, counted.stock("MUG").held) == (8, 1)

    store = shows(counted, {floor(counted): 9, ATTIC: 9})
    store.orders = [PolledOrder("1", later(30), polled(north, {ATTIC: 1}, at=30))]
    for at in (100, 200, 300):
        audit(counted, store, at)

    assert accounts(counted) == {"MAIN": (9, 0), "LOFT": (10, 1)}
    assert counted.stock("MUG").held == 0
    assert [(drift.expected, drift.actual) for drift in Drift.objects.all()] == [(10, 9)]


# --- any life of an order, through PostgreSQL --------------------------------------------------------------------


@dataclass
class Said(StoresInMemory):
    """A reader that knows what bodies say; the orders of the store as they are in the end."""

    said: Sequence[protocol.Event] = ()
    order: protocol.OrderState | None = None

    def reader(self, kind: str) -> Any:
        return self

    def interpret(self, *, topic: str, body: bytes) -> tuple[protocol.Event, ...]:
        assert self.order is not None
        return (self.order if bytes(body) == b"read" else self.said[int(body)],)

    def connector(self, channel_id: int) -> Any:
        return FakeChannel(orders=[PolledOrder("O", later(0), b"read")])


def tell(trade: Trade, said: Sequence[protocol.Event], order: protocol.OrderState, arrival: Sequence[int]) -> None:
    """Have these events applied, some of them together, until none is pending."""
    usual = engine(later(600))
    ours = replace(usual, channels=Said(said=said, order=order))
    north = trade.shops["north"]
    for n, place in enumerate(arrival):
        topic = "orders/updated" if isinstance(said[place], protocol.OrderState) else "refunds/create"
        deliver(north, topic, str(place).encode())
        if n % 3:
            _apply_due(ours, trade)
    while _apply_due(ours, trade):
        pass
    assert not InboxEvent.objects.filter(state__in=["pending", "dead"]).exists()


def test_any_life_of_an_order_at_several_places_ends_alike_in_any_order_of_its_news(alder: Trade) -> None:
    north = alder.shops["north"]
    places = (floor(alder), ATTIC, CELLAR)

    @hypothesis.settings(max_examples=8, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
    @given(st.integers(0, 2**32))
    def live_through(seed: int) -> None:
        rng = random.Random(seed)
        life = StoreOrder(rng, pauses=(1.5, 40), places=places)
        for _ in range(rng.randint(1, 6)):
            life.change()
        read = life.snapshot(read_at=life.now + timedelta(seconds=3))
        said = [_of_mugs(event, north) for event in (*life.told, read)]
        order = _of_mugs(read, north)
        assert isinstance(order, protocol.OrderState)
        for is_mapped_first in (True, False, False):
            arrival = [*range(len(said)), *rng.choices(range(len(said)), k=2)]
            rng.shuffle(arrival)
            with transaction.atomic():
                if is_mapped_first:
                    map_the_cellar(alder)
                tell(alder, said, order, arrival)
                if not is_mapped_first:
                    _is_as_it_was(alder, life, ours=places[:2])
                    map_the_cellar(alder)
                    tell(alder, said, order, [])
                _is_as_it_was(alder, life, ours=places)
                transaction.set_rollback(True)

    live_through()


def _of_mugs(event: protocol.Event, shop: Shop) -> Any:
    if isinstance(event, protocol.OrderState):
        variant = shop.listings["MUG"].remote_variant_id
        return replace(event, lines=tuple(replace(line, variant_id=variant, sku="MUG") for line in event.lines))
    return event


def _is_as_it_was(trade: Trade, life: StoreOrder, *, ours: Sequence[str]) -> None:
    """The books say of the mapped places what really happened there."""
    done = {place: [line.effect_at(place) for line in life.lines] for place in ours}
    assert shown(trade) == {
        place: -sum(part.taken for part in parts) for place, parts in done.items() if sum(part.taken for part in parts)
    }
    drawn_on = {place: "LOFT" if place == ATTIC else "MAIN" for place in ours}
    for code in ("MAIN", "LOFT"):
        parts = [part for place in ours if drawn_on[place] == code for part in done[place]]
        expected = 10 + sum(part.on_hand for part in parts), sum(part.committed for part in parts)
        assert accounts(trade)[code] == expected
    assert list(violations(when_quiet=False)) == []
