"""Threads that want the same thing done at the same moment let one of them do it for all.

Whoever comes first and finds nobody at it *leads*: it takes what is waiting and acts on it at once. Who comes meanwhile
waits, and shares the next act, led by one of them. So nobody waits when nothing is going on, there is no thread to
look after, and the more come the more share one act.

Invariant: `submit` returns a result only after the act that took its item has returned it. Whatever else happens, also to
the thread that leads, everybody who waits is told that it was not done.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, cast

#: How often a lingering leader looks who has come.
LINGER_STEP_SECONDS: Final = 0.0002

Item = TypeVar("Item")
Result = TypeVar("Result")


class NotDone(Exception):
    """The item was not seen done. It may have been done all the same, unless this is a `Crowded`."""


class Crowded(NotDone):
    """Too many are waiting already: the item was not taken up."""


class _Waiting(Generic[Item, Result]):
    """One item, and how its thread is woken: because it is settled, given up, or to lead."""

    __slots__ = ("is_settled", "item", "leads", "outcome", "wake")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.outcome: Result | Exception | None = None
        self.is_settled = False
        self.leads = False
        # A bare lock, released to wake: an Event is four times the work.
        self.wake = threading.Lock()
        self.wake.acquire()

    def settle(self, outcome: Result | Exception) -> None:
        self.outcome, self.is_settled = outcome, True


class Combiner(Generic[Item, Result]):
    """Shares the calls of `act` among the threads of a process."""

    def __init__(
        self,
        act: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        batch_max: int,
        waiting_max: int,
        timeout_seconds: float,
        linger_seconds: float = 0.0,
        weigh: Callable[[Item], int] = lambda _: 0,
        weight_max: int = 0,
    ) -> None:
        """`act` gets 1 to `batch_max` items, of which all but the first weigh `weight_max` together at most, and returns the
        result or the error of each, in order. What it raises is raised in the thread that leads, and NotDone in the others.
        After a batch of several, whoever leads next lingers, so that those just answered can ask again and share its act.
        """
        self._act = act
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._timeout_seconds = timeout_seconds
        self._linger_seconds = linger_seconds
        self._crowd = 1
        self._weigh = weigh
        self._weight_max = weight_max
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._is_led = False

    def submit(self, item: Item) -> Result:
        """Have the item done, by this thread or by another one.

        Raises:
            Crowded: nothing was done with it.
            NotDone: it took too long, or `act` raised something in another thread; it may have been done, or be done yet.
            Exception: what `act` raised, or returned for this item.
        """
        mine: _Waiting[Item, Result] = _Waiting(item)
        with self._lock:
            if len(self._waiting) >= self._waiting_max:
                raise Crowded
            self._waiting.append(mine)
            mine.leads = not self._is_led
            self._is_led = True
        if not mine.leads and not mine.wake.acquire(timeout=self._timeout_seconds):
            self._leave(mine)
        if mine.leads:
            self._lead()
        if not mine.is_settled:
            raise NotDone
        if isinstance(mine.outcome, Exception):
            raise mine.outcome
        return cast(Result, mine.outcome)

    def _leave(self, mine: _Waiting[Item, Result]) -> None:
        """Wait no longer. Who was told to lead in this very moment does so: others rely on it."""
        with self._lock:
            if not mine.leads and mine in self._waiting:
                self._waiting.remove(mine)

    def _lead(self) -> None:
        """Act once, for this thread's own item and all that fit with it, and hand over to one of those who wait."""
        if self._crowd > 1:
            self._linger()
        batch = self._take()
        self._crowd = len(batch)
        try:
            outcomes = self._act([waiting.item for waiting in batch])
            for waiting, outcome in zip(batch, outcomes, strict=True):
                waiting.settle(outcome)
        finally:
            # Also when this thread is being ended: nobody may wait for it.
            self._hand_over()
            for waiting in batch[1:]:
                waiting.wake.release()

    def _linger(self) -> None:
        """Wait a moment for as many as shared the act before."""
        ends_at = time.monotonic() + self._linger_seconds
        while len(self._waiting) < self._crowd and time.monotonic() < ends_at:
            time.sleep(LINGER_STEP_SECONDS)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The next batch. The leader is the first of those who wait, so its own item is in it."""
        with self._lock:
            batch = [self._waiting.popleft()]
            weight = 0
            while self._waiting and len(batch) < self._batch_max:
                weight += self._weigh(self._waiting[0].item)
                if weight > self._weight_max:
                    break
                batch.append(self._waiting.popleft())
        return batch

    def _hand_over(self) -> None:
        with self._lock:
            self._is_led = bool(self._waiting)
            if self._is_led:
                self._waiting[0].leads = True
                self._waiting[0].wake.release()
