"""What is told of requests, tasks and batches: one id in every line, and one grep for a story."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from celery import shared_task
from celery.signals import task_postrun, task_prerun
from django.test import Client
from django.utils import timezone
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from channels import credentials, webhooks
from channels.models import InboxEvent
from merchants import keys
from merchants.models import Scope
from sync import live, tasks
from synctec import telemetry
from synctec.lib import metrics, tracing
from synctec.lib.secret import Secret
from synctec.lib.signing import sign_base64
from synctec.local.attach import offline_environment
from synctec.local.datafolder import PROJECT
from synctec.logs import logging_config
from tests.channels.cast import path_of
from tests.engine import engine
from tests.factories import Trade, make_trade, order_body
from tests.fakes import FakeChannel


class Lines:
    """What is logged, as a machine reads it."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    found = Lines()
    config = logging_config(level="DEBUG", log_format="json")["formatters"]["structured"]
    handler = logging.StreamHandler(found.stream)
    handler.setFormatter(config["()"](**{name: part for name, part in config.items() if name != "()"}))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield found
    root.removeHandler(handler)
    root.setLevel(level)


def count(metric: Any, **labels: str) -> float:
    for family in metric.collect():
        for sample in family.samples:
            if sample.name.endswith(("_count", "_total")) and sample.labels == labels:
                return float(sample.value)
    return 0.0


class TestARequest:
    def test_keeps_a_harmless_id_and_is_given_one_otherwise(self, client: Client) -> None:
        assert (
            client.get("/livez", headers={"X-Request-ID": "load-balancer.7:a"})["X-Request-ID"] == "load-balancer.7:a"
        )
        for bad in ("", "x" * 65, "two words", "new\tline", "é"):
            given = client.get("/livez", headers={"X-Request-ID": bad})["X-Request-ID"]
            assert uuid.UUID(given).version == 7

    def test_is_counted_by_route_and_status(self, client: Client) -> None:
        before = count(metrics.requests_served, route="livez", status="2xx")
        lost = count(metrics.requests_served, route="none", status="4xx")

        client.get("/livez")
        client.get("/no/such/page-4711")

        assert count(metrics.requests_served, route="livez", status="2xx") == before + 1
        assert count(metrics.requests_served, route="none", status="4xx") == lost + 1

    @pytest.mark.django_db
    def test_of_a_program_bears_its_id_and_merchant_in_each_line(
        self, client: Client, lines: Lines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trade = make_trade()
        _, secret = keys.create(
            merchant=trade.merchant, name="x", scopes=[Scope.STOCK_READ], expires_at=None, user=None
        )

        def broken(*_: object, **__: object) -> None:
            raise ArithmeticError("as the test wants it")

        monkeypatch.setattr("inventory.recipes.load", broken)
        headers = {"Authorization": f"Bearer {secret.reveal()}", "X-Request-ID": "r-1"}

        client.get("/api/v1/availability?sku=MUG", headers=headers)

        [line] = [line for line in lines.all() if line["event"] == "api.failed"]
        assert (line["request_id"], line["merchant_id"]) == ("r-1", trade.merchant.pk)
        assert secret.reveal() not in lines.stream.getvalue()

    def test_leaves_nothing_behind_for_the_next_one(self, client: Client) -> None:
        client.get("/livez", headers={"X-Request-ID": "r-2"})

        assert structlog.contextvars.get_contextvars() == {}


@shared_task(name="tests.telemetry.look")
def look(channel_id: int, *, fails: bool = False, **_: Any) -> None:
    """A task that logs."""
    structlog.get_logger("tests.telemetry").info("looked")
    if fails:
        raise ArithmeticError("as the test wants it")


class TestATask:
    @pytest.fixture(autouse=True)
    def _attached(self) -> None:
        telemetry.attach()

    def test_bears_its_name_its_id_and_whom_it_is_about_in_each_line(self, lines: Lines) -> None:
        look.apply(args=(7,), task_id="t-1")

        [line] = [line for line in lines.all() if line["event"] == "looked"]
        assert (line["task"], line["task_id"], line["channel_id"]) == ("tests.telemetry.look", "t-1", 7)
        assert structlog.contextvars.get_contextvars() == {}

    def test_is_counted_by_name_and_outcome(self) -> None:
        done, failed = (
            count(metrics.tasks, task="tests.telemetry.look", outcome=outcome) for outcome in ("done", "failed")
        )

        look.apply(args=(7,))
        look.apply(args=(7,), kwargs={"fails": True})

        assert count(metrics.tasks, task="tests.telemetry.look", outcome="done") == done + 1
        assert count(metrics.tasks, task="tests.telemetry.look", outcome="failed") == failed + 1

    def test_signals_are_heard_once_however_often_they_are_attached(self) -> None:
        before = len(task_prerun.receivers or []), len(task_postrun.receivers or [])

        telemetry.attach()

        assert (len(task_prerun.receivers or []), len(task_postrun.receivers or [])) == before


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.configure("", processor=SimpleSpanProcessor(exporter))
    yield exporter
    tracing.configure("")


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    [span] = [span for span in spans.get_finished_spans() if span.name == name]
    return span


@pytest.mark.django_db(transaction=True)
class TestAStory:
    """A sale from its delivery to the other store, told by logs and by spans alike."""

    @pytest.fixture
    def story(
        self, client: Client, lines: Lines, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[Trade, str]:
        return _sell(client, monkeypatch)

    def test_is_found_by_one_grep(self, story: tuple[Trade, str], lines: Lines) -> None:
        trade, correlation_id = story

        told = [json.loads(line) for line in lines.stream.getvalue().splitlines() if correlation_id in line]

        assert [line["event"] for line in told] == ["webhook.stored", "apply.done", "publish.done", "push.done"]
        delivery, applied, _, pushed = told
        assert delivery["channel_id"] == trade.shops["north"].channel.pk
        assert delivery["request_id"]
        assert {line["merchant_id"] for line in told} == {trade.merchant.pk}
        assert applied["settled"] == 1
        assert (pushed["channel_id"], pushed["confirmed"]) == (trade.shops["south"].channel.pk, 1)

    def test_is_one_trace(self, story: tuple[Trade, str], spans: InMemorySpanExporter) -> None:
        trade, correlation_id = story

        found = [span for span in spans.get_finished_spans() if span.name in ("webhook", "apply", "publish", "push")]

        assert [span.name for span in found] == ["webhook", "apply", "publish", "push"]
        for span in found:
            assert span.context is not None
            assert span.context.trace_id == uuid.UUID(correlation_id).int
            assert span.attributes is not None
            assert span.attributes["synctec.correlation_id"] == correlation_id
            assert span.attributes["synctec.merchant_id"] == trade.merchant.pk


def _sell(client: Client, monkeypatch: pytest.MonkeyPatch) -> tuple[Trade, str]:
    """North sells a mug: delivered, applied, published, and written to South."""
    trade = make_trade()
    north, south = trade.shops["north"], trade.shops["south"]
    secret = "norths-client-secret"
    credentials.store(north.channel, client_id="app", client_secret=Secret(secret))
    stores = {shop.channel: FakeChannel.of(shop) for shop in (north, south)}
    made = engine(timezone.now(), stores)
    monkeypatch.setattr(live, "engine", lambda: made)
    monkeypatch.setattr(tasks, "LINGER_SECONDS", 0.0)
    webhooks.forget_everything()
    body = json.dumps(order_body(north, 1001, ("MUG", 1))).encode()
    headers = {
        "X-Shopify-Topic": "orders/create",
        "X-Shopify-Shop-Domain": north.channel.account,
        "X-Shopify-Webhook-Id": "w-1",
        "X-Shopify-Hmac-SHA256": sign_base64(body, secret),
    }

    answer = client.post(path_of(north.channel), data=body, content_type="application/json", headers=headers)
    assert answer.status_code == 200
    tasks.apply(trade.merchant.pk)
    tasks.push(south.channel.pk)

    assert stores[south.channel].writes
    return trade, str(InboxEvent.objects.get().correlation_id)


class TestTraces:
    def test_of_many_events_are_of_the_first_and_link_to_the_others(self, spans: InMemorySpanExporter) -> None:
        ids = [uuid.uuid4() for _ in range(tracing.STORIES_MAX + 5)]

        tracing.record("apply", began_at=1.0, correlation_ids=[ids[0], *ids], is_error=True)

        span = named(spans, "apply")
        assert span.context is not None
        assert span.context.trace_id == ids[0].int
        assert [link.context.trace_id for link in span.links] == [one.int for one in ids[1 : tracing.STORIES_MAX]]
        assert span.start_time == 1_000_000_000
        assert not span.status.is_ok

    def test_are_recorded_for_nobody_without_a_collector(self) -> None:
        assert not tracing.is_on()
        tracing.record("apply", began_at=1.0, correlation_ids=[uuid.uuid4()])

    @pytest.mark.slow
    def test_import_nothing_without_a_collector(self) -> None:
        program = "import synctec.settings, sys; print([name for name in sys.modules if 'opentelemetry' in name])"

        done = subprocess.run(
            [sys.executable, "-c", program], cwd=PROJECT, env=offline_environment(), capture_output=True, text=True
        )

        assert done.stdout == "[]\n", done.stderr

    def test_asked_for_without_the_package_say_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

        with pytest.raises(tracing.NotInstalled, match=r"requirements-otel\.txt"):
            tracing.configure("http://127.0.0.1:4318")
        assert not tracing.is_on()
