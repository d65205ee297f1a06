"""The pacer over a real bucket in a real Valkey."""

from collections.abc import Iterator

import pytest
import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from channels.pacing import MAX_WAIT_SECONDS, Pacer, Unpaced, pacer_for
from channels.protocol import Refused, Throttled, ThrottleStatus
from synctec.lib.bucket import TokenBucket


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        yield client


@pytest.fixture
def bucket(client: redis.Redis) -> TokenBucket:
    """A slow bucket: a hundred tokens, one a second, empty at first."""
    return TokenBucket(client, "pace:test", default_capacity=100, default_rate=1)


class Naps:
    """Sleeps nothing and remembers how long; the bucket is told instead that time has brought tokens."""

    def __init__(self, bucket: TokenBucket, *, tokens_each: float) -> None:
        self.seconds: list[float] = []
        self._bucket = bucket
        self._tokens_each = tokens_each

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        level = self._bucket.peek().level
        self._bucket.sync(level + self._tokens_each, 100, 1)


def test_an_unknown_bucket_is_empty_and_its_wait_is_the_engines_to_plan(bucket: TokenBucket) -> None:
    pacer = Pacer(bucket)

    with pytest.raises(Throttled) as caught:
        pacer.acquire(50)

    assert caught.value.retry_after == pytest.approx(50, abs=1)


def test_a_short_wait_is_slept_where_it_arises(bucket: TokenBucket) -> None:
    naps = Naps(bucket, tokens_each=10)
    pacer = Pacer(bucket, sleep=naps)

    pacer.acquire(1.5)

    assert len(naps.seconds) == 1
    assert naps.seconds[0] == pytest.approx(1.5, abs=0.2)


def test_waits_add_up_to_the_allowance_and_no_further(bucket: TokenBucket) -> None:
    """Others take what comes in: every round counts."""
    naps = Naps(bucket, tokens_each=0)
    pacer = Pacer(bucket, max_wait_seconds=3, sleep=naps)

    with pytest.raises(Throttled):
        pacer.acquire(1.2)

    assert sum(naps.seconds) <= 3
    assert len(naps.seconds) == 2


def test_what_the_channel_reports_is_granted_at_once(bucket: TokenBucket) -> None:
    pacer = Pacer(bucket, sleep=lambda seconds: pytest.fail("nothing to wait for"))
    pacer.settle(reserved=0, actual=0, status=ThrottleStatus(2000, 1500, 100))

    pacer.acquire(1000)

    assert bucket.peek().level == pytest.approx(500, abs=20)


def test_settling_gives_the_difference_back(bucket: TokenBucket) -> None:
    pacer = Pacer(bucket)
    pacer.settle(reserved=0, actual=0, status=ThrottleStatus(100, 100, 1))
    pacer.acquire(80)

    pacer.settle(reserved=80, actual=5)

    state = bucket.peek()
    assert state.level == pytest.approx(95, abs=2)
    assert state.in_flight == 0


def test_a_penalty_holds_for_everybody(client: redis.Redis, bucket: TokenBucket) -> None:
    Pacer(bucket).settle(reserved=0, actual=0, status=ThrottleStatus(100, 100, 1))
    Pacer(bucket).penalize(30)
    elsewhere = Pacer(TokenBucket(client, "pace:test", default_capacity=100, default_rate=1))

    with pytest.raises(Throttled) as caught:
        elsewhere.acquire(1)

    assert caught.value.retry_after == pytest.approx(30, abs=1)


def test_more_than_the_bucket_can_ever_hold_is_refused(bucket: TokenBucket) -> None:
    with pytest.raises(Refused) as caught:
        Pacer(bucket).acquire(101)

    assert caught.value.code == "MAX_COST_EXCEEDED"  # the connector then asks for less


def test_each_channel_has_a_budget_of_its_own(client: redis.Redis) -> None:
    first, second = pacer_for(client, channel_id=1), pacer_for(client, channel_id=2)
    for pacer in (first, second):
        pacer.settle(reserved=0, actual=0, status=ThrottleStatus(100, 100, 1))
    first.acquire(100)

    second.acquire(100)

    with pytest.raises(Throttled):
        pacer_for(client, channel_id=1, max_wait_seconds=0).acquire(50)


class TestWithoutRedis:
    @pytest.fixture
    def pacer(self) -> Iterator[Pacer]:
        with redis.Redis(host="127.0.0.1", port=9, retry=Retry(NoBackoff(), 0)) as nobody:
            yield Pacer(TokenBucket(nobody, "pace:test", default_capacity=100, default_rate=1))

    def test_nothing_is_granted(self, pacer: Pacer) -> None:
        with pytest.raises(Throttled) as caught:
            pacer.acquire(1)

        assert (caught.value.code, caught.value.retry_after) == ("PACING_AWAY", 1.0)

    def test_a_call_that_was_made_does_not_fail_for_its_bookkeeping(self, pacer: Pacer) -> None:
        pacer.settle(reserved=1, actual=1, status=ThrottleStatus(100, 50, 1))
        pacer.penalize(1)


def test_the_unpaced_grants_everything() -> None:
    pacer = Unpaced()

    pacer.acquire(1e9)
    pacer.settle(reserved=1e9, actual=1e9)
    pacer.penalize(1e9)

    assert MAX_WAIT_SECONDS == 2.0
