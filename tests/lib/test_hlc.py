import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synctec.lib.hlc import (
    COUNTER_MAX,
    FUTURE_LIMIT_MS,
    MILLISECONDS_MAX,
    HybridClock,
    pack,
    unpack,
)

NOW_MS = 1_795_000_000_000
clocks = st.integers()
stamps = st.integers(min_value=0, max_value=(1 << 63) - 1)
milliseconds = st.integers(min_value=0, max_value=MILLISECONDS_MAX)
counters = st.integers(min_value=0, max_value=COUNTER_MAX)


@given(ms=milliseconds, counter=counters)
def test_a_stamp_is_a_positive_64_bit_integer_that_unpacks(ms: int, counter: int) -> None:
    stamp = pack(ms, counter)

    assert 0 <= stamp < 1 << 63
    assert unpack(stamp) == (ms, counter)


@given(left=st.tuples(milliseconds, counters), right=st.tuples(milliseconds, counters))
def test_stamps_sort_as_their_parts(left: tuple[int, int], right: tuple[int, int]) -> None:
    assert (pack(*left) < pack(*right)) == (left < right)


@pytest.mark.parametrize(("ms", "counter"), [(-1, 0), (1 << 48, 0), (0, -1), (0, 1 << 15)])
def test_parts_that_do_not_fit_are_refused(ms: int, counter: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        pack(ms, counter)


@pytest.mark.parametrize("stamp", [-1, 1 << 63])
def test_numbers_that_are_no_stamps_are_refused(stamp: int) -> None:
    with pytest.raises(ValueError, match="not a stamp"):
        unpack(stamp)
    with pytest.raises(ValueError, match="not a stamp"):
        HybridClock(stamp)


events = st.lists(st.one_of(clocks.map(lambda now: (None, now)), st.tuples(stamps, clocks)))


@given(events=events)
def test_stamps_ascend_under_any_wall_clock_and_any_remote_stamp(
    events: list[tuple[int | None, int]],
) -> None:
    clock = HybridClock()
    given = [0]

    for remote, now_ms in events:
        given.append(clock.tick(now_ms) if remote is None else clock.observe(remote, now_ms)[0])

    assert all(earlier < later for earlier, later in itertools.pairwise(given))
    assert all(0 <= stamp < 1 << 63 for stamp in given)


@given(remote=stamps, now_ms=st.integers(min_value=0, max_value=1 << 46))
def test_a_receipt_comes_after_what_was_received_unless_that_is_flagged(remote: int, now_ms: int) -> None:
    stamp, clamped = HybridClock().observe(remote, now_ms)

    assert clamped == (unpack(remote)[0] > now_ms + FUTURE_LIMIT_MS)
    assert (stamp > remote) != clamped
    assert unpack(stamp)[0] <= now_ms + FUTURE_LIMIT_MS + 1 or not clamped


def test_a_stamp_follows_the_wall_clock() -> None:
    clock = HybridClock()

    assert unpack(clock.tick(NOW_MS)) == (NOW_MS, 0)
    assert unpack(clock.tick(NOW_MS)) == (NOW_MS, 1)
    assert unpack(clock.tick(NOW_MS - 1000)) == (NOW_MS, 2)
    assert unpack(clock.tick(NOW_MS + 1)) == (NOW_MS + 1, 0)


def test_a_full_counter_carries_into_the_milliseconds() -> None:
    clock = HybridClock(pack(NOW_MS, COUNTER_MAX))

    assert unpack(clock.tick(NOW_MS)) == (NOW_MS + 1, 0)


def test_a_clock_continues_after_its_start() -> None:
    clock = HybridClock(pack(NOW_MS, 7))

    assert unpack(clock.tick(NOW_MS - 60_000)) == (NOW_MS, 8)


def test_a_remote_stamp_within_five_minutes_is_taken() -> None:
    clock = HybridClock()
    ahead = pack(NOW_MS + FUTURE_LIMIT_MS, 3)

    assert clock.observe(ahead, NOW_MS) == (ahead + 1, False)


def test_a_remote_stamp_of_a_broken_clock_does_not_drag_ours_along() -> None:
    clock = HybridClock()

    stamp, clamped = clock.observe(pack(NOW_MS + 10 * FUTURE_LIMIT_MS, 0), NOW_MS)

    assert clamped
    assert unpack(stamp) == (NOW_MS + FUTURE_LIMIT_MS + 1, 0)


def test_threads_never_get_the_same_stamp() -> None:
    clock = HybridClock()
    barrier = threading.Barrier(8)

    def tick(_: int) -> list[int]:
        barrier.wait()
        return [clock.tick(NOW_MS) for _ in range(1_000)]

    with ThreadPoolExecutor(8) as pool:
        stamps = [stamp for batch in pool.map(tick, range(8)) for stamp in batch]

    assert len(set(stamps)) == 8_000
