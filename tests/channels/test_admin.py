"""Channels, listings and the inbox in the admin."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from channels import connect, credentials, mapping, onboarding, protocol, replay, steering
from channels.models import Channel, ChannelState, Credential, EventState, InboxEvent, Listing, ListingLevel
from merchants.models import AuditEvent, Member, Role, User
from synctec.lib.secret import Secret
from tests.factories import NOON, Shop, Trade, deliver, make_trade

#: What the form of a channel asks besides: when changes are held.
BIG_CHANGES = {"holds_big_runs": "on", "big_run_levels": 20, "big_run_zero_percent": 20, "big_run_change_percent": 50}

pytestmark = pytest.mark.django_db


@pytest.fixture
def alder() -> Trade:
    return make_trade("Alder")


@pytest.fixture
def north(alder: Trade) -> Shop:
    return alder.shops["north"]


@pytest.fixture
def manager(client: Client, alder: Trade) -> User:
    user = User.objects.create_user(username="m", email="manager@synctec.test", password="x", is_staff=True)
    Member.objects.create(merchant=alder.merchant, user=user, role=Role.MANAGER)
    client.force_login(user)
    return user


def act(client: Client, channel: Channel, action: str, reason: str = "") -> Any:
    path = reverse(f"admin:channels_channel_{action}", args=[channel.pk])
    return client.post(path, {"reason": reason}, follow=True)


def set_aside(shop: Shop, state: str, reason: str, body: bytes = b"{}") -> InboxEvent:
    event = deliver(shop, "orders/create", body)
    InboxEvent.objects.filter(pk=event.pk).update(state=state, reason=reason, attempts=5, settled_at=NOON)
    return event


# --- channels -------------------------------------------------------------------------------------


def test_a_secret_can_be_replaced_but_is_never_shown(
    client: Client, manager: User, north: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    credentials.store(north.channel, client_id="app", client_secret=Secret("shpss_old"))
    path = reverse("admin:channels_channel_change", args=[north.channel.pk])

    saved = client.post(
        path,
        {
            "name": "North",
            "orders_counted_from_0": "2026-11-20",
            "orders_counted_from_1": "11:00:00",
            "on_loss": north.channel.on_loss,
            "on_gain": north.channel.on_gain,
            **BIG_CHANGES,
            "drift_alarm_percent": "2",
            "drift_alarm_levels": "10",
            "new_client_secret": "shpss_brand_new",
        },
    )
    page = client.get(path).content.decode()

    assert saved.status_code == 302
    stored = Channel.objects.get(pk=north.channel.pk)
    assert credentials.webhook_secrets(stored) == ["shpss_brand_new", "shpss_old"]
    sealed = Credential.objects.get(channel=stored)
    for secret in ("shpss_brand_new", "shpss_old", sealed.sealed_client_secret):
        assert secret not in page
        assert secret not in str(list(AuditEvent.objects.values()))
        assert secret not in caplog.text
    assert AuditEvent.objects.filter(action="channel.replace_client_secret", user=manager).count() == 1


def test_an_empty_secret_field_changes_no_secret(client: Client, manager: User, north: Shop) -> None:
    credentials.store(north.channel, client_id="app", client_secret=Secret("shpss_old"))

    client.post(
        reverse("admin:channels_channel_change", args=[north.channel.pk]),
        {
            "name": "Northern",
            "orders_counted_from_0": "2026-11-20",
            "orders_counted_from_1": "11:00:00",
            "on_loss": north.channel.on_loss,
            "on_gain": north.channel.on_gain,
            **BIG_CHANGES,
            "drift_alarm_percent": "2",
            "drift_alarm_levels": "10",
        },
    )

    assert Channel.objects.get(pk=north.channel.pk).name == "Northern"
    assert credentials.webhook_secrets(north.channel) == ["shpss_old"]


def test_a_viewer_gets_no_field_for_a_secret(client: Client, alder: Trade, north: Shop) -> None:
    viewer = User.objects.create_user(username="v", email="v@synctec.test", password="x", is_staff=True)
    Member.objects.create(merchant=alder.merchant, user=viewer, role=Role.VIEWER)
    client.force_login(viewer)

    page = client.get(reverse("admin:channels_channel_change", args=[north.channel.pk]))

    assert page.status_code == 200
    assert "new_client_secret" not in page.content.decode()


def test_a_channel_is_paused_and_resumed_with_a_trace(client: Client, manager: User, north: Shop) -> None:
    act(client, north.channel, "pause", "stocktaking")
    paused = Channel.objects.get(pk=north.channel.pk)
    act(client, north.channel, "resume")
    resumed = Channel.objects.get(pk=north.channel.pk)

    assert (paused.state, paused.state_reason) == (ChannelState.PAUSED, "stocktaking")
    assert (resumed.state, resumed.state_reason) == (ChannelState.ACTIVE, "")
    assert list(AuditEvent.objects.order_by("pk").values_list("action", "reason")) == [
        ("channel.pause", "stocktaking"),
        ("channel.resume", ""),
    ]


def test_looking_at_an_actions_page_changes_nothing(client: Client, manager: User, north: Shop) -> None:
    page = client.get(reverse("admin:channels_channel_pause", args=[north.channel.pk]))

    assert page.status_code == 200
    assert Channel.objects.get(pk=north.channel.pk).state == ChannelState.ACTIVE


def test_a_paused_channel_can_not_be_paused_again(client: Client, manager: User, north: Shop) -> None:
    act(client, north.channel, "pause")

    page = act(client, north.channel, "pause")

    assert "not active" in page.content.decode()
    assert AuditEvent.objects.filter(action="channel.pause").count() == 1


def test_reconciling_now_asks_the_engine_after_the_commit(
    client: Client,
    manager: User,
    north: Shop,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(steering, "on_reconcile", [asked.append])

    with django_capture_on_commit_callbacks(execute=True):
        act(client, north.channel, "reconcile_now")

    assert asked == [north.channel.pk]
    assert AuditEvent.objects.get().action == "channel.reconcile"


class Subscriber:
    """A connector of which only the subscriptions are looked at."""

    def ensure_webhooks(self, callback_url: str) -> protocol.SubscriptionReport:
        assert callback_url.startswith("http://127.0.0.1:8000/webhooks/shopify/")
        return protocol.SubscriptionReport(present=("orders/create",), created=("refunds/create",))


def test_checking_webhooks_says_what_was_found(
    client: Client, manager: User, north: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "connector_for", lambda channel: Subscriber())

    page = act(client, north.channel, "check_webhooks")

    assert "1 in order, 1 created, 0 repaired" in page.content.decode()
    assert AuditEvent.objects.get().after["created"] == ["refunds/create"]


def test_a_practice_store_without_a_sandbox_is_refused_with_the_reason(
    client: Client, manager: User, alder: Trade
) -> None:
    path = reverse("admin:channels_channel_add_practice_store")

    page = client.post(path, {"merchant": alder.merchant.pk, "name": "Try it"}, follow=True)

    assert "SANDBOX_URL" in page.content.decode()
    assert not Channel.objects.filter(name="Try it").exists()


def test_a_practice_store_can_not_be_made_for_a_stranger(client: Client, manager: User) -> None:
    birch = make_trade("Birch", shops=("birchshop",))

    page = client.post(
        reverse("admin:channels_channel_add_practice_store"), {"merchant": birch.merchant.pk, "name": "Mine"}
    )

    assert "Select a valid choice" in page.content.decode()


# --- listings -------------------------------------------------------------------------------------


def unmap(shop: Shop, code: str) -> Listing:
    Listing.objects.filter(pk=shop.listings[code].pk).update(sku=None)
    return Listing.objects.get(pk=shop.listings[code].pk)


def test_a_listing_is_mapped_on_its_page(
    client: Client, manager: User, alder: Trade, north: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(mapping, "on_mapped", [lambda *about: told.append(about)])
    listing = unmap(north, "MUG")

    client.post(reverse("admin:channels_listing_change", args=[listing.pk]), {"sku": alder.skus["TEE"].pk})

    assert Listing.objects.get(pk=listing.pk).sku == alder.skus["TEE"]
    assert told == [(alder.merchant.pk, [listing.pk])]
    event = AuditEvent.objects.get(action="listing.map")
    assert (event.before, event.after) == ({"sku": None}, {"sku": "TEE"})


def test_a_listing_is_never_mapped_to_another_merchants_sku(client: Client, manager: User, north: Shop) -> None:
    birch = make_trade("Birch", shops=("birchshop",))
    listing = unmap(north, "MUG")

    page = client.post(reverse("admin:channels_listing_change", args=[listing.pk]), {"sku": birch.skus["MUG"].pk})

    assert "Select a valid choice" in page.content.decode()
    assert Listing.objects.get(pk=listing.pk).sku is None
    with pytest.raises(mapping.AnotherMerchantsSku):
        mapping.map_listing(listing=listing, sku=birch.skus["MUG"], user=manager)


def test_listings_are_mapped_by_equal_code(client: Client, manager: User, alder: Trade, north: Shop) -> None:
    mug, tee = unmap(north, "MUG"), unmap(north, "TEE")
    Listing.objects.filter(pk=tee.pk).update(remote_sku="tee ")

    page = client.post(
        reverse("admin:channels_listing_changelist"),
        {"action": "map_by_code", "_selected_action": [mug.pk, tee.pk]},
        follow=True,
    )

    assert "1 of 2 listings mapped" in page.content.decode()
    assert Listing.objects.get(pk=mug.pk).sku == alder.skus["MUG"]
    assert Listing.objects.get(pk=tee.pk).sku is None


def test_a_code_that_two_listings_of_a_store_carry_is_not_guessed(manager: User, north: Shop) -> None:
    mug, tee = unmap(north, "MUG"), unmap(north, "TEE")
    Listing.objects.filter(pk=tee.pk).update(remote_sku="MUG")

    mapped = mapping.map_by_code(listing_ids=[mug.pk], user=manager)

    assert mapped == 0
    assert Listing.objects.get(pk=mug.pk).sku is None


# --- the inbox ------------------------------------------------------------------------------------


def test_events_are_applied_again_but_for_old_news_of_products(client: Client, manager: User, north: Shop) -> None:
    dead, ignored = set_aside(north, "dead", "boom"), set_aside(north, "ignored", "unmapped")
    applied = set_aside(north, "applied", "")
    InboxEvent.objects.filter(pk=applied.pk).update(topic="products/update")

    page = client.post(
        reverse("admin:channels_inboxevent_changelist"),
        {"action": "apply_again", "_selected_action": [dead.pk, ignored.pk, applied.pk]},
        follow=True,
    )

    assert "2 events will be applied again; 1 wait already, are too old, or would put back" in page.content.decode()
    for event in (dead, ignored):
        event.refresh_from_db()
        assert (event.state, event.reason, event.attempts, event.settled_at) == ("pending", "", 0, None)
    applied.refresh_from_db()
    assert applied.state == EventState.APPLIED
    assert set(AuditEvent.objects.values_list("action", "user")) == {("inbox.replay", manager.pk)}


def test_another_merchants_event_is_not_applied_again(client: Client, manager: User) -> None:
    birch = make_trade("Birch", shops=("birchshop",))
    theirs = set_aside(birch.shops["birchshop"], "dead", "boom")

    client.post(
        reverse("admin:channels_inboxevent_changelist"),
        {"action": "apply_again", "_selected_action": [theirs.pk]},
    )
    single = client.post(reverse("admin:channels_inboxevent_apply_this_again", args=[theirs.pk]))

    theirs.refresh_from_db()
    assert theirs.state == EventState.DEAD
    assert single.status_code == 404


def test_applying_again_wakes_the_engine_after_the_commit(
    north: Shop, manager: User, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    woken: list[int] = []
    monkeypatch.setattr("channels.inbox.on_received", [woken.append])
    event = set_aside(north, "dead", "boom")

    with django_capture_on_commit_callbacks(execute=True):
        replay.replay(ids=[event.pk], user=manager, now=timezone.now())

    assert woken == [north.channel.merchant_id]


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "<script>alert(1)</script>"}',
        b"<script>alert(1)</script>",
        b"\xff\xfe\x00<script>alert(1)</script>",
        b"[" * 100_000 + b"<script>alert(1)</script>",
        b'{"long": "' + b"x" * 700_000 + b'<script>alert(1)</script>"}',
    ],
    ids=["json", "no json", "no text", "deep", "long"],
)
def test_a_body_is_shown_escaped_whatever_it_is(body: bytes, client: Client, manager: User, north: Shop) -> None:
    event = deliver(north, "orders/create", body)

    page = client.get(reverse("admin:channels_inboxevent_change", args=[event.pk]))

    assert page.status_code == 200
    assert b"<script>alert(1)" not in page.content
    assert len(page.content) < 1_000_000
    assert f"/story/{event.correlation_id}/" in page.content.decode()


class _Store:
    """What a connector is asked to activate."""

    def __init__(self) -> None:
        self.activated: list[tuple[str, str]] = []

    def activate_level(self, *, inventory_item_id: str, location_id: str, key: str) -> None:
        self.activated.append((inventory_item_id, location_id))


def test_an_item_is_stocked_at_a_location_on_purpose_only(
    client: Client, manager: User, north: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _Store()
    monkeypatch.setattr(connect, "connector_for", lambda channel: store)
    level = north.level("MUG")
    path = reverse("admin:channels_listinglevel_stock_here", args=[level.pk])
    client.post(path, {"reason": "try"}, follow=True)
    assert store.activated == []

    ListingLevel.objects.filter(pk=level.pk).update(is_stocked=False, desired=None)
    client.get(path)
    assert store.activated == []
    client.post(path, {"reason": "opened a shelf"}, follow=True)

    assert store.activated == [(north.listings["MUG"].inventory_item_id, north.location.remote_id)]
    stocked = north.level("MUG")
    assert (stocked.is_stocked, stocked.suspect_reason) == (True, "stocked on purpose")
    assert AuditEvent.objects.get(action="listing_level.stock").reason == "opened a shelf"


def test_a_stranger_can_not_stock_anothers_level(client: Client, manager: User) -> None:
    birch = make_trade("Birch")
    level = birch.shops["north"].level("MUG")

    answer = client.post(reverse("admin:channels_listinglevel_stock_here", args=[level.pk]), {"reason": "x"})

    assert answer.status_code in (302, 404)
    assert not AuditEvent.objects.filter(action="listing_level.stock").exists()


def test_a_shopify_store_is_connected_with_the_merchants_own_app(
    client: Client, manager: User, alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def connected(**values: Any) -> Channel:
        asked.append(values)
        return alder.shops["north"].channel

    monkeypatch.setattr(onboarding, "connect_with_client_credentials", connected)
    form = {
        "merchant": alder.merchant.pk,
        "name": "East",
        "account": " East.myshopify.com",
        "client_id": "id",
        "client_secret": "shpss_secret",
    }

    page = client.post(reverse("admin:channels_channel_connect_shopify_store"), form, follow=True)

    assert page.status_code == 200
    assert asked[0]["account"] == "east.myshopify.com"
    assert asked[0]["client_secret"].reveal() == "shpss_secret"
    assert "shpss_secret" not in page.content.decode()


def test_a_store_that_refuses_the_app_is_told_in_the_form(
    client: Client, manager: User, alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**values: Any) -> Channel:
        raise onboarding.OnboardingError("check the client id and secret")

    monkeypatch.setattr(onboarding, "connect_with_client_credentials", refused)
    form = {"merchant": alder.merchant.pk, "name": "East", "account": "e.myshopify.com", "client_id": "i"}

    page = client.post(
        reverse("admin:channels_channel_connect_shopify_store"), form | {"client_secret": "shpss_secret"}
    )

    assert "check the client id and secret" in page.content.decode()
    assert "shpss_secret" not in page.content.decode()
