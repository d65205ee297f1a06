"""Odd events of orders, through the real database and back out of it."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from channels.models import Channel, EventState, InboxEvent, ListingLevel, StoreLocation
from channels.protocol import Connector, PolledOrder
from inventory import counts, stock
from inventory.models import BomLine, Sku, SkuKind, StockLevel, Warehouse
from inventory.movements import Reporter
from locations.models import GroupLocation, GroupWarehouse, LocationGroup, Mapping
from sync import publish
from sync.apply import apply_batch
from sync.invariants import violations
from sync.models import DirtySku, OrderLine
from tests.engine import engine
from tests.factories import NOON, Shop, Trade, deliver, later, make_trade, order_body, polled_body, refund_body
from tests.fakes import FakeChannel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def apply(trade: Trade, stores: dict[Channel, Connector] | None = None) -> None:
    """Apply what is pending, whenever it is due, once."""
    InboxEvent.objects.filter(state=EventState.PENDING).update(next_attempt_at=NOON)
    apply_batch(engine(stores=stores), merchant_id=trade.merchant.pk)


def outcome(event: InboxEvent) -> tuple[str, str]:
    event.refresh_from_db()
    return event.state, event.reason


def accounts(trade: Trade, code: str) -> tuple[int, int]:
    level = trade.stock(code)
    return level.on_hand, level.committed


def test_two_versions_of_one_second_wait_for_a_reading_that_tells_which_holds(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3), at=10))
    apply(alder)
    edited = deliver(north, "orders/updated", order_body(north, 1, ("MUG", 3), at=10, current=(1,)))
    apply(alder)
    assert outcome(edited) == (EventState.PENDING, "contested: its order is to be read")
    assert accounts(alder, "MUG") == (10, 3)

    node = json.loads(polled_body(north, 1, "MUG", 3, at=10))
    node["lineItems"]["nodes"][0]["currentQuantity"] = 1
    node["readAt"] = later(14).isoformat()
    store = FakeChannel(orders=[PolledOrder("1", later(10), json.dumps(node).encode())])
    apply(alder, {north.channel: store})

    assert outcome(edited) == (EventState.APPLIED, "")
    assert accounts(alder, "MUG") == (10, 1)
    assert list(violations(when_quiet=False)) == []


@pytest.mark.parametrize("topic", ["refunds/create", "orders/delete"])
def test_whatever_is_told_of_a_contested_order_has_it_read(alder: Trade, topic: str) -> None:
    """The version that was contested may never come to be read itself: its event is settled, or dead."""
    north = alder.shops["north"]
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3), at=10))
    edited = deliver(north, "orders/updated", order_body(north, 1, ("MUG", 3), at=10, current=(1,)))
    apply(alder)
    InboxEvent.objects.filter(pk=edited.pk).update(state=EventState.DEAD, reason="given up", settled_at=NOON)
    told = deliver(north, topic, {"id": 1} if topic == "orders/delete" else refund_body(1, 0, 1, "return"))
    apply(alder)
    assert outcome(told) == (EventState.PENDING, "contested: its order is to be read")

    node = json.loads(polled_body(north, 1, "MUG", 3, at=10))
    node["readAt"] = later(14).isoformat()
    apply(alder, {north.channel: FakeChannel(orders=[PolledOrder("1", later(10), json.dumps(node).encode())])})

    assert outcome(told) == (EventState.APPLIED, "")
    assert list(violations(when_quiet=False)) == []


def test_a_contested_order_is_read_even_if_the_worker_that_found_it_so_had_died_before(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3), at=10))
    apply(alder)
    edited = deliver(north, "orders/updated", order_body(north, 1, ("MUG", 3), at=10, current=(1,)))
    InboxEvent.objects.filter(pk=edited.pk).update(attempts=2)

    apply(alder)

    assert outcome(edited) == (EventState.PENDING, "contested: its order is to be read")


def test_a_contested_order_that_is_not_there_to_be_read_counts_as_what_leaves_less(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3), at=10))
    edited = deliver(north, "orders/updated", order_body(north, 1, ("MUG", 3), at=10, current=(1,)))
    apply(alder)

    apply(alder, {north.channel: FakeChannel()})

    assert outcome(edited)[0] in (EventState.APPLIED, EventState.IGNORED)
    assert accounts(alder, "MUG") == (10, 3)


@pytest.mark.parametrize("is_deleted_first", [False, True])
def test_a_deleted_order_keeps_what_it_took_but_waits_for_no_shipment(alder: Trade, is_deleted_first: bool) -> None:
    north = alder.shops["north"]
    told: list[tuple[str, dict[str, object]]] = [
        ("orders/create", order_body(north, 1, ("MUG", 3))),
        ("orders/delete", {"id": 1}),
    ]

    for topic, body in reversed(told) if is_deleted_first else told:
        event = deliver(north, topic, body)
        apply(alder)
        assert outcome(event) == (EventState.APPLIED, "")

    assert accounts(alder, "MUG") == (7, 0)
    assert north.level("MUG").reported == 7
    assert list(violations(when_quiet=False)) == []


def test_a_restock_of_an_order_older_than_the_connection_raises_store_and_pool_alike(alder: Trade) -> None:
    north = alder.shops["north"]
    Channel.objects.filter(pk=north.channel.pk).update(orders_counted_from=later(7))
    refund = refund_body(1, 0, 2, "cancel")
    shipped = deliver(north, "orders/fulfilled", order_body(north, 2, ("MUG", 4), shipped=(4,)))
    cancelled = deliver(
        north,
        "orders/cancelled",
        order_body(north, 1, ("MUG", 2), at=20, current=(0,), cancelled=True, refunds=(refund,)),
    )

    apply(alder)

    assert outcome(shipped) == (
        EventState.IGNORED,
        "placed before the channel was connected: in the opening stock",
    )
    assert outcome(cancelled) == (EventState.APPLIED, "")
    assert accounts(alder, "MUG") == (12, 0)
    assert north.level("MUG").reported == 12
    assert list(violations(when_quiet=False)) == []


def _second_place(alder: Trade, shop: Shop) -> tuple[StoreLocation, Warehouse]:
    """A second location of the shop, with a warehouse of its own that holds ten mugs."""
    attic = StoreLocation.objects.create(
        merchant=alder.merchant, channel=shop.channel, remote_id=f"{shop.location.remote_id}7", name="Attic"
    )
    loft = Warehouse.objects.create(merchant=alder.merchant, code="LOFT", name="Loft")
    GroupLocation.objects.create(merchant=alder.merchant, group=alder.group, store_location=attic)
    GroupWarehouse.objects.create(merchant=alder.merchant, group=alder.group, warehouse=loft)
    Mapping.objects.create(merchant=alder.merchant, group=alder.group, store_location=attic, warehouse=loft)
    stock.open_stock(merchant_id=alder.merchant.pk, quantities={(alder.skus["MUG"].pk, loft.pk): 10}, now=NOON)
    return attic, loft


def test_units_that_another_location_is_to_ship_change_counter_and_warehouse(alder: Trade) -> None:
    north = alder.shops["north"]
    attic, loft = _second_place(alder, north)
    deliver(north, "orders/polled", polled_body(north, 1, "MUG", 3, at=10))
    apply(alder)
    assert accounts(alder, "MUG") == (10, 3)

    moved = polled_body(north, 1, "MUG", 3, at=20).replace(
        f"Location/{north.location.remote_id}".encode(), f"Location/{attic.remote_id}".encode()
    )
    event = deliver(north, "orders/polled", moved)
    apply(alder)

    assert outcome(event) == (EventState.APPLIED, "")
    assert accounts(alder, "MUG") == (10, 0)
    assert StockLevel.objects.get(warehouse=loft).committed == 3
    effects = dict(
        ListingLevel.objects.filter(listing=north.listings["MUG"]).values_list("store_location", "order_effects")
    )
    assert effects == {north.location.pk: 0, attic.pk: -3}
    assert OrderLine.objects.get().store_location == attic
    assert list(violations(when_quiet=False)) == []


@pytest.mark.parametrize(("routing", "expected"), [("priority", (7, 20)), ("most_stock", (10, 17))])
def test_a_group_chooses_which_of_its_warehouses_ships(alder: Trade, routing: str, expected: tuple[int, int]) -> None:
    north = alder.shops["north"]
    LocationGroup.objects.update(routing=routing)
    loft = Warehouse.objects.create(merchant=alder.merchant, code="LOFT", name="Loft")
    GroupWarehouse.objects.create(merchant=alder.merchant, group=alder.group, warehouse=loft)
    Mapping.objects.create(
        merchant=alder.merchant, group=alder.group, store_location=north.location, warehouse=loft, priority=2
    )
    stock.open_stock(merchant_id=alder.merchant.pk, quantities={(alder.skus["MUG"].pk, loft.pk): 20}, now=NOON)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3)))

    apply(alder)

    assert (alder.stock("MUG").available, StockLevel.objects.get(warehouse=loft).available) == expected


def test_a_component_at_zero_takes_all_its_bundles_to_zero_whatever_their_depth() -> None:
    alder = make_trade(stock_of={"MUG": 4, "TEE": 9, "SET": 0, "BOX": 0})
    north = alder.shops["north"]
    Sku.objects.filter(code__in=["SET", "BOX"]).update(kind=SkuKind.BUNDLE)
    for bundle, component, quantity in (("SET", "MUG", 2), ("SET", "TEE", 1), ("BOX", "SET", 1), ("BOX", "TEE", 2)):
        BomLine.objects.create(
            merchant=alder.merchant, bundle=alder.skus[bundle], component=alder.skus[component], quantity=quantity
        )
    LocationGroup.objects.update(policy="shared")
    for sku in alder.skus.values():
        DirtySku.objects.create(merchant=alder.merchant, sku=sku, correlation_id=uuid4(), caused_at=NOON)
    _publish(alder)
    assert _desired(north) == {"MUG": 4, "TEE": 9, "SET": 2, "BOX": 2}
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 3)))

    apply(alder)
    _publish(alder)

    assert _desired(north) == {"MUG": 1, "TEE": 9, "SET": 0, "BOX": 0}


def _publish(trade: Trade) -> None:
    while publish.publish_batch(engine(), merchant_id=trade.merchant.pk).skus:
        pass


def _desired(shop: Shop) -> dict[str, int | None]:
    return {code: shop.level(code).desired for code in shop.listings}


def test_a_count_between_a_sale_and_its_shipment_absorbs_neither(alder: Trade) -> None:
    north = alder.shops["north"]
    [counted] = counts.take(
        merchant_id=alder.merchant.pk,
        counts=[counts.Counted("c", "MUG", "MAIN", 10, counted_at=later(20))],
        reporter=Reporter(),
        all_or_nothing=True,
        now=later(60),
    )
    assert counted.status == "applied"

    deliver(north, "orders/updated", order_body(north, 1, ("MUG", 3), at=30, shipped=(3,)))
    apply(alder)

    assert accounts(alder, "MUG") == (7, 0)


def test_a_refund_told_alone_is_dated_by_itself_and_not_by_its_sale(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "orders/updated", order_body(north, 1, ("MUG", 3), at=10, shipped=(3,)))
    apply(alder)
    deliver(north, "refunds/create", refund_body(1, 0, 1, "return"))

    apply(alder)

    returned = alder.stock("MUG").movements.order_by("-seq").first()
    assert returned is not None
    assert (returned.delta, returned.effective_at) == (1, later(20))


def test_a_line_sold_and_given_back_before_we_heard_of_it_is_placed(alder: Trade) -> None:
    """Nothing is booked, but an audit of a moment in between must find that the unit was gone then."""
    north = alder.shops["north"]
    body = order_body(north, 1, ("MUG", 1), at=30, current=(0,), refunds=(refund_body(1, 0, 1, "cancel"),))
    deliver(north, "orders/updated", body)

    apply(alder)

    line = OrderLine.objects.get()
    assert (line.postings, line.listing_level_id) == (0, north.level("MUG").pk)
    assert accounts(alder, "MUG") == (10, 0)
