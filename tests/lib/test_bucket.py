import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synctec.lib.bucket import BucketState, CostAboveCapacity, TokenBucket
from tests.lib.virtual_time import pass_time

KEY = "bucket:channel:1"
# So slow that nothing measurable flows in while a test runs.
STILL = 1e-6


def bucket_of(client: "redis.Redis", *, capacity: float = 1000, rate: float = STILL) -> TokenBucket:
    return TokenBucket(client, KEY, default_capacity=capacity, default_rate=rate)


def filled(client: "redis.Redis", level: float, *, capacity: float = 1000, rate: float = STILL) -> TokenBucket:
    bucket = bucket_of(client, capacity=capacity, rate=rate)
    bucket.sync(level, capacity, rate)
    return bucket


def test_an_unknown_bucket_is_empty_and_fills_at_its_rate(valkey: "redis.Redis") -> None:
    bucket = bucket_of(valkey, capacity=2000, rate=100)

    assert bucket.reserve(50) == pytest.approx(0.5)
    assert bucket.reserve(50) < 0.5


def test_after_a_loss_of_redis_there_is_no_burst(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 1000)
    valkey.flushall()

    assert bucket.reserve(1) > 0


def test_the_script_survives_a_restart_of_the_server(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 10)
    valkey.script_flush()

    assert bucket.reserve(10) == 0.0


def test_a_granted_reservation_is_taken(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 100)

    assert bucket.reserve(60) == 0.0

    assert bucket.peek().level == pytest.approx(40, abs=1e-3)
    assert bucket.peek().in_flight == 60


def test_a_refused_reservation_takes_nothing_and_says_how_long_to_wait(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 10, rate=0.5)

    assert bucket.reserve(60) == pytest.approx(100, abs=1)

    assert bucket.peek().level == pytest.approx(10, abs=0.5)
    assert bucket.peek().in_flight == 0


def test_waiting_as_told_is_enough(valkey: "redis.Redis") -> None:
    bucket = bucket_of(valkey, capacity=100, rate=500)

    wait_seconds = bucket.reserve(20)
    time.sleep(wait_seconds)

    assert wait_seconds > 0
    assert bucket.reserve(20) == 0.0


def test_a_bucket_overflows_at_its_capacity(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 10, capacity=10, rate=1e6)

    assert bucket.peek().level == 10


def test_a_cost_above_capacity_is_an_error_and_no_endless_wait(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 100, capacity=100)

    with pytest.raises(CostAboveCapacity, match="cost of 101 never fits a bucket of 100"):
        bucket.reserve(101)

    assert bucket.reserve(100) == 0.0


def test_what_a_call_did_not_cost_goes_back(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 100)
    bucket.reserve(60)

    bucket.settle(60, 12.5)

    assert bucket.peek().level == pytest.approx(87.5, abs=1e-3)
    assert bucket.peek().in_flight == 0


def test_what_a_call_cost_more_is_taken_too(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 100)
    bucket.reserve(90)

    bucket.settle(90, 120)

    assert bucket.peek().level == pytest.approx(-20, abs=1e-3)


def test_a_refund_does_not_overfill(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 100, capacity=100)

    bucket.settle(50, 0)

    assert bucket.peek().level == 100


def test_a_report_replaces_capacity_and_rate(valkey: "redis.Redis") -> None:
    bucket = bucket_of(valkey, capacity=2000, rate=100)

    bucket.sync(1990, 4000, 200)

    state = bucket.peek()
    assert (state.capacity, state.rate_per_second) == (4000, 200)
    assert state.level == pytest.approx(1990, abs=20)


def test_a_lower_report_lowers_the_level_below_what_is_in_flight(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 1000)
    bucket.reserve(100)

    bucket.sync(300, 1000, STILL)

    assert bucket.peek().level == pytest.approx(200, abs=1e-3)


def test_a_report_never_lifts_the_level_over_what_is_in_flight(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 100)
    bucket.reserve(100)

    bucket.sync(1000, 1000, STILL)

    assert bucket.peek().level == pytest.approx(900, abs=1e-3)


def test_a_late_report_does_not_give_back_what_was_settled_since(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 100)
    bucket.reserve(10)
    bucket.reserve(10)
    bucket.settle(10, 10)
    bucket.sync(80, 1000, STILL)  # the answer of the second call, which the server worked off last

    bucket.settle(10, 10)
    bucket.sync(90, 1000, STILL)  # the answer of the first call, late

    assert bucket.peek().level <= 80


def test_a_report_above_capacity_is_cut(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 5000, capacity=1000)

    assert bucket.peek().level == 1000


def test_a_penalty_stops_grants_whatever_the_level(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 1000)

    bucket.penalize(30)
    bucket.penalize(2)  # a shorter one does not shorten it

    assert 29 < bucket.reserve(1) <= 30
    assert bucket.peek().level == pytest.approx(1000, abs=1e-3)


def test_a_penalty_ends(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 1000)
    bucket.penalize(0.05)

    time.sleep(bucket.reserve(1))

    assert bucket.reserve(1) == 0.0


def test_peeking_changes_nothing(valkey: "redis.Redis") -> None:
    state = bucket_of(valkey).peek()

    assert state == BucketState(level=0, capacity=1000, rate_per_second=STILL, in_flight=0, blocked_seconds=0)
    assert valkey.exists(KEY) == 0


def test_reservations_nobody_settles_are_forgotten(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 1000)
    bucket.reserve(400)
    # As if the worker had died two minutes ago.
    valkey.hincrbyfloat(KEY, "flight_at", -121)

    bucket.sync(1000, 1000, STILL)

    assert bucket.peek().in_flight == 0
    assert bucket.peek().level == pytest.approx(1000, abs=1e-3)


def test_a_clock_that_goes_back_gives_nothing(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 10, rate=1)
    valkey.hincrbyfloat(KEY, "at", 3600)  # the state was written by a clock an hour ahead

    assert bucket.reserve(20) == pytest.approx(10, abs=1)


@pytest.mark.parametrize(("capacity", "rate"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1), (1, float("inf"))])
def test_a_bucket_without_capacity_or_rate_is_a_mistake(valkey: "redis.Redis", capacity: float, rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        bucket_of(valkey, capacity=capacity, rate=rate)
    with pytest.raises(ValueError, match="above 0"):
        bucket_of(valkey).sync(1, capacity, rate)


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf")])
def test_a_negative_cost_is_a_mistake(valkey: "redis.Redis", cost: float) -> None:
    with pytest.raises(ValueError, match="cost is 0 or more"):
        bucket_of(valkey).reserve(cost)


def test_workers_together_get_no_more_than_there_is(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 100)

    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda _: bucket.reserve(7), range(100)))

    assert waits.count(0.0) == 14


costs = st.floats(min_value=0, max_value=60)

#: An example asks a real Valkey dozens of times.
costly = settings(
    max_examples=settings().max_examples // 4, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@costly
@given(
    level=st.floats(min_value=0, max_value=100),
    rate=st.floats(min_value=1, max_value=20_000),
    calls=st.lists(st.tuples(costs, st.none() | costs), max_size=15),
)
def test_grants_never_exceed_the_level_and_what_flowed_in(
    valkey: "redis.Redis", level: float, rate: float, calls: list[tuple[float, float | None]]
) -> None:
    valkey.flushall()
    bucket = filled(valkey, level, capacity=100, rate=rate)
    started_at = server_seconds(valkey)
    spent = 0.0

    for cost, actual in calls:
        if bucket.reserve(cost) > 0:
            continue
        spent += cost if actual is None else actual
        if actual is not None:
            bucket.settle(cost, actual)
        # A call that cost more than reserved may overdraw; the next grant has to wait for it.
        overdraft = 0.0 if actual is None else max(0.0, actual - cost)
        # The level was set just before the clock was read: 10 ms of grace for that.
        elapsed = server_seconds(valkey) - started_at + 0.01
        assert spent <= level + rate * elapsed + overdraft + 1e-6


@costly
@given(
    reserved=st.lists(costs, max_size=6),
    reports=st.lists(st.tuples(st.floats(-100, 200), st.floats(1, 200)), min_size=1, max_size=5),
)
def test_after_a_report_the_level_is_within_it(
    valkey: "redis.Redis", reserved: list[float], reports: list[tuple[float, float]]
) -> None:
    valkey.flushall()
    bucket = filled(valkey, 100, capacity=100)
    for cost in reserved:
        bucket.reserve(cost)

    for available, capacity in reports:
        bucket.sync(available, capacity, STILL)
        state = bucket.peek()
        assert state.level <= min(capacity, available - state.in_flight) + 1e-3


def server_seconds(client: "redis.Redis") -> float:
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


class TestRanks:
    """Lower ranks leave something to those above, and get their turn."""

    def test_a_lower_rank_leaves_a_share_to_those_above(self, valkey: "redis.Redis") -> None:
        bucket = filled(valkey, 100, capacity=100)

        assert bucket.reserve(50, rank=3, leaving=0.5) == 0.0
        assert bucket.reserve(1, rank=3, leaving=0.5) > 0
        assert bucket.reserve(50) == 0.0

    def test_where_nothing_is_known_nothing_is_left_to_others(self, valkey: "redis.Redis") -> None:
        bucket = bucket_of(valkey, capacity=2000, rate=100)

        assert bucket.reserve(10, rank=3, leaving=0.5) == pytest.approx(0.1, abs=0.01)

    def test_a_bucket_that_was_full_is_known(self, valkey: "redis.Redis") -> None:
        bucket = bucket_of(valkey, capacity=100, rate=10)
        bucket.settle(0, 0)
        pass_time(valkey, KEY, 10)

        assert bucket.reserve(30, rank=3, leaving=0.5) == 0.0
        assert bucket.reserve(30, rank=3, leaving=0.5) > 0

    def test_even_what_needs_the_whole_bucket_fits_when_it_is_full(self, valkey: "redis.Redis") -> None:
        bucket = filled(valkey, 100, capacity=100)

        assert bucket.reserve(100, rank=3, leaving=0.5) == 0.0

    def test_what_is_put_by_for_one_that_came_no_more_is_free_again(self, valkey: "redis.Redis") -> None:
        bucket = filled(valkey, 10, capacity=100, rate=1)
        bucket.reserve(50, rank=3, leaving=0.5)
        pass_time(valkey, KEY, 20)
        assert bucket.reserve(30) > 0  # of 30 there, one is put by

        pass_time(valkey, KEY, 11)

        assert bucket.reserve(40) == 0.0

    @pytest.mark.parametrize(("rank", "leaving"), [(-1, 0), (4, 0), (0, 1.1), (0, -0.1)])
    def test_there_are_four_ranks(self, valkey: "redis.Redis", rank: int, leaving: float) -> None:
        with pytest.raises(ValueError, match="no rank"):
            bucket_of(valkey).reserve(1, rank=rank, leaving=leaving)


#: The share of the rate that is not put by for lower ranks.
FREE_SHARE = 0.85


@costly
@given(
    level=st.floats(min_value=0, max_value=2000),
    pages=st.lists(st.floats(min_value=1, max_value=1000), min_size=5, max_size=25),
    step_seconds=st.floats(min_value=0.01, max_value=3),
    sale=st.floats(min_value=1, max_value=500),
)
def test_with_full_passes_running_flat_out_a_sale_waits_no_longer_than_in_a_bucket_of_its_own(
    valkey: "redis.Redis", level: float, pages: list[float], step_seconds: float, sale: float
) -> None:
    """Virtual time. Every lower rank asks for all it can get; then a sale comes, having waited for nobody of its own rank."""
    valkey.flushall()
    bucket = filled(valkey, level, capacity=2000, rate=100)
    for place, page in enumerate(pages):
        bucket.reserve(page, rank=1 + place % 3, leaving=(0.1, 0.25, 0.5)[place % 3])
        pass_time(valkey, KEY, step_seconds)

    waited = 0.0
    while wait := bucket.reserve(sale):
        waited += wait
        assert waited <= sale / (FREE_SHARE * 100) + 0.05
        pass_time(valkey, KEY, wait)
        bucket.reserve(pages[0], rank=3, leaving=0.5)


def test_a_sale_waits_for_nothing_while_the_share_left_to_it_lasts(valkey: "redis.Redis") -> None:
    bucket = filled(valkey, 2000, capacity=2000, rate=100)
    for _ in range(200):
        bucket.reserve(100, rank=3, leaving=0.5)
        pass_time(valkey, KEY, 0.5)

    assert [bucket.reserve(100) for _ in range(9)] == [0.0] * 9


@settings(max_examples=settings().max_examples // 20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rank=st.sampled_from([1, 2, 3]),
    page=st.floats(min_value=1, max_value=1000),
    sale=st.floats(min_value=50, max_value=300),
    step_seconds=st.floats(min_value=2, max_value=20),
)
def test_however_much_sales_ask_for_a_lower_rank_gets_its_turn(
    valkey: "redis.Redis", rank: int, page: float, sale: float, step_seconds: float
) -> None:
    valkey.flushall()
    bucket = filled(valkey, 2000, capacity=2000, rate=100)
    waited = 0.0

    while True:
        while not bucket.reserve(sale):
            pass
        if not bucket.reserve(page, rank=rank, leaving=(0, 0.1, 0.25, 0.5)[rank]):
            break
        pass_time(valkey, KEY, step_seconds)
        waited += step_seconds
        # What is put by is 5 % of the rate; a step may be wasted, when it was enough a moment after it was asked for.
        assert waited <= page / (0.05 * 100) + 2 * step_seconds
