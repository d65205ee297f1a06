"""Doorbells: Celery tasks that wake the engine. They carry ids, may be lost or doubled at will, and collapse.

What there is to do is found by SQL, so a lost message costs the wait for the next sweep and a doubled one costs a look.
Each task answers its bell first, then works until it finds nothing more, and rings again when it stops before that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import redis
import structlog
from celery import shared_task
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.retry import Retry

from channels import onboarding, protocol
from channels.connect import callback_url, connector_for
from channels.models import Channel, ChannelState
from sync import apply as applying
from sync import check as checking
from sync import publish as publishing
from sync import push as pushing
from sync import reconcile as reconciling
from sync import sweep as sweeping
from synctec.lib.doorbell import Doorbell

log = structlog.get_logger(__name__)

#: A task gives way to others after this long, and rings for the rest.
SHIFT_SECONDS = 10.0
#: A channel is written to at most this often: what changes meanwhile shares the next call.
PUSH_EVERY_MS = 150
#: After the broker refused a message, nobody tries again for this long: a webhook must not wait for a dead broker.
BROKER_PAUSE_SECONDS = 1.0

_rng = random.Random()
_broker_rests_until = 0.0


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
    )


@cache
def _bell(name: str) -> Doorbell:
    return Doorbell(_redis(), name)


def _ring(task: Any, name: str, key: int) -> None:
    """Wake a worker for `key`, unless one is on its way. Never raises: sweeps find what no bell announced."""
    global _broker_rests_until
    if time.monotonic() < _broker_rests_until or not _bell(name).press(str(key)):
        return
    try:
        task.delay(key)
    except Exception as error:
        _broker_rests_until = time.monotonic() + BROKER_PAUSE_SECONDS
        log.warning("bell.not_rung", bell=name, key=key, error=type(error).__name__)


def ring_apply(merchant_id: int) -> None:
    """A merchant has events to apply."""
    _ring(apply, "apply", merchant_id)


def ring_publish(merchant_id: int) -> None:
    """A merchant has dirty SKUs."""
    _ring(publish, "publish", merchant_id)


def ring_push(channel_id: int) -> None:
    """A channel shows numbers it should not."""
    _ring(push, "push", channel_id)


def ring_check(channel_id: int) -> None:
    """A channel has suspect levels to be read."""
    _ring(check, "check", channel_id)


def ring_reconcile(channel_id: int) -> None:
    """Somebody wants a channel's orders and levels compared now."""
    _ring(reconcile, "reconcile", channel_id)


def ring_activate(channel_id: int) -> None:
    """A channel was connected: bring it in."""
    _ring(activate, "activate", channel_id)


def _shift(work: Callable[[], bool], again: Callable[[], None]) -> None:
    """Repeat `work` while it says there is more; at the end of the shift ring for whoever comes next."""
    ends_at = time.monotonic() + SHIFT_SECONDS
    try:
        while work():
            if time.monotonic() > ends_at:
                again()
                return
    except (OperationalError, InterfaceError) as error:
        # The database is away or a lock could not be had: nothing is lost, the sweep comes back to it.
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])


@shared_task
def apply(merchant_id: int, **_: Any) -> None:
    """Apply a merchant's pending events, then have its dirty SKUs published."""
    _bell("apply").answer(str(merchant_id))

    def work() -> bool:
        applied = applying.apply_batch(merchant_id=merchant_id, now=timezone.now(), rng=_rng)
        if applied.dirty:
            ring_publish(merchant_id)
        if applied.claimed and applied.busy == applied.claimed:
            time.sleep(0.02)
        return applied.claimed > 0

    _shift(work, lambda: ring_apply(merchant_id))


@shared_task
def publish(merchant_id: int, **_: Any) -> None:
    """Publish a merchant's dirty SKUs, then have the channels concerned pushed."""
    _bell("publish").answer(str(merchant_id))

    def work() -> bool:
        published = publishing.publish_batch(merchant_id=merchant_id, now=timezone.now())
        for channel_id in published.channels:
            ring_push(channel_id)
        return published.skus > 0

    _shift(work, lambda: ring_publish(merchant_id))


@shared_task
def push(channel_id: int, **_: Any) -> None:
    """Push what a channel should show; suspects that turn up are read soon after."""
    _breathe(channel_id)
    _bell("push").answer(str(channel_id))
    channel = Channel.objects.get(pk=channel_id)

    def work() -> bool:
        done = pushing.push_channel(channel=channel, connector=connector_for(channel), rng=_rng, max_batches=1)
        if done.has_suspects:
            ring_check(channel_id)
        if done.has_more:
            _breathe(channel_id)
        return done.has_more and not done.wait_seconds and not done.unknown

    _guarded(channel, lambda: _shift(work, lambda: ring_push(channel_id)))


def _breathe(channel_id: int) -> None:
    """Leave a little time between two writes to a channel, so that changes gather into one."""
    key = f"breath:{channel_id}"
    try:
        if not _redis().set(key, 1, nx=True, px=PUSH_EVERY_MS):
            wait_ms = max(0, int(_redis().pttl(key)))
            time.sleep(wait_ms / 1000)
            _redis().set(key, 1, px=PUSH_EVERY_MS)
    except redis.RedisError:
        time.sleep(PUSH_EVERY_MS / 1000)


@shared_task
def check(channel_id: int, **_: Any) -> None:
    """Read a channel's suspect levels; poll its orders when samples wait for them."""
    _bell("check").answer(str(channel_id))
    channel = Channel.objects.get(pk=channel_id)

    def work() -> bool:
        done = checking.check_channel(channel=channel, connector=connector_for(channel), now=timezone.now())
        if done.needs_orders:
            reconciling.poll_orders(channel=channel, connector=connector_for(channel), now=timezone.now())
        if done.read:
            ring_publish(channel.merchant_id)
        return done.read > 0 and done.waiting < done.read

    _guarded(channel, lambda: _shift(work, lambda: ring_check(channel_id)))


@shared_task
def reconcile(channel_id: int, **_: Any) -> None:
    """One reconciliation pass over a channel."""
    _bell("reconcile").answer(str(channel_id))
    channel = Channel.objects.get(pk=channel_id)

    def work() -> bool:
        reconciling.reconcile(channel=channel, connector=connector_for(channel), now=timezone.now())
        ring_check(channel_id)
        return False

    _guarded(channel, lambda: _shift(work, lambda: None))


@shared_task
def activate(channel_id: int, **_: Any) -> None:
    """Bring a channel in that was connected or authorized again: its webhooks, locations, catalogue and levels."""
    _bell("activate").answer(str(channel_id))
    channel = Channel.objects.get(pk=channel_id)

    def work() -> None:
        onboarding.activate(channel, now=timezone.now())
        ring_reconcile(channel_id)

    _guarded(channel, work)


@shared_task
def reconcile_all(**_: Any) -> None:
    """Start a pass over every active channel (celery-beat)."""
    for channel_id in Channel.objects.filter(state=ChannelState.ACTIVE).values_list("id", flat=True):
        ring_reconcile(channel_id)


@shared_task
def check_webhooks(**_: Any) -> None:
    """Look after every active channel's webhook subscriptions, and read what was missed if one was gone (celery-beat)."""
    for channel in Channel.objects.filter(state=ChannelState.ACTIVE):

        def work(channel: Channel = channel) -> None:
            report = connector_for(channel).ensure_webhooks(callback_url(channel))
            if report.created or report.repaired:
                log.warning("webhooks.repaired", channel_id=channel.pk, created=report.created, repaired=report.repaired)
                ring_reconcile(channel.pk)

        _guarded(channel, work)


@shared_task
def sweep(**_: Any) -> None:
    """Find what no doorbell announced, and ring for it (celery-beat, every few seconds)."""
    try:
        found = sweeping.sweep(now=timezone.now())
    except (OperationalError, InterfaceError) as error:
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])
        return
    for merchant_id in found.merchants_to_apply:
        ring_apply(merchant_id)
    for merchant_id in found.merchants_to_publish:
        ring_publish(merchant_id)
    for channel_id in found.channels_to_push:
        ring_push(channel_id)
    for channel_id in found.channels_to_check:
        ring_check(channel_id)


def _guarded(channel: Channel, work: Callable[[], None]) -> None:
    """A channel that cannot be asked is the channel's trouble, not the worker's: note it and leave it to the sweep."""
    try:
        work()
    except protocol.ChannelError as error:
        sweeping.note_channel_error(channel=channel, error=error, rng=_rng)
        log.warning("task.channel_error", channel_id=channel.pk, error=str(error)[:300])
    except redis.RedisError as error:
        log.warning("task.redis_away", channel_id=channel.pk, error=type(error).__name__)
