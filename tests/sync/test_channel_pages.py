"""Shadow mode, held changes and restoring, as people see them."""

from __future__ import annotations

import pytest
from django.test import Client
from django.utils import timezone

from channels.models import Channel
from merchants.models import Role
from sync import bigruns, shadow
from sync.models import PushHold
from tests.engine import engine
from tests.factories import Shop, Trade, make_trade
from tests.fakes import FakeChannel
from tests.sync.test_bigruns import adjust, push, settle
from tests.sync.test_board import browser_of, join, shown

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade(stock_of={"MUG": 10, "=TEE": 5})


@pytest.fixture
def south(alder: Trade) -> Shop:
    return alder.shops["south"]


@pytest.fixture
def manager(alder: Trade) -> Client:
    return browser_of(join(alder, "mara", Role.MANAGER))


@pytest.fixture
def hold(alder: Trade, south: Shop) -> PushHold:
    Channel.objects.filter(pk=south.channel.pk).update(big_run_levels=1)
    adjust(alder, "MUG", -10)
    settle(alder)
    return PushHold.objects.get()


def test_a_manager_tries_a_store_out_and_goes_live(alder: Trade, south: Shop, manager: Client) -> None:
    page = f"/stores/{south.channel.pk}/shadow/"
    assert "Give a reason" in manager.post(page, {"act": "enter"}, follow=True).content.decode()
    entered = manager.post(page, {"act": "enter", "reason": "a trial"}, follow=True).content.decode()
    assert "nothing is written to it" in entered
    assert "Not compared yet" in entered
    adjust(alder, "MUG", -4)
    settle(alder)
    channel = Channel.objects.get(pk=south.channel.pk)
    shadow.note(channel.pk)
    store = FakeChannel.of(south)
    store.levels[FakeChannel.where(south, "=TEE")] = 9
    shadow.compare(engine(timezone.now(), {channel: store}), channel=channel)

    compared = manager.get(page).content.decode()
    assert "Timing: it changed within the last minutes" in compared
    assert "Changed in the store by hand or by another app" in compared
    file = manager.get(page + "report.csv")
    assert file["Content-Disposition"].endswith('.csv"')
    assert "'=TEE" in file.content.decode("utf-8-sig")

    going = manager.get(f"/stores/{channel.pk}/live/").content.decode()
    assert "1 level of 2 would be written first, 0 of them to zero" in going
    done = manager.post(f"/stores/{channel.pk}/live/", {"expected": "1", "reason": "right"}, follow=True)
    assert "is live: 1 level to be written" in done.content.decode()
    assert not Channel.objects.get(pk=channel.pk).is_shadow


@pytest.mark.parametrize("expected", ["", "x", "-1", "٣", "9" * 30])
def test_going_live_without_having_looked_is_refused(south: Shop, manager: Client, expected: str) -> None:
    shadow.enter(channel=south.channel, user=None)

    manager.post(f"/stores/{south.channel.pk}/live/", {"expected": expected, "reason": "right"})

    assert Channel.objects.get(pk=south.channel.pk).is_shadow


def test_the_board_says_loudly_that_changes_are_held_and_where(alder: Trade, manager: Client, hold: PushHold) -> None:
    needs = [(need.tone, need.text, need.page) for need in shown(alder).needs]

    assert needs[0] == ("danger", "1 change of South is held: confirm, or put right", "holds")
    assert 'href="/holds/"' in manager.get("/").content.decode()
    assert "Waiting for you" in manager.get("/holds/").content.decode()


def test_a_hold_is_confirmed_with_a_reason(alder: Trade, south: Shop, manager: Client, hold: PushHold) -> None:
    page = f"/holds/{hold.pk}/"
    assert "Manual adjustment" in manager.get(page).content.decode()
    assert "Give a reason" in manager.post(page, {"act": "confirm"}, follow=True).content.decode()
    assert "Choose what to do" in manager.post(page, {"act": "?", "reason": "x"}, follow=True).content.decode()

    manager.post(page, {"act": "confirm", "reason": "meant"})
    again = manager.post(page, {"act": "look_again", "reason": "not meant"}, follow=True).content.decode()

    assert "decided before" in again
    settle(alder)
    assert south.level("MUG").desired == 0


def test_a_channel_is_restored_after_a_look(alder: Trade, south: Shop, manager: Client) -> None:
    store = FakeChannel.of(south)
    adjust(alder, "MUG", -10)
    settle(alder)
    push(south, store)
    page = f"/stores/{south.channel.pk}/restore/"

    assert "must be a date and time" in manager.get(page, {"before": "yesterday"}).content.decode()
    assert "must be a date and time" in manager.get(page, {"before": "2026-02-31T10:00"}).content.decode()
    looked = manager.get(page, {"before": "2020-01-01T10:00"}).content.decode()
    assert "Restore 1 level" in looked
    assert "Give a reason" in manager.post(page, {"before": "2020-01-01T10:00"}).content.decode()
    manager.post(page, {"before": "2020-01-01T10:00", "reason": "a bad import"})

    settle(alder)
    assert south.level("MUG").desired == 10
    bigruns.confirm(hold_id=PushHold.objects.get(kind="restore").pk, user=None, reason="done")


@pytest.mark.parametrize("page", ["shadow/", "shadow/report.csv", "live/", "restore/"])
def test_a_stranger_sees_nothing_of_it_and_a_viewer_changes_nothing(alder: Trade, south: Shop, page: str) -> None:
    stranger = browser_of(join(make_trade("Birch"), "sten", Role.OWNER))
    viewer = browser_of(join(alder, "vera", Role.VIEWER))
    address = f"/stores/{south.channel.pk}/{page}"

    assert stranger.get(address).status_code == 404
    assert stranger.get(f"/stores/{10**25}/{page}").status_code == 404
    assert viewer.post(address, {"act": "enter", "reason": "x"}).status_code in (403, 405)
    assert not Channel.objects.get(pk=south.channel.pk).is_shadow


def test_a_hold_is_nobody_elses_and_viewers_only_look(alder: Trade, hold: PushHold) -> None:
    stranger = browser_of(join(make_trade("Birch"), "sten", Role.OWNER))
    viewer = browser_of(join(alder, "vera", Role.VIEWER))

    assert stranger.get(f"/holds/{hold.pk}/").status_code == 404
    assert viewer.get(f"/holds/{hold.pk}/").status_code == 200
    assert viewer.post(f"/holds/{hold.pk}/", {"act": "confirm", "reason": "x"}).status_code == 403
    assert viewer.get(f"/stores/{hold.channel_id}/shadow/", {"day": "no day"}).status_code == 404
    hold.refresh_from_db()
    assert hold.state == "held"
