"""A Shopify store as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from channels.connectors.shopify import documents, reading, subscriptions, writing
from channels.connectors.shopify.bulk import BulkLevels
from channels.connectors.shopify.client import ShopifyClient
from channels.connectors.shopify.documents import GENEROUS
from channels.connectors.shopify.lint import check_rows
from channels.connectors.shopify.order_reads import OrderReader
from channels.connectors.shopify.parsing import read_object, read_objects, read_text
from channels.protocol import (
    Capabilities,
    LevelState,
    LocationState,
    OrderPage,
    OutcomeUnknown,
    Pacing,
    PolledOrder,
    QuantityChange,
    Refused,
    Snapshot,
    SubscriptionReport,
    VariantState,
    WriteResult,
)
from synctec.lib.http import GuardedSession
from synctec.lib.secret import Secret


class ShopifyConnector:
    """`channels.protocol.Connector` for one store, real or sandbox.

    Cheap to make, bound to its session: one per task, not shared between threads.
    """

    capabilities = Capabilities(
        compare_and_set=True,
        idempotency_keys=True,
        rows_per_write=writing.ROWS_PER_WRITE,
        levels_per_read=reading.LEVELS_PER_READ,
        orders_per_read=GENEROUS.orders,
    )

    def __init__(
        self,
        *,
        account: str,
        base_url: str,
        token: Callable[[bool], Secret],
        session: GuardedSession,
        pacer: Pacing,
        downloads: GuardedSession | None = None,
    ) -> None:
        """`account`: the shop's domain. `base_url`: where its API is, without a path for Shopify itself.

        `downloads`: the session for result files, where they are not at the account's own address.
        `token(force_refresh)` gives the access token; it is called with True once after a 401 before giving
        up.
        """
        self._client = ShopifyClient(account=account, base_url=base_url, token=token, session=session, pacer=pacer)
        self._levels = reading.LevelReader(self._client)
        self._orders = OrderReader(self._client)
        self._bulk = BulkLevels(self._client, downloads or session)

    @property
    def its_time(self) -> datetime | None:
        """The store's clock at its latest answer."""
        return self._client.its_time

    def read_locations(self) -> tuple[LocationState, ...]:
        """All locations, inactive ones and those of fulfilment services included."""
        return reading.read_locations(self._client)

    def read_catalogue(self) -> Iterator[tuple[VariantState, ...]]:
        """All variants, a hundred at a time."""
        return reading.read_catalogue(self._client)

    def read_variants(self, product_id: str) -> tuple[VariantState, ...]:
        """The variants of one product; none when it is gone."""
        return reading.read_variants(self._client, product_id)

    def read_levels(self, inventory_item_ids: Sequence[str]) -> tuple[LevelState, ...]:
        """All levels of these items, those switched off included; unknown items are left out."""
        return self._levels.read(inventory_item_ids)

    def begin_snapshot(self) -> str:
        """Have the store write down all its levels (a bulk operation); returns the operation's id."""
        return self._bulk.begin()

    def read_snapshot(self, snapshot_id: str) -> Snapshot:
        """How far the bulk operation is."""
        return self._bulk.look(snapshot_id)

    def snapshot_levels(self, snapshot_id: str) -> Iterator[tuple[LevelState, ...]]:
        """All levels in its file, a thousand at a time."""
        return self._bulk.levels(snapshot_id)

    def cancel_snapshot(self, snapshot_id: str) -> None:
        """Stop a bulk operation that nobody waits for."""
        self._bulk.cancel(snapshot_id)

    def read_orders_since(self, since: datetime, *, cursor: str | None) -> OrderPage:
        """A page of the orders changed at `since` or later, oldest change first."""
        return self._orders.read_since(since, cursor)

    def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
        """These orders as of now; those the store does not show are left out."""
        return self._orders.read(order_ids)

    def write_quantities(self, changes: Sequence[QuantityChange], *, key: str, reference: str) -> WriteResult:
        """Set the `available` quantity of up to 250 levels, all or none of them.

        `reference` appears in the merchant's inventory history; a bare name becomes
        gid://synctec/PushBatch/<name>. A STALE row of a *repeated* key does not prove that the first sending
        was not applied: read the level.
        """
        given = writing.input_of(changes, reference=reference)
        if faults := check_rows(given["quantities"]):
            raise Refused(f"A write without what it changes from: {faults[0]}", code="LINT")
        payload = self._client.mutate(documents.SET_QUANTITIES, {"input": given, "key": key}, size=len(changes))
        return writing.read_write_result(payload, row_count=len(changes))

    def activate_level(self, *, inventory_item_id: str, location_id: str, key: str) -> None:
        """Stock an item at a location; no quantity is set. Nothing happens where it is stocked already."""
        variables = {
            "inventoryItemId": reading.gid("InventoryItem", inventory_item_id),
            "locationId": reading.gid("Location", location_id),
            "key": key,
        }
        payload = self._client.mutate(documents.ACTIVATE_LEVEL, variables)
        errors = payload.get("userErrors") if type(payload) is dict else None
        if type(errors) is not list:
            raise OutcomeUnknown("The store's answer to an activation has an unknown form.", code="ANSWER_UNREADABLE")
        if not errors or self._is_stocked(inventory_item_id, location_id):
            return
        # These errors carry no code, so the level itself was asked before believing them.
        said = "; ".join(str(error.get("message"))[:200] for error in errors if type(error) is dict)
        raise Refused(f"The store does not stock the item there: {said}", code="ACTIVATION_REFUSED")

    def _is_stocked(self, inventory_item_id: str, location_id: str) -> bool:
        levels = self.read_levels([inventory_item_id])
        return any(level.is_stocked and level.location_id == location_id for level in levels)

    def ensure_webhooks(self, callback_url: str) -> SubscriptionReport:
        """Make every topic we use arrive once at `callback_url`."""
        return subscriptions.ensure_webhooks(self._client, callback_url)

    def read_scopes(self) -> frozenset[str]:
        """The scopes our token has; `auth.missing_scopes` compares them with what we need."""
        with reading.checking_answer("our access"):
            answer = self._client.query(documents.SCOPES, {})
            installation = read_object(answer.get("currentAppInstallation"), "currentAppInstallation")
            scopes = read_objects(installation.get("accessScopes"), "accessScopes")
            return frozenset(read_text(scope.get("handle"), "accessScopes.handle") for scope in scopes)
