"""Which connector speaks for which kind of channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from channels.connectors.shopify.connector import ShopifyConnector
from channels.connectors.shopify.events import ShopifyEventReader
from channels.protocol import Connector, EventReader, Pacing
from synctec.lib.http import GuardedSession
from synctec.lib.secret import Secret


class ConnectorFactory(Protocol):
    """How a connector is made; one per task."""

    def __call__(
        self,
        *,
        account: str,
        base_url: str,
        token: Callable[[bool], Secret],
        session: GuardedSession,
        pacer: Pacing,
        downloads: GuardedSession | None = None,
    ) -> Connector: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of channel: who reads its events, who speaks to its API."""

    reader: EventReader
    connect: ConnectorFactory


#: Kind -> connector. The sandbox speaks Shopify's language at another address.
REGISTRY: dict[str, Kind] = {
    "shopify": Kind(reader=ShopifyEventReader(), connect=ShopifyConnector),
    "sandbox": Kind(reader=ShopifyEventReader(), connect=ShopifyConnector),
}
