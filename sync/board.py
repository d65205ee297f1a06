"""What the live page shows: one location group as a table of SKUs and stores. Reads only.

The page asks for itself every second or two, so everything here is bounded: pages of SKUs, counts that stop
at a limit, rows found by an index. `look()` is cheap and yields a fingerprint of all that is shown; only when
that changed is the rest read (`show()`).
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection

from channels.models import Channel, ChannelState, EventState, InboxEvent
from inventory import holds
from inventory.models import SkuKind
from locations.models import LocationGroup
from sync import words

SKUS_PER_PAGE = 50
EVENTS_SHOWN = 30
#: Of so many newest events; stores echo every number we write, and those are shown as one line.
EVENTS_READ = 240
ECHO = "echo"
PAGE_MAX = 10_000
#: Counts stop here; the page then says "500+".
COUNT_LIMIT = 500
LEVELS_PER_STORE_LIMIT = 1_000
#: A level whose write failed this often in a row will not come right without somebody.
STUCK_FAILURES = 5
#: Every half minute somebody evaluates the alert rules: beat, or whoever notices that it does not.
UNWATCHED_AFTER = timedelta(minutes=5)
#: A channel that failed this often in a row is shown as not answering.
SILENT_FAILURES = 3


class Sort(enum.StrEnum):
    """In which order the SKUs are shown."""

    CODE = "code"
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class View:
    """What the person chose to see; all of it is in the page's address."""

    merchant_id: int
    group_id: int
    search: str = ""
    sort: Sort = Sort.CODE
    page: int = 1


class CellState(enum.StrEnum):
    """What can be said of a SKU in a store, the gravest last."""

    ABSENT = "absent"  # the store does not list it, or does not stock it there
    LEVEL = "level"  # shows the right number
    UNTRACKED = "untracked"  # the store does not count it
    UNMAPPED = "unmapped"  # shown, but we publish nothing there
    MOVING = "moving"  # another number is on its way
    SUSPECT = "suspect"  # being checked with the store
    STUCK = "stuck"  # the store refuses the number


_CELL_WORDS = {
    CellState.ABSENT: "Not stocked in this store",
    CellState.LEVEL: "Right",
    CellState.UNTRACKED: "The store does not count it",
    CellState.UNMAPPED: "Not published: this store location draws on no warehouse",
    CellState.MOVING: "On its way",
    CellState.SUSPECT: "Being checked with the store",
    CellState.STUCK: "The store does not take the number",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One SKU in one store."""

    state: CellState = CellState.ABSENT
    shown: int | None = None
    desired: int | None = None
    listings: int = 0
    detail: str = ""

    @property
    def title(self) -> str:
        """The state in words, for the tooltip and for those who cannot see the mark."""
        said = [_CELL_WORDS[self.state]]
        if self.state in (CellState.MOVING, CellState.STUCK):
            said.append(f"shows {self.shown}, is to show {self.desired}")
        if self.listings > 1:
            said.append(f"{self.listings} listings share this cell")
        if self.detail:
            said.append(self.detail)
        return "; ".join(said)


NO_CELL = Cell()


@dataclass(frozen=True, slots=True)
class Column:
    """One store location of the group."""

    store_location_id: int
    channel_id: int
    name: str
    place: str
    state: ChannelState
    state_reason: str
    failures: int
    buffer: str
    checked_at: datetime | None
    levels: int
    unmapped_listings: int
    warehouses: int
    is_shadow: bool = False
    holds: int = 0  # changes that wait for somebody
    raises_paused: str = ""  # why nothing is raised there; empty: raises go on

    @property
    def badge(self) -> str:
        """One or two words when something is not as usual, else nothing."""
        if self.state == ChannelState.ACTIVE:
            if self.failures >= SILENT_FAILURES:
                return "no answer"
            return "shadow" if self.is_shadow else "no raises" if self.raises_paused else ""
        return {
            ChannelState.CONNECTING: "connecting",
            ChannelState.PAUSED: "paused",
            ChannelState.NEEDS_AUTH: "authorize",
            ChannelState.UNINSTALLED: "uninstalled",
        }[self.state]

    @property
    def tone(self) -> str:
        """How grave the badge is: calm, warning or danger."""
        if self.state in (ChannelState.NEEDS_AUTH, ChannelState.UNINSTALLED):
            return "danger"
        is_amiss = self.failures >= SILENT_FAILURES or (self.raises_paused and not self.is_shadow)
        return "warning" if self.state == ChannelState.ACTIVE and is_amiss else "calm"


@dataclass(frozen=True, slots=True)
class SkuLine:
    """One SKU and the group's pool of it, None without stock levels. A bundle has what its parts make."""

    sku_id: int
    code: str
    title: str
    kind: SkuKind
    on_hand: int | None
    committed: int | None
    held: int | None
    available: int | None
    changed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    sku: SkuLine
    cells: tuple[Cell, ...]
    latency: timedelta | None

    @property
    def latency_words(self) -> str:
        return "" if self.latency is None else words.duration(self.latency)

    @property
    def is_slow(self) -> bool:
        """Above the second we promise."""
        return self.latency is not None and self.latency > timedelta(seconds=1)

    @property
    def is_bundle(self) -> bool:
        return self.sku.kind == SkuKind.BUNDLE


@dataclass(frozen=True, slots=True)
class Counts:
    """What is unfinished or needs somebody, each counted up to `COUNT_LIMIT`."""

    moving: int = 0
    suspect: int = 0
    stuck: int = 0
    pending: int = 0
    unpublished: int = 0
    dead: int = 0
    waiting_lines: int = 0
    waiting_holds: int = 0
    shortages: int = 0
    alerts: int = 0
    critical_alerts: int = 0
    failing_targets: int = 0
    #: Nobody has evaluated the alert rules for minutes.
    is_unwatched: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """Something that does not come right by itself, and which admin list shows it."""

    tone: str
    text: str
    admin_page: str
    query: str = ""
    #: A page of our own instead, by its name.
    page: str = ""
    #: What there is to press about one row of the admin's list, and its number, instead of the list.
    act: str = "changelist"
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The one sentence above the table."""

    tone: str  # right, moving, needs
    text: str


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event of the inbox, or a run of `echoes`, of which it is the newest."""

    event_id: int
    correlation_id: str
    received_at: datetime
    store: str
    topic: str
    state: EventState
    reason: str
    duplicates: int
    echoes: int = 0


@dataclass(frozen=True, slots=True)
class Glance:
    """The cheap half of the board, and the fingerprint of all of it."""

    lines: tuple[SkuLine, ...]
    has_next: bool
    counts: Counts
    fingerprint: str
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Board:
    """Everything the live page shows."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    has_next: bool
    counts: Counts
    verdict: Verdict
    needs: tuple[Need, ...]
    events: tuple[EventLine, ...]
    fingerprint: str
    #: Why nothing is written to any store; empty while it is.
    stopped: str = ""


def groups_of(merchant_id: int) -> tuple[LocationGroup, ...]:
    """A merchant's groups, by name."""
    return tuple(LocationGroup.objects.filter(merchant_id=merchant_id).order_by("name", "pk"))


def has_channels(merchant_id: int) -> bool:
    """Whether the merchant has connected anything yet."""
    return Channel.objects.filter(merchant_id=merchant_id).exists()


def look(view: View) -> Glance:
    """The SKUs with their pools, what is unfinished, a fingerprint of it all: 2 queries, 3 with bundles."""
    lines = _sku_lines(view)
    has_next = len(lines) > SKUS_PER_PAGE
    lines = _with_bundles(view, lines[:SKUS_PER_PAGE])
    counts, digests = _pulse(view, [line.sku_id for line in lines])
    seen = repr((view, lines, has_next, counts, digests))
    return Glance(
        lines=tuple(lines),
        has_next=has_next,
        counts=counts,
        fingerprint=hashlib.sha256(seen.encode()).hexdigest()[:32],
        stopped=digests[-1] or "",
    )


def show(view: View, glance: Glance) -> Board:
    """The whole board: three more queries."""
    columns = _columns(view)
    rows = _rows(columns, glance.lines)
    needs = _needs(glance.counts, columns)
    levels = sum(column.levels for column in columns)
    is_counted = all(column.levels < LEVELS_PER_STORE_LIMIT for column in columns)
    return Board(
        columns=columns,
        rows=rows,
        has_next=glance.has_next,
        counts=glance.counts,
        verdict=verdict(
            counts=glance.counts,
            stores=len({column.channel_id for column in columns}),
            levels=levels,
            is_counted=is_counted,
        ),
        needs=needs,
        events=newest_events(view.merchant_id),
        fingerprint=glance.fingerprint,
        stopped=glance.stopped,
    )


# --- the table ----------------------------------------------------------------------------------------------

_LOCATIONS_OF_GROUP = "SELECT store_location_id FROM locations_grouplocation WHERE group_id = %(group)s"

_SKU_LINES = f"""
    SELECT sku.id, sku.code, sku.title, sku.kind,
           pool.on_hand, pool.committed, pool.held, pool.available, pool.changed_at
      FROM inventory_sku AS sku
      LEFT JOIN LATERAL (
           SELECT sum(level.on_hand) AS on_hand, sum(level.committed) AS committed, sum(level.held) AS held,
                  sum(level.available) AS available, max(level.updated_at) AS changed_at
             FROM inventory_stocklevel AS level
            WHERE level.sku_id = sku.id
              AND level.warehouse_id IN (
                  SELECT warehouse_id FROM locations_groupwarehouse WHERE group_id = %(group)s)
           ) AS pool ON true
     WHERE sku.merchant_id = %(merchant)s
       AND (%(search)s = '' OR sku.code ILIKE %(pattern)s OR sku.title ILIKE %(pattern)s)
       AND (pool.on_hand IS NOT NULL OR EXISTS (
           SELECT 1
             FROM channels_listing AS listing
             JOIN channels_listinglevel AS level ON level.listing_id = listing.id
            WHERE listing.sku_id = sku.id AND level.store_location_id IN ({_LOCATIONS_OF_GROUP})))
"""  # noqa: S608 (only constants of this module are put in)

_ORDERS = {
    Sort.CODE: " ORDER BY sku.code",
    Sort.CHANGE: " ORDER BY pool.changed_at DESC NULLS LAST, sku.code",
}


def _sku_lines(view: View) -> list[SkuLine]:
    """One page of SKUs that the group stocks or lists, and the first of the next page, if there is one."""
    pattern = "%" + view.search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    rows = _fetch(
        _SKU_LINES + _ORDERS[view.sort] + " LIMIT %(limit)s OFFSET %(offset)s",
        {
            "merchant": view.merchant_id,
            "group": view.group_id,
            "search": view.search,
            "pattern": pattern,
            "limit": SKUS_PER_PAGE + 1,
            "offset": (view.page - 1) * SKUS_PER_PAGE,
        },
    )
    return [
        SkuLine(
            sku_id=sku_id,
            code=code,
            title=title,
            kind=SkuKind(kind),
            on_hand=on_hand,
            committed=committed,
            held=held,
            available=available,
            changed_at=changed_at,
        )
        for sku_id, code, title, kind, on_hand, committed, held, available, changed_at in rows
    ]


_BUNDLES = """
    WITH RECURSIVE part AS (
        SELECT line.bundle_id, line.component_id AS sku_id, line.quantity::bigint AS units, 1 AS depth
          FROM inventory_bomline AS line
         WHERE line.bundle_id = ANY(%(bundles)s)
         UNION ALL
        SELECT part.bundle_id, line.component_id, part.units * line.quantity, part.depth + 1
          FROM part
          JOIN inventory_bomline AS line ON line.bundle_id = part.sku_id
         WHERE part.depth < 16
    ), stocked AS (
        SELECT part.bundle_id, part.sku_id, sum(part.units)::bigint AS units
          FROM part
         WHERE NOT EXISTS (SELECT 1 FROM inventory_bomline AS deeper WHERE deeper.bundle_id = part.sku_id)
         GROUP BY part.bundle_id, part.sku_id
    ), made AS (
        SELECT stocked.bundle_id, min(coalesce(level.available, 0) / stocked.units) AS bundles,
               max(level.updated_at) AS changed_at
          FROM stocked
         CROSS JOIN locations_groupwarehouse AS member
          LEFT JOIN inventory_stocklevel AS level
                 ON level.sku_id = stocked.sku_id AND level.warehouse_id = member.warehouse_id
         WHERE member.group_id = %(group)s
         GROUP BY stocked.bundle_id, member.warehouse_id
    )
    SELECT bundle_id, sum(greatest(bundles, 0))::bigint, max(changed_at) FROM made GROUP BY bundle_id
"""


def _with_bundles(view: View, lines: list[SkuLine]) -> list[SkuLine]:
    """The lines, bundles with what their parts make; counted per warehouse, since each is packed in one."""
    bundle_ids = [line.sku_id for line in lines if line.kind == SkuKind.BUNDLE]
    if not bundle_ids:
        return lines
    made = {
        bundle_id: (available, changed_at)
        for bundle_id, available, changed_at in _fetch(_BUNDLES, {"bundles": bundle_ids, "group": view.group_id})
    }
    return [
        replace(line, available=made[line.sku_id][0], changed_at=made[line.sku_id][1]) if line.sku_id in made else line
        for line in lines
    ]


_COLUMNS = """
    SELECT location.id, channel.id, channel.name, location.name,
           channel.state, channel.state_reason, channel.failures,
           rule.buffer_units, rule.buffer_percent, run.finished_at,
           (SELECT count(*) FROM (
               SELECT 1 FROM channels_listinglevel AS level
                WHERE level.store_location_id = location.id AND level.is_stocked AND level.desired IS NOT NULL
                LIMIT %(levels_limit)s) AS counted),
           (SELECT count(*) FROM (
               SELECT 1 FROM channels_listing AS listing
                WHERE listing.channel_id = channel.id
                  AND listing.sku_id IS NULL AND listing.deleted_at IS NULL
                LIMIT %(limit)s) AS counted),
           (SELECT count(*) FROM locations_mapping AS mapping WHERE mapping.store_location_id = location.id),
           channel.is_shadow,
           (SELECT count(*) FROM sync_heldlevel AS held
             WHERE held.hold_id IN (
                   SELECT id FROM sync_pushhold AS hold WHERE hold.channel_id = channel.id AND hold.state = 'held')
               AND held.state = 'held'),
           channel.raises_paused_reason
      FROM locations_grouplocation AS member
      JOIN channels_storelocation AS location ON location.id = member.store_location_id
      JOIN channels_channel AS channel ON channel.id = location.channel_id
      LEFT JOIN locations_publishingrule AS rule
             ON rule.channel_id = channel.id AND rule.sku_id IS NULL AND rule.listing_id IS NULL
      LEFT JOIN LATERAL (
           SELECT run.finished_at FROM sync_reconcilerun AS run
            WHERE run.channel_id = channel.id AND run.state = 'done'
            ORDER BY run.id DESC LIMIT 1) AS run ON true
     WHERE member.group_id = %(group)s AND member.merchant_id = %(merchant)s
     ORDER BY channel.name, location.name, location.id
"""


def _columns(view: View) -> tuple[Column, ...]:
    """The group's store locations. The place is named only where a store has several in the group."""
    rows = _fetch(
        _COLUMNS,
        {
            "merchant": view.merchant_id,
            "group": view.group_id,
            "limit": COUNT_LIMIT,
            "levels_limit": LEVELS_PER_STORE_LIMIT,
        },
    )
    places_per_channel: dict[int, int] = {}
    for row in rows:
        places_per_channel[row[1]] = places_per_channel.get(row[1], 0) + 1
    return tuple(
        Column(
            store_location_id=location_id,
            channel_id=channel_id,
            name=name,
            place=place if places_per_channel[channel_id] > 1 else "",
            state=ChannelState(state),
            state_reason=reason,
            failures=failures,
            buffer=_buffer_words(units, percent),
            checked_at=checked_at,
            levels=levels,
            unmapped_listings=unmapped,
            warehouses=warehouses,
            is_shadow=is_shadow,
            holds=held,
            raises_paused=paused,
        )
        for (
            location_id, channel_id, name, place, state, reason, failures,
            units, percent, checked_at, levels, unmapped, warehouses, is_shadow, held, paused,
        ) in rows
    )  # fmt: skip


def _buffer_words(units: int | None, percent: Decimal | None) -> str:
    parts = [f"{percent.normalize():f} %"] if percent else []
    if units:
        parts.append(str(units))
    return " + ".join(parts)


_CELLS = """
    SELECT listing.sku_id, level.store_location_id, level.shown, level.desired, listing.is_tracked,
           level.suspect_since IS NOT NULL, level.suspect_reason, level.push_failures, level.last_error,
           push.settled_at, push.caused_at
      FROM channels_listing AS listing
      JOIN channels_listinglevel AS level ON level.listing_id = listing.id
      LEFT JOIN LATERAL (
           SELECT push.settled_at, push.caused_at FROM channels_push AS push
            WHERE push.listing_level_id = level.id AND push.state = 'confirmed'
            ORDER BY push.id DESC LIMIT 1) AS push ON true
     WHERE listing.sku_id = ANY(%(skus)s) AND listing.deleted_at IS NULL
       AND level.store_location_id = ANY(%(locations)s) AND level.is_stocked
"""


def _rows(columns: Sequence[Column], lines: Sequence[SkuLine]) -> tuple[Row, ...]:
    """The lines with a cell for every column, and how long the latest write of the SKU took."""
    cells: dict[tuple[int, int], Cell] = {}
    synced: dict[int, tuple[datetime, timedelta | None]] = {}
    location_ids = [column.store_location_id for column in columns]
    for row in _fetch(_CELLS, {"skus": [line.sku_id for line in lines], "locations": location_ids}):
        sku_id, location_id, *facts, settled_at, caused_at = row
        key = (sku_id, location_id)
        cells[key] = merge(cells.get(key), cell(*facts))
        if settled_at is not None and (sku_id not in synced or settled_at > synced[sku_id][0]):
            synced[sku_id] = (settled_at, None if caused_at is None else settled_at - caused_at)
    return tuple(
        Row(
            sku=line,
            cells=tuple(cells.get((line.sku_id, location_id), NO_CELL) for location_id in location_ids),
            latency=synced[line.sku_id][1] if line.sku_id in synced else None,
        )
        for line in lines
    )


def cell(
    shown: int,
    desired: int | None,
    is_tracked: bool,
    is_suspect: bool,
    suspect_reason: str,
    push_failures: int,
    last_error: str,
) -> Cell:
    """What the page says of one listing level. Pure."""
    detail = ""
    if not is_tracked:
        state = CellState.UNTRACKED
    elif desired is not None and desired != shown and push_failures >= STUCK_FAILURES:
        state, detail = CellState.STUCK, last_error
    elif is_suspect:
        state, detail = CellState.SUSPECT, suspect_reason
    elif desired is None:
        state = CellState.UNMAPPED
    elif desired != shown:
        state, detail = CellState.MOVING, last_error if push_failures else ""
    else:
        state = CellState.LEVEL
    return Cell(state=state, shown=shown, desired=desired, listings=1, detail=detail)


def merge(one: Cell | None, other: Cell) -> Cell:
    """Two listings of one SKU in one store share a cell; the graver is shown. Pure."""
    if one is None:
        return other
    gravity = list(CellState)
    graver = max(one, other, key=lambda cell: gravity.index(cell.state))
    return Cell(graver.state, graver.shown, graver.desired, one.listings + other.listings, graver.detail)


# --- what is unfinished -------------------------------------------------------------------------------------

_PULSE = f"""
    WITH places AS MATERIALIZED (
        SELECT location.id, location.channel_id, channel.is_shadow
          FROM locations_grouplocation AS member
          JOIN channels_storelocation AS location ON location.id = member.store_location_id
          JOIN channels_channel AS channel ON channel.id = location.channel_id
         WHERE member.group_id = %(group)s AND member.merchant_id = %(merchant)s
    ), moving AS MATERIALIZED (
        -- Store by store and in the partial index's order: the few are found without reading the table.
        SELECT level.push_failures
          FROM places
         CROSS JOIN LATERAL (
               SELECT level.push_failures FROM channels_listinglevel AS level
                WHERE level.channel_id = places.channel_id AND level.store_location_id = places.id
                  AND level.is_out_of_sync AND level.is_stocked
                ORDER BY level.next_push_at LIMIT %(limit)s) AS level
         WHERE NOT places.is_shadow
         LIMIT %(limit)s
    ), newest AS MATERIALIZED (
        SELECT event.id, event.state, event.duplicates
          FROM channels_inboxevent AS event
         WHERE event.merchant_id = %(merchant)s
         ORDER BY event.id DESC LIMIT {EVENTS_READ}
    )
    SELECT (SELECT count(*) FROM moving),
           (SELECT count(*) FROM (
               SELECT 1 FROM channels_listinglevel AS level
                WHERE level.channel_id IN (SELECT channel_id FROM places)
                  AND level.store_location_id IN (SELECT id FROM places)
                  AND level.suspect_since IS NOT NULL
                LIMIT %(limit)s) AS counted),
           (SELECT count(*) FROM moving WHERE push_failures >= {STUCK_FAILURES}),
           (SELECT count(*) FROM (
               SELECT 1 FROM channels_inboxevent AS event
                WHERE event.merchant_id = %(merchant)s AND event.state = 'pending'
                LIMIT %(limit)s) AS counted),
           (SELECT count(*) FROM (
               SELECT 1 FROM sync_dirtysku AS mark WHERE mark.merchant_id = %(merchant)s
                LIMIT %(limit)s) AS counted),
           (SELECT count(*) FROM (
               SELECT 1 FROM sync_deadletter AS letter
                WHERE letter.merchant_id = %(merchant)s AND letter.channel_id IN (SELECT channel_id FROM places)
                  AND letter.ended_at IS NULL AND letter.state <> 'dismissed'
                LIMIT %(limit)s) AS counted),
           (SELECT count(*) FROM (
               SELECT 1 FROM sync_orderline AS line
                WHERE line.channel_id IN (SELECT channel_id FROM places) AND line.waiting_for <> ''
                LIMIT %(limit)s) AS counted),
           (SELECT count(*) FROM (
               SELECT 1 FROM inventory_hold AS hold
                WHERE hold.order_channel_id IN (SELECT channel_id FROM places)
                  AND hold.state = 'committed' AND hold.ended_at IS NULL
                  AND hold.committed_at < now() - %(late_order)s
                LIMIT %(limit)s) AS counted),
           (SELECT count(*) FROM (
               SELECT 1 FROM inventory_shortage AS shortage
                 JOIN inventory_stocklevel AS level ON level.id = shortage.stock_level_id
                 JOIN locations_groupwarehouse AS member ON member.warehouse_id = level.warehouse_id
                WHERE shortage.merchant_id = %(merchant)s AND shortage.covered_at IS NULL
                  AND member.group_id = %(group)s
                LIMIT %(limit)s) AS counted),
           (SELECT sum(hashtextextended(concat_ws('/',
                       level.id, level.shown, level.desired, level.is_stocked, level.suspect_since,
                       level.push_failures, level.confirmed_at), 0))
              FROM channels_listing AS listing
              JOIN channels_listinglevel AS level ON level.listing_id = listing.id
             WHERE listing.sku_id = ANY(%(skus)s) AND level.store_location_id IN (SELECT id FROM places)),
           (SELECT sum(hashtextextended(concat_ws('/', id, state, duplicates), 0)) FROM newest),
           (SELECT sum(hashtextextended(concat_ws('/',
                       channel.id, channel.name, channel.state, channel.failures, channel.is_shadow,
                       channel.raises_paused_at), 0))
              FROM channels_channel AS channel WHERE channel.id IN (SELECT channel_id FROM places)),
           (SELECT sum(hashtextextended(concat_ws('/', hold.id, hold.state), 0)) FROM sync_pushhold AS hold
             WHERE hold.channel_id IN (SELECT channel_id FROM places) AND hold.state = 'held'),
           (SELECT max(run.id) FROM sync_reconcilerun AS run
             WHERE run.channel_id IN (SELECT channel_id FROM places) AND run.state = 'done'),
           (SELECT string_agg(CASE WHEN merchant_id IS NULL THEN 'by an operator, for everybody: ' ELSE '' END || reason,
                       '; ' ORDER BY merchant_id NULLS FIRST)
              FROM channels_writingstop
             WHERE ended_at IS NULL AND (merchant_id IS NULL OR merchant_id = %(merchant)s)),
           (SELECT count(*) FROM (
               SELECT 1 FROM sync_alert AS alert
                WHERE alert.state = 'firing' AND alert.cause = ''
                  AND (alert.merchant_id = %(merchant)s OR alert.merchant_id IS NULL)
                LIMIT %(limit)s) AS counted),
           (SELECT count(*) FROM (
               SELECT 1 FROM sync_alert AS alert
                WHERE alert.state = 'firing' AND alert.cause = '' AND alert.severity = 'critical'
                  AND (alert.merchant_id = %(merchant)s OR alert.merchant_id IS NULL)
                LIMIT %(limit)s) AS counted),
           (SELECT count(*) FROM (
               SELECT 1 FROM merchants_notificationtarget AS target
                WHERE target.merchant_id = %(merchant)s AND target.failing_since IS NOT NULL AND target.state <> 'off'
                LIMIT %(limit)s) AS counted),
           coalesce((SELECT beat_at < clock_timestamp() - %(unwatched)s FROM sync_heartbeat WHERE name = 'alerts'), false)
"""  # noqa: S608 (only constants of this module are put in)


def _pulse(view: View, sku_ids: list[int]) -> tuple[Counts, tuple[Any, ...]]:
    """The counts, and digests of everything else on the page that may change, in one query."""
    parameters = {
        "merchant": view.merchant_id,
        "group": view.group_id,
        "skus": sku_ids,
        "limit": COUNT_LIMIT,
        "late_order": holds.LATE_ORDER,
        "unwatched": UNWATCHED_AFTER,
    }
    row = _fetch(_PULSE, parameters)[0]
    moving, suspect, stuck, pending, dirty, dead, waiting, waiting_holds, shortages, *digests = row
    *digests, alerts, critical_alerts, failing_targets, is_unwatched = digests
    counts = Counts(
        moving=moving,
        suspect=suspect,
        stuck=stuck,
        pending=pending,
        unpublished=dirty,
        dead=dead,
        waiting_lines=waiting,
        waiting_holds=waiting_holds,
        shortages=shortages,
        alerts=alerts,
        critical_alerts=critical_alerts,
        failing_targets=failing_targets,
        is_unwatched=is_unwatched,
    )
    return counts, tuple(digests)


def verdict(*, counts: Counts, stores: int, levels: int, is_counted: bool = True) -> Verdict:
    """The one sentence above the table. Pure. `is_counted`: False when there are more levels than counted.

    Needs of a person are listed beside it; here they only show where they keep numbers from being right.
    """
    total = f"{words.grouped(levels)}{'' if is_counted else '+'} {'level' if levels == 1 else 'levels'}"
    if stores == 0:
        return Verdict("moving", "No store is connected to this group yet")
    if counts.stuck:
        verb = "needs" if counts.stuck == 1 else "need"
        return Verdict("needs", f"{_levels(counts.stuck, total)} cannot be set and {verb} somebody")
    if counts.moving:
        verb = "is" if counts.moving == 1 else "are"
        return Verdict("moving", f"{_levels(counts.moving, total)} {verb} on {'its' if verb == 'is' else 'their'} way")
    if counts.suspect:
        verb = "is" if counts.suspect == 1 else "are"
        return Verdict("moving", f"{_levels(counts.suspect, total)} {verb} being checked with the store")
    if counts.pending or counts.unpublished:
        events = words.count(max(counts.pending, 1), "event", limit=COUNT_LIMIT)
        return Verdict("moving", f"{events} being worked in")
    if stores == 1:
        return Verdict("right", "The store shows the right numbers")
    return Verdict("right", f"All {stores} stores show the right numbers")


def _levels(number: int, total: str) -> str:
    return f"{words.grouped(number)}{'+' if number >= COUNT_LIMIT else ''} of {total}"


def _needs(counts: Counts, columns: Iterable[Column]) -> tuple[Need, ...]:
    """What does not come right by itself, the gravest first."""
    needs = _needs_of_alerts(counts)
    seen: set[int] = set()
    for column in columns:
        if column.channel_id in seen:
            continue
        seen.add(column.channel_id)
        needs.extend(_needs_of_store(column))
    needs.extend(_needs_of_places(columns))
    if counts.dead:
        text = words.count(counts.dead, "dead letter", limit=COUNT_LIMIT)
        needs.append(
            Need("danger", f"{text}: given up, until somebody looks or the cause goes away", "", page="dead_letters")
        )
    if counts.shortages:
        text = f"{words.count(counts.shortages, 'shortage', limit=COUNT_LIMIT)} open: sold beyond stock"
        needs.append(Need("danger", text, "inventory_shortage"))
    if counts.waiting_lines:
        text = f"{words.count(counts.waiting_lines, 'order line', limit=COUNT_LIMIT)} wait for a mapping"
        needs.append(Need("warning", text, "sync_orderline", "waiting=yes"))
    if counts.waiting_holds:
        late = words.count(counts.waiting_holds, "hold", limit=COUNT_LIMIT)
        verb = "waits" if counts.waiting_holds == 1 else "wait"
        text = f"{late} {verb} for an order that has not come for an hour"
        needs.append(Need("warning", text, "inventory_hold", "held=late"))
    return tuple(sorted(needs, key=lambda need: need.tone != "danger"))


def _needs_of_alerts(counts: Counts) -> list[Need]:
    needs = []
    if counts.is_unwatched:
        text = "Nobody looks for trouble: beat and workers stand still"
        needs.append(Need("danger", text, "", page="alerts"))
    if counts.alerts:
        text = words.count(counts.alerts, "alert", limit=COUNT_LIMIT)
        if counts.critical_alerts:
            text += f", {counts.critical_alerts} critical"
        needs.append(Need("danger" if counts.critical_alerts else "warning", text, "", page="alerts"))
    if counts.failing_targets:
        text = f"{words.count(counts.failing_targets, 'notification target', limit=COUNT_LIMIT)} cannot be told"
        needs.append(Need("warning", text, "", page="alerts"))
    return needs


def _needs_of_store(column: Column) -> list[Need]:
    needs = []
    if column.state == ChannelState.NEEDS_AUTH:
        needs.append(Need("danger", f"{column.name} needs to be authorized again", "channels_channel"))
    elif column.state == ChannelState.UNINSTALLED:
        needs.append(Need("danger", f"The app was removed from {column.name}", "channels_channel"))
    elif column.state == ChannelState.ACTIVE and column.failures >= SILENT_FAILURES:
        needs.append(Need("warning", f"{column.name} does not answer", "channels_channel"))
    if column.holds:
        changes = words.count(column.holds, "change")
        verb = "is" if column.holds == 1 else "are"
        needs.append(Need("danger", f"{changes} of {column.name} {verb} held: confirm, or put right", "", page="holds"))
    if column.raises_paused and column.state == ChannelState.ACTIVE:
        text = f"{column.name} is not raised: {column.raises_paused}. Lowers go on; look, then let raises go on"
        needs.append(Need("warning", text, "channels_channel", act="resume_raises", row=column.channel_id))
    if column.unmapped_listings:
        listings = words.count(column.unmapped_listings, "listing", limit=COUNT_LIMIT)
        verb = "is" if column.unmapped_listings == 1 else "are"
        text = f"{listings} of {column.name} {verb} not mapped to a SKU"
        needs.append(Need("warning", text, "channels_listing", "sku__isempty=1"))
    return needs


def _needs_of_places(columns: Iterable[Column]) -> list[Need]:
    return [
        Need(
            "warning",
            f"{column.name}{f' ({column.place})' if column.place else ''} draws on no warehouse",
            "locations_locationgroup",
        )
        for column in columns
        if column.warehouses == 0
    ]


# --- the inbox ----------------------------------------------------------------------------------------------


def newest_events(merchant_id: int) -> tuple[EventLine, ...]:
    """The newest events of a merchant's inbox, without their bodies; runs of echoes as one line each."""
    events = (
        InboxEvent.objects.filter(merchant_id=merchant_id)
        .order_by("-pk")
        .values_list("pk", "correlation_id", "received_at", "channel__name", "topic", "state", "reason", "duplicates")[
            :EVENTS_READ
        ]
    )
    return fold_echoes(
        EventLine(
            event_id=event_id,
            correlation_id=str(correlation_id),
            received_at=received_at,
            store=store,
            topic=words.topic_in_words(topic),
            state=EventState(state),
            reason=reason,
            duplicates=duplicates,
        )
        for event_id, correlation_id, received_at, store, topic, state, reason, duplicates in events
    )


def fold_echoes(lines: Iterable[EventLine], *, limit: int = EVENTS_SHOWN) -> tuple[EventLine, ...]:
    """The first `limit` lines, each run of echoes being one. Pure."""
    folded: list[EventLine] = []
    for line in lines:
        is_echo = line.state == EventState.IGNORED and line.reason.startswith(ECHO)
        if is_echo and folded and folded[-1].echoes:
            folded[-1] = replace(folded[-1], echoes=folded[-1].echoes + 1)
        elif len(folded) == limit:
            break
        else:
            folded.append(replace(line, echoes=1) if is_echo else line)
    return tuple(folded)


def _fetch(query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
