"""Replaying the event log: what was applied changes nothing and says so; what was set aside is taken up."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from channels.models import EventState, InboxEvent, Listing
from inventory.models import Movement
from sync import jobs, replays
from sync.models import Job, JobState
from synctec.lib import sql
from tests.factories import NOON, Trade, deliver, level_body, make_trade, order_body
from tests.sync.test_letters import apply_all, work_off

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def replay(trade: Trade, **said: Any) -> Job:
    return work_off(jobs.create(merchant_id=trade.merchant.pk, kind="replay_events", said=said), trade)


def sell(trade: Trade, order: int, code: str = "MUG") -> InboxEvent:
    north = trade.shops["north"]
    event = deliver(north, "orders/create", order_body(north, order, (code, 1)))
    apply_all(trade)
    return event


def test_replaying_what_was_applied_changes_nothing_and_says_so(alder: Trade) -> None:
    sell(alder, 1)
    before = list(Movement.objects.order_by("pk").values())

    job = replay(alder, states=["applied"])

    assert list(Movement.objects.order_by("pk").values()) == before
    assert (job.state, job.done, job.changed) == (JobState.DONE, 1, 0)
    assert job.result.endswith("Nothing changed: the ledger has no new movement of theirs.")
    assert alder.stock("MUG").committed == 1


def test_replaying_in_any_order_and_number_leaves_the_newest_state(alder: Trade) -> None:
    north = alder.shops["north"]
    sell(alder, 1)
    deliver(north, "orders/updated", order_body(north, 1, ("MUG", 1), at=20, current=(0,)))
    apply_all(alder)
    assert alder.stock("MUG").committed == 0

    replay(alder, states=["applied"])
    replay(alder, ids=[InboxEvent.objects.earliest("pk").pk])

    assert alder.stock("MUG").committed == 0


def test_a_replay_that_moves_stock_counts_it(alder: Trade) -> None:
    event = sell(alder, 1)
    lost = deliver(alder.shops["north"], "orders/create", order_body(alder.shops["north"], 2, ("MUG", 2)))
    InboxEvent.objects.filter(pk=lost.pk).update(state=EventState.DEAD, reason="failed 6 times: bug", settled_at=NOON)

    job = replay(alder, topic="orders/create")

    assert (job.done, job.changed, job.tally) == (2, 1, {"applied": 2})
    assert job.result == "2 events were applied again (2 applied). 1 of them moved stock."
    event.refresh_from_db()
    assert event.state == EventState.APPLIED


def test_what_dies_again_is_counted_as_failed(alder: Trade) -> None:
    deliver(alder.shops["north"], "orders/create", b"{}")
    apply_all(alder)

    job = replay(alder, reason="malformed")

    assert (job.done, job.failed, job.tally) == (1, 1, {"dead": 1})


def test_old_news_of_products_is_left_alone_once_applied(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "products/delete", {"id": int(north.listings["MUG"].remote_product_id)})
    apply_all(alder)
    Listing.objects.update(deleted_at=None)

    with pytest.raises(jobs.NothingToDo, match="1 are left alone"):
        replay(alder, topic="products/delete")

    assert not Listing.objects.exclude(deleted_at=None).exists()


def test_an_event_whose_body_is_gone_is_left_as_it_is(alder: Trade) -> None:
    event = sell(alder, 1)
    sql.execute("DELETE FROM channels_inboxbody")

    with pytest.raises(jobs.NothingToDo, match="bodies are gone"):
        replay(alder, ids=[event.pk])

    event.refresh_from_db()
    assert event.state == EventState.APPLIED


def test_a_replayed_level_event_moves_no_stock(alder: Trade) -> None:
    north = alder.shops["north"]
    deliver(north, "inventory_levels/update", level_body(north, "MUG", 10, at=-5))
    apply_all(alder)

    job = replay(alder, topic="inventory_levels/update")

    assert (job.done, job.changed) == (1, 0)
    assert alder.stock("MUG").on_hand == 10


def test_a_large_replay_goes_batch_by_batch(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    for order in range(5):
        sell(alder, order + 1)
    monkeypatch.setattr(replays, "BATCH_EVENTS", 2)
    job = jobs.create(merchant_id=alder.merchant.pk, kind="replay_events", said={"states": "applied"})

    jobs.work(job_id=job.pk)
    assert InboxEvent.objects.filter(state=EventState.PENDING).count() == 2
    work_off(job, alder)

    job.refresh_from_db()
    assert (job.done, job.changed, job.total) == (5, 0, 5)


def test_a_replay_waits_for_a_silent_store_only_so_long(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    sell(alder, 1)
    job = jobs.create(merchant_id=alder.merchant.pk, kind="replay_events", said={"states": "applied"})
    jobs.work(job_id=job.pk)
    Job.objects.update(next_attempt_at=Now() - timedelta(minutes=1))
    waited = jobs.work(job_id=job.pk)
    assert waited is not None
    assert not waited.is_over
    monkeypatch.setattr(replays, "TELLS_WITHIN", timedelta(0))
    Job.objects.update(next_attempt_at=Now() - timedelta(minutes=1))

    jobs.work(job_id=job.pk)

    job.refresh_from_db()
    assert job.state == JobState.DONE
    assert "1 still wait" in job.result


@pytest.mark.parametrize("about", ["1", "#1", "MUG"])
def test_events_are_found_by_order_and_by_sku(alder: Trade, about: str) -> None:
    event = sell(alder, 1)
    sell(alder, 2, "TEE")

    found = replays.find(alder.merchant.pk, {"about": about})

    assert [row.pk for row in found] == [event.pk]


def test_events_are_found_by_time(alder: Trade) -> None:
    old, new = sell(alder, 1), sell(alder, 2)
    InboxEvent.objects.filter(pk=old.pk).update(received_at=NOON - timedelta(days=2))

    parameters = replays.read(alder.merchant.pk, {"since": NOON - timedelta(days=1), "until": NOON})

    assert [row.pk for row in replays.find(alder.merchant.pk, parameters)] == [new.pk]


def test_what_arrives_after_the_job_was_made_is_not_meant(alder: Trade) -> None:
    sell(alder, 1)
    job = jobs.create(merchant_id=alder.merchant.pk, kind="replay_events", said={"states": "applied"})
    late = sell(alder, 2)
    InboxEvent.objects.filter(pk=late.pk).update(received_at=Now() + timedelta(seconds=5))

    assert work_off(job, alder).done == 1


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "ids"),
        ({"ids": ["x"]}, "ids"),
        ({"ids": list(range(1_001))}, "ids"),
        ({"states": ["pending"]}, "states"),
        ({"channel": 10**30}, "channel"),
        ({"topic": "x" * 81}, "topic"),
        ({"since": "2026-11-21T00:00:00Z", "until": "2026-11-20T00:00:00Z"}, "until"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_by_name(alder: Trade, said: dict[str, Any], field: str) -> None:
    with pytest.raises(jobs.BadParameters) as refused:
        jobs.preview(merchant_id=alder.merchant.pk, kind="replay_events", said=said)

    assert refused.value.name == field


def test_another_merchants_events_are_not_replayed(alder: Trade) -> None:
    birch = make_trade("Birch")
    theirs = sell(birch, 1)

    with pytest.raises(jobs.NothingToDo):
        replay(alder, ids=[theirs.pk])


# --- the command --------------------------------------------------------------------------------------------------


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("replay", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_tells_what_it_would_do(alder: Trade) -> None:
    sell(alder, 1)

    told = command("--state", "applied", "--dry-run")

    assert "1 events will be applied again (1 applied)." in told
    assert not Job.objects.exists()


def test_the_command_makes_a_job_and_waits_for_its_end(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    event = sell(alder, 1)

    def work(seconds: float) -> None:
        Job.objects.update(next_attempt_at=Now() - timedelta(minutes=1))
        apply_all(alder)

    monkeypatch.setattr("time.sleep", work)
    told = command("--event", str(event.pk))

    assert "Nothing changed" in told
    assert Job.objects.get().state == JobState.DONE


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Say which events"),
        (["--channel", "Nowhere"], "no channel"),
        (["--since", "yesterday"], "since: Give a date"),
        (["--state", "applied", "--merchant", "nobody"], "no merchant"),
        (["--event", "9999999"], "No event that fits"),
    ],
)
def test_the_command_says_what_is_wrong(alder: Trade, arguments: list[str], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        command(*arguments)


def test_the_command_asks_for_the_merchant_where_there_are_several(alder: Trade) -> None:
    make_trade("Birch")

    with pytest.raises(CommandError, match="--merchant"):
        command("--state", "applied")
