"""Keeping within a channel's budget: one token bucket that all workers share and the channel corrects.

    pacer.acquire(cost)                  # sleeps a little, or raises Throttled: come back later
    ...the call...
    pacer.settle(reserved=cost, actual=what it cost, status=what the channel says is left)

A bucket nobody knows is empty and fills at its rate (`synctec.lib.bucket`). With Redis away nothing is known,
so nothing is sent: a pause costs latency, a burst costs the channel's patience.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from channels.protocol import Paced, Refused, ThrottleStatus
from synctec.lib.bucket import CostAboveCapacity, TokenBucket

if TYPE_CHECKING:
    import redis

log = logging.getLogger(__name__)

#: Waits up to this long are slept where they arise; longer ones are the engine's to plan.
MAX_WAIT_SECONDS: Final = 2.0
#: When to come back while Redis does not answer.
REDIS_AWAY_SECONDS: Final = 1.0
#: What holds until a Shopify store first says otherwise: the smallest plan's 100 points a second, twenty
#: seconds of it.
SHOPIFY_CAPACITY: Final = 2000.0
SHOPIFY_RATE_PER_SECOND: Final = 100.0

_MIN_SLEEP_SECONDS: Final = 0.005


class Pacer:
    """Grants calls to one channel."""

    def __init__(
        self,
        bucket: TokenBucket,
        *,
        max_wait_seconds: float = MAX_WAIT_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bucket = bucket
        self._max_wait_seconds = max_wait_seconds
        self._sleep = sleep

    def acquire(self, cost: float) -> None:
        """Return once `cost` tokens are ours; each grant must be settled.

        Raises:
            Throttled: the wait would be longer than `max_wait_seconds`, or the bucket cannot be asked.
            Refused: (MAX_COST_EXCEEDED) the channel's bucket can never hold that much: ask for less.
        """
        left_seconds = self._max_wait_seconds
        while wait_seconds := self._reserve(cost):
            if wait_seconds > left_seconds:
                raise Paced(
                    f"The channel's budget is used up for {wait_seconds:.1f} s.",
                    code="PACED",
                    retry_after=wait_seconds,
                )
            # Others may take what comes in meanwhile: each round is counted against the same allowance.
            pause_seconds = max(wait_seconds, _MIN_SLEEP_SECONDS)
            self._sleep(pause_seconds)
            left_seconds -= pause_seconds

    def _reserve(self, cost: float) -> float:
        try:
            return self._bucket.reserve(cost)
        except CostAboveCapacity as error:
            raise Refused(str(error), code="MAX_COST_EXCEEDED") from None
        except RedisError:
            raise Paced(
                "The channel's budget cannot be read: Redis does not answer.",
                code="PACING_AWAY",
                retry_after=REDIS_AWAY_SECONDS,
            ) from None

    def settle(self, *, reserved: float, actual: float, status: ThrottleStatus | None = None) -> None:
        """A granted call ended: what it really cost (0: certainly not sent) and what the channel says is
        left.
        """
        try:
            self._bucket.settle(reserved, actual)
            if status is not None:
                self._bucket.sync(status.available, status.maximum, status.restored_per_second)
        except RedisError as error:
            # The reservation lapses by itself; the call has been made and must not fail for its bookkeeping.
            log.warning("pacing.not_settled: %s", type(error).__name__)

    def penalize(self, seconds: float) -> None:
        """Grant nothing to anyone for so long: the channel asked for it."""
        try:
            self._bucket.penalize(seconds)
        except RedisError as error:
            log.warning("pacing.not_penalized: %s", type(error).__name__)


class Unpaced:
    """Grants everything: for tools that make a handful of calls, and for tests that are not about pacing."""

    def acquire(self, cost: float) -> None:
        """Return at once."""

    def settle(self, *, reserved: float, actual: float, status: ThrottleStatus | None = None) -> None:
        """Note nothing."""

    def penalize(self, seconds: float) -> None:
        """Note nothing."""


def pacer_for(client: redis.Redis, *, channel_id: int, max_wait_seconds: float = MAX_WAIT_SECONDS) -> Pacer:
    """The pacer all workers share for one Shopify channel."""
    bucket = TokenBucket(
        client,
        f"pace:{{channel:{channel_id}}}",
        default_capacity=SHOPIFY_CAPACITY,
        default_rate=SHOPIFY_RATE_PER_SECOND,
    )
    return Pacer(bucket, max_wait_seconds=max_wait_seconds)
