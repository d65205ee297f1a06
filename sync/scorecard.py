"""The health scorecard, from stored facts: rows that are there anyway, so that no restart resets anything.

    figures(merchant_id=7, since=..., until=..., now=...)                  the merchant's, each judged
    figures(merchant_id=7, channel_id=3, since=..., until=..., now=...)    one channel's
    facts([7], since=..., until=...)                                       the numbers behind them, by channel

Nothing is counted when a sale is applied. Events, movements and pushes are found by the time that is in their ids: the
correlation id of an event and the id of a write are UUIDs of version 7, made when they came about, and the indexes that the
engine needs anyway are in their order. So a span of time is a range of an index, and its cost follows the span.

Invariant: every question is bounded by the span; none counts a table that grows for ever. The tests read the plans.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

from sync import outages, presence
from sync.score import LATENCY_FIRST_SECONDS, LATENCY_STEP, NOTHING, PARTS, Facts, Figure, Waits, judge
from synctec.lib import ids, sql

#: The ids are made by the clocks of many processes: so far around the span they are looked for, and then judged by the
#: database's own dates.
ID_MARGIN: Final = timedelta(minutes=10)
#: A store that was lowered later than this after the sale is told of by its outage and its shortages, not by latency.
LATEST_WRITE: Final = timedelta(days=2)
SHORTAGES_SHOWN: Final = 50

#: Codes of rejected writes that say nothing against them: they are computed anew and sent again by themselves.
PASSING_CODES: Final = (
    "",
    "NOT_FOUND_APPLIED",
    "THROTTLED",
    "PACED",
    "PACING_AWAY",
    "NOT_SENT",
    "HTTP_429",
)
PASSING_PATTERNS: Final = ("%\\_STALE", "HTTP\\_5%", "IDEMPOTENCY%")

#: By channel; `None` is the merchant, or all of those asked for, as a whole.
Card = Mapping[int | None, Facts]


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time as the questions are asked about it."""

    merchants: list[int]
    since: datetime
    until: datetime

    @property
    def first_id(self) -> uuid.UUID:
        return ids.earliest(self.since - ID_MARGIN)

    @property
    def end_id(self) -> uuid.UUID:
        return ids.earliest(self.until + ID_MARGIN)

    @property
    def last_write_id(self) -> uuid.UUID:
        return ids.earliest(self.until + LATEST_WRITE)


def figures(
    *,
    merchant_id: int | None,
    channel_id: int | None = None,
    since: datetime,
    until: datetime,
    now: datetime,
) -> tuple[Figure, ...]:
    """Every figure of [since, until): of a merchant, of one of its channels, or (no merchant) of everybody.

    Raises:
        OperationalError: the database is away.
    """
    merchants = every_merchant() if merchant_id is None else [merchant_id]
    card = facts(merchants, since=since, until=until)
    return judge(
        card.get(channel_id, NOTHING),
        waits(merchants, now=now).get(channel_id, Waits()),
        days=(until - since) / timedelta(days=1),
    )


def every_merchant() -> list[int]:
    """For whoever runs the system."""
    return [merchant for (merchant,) in sql.rows("SELECT id FROM merchants_merchant ORDER BY id")]


def facts(merchants: Sequence[int], *, since: datetime, until: datetime) -> dict[int | None, Facts]:
    """What happened to these merchants in [since, until), by channel and as a whole (`None`).

    Raises:
        OperationalError: the database is away.
    """
    span = Span(sorted(merchants), since, until)
    found: dict[int | None, dict[str, Any]] = defaultdict(dict)
    for question in (_latencies, _events, _writes, _comparisons, _drifts, _shortages, _sales, _answers, _buffers):
        for channel_id, numbers in question(span).items():
            found[channel_id] |= numbers
    attended = presence.attended(PARTS, since=since, until=until)
    whole = Facts(**found.pop(None, {}))
    card: dict[int | None, Facts] = {channel: Facts(**numbers) for channel, numbers in found.items()}
    no_sales: dict[str, Any] = {"units_sold": 0, "units_short": 0, "units_short_open": 0, "shortages": 0}
    for channel_facts in card.values():
        # What adds up over the channels; sales and shortages of no channel, and latencies to the last store, were asked
        # for.
        whole += replace(channel_facts, latency={}, still_waiting=0, **no_sales)
    card = {channel: replace(channel_facts, attended=attended) for channel, channel_facts in card.items()}
    return {None: replace(whole, attended=attended), **card}


Found = dict[int | None, dict[str, Any]]

#: The class of a latency in seconds (`sync.score.latency_class`).
_CLASS: Final[LiteralString] = (
    "greatest(0, ceil(ln(greatest(extract(epoch FROM {})::float8, %s) / %s) / ln(%s) - 1e-9))::int"
)
_CLASS_PARAMETERS: Final = (LATENCY_FIRST_SECONDS, LATENCY_FIRST_SECONDS, LATENCY_STEP)

#: Lowers alone: a raise waits on purpose, until it is certain. What has not arrived yet counts as of now, or else an
#: outage would make the figures better.
_LOWERS: Final[LiteralString] = """
    SELECT push.channel_id, push.correlation_ids, push.caused_at,
        coalesce(push.settled_at, clock_timestamp()) AS reached_at, push.state = 'open' AS waits
    FROM channels_push push
    WHERE push.batch_id BETWEEN %s AND %s AND push.merchant_id = ANY(%s::bigint[])
        AND push.state <> 'rejected' AND push.to_quantity < push.from_quantity
    UNION ALL
    SELECT level.channel_id, level.waiting_correlation_ids, level.waiting_since, clock_timestamp(), true
    FROM channels_channel channel JOIN channels_listinglevel level ON level.channel_id = channel.id
    WHERE channel.merchant_id = ANY(%s::bigint[]) AND channel.state = 'active'
        AND level.is_out_of_sync AND level.desired < level.shown
"""

_LATENCY_OF_CHANNELS: Final[LiteralString] = f"""
    WITH lower AS ({_LOWERS})
    SELECT channel_id, {_CLASS.format("reached_at - caused_at")} AS class, count(*), count(*) FILTER (WHERE waits)
    FROM lower WHERE caused_at >= %s AND caused_at < %s GROUP BY 1, 2
"""  # noqa: S608 (only constants of this module are put in)

_LATENCY_OF_SALES: Final[LiteralString] = f"""
    WITH lower AS ({_LOWERS}), reached AS (
        SELECT correlation_id, max(reached_at) AS reached_at, bool_or(waits) AS waits
        FROM lower, unnest(correlation_ids) AS correlation_id
        WHERE correlation_id BETWEEN %s AND %s GROUP BY correlation_id
    )
    SELECT {_CLASS.format("reached.reached_at - event.received_at")} AS class, count(*),
        count(*) FILTER (WHERE reached.waits)
    FROM reached JOIN channels_inboxevent event ON event.correlation_id = reached.correlation_id
    WHERE event.received_at >= %s AND event.received_at < %s AND event.topic LIKE 'orders/%%' GROUP BY 1
"""  # noqa: S608 (only constants of this module are put in)


def _latencies(span: Span) -> Found:
    lowers = (span.first_id, span.last_write_id, span.merchants, span.merchants)
    found: Found = defaultdict(lambda: {"latency": {}, "still_waiting": 0})
    for channel_id, place, count, waiting in sql.rows(
        _LATENCY_OF_CHANNELS, [*lowers, *_CLASS_PARAMETERS, span.since, span.until]
    ):
        found[channel_id]["latency"][place] = count
        found[channel_id]["still_waiting"] += waiting
    latency, waiting = _sales_latencies(span)
    if latency:
        found[None] = {"latency": latency, "still_waiting": waiting}
    return found


def _sales_latencies(span: Span) -> tuple[dict[int, int], int]:
    lowers = (span.first_id, span.last_write_id, span.merchants, span.merchants)
    parameters = [*lowers, span.first_id, span.end_id, *_CLASS_PARAMETERS, span.since, span.until]
    told = sql.rows(_LATENCY_OF_SALES, parameters)
    return {place: count for place, count, _ in told}, sum(waiting for _, _, waiting in told)


def sale_latencies(
    merchants: Sequence[int], *, now: datetime, span: timedelta = timedelta(hours=1)
) -> tuple[dict[int, int], int]:
    """The latencies of the newest sales by class (`sync.score.percentile`), and how many of them are still on their way."""
    return _sales_latencies(Span(sorted(merchants), now - span, now))


_EVENTS: Final[LiteralString] = """
    SELECT channel_id, count(*), count(*) FILTER (WHERE state = 'dead') FROM channels_inboxevent
    WHERE correlation_id BETWEEN %s AND %s AND received_at >= %s AND received_at < %s AND merchant_id = ANY(%s::bigint[])
    GROUP BY channel_id
"""


def _events(span: Span) -> Found:
    return _numbers(
        _EVENTS,
        [span.first_id, span.end_id, span.since, span.until, span.merchants],
        "events",
        "events_dead",
    )


#: A level that its store refuses is tried again and again: it counts once.
_WRITES: Final[LiteralString] = """
    SELECT push.channel_id, count(*) FILTER (WHERE push.state = 'confirmed'),
        count(DISTINCT push.listing_level_id) FILTER (
            WHERE push.state = 'rejected' AND push.error_code <> ALL(%s::text[]) AND NOT push.error_code LIKE ANY(%s::text[]))
    FROM channels_push push
    WHERE push.batch_id BETWEEN %s AND %s AND push.created_at >= %s AND push.created_at < %s
        AND push.merchant_id = ANY(%s::bigint[])
    GROUP BY push.channel_id
"""


def _writes(span: Span) -> Found:
    codes = [list(PASSING_CODES), list(PASSING_PATTERNS)]
    return _numbers(
        _WRITES,
        [*codes, span.first_id, span.end_id, span.since, span.until, span.merchants],
        "writes",
        "writes_refused",
    )


_COMPARISONS: Final[LiteralString] = """
    SELECT channel_id, sum(levels_read)::bigint, sum(levels_suspect)::bigint FROM sync_reconcilerun
    WHERE merchant_id = ANY(%s::bigint[]) AND started_at >= %s AND started_at < %s GROUP BY channel_id
"""


def _comparisons(span: Span) -> Found:
    return _numbers(_COMPARISONS, [span.merchants, span.since, span.until], "levels_compared", "levels_differing")


_DRIFTS: Final[LiteralString] = """
    SELECT channel_id, count(*), count(*) FILTER (WHERE action <> 'explained') FROM sync_drift
    WHERE merchant_id = ANY(%s::bigint[]) AND found_at >= %s AND found_at < %s GROUP BY channel_id
"""


def _drifts(span: Span) -> Found:
    return _numbers(_DRIFTS, [span.merchants, span.since, span.until], "drifts", "drifts_unexplained")


#: Of the channel whose event sold them, and once more as a whole: a count or a correction is no channel's.
_SHORTAGES: Final[LiteralString] = """
    SELECT event.channel_id, sum(shortage.quantity)::bigint,
        sum(shortage.quantity - shortage.quantity_covered)::bigint, count(*)
    FROM inventory_shortage shortage LEFT JOIN LATERAL (
        SELECT channel_id FROM channels_inboxevent WHERE correlation_id = shortage.correlation_id LIMIT 1
    ) AS event ON true
    WHERE shortage.merchant_id = ANY(%s::bigint[]) AND shortage.created_at >= %s AND shortage.created_at < %s
    GROUP BY GROUPING SETS ((event.channel_id), ())
    HAVING GROUPING(event.channel_id) = 1 OR event.channel_id IS NOT NULL
"""


def _shortages(span: Span) -> Found:
    found = _numbers(
        _SHORTAGES, [span.merchants, span.since, span.until], "units_short", "units_short_open", "shortages"
    )
    return {channel: numbers for channel, numbers in found.items() if numbers["shortages"]}


_SALES: Final[LiteralString] = """
    SELECT event.channel_id, sum(sale.units)::bigint
    FROM (
        SELECT correlation_id, sum(delta) AS units FROM inventory_movement
        WHERE correlation_id BETWEEN %s AND %s AND created_at >= %s AND created_at < %s
            AND merchant_id = ANY(%s::bigint[]) AND account = 'committed' AND cause = 'sale'
        GROUP BY correlation_id
    ) AS sale
    LEFT JOIN channels_inboxevent event
        ON event.correlation_id = sale.correlation_id AND event.correlation_id BETWEEN %s AND %s
    GROUP BY GROUPING SETS ((event.channel_id), ())
    HAVING GROUPING(event.channel_id) = 1 OR event.channel_id IS NOT NULL
"""


def _sales(span: Span) -> Found:
    bounds = [span.first_id, span.end_id]
    found = _numbers(_SALES, [*bounds, span.since, span.until, span.merchants, *bounds], "units_sold")
    return {channel: numbers for channel, numbers in found.items() if numbers["units_sold"]}


def _answers(span: Span) -> Found:
    return {
        channel: {
            "channel_seconds": told.seconds,
            "channel_down_seconds": told.down_seconds,
            "calls": told.calls,
            "calls_throttled": told.calls_throttled,
            "breaker_seconds": told.breaker_seconds,
        }
        for channel, told in outages.answering(span.merchants, since=span.since, until=span.until).items()
    }


_BUFFERS: Final[LiteralString] = """
    SELECT channel_id, count(*), max(levels), sum(entered)::bigint, sum(below_zero)::bigint,
        (array_agg(used ORDER BY used DESC, size DESC))[1], (array_agg(size ORDER BY used DESC, size DESC))[1]
    FROM sync_bufferuse WHERE merchant_id = ANY(%s::bigint[]) AND hour >= %s AND hour < %s GROUP BY channel_id
"""


def _buffers(span: Span) -> Found:
    return _numbers(
        _BUFFERS,
        [span.merchants, span.since, span.until],
        "buffer_hours",
        "buffer_levels",
        "buffer_entered",
        "buffer_below_zero",
        "buffer_used",
        "buffer_size",
    )


def _numbers(statement: LiteralString, parameters: Sequence[Any], *names: str) -> Found:
    """Rows of (channel, numbers), by these names."""
    return {
        channel: {name: number or 0 for name, number in zip(names, numbers, strict=True)}
        for channel, *numbers in sql.rows(statement, parameters)
    }


# --- now ----------------------------------------------------------------------------------------------------

#: Each by a partial index that holds what is unfinished and nothing else. A change that is not published yet is no
#: channel's.
_WAITS: Final[LiteralString] = """
    SELECT channel_id, min(oldest_event), min(oldest_change), min(oldest_write), sum(pending)::bigint, sum(dead)::bigint
    FROM (
        SELECT channel_id, min(received_at), NULL::timestamptz, NULL::timestamptz, count(*), 0 FROM channels_inboxevent
        WHERE merchant_id = ANY(%s::bigint[]) AND state = 'pending' GROUP BY channel_id
        UNION ALL
        SELECT NULL, NULL, min(caused_at), NULL, 0, 0 FROM sync_dirtysku WHERE merchant_id = ANY(%s::bigint[])
        UNION ALL
        SELECT channel.id, NULL, NULL, min(level.waiting_since), 0, 0
        FROM channels_channel channel JOIN channels_listinglevel level ON level.channel_id = channel.id
        WHERE channel.merchant_id = ANY(%s::bigint[]) AND channel.state = 'active'
            AND level.is_out_of_sync AND level.desired < level.shown
        GROUP BY channel.id
        UNION ALL
        SELECT channel.id, NULL, NULL, NULL, 0, count(*)
        FROM channels_channel channel JOIN sync_deadletter letter
            ON letter.channel_id = channel.id AND letter.merchant_id = channel.merchant_id
        WHERE channel.merchant_id = ANY(%s::bigint[]) AND letter.ended_at IS NULL AND letter.state <> 'dismissed'
        GROUP BY channel.id
    ) AS told (channel_id, oldest_event, oldest_change, oldest_write, pending, dead)
    GROUP BY channel_id
"""


def waits(merchants: Sequence[int], *, now: datetime) -> dict[int | None, Waits]:
    """What is unfinished at this moment, by channel and as a whole (`None`). A raise that waits is none of it."""
    found: dict[int | None, Waits] = {}
    parts: list[Waits] = []
    for channel, event, change, write, pending, dead in sql.rows(_WAITS, [sorted(merchants)] * 4):
        told = Waits(_age(event, now), _age(change, now), _age(write, now), pending, dead)
        parts.append(told)
        if channel is not None:
            found[channel] = told
    found[None] = Waits(
        _oldest(part.oldest_event for part in parts),
        _oldest(part.oldest_change for part in parts),
        _oldest(part.oldest_write for part in parts),
        sum(part.pending_events for part in parts),
        sum(part.dead_letters for part in parts),
    )
    return found


def _age(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else max(0.0, (now - moment).total_seconds())


def _oldest(ages: Any) -> float | None:
    return max((age for age in ages if age is not None), default=None)


# --- shortages, each with its story -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShortUnits:
    """Units sold beyond stock: how many, of what, why, and the story behind them."""

    sku: str
    warehouse: str
    quantity: int
    open_units: int
    cause: str
    reference: str
    channel: str
    occurred_at: datetime
    correlation_id: uuid.UUID


def shortages(
    merchants: Collection[int], *, channel_id: int | None = None, since: datetime, until: datetime
) -> list[ShortUnits]:
    """The newest shortages that came about in [since, until), of one channel or of all."""
    return [
        ShortUnits(*row)
        for row in sql.rows(
            """
            SELECT sku.code, warehouse.code, shortage.quantity, shortage.quantity - shortage.quantity_covered, shortage.cause,
                shortage.reference, coalesce(event.name, ''), shortage.occurred_at, shortage.correlation_id
            FROM inventory_shortage shortage
            JOIN inventory_stocklevel level ON level.id = shortage.stock_level_id
            JOIN inventory_sku sku ON sku.id = level.sku_id
            JOIN inventory_warehouse warehouse ON warehouse.id = level.warehouse_id
            LEFT JOIN LATERAL (
                SELECT channel.id, channel.name FROM channels_inboxevent event
                JOIN channels_channel channel ON channel.id = event.channel_id
                WHERE event.correlation_id = shortage.correlation_id LIMIT 1
            ) AS event ON true
            WHERE shortage.merchant_id = ANY(%s::bigint[]) AND shortage.created_at >= %s AND shortage.created_at < %s
                AND (%s::bigint IS NULL OR event.id = %s)
            ORDER BY shortage.created_at DESC, shortage.id DESC LIMIT %s
            """,
            [sorted(merchants), since, until, channel_id, channel_id, SHORTAGES_SHOWN],
        )
    ]
