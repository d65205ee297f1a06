"""`bench reconcile`: every level of every store compared, page by page and from snapshots.

The figure is how many calls that takes, against the least possible: for pages one of a store's orders and one for every
hundred of its listings; for a snapshot one of its orders, one that begins it, one that finds it ready, and one for every
piece of its file. Each way is gone by a worker process of its own, whose peak memory is noted. The stores answer at once.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sync.benchmarks import goods
from sync.benchmarks.figures import Case
from sync.benchmarks.reconcile_worker import work
from synctec.local.datafolder import PROJECT


class NotCompared(Exception):
    """Some levels were not, or some differ that do not."""


def run(*, seconds: float, stores: int, skus: int) -> list[Case]:
    """Compare everything once each way, however long it takes (`seconds` is for other benches).

    Raises:
        NotCompared: a figure would be about something else.
    """
    made = goods.stock_up(stores=stores, skus=skus, bundles=0)
    with _stores(skus) as url:
        return [_case(kind, url, made) for kind in ("pass", "full")]


def _case(kind: str, url: str, made: goods.Goods) -> Case:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    worker = context.Process(target=work, args=(kind, url, results))
    worker.start()
    worker.join()
    if worker.exitcode:
        raise NotCompared(f"the worker ended with {worker.exitcode}; what it said is above")
    found: dict[str, Any] = results.get(timeout=10)
    counts = _counts(url)
    levels = len(made.stores) * made.skus
    if found["levels"] != levels or found["differ"]:
        raise NotCompared(f"{found['levels']} of {levels} levels compared, {found['differ']} of them differ")
    points = counts.pop("points")
    least = len(made.stores) * (1 + math.ceil(made.skus / 100))
    if kind == "full":
        least = 3 * len(made.stores) + counts["pieces"]
    return Case(
        case=f"{levels} levels in {len(made.stores)} stores, {'from snapshots' if kind == 'full' else 'page by page'}",
        unit="calls",
        figure=float(sum(counts.values())),
        against="the least possible",
        against_figure=float(least),
        notes={
            "seconds": round(found["seconds"], 1),
            "levels_per_second": round(levels / found["seconds"]),
            "peak_memory_mb": round(found["peak_mb"], 1),
            "peak_above_start_mb": round(found["peak_mb"] - found["start_mb"], 1),
            "points": points,
            "calls": dict(counts),
        },
    )


@contextmanager
def _stores(items: int) -> Iterator[str]:
    """The address of a process that plays the stores."""
    command = [sys.executable, "-m", "sync.benchmarks.store_server", str(items)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def _counts(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url}/counts") as answer:  # noqa: S310  # our own process on the loopback
        counts: dict[str, int] = json.load(answer)
    return counts
