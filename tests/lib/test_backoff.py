import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synctec.lib.backoff import MAX_ATTEMPTS, RETRY_SECONDS, delay_seconds, next_attempt_at

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
attempts = st.integers(min_value=1, max_value=MAX_ATTEMPTS)
seeds = st.integers()


def test_the_schedule_is_the_announced_one() -> None:
    assert RETRY_SECONDS == (1, 2, 4, 8, 16)
    assert MAX_ATTEMPTS == 5


@given(attempt=attempts, seed=seeds)
def test_a_delay_lies_between_half_of_its_step_and_the_whole(attempt: int, seed: int) -> None:
    step = RETRY_SECONDS[attempt - 1]

    assert step / 2 <= delay_seconds(attempt, random.Random(seed)) <= step


@given(seed=seeds)
def test_delays_never_get_shorter(seed: int) -> None:
    rng = random.Random(seed)
    delays = [delay_seconds(attempt, rng) for attempt in range(1, MAX_ATTEMPTS + 1)]

    assert delays == sorted(delays)
    assert sum(delays) <= 31


@given(attempt=attempts, seed=seeds)
def test_a_seed_replays_a_delay(attempt: int, seed: int) -> None:
    assert delay_seconds(attempt, random.Random(seed)) == delay_seconds(attempt, random.Random(seed))


def test_delays_are_spread() -> None:
    rng = random.Random(1)

    assert len({delay_seconds(3, rng) for _ in range(100)}) == 100


@pytest.mark.parametrize("attempt", [-1, 0, 6])
def test_a_retry_off_the_schedule_is_a_mistake(attempt: int) -> None:
    with pytest.raises(ValueError, match="not on the schedule"):
        delay_seconds(attempt, random.Random(1))


@given(failures=attempts, seed=seeds)
def test_a_failure_is_followed_by_a_later_try(failures: int, seed: int) -> None:
    at = next_attempt_at(now=NOW, failures=failures, rng=random.Random(seed))

    assert at is not None
    assert timedelta(seconds=0.5) <= at - NOW <= timedelta(seconds=16)


def test_after_the_last_retry_comes_none() -> None:
    assert next_attempt_at(now=NOW, failures=MAX_ATTEMPTS + 1, rng=random.Random(1)) is None
