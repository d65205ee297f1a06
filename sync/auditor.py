"""The hourly auditor: what must hold at any moment, asked of the database at work.

It reads and locks nothing: each question is one statement, which sees the books as they were at one moment. A question
that takes too long is given up, so that a ledger that has grown large costs a minute of one connection per invariant at most.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from typing import Final

import psycopg
import structlog
from django.core.serializers.json import DjangoJSONEncoder
from django.db import OperationalError, transaction

from sync import invariants
from sync.models import AuditResult
from synctec.lib import sql

log = structlog.get_logger(__name__)

#: A question that takes longer is given up.
STATEMENT_TIMEOUT_SECONDS: Final = 60
#: The advisory lock of whoever audits.
_LOCK: Final = "auditor"


def audit(*, now: datetime) -> list[AuditResult]:
    """Ask whether each invariant holds, and keep and log what is found; empty while somebody else is at it."""
    known = {result.name: result for result in AuditResult.objects.all()}
    results = [_merged(result, known.get(result.name)) for result in _look(now)]
    if results:
        AuditResult.objects.exclude(name__in=[result.name for result in results]).delete()
        AuditResult.objects.bulk_create(
            results,
            update_conflicts=True,
            unique_fields=["name"],
            update_fields=["checked_at", "seconds", "broken_since", "offender", "error"],
        )
    for result in results:
        if result.error:
            log.warning("audit.not_asked", invariant=result.name, error=result.error)
        elif result.offender is not None:
            log.error(
                "audit.broken", invariant=result.name, merchant_id=result.offender["merchant"], row=result.offender
            )
    return results


def _look(now: datetime) -> list[AuditResult]:
    with transaction.atomic():
        if not sql.rows("SELECT pg_try_advisory_xact_lock(hashtextextended(%s::text, 0))", [_LOCK])[0][0]:
            return []
        sql.rows(
            "SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', %s::text, true)",
            [f"{STATEMENT_TIMEOUT_SECONDS}s"],
        )
        return [_ask(check, now) for check in invariants.ALWAYS]


def _ask(check: invariants.Check, now: datetime) -> AuditResult:
    began = time.monotonic()
    result = AuditResult(name=check.name, checked_at=now, error="")
    try:
        with transaction.atomic():
            rows = invariants.offenders(check)
    except OperationalError as error:
        if not isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise
        result.error = f"not answered within {STATEMENT_TIMEOUT_SECONDS} s"
    else:
        if rows:
            result.broken_since = now
            result.offender = json.loads(json.dumps(rows[0], cls=DjangoJSONEncoder))
    result.seconds = round(time.monotonic() - began, 3)
    return result


def _merged(result: AuditResult, known: AuditResult | None) -> AuditResult:
    """What was broken before has been so since then; of what could not be asked, the last answer stands."""
    if known is None:
        return result
    if result.error:
        result.checked_at, result.broken_since, result.offender = known.checked_at, known.broken_since, known.offender
    elif result.broken_since and known.broken_since:
        result.broken_since = known.broken_since
    return result
