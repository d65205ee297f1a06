"""Who was there, minute by minute: the stored fact behind every uptime.

| part | is there in a minute when |
|---|---|
| receiver | a web process could write to the database: whoever delivers is answered 200 |
| workers | some task was ended, or the sweep ran |
| beat | the sweep ran: it was rung, carried and carried out |

A minute in which nobody wrote is a minute in which nobody was there. A restart forgets nothing, and a part that was never
seen is not measured. With beat away and nothing to do, workers have nothing to show for themselves either.

Invariant: a minute is only ever added, so writing it any number of times from any number of processes is one fact.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from sync.score import Attended
from synctec.lib import clock, sql

log = structlog.get_logger(__name__)

#: How often a process that only has to be there says so; three times a minute, so that none is missed.
ATTEND_EVERY_SECONDS: Final = 20.0
#: Longer than any span the scorecard shows.
KEPT: Final = timedelta(days=400)

_HOUR: Final = timedelta(hours=1)
_MINUTE: Final = timedelta(minutes=1)
#: The minute that this process has last written of each part: once is enough.
_noted: dict[str, datetime] = {}


def note(*parts: str, now: datetime) -> None:
    """These parts of the system are there in this minute. Costs a statement a minute and process.

    Raises:
        OperationalError: the database is away; the minute is not written.
    """
    minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    news = [part for part in parts if _noted.get(part) != minute]
    if not news:
        return
    sql.execute(
        """
        INSERT INTO sync_presence (name, hour, minutes) SELECT part, %s, %s FROM unnest(%s::text[]) AS part
        ON CONFLICT (name, hour) DO UPDATE SET minutes = sync_presence.minutes | excluded.minutes
        WHERE sync_presence.minutes & excluded.minutes = 0
        """,
        [minute.replace(minute=0), 1 << minute.minute, news],
    )
    _noted.update(dict.fromkeys(news, minute))


def attended(parts: Collection[str], *, since: datetime, until: datetime) -> dict[str, Attended]:
    """Of the whole minutes in [since, until), in how many each part was there; they count from when it was first seen.

    The minute under way is left out: pass the beginning of it, or any moment within it, as `until`.
    """
    first_seen = {
        name: _first_minute(hour, minutes)
        for name, hour, minutes in sql.rows(
            """
            SELECT part, first.hour, first.minutes FROM unnest(%s::text[]) AS part
            CROSS JOIN LATERAL (SELECT hour, minutes FROM sync_presence WHERE name = part ORDER BY hour LIMIT 1) AS first
            """,
            [sorted(parts)],
        )
    }
    written: dict[tuple[str, datetime], int] = {
        (name, hour): minutes
        for name, hour, minutes in sql.rows(
            "SELECT name, hour, minutes FROM sync_presence WHERE name = ANY(%s::text[]) AND hour >= %s AND hour < %s",
            [sorted(parts), since - _HOUR, until],
        )
    }
    end = until.astimezone(UTC).replace(second=0, microsecond=0)
    found = {}
    for part, first in first_seen.items():
        begin = max(first, _next_minute(since))
        up = of = 0
        hour = begin.replace(minute=0)
        while hour < end:
            asked = _mask(begin, end, hour)
            of += asked.bit_count()
            up += (written.get((part, hour), 0) & asked).bit_count()
            hour += _HOUR
        if of:
            found[part] = Attended(up, of)
    return found


def forget(*, now: datetime) -> int:
    """Forget hours that no scorecard asks for any more; returns how many."""
    return sql.execute("DELETE FROM sync_presence WHERE hour < %s", [now - KEPT])


def _first_minute(hour: datetime, minutes: int) -> datetime:
    return hour.astimezone(UTC) + _MINUTE * ((minutes & -minutes).bit_length() - 1)


def _next_minute(moment: datetime) -> datetime:
    """The moment itself when a minute begins with it, else the beginning of the next."""
    begun = moment.astimezone(UTC).replace(second=0, microsecond=0)
    return begun if begun == moment else begun + _MINUTE


def _mask(begin: datetime, end: datetime, hour: datetime) -> int:
    """The minutes of an hour that lie in [begin, end)."""
    first = max(0, (begin - hour) // _MINUTE)
    last = min(60, (end - hour) // _MINUTE)
    return ((1 << last) - 1) & ~((1 << first) - 1) if last > first else 0


def is_laid_out() -> bool:
    """Whether the tables of watching are there: on a fresh machine the web server may be up before they are.

    Raises:
        OperationalError: the database is away.
    """
    [(is_there,)] = sql.rows(
        "SELECT to_regclass('sync_presence') IS NOT NULL AND to_regclass('sync_rulecheck') IS NOT NULL"
    )
    return bool(is_there)


class Attendant(threading.Thread):
    """Says that a part is there for as long as this process lives. A daemon: nobody has to end it.

    While the database is away it writes nothing, which is the fact.
    """

    def __init__(self, part: str) -> None:
        super().__init__(name=f"attend-{part}", daemon=True)
        self._part = part
        self._ended = threading.Event()

    def run(self) -> None:
        is_over = False
        while not is_over:
            try:
                if is_laid_out():
                    note(self._part, now=clock.now())
            except sql.AWAY as error:
                log.debug("presence.not_noted", part=self._part, error=type(error).__name__)
            except Exception:
                log.exception("presence.failed", part=self._part)
            sql.give_back()
            is_over = self._ended.wait(ATTEND_EVERY_SECONDS)

    def stop(self) -> None:
        """End it, after it has spoken once."""
        self._ended.set()
        self.join()
