"""The worker process of `bench reconcile`. Loads no model at first: it sets up Django itself."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any


def _peak_memory_mb() -> float:
    """Of this process alone: what `getrusage` tells begins with the peak of the one that started it."""
    status = Path("/proc/self/status").read_text()
    (told,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(told.split()[1]) / 1024


def work(kind: str, url: str, results: Any) -> None:
    """The life of a worker: every channel once."""
    import django

    django.setup()
    from channels.models import Channel
    from channels.protocol import Throttled
    from sync import live, passes, snapshots
    from sync.benchmarks.store_channels import StoreChannels
    from sync.models import ReconcileRun, RunKind, RunState
    from synctec.lib import clock

    engine = replace(live.engine(), channels=StoreChannels(url))
    channels = list(Channel.objects.order_by("pk"))
    act = snapshots.full_sync if kind == RunKind.FULL else passes.reconcile
    start_mb, began = _peak_memory_mb(), time.monotonic()
    left = list(channels)
    while left:
        for channel in left:
            run = passes.under_way(channel.pk)
            if run is None or run.leased_until <= clock.now():
                # A budget nobody knows is empty at first: the pass rests, as it does in life.
                with suppress(Throttled):
                    act(engine, channel=channel)
        done = ReconcileRun.objects.filter(kind=kind, state=RunState.DONE).values_list("channel_id", flat=True)
        left = [channel for channel in left if channel.pk not in set(done)]
        if left:
            time.sleep(0.1)
    ended = time.monotonic()
    runs = ReconcileRun.objects.filter(kind=kind)
    results.put(
        {
            "levels": sum(run.levels_read for run in runs),
            "differ": sum(run.levels_suspect for run in runs),
            "seconds": ended - began,
            "peak_mb": _peak_memory_mb(),
            "start_mb": start_mb,
        }
    )
