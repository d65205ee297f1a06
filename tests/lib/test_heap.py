"""A settled process leaves alone what it began with, and still finds cycles."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from celery.signals import worker_process_init, worker_ready
from celery.utils.dispatch import Signal

from synctec.lib import heap


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class _Node:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_there_is_left_alone() -> None:
    kept = [_Node()]

    heap.settle()

    assert gc.get_freeze_count() > 10_000
    assert not any(found is kept for found in gc.get_objects())
    assert gc.get_threshold()[0] == heap.YOUNG_OBJECTS_MAX


def test_cycles_made_later_are_found_without_being_asked_for() -> None:
    heap.settle()
    gone = weakref.ref(_Node())

    kept: list[list[int]] = []
    while gone() is not None and len(kept) < 3 * heap.YOUNG_OBJECTS_MAX:
        kept.append([])

    assert gone() is None


def test_what_was_garbage_before_is_not_kept_for_ever() -> None:
    gone = weakref.ref(_Node())

    heap.settle()

    assert gone() is None


@pytest.mark.parametrize("begins", [worker_ready, worker_process_init])
def test_workers_settle_when_they_begin(begins: Signal) -> None:
    import synctec.celery  # noqa: F401  # connects

    begins.send(sender=None)

    assert gc.get_threshold()[0] == heap.YOUNG_OBJECTS_MAX
    assert gc.get_freeze_count() > 10_000
