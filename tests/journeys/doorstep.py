"""A shop's way in: signed deliveries through the real endpoint, then the engine until nothing is pending."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.test import Client

from channels import connect, credentials, inbox, webhooks
from channels.models import Channel, EventState, InboxEvent
from sync import apply, invariants, live
from synctec.lib.secret import Secret
from synctec.lib.signing import sign_base64
from tests.factories import NOON, Shop, Trade
from tests.fakes import FakeChannel

SECRET = "the-shop's-client-secret"
#: More rounds than an event has attempts, so that even what fails every time comes to its end.
ROUNDS_MAX = 3 * apply.CLAIMS_MAX

_client = Client(raise_request_exception=False)


@contextmanager
def open_door(trade: Trade) -> Iterator[None]:
    """Give each shop an app's secret and a store in memory behind its connector; forget both afterwards."""
    stores = {}
    for shop in trade.shops.values():
        credentials.store(shop.channel, client_id="app", client_secret=Secret(SECRET))
        stores[shop.channel.pk] = FakeChannel.of(shop)

    def connector_for(channel: Channel) -> FakeChannel:
        return stores[channel.pk]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inbox, "on_received", [])
        patch.setattr(connect, "connector_for", connector_for)
        webhooks.forget_everything()
        yield
    webhooks.forget_everything()


def signed_headers(shop: Shop, topic: str, body: bytes, **changes: str | None) -> dict[str, str]:
    """The headers of a good delivery; `changes` are by name in lower case with _, None leaves the header out."""
    headers: dict[str, str | None] = {
        "x_shopify_topic": topic,
        "x_shopify_shop_domain": shop.channel.account,
        "x_shopify_webhook_id": str(uuid.uuid4()),
        "x_shopify_hmac_sha256": sign_base64(body, SECRET),
        **changes,
    }
    return {f"HTTP_{name.upper()}": value for name, value in headers.items() if value is not None}


def post(shop: Shop, topic: str, body: bytes, **changes: str | None) -> int:
    """POST a delivery at the shop's own address and tell the status of the answer."""
    answer = _client.post(
        f"/webhooks/{shop.channel.kind}/{shop.channel.webhook_token}/",
        data=body,
        content_type="application/json",
        **signed_headers(shop, topic, body, **changes),  # type: ignore[arg-type]  # headers, not named arguments
    )
    return int(answer.status_code)


def apply_all(trade: Trade) -> None:
    """Apply until nothing is pending, without the waits between attempts; a queue that is stuck fails the test."""
    pending: Any = InboxEvent.objects.filter(merchant=trade.merchant, state=EventState.PENDING)
    for _ in range(ROUNDS_MAX):
        while apply.apply_batch(live.engine(), merchant_id=trade.merchant.pk).claimed:
            pass
        if not pending.update(next_attempt_at=NOON.replace(year=2020)):
            return
    pytest.fail(f"stuck: {list(pending.values_list('topic', 'attempts', 'reason')[:5])}")


def broken_invariants() -> list[str]:
    """What the auditor finds wrong, in words."""
    return [f"{violation.name}: {violation.rows}" for violation in invariants.violations(when_quiet=False)]
