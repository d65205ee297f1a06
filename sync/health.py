"""Is it alive, is it ready, is it keeping up? Three addresses for those who run it.

| address | asks | answers |
|---|---|---|
| /livez | nothing: the process answers | 200 |
| /readyz | does PostgreSQL take writes, does Redis answer, is nothing to be migrated? | 200 or 503, by name |
| /healthz | how old is what the engine did last, what waits, what is broken? | 200 with `is_ok`; 503 without a database |

None of them tells anything of a merchant.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import redis
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from redis.backoff import NoBackoff
from redis.retry import Retry

CHECK_TIMEOUT_SECONDS = 1.0
#: Older than this, a heartbeat or a waiting event means that something stands still.
LATE_SECONDS = 60
#: The auditor comes every hour.
AUDIT_LATE_SECONDS = 2 * 3600

#: The checks run beside the request, so that a database that accepts and never answers does not hold it up.
#: A few threads and no more: checks of a dead database queue here, and are answered "timed out" meanwhile.
_probes = ThreadPoolExecutor(max_workers=4, thread_name_prefix="readyz")
_is_migrated = threading.Event()


@never_cache
@require_safe
def livez(request: HttpRequest) -> HttpResponse:
    """The process answers; no I/O."""
    return HttpResponse("ok", content_type="text/plain")


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """Whether requests may be sent to this process."""
    checks = {"database": _check_database, "redis": _check_redis, "migrations": _check_migrations}
    started = {name: _probes.submit(check) for name, check in checks.items()}
    wait(started.values(), timeout=CHECK_TIMEOUT_SECONDS)
    results = {name: _outcome(future) for name, future in started.items()}
    is_ready = all(result == "ok" for result in results.values())
    return JsonResponse({"is_ready": is_ready, **results}, status=200 if is_ready else 503)


def _outcome(check: Future[None]) -> str:
    """ "ok", or what is wrong, without addresses or secrets."""
    if not check.done():
        check.cancel()
        return "timed out"
    error = check.exception()
    if error is None:
        return "ok"
    return str(error) if isinstance(error, NotReady) else type(error).__name__


class NotReady(Exception):
    """The check was made, and the answer is no."""


def _with_own_connection(check: Callable[[], None]) -> None:
    try:
        check()
    finally:
        connection.close()


def _check_database() -> None:
    _with_own_connection(_ask_database)


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean")
        (is_read_only,) = cursor.fetchone()
    if is_read_only:
        raise NotReady("read-only")


def _check_redis() -> None:
    client = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=CHECK_TIMEOUT_SECONDS,
        socket_connect_timeout=CHECK_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), retries=0),
    )
    try:
        client.ping()
    finally:
        client.close()


def _check_migrations() -> None:
    """Reads every migration from disk, so only until it has once found them all applied."""
    if not _is_migrated.is_set():
        _with_own_connection(_look_for_migrations)


def _look_for_migrations() -> None:
    executor = MigrationExecutor(connection)
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if waiting:
        raise NotReady(f"{len(waiting)} not applied: run `manage.py migrate`")
    _is_migrated.set()


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """Ages in seconds of what the engine did last, and of the oldest event that waits; and which invariants are broken."""
    try:
        beats, waiting = _ages()
        audited_before, broken = _audited()
    except (DatabaseError, InterfaceError) as error:
        return JsonResponse({"is_ok": False, "late": ["database"], "error": type(error).__name__}, status=503)
    ages = {f"heartbeat {name}": age for name, age in beats.items()} | waiting
    late = sorted(name for name, age in ages.items() if age is not None and age > LATE_SECONDS)
    if audited_before is not None and audited_before > AUDIT_LATE_SECONDS:
        late.append("audit")
    is_ok = not late and not broken
    audit = {"oldest_audit": audited_before, "broken_invariants": broken}
    return JsonResponse({"is_ok": is_ok, "late": late, "heartbeats": beats, **waiting, **audit})


def _ages() -> tuple[dict[str, float], dict[str, float | None]]:
    """Ages by the database's own clock: of heartbeats, and of the oldest unfinished work of each kind."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, extract(epoch FROM clock_timestamp() - beat_at) FROM sync_heartbeat")
        beats = {name: round(float(age), 3) for name, age in cursor.fetchall()}
        # All by partial indexes, or tables that are empty when nothing waits.
        cursor.execute(
            """
            SELECT extract(epoch FROM clock_timestamp() - oldest.at)
              FROM (VALUES
                  (1, (SELECT min(received_at) FROM channels_inboxevent WHERE state = 'pending')),
                  (2, (SELECT min(caused_at) FROM sync_dirtysku)),
                  (3, (SELECT min(created_at) FROM channels_pushbatch WHERE state IN ('intent', 'unknown')))
              ) AS oldest (place, at)
             ORDER BY oldest.place
            """
        )
        ages = [None if age is None else round(float(age), 3) for (age,) in cursor.fetchall()]
    names = ("oldest_pending_event", "oldest_unpublished_change", "oldest_unanswered_write")
    return beats, dict(zip(names, ages, strict=True))


def _audited() -> tuple[float | None, list[str]]:
    """How long ago the invariant was asked for that was not asked for longest, and which of them are broken."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT extract(epoch FROM clock_timestamp() - min(checked_at)),
                coalesce(array_agg(name ORDER BY name) FILTER (WHERE broken_since IS NOT NULL), '{}')
            FROM sync_auditresult
            """
        )
        age, broken = cursor.fetchone()
    return None if age is None else round(float(age), 3), broken
