"""When a target wants to be left alone. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, time, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError


def zone(name: str) -> tzinfo:
    """A time zone by its name; UTC when the name means nothing here."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def is_quiet(start: time | None, end: time | None, now: datetime, timezone: str) -> bool:
    """Whether `now` is between `start` and `end` (not included) by that zone's clock; the hours may span midnight."""
    if start is None or end is None or start == end:
        return False
    clock = now.astimezone(zone(timezone)).time()
    return start <= clock < end if start < end else clock >= start or clock < end
