"""Counters and histograms for Prometheus, right across all processes of a machine.

With `PROMETHEUS_MULTIPROC_DIR` set, each process keeps its numbers in a file of that folder, and whoever is scraped adds up
all of them: web processes, workers, beat, and those that have ended, so that a restart is no step back. Empty the folder when
nothing of ours runs. Without it each process knows its own numbers only.

Labels have few values, known beforehand: no SKU, no order, no name of a merchant or a store. What is true of the database at
this moment (queues, states of channels) is not counted here but asked for at the scrape (`sync.scrape`).
"""

from __future__ import annotations

import os
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    os.makedirs(os.environ["PROMETHEUS_MULTIPROC_DIR"], exist_ok=True)

#: Of this process, where numbers are not shared.
REGISTRY: Final = CollectorRegistry()

_QUICK: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1200.0)
_SIZES: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)

requests_served: Final = Histogram(
    "synctec_request_seconds",
    "How long requests took, by route and class of status.",
    ("route", "status"),
    buckets=_QUICK,
    registry=REGISTRY,
)
webhooks: Final = Counter(
    "synctec_webhooks", "Deliveries by kind of channel and status answered.", ("kind", "status"), registry=REGISTRY
)
tasks: Final = Histogram(
    "synctec_task_seconds",
    "How long tasks took, by name and outcome (done, failed).",
    ("task", "outcome"),
    buckets=_LONG,
    registry=REGISTRY,
)
calls: Final = Histogram(
    "synctec_call_seconds",
    "How long requests to the outside took, by purpose and outcome (a class of status, throttled, or an error).",
    ("purpose", "outcome"),
    buckets=_LONG,
    registry=REGISTRY,
)
apply_batch: Final = Histogram(
    "synctec_apply_batch_events", "Events claimed together.", buckets=_SIZES, registry=REGISTRY
)
events: Final = Counter(
    "synctec_events",
    "Events that were claimed, by what became of them (settled, busy, failed).",
    ("outcome",),
    registry=REGISTRY,
)
published: Final = Counter(
    "synctec_levels_published", "Listing levels whose number to be shown changed.", registry=REGISTRY
)
push_batches: Final = Counter(
    "synctec_push_batches", "Write requests to channels, by kind of channel.", ("kind",), registry=REGISTRY
)
pushed: Final = Counter(
    "synctec_pushes",
    "Rows written to channels, by kind and outcome (confirmed, stale, refused, unknown).",
    ("kind", "outcome"),
    registry=REGISTRY,
)

#: Everything that is counted, by its name as it is scraped.
COUNTED: Final = (
    requests_served,
    webhooks,
    tasks,
    calls,
    apply_batch,
    events,
    published,
    push_batches,
    pushed,
)


def exposition() -> bytes:
    """All numbers in Prometheus' text format, those of other processes included where they are shared."""
    if not is_shared():
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def is_shared() -> bool:
    """Whether the numbers of all processes are added up."""
    return bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))


def status_class(status: int) -> str:
    """`2xx`, `4xx`, ...: a label with five values."""
    return f"{status // 100}xx" if 100 <= status < 600 else "other"
