"""Who watches the watchdog: every web and worker process looks now and then whether somebody evaluates the rules and sweeps.

Usually that is beat's and a worker's affair. Where it is not done, the process that notices does it: the rules are evaluated
under a lock that nobody waits for, sweeps are rung for, and notices that nobody sends are sent from here. So that beat, the
workers or both may be dead, and people hear of it all the same.

A worker also says here that it makes progress: when it last ended a task. That its process exists says nothing.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import structlog
from celery import signals
from django.db import connection

from merchants import notices
from sync import presence, tasks
from sync.alerts import evaluate as evaluating
from sync.models import Heartbeat
from synctec.lib import clock, sql
from synctec.lib.alone import alone

log = structlog.get_logger(__name__)

#: Between two looks; drawn between half of it and the whole, so that processes that start together do not look together.
EVERY_SECONDS: Final = 30.0
#: Beat has the rules evaluated every half minute.
EVALUATE_AFTER_SECONDS: Final = 75.0
#: Beat has it swept every three seconds.
SWEEP_AFTER_SECONDS: Final = 20.0
#: Workers send what is to be told within fifteen seconds.
TELL_AFTER: Final = timedelta(seconds=60)
#: A worker says at most so often that it makes progress.
PROGRESS_EVERY_SECONDS: Final = 10.0

_rng = random.Random()  # noqa: S311  # spreads looks and retries, keeps no secret
_started = threading.Lock()
_is_started = False
#: One target that hangs must not keep the others from being told.
_tellers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="teller")


def start() -> None:
    """Begin to look, in a thread of this process; once, however often it is called."""
    global _is_started
    with _started:
        if _is_started:
            return
        _is_started = True
    threading.Thread(target=_keep_looking, name="watch", daemon=True).start()


def _keep_looking() -> None:
    while True:
        time.sleep(_rng.uniform(EVERY_SECONDS / 2, EVERY_SECONDS))
        try:
            look()
        finally:
            connection.close()


def _is_laid_out() -> bool:
    with suppress(*sql.AWAY):
        return presence.is_laid_out()
    return False


def look() -> None:
    """One look: do what nobody else has done for too long. Never raises."""
    if not alone("find the tables", _is_laid_out):
        return
    alone("note the clock", _note_clock)
    alone("evaluate", _evaluate_if_stale)
    alone("ring for a sweep", _ring_if_late)
    alone("tell", _tell_if_late)


def _evaluate_if_stale() -> None:
    try:
        if evaluating.is_stale(clock.now(), seconds=EVALUATE_AFTER_SECONDS):
            log.warning("watch.evaluates")
            evaluating.evaluate_now()
    except sql.AWAY as error:
        log.warning("watch.database_away", error=type(error).__name__)


def _ring_if_late() -> None:
    """Have it swept. It also gives workers something to end, by which they show that they are there."""
    try:
        beat = Heartbeat.objects.filter(name="sweep").values_list("beat_at", flat=True).first()
        if beat is not None and (clock.now() - beat).total_seconds() < SWEEP_AFTER_SECONDS:
            return
        tasks.sweep.apply_async(expires=EVERY_SECONDS)
    except sql.AWAY as error:
        log.warning("watch.database_away", error=type(error).__name__)
    except Exception as error:
        log.warning("bell.not_rung", bell="sweep", error=type(error).__name__)


def _tell_if_late() -> None:
    """Send what nobody sends."""
    try:
        late = notices.due(clock.now(), late_by=TELL_AFTER)
    except sql.AWAY as error:
        log.warning("watch.database_away", error=type(error).__name__)
        return
    for target_id in late:
        _tellers.submit(_tell, target_id)


def _tell(target_id: int) -> None:
    try:
        alone("tell", lambda: notices.deliver(target_id, now=clock.now, rng=_rng), target_id=target_id)
    finally:
        connection.close()


# --- progress of workers ------------------------------------------------------------------------------------


class _Worker:
    """This process as a worker: its name, once it is one, and when it last said that it makes progress."""

    name = ""
    noted_at = 0.0


def attach() -> None:
    """Listen to what Celery says in workers. Elsewhere nothing of it is ever said."""
    signals.celeryd_init.connect(_worker_begins, weak=False)
    signals.worker_ready.connect(_worker_is_ready, weak=False)
    signals.task_postrun.connect(_task_ended, weak=False)
    signals.worker_shutdown.connect(_worker_ends, weak=False)


def _worker_begins(sender: Any = None, **_: Any) -> None:
    _Worker.name = str(sender or socket.gethostname())[:120]


def _worker_is_ready(**_: Any) -> None:
    alone("note progress", lambda: note_progress(_Worker.name, is_start=True))
    connection.close()
    start()


def _task_ended(**_: Any) -> None:
    if not _Worker.name or time.monotonic() - _Worker.noted_at < PROGRESS_EVERY_SECONDS:
        return
    _Worker.noted_at = time.monotonic()
    try:
        note_progress(_Worker.name)
    except sql.AWAY as error:
        log.warning("watch.database_away", error=type(error).__name__)


def _worker_ends(**_: Any) -> None:
    if _Worker.name:
        alone("note the end", lambda: note_end(_Worker.name))


def note_progress(name: str, *, is_start: bool = False) -> None:
    """This worker has ended a task, or has just begun."""
    sql.execute(
        """
        INSERT INTO sync_processbeat AS process (name, started_at, progressed_at)
        VALUES (%s, clock_timestamp(), clock_timestamp())
        ON CONFLICT (name) DO UPDATE SET progressed_at = clock_timestamp(), stopped_at = NULL,
            started_at = CASE WHEN %s THEN clock_timestamp() ELSE process.started_at END
        """,
        [name, is_start],
    )


def note_end(name: str) -> None:
    """This worker ends as it was told to; those that never came back are forgotten in time."""
    sql.execute("UPDATE sync_processbeat SET stopped_at = clock_timestamp() WHERE name = %s", [name])


def _note_clock() -> None:
    """By how much this worker's clock is ahead of the database's; the others say it when they evaluate."""
    if not _Worker.name:
        return
    try:
        ahead = evaluating.clock_ahead()
        sql.execute("UPDATE sync_processbeat SET clock_ahead_seconds = %s WHERE name = %s", [ahead, _Worker.name])
        # The newest stays: it says when any worker was last seen.
        sql.execute(
            """
            DELETE FROM sync_processbeat WHERE progressed_at < clock_timestamp() - interval '1 day'
                AND progressed_at < (SELECT max(progressed_at) FROM sync_processbeat)
            """
        )
    except sql.AWAY as error:
        log.warning("watch.database_away", error=type(error).__name__)
