"""Virtual time: one thread, one heap of things to happen, and greenlets for whatever blocks.

A task runs real, blocking code. Wherever that code would wait it calls `Scheduler.sleep`, which hands the thread to
whatever is due next and comes back at the task's own time, or never: a task can be killed where it waits.

The order of events depends on nothing but the seed: times, then the order in which they were planned. A digest over all
of them tells two runs apart.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from greenlet import GreenletExit, getcurrent, greenlet

#: When every run begins.
EPOCH: Final = datetime(2030, 1, 1, tzinfo=UTC)

_packed = struct.Struct("<dI").pack


class Killed(BaseException):
    """SIGKILL: the task ends here. Not an Exception: no handler of the engine's may survive it."""


class Task:
    """One process or request: a greenlet with a name."""

    def __init__(self, scheduler: Scheduler, name: str, body: Callable[[], object]) -> None:
        self.name = name
        self.is_killed = False
        self._scheduler = scheduler
        self._body = body
        self._greenlet = greenlet(self._run, parent=scheduler.hub)
        #: Counts the waits of the task: a wake-up for a wait that is over finds another number.
        self.waits = 0

    def _run(self) -> None:
        try:
            self._body()
        except Killed:
            pass

    @property
    def is_over(self) -> bool:
        return bool(self._greenlet.dead)

    def resume(self) -> None:
        """Run the task until it waits again or ends. Only from the scheduler's own loop."""
        self._scheduler.running = self
        try:
            if self.is_killed:
                self._greenlet.throw(Killed)
            else:
                self._greenlet.switch()
        except Killed:
            pass  # it had not even begun
        finally:
            self._scheduler.running = None

    def wait(self) -> None:
        """Give way until somebody resumes this task."""
        self._scheduler.hub.switch()

    def discard(self) -> None:
        """End the task for good, wherever it is; its `finally` blocks run, since Python insists."""
        if self._greenlet and not self._greenlet.dead:
            self.is_killed = True
            self._greenlet.throw(GreenletExit)


class Scheduler:
    """The clock and what is going to happen."""

    def __init__(self) -> None:
        #: Seconds since EPOCH.
        self.time = 0.0
        self.running: Task | None = None
        self.hub = getcurrent()
        self._moment_of, self._moment = 0.0, EPOCH
        #: How far the loop under way goes.
        self._until = 0.0
        self._planned: list[tuple[float, int, str, Callable[..., object], tuple[Any, ...]]] = []
        self._plans = 0
        self._trace = bytearray()
        self._labels: dict[str, int] = {}

    def clock(self) -> datetime:
        """The true time."""
        if self._moment_of != self.time:
            self._moment_of, self._moment = self.time, EPOCH + timedelta(seconds=self.time)
        return self._moment

    def moment(self, seconds: float) -> datetime:
        return EPOCH + timedelta(seconds=seconds)

    def at(self, seconds: float, label: str, what: Callable[..., object], *arguments: Any) -> None:
        """Plan a call. One that is due already comes after everything that was planned for now before it."""
        self._plans += 1
        due = max(self.time, seconds)
        heapq.heappush(self._planned, (due, self._plans, label, what, arguments))

    def after(self, seconds: float, label: str, what: Callable[..., object], *arguments: Any) -> None:
        self.at(self.time + seconds, label, what, *arguments)

    def spawn(self, name: str, body: Callable[[], object], *, delay: float = 0.0) -> Task:
        """Start a task."""
        task = Task(self, name, body)
        self.at(self.time + delay, name, task.resume)
        return task

    def sleep(self, seconds: float) -> None:
        """Have the running task wait. Raises Killed if it is killed meanwhile."""
        task, planned = self.running, self._planned
        assert task is not None, "only a task can wait"
        end = self.time + seconds
        if end <= self._until and (not planned or end < planned[0][0]):
            # Nothing happens before: the next event would be its waking.
            self.time = end
            self.note(task.name)
            return
        task.waits += 1
        self.at(end, task.name, self._wake, task, task.waits)
        task.wait()

    def _wake(self, task: Task, wait: int) -> None:
        if task.waits == wait and not task.is_over:
            task.resume()

    def kill(self, task: Task) -> None:
        """SIGKILL a task that waits: it goes no further."""
        if not task.is_over and not task.is_killed:
            task.is_killed = True
            task.waits += 1
            self.at(self.time, task.name, task.resume)

    def note(self, label: str, value: int = 0) -> None:
        """Put something that happened into the digest."""
        known = self._labels.get(label)
        if known is None:
            known = self._labels[label] = len(self._labels)
            self._trace += label.encode()
        self._trace += _packed(self.time, (known << 16) ^ (value & 0xFFFF))

    def run(self, until: float) -> None:
        """Let everything happen that is planned up to then."""
        planned, self._until = self._planned, until
        while planned and planned[0][0] <= until:
            self.time, _, label, what, arguments = heapq.heappop(planned)
            self.note(label)
            what(*arguments)
        self.time = max(self.time, until)

    @property
    def digest(self) -> str:
        """Of everything that has happened so far."""
        return hashlib.blake2b(self._trace, digest_size=8).hexdigest()
