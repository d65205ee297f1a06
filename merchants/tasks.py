"""Doorbells of this app: notification targets are told by workers. What there is to tell is found by SQL."""

from __future__ import annotations

import random
from functools import cache
from typing import Any, Final

import redis
import structlog
from celery import shared_task
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from merchants import notices
from synctec.lib import clock, sql
from synctec.lib.doorbell import Doorbell

log = structlog.get_logger(__name__)

#: The bell for a look at who is due: a thousand things to tell are one message.
SWEEP: Final = "sweep"
#: While a bell rings nobody else is woken: as long as one attempt may take.
RING_MS: Final = 30_000

_rng = random.Random()  # noqa: S311  # spreads retries, keeps no secret


@cache
def _bell() -> Doorbell:
    client = redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
    )
    return Doorbell(client, "target", ring_ms=RING_MS)


def ring_targets() -> None:
    """Something is to be told. Never raises: the sweep finds it, or whoever notices that nobody sweeps (`sync.watch`)."""
    try:
        if _bell().press(SWEEP):
            sweep_targets.delay()
    except Exception as error:
        _bell().answer(SWEEP)
        log.warning("bell.not_rung", bell="targets", error=type(error).__name__)


@shared_task
def sweep_targets(**_: Any) -> None:
    """Wake a worker for every target that is to be told something now (celery-beat, every few seconds)."""
    _bell().answer(SWEEP)
    try:
        for target_id in notices.due(clock.now()):
            if _bell().press(str(target_id)):
                tell_target.delay(target_id)
    except sql.AWAY as error:
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])


@shared_task
def tell_target(target_id: int, **_: Any) -> None:
    """Tell one target what waits for it."""
    try:
        notices.deliver(target_id, now=clock.now, rng=_rng)
    except sql.AWAY as error:
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])
    finally:
        _bell().answer(str(target_id))
