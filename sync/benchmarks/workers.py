"""Processes that work on the bench's database side by side, and how fast they were. Loads no model: they set up Django first."""

from __future__ import annotations

import multiprocessing
import queue
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: A worker that found nothing so often in a row leaves: the rest is in the hands of the others.
IDLE_ROUNDS = 20
IDLE_SECONDS = 0.005


class WorkerFailed(Exception):
    """A worker ended without a result; what it said is on stderr."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What some workers did within how long."""

    events: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.events / self.seconds if self.seconds else 0.0


def drain(merchant_id: int, act: str, *, workers: int, seconds: float) -> Drained:
    """Have so many processes call `act(merchant_id, rng)`, named by its dotted path, until it does nothing any more or the
    time is over.

    Raises:
        WorkerFailed: one of them did not get through.
    """
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=_work, args=(merchant_id, act, seconds, number, start, results), daemon=True)
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    found: list[tuple[int, float, float]] = []
    while len(found) < workers:
        try:
            found.append(results.get(timeout=0.5))
        except queue.Empty:
            if any(process.exitcode for process in processes):
                raise WorkerFailed(f"a worker of {act} ended") from None
    for process in processes:
        process.join()
    return Drained(
        events=sum(events for events, _, _ in found),
        seconds=max(ended for _, _, ended in found) - min(began for _, began, _ in found),
    )


def _work(merchant_id: int, act: str, seconds: float, seed: int, start: Any, results: Any) -> None:
    import django
    from django.utils.module_loading import import_string

    django.setup()
    from synctec.lib import sql

    work: Callable[[int, random.Random], int] = import_string(act)
    # Both the engine and what it is held against may lose what is found and done again.
    sql.rows("SELECT set_config('synchronous_commit', 'off', false)")
    rng = random.Random(seed)
    start.wait(timeout=60)
    began = ended = time.monotonic()
    events = idle = 0
    while idle < IDLE_ROUNDS and time.monotonic() - began < seconds:
        done = work(merchant_id, rng)
        if done:
            events, idle, ended = events + done, 0, time.monotonic()
        else:
            idle += 1
            time.sleep(IDLE_SECONDS)
    results.put((events, began, ended))
