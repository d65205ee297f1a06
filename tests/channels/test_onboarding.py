"""Bringing in practice stores: connecting, learning what they have, activating; again and after
interruptions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from django.db import connection, transaction

from channels import connect, credentials, mapping, onboarding, protocol, states
from channels.models import (
    Channel,
    ChannelKind,
    ChannelState,
    Credential,
    Listing,
    ListingLevel,
    StoreLocation,
)
from inventory.models import Sku
from merchants.models import AuditEvent, Merchant, User
from synctec.lib.secret import Secret
from tests.channels.cast import all_at_once

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

pytestmark = pytest.mark.django_db(transaction=True)


class Store:
    """A store of the sandbox, as its staff see it."""

    def __init__(self, url: str, handle: str) -> None:
        self.url, self.handle = url, handle
        made = requests.post(
            f"{url}/_control/stores", json={"handle": handle, "locations": ["Main", "Attic"]}, timeout=10
        )
        made.raise_for_status()
        self.app: dict[str, Any] = made.json()

    def stock(self, *variants: dict[str, Any]) -> None:
        requests.post(
            f"{self.url}/_control/stores/{self.handle}/variants", json=list(variants), timeout=10
        ).raise_for_status()

    def adjust(self, sku: str, delta: int) -> None:
        requests.post(
            f"{self.url}/{self.handle}/admin-ui/adjust",
            json={"sku": sku, "location": "Main", "delta": delta},
            timeout=10,
        ).raise_for_status()

    def remove(self) -> None:
        requests.delete(f"{self.url}/_control/stores/{self.handle}", timeout=10)

    def webhooks(self) -> list[dict[str, Any]]:
        told = requests.get(f"{self.url}/_control/stores/{self.handle}/webhooks", timeout=10).json()
        return list(told["subscriptions"])


@pytest.fixture
def lake(sandbox: str) -> Any:
    store = Store(sandbox, "lake")
    store.stock(
        {"sku": "MUG", "title": "Mug", "levels": {"Main": 7, "Attic": 1}},
        {"sku": "TEE", "title": "Tee", "levels": {"Main": 3}},
        {"sku": "GIFT", "title": "Gift card", "tracked": False},
    )
    yield store
    store.remove()


@pytest.fixture
def channel(alder: Merchant, lake: Store, manager: User) -> Channel:
    return onboarding.connect_sandbox_store(merchant=alder, name="Lake", user=manager)


def levels(channel: Channel) -> dict[tuple[str, str], int]:
    rows = ListingLevel.objects.filter(channel=channel).select_related("listing", "store_location")
    return {(level.listing.remote_sku, level.store_location.name): level.shown for level in rows}


class TestConnectingAPracticeStore:
    def test_keeps_its_credentials_and_records_who_did_it(self, channel: Channel, manager: User, lake: Store) -> None:
        assert (channel.kind, channel.account, channel.name) == (
            ChannelKind.SANDBOX,
            "lake.myshopify.com",
            "Lake",
        )
        assert channel.state == ChannelState.CONNECTING
        credential = Credential.objects.get(channel=channel)
        assert credential.client_id == lake.app["client_id"]
        assert credentials.webhook_secrets(Channel.objects.get()) == [lake.app["client_secret"]]
        assert "write_inventory" in credential.scopes
        event = AuditEvent.objects.get()
        assert (event.action, event.user, event.object_label) == ("channel.connect", manager, "Lake")
        assert lake.app["client_secret"] not in str(event.after)

    def test_makes_a_store_that_is_not_there(self, alder: Merchant, sandbox: str) -> None:
        channel = onboarding.connect_sandbox_store(merchant=alder, name="My New Störe!", user=None)

        assert channel.account == "my-new-store.myshopify.com"
        assert "my-new-store" in requests.get(f"{sandbox}/_control/health", timeout=10).json()["stores"]

    def test_twice_is_one_channel(self, channel: Channel, alder: Merchant) -> None:
        again = onboarding.connect_sandbox_store(merchant=alder, name="Lake", user=None)

        assert again.pk == channel.pk
        assert Credential.objects.count() == 1

    def test_never_takes_another_merchants_store(self, channel: Channel, birch: Merchant) -> None:
        with pytest.raises(onboarding.OnboardingError, match="another merchant"):
            onboarding.connect_sandbox_store(merchant=birch, name="Lake", user=None, handle="lake")
        own = onboarding.connect_sandbox_store(merchant=birch, name="Lake", user=None)

        assert own.account == "lake-2.myshopify.com"
        assert Channel.objects.get(pk=channel.pk).merchant == channel.merchant

    def test_of_ten_merchants_at_the_same_moment_gives_it_to_one(self, sandbox: str) -> None:
        merchants = iter([Merchant.objects.create(name=f"M{number}", slug=f"m{number}") for number in range(10)])

        def connect_it() -> bool:
            try:
                onboarding.connect_sandbox_store(merchant=next(merchants), name="Wanted", user=None, handle="wanted")
            except onboarding.OnboardingError:
                return False
            return True

        assert sorted(all_at_once(10, connect_it)) == [False] * 9 + [True]
        assert Channel.objects.count() == 1

    def test_without_a_sandbox_says_what_to_set(self, alder: Merchant, settings: Any) -> None:
        settings.SANDBOX_URL = ""

        with pytest.raises(protocol.ChannelError, match="SANDBOX_URL"):
            onboarding.connect_sandbox_store(merchant=alder, name="Lake", user=None)


class TestConnectingWithAnAppOfTheMerchantsOwn:
    def connect(self, merchant: Merchant, lake: Store, **changes: Any) -> Channel:
        given: dict[str, Any] = {
            "merchant": merchant,
            "name": "Lake",
            "account": "lake.myshopify.com",
            "client_id": lake.app["client_id"],
            "client_secret": Secret(lake.app["client_secret"]),
            "user": None,
            "kind": ChannelKind.SANDBOX,
        }
        return onboarding.connect_with_client_credentials(**{**given, **changes})

    def test_tells_at_once_of_credentials_that_do_not_fit(self, alder: Merchant, lake: Store) -> None:
        with pytest.raises(onboarding.OnboardingError, match="check the client id and secret"):
            self.connect(alder, lake, client_secret=Secret("wrong"))

        assert Channel.objects.get().state == ChannelState.NEEDS_AUTH

    def test_works_after_the_right_credentials_are_given(self, alder: Merchant, lake: Store) -> None:
        with pytest.raises(onboarding.OnboardingError):
            self.connect(alder, lake, client_secret=Secret("wrong"))

        channel = self.connect(alder, lake)

        assert channel.state == ChannelState.CONNECTING
        assert [event.action for event in AuditEvent.objects.order_by("pk")] == [
            "channel.connect",
            "channel.needs_auth",
            "channel.authorize",
        ]

    def test_names_scopes_that_are_missing(self, alder: Merchant, lake: Store) -> None:
        requests.patch(
            f"{lake.url}/_control/stores/lake",
            json={"scopes": ["read_products", "read_inventory"]},
            timeout=10,
        ).raise_for_status()

        with pytest.raises(onboarding.OnboardingError, match="write_inventory, read_locations, read_orders"):
            self.connect(alder, lake)

        assert Channel.objects.get().state == ChannelState.NEEDS_AUTH

    @pytest.mark.parametrize(
        "account",
        [
            "",
            "lake",
            "lake.example.com",
            "lake.myshopify.com.evil.test",
            "a/b.myshopify.com",
            "lake.myshopify.com\n.x",
        ],
    )
    def test_takes_no_address_that_is_not_a_stores(self, alder: Merchant, lake: Store, account: str) -> None:
        with pytest.raises(onboarding.OnboardingError, match="own domain"):
            self.connect(alder, lake, account=account)

        assert not Channel.objects.exists()

    def test_has_it_activated_once_it_is_committed(
        self, alder: Merchant, lake: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[int] = []
        monkeypatch.setattr(onboarding, "on_connected", [told.append])

        channel = self.connect(alder, lake)

        assert told == [channel.pk]


class TestActivating:
    def test_learns_everything_and_ends_active(self, channel: Channel, alder: Merchant, lake: Store) -> None:
        mug = Sku.objects.create(merchant=alder, code="MUG")

        report = onboarding.activate(channel, now=NOON)

        channel = Channel.objects.get()
        assert channel.state == ChannelState.ACTIVE
        assert (channel.orders_counted_from, channel.orders_watermark) == (NOON, NOON)
        assert (
            report.locations,
            report.catalogue.variants,
            report.catalogue.mapped,
            report.catalogue.unmapped,
        ) == (
            2,
            3,
            1,
            2,
        )
        assert set(StoreLocation.objects.values_list("name", flat=True)) == {"Main", "Attic"}
        assert dict(Listing.objects.values_list("remote_sku", "sku")) == {
            "MUG": mug.pk,
            "TEE": None,
            "GIFT": None,
        }
        assert levels(channel)["MUG", "Main"] == 7
        assert levels(channel)["MUG", "Attic"] == 1
        assert levels(channel)["TEE", "Main"] == 3
        assert AuditEvent.objects.latest("pk").action == "channel.activate"
        uris = {subscription["uri"] for subscription in lake.webhooks()}
        assert uris == {f"http://127.0.0.1:8000/webhooks/sandbox/{channel.webhook_token}/"}

    def test_tells_once_that_the_channel_is_active(
        self, channel: Channel, alder: Merchant, lake: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[str] = []
        monkeypatch.setattr(states, "on_change", [lambda channel: told.append(channel.state)])

        onboarding.activate(channel, now=NOON)
        onboarding.activate(channel, now=NOON)

        assert told == [ChannelState.ACTIVE]

    def test_again_changes_nothing(self, channel: Channel, alder: Merchant, lake: Store) -> None:
        Sku.objects.create(merchant=alder, code="MUG")
        onboarding.activate(channel, now=NOON)
        before = list(ListingLevel.objects.order_by("pk").values())
        subscriptions = len(lake.webhooks())

        later = datetime(2026, 11, 20, 13, 0, tzinfo=UTC)
        report = onboarding.activate(channel, now=later)

        assert (
            report.catalogue.created,
            report.catalogue.mapped,
            report.levels.created,
            report.levels.suspect,
        ) == (
            0,
            0,
            0,
            0,
        )
        assert list(ListingLevel.objects.order_by("pk").values()) == before
        assert Channel.objects.get().orders_counted_from == NOON
        assert len(lake.webhooks()) == subscriptions
        assert AuditEvent.objects.filter(action="channel.activate").count() == 1

    def test_goes_on_after_an_interruption(
        self, channel: Channel, lake: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as trouble:

            def away(*_: Any, **__: Any) -> None:
                raise protocol.Unavailable("down")

            trouble.setattr(onboarding, "import_levels", away)
            with pytest.raises(protocol.Unavailable):
                onboarding.activate(channel, now=NOON)
        assert Channel.objects.get().state == ChannelState.CONNECTING

        onboarding.activate(channel, now=datetime(2026, 11, 20, 13, 0, tzinfo=UTC))

        assert Channel.objects.get().state == ChannelState.ACTIVE
        assert Channel.objects.get().orders_counted_from == NOON

    def test_leaves_a_paused_channel_paused(self, channel: Channel) -> None:
        Channel.objects.update(state=ChannelState.PAUSED)

        onboarding.activate(channel, now=NOON)

        assert Channel.objects.get().state == ChannelState.PAUSED

    @pytest.mark.parametrize("state", [ChannelState.NEEDS_AUTH, ChannelState.UNINSTALLED])
    def test_wants_a_channel_that_may_be_asked(self, channel: Channel, state: str) -> None:
        Channel.objects.update(state=state)

        with pytest.raises(onboarding.OnboardingError, match="connect it again"):
            onboarding.activate(channel, now=NOON)

    def test_says_which_webhooks_cannot_be_had(self, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
        class Deaf:
            def ensure_webhooks(self, callback_url: str) -> protocol.SubscriptionReport:
                return protocol.SubscriptionReport(failed=(("ORDERS_CREATE", "not approved"),))

        monkeypatch.setattr(connect, "connector_for", lambda channel: Deaf())

        with pytest.raises(onboarding.OnboardingError, match="ORDERS_CREATE: not approved"):
            onboarding.register_webhooks(channel)


class TestImportingTheCatalogue:
    def test_maps_nothing_that_is_listed_twice(self, channel: Channel, alder: Merchant, lake: Store) -> None:
        Sku.objects.create(merchant=alder, code="MUG")
        onboarding.import_catalogue(channel, now=NOON)
        Listing.objects.update(sku=None)
        Listing.objects.filter(remote_sku="TEE").update(remote_sku="MUG")

        assert onboarding.map_listings(channel) == 0

    def test_maps_to_no_other_merchants_sku_and_to_nothing_similar(
        self, channel: Channel, alder: Merchant, birch: Merchant
    ) -> None:
        Sku.objects.create(merchant=birch, code="MUG")
        Sku.objects.create(merchant=alder, code="mug")
        Sku.objects.create(merchant=alder, code="MUG ")

        report = onboarding.import_catalogue(channel, now=NOON)

        assert report.mapped == 0
        assert not Listing.objects.filter(sku__isnull=False).exists()

    def test_leaves_a_mapping_by_hand_alone(self, channel: Channel, alder: Merchant) -> None:
        chosen = Sku.objects.create(merchant=alder, code="SOMETHING-ELSE")
        onboarding.import_catalogue(channel, now=NOON)
        Listing.objects.filter(remote_sku="MUG").update(sku=chosen)
        Sku.objects.create(merchant=alder, code="MUG")

        onboarding.import_catalogue(channel, now=NOON)

        assert Listing.objects.get(remote_sku="MUG").sku == chosen

    def test_tells_who_waits_for_mappings(
        self, channel: Channel, alder: Merchant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Sku.objects.create(merchant=alder, code="MUG")
        told: list[tuple[int, Sequence[int]]] = []
        monkeypatch.setattr(mapping, "on_mapped", [lambda merchant_id, ids: told.append((merchant_id, ids))])

        onboarding.import_catalogue(channel, now=NOON)

        assert told == [(alder.pk, [Listing.objects.get(remote_sku="MUG").pk])]

    def test_follows_what_changed_in_the_store(self, channel: Channel, lake: Store) -> None:
        onboarding.import_catalogue(channel, now=NOON)
        lake.stock({"sku": "TEE", "title": "Better tee", "policy": "CONTINUE"}, {"sku": "CAP", "title": "Cap"})

        report = onboarding.import_catalogue(channel, now=NOON)

        assert (report.variants, report.created) == (4, 1)
        assert Listing.objects.get(remote_sku="TEE").sells_when_out_of_stock

    def test_has_the_levels_read_of_an_item_that_is_counted_otherwise_from_now_on(
        self, channel: Channel, lake: Store
    ) -> None:
        onboarding.import_locations(channel)
        onboarding.import_catalogue(channel, now=NOON)
        onboarding.import_levels(channel)
        variants = [variant for page in connect.connector_for(channel).read_catalogue() for variant in page]

        onboarding.save_listings(channel, [replace(variant, is_tracked=variant.sku != "MUG") for variant in variants])

        suspects = ListingLevel.objects.filter(suspect_since__isnull=False)
        assert set(suspects.values_list("listing__remote_sku", flat=True)) == {"MUG"}
        assert not Listing.objects.get(remote_sku="MUG").is_tracked

    def test_takes_a_listing_for_deleted_only_when_the_store_confirms_it(
        self, channel: Channel, lake: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        onboarding.import_catalogue(channel, now=NOON)
        requests.post(
            f"{lake.url}/lake/admin-ui/products/delete", json={"product": "TEE"}, timeout=10
        ).raise_for_status()
        connector = connect.connector_for(channel)
        pages = [tuple(variant for variant in page if variant.sku != "MUG") for page in connector.read_catalogue()]

        class SkipsMug:
            """A catalogue whose pages moved while they were read."""

            read_catalogue = staticmethod(lambda: iter(pages))
            read_variants = staticmethod(connector.read_variants)

        monkeypatch.setattr(connect, "connector_for", lambda channel: SkipsMug())

        report = onboarding.import_catalogue(channel, now=NOON)

        assert report.deleted == 1
        assert list(Listing.objects.filter(deleted_at__isnull=False).values_list("remote_sku", flat=True)) == ["TEE"]


class TestImportingLevels:
    def test_doubts_a_known_level_that_differs_and_touches_nothing_of_it(self, channel: Channel, lake: Store) -> None:
        onboarding.activate(channel, now=NOON)
        lake.adjust("MUG", -2)

        report = onboarding.import_levels(channel)

        assert (report.created, report.suspect) == (0, 1)
        level = ListingLevel.objects.get(listing__remote_sku="MUG", store_location__name="Main")
        assert (level.base, level.shown, level.suspect_reason) == (7, 7, "import")
        assert level.suspect_since is not None
        assert level.next_check_at is not None

    def test_keeps_the_first_reason_of_a_level_already_doubted(self, channel: Channel, lake: Store) -> None:
        onboarding.activate(channel, now=NOON)
        ListingLevel.objects.update(suspect_since=NOON, suspect_reason="webhook")
        lake.adjust("MUG", -2)

        onboarding.import_levels(channel)

        level = ListingLevel.objects.get(listing__remote_sku="MUG", store_location__name="Main")
        assert (level.suspect_since, level.suspect_reason) == (NOON, "webhook")

    def test_of_a_large_catalogue_goes_in_batches(
        self, alder: Merchant, sandbox: str, django_assert_max_num_queries: Callable[..., Any]
    ) -> None:
        large = Store(sandbox, "large")
        large.stock(*({"sku": f"S{number:04}", "levels": {"Main": number, "Attic": 1}} for number in range(1200)))
        Sku.objects.bulk_create([Sku(merchant=alder, code=f"S{number:04}") for number in range(1200)])
        channel = onboarding.connect_sandbox_store(merchant=alder, name="Large", user=None)
        try:
            with django_assert_max_num_queries(250):
                report = onboarding.activate(channel, now=NOON)
        finally:
            large.remove()

        assert (report.catalogue.variants, report.catalogue.mapped, report.levels.created) == (
            1200,
            1200,
            2400,
        )
        with connection.cursor() as cursor:
            cursor.execute("SELECT sum(shown) FROM channels_listinglevel")
            assert cursor.fetchone() == (sum(range(1200)) + 1200,)


def test_a_claim_goes_with_the_callers_transaction(alder: Merchant) -> None:
    class ChangedMyMind(Exception):
        pass

    def claim_and_change_my_mind() -> None:
        with transaction.atomic():
            onboarding.claim_account(
                merchant=alder, kind=ChannelKind.SHOPIFY, account="Pond.myshopify.com", name="Pond", user=None
            )
            raise ChangedMyMind

    with pytest.raises(ChangedMyMind):
        claim_and_change_my_mind()

    assert not Channel.objects.exists()
