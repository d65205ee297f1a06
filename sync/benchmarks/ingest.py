"""`bench ingest`: signed webhooks a second over HTTP, committed before the 200, beside an empty DRF view.

The web server is started as `make run` starts it. The load generator shares its cores, so both figures are lower than
the server's own; their ratio is what counts. The two are measured in turns, so that a slow moment of the machine hits both.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle

from django.urls import reverse

from channels.models import Channel, InboxEvent
from sync.benchmarks import goods
from sync.benchmarks.bodies import OrderBodies
from sync.benchmarks.figures import Case, percentile
from sync.benchmarks.load import Answers, drive
from synctec.lib.signing import sign_base64
from synctec.local.process import accepts_connections, free_ports, wait_for
from synctec.local.stack import LOOPBACK, web_command

BODIES = 200
TURNS = 3
#: Requests under way: many stores deliver at once, and a store keeps several of its own open.
CONNECTIONS = 32


class NotAcknowledged(Exception):
    """The server did not store what it should have."""


def run(*, seconds: float, stores: int, skus: int) -> list[Case]:
    """Measure for about so many seconds.

    Raises:
        NotAcknowledged: an answer other than 200, or rows that do not match the answers.
    """
    made = goods.stock_up(stores=stores, skus=skus, bundles=0)
    bodies = _bodies(made)
    deliveries = _requests(bodies)
    empties = _requests(bodies, path="/empty/")
    stored, empty = Answers(), Answers()
    turn = seconds / (2 * TURNS)
    with web_server() as port:
        for requests in (deliveries, empties):
            drive(port, requests, connections=CONNECTIONS, seconds=min(1.0, turn))
        before = InboxEvent.objects.count()
        for _ in range(TURNS):
            empty.add(drive(port, empties, connections=CONNECTIONS, seconds=turn))
            stored.add(drive(port, deliveries, connections=CONNECTIONS, seconds=turn))
        calm = drive(port, deliveries, connections=1, seconds=min(1.0, turn))
    rows = InboxEvent.objects.count() - before
    answered = stored.count + calm.count
    if set(stored.statuses) | set(empty.statuses) | set(calm.statuses) != {200} or rows != answered:
        raise NotAcknowledged(f"{dict(stored.statuses)} and {rows} rows for {answered} answers; {dict(empty.statuses)}")
    notes = {
        "p50_ms": round(percentile(stored.latencies_ms, 0.5), 2),
        "p99_ms": round(percentile(stored.latencies_ms, 0.99), 2),
        "p50_ms_one_at_a_time": round(percentile(calm.latencies_ms, 0.5), 2),
        "against_p50_ms": round(percentile(empty.latencies_ms, 0.5), 2),
        "against_p99_ms": round(percentile(empty.latencies_ms, 0.99), 2),
        "connections": CONNECTIONS,
        "body_bytes": len(bodies[0][1]),
        "load_generator_cores": round(stored.own_seconds / stored.seconds, 2),
        "rows_committed": rows,
    }
    return [
        Case(
            case=f"{stores} stores, {skus} SKUs, {CONNECTIONS} connections",
            unit="webhooks/s",
            figure=round(stored.per_second, 1),
            against="an empty DRF view of the same server",
            against_figure=round(empty.per_second, 1),
            notes=notes,
        )
    ]


@contextmanager
def web_server() -> Iterator[int]:
    """granian as `make run` starts it, on a free port, serving `sync.benchmarks.served`."""
    port = free_ports({"web": None})["web"]
    command = web_command(host=LOOPBACK, port=port, application="sync.benchmarks.served:application")
    process = subprocess.Popen(command, env={**os.environ, "DJANGO_SETTINGS_MODULE": "synctec.settings"})
    try:
        if not wait_for(lambda: accepts_connections(port), timeout_seconds=30):
            raise ConnectionError("The web server did not start.")
        yield port
    finally:
        process.terminate()
        process.wait(timeout=20)


def _bodies(made: goods.Goods) -> list[tuple[goods.Store, bytes, str]]:
    render = OrderBodies()
    found = []
    for number, store in zip(range(BODIES), cycle(made.stores), strict=False):
        body = render.body(order_id=7_100_000_000_000 + number, variant_ids=[store.variant_id(1 + number % made.skus)])
        found.append((store, body, sign_base64(body, goods.CLIENT_SECRET)))
    return found


def _requests(bodies: Sequence[tuple[goods.Store, bytes, str]], *, path: str = "") -> Iterator[bytes]:
    """Endless deliveries, each under an id of its own: headers are not signed, so the bodies can be signed in advance."""
    prepared = [
        (
            f"POST {path or _path_of(store.channel)} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-Shopify-Topic: orders/create\r\n"
            f"X-Shopify-Shop-Domain: {store.channel.account}\r\nX-Shopify-Hmac-Sha256: {signature}\r\n"
            "X-Shopify-API-Version: 2026-07\r\nX-Shopify-Triggered-At: 2026-11-20T12:00:00.123456789Z\r\n"
            "X-Shopify-Event-Id: 98880550-7158-44d4-b7cd-2c97c8a091b5\r\nX-Shopify-Webhook-Id: "
        ).encode()
        for store, body, signature in bodies
    ]
    for number, (head, (_, body, _)) in enumerate(cycle(zip(prepared, bodies, strict=True))):
        yield b"%sbench-%d\r\n\r\n%s" % (head, number, body)


def _path_of(channel: Channel) -> str:
    return reverse("webhook", kwargs={"kind": channel.kind, "token": channel.webhook_token})
