"""A practice store that answers 500 to everything, over HTTP: what breaker, engine and rows make of it."""

from __future__ import annotations

import io
from typing import Any

import pytest
import redis
import requests
from django.conf import settings
from django.core.management import call_command
from django.db.models import F
from django.db.models.functions import Now

from channels import calls, connect, urgency
from channels.condition import condition_of
from channels.models import CallHour, Channel, InboxEvent, ListingLevel, Outage, OutageCause, PushBatch
from channels.protocol import ChannelError
from channels.urgency import Urgency
from inventory import stock
from inventory.models import StockLevel
from locations.models import LocationGroup
from sync import check, live, outage, publish, push, reconcile, sweep, tasks
from synctec.lib import clock
from synctec.lib.breaker import OPEN_SECONDS, RUN_MAX, State
from tests.lib.virtual_time import pass_time

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def stores(sandbox: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Channel, Channel]:
    """Two practice stores that show the same stock; the first one will fall silent. Nobody is woken by a bell."""
    monkeypatch.setattr(tasks, "_ring", lambda *_: None)
    call_command("load_demo", stores=2, skus=2, bundles=0, units=100, json=True, stdout=io.StringIO())
    LocationGroup.objects.update(policy="shared")
    north, south = Channel.objects.order_by("pk")
    for channel in (north, south):
        _work(channel)
    return north, south


def _work(channel: Channel) -> None:
    """What a worker does for a channel when the sweep has found it due: the numbers, the suspects, the orders."""
    engine, ref = live.engine(), live.ref(channel)
    while publish.publish_batch(engine, merchant_id=channel.merchant_id).skus:
        pass
    found = sweep.sweep(now=clock.now())
    for due, urgent, act in (
        (found.channels_to_push, Urgency.LOWER, lambda: push.push_channel(engine, channel=ref)),
        (found.channels_to_check, Urgency.SUSPECT, lambda: check.check_channel(engine, channel=ref)),
        (found.channels_to_poll, Urgency.SUSPECT, lambda: reconcile.poll_orders(engine, channel=ref)),
    ):
        if channel.pk not in due:
            continue
        with urgency.of(urgent):
            try:
                act()
            except ChannelError as error:
                outage.note_failure(engine, ref, error)


def _due_now(channel: Channel) -> None:
    """The pauses in PostgreSQL are over."""
    Channel.objects.filter(pk=channel.pk).update(next_call_at=Now())
    PushBatch.objects.filter(channel=channel, next_attempt_at__isnull=False).update(next_attempt_at=Now())


def _calls_received(sandbox: str, channel: Channel) -> int:
    handle = channel.account.split(".")[0]
    answer: dict[str, Any] = requests.get(f"{sandbox}/_control/stores/{handle}/stats", timeout=5).json()
    return int(answer["since_start"].get("api_calls", 0))


def _set_faults(sandbox: str, channel: Channel, faults: dict[str, object]) -> None:
    handle = channel.account.split(".")[0]
    requests.put(f"{sandbox}/_control/stores/{handle}/faults", json=faults, timeout=5).raise_for_status()


def _set_stock(channel: Channel, to: int) -> None:
    for level in StockLevel.objects.filter(merchant_id=channel.merchant_id):
        stock.adjust(
            merchant_id=level.merchant_id,
            sku_id=level.sku_id,
            warehouse_id=level.warehouse_id,
            delta=to - level.on_hand,
            reason="counted",
            user=None,
            now=clock.now(),
        )


def test_a_store_that_answers_500_is_left_alone_asked_by_one_and_caught_up_with(
    sandbox: str, stores: tuple[Channel, Channel]
) -> None:
    north, south = stores
    _set_faults(sandbox, north, {"error_rate": 1.0})
    _set_stock(north, 40)

    # It opens after a few calls, and then none is made, however often somebody comes.
    for _ in range(RUN_MAX):
        _due_now(north)
        _work(north)
    assert connect.standing_of(north).state is State.OPEN
    received = _calls_received(sandbox, north)
    for _ in range(5):
        _due_now(north)
        _work(north)
    assert _calls_received(sandbox, north) == received

    # What was refused counts for nothing, and the channel's row says when to come back.
    north.refresh_from_db()
    assert north.next_call_at > clock.now()
    assert (north.next_call_at - clock.now()).total_seconds() <= OPEN_SECONDS
    [under_way] = Outage.objects.all()
    assert (under_way.channel, under_way.ended_at, under_way.cause) == (north, None, OutageCause.SERVER_ERROR)
    [unanswered] = PushBatch.objects.filter(channel=north, state="unknown")
    assert unanswered.attempts <= RUN_MAX

    # The other store is brought to its number meanwhile.
    _work(south)
    assert not ListingLevel.objects.filter(channel=south).exclude(desired=F("shown")).exists()

    # One call asks, and fails; then again, and the store answers.
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        key = f"breaker:{{channel:{north.pk}}}"
        pass_time(client, key, OPEN_SECONDS)
        _due_now(north)
        _work(north)
        assert _calls_received(sandbox, north) == received + 1
        _set_faults(sandbox, north, {})
        pass_time(client, key, OPEN_SECONDS)
    for _ in range(3):
        _due_now(north)
        _work(north)

    assert connect.standing_of(north).state is State.CLOSED
    north.refresh_from_db()
    assert (north.failures, north.failing_since) == (0, None)
    under_way.refresh_from_db()
    assert under_way.ended_at is not None
    assert set(ListingLevel.objects.filter(channel=north).values_list("shown", "desired")) == {(40, 40)}
    assert not InboxEvent.objects.filter(state="dead").exists()

    # All of it can be told afterwards.
    calls.tally.flush()
    told = CallHour.objects.filter(channel=north)
    assert sum(row.server_errors for row in told) >= RUN_MAX
    assert sum(row.rested for row in told) >= 5
    found = condition_of(north, now=clock.now())
    assert (found.breaker, found.next_probe_seconds) == ("closed", None)
    assert found.away_seconds > 0
    assert found.budget_capacity
