"""The hourly auditor: what it finds is kept and told; it changes nothing and gets in nobody's way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import InternalError, connection, transaction
from structlog.testing import capture_logs

from channels.models import ListingLevel
from sync import auditor, invariants, tasks
from sync.invariants import ALWAYS, Check
from sync.models import AuditResult
from tests.factories import NOON, Trade, make_trade

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def break_something() -> None:
    ListingLevel.objects.update(pushed=3)


def test_every_invariant_is_asked_for(alder: Trade) -> None:
    auditor.audit(now=NOON)

    results = AuditResult.objects.all()
    assert {result.name for result in results} == {check.name for check in ALWAYS}
    assert {(result.checked_at, result.broken_since, result.error) for result in results} == {(NOON, None, "")}


def test_what_is_broken_is_kept_and_logged_with_its_merchant(alder: Trade) -> None:
    break_something()

    with capture_logs() as lines:
        auditor.audit(now=NOON)

    broken = AuditResult.objects.get(broken_since__isnull=False)
    assert broken.offender is not None
    assert (broken.name, broken.offender["pushed"], broken.offender["confirmed"]) == ("pushes_add_up", 3, 0)
    assert [(line["log_level"], line["event"], line["invariant"], line["merchant_id"]) for line in lines] == [
        ("error", "audit.broken", "pushes_add_up", alder.merchant.pk)
    ]


@pytest.mark.parametrize("check", ALWAYS, ids=lambda check: check.name)
def test_every_offender_has_its_merchant(check: Check) -> None:
    with connection.cursor() as cursor:
        cursor.execute(check.sql, [])

        assert cursor.description[0].name == "merchant"


def test_it_is_known_since_when_something_is_broken_and_that_it_is_no_longer(alder: Trade) -> None:
    break_something()
    auditor.audit(now=NOON)

    auditor.audit(now=NOON + timedelta(hours=1))

    broken = AuditResult.objects.get(name="pushes_add_up")
    assert (broken.broken_since, broken.checked_at) == (NOON, NOON + timedelta(hours=1))

    ListingLevel.objects.update(pushed=0)
    auditor.audit(now=NOON + timedelta(hours=2))

    broken.refresh_from_db()
    assert (broken.broken_since, broken.offender) == (None, None)


def test_a_second_auditor_leaves_it_to_the_first(alder: Trade) -> None:
    break_something()

    with transaction.atomic(), ThreadPoolExecutor() as threads:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s::text, 0))", [auditor._LOCK])

        assert threads.submit(_audit_apart).result() == []

    assert not AuditResult.objects.exists()


def _audit_apart() -> list[AuditResult]:
    try:
        return auditor.audit(now=NOON)
    finally:
        connection.close()


def test_a_question_that_takes_too_long_is_given_up_and_the_last_answer_stands(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_something()
    auditor.audit(now=NOON)
    slow = Check("pushes_add_up", "", "SELECT 1 AS merchant, pg_sleep(5)::text AS waited")
    monkeypatch.setattr(auditor, "STATEMENT_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(invariants, "ALWAYS", (slow, ALWAYS[0]))

    auditor.audit(now=NOON + timedelta(hours=1))

    given_up = AuditResult.objects.get(name="pushes_add_up")
    assert (given_up.error, given_up.checked_at) == ("not answered within 0.1 s", NOON)
    assert given_up.offender is not None
    assert (given_up.broken_since, given_up.offender["pushed"]) == (NOON, 3)
    assert AuditResult.objects.get(name=ALWAYS[0].name).checked_at == NOON + timedelta(hours=1)


def test_invariants_that_are_gone_are_forgotten(alder: Trade) -> None:
    AuditResult.objects.create(name="of_an_older_version", checked_at=NOON, seconds=1, broken_since=NOON)

    auditor.audit(now=NOON)

    assert not AuditResult.objects.filter(name="of_an_older_version").exists()


def test_it_can_write_nothing_while_it_asks(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Check("writes", "", "SELECT 1 AS merchant, nextval('inventory_sku_id_seq')")
    monkeypatch.setattr(invariants, "ALWAYS", (writes,))

    with pytest.raises(InternalError, match="read-only transaction"):
        auditor.audit(now=NOON)


def test_the_task_audits(alder: Trade) -> None:
    tasks.audit()

    assert AuditResult.objects.count() == len(ALWAYS)
