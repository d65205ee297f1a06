"""Work done together by one thread for all that wait."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from synctec.lib.combiner import Combiner


def test_who_waits_is_served_together_and_everybody_gets_their_own_result() -> None:
    batches: list[int] = []
    may_go = threading.Event()

    def work(tasks: Sequence[int]) -> list[int]:
        may_go.wait(10)
        batches.append(len(tasks))
        return [task * 2 for task in tasks]

    combiner = Combiner(work, limit=8)
    with ThreadPoolExecutor(20) as pool:
        results = [pool.submit(combiner.submit, number) for number in range(20)]
        while len(combiner._waiting) < 19:
            threading.Event().wait(0.001)
        may_go.set()
        assert [result.result() for result in results] == [number * 2 for number in range(20)]
    assert batches == [1, 8, 8, 3]


def test_an_error_reaches_all_it_concerns_and_the_next_are_served() -> None:
    def work(tasks: Sequence[str]) -> list[str]:
        if "poison" in tasks:
            raise ValueError("no good")
        return list(tasks)

    combiner = Combiner(work, limit=10)

    with pytest.raises(ValueError, match="no good"):
        combiner.submit("poison")
    assert combiner.submit("meal") == "meal"


def test_a_work_that_forgets_somebody_is_an_error_and_nobody_waits_for_ever() -> None:
    combiner: Combiner[int, int] = Combiner(lambda tasks: [], limit=10)

    with pytest.raises(ValueError, match="zip"):
        combiner.submit(1)
