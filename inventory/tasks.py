"""Doorbells of this app: endpoints are told by workers. What there is to tell is found by SQL (see `sync.tasks`)."""

from __future__ import annotations

import random
import time
from functools import cache
from typing import Any

import redis
import structlog
from celery import shared_task
from django.conf import settings
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.retry import Retry

from inventory import delivery
from merchants import idempotency, notices
from synctec.lib import sql
from synctec.lib.doorbell import Doorbell

log = structlog.get_logger(__name__)

#: A task gives way to others after this long; the sweep finds the rest.
SHIFT_SECONDS = 10.0
#: While a bell rings nobody else is woken: as long as one attempt may take.
RING_MS = 30_000

_rng = random.Random()  # noqa: S311  # spreads retries, keeps no secret


@cache
def _bell() -> Doorbell:
    client = redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
    )
    return Doorbell(client, "endpoint", ring_ms=RING_MS)


@shared_task
def sweep_endpoints(**_: Any) -> None:
    """Wake a worker for every endpoint that has something to hear (celery-beat, every few seconds)."""
    try:
        for endpoint_id in delivery.due():
            if _bell().press(str(endpoint_id)):
                tell_endpoint.delay(endpoint_id)
    except sql.AWAY as error:
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])


@shared_task
def tell_endpoint(endpoint_id: int, **_: Any) -> None:
    """Tell one endpoint what it has not heard yet."""
    until = time.monotonic() + SHIFT_SECONDS
    try:
        while delivery.deliver(endpoint_id, now=timezone.now, rng=_rng) and time.monotonic() < until:
            pass
    except sql.AWAY as error:
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])
    finally:
        _bell().answer(str(endpoint_id))


@shared_task
def forget_old(**_: Any) -> None:
    """Delete remembered answers and settled messages that served their time (celery-beat, hourly)."""
    now = timezone.now()
    while idempotency.forget_old(now=now):
        pass
    while delivery.forget_old(now=now):
        pass
    while notices.forget_old(now=now):
        pass
