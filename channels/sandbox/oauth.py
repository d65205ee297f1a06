"""The store's side of OAuth: what is asked for, what is granted, where the browser goes next."""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from channels.sandbox.store import Refusal
from synctec.lib.signing import sign_hex_query

if TYPE_CHECKING:
    from channels.sandbox.mall import Mall
    from channels.sandbox.store import Store


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    client_id: str
    redirect_uri: str
    state: str
    scope: str


def parse_request(store: Store, given: Mapping[str, Any]) -> AuthorizationRequest:
    """Raises Refusal (400) when the client is not the store's or the address is no web address."""
    request = AuthorizationRequest(
        client_id=str(given.get("client_id", "")),
        redirect_uri=str(given.get("redirect_uri", "")),
        state=str(given.get("state", "")),
        scope=str(given.get("scope", "")),
    )
    if not _same(request.client_id, store.access.client_id):
        raise Refusal("invalid_client: no app of this store has this client_id", code="invalid_client", status=400)
    if urlsplit(request.redirect_uri).scheme not in ("http", "https"):
        raise Refusal("invalid_request: redirect_uri is not a web address", code="invalid_request", status=400)
    return request


def callback_address(store: Store, request: AuthorizationRequest, code: str, *, now_us: int) -> str:
    """Where the browser is sent after approval, signed with the client secret."""
    params = {
        "code": code,
        "host": base64.b64encode(f"admin.shopify.com/store/{store.handle}".encode()).decode().rstrip("="),
        "shop": store.domain,
        "state": request.state,
        "timestamp": str(now_us // 1_000_000),
    }
    params["hmac"] = sign_hex_query(params, store.access.client_secret)
    separator = "&" if "?" in request.redirect_uri else "?"
    return f"{request.redirect_uri}{separator}{urlencode(params)}"


def grant(mall: Mall, store: Store, given: Mapping[str, Any]) -> dict[str, Any]:
    """Answer POST /admin/oauth/access_token. Raises Refusal with the status the real endpoint has."""
    client_id, secret = str(given.get("client_id", "")), str(given.get("client_secret", ""))
    access = store.access
    if not _same(client_id, access.client_id) or not _same(secret, access.client_secret):
        raise Refusal("Client authentication failed", code="invalid_client", status=401)
    token = "shpat_" + secrets.token_hex(16)
    kind = str(given.get("grant_type", ""))
    if kind == "client_credentials":
        answer: dict[str, Any] = mall.perform(store.handle, "issue_for_client", {"token": token})
    elif kind == "refresh_token":
        arguments: dict[str, str | None] = {
            "used": str(given.get("refresh_token", "")),
            "token": token,
            "refresh_token": "shprt_" + secrets.token_hex(16),
        }
        answer = mall.perform(store.handle, "refresh", arguments)
    elif given.get("code"):
        expiring = str(given.get("expiring", "")).lower() in ("1", "true")
        arguments = {
            "code": str(given["code"]),
            "token": token,
            "refresh_token": "shprt_" + secrets.token_hex(16) if expiring else None,
        }
        answer = mall.perform(store.handle, "exchange_code", arguments)
    else:
        raise Refusal("unsupported grant_type", code="unsupported_grant_type", status=400)
    return answer


def _same(one: str, other: str) -> bool:
    return bool(other) and hmac.compare_digest(one.encode(), other.encode())
