"""Alder's shop North and Birch's shop Elsewhere, and how their webhooks arrive."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from django.db import connections
from django.test import Client

from channels import credentials
from channels.models import Channel, ChannelKind, ChannelState
from merchants.models import Merchant
from synctec.lib.secret import Secret
from synctec.lib.signing import sign_base64

Result = TypeVar("Result")

#: Each shop's client secret.
SECRETS = {"north": "norths-client-secret", "elsewhere": "elsewheres-client-secret"}


def make_shop(merchant: Merchant, handle: str, *, kind: ChannelKind = ChannelKind.SHOPIFY) -> Channel:
    """An active shop with an app of the merchant's own."""
    channel = Channel.objects.create(
        merchant=merchant,
        kind=kind,
        name=handle.title(),
        account=f"{handle}.myshopify.com",
        state=ChannelState.ACTIVE,
    )
    credentials.store(channel, client_id=f"app-of-{handle}", client_secret=Secret(SECRETS[handle]))
    return channel


def signed_headers(channel: Channel, body: bytes, **changes: str | None) -> dict[str, str]:
    """The headers of a good delivery; `changes` are by name in lower case with _, None leaves the header
    out.
    """
    headers: dict[str, str | None] = {
        "x_shopify_topic": "orders/create",
        "x_shopify_shop_domain": channel.account,
        "x_shopify_webhook_id": str(uuid.uuid4()),
        "x_shopify_event_id": "event-1",
        "x_shopify_api_version": "2026-10",
        "x_shopify_triggered_at": "2026-11-20T11:59:59.123456789Z",
        "x_shopify_hmac_sha256": sign_base64(body, SECRETS[channel.account.split(".")[0]]),
        **changes,
    }
    return {f"HTTP_{name.upper()}": value for name, value in headers.items() if value is not None}


@cache
def client() -> Client:
    """One for all: a client of its own for each delivery would load the middleware each time."""
    return Client()


def path_of(channel: Channel) -> str:
    return f"/webhooks/{channel.kind}/{channel.webhook_token}/"


def deliver_with(
    channel: Channel, changes: dict[str, str | None], body: bytes = b'{"id": 1}', *, at: Channel | None = None
) -> Any:
    """POST a delivery with these headers changed, to the channel's own address or another's."""
    return client().post(
        path_of(at or channel),
        data=body,
        content_type="application/json",
        **signed_headers(channel, body, **changes),  # type: ignore[arg-type]  # headers, not named arguments
    )


def deliver(channel: Channel, body: bytes = b'{"id": 1}', *, at: Channel | None = None, **changes: str | None) -> Any:
    """POST a delivery as the shop would; `changes` are headers by name in lower case with _."""
    return deliver_with(channel, changes, body, at=at)


def all_at_once(count: int, act: Callable[[], Result]) -> list[Result]:
    """Run `act` in so many threads that begin together, each with a connection of its own."""
    start = threading.Barrier(count)

    def run() -> Result:
        try:
            start.wait(timeout=30)
            return act()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(max_workers=count) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(count)]]
