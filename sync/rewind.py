"""Restoring a channel to what it showed before a moment, from the log of what was pushed to it.

The engine drives a store to what is computed, so writing old numbers would last for a second. A restore is a hold
instead: its levels are *told* the former number, less what was sold since by anybody, until somebody lets them go.
Publishing, pushing, compare-and-set and crash safety are those of any other number; there is nothing to resume.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import structlog
from django.db import transaction

from channels.models import Channel
from merchants import trail
from merchants.models import ApiKey, User
from sync.models import HoldKind, HoldState, PushHold
from sync.tables.restraint import RUN_LOCK, sold_since
from synctec.lib import sql
from synctec.lib.ids import uuid7

log = structlog.get_logger(__name__)


class CannotRestore(Exception):
    """The channel cannot be restored like that. The text says why and what to do; `field`, what of the wish is wrong."""

    def __init__(self, text: str, *, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class Former(NamedTuple):
    """A level that was pushed to since."""

    level_id: int
    sku_id: int
    code: str
    title: str
    place: str
    shown: int
    then: int  # what it showed before the first write since
    since: datetime  # of that write
    pushes: int
    pushed: int  # the sum of their differences
    is_divided: bool
    sold: int  # since that write, by anybody

    @property
    def restored(self) -> int:
        """What it would show; where units are divided among stores, at most."""
        return max(0, self.then - max(0, self.sold))


def preview(*, channel: Channel, before: datetime) -> list[Former]:
    """The levels that would be restored, the greatest changes first."""
    found = sql.rows(
        """
        WITH since AS (
            SELECT push.listing_level_id AS level, min(push.id) AS first, count(*) AS pushes,
                sum(push.to_quantity - push.from_quantity) AS pushed
            FROM channels_listinglevel level
            JOIN channels_push push ON push.listing_level_id = level.id
            WHERE level.channel_id = %s AND push.state = 'confirmed' AND push.created_at >= %s
            GROUP BY 1
        )
        SELECT level.id, listing.sku_id, sku.code, listing.title, location.name, level.shown, push.from_quantity,
            push.created_at, since.pushes, since.pushed, coalesce(shelf_group.policy <> 'shared', false)
        FROM since
        JOIN channels_push push ON push.id = since.first
        JOIN channels_listinglevel level ON level.id = since.level
        JOIN channels_listing listing ON listing.id = level.listing_id AND listing.deleted_at IS NULL
        JOIN inventory_sku sku ON sku.id = listing.sku_id
        JOIN channels_storelocation location ON location.id = level.store_location_id
        LEFT JOIN locations_grouplocation member ON member.store_location_id = location.id
        LEFT JOIN locations_locationgroup shelf_group ON shelf_group.id = member.group_id
        WHERE level.is_stocked AND listing.is_tracked AND NOT listing.is_store_bundle
        """,
        [channel.pk, before],
    )
    sold = sold_since([(row[0], row[1], row[7]) for row in found])
    former = [Former._make((*row, max(0, sold.get(row[0], 0)))) for row in found]
    former = [level for level in former if level.restored != level.shown]
    return sorted(former, key=lambda level: (-abs(level.restored - level.shown), level.level_id))


@transaction.atomic
def restore(
    *,
    channel: Channel,
    before: datetime,
    user: User | None,
    api_key: ApiKey | None = None,
    reason: str,
    now: datetime,
) -> PushHold:
    """Have the channel show what it did before a moment, less what was sold since, until the hold is confirmed away.

    Raises:
        CannotRestore: the moment is to come, the channel is in shadow mode or restored already, or nothing was pushed since.
    """
    if before >= now:
        raise CannotRestore("Give a moment in the past: nothing was written after that one.", field="before")
    if not reason.strip():
        raise CannotRestore("Give a reason: it is shown with the hold.", field="reason")
    sql.rows("SELECT pg_advisory_xact_lock(%s, %s)", [RUN_LOCK, channel.pk % 2**31])
    stored = Channel.objects.get(pk=channel.pk)
    if stored.is_shadow:
        raise CannotRestore(f"{stored} is in shadow mode: nothing is written to it.")
    if PushHold.objects.filter(channel=stored, kind=HoldKind.RESTORE, state=HoldState.HELD).exists():
        raise CannotRestore(f"{stored} is restored already: let that go first.")
    former = preview(channel=stored, before=before)
    if not former:
        raise CannotRestore("Nothing that was written since would be shown differently.")
    hold = PushHold.objects.create(
        merchant_id=stored.merchant_id,
        channel=stored,
        kind=HoldKind.RESTORE,
        reason=reason.strip()[:500],
        restored_to=before,
        changed=len(former),
        of_levels=len(former),
        created_by=user,
    )
    _hold_at_former(hold, former)
    trail.record(
        merchant_id=stored.merchant_id,
        action="channel.restore",
        subject=stored,
        user=user,
        api_key=api_key,
        after={"before": before.isoformat(), "levels": len(former), "hold": hold.pk},
        reason=reason.strip(),
    )
    log.warning("rewind.restored", channel_id=stored.pk, levels=len(former), hold=hold.pk)
    return hold


def _hold_at_former(hold: PushHold, former: list[Former]) -> None:
    """What is held already of these levels is restored from now on; then all are published."""
    levels = [level.level_id for level in former]
    sql.execute(
        """
        UPDATE sync_heldlevel SET state = 'released', settled_at = now()
        WHERE listing_level_id = ANY(%s::bigint[]) AND state IN ('watched', 'held')
        """,
        [levels],
    )
    sql.execute(
        """
        INSERT INTO sync_heldlevel (merchant_id, channel_id, listing_level_id, hold_id, state, kind, from_quantity,
            to_quantity, sold_from, cause)
        SELECT %s, %s, told.level, %s, 'held', CASE WHEN told.shown <= 0 THEN 'zero' ELSE 'much' END, told.first, told.shown,
            told.since, 'Restored'
        FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::timestamptz[]) AS told (level, first, shown, since)
        """,
        [
            hold.merchant_id,
            hold.channel_id,
            hold.pk,
            levels,
            [level.then for level in former],
            [level.shown for level in former],
            [level.since for level in former],
        ],
    )
    sql.execute(
        """
        INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
        SELECT DISTINCT %s::bigint, sku, %s::uuid, now() FROM unnest(%s::bigint[]) AS sku
        """,
        [hold.merchant_id, uuid7(), [level.sku_id for level in former]],
    )
