"""The yardstick of `bench apply`: the same work as one would first write it, row by row through the ORM.

One event per transaction: lock the event, read its order, lock each line's register, the stock levels it takes from and the
listing level it is sold at, write the movements, mark the SKUs, settle the event. Correct, for new orders.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from channels import bodies
from channels.connect import reader_for
from channels.models import EventState, InboxEvent, ListingLevel
from channels.protocol import LineState, OrderState
from inventory.models import Account, BomLine, Cause, Movement, Sku, SkuKind, StockLevel
from locations.models import Mapping
from sync import register
from sync.models import Allocation, DirtySku, OrderLine
from synctec.lib import sql

#: The columns of an order line that an event may change.
_CHANGED = (
    "facts",
    "desired_committed",
    "applied_committed",
    "desired_on_hand",
    "applied_on_hand",
    "postings",
    "latest_event",
    "updated_at",
)


@transaction.atomic
def apply_one(*, merchant_id: int, now: datetime) -> bool:
    """Apply the oldest due event; False when there is none."""
    sql.keep_to_index()  # else its cost would grow with all that was ever received, as ours did
    event = (
        InboxEvent.objects.select_for_update(skip_locked=True, of=("self",))
        .select_related("channel")
        .filter(
            merchant_id__gte=merchant_id,
            merchant_id__lte=merchant_id,
            state=EventState.PENDING,
            next_attempt_at__lte=now,
        )
        .order_by("merchant_id", "id")
        .first()
    )
    if event is None:
        return False
    for order in reader_for(event.channel.kind).interpret(topic=event.topic, body=bodies.read(event)):
        assert isinstance(order, OrderState)
        for line in order.lines:
            _apply_line(event, order, line, now)
    event.state = EventState.APPLIED
    event.settled_at = now
    event.attempts += 1
    event.save(update_fields=["state", "settled_at", "attempts"])
    return True


def _apply_line(event: InboxEvent, order: OrderState, line: LineState, now: datetime) -> None:
    level = ListingLevel.objects.select_related("listing__sku").get(
        listing__channel=event.channel, listing__remote_variant_id=line.variant_id
    )
    listing = level.listing
    draws_on = Mapping.objects.filter(store_location=level.store_location_id).order_by("priority")
    warehouse = draws_on.values_list("warehouse_id", flat=True)[0]
    said = register.of_order(order, line)
    row, is_new = OrderLine.objects.select_for_update(of=("self",)).get_or_create(
        channel=event.channel,
        order_id=order.order_id,
        line_id=line.line_id,
        defaults={
            "merchant_id": event.merchant_id,
            "order_name": order.name,
            "remote_variant_id": line.variant_id,
            "listing": listing,
            "sku": listing.sku,
            "listing_level": level,
            "store_location_id": level.store_location_id,
            "facts": register.to_json(said),
            "desired_committed": 0,
            "desired_on_hand": 0,
            "correlation_id": event.correlation_id,
        },
    )
    known = said if is_new else register.join(register.from_json(row.facts), said)
    effect = register.effect(known)
    units = effect.taken - row.applied_committed + row.applied_on_hand
    assert listing.sku is not None
    if units:
        row.postings += 1
        for sku, quantity in _parts(listing.sku):
            _take(event, row, sku, warehouse, units * quantity, now)
            DirtySku.objects.create(
                merchant_id=event.merchant_id, sku=sku, correlation_id=event.correlation_id, caused_at=event.received_at
            )
        level = ListingLevel.objects.select_for_update(of=("self",)).get(pk=level.pk)
        level.order_effects -= units
        level.version += 1
        level.save(update_fields=["order_effects", "version"])
    row.facts = register.to_json(known)
    row.desired_committed = row.applied_committed = effect.committed
    row.desired_on_hand = row.applied_on_hand = effect.on_hand
    row.latest_event = event
    row.updated_at = now
    row.save(update_fields=_CHANGED)


def _parts(sku: Sku) -> list[tuple[Sku, int]]:
    if sku.kind == SkuKind.STOCKED:
        return [(sku, 1)]
    lines = BomLine.objects.filter(bundle=sku).select_related("component").order_by("component_id")
    return [(line.component, line.quantity) for line in lines]


def _take(event: InboxEvent, row: OrderLine, sku: Sku, warehouse_id: int, units: int, now: datetime) -> None:
    stock = StockLevel.objects.select_for_update(of=("self",)).get(sku=sku, warehouse_id=warehouse_id)
    stock.committed += units
    stock.seq += 1
    stock.updated_at = now
    stock.save(update_fields=["committed", "seq", "updated_at"])
    Movement.objects.create(
        merchant_id=event.merchant_id,
        stock_level=stock,
        seq=stock.seq,
        account=Account.COMMITTED,
        delta=units,
        balance_after=stock.committed,
        cause=Cause.SALE if units > 0 else Cause.CANCEL,
        idempotency_key=f"{event.channel_id}:{row.order_id}:{row.line_id}:{row.postings}:{stock.pk}:committed",
        reference=row.order_name,
        correlation_id=event.correlation_id,
        effective_at=event.received_at,
    )
    Allocation.objects.update_or_create(
        merchant_id=event.merchant_id,
        order_line=row,
        stock_level=stock,
        defaults={"units_per_line_unit": abs(units), "committed": units},
    )
