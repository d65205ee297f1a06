"""The engine as it runs in production: books in PostgreSQL, channels over HTTP, Redlock over its nodes."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import cache

import redis
from django.conf import settings

from channels import connect, credentials, inbox, protocol
from channels.models import Channel
from sync.ports import ChannelRef, Engine
from sync.tables import Tables
from synctec.lib import sql
from synctec.lib.redlock import Locked, Redlock

READ_CLOCK_SECONDS = 30.0
#: Counts on while the machine sleeps, where the system has such a clock.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


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


class SkuLocks:
    """Redlock over this process's connections to all lock nodes."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._redlock = Redlock([redis.Redis.from_url(url) for url in urls])

    def try_lock(self, keys: Sequence[str]) -> AbstractContextManager[Locked]:
        return self._redlock.try_lock(keys, auto_extend=True)


class DatabaseClock:
    """The database's clock, carried on by this machine's steady one: workers whose wall clocks differ agree on what is due.

    Read anew now and then, since no two clocks run quite alike.
    """

    def __init__(self) -> None:
        self._read: tuple[datetime, float] | None = None

    def __call__(self) -> datetime:
        """Raises OperationalError when it must be read and the database is away."""
        steady = time.clock_gettime(_STEADY)
        if self._read is None or steady - self._read[1] > READ_CLOCK_SECONDS:
            [(moment,)] = sql.rows("SELECT clock_timestamp()")
            self._read = (moment, time.clock_gettime(_STEADY))
            return self._read[0]
        moment, at = self._read
        return moment + timedelta(seconds=steady - at)


@cache
def engine() -> Engine:
    """This process's engine."""
    return Engine(
        books=Tables(),
        channels=LiveChannels(),
        locks=SkuLocks(settings.REDLOCK_URLS),
        rng=random.Random(),  # noqa: S311  # spreads retries, keeps no secret
        now=DatabaseClock(),
        audit_lag=timedelta(seconds=settings.AUDIT_LAG_SECONDS),
        poll_overlap=timedelta(seconds=settings.RECONCILE_OVERLAP_SECONDS),
    )


def ref(channel: Channel) -> ChannelRef:
    """The channel as the acts name it."""
    return ChannelRef(channel.pk, channel.merchant_id, channel.kind)
