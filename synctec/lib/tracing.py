"""Traces for OpenTelemetry, where an operator wants them: a story is a trace.

`configure` is given the collector's address; without one nothing of OpenTelemetry is imported, and recording a span costs
a comparison. The correlation id of an event is the id of its trace: a webhook, the batch that applied it, the publishing and
the write to the last store meet there, whichever process did them and without anything being handed on. Work on many events
at once belongs to the trace of the first and links to the others'.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanProcessor  # type: ignore[attr-defined]
    from opentelemetry.trace import Tracer

#: Of the events behind a piece of work, so many are told.
STORIES_MAX: Final = 32

_tracer: Tracer | None = None


class NotInstalled(Exception):
    """Traces are asked for and OpenTelemetry is not there."""


def configure(endpoint: str, *, processor: SpanProcessor | None = None) -> None:
    """Send spans to the collector at `endpoint` from now on; nowhere without one. `processor`: instead of sending (tests).

    Raises:
        NotInstalled: with what to install.
    """
    global _tracer
    _tracer = None
    if not endpoint and processor is None:
        return
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise NotInstalled(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set: install requirements-otel.txt, or empty the variable."
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "synctec"}))
    if processor is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("synctec")


def is_on() -> bool:
    """Whether anybody is told of spans: those that cost something to describe are left out otherwise."""
    return _tracer is not None


def record(
    name: str,
    *,
    began_at: float,
    correlation_ids: Sequence[uuid.UUID] = (),
    is_error: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """A span that ends now and began at `began_at` (`time.time()`), of the stories with these correlation ids."""
    if _tracer is None:
        return
    from opentelemetry.trace import Link, NonRecordingSpan, Status, StatusCode, set_span_in_context

    told = list(dict.fromkeys(correlation_ids))[:STORIES_MAX]
    context = set_span_in_context(NonRecordingSpan(_place(told[0]))) if told else None
    span = _tracer.start_span(
        name,
        context=context,
        start_time=int(began_at * 1_000_000_000),
        links=[Link(_place(other)) for other in told[1:]],
        attributes={
            **{f"synctec.{key}": value for key, value in (attributes or {}).items()},
            **({"synctec.correlation_id": str(told[0])} if told else {}),
            **({"synctec.correlation_ids": [str(one) for one in told]} if len(told) > 1 else {}),
        },
    )
    if is_error:
        span.set_status(Status(StatusCode.ERROR))
    span.end(end_time=time.time_ns())


def _place(correlation_id: uuid.UUID) -> Any:
    """Where a story's spans belong: below a root that nobody records, and that follows from the id."""
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(
        trace_id=correlation_id.int,
        span_id=correlation_id.int & ((1 << 64) - 1) or 1,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
