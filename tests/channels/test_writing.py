"""The kill switch."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse

from channels import steering, writing
from channels.models import ListingLevel, PushBatch, WritingStop
from merchants.models import AuditEvent, Member, Role, User
from sync import push, sweep
from synctec.lib.ids import uuid7
from tests.engine import engine, ref
from tests.factories import NOON, Trade, make_trade
from tests.fakes import FakeChannel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    """A merchant whose shop North shows too much."""
    trade = make_trade()
    _falls(trade)
    return trade


def _falls(trade: Trade, to: int = 3) -> None:
    ListingLevel.objects.filter(listing=trade.shops["north"].listings["MUG"]).update(desired=to, next_push_at=Now())


def _push(trade: Trade, store: FakeChannel) -> push.Pushed:
    north = trade.shops["north"].channel
    return push.push_channel(engine(stores={north: store}), channel=ref(north))


@pytest.mark.parametrize("is_everybody", [True, False])
def test_while_it_is_on_nothing_is_written_and_nobody_is_woken(alder: Trade, is_everybody: bool) -> None:
    store = FakeChannel.of(alder.shops["north"])

    writing.stop(merchant=None if is_everybody else alder.merchant, user=None, reason="a bad import")

    assert _push(alder, store).batches == 0
    assert (store.writes, PushBatch.objects.count()) == ([], 0)
    assert sweep.sweep(now=NOON).channels_to_push == []


def test_other_merchants_are_written_to(alder: Trade) -> None:
    birch = make_trade("Birch")
    _falls(birch)

    writing.stop(merchant=alder.merchant, user=None, reason="a bad import")

    assert _push(birch, FakeChannel.of(birch.shops["north"])).confirmed == 1


def test_a_write_without_an_answer_is_asked_for_again_only_when_it_goes_on(alder: Trade) -> None:
    store = FakeChannel.of(alder.shops["north"])
    store.faults = ["lost after"]
    assert _push(alder, store).unknown == 1
    PushBatch.objects.update(next_attempt_at=Now())

    writing.stop(merchant=alder.merchant, user=None, reason="a bad import")
    assert _push(alder, store).batches == 0
    writing.resume(merchant=alder.merchant, user=None, now=NOON)

    assert _push(alder, store).confirmed == 1
    assert len({key for key, _ in store.writes}) == 1


def test_a_claim_under_way_keeps_the_switch_waiting_and_is_the_last(alder: Trade) -> None:
    """The claim has looked before the switch is pressed: its write is under way, and ends. The next claim finds nothing."""
    north = alder.shops["north"].channel
    books = engine().books
    stopped = threading.Event()

    def press() -> None:
        writing.stop(merchant=alder.merchant, user=None, reason="a bad import")
        stopped.set()
        connection.close()

    pressing = threading.Thread(target=press)
    with books.transaction():
        books.lock_claims(north.pk)
        picked = books.out_of_sync(north.pk, 10)
        pressing.start()
        _until_somebody_waits_for_a_lock()
        assert not stopped.is_set()
        books.open_batch(ref(north), uuid7(), picked, push.LEASE)
    pressing.join(10)

    assert stopped.is_set()
    assert PushBatch.objects.count() == 1
    ListingLevel.objects.filter(listing=alder.shops["north"].listings["TEE"]).update(desired=1, next_push_at=Now())
    assert push.claim_batch(engine(), ref(north), 10) is None


def _until_somebody_waits_for_a_lock() -> None:
    waiting = False
    while not waiting:
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            waiting = cursor.fetchone()[0] > 0


def test_going_on_reads_first_what_is_to_be_written(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(steering, "on_reconcile", [asked.append])
    writing.stop(merchant=alder.merchant, user=None, reason="a bad import")

    writing.resume(merchant=alder.merchant, user=None, now=NOON + timedelta(hours=1), reason="mended")

    level = alder.shops["north"].level("MUG")
    assert level.suspect_reason == writing.WAS_STOPPED
    assert ListingLevel.objects.filter(suspect_since__isnull=False).count() == 1
    assert sorted(asked) == sorted(shop.channel.pk for shop in alder.shops.values())
    assert _push(alder, FakeChannel.of(alder.shops["north"])).batches == 0


def test_both_are_in_the_trail_of_everybody_concerned(alder: Trade) -> None:
    birch = make_trade("Birch")

    writing.stop(merchant=None, user=None, reason="a bad release")
    writing.resume(merchant=None, user=None, now=NOON, reason="rolled back")

    events = AuditEvent.objects.order_by("pk").values_list("merchant", "action", "reason")
    merchants = sorted([alder.merchant.pk, birch.merchant.pk])
    assert list(events) == [
        *((merchant, "writing.stop", "a bad release") for merchant in merchants),
        *((merchant, "writing.resume", "rolled back") for merchant in merchants),
    ]
    stop = WritingStop.objects.get()
    assert (stop.reason, stop.end_reason) == ("a bad release", "rolled back")
    assert stop.ended_at is not None


def test_it_is_pressed_once(alder: Trade) -> None:
    with pytest.raises(writing.CannotSwitch, match="not stopped"):
        writing.resume(merchant=alder.merchant, user=None, now=NOON)
    writing.stop(merchant=alder.merchant, user=None, reason="a bad import")
    with pytest.raises(writing.CannotSwitch, match=r"stopped already, since .*: a bad import"):
        writing.stop(merchant=alder.merchant, user=None, reason="again")
    with pytest.raises(IntegrityError, match="writing_stop_one_open"), transaction.atomic():
        WritingStop.objects.create(merchant=alder.merchant, reason="behind its back")
    with pytest.raises(ValueError, match="needs a reason"):
        writing.stop(merchant=None, user=None, reason=" ")


def test_an_item_is_not_stocked_meanwhile_either(alder: Trade) -> None:
    ListingLevel.objects.filter(listing=alder.shops["north"].listings["MUG"]).update(is_stocked=False)
    writing.stop(merchant=None, user=None, reason="a bad import")

    with pytest.raises(steering.CannotSteer, match="stopped"):
        steering.stock_at_location(level=alder.shops["north"].level("MUG"), user=None, now=NOON)


def test_operators_switch_by_command(alder: Trade) -> None:
    def run(*arguments: str) -> str:
        out = StringIO()
        call_command("writing", *arguments, stdout=out)
        return out.getvalue()

    assert run("status") == "Writing is on.\n"
    with pytest.raises(CommandError, match="--reason"):
        run("stop")
    assert "STOPPED for everybody" in run("stop", "--reason", "a bad release")
    assert "STOPPED for Alder" in run("stop", "--reason", "a bad import", "--merchant", "alder")
    told = json.loads(run("status", "--json"))
    assert [(stop["merchant"], stop["reason"]) for stop in told["stops"]] == [
        (None, "a bad release"),
        ("Alder", "a bad import"),
    ]
    with pytest.raises(CommandError, match="no merchant 'elm'"):
        run("stop", "--reason", "x", "--merchant", "elm")
    run("resume")
    with pytest.raises(CommandError, match="not stopped"):
        run("resume")
    assert json.loads(run("resume", "--merchant", "alder", "--json")) == {"is_stopped": False, "stops": []}


class TestPages:
    @pytest.fixture
    def mia(self, alder: Trade, client: Client) -> User:
        user = User.objects.create_user("mia", "mia@alder.test", "a long password", is_staff=True)
        Member.objects.create(merchant=alder.merchant, user=user, role=Role.MANAGER)
        client.force_login(user)
        return user

    def test_a_manager_stops_and_resumes_it_for_their_merchant_only(
        self, alder: Trade, mia: User, client: Client
    ) -> None:
        birch = make_trade("Birch")
        address = reverse("admin:channels_channel_stop_writing")

        asked = client.get(address)
        without_reason = client.post(address, {"merchant": alder.merchant.pk, "reason": ""})
        anothers = client.post(address, {"merchant": birch.merchant.pk, "reason": "mine now"})

        assert "2 active channels; 1 listing levels" in asked.content.decode()
        assert (without_reason.status_code, anothers.status_code) == (200, 200)
        assert not WritingStop.objects.exists()

        client.post(address, {"merchant": alder.merchant.pk, "reason": "a bad import"})

        [stop] = writing.stops_on(alder.merchant.pk)
        assert (stop.reason, writing.stops_on(birch.merchant.pk)) == ("a bad import", [])
        assert AuditEvent.objects.get(action="writing.stop").user == mia

        client.post(reverse("admin:channels_channel_resume_writing"), {"merchant": alder.merchant.pk, "reason": ""})

        assert writing.stops_on(alder.merchant.pk) == []

    def test_everybody_sees_it(self, alder: Trade, mia: User, client: Client) -> None:
        def told() -> tuple[bool, bool, str]:
            board, admin = client.get(reverse("board")), client.get(reverse("admin:channels_channel_changelist"))
            live = client.get(reverse("live"))
            return (
                "All writing is stopped" in board.content.decode(),
                "ALL WRITING IS STOPPED" in admin.content.decode(),
                live.headers["ETag"],
            )

        before = told()
        writing.stop(merchant=alder.merchant, user=mia, reason="a <b>bad</b> import")
        during = told()

        assert before[:2] == (False, False)
        assert during[:2] == (True, True)
        assert during[2] != before[2]
        assert "a &lt;b&gt;bad&lt;/b&gt; import" in client.get(reverse("board")).content.decode()

    def test_a_strangers_stop_is_not_shown(self, alder: Trade, mia: User, client: Client) -> None:
        writing.stop(merchant=make_trade("Birch").merchant, user=None, reason="secret")

        pages: list[Any] = [client.get(reverse("board")), client.get(reverse("admin:channels_channel_changelist"))]

        for text in (page.content.decode() for page in pages):
            assert "secret" not in text
            assert "writing is stopped" not in text.lower()
