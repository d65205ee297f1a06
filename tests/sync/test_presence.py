"""Minutes in which somebody was there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from sync import presence, tasks
from sync.models import Presence
from sync.presence import attended, note
from sync.score import Attended

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def minute(number: float) -> datetime:
    return NOON + timedelta(minutes=number)


@pytest.fixture(autouse=True)
def _as_a_new_process() -> Iterator[None]:
    presence._noted.clear()
    yield
    presence._noted.clear()


@pytest.mark.django_db
class TestMinutes:
    def test_without_anybody_are_down(self) -> None:
        for number in (0, 1, 2, 5, 9):
            note("workers", now=minute(number + 0.5))

        assert attended(["workers"], since=minute(0), until=minute(10)) == {"workers": Attended(5, 10)}

    def test_are_written_once_by_a_process_and_are_one_fact_of_many(
        self, django_assert_num_queries: pytest.FixtureRequest
    ) -> None:
        for _ in range(3):
            note("workers", "beat", now=minute(3.2))
        presence._noted.clear()  # another process
        note("workers", now=minute(3.9))

        assert Presence.objects.count() == 2
        assert attended(["workers"], since=minute(3), until=minute(4)) == {"workers": Attended(1, 1)}

    def test_count_from_when_the_part_was_first_seen(self) -> None:
        note("receiver", now=minute(58))

        found = attended(["receiver", "beat"], since=minute(-600), until=minute(62))

        assert found == {"receiver": Attended(1, 4)}

    def test_under_way_and_begun_before_are_left_out(self) -> None:
        for number in range(5):
            note("workers", now=minute(number))

        assert attended(["workers"], since=minute(0.5), until=minute(3.9)) == {"workers": Attended(2, 2)}
        assert attended(["workers"], since=minute(3.1), until=minute(3.9)) == {}

    def test_of_long_ago_are_forgotten(self) -> None:
        note("workers", now=NOON)
        note("workers", now=NOON + presence.KEPT + timedelta(hours=1))

        assert presence.forget(now=NOON + presence.KEPT + timedelta(hours=1)) == 1
        assert Presence.objects.count() == 1


class TestEveryMinute(TestCase):
    """Against the plainest way to count."""

    @settings(max_examples=100)
    @given(
        seen=st.sets(st.integers(0, 200), min_size=1),
        since=st.integers(-30, 200),
        length=st.integers(0, 200),
    )
    def test_is_counted_once(self, seen: set[int], since: int, length: int) -> None:
        presence._noted.clear()
        for number in sorted(seen):
            note("workers", now=minute(number))
        asked = range(max(since, min(seen)), since + length)

        found = attended(["workers"], since=minute(since), until=minute(since + length))

        expected = Attended(len(seen.intersection(asked)), len(asked))
        assert found.get("workers", Attended()) == expected


@pytest.mark.django_db
def test_a_sweep_shows_that_workers_and_schedule_are_there() -> None:
    tasks.sweep()

    assert {row.name for row in Presence.objects.all()} == {"workers", "beat"}


@pytest.mark.django_db(transaction=True)
class TestAnAttendant:
    def test_says_so_as_long_as_its_process_lives(self) -> None:
        attendant = presence.Attendant("receiver")

        attendant.start()
        attendant.stop()

        assert [row.name for row in Presence.objects.all()] == ["receiver"]

    def test_survives_a_database_that_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rounds: list[str] = []

        def away(*parts: str, now: datetime) -> None:
            rounds.append(parts[0])
            if len(rounds) == 3:
                attendant._ended.set()
            raise OperationalError("away")

        monkeypatch.setattr(presence, "note", away)
        monkeypatch.setattr(presence, "ATTEND_EVERY_SECONDS", 0)
        attendant = presence.Attendant("receiver")

        attendant.start()
        attendant.join(10)

        assert rounds == ["receiver"] * 3
