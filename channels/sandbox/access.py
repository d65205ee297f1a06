"""Commands about the app's access: tokens, codes, refresh tokens, uninstalling. Pure; the random strings come
from outside.
"""

from __future__ import annotations

from typing import Any

from channels.sandbox.store import Access, RefreshToken, Refusal, Store, Token

SECOND_US = 1_000_000
CLIENT_CREDENTIALS_SECONDS = 24 * 3600
OFFLINE_TOKEN_SECONDS = 3600
REFRESH_TOKEN_SECONDS = 90 * 24 * 3600
OLD_REFRESH_SECONDS = 30 * 24 * 3600
CODE_SECONDS = 60


def is_valid_token(access: Access, token: str, *, now_us: int) -> bool:
    found = access.tokens.get(token)
    if found is None or not access.installed:
        return False
    return found.expires_us is None or found.expires_us > now_us


def install(store: Store, now_us: int, *, client_id: str, client_secret: str, access_token: str | None) -> None:
    """Set the app's client, and a token without expiry where one is given."""
    store.access.client_id = client_id
    store.access.client_secret = client_secret
    store.access.installed = True
    if access_token:
        store.access.tokens[access_token] = Token(None)


def issue_for_client(store: Store, now_us: int, *, token: str) -> dict[str, Any]:
    """Grant by client credentials: a token for 24 hours."""
    _forget_expired(store, now_us)
    store.access.installed = True
    store.access.tokens[token] = Token(now_us + CLIENT_CREDENTIALS_SECONDS * SECOND_US)
    return {
        "access_token": token,
        "scope": ",".join(store.settings.scopes),
        "expires_in": CLIENT_CREDENTIALS_SECONDS - 1,
    }


def issue_code(store: Store, now_us: int, *, code: str) -> None:
    store.access.codes[code] = now_us + CODE_SECONDS * SECOND_US


def exchange_code(store: Store, now_us: int, *, code: str, token: str, refresh_token: str | None) -> dict[str, Any]:
    """Grant by authorization code, once; with a refresh token the access token lives one hour."""
    valid_until_us = store.access.codes.get(code)
    if valid_until_us is None or valid_until_us <= now_us:
        raise Refusal("The authorization code was not found or was already used", code="invalid_request", status=400)
    del store.access.codes[code]
    store.access.installed = True
    if refresh_token is None:
        store.access.tokens[token] = Token(None)
        return {"access_token": token, "scope": ",".join(store.settings.scopes)}
    return _issue_pair(store, now_us, token, refresh_token, predecessor=None)


def refresh(store: Store, now_us: int, *, used: str, token: str, refresh_token: str) -> dict[str, Any]:
    """Rotate both tokens. The used refresh token works again until its successor is used, 30 days at most."""
    known = store.access.refresh_tokens.get(used)
    if known is None or known.expires_us <= now_us or not store.access.installed:
        raise Refusal("This request requires an active refresh_token", code="invalid_request", status=401)
    if known.predecessor is not None:
        store.access.refresh_tokens.pop(known.predecessor, None)
        known.predecessor = None
    known.expires_us = min(known.expires_us, now_us + OLD_REFRESH_SECONDS * SECOND_US)
    _forget_expired(store, now_us)
    return _issue_pair(store, now_us, token, refresh_token, predecessor=used)


def _issue_pair(
    store: Store, now_us: int, token: str, refresh_token: str, *, predecessor: str | None
) -> dict[str, Any]:
    store.access.tokens[token] = Token(now_us + OFFLINE_TOKEN_SECONDS * SECOND_US)
    store.access.refresh_tokens[refresh_token] = RefreshToken(now_us + REFRESH_TOKEN_SECONDS * SECOND_US, predecessor)
    return {
        "access_token": token,
        "scope": ",".join(store.settings.scopes),
        "expires_in": OFFLINE_TOKEN_SECONDS,
        "refresh_token": refresh_token,
        "refresh_token_expires_in": REFRESH_TOKEN_SECONDS,
    }


def expire_tokens(store: Store, now_us: int) -> dict[str, Any]:
    """Let every access token that can expire do so now: what a client meets in the middle of its work."""
    expired = 0
    for token in store.access.tokens.values():
        if token.expires_us is not None and token.expires_us > now_us:
            token.expires_us = now_us
            expired += 1
    return {"expired": expired}


def uninstall(store: Store, now_us: int) -> dict[str, Any]:
    """The merchant removes the app: it is told once, its tokens and subscriptions are gone."""
    store.announce("app/uninstalled", ("shop", 0, 0), store.new_event())
    store.access.installed = False
    store.access.tokens.clear()
    store.access.refresh_tokens.clear()
    store.access.codes.clear()
    store.subscriptions.clear()
    return {"installed": False}


def _forget_expired(store: Store, now_us: int) -> None:
    tokens = store.access.tokens
    for token in [t for t, known in tokens.items() if known.expires_us and known.expires_us <= now_us]:
        del tokens[token]
