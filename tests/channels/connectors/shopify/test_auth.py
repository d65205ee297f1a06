"""Getting and renewing access."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from channels.connectors.shopify import auth
from channels.connectors.shopify.auth import REQUIRED_SCOPES, CallbackError, TokenGrant
from channels.protocol import ChannelError, NotAuthorized, Refused, Throttled, Unavailable
from synctec.lib.http import GuardedSession
from synctec.lib.secret import Secret
from synctec.lib.signing import sign_hex_query
from tests.channels.connectors.shopify.scripted import HANG_UP, Answer, ScriptedStore

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
CLIENT_SECRET = Secret("the-client-secret")
PAIR = {
    "access_token": "shpat_new",
    "scope": "write_inventory,read_products",
    "expires_in": 3600,
    "refresh_token": "shprt_new",
    "refresh_token_expires_in": 7_776_000,
}


def callback(**changes: str) -> dict[str, str]:
    params = {
        "code": "abc123",
        "host": "YWRtaW4",
        "shop": "north.myshopify.com",
        "state": "nonce",
        "timestamp": str(int(NOW.timestamp())),
    } | changes
    return params | {"hmac": sign_hex_query(params, CLIENT_SECRET)}


def check(params: dict[str, str], **changes: Any) -> auth.Callback:
    given: dict[str, Any] = {"expected_state": "nonce", "client_secret": CLIENT_SECRET, "now": NOW} | changes
    return auth.check_callback(params, **given)


class TestAuthorizationUrl:
    def test_it_asks_for_the_scopes_at_the_store(self) -> None:
        url = auth.authorization_url(
            base_url="https://north.myshopify.com",
            client_id="client",
            redirect_uri="https://hub.example/callback",
            state="nonce",
        )

        parts = urlsplit(url)
        assert (parts.netloc, parts.path) == ("north.myshopify.com", "/admin/oauth/authorize")
        query = parse_qs(parts.query)
        assert query["state"] == ["nonce"]
        assert query["redirect_uri"] == ["https://hub.example/callback"]
        assert set(query["scope"][0].split(",")) >= set(REQUIRED_SCOPES)


class TestCallback:
    def test_a_good_one_gives_shop_and_code(self) -> None:
        found = check(callback())

        assert found.shop == "north.myshopify.com"
        assert found.code == Secret("abc123")
        assert "abc123" not in repr(found)

    @pytest.mark.parametrize("state", ["other", "", "\u2603", "\ud800"])
    def test_another_session_s_answer_is_refused(self, state: str) -> None:
        with pytest.raises(CallbackError) as caught:
            check(callback() | {"state": state})

        assert caught.value.code == "STATE"

    def test_an_empty_expectation_is_met_by_nothing(self) -> None:
        with pytest.raises(CallbackError):
            check(callback(state=""), expected_state="")

    @pytest.mark.parametrize("name", ["code", "shop", "timestamp", "host"])
    def test_any_changed_parameter_breaks_the_signature(self, name: str) -> None:
        with pytest.raises(CallbackError) as caught:
            check(callback() | {name: "changed"})

        assert caught.value.code == "HMAC"

    @pytest.mark.parametrize("signature", ["", "00", "\u2603", "x" * 10_000])
    def test_a_wrong_signature_is_refused(self, signature: str) -> None:
        with pytest.raises(CallbackError):
            check(callback() | {"hmac": signature})

    @pytest.mark.parametrize(
        "shop",
        [
            "",
            "evil.example",
            "north.myshopify.com.evil.example",
            "north.myshopify.com\n",
            "evil.example/north.myshopify.com",
            "-north.myshopify.com",
            "a.b.myshopify.com",
            "north.myshopify.com:443",
        ],
    )
    def test_a_shop_that_is_none_is_refused_even_when_signed(self, shop: str) -> None:
        with pytest.raises(CallbackError) as caught:
            check(callback(shop=shop))

        assert caught.value.code == "SHOP"

    def test_another_shop_than_the_one_asked_is_refused(self) -> None:
        with pytest.raises(CallbackError) as caught:
            check(callback(), expected_shop="south.myshopify.com")

        assert caught.value.code == "SHOP"

    @pytest.mark.parametrize("seconds", [-91, 91, -86_400])
    def test_an_answer_of_another_time_is_refused(self, seconds: int) -> None:
        stamp = str(int((NOW + timedelta(seconds=seconds)).timestamp()))

        with pytest.raises(CallbackError) as caught:
            check(callback(timestamp=stamp))

        assert caught.value.code == "TIMESTAMP"

    @pytest.mark.parametrize("stamp", ["", "now", "1e9", "9" * 40, "\u0661\u0662"])
    def test_a_timestamp_that_is_none_is_refused(self, stamp: str) -> None:
        with pytest.raises(CallbackError):
            check(callback(timestamp=stamp))

    @pytest.mark.parametrize("code", ["", "a b", "x" * 600])
    def test_an_answer_without_a_usable_code_is_refused(self, code: str) -> None:
        with pytest.raises(CallbackError) as caught:
            check(callback(code=code))

        assert caught.value.code == "CODE"


class TestScopes:
    def test_writing_includes_reading(self) -> None:
        granted = {scope for scope in REQUIRED_SCOPES if scope != "read_orders"} | {"write_orders"}

        assert auth.missing_scopes(granted) == ()

    def test_what_was_not_granted_is_named(self) -> None:
        granted = set(REQUIRED_SCOPES) - {"write_inventory"} | {"read_inventory"}

        assert auth.missing_scopes(granted) == ("write_inventory",)


class TestGrants:
    def test_client_credentials_give_a_token_for_a_day(self, store: ScriptedStore, session: GuardedSession) -> None:
        store.answers(Answer({"access_token": "shpat_day", "scope": "read_orders", "expires_in": 86_399}))

        grant = auth.request_by_client_credentials(
            base_url=store.url, client_id="client", client_secret=CLIENT_SECRET, session=session, now=NOW
        )

        assert grant == TokenGrant(
            access_token=Secret("shpat_day"),
            expires_at=NOW + timedelta(seconds=86_399),
            refresh_token=None,
            refresh_expires_at=None,
            scopes=frozenset({"read_orders"}),
        )
        (asked,) = store.asked
        assert asked.path == "/admin/oauth/access_token"
        assert asked.body == {
            "grant_type": "client_credentials",
            "client_id": "client",
            "client_secret": "the-client-secret",
        }

    def test_a_code_is_exchanged_for_an_expiring_pair(self, store: ScriptedStore, session: GuardedSession) -> None:
        store.answers(Answer(PAIR))

        grant = auth.exchange_code(
            base_url=store.url,
            client_id="client",
            client_secret=CLIENT_SECRET,
            code=Secret("abc123"),
            session=session,
            now=NOW,
        )

        assert grant.expires_at == NOW + timedelta(hours=1)
        assert grant.refresh_token == Secret("shprt_new")
        assert grant.refresh_expires_at == NOW + timedelta(days=90)
        assert grant.scopes == {"write_inventory", "read_products"}
        assert store.asked[0].body["expiring"] == "1"

    def refresh(self, store: ScriptedStore, session: GuardedSession) -> TokenGrant:
        return auth.refresh(
            base_url=store.url,
            client_id="client",
            client_secret=CLIENT_SECRET,
            refresh_token=Secret("shprt_old"),
            session=session,
            now=NOW,
        )

    def test_refreshing_gives_a_new_pair(self, store: ScriptedStore, session: GuardedSession) -> None:
        store.answers(Answer(PAIR))

        grant = self.refresh(store, session)

        assert grant.access_token == Secret("shpat_new")
        assert store.asked[0].body["refresh_token"] == "shprt_old"
        assert "shp" not in repr(grant)

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (Answer({"error": "invalid_client shprt_old"}, status=400), NotAuthorized),
            (Answer(status=401), NotAuthorized),
            (Answer(status=403), NotAuthorized),
            (Answer(status=404), Refused),
            (Answer(status=429), Throttled),
            (Answer(status=423), Unavailable),
            (Answer(status=500), Unavailable),
            (Answer(status=302, headers={"Location": "/"}), Unavailable),
            (HANG_UP, Unavailable),
            (Answer(b"<html>"), Unavailable),
            (Answer([]), Unavailable),
            (Answer(b"[" * 90_000), Unavailable),
            (Answer(PAIR | {"access_token": None}), Unavailable),
            (Answer(PAIR | {"access_token": "a\nb"}), Unavailable),
            (Answer(PAIR | {"expires_in": "3600"}), Unavailable),
            (Answer(PAIR | {"expires_in": 10**12}), Unavailable),
            (Answer(PAIR | {"expires_in": True}), Unavailable),
            (Answer(PAIR | {"refresh_token": 7}), Unavailable),
            (Answer(PAIR | {"scope": None}), Unavailable),
        ],
    )
    def test_every_other_answer_is_an_error_without_secrets(
        self, store: ScriptedStore, session: GuardedSession, answer: Answer | str, kind: type[ChannelError]
    ) -> None:
        store.answers(answer)

        with pytest.raises(ChannelError) as caught:
            self.refresh(store, session)

        assert type(caught.value) is kind
        assert "shprt" not in str(caught.value)
        assert "the-client-secret" not in str(caught.value)
