"""Sharing a cost: threads that want the same kind of work done at the same time have one of them do it for all.

The first caller works off what has gathered, up to a limit; who comes meanwhile waits and is served together by the next,
whom the first one wakes. When more than one was served, those are likely to come back: the next then lingers a moment, so
that they are served together rather than in two halves taking turns. So the work is never done twice at the same time, and
what is fixed in its cost (a transaction, a commit's wait for the disk) is paid once for as many as were waiting.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class _Ticket(Generic[Task, Result]):
    """One caller's place: `bell` is locked until it is either served or to serve."""

    __slots__ = ("bell", "error", "is_done", "result", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.bell = threading.Lock()
        self.bell.acquire()
        self.is_done = False
        self.result: Result
        self.error: BaseException | None = None


class Combiner(Generic[Task, Result]):
    """`work` takes tasks in the order they came and returns a result for each; what it raises is raised to all of them."""

    def __init__(
        self, work: Callable[[Sequence[Task]], Sequence[Result]], *, limit: int, linger_seconds: float = 0.0
    ) -> None:
        self._work = work
        self._limit = limit
        self._linger_seconds = linger_seconds
        self._is_busy = False
        self._mutex = threading.Lock()
        self._waiting: deque[_Ticket[Task, Result]] = deque()
        self._is_led = False

    def submit(self, task: Task) -> Result:
        """Have the task done by whichever thread gets to it; returns when it is.

        Raises:
            Exception: what the work raised.
        """
        ticket: _Ticket[Task, Result] = _Ticket(task)
        with self._mutex:
            self._waiting.append(ticket)
            leads = not self._is_led
            self._is_led = True
        if not leads:
            ticket.bell.acquire()
        if not ticket.is_done:
            self._lead()
        if ticket.error is not None:
            raise ticket.error
        return ticket.result

    def _lead(self) -> None:
        """Serve those who wait, oneself among them, then hand over to the first who came since."""
        if self._is_busy:
            time.sleep(self._linger_seconds)
        with self._mutex:
            served = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
        try:
            results = self._work([ticket.task for ticket in served])
            for ticket, result in zip(served, results, strict=True):
                ticket.result = result
        except BaseException as error:
            # Whatever ends this thread must not leave the others waiting.
            for ticket in served:
                ticket.error = error
        finally:
            for ticket in served:
                ticket.is_done = True
            with self._mutex:
                self._is_busy = len(served) > 1
                following = self._waiting[0] if self._waiting else None
                self._is_led = following is not None
            for ticket in served:
                ticket.bell.release()
            if following is not None:
                following.bell.release()
