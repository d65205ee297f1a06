"""Secrets at rest and tokens in use."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import requests
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from channels import connect, credentials, onboarding, protocol
from channels.connectors.shopify import auth
from channels.models import Channel, ChannelState, Credential
from merchants.models import AuditEvent, Merchant
from synctec.lib.secret import Secret
from tests.channels.cast import all_at_once

CANARY = "canary-of-a-secret"


def key(letter: str) -> str:
    return base64.b64encode(letter.encode() * 32).decode()


def grant(number: int, *, refresh: str | None = None, seconds: int = 3600) -> auth.TokenGrant:
    return auth.TokenGrant(
        access_token=Secret(f"token-{number}"),
        expires_at=datetime.now(UTC) + timedelta(seconds=seconds),
        refresh_token=Secret(refresh) if refresh else None,
        refresh_expires_at=None,
        scopes=frozenset({"read_products", "write_inventory"}),
    )


@pytest.mark.django_db
class TestStoring:
    def test_shows_nothing_of_a_secret_in_the_database(self, north: Channel) -> None:
        credentials.store(
            north,
            client_id="app-of-north",
            client_secret=Secret(CANARY),
            access_token=Secret(CANARY),
            refresh_token=Secret(CANARY),
        )

        with connection.cursor() as cursor:
            cursor.execute("SELECT credential::text FROM channels_credential AS credential")
            (row,) = cursor.fetchone()
        assert CANARY not in row
        assert base64.b64encode(CANARY.encode()).decode().rstrip("=") not in row

    def test_seals_each_text_for_its_own_place(self, north: Channel, elsewhere: Channel) -> None:
        stolen = north.credential.sealed_client_secret
        Credential.objects.filter(channel=elsewhere).update(sealed_client_secret=stolen)

        with pytest.raises(credentials.CredentialError, match="belongs elsewhere"):
            credentials.webhook_secrets(Channel.objects.get(pk=elsewhere.pk))

    def test_seals_each_text_for_its_own_column(self, north: Channel) -> None:
        credential = north.credential
        credential.sealed_access_token = credential.sealed_client_secret
        credential.save()

        with pytest.raises(credentials.CredentialError, match="belongs elsewhere"):
            credentials.access_token(north)

    def test_keeps_the_secret_before_until_it_is_forgotten(self, north: Channel) -> None:
        credentials.store(north, client_id="app-of-north", client_secret=Secret("second"))
        assert credentials.webhook_secrets(Channel.objects.get(pk=north.pk)) == [
            "second",
            "norths-client-secret",
        ]

        credentials.store(north, client_id="app-of-north", client_secret=Secret("second"))
        assert credentials.webhook_secrets(Channel.objects.get(pk=north.pk)) == [
            "second",
            "norths-client-secret",
        ]

        credentials.forget_previous_client_secret(north)
        assert credentials.webhook_secrets(Channel.objects.get(pk=north.pk)) == ["second"]

    def test_begins_anew_with_another_app(self, north: Channel) -> None:
        credentials.store(north, client_id="app-of-north", access_token=Secret("token"))

        credentials.store(north, client_id="another-app", client_secret=Secret("its secret"))

        assert credentials.webhook_secrets(Channel.objects.get(pk=north.pk)) == ["its secret"]
        assert Credential.objects.get(channel=north).sealed_access_token == ""

    def test_wipes_tokens_and_keeps_what_signs(self, north: Channel) -> None:
        credentials.store(north, client_id="app-of-north", access_token=Secret("t"), refresh_token=Secret("r"))

        credentials.wipe(north)

        credential = Credential.objects.get(channel=north)
        assert (credential.sealed_access_token, credential.sealed_refresh_token) == ("", "")
        assert credentials.webhook_secrets(Channel.objects.get(pk=north.pk)) == ["norths-client-secret"]


@pytest.fixture
def old_and_new_key(settings: Any) -> Callable[[str], None]:
    rings = {"old": f"old:{key('o')}", "both": f"new:{key('n')},old:{key('o')}", "new": f"new:{key('n')}"}

    def use(name: str) -> None:
        settings.CREDENTIAL_KEYS = rings[name]

    use("old")
    return use


@pytest.mark.django_db
class TestRotatingKeys:
    def test_seals_everything_with_the_first_key(
        self, old_and_new_key: Callable[[str], None], north: Channel, elsewhere: Channel
    ) -> None:
        credentials.store(north, client_id="app-of-north", access_token=Secret("t"), refresh_token=Secret("r"))
        old_and_new_key("both")

        report = credentials.rotate_all()

        assert report == credentials.RotationReport(resealed=2, current=0, unreadable=())
        old_and_new_key("new")
        assert credentials.webhook_secrets(Channel.objects.get(pk=north.pk)) == ["norths-client-secret"]
        assert credentials.access_token(Channel.objects.get(pk=north.pk)).reveal() == "t"

    def test_can_be_taken_up_where_it_stopped(
        self,
        old_and_new_key: Callable[[str], None],
        north: Channel,
        elsewhere: Channel,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        old_and_new_key("both")
        real, calls = credentials._reseal, []

        def killed_at_the_second(pk: int) -> bool:
            calls.append(pk)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(pk)

        monkeypatch.setattr(credentials, "_reseal", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            credentials.rotate_all()
        for shop, secret in ((north, "norths-client-secret"), (elsewhere, "elsewheres-client-secret")):
            assert credentials.webhook_secrets(Channel.objects.get(pk=shop.pk)) == [secret]

        monkeypatch.setattr(credentials, "_reseal", real)
        assert credentials.rotate_all() == credentials.RotationReport(resealed=1, current=1, unreadable=())

    def test_tells_of_rows_that_do_not_open(
        self, old_and_new_key: Callable[[str], None], north: Channel, elsewhere: Channel
    ) -> None:
        Credential.objects.filter(channel=north).update(sealed_client_secret="v1.lost." + "A" * 60)
        old_and_new_key("both")
        said, complained = StringIO(), StringIO()

        with pytest.raises(CommandError, match="1 rows do not open"):
            call_command("rotate_credentials", stdout=said, stderr=complained)

        assert "1 rows sealed anew, 0 were current." in said.getvalue()
        assert "'lost'" in complained.getvalue()


class Asked:
    """Stands for the channel's token endpoint: counts who asks and gives numbered tokens."""

    def __init__(self, *, refresh_token: str | None = None, refuse: bool = False) -> None:
        self.calls: list[dict[str, str]] = []
        self._refresh_token = refresh_token
        self._refuse = refuse
        self._lock = threading.Lock()

    def __call__(self, *, client_id: str, client_secret: Secret, **rest: Any) -> auth.TokenGrant:
        with self._lock:
            told = {"client_id": client_id, "client_secret": client_secret.reveal()}
            if "refresh_token" in rest:
                told["refresh_token"] = rest["refresh_token"].reveal()
            self.calls.append(told)
            number = len(self.calls)
        if self._refuse:
            raise protocol.NotAuthorized("The store refuses the app's credentials (HTTP 401): connect it again.")
        return grant(number, refresh=f"{self._refresh_token}-{number}" if self._refresh_token else None)


@pytest.mark.django_db(transaction=True)
class TestATokenByClientCredentials:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> Asked:
        asked = Asked()
        monkeypatch.setattr(auth, "request_by_client_credentials", asked)
        return asked

    def test_is_asked_for_once_and_then_remembered(self, north: Channel, asked: Asked) -> None:
        tokens = [credentials.access_token(north).reveal() for _ in range(3)]

        assert tokens == ["token-1"] * 3
        assert asked.calls == [{"client_id": "app-of-north", "client_secret": "norths-client-secret"}]
        assert Credential.objects.get(channel=north).scopes == ["read_products", "write_inventory"]

    def test_is_asked_for_anew_before_it_ends(self, north: Channel, asked: Asked) -> None:
        credentials.access_token(north)
        soon = datetime.now(UTC) + timedelta(seconds=90)
        Credential.objects.filter(channel=north).update(access_token_expires_at=soon)

        assert credentials.access_token(north).reveal() == "token-2"

    def test_is_asked_for_once_by_twenty_at_the_same_time(self, north: Channel, asked: Asked) -> None:
        tokens = all_at_once(20, lambda: credentials.access_token(north).reveal())

        assert tokens == ["token-1"] * 20
        assert len(asked.calls) == 1

    def test_that_was_refused_is_replaced_once_by_twenty_at_the_same_time(self, north: Channel, asked: Asked) -> None:
        refused = credentials.access_token(north)

        tokens = all_at_once(20, lambda: credentials.access_token(north, refused=refused).reveal())

        assert tokens == ["token-2"] * 20
        assert len(asked.calls) == 2

    def test_is_never_asked_for_inside_a_transaction(self, north: Channel, asked: Asked) -> None:
        with pytest.raises(RuntimeError), transaction.atomic():
            credentials.access_token(north)

        assert asked.calls == []

    def test_is_not_given_inside_a_transaction_even_when_there_is_one(self, north: Channel, asked: Asked) -> None:
        credentials.access_token(north)

        with pytest.raises(RuntimeError), transaction.atomic():
            credentials.access_token(north)

    def test_that_is_denied_sends_for_a_person(self, north: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = Asked(refuse=True)
        monkeypatch.setattr(auth, "request_by_client_credentials", asked)

        for _ in range(3):
            with pytest.raises(protocol.NotAuthorized):
                credentials.access_token(north)

        channel = Channel.objects.get(pk=north.pk)
        assert channel.state == ChannelState.NEEDS_AUTH
        assert "HTTP 401" in channel.state_reason
        assert len(asked.calls) == 1
        event = AuditEvent.objects.get()
        assert (event.action, event.before, event.after) == (
            "channel.needs_auth",
            {"state": "active"},
            {"state": "needs_auth"},
        )

    def test_that_is_denied_leaves_a_paused_channel_paused(
        self, north: Channel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Channel.objects.update(state=ChannelState.PAUSED)
        monkeypatch.setattr(auth, "request_by_client_credentials", Asked(refuse=True))

        with pytest.raises(protocol.NotAuthorized):
            credentials.access_token(north)

        assert Channel.objects.get().state == ChannelState.PAUSED

    def test_that_cannot_be_had_for_now_changes_nothing(self, north: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(**_: Any) -> auth.TokenGrant:
            raise protocol.Unavailable("The store gives no token now (HTTP 503).")

        monkeypatch.setattr(auth, "request_by_client_credentials", away)

        with pytest.raises(protocol.Unavailable):
            credentials.access_token(north)

        assert Channel.objects.get().state == ChannelState.ACTIVE


@pytest.mark.django_db(transaction=True)
class TestATokenByAuthorizationCode:
    @pytest.fixture
    def shop(self, alder: Merchant, settings: Any) -> Channel:
        settings.SHOPIFY_CLIENT_ID = "our-app"
        settings.SHOPIFY_CLIENT_SECRET = "of-our-app"
        channel = Channel.objects.create(
            merchant=alder,
            kind="shopify",
            name="Lake",
            account="lake.myshopify.com",
            state=ChannelState.ACTIVE,
        )
        credentials.store(
            channel,
            client_id="our-app",
            access_token=Secret("token-0"),
            refresh_token=Secret("refresh-0"),
            access_token_expires_at=datetime.now(UTC) + timedelta(hours=1),
        )
        return channel

    def test_is_refreshed_once_and_both_tokens_change_together(
        self, shop: Channel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = Asked(refresh_token="refresh")
        monkeypatch.setattr(auth, "refresh", asked)
        Credential.objects.update(access_token_expires_at=datetime.now(UTC))

        tokens = all_at_once(20, lambda: credentials.access_token(shop).reveal())

        assert tokens == ["token-1"] * 20
        assert asked.calls == [{"client_id": "our-app", "client_secret": "of-our-app", "refresh_token": "refresh-0"}]
        credentials.access_token(shop, refused=Secret("token-1"))
        assert asked.calls[1]["refresh_token"] == "refresh-1"

    def test_without_a_refresh_token_needs_a_person(self, shop: Channel) -> None:
        Credential.objects.update(sealed_refresh_token="")

        with pytest.raises(protocol.NotAuthorized, match="authorize the app again"):
            credentials.access_token(shop, refused=Secret("token-0"))

        assert Channel.objects.get().state == ChannelState.NEEDS_AUTH

    def test_of_a_channel_without_credentials_needs_a_person(self, shop: Channel) -> None:
        Credential.objects.all().delete()

        with pytest.raises(protocol.NotAuthorized, match="no credentials"):
            credentials.access_token(shop)


@pytest.mark.django_db(transaction=True)
class TestAgainstThePracticeStores:
    def test_a_refused_token_is_replaced_in_the_middle_of_the_work(self, alder: Merchant, sandbox: str) -> None:
        store = onboarding.connect_sandbox_store(merchant=alder, name="Expiring", user=None)
        connector = connect.connector_for(store)
        assert [location.name for location in connector.read_locations()] == ["Main"]
        before = Credential.objects.get().sealed_access_token

        requests.post(f"{sandbox}/_control/stores/expiring/expire_tokens", json={}, timeout=10)

        assert [location.name for location in connector.read_locations()] == ["Main"]
        assert Credential.objects.get().sealed_access_token != before

    def test_twenty_workers_get_by_with_one_new_token(self, alder: Merchant, sandbox: str) -> None:
        store = onboarding.connect_sandbox_store(merchant=alder, name="Busy", user=None)
        Credential.objects.update(sealed_access_token="", access_token_expires_at=None)
        connect.forget_tokens()

        tokens = all_at_once(20, lambda: credentials.access_token(store).reveal())

        assert len(set(tokens)) == 1


def test_a_token_source_names_the_token_it_gave_when_that_was_refused(
    north: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_with: list[Secret | None] = []

    def access_token(channel: Channel, *, refused: Secret | None = None) -> Secret:
        asked_with.append(refused)
        return Secret(f"token-{len(asked_with)}")

    monkeypatch.setattr(credentials, "access_token", access_token)
    source = connect.TokenSource(north)

    given = [source(False).reveal(), source(False).reveal(), source(True).reveal(), source(False).reveal()]

    assert given == ["token-1", "token-1", "token-2", "token-2"]
    assert asked_with == [None, Secret("token-1")]
