"""The engine as tests use it: real books, a standing clock, and stores in memory."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from django.conf import settings

from channels import protocol
from channels.models import Channel
from sync import live
from sync.ports import Engine
from tests.factories import NOON


@dataclass
class StoresInMemory(live.LiveChannels):
    """Real readers; connectors that the test has made. A channel without one does not answer."""

    stores: Mapping[int, protocol.Connector] = field(default_factory=dict)

    def connector(self, channel_id: int) -> protocol.Connector:
        if channel_id not in self.stores:
            raise protocol.Unavailable("this test has no such store")
        return self.stores[channel_id]

    def received(self, merchant_id: int) -> None:
        """Nobody is woken."""


def engine(now: datetime = NOON, stores: Mapping[Channel, protocol.Connector] | None = None) -> Engine:
    """An engine whose clock stands at `now`."""
    connectors = {channel.pk: store for channel, store in (stores or {}).items()}
    return replace(
        live.engine(),
        channels=StoresInMemory(connectors),
        rng=random.Random(1),
        now=lambda: now,
        audit_lag=timedelta(seconds=settings.AUDIT_LAG_SECONDS),
        poll_overlap=timedelta(seconds=settings.RECONCILE_OVERLAP_SECONDS),
    )


ref = live.ref
