"""What logs and metrics are told of every request and every task: its id, whom it is about, how long it took, how it ended.

`RequestTeller` is the outermost middleware; `attach` hangs the rest on Celery's signals. Whatever is logged in between bears
the id: a request's is taken over from `X-Request-ID` when it is harmless, and answered in the same header.
"""

from __future__ import annotations

import inspect
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from celery.signals import task_postrun, task_prerun
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from structlog import contextvars

from synctec.lib import metrics
from synctec.lib.ids import uuid7

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
#: What tasks take that is worth being in every line.
_SUBJECTS: Final = frozenset({"merchant_id", "channel_id"})

_running = threading.local()
_taken: dict[str, tuple[str, ...]] = {}


class RequestTeller:
    """Names, counts and times each request."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        asked = request.META.get("HTTP_X_REQUEST_ID", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else str(uuid7())
        contextvars.clear_contextvars()
        contextvars.bind_contextvars(request_id=request_id)
        began = time.perf_counter()
        try:
            response = self._get_response(request)
        finally:
            contextvars.clear_contextvars()
        response["X-Request-ID"] = request_id
        took = time.perf_counter() - began
        metrics.requests_served.labels(_route(request), metrics.status_class(response.status_code)).observe(took)
        return response


def _route(request: HttpRequest) -> str:
    """The route's name, never its path; all of the admin, which has hundreds, is one."""
    match = request.resolver_match
    if match is None:
        return "none"
    return match.namespace or match.url_name or "none"


def attach() -> None:
    """Tell of every task. Called once, by whatever starts Celery."""
    task_prerun.connect(_begin, weak=False, dispatch_uid="telemetry")
    task_postrun.connect(_end, weak=False, dispatch_uid="telemetry")


def _begin(task_id: str, task: Any, args: Any = (), kwargs: Any = None, **_: Any) -> None:
    contextvars.clear_contextvars()
    given = dict(zip(_parameters(task), args or (), strict=False)) | dict(kwargs or {})
    subjects = {name: value for name, value in given.items() if name in _SUBJECTS}
    contextvars.bind_contextvars(task=task.name, task_id=task_id, **subjects)
    _running.began = time.perf_counter()


def _end(task: Any, state: str | None = None, **_: Any) -> None:
    began = getattr(_running, "began", None)
    contextvars.clear_contextvars()
    if began is not None:
        outcome = "done" if state == "SUCCESS" else "failed"
        metrics.tasks.labels(task.name, outcome).observe(time.perf_counter() - began)
        _running.began = None


def _parameters(task: Any) -> tuple[str, ...]:
    """What a task takes, in order; looked up once."""
    known = _taken.get(task.name)
    if known is None:
        known = _taken[task.name] = tuple(inspect.signature(task.run).parameters)
    return known
