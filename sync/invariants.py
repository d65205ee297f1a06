"""The auditor: what must always hold, and what must hold once everything is quiet, asked of the database in SQL.

Each check returns the rows that break it, so that an alarm names its culprits. Constraints refuse most of this already;
that it is asked again, in other words, is the point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from channels import protocol
from channels.connect import connector_for
from channels.models import Channel, ChannelKind, ChannelState
from channels.origins import sandbox_url
from sync.store_books import PracticeStores
from synctec.lib import sql

#: What the books of practice stores are compared for.
ACKNOWLEDGED = "acknowledged_webhooks_are_stored"
SALES_KNOWN = "every_sale_is_known"
#: Offending rows shown per check.
SHOWN_ROWS = 10


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant: a name, what it says, and a query for rows that break it."""

    name: str
    says: str
    sql: str


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
        SELECT level.id AS stock_level, account, balance, total FROM inventory_stocklevel level
        CROSS JOIN LATERAL (
            VALUES ('on_hand', level.on_hand), ('committed', level.committed), ('held', level.held)
        ) AS held (account, balance)
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(delta), 0) AS total FROM inventory_movement movement
            WHERE movement.stock_level_id = level.id AND movement.account = held.account) AS booked
        WHERE balance <> total
        """,
    ),
    Check(
        "sequence_is_gapless",
        "the movements of a stock level are numbered 1 to n without a gap, and the level knows n",
        """
        SELECT level.id AS stock_level, level.seq, max(movement.seq) AS highest, count(movement.id) AS movements
        FROM inventory_stocklevel level LEFT JOIN inventory_movement movement ON movement.stock_level_id = level.id
        GROUP BY level.id HAVING coalesce(max(movement.seq), 0) <> level.seq OR count(movement.id) <> level.seq
        """,
    ),
    Check(
        "balance_chain_is_intact",
        "each movement's balance is the one before it of the same account plus its delta",
        """
        SELECT id AS movement, balance_after, expected FROM (
            SELECT id, balance_after, sum(delta) OVER (PARTITION BY stock_level_id, account ORDER BY seq) AS expected
            FROM inventory_movement) AS chain
        WHERE balance_after <> expected
        """,
    ),
    Check(
        "transfers_add_up",
        "the units in transit of a SKU are those that left a warehouse on a transfer and neither arrived nor came back",
        """
        SELECT sku_id AS sku, sum(moved) AS moved, sum(in_transit) AS in_transit FROM (
            SELECT level.sku_id, movement.delta AS moved, 0 AS in_transit FROM inventory_movement movement
            JOIN inventory_stocklevel level ON level.id = movement.stock_level_id
            WHERE movement.cause IN ('transfer_out', 'transfer_in', 'transfer_back')
            UNION ALL
            SELECT sku_id, 0, quantity - received - returned FROM inventory_transferline) AS units
        GROUP BY sku_id HAVING sum(moved) + sum(in_transit) <> 0
        """,
    ),
    Check(
        "counts_are_the_base",
        "a stock level knows the moment of its newest count, and on_hand is that count and what moved after it",
        """
        SELECT level.id AS stock_level, level.counted_at, level.on_hand, base.quantity + moved.since AS counted
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
        SELECT line.id AS order_line, line.desired_committed, line.applied_committed, line.desired_on_hand,
            line.applied_on_hand
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
        SELECT level.id AS stock_level, level.committed, coalesce(allocated.units, 0) + coalesce(sold.units, 0) AS accounted
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
        SELECT level.id AS listing_level, level.order_effects, coalesce(taken.units, 0) AS orders
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
        SELECT level.id AS listing_level, level.pushed, coalesce(sum(push.to_quantity - push.from_quantity), 0) AS confirmed
        FROM channels_listinglevel level
        LEFT JOIN channels_push push ON push.listing_level_id = level.id AND push.state = 'confirmed'
        GROUP BY level.id HAVING level.pushed <> coalesce(sum(push.to_quantity - push.from_quantity), 0)
        """,
    ),
    Check(
        "holds_are_accounted_for",
        "the held units of a stock level are those of holds, of levels being checked and of questions not answered yet",
        """
        SELECT level.id AS stock_level, level.held,
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
        SELECT hold.id AS hold, hold.order_id, hold.ended_at FROM inventory_hold hold
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
        SELECT level.id AS stock_level, level.available, coalesce(sum(shortage.quantity - shortage.quantity_covered), 0)
            AS declared
        FROM inventory_stocklevel level
        LEFT JOIN inventory_shortage shortage ON shortage.stock_level_id = level.id AND shortage.covered_at IS NULL
        GROUP BY level.id
        HAVING greatest(0, -level.available) <> coalesce(sum(shortage.quantity - shortage.quantity_covered), 0)
        """,
    ),
    Check(
        "level_webhooks_move_no_stock",
        "no movement was caused by a level webhook",
        """
        SELECT movement.id AS movement, event.id AS event, event.topic FROM inventory_movement movement
        JOIN channels_inboxevent event USING (correlation_id) WHERE event.topic LIKE 'inventory_levels/%%'
        """,
    ),
    Check(
        "open_pushes_have_an_open_batch",
        "a push is open exactly while its batch has no final answer",
        """
        SELECT push.id AS push, push.state, batch.state AS batch_state FROM channels_push push
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
        "no event ended in the dead letters",
        "SELECT id AS event, topic, reason FROM channels_inboxevent WHERE state = 'dead'",
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
        JOIN channels_channel channel ON channel.id = level.channel_id AND channel.state = 'active'
        WHERE level.desired IS NOT NULL AND level.desired <> level.reported
        """,
    ),
)


def violations(*, when_quiet: bool) -> Iterator[Violation]:
    """Run the checks; those that only hold in quiet are asked when told so."""
    for check in (*ALWAYS, *(WHEN_QUIET if when_quiet else ())):
        rows = _offenders(check.sql)
        if rows:
            yield Violation(check.name, check.says, rows)


def _offenders(sql: str) -> tuple[dict[str, Any], ...]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM ({sql}) AS offender LIMIT %s", [SHOWN_ROWS])
        names = [column.name for column in cursor.description]
        return tuple(dict(zip(names, row, strict=True)) for row in cursor.fetchall())


def stores_that_differ() -> Iterator[Violation]:
    """Ask every active channel what it really shows, and compare. For quiet times: nothing may be under way."""
    for channel in Channel.objects.filter(state=ChannelState.ACTIVE).order_by("pk"):
        rows = list(_differences(channel))
        if rows:
            yield Violation(
                "stores_show_what_is_reported", f"{channel} shows what is reported of it", tuple(rows[:SHOWN_ROWS])
            )


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
            SELECT level.id, listing.inventory_item_id, location.remote_id, level.reported
            FROM channels_listinglevel level
            JOIN channels_listing listing ON listing.id = level.listing_id AND listing.sku_id IS NOT NULL
            JOIN channels_storelocation location ON location.id = level.store_location_id
            WHERE level.channel_id = %s AND level.is_stocked AND listing.deleted_at IS NULL
            """,
            [channel.pk],
        )
    }
    items = sorted({item for item, _ in levels})
    step = connector.capabilities.levels_per_read
    for start in range(0, len(items), step):
        for state in _read(connector, items[start : start + step]):
            known = levels.get((state.inventory_item_id, state.location_id))
            if known is not None and state.available != known[1]:
                yield {
                    "channel": channel.name,
                    "listing_level": known[0],
                    "shown": state.available,
                    "reported": known[1],
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
