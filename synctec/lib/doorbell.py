"""Collapsing doorbells: a thousand reasons to look at something become one message.

Place: press before sending a wake-up (a Celery message); send it only if `press` said True. The worker
answers before it looks for work in PostgreSQL. The work itself is in rows, so a lost mark costs a second
message and a mark left behind costs RING_MS at most: sweeps find what no bell announced.
"""

import logging
from typing import Final

import redis

#: How long a bell counts as ringing when nobody answers: about one sweep interval.
RING_MS: Final = 5_000

logger = logging.getLogger(__name__)


class Doorbell:
    """One family of bells, e.g. "apply", with a bell for each key, e.g. a shard."""

    def __init__(self, client: "redis.Redis", name: str, *, ring_ms: int = RING_MS) -> None:
        self._client = client
        self._name = name
        self._ring_ms = ring_ms

    def press(self, key: str) -> bool:
        """Return True if the bell was silent and someone has to be woken. Never raises.

        Without Redis every press rings: superfluous messages are harmless, missing ones delay.
        """
        try:
            return bool(self._client.set(self._mark(key), 1, nx=True, px=self._ring_ms))
        except redis.RedisError as error:
            logger.warning("doorbell %s: ringing without Redis (%s)", self._name, type(error).__name__)
            return True

    def hold(self, key: str) -> None:
        """Keep the bell ringing while somebody is at work, so that nobody else is woken. Never raises."""
        try:
            self._client.set(self._mark(key), 1, px=self._ring_ms)
        except redis.RedisError as error:
            logger.warning("doorbell %s: not held (%s)", self._name, type(error).__name__)

    def answer(self, key: str) -> None:
        """Silence the bell. Never raises.

        Call it BEFORE the work starts: a press during the work must ring again.
        """
        try:
            self._client.delete(self._mark(key))
        except redis.RedisError as error:
            logger.warning("doorbell %s: not silenced (%s)", self._name, type(error).__name__)

    def _mark(self, key: str) -> str:
        return f"doorbell:{self._name}:{key}"
