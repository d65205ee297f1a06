"""The engine's Redlock: it keeps workers off each other's SKUs. Correctness does not rest on it (see design rule 7)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache

import redis
from django.conf import settings

from synctec.lib.redlock import Locked, Redlock


@cache
def skus() -> Redlock:
    """The lock over this process's connections to all lock nodes."""
    return Redlock([redis.Redis.from_url(url) for url in settings.REDLOCK_URLS])


def sku_keys(sku_ids: Iterable[int]) -> list[str]:
    """The names under which SKUs are locked."""
    return [f"sku:{sku}" for sku in sorted(sku_ids)]


def holds_all(locked: Locked, keys: Collection[str]) -> bool:
    """Whether work on these keys may go ahead: all are ours, or too few lock nodes answer to tell.

    In the second case the row locks in PostgreSQL do alone, at the price of some waiting.
    """
    return locked.is_degraded or locked.keys.issuperset(keys)
