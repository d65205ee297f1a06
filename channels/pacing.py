"""Keeping a channel's budget and patience: one token bucket and one circuit breaker that all workers share.

    pacer.acquire(cost)                  # sleeps a little, or raises Paced: come back later
    ...the call...
    pacer.settle(reserved=cost, actual=what it cost, status=what the channel says is left, end=how it ended)

Every call goes through both. While the breaker is open, `acquire` raises `Resting` at once: nothing is sent, and the engine
leaves the channel alone until the next probe (`sync.outage`).

The budget has ranks (`channels.urgency`): each class of calls leaves a share of the bucket to those more urgent, so
that a full pass never keeps a sale waiting, and gets its turn all the same (`synctec.lib.bucket`).

A bucket nobody knows is empty and fills at its rate. With Redis away nothing is known of the budget, so nothing is sent: a
pause costs latency, a burst costs the channel's patience. The breaker alone would let calls pass then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from redis.exceptions import RedisError

from channels import urgency
from channels.protocol import CallEnd, Cause, ChannelError, Paced, Refused, Resting, ThrottleStatus, cause_of
from channels.urgency import Urgency
from synctec.lib.breaker import Admission, Breaker, Standing, State
from synctec.lib.bucket import CostAboveCapacity, TokenBucket

if TYPE_CHECKING:
    import redis

log = logging.getLogger(__name__)

#: Waits up to this long are slept where they arise; longer ones are the engine's to plan. A raise sleeps less: what falls
#: meanwhile waits behind it. What is not urgent may as well wait here, if the task is to get anywhere.
MAX_WAIT_SECONDS: Final = {
    Urgency.LOWER: 2.0,
    Urgency.RAISE: 0.5,
    Urgency.SUSPECT: 2.0,
    Urgency.BACKGROUND: 10.0,
}
#: The share of the bucket that each class leaves to those more urgent.
LEAVING: Final = {Urgency.LOWER: 0.0, Urgency.RAISE: 0.1, Urgency.SUSPECT: 0.25, Urgency.BACKGROUND: 0.5}
#: When to come back while Redis does not answer.
REDIS_AWAY_SECONDS: Final = 1.0
#: What holds until a Shopify store first says otherwise: the smallest plan's 100 points a second, twenty
#: seconds of it.
SHOPIFY_CAPACITY: Final = 2000.0
SHOPIFY_RATE_PER_SECOND: Final = 100.0

_MIN_SLEEP_SECONDS: Final = 0.005


class Counting(Protocol):
    """Who counts what became of the calls (`channels.calls`)."""

    def __call__(
        self,
        urgent: Urgency,
        *,
        calls: int = 0,
        cost: float = 0.0,
        throttled: int = 0,
        paced: int = 0,
        rested: int = 0,
        unanswered: int = 0,
        server_errors: int = 0,
        waited_seconds: float = 0.0,
    ) -> None:
        """Add to what is counted for calls so urgent."""
        ...


def _count_nothing(urgent: Urgency, **_: float) -> None:
    """For whoever is not interested."""


class Pacer:
    """Grants calls to one channel, one at a time."""

    def __init__(
        self,
        bucket: TokenBucket,
        *,
        breaker: Breaker | None = None,
        count: Counting = _count_nothing,
        max_wait_seconds: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`max_wait_seconds`: instead of what each class of calls has."""
        self._bucket = bucket
        self._breaker = breaker
        self._count = count
        self._max_wait_seconds = max_wait_seconds
        self._sleep = sleep
        self._admission: Admission | None = None
        self._urgency = Urgency.BACKGROUND

    def acquire(self, cost: float) -> None:
        """Return once the breaker admits a call and `cost` tokens are ours; each grant must be settled.

        Raises:
            Resting: the channel does not answer, and it is not yet time to ask again.
            Paced: the wait would be longer than this class of calls may sleep, or the bucket cannot be asked.
            Refused: (MAX_COST_EXCEEDED) the channel's bucket can never hold that much: ask for less.
        """
        self._urgency = urgency.current()
        self._admit()
        try:
            self._wait(cost)
        except BaseException:
            self._end_admission(CallEnd.NOT_MADE, None)
            raise

    def _admit(self) -> None:
        self._admission = None
        if self._breaker is None:
            return
        try:
            admission = self._breaker.admit()
        except RedisError:
            return
        if admission.is_granted:
            self._admission = admission
            return
        self._count(self._urgency, rested=1)
        standing = admission.standing
        if not standing.has_opened:
            # Nothing is known of the channel, and somebody is just finding out.
            raise Paced("Another call asks whether the channel answers.", code="PROBING", retry_after=1.0)
        resting = Resting(_why(standing), code="RESTING", retry_after=admission.wait_seconds)
        resting.because = standing.reason
        raise resting

    def _wait(self, cost: float) -> None:
        left_seconds = allowed_seconds = (
            MAX_WAIT_SECONDS[self._urgency] if self._max_wait_seconds is None else self._max_wait_seconds
        )
        try:
            while wait_seconds := self._reserve(cost):
                if wait_seconds > left_seconds:
                    self._count(self._urgency, paced=1)
                    paced = Paced(
                        f"The channel's budget is used up for {wait_seconds:.1f} s.",
                        code="PACED",
                        retry_after=wait_seconds,
                    )
                    paced.gives_way = self._urgency is not Urgency.LOWER
                    raise paced
                # Others may take what comes in meanwhile: each round is counted against the same allowance.
                pause_seconds = max(wait_seconds, _MIN_SLEEP_SECONDS)
                self._sleep(pause_seconds)
                left_seconds -= pause_seconds
        finally:
            if left_seconds < allowed_seconds:
                self._count(self._urgency, waited_seconds=allowed_seconds - left_seconds)

    def _reserve(self, cost: float) -> float:
        try:
            return self._bucket.reserve(cost, rank=self._urgency, leaving=LEAVING[self._urgency])
        except CostAboveCapacity as error:
            raise Refused(str(error), code="MAX_COST_EXCEEDED") from None
        except RedisError:
            raise Paced(
                "The channel's budget cannot be read: Redis does not answer.",
                code="PACING_AWAY",
                retry_after=REDIS_AWAY_SECONDS,
            ) from None

    def settle(
        self,
        *,
        reserved: float,
        actual: float,
        status: ThrottleStatus | None = None,
        end: CallEnd = CallEnd.ANSWERED,
        error: ChannelError | None = None,
    ) -> float:
        """A granted call ended: what it really cost (0: certainly not sent), what the channel says is left, and how it ended.

        Returns for how many seconds nothing is sent because of it: it was the failure that opened the breaker.
        """
        self._note(actual, end, error)
        try:
            self._bucket.settle(reserved, actual)
            if status is not None:
                self._bucket.sync(status.available, status.maximum, status.restored_per_second)
        except RedisError as away:
            # The reservation lapses by itself; the call has been made and must not fail for its bookkeeping.
            log.warning("pacing.not_settled: %s", type(away).__name__)
        return self._end_admission(end, error)

    def _note(self, actual: float, end: CallEnd, error: ChannelError | None) -> None:
        is_server_error = error is not None and cause_of(error) is Cause.SERVER_ERROR
        self._count(
            self._urgency,
            calls=int(end is not CallEnd.NOT_MADE),
            cost=actual,
            server_errors=int(end is CallEnd.BROKEN and is_server_error),
            unanswered=int(end is CallEnd.BROKEN and not is_server_error),
        )

    def _end_admission(self, end: CallEnd, error: ChannelError | None) -> float:
        admission, self._admission = self._admission, None
        if admission is None or self._breaker is None:
            return 0.0
        try:
            if end is CallEnd.ANSWERED:
                self._breaker.answered(admission)
            elif end is CallEnd.BROKEN:
                reason = "" if error is None else error.code or type(error).__name__
                standing = self._breaker.failed(admission, reason)
                return standing.left_seconds
            else:
                self._breaker.withdrawn(admission)
        except RedisError as away:
            log.warning("pacing.not_noted: %s", type(away).__name__)
        return 0.0

    def penalize(self, seconds: float) -> None:
        """Grant nothing to anyone for so long: the channel asked for it."""
        self._count(self._urgency, throttled=1)
        try:
            self._bucket.penalize(seconds)
        except RedisError as error:
            log.warning("pacing.not_penalized: %s", type(error).__name__)


class Unpaced:
    """Grants everything: for tools that make a handful of calls, and for tests that are not about pacing."""

    def acquire(self, cost: float) -> None:
        """Return at once."""

    def settle(
        self,
        *,
        reserved: float,
        actual: float,
        status: ThrottleStatus | None = None,
        end: CallEnd = CallEnd.ANSWERED,
        error: ChannelError | None = None,
    ) -> float:
        """Note nothing."""
        return 0.0

    def penalize(self, seconds: float) -> None:
        """Note nothing."""


def _why(standing: Standing) -> str:
    failed = f"{standing.run} calls in a row failed" if standing.run > 1 else "too many of its calls failed"
    told = f" ({standing.reason})" if standing.reason else ""
    if standing.state is State.OPEN:
        return f"The channel does not answer: {failed}{told}. It is asked again in {standing.left_seconds:.0f} s."
    return f"The channel does not answer: {failed}{told}. One call asks again just now."


def bucket_for(client: redis.Redis, *, channel_id: int) -> TokenBucket:
    """The budget all workers share for one Shopify channel."""
    return TokenBucket(
        client,
        f"pace:{{channel:{channel_id}}}",
        default_capacity=SHOPIFY_CAPACITY,
        default_rate=SHOPIFY_RATE_PER_SECOND,
    )


def breaker_for(client: redis.Redis, *, channel_id: int) -> Breaker:
    """The breaker all workers share for one channel."""
    return Breaker(client, f"breaker:{{channel:{channel_id}}}")


def pacer_for(
    client: redis.Redis,
    *,
    channel_id: int,
    count: Counting = _count_nothing,
    max_wait_seconds: float | None = None,
) -> Pacer:
    """The pacer all workers share for one Shopify channel."""
    return Pacer(
        bucket_for(client, channel_id=channel_id),
        breaker=breaker_for(client, channel_id=channel_id),
        count=count,
        max_wait_seconds=max_wait_seconds,
    )
