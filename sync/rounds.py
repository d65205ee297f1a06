"""When a channel's next reconciliation is due. Pure.

Every channel has its own slots within the interval, so that fifty of them do not start at once, and a channel is due when its
last pass began before its latest slot: whoever looks, and however often, finds the same. After a pass that failed or raised
the alarm the next one comes soon.

Once a day, from the merchant's quiet hour on, every level is read at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo

#: After a pass that failed, or found too much that differs.
AGAIN_AFTER = timedelta(minutes=15)
#: Full syncs of a merchant's channels begin within so long.
QUIET_SPREAD = timedelta(hours=1)
#: A full sync that was missed for longer than this waits for the next night.
QUIET_LASTS = timedelta(hours=6)
#: Multiples of it fall evenly between 0 and 1, however many there are (the golden ratio).
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class Last:
    """A channel's latest pass."""

    began_at: datetime
    ended_at: datetime
    is_bad: bool  # it failed, or raised the alarm


def share_of(channel_id: int) -> float:
    """Where in every interval the channel's slot is, between 0 and 1."""
    return channel_id * _GOLDEN % 1.0


def is_due(channel_id: int, last: Last | None, every: timedelta, now: datetime) -> bool:
    """Whether the channel's next pass is to begin. One that never had any is due at once."""
    if last is None:
        return True
    if last.is_bad and now - last.ended_at >= min(AGAIN_AFTER, every):
        return True
    seconds = every.total_seconds()
    offset = share_of(channel_id) * seconds
    since_slot = (now.timestamp() - offset) % seconds
    return last.began_at < now - timedelta(seconds=since_slot)


def is_full_sync_due(
    channel_id: int, last_began_at: datetime | None, quiet_hour: int | None, clock: tzinfo, now: datetime
) -> bool:
    """Whether the channel's daily full sync is to begin, by the merchant's `clock`; `quiet_hour` None: never."""
    if quiet_hour is None:
        return False
    today = now.astimezone(clock).date()
    for day in (today, today - timedelta(days=1)):
        night = datetime.combine(day, time(quiet_hour), tzinfo=clock)
        begins_at = night + QUIET_SPREAD * share_of(channel_id)
        if begins_at <= now < night + QUIET_LASTS:
            return last_began_at is None or last_began_at < night
    return False
