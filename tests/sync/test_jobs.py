"""Jobs: a batch and its progress are one, whoever is killed; they are cancelled between batches, and they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.db.models.functions import Now

from merchants.models import AuditEvent, Merchant
from sync import jobs, sweep, tasks
from sync.models import DirtySku, Job, JobState
from synctec.lib.backoff import MAX_ATTEMPTS
from tests.factories import NOON, Trade, make_trade

pytestmark = pytest.mark.django_db(transaction=True)


class Counting:
    """A kind of job that marks a SKU dirty in each of three batches, and misbehaves on request."""

    def __init__(self, trade: Trade) -> None:
        self.trade = trade
        self.fault: Exception | None = None
        self.before_end: Any = None
        self.kind = jobs.Kind(
            "count",
            "Count",
            read=self.read,
            preview=lambda merchant, parameters: jobs.Preview(parameters["batches"], "some batches"),
            step=self.step,
            report=lambda job: f"{job.done} batches, {job.tally.get('odd', 0)} odd.",
        )

    def read(self, merchant_id: int, said: Mapping[str, Any]) -> dict[str, Any]:
        return {"batches": int(said.get("batches", 3))}

    def step(self, job: Job) -> jobs.Step:
        number = job.cursor.get("number", 0) + 1
        DirtySku.objects.create(
            merchant=self.trade.merchant,
            sku=self.trade.skus["MUG"],
            correlation_id=job.correlation_id,
            caused_at=NOON,
        )
        if self.before_end is not None:
            self.before_end()
        if self.fault is not None:
            raise self.fault
        return jobs.Step(
            {"number": number},
            done=1,
            changed=1,
            tally={"odd": number % 2},
            is_last=number == job.parameters["batches"],
        )

    def marks(self) -> int:
        return DirtySku.objects.count()


@pytest.fixture
def counting() -> Iterator[Counting]:
    counting = Counting(make_trade())
    DirtySku.objects.all().delete()
    jobs.register(counting.kind)
    yield counting
    del jobs.KINDS["count"]


@pytest.fixture
def job(counting: Counting) -> Job:
    return jobs.create(merchant_id=counting.trade.merchant.pk, kind="count", said={})


def state_of(job: Job) -> tuple[str, int, int]:
    job.refresh_from_db()
    return job.state, job.done, len(DirtySku.objects.all())


def pretend_its_worker_died() -> None:
    Job.objects.update(next_attempt_at=Now() - timedelta(minutes=1))


def test_a_job_is_worked_batch_by_batch_to_its_end(counting: Counting, job: Job) -> None:
    worked = [jobs.work(job_id=job.pk) for _ in range(4)]

    assert [result and result.is_over for result in worked] == [False, False, True, None]
    assert state_of(job) == (JobState.DONE, 3, 3)
    assert (job.result, job.changed, job.tally) == ("3 batches, 2 odd.", 3, {"odd": 2})
    assert job.finished_at is not None
    trail = AuditEvent.objects.filter(object_type="sync.job").order_by("pk")
    assert [event.action for event in trail] == ["job.start", "job.done"]
    assert {event.correlation_id for event in trail} == {job.correlation_id}


def test_a_job_waits_for_a_worker_and_is_found_by_the_sweep(counting: Counting, job: Job) -> None:
    assert sweep.sweep(now=NOON).jobs_to_work == [job.pk]

    tasks.work_job(job.pk)

    assert sweep.sweep(now=NOON).jobs_to_work == []
    assert state_of(job) == (JobState.DONE, 3, 3)


def test_what_a_job_finds_nothing_for_is_not_made(counting: Counting) -> None:
    with pytest.raises(jobs.NothingToDo, match="some batches"):
        jobs.create(merchant_id=counting.trade.merchant.pk, kind="count", said={"batches": 0})

    assert not Job.objects.exists()


def test_nobody_else_works_on_a_job_while_its_worker_is_believed_to_live(counting: Counting, job: Job) -> None:
    counting.before_end = lambda: seen.append(jobs._claim(job.pk))
    seen: list[Any] = []

    jobs.work(job_id=job.pk)

    assert seen == [None]


def test_a_job_whose_worker_died_goes_on_where_it_was(counting: Counting, job: Job) -> None:
    jobs.work(job_id=job.pk)
    jobs._claim(job.pk)  # and never heard of again
    assert jobs.work(job_id=job.pk) is None
    pretend_its_worker_died()

    for _ in range(2):
        jobs.work(job_id=job.pk)

    assert state_of(job) == (JobState.DONE, 3, 3)


def test_a_worker_that_was_taken_for_dead_commits_nothing(counting: Counting, job: Job) -> None:
    def another_takes_over() -> None:
        counting.before_end = None
        pretend_its_worker_died()
        assert jobs._claim(job.pk) is not None

    counting.before_end = another_takes_over

    # In the very transaction of the first worker's batch here, and so it is undone with it.
    assert jobs.work(job_id=job.pk) is None
    assert state_of(job) == (JobState.RUNNING, 0, 0)


def test_a_job_is_cancelled_after_the_batch_under_way(counting: Counting, job: Job) -> None:
    jobs.work(job_id=job.pk)
    counting.before_end = lambda: jobs.cancel(job=job, reason="changed my mind")

    worked = jobs.work(job_id=job.pk)

    assert worked is not None
    assert worked.is_over
    assert state_of(job) == (JobState.CANCELLED, 2, 2)
    assert job.result == "Cancelled after 2 of 3. 2 batches, 1 odd."
    assert AuditEvent.objects.get(action="job.cancel").reason == "changed my mind"


def test_a_job_nobody_has_begun_is_cancelled_too(counting: Counting, job: Job) -> None:
    assert jobs.cancel(job=job)
    assert not jobs.cancel(job=job)

    jobs.work(job_id=job.pk)

    assert state_of(job) == (JobState.CANCELLED, 0, 0)


def test_a_batch_that_fails_is_tried_again_and_leaves_nothing_behind(counting: Counting, job: Job) -> None:
    counting.fault = LookupError("not yet")
    worked = jobs.work(job_id=job.pk)

    assert worked is not None
    assert worked.wait_seconds == 1
    assert state_of(job) == (JobState.RUNNING, 0, 0)
    assert job.error == "LookupError: not yet"
    assert jobs.work(job_id=job.pk) is None  # not due yet
    counting.fault = None
    pretend_its_worker_died()
    jobs.work(job_id=job.pk)

    assert state_of(job) == (JobState.RUNNING, 1, 1)
    assert (job.error, job.failures) == ("", 0)


def test_a_job_that_fails_for_good_says_why(counting: Counting, job: Job) -> None:
    counting.fault = LookupError("never")

    for _ in range(MAX_ATTEMPTS + 1):
        jobs.work(job_id=job.pk)
        Job.objects.update(next_attempt_at=Now() - timedelta(minutes=1))

    assert state_of(job) == (JobState.FAILED, 0, 0)
    assert job.error == "LookupError: never"
    assert jobs.work(job_id=job.pk) is None
    assert AuditEvent.objects.get(action="job.failed").reason == "LookupError: never"


def test_a_database_that_is_away_costs_a_job_no_attempt(counting: Counting, job: Job) -> None:
    counting.fault = OperationalError("gone")

    with pytest.raises(OperationalError):
        jobs.work(job_id=job.pk)
    tasks.work_job(job.pk)  # what a worker does with it

    assert state_of(job) == (JobState.RUNNING, 0, 0)
    assert job.failures == 0


def test_a_step_that_commits_itself_is_fenced_by_its_progress(counting: Counting, job: Job) -> None:
    jobs.register(jobs.Kind(**{**{name: getattr(counting.kind, name) for name in _FIELDS}, "commits_itself": True}))

    def another_takes_over() -> None:
        counting.before_end = None
        pretend_its_worker_died()
        assert jobs._claim(job.pk) is not None

    counting.before_end = another_takes_over

    assert jobs.work(job_id=job.pk) is None
    assert state_of(job) == (JobState.RUNNING, 0, 1)


_FIELDS = ("name", "title", "read", "preview", "step", "report")


def test_a_job_of_a_kind_nobody_knows_ends(counting: Counting) -> None:
    merchant: Merchant = counting.trade.merchant
    job = Job.objects.create(merchant=merchant, kind="gone", correlation_id="0" * 32, failures=MAX_ATTEMPTS)

    jobs.work(job_id=job.pk)

    job.refresh_from_db()
    assert job.state == JobState.FAILED
    assert jobs.title_of(job) == "gone"
