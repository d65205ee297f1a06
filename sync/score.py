"""What the health of the sync is judged by: facts that add up, and what each figure made of them means. Pure.

Facts of two spans of time, or of two channels, are added; every figure is then judged anew. So a month is the sum of its
days, and what is kept of a day is its facts and never its verdicts.

Invariant: adding is commutative and associative and adding nothing changes nothing; what was not measured is said to be so,
never shown as good.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, Final

from sync import words

#: Latencies are counted in classes: class k holds those up to `LATENCY_FIRST_SECONDS * LATENCY_STEP ** k`. A percentile
#: is the upper end of its class: five percent too high at most, and never too low.
LATENCY_FIRST_SECONDS: Final = 0.001
LATENCY_STEP: Final = 1.05

LATENCY_TARGET_SECONDS: Final = 30.0
LATENCY_BAD_SECONDS: Final = 60.0
ACCURACY_TARGET: Final = 0.995
ACCURACY_BAD: Final = 0.98
UPTIME_TARGET: Final = 0.999
UPTIME_BAD: Final = 0.99
ERROR_TARGET: Final = 0.001
ERROR_BAD: Final = 0.01
MISMATCH_TARGET: Final = 0.005
#: From this share of a catalogue on raises are paused.
MISMATCH_BAD: Final = 0.02
QUEUE_TARGET_SECONDS: Final = 30.0
QUEUE_BAD_SECONDS: Final = 60.0
DEAD_BAD: Final = 10
THROTTLED_TARGET: Final = 0.01
THROTTLED_BAD: Final = 0.05
BREAKER_BAD: Final = 0.01
#: A buffer of which no more than this share was ever used, over so many days, ties up units for nothing.
BUFFER_IDLE_SHARE: Final = 0.25
BUFFER_IDLE_DAYS: Final = 7.0

NOT_MEASURED: Final = "not measured yet"


class Standing(enum.StrEnum):
    """How a figure stands."""

    OK = "ok"
    INVESTIGATE = "investigate"
    BAD = "bad"
    UNKNOWN = "unknown"


_GRAVITY: Final = (Standing.UNKNOWN, Standing.OK, Standing.INVESTIGATE, Standing.BAD)


def gravest(standings: Iterable[Standing]) -> Standing:
    """The worst of them; what is not known is no worse than what is good."""
    return max(standings, key=_GRAVITY.index, default=Standing.UNKNOWN)


# --- facts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attended:
    """Of so many minutes, those in which a part of the system said that it was there."""

    up: int = 0
    of: int = 0

    def __add__(self, other: Attended) -> Attended:
        return Attended(self.up + other.up, self.of + other.of)


@dataclass(frozen=True, slots=True)
class Facts:
    """What happened in a span of time, in numbers that add up. A `None` was not measured."""

    #: Lowers by class of latency (`latency_class`): of a channel, how long each took; of a merchant, each sale's until
    #: its last store was lowered.
    latency: Mapping[int, int] = field(default_factory=dict)
    #: Of those, how many have not arrived yet and count with the time they have waited so far.
    still_waiting: int = 0
    levels_compared: int = 0
    levels_differing: int = 0
    drifts: int = 0
    drifts_unexplained: int = 0
    units_sold: int = 0
    units_short: int = 0
    units_short_open: int = 0
    shortages: int = 0
    events: int = 0
    events_dead: int = 0
    writes: int = 0
    writes_refused: int = 0
    #: By part: "receiver", "workers", "beat", each of the whole system.
    attended: Mapping[str, Attended] = field(default_factory=dict)
    channel_seconds: float | None = None
    channel_down_seconds: float | None = None
    calls: int | None = None
    calls_throttled: int | None = None
    breaker_seconds: float | None = None
    #: Buffers: over how many hours of how many levels with one they were watched, how often the stock behind a level
    #: fell into its buffer and below zero, the most units ever used of one, and how large that one was.
    buffer_hours: int = 0
    buffer_levels: int = 0
    buffer_entered: int = 0
    buffer_below_zero: int = 0
    buffer_used: int = 0
    buffer_size: int = 0

    def __add__(self, other: Facts) -> Facts:
        added: dict[str, Any] = {}
        for name in _NAMES:
            mine, theirs = getattr(self, name), getattr(other, name)
            if name in ("latency", "attended"):
                added[name] = _added(mine, theirs)
            elif name in ("buffer_levels", "buffer_used", "buffer_size"):
                continue
            elif mine is None or theirs is None:
                added[name] = theirs if mine is None else mine
            else:
                added[name] = mine + theirs
        most = max(self, other, key=lambda facts: (facts.buffer_used, facts.buffer_size))
        added |= {
            "buffer_levels": max(self.buffer_levels, other.buffer_levels),
            "buffer_used": most.buffer_used,
            "buffer_size": most.buffer_size,
        }
        return Facts(**added)

    def as_json(self) -> dict[str, Any]:
        """What is kept of a day: everything that is not nothing."""
        told: dict[str, Any] = {name: getattr(self, name) for name in _NAMES}
        told["latency"] = {str(place): count for place, count in sorted(self.latency.items())}
        told["attended"] = {part: [minutes.up, minutes.of] for part, minutes in sorted(self.attended.items())}
        return {name: value for name, value in told.items() if value or (value == 0 and name in _MAY_BE_UNKNOWN)}


_NAMES: Final = tuple(part.name for part in fields(Facts))
_MAY_BE_UNKNOWN: Final = frozenset(part.name for part in fields(Facts) if part.default is None)

NOTHING: Final = Facts()


def _added(mine: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> dict[Any, Any]:
    return {
        key: mine[key] + theirs[key] if key in mine and key in theirs else mine.get(key, theirs.get(key))
        for key in sorted({*mine, *theirs})
    }


def from_json(told: Mapping[str, Any]) -> Facts:
    """Facts as they were kept; what an older version did not know is not there."""
    known = {name: value for name, value in told.items() if name in _NAMES}
    known["latency"] = {int(place): count for place, count in told.get("latency", {}).items()}
    known["attended"] = {part: Attended(*minutes) for part, minutes in told.get("attended", {}).items()}
    return Facts(**known)


def latency_class(seconds: float) -> int:
    """The class of a latency (SQL does the same, see `sync.scorecard`)."""
    return max(0, math.ceil(math.log(max(seconds, LATENCY_FIRST_SECONDS) / LATENCY_FIRST_SECONDS, LATENCY_STEP) - 1e-9))


def percentile(latency: Mapping[int, int], share: float) -> float | None:
    """Seconds that `share` of the latencies do not exceed, at most; None without any."""
    total = sum(latency.values())
    wanted, seen = max(1, math.ceil(share * total)), 0
    for place in sorted(latency):
        seen += latency[place]
        if seen >= wanted:
            return float(LATENCY_FIRST_SECONDS * LATENCY_STEP**place)
    return None


@dataclass(frozen=True, slots=True)
class Waits:
    """What is unfinished at this moment: ages in seconds (None: nothing waits), and counts."""

    oldest_event: float | None = None
    oldest_change: float | None = None
    oldest_write: float | None = None
    pending_events: int = 0
    dead_letters: int = 0

    @property
    def oldest(self) -> float | None:
        return max(
            (age for age in (self.oldest_event, self.oldest_change, self.oldest_write) if age is not None), default=None
        )


# --- figures ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure as it is shown: `value` for programs (seconds, shares of one, or a count), the rest for people."""

    key: str
    name: str
    value: float | None
    said: str
    target: str
    standing: Standing
    advice: str = ""
    detail: str = ""

    @property
    def standing_said(self) -> str:
        return NOT_MEASURED if self.standing is Standing.UNKNOWN else str(self.standing)


def judge(facts: Facts, waits: Waits | None = None, *, days: float = 1.0) -> tuple[Figure, ...]:
    """Every figure of these facts.

    `waits`: what is unfinished now; None leaves its figures out. `days`: how long the span is.
    """
    return (
        *_latency(facts),
        _accuracy(facts),
        _overselling(facts),
        *(_attended(facts, part) for part in PARTS),
        _connectors(facts),
        _errors(facts),
        _buffers(facts, days),
        *(() if waits is None else (_queue(waits), _dead(waits))),
        _mismatches(facts),
        _throttled(facts),
        _breaker(facts),
    )


def share_said(share: float, *, decimals: int = 2) -> str:
    """A share as a percentage that never rounds what is not whole to a whole: "99.99 %", not "100 %"."""
    percent = share * 100
    told = f"{percent:.{decimals}f}"
    if 0 < percent < 100 and float(told) in (0.0, 100.0):
        edge = 10**-decimals
        return f"under {edge:g} %" if float(told) == 0.0 else f"over {100 - edge:g} %"
    return f"{told.rstrip('0').rstrip('.') if '.' in told else told} %"


def _seconds_said(seconds: float) -> str:
    return words.duration(timedelta(seconds=seconds))


def _up_to(value: float, target: float, bad: float) -> Standing:
    return Standing.OK if value <= target else Standing.INVESTIGATE if value <= bad else Standing.BAD


def _down_to(value: float, target: float, bad: float) -> Standing:
    return Standing.OK if value >= target else Standing.INVESTIGATE if value >= bad else Standing.BAD


def _unknown(key: str, name: str, target: str, why: str = "") -> Figure:
    return Figure(key, name, None, NOT_MEASURED, target, Standing.UNKNOWN, detail=why)


def _latency(facts: Facts) -> tuple[Figure, ...]:
    count = sum(facts.latency.values())
    figures = []
    for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
        key, called = f"latency_{name}", f"Sync latency, {name}"
        value = percentile(facts.latency, share)
        if value is None:
            figures.append(_unknown(key, called, "30 s at most", "nothing was sold that another store had to show"))
            continue
        standing = _up_to(value, LATENCY_TARGET_SECONDS, LATENCY_BAD_SECONDS)
        waiting = f"; {facts.still_waiting} still on the way" if facts.still_waiting else ""
        figures.append(
            Figure(
                key,
                called,
                value,
                _seconds_said(value),
                "30 s at most",
                standing,
                ""
                if standing is Standing.OK
                else "Look for a store that does not answer or whose budget is used up, then for a long queue.",
                f"{words.count(count, 'change')}{waiting}",
            )
        )
    return tuple(figures)


def _accuracy(facts: Facts) -> Figure:
    key, name, target = "accuracy", "Accuracy", "99.5 % at least"
    if not facts.levels_compared:
        return _unknown(key, name, target, "no reconciliation has compared anything in this time")
    value = 1 - min(facts.levels_differing, facts.levels_compared) / facts.levels_compared
    standing = _down_to(value, ACCURACY_TARGET, ACCURACY_BAD)
    return Figure(
        key,
        name,
        value,
        share_said(value),
        target,
        standing,
        "" if standing is Standing.OK else "Open the drifts: what differed, where, and what explained it.",
        f"{words.grouped(facts.levels_differing)} of {words.count(facts.levels_compared, 'level')} differed",
    )


def _overselling(facts: Facts) -> Figure:
    key, name, target = "overselling", "Overselling", "0"
    if not facts.units_short:
        detail = f"{words.count(facts.units_sold, 'unit')} sold, none beyond stock"
        return Figure(key, name, 0.0, "0 %", target, Standing.OK, detail=detail)
    sold = max(facts.units_short, facts.units_sold)
    value = facts.units_short / sold
    standing = Standing.BAD if facts.units_short_open else Standing.INVESTIGATE
    lacking = f", {facts.units_short_open} still lacking" if facts.units_short_open else ", all covered since"
    advice = (
        "Bring stock or cancel: each shortage below leads to its story."
        if facts.units_short_open
        else "Read the stories below: a split policy or a higher guard threshold prevents the next one."
    )
    return Figure(
        key,
        name,
        value,
        share_said(value),
        target,
        standing,
        advice,
        f"{words.count(facts.units_short, 'unit')} of {words.grouped(sold)} sold{lacking}",
    )


#: The parts whose presence is noted (`sync.presence`): name, what it is called, what to do when it is away.
PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "receiver": ("Uptime of the receiver", "See /livez of each web process and whether the database takes writes."),
    "workers": (
        "Uptime of the workers",
        "Restart the workers; nothing is lost by it. See the runbook: heartbeats.sweep.",
    ),
    "beat": ("Uptime of the schedule", "Restart beat; see whether the broker answers."),
}


def _attended(facts: Facts, part: str) -> Figure:
    key, target = f"uptime_{part}", "99.9 % at least"
    name, remedy = PARTS[part]
    minutes = facts.attended.get(part, Attended())
    if not minutes.of:
        return _unknown(key, name, target)
    value = minutes.up / minutes.of
    standing = _down_to(value, UPTIME_TARGET, UPTIME_BAD)
    missed = minutes.of - minutes.up
    return Figure(
        key,
        name,
        value,
        share_said(value),
        target,
        standing,
        "" if standing is Standing.OK else remedy,
        f"away in {words.count(missed, 'minute')} of {words.grouped(minutes.of)}" if missed else "",
    )


def _connectors(facts: Facts) -> Figure:
    key, name, target = "uptime_connector", "Uptime of the stores' side", "99.9 % at least"
    if not facts.channel_seconds or facts.channel_down_seconds is None:
        return _unknown(key, name, target)
    value = 1 - min(facts.channel_down_seconds, facts.channel_seconds) / facts.channel_seconds
    standing = _down_to(value, UPTIME_TARGET, UPTIME_BAD)
    return Figure(
        key,
        name,
        value,
        share_said(value),
        target,
        standing,
        ""
        if standing is Standing.OK
        else "See the channel's last error; what it missed is read when it answers again.",
        f"{_seconds_said(facts.channel_down_seconds)} without an answer" if facts.channel_down_seconds else "",
    )


def _errors(facts: Facts) -> Figure:
    key, name, target = "errors", "Error rate", "0.1 % at most"
    done = facts.events + facts.writes + facts.writes_refused
    failed = facts.events_dead + facts.writes_refused
    if not done:
        return _unknown(key, name, target, "nothing arrived and nothing was written")
    value = failed / done
    standing = _up_to(value, ERROR_TARGET, ERROR_BAD)
    return Figure(
        key,
        name,
        value,
        share_said(value),
        target,
        standing,
        "" if standing is Standing.OK else "Open the dead letters and the refused pushes; each says what to do.",
        f"{words.count(facts.events_dead, 'dead event')}, {words.count(facts.writes_refused, 'level')} refused by a store, "
        f"of {words.grouped(done)}",
    )


def _buffers(facts: Facts, days: float) -> Figure:
    key, name, target = "buffers", "Buffers", "used now and then, never below zero"
    if not facts.buffer_hours:
        return _unknown(key, name, target, "no listing has a buffer in units, or no whole hour was watched yet")
    used = facts.buffer_used / facts.buffer_size if facts.buffer_size else 0.0
    times = _times(facts.buffer_entered)
    if facts.buffer_below_zero:
        said = f"too small: ate into it {times}, went below 0 {_times(facts.buffer_below_zero)}"
        advice = "Raise the buffer of the SKUs concerned, or let their group split its stock."
        standing = Standing.INVESTIGATE
    elif used <= BUFFER_IDLE_SHARE and days >= BUFFER_IDLE_DAYS:
        span = words.count(round(days), "day")
        most = f"{facts.buffer_used} of {facts.buffer_size}" if facts.buffer_used else "any of it"
        said = f"too large: never used {'more than ' if facts.buffer_used else ''}{most} in {span}"
        advice = "Lower the buffer: its units could be for sale."
        standing = Standing.INVESTIGATE
    elif facts.buffer_used:
        said = f"right: ate into it {times}, {facts.buffer_used} of {facts.buffer_size} at most"
        advice, standing = "", Standing.OK
    else:
        said, advice, standing = "not used", "", Standing.OK
    watched = f"{words.count(facts.buffer_levels, 'listing')} with a buffer"
    return Figure(key, name, used, said, target, standing, advice, watched)


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{words.grouped(count)} times")


def _queue(waits: Waits) -> Figure:
    key, name, target = "queue_lag", "Queue lag, now", "30 s at most"
    oldest = waits.oldest
    if oldest is None:
        return Figure(key, name, 0.0, "nothing waits", target, Standing.OK)
    standing = _up_to(oldest, QUEUE_TARGET_SECONDS, QUEUE_BAD_SECONDS)
    what = {waits.oldest_event: "an event", waits.oldest_change: "a change", waits.oldest_write: "a write"}[oldest]
    return Figure(
        key,
        name,
        oldest,
        _seconds_said(oldest),
        target,
        standing,
        "" if standing is Standing.OK else "More workers if events wait; a store that does not answer if writes do.",
        f"the oldest is {what}; {words.count(waits.pending_events, 'event')} wait"
        + ("s" if waits.pending_events == 1 else ""),
    )


def _dead(waits: Waits) -> Figure:
    count = waits.dead_letters
    standing = Standing.OK if not count else Standing.INVESTIGATE if count < DEAD_BAD else Standing.BAD
    advice = "" if not count else "Open the inbox's dead events: each says why, and can be applied again."
    return Figure("dead_letters", "Dead letters, now", float(count), words.grouped(count), "0", standing, advice)


def _mismatches(facts: Facts) -> Figure:
    key, name, target = "mismatches", "Mismatch rate", "0.5 % at most"
    if not facts.levels_compared:
        return _unknown(key, name, target)
    value = min(facts.drifts_unexplained, facts.levels_compared) / facts.levels_compared
    standing = _up_to(value, MISMATCH_TARGET, MISMATCH_BAD)
    return Figure(
        key,
        name,
        value,
        share_said(value),
        target,
        standing,
        ""
        if standing is Standing.OK
        else "Somebody changes stock in the store by hand, or an app does: see the drifts.",
        f"{words.grouped(facts.drifts_unexplained)} of {words.count(facts.drifts, 'difference')} explained by nothing",
    )


def _throttled(facts: Facts) -> Figure:
    key, name, target = "rate_limits", "Rate-limit hits", "1 % of calls at most"
    if facts.calls is None or facts.calls_throttled is None:
        return _unknown(key, name, target)
    value = facts.calls_throttled / facts.calls if facts.calls else 0.0
    standing = _up_to(value, THROTTLED_TARGET, THROTTLED_BAD)
    return Figure(
        key,
        name,
        value,
        share_said(value),
        target,
        standing,
        ""
        if standing is Standing.OK
        else "Another app may use the same budget; full syncs belong into the quiet hours.",
        f"{words.grouped(facts.calls_throttled)} of {words.count(facts.calls, 'call')}",
    )


def _breaker(facts: Facts) -> Figure:
    key, name, target = "breaker", "Time with an open breaker", "0"
    if facts.breaker_seconds is None:
        return _unknown(key, name, target)
    share = facts.breaker_seconds / facts.channel_seconds if facts.channel_seconds else 0.0
    standing = Standing.OK if not facts.breaker_seconds else _up_to(share, 0.0, BREAKER_BAD)
    said = _seconds_said(facts.breaker_seconds) if facts.breaker_seconds else "none"
    advice = (
        "" if standing is Standing.OK else "See the channel's last error: the store failed or could not be reached."
    )
    return Figure(key, name, facts.breaker_seconds, said, target, standing, advice)
