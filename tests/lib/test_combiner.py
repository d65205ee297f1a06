"""Sharing one act among threads: real threads, held up where the test wants them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synctec.lib.combiner import Combiner, Crowded, NotDone


class Gate:
    """An act that tells what it was given, and goes on when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def __call__(self, batch: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(batch))
        self.entered.release()
        assert self.go_on.acquire(timeout=10)
        return [ValueError(f"no {item}") if item < 0 else item * 10 for item in batch]


def combiner(
    act: Callable[[Sequence[int]], Sequence[int | Exception]],
    *,
    batch_max: int = 8,
    waiting_max: int = 100,
    timeout_seconds: float = 10.0,
    weight_max: int = 0,
) -> Combiner[int, int]:
    return Combiner(
        act,
        batch_max=batch_max,
        waiting_max=waiting_max,
        timeout_seconds=timeout_seconds,
        weigh=lambda item: item if weight_max else 0,
        weight_max=weight_max,
    )


class Crowd:
    """Threads that submit, and the act they meet at."""

    def __init__(self, pool: ThreadPoolExecutor, **options: float) -> None:
        self.gate = Gate()
        self.shared = combiner(self.gate, **options)  # type: ignore[arg-type]  # each is what it should be
        self._pool = pool

    def leader(self, item: int) -> Future[int]:
        """The first to come, who is in the act when this returns."""
        submitted = self._pool.submit(self.shared.submit, item)
        assert self.gate.entered.acquire(timeout=10)
        return submitted

    def followers(self, *items: int) -> list[Future[int]]:
        """They come one after the other while the leader acts."""
        submitted = []
        for item in items:
            waiting = len(self.shared._waiting)
            submitted.append(self._pool.submit(self.shared.submit, item))
            until = time.monotonic() + 10
            while len(self.shared._waiting) == waiting and time.monotonic() < until:
                time.sleep(0.001)
        return submitted

    def let(self, acts: int = 1) -> None:
        for _ in range(acts):
            self.gate.go_on.release()


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=32)


def test_who_comes_alone_acts_at_once() -> None:
    batches: list[list[int]] = []

    def act(batch: Sequence[int]) -> list[int]:
        batches.append(list(batch))
        return [item + 1 for item in batch]

    shared = combiner(act)

    assert [shared.submit(item) for item in (1, 2)] == [2, 3]
    assert batches == [[1], [2]]


def test_who_comes_during_an_act_shares_the_next(pool: ThreadPoolExecutor) -> None:
    crowd = Crowd(pool)
    first = crowd.leader(1)
    others = crowd.followers(2, 3, 4)
    crowd.let(2)

    assert [one.result(10) for one in (first, *others)] == [10, 20, 30, 40]
    assert crowd.gate.batches == [[1], [2, 3, 4]]


def test_a_batch_has_its_limit_in_number_and_in_weight(pool: ThreadPoolExecutor) -> None:
    by_number, by_weight = Crowd(pool, batch_max=2), Crowd(pool, weight_max=5)
    waiting = []
    for crowd in (by_number, by_weight):
        waiting += [crowd.leader(1), *crowd.followers(9, 2, 3, 4)]
        crowd.let(4)

    assert [one.result(10) for one in waiting] == [10, 90, 20, 30, 40] * 2
    assert by_number.gate.batches == [[1], [9, 2], [3, 4]]
    assert by_weight.gate.batches == [[1], [9, 2, 3], [4]]


def test_nobody_gets_a_result_before_the_act_has_returned(pool: ThreadPoolExecutor) -> None:
    crowd = Crowd(pool)
    first = crowd.leader(1)
    (second,) = crowd.followers(2)
    crowd.let()

    assert first.result(10) == 10
    assert crowd.gate.entered.acquire(timeout=10)  # the second leads now
    assert not second.done()
    crowd.let()
    assert second.result(10) == 20


def test_an_error_of_one_item_is_its_own(pool: ThreadPoolExecutor) -> None:
    crowd = Crowd(pool)
    first = crowd.leader(1)
    good, bad, alike = crowd.followers(2, -3, 4)
    crowd.let(2)

    assert [one.result(10) for one in (first, good, alike)] == [10, 20, 40]
    with pytest.raises(ValueError, match="no -3"):
        bad.result(10)


@pytest.mark.parametrize("end", [ConnectionError("away"), SystemExit(1), MemoryError()])
def test_when_the_act_or_its_thread_ends_everybody_is_told_and_the_next_ones_go_on(
    pool: ThreadPoolExecutor, end: BaseException
) -> None:
    entered, dies = threading.Event(), threading.Event()

    def act(batch: Sequence[int]) -> list[int]:
        if 2 in batch:
            entered.set()
            assert dies.wait(10)
            raise end
        time.sleep(0.2)
        return list(batch)

    shared = combiner(act, batch_max=2)
    futures = [pool.submit(shared.submit, 1)]
    time.sleep(0.05)
    for item in (2, 3, 4):
        futures.append(pool.submit(shared.submit, item))
        time.sleep(0.02)
    assert entered.wait(10)
    dies.set()

    first, leader, follower, next_one = futures
    assert first.result(10) == 1
    with pytest.raises(type(end)):
        leader.result(10)
    with pytest.raises(NotDone):
        follower.result(10)
    assert next_one.result(10) == 4


def test_a_crowd_is_turned_away(pool: ThreadPoolExecutor) -> None:
    crowd = Crowd(pool, waiting_max=2)
    accepted = [crowd.leader(1), *crowd.followers(2, 3)]

    with pytest.raises(Crowded):
        crowd.shared.submit(4)

    crowd.let(2)
    assert [one.result(10) for one in accepted] == [10, 20, 30]


def test_who_waits_too_long_leaves_and_is_not_done_later(pool: ThreadPoolExecutor) -> None:
    crowd = Crowd(pool, timeout_seconds=0.05)
    first = crowd.leader(1)
    (second,) = crowd.followers(2)

    with pytest.raises(NotDone):
        second.result(10)
    crowd.let()
    assert first.result(10) == 10
    crowd.let()
    assert crowd.shared.submit(3) == 30
    assert crowd.gate.batches == [[1], [3]]


@settings(max_examples=25, deadline=None)
@given(
    items=st.lists(st.integers(-3, 30), min_size=1, max_size=40),
    batch_max=st.integers(1, 5),
    failing=st.sets(st.integers(0, 6)),
)
def test_every_result_is_of_an_act_that_returned(items: list[int], batch_max: int, failing: set[int]) -> None:
    """Whatever the threads do: each gets the outcome of its own item or an error, and each item is done at most once."""
    done: list[int] = []
    acts = 0

    def act(batch: Sequence[tuple[int, int]]) -> list[int | Exception]:
        nonlocal acts
        acts += 1
        if acts - 1 in failing:
            raise ConnectionError
        done.extend(place for place, _ in batch)
        return [ValueError() if item < 0 else item for _, item in batch]

    shared: Combiner[tuple[int, int], int] = Combiner(act, batch_max=batch_max, waiting_max=100, timeout_seconds=10)

    def submit(numbered: tuple[int, int]) -> int | type[Exception]:
        try:
            return shared.submit(numbered)
        except (NotDone, ConnectionError, ValueError) as error:
            return type(error)

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(submit, enumerate(items)))

    assert sorted(set(done)) == sorted(done)
    for place, (item, outcome) in enumerate(zip(items, outcomes, strict=True)):
        expected = {ValueError if item < 0 else item} if place in done else {NotDone, ConnectionError}
        assert outcome in expected
    assert not shared._waiting
    assert not shared._is_led
