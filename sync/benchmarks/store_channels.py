"""The way to the bench's stores: the real connector, pacing included, at another address."""

from __future__ import annotations

import redis
from django.conf import settings

from channels import pacing, protocol
from channels.connectors.shopify.connector import ShopifyConnector
from channels.models import Channel
from sync import live
from synctec.lib.http import AddressRule, GuardedSession
from synctec.lib.secret import Secret


class StoreChannels(live.LiveChannels):
    """Each channel's store is at `<url>/<its number>`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = GuardedSession(AddressRule.exact_origin(url))
        self._redis = redis.Redis.from_url(settings.REDIS_URL)
        self._connectors: dict[int, ShopifyConnector] = {}

    def connector(self, channel_id: int) -> protocol.Connector:
        """One per channel."""
        if channel_id not in self._connectors:
            account = Channel.objects.get(pk=channel_id).account
            number = account.removeprefix("store-").partition(".")[0]
            self._connectors[channel_id] = ShopifyConnector(
                account=account,
                base_url=f"{self._url}/{number}",
                token=lambda _: Secret("only-for-benches"),
                session=self._session,
                pacer=pacing.pacer_for(self._redis, channel_id=channel_id),
            )
        return self._connectors[channel_id]
