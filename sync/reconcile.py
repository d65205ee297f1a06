"""Reconciliation: what webhooks did not tell, read from the channel, through the same path as everything else.

1. orders changed since the watermark, minus an overlap, go to the inbox like webhooks (known ones are duplicates);
2. all levels are read and compared with what they must show; those that differ become suspect and are checked.

Invariant: the watermark moves only in the transaction that stored the page, so a crash at any point reads a page again
and loses none.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from channels import inbox
from channels.models import Channel
from channels.protocol import Connector, LevelState
from sync.check import add_missing_levels, suspect_levels
from sync.models import ReconcileRun, RunState
from synctec.lib import sql

log = structlog.get_logger(__name__)

POLLED_TOPIC = "orders/polled"


def poll_orders(*, channel: Channel, connector: Connector, now: datetime) -> tuple[int, int]:
    """Put orders changed since the watermark into the inbox; returns how many were read and how many were news.

    Raises:
        ChannelError: the channel could not be asked to the end; what was stored so far stays.
    """
    channel.refresh_from_db(fields=["orders_watermark", "orders_counted_from"])
    watermark = channel.orders_watermark or channel.orders_counted_from or now
    since = watermark - timedelta(seconds=settings.RECONCILE_OVERLAP_SECONDS)
    read = recovered = 0
    cursor: str | None = None
    while True:
        page = connector.read_orders_since(since, cursor=cursor)
        with transaction.atomic(), connection.cursor() as writing:
            recovered += inbox.receive_many(
                writing,
                channel_id=channel.pk,
                merchant_id=channel.merchant_id,
                topic=POLLED_TOPIC,
                orders=page.orders,
                now=now,
            )
            if page.orders:
                newest = max(order.version for order in page.orders)
                Channel.objects.filter(pk=channel.pk).update(orders_watermark=max(watermark, newest))
                watermark = max(watermark, newest)
        read += len(page.orders)
        cursor = page.cursor
        if cursor is None:
            break
    Channel.objects.filter(pk=channel.pk).update(orders_read_at=now)
    if recovered:
        inbox.ring(channel.merchant_id)
    return read, recovered


def compare_levels(*, channel: Channel, connector: Connector, now: datetime, run: ReconcileRun | None = None) -> int:
    """Read every mapped level of the channel; those that differ become suspect. Returns how many did."""
    suspects = 0
    for chunk in _chunks(channel.pk, connector.capabilities.levels_per_read):
        states = connector.read_levels(sorted({item for _, item, _, _ in chunk}))
        differing = _differing(chunk, states)
        suspect_levels(differing, reason="reconciliation differs", now=now)
        suspects += len(differing)
        if run is not None:
            ReconcileRun.objects.filter(pk=run.pk).update(
                levels_read=F("levels_read") + len(chunk), levels_suspect=F("levels_suspect") + len(differing)
            )
    return suspects


def _chunks(channel_id: int, items_per_read: int) -> Iterator[list[tuple[int, str, str, int]]]:
    """(level, item, location, version), a read's worth of items at a time, by the order of the listings' ids."""
    after = 0
    while True:
        listings = sql.rows(
            """
            SELECT id FROM channels_listing
            WHERE channel_id = %s AND id > %s AND sku_id IS NOT NULL AND deleted_at IS NULL ORDER BY id LIMIT %s
            """,
            [channel_id, after, items_per_read],
        )
        if not listings:
            return
        after = listings[-1][0]
        yield sql.rows(
            """
            SELECT level.id, listing.inventory_item_id, location.remote_id, level.version
            FROM channels_listinglevel level
            JOIN channels_listing listing ON listing.id = level.listing_id
            JOIN channels_storelocation location ON location.id = level.store_location_id
            WHERE level.listing_id = ANY(%s::bigint[])
            """,
            [[listing for (listing,) in listings]],
        )


def _differing(chunk: list[tuple[int, str, str, int]], states: tuple[LevelState, ...]) -> list[int]:
    """Levels that did not move while they were read and yet show another number than they must."""
    found = {(state.inventory_item_id, state.location_id): state for state in states}
    told = {level: found.get((item, location)) for level, item, location, _ in chunk}
    versions = {level: version for level, _, _, version in chunk}
    differing = []
    for level, reported, version, is_stocked, has_open_push in sql.rows(
        """
        SELECT level.id, level.reported, level.version, level.is_stocked, EXISTS (
            SELECT 1 FROM channels_push push WHERE push.listing_level_id = level.id AND push.state = 'open')
        FROM channels_listinglevel level WHERE level.id = ANY(%s::bigint[])
        """,
        [list(told)],
    ):
        state = told[level]
        shows = state.available if state is not None and state.is_stocked else None
        expected = reported if is_stocked else None
        if version == versions[level] and shows != expected and not has_open_push:
            differing.append(level)
    return differing


def reconcile(*, channel: Channel, connector: Connector, now: datetime) -> ReconcileRun:
    """One whole pass over a channel. A pass that fails says why; the next begins where the watermark stands."""
    run = ReconcileRun.objects.create(merchant_id=channel.merchant_id, channel=channel, started_at=now)
    try:
        add_missing_levels(merchant_id=channel.merchant_id)
        run.orders_read, run.orders_recovered = poll_orders(channel=channel, connector=connector, now=now)
        run.save(update_fields=["orders_read", "orders_recovered"])
        compare_levels(channel=channel, connector=connector, now=now, run=run)
    except Exception as error:
        ReconcileRun.objects.filter(pk=run.pk).update(
            state=RunState.FAILED, error=str(error)[:500], finished_at=datetime.now(tz=now.tzinfo)
        )
        raise
    ReconcileRun.objects.filter(pk=run.pk).update(state=RunState.DONE, finished_at=datetime.now(tz=now.tzinfo))
    run.refresh_from_db()
    log.info(
        "reconcile.done",
        channel_id=channel.pk,
        orders=run.orders_read,
        recovered=run.orders_recovered,
        levels=run.levels_read,
        suspects=run.levels_suspect,
    )
    return run
