"""Having a store read again on somebody's word."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from channels.models import Channel, ChannelState, Listing, ListingLevel
from merchants.models import AuditEvent, User
from sync import check, jobs, push, resync
from sync.models import DirtySku, Job, JobState
from synctec.lib import clock
from tests.engine import engine, ref
from tests.factories import Shop, Trade, make_trade
from tests.fakes import FakeChannel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def suspects() -> set[int]:
    return set(ListingLevel.objects.exclude(suspect_since=None).values_list("pk", flat=True))


def read(shop: Shop, store: FakeChannel) -> None:
    check.check_channel(engine(clock.now(), stores={shop.channel: store}), channel=ref(shop.channel))


def ask(trade: Trade, **said: Any) -> resync.Asked:
    return resync.ask(merchant_id=trade.merchant.pk, said=said)


def test_a_level_is_read_again_at_once(alder: Trade) -> None:
    north = alder.shops["north"]
    user = User.objects.create_user(username="u", email="u@synctec.test", password="x")
    DirtySku.objects.all().delete()

    asked = resync.ask(
        merchant_id=alder.merchant.pk, said={"level": north.level("MUG").pk}, user=user, reason="looks wrong"
    )

    assert (asked.levels, asked.channels, asked.job) == (1, [north.channel.pk], None)
    assert suspects() == {north.level("MUG").pk}
    assert DirtySku.objects.get().sku == alder.skus["MUG"]
    event = AuditEvent.objects.get(action="listing_level.resync")
    assert (event.user, event.reason) == (user, "looks wrong")
    read(north, FakeChannel.of(north))
    assert suspects() == set()


def test_each_thing_stands_for_its_levels(alder: Trade) -> None:
    north, south = alder.shops["north"], alder.shops["south"]

    def levels(**said: Any) -> set[int]:
        return set(
            resync.levels_of(alder.merchant.pk, resync.read(alder.merchant.pk, said)).values_list("pk", flat=True)
        )

    assert levels(listing=north.listings["MUG"].pk) == {north.level("MUG").pk}
    assert levels(sku="MUG") == {north.level("MUG").pk, south.level("MUG").pk}
    assert levels(channel=south.channel.pk) == {south.level("MUG").pk, south.level("TEE").pk}
    assert levels(group=alder.group.pk) == set(ListingLevel.objects.values_list("pk", flat=True))
    assert levels(sku="MUG", channel=south.channel.pk) == {south.level("MUG").pk}


def test_a_refused_number_is_written_without_waiting_for_the_pause(alder: Trade) -> None:
    north = alder.shops["north"]
    store = FakeChannel.of(north)
    levels = ListingLevel.objects.filter(pk=north.level("MUG").pk)
    levels.update(desired=12, push_failures=3, next_push_at=Now() + timedelta(minutes=15))

    ask(alder, sku="MUG")
    read(north, store)
    push.push_channel(engine(stores={north.channel: store}), channel=ref(north.channel))

    assert store.levels[store.where(north, "MUG")] == 12
    assert levels.get().push_failures == 0


def test_a_lower_that_is_due_is_not_held_up(alder: Trade) -> None:
    north = alder.shops["north"]
    store = FakeChannel.of(north)
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(desired=7, next_push_at=Now() + timedelta(minutes=9))

    ask(alder, channel=north.channel.pk)
    push.push_channel(engine(stores={north.channel: store}), channel=ref(north.channel))

    assert store.levels[store.where(north, "MUG")] == 7


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "channel"),
        ({"channel": "x"}, "channel"),
        ({"listing": 10**30}, "listing"),
        ({"sku": "NOPE"}, "sku"),
        ({"group": "999999"}, "group"),
    ],
)
def test_what_is_not_there_is_refused_by_name(alder: Trade, said: dict[str, Any], field: str) -> None:
    with pytest.raises(jobs.BadParameters) as refused:
        ask(alder, **said)

    assert refused.value.name == field
    assert suspects() == set()


def test_another_merchants_things_are_not_there(alder: Trade) -> None:
    birch = make_trade("Birch")

    with pytest.raises(jobs.BadParameters):
        ask(birch, channel=alder.shops["north"].channel.pk)


def test_a_channel_that_cannot_be_read_is_left_alone(alder: Trade) -> None:
    Channel.objects.filter(pk=alder.shops["north"].channel.pk).update(state=ChannelState.NEEDS_AUTH)

    with pytest.raises(jobs.NothingToDo, match="authorize the channel again"):
        ask(alder, channel=alder.shops["north"].channel.pk)


def test_what_is_not_mapped_is_left_alone(alder: Trade) -> None:
    Listing.objects.filter(sku=alder.skus["MUG"]).update(sku=None)

    with pytest.raises(jobs.NothingToDo):
        ask(alder, listing=alder.shops["north"].listings["MUG"].pk)


def test_many_levels_are_read_as_a_job_batch_by_batch(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "AT_ONCE_MAX", 3)
    monkeypatch.setattr(resync, "BATCH_LEVELS", 3)
    north, south = alder.shops["north"], alder.shops["south"]
    stores = {shop.channel.pk: FakeChannel.of(shop) for shop in (north, south)}
    stores[south.channel.pk].sell(south, "TEE", 2)  # which nobody was told

    asked = ask(alder, group=alder.group.pk)

    assert asked.job is not None
    assert asked.job.total == 4
    assert suspects() == set()
    sizes = []
    for _ in range(20):
        worked = jobs.work(job_id=asked.job.pk)
        if worked is None or worked.is_over:
            break
        sizes.append(len(suspects() - {south.level("TEE").pk}))
        for shop in (north, south):
            read(shop, stores[shop.channel.pk])
        Job.objects.update(next_attempt_at=Now() - timedelta(minutes=1))
    asked.job.refresh_from_db()
    assert max(sizes) <= 3
    assert (asked.job.state, asked.job.done, asked.job.changed) == (JobState.DONE, 4, 1)
    assert asked.job.result == "4 levels were read, 1 of them differed or were written."


def test_levels_that_are_not_read_in_time_are_said(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "AT_ONCE_MAX", 1)
    monkeypatch.setattr(resync, "TELLS_WITHIN", timedelta(0))
    job = ask(alder, sku="MUG").job
    assert job is not None

    for _ in range(2):
        jobs.work(job_id=job.pk)
        Job.objects.update(next_attempt_at=Now() - timedelta(minutes=1))

    job.refresh_from_db()
    assert job.state == JobState.DONE
    assert "2 could not be read in time" in job.result
