"""Shadow mode: everything is computed and nothing is written; what would have been is compared with what the store shows.

The mode is a flag beside the channel's state: the state says whether the channel is read, the flag that it is not
written to. So it outlives a pause and a new authorization. To the others a shadow store is one that goes on showing what
it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import structlog
from django.db import transaction

from channels import protocol, states
from channels.models import Channel, ChannelState
from locations.publishing import most_specific, published
from merchants import trail
from merchants.models import ApiKey, User
from sync import bigruns, blast, comparison, live
from sync.blast import Run
from sync.comparison import Compared, Match, Reason
from sync.models import ShadowReport
from sync.ports import Engine
from sync.tables.pushing import CLAIM_LOCK
from sync.tables.stock import load_bundles, lock_level_rows
from synctec.lib import sql

log = structlog.get_logger(__name__)

#: Levels noted in one transaction.
NOTE_ROWS = 500
#: A level whose intended write is in the log is looked at again after so long, unless its number changes before.
LOOK_AGAIN = timedelta(minutes=10)
#: Numbers computed within so long are one row of the log.
COALESCE = timedelta(minutes=1)
KEEP_DAYS = 30
#: Of a report, so many differences are kept; the counts are of all.
REPORT_ROWS_MAX = 5_000


class CannotSwitch(Exception):
    """The channel cannot enter or leave shadow mode now. The text says why and what to do."""


# --- in and out -----------------------------------------------------------------------------------------------------


@transaction.atomic
def enter(*, channel: Channel, user: User | None, api_key: ApiKey | None = None, reason: str = "") -> None:
    """Write nothing to the channel from now on. What is on its way without an answer is settled by reading the store.

    Raises:
        CannotSwitch: it is in shadow mode already, or uninstalled.
    """
    # No batch is opened meanwhile; one that is open after this has begun before.
    sql.rows("SELECT pg_advisory_xact_lock(%s, %s)", [CLAIM_LOCK, channel.pk % 2**31])
    # In the order in which an answer is committed: batch, channel, levels.
    levels = _take_over_open_writes(channel.pk)
    stored = Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
    if stored.is_shadow:
        raise CannotSwitch(f"{stored} is in shadow mode already.")
    if stored.state == ChannelState.UNINSTALLED:
        raise CannotSwitch(f"The app was removed from {stored}: connect it again first.")
    sql.execute("UPDATE channels_channel SET is_shadow = true, shadow_since = now() WHERE id = %s", [stored.pk])
    if levels:
        lock_level_rows(levels)
        live.engine().books.suspect(levels, "outcome of a write unknown", timedelta(0))
    bigruns.end(stored.pk, "shadow mode was switched on: nothing is written")
    channel.refresh_from_db()
    states.tell_changed(channel)
    _record(
        channel,
        "channel.enter_shadow",
        user,
        api_key,
        reason,
        before={"is_shadow": False},
        after={"is_shadow": True},
    )


def _take_over_open_writes(channel_id: int) -> list[int]:
    """Nobody sends them again, and whoever has one in hand has nothing to say any more: the fence has moved. Returns the
    levels that only their store can tell of.
    """
    found = sql.rows(
        """
        UPDATE channels_pushbatch
        SET state = 'unresolved', error = 'shadow mode was switched on', next_attempt_at = NULL,
            answered_at = clock_timestamp(), lease_token = nextval('channels_lease_token')
        WHERE channel_id = %s AND state IN ('intent', 'unknown') RETURNING id
        """,
        [channel_id],
    )
    open_pushes = sql.rows(
        "SELECT listing_level_id FROM channels_push WHERE batch_id = ANY(%s::uuid[]) AND state = 'open'",
        [[batch for (batch,) in found]],
    )
    return [level for (level,) in open_pushes]


class FirstPushes(NamedTuple):
    """What the channel would be told first if it went live now."""

    writes: int
    to_zero: int
    run: Run
    is_big: bool
    rows: tuple[tuple[int, str, str, str, int, int], ...]  # (level, SKU, title, place, shows, would show)


def first_pushes(channel: Channel, *, limit: int) -> FirstPushes:
    """The writes that going live would begin with, the greatest changes first."""
    [(count, to_zero, zeroed, changed, of_levels)] = sql.rows(
        f"""
        SELECT count(*) FILTER (WHERE is_due), count(*) FILTER (WHERE is_due AND desired = 0 AND shown > 0),
            count(*) FILTER (WHERE is_due AND desired = 0 AND shown > 0),
            count(*) FILTER (WHERE is_due AND shown > 0 AND (desired = 0 OR 2 * abs(desired - shown) > shown)), count(*)
        FROM ({_PUBLISHED}) level
        """,  # noqa: S608  # a constant of this module
        [channel.pk],
    )
    run = Run(zeroed, changed, of_levels)
    terms = blast.Terms(channel.big_run_levels, channel.big_run_zero_percent, channel.big_run_change_percent)
    rows = sql.rows(
        f"""
        SELECT id, code, title, place, shown, desired FROM ({_PUBLISHED}) level WHERE is_due
        ORDER BY abs(desired - shown) DESC, id LIMIT %s
        """,  # noqa: S608  # a constant of this module
        [channel.pk, limit],
    )
    return FirstPushes(count, to_zero, run, channel.holds_big_runs and blast.is_big(run, terms), tuple(rows))


#: The levels that a channel publishes, and whether a claim (`sync.tables.pushing`) would take them first of all.
_PUBLISHED = """
    SELECT level.id, sku.code, listing.title, location.name AS place, level.shown, level.desired,
        level.is_out_of_sync AND (level.desired < level.shown OR coalesce(level.doubtful_by, 0) = 0)
            AND (level.suspect_since IS NULL OR (level.desired < level.shown
                AND (level.since_sample IS NOT NULL OR level.suspect_available IS NOT NULL))) AS is_due
    FROM channels_listinglevel level
    JOIN channels_listing listing ON listing.id = level.listing_id
    JOIN channels_storelocation location ON location.id = level.store_location_id
    JOIN inventory_sku sku ON sku.id = listing.sku_id
    WHERE level.channel_id = %s AND level.is_stocked AND listing.is_tracked AND NOT listing.is_store_bundle
        AND listing.deleted_at IS NULL
"""


@transaction.atomic
def go_live(
    *, channel: Channel, user: User | None, api_key: ApiKey | None = None, reason: str, expected: int
) -> FirstPushes:
    """Write to the channel from now on. `expected` is how many first writes the person was shown and has confirmed.

    Raises:
        CannotSwitch: it is not in shadow mode, or by now it would be told so much more or less that it should be looked
        at again.
    """
    sql.rows("SELECT pg_advisory_xact_lock(%s, %s)", [CLAIM_LOCK, channel.pk % 2**31])
    stored = Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
    if not stored.is_shadow:
        raise CannotSwitch(f"{stored} is not in shadow mode.")
    first = first_pushes(stored, limit=0)
    if abs(first.writes - expected) > max(5, expected // 10):
        raise CannotSwitch(f"{first.writes} writes would be made first by now, not {expected}: look at them again.")
    sql.execute("UPDATE channels_channel SET is_shadow = false, shadow_since = NULL WHERE id = %s", [stored.pk])
    sql.execute("UPDATE sync_shadowwrite SET ended_at = now() WHERE channel_id = %s AND ended_at IS NULL", [stored.pk])
    _confirm_first_run(stored, user, reason)
    _set_free(stored.pk)
    channel.refresh_from_db()
    states.tell_changed(channel)
    _record(
        channel,
        "channel.go_live",
        user,
        api_key,
        reason,
        before={"is_shadow": True},
        after={"is_shadow": False, "first_writes": first.writes, "to_zero": first.to_zero},
    )
    return first


def _confirm_first_run(channel: Channel, user: User | None, reason: str) -> None:
    """What was shown and confirmed is not held once more."""
    big = sql.rows(
        f"""
        SELECT id, shown, desired FROM ({_PUBLISHED}) level
        WHERE is_due AND shown > 0 AND (desired = 0 OR 2 * abs(desired - shown) > shown)
        """,  # noqa: S608  # a constant of this module
        [channel.pk],
    )
    bigruns.note_confirmed(channel, [bigruns.Change(*row) for row in big], why="Going live", user=user, reason=reason)


def _set_free(channel_id: int) -> None:
    """Have the levels pushed at once. Where units are divided, raises were never granted: publishing does, or not."""
    lock_level_rows(
        level for (level,) in sql.rows("SELECT id FROM channels_listinglevel WHERE channel_id = %s", [channel_id])
    )
    sql.execute(
        """
        UPDATE channels_listinglevel level
        SET next_push_at = now(), push_failures = 0,
            desired = CASE WHEN shelf_group.policy <> 'shared' THEN least(level.desired, greatest(0, level.shown))
                ELSE level.desired END
        FROM channels_listinglevel known
        LEFT JOIN locations_grouplocation member ON member.store_location_id = known.store_location_id
        LEFT JOIN locations_locationgroup shelf_group ON shelf_group.id = member.group_id
        WHERE level.id = known.id AND known.channel_id = %s AND level.is_out_of_sync
        """,
        [channel_id],
    )


def _record(
    channel: Channel,
    action: str,
    user: User | None,
    api_key: ApiKey | None,
    reason: str,
    *,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> None:
    trail.record(
        merchant_id=channel.merchant_id,
        action=action,
        subject=channel,
        user=user,
        api_key=api_key,
        before=before,
        after=after,
        reason=reason.strip(),
    )


# --- the log of intended writes -------------------------------------------------------------------------------------


def note(channel_id: int) -> int:
    """Log what would be written to the channel now, as a claim would; returns how many levels that concerns."""
    noted = 0
    while True:
        rows = _note_some(channel_id)
        noted += rows
        if rows < NOTE_ROWS:
            return noted


@transaction.atomic
def _note_some(channel_id: int) -> int:
    picked = sql.rows(
        """
        SELECT level.id, level.shown, level.desired
        FROM channels_listinglevel level
        JOIN channels_channel channel ON channel.id = level.channel_id
        JOIN channels_listing listing ON listing.id = level.listing_id
        WHERE level.channel_id = %s AND channel.is_shadow AND channel.state = 'active' AND level.is_out_of_sync
            AND level.next_push_at <= now() AND level.is_stocked AND listing.is_tracked AND NOT listing.is_store_bundle
            AND listing.deleted_at IS NULL
        ORDER BY level.id LIMIT %s FOR NO KEY UPDATE OF level SKIP LOCKED
        """,
        [channel_id, NOTE_ROWS],
    )
    if not picked:
        return 0
    levels, shown, desired = ([row[place] for row in picked] for place in range(3))
    sql.execute(
        "UPDATE channels_listinglevel SET next_push_at = now() + %s WHERE id = ANY(%s::bigint[])", [LOOK_AGAIN, levels]
    )
    sql.execute(
        """
        UPDATE sync_shadowwrite written SET ended_at = now()
        FROM unnest(%s::bigint[], %s::int[], %s::int[]) AS told (id, shown, desired)
        WHERE written.listing_level_id = told.id AND written.ended_at IS NULL AND written.created_at <= now() - %s
            AND (written.from_quantity <> told.shown OR written.to_quantity <> told.desired)
        """,
        [levels, shown, desired, COALESCE],
    )
    sql.execute(
        """
        INSERT INTO sync_shadowwrite AS written (merchant_id, channel_id, listing_level_id, from_quantity, to_quantity,
            correlation_ids, caused_at)
        SELECT level.merchant_id, level.channel_id, level.id, told.shown, told.desired, level.waiting_correlation_ids,
            level.waiting_since
        FROM unnest(%s::bigint[], %s::int[], %s::int[]) AS told (id, shown, desired)
        JOIN channels_listinglevel level ON level.id = told.id
        ON CONFLICT (listing_level_id) WHERE ended_at IS NULL DO UPDATE
        SET to_quantity = excluded.to_quantity, changes = written.changes + 1, updated_at = now(),
            correlation_ids = excluded.correlation_ids
        WHERE written.to_quantity <> excluded.to_quantity
        """,
        [levels, shown, desired],
    )
    return len(picked)


def forget(*, now: datetime) -> int:
    """Delete intended writes that ended longer ago than they are kept; returns how many."""
    return sql.execute(
        """
        DELETE FROM sync_shadowwrite
        WHERE ended_at IS NOT NULL AND updated_at < %s::timestamptz - make_interval(days => %s)
        """,
        [now, KEEP_DAYS],
    )


# --- the comparison -------------------------------------------------------------------------------------------------


class _Level(NamedTuple):
    level_id: int
    listing_id: int
    item: str
    location: str
    place: str
    sku_id: int | None
    code: str
    title: str
    is_stocked: bool
    shown: int
    expected: int
    desired: int | None
    is_bundle: bool
    policy: str | None
    is_drawing: bool
    location_id: int
    waiting_since: datetime | None
    written_at: datetime | None
    suspect_since: datetime | None
    sold_at: datetime | None
    has_edits: bool


def due(*, now: datetime) -> list[int]:
    """The channels in shadow mode that were not compared today (UTC)."""
    return list(
        Channel.objects.filter(is_shadow=True, state=ChannelState.ACTIVE)
        .exclude(shadow_reports__day=now.astimezone(UTC).date())
        .order_by("pk")
        .values_list("pk", flat=True)
    )


def compare(engine: Engine, *, channel: Channel) -> ShadowReport:
    """Read every level of a channel in shadow mode and compare it with what it would be told; the day's report is replaced.

    Raises:
        CannotSwitch: the channel is not in shadow mode.
        ChannelError: the channel could not be asked to the end; the report stays as it was.
    """
    if not channel.is_shadow:
        raise CannotSwitch(f"{channel} is not in shadow mode: there is nothing to compare.")
    connector = engine.channels.connector(channel.pk)
    judged: list[tuple[Match, Reason | None]] = []
    differing: list[dict[str, Any]] = []
    after = 0
    while page := _page(channel.pk, after, connector.capabilities.levels_per_read):
        after = page[-1].listing_id
        now = engine.now()
        actual = _read(connector, page)
        keeps_back, available = _kept_back(channel, page)
        for level in page:
            compared = _compared(level, actual, keeps_back, available)
            match, reason = comparison.judge(compared, now)
            judged.append((match, reason))
            if reason is not None:
                differing.append(_row(level, compared, reason))
        _note_actual([(level.level_id, actual.get((level.item, level.location))) for level in page])
    # Only now: what is logged for the first time did not change just now.
    note(channel.pk)
    return _write_report(channel, comparison.summary(judged), differing, engine.now())


def _page(channel_id: int, after: int, items: int) -> list[_Level]:
    """The levels of the next listings: all that the store sells, mapped or not, wherever it stocks them."""
    return [
        _Level(*row)
        for row in sql.rows(
            """
            WITH listing AS (
                SELECT * FROM channels_listing
                WHERE channel_id = %s AND id > %s AND deleted_at IS NULL AND is_tracked AND NOT is_store_bundle
                    AND inventory_item_id <> ''
                ORDER BY id LIMIT %s
            )
            SELECT level.id, listing.id, listing.inventory_item_id, location.remote_id, location.name, listing.sku_id,
                coalesce(sku.code, listing.remote_sku), listing.title, level.is_stocked, level.shown, level.reported,
                level.desired, coalesce(sku.kind = 'bundle', false), shelf_group.policy,
                EXISTS (SELECT 1 FROM locations_mapping mapping WHERE mapping.store_location_id = location.id), location.id,
                level.waiting_since,
                (SELECT written.updated_at FROM sync_shadowwrite written
                    WHERE written.listing_level_id = level.id AND written.ended_at IS NULL),
                level.suspect_since, level.sold_at,
                EXISTS (SELECT 1 FROM sync_drift drift WHERE drift.listing_level_id = level.id AND drift.action <> 'explained'
                    AND drift.found_at >= channel.shadow_since)
            FROM listing
            JOIN channels_listinglevel level ON level.listing_id = listing.id
            JOIN channels_channel channel ON channel.id = level.channel_id
            JOIN channels_storelocation location ON location.id = level.store_location_id
            LEFT JOIN inventory_sku sku ON sku.id = listing.sku_id
            LEFT JOIN locations_grouplocation member ON member.store_location_id = location.id
            LEFT JOIN locations_locationgroup shelf_group ON shelf_group.id = member.group_id
            ORDER BY listing.id, level.id
            """,
            [channel_id, after, items],
        )
    ]


def _read(connector: protocol.Connector, page: Sequence[_Level]) -> dict[tuple[str, str], int | None]:
    states_read = connector.read_levels(sorted({level.item for level in page}))
    return {
        (state.inventory_item_id, state.location_id): state.available if state.is_stocked else None
        for state in states_read
    }


def _kept_back(channel: Channel, page: Sequence[_Level]) -> tuple[dict[int, int], dict[int, int]]:
    """Per level: the units that a rule keeps from being shown, and what is available to its location before."""
    books = live.engine().books
    skus = sorted({level.sku_id for level in page if level.sku_id is not None})
    parts, _ = load_bundles(channel.merchant_id, skus)
    drawn_on = books.load_warehouses({level.location_id for level in page})
    stock = books.load_stock({sku for recipe in parts.values() for sku in recipe})
    rules = books.load_rules([channel.pk], skus)
    keeps_back, available = {}, {}
    for level in page:
        if level.sku_id is None:
            continue
        recipe = parts[level.sku_id]
        units = min(
            sum(stock[sku, place].available for place in drawn_on.get(level.location_id, ()) if (sku, place) in stock)
            // quantity
            for sku, quantity in recipe.items()
        )
        rule = most_specific(
            (
                rules.get(("listing", level.listing_id, 0)),
                rules.get(("sku", channel.pk, level.sku_id)),
                rules.get(("channel", channel.pk, 0)),
            )
        )
        available[level.level_id] = max(0, units)
        keeps_back[level.level_id] = max(0, units) - published(units, rule)
    return keeps_back, available


def _compared(
    level: _Level,
    actual: Mapping[tuple[str, str], int | None],
    keeps_back: Mapping[int, int],
    available: Mapping[int, int],
) -> Compared:
    changes = [
        at for at in (level.waiting_since, level.written_at, level.suspect_since, level.sold_at) if at is not None
    ]
    return Compared(
        intended=level.desired,
        actual=actual.get((level.item, level.location)),
        available=available.get(level.level_id, 0),
        is_mapped=level.sku_id is not None and level.is_drawing,
        is_stocked=level.is_stocked,
        is_bundle=level.is_bundle,
        is_divided=level.policy not in (None, "shared"),
        keeps_back=keeps_back.get(level.level_id, 0),
        expected=level.expected,
        has_edits=level.has_edits,
        changed_at=max(changes, default=None),
    )


def _row(level: _Level, compared: Compared, reason: Reason) -> dict[str, Any]:
    return {
        "level": level.level_id,
        "sku": level.code,
        "title": level.title,
        "place": level.place,
        "intended": compared.intended,
        "actual": compared.actual,
        "reason": str(reason),
    }


def _note_actual(read: Sequence[tuple[int, int | None]]) -> None:
    """Beside what would have been written, what the store shows; where they agree by now, that is the end of it."""
    sql.execute(
        """
        UPDATE sync_shadowwrite written
        SET actual = told.actual, compared_at = now(),
            ended_at = CASE WHEN told.actual = written.to_quantity THEN now() END
        FROM unnest(%s::bigint[], %s::int[]) AS told (id, actual)
        WHERE written.listing_level_id = told.id AND written.ended_at IS NULL
        """,
        [[level for level, _ in read], [actual for _, actual in read]],
    )


def _write_report(
    channel: Channel, found: comparison.Summary, differing: list[dict[str, Any]], now: datetime
) -> ShadowReport:
    differing.sort(key=lambda row: (-abs((row["intended"] or 0) - (row["actual"] or 0)), row["level"]))
    report, _ = ShadowReport.objects.update_or_create(
        channel=channel,
        merchant_id=channel.merchant_id,
        day=now.astimezone(UTC).date(),
        defaults={
            "compared_at": now,
            "levels": found.levels,
            "exact": found.exact,
            "near": found.near,
            "reasons": found.reasons,
            "rows": differing[:REPORT_ROWS_MAX],
        },
    )
    log.info(
        "shadow.compared", channel_id=channel.pk, levels=found.levels, exact=found.exact, differing=report.differing
    )
    return report
