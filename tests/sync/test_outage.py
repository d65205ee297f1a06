"""One story of a channel's trouble: the breaker's refusals, the engine's outage, and the rows that are left of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.db.models.functions import Now

from channels import protocol, steering
from channels.condition import away_seconds
from channels.models import Channel, ChannelState, ListingLevel, Outage, OutageCause, Push, PushBatch
from channels.protocol import NotAuthorized, Paced, Resting, Throttled, Unavailable
from channels.urgency import Urgency, current, of
from locations.models import LocationGroup
from sync import outage, push
from sync.models import DirtySku
from sync.ports import OUTAGE_FAILURES
from synctec.lib import clock
from tests.engine import engine, ref
from tests.factories import NOON, Shop, Trade, later, make_trade
from tests.fakes import FakeChannel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


@pytest.fixture
def north(alder: Trade) -> Shop:
    DirtySku.objects.all().delete()
    return alder.shops["north"]


def resting() -> Resting:
    error = Resting("5 calls in a row failed (HTTP_503)", code="RESTING", retry_after=20.0)
    error.because = "HTTP_503"
    return error


def gives_way() -> Paced:
    error = Paced("used up", code="PACED", retry_after=7.0)
    error.gives_way = True
    return error


def rest_seconds(shop: Shop) -> float:
    return (Channel.objects.get(pk=shop.channel.pk).next_call_at - clock.now()).total_seconds()


def test_a_refused_call_tells_of_the_outage_and_is_no_failure(north: Shop) -> None:
    for _ in range(3):
        outage.note_failure(engine(), ref(north.channel), resting())

    channel = Channel.objects.get(pk=north.channel.pk)
    assert channel.failures == OUTAGE_FAILURES
    assert rest_seconds(north) == pytest.approx(20, abs=3)
    [row] = Outage.objects.all()
    assert (row.cause, row.message) == (OutageCause.SERVER_ERROR, "5 calls in a row failed (HTTP_503)")


def test_what_the_others_show_is_computed_anew_once_a_refusal_tells_of_it(north: Shop) -> None:
    LocationGroup.objects.update(policy="guard")
    outage.note_failure(engine(), ref(north.channel), resting())
    assert DirtySku.objects.count() == len(north.listings)

    outage.note_failure(engine(), ref(north.channel), resting())
    assert DirtySku.objects.count() == len(north.listings)


def test_a_refused_write_is_no_attempt_and_nothing_becomes_unknown(north: Shop) -> None:
    ListingLevel.objects.filter(listing=north.listings["MUG"]).update(desired=3, next_push_at=Now())
    store = FakeChannel.of(north)
    store.faults = [resting()]

    done = push.push_channel(engine(stores={north.channel: store}), channel=ref(north.channel))

    level = north.level("MUG")
    assert (done.unknown, level.push_failures) == (0, 0)
    assert Push.objects.get().state == "rejected"
    assert not PushBatch.objects.filter(state__in=["intent", "unknown"]).exists()
    assert rest_seconds(north) == pytest.approx(20, abs=3)


def test_a_refused_repeat_keeps_its_key_and_costs_no_attempt(north: Shop) -> None:
    ListingLevel.objects.filter(listing=north.listings["MUG"]).update(desired=3, next_push_at=Now())
    store = FakeChannel.of(north)
    store.faults = ["lost after", resting()]
    push.push_channel(engine(stores={north.channel: store}), channel=ref(north.channel))
    PushBatch.objects.update(next_attempt_at=Now())

    push.push_channel(engine(stores={north.channel: store}), channel=ref(north.channel))

    batch = PushBatch.objects.get()
    assert (batch.state, batch.attempts) == ("unknown", 1)


def test_what_gives_way_waits_and_the_channel_does_not(alder: Trade, north: Shop) -> None:
    ListingLevel.objects.filter(listing=north.listings["MUG"]).update(desired=30, next_push_at=Now())
    store = FakeChannel.of(north)
    store.faults = [gives_way()]

    push.push_channel(engine(stores={north.channel: store}), channel=ref(north.channel))

    assert rest_seconds(north) <= 0
    assert (north.level("MUG").next_push_at - clock.now()).total_seconds() == pytest.approx(7, abs=3)
    # What must fall is not kept waiting.
    ListingLevel.objects.filter(listing=north.listings["TEE"]).update(desired=1, next_push_at=Now())
    assert push.push_channel(engine(stores={north.channel: store}), channel=ref(north.channel)).confirmed == 1


def test_being_paced_for_what_is_most_urgent_makes_the_channel_rest(north: Shop) -> None:
    outage.note_failure(engine(), ref(north.channel), Paced("used up", retry_after=9.0))

    assert rest_seconds(north) == pytest.approx(9, abs=3)
    assert not Outage.objects.exists()


@pytest.mark.parametrize(("to", "urgency"), [(3, Urgency.LOWER), (30, Urgency.RAISE)])
def test_a_write_says_how_urgent_it_is(north: Shop, monkeypatch: pytest.MonkeyPatch, to: int, urgency: Urgency) -> None:
    ListingLevel.objects.filter(listing=north.listings["MUG"]).update(desired=to, next_push_at=Now())
    store = FakeChannel.of(north)
    said: list[Urgency] = []
    write = store.write_quantities

    def note(*rows: Any, **key: Any) -> Any:
        said.append(current())
        return write(*rows, **key)

    monkeypatch.setattr(store, "write_quantities", note)

    with of(Urgency.BACKGROUND):
        push.push_channel(engine(stores={north.channel: store}), channel=ref(north.channel))

    assert said == [urgency]


class TestRowsOfOutages:
    """Written by the database itself, whoever writes the channel's row."""

    def test_one_failure_is_no_outage(self, north: Shop) -> None:
        outage.note_failure(engine(), ref(north.channel), Unavailable("down"))
        outage.answered(engine(), ref(north.channel))

        assert not Outage.objects.exists()

    def test_one_begins_with_its_first_failure_and_ends_with_an_answer(self, north: Shop) -> None:
        outage.note_failure(engine(), ref(north.channel), Unavailable("down", code="NOT_SENT"))
        began_at = Channel.objects.get(pk=north.channel.pk).failing_since
        for _ in range(3):
            outage.note_failure(engine(), ref(north.channel), Unavailable("still down", code="NOT_SENT"))
        [row] = Outage.objects.all()
        assert (row.began_at, row.ended_at, row.cause) == (began_at, None, OutageCause.NO_CONNECTION)

        outage.answered(engine(), ref(north.channel))

        row.refresh_from_db()
        assert row.ended_at is not None
        assert row.ended_at >= row.began_at
        assert Channel.objects.get(pk=north.channel.pk).failing_cause == ""

    def test_the_next_one_is_another(self, north: Shop) -> None:
        for _ in range(2):
            for _ in range(OUTAGE_FAILURES):
                outage.note_failure(engine(), ref(north.channel), Unavailable("down"))
            outage.answered(engine(), ref(north.channel))

        assert Outage.objects.filter(ended_at__gte=F("began_at")).count() == 2

    def test_a_channel_that_is_resumed_or_authorized_again_ends_it(self, north: Shop) -> None:
        for _ in range(OUTAGE_FAILURES):
            outage.note_failure(engine(), ref(north.channel), Unavailable("down"))
        steering.pause(channel=north.channel, user=None)
        assert Outage.objects.get().ended_at is None

        steering.resume(channel=north.channel, user=None, now=NOON)

        assert Outage.objects.get().ended_at is not None

    def test_being_turned_down_is_one_with_a_cause_of_its_own(self, north: Shop) -> None:
        for _ in range(OUTAGE_FAILURES):
            outage.note_failure(engine(), ref(north.channel), NotAuthorized("scope missing", code="HTTP_403"))

        assert Outage.objects.get().cause == OutageCause.NOT_AUTHORIZED
        assert Channel.objects.get(pk=north.channel.pk).state == ChannelState.NEEDS_AUTH

    def test_throttling_is_none(self, north: Shop) -> None:
        for _ in range(5):
            outage.note_failure(engine(), ref(north.channel), Throttled("wait", retry_after=1))

        assert not Outage.objects.exists()

    def test_time_away_is_told_between_two_moments(self, north: Shop) -> None:
        common = {"merchant": north.channel.merchant, "channel": north.channel, "cause": OutageCause.OTHER}
        Outage.objects.create(began_at=later(-100), ended_at=later(10), **common)
        Outage.objects.create(began_at=later(20), ended_at=later(25), **common)
        Outage.objects.create(began_at=later(50), **common)

        assert away_seconds(north.channel, since=NOON, until=later(60)) == 10 + 5 + 10
        assert away_seconds(north.channel, since=later(30), until=later(40)) == 0

    def test_causes_are_the_words_of_the_protocol(self) -> None:
        assert set(OutageCause.values) == set(protocol.Cause)


def test_what_sells_fastest_is_written_first_after_what_has_waited_long(alder: Trade, north: Shop) -> None:
    trade = make_trade("Birch", stock_of=dict.fromkeys("ABCDE", 10))
    shop = trade.shops["north"]
    now = clock.now()
    for code, rush, sold, waits, desired in (
        ("A", 1.0, 5, 1, 3),
        ("B", 9.0, 5, 1, 3),
        ("C", 99.0, 3600, 1, 3),  # sold fast an hour ago
        ("D", 0.0, 5, 60, 3),  # has waited for a minute
        ("E", 50.0, 5, 60, 30),  # a raise, however fast it sells
    ):
        ListingLevel.objects.filter(listing=shop.listings[code]).update(
            desired=desired,
            next_push_at=Now(),
            rush_units=rush,
            sold_at=now - timedelta(seconds=sold),
            waiting_since=now - timedelta(seconds=waits),
        )
    levels = {shop.level(code).pk: code for code in "ABCDE"}

    with engine().books.transaction():
        picked = engine().books.out_of_sync(shop.channel.pk, 10)

    assert [levels[pick.level_id] for pick in picked] == ["D", "B", "A", "C", "E"]


def test_a_call_is_not_urgent_unless_somebody_says_so() -> None:
    assert current() is Urgency.BACKGROUND
