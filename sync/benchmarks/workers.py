"""Processes that work on the bench's database side by side. Loads no model at first: they set up Django themselves."""

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


class Crew:
    """Worker processes that wait for work. Use it as a context manager."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._results = context.Queue()
        self._orders = [context.Queue() for _ in range(size)]
        self._processes = [
            context.Process(target=_serve, args=(number, orders, self._results), daemon=True)
            for number, orders in enumerate(self._orders)
        ]

    def __enter__(self) -> Crew:
        for process in self._processes:
            process.start()
        self._gather(len(self._processes))  # each says so when it is ready
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def drain(self, merchant_id: int, act: str, *, workers: int, seconds: float) -> Drained:
        """Have so many of them call `act(merchant_id, rng)`, named by its dotted path, until it does nothing any more or the
        time is over.

        Raises:
            WorkerFailed: one of them did not get through.
        """
        for orders in self._orders[:workers]:
            orders.put((merchant_id, act, seconds))
        found = self._gather(workers)
        return Drained(
            events=sum(events for events, _, _ in found),
            seconds=max(ended for _, _, ended in found) - min(began for _, began, _ in found),
        )

    def _gather(self, count: int) -> list[tuple[int, float, float]]:
        found: list[tuple[int, float, float]] = []
        while len(found) < count:
            try:
                found.append(self._results.get(timeout=0.5))
            except queue.Empty:
                if any(process.exitcode is not None for process in self._processes):
                    raise WorkerFailed("a worker process ended") from None
        return found


def _serve(seed: int, orders: Any, results: Any) -> None:
    """The life of a worker."""
    import django
    from django.utils.module_loading import import_string

    django.setup()
    from synctec.lib import heap, sql

    # Both the engine and what it is held against may lose what is found and done again.
    sql.rows("SELECT set_config('synchronous_commit', 'off', false)")
    rng = random.Random(seed)
    heap.settle()  # as workers do
    results.put((0, 0.0, 0.0))
    while True:
        merchant_id, act, seconds = orders.get()
        results.put(_work(import_string(act), merchant_id, rng, seconds))


def _work(
    act: Callable[[int, random.Random], int], merchant_id: int, rng: random.Random, seconds: float
) -> tuple[int, float, float]:
    """How much was done, from when, till when (by the clock that all processes of a machine share)."""
    began = ended = time.monotonic()
    events = idle = 0
    while idle < IDLE_ROUNDS and time.monotonic() - began < seconds:
        done = act(merchant_id, rng)
        if done:
            events, idle, ended = events + done, 0, time.monotonic()
        else:
            idle += 1
            time.sleep(IDLE_SECONDS)
    return events, began, ended
