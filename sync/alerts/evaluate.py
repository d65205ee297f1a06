"""Asking all rules, and writing down what became of the alerts. Level-triggered: it may run twice, at once or late.

Whoever evaluates holds a lock that nobody waits for. First everything is asked, reading only; then what changed is written,
with what people are to be told of it, in the same transaction. Nobody is told anything here: see `merchants.notices`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog
from celery import current_app
from django.db import DatabaseError, transaction

from merchants import notices
from merchants.models import NoticeKind, Severity
from sync.alerts import sizes
from sync.alerts.questions import INSTALLATION, QUESTIONS, Finding, Observed
from sync.alerts.rules import (
    BY_NAME,
    RULES,
    News,
    Phase,
    Reading,
    Rule,
    Standing,
    causes_of,
    limits_of,
    step,
)
from sync.alerts.sayings import text_of, title_of
from sync.models import Alert, AlertState, Heartbeat, RuleCheck, RuleOverride
from synctec.lib import clock, sql

log = structlog.get_logger(__name__)

#: A question that takes longer is given up.
STATEMENT_TIMEOUT_SECONDS: Final = 5
#: The broker has so long to answer.
BROKER_SECONDS: Final = 2
#: The advisory lock of whoever evaluates.
_LOCK: Final = "alerts"
HEARTBEAT: Final = "alerts"


@dataclass(slots=True)
class Done:
    """What an evaluation came to."""

    asked: int = 0
    raised: list[int] = field(default_factory=list)
    recovered: list[int] = field(default_factory=list)


def observe() -> Observed:
    """What this process sees by itself: its clock, the broker, Redis. Raises what the database raises."""
    used, limit = sizes.redis_memory()
    return Observed(
        machine=socket.gethostname(),
        clock_ahead_seconds=clock_ahead(),
        is_broker_away=_is_broker_away(),
        redis_bytes=used,
        redis_bytes_max=limit,
    )


def clock_ahead() -> float:
    """By how many seconds this machine's clock is ahead of the database's, to within the time the question takes."""
    asked_at = time.time()
    [(moment,)] = sql.rows("SELECT clock_timestamp()")
    return round((asked_at + time.time()) / 2 - float(moment.timestamp()), 3)


def _is_broker_away() -> bool:
    try:
        with current_app.connection_for_write(connect_timeout=BROKER_SECONDS) as broker:
            broker.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
    except Exception as error:
        log.warning("alerts.broker_away", error=type(error).__name__)
        return True
    return False


def evaluate(*, now: datetime, observed: Observed | None = None) -> Done | None:
    """Ask every rule whose turn it is; None while somebody else is at it."""
    seen = observed or Observed()
    with transaction.atomic():
        if not sql.rows("SELECT pg_try_advisory_xact_lock(hashtextextended(%s::text, 0))", [_LOCK])[0][0]:
            return None
        # Readings come before any write: a transaction that has written holds up the feed of changes until it ends.
        answers, checks = _ask(now, seen)
        sizes.sample(now, seen)
        _save_checks(checks)
        done = _write(answers, now)
        Heartbeat.objects.update_or_create(name=HEARTBEAT, defaults={"beat_at": now})
    for alert_id in done.raised:
        log.warning("alert.raised", alert_id=alert_id)
    return done


def is_stale(now: datetime, *, seconds: float) -> bool:
    """Whether nobody has evaluated the rules for so long."""
    beat = Heartbeat.objects.filter(name=HEARTBEAT).values_list("beat_at", flat=True).first()
    return beat is None or (now - beat).total_seconds() > seconds


# --- asking -------------------------------------------------------------------------------------------------


def _ask(now: datetime, observed: Observed) -> tuple[dict[str, list[Finding]], list[RuleCheck]]:
    """The answers to the questions whose turn it is, and how asking went. One that fails leaves its alerts as they are."""
    checks = {check.name: check for check in RuleCheck.objects.all()}
    # Room for a clock of beat's that is a moment early.
    due = [r for r in RULES if r.name not in checks or now - checks[r.name].asked_at >= r.every - timedelta(seconds=5)]
    answers: dict[str, list[Finding]] = {}
    asked = []
    with _within_seconds(STATEMENT_TIMEOUT_SECONDS):
        for rule in due:
            check = checks.get(rule.name) or RuleCheck(name=rule.name, first_asked_at=now)
            began = time.monotonic()
            try:
                with transaction.atomic():
                    answers[rule.name] = QUESTIONS[rule.name](now, observed)
                check.error, check.failing_since = "", None
            except DatabaseError as error:
                check.error, check.failing_since = str(error).splitlines()[0][:300], check.failing_since or now
                log.warning("alerts.not_asked", rule=rule.name, error=check.error)
            check.asked_at, check.seconds = now, round(time.monotonic() - began, 3)
            asked.append(check)
    return answers, asked


@contextmanager
def _within_seconds(limit: float) -> Iterator[None]:
    """Statements that take longer are given up; told once, since a savepoint that is rolled back keeps it."""
    [(before,)] = sql.rows("SELECT current_setting('statement_timeout')")
    _limit_statements(f"{round(1000 * limit)}ms")
    yield
    _limit_statements(before)


def _limit_statements(limit: str) -> None:
    sql.rows("SELECT set_config('statement_timeout', %s::text, true)", [limit])


def _save_checks(checks: list[RuleCheck]) -> None:
    RuleCheck.objects.exclude(name__in=BY_NAME).delete()
    RuleCheck.objects.bulk_create(
        checks,
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["asked_at", "seconds", "error", "failing_since"],
    )


# --- writing ------------------------------------------------------------------------------------------------


def _write(answers: Mapping[str, list[Finding]], now: datetime) -> Done:
    """Bring the alerts to where the answers say they are."""
    rows = {
        (row.rule, row.subject): row for row in Alert.objects.exclude(state=AlertState.RECOVERED).select_for_update()
    }
    standings = {key: standing_of(row) for key, row in rows.items()}
    overrides = {
        (row.merchant_id, row.rule): {
            "is_on": row.is_on,
            "raise_at": row.raise_at,
            "clear_at": row.clear_at,
            "critical_at": row.critical_at,
            "hold_seconds": row.hold_seconds,
        }
        for row in RuleOverride.objects.all()
    }
    done = Done(asked=len(answers))
    for rule in RULES:
        if rule.name not in answers:
            continue
        found = {finding.subject: finding for finding in answers[rule.name]}
        open_subjects = [subject for name, subject in rows if name == rule.name]
        for subject in dict.fromkeys([*found, *open_subjects]):
            finding, row = found.get(subject), rows.get((rule.name, subject))
            merchant_id = finding.merchant_id if finding else row.merchant_id if row else None
            before = standings.get((rule.name, subject))
            after, news = step(
                rule,
                limits_of(rule, overrides.get((merchant_id, rule.name))),
                before,
                Reading(finding.value, finding.members) if finding else None,
                cause=causes_of(rule, _wider(subject, merchant_id, finding, row), standings),
                now=now,
            )
            if after is None:
                standings.pop((rule.name, subject), None)
                if row is not None:
                    row.delete()
                continue
            standings[rule.name, subject] = after
            row = _saved(rule, subject, row, finding, before, after, news)
            _tell(rule, row, news, finding, now)
            if news is News.RAISED:
                done.raised.append(row.pk)
            if after.phase is Phase.RECOVERED:
                done.recovered.append(row.pk)
    return done


def _wider(subject: str, merchant_id: int | None, finding: Finding | None, row: Alert | None) -> list[str]:
    """What an alert may follow from: alerts about its own subject, its channel, its merchant and the installation."""
    channel_id = finding.channel_id if finding else row.channel_id if row else None
    wider = [subject, *([f"channel:{channel_id}"] if channel_id else [])]
    return list(dict.fromkeys([*wider, *([f"merchant:{merchant_id}"] if merchant_id else []), INSTALLATION]))


def standing_of(row: Alert) -> Standing:
    """Where an alert stands, as the rules see it."""
    return Standing(
        phase=Phase(row.state),
        since=row.since,
        severity=row.severity,
        value=row.value,
        worst=row.worst,
        members=tuple((key, said) for key, said in row.members),
        cause=row.cause,
        raised_at=row.raised_at,
        better_since=row.better_since,
        recovered_at=row.recovered_at,
        told_at=row.told_at,
        told_value=row.told_value,
        told_members=tuple(row.told_members),
        told_severity=row.told_severity,
        snoozed_until=row.snoozed_until,
    )


def _saved(
    rule: Rule,
    subject: str,
    row: Alert | None,
    finding: Finding | None,
    before: Standing | None,
    after: Standing,
    news: News,
) -> Alert:
    """The alert's row as it stands now; written only when something of it changed."""
    is_said = finding is None or (row is not None and row.text == text_of(rule, finding, after))
    if row is not None and after == before and is_said:
        return row
    if row is None:
        assert finding is not None, "an alert begins with a finding"
        row = Alert(
            merchant_id=finding.merchant_id, rule=rule.name, subject=subject[:120], channel_id=finding.channel_id
        )
    row.state, row.severity, row.cause = after.phase, after.severity, after.cause
    row.since, row.raised_at, row.better_since, row.recovered_at = (
        after.since,
        after.raised_at,
        after.better_since,
        after.recovered_at,
    )
    row.value, row.worst, row.members = after.value, after.worst, [list(part) for part in after.members]
    row.told_at, row.told_value, row.told_severity = after.told_at, after.told_value, after.told_severity
    row.told_members = list(after.told_members)
    row.times_told += news in (News.RAISED, News.AGAIN)
    if finding is not None:
        row.title, row.text = title_of(rule, finding, after), text_of(rule, finding, after)
    row.save()
    return row


_ADDED: Final = {News.RAISED: "", News.AGAIN: "Still: ", News.RECOVERED: "Over: "}


def _tell(rule: Rule, row: Alert, news: News, finding: Finding | None, now: datetime) -> None:
    """Have people told, in this transaction."""
    if news is News.NONE:
        return
    is_recovery = news is News.RECOVERED
    told = "recovered" if is_recovery else str(row.times_told)
    notice = notices.Notice(
        kind=NoticeKind(rule.kind),
        severity=Severity(row.severity),
        key=f"alert {row.pk} {told}",
        title=_ADDED[news] + row.title,
        text="" if is_recovery else row.text,
        path=f"{notices.ALERTS_PATH}{row.pk}/",
        is_recovery=is_recovery,
    )
    notices.tell(
        row.merchant_id,
        notice,
        now=now,
        follows=f"alert {row.pk} " if is_recovery else "",
        not_to=_target_of(row.subject),
    )


def _target_of(subject: str) -> int | None:
    kind, _, number = subject.partition(":")
    return int(number) if kind == "target" else None


def evaluate_now() -> Done | None:
    """Evaluate as of now, with what this process sees."""
    return evaluate(now=clock.now(), observed=observe())
