from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synctec.lib.breaker import (
    CALLS_MIN,
    OPEN_SECONDS,
    OPEN_SECONDS_MAX,
    PROBE_LEASE_SECONDS,
    RUN_MAX,
    WINDOW_SECONDS,
    Admission,
    Breaker,
    State,
)
from tests.lib.virtual_time import pass_time

KEY = "breaker:channel:1"


@pytest.fixture
def breaker(valkey: "redis.Redis") -> Breaker:
    return Breaker(valkey, KEY)


@pytest.fixture
def known(breaker: Breaker) -> Breaker:
    """A breaker that has seen an answer."""
    breaker.answered(breaker.admit())
    return breaker


@pytest.fixture
def opened(known: Breaker) -> Breaker:
    fail(known, RUN_MAX)
    return known


@pytest.fixture
def later(valkey: "redis.Redis") -> Callable[[float], None]:
    return lambda seconds: pass_time(valkey, KEY, seconds)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        admission = breaker.admit()
        assert admission.is_granted
        breaker.failed(admission, "HTTP_500")


def test_where_nothing_is_known_one_call_asks(breaker: Breaker) -> None:
    first, second = breaker.admit(), breaker.admit()

    assert (first.is_granted, first.is_probe) == (True, True)
    assert second.wait_seconds == 1.0
    assert (second.standing.state, second.standing.has_opened) == (State.HALF_OPEN, False)


def test_any_answer_closes_it_where_nothing_is_known(breaker: Breaker, valkey: "redis.Redis") -> None:
    before_the_loss = breaker.admit()
    valkey.flushall()
    breaker.admit()

    assert breaker.answered(before_the_loss).state is State.CLOSED


def test_where_nothing_is_known_a_failure_lets_the_next_one_ask_until_there_are_too_many(breaker: Breaker) -> None:
    fail(breaker, RUN_MAX - 1)
    assert breaker.peek().state is State.HALF_OPEN

    fail(breaker, 1)

    assert breaker.peek().state is State.OPEN


def test_after_a_loss_of_redis_it_asks_again(opened: Breaker, valkey: "redis.Redis") -> None:
    valkey.flushall()

    assert opened.admit().is_probe


def test_the_script_survives_a_restart_of_the_server(known: Breaker, valkey: "redis.Redis") -> None:
    valkey.script_flush()

    assert known.admit().is_granted


def test_a_closed_breaker_admits_any_number_at_once(known: Breaker) -> None:
    assert all(known.admit().is_granted for _ in range(50))


def test_failures_in_a_row_open_it(known: Breaker) -> None:
    fail(known, RUN_MAX - 1)
    assert known.peek().state is State.CLOSED

    fail(known, 1)

    standing = known.peek()
    assert (standing.state, standing.run, standing.reason) == (State.OPEN, RUN_MAX, "HTTP_500")
    assert standing.left_seconds == pytest.approx(OPEN_SECONDS, abs=1)
    assert known.admit().wait_seconds == pytest.approx(OPEN_SECONDS, abs=1)


def test_an_answer_breaks_the_row(known: Breaker) -> None:
    for _ in range(2):
        fail(known, RUN_MAX - 1)
        for _ in range(2 * RUN_MAX):
            known.answered(known.admit())

    assert known.peek().state is State.CLOSED


def test_half_of_enough_calls_opens_it(known: Breaker) -> None:
    # In turn, so that no two fail in a row; and an answer never opens it.
    while known.peek().state is State.CLOSED:
        fail(known, 1)
        if known.peek().state is State.CLOSED:
            known.answered(known.admit())

    assert (known.peek().calls, known.peek().failures) == (CALLS_MIN + 1, CALLS_MIN // 2 + 1)


def test_less_than_half_does_not(known: Breaker) -> None:
    for _ in range(20):
        fail(known, 1)
        known.answered(known.admit())
        known.answered(known.admit())

    assert known.peek().state is State.CLOSED


def test_what_failed_a_minute_ago_is_forgotten(known: Breaker, later: Callable[[float], None]) -> None:
    for _ in range(4):
        fail(known, 1)
        known.answered(known.admit())
    later(WINDOW_SECONDS)

    fail(known, 1)

    assert (known.peek().calls, known.peek().failures, known.peek().state) == (1, 1, State.CLOSED)


def test_when_the_pause_is_over_exactly_one_asks(opened: Breaker, later: Callable[[float], None]) -> None:
    later(OPEN_SECONDS - 1)
    assert not opened.admit().is_granted
    later(1)

    admissions = [opened.admit() for _ in range(5)]

    assert [admission.is_granted for admission in admissions] == [True, False, False, False, False]
    assert admissions[0].is_probe
    assert admissions[1].standing.has_opened


def test_two_clients_race_for_the_probe_and_one_wins(
    valkey: "redis.Redis", opened: Breaker, later: Callable[[float], None]
) -> None:
    for _ in range(20):
        later(OPEN_SECONDS_MAX)
        with (
            redis.Redis(port=valkey.connection_pool.connection_kwargs["port"]) as other,
            ThreadPoolExecutor(8) as pool,
        ):
            both = [opened, Breaker(other, KEY)] * 4
            admissions = list(pool.map(lambda breaker: breaker.admit(), both))
        [probe] = [admission for admission in admissions if admission.is_granted]
        opened.failed(probe, "HTTP_500")


def test_the_answer_of_the_probe_closes_it(opened: Breaker, later: Callable[[float], None]) -> None:
    later(OPEN_SECONDS)
    probe = opened.admit()

    opened.answered(probe)

    standing = opened.peek()
    assert (standing.state, standing.calls, standing.run) == (State.CLOSED, 0, 0)
    fail(opened, RUN_MAX - 1)
    assert opened.peek().state is State.CLOSED


def test_each_failed_probe_opens_it_again_for_a_quarter_of_the_time_up_to_a_bound(
    opened: Breaker, later: Callable[[float], None]
) -> None:
    pauses = [opened.peek().left_seconds]
    for _ in range(13):
        later(pauses[-1] + 0.001)
        opened.failed(opened.admit(), "HTTP_503")
        pauses.append(opened.peek().left_seconds)

    assert pauses == pytest.approx([10, 10, 10, 10, 10, 12.5, 15.6, 19.5, 24.4, 30.5, 38.1, 47.7, 59.6, 60], abs=0.5)
    assert opened.peek().reason == "HTTP_503"
    assert opened.peek().open_for_seconds == pytest.approx(sum(pauses[:-1]), abs=1)


def test_what_was_sent_before_it_opened_tells_nothing_of_now(known: Breaker) -> None:
    slow = known.admit()
    fail(known, RUN_MAX)

    known.answered(slow)

    assert known.peek().state is State.OPEN


def test_a_late_failure_does_not_make_it_longer(known: Breaker, later: Callable[[float], None]) -> None:
    slow = known.admit()
    fail(known, RUN_MAX)
    later(OPEN_SECONDS - 5)

    known.failed(slow, "HTTP_500")

    assert known.peek().left_seconds == pytest.approx(5, abs=1)


def test_a_killed_prober_does_not_block_it(opened: Breaker, later: Callable[[float], None]) -> None:
    later(OPEN_SECONDS)
    dead = opened.admit()
    later(PROBE_LEASE_SECONDS - 1)
    assert not opened.admit().is_granted
    later(1)

    probe = opened.admit()

    assert probe.is_probe
    # Should the other live after all, its word counts no more.
    opened.failed(dead, "HTTP_500")
    assert opened.answered(probe).state is State.CLOSED


def test_a_probe_that_is_not_made_leaves_it_to_the_next(opened: Breaker, later: Callable[[float], None]) -> None:
    later(OPEN_SECONDS)

    opened.withdrawn(opened.admit())

    assert opened.admit().is_probe


def test_a_clock_that_goes_back_keeps_nobody_waiting(opened: Breaker, later: Callable[[float], None]) -> None:
    later(-3600)  # the state was written by a clock an hour ahead

    assert opened.admit().is_probe


def test_a_lost_probe_of_a_clock_that_went_back_is_no_probe(opened: Breaker, later: Callable[[float], None]) -> None:
    later(OPEN_SECONDS)
    opened.admit()
    later(-3600)

    assert opened.admit().is_probe


def test_peeking_changes_nothing(breaker: Breaker, valkey: "redis.Redis") -> None:
    assert breaker.peek().state is State.HALF_OPEN
    assert valkey.exists(KEY) == 0


acts = st.lists(
    st.one_of(
        st.just(("admit", 0.0)),
        st.sampled_from(["answered", "failed", "failed", "withdrawn"]).flatmap(
            lambda act: st.tuples(st.just(act), st.floats(0, 0.999))
        ),
        st.tuples(st.just("pass"), st.sampled_from([0.5, 3.0, 11.0, 29.0, 31.0, 46.0, 61.0])),
        st.just(("lose", 0.0)),
    ),
    min_size=5,
    max_size=60,
)


@settings(max_examples=settings().max_examples // 4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=acts)
def test_whatever_happens_there_is_one_probe_at_most_and_a_reason_to_open(
    valkey: "redis.Redis", acts: list[tuple[str, float]]
) -> None:
    valkey.flushall()
    breaker = Breaker(valkey, KEY)
    now = 0.0
    under_way: list[Admission] = []
    ended: list[tuple[float, bool]] = []  # (when, failed)
    probe: tuple[Admission, float] | None = None  # and until when

    for act, number in acts:
        before = breaker.peek()
        if act == "pass":
            pass_time(valkey, KEY, number)
            now += number
        elif act == "lose":
            valkey.flushall()
            probe, ended = None, []
        elif act == "admit":
            admission = breaker.admit()
            assert admission.is_granted == (before.state is State.CLOSED or admission.is_probe)
            if admission.is_granted:
                under_way.append(admission)
            if admission.is_probe:
                assert before.state is State.HALF_OPEN
                assert probe is None or probe[1] <= now + 0.1
                probe = admission, now + PROBE_LEASE_SECONDS
        elif under_way:
            admission = under_way.pop(int(number * len(under_way)))
            is_its = probe is not None and probe[0] is admission
            if act == "withdrawn":
                breaker.withdrawn(admission)
            elif act == "answered":
                after = breaker.answered(admission)
                ended.append((now, False))
                if before.state is State.OPEN or (before.has_opened and not is_its):
                    assert after.state is before.state
                if is_its or not before.has_opened:
                    assert after.state is State.CLOSED
                    if before.state is not State.CLOSED:
                        ended, probe = [], None
            else:
                after = breaker.failed(admission, "HTTP_500")
                ended.append((now, True))
                run = next((place for place, (_, bad) in enumerate(reversed(ended)) if not bad), len(ended))
                if before.has_opened:
                    assert after.state is (State.OPEN if is_its else before.state)
                elif run >= RUN_MAX:
                    assert after.state is State.OPEN
                elif after.state is State.OPEN:
                    recent = [bad for at, bad in ended if now - at <= WINDOW_SECONDS]
                    assert len(recent) >= CALLS_MIN
            if is_its:
                probe = None
        assert breaker.peek().left_seconds <= OPEN_SECONDS_MAX
