"""Getting and renewing access, and losing it."""

from __future__ import annotations

import urllib.parse
import urllib.request
from typing import Any

from synctec.lib.signing import verify_hex_query
from tests.sandbox.clients import StoreClient, call


def ask_for_token(store: StoreClient, **fields: Any) -> tuple[int, Any]:
    body = {"client_id": store.client_id, "client_secret": store.secret} | fields
    return call("POST", f"{store.url}/admin/oauth/access_token", body, {"Content-Type": "application/json"})


def works(store: StoreClient, token: str) -> bool:
    store.token = token
    return store.send("{ shop { name } }")[0] == 200


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def approve(store: StoreClient) -> dict[str, str]:
    """Press the button on the consent page; the parameters of the callback."""
    fields = {
        "client_id": store.client_id,
        "redirect_uri": "http://127.0.0.1:1/callback",
        "state": "the-state",
        "scope": "write_inventory",
    }
    data = urllib.parse.urlencode(fields).encode()
    request = urllib.request.Request(f"{store.url}/admin/oauth/authorize", data=data)  # noqa: S310
    try:
        urllib.request.build_opener(_NoRedirect).open(request, timeout=10)
    except urllib.error.HTTPError as answer:
        with answer:
            location = answer.headers["Location"]
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(location).query))


def test_client_credentials_give_a_token_for_a_day(store: StoreClient) -> None:
    status, answer = ask_for_token(store, grant_type="client_credentials")

    assert status == 200
    assert answer["expires_in"] == 86_399
    assert "write_inventory" in answer["scope"].split(",")
    assert works(store, answer["access_token"])


def test_a_wrong_secret_gives_nothing(store: StoreClient) -> None:
    status, answer = ask_for_token(store, grant_type="client_credentials", client_secret="wrong")

    assert (status, answer["error"]) == (401, "invalid_client")


def test_approval_returns_a_signed_callback(store: StoreClient) -> None:
    params = approve(store)

    assert params["shop"] == f"{store.handle}.myshopify.com"
    assert params["state"] == "the-state"
    assert verify_hex_query(params, store.secret)


def test_a_code_gives_an_expiring_pair_once(store: StoreClient) -> None:
    code = approve(store)["code"]

    status, answer = ask_for_token(store, code=code, expiring="1")
    again, _ = ask_for_token(store, code=code, expiring="1")

    assert status == 200
    assert (answer["expires_in"], answer["refresh_token_expires_in"]) == (3600, 7_776_000)
    assert works(store, answer["access_token"])
    assert again == 400


def test_refreshing_rotates_both_and_forgives_one_lost_answer(store: StoreClient) -> None:
    _, first = ask_for_token(store, code=approve(store)["code"], expiring="1")
    _, lost = ask_for_token(store, grant_type="refresh_token", refresh_token=first["refresh_token"])
    _, second = ask_for_token(store, grant_type="refresh_token", refresh_token=first["refresh_token"])

    status, third = ask_for_token(store, grant_type="refresh_token", refresh_token=second["refresh_token"])
    stale, _ = ask_for_token(store, grant_type="refresh_token", refresh_token=first["refresh_token"])

    assert lost["refresh_token"] != second["refresh_token"]
    assert status == 200
    assert works(store, third["access_token"])
    assert stale == 401


def test_tokens_can_be_made_to_expire(store: StoreClient) -> None:
    _, answer = ask_for_token(store, grant_type="client_credentials")

    call("POST", f"{store.control}/expire_tokens", {})

    assert not works(store, answer["access_token"])


def test_the_consent_page_names_the_store_and_the_scopes(store: StoreClient) -> None:
    query = urllib.parse.urlencode(
        {
            "client_id": store.client_id,
            "redirect_uri": "http://127.0.0.1:1/callback",
            "scope": "write_inventory,<b>",
            "state": "s",
        }
    )

    status, page = call("GET", f"{store.url}/admin/oauth/authorize?{query}")

    assert status == 200
    assert "write_inventory" in page
    assert "<b>" not in page
