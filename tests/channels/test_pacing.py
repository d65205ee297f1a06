"""The pacer over a real bucket in a real Valkey."""

from collections.abc import Iterator

import pytest
import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from channels import urgency
from channels.pacing import MAX_WAIT_SECONDS, Pacer, Unpaced, breaker_for, bucket_for, pacer_for
from channels.protocol import (
    CallEnd,
    Cause,
    ChannelError,
    NotAuthorized,
    OutcomeUnknown,
    Paced,
    Refused,
    Resting,
    Throttled,
    ThrottleStatus,
    Unavailable,
    cause_of,
    is_breakage,
)
from channels.urgency import Urgency
from synctec.lib.breaker import OPEN_SECONDS, RUN_MAX
from synctec.lib.bucket import TokenBucket


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        yield client


@pytest.fixture
def bucket(client: redis.Redis) -> TokenBucket:
    """A slow bucket: a hundred tokens, one a second, empty at first."""
    return TokenBucket(client, "pace:test", default_capacity=100, default_rate=1)


@pytest.fixture(autouse=True)
def _urgent() -> Iterator[None]:
    """Unless a test says otherwise, its calls leave nothing to others."""
    with urgency.of(Urgency.LOWER):
        yield


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


class Counted:
    """What a pacer tells of its calls."""

    def __init__(self) -> None:
        self.told: list[tuple[Urgency, dict[str, float]]] = []

    def __call__(self, urgent: Urgency, **counts: float) -> None:
        self.told.append((urgent, {name: count for name, count in counts.items() if count}))


class TestBreaker:
    """Every call goes through the breaker."""

    @pytest.fixture
    def pacer(self, client: redis.Redis) -> Pacer:
        pacer = pacer_for(client, channel_id=1)
        pacer.settle(reserved=0, actual=0, status=ThrottleStatus(1000, 1000, 100))
        return pacer

    @staticmethod
    def fail(pacer: Pacer, times: int) -> float:
        rest_seconds = 0.0
        for _ in range(times):
            pacer.acquire(1)
            error = OutcomeUnknown("no answer", code="HTTP_500")
            rest_seconds = pacer.settle(reserved=1, actual=1, end=CallEnd.BROKEN, error=error)
        return rest_seconds

    def test_the_failure_that_opens_it_says_for_how_long(self, pacer: Pacer) -> None:
        assert self.fail(pacer, RUN_MAX - 1) == 0.0
        assert self.fail(pacer, 1) == pytest.approx(OPEN_SECONDS, abs=1)

    def test_while_it_is_open_nothing_is_sent_and_no_budget_taken(self, client: redis.Redis, pacer: Pacer) -> None:
        self.fail(pacer, RUN_MAX)
        before = bucket_for(client, channel_id=1).peek().in_flight

        with pytest.raises(Resting, match=r"5 calls in a row failed \(HTTP_500\)") as caught:
            pacer_for(client, channel_id=1).acquire(1)

        assert caught.value.retry_after == pytest.approx(OPEN_SECONDS, abs=1)
        assert cause_of(caught.value) is Cause.SERVER_ERROR
        assert bucket_for(client, channel_id=1).peek().in_flight == before

    def test_a_probe_that_the_budget_does_not_allow_is_left_to_the_next(self, client: redis.Redis) -> None:
        impatient = pacer_for(client, channel_id=1, max_wait_seconds=0)

        with pytest.raises(Paced, match="used up"):
            impatient.acquire(50)

        assert not breaker_for(client, channel_id=1).peek().is_probing

    def test_where_nothing_is_known_others_wait_a_moment_for_the_first(self, client: redis.Redis) -> None:
        pacer_for(client, channel_id=1).acquire(1)

        with pytest.raises(Paced) as caught:
            pacer_for(client, channel_id=1).acquire(1)

        assert (type(caught.value), caught.value.code) == (Paced, "PROBING")

    @pytest.mark.parametrize(
        ("error", "is_counted"),
        [
            (Unavailable("down", code="NOT_SENT"), True),
            (Unavailable("down", code="HTTP_503"), True),
            (OutcomeUnknown("silence"), True),
            (Unavailable("frozen", code="HTTP_402"), False),
            (Throttled("wait"), False),
            (Refused("no", code="HTTP_404"), False),
            (NotAuthorized("no"), False),
            (Paced("wait"), False),
        ],
    )
    def test_only_what_breaks_on_the_way_and_5xx_count(self, error: ChannelError, is_counted: bool) -> None:
        assert is_breakage(error) == is_counted


def test_what_is_not_urgent_leaves_budget_to_what_is(client: redis.Redis) -> None:
    pacer = pacer_for(client, channel_id=1, max_wait_seconds=0)
    pacer.settle(reserved=0, actual=0, status=ThrottleStatus(1000, 1000, 1))
    with urgency.of(Urgency.BACKGROUND):
        pacer.acquire(500)
        pacer.settle(reserved=500, actual=500)
        with pytest.raises(Paced) as caught:
            pacer.acquire(10)
    assert caught.value.gives_way

    for urgent, cost in ((Urgency.SUSPECT, 240), (Urgency.RAISE, 140), (Urgency.LOWER, 90)):
        with urgency.of(urgent):
            pacer.acquire(cost)
            pacer.settle(reserved=cost, actual=cost)

    with pytest.raises(Paced) as caught:
        pacer.acquire(50)
    assert not caught.value.gives_way


def test_what_became_of_calls_is_counted_by_class(client: redis.Redis) -> None:
    count = Counted()
    pacer = pacer_for(client, channel_id=1, count=count, max_wait_seconds=0)

    with urgency.of(Urgency.RAISE):
        with pytest.raises(Paced):
            pacer.acquire(50)
        pacer.acquire(0)
        pacer.settle(reserved=0, actual=3, status=ThrottleStatus(1000, 1000, 100))
        pacer.acquire(0)
        pacer.settle(reserved=0, actual=0, end=CallEnd.BROKEN, error=Unavailable("down", code="NOT_SENT"))
        pacer.acquire(0)
        pacer.settle(reserved=0, actual=0, end=CallEnd.BROKEN, error=Unavailable("broken", code="HTTP_500"))
        pacer.penalize(1)

    assert [(urgent, counts) for urgent, counts in count.told if counts] == [
        (Urgency.RAISE, {"paced": 1}),
        (Urgency.RAISE, {"calls": 1, "cost": 3}),
        (Urgency.RAISE, {"calls": 1, "unanswered": 1}),
        (Urgency.RAISE, {"calls": 1, "server_errors": 1}),
        (Urgency.RAISE, {"throttled": 1}),
    ]


class TestWithoutRedis:
    @pytest.fixture
    def pacer(self) -> Iterator[Pacer]:
        with redis.Redis(host="127.0.0.1", port=9, retry=Retry(NoBackoff(), 0)) as nobody:
            yield Pacer(TokenBucket(nobody, "pace:test", default_capacity=100, default_rate=1))

    def test_nothing_is_granted(self, pacer: Pacer) -> None:
        with pytest.raises(Throttled) as caught:
            pacer.acquire(1)

        assert (caught.value.code, caught.value.retry_after) == ("PACING_AWAY", 1.0)

    def test_the_breaker_lets_calls_pass(self) -> None:
        """The budget does not: with Redis away it is not known."""
        with redis.Redis(host="127.0.0.1", port=9, retry=Retry(NoBackoff(), 0)) as nobody:
            pacer = pacer_for(nobody, channel_id=1)

            with pytest.raises(Paced) as caught:
                pacer.acquire(1)

        assert caught.value.code == "PACING_AWAY"
        pacer.settle(reserved=1, actual=1, end=CallEnd.BROKEN, error=Unavailable("down"))

    def test_a_call_that_was_made_does_not_fail_for_its_bookkeeping(self, pacer: Pacer) -> None:
        pacer.settle(reserved=1, actual=1, status=ThrottleStatus(100, 50, 1))
        pacer.penalize(1)


def test_the_unpaced_grants_everything() -> None:
    pacer = Unpaced()

    pacer.acquire(1e9)
    pacer.settle(reserved=1e9, actual=1e9)
    pacer.penalize(1e9)

    assert MAX_WAIT_SECONDS[Urgency.LOWER] == 2.0
