"""Alive, ready, keeping up."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db.migrations.executor import MigrationExecutor
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from channels.models import InboxEvent
from sync import health
from sync.models import AuditResult, Heartbeat
from tests.factories import deliver, make_trade


@pytest.fixture(autouse=True)
def _ask_for_migrations_anew() -> None:
    health._is_migrated.clear()


def test_livez_answers_without_any_io(client: Client) -> None:
    # No database mark: a query would fail the test.
    response = client.get("/livez")

    assert (response.status_code, response.content) == (200, b"ok")


@pytest.mark.django_db(transaction=True)
class TestReadyz:
    def test_is_ready_when_everything_answers(self, client: Client) -> None:
        response = client.get("/readyz")

        assert response.status_code == 200
        assert response.json() == {"is_ready": True, "database": "ok", "redis": "ok", "migrations": "ok"}

    def test_a_redis_that_is_away_is_named(self, client: Client, settings: Settings) -> None:
        settings.REDIS_URL = "redis://:secret@127.0.0.1:1/0"

        response = client.get("/readyz")

        assert response.status_code == 503
        assert response.json()["redis"] == "ConnectionError"
        assert b"secret" not in response.content

    def test_a_read_only_database_is_not_ready(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def read_only() -> None:
            raise health.NotReady("read-only")

        monkeypatch.setattr(health, "_check_database", read_only)

        response = client.get("/readyz")

        assert (response.status_code, response.json()["database"]) == (503, "read-only")

    def test_a_check_that_never_answers_is_timed_out(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(health, "CHECK_TIMEOUT_SECONDS", 0.05)
        monkeypatch.setattr(health, "_check_database", lambda: threading.Event().wait(0.5))

        response = client.get("/readyz")

        assert (response.status_code, response.json()["database"]) == (503, "timed out")

    def test_a_missing_migration_is_counted(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MigrationExecutor, "migration_plan", lambda *_: ["one", "two"])

        response = client.get("/readyz")

        assert response.json()["migrations"] == "2 not applied: run `manage.py migrate`"


@pytest.mark.django_db
class TestHealthz:
    def test_tells_the_ages_of_heartbeats_and_of_what_waits(self, client: Client) -> None:
        trade = make_trade()
        event = deliver(trade.shops["north"], "orders/create", b"{}")
        now = timezone.now()
        InboxEvent.objects.filter(pk=event.pk).update(received_at=now - timedelta(seconds=5))
        Heartbeat.objects.create(name="sweep", beat_at=now - timedelta(seconds=3))

        said: dict[str, Any] = client.get("/healthz").json()

        assert said["is_ok"] is True
        assert 3 <= said["heartbeats"]["sweep"] < 30
        assert 5 <= said["oldest_pending_event"] < 30
        assert said["oldest_unpublished_change"] is None
        assert (said["oldest_audit"], said["broken_invariants"]) == (None, [])

    def test_an_invariant_that_is_broken_is_named(self, client: Client) -> None:
        now = timezone.now()
        AuditResult.objects.create(name="balances_are_sums", checked_at=now - timedelta(minutes=9), seconds=0.1)
        AuditResult.objects.create(
            name="pushes_add_up", checked_at=now, seconds=0.1, broken_since=now, offender={"merchant": 1}
        )

        said: dict[str, Any] = client.get("/healthz").json()

        assert (said["is_ok"], said["late"]) == (False, [])
        assert said["broken_invariants"] == ["pushes_add_up"]
        assert 540 <= said["oldest_audit"] < 600

    def test_an_auditor_that_does_not_come_is_late(self, client: Client) -> None:
        AuditResult.objects.create(name="pushes_add_up", checked_at=timezone.now() - timedelta(hours=3), seconds=0.1)

        said = client.get("/healthz").json()

        assert (said["is_ok"], said["late"]) == (False, ["audit"])

    def test_says_what_stands_still(self, client: Client) -> None:
        Heartbeat.objects.create(name="sweep", beat_at=timezone.now() - timedelta(minutes=5))

        said = client.get("/healthz").json()

        assert (said["is_ok"], said["late"]) == (False, ["heartbeat sweep"])
