"""The engine as it runs in production: books in PostgreSQL, channels over HTTP, Redlock over its nodes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import cache
from time import monotonic, sleep

import redis
from django.conf import settings

from channels import connect, credentials, inbox, protocol
from channels.models import Channel
from sync.ports import ChannelRef, Engine
from sync.tables import Tables
from synctec.lib import clock
from synctec.lib.redlock import Locked, Redlock


class LiveChannels:
    """Connectors as they are registered, with this process's sessions, tokens and budgets."""

    def reader(self, kind: str) -> protocol.EventReader:
        return connect.reader_for(kind)

    def connector(self, channel_id: int) -> protocol.Connector:
        return connect.connector_for(Channel.objects.get(pk=channel_id))

    def needs_authorization(self, channel_id: int, reason: str) -> None:
        credentials.needs_authorization(Channel.objects.get(pk=channel_id), reason=reason)

    def received(self, merchant_id: int) -> None:
        inbox.ring(merchant_id)


#: So long a worker waits for SKUs that others are busy with, before it gives up what it has read and prepared about them:
#: somewhat longer than the transaction of a full batch. It looks again this often.
PATIENCE_SECONDS = 0.25
LOOK_AGAIN_SECONDS = 0.005


class SkuLocks:
    """Redlock over this process's connections to all lock nodes."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._redlock = Redlock([redis.Redis.from_url(url) for url in urls])

    def try_lock(self, keys: Sequence[str], *, patient: bool = False) -> AbstractContextManager[Locked]:
        gives_up_at = monotonic() + (PATIENCE_SECONDS if patient else 0.0)
        while True:
            locked = self._redlock.try_lock(keys, auto_extend=True)
            if locked.is_degraded or len(locked.keys) == len(set(keys)) or monotonic() >= gives_up_at:
                return locked
            # Nobody waits with a lock in hand: two who want the same would wait for each other.
            locked.release()
            sleep(LOOK_AGAIN_SECONDS)


@cache
def engine() -> Engine:
    """This process's engine."""
    return Engine(
        books=Tables(),
        channels=LiveChannels(),
        locks=SkuLocks(settings.REDLOCK_URLS),
        rng=random.Random(),  # noqa: S311  # spreads retries, keeps no secret
        now=clock.now,
        audit_lag=timedelta(seconds=settings.AUDIT_LAG_SECONDS),
        poll_overlap=timedelta(seconds=settings.RECONCILE_OVERLAP_SECONDS),
    )


def ref(channel: Channel) -> ChannelRef:
    """The channel as the acts name it."""
    return ChannelRef(channel.pk, channel.merchant_id, channel.kind)
