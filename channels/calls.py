"""Counting what became of the calls to channels: in the process at first, then hour by hour in the database.

A row per call would be more than the calls are worth, and a row per hour that each call locks would put them in line. So a
process adds up, and hands over what it has every few seconds and when a task ends; one that is killed loses seconds of it.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Final

import structlog
from django.db import connection

from channels.pacing import Counting
from channels.urgency import Urgency
from synctec.lib import sql

log = structlog.get_logger(__name__)

FLUSH_SECONDS: Final = 3.0

#: The columns of `CallHour` that are added up.
_COUNTS: Final = (
    "calls",
    "cost",
    "throttled",
    "paced",
    "rested",
    "unanswered",
    "server_errors",
    "waited_seconds",
)


class Tally:
    """What this process has counted and not handed over yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: dict[tuple[int, int], dict[str, float]] = {}
        self._flushed_at = time.monotonic()

    def add(self, channel_id: int, urgent: Urgency, **counts: float) -> None:
        """Count for a channel; every few seconds that hands over what there is."""
        with self._lock:
            row = self._counted.setdefault((channel_id, int(urgent)), dict.fromkeys(_COUNTS, 0))
            for name, count in counts.items():
                row[name] += count
            is_due = time.monotonic() - self._flushed_at > FLUSH_SECONDS
        # Never in a transaction of somebody's, which may be undone or hold the rows for long.
        if is_due and not connection.in_atomic_block:
            self.flush()

    def flush(self) -> None:
        """Hand over what there is. Never raises: with the database away it is kept for the next time."""
        with self._lock:
            counted, self._counted = self._counted, {}
            self._flushed_at = time.monotonic()
        if not counted:
            return
        try:
            _write(counted)
        except sql.AWAY as error:
            log.warning("calls.not_written", error=str(error).splitlines()[0][:200])
            with self._lock:
                for key, counts in counted.items():
                    row = self._counted.setdefault(key, dict.fromkeys(_COUNTS, 0))
                    for name, count in counts.items():
                        row[name] += count


def _write(counted: dict[tuple[int, int], dict[str, float]]) -> None:
    # In one order for all: processes that hand over at the same time do not wait for each other in a circle.
    keys = sorted(counted)
    columns = [[counted[key][name] for key in keys] for name in _COUNTS]
    whole = [[int(count) for count in column] for column in columns]
    calls, _, throttled, paced, rested, unanswered, server_errors, _ = whole
    sql.execute(
        """
        INSERT INTO channels_callhour AS hour (merchant_id, channel_id, hour, urgency, calls, cost, throttled, paced, rested,
            unanswered, server_errors, waited_seconds)
        SELECT channel.merchant_id, channel.id, date_trunc('hour', now(), 'UTC'), told.urgency, told.calls, told.cost,
            told.throttled, told.paced, told.rested, told.unanswered, told.server_errors, told.waited_seconds
        FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::float8[], %s::int[], %s::int[], %s::int[], %s::int[], %s::int[],
            %s::float8[]) AS told (channel_id, urgency, calls, cost, throttled, paced, rested, unanswered, server_errors,
            waited_seconds)
        JOIN channels_channel channel ON channel.id = told.channel_id
        ORDER BY told.channel_id, told.urgency
        ON CONFLICT (channel_id, hour, urgency) DO UPDATE SET calls = hour.calls + excluded.calls,
            cost = hour.cost + excluded.cost, throttled = hour.throttled + excluded.throttled,
            paced = hour.paced + excluded.paced, rested = hour.rested + excluded.rested,
            unanswered = hour.unanswered + excluded.unanswered,
            server_errors = hour.server_errors + excluded.server_errors,
            waited_seconds = hour.waited_seconds + excluded.waited_seconds
        """,
        [
            [channel_id for channel_id, _ in keys],
            [urgent for _, urgent in keys],
            calls,
            [float(cost) for cost in columns[1]],
            throttled,
            paced,
            rested,
            unanswered,
            server_errors,
            [float(seconds) for seconds in columns[7]],
        ],
    )


#: This process's.
tally: Final = Tally()


def counting_for(channel_id: int) -> Counting:
    """What a pacer tells of its channel."""
    return partial(tally.add, channel_id)
