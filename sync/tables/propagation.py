"""How long news takes: what is measured of channels, what it comes to in groups, and which SKUs that concerns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import LiteralString

from django.db import transaction

from locations.pace import UNKNOWN_PROPAGATION_SECONDS, Propagation, grows_materially
from synctec.lib import sql
from synctec.lib.ids import uuid7


def load_windows(group_ids: Collection[int]) -> dict[int, float]:
    """Seconds from a sale in a group's slowest channel to the number shown in its slowest other one.

    Channels that are not written to do not count: all that they may sell is set aside, so nobody waits for their news.
    """
    return dict(
        sql.rows(
            """
            SELECT member.group_id,
                max(CASE WHEN channel.inbound_observed_at IS NULL THEN %s ELSE channel.inbound_seconds END)
                    + max(CASE WHEN channel.outbound_observed_at IS NULL THEN %s ELSE channel.outbound_seconds END)
            FROM locations_grouplocation member
            JOIN channels_storelocation place ON place.id = member.store_location_id
            JOIN channels_channel channel ON channel.id = place.channel_id AND channel.state = 'active'
                AND NOT channel.is_shadow
            WHERE member.group_id = ANY(%s::bigint[]) GROUP BY member.group_id
            """,
            [UNKNOWN_PROPAGATION_SECONDS, UNKNOWN_PROPAGATION_SECONDS, sorted(group_ids)],
        )
    )


def note_lag(direction: str, lags: Mapping[int, float], now: datetime) -> None:
    """Let each channel's estimate learn of a lag in seconds. Read and written outside of locks: it is an estimate.

    Where news is materially slower than it was, the thresholds of `guard` rise for what nobody touches, too.
    """
    read, write = _LAGS[direction]
    for channel_id, seconds, observed_at in sql.rows(read, [sorted(lags)]):
        before = Propagation(seconds, observed_at) if observed_at else Propagation()
        after = before.observed(lags[channel_id], now)
        if not before.is_worth_noting(after, now):
            continue
        with transaction.atomic():
            guarded = _guarded_by(channel_id) if after.seconds > before.seconds else []
            windows = load_windows(guarded) if guarded else {}
            sql.execute(write, [after.seconds, after.observed_at, channel_id])
            wider = load_windows(windows) if windows else {}
            _mark_groups_dirty([group for group in windows if grows_materially(windows[group], wider[group])], now)


def mark_groups_dirty(channel_id: int, now: datetime) -> None:
    """Mark for publishing whatever is divided, or may have to be, in the groups that a channel is a member of."""
    found = sql.rows(
        """
        SELECT DISTINCT shelf_group.id FROM channels_storelocation place
        JOIN locations_grouplocation member ON member.store_location_id = place.id
        JOIN locations_locationgroup shelf_group ON shelf_group.id = member.group_id AND shelf_group.policy <> 'shared'
        WHERE place.channel_id = %s
        """,
        [channel_id],
    )
    _mark_groups_dirty([group for (group,) in found], now)


def _mark_groups_dirty(group_ids: Collection[int], now: datetime) -> None:
    if group_ids:
        sql.execute(
            """
            INSERT INTO sync_dirtysku (merchant_id, sku_id, correlation_id, caused_at)
            SELECT DISTINCT listing.merchant_id, listing.sku_id, %s::uuid, %s::timestamptz
            FROM locations_grouplocation member
            JOIN channels_listinglevel level ON level.store_location_id = member.store_location_id
            JOIN channels_listing listing ON listing.id = level.listing_id AND listing.sku_id IS NOT NULL
            WHERE member.group_id = ANY(%s::bigint[])
            """,
            [uuid7(), now, sorted(group_ids)],
        )


def _guarded_by(channel_id: int) -> list[int]:
    """The channel's groups whose thresholds follow how long news takes."""
    found = sql.rows(
        """
        SELECT DISTINCT shelf_group.id FROM channels_storelocation place
        JOIN locations_grouplocation member ON member.store_location_id = place.id
        JOIN locations_locationgroup shelf_group ON shelf_group.id = member.group_id
            AND shelf_group.policy = 'guard' AND shelf_group.guard_units IS NULL
        WHERE place.channel_id = %s
        """,
        [channel_id],
    )
    return [group for (group,) in found]


_LAGS: dict[str, tuple[LiteralString, LiteralString]] = {
    "inbound": (
        "SELECT id, inbound_seconds, inbound_observed_at FROM channels_channel WHERE id = ANY(%s::bigint[])",
        "UPDATE channels_channel SET inbound_seconds = %s, inbound_observed_at = %s WHERE id = %s",
    ),
    "outbound": (
        "SELECT id, outbound_seconds, outbound_observed_at FROM channels_channel WHERE id = ANY(%s::bigint[])",
        "UPDATE channels_channel SET outbound_seconds = %s, outbound_observed_at = %s WHERE id = %s",
    ),
}
