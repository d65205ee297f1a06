"""API keys: made, recognised, revoked.

A key reads `st_<8 hex digits>_<43 characters>`: the beginning tells keys apart in lists and logs, the rest is 256
random bits. Only the SHA-256 of the whole is kept; that needs no slow hash, since there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from merchants import trail
from merchants.models import ApiKey, Merchant, User
from synctec.lib.secret import Secret

_FORM = re.compile(r"st_[0-9a-f]{8}_[A-Za-z0-9_-]{43}")
#: `last_used_at` is written at most this often, so that reading requests stay reads.
_USE_NOTED_EVERY = timedelta(minutes=5)


class KeyRefused(Exception):
    """The key opens nothing; the text says why and what to do. It never quotes the key."""


@transaction.atomic
def create(
    *, merchant: Merchant, name: str, scopes: Collection[str], expires_at: datetime | None, user: User | None
) -> tuple[ApiKey, Secret]:
    """A new key and its secret, which nobody can be told again."""
    prefix, secret = make_secret()
    key = ApiKey.objects.create(
        merchant=merchant,
        name=name,
        prefix=prefix,
        secret_sha256=digest(secret.reveal()),
        scopes=sorted(scopes),
        expires_at=expires_at,
        created_by=user,
    )
    trail.record(
        merchant_id=merchant.pk,
        action="apikey.create",
        subject=key,
        user=user,
        after={"scopes": key.scopes, "expires_at": expires_at.isoformat() if expires_at else None},
    )
    return key, secret


@transaction.atomic
def revoke(key: ApiKey, *, user: User | None, now: datetime, reason: str = "") -> bool:
    """End a key: the next request with it is refused. Returns False for one that was revoked before."""
    if not ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now):
        return False
    trail.record(
        merchant_id=key.merchant_id,
        action="apikey.revoke",
        subject=key,
        user=user,
        after={"revoked_at": now.isoformat()},
        reason=reason,
    )
    return True


def recognise(token: str, *, now: datetime) -> ApiKey:
    """The key that `token` is, read anew for every request: a revoked one is refused at once.

    Raises:
        KeyRefused: unknown, revoked, expired, or its merchant is switched off.
    """
    key = None
    if _FORM.fullmatch(token):
        key = ApiKey.objects.select_related("merchant").filter(secret_sha256=digest(token)).first()
    if key is None or not key.merchant.is_active:
        raise KeyRefused("This API key is not known. Copy it whole, from st_ to its end, or make a new one.")
    if key.revoked_at is not None:
        raise KeyRefused(f"The API key {key.prefix} was revoked. Make a new one.")
    if key.expires_at is not None and key.expires_at <= now:
        raise KeyRefused(f"The API key {key.prefix} has expired. Make a new one.")
    _note_use(key, now)
    return key


def _note_use(key: ApiKey, now: datetime) -> None:
    stale = now - _USE_NOTED_EVERY
    if key.last_used_at is None or key.last_used_at < stale:
        unnoted = Q(last_used_at=None) | Q(last_used_at__lt=stale)
        ApiKey.objects.filter(unnoted, pk=key.pk).update(last_used_at=now)


def make_secret() -> tuple[str, Secret]:
    """How a new key begins, and the whole of it."""
    prefix = f"st_{secrets.token_hex(4)}"
    return prefix, Secret(f"{prefix}_{secrets.token_urlsafe(32)}")


def digest(token: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(token.encode()).digest()
