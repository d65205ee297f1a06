"""Dead letters, jobs, replays and readings over HTTP."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from django.test import Client

from channels.models import EventState, InboxEvent, ListingLevel
from merchants import keys
from merchants.models import AuditEvent, Merchant, Scope
from sync import jobs
from sync.models import DeadLetter, Job, JobState, LetterState
from tests.factories import Trade, deliver, make_trade, order_body
from tests.sync.test_letters import apply_all

pytestmark = pytest.mark.django_db(transaction=True)


class Program:
    """A program with a key of the merchant."""

    def __init__(self, merchant: Merchant, *scopes: str) -> None:
        self.key, secret = keys.create(
            merchant=merchant,
            name="operator",
            scopes=scopes or (Scope.SYNC_READ, Scope.SYNC_WRITE),
            expires_at=None,
            user=None,
        )
        self.headers = {"authorization": f"Bearer {secret.reveal()}"}
        self.client = Client(raise_request_exception=False)

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f"/api/v1/{path}", query, headers=self.headers)

    def post(self, path: str, body: Any = None, *, once: str = "") -> Any:
        headers = self.headers | {"idempotency-key": once or str(uuid.uuid4())}
        return self.client.post(
            f"/api/v1/{path}",
            json.dumps({} if body is None else body),
            content_type="application/json",
            headers=headers,
        )


@pytest.fixture
def alder() -> Trade:
    return make_trade()


@pytest.fixture
def program(alder: Trade) -> Program:
    return Program(alder.merchant)


@pytest.fixture
def dead(alder: Trade) -> DeadLetter:
    deliver(alder.shops["north"], "orders/create", b"{}")
    apply_all(alder)
    return DeadLetter.objects.get()


def test_dead_letters_are_listed_with_what_to_do(program: Program, dead: DeadLetter) -> None:
    answer = program.get("dead-letters", state="open", cause="unreadable", channel=dead.channel_id).json()

    [told] = answer["dead_letters"]
    assert (told["id"], told["cause"], told["state"], told["channel"]) == (dead.pk, "unreadable", "open", "North")
    assert told["correlation_id"] == str(dead.correlation_id)
    assert told["action"]
    assert answer["next"] is None
    assert program.get("dead-letters", state="dismissed").json()["dead_letters"] == []


def test_pages_of_dead_letters_follow_one_another(program: Program, alder: Trade) -> None:
    for _ in range(3):
        deliver(alder.shops["north"], "orders/create", b"{}")
    apply_all(alder)

    first = program.get("dead-letters", limit=2).json()
    second = program.get("dead-letters", limit=2, cursor=first["next"]).json()

    ids = [told["id"] for told in first["dead_letters"] + second["dead_letters"]]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 3
    assert second["next"] is None


def test_one_dead_letter_tells_its_attempts(program: Program, dead: DeadLetter) -> None:
    told = program.get(f"dead-letters/{dead.pk}").json()

    [tried] = told["tries"]
    assert (tried["number"], tried["request"]) == (1, "apply orders/create")
    assert tried["seconds"] >= 0


def test_one_is_tried_again_once_however_often_it_is_asked_for(program: Program, dead: DeadLetter) -> None:
    first = program.post(f"dead-letters/{dead.pk}/retry", once="k")
    again = program.post(f"dead-letters/{dead.pk}/retry", once="k")
    other = program.post(f"dead-letters/{dead.pk}/retry")

    assert (first.status_code, first.json()["state"]) == (200, "retried")
    assert again.content == first.content
    assert (other.status_code, other.json()["detail"]) == (409, "It is being tried again at this moment.")
    dead.refresh_from_db()
    assert dead.retries == 1
    assert AuditEvent.objects.get(action="letter.retry").api_key == program.key


def test_one_is_dismissed_with_a_reason_and_reopened(program: Program, dead: DeadLetter) -> None:
    assert program.post(f"dead-letters/{dead.pk}/dismissal").status_code == 400
    dismissed = program.post(f"dead-letters/{dead.pk}/dismissal", {"reason": "a test"}).json()
    assert (dismissed["state"], dismissed["dismissed_because"]) == ("dismissed", "a test")

    assert program.post(f"dead-letters/{dead.pk}/reopening").json()["state"] == "open"
    assert program.post(f"dead-letters/{dead.pk}/reopening").status_code == 409


def test_many_are_counted_first_and_then_tried_again(program: Program, dead: DeadLetter) -> None:
    counted = program.post("dead-letters/retries", {"cause": "unreadable", "dry_run": True})
    assert (counted.status_code, counted.json()["count"]) == (200, 1)
    assert not Job.objects.exists()

    started = program.post("dead-letters/retries", {"cause": "unreadable", "reason": "mended"})

    assert (started.status_code, started.json()["state"], started.json()["total"]) == (202, "waiting", 1)
    assert Job.objects.get().api_key == program.key
    nothing = program.post("dead-letters/retries", {"cause": "refused"})
    assert (nothing.status_code, nothing.json()["type"]) == (422, "urn:synctec:problem:nothing-to-do")


def test_a_job_is_followed_and_cancelled(program: Program, dead: DeadLetter) -> None:
    job = program.post("dead-letters/retries", {}).json()
    assert [told["id"] for told in program.get("jobs").json()["jobs"]] == [job["id"]]

    assert program.post(f"jobs/{job['id']}/cancellation", {"reason": "no"}).json()["state"] == "cancelling"
    jobs.work(job_id=job["id"])

    told = program.get(f"jobs/{job['id']}").json()
    assert (told["state"], told["title"]) == ("cancelled", "Try dead letters again")
    assert told["finished_at"] is not None
    assert program.post(f"jobs/{job['id']}/cancellation").json()["state"] == "cancelled"


def test_events_are_replayed_after_a_dry_run(program: Program, alder: Trade) -> None:
    north = alder.shops["north"]
    event = deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    apply_all(alder)

    asked = {"ids": [event.pk], "states": ["applied"]}
    assert program.post("replays", asked | {"dry_run": True}).json()["count"] == 1
    job = program.post("replays", asked).json()

    jobs.work(job_id=job["id"])
    event.refresh_from_db()
    assert event.state == EventState.PENDING


def test_a_reason_of_events_and_the_reason_for_the_trail_are_two_things(program: Program, dead: DeadLetter) -> None:
    program.post("replays", {"reason_holds": "malformed", "reason": "mended"})

    assert Job.objects.get().parameters["reason"] == "malformed"
    assert AuditEvent.objects.get(action="job.start").reason == "mended"


def test_a_sku_is_read_again(program: Program, alder: Trade) -> None:
    answer = program.post("resyncs", {"sku": "MUG", "reason": "looks wrong"})

    assert (answer.status_code, answer.json()) == (202, {"levels": 2, "job": None})
    assert ListingLevel.objects.exclude(suspect_since=None).count() == 2


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("replays", {}, "ids"),
        ("replays", {"ids": ["1"]}, "ids[0]"),
        ("replays", {"channel": 2**62}, "channel"),
        ("replays", {"states": ["pending"]}, "states[0]"),
        ("replays", {"since": "2026-11-20T12:00:00"}, "since"),
        ("replays", {"topik": "orders/create"}, "topik"),
        ("dead-letters/retries", {"channel": 999_999}, "channel"),
        ("dead-letters/retries", {"cause": "bad luck"}, "cause"),
        ("dead-letters/retries", {"dry_run": "yes"}, "dry_run"),
        ("resyncs", {}, "channel"),
        ("resyncs", {"sku": "NOPE"}, "sku"),
        ("resyncs", {"level": True}, "level"),
    ],
)
def test_what_cannot_be_is_refused_by_name(program: Program, path: str, body: dict[str, Any], field: str) -> None:
    answer = program.post(path, body)

    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert not Job.objects.exists()


def test_another_merchants_things_are_not_there(dead: DeadLetter) -> None:
    stranger = Program(make_trade("Birch").merchant)
    job = jobs.create(merchant_id=dead.merchant_id, kind="retry_letters", said={})

    assert stranger.get("dead-letters").json()["dead_letters"] == []
    assert stranger.get("jobs").json()["jobs"] == []
    for answer in (
        stranger.get(f"dead-letters/{dead.pk}"),
        stranger.post(f"dead-letters/{dead.pk}/retry"),
        stranger.post(f"dead-letters/{dead.pk}/dismissal", {"reason": "x"}),
        stranger.get(f"jobs/{job.pk}"),
        stranger.post(f"jobs/{job.pk}/cancellation"),
        stranger.get(f"jobs/{2**70}"),
    ):
        assert answer.status_code == 404
    assert stranger.post("replays", {"ids": [dead.event_id]}).status_code == 422
    job.refresh_from_db()
    assert (job.state, DeadLetter.objects.get().state) == (JobState.WAITING, LetterState.OPEN)


def test_reading_is_not_writing(alder: Trade, dead: DeadLetter) -> None:
    reader = Program(alder.merchant, Scope.SYNC_READ)

    assert reader.get("dead-letters").status_code == 200
    assert reader.post(f"dead-letters/{dead.pk}/retry").status_code == 403
    assert InboxEvent.objects.get().state == EventState.DEAD
