"""Jobs: what somebody asked for and takes many batches. They live in PostgreSQL and survive every process.

A kind of job says what it is about to touch (`preview`), works one batch (`step`), and tells at the end what came of it
(`report`). A batch and the place where the next one begins are one transaction, so a job whose worker was killed goes on
where it was, elsewhere, once its lease has run out. It may be cancelled between two batches; what was done stays done.

    KIND = Kind("tidy", "Tidy up", read=read, preview=preview, step=step, report=report)
    jobs.register(KIND)                                      # sync.hooks.attach
    jobs.create(merchant_id=..., kind="tidy", said={...}, user=user)

A kind that talks to channels sets `commits_itself`: its step runs outside of any transaction, must bear being run again, and
only its progress is fenced. Either way a step must end well within `LEASE`: do a little, and say where to go on.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import structlog
from django.db import transaction
from django.db.models.functions import Now
from django.utils.dateparse import parse_datetime

from merchants import trail
from merchants.models import ApiKey, User
from sync.models import JOB_UNDER_WAY, Job, JobState
from synctec.lib import sql
from synctec.lib.backoff import MAX_ATTEMPTS, RETRY_SECONDS
from synctec.lib.ids import uuid7

log = structlog.get_logger(__name__)

#: A batch takes a second or two; so long its worker is believed to live.
LEASE = timedelta(seconds=30)

#: Called with a job's id after the commit that made or cancelled it. Filled by the engine when it starts (`sync.hooks`).
on_due: list[Callable[[int], object]] = []


class BadParameters(ValueError):
    """What was asked for cannot be; names the field and the way out."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class NothingToDo(Exception):
    """There is nothing that fits; no job was made."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a job is about to touch: how many, and in words."""

    count: int
    words: str


@dataclass(frozen=True, slots=True)
class Step:
    """What one batch came to, and where the next one begins."""

    cursor: Mapping[str, Any]
    done: int = 0
    changed: int = 0
    failed: int = 0
    tally: Mapping[str, int] = field(default_factory=dict)
    is_last: bool = False
    #: Nothing to do before: others are at work on what this batch asked for.
    wait: timedelta = timedelta(0)
    #: Channels that have something to push or to read because of it.
    channels: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job."""

    name: str
    title: str
    #: What was said, as its parameters; raises BadParameters.
    read: Callable[[int, Mapping[str, Any]], dict[str, Any]]
    preview: Callable[[int, Mapping[str, Any]], Preview]
    step: Callable[[Job], Step]
    report: Callable[[Job], str]
    commits_itself: bool = False


class Worked(NamedTuple):
    """What became of a job that was due."""

    merchant_id: int
    is_over: bool
    wait_seconds: float
    channels: Collection[int]


class _LeaseLost(Exception):
    """Another worker has the job."""


def read_moment(name: str, said: Any) -> datetime | None:
    """A moment with its offset; None when nothing was said. Raises BadParameters."""
    if not said:
        return None
    if isinstance(said, datetime):
        return said
    try:
        moment = parse_datetime(str(said))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise BadParameters(name, "Give a date and time with its offset, such as 2026-11-20T12:00:00Z.")
    return moment


KINDS: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Make a kind of job known, once, when Django has loaded all apps."""
    KINDS[kind.name] = kind


def title_of(job: Job) -> str:
    """What the job does, in words."""
    return KINDS[job.kind].title if job.kind in KINDS else job.kind


def preview(*, merchant_id: int, kind: str, said: Mapping[str, Any]) -> Preview:
    """What a job would touch if it were made now. Changes nothing.

    Raises:
        BadParameters: a field is wrong.
    """
    return KINDS[kind].preview(merchant_id, KINDS[kind].read(merchant_id, said))


@transaction.atomic
def create(
    *,
    merchant_id: int,
    kind: str,
    said: Mapping[str, Any],
    user: User | None = None,
    api_key: ApiKey | None = None,
    reason: str = "",
) -> Job:
    """Make a job, which a worker begins after the commit.

    Raises:
        BadParameters: a field is wrong.
        NothingToDo: nothing fits.
    """
    parameters = KINDS[kind].read(merchant_id, said)
    about = KINDS[kind].preview(merchant_id, parameters)
    if not about.count:
        raise NothingToDo(about.words)
    job = Job.objects.create(
        merchant_id=merchant_id,
        kind=kind,
        parameters=parameters,
        preview=about.words[:500],
        total=about.count,
        correlation_id=uuid7(),
        created_by=user,
        api_key=api_key,
    )
    trail.record(
        merchant_id=merchant_id,
        action="job.start",
        subject=job,
        user=user,
        api_key=api_key,
        after={"kind": kind, "parameters": parameters, "count": about.count},
        reason=reason,
        correlation_id=job.correlation_id,
    )
    _tell_due(job.pk)
    return job


@transaction.atomic
def cancel(*, job: Job, user: User | None = None, api_key: ApiKey | None = None, reason: str = "") -> bool:
    """End a job after the batch that is under way; False when it had ended, or was cancelled before."""
    if not Job.objects.filter(pk=job.pk, state__in=(JobState.WAITING, JobState.RUNNING)).update(
        state=JobState.CANCELLING
    ):
        return False
    trail.record(
        merchant_id=job.merchant_id,
        action="job.cancel",
        subject=job,
        user=user,
        api_key=api_key,
        before={"done": job.done},
        reason=reason,
        correlation_id=job.correlation_id,
    )
    _tell_due(job.pk)
    return True


def _tell_due(job_id: int) -> None:
    for tell in on_due:
        transaction.on_commit(partial(tell, job_id))


# --- working ----------------------------------------------------------------------------------------------------


def work(*, job_id: int) -> Worked | None:
    """Work one batch of a job; None when it is over, not due, or in another's hands.

    Raises:
        OperationalError, InterfaceError: the database is away; the batch is worked again when the lease has run out.
    """
    job = _claim(job_id)
    if job is None:
        return None
    try:
        if job.state == JobState.CANCELLING:
            return _end(job, JobState.CANCELLED)
        step = _work_batch(job)
    except _LeaseLost:
        log.info("job.lease_lost", job_id=job_id)
        return None
    except sql.AWAY:
        raise
    except Exception as error:
        log.exception("job.batch_failed", job_id=job_id, kind=job.kind, merchant_id=job.merchant_id)
        return _put_off(job, error)
    job.refresh_from_db()
    is_over = job.state not in JOB_UNDER_WAY
    return Worked(job.merchant_id, is_over, step.wait.total_seconds(), step.channels)


def _claim(job_id: int) -> Job | None:
    """Take the job for the length of a lease, if it is due."""
    token = uuid.uuid4()
    claimed = sql.rows(
        """
        UPDATE sync_job SET lease_token = %s, next_attempt_at = now() + %s, started_at = coalesce(started_at, now()),
            state = CASE WHEN state = 'waiting' THEN 'running' ELSE state END
        WHERE id = (
            SELECT id FROM sync_job
            WHERE id = %s AND state IN ('waiting', 'running', 'cancelling') AND next_attempt_at <= now()
            FOR UPDATE SKIP LOCKED)
        RETURNING id
        """,
        [token, LEASE, job_id],
    )
    return Job.objects.get(pk=job_id, lease_token=token) if claimed else None


def _work_batch(job: Job) -> Step:
    kind = KINDS[job.kind]
    if kind.commits_itself:
        step = kind.step(job)
        with transaction.atomic():
            _note(job, step)
        return step
    with transaction.atomic():
        step = kind.step(job)
        _note(job, step)
    return step


def _note(job: Job, step: Step) -> None:
    """Commit the progress with the batch, if the lease is still ours. Last in its transaction: nobody waits for it long."""
    job.cursor = dict(step.cursor)
    job.tally = {name: job.tally.get(name, 0) + step.tally.get(name, 0) for name in sorted({*job.tally, *step.tally})}
    job.done += step.done
    job.changed += step.changed
    job.failed += step.failed
    job.failures, job.error = 0, ""
    state = _fenced(job, wait=step.wait)
    if step.is_last:
        _end(job, JobState.DONE)
    elif state == JobState.CANCELLING:
        _end(job, JobState.CANCELLED)


def _fenced(job: Job, *, wait: timedelta) -> str:
    """Write the job's progress and let go of it. Returns its state, which somebody may have changed meanwhile.

    Raises:
        _LeaseLost: another worker has claimed it.
    """
    ours = Job.objects.filter(pk=job.pk, lease_token=job.lease_token, state__in=(JobState.RUNNING, JobState.CANCELLING))
    if not ours.update(
        cursor=job.cursor,
        tally=job.tally,
        done=job.done,
        changed=job.changed,
        failed=job.failed,
        failures=job.failures,
        error=job.error,
        next_attempt_at=Now() + wait,
    ):
        raise _LeaseLost
    return ours.values_list("state", flat=True).get()


@transaction.atomic
def _end(job: Job, state: JobState) -> Worked:
    """The last word on a job, and its line in the trail."""
    job.state = state
    kind = KINDS.get(job.kind)
    result = kind.report(job) if kind else ""
    if state == JobState.CANCELLED:
        result = f"Cancelled after {job.done:,} of {job.total:,}. {result}".strip()
    ours = Job.objects.filter(pk=job.pk, lease_token=job.lease_token, state__in=(JobState.RUNNING, JobState.CANCELLING))
    ended = ours.update(state=state, result=result[:500], error=job.error, finished_at=Now())
    if not ended:
        raise _LeaseLost
    trail.record(
        merchant_id=job.merchant_id,
        action=f"job.{state}",
        subject=job,
        after={"result": result, "done": job.done, "changed": job.changed, "failed": job.failed},
        reason=job.error,
        correlation_id=job.correlation_id,
    )
    return Worked(job.merchant_id, is_over=True, wait_seconds=0.0, channels=())


def _put_off(job: Job, error: Exception) -> Worked | None:
    """A batch failed: again later, with growing distance; after the last attempt the job has failed, and says why."""
    stored = Job.objects.filter(pk=job.pk, lease_token=job.lease_token).first()
    if stored is None:
        return None
    stored.failures += 1
    stored.error = f"{type(error).__name__}: {error}"[:500]
    try:
        if stored.failures > MAX_ATTEMPTS:
            return _end(stored, JobState.FAILED)
        pause = RETRY_SECONDS[stored.failures - 1]
        _fenced(stored, wait=timedelta(seconds=pause))
    except _LeaseLost:
        return None
    return Worked(job.merchant_id, is_over=False, wait_seconds=float(pause), channels=())
