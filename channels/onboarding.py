"""Bringing a channel in: connecting an account, learning what it has, and letting the engine loose on it.

Every act may be repeated and may be interrupted: what is there already is brought up to date, never doubled,
and `activate` picks up where it was left. The order inside `activate` matters: orders count from a moment
*before* anything is read, and the channel tells us of changes before we look, so that nothing falls between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import structlog
from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.utils.text import slugify

from channels import connect, credentials, mapping, origins, protocol, states
from channels.connectors.shopify import auth
from channels.models import Channel, ChannelKind, ChannelState, Credential, Listing, StoreLocation
from merchants import trail
from merchants.models import Merchant, User
from synctec.lib import clock
from synctec.lib.http import HttpError
from synctec.lib.secret import Secret
from synctec.lib.signing import is_myshopify_domain

Row = TypeVar("Row")

log = structlog.get_logger(__name__)

#: Called with the channel's id after it was connected or authorized again, to have it activated in the
#: background. Filled by the engine when it starts, like `channels.inbox.on_received`.
on_connected: list[Callable[[int], object]] = []

#: Paths of the sandbox itself (`channels.sandbox.server`).
_HANDLES_RESERVED = ("shop", "admin", "bulk")

#: Rows of one statement while importing.
BATCH_ROWS = 500

#: Why levels are doubted whose items the channel begins to count, or counts no longer.
COUNTED_OTHERWISE = "counted anew, or no longer"


class OnboardingError(Exception):
    """A channel could not be brought in. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class CatalogueReport:
    """What an import of the catalogue found."""

    variants: int
    created: int
    mapped: int
    unmapped: int
    deleted: int


@dataclass(frozen=True, slots=True)
class LevelsReport:
    """What an import of the levels found."""

    read: int
    created: int
    suspect: int


@dataclass(frozen=True, slots=True)
class ActivationReport:
    """What `activate` did."""

    webhooks: protocol.SubscriptionReport
    locations: int
    catalogue: CatalogueReport
    levels: LevelsReport


# --- learning what a channel has ----------------------------------------------------------------------------

_UPSERT_LOCATIONS = """
    INSERT INTO channels_storelocation (merchant_id, channel_id, remote_id, name, is_active)
    SELECT %s, %s, found.*
      FROM unnest(%s::text[], %s::text[], %s::boolean[]) AS found (remote_id, name, is_active)
     ORDER BY found.remote_id
    ON CONFLICT (channel_id, remote_id) DO UPDATE SET name = excluded.name, is_active = excluded.is_active
     WHERE (channels_storelocation.name, channels_storelocation.is_active)
           IS DISTINCT FROM (excluded.name, excluded.is_active)
"""

_UPSERT_LISTINGS = """
    INSERT INTO channels_listing AS listing (
        merchant_id, channel_id, remote_variant_id, remote_product_id, inventory_item_id,
        remote_sku, title, barcode, is_tracked, is_store_bundle, sells_when_out_of_stock)
    SELECT %s, %s, found.*
      FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[],
                  %s::boolean[], %s::boolean[], %s::boolean[])
        AS found (variant_id, product_id, item_id, sku, title, barcode, tracked, bundle, oversells)
     ORDER BY found.variant_id
    ON CONFLICT (channel_id, remote_variant_id) DO UPDATE
       SET remote_product_id = excluded.remote_product_id, inventory_item_id = excluded.inventory_item_id,
           remote_sku = excluded.remote_sku, title = excluded.title, barcode = excluded.barcode,
           is_tracked = excluded.is_tracked, is_store_bundle = excluded.is_store_bundle,
           sells_when_out_of_stock = excluded.sells_when_out_of_stock, deleted_at = NULL
     WHERE (listing.remote_product_id, listing.inventory_item_id, listing.remote_sku, listing.title,
            listing.barcode, listing.is_tracked, listing.is_store_bundle,
            listing.sells_when_out_of_stock, listing.deleted_at)
           IS DISTINCT FROM
           (excluded.remote_product_id, excluded.inventory_item_id, excluded.remote_sku, excluded.title,
            excluded.barcode, excluded.is_tracked, excluded.is_store_bundle,
            excluded.sells_when_out_of_stock, NULL)
"""

#: A listing is mapped by itself when its SKU is one of the merchant's, to the letter, and no other listing of
#: the store has the same: nothing is guessed.
_MAP_LISTINGS = """
    UPDATE channels_listing AS listing SET sku_id = sku.id
      FROM inventory_sku AS sku
     WHERE sku.merchant_id = listing.merchant_id AND sku.code = listing.remote_sku
       AND listing.id IN (
           SELECT min(candidate.id) FROM channels_listing AS candidate
            WHERE candidate.channel_id = %s AND candidate.deleted_at IS NULL AND candidate.remote_sku <> ''
            GROUP BY candidate.remote_sku HAVING count(*) = 1)
       AND listing.sku_id IS NULL
 RETURNING listing.id
"""

_CREATE_LEVELS = """
    INSERT INTO channels_listinglevel (
        merchant_id, channel_id, listing_id, store_location_id, is_stocked, base, source_at, confirmed_at)
    SELECT listing.merchant_id, listing.channel_id, listing.id, location.id, found.is_stocked,
           found.available, found.source_at, %(now)s
      FROM unnest(%(items)s::text[], %(locations)s::text[], %(available)s::int[], %(stocked)s::boolean[],
                  %(source_at)s::timestamptz[])
        AS found (item_id, location_id, available, is_stocked, source_at)
      JOIN channels_listing AS listing
        ON listing.channel_id = %(channel)s AND listing.inventory_item_id = found.item_id
       AND listing.deleted_at IS NULL
      JOIN channels_storelocation AS location
        ON location.channel_id = %(channel)s AND location.remote_id = found.location_id
     ORDER BY listing.id, location.id
    ON CONFLICT (listing_id, store_location_id) DO NOTHING
"""

#: Run before `_CREATE_LEVELS`. A level known already has its history: a reading that differs is the engine's
#: to judge.
_DOUBT_LEVELS = """
    WITH differing AS (
        SELECT level.id
          FROM unnest(%(items)s::text[], %(locations)s::text[], %(available)s::int[], %(stocked)s::boolean[])
            AS found (item_id, location_id, available, is_stocked)
          JOIN channels_listing AS listing
            ON listing.channel_id = %(channel)s AND listing.inventory_item_id = found.item_id
          JOIN channels_storelocation AS location
            ON location.channel_id = %(channel)s AND location.remote_id = found.location_id
          JOIN channels_listinglevel AS level
            ON level.listing_id = listing.id AND level.store_location_id = location.id
         WHERE (level.shown, level.is_stocked) IS DISTINCT FROM (found.available, found.is_stocked)
         ORDER BY level.id FOR NO KEY UPDATE OF level)
    UPDATE channels_listinglevel AS level
       SET suspect_since = coalesce(level.suspect_since, %(now)s), next_check_at = %(now)s,
           suspect_reason = CASE WHEN level.suspect_since IS NULL THEN 'import' ELSE level.suspect_reason END
      FROM differing WHERE level.id = differing.id
"""

#: An older suspicion keeps its reason; but no order explains it any more, it takes a reading.
_DOUBT_LEVELS_OF = """
    WITH doubted AS (
        SELECT id FROM channels_listinglevel WHERE listing_id = ANY(%s) ORDER BY id FOR NO KEY UPDATE)
    UPDATE channels_listinglevel AS level
       SET suspect_since = coalesce(level.suspect_since, now()), suspect_available = NULL, next_check_at = now(),
           suspect_reason = CASE WHEN level.suspect_since IS NULL THEN %s ELSE level.suspect_reason END
      FROM doubted WHERE level.id = doubted.id
"""


#: What the levels showed is not free yet: units sold there before may not have been told of.
_RETIRE_LEVELS_OF = """
    WITH retired AS (
        SELECT level.id FROM channels_listinglevel AS level JOIN channels_listing AS listing ON listing.id = level.listing_id
         WHERE listing.id = ANY(%(listings)s) AND listing.deleted_at = %(now)s AND level.is_stocked AND level.gone_at IS NULL
         ORDER BY level.id FOR NO KEY UPDATE OF level)
    UPDATE channels_listinglevel AS level
       SET is_stocked = false, gone_at = %(now)s, version = level.version + 1,
           suspect_since = coalesce(level.suspect_since, %(now)s),
           suspect_reason = CASE WHEN level.suspect_since IS NULL THEN 'deleted' ELSE level.suspect_reason END,
           next_check_at = least(%(now)s, now())
      FROM retired WHERE level.id = retired.id
"""


def import_locations(channel: Channel) -> int:
    """Bring the channel's store locations up to date; those it no longer names become inactive. Returns their
    number.

    Raises:
        protocol.ChannelError: as told by the channel.
    """
    found = connect.connector_for(channel).read_locations()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            _UPSERT_LOCATIONS,
            (
                channel.merchant_id,
                channel.pk,
                [location.location_id for location in found],
                [_storable(location.name, 255) for location in found],
                [location.is_active for location in found],
            ),
        )
        StoreLocation.objects.filter(channel=channel, is_active=True).exclude(
            remote_id__in=[location.location_id for location in found]
        ).update(is_active=False)
    return len(found)


def import_catalogue(channel: Channel, *, now: datetime) -> CatalogueReport:
    """Bring the listings up to date with the channel's catalogue, a page per transaction, and map what maps
    itself.

    Raises:
        protocol.ChannelError: as told by the channel; the pages before are kept, and another run goes over
        them again.
    """
    connector = connect.connector_for(channel)
    before = Listing.objects.filter(channel=channel).count()
    seen: set[str] = set()
    for page in connector.read_catalogue():
        for variants in _batches(list({variant.variant_id: variant for variant in page}.values())):
            save_listings(channel, variants)
        seen.update(variant.variant_id for variant in page)
    deleted = _retire_missing_listings(channel, connector, seen=seen)
    mapped = map_listings(channel)
    listings = Listing.objects.filter(channel=channel)
    return CatalogueReport(
        variants=len(seen),
        created=listings.count() - before,
        mapped=mapped,
        unmapped=listings.filter(sku__isnull=True, deleted_at__isnull=True).count(),
        deleted=deleted,
    )


def import_levels(channel: Channel) -> LevelsReport:
    """Read every level of the channel's listings. New ones start from the reading; known ones are only
    doubted. A new level is confirmed as of the moment *before* it was read.

    Raises:
        protocol.ChannelError: as told by the channel; what was read before is kept.
    """
    connector = connect.connector_for(channel)
    read = created = suspect = 0
    for item_ids in _item_batches(channel, size=connector.capabilities.levels_per_read):
        asked_at = datetime.now(UTC)
        levels = [level for level in connector.read_levels(item_ids) if level.available is not None]
        read += len(levels)
        for batch in _batches(levels):
            newly_created, newly_suspect = _take_levels(channel, batch, now=asked_at)
            created += newly_created
            suspect += newly_suspect
    return LevelsReport(read=read, created=created, suspect=suspect)


def save_listings(channel: Channel, variants: Sequence[protocol.VariantState]) -> None:
    """Write what the channel says of these variants; a listing that was taken for deleted is back.

    Where the channel counts an item anew, or no longer, or has it again, its levels are to be read.
    """
    is_tracked = {variant.variant_id: variant.is_tracked for variant in variants}
    known = Listing.objects.filter(channel=channel, remote_variant_id__in=is_tracked)
    with transaction.atomic(), connection.cursor() as cursor:
        before = list(known.values_list("pk", "remote_variant_id", "is_tracked", "deleted_at"))
        cursor.execute(
            _UPSERT_LISTINGS,
            (
                channel.merchant_id,
                channel.pk,
                [variant.variant_id for variant in variants],
                [variant.product_id for variant in variants],
                [variant.inventory_item_id for variant in variants],
                [_storable(variant.sku, 255) for variant in variants],
                [_storable(variant.title, 255) for variant in variants],
                [_storable(variant.barcode, 64) for variant in variants],
                [variant.is_tracked for variant in variants],
                [variant.is_store_bundle for variant in variants],
                [variant.sells_when_out_of_stock for variant in variants],
            ),
        )
        changed = [
            pk
            for pk, variant_id, was_tracked, deleted_at in before
            if was_tracked != is_tracked[variant_id] or deleted_at is not None
        ]
        doubt_levels(changed, reason=COUNTED_OTHERWISE)


def doubt_levels(listing_ids: Sequence[int], *, reason: str) -> None:
    """Have all levels of these listings read at once, in the caller's transaction."""
    if listing_ids:
        with connection.cursor() as cursor:
            cursor.execute(_DOUBT_LEVELS_OF, (list(listing_ids), reason))


def retire_listings(listings: QuerySet[Listing], *, now: datetime) -> int:
    """Mark listings deleted that are not yet: the store does not have these variants any more. Returns how many were marked.

    What a variant showed is not free before all is known of what it has sold (`sync.residue`): its levels are read again.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        pks = list(listings.filter(deleted_at=None).order_by("pk").values_list("pk", flat=True))
        retired = Listing.objects.filter(pk__in=pks, deleted_at=None).update(deleted_at=now)
        cursor.execute(_RETIRE_LEVELS_OF, {"listings": pks, "now": now})
    return retired


def map_listings(channel: Channel) -> int:
    """Map listings without a SKU to the merchant's SKU of the same code, where that is beyond doubt; returns how many."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_MAP_LISTINGS, (channel.pk,))
        listing_ids = [listing_id for (listing_id,) in cursor.fetchall()]
        if listing_ids:
            for tell in mapping.on_mapped:
                tell(channel.merchant_id, listing_ids)
    return len(listing_ids)


def _retire_missing_listings(channel: Channel, connector: protocol.Connector, *, seen: set[str]) -> int:
    """Mark listings deleted that the catalogue left out, after asking for their products one by one: a
    catalogue read in pages can skip what moves meanwhile, and a listing taken for deleted is no longer kept
    in step.
    """
    known = Listing.objects.filter(channel=channel, deleted_at__isnull=True)
    missing: dict[str, list[int]] = {}
    for pk, variant_id, product_id in known.values_list("pk", "remote_variant_id", "remote_product_id").iterator():
        if variant_id not in seen:
            missing.setdefault(product_id, []).append(pk)
    deleted = 0
    for product_id, pks in missing.items():
        left = {variant.variant_id for variant in connector.read_variants(product_id)}
        gone = Listing.objects.filter(pk__in=pks).exclude(remote_variant_id__in=left)
        # Up to here they may have been sold.
        deleted += retire_listings(gone, now=clock.now())
    return deleted


def _item_batches(channel: Channel, *, size: int) -> Iterator[list[str]]:
    """The inventory items of the channel's listings, each once."""
    item_ids = (
        Listing.objects.filter(channel=channel, deleted_at__isnull=True)
        .exclude(inventory_item_id="")
        .order_by("inventory_item_id")
        .values_list("inventory_item_id", flat=True)
        .distinct()
    )
    # Read whole, not by a server-side cursor: no transaction stays open while the channel is being asked.
    known = list(item_ids)
    for start in range(0, len(known), size):
        yield known[start : start + size]


def _take_levels(channel: Channel, levels: Sequence[protocol.LevelState], *, now: datetime) -> tuple[int, int]:
    """Create levels that are new and doubt those that differ. Returns how many of each."""
    values: dict[str, Any] = {
        "channel": channel.pk,
        "now": now,
        "items": [level.inventory_item_id for level in levels],
        "locations": [level.location_id for level in levels],
        "available": [level.available for level in levels],
        "stocked": [level.is_stocked for level in levels],
        "source_at": [level.source_at for level in levels],
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_DOUBT_LEVELS, values)
        suspect = cursor.rowcount
        cursor.execute(_CREATE_LEVELS, values)
        return cursor.rowcount, suspect


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), BATCH_ROWS):
        yield rows[start : start + BATCH_ROWS]


def _storable(text: str, length_max: int) -> str:
    """The text as PostgreSQL can hold it in a column of this length."""
    return text.replace("\x00", "")[:length_max]


# --- connecting an account ----------------------------------------------------------------------------------


def connect_with_client_credentials(
    *,
    merchant: Merchant,
    name: str,
    account: str,
    client_id: str,
    client_secret: Secret,
    user: User | None,
    kind: ChannelKind = ChannelKind.SHOPIFY,
) -> Channel:
    """Connect a store with an app of the merchant's own, or give a store connected before its new
    credentials.

    Returns the channel once the store gave a token, so credentials that do not fit are found out here and not
    later.

    Raises:
        OnboardingError: the account is no store's, is another merchant's, refuses the app or lacks scopes.
        protocol.ChannelError: the store could not be asked; the channel is kept, the act may be repeated.
    """
    with transaction.atomic():
        channel = claim_account(merchant=merchant, kind=kind, account=account, name=name, user=user)
        credentials.store(channel, client_id=client_id, client_secret=client_secret)
    try:
        credentials.access_token(channel)
    except protocol.NotAuthorized as error:
        raise OnboardingError(
            f"{channel.account} refuses the app: check the client id and secret, and that the app is "
            f"installed there. ({error})"
        ) from None
    check_scopes(channel)
    tell_connected(channel)
    return channel


def connect_sandbox_store(*, merchant: Merchant, name: str, user: User | None, handle: str = "") -> Channel:
    """Connect a practice store: the sandbox's store of that handle, made if it is not there.

    Without a handle it is made from the name, and is not one that another merchant has. What is connected
    before is given its credentials again.

    Raises:
        OnboardingError: the sandbox refuses, or another merchant has this very store.
        protocol.ChannelError: there is no sandbox, or the new store does not answer; the act may be repeated.
    """
    handle = handle or _free_handle(merchant, name)
    given = _ask_sandbox_for_store(handle, name)
    return connect_with_client_credentials(
        merchant=merchant,
        name=name,
        account=handle + origins.SHOP_SUFFIX,
        client_id=given.client_id,
        client_secret=given.client_secret,
        user=user,
        kind=ChannelKind.SANDBOX,
    )


def _free_handle(merchant: Merchant, name: str) -> str:
    """A handle of the sandbox's form that no other merchant's channel has."""
    wanted = slugify(name).replace("_", "-")[:50].strip("-") or "store"
    others = Channel.objects.filter(kind=ChannelKind.SANDBOX).exclude(merchant=merchant)
    taken = set(others.values_list("account", flat=True))
    handle, number = wanted, 2
    while handle + origins.SHOP_SUFFIX in taken or handle in _HANDLES_RESERVED:
        handle, number = f"{wanted}-{number}", number + 1
    return handle


@dataclass(frozen=True, slots=True)
class _SandboxApp:
    """Our app in a store of the sandbox."""

    client_id: str
    client_secret: Secret


def _ask_sandbox_for_store(handle: str, name: str) -> _SandboxApp:
    """Have the store made, or find it as it is. The sandbox's operator API is described in
    `channels.sandbox`.
    """
    url = origins.sandbox_url()
    try:
        answer = origins.sandbox_session(url).post(f"{url}/_control/stores", json={"handle": handle, "name": name})
        if answer.status_code not in (200, 201):
            raise OnboardingError(f"The sandbox makes no store {handle!r} (HTTP {answer.status_code}).")
        told = answer.json()
        return _SandboxApp(str(told["client_id"]), Secret(str(told["client_secret"])))
    except HttpError as error:
        raise OnboardingError(f"The sandbox does not answer. {error}") from None
    except (ValueError, KeyError, TypeError):
        raise OnboardingError(f"The sandbox's answer about the store {handle!r} makes no sense.") from None


def claim_account(*, merchant: Merchant, kind: ChannelKind, account: str, name: str, user: User | None) -> Channel:
    """The merchant's channel for this account, new or the one it has; connecting again from now on.

    In the caller's transaction. A channel that works or is paused keeps its state: its credentials are only
    renewed.

    Raises:
        OnboardingError: no store's domain, or connected by another merchant, whose channel is never touched.
    """
    account = account.strip().lower()
    if not is_myshopify_domain(account):
        raise OnboardingError("Give the store's own domain, such as north.myshopify.com.")
    # The unique key on (kind, account) decides between merchants that connect the same store at the same
    # moment.
    channel, is_new = Channel.objects.select_for_update(no_key=True).get_or_create(
        kind=kind,
        account=account,
        defaults={"merchant": merchant, "name": _free_name(merchant, name or account)},
    )
    if channel.merchant_id != merchant.pk:
        raise OnboardingError(
            f"{account} is already connected by another merchant. It has to be disconnected there before."
        )
    before = {} if is_new else {"state": channel.state}
    if channel.state in (ChannelState.NEEDS_AUTH, ChannelState.UNINSTALLED):
        channel.state, channel.state_reason = ChannelState.CONNECTING, ""
        channel.save(update_fields=["state", "state_reason"])
    trail.record(
        merchant_id=merchant.pk,
        action="channel.connect" if is_new else "channel.authorize",
        subject=channel,
        user=user,
        before=before,
        after={"state": channel.state, "kind": channel.kind, "account": channel.account},
    )
    return channel


def check_scopes(channel: Channel) -> None:
    """Compare what the store granted with what we need. Raises OnboardingError, naming what is missing."""
    missing = auth.missing_scopes(Credential.objects.values_list("scopes", flat=True).get(channel=channel))
    if missing:
        reason = f"{channel.account} did not grant {', '.join(missing)}: add these scopes to the app and connect again."
        credentials.needs_authorization(channel, reason=reason)
        raise OnboardingError(reason)


def tell_connected(channel: Channel) -> None:
    """Have the channel activated in the background, once the caller's transaction is committed."""
    for tell in on_connected:
        transaction.on_commit(partial(tell, channel.pk))


def _free_name(merchant: Merchant, wanted: str) -> str:
    """The name, or the name with a number behind it when the merchant has a channel of that name."""
    taken = set(Channel.objects.filter(merchant=merchant).values_list("name", flat=True))
    name, number = wanted[:80], 2
    while name in taken:
        name, number = f"{wanted[:75]} {number}", number + 1
    return name


# --- letting the engine loose -------------------------------------------------------------------------------


def register_webhooks(channel: Channel) -> protocol.SubscriptionReport:
    """Have the channel deliver every topic we use to the channel's own address.

    Raises:
        OnboardingError: some topics could not be subscribed to; names each and why.
        protocol.ChannelError: as told by the channel.
    """
    report = connect.connector_for(channel).ensure_webhooks(connect.callback_url(channel))
    if report.failed:
        reasons = "; ".join(f"{topic}: {why}" for topic, why in report.failed)
        raise OnboardingError(f"{channel.account} does not deliver all webhooks. {reasons}")
    return report


def activate(channel: Channel, *, now: datetime, user: User | None = None) -> ActivationReport:
    """Bring the channel from connected to active; for an active one, bring everything up to date.

    1. Orders count from now on. What was sold before is in the opening stock and in the first reading.
    2. Webhooks are on before anything is read, so that what changes while we read is told to us.
    3. Locations, catalogue, levels.
    4. Active. A paused channel stays paused.

    May be called again after any failure. Raises what its steps raise, and:
        OnboardingError: the channel was uninstalled or waits for authorization; connect it first.
    """
    _begin_counting_orders(channel, now=now)
    webhooks = register_webhooks(channel)
    locations = import_locations(channel)
    catalogue = import_catalogue(channel, now=now)
    levels = import_levels(channel)
    report = ActivationReport(webhooks=webhooks, locations=locations, catalogue=catalogue, levels=levels)
    _become_active(channel, report, user=user)
    return report


def _begin_counting_orders(channel: Channel, *, now: datetime) -> None:
    with transaction.atomic():
        stored = Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
        if stored.state in (ChannelState.UNINSTALLED, ChannelState.NEEDS_AUTH):
            raise OnboardingError(f"{stored} is {stored.get_state_display().lower()}: connect it again first.")
        if stored.orders_counted_from is None:
            stored.orders_counted_from = now
            stored.orders_watermark = stored.orders_watermark or now
            stored.save(update_fields=["orders_counted_from", "orders_watermark"])
    channel.refresh_from_db()


def _become_active(channel: Channel, report: ActivationReport, *, user: User | None) -> None:
    with transaction.atomic():
        stored = Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
        if stored.state == ChannelState.CONNECTING:
            stored.state, stored.state_reason = ChannelState.ACTIVE, ""
            stored.failures, stored.failing_since, stored.last_error, stored.next_call_at = 0, None, "", Now()
            stored.save(
                update_fields=["state", "state_reason", "failures", "failing_since", "last_error", "next_call_at"]
            )
            states.tell_changed(stored)
            trail.record(
                merchant_id=stored.merchant_id,
                action="channel.activate",
                subject=stored,
                user=user,
                before={"state": ChannelState.CONNECTING},
                after={
                    "state": stored.state,
                    "locations": report.locations,
                    "variants": report.catalogue.variants,
                    "unmapped": report.catalogue.unmapped,
                    "levels": report.levels.read,
                },
            )
    channel.refresh_from_db()
    log.info(
        "onboarding.activated",
        channel_id=channel.pk,
        state=channel.state,
        variants=report.catalogue.variants,
        unmapped=report.catalogue.unmapped,
        levels=report.levels.read,
    )
