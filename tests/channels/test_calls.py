"""What became of the calls, hour by hour."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, OperationalError

from channels import calls
from channels.calls import Tally
from channels.models import CallHour, Channel
from channels.urgency import Urgency

pytestmark = pytest.mark.django_db


def test_counts_are_added_up_hour_by_hour_whoever_counted(north: Channel) -> None:
    one, other = Tally(), Tally()
    for tally in (one, other):
        tally.add(north.pk, Urgency.LOWER, calls=2, cost=11.5)
        tally.add(north.pk, Urgency.BACKGROUND, paced=1, waited_seconds=0.5)

        tally.flush()
        tally.flush()  # nothing is left to be counted twice

    rows = CallHour.objects.order_by("urgency").values_list("urgency", "calls", "cost", "paced", "waited_seconds")
    assert list(rows) == [(0, 4, 23.0, 0, 0.0), (3, 0, 0.0, 2, 1.0)]
    row = CallHour.objects.filter(urgency=0).get()
    assert (row.merchant_id, row.hour.minute, row.hour.second) == (north.merchant_id, 0, 0)


def test_a_channel_that_is_gone_is_not_counted(north: Channel) -> None:
    tally = Tally()
    tally.add(north.pk + 1, Urgency.LOWER, calls=1)

    tally.flush()

    assert not CallHour.objects.exists()


def test_with_the_database_away_counts_wait(north: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    tally.add(north.pk, Urgency.LOWER, calls=1)
    write = calls._write

    def away(counted: object) -> None:
        raise OperationalError("the database is away")

    monkeypatch.setattr(calls, "_write", away)
    tally.flush()
    monkeypatch.setattr(calls, "_write", write)
    tally.add(north.pk, Urgency.LOWER, calls=1)

    tally.flush()

    assert CallHour.objects.get().calls == 2


def test_a_mistake_of_ours_is_not_swallowed(north: Channel) -> None:
    tally = Tally()
    tally.add(north.pk, Urgency.LOWER, calls=-1)

    with pytest.raises(DatabaseError):
        tally.flush()
