"""What reconciliations found to differ, and why: rows for people, which no act of the engine depends on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from channels.inbox import polled_id
from channels.protocol import LevelState, PolledOrder
from sync.ports import Differs
from synctec.lib import sql


class Shown(NamedTuple):
    """A level of ours in a snapshot, beside what its books say."""

    level_id: int
    version: int
    expected: int | None
    actual: int | None
    #: It has moved since the snapshot was begun, or more is known of it than the snapshot tells: nothing to be judged by.
    is_outdated: bool


def note(*, run_id: int, differing: Sequence[Differs], now: datetime) -> int:
    """Keep what was found with the levels' books of now, until it is explained; returns how many are new.

    A level that has moved since it was compared is being settled already, and one that was never read has nothing to
    differ from.
    """
    if not differing:
        return 0
    return sql.execute(
        """
        INSERT INTO sync_difference (merchant_id, run_id, channel_id, listing_level_id, expected, actual, base,
            order_effects, pushed, latest_drift_id, previous_confirmed_at, found_at)
        SELECT level.merchant_id, %s, level.channel_id, level.id, told.expected, told.actual, level.base,
            level.order_effects, level.pushed,
            coalesce((SELECT max(drift.id) FROM sync_drift drift WHERE drift.listing_level_id = level.id), 0),
            level.confirmed_at, %s
        FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::int[]) AS told (id, version, expected, actual)
        JOIN channels_listinglevel level ON level.id = told.id AND level.version = told.version
        WHERE level.confirmed_at IS NOT NULL
        ON CONFLICT (listing_level_id) DO NOTHING
        """,
        [run_id, now, *(list(column) for column in zip(*differing, strict=True))],
    )


def unheard_of(*, channel_id: int, orders: Sequence[PolledOrder]) -> set[str]:
    """Those of the orders of which nothing is known in this version or a later one: neither their lines say so, nor was
    it read before."""
    return {
        order_id
        for (order_id,) in sql.rows(
            """
            SELECT DISTINCT told.order_id
            FROM unnest(%s::text[], %s::timestamptz[], %s::text[]) AS told (order_id, version, polled_id)
            WHERE NOT EXISTS (
                    SELECT 1 FROM sync_orderline line
                    WHERE line.channel_id = %s AND line.order_id = told.order_id AND coalesce(
                        line.facts #>> '{says,-1,4}', line.facts #>> '{says,-1,3}')::timestamptz >= told.version)
                AND NOT EXISTS (
                    SELECT 1 FROM channels_inboxevent event
                    WHERE event.channel_id = %s AND event.topic = 'orders/polled' AND event.webhook_id = told.polled_id)
            """,
            [
                [order.order_id for order in orders],
                [order.version for order in orders],
                [polled_id(order) for order in orders],
                channel_id,
                channel_id,
            ],
        )
    }


def levels_of(channel_id: int) -> tuple[int, int, int]:
    """How many levels of the channel a pass reads, and the least and the greatest of their ids."""
    [(count, first, last)] = sql.rows(
        """
        SELECT count(*), coalesce(min(level.id), 0), coalesce(max(level.id), 0)
        FROM channels_listinglevel level JOIN channels_listing listing ON listing.id = level.listing_id
        WHERE listing.channel_id = %s AND listing.sku_id IS NOT NULL AND listing.deleted_at IS NULL
        """,
        [channel_id],
    )
    return count, first, last


def shown(*, channel_id: int, states: Sequence[LevelState], begun_at: datetime) -> list[Shown]:
    """Our levels among these of a snapshot that was asked for at `begun_at`."""
    return [
        Shown(
            level, version, reported if is_stocked else None, available if shows_stocked else None, is_outdated is True
        )
        for level, version, reported, is_stocked, available, shows_stocked, is_outdated in sql.rows(
            """
            SELECT level.id, level.version, level.reported, level.is_stocked, told.available, told.is_stocked,
                level.confirmed_at >= %s OR level.source_at > told.source_at
                OR EXISTS (SELECT 1 FROM channels_push push
                    WHERE push.listing_level_id = level.id AND push.state = 'open')
                OR EXISTS (SELECT 1 FROM sync_orderline line
                    WHERE line.listing_level_id = level.id AND line.updated_at >= %s)
            FROM unnest(%s::text[], %s::text[], %s::int[], %s::bool[], %s::timestamptz[])
                AS told (item, place, available, is_stocked, source_at)
            JOIN channels_listing listing ON listing.channel_id = %s AND listing.inventory_item_id = told.item
                AND listing.sku_id IS NOT NULL AND listing.deleted_at IS NULL
            JOIN channels_listinglevel level ON level.listing_id = listing.id
            JOIN channels_storelocation place ON place.id = level.store_location_id AND place.remote_id = told.place
            """,
            [
                begun_at,
                begun_at,
                [state.inventory_item_id for state in states],
                [state.location_id for state in states],
                [state.available for state in states],
                [state.is_stocked for state in states],
                [state.source_at for state in states],
                channel_id,
            ],
        )
    ]


class Open(NamedTuple):
    """A difference whose level is settled, and what the level's books have done since it was found."""

    difference_id: int
    merchant_id: int
    channel_id: int
    level_id: int
    run_id: int
    expected: int | None
    actual: int | None
    previous_confirmed_at: datetime | None
    found_at: datetime
    rebased: int  # by how much the base has moved
    booked: int  # of that, what was taken over, overwritten or asked about: residues
    pushed: int  # by confirmed writes
    sold: int  # by effects of orders, below zero
    has_polled: bool  # some of these orders were read from the store's list, which is told of by itself
    has_waited: bool  # of these orders, some that waited for a mapping


def settled(*, limit: int, skew: timedelta) -> list[Open]:
    """Take differences whose levels are no longer suspect, oldest first; others who take some skip these.

    In the caller's transaction, which removes them. `skew`: how much clocks of one installation may differ.
    """
    return [
        Open(*row)
        for row in sql.rows(
            """
            SELECT found.id, found.merchant_id, found.channel_id, level.id, found.run_id, found.expected, found.actual,
                found.previous_confirmed_at, found.found_at, level.base - found.base,
                coalesce((SELECT sum(drift.actual - drift.expected) FROM sync_drift drift
                    WHERE drift.listing_level_id = level.id AND drift.id > found.latest_drift_id
                        AND drift.action <> 'explained'), 0)::int,
                level.pushed - found.pushed, level.order_effects - found.order_effects,
                EXISTS (SELECT 1 FROM sync_drift drift
                    WHERE drift.listing_level_id = level.id AND drift.id > found.latest_drift_id
                        AND drift.cause IN ('recovered_order', 'order_in_flight')),
                EXISTS (SELECT 1 FROM sync_orderline line
                    WHERE line.listing_level_id = level.id AND line.updated_at >= found.found_at - %s
                        AND line.created_at < found.found_at AND line.postings = 1 AND EXISTS (
                            SELECT 1 FROM inventory_movement movement
                            WHERE movement.correlation_id = line.correlation_id AND movement.created_at >= found.found_at))
            FROM sync_difference found JOIN channels_listinglevel level ON level.id = found.listing_level_id
            WHERE level.suspect_since IS NULL
            ORDER BY found.id LIMIT %s FOR UPDATE OF found SKIP LOCKED
            """,
            [skew, limit],
        )
    ]


def give_to_runs(found: Collection[Open]) -> None:
    """Say of the findings about these levels which pass led to them."""
    sql.execute(
        """
        UPDATE sync_drift drift SET run_id = found.run_id
        FROM sync_difference found
        WHERE found.id = ANY(%s::bigint[]) AND drift.listing_level_id = found.listing_level_id
            AND drift.id > found.latest_drift_id AND drift.run_id IS NULL
        """,
        [[one.difference_id for one in found]],
    )


def forget(found: Collection[Open]) -> None:
    """They are explained."""
    sql.execute("DELETE FROM sync_difference WHERE id = ANY(%s::bigint[])", [[one.difference_id for one in found]])


def note_recovered_orders(*, since: datetime, in_flight: timedelta) -> int:
    """Write down what orders did to the levels of their stores that no webhook had told of; returns how many are new.

    Such an order was read from its channel's list, by an event that arrived `since`, and moved stock: one that a webhook had
    told of before moves nothing when it is read. The webhook of one that is younger than `in_flight` may only have been on
    its way. What the books expected is what they say now without it. It may be asked any number of times.
    """
    return sql.execute(
        """
        WITH told AS (
            SELECT event.id, event.merchant_id, event.channel_id, event.correlation_id, event.received_at,
                event.received_at - event.triggered_at < %s AS is_young, split_part(event.webhook_id, ':', 2) AS order_id
            FROM channels_inboxevent event
            JOIN channels_channel channel ON channel.id = event.channel_id
            WHERE event.topic = 'orders/polled' AND event.received_at >= %s AND event.state = 'applied'
        ), by_component AS (
            SELECT told.merchant_id, told.channel_id, told.correlation_id, told.received_at, told.is_young, line.id,
                line.listing_level_id, line.order_name, stocked.sku_id,
                sum(CASE movement.account WHEN 'on_hand' THEN movement.delta WHEN 'committed' THEN -movement.delta ELSE 0 END
                    / taken.units_per_line_unit) AS units
            FROM told
            JOIN sync_orderline line ON line.channel_id = told.channel_id AND line.order_id = told.order_id
                AND line.listing_level_id IS NOT NULL
            JOIN inventory_movement movement ON movement.correlation_id = told.correlation_id
                AND starts_with(movement.idempotency_key,
                    line.channel_id || ':' || line.order_id || ':' || line.line_id || ':')
            JOIN sync_allocation taken ON taken.order_line_id = line.id AND taken.stock_level_id = movement.stock_level_id
            JOIN inventory_stocklevel stocked ON stocked.id = movement.stock_level_id
            GROUP BY told.merchant_id, told.channel_id, told.correlation_id, told.received_at, told.is_young,
                line.id, line.listing_level_id, line.order_name, stocked.sku_id
        ), by_line AS (
            -- Every component of a bundle tells of the same units of the line.
            SELECT DISTINCT ON (id, correlation_id) * FROM by_component ORDER BY id, correlation_id, sku_id
        ), by_level AS (
            SELECT merchant_id, channel_id, correlation_id, received_at, is_young, listing_level_id, sum(units)::int AS units,
                string_agg(DISTINCT order_name, ', ') AS orders
            FROM by_line GROUP BY merchant_id, channel_id, correlation_id, received_at, is_young, listing_level_id
        )
        INSERT INTO sync_drift (merchant_id, channel_id, listing_level_id, expected, actual, action, cause, explanation,
            is_ambiguous, previous_confirmed_at, correlation_id, found_at, run_id)
        SELECT told.merchant_id, told.channel_id, level.id, level.reported - told.units, level.reported, 'explained',
            CASE WHEN told.is_young THEN 'order_in_flight' ELSE 'recovered_order' END,
            left('order ' || told.orders || CASE WHEN told.is_young THEN ': read before its webhook came'
                ELSE ': no webhook had told of it' END, 500), false,
            level.confirmed_at, told.correlation_id, told.received_at,
            (SELECT run.id FROM sync_reconcilerun run WHERE run.channel_id = told.channel_id
                AND run.started_at <= told.received_at AND (run.finished_at IS NULL OR run.finished_at >= told.received_at)
                ORDER BY run.id DESC LIMIT 1)
        FROM by_level told JOIN channels_listinglevel level ON level.id = told.listing_level_id
        WHERE told.units <> 0
        ON CONFLICT (correlation_id, listing_level_id) WHERE cause IN ('recovered_order', 'order_in_flight') DO NOTHING
        """,
        [in_flight, since],
    )
