"""Secrets stay secret: a merchant's whole day, and then a search for each of its secrets wherever something is left behind.

A practice store is connected, sells, is written to, fails and is read; another one cannot be reached at all. Programs use the
API with good keys and bad ones, people look at every page. Logs are written as in production, with every level on.
"""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import requests
from django.conf import settings as django_settings
from django.contrib import admin
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from channels import credentials, onboarding
from channels.models import Channel, ChannelKind, ChannelState, InboxEvent, ListingLevel, StoreLocation
from inventory import delivery, stock
from inventory import tasks as inventory_tasks
from inventory.models import Sku, Warehouse
from locations.models import GroupLocation, GroupWarehouse, LocationGroup, Mapping
from merchants import keys
from merchants.models import Merchant, Scope, User
from sync import tasks
from sync.models import Drift
from synctec.lib.secret import Secret
from synctec.lib.signing import sign_base64
from synctec.logs import logging_config
from tests.channels.cast import path_of, signed_headers
from tests.merchants.test_admin_crawl import pages

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

#: What a secret could be part of, and what must be found there all the same, or nothing was searched.
PLACES = {
    "database": "cove.myshopify.com",
    "redis": "stock:",
    "logs": "task.channel_error",
    "pages": "MUG",
    "messages": "",
}


class Day:
    """Everything that was left behind somewhere, as text."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {place: [] for place in PLACES}
        self.logged = io.StringIO()

    def keep(self, place: str, text: str) -> None:
        self.found[place].append(text)

    def look(self, client: Client, path: str, **headers: str) -> int:
        answer = client.get(path, headers=headers)
        self.keep("pages", answer.content.decode() + str(answer.headers))
        return int(answer.status_code)

    def send(self, path: str, body: Any, **headers: str) -> int:
        answer = Client(raise_request_exception=False).post(
            path, json.dumps(body), content_type="application/json", headers=headers
        )
        self.keep("pages", answer.content.decode() + str(answer.headers))
        return int(answer.status_code)


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Iterator[Day]:
    """Logs as in production, but all of them; messages to workers are kept instead of sent."""
    made = Day()
    config = logging_config(level="DEBUG", log_format="json")["formatters"]["structured"]
    handler = logging.StreamHandler(made.logged)
    handler.setFormatter(config["()"](**{name: value for name, value in config.items() if name != "()"}))
    root = logging.getLogger()
    monkeypatch.setattr(root, "level", logging.DEBUG)
    root.addHandler(handler)
    for task in (tasks.apply, tasks.publish, tasks.push, tasks.check, tasks.poll, tasks.reconcile, tasks.activate):
        monkeypatch.setattr(task, "delay", lambda *told, name=task.name: made.keep("messages", f"{name}{told!r}"))
    for name in ("SHIFT_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(tasks, name, 0.3)
    yield made
    root.removeHandler(handler)


@pytest.fixture
def cove(sandbox: str) -> Iterator[dict[str, Any]]:
    """A store of the sandbox with ten mugs, and our app's credentials in it."""
    recipe = {"handle": "cove", "client_secret": "canary-of-the-client-secret"}
    made = requests.post(f"{sandbox}/_control/stores", json=recipe, timeout=10).json()
    mugs = [{"sku": "MUG", "title": "Mug", "levels": {"Main": 10}}]
    requests.post(f"{sandbox}/_control/stores/cove/variants", json=mugs, timeout=10).raise_for_status()
    yield made
    requests.delete(f"{sandbox}/_control/stores/cove", timeout=10)


def test_no_secret_is_left_in_a_log_a_message_a_page_redis_or_a_plain_column(
    day: Day, alder: Merchant, cove: dict[str, Any], sandbox: str, settings: Any
) -> None:
    root = User.objects.create_superuser("root", "root@alder.test", "canary-of-a-password")
    channel = connected(alder, root)
    lost = unreachable(alder)
    _, key = keys.create(merchant=alder, name="till", scopes=Scope.values, expires_at=None, user=root)
    settings.WEBHOOK_PRIVATE_ORIGINS = ["http://127.0.0.1:9"]
    endpoint, signing = delivery.create(merchant=alder, url="http://127.0.0.1:9/hook", user=root)
    secrets = [
        "canary-of-the-client-secret",
        "canary-of-an-access-token",
        "canary-of-a-refresh-token",
        "canary-of-a-password",
        cove["client_secret"],
        credentials.access_token(channel).reveal(),
        key.reveal(),
        signing.reveal(),
    ]

    webhooks_come(day, channel)
    the_engine_works(alder, channel, lost, sandbox)
    inventory_tasks.tell_endpoint(endpoint.pk)
    programs_call(day, key)
    people_look(day, channel)
    keep_what_is_stored(day)

    day.keep("logs", day.logged.getvalue())
    assert {place for place, known in PLACES.items() if known not in "".join(day.found[place])} == set()
    assert len(day.found["messages"]) > 0
    for place, texts in day.found.items():
        leaked = {secret[:20] for secret in secrets for form in forms(secret) for text in texts if form in text}
        assert not leaked, place


def forms(secret: str) -> list[str]:
    """What a secret looks like as it is, in base64, and as PostgreSQL shows bytes."""
    raw = secret.encode()
    return [secret, base64.b64encode(raw).decode().rstrip("="), raw.hex()]


def connected(merchant: Merchant, user: User) -> Channel:
    """The practice store, active, and its mugs in one group with a warehouse of ours."""
    channel = onboarding.connect_sandbox_store(merchant=merchant, name="Cove", user=user, handle="cove")
    onboarding.activate(channel, now=timezone.now(), user=user)
    warehouse = Warehouse.objects.create(merchant=merchant, code="MAIN", name="Main")
    group = LocationGroup.objects.create(merchant=merchant, name="Everywhere", policy="shared")
    GroupWarehouse.objects.create(merchant=merchant, group=group, warehouse=warehouse)
    place = StoreLocation.objects.get(channel=channel)
    GroupLocation.objects.create(merchant=merchant, group=group, store_location=place)
    Mapping.objects.create(merchant=merchant, group=group, store_location=place, warehouse=warehouse, priority=1)
    sku, _ = Sku.objects.get_or_create(merchant=merchant, code="MUG", defaults={"title": "Mug"})
    channel.listings.update(sku=sku)
    stock.open_stock(merchant_id=merchant.pk, quantities={(sku.pk, warehouse.pk): 6}, now=timezone.now())
    return channel


def unreachable(merchant: Merchant) -> Channel:
    """A store that no call reaches from here, with tokens of its own."""
    channel = Channel.objects.create(
        merchant=merchant,
        kind=ChannelKind.SHOPIFY,
        name="Lost",
        account="lost.myshopify.com",
        state=ChannelState.ACTIVE,
        orders_counted_from=timezone.now(),
        orders_watermark=timezone.now(),
    )
    credentials.store(
        channel,
        client_id="app",
        client_secret=Secret("canary-of-the-client-secret"),
        access_token=Secret("canary-of-an-access-token"),
        refresh_token=Secret("canary-of-a-refresh-token"),
    )
    return channel


def webhooks_come(day: Day, channel: Channel) -> None:
    """A good one, the same again, one that is signed wrongly, one that is no JSON, and one for nobody."""
    order = b'{"id": 1, "line_items": []}'
    for body, sign, path in (
        (order, order, path_of(channel)),
        (order, order, path_of(channel)),
        (order, b"other", path_of(channel)),
        (b"no json", b"no json", path_of(channel)),
        (order, order, "/webhooks/sandbox/AAAAAAAAAAAAAAAAAAAAAA/"),
    ):
        signature = sign_base64(sign, "canary-of-the-client-secret")
        headers = signed_headers(Channel(account="north.myshopify.com"), body)
        headers |= {"HTTP_X_SHOPIFY_SHOP_DOMAIN": channel.account, "HTTP_X_SHOPIFY_HMAC_SHA256": signature}
        answer = Client().post(path, body, content_type="application/json", **headers)  # type: ignore[arg-type]
        day.keep("pages", answer.content.decode())


def the_engine_works(merchant: Merchant, channel: Channel, lost: Channel, sandbox: str) -> None:
    """Events, publishing, pushes, checks and reconciliation, of stores that answer, err or are silent."""
    faults = f"{sandbox}/_control/stores/cove/faults"
    for trouble in ({}, {"error_rate": 1.0}, {"timeout_after_rate": 1.0, "hang_ms": 1}, {"outage": True}, {}):
        requests.put(faults, json=trouble, timeout=10).raise_for_status()
        Channel.objects.update(next_call_at=Now())
        ListingLevel.objects.update(next_push_at=Now(), suspect_since=Now(), next_check_at=Now())
        InboxEvent.objects.filter(state="pending").update(next_attempt_at=Now())
        tasks.apply(merchant.pk)
        tasks.publish(merchant.pk)
        for each in (channel, lost):
            tasks.push(each.pk)
            tasks.check(each.pk)
            tasks.reconcile(each.pk)
        tasks.check_webhooks()
    tasks.sweep()


def programs_call(day: Day, key: Secret) -> None:
    """With the key, with half of it, with it in the wrong place, and with nonsense."""
    good = {"authorization": f"Bearer {key.reveal()}"}
    hold = {"sku": "MUG", "quantity": 1}
    assert day.send("/api/v1/holds", hold, **good, idempotency_key="1") == 201
    assert day.send("/api/v1/holds", hold | {"quantity": 99}, **good, idempotency_key="2") == 409
    assert day.send("/api/v1/holds", {"sku": 1}, **good, idempotency_key="3") == 400
    assert day.send("/api/v1/holds", hold, authorization=f"Bearer {key.reveal()}x", idempotency_key="4") == 401
    assert day.send("/api/v1/holds", hold, authorization=f"Basic {key.reveal()}", idempotency_key="5") == 401
    line = {"key": "1", "type": "receipt", "sku": "MUG", "warehouse": "MAIN", "quantity": 5}
    assert day.send("/api/v1/movements", {"mode": "per_line", "lines": [line]}, **good) == 200
    for path in ("key", "holds", "changes", "availability?sku=MUG", "transfers", "schema/", "nothing"):
        day.look(Client(), f"/api/v1/{path}", **good)


def people_look(day: Day, channel: Channel) -> None:
    """Signing in with a right and a wrong password, and every page there is."""
    client = Client()
    for password in ("canary-of-a-password", "canary-of-a-passwor"):
        answer = client.post("/login/", {"username": "root", "password": password})
        day.keep("pages", answer.content.decode())
    client.force_login(User.objects.get(username="root"))
    drift = Drift.objects.first()
    stories = [f"/story/{drift.correlation_id}/"] if drift else []
    admin_pages = [page for model in admin.site._registry for page in pages(model)]
    for path in ("/", "/live/", "/healthz", "/readyz", *stories, *admin_pages):
        assert day.look(client, path) < 500


def keep_what_is_stored(day: Day) -> None:
    """Every row of every table, and everything in every database of every Valkey."""
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT told::text FROM {connection.ops.quote_name(table)} AS told")  # noqa: S608
            day.found["database"] += [text for (text,) in cursor.fetchall()]
    for url in {django_settings.REDIS_URL, django_settings.CELERY_BROKER_URL, *django_settings.REDLOCK_URLS}:
        with redis.Redis.from_url(url) as client:
            for name in client.scan_iter():
                day.keep("redis", f"{name!r} {value_of(client, name)!r}")


def value_of(client: redis.Redis, name: bytes) -> object:
    """What is kept under a name, whatever kind it is of."""
    read: dict[Any, Callable[[], object]] = {
        b"string": lambda: client.get(name),
        b"hash": lambda: client.hgetall(name),
        b"list": lambda: client.lrange(name, 0, -1),
        b"set": lambda: client.smembers(name),
        b"zset": lambda: client.zrange(name, 0, -1, withscores=True),
    }
    return read[client.type(name)]()
