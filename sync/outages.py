"""How long channels did not answer, and what their calls came to: the one place where the scorecard learns of it.

What is stored of calls and outages is asked for here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, LiteralString

from synctec.lib import sql

#: What opens a breaker: no connection, no whole answer, an answer that says the store is broken. A store that is closed
#: or refuses our access is away, too, and no breaker is needed to know it.
BREAKING_CAUSES: Final = ("no_connection", "no_answer", "server_error")
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Answering:
    """Of one channel in a span of time. A `None` was not measured."""

    seconds: float | None = None
    down_seconds: float | None = None
    breaker_seconds: float | None = None
    calls: int | None = None
    calls_throttled: int | None = None


#: A channel is asked for from the moment it was connected.
_ANSWERING: Final[LiteralString] = """
    WITH span AS (
        SELECT channel.id AS channel_id, greatest(channel.created_at, %s) AS since, least(%s, clock_timestamp()) AS until
        FROM channels_channel channel
        WHERE channel.merchant_id = ANY(%s::bigint[]) AND channel.state NOT IN ('connecting', 'uninstalled')
    )
    SELECT span.channel_id, greatest(0, extract(epoch FROM span.until - span.since))::float8,
        coalesce(outage.seconds, 0)::float8, coalesce(outage.breaking_seconds, 0)::float8,
        coalesce(call.calls, 0)::bigint, coalesce(call.throttled, 0)::bigint
    FROM span
    LEFT JOIN LATERAL (
        SELECT sum(lasted.seconds) AS seconds,
            sum(lasted.seconds) FILTER (WHERE lasted.cause = ANY(%s::text[])) AS breaking_seconds
        FROM (
            SELECT cause, extract(epoch FROM least(coalesce(ended_at, span.until), span.until)
                - greatest(began_at, span.since)) AS seconds
            FROM channels_outage
            WHERE channel_id = span.channel_id AND began_at < span.until
                AND (ended_at IS NULL OR ended_at > span.since)
        ) AS lasted
    ) AS outage ON true
    LEFT JOIN LATERAL (
        SELECT sum(calls) AS calls, sum(throttled) AS throttled FROM channels_callhour
        WHERE channel_id = span.channel_id AND hour >= %s AND hour < %s
    ) AS call ON true
"""


def answering(merchant_ids: Sequence[int], *, since: datetime, until: datetime) -> dict[int, Answering]:
    """By channel; one that is missing was not measured. Calls are kept by the hour: that in which the span begins counts."""
    return {
        channel: Answering(*told)
        for channel, *told in sql.rows(
            _ANSWERING, [since, until, sorted(merchant_ids), list(BREAKING_CAUSES), since - _HOUR, until]
        )
    }
