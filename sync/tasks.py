"""Doorbells: Celery tasks that wake the engine. They carry ids, may be lost or doubled at will, and collapse.

What there is to do is found by SQL, so a lost message costs the wait for the next sweep and a doubled one costs a look.

A message costs more than most of the work it announces, so a task that was woken stays: it holds its bell, which makes
further rings free, gathers what arrives in a moment into one batch, and leaves when nothing has come for a while. Before
it leaves it silences the bell and looks once more, so that no ring falls between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from typing import Any, TypeVar

import redis
import structlog
from celery import shared_task
from celery.signals import task_postrun, worker_process_shutdown
from django.conf import settings
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.retry import Retry

from channels import bodies, inbox, onboarding, protocol, subscriptions, urgency
from channels.calls import tally
from channels.models import Channel, ChannelState
from channels.urgency import Urgency
from inventory import holds
from sync import apply as applying
from sync import (
    auditor,
    bigruns,
    buffers,
    due,
    history,
    jobs,
    letters,
    live,
    outage,
    passes,
    presence,
    reports,
    retention,
    shadow,
    snapshots,
    telling,
)
from sync import check as checking
from sync import explain as explaining
from sync import publish as publishing
from sync import push as pushing
from sync import reconcile as reconciling
from sync import sweep as sweeping
from sync.alerts import evaluate as evaluating
from sync.models import RunKind, RunState
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
#: A million levels are read within that.
FULL_SYNC_SECONDS_MAX = 1_200
#: Of an hour's reading and the days it keeps.
KEEP_SECONDS_MAX = 1_200
#: Of the daily deleting, which ends by itself before.
FORGET_SECONDS_MAX = retention.SECONDS_MAX + 60
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


def ring_full_sync(channel_id: int) -> None:
    """A channel's daily full sync is due, or goes on."""
    _ring(full_sync, "full_sync", channel_id)


def ring_compare_shadow(channel_id: int) -> None:
    """Somebody wants to know how a channel in shadow mode compares now."""
    _ring(compare_shadow, "compare_shadow", channel_id)


def ring_activate(channel_id: int) -> None:
    """A channel was connected: bring it in."""
    _ring(activate, "activate", channel_id)


def ring_job(job_id: int) -> None:
    """A job has a batch due."""
    _ring(work_job, "job", job_id)


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


def _hand_over_counts(**_: Any) -> None:
    """What was counted of the calls to channels is not kept back by a worker that has nothing to do."""
    tally.flush()


task_postrun.connect(_hand_over_counts)
worker_process_shutdown.connect(_hand_over_counts)


@shared_task
def apply(merchant_id: int, **_: Any) -> None:
    """Apply a merchant's pending events and publish what they changed."""

    def work() -> bool:
        began_at = time.time()
        # What it reads of orders is more urgent than that, and says so.
        with urgency.of(Urgency.SUSPECT):
            applied = applying.apply_batch(live.engine(), merchant_id=merchant_id)
        telling.applied(merchant_id, applied, began_at=began_at)
        if applied.dirty:
            _publish(merchant_id)
        return applied.claimed > applied.busy

    if _stay("apply", merchant_id, work, pause_seconds=GATHER_SECONDS):
        ring_apply(merchant_id)


def _publish(merchant_id: int) -> bool:
    began_at = time.time()
    published = publishing.publish_batch(live.engine(), merchant_id=merchant_id)
    failpoint("publish.after_commit")
    telling.published(merchant_id, published, began_at=began_at)
    for channel_id in published.channels:
        ring_push(channel_id)
    return published.skus > 0


@shared_task
def publish(merchant_id: int, **_: Any) -> None:
    """Publish a merchant's dirty SKUs that no event left behind: changes by hand, and what a sweep found."""
    _bell("publish").answer(str(merchant_id))
    with _if_reachable():
        while _publish(merchant_id):
            pass
        if bigruns.judge_all():
            ring_publish(merchant_id)


@shared_task
def push(channel_id: int, **_: Any) -> None:
    """Push what a channel should show; suspects that turn up are read soon after."""

    def push_once(channel: Channel) -> bool:
        began_at = time.time()
        done = pushing.push_channel(live.engine(), channel=live.ref(channel), max_batches=1)
        telling.pushed(channel, done, began_at=began_at)
        if done.has_suspects:
            ring_check(channel_id)
        return done.batches > 0 and not done.wait_seconds and not done.unknown

    def work(channel: Channel) -> None:
        if channel.is_shadow:
            _bell("push").answer(str(channel_id))
            shadow.note(channel_id)
        elif _stay("push", channel_id, partial(push_once, channel), pause_seconds=PUSH_EVERY_SECONDS):
            ring_push(channel_id)

    if not _at(channel_id, work):
        _bell("push").answer(str(channel_id))


@shared_task
def check(channel_id: int, **_: Any) -> None:
    """Read a channel's suspect levels; poll its orders when samples wait for them."""
    _bell("check").answer(str(channel_id))

    def work(channel: Channel) -> None:
        while True:
            done = checking.check_channel(live.engine(), channel=live.ref(channel))
            if done.needs_orders:
                reconciling.poll_orders(live.engine(), channel=live.ref(channel))
            if done.read:
                ring_publish(channel.merchant_id)
            if done.read == 0 or done.waiting == done.read:
                return

    with urgency.of(Urgency.SUSPECT):
        _at(channel_id, work)


@shared_task
def poll(channel_id: int, **_: Any) -> None:
    """Ask a channel that did not answer whether it does again, by what it has to tell first of all: its orders."""
    _bell("poll").answer(str(channel_id))

    def work(channel: Channel) -> None:
        reconciling.poll_orders(live.engine(), channel=live.ref(channel))
        ring_publish(channel.merchant_id)

    with urgency.of(Urgency.SUSPECT):
        _at(channel_id, work)


@shared_task
def reconcile(channel_id: int, **_: Any) -> None:
    """One reconciliation pass over a channel."""
    _bell("reconcile").answer(str(channel_id))

    def work(channel: Channel) -> None:
        run = passes.reconcile(live.engine(), channel=channel, shift=passes.SHIFT)
        ring_check(channel_id)
        if run is not None and run.state == RunState.RUNNING:
            ring_reconcile(channel_id)

    _at(channel_id, work)


@shared_task(soft_time_limit=FULL_SYNC_SECONDS_MAX, time_limit=FULL_SYNC_SECONDS_MAX + 60)
def full_sync(channel_id: int, **_: Any) -> None:
    """Compare every level of a channel, from a snapshot where it makes one; while that takes its time, the sweep rings."""
    _bell("full_sync").answer(str(channel_id))

    def work(channel: Channel) -> None:
        snapshots.full_sync(live.engine(), channel=channel)
        ring_check(channel_id)

    _at(channel_id, work)


@shared_task
def activate(channel_id: int, **_: Any) -> None:
    """Bring a channel in that was connected or authorized again: its webhooks, locations, catalogue and levels."""
    _bell("activate").answer(str(channel_id))

    def work(channel: Channel) -> None:
        onboarding.activate(channel, now=timezone.now())
        ring_reconcile(channel_id)

    _at(channel_id, work)


@shared_task
def reconcile_all(**_: Any) -> None:
    """Start the passes that are due (celery-beat). The sweep does so, too: this one's row says how often they are."""
    _ring_due()


def _ring_due() -> None:
    for found in due.due(now=clock.now()):
        if found.kind == RunKind.FULL:
            ring_full_sync(found.channel_id)
        else:
            ring_reconcile(found.channel_id)


@shared_task
def explain(**_: Any) -> None:
    """Tell why levels differed, of what is settled by now (celery-beat)."""
    _step("explain", lambda: explaining.explain(now=clock.now()))


@shared_task
def report(**_: Any) -> None:
    """Write the daily reports that are due, and send them to those who want them (celery-beat)."""
    _step("write reports", lambda: reports.write_due(now=clock.now()))
    _step("send reports", lambda: reports.send_due(now=clock.now()))


@shared_task
def compare_shadows(**_: Any) -> None:
    """Compare every channel in shadow mode that was not compared today, and forget what is too old (celery-beat, hourly)."""
    now = clock.now()
    _step("forget intended writes", partial(shadow.forget, now=now))
    _step("forget what was let through", partial(bigruns.forget, now=now))
    for channel_id in _step("find shadows", partial(shadow.due, now=now)) or ():
        ring_compare_shadow(channel_id)


@shared_task
def compare_shadow(channel_id: int, **_: Any) -> None:
    """Compare a channel in shadow mode with what it would be told."""
    _bell("compare_shadow").answer(str(channel_id))

    def work(channel: Channel) -> None:
        if channel.is_shadow:
            shadow.compare(live.engine(), channel=channel)

    _at(channel_id, work)


@shared_task
def check_webhooks(**_: Any) -> None:
    """Look after every active channel's webhook subscriptions, and read what was missed if one was gone (celery-beat)."""
    active = Channel.objects.filter(state=ChannelState.ACTIVE)
    for channel_id in _step("find channels", lambda: list(active.values_list("pk", flat=True))) or ():
        alone("check webhooks", partial(_at, channel_id, _check_webhooks), channel_id=channel_id)


def _check_webhooks(channel: Channel) -> None:
    report = subscriptions.check(channel, now=clock.now())
    if report.created or report.repaired:
        log.warning("webhooks.repaired", channel_id=channel.pk, created=report.created, repaired=report.repaired)
        ring_reconcile(channel.pk)


@shared_task
def work_job(job_id: int, **_: Any) -> None:
    """Work a job batch by batch, for one shift."""
    _bell("job").answer(str(job_id))
    began_at = time.monotonic()
    with _if_reachable():
        while (worked := jobs.work(job_id=job_id)) is not None:
            inbox.ring(worked.merchant_id)
            for channel_id in worked.channels:
                ring_push(channel_id)
                ring_check(channel_id)
            if worked.is_over:
                return
            if time.monotonic() - began_at + worked.wait_seconds > SHIFT_SECONDS:
                ring_job(job_id)
                return
            time.sleep(worked.wait_seconds)


@shared_task(soft_time_limit=AUDIT_SECONDS_MAX, time_limit=AUDIT_SECONDS_MAX + 60)
def audit(**_: Any) -> None:
    """Ask the database whether all holds that must hold at any moment (celery-beat, hourly)."""
    with _if_reachable():
        auditor.audit(now=clock.now())


@shared_task(soft_time_limit=KEEP_SECONDS_MAX, time_limit=KEEP_SECONDS_MAX + 60)
def keep_scores(**_: Any) -> None:
    """Keep what the scorecard shows of days gone by (celery-beat, hourly); what was missed is made up for."""
    _step("read buffers", lambda: buffers.read_hours(now=clock.now()))
    _step("keep days", lambda: history.keep_days(now=clock.now()))
    _step("forget presence", lambda: presence.forget(now=clock.now()))


@shared_task
def forget_bodies(**_: Any) -> None:
    """Make room for the bodies of the days to come, and drop those that were kept long enough (celery-beat, hourly)."""
    today = bodies.day_of(clock.now())
    with _if_reachable():
        bodies.make_room(today)
        bodies.forget(before=today - timedelta(days=settings.INBOX_BODY_DAYS), today=today)


@shared_task(soft_time_limit=FORGET_SECONDS_MAX, time_limit=FORGET_SECONDS_MAX + 60)
def forget_history(**_: Any) -> None:
    """Delete what is over and was kept long enough (celery-beat, daily)."""
    _step("forget history", lambda: retention.forget(now=clock.now()))


@shared_task
def evaluate_alerts(**_: Any) -> None:
    """Ask every alert rule, and have people told what is new (celery-beat, every half minute)."""
    with _if_reachable():
        evaluating.evaluate_now()


@shared_task
def sweep(**_: Any) -> None:
    """Find what no doorbell announced, and ring for it (celery-beat, every few seconds)."""
    _step("be present", lambda: presence.note("workers", "beat", now=clock.now()))
    _step("mind the clock", lambda: live.engine().books.mind_clock())
    _step("end doubts", lambda: live.engine().books.end_doubts())
    _step("sweep holds", lambda: holds.sweep(now=clock.now()))
    _step("take up lines", sweeping.take_up_placeable_lines)
    _step("keep dead letters", letters.keep)
    _step("find passes", _ring_due)
    for merchant_id in _step("judge big runs", bigruns.judge_all) or ():
        ring_publish(merchant_id)
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
    for job_id in found.jobs_to_work:
        ring_job(job_id)


@contextmanager
def _if_reachable(**about: object) -> Iterator[None]:
    """The database is away or a lock could not be had: nothing is lost, the sweep comes back to it."""
    try:
        yield
    except sql.AWAY as error:
        log.warning("task.database_away", error=str(error).splitlines()[0][:200], **about)


def _step(step: str, act: Callable[[], T]) -> T | None:
    """What a step of a sweep returns; None where it failed."""

    def work() -> T | None:
        found: T | None = None
        with _if_reachable(step=step):
            found = act()
        return found

    return alone(step, work)


def _at(channel_id: int, work: Callable[[Channel], object]) -> bool:
    """Work at a channel, if there still is one; returns whether that went well. Where it cannot be asked, that is the
    channel's trouble, not the worker's: it is noted, and left to the sweep.
    """
    with _if_reachable(channel_id=channel_id):
        channel = Channel.objects.filter(pk=channel_id).first()
        if channel is None:
            return False
        structlog.contextvars.bind_contextvars(merchant_id=channel.merchant_id, channel_id=channel_id)
        try:
            work(channel)
            return True
        except protocol.ChannelError as error:
            outage.note_failure(live.engine(), live.ref(channel), error)
            log.warning("task.channel_error", channel_id=channel_id, error=str(error)[:300])
        except redis.RedisError as error:
            log.warning("task.redis_away", channel_id=channel_id, error=type(error).__name__)
    return False
