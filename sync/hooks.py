"""What the engine does when an app below it has news. Those apps hold lists of callables; here they are filled."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import partial

from django.db import transaction
from django.db.models.functions import Now

from channels import connect, inbox, mapping, onboarding, protocol, steering
from channels.models import Channel, EventState, InboxEvent, Listing, ListingLevel
from inventory import holds, stock
from locations import matrix
from sync import register, tasks
from sync.decide import Line, ends_hold
from sync.models import OrderLine
from sync.tables import upkeep
from synctec.lib.ids import uuid7


def attach() -> None:
    """Fill the hooks. Called once, when Django has loaded all apps."""
    inbox.on_received.append(tasks.ring_apply)
    stock.on_change.append(_stock_changed)
    holds.order_is_booked.append(_booked)
    holds.order_ids.append(_order_ids)
    stock.on_changes.append(_stocks_changed)
    matrix.on_change.append(_matrix_changed)
    mapping.on_mapped.append(_listings_mapped)
    steering.on_reconcile.append(tasks.ring_reconcile)
    onboarding.on_connected.append(tasks.ring_activate)


def _stock_changed(merchant_id: int, sku_ids: Sequence[int], correlation_id: uuid.UUID, now: datetime) -> None:
    upkeep.mark_dirty(merchant_id=merchant_id, sku_ids=sku_ids, correlation_id=correlation_id, now=now)
    transaction.on_commit(partial(tasks.ring_publish, merchant_id))


def _stocks_changed(merchant_id: int, changes: Sequence[tuple[int, uuid.UUID]], now: datetime) -> None:
    upkeep.mark_each_dirty(merchant_id=merchant_id, changes=changes, now=now)
    transaction.on_commit(partial(tasks.ring_publish, merchant_id))


def _order_ids(merchant_id: int, orders: Collection[holds.Order]) -> dict[holds.Order, str | None]:
    """By which id the channels' events name these orders."""
    channels = Channel.objects.filter(merchant_id=merchant_id, pk__in={channel for channel, _ in orders})
    kinds = dict(channels.values_list("pk", "kind"))
    return {order: _read_order_id(kinds[order[0]], order[1]) for order in orders if order[0] in kinds}


def _read_order_id(kind: str, said: str) -> str | None:
    try:
        return connect.reader_for(kind).read_order_id(said)
    except protocol.MalformedEvent:
        return None


def _booked(merchant_id: int, waits: Collection[holds.Wait]) -> set[holds.Wait]:
    """Those that wait for nothing any more."""
    rows = OrderLine.objects.filter(
        merchant_id=merchant_id,
        channel__in={channel for channel, _, _ in waits},
        order_id__in={order_id for _, order_id, _ in waits},
    )
    by_order: dict[holds.Order, list[Line]] = defaultdict(list)
    for row in rows:
        line = Line(
            (row.channel_id, row.order_id, row.line_id), sku_id=row.sku_id, register=register.from_json(row.facts)
        )
        line.postings, line.waiting_for = row.postings, row.waiting_for
        by_order[row.channel_id, row.order_id].append(line)
    return {wait for wait in waits if ends_hold(wait[2], by_order[wait[:2]])}


def _matrix_changed(merchant_id: int, sku_ids: Sequence[int] | None, now: datetime) -> None:
    upkeep.add_missing_levels(merchant_id=merchant_id)
    upkeep.mark_dirty(merchant_id=merchant_id, sku_ids=sku_ids, correlation_id=uuid7(), now=now)
    transaction.on_commit(partial(tasks.ring_publish, merchant_id))
    replay_waiting(merchant_id)


def _listings_mapped(merchant_id: int, listing_ids: Sequence[int]) -> None:
    skus = Listing.objects.filter(pk__in=listing_ids, sku__isnull=False).values_list("sku_id", flat=True)
    sku_ids = sorted(set(skus))
    upkeep.add_missing_levels(merchant_id=merchant_id)
    # What a listing without a SKU shows is not ours to say.
    ListingLevel.objects.filter(listing__in=listing_ids, listing__sku=None).update(desired=None)
    if sku_ids:
        upkeep.mark_dirty(merchant_id=merchant_id, sku_ids=sku_ids, correlation_id=uuid7(), now=datetime.now(UTC))
    transaction.on_commit(partial(tasks.ring_publish, merchant_id))
    replay_waiting(merchant_id)


def replay_waiting(merchant_id: int) -> int:
    """Take up what waited for a mapping: unmapped events, and the orders of which a line still waits.

    Idempotent: what still cannot be placed is set aside again, with the reason of then.
    """
    waiting = OrderLine.objects.filter(merchant_id=merchant_id).exclude(waiting_for="").values("latest_event_id")
    aside = InboxEvent.objects.filter(merchant_id=merchant_id)
    events = aside.filter(state=EventState.IGNORED, reason__startswith="unmapped") | aside.filter(
        pk__in=waiting, state__in=[EventState.IGNORED, EventState.APPLIED]
    )
    taken_up = events.update(state=EventState.PENDING, reason="", attempts=0, settled_at=None, next_attempt_at=Now())
    if taken_up:
        transaction.on_commit(partial(inbox.ring, merchant_id))
    return taken_up
