"""When channels are reconciled: slots, soon again after trouble, once a night."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.marks import Marks
from sync.rounds import AGAIN_AFTER, QUIET_LASTS, Last, is_due, is_full_sync_due, share_of

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
EVERY = timedelta(hours=3)


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


def passed(began_at: datetime, *, is_bad: bool = False) -> Last:
    return Last(began_at, began_at + timedelta(minutes=5), is_bad)


def test_a_channel_that_was_never_reconciled_is_due_at_once() -> None:
    assert is_due(1, None, EVERY, NOON)


@pytest.mark.hypothesis
@given(st.integers(1, 10**9), st.integers(0, 10**6))
def test_every_channel_is_due_once_in_each_interval_however_often_somebody_looks(channel: int, seconds: int) -> None:
    begins_at = NOON + timedelta(seconds=seconds)
    started = [begins_at]
    for minute in range(1, 9 * 60):
        now = begins_at + timedelta(minutes=minute)
        for _ in range(2):
            if is_due(channel, passed(started[-1]), EVERY, now):
                started.append(now)

    gaps = {later - earlier for earlier, later in pairwise(started[1:])}
    assert len(started) in (3, 4)
    assert gaps == {EVERY}


def test_fifty_channels_do_not_begin_at_once() -> None:
    slots = Counter(int(share_of(channel) * 36) for channel in range(101, 151))

    assert max(slots.values()) <= 2


@pytest.mark.parametrize(("minutes", "expected"), [(14, False), (20, True)])
def test_after_a_bad_pass_the_next_one_comes_soon(minutes: int, expected: bool) -> None:
    channel = next(channel for channel in range(1, 100) if 0.5 < share_of(channel) < 0.6)
    began_at = datetime.fromtimestamp((NOON.timestamp() // 10800) * 10800 + 10800 * 0.65, UTC)

    now = began_at + timedelta(minutes=minutes)

    assert timedelta(minutes=15) == AGAIN_AFTER
    assert is_due(channel, passed(began_at, is_bad=True), EVERY, now) is expected
    assert not is_due(channel, passed(began_at), EVERY, now)


def test_a_full_sync_begins_after_the_quiet_hour_of_the_merchants_own_clock() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    channel = next(channel for channel in range(1, 100) if share_of(channel) < 0.05)
    night = datetime(2026, 11, 21, 3, 0, tzinfo=berlin)

    assert not is_full_sync_due(channel, None, 3, berlin, night - timedelta(minutes=1))
    assert is_full_sync_due(channel, None, 3, berlin, night + timedelta(minutes=5))
    assert is_full_sync_due(channel, night - timedelta(hours=20), 3, berlin, night + timedelta(minutes=5))
    assert not is_full_sync_due(channel, night + timedelta(minutes=4), 3, berlin, night + timedelta(minutes=5))
    assert not is_full_sync_due(channel, None, 3, UTC, night + timedelta(minutes=5))
    assert not is_full_sync_due(channel, None, None, berlin, night + timedelta(minutes=5))


def test_a_full_sync_that_was_missed_waits_for_the_next_night() -> None:
    night = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)

    assert is_full_sync_due(1, None, 23, UTC, night + QUIET_LASTS - timedelta(minutes=1))
    assert not is_full_sync_due(1, None, 23, UTC, night + QUIET_LASTS)


@pytest.mark.hypothesis
@given(st.integers(-100, 10**6), st.lists(st.integers(0, 500), max_size=50))
def test_marks_are_a_set(first: int, places: list[int]) -> None:
    marks = Marks(first, first + 500)
    for place in places:
        marks.add(first + place)

    assert {place for place in range(501) if first + place in marks} == set(places)
    assert first - 1 not in marks
    marks.add(first - 1)
    assert first - 1 not in marks
