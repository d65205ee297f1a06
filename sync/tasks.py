"""Doorbells: Celery tasks that wake the engine. They carry ids, may be lost or doubled at will, and collapse.

What there is to do is found by SQL, so a lost message costs the wait for the next sweep and a doubled one costs a look.

A message costs more than most of the work it announces, so a task that was woken stays: it holds its bell, which makes
further rings free, gathers what arrives in a moment into one batch, and leaves when nothing has come for a while. Before
it leaves it silences the bell and looks once more, so that no ring falls between.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

import redis
import structlog
from celery import shared_task
from django.conf import settings
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.retry import Retry

from channels import onboarding, protocol, subscriptions
from channels.models import Channel, ChannelState
from inventory import holds
from sync import apply as applying
from sync import auditor, live, outage, passes
from sync import check as checking
from sync import publish as publishing
from sync import push as pushing
from sync import reconcile as reconciling
from sync import sweep as sweeping
from sync.alerts import evaluate as evaluating
from synctec.lib import clock, sql
from synctec.lib.alone import alone
from synctec.lib.doorbell import Doorbell
from synctec.lib.failpoints import failpoint

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: A task gives way to others after this long, and rings for the rest.
SHIFT_SECONDS = 10.0
#: A task stays for this long after its latest find.
LINGER_SECONDS = 0.8
#: So long events gather into one batch.
GATHER_SECONDS = 0.02
#: A channel is written to at most this often: what changes meanwhile shares the next call.
PUSH_EVERY_SECONDS = 0.15
#: Tasks that stay. Their bells, heard ringing, are not pressed again for a moment shorter than they linger; whoever
#: answers another bell may be gone by then.
STAYING = frozenset({"apply", "push"})
HEARD_SECONDS = 0.2
#: Of all its questions together; what takes longer than that for one is given up before (see `sync.auditor`).
AUDIT_SECONDS_MAX = 1_200
#: After the broker refused a message, nobody tries again for this long: a webhook must not wait for a dead broker.
BROKER_PAUSE_SECONDS = 1.0

_broker_rests_until = 0.0
_heard_until: dict[tuple[str, int], float] = {}


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
    now = time.monotonic()
    if now < _broker_rests_until or now < _heard_until.get((name, key), 0.0):
        return
    if not _bell(name).press(str(key)):
        if name in STAYING:
            _heard_until[(name, key)] = now + HEARD_SECONDS
        return
    failpoint("bell.after_press")
    try:
        task.delay(key)
    except Exception as error:
        _broker_rests_until = time.monotonic() + BROKER_PAUSE_SECONDS
        _bell(name).answer(str(key))
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


def ring_poll(channel_id: int) -> None:
    """A channel did not answer; it may by now."""
    _ring(poll, "poll", channel_id)


def ring_reconcile(channel_id: int) -> None:
    """Somebody wants a channel's orders and levels compared now."""
    _ring(reconcile, "reconcile", channel_id)


def ring_activate(channel_id: int) -> None:
    """A channel was connected: bring it in."""
    _ring(activate, "activate", channel_id)


def _stay(name: str, key: int, work: Callable[[], bool], *, pause_seconds: float) -> bool:
    """Hold the bell and repeat `work`, which says whether it found anything, until nothing comes any more.

    Returns whether the shift ended with work left.
    """
    assert name in STAYING
    bell = _bell(name)
    began_at = found_at = held_at = time.monotonic()
    bell.hold(str(key))
    try:
        while found_at - began_at < SHIFT_SECONDS and time.monotonic() - found_at < LINGER_SECONDS:
            if work():
                found_at = time.monotonic()
            time.sleep(pause_seconds)
            if time.monotonic() - held_at > 1.0:
                bell.hold(str(key))
                held_at = time.monotonic()
        bell.answer(str(key))
        return work()
    except sql.AWAY as error:
        # The database is away or a lock could not be had: nothing is lost, the sweep comes back to it.
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])
        return False
    finally:
        bell.answer(str(key))


@shared_task
def apply(merchant_id: int, **_: Any) -> None:
    """Apply a merchant's pending events and publish what they changed."""

    def work() -> bool:
        applied = applying.apply_batch(live.engine(), merchant_id=merchant_id)
        if applied.dirty:
            _publish(merchant_id)
        return applied.claimed > applied.busy

    if _stay("apply", merchant_id, work, pause_seconds=GATHER_SECONDS):
        ring_apply(merchant_id)


def _publish(merchant_id: int) -> bool:
    published = publishing.publish_batch(live.engine(), merchant_id=merchant_id)
    failpoint("publish.after_commit")
    for channel_id in published.channels:
        ring_push(channel_id)
    return published.skus > 0


@shared_task
def publish(merchant_id: int, **_: Any) -> None:
    """Publish a merchant's dirty SKUs that no event left behind: changes by hand, and what a sweep found."""
    _bell("publish").answer(str(merchant_id))
    try:
        while _publish(merchant_id):
            pass
    except sql.AWAY as error:
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])


@shared_task
def push(channel_id: int, **_: Any) -> None:
    """Push what a channel should show; suspects that turn up are read soon after."""
    channel = Channel.objects.get(pk=channel_id)

    def work() -> bool:
        done = pushing.push_channel(live.engine(), channel=live.ref(channel), max_batches=1)
        if done.has_suspects:
            ring_check(channel_id)
        return done.batches > 0 and not done.wait_seconds and not done.unknown

    def stay() -> None:
        if _stay("push", channel_id, work, pause_seconds=PUSH_EVERY_SECONDS):
            ring_push(channel_id)

    _guarded(channel, stay)


@shared_task
def check(channel_id: int, **_: Any) -> None:
    """Read a channel's suspect levels; poll its orders when samples wait for them."""
    _bell("check").answer(str(channel_id))
    channel = Channel.objects.get(pk=channel_id)

    def work() -> None:
        while True:
            done = checking.check_channel(live.engine(), channel=live.ref(channel))
            if done.needs_orders:
                reconciling.poll_orders(live.engine(), channel=live.ref(channel))
            if done.read:
                ring_publish(channel.merchant_id)
            if done.read == 0 or done.waiting == done.read:
                return

    _guarded(channel, work)


@shared_task
def poll(channel_id: int, **_: Any) -> None:
    """Ask a channel that did not answer whether it does again, by what it has to tell first of all: its orders."""
    _bell("poll").answer(str(channel_id))
    channel = Channel.objects.get(pk=channel_id)

    def work() -> None:
        reconciling.poll_orders(live.engine(), channel=live.ref(channel))
        ring_publish(channel.merchant_id)

    _guarded(channel, work)


@shared_task
def reconcile(channel_id: int, **_: Any) -> None:
    """One reconciliation pass over a channel."""
    _bell("reconcile").answer(str(channel_id))
    channel = Channel.objects.get(pk=channel_id)

    def work() -> None:
        passes.reconcile(live.engine(), channel=channel)
        ring_check(channel_id)

    _guarded(channel, work)


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
        alone("check webhooks", partial(_guarded, channel, partial(_check_webhooks, channel)), channel_id=channel.pk)


def _check_webhooks(channel: Channel) -> None:
    report = subscriptions.check(channel, now=clock.now())
    if report.created or report.repaired:
        log.warning("webhooks.repaired", channel_id=channel.pk, created=report.created, repaired=report.repaired)
        ring_reconcile(channel.pk)


@shared_task(soft_time_limit=AUDIT_SECONDS_MAX, time_limit=AUDIT_SECONDS_MAX + 60)
def audit(**_: Any) -> None:
    """Ask the database whether all holds that must hold at any moment (celery-beat, hourly)."""
    try:
        auditor.audit(now=clock.now())
    except sql.AWAY as error:
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])


@shared_task
def evaluate_alerts(**_: Any) -> None:
    """Ask every alert rule, and have people told what is new (celery-beat, every half minute)."""
    try:
        evaluating.evaluate_now()
    except sql.AWAY as error:
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])


@shared_task
def sweep(**_: Any) -> None:
    """Find what no doorbell announced, and ring for it (celery-beat, every few seconds)."""
    _step("mind the clock", lambda: live.engine().books.mind_clock())
    _step("end doubts", lambda: live.engine().books.end_doubts())
    _step("sweep holds", lambda: holds.sweep(now=clock.now()))
    _step("take up lines", sweeping.take_up_placeable_lines)
    found = _step("find work", lambda: sweeping.sweep(now=clock.now()))
    if found is None:
        return
    failpoint("sweep.after_find")
    for merchant_id in found.merchants_to_apply:
        ring_apply(merchant_id)
    for merchant_id in found.merchants_to_publish:
        ring_publish(merchant_id)
    for channel_id in found.channels_to_push:
        ring_push(channel_id)
    for channel_id in found.channels_to_check:
        ring_check(channel_id)
    for channel_id in found.channels_to_poll:
        ring_poll(channel_id)


def _step(step: str, act: Callable[[], T]) -> T | None:
    """What a step of a sweep returns; None where it failed."""

    def work() -> T | None:
        try:
            return act()
        except sql.AWAY as error:
            log.warning("task.database_away", step=step, error=str(error).splitlines()[0][:200])
            return None

    return alone(step, work)


def _guarded(channel: Channel, work: Callable[[], object]) -> None:
    """A channel that cannot be asked is the channel's trouble, not the worker's: note it and leave it to the sweep."""
    try:
        work()
    except protocol.ChannelError as error:
        outage.note_failure(live.engine(), live.ref(channel), error)
        log.warning("task.channel_error", channel_id=channel.pk, error=str(error)[:300])
    except sql.AWAY as error:
        log.warning("task.database_away", error=str(error).splitlines()[0][:200])
    except redis.RedisError as error:
        log.warning("task.redis_away", channel_id=channel.pk, error=type(error).__name__)
