"""The auditor: what must always hold, and what must hold once everything is quiet, asked of the database in SQL.

Each check returns the rows that break it, so that an alarm names its culprits. Constraints refuse most of this already;
that it is asked again, in other words, is the point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from django.db import connection

from channels import protocol
from channels.connect import connector_for
from channels.models import Channel, ChannelKind, ChannelState
from channels.origins import sandbox_url
from sync.store_books import PracticeStores
from synctec.lib import sql

#: What stores are asked for.
SHOWN = "stores_show_what_is_reported"
#: What the books of practice stores are compared for.
ACKNOWLEDGED = "acknowledged_webhooks_are_stored"
SALES_KNOWN = "every_sale_is_known"
#: Offending rows shown per check.
SHOWN_ROWS = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant: a name, what it says, and a query for rows that break it, those of `ALWAYS` with their merchant."""

    name: str
    says: str
    sql: LiteralString


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, with the first of its offending rows."""

    name: str
    says: str
    rows: tuple[dict[str, Any], ...]


#: Safety: at any moment, whatever crashes.
ALWAYS = (
    Check(
        "balances_are_sums",
        "each account of a stock level is the sum of its movements",
        """
        SELECT level.merchant_id AS merchant, level.id AS stock_level, held.account, balance, coalesce(total, 0) AS total
        FROM inventory_stocklevel level
        CROSS JOIN LATERAL (
            VALUES ('on_hand', level.on_hand), ('committed', level.committed), ('held', level.held)
        ) AS held (account, balance)
        LEFT JOIN (SELECT stock_level_id, account, sum(delta) AS total FROM inventory_movement GROUP BY 1, 2) AS booked
            ON booked.stock_level_id = level.id AND booked.account = held.account
        WHERE balance <> coalesce(total, 0)
        """,
    ),
    Check(
        "sequence_is_gapless",
        "the movements of a stock level are numbered 1 to n without a gap, and the level knows n",
        """
        SELECT level.merchant_id AS merchant, level.id AS stock_level, level.seq, max(movement.seq) AS highest,
            count(movement.id) AS movements
        FROM inventory_stocklevel level LEFT JOIN inventory_movement movement ON movement.stock_level_id = level.id
        GROUP BY level.id HAVING coalesce(max(movement.seq), 0) <> level.seq OR count(movement.id) <> level.seq
        """,
    ),
    Check(
        "balance_chain_is_intact",
        "each movement's balance is the one before it of the same account plus its delta",
        """
        SELECT merchant, id AS movement, balance_after, expected FROM (
            SELECT merchant_id AS merchant, id, balance_after,
                sum(delta) OVER (PARTITION BY stock_level_id, account ORDER BY seq) AS expected
            FROM inventory_movement) AS chain
        WHERE balance_after <> expected
        """,
    ),
    Check(
        "transfers_add_up",
        "the units in transit of a SKU are those that left a warehouse on a transfer and neither arrived nor came back",
        """
        SELECT merchant, sku_id AS sku, sum(moved) AS moved, sum(in_transit) AS in_transit FROM (
            SELECT level.merchant_id AS merchant, level.sku_id, movement.delta AS moved, 0 AS in_transit
            FROM inventory_movement movement
            JOIN inventory_stocklevel level ON level.id = movement.stock_level_id
            WHERE movement.cause IN ('transfer_out', 'transfer_in', 'transfer_back')
            UNION ALL
            SELECT merchant_id, sku_id, 0, quantity - received - returned FROM inventory_transferline) AS units
        GROUP BY merchant, sku_id HAVING sum(moved) + sum(in_transit) <> 0
        """,
    ),
    Check(
        "counts_are_the_base",
        "a stock level knows the moment of its newest count, and on_hand is that count and what moved after it",
        """
        SELECT level.merchant_id AS merchant, level.id AS stock_level, level.counted_at, level.on_hand,
            base.quantity + moved.since AS counted
        FROM inventory_stocklevel level
        JOIN LATERAL (
            SELECT counted_at, quantity FROM inventory_stockcount WHERE stock_level_id = level.id
            ORDER BY counted_at DESC, idempotency_key COLLATE "C" DESC LIMIT 1) AS base ON true
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(delta), 0) AS since FROM inventory_movement movement
            WHERE movement.stock_level_id = level.id AND movement.account = 'on_hand' AND movement.cause <> 'count'
                AND movement.effective_at > base.counted_at) AS moved
        WHERE level.counted_at IS DISTINCT FROM base.counted_at OR level.on_hand <> base.quantity + moved.since
        """,
    ),
    Check(
        "registers_are_applied",
        "what an order line has done to stock is what its register says, and its allocations and places add up to it",
        """
        SELECT line.merchant_id AS merchant, line.id AS order_line, line.desired_committed, line.applied_committed,
            line.desired_on_hand, line.applied_on_hand
        FROM sync_orderline line
        WHERE (line.waiting_for = '' AND (line.desired_committed <> line.applied_committed
                OR line.desired_on_hand <> line.applied_on_hand))
            OR EXISTS (
                SELECT 1 FROM sync_allocation allocation
                JOIN inventory_stocklevel level ON level.id = allocation.stock_level_id
                WHERE allocation.order_line_id = line.id GROUP BY level.sku_id
                HAVING sum(allocation.committed) <> line.applied_committed * max(allocation.units_per_line_unit)
                    OR sum(allocation.on_hand) <> line.applied_on_hand * max(allocation.units_per_line_unit))
            OR EXISTS (
                SELECT 1 FROM sync_placement placed WHERE placed.order_line_id = line.id
                HAVING sum(placed.committed) <> line.applied_committed OR sum(placed.on_hand) <> line.applied_on_hand)
        """,
    ),
    Check(
        "committed_units_have_orders",
        "the committed units of a stock level are those its order lines and holds sold without an order have taken",
        """
        SELECT level.merchant_id AS merchant, level.id AS stock_level, level.committed,
            coalesce(allocated.units, 0) + coalesce(sold.units, 0) AS accounted
        FROM inventory_stocklevel level
        LEFT JOIN (SELECT stock_level_id AS id, sum(committed) AS units FROM sync_allocation GROUP BY 1)
            AS allocated USING (id)
        LEFT JOIN (
            SELECT part.stock_level_id AS id, sum(part.quantity) AS units FROM inventory_hold hold
            JOIN inventory_holdpart part ON part.hold_id = hold.id
            WHERE hold.state = 'committed' AND hold.order_channel_id IS NULL GROUP BY 1)
            AS sold USING (id)
        WHERE level.committed <> coalesce(allocated.units, 0) + coalesce(sold.units, 0)
        """,
    ),
    Check(
        "own_store_effects_match_orders",
        "the order effects of a listing level are what the orders of its store have taken",
        """
        SELECT level.merchant_id AS merchant, level.id AS listing_level, level.order_effects,
            coalesce(taken.units, 0) AS orders
        FROM channels_listinglevel level
        LEFT JOIN (
            SELECT id, sum(units) AS units FROM (
                SELECT listing_level_id AS id, applied_on_hand - applied_committed AS units FROM sync_orderline line
                WHERE NOT EXISTS (SELECT 1 FROM sync_placement placed WHERE placed.order_line_id = line.id)
                UNION ALL
                SELECT listing_level_id, on_hand - committed FROM sync_placement) AS effect
            GROUP BY 1)
            AS taken USING (id)
        WHERE level.order_effects <> coalesce(taken.units, 0)
        """,
    ),
    Check(
        "pushes_add_up",
        "what was pushed to a listing level is the sum of its confirmed pushes",
        """
        SELECT level.merchant_id AS merchant, level.id AS listing_level, level.pushed,
            coalesce(sum(push.to_quantity - push.from_quantity), 0) AS confirmed
        FROM channels_listinglevel level
        LEFT JOIN channels_push push ON push.listing_level_id = level.id AND push.state = 'confirmed'
        GROUP BY level.id HAVING level.pushed <> coalesce(sum(push.to_quantity - push.from_quantity), 0)
        """,
    ),
    Check(
        "holds_are_accounted_for",
        "the held units of a stock level are those of holds, of levels being checked and of questions not answered yet",
        """
        SELECT level.merchant_id AS merchant, level.id AS stock_level, level.held,
            coalesce(checked.units, 0) + coalesce(asked.units, 0) + coalesce(reserved.units, 0) AS accounted
        FROM inventory_stocklevel level
        LEFT JOIN (SELECT held_at_id AS id, sum(held) AS units FROM channels_listinglevel WHERE held > 0 GROUP BY 1)
            AS checked USING (id)
        LEFT JOIN (SELECT held_at_id AS id, sum(held) AS units FROM sync_drift WHERE action = 'asked' GROUP BY 1)
            AS asked USING (id)
        LEFT JOIN (
            SELECT part.stock_level_id AS id, sum(part.quantity) AS units FROM inventory_hold hold
            JOIN inventory_holdpart part ON part.hold_id = hold.id WHERE hold.ended_at IS NULL GROUP BY 1)
            AS reserved USING (id)
        WHERE level.held <> coalesce(checked.units, 0) + coalesce(asked.units, 0) + coalesce(reserved.units, 0)
        """,
    ),
    Check(
        "holds_end_with_what_they_wait_for",
        "a hold committed to an order ends once a line of its SKU is booked or nothing of the order is open",
        """
        SELECT hold.merchant_id AS merchant, hold.id AS hold, hold.order_id, hold.ended_at FROM inventory_hold hold
        WHERE hold.state = 'committed' AND hold.order_channel_id IS NOT NULL AND hold.ended_at IS NOT NULL
            AND NOT EXISTS (
                SELECT 1 FROM sync_orderline line
                WHERE line.channel_id = hold.order_channel_id AND line.order_id = hold.order_id
                    AND line.sku_id = hold.sku_id AND line.postings > 0)
            AND (NOT EXISTS (
                    SELECT 1 FROM sync_orderline line
                    WHERE line.channel_id = hold.order_channel_id AND line.order_id = hold.order_id
                        AND (line.facts ? 'says' OR line.facts ? 'deleted'))
                OR EXISTS (
                    SELECT 1 FROM sync_orderline line
                    WHERE line.channel_id = hold.order_channel_id AND line.order_id = hold.order_id
                        -- One that an edit added later is no reason.
                        AND line.waiting_for <> '' AND line.postings = 0 AND line.created_at < hold.ended_at))
        """,
    ),
    Check(
        "shortages_are_declared",
        "every unit sold beyond stock is an open shortage, and no other is",
        """
        SELECT level.merchant_id AS merchant, level.id AS stock_level, level.committed - level.on_hand AS lacking,
            coalesce(sum(shortage.quantity - shortage.quantity_covered), 0) AS declared
        FROM inventory_stocklevel level
        LEFT JOIN inventory_shortage shortage ON shortage.stock_level_id = level.id AND shortage.covered_at IS NULL
        GROUP BY level.id
        HAVING greatest(0, level.committed - level.on_hand) <> coalesce(sum(shortage.quantity - shortage.quantity_covered), 0)
        """,
    ),
    Check(
        "level_webhooks_move_no_stock",
        "no movement was caused by a level webhook",
        """
        SELECT movement.merchant_id AS merchant, movement.id AS movement, event.id AS event, event.topic
        FROM inventory_movement movement
        JOIN channels_inboxevent event USING (correlation_id) WHERE event.topic LIKE 'inventory_levels/%%'
        """,
    ),
    Check(
        "no_reading_raises_the_pool",
        "what a store shows adds units to the pool only where a person has said so: in answer to this very difference, or "
        "by telling us to take over gains of its channel",
        """
        SELECT movement.merchant_id AS merchant, movement.id AS movement, movement.cause, movement.delta
        FROM inventory_movement movement
        WHERE movement.account = 'on_hand' AND movement.delta > 0 AND movement.cause IN ('channel_edit', 'check')
            AND NOT EXISTS (
                SELECT 1 FROM sync_drift drift JOIN channels_channel channel ON channel.id = drift.channel_id
                WHERE drift.merchant_id = movement.merchant_id AND drift.correlation_id = movement.correlation_id
                    AND drift.action = 'adopted' AND drift.actual - drift.expected = movement.delta
                    AND (
                        (drift.decided_at IS NOT NULL
                            AND movement.idempotency_key LIKE 'answer:' || drift.id || ':%%')
                        OR (NOT drift.is_ambiguous AND movement.idempotency_key
                            LIKE 'check:' || drift.correlation_id || ':' || drift.listing_level_id || ':%%'
                            AND (channel.on_gain = 'adopt' OR EXISTS (
                                -- It was so at that time, and was changed afterwards.
                                SELECT 1 FROM merchants_auditevent event
                                WHERE event.object_type = 'channels.channel' AND event.object_id = channel.id::text
                                    AND event.at >= movement.created_at AND event.before ->> 'on_gain' = 'adopt')))))
        """,
    ),
    Check(
        "split_promises_no_unit_twice",
        "where units are split, holds and the stores that draw on the same warehouses may not take more of a SKU than is "
        "there, and no store is raised before the others have let go of enough",
        # Of a SKU with a mark the numbers are about to be computed anew; what a suspect level or a silent store shows is out
        # of our hands. Unions of sets that overlap are left to the proofs of `locations.publishing`.
        """
        WITH RECURSIVE shelf AS (
            SELECT member.merchant_id, member.group_id, level.id, listing.sku_id,
                -- What a store in shadow mode should show is said to nobody: no more than it shows counts.
                CASE WHEN channel.is_shadow THEN least(coalesce(level.desired, 0), greatest(0, level.shown, level.reported))
                    ELSE coalesce(level.desired, 0) END AS desired,
                greatest(0, level.shown, level.reported) + greatest(0, push.to_quantity - push.from_quantity)
                    + CASE WHEN level.doubtful_until > now() THEN level.doubtful_by ELSE 0 END AS ceiling,
                -- What is held shows what it did, until somebody confirms the change.
                level.suspect_since IS NOT NULL OR EXISTS (
                    SELECT 1 FROM sync_heldlevel held WHERE held.listing_level_id = level.id
                        AND held.state IN ('watched', 'held')
                ) AS is_suspect,
                channel.state <> 'active' OR channel.is_shadow OR channel.failures >= 2 AS is_silent,
                ARRAY(SELECT warehouse_id FROM locations_mapping mapping
                    WHERE mapping.store_location_id = member.store_location_id ORDER BY 1) AS warehouses
            FROM locations_locationgroup shelf_group
            JOIN locations_grouplocation member ON member.group_id = shelf_group.id
            JOIN channels_listinglevel level ON level.store_location_id = member.store_location_id AND level.is_stocked
            JOIN channels_listing listing ON listing.id = level.listing_id AND listing.deleted_at IS NULL
                AND listing.sku_id IS NOT NULL AND listing.is_tracked AND NOT listing.is_store_bundle
            JOIN channels_channel channel ON channel.id = level.channel_id
            LEFT JOIN channels_push push ON push.listing_level_id = level.id AND push.state = 'open'
            WHERE shelf_group.policy = 'split'
        ), part (listed, sku_id, units) AS (
            SELECT DISTINCT sku_id, sku_id, 1 FROM shelf
            UNION ALL
            SELECT part.listed, line.component_id, part.units * line.quantity FROM part
            JOIN inventory_bomline line ON line.bundle_id = part.sku_id
        ), promised AS (
            SELECT shelf.merchant_id, shelf.group_id, part.sku_id, drawn.warehouses, sum(shelf.desired * part.units) AS told,
                sum(greatest(shelf.desired, shelf.ceiling) * part.units) AS may_sell,
                bool_or(shelf.desired > shelf.ceiling) AS is_raised
            FROM shelf JOIN part ON part.listed = shelf.sku_id
            JOIN (SELECT DISTINCT group_id, warehouses FROM shelf WHERE warehouses <> '{}') AS drawn
                ON drawn.group_id = shelf.group_id AND shelf.warehouses <@ drawn.warehouses
            WHERE shelf.warehouses <> '{}'
            GROUP BY shelf.merchant_id, shelf.group_id, part.sku_id, drawn.warehouses
            HAVING NOT bool_or(shelf.is_suspect OR (shelf.is_silent AND shelf.ceiling > shelf.desired)
                OR EXISTS (SELECT 1 FROM sync_dirtysku mark WHERE mark.sku_id IN (shelf.sku_id, part.sku_id)))
        )
        SELECT promised.merchant_id AS merchant, promised.group_id AS location_group, promised.sku_id AS sku, told, may_sell,
            held.quota, held.available
        FROM promised
        JOIN inventory_sku sku ON sku.id = promised.sku_id AND sku.kind <> 'bundle'
        CROSS JOIN LATERAL (
            SELECT greatest(0, coalesce(sum(CASE WHEN warehouse.is_active THEN level.available
                    ELSE least(0, level.available) END), 0)) AS available, coalesce(sum(level.quota), 0) AS quota
            FROM inventory_stocklevel level JOIN inventory_warehouse warehouse ON warehouse.id = level.warehouse_id
            WHERE level.sku_id = promised.sku_id AND level.warehouse_id = ANY(promised.warehouses)) AS held
        WHERE CASE WHEN is_raised THEN may_sell ELSE told END + held.quota > held.available
        """,
    ),
    Check(
        "open_pushes_have_an_open_batch",
        "a push is open exactly while its batch has no final answer",
        """
        SELECT push.merchant_id AS merchant, push.id AS push, push.state, batch.state AS batch_state FROM channels_push push
        JOIN channels_pushbatch batch ON batch.id = push.batch_id
        WHERE push.state = 'open' AND batch.state = 'done' OR push.state <> 'open' AND batch.state IN ('intent', 'unknown')
        """,
    ),
)

#: Liveness: once faults have ended and two reconciliation passes are over.
WHEN_QUIET = (
    Check(
        "inbox_is_settled",
        "no acknowledged event is waiting",
        "SELECT id AS event, topic, attempts, reason FROM channels_inboxevent WHERE state = 'pending'",
    ),
    Check(
        "nothing_is_dead",
        "no event ended in the dead letters, but for those that somebody has dismissed",
        """
        SELECT id AS event, topic, reason FROM channels_inboxevent event WHERE state = 'dead' AND NOT EXISTS (
            SELECT 1 FROM sync_deadletter letter
            WHERE letter.event_id = event.id AND letter.ended_at IS NULL AND letter.state = 'dismissed')
        """,
    ),
    Check(
        "the_dead_have_letters",
        "every event that ended dead has a dead letter that lives",
        """
        SELECT event.merchant_id AS merchant, event.id AS event, event.reason FROM channels_inboxevent event
        WHERE event.state = 'dead' AND NOT EXISTS (
            SELECT 1 FROM sync_deadletter letter WHERE letter.event_id = event.id AND letter.ended_at IS NULL)
        """,
    ),
    Check("all_is_published", "no SKU is dirty", "SELECT sku_id, caused_at FROM sync_dirtysku"),
    Check(
        "no_level_is_suspect",
        "no listing level waits to be read or explained",
        """
        SELECT id AS listing_level, suspect_reason, suspect_since, sample, reported FROM channels_listinglevel
        WHERE suspect_since IS NOT NULL
        """,
    ),
    Check(
        "every_push_is_answered",
        "no push is open",
        "SELECT id AS push, listing_level_id, batch_id, from_quantity, to_quantity FROM channels_push WHERE state = 'open'",
    ),
    Check(
        "no_hold_waits_in_vain",
        "no hold waits for an order whose line of its SKU is booked, or of which nothing is open",
        """
        SELECT hold.id AS hold, hold.order_id, hold.committed_at FROM inventory_hold hold
        JOIN LATERAL (
            SELECT bool_or(line.sku_id = hold.sku_id AND line.postings > 0) AS is_booked,
                bool_or(line.facts ? 'says' OR line.facts ? 'deleted') AND bool_and(line.waiting_for = '') AS is_settled
            FROM sync_orderline line
            WHERE line.channel_id = hold.order_channel_id AND line.order_id = hold.order_id) AS known ON true
        WHERE hold.state = 'committed' AND hold.ended_at IS NULL AND (known.is_booked OR known.is_settled)
        """,
    ),
    Check(
        "reported_is_desired",
        "every published level of an active channel shows what it should",
        """
        SELECT level.id AS listing_level, level.reported, level.desired, level.last_error FROM channels_listinglevel level
        JOIN channels_channel channel ON channel.id = level.channel_id AND channel.state = 'active' AND NOT channel.is_shadow
        WHERE level.desired IS NOT NULL AND level.desired <> level.reported
        """,
    ),
)


def violations(*, when_quiet: bool) -> Iterator[Violation]:
    """Run the checks; those that only hold in quiet are asked when told so."""
    for check in (*ALWAYS, *(WHEN_QUIET if when_quiet else ())):
        rows = offenders(check)
        if rows:
            yield Violation(check.name, check.says, rows)


def offenders(check: Check) -> tuple[dict[str, Any], ...]:
    """The first rows that break it."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM ({check.sql}) AS offender LIMIT %s", [SHOWN_ROWS])
        names = [column.name for column in cursor.description]
        return tuple(dict(zip(names, row, strict=True)) for row in cursor.fetchall())


def channels_left_out() -> list[dict[str, str]]:
    """The channels that are not active: what they show is out of our hands, and not compared with anything."""
    return [
        {"channel": channel.name, "state": channel.state, "reason": channel.state_reason}
        for channel in Channel.objects.exclude(state=ChannelState.ACTIVE).order_by("pk")
    ]


def stores_that_differ() -> Iterator[Violation]:
    """Ask every active channel what it really shows, and compare. For quiet times: nothing may be under way."""
    for channel in Channel.objects.filter(state=ChannelState.ACTIVE).order_by("pk"):
        try:
            rows = list(_differences(channel))
        except protocol.ChannelError as error:
            rows = [{"channel": channel.name, "error": str(error)}]
        if rows:
            yield Violation(SHOWN, f"{channel} shows what is reported of it", tuple(rows[:SHOWN_ROWS]))


def practice_books_that_differ() -> Iterator[Violation]:
    """Compare ours with the books of the practice stores, which know what really happened."""
    channels = list(Channel.objects.filter(kind=ChannelKind.SANDBOX, state=ChannelState.ACTIVE).order_by("pk"))
    if not channels:
        return
    stores = PracticeStores(sandbox_url())
    unstored: list[dict[str, Any]] = []
    unknown: list[dict[str, Any]] = []
    for channel in channels:
        handle = channel.account.split(".")[0]
        acknowledged = stores.stats(handle).get("webhooks_delivered", 0)
        [(stored,)] = sql.rows(
            """
            SELECT coalesce(sum(1 + duplicates), 0) FROM channels_inboxevent
            WHERE channel_id = %s AND topic <> 'orders/polled'
            """,
            [channel.pk],
        )
        if stored < acknowledged:
            unstored.append({"channel": channel.name, "acknowledged": acknowledged, "stored": stored})
        unknown += _sales_that_differ(channel, stores.net_units_sold(handle))
    if unstored:
        yield Violation(ACKNOWLEDGED, "every webhook answered with 200 is in the inbox", tuple(unstored[:SHOWN_ROWS]))
    if unknown:
        yield Violation(SALES_KNOWN, "every unit the stores sold is in the registers", tuple(unknown[:SHOWN_ROWS]))


def _sales_that_differ(channel: Channel, sold: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for item, known in sql.rows(
        """
        SELECT listing.inventory_item_id, -sum(level.order_effects) FROM channels_listinglevel level
        JOIN channels_listing listing ON listing.id = level.listing_id AND listing.sku_id IS NOT NULL
        WHERE level.channel_id = %s GROUP BY 1
        """,
        [channel.pk],
    ):
        if sold.get(item, 0) != known:
            yield {"channel": channel.name, "inventory_item": item, "sold": sold.get(item, 0), "known": known}


def _differences(channel: Channel) -> Iterator[dict[str, Any]]:
    connector = connector_for(channel)
    levels = {
        (item, location): (level, reported)
        for level, item, location, reported in sql.rows(
            """
            SELECT level.id, listing.inventory_item_id, location.remote_id,
                CASE WHEN level.is_stocked THEN level.reported END
            FROM channels_listinglevel level
            JOIN channels_listing listing ON listing.id = level.listing_id AND listing.sku_id IS NOT NULL
            JOIN channels_storelocation location ON location.id = level.store_location_id
            WHERE level.channel_id = %s AND listing.deleted_at IS NULL
            """,
            [channel.pk],
        )
    }
    items = sorted({item for item, _ in levels})
    step = connector.capabilities.levels_per_read
    shown: dict[tuple[str, str], int | None] = {}
    for start in range(0, len(items), step):
        for state in _read(connector, items[start : start + step]):
            shown[state.inventory_item_id, state.location_id] = state.available if state.is_stocked else None
    for place, (level, reported) in levels.items():
        # One that the store says nothing of is not stocked there, whatever we believe.
        if shown.get(place) != reported:
            yield {
                "channel": channel.name,
                "listing_level": level,
                "shown": shown.get(place),
                "reported": reported,
            }


def _read(connector: protocol.Connector, items: Sequence[str]) -> tuple[protocol.LevelState, ...]:
    """Read levels, waiting out the channel's budget."""
    import time

    for _ in range(60):
        try:
            return connector.read_levels(items)
        except protocol.Throttled as error:
            time.sleep(error.retry_after or 1.0)
    raise protocol.Unavailable("the channel kept asking to wait for a minute")
