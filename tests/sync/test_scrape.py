"""What Prometheus is told: of all processes, of the database, and to whom."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from channels.models import Channel, EventState, ListingLevel
from inventory.models import Shortage
from sync import scrape
from sync.models import AuditResult, Heartbeat
from synctec.lib import metrics
from synctec.local.datafolder import PROJECT
from tests.factories import Trade, make_trade
from tests.sync.happened import event, push

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(client: Client) -> Samples:
    response = client.get("/metrics")
    assert response.status_code == 200
    return read(response.content.decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"synctec_{name}", tuple(sorted(labels.items()))]


class TestWhoMayRead:
    @pytest.fixture
    def production(self, settings: Settings) -> Settings:
        settings.METRICS_ARE_OPEN = False
        settings.METRICS_TOKEN = "correct horse"
        return settings

    @pytest.mark.django_db
    def test_everybody_on_a_stack_of_the_loopback(self, client: Client) -> None:
        assert client.get("/metrics").status_code == 200

    def test_nobody_without_a_token_elsewhere(self, client: Client, production: Settings) -> None:
        production.METRICS_TOKEN = ""

        assert client.get("/metrics").status_code == 404

    @pytest.mark.parametrize("sent", ["", "Bearer", "Bearer wrong", "correct horse", "Bearer corréct horse"])
    def test_nobody_with_another_token(self, client: Client, production: Settings, sent: str) -> None:
        response = client.get("/metrics", headers={"Authorization": sent})

        assert response.status_code == 401
        assert b"synctec_" not in response.content

    @pytest.mark.django_db
    def test_whoever_sends_the_token(self, client: Client, production: Settings) -> None:
        response = client.get("/metrics", headers={"Authorization": "Bearer correct horse"})

        assert response.status_code == 200
        assert response["Content-Type"].startswith("text/plain")


@pytest.mark.django_db
class TestGauges:
    @pytest.fixture
    def trade(self) -> Trade:
        return make_trade()

    def test_tell_what_the_database_has_now(self, client: Client, trade: Trade) -> None:
        now = timezone.now()
        north, south = trade.shops["north"], trade.shops["south"]
        sale = event(north, now - timedelta(seconds=100))
        push(south, "MUG", sale, after=timedelta(seconds=3))
        event(south, now - timedelta(seconds=90), state=EventState.PENDING)
        event(south, now - timedelta(days=9), state=EventState.DEAD)
        ListingLevel.objects.filter(pk=north.level("MUG").pk).update(suspect_since=now, desired=3)
        Channel.objects.filter(pk=south.channel.pk).update(failures=7, state="needs_auth")
        Heartbeat.objects.create(name="sweep", beat_at=now - timedelta(seconds=40))
        AuditResult.objects.create(name="x", checked_at=now - timedelta(hours=1), seconds=1, broken_since=now)
        Shortage.objects.create(
            merchant=trade.merchant, stock_level=trade.stock("MUG"), quantity=5, quantity_covered=2, cause="sale",
            correlation_id=uuid.uuid4(), occurred_at=now,
        )  # fmt: skip

        told = scraped(client)

        of_north = {"channel": str(north.channel.pk), "kind": "shopify"}
        of_south = {"channel": str(south.channel.pk), "kind": "shopify"}
        assert value(told, "database_up") == 1
        assert 90 <= value(told, "oldest_seconds", work="event") < 200
        assert value(told, "pending_events") == 1
        assert value(told, "dead_letters") == 1
        assert value(told, "open_shortage_units") == 3
        assert value(told, "broken_invariants") == 1
        assert 3600 <= value(told, "oldest_audit_seconds") < 3700
        assert 40 <= value(told, "heartbeat_age_seconds", part="sweep") < 100
        assert value(told, "sale_latency_seconds", share="0.99") == pytest.approx(3, rel=0.05)
        assert value(told, "out_of_sync_levels", **of_north) == value(told, "suspect_levels", **of_north) == 1
        assert value(told, "channel_failures", **of_south) == 7
        assert value(told, "channel_state", **of_south, state="needs_auth") == 1
        assert value(told, "channel_state", **of_south, state="active") == 0

    def test_name_no_merchant_no_store_and_no_sku(self, client: Client, trade: Trade) -> None:
        text = client.get("/metrics").content.decode()

        for name in ("Alder", "alder", "North", "MUG", "myshopify"):
            assert name not in text

    def test_are_of_so_many_channels_and_no_more(
        self, client: Client, trade: Trade, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scrape, "CHANNELS_MAX", 1)

        told = scraped(client)

        assert len([name for name, _ in told if name == "synctec_channel_failures"]) == 1
        assert value(told, "channels_left_out") == 1

    def test_of_a_database_that_is_away_are_left_out_and_that_is_told(
        self, client: Client, trade: Trade, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object) -> None:
            raise OperationalError("postgresql://user:canary@db/synctec is away")

        monkeypatch.setattr(scrape, "_fill_channels", away)

        response = client.get("/metrics")

        told = read(response.content.decode())
        assert value(told, "database_up") == 0
        assert ("synctec_pending_events", ()) not in told
        assert b"canary" not in response.content


# --- counted by many processes ------------------------------------------------------------------------------

COUNT = """
import os, sys, time
from synctec.lib import metrics
for _ in range(int(sys.argv[1])):
    metrics.webhooks.labels("shopify", "200").inc()
    metrics.tasks.labels("sync.tasks.push", "done").observe(0.2)
print("counted", flush=True)
if sys.argv[2] == "stay":
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "made" / "by" / "whoever comes first"


@contextmanager
def counting(folder: Path, count: int, *, stays: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process that has counted, and ends or stays."""
    with subprocess.Popen(
        [sys.executable, "-c", COUNT, str(count), "stay" if stays else "end"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "counted\n"
        try:
            yield process
        finally:
            if stays:
                process.kill()


def added_up(folder: Path) -> Samples:
    """As a web process of the same machine adds it up."""
    program = "from synctec.lib import metrics; print(metrics.exposition().decode())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return read(done.stdout)


@pytest.mark.slow
def test_what_processes_count_is_added_up_whichever_of_them_end_or_are_killed(folder: Path) -> None:
    with counting(folder, 3):
        pass
    with counting(folder, 5, stays=True):
        with counting(folder, 4, stays=True) as killed:
            killed.kill()
        before = added_up(folder)
        with counting(folder, 6):  # its successor
            pass

        after = added_up(folder)

    assert value(before, "webhooks_total", kind="shopify", status="200") == 12
    assert value(after, "webhooks_total", kind="shopify", status="200") == 18
    assert value(after, "task_seconds_count", task="sync.tasks.push", outcome="done") == 18
    assert value(after, "task_seconds_bucket", task="sync.tasks.push", outcome="done", le="0.25") == 18


def test_without_a_folder_a_process_tells_its_own() -> None:
    before = read(metrics.exposition().decode())
    metrics.published.inc(2)

    after = read(metrics.exposition().decode())

    assert value(after, "levels_published_total") == value(before, "levels_published_total") + 2
