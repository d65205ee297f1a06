"""One clock for all processes, whatever their machines say."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest

from synctec.lib import clock, sql
from synctec.lib.sql import rows
from tests.factories import NOON

pytestmark = pytest.mark.django_db


def database_time() -> datetime:
    moment: datetime = rows("SELECT clock_timestamp()")[0][0]
    return moment


def test_it_is_the_databases_whatever_this_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    ours = clock.DatabaseClock()

    assert ours() <= database_time() + timedelta(seconds=clock.SLOW_SECONDS)
    assert ours() > database_time() - timedelta(seconds=60)


def test_between_two_readings_it_goes_on_with_this_machines_steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = 1000.0
    monkeypatch.setattr(time, "clock_gettime", lambda _: steady)
    ours = clock.DatabaseClock()
    first = ours()

    steady = 1012.5
    assert ours() == first + timedelta(seconds=12.5)
    steady = 1000.0 + clock.READ_AGAIN_SECONDS + 1
    assert ours() < first + timedelta(seconds=20)


def test_an_answer_that_was_long_on_its_way_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is stopped for 20 s just after the server has answered."""
    steady, pauses = 1000.0, [20.0, 0.01]

    def answer(_: str) -> list[tuple[datetime]]:
        nonlocal steady
        told = NOON + timedelta(seconds=steady)
        steady += pauses.pop(0)
        return [(told,)]

    monkeypatch.setattr(time, "clock_gettime", lambda _: steady)
    monkeypatch.setattr(sql, "rows", answer)
    ours = clock.DatabaseClock()

    assert abs(ours() - (NOON + timedelta(seconds=steady))) < timedelta(seconds=clock.SLOW_SECONDS)
