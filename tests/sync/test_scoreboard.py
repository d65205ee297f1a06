"""The health page, the same for programs, and the command."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from channels.models import Channel, EventState
from inventory.models import Shortage
from merchants import keys
from merchants.models import Member, Merchant, Role, Scope, User
from sync import history, presence
from tests.factories import Trade, make_trade
from tests.sync.happened import event, push

pytestmark = pytest.mark.django_db

#: Unchanged: session, person, memberships, channels; facts: two of latency, eight others, two of presence, two of calls;
#: waits, shortages, days.
QUERIES = 24


@pytest.fixture
def trade() -> Trade:
    """Something of everything happened a minute ago."""
    trade = make_trade()
    now = timezone.now()
    north, south = trade.shops["north"], trade.shops["south"]
    sale = event(north, now - timedelta(seconds=60))
    push(south, "MUG", sale, after=timedelta(seconds=2))
    event(south, now - timedelta(seconds=50), state=EventState.DEAD)
    Shortage.objects.create(
        merchant=trade.merchant,
        stock_level=trade.stock("MUG"),
        quantity=2,
        cause="sale",
        reference="#1001",
        correlation_id=sale.correlation_id,
        occurred_at=now,
    )
    return trade


@pytest.fixture
def viewer(client: Client, trade: Trade) -> Client:
    person = User.objects.create_user(username="v", email="v@example.com", password="pw")
    Member.objects.create(merchant=trade.merchant, user=person, role=Role.VIEWER)
    client.force_login(person)
    return client


def page(client: Client, **query: str) -> str:
    response = client.get("/health/", query)
    assert response.status_code == 200
    return response.content.decode()


class TestThePage:
    @pytest.mark.parametrize("period", ["hour", "day", "week", "month", "nonsense", ""])
    def test_shows_every_figure_of_any_period(self, viewer: Client, period: str) -> None:
        shown = page(viewer, period=period)

        for key in ("latency_p99", "accuracy", "overselling", "uptime_receiver", "buffers", "queue_lag", "rate_limits"):
            assert f'id="figure-{key}"' in shown
        assert "2.0" in shown  # seconds of the sale
        assert "not measured yet" in shown

    def test_says_what_is_bad_and_leads_to_the_story_of_each_shortage(self, viewer: Client, trade: Trade) -> None:
        shown = page(viewer)

        assert "Overselling and Error rate are bad" in shown
        shortage = Shortage.objects.get()
        assert f"/story/{shortage.correlation_id}/" in shown
        assert "#1001" in shown

    def test_of_one_channel_is_about_that_channel(self, viewer: Client, trade: Trade) -> None:
        shown = page(viewer, channel=str(trade.shops["south"].channel.pk))

        assert "Health of South" in shown
        assert "#1001" not in shown
        assert "1 dead event" in shown

    def test_tells_channels_apart(self, viewer: Client, trade: Trade) -> None:
        shown = page(viewer)

        assert f"?channel={trade.shops['north'].channel.pk}" in shown
        assert f"?channel={trade.shops['south'].channel.pk}" in shown

    @pytest.mark.parametrize("channel", ["0", "x", "999999999999999999999", "-1", "\0"])
    def test_of_no_channel_of_ours_is_not_found(self, viewer: Client, channel: str) -> None:
        stranger = make_trade("Birch").shops["north"].channel.pk

        assert viewer.get("/health/", {"channel": channel}).status_code == 404
        assert viewer.get("/health/", {"channel": str(stranger)}).status_code == 404

    def test_shows_nothing_of_another_merchant(self, client: Client, trade: Trade) -> None:
        person = User.objects.create_user(username="s", email="s@example.com", password="pw")
        Member.objects.create(merchant=make_trade("Birch").merchant, user=person, role=Role.OWNER)
        client.force_login(person)

        shown = page(client)

        assert "#1001" not in shown
        assert "1 dead event" not in shown
        assert client.get("/health/", {"merchant": "alder"}).status_code == 404

    def test_without_a_store_says_so(self, client: Client) -> None:
        person = User.objects.create_user(username="n", email="n@example.com", password="pw")
        Member.objects.create(merchant=Merchant.objects.create(name="New", slug="new"), user=person, role=Role.OWNER)
        client.force_login(person)

        assert "No store connected yet" in page(client)

    def test_asks_for_its_changing_part_and_is_told_when_nothing_changed(self, viewer: Client) -> None:
        first = viewer.get("/health/live/")
        again = viewer.get("/health/live/", headers={"If-None-Match": first["ETag"]})

        assert first.status_code == 200
        assert 'id="live"' in first.content.decode()
        assert again.status_code == 304

    def test_draws_the_days_that_are_kept(self, viewer: Client, trade: Trade) -> None:
        now = timezone.now()
        Merchant.objects.update(created_at=now - timedelta(days=4))
        for days in (1, 2, 3):
            sale = event(trade.shops["north"], now - timedelta(days=days))
            push(trade.shops["south"], "MUG", sale, after=timedelta(seconds=days))
        history.keep_days(now=now)

        shown = page(viewer)

        assert shown.count("<polyline") >= 3
        assert "days: between 1.0" in shown
        assert "style=" not in shown

    def test_costs_the_same_whatever_the_number_of_channels(
        self, viewer: Client, trade: Trade, django_assert_max_num_queries: Any
    ) -> None:
        for number in range(10):
            Channel.objects.create(
                merchant=trade.merchant, kind="shopify", name=f"C{number}", account=f"c{number}.myshopify.com"
            )

        with django_assert_max_num_queries(QUERIES):
            page(viewer)

    def test_as_csv_has_a_row_per_day_and_channel(self, viewer: Client, trade: Trade) -> None:
        Channel.objects.filter(pk=trade.shops["north"].channel.pk).update(name="=1+1")
        Merchant.objects.update(created_at=timezone.now() - timedelta(days=3))
        event(trade.shops["north"], timezone.now() - timedelta(days=1))
        history.keep_days(now=timezone.now())

        response = viewer.get("/health/days.csv")

        rows = list(csv.DictReader(io.StringIO(response.content.decode("utf-8-sig"))))
        assert response["Content-Type"].startswith("text/csv")
        assert [row["channel"] for row in rows if row["errors"] == "0.0"] == ["all", "'=1+1"]
        assert {row["day"] for row in rows} >= {str((timezone.now() - timedelta(days=1)).date())}


class TestForPrograms:
    @pytest.fixture
    def secret(self, trade: Trade) -> str:
        _, secret = keys.create(
            merchant=trade.merchant, name="watch", scopes=[Scope.HEALTH_READ], expires_at=None, user=None
        )
        return secret.reveal()

    def get(self, client: Client, secret: str, path: str) -> Any:
        return client.get(f"/api/v1/{path}", headers={"Authorization": f"Bearer {secret}"})

    def test_tells_every_figure_with_its_standing(self, client: Client, secret: str) -> None:
        answer = self.get(client, secret, "health?period=hour")

        told = answer.json()
        assert (answer.status_code, told["period"], told["standing"]) == (200, "hour", "bad")
        figures = {figure["key"]: figure for figure in told["figures"]}
        assert figures["latency_p99"]["value"] == pytest.approx(2, rel=0.05)
        assert figures["dead_letters"]["value"] == 1
        assert figures["accuracy"]["value"] is None

    def test_tells_of_one_channel_and_of_days(self, client: Client, secret: str, trade: Trade) -> None:
        Merchant.objects.update(created_at=timezone.now() - timedelta(days=2))
        history.keep_days(now=timezone.now())
        north = trade.shops["north"].channel.pk

        health = self.get(client, secret, f"health?channel={north}").json()
        days = self.get(client, secret, "health/days?days=1").json()

        assert next(one for one in health["figures"] if one["key"] == "dead_letters")["value"] == 0
        assert len(days["days"]) == 1

    @pytest.mark.parametrize("query", ["period=year", "channel=x", "channel=0", "days=3", "period=day&period=hour"])
    def test_refuses_what_it_does_not_know(self, client: Client, secret: str, query: str) -> None:
        assert self.get(client, secret, f"health?{query}").status_code == 400

    def test_knows_no_channel_of_another_merchant(self, client: Client, secret: str) -> None:
        stranger = make_trade("Birch").shops["north"].channel.pk

        for route in ("health", "health/days"):
            assert self.get(client, secret, f"{route}?channel={stranger}").status_code == 404


class TestTheCommand:
    def told(self, *arguments: str) -> str:
        out = io.StringIO()
        call_command("scorecard", *arguments, stdout=out)
        return out.getvalue()

    def test_prints_the_figures_of_everybody_and_of_one(self, trade: Trade) -> None:
        presence._noted.clear()
        everybody = self.told()

        assert "Overselling" in everybody
        assert "bad" in everybody
        assert json.loads(self.told("--merchant", "alder", "--json"))["dead_letters"]["value"] == 1
        with pytest.raises(CommandError, match="no merchant"):
            self.told("--merchant", "nobody")

    def test_writes_days_anew(self, trade: Trade) -> None:
        Merchant.objects.update(created_at=timezone.now() - timedelta(days=2))

        assert self.told("--keep-days", "5") == "2 days written\n"
