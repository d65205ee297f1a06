"""Connecting a Shopify store by authorization code: a good way through, and every way that ends in a plain
page.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
import requests
import time_machine
from django.test import Client

from channels import credentials, oauth, onboarding, origins
from channels.connectors.shopify.auth import REQUIRED_SCOPES
from channels.models import Channel, ChannelState, Credential
from merchants.models import AuditEvent, Member, Merchant, Role, User
from synctec.lib.secret import Secret
from synctec.lib.signing import sign_hex_query

INSTALL, CALLBACK = "/channels/shopify/install/", "/channels/shopify/callback/"
APP_ID, APP_SECRET = "our-app", "secret-of-our-app"

pytestmark = pytest.mark.django_db


@pytest.fixture
def lake(sandbox: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store that knows our app; what we believe to be Shopify is the sandbox."""
    settings.SHOPIFY_CLIENT_ID, settings.SHOPIFY_CLIENT_SECRET = APP_ID, APP_SECRET
    monkeypatch.setattr(origins, "shopify_base_url", lambda shop: f"{sandbox}/{shop.removesuffix('.myshopify.com')}")
    monkeypatch.setattr(origins, "shopify_session", lambda shop: origins.sandbox_session(sandbox))
    app = {"handle": "lake", "client_id": APP_ID, "client_secret": APP_SECRET}
    requests.post(f"{sandbox}/_control/stores", json=app, timeout=10).raise_for_status()
    yield f"{sandbox}/lake"
    requests.delete(f"{sandbox}/_control/stores/lake", timeout=10)


@pytest.fixture
def browser(manager: User) -> Client:
    client = Client()
    client.force_login(manager)
    return client


def begin(browser: Client, shop: str = "lake.myshopify.com") -> str:
    """Start a connection; returns where the browser is sent."""
    response = browser.post(f"{INSTALL}?merchant=alder", {"shop": shop})
    assert response.status_code == 302, response.content.decode()
    return str(response["Location"])


def approve(address: str) -> dict[str, str]:
    """The merchant grants access in the store; returns what the store tells our callback."""
    page = urlsplit(address)
    form = {name: values[0] for name, values in parse_qs(page.query).items()}
    answer = requests.post(f"{page.scheme}://{page.netloc}{page.path}", data=form, allow_redirects=False, timeout=10)
    assert answer.status_code in (302, 303), answer.text
    return dict(parse_qsl(urlsplit(answer.headers["Location"]).query))


def come_back(browser: Client, answer: dict[str, str]) -> Any:
    return browser.get(f"{CALLBACK}?{urlencode(answer)}")


def signed(answer: dict[str, str], secret: str = APP_SECRET) -> dict[str, str]:
    unsigned = {name: value for name, value in answer.items() if name != "hmac"}
    return {**unsigned, "hmac": sign_hex_query(unsigned, secret)}


class TestBeginning:
    def test_sends_the_browser_to_the_store_with_a_state_of_its_own(self, browser: Client, lake: str) -> None:
        addresses = [urlsplit(begin(browser)) for _ in range(2)]

        asked = dict(parse_qsl(addresses[1].query))
        assert addresses[1].path == "/lake/admin/oauth/authorize"
        assert asked["client_id"] == APP_ID
        assert asked["redirect_uri"] == f"http://127.0.0.1:8000{CALLBACK}"
        assert set(asked["scope"].split(",")) >= set(REQUIRED_SCOPES)
        assert asked["state"] != dict(parse_qsl(addresses[0].query))["state"]
        assert len(asked["state"]) >= 32

    @pytest.mark.parametrize("typed", ["lake", " Lake.MyShopify.com ", "https://lake.myshopify.com/admin"])
    def test_understands_how_people_write_a_stores_name(self, browser: Client, lake: str, typed: str) -> None:
        assert "/lake/admin/oauth/authorize" in begin(browser, typed)

    @pytest.mark.parametrize(
        "typed",
        [
            "",
            "lake.example.com",
            "lake.myshopify.com.evil.test",
            "evil.test/lake.myshopify.com",
            "-x",
            "a b",
            "é",
            "x" * 300,
        ],
    )
    def test_refuses_what_is_no_store(self, browser: Client, lake: str, typed: str) -> None:
        response = browser.post(INSTALL, {"shop": typed})

        assert response.status_code == 400
        assert b"own domain" in response.content

    def test_shows_a_form_first(self, browser: Client, lake: str) -> None:
        response = browser.get(f"{INSTALL}?shop=lake.myshopify.com")

        assert response.status_code == 200
        assert b'value="lake.myshopify.com"' in response.content
        assert oauth.PENDING_KEY not in browser.session

    def test_escapes_what_it_repeats(self, browser: Client, lake: str) -> None:
        response = browser.get(INSTALL, {"shop": '"><script>alert(1)</script>'})

        assert b"<script>alert" not in response.content

    def test_says_what_is_missing_without_an_app(self, browser: Client, settings: Any) -> None:
        settings.SHOPIFY_CLIENT_ID = ""

        response = browser.get(INSTALL)

        assert response.status_code == 503
        assert b"SHOPIFY_CLIENT_ID" in response.content

    def test_is_for_managers_of_the_merchant(self, lake: str, alder: Merchant, birch: Merchant) -> None:
        viewer = User.objects.create_user("vic", "vic@alder.test", "a long password")
        Member.objects.create(merchant=alder, user=viewer, role=Role.VIEWER)
        stranger = User.objects.create_user("sam", "sam@birch.test", "a long password")
        Member.objects.create(merchant=birch, user=stranger, role=Role.OWNER)
        browser = Client()

        assert browser.get(INSTALL).status_code == 302
        browser.force_login(viewer)
        assert browser.get(f"{INSTALL}?merchant=alder").status_code == 403
        browser.force_login(stranger)
        assert browser.get(f"{INSTALL}?merchant=alder").status_code == 404

    def test_cannot_be_made_by_another_page(self, manager: User, lake: str) -> None:
        browser = Client(enforce_csrf_checks=True)
        browser.force_login(manager)

        assert browser.post(INSTALL, {"shop": "lake"}).status_code == 403


class TestComingBack:
    def test_connects_the_store_with_tokens_that_can_be_renewed(
        self,
        browser: Client,
        lake: str,
        alder: Merchant,
        manager: User,
        monkeypatch: pytest.MonkeyPatch,
        django_capture_on_commit_callbacks: Any,
    ) -> None:
        told: list[int] = []
        monkeypatch.setattr(onboarding, "on_connected", [told.append])

        with django_capture_on_commit_callbacks(execute=True):
            response = come_back(browser, approve(begin(browser)))

        assert (response.status_code, response["Location"]) == (302, "/?merchant=alder")
        channel = Channel.objects.get()
        assert (channel.merchant, channel.kind, channel.account) == (alder, "shopify", "lake.myshopify.com")
        assert (channel.name, channel.state) == ("lake", ChannelState.CONNECTING)
        credential = Credential.objects.get()
        assert credential.client_id == APP_ID
        assert credential.sealed_client_secret == ""
        assert credential.sealed_refresh_token
        assert credential.access_token_expires_at is not None
        assert told == [channel.pk]
        assert AuditEvent.objects.get().user == manager
        assert credentials.webhook_secrets(channel) == [APP_SECRET]

    def test_authorizes_a_channel_again_without_making_another(
        self, browser: Client, lake: str, alder: Merchant
    ) -> None:
        channel = Channel.objects.create(
            merchant=alder,
            kind="shopify",
            name="Lake",
            account="lake.myshopify.com",
            state=ChannelState.UNINSTALLED,
        )
        credentials.store(channel, client_id="an-older-app", client_secret=Secret("older"))

        assert come_back(browser, approve(begin(browser))).status_code == 302

        channel.refresh_from_db()
        assert (channel.name, channel.state, channel.state_reason) == ("Lake", ChannelState.CONNECTING, "")
        assert credentials.webhook_secrets(Channel.objects.get()) == [APP_SECRET]

    @pytest.mark.parametrize("state", [ChannelState.ACTIVE, ChannelState.PAUSED])
    def test_leaves_the_state_of_a_channel_that_works(
        self, browser: Client, lake: str, alder: Merchant, state: ChannelState
    ) -> None:
        Channel.objects.create(merchant=alder, kind="shopify", name="Lake", account="lake.myshopify.com", state=state)

        come_back(browser, approve(begin(browser)))

        assert Channel.objects.get().state == state

    def test_never_takes_another_merchants_store(self, browser: Client, lake: str, birch: Merchant) -> None:
        theirs = Channel.objects.create(
            merchant=birch,
            kind="shopify",
            name="Lake",
            account="lake.myshopify.com",
            state=ChannelState.ACTIVE,
        )
        credentials.store(theirs, client_id=APP_ID, access_token=Secret("theirs"))
        sealed = Credential.objects.get().sealed_access_token

        response = come_back(browser, approve(begin(browser)))

        assert response.status_code == 409
        assert b"already connected by another merchant" in response.content
        assert b"irch" not in response.content
        assert Channel.objects.get().merchant == birch
        assert Credential.objects.get().sealed_access_token == sealed

    def test_works_once_only(self, browser: Client, lake: str) -> None:
        answer = approve(begin(browser))
        come_back(browser, answer)

        response = come_back(browser, answer)

        assert response.status_code == 400
        assert b"Begin again" in response.content

    def test_works_in_the_browser_it_began_in_only(self, browser: Client, lake: str, manager: User) -> None:
        answer = approve(begin(browser))
        another = Client()
        another.force_login(manager)

        assert come_back(another, answer).status_code == 400
        assert not Channel.objects.exists()

    def test_with_a_made_up_state_does_not_spoil_the_connection_under_way(self, browser: Client, lake: str) -> None:
        answer = approve(begin(browser))

        assert come_back(browser, signed({**answer, "state": "made-up"})).status_code == 400
        assert come_back(browser, answer).status_code == 302

    def test_takes_ten_minutes_at_most(self, browser: Client, lake: str) -> None:
        answer = approve(begin(browser))

        with time_machine.travel(time.time() + 601, tick=False):
            response = come_back(browser, signed({**answer, "timestamp": str(int(time.time()))}))

        assert response.status_code == 400
        assert b"ten minutes" in response.content
        assert not Channel.objects.exists()

    @pytest.mark.parametrize(
        "change",
        [
            {"hmac": "0" * 64},
            {"hmac": ""},
            {"hmac": "é"},
            {"shop": "river.myshopify.com"},
            {"code": "another"},
            {"extra": "1"},
        ],
    )
    def test_unsigned_changes_nothing(self, browser: Client, lake: str, change: dict[str, str]) -> None:
        response = come_back(browser, {**approve(begin(browser)), **change})

        assert response.status_code == 400
        assert not Channel.objects.exists()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"shop": "river.myshopify.com"}, "another store"),
            ({"shop": "lake.myshopify.com\n"}, "another store"),
            ({"timestamp": "0"}, "too old"),
            ({"timestamp": "9" * 12}, "too old"),
            ({"timestamp": "now"}, "when it was made"),
            ({"code": ""}, "no code"),
            ({"code": "spent-or-made-up"}, "does not accept the code"),
        ],
    )
    def test_signed_but_wrong_changes_nothing(
        self, browser: Client, lake: str, change: dict[str, str], said: str
    ) -> None:
        response = come_back(browser, signed({**approve(begin(browser)), **change}))

        assert response.status_code == 400
        assert said in response.content.decode()
        assert not Channel.objects.exists()

    def test_is_understood_while_the_apps_secret_is_exchanged(self, browser: Client, lake: str, settings: Any) -> None:
        answer = approve(begin(browser))
        settings.SHOPIFY_PREVIOUS_CLIENT_SECRET = "the one before"

        assert come_back(browser, signed(answer, "the one before")).status_code == 302

    def test_with_fewer_scopes_than_asked_connects_nothing(self, browser: Client, lake: str) -> None:
        url = lake.replace("/lake", "/_control/stores/lake")
        requests.patch(url, json={"scopes": ["write_inventory", "read_products"]}, timeout=10).raise_for_status()

        response = come_back(browser, approve(begin(browser)))

        assert response.status_code == 400
        assert b"did not grant read_locations" in response.content
        assert not Channel.objects.exists()

    def test_to_a_store_that_is_away_says_to_try_again(self, browser: Client, lake: str) -> None:
        answer = approve(begin(browser))
        url = lake.replace("/lake", "/_control/stores/lake/faults")
        requests.put(url, json={"outage": True}, timeout=10).raise_for_status()

        response = come_back(browser, answer)

        assert response.status_code == 502
        assert b"Begin again" in response.content

    def test_is_no_longer_for_someone_whose_role_was_taken_away(
        self, browser: Client, lake: str, manager: User
    ) -> None:
        answer = approve(begin(browser))
        Member.objects.filter(user=manager).update(role=Role.VIEWER)

        assert come_back(browser, answer).status_code == 403
        assert not Channel.objects.exists()

    def test_asks_who_is_not_signed_in_to_do_so(self, lake: str) -> None:
        response = Client().get(f"{CALLBACK}?code=1")

        assert response.status_code == 302
        assert response["Location"].startswith("/login/")

    def test_keeps_codes_and_tokens_out_of_what_is_shown(
        self, browser: Client, lake: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        answer = approve(begin(browser))

        with caplog.at_level("DEBUG"):
            response = come_back(browser, {**answer, "hmac": "0" * 64})

        assert answer["code"] not in response.content.decode()
        assert answer["code"] not in caplog.text
        assert APP_SECRET not in caplog.text
