"""What the engine does when an app below it has news. Those apps hold lists of callables; here they are filled."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

from celery.signals import task_postrun
from django.db import transaction

from channels import connect, inbox, mapping, onboarding, protocol, states, steering
from channels.models import Channel, Listing
from inventory import holds, stock
from locations import impact, matrix
from merchants import notices
from merchants.models import User
from merchants.tasks import ring_targets
from sync import foresight, jobs, letters, presence, register, replays, resync, tasks, watch
from sync.decide import Line, ends_hold
from sync.models import OrderLine
from sync.tables import propagation, upkeep
from synctec.lib import clock, sql
from synctec.lib.ids import uuid7


def attach() -> None:
    """Fill the hooks. Called once, when Django has loaded all apps."""
    inbox.on_received.append(tasks.ring_apply)
    stock.on_change.append(_stock_changed)
    holds.order_is_booked.append(_booked)
    holds.order_ids.append(_order_ids)
    stock.on_changes.append(_stocks_changed)
    matrix.on_change.append(_matrix_changed)
    impact.on_ask.append(foresight.foresee)
    impact.on_confirm.append(foresight.confirm)
    mapping.on_mapped.append(_listings_mapped)
    steering.on_reconcile.append(tasks.ring_reconcile)
    onboarding.on_connected.append(tasks.ring_activate)
    states.on_change.append(_channel_changed)
    notices.on_told.append(ring_targets)
    watch.attach()
    steering.on_read_again.append(_read_again)
    jobs.on_due.append(tasks.ring_job)
    for kind in (letters.RETRY, replays.REPLAY, resync.RESYNC):
        jobs.register(kind)
    task_postrun.connect(_task_ended, weak=False, dispatch_uid="presence")


def _task_ended(**_: object) -> None:
    """Whoever ends a task is there; while the database is away, that is nobody."""
    with suppress(*sql.AWAY):
        presence.note("workers", now=clock.now())
        sql.give_back()


def _stock_changed(merchant_id: int, sku_ids: Sequence[int], correlation_id: uuid.UUID, now: datetime) -> None:
    upkeep.mark_dirty(merchant_id=merchant_id, sku_ids=sku_ids, correlation_id=correlation_id, now=now)
    transaction.on_commit(partial(tasks.ring_publish, merchant_id))


def _stocks_changed(merchant_id: int, changes: Sequence[tuple[int, uuid.UUID]], now: datetime) -> None:
    upkeep.mark_each_dirty(merchant_id=merchant_id, changes=changes, now=now)
    transaction.on_commit(partial(tasks.ring_publish, merchant_id))


def _channel_changed(channel: Channel) -> None:
    """What a channel may sell that we can no longer lower is out of the others' reach, and within it again afterwards."""
    propagation.mark_groups_dirty(channel.pk, clock.now())
    transaction.on_commit(partial(tasks.ring_publish, channel.merchant_id))


def _read_again(merchant_id: int, meant: Mapping[str, int], user: User | None, reason: str) -> str:
    try:
        asked = resync.ask(merchant_id=merchant_id, said=meant, user=user, reason=reason)
    except (jobs.NothingToDo, jobs.BadParameters) as error:
        raise steering.CannotSteer(str(error)) from None
    for channel_id in asked.channels:
        transaction.on_commit(partial(tasks.ring_check, channel_id))
    if asked.job is not None:
        return f"{asked.levels:,} levels will be read, batch by batch: see Jobs."
    return f"{asked.levels:,} levels will be read within seconds."


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
    upkeep.doubt_places_that_become_ours(merchant_id=merchant_id)
    replay_waiting(merchant_id, upkeep.waits_for_places(merchant_id=merchant_id))


def _listings_mapped(merchant_id: int, listing_ids: Sequence[int]) -> None:
    mapped = list(
        Listing.objects.filter(pk__in=listing_ids, sku__isnull=False).values_list(
            "pk", "sku_id", "channel_id", "remote_variant_id", "remote_sku", "sku__code"
        )
    )
    upkeep.add_missing_levels(merchant_id=merchant_id)
    upkeep.withdraw_unmapped(listing_ids=listing_ids)
    # What webhooks told of their levels was set aside.
    onboarding.doubt_levels([listing for listing, *_ in mapped], reason="mapped")
    if mapped:
        sku_ids = sorted({sku for _, sku, *_ in mapped})
        upkeep.mark_dirty(merchant_id=merchant_id, sku_ids=sku_ids, correlation_id=uuid7(), now=datetime.now(UTC))
    transaction.on_commit(partial(tasks.ring_publish, merchant_id))
    waits = {(channel, f"variant {variant}") for _, _, channel, variant, _, _ in mapped}
    waits |= {(channel, f"SKU {code}") for _, _, channel, _, *codes in mapped for code in codes if code}
    replay_waiting(merchant_id, waits)


def replay_waiting(merchant_id: int, waits: Collection[tuple[int, str]]) -> int:
    """Take up the orders that waited for just this: (channel, what it was in the words of `Line.waiting_for`).

    Idempotent: what still cannot be placed is set aside again, with the reason of then. Never level webhooks: to know
    what a level shows by now it is read.
    """
    taken_up = upkeep.take_up(waits=waits)
    if taken_up:
        transaction.on_commit(partial(inbox.ring, merchant_id))
    return taken_up
