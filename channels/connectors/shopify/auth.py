"""Getting and renewing access to a store. Pure of Django: a `TokenGrant` comes out; the caller stores it.

Three ways (Shopify's authentication guides, 2026):
- client credentials: our app and the stores are of one organisation; a token for 24 hours, asked for again;
- authorization code: any other merchant; a token for an hour with a refresh token for 90 days (`expiring=1`);
- refresh: rotates both. The old refresh token works until the new one is first used, so a crash in between is
  harmless.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn
from urllib.parse import urlencode

from channels.connectors.shopify.parsing import JsonObject
from channels.protocol import ChannelError, NotAuthorized, Refused, Throttled, Unavailable
from synctec.lib import http
from synctec.lib.http import GuardedSession
from synctec.lib.secret import Secret
from synctec.lib.signing import is_myshopify_domain, verify_hex_query

#: What we cannot do without, and why:
REQUIRED_SCOPES: tuple[str, ...] = (
    "write_inventory",  # set quantities, activate levels; includes reading levels and their webhooks
    "read_products",  # variants and their SKUs; products/... webhooks
    "read_locations",  # names and states of locations; locations/... webhooks
    "read_orders",  # sales, refunds and fulfilments of orders; orders/... and refunds/... webhooks
    "read_merchant_managed_fulfillment_orders",  # which location each line is taken from
)

#: Asked for besides; without it lines kept by a fulfilment service have no known location until they ship.
OPTIONAL_SCOPES: tuple[str, ...] = ("read_third_party_fulfillment_orders",)

#: A callback older (or newer) than this is not the answer to the merchant's click. Shopify's Node library: 90
#: s.
CALLBACK_AGE_MAX_SECONDS = 90

_TOKEN_PATH = "/admin/oauth/access_token"  # noqa: S105
_AUTHORIZE_PATH = "/admin/oauth/authorize"
_SECONDS_MAX = 10 * 365 * 86_400
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_CODE = re.compile(r"[!-~]{1,512}")


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """An access token and what belongs to it. None for a time means: it does not expire."""

    access_token: Secret
    expires_at: datetime | None
    refresh_token: Secret | None
    refresh_expires_at: datetime | None
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Callback:
    """A callback of the authorization-code flow that passed every check."""

    shop: str
    code: Secret


class CallbackError(ChannelError):
    """The browser came back with something that is not the answer to our request. Start again."""


def missing_scopes(granted: Iterable[str], required: Sequence[str] = REQUIRED_SCOPES) -> tuple[str, ...]:
    """Which of the required scopes were not granted. Shopify leaves out read_x where write_x is granted."""
    held = set(granted)
    held |= {"read_" + scope.removeprefix("write_") for scope in held if scope.startswith("write_")}
    return tuple(scope for scope in required if scope not in held)


# --- authorization code -------------------------------------------------------------------------------------


def authorization_url(*, base_url: str, client_id: str, redirect_uri: str, state: str) -> str:
    """Where to send the merchant's browser. `state` is unguessable and bound to that browser's session."""
    scopes = ",".join((*REQUIRED_SCOPES, *OPTIONAL_SCOPES))
    query = {"client_id": client_id, "scope": scopes, "redirect_uri": redirect_uri, "state": state}
    return f"{base_url.rstrip('/')}{_AUTHORIZE_PATH}?{urlencode(query)}"


def check_callback(
    params: Mapping[str, str],
    *,
    expected_state: str,
    client_secret: Secret,
    now: datetime,
    expected_shop: str | None = None,
) -> Callback:
    """The code and shop of a callback, if state, signature, shop and age are right.

    `expected_shop` is the shop the flow was begun for, when it is known; a sandbox shop's name is accepted
    only so.

    Raises:
        CallbackError: which check failed, in a sentence for people.
    """
    state = params.get("state", "")
    if not expected_state or not hmac.compare_digest(state.encode(errors="replace"), expected_state.encode()):
        raise CallbackError("The answer belongs to another browser session: begin again.", code="STATE")
    if not verify_hex_query(params, client_secret):
        raise CallbackError("The answer is not signed with the app's secret.", code="HMAC")
    shop = params.get("shop", "")
    if expected_shop is None and not is_myshopify_domain(shop):
        raise CallbackError("The answer does not come from a Shopify store.", code="SHOP")
    if expected_shop is not None and shop.lower() != expected_shop.lower():
        raise CallbackError("The answer comes from another store than the one asked.", code="SHOP")
    _check_age(params.get("timestamp", ""), now)
    code = params.get("code", "")
    if not _CODE.fullmatch(code):
        raise CallbackError("The answer carries no code: access was not granted.", code="CODE")
    return Callback(shop=shop.lower(), code=Secret(code))


def _check_age(timestamp: str, now: datetime) -> None:
    if not _TIMESTAMP.fullmatch(timestamp):
        raise CallbackError("The answer does not say when it was made.", code="TIMESTAMP")
    if abs(now.timestamp() - int(timestamp)) > CALLBACK_AGE_MAX_SECONDS:
        raise CallbackError("The answer is too old: begin again.", code="TIMESTAMP")


def exchange_code(
    *,
    base_url: str,
    client_id: str,
    client_secret: Secret,
    code: Secret,
    session: GuardedSession,
    now: datetime,
) -> TokenGrant:
    """Turn the code of a callback into an expiring token. A code works once."""
    form = {
        "client_id": client_id,
        "client_secret": client_secret.reveal(),
        "code": code.reveal(),
        "expiring": "1",
    }
    return _request_grant(base_url, form, session=session, now=now)


# --- the other ways -----------------------------------------------------------------------------------------


def request_by_client_credentials(
    *, base_url: str, client_id: str, client_secret: Secret, session: GuardedSession, now: datetime
) -> TokenGrant:
    """A token for a store of the app's own organisation; there is no refresh token, ask again."""
    form = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_secret": client_secret.reveal(),
    }
    return _request_grant(base_url, form, session=session, now=now)


def refresh(
    *,
    base_url: str,
    client_id: str,
    client_secret: Secret,
    refresh_token: Secret,
    session: GuardedSession,
    now: datetime,
) -> TokenGrant:
    """A new pair for an old one. Call it under a lock per store and save both in one transaction."""
    form = {
        "grant_type": "refresh_token",
        "client_id": client_id,
        "client_secret": client_secret.reveal(),
        "refresh_token": refresh_token.reveal(),
    }
    return _request_grant(base_url, form, session=session, now=now)


# --- the one request they share -----------------------------------------------------------------------------


def _request_grant(base_url: str, form: Mapping[str, str], *, session: GuardedSession, now: datetime) -> TokenGrant:
    """POST the form and read the grant.

    Raises:
        NotAuthorized: the channel refuses these credentials; a person must look.
        Throttled, Unavailable: ask again later. A grant that was made but got lost does no harm.
        Refused: the address is wrong.
    """
    try:
        response = session.post(
            base_url.rstrip("/") + _TOKEN_PATH, json=dict(form), headers={"Accept": "application/json"}
        )
    except http.AddressRefused as error:
        raise Refused(f"The store's address is not allowed: {error}", code="ADDRESS_REFUSED") from None
    except http.HttpError as error:
        raise Unavailable(f"The store gave no token: {error}", code=type(error).__name__) from None
    if response.status_code != 200:
        _raise_for_status(response.status_code)
    return _read_grant(response.content, now)


def _raise_for_status(status: int) -> NoReturn:
    code = f"HTTP_{status}"
    if status == 429:
        raise Throttled("The store asks to wait before giving a token.", code=code, retry_after=1.0)
    if status == 404:
        raise Refused("There is no such store: check its address.", code=code)
    if status >= 500 or status < 400 or status in (402, 408, 423):
        raise Unavailable(f"The store gives no token now (HTTP {status}).", code=code)
    # Neither the body nor its error text: it may repeat what we sent.
    raise NotAuthorized(f"The store refuses the app's credentials (HTTP {status}): connect it again.", code=code)


def _read_grant(content: bytes, now: datetime) -> TokenGrant:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if type(answer) is not dict:
        _raise_unreadable("not a JSON object")
    scope = answer.get("scope")
    if type(scope) is not str:
        _raise_unreadable("no scope")
    has_refresh = answer.get("refresh_token") is not None
    return TokenGrant(
        access_token=_secret(answer, "access_token"),
        expires_at=_moment(answer, "expires_in", now),
        refresh_token=_secret(answer, "refresh_token") if has_refresh else None,
        refresh_expires_at=_moment(answer, "refresh_token_expires_in", now) if has_refresh else None,
        scopes=frozenset(part for part in re.split(r"[,\s]+", scope) if part),
    )


def _secret(answer: JsonObject, name: str) -> Secret:
    value = answer.get(name)
    if type(value) is not str or not _CODE.fullmatch(value):
        _raise_unreadable(f"no {name}")
    return Secret(value)


def _moment(answer: JsonObject, name: str, now: datetime) -> datetime | None:
    seconds = answer.get(name)
    if seconds is None:
        return None
    if type(seconds) is not int or not 0 < seconds <= _SECONDS_MAX:
        _raise_unreadable(f"an absurd {name}")
    return now + timedelta(seconds=seconds)


def _raise_unreadable(what: str) -> NoReturn:
    raise Unavailable(f"The store's answer about a token makes no sense: {what}.", code="ANSWER_UNREADABLE")
