"""Mapping listings to SKUs: which of the merchant's SKUs a variant of a channel is.

What waited for a mapping is taken up by the engine, which hangs itself on `on_mapped`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from django.db import transaction

from channels.models import Listing
from inventory import stock
from inventory.models import Sku
from merchants import trail
from merchants.models import User
from synctec.lib import clock
from synctec.lib.ids import uuid7

#: Told of listings that were mapped, mapped anew or unmapped by hand: `(merchant_id, listing_ids)`. Filled by
#: the engine when it starts, since this app may not import it. Called inside the transaction.
on_mapped: list[Callable[[int, Sequence[int]], object]] = []


class AnotherMerchantsSku(ValueError):
    """A listing can only be mapped to a SKU of its own merchant."""


@transaction.atomic
def map_listing(*, listing: Listing, sku: Sku | None, user: User | None) -> bool:
    """Map one listing to a SKU, or to none; returns whether anything changed.

    Raises:
        AnotherMerchantsSku: the SKU belongs to another merchant.
    """
    if sku is not None and sku.merchant_id != listing.merchant_id:
        raise AnotherMerchantsSku("Choose a SKU of the merchant that the listing belongs to.")
    stored = Listing.objects.select_for_update(of=("self",)).select_related("sku").get(pk=listing.pk)
    if stored.sku_id == (sku.pk if sku else None):
        return False
    before = stored.sku.code if stored.sku else None
    Listing.objects.filter(pk=listing.pk).update(sku=sku)
    listing.sku = sku
    _record(listing, before, sku.code if sku else None, user)
    _tell(listing.merchant_id, [listing.pk])
    if stored.sku_id is not None:
        # What was promised to this store is there for the others.
        stock.tell_changed(
            merchant_id=listing.merchant_id, sku_ids=[stored.sku_id], correlation_id=uuid7(), now=clock.now()
        )
    return True


@transaction.atomic
def map_by_code(*, listing_ids: Collection[int], user: User | None) -> int:
    """Map those listings that have no SKU yet and whose own code is one of the merchant's; returns how many.

    A code that several listings of one store carry is left alone: nothing is guessed.
    """
    unmapped = list(
        Listing.objects.filter(pk__in=listing_ids, sku=None, deleted_at=None)
        .exclude(remote_sku="")
        .select_related("channel")
        .select_for_update(of=("self",))
        .order_by("pk")
    )
    skus = {
        (sku.merchant_id, sku.code): sku
        for sku in Sku.objects.filter(
            merchant_id__in={listing.merchant_id for listing in unmapped},
            code__in={listing.remote_sku for listing in unmapped},
        )
    }
    doubled = _codes_listed_twice(unmapped)
    mapped = []
    for listing in unmapped:
        sku = skus.get((listing.merchant_id, listing.remote_sku))
        if sku is None or (listing.channel_id, listing.remote_sku) in doubled:
            continue
        listing.sku = sku
        mapped.append(listing)
    Listing.objects.bulk_update(mapped, ["sku"], batch_size=500)
    for listing in mapped:
        _record(listing, None, listing.remote_sku, user)
    for merchant_id in sorted({listing.merchant_id for listing in mapped}):
        _tell(merchant_id, [listing.pk for listing in mapped if listing.merchant_id == merchant_id])
    return len(mapped)


def _codes_listed_twice(listings: Collection[Listing]) -> set[tuple[int, str]]:
    """(channel, code) that more than one living listing carries."""
    seen: set[tuple[int, str]] = set()
    doubled: set[tuple[int, str]] = set()
    rows = Listing.objects.filter(
        channel_id__in={listing.channel_id for listing in listings},
        remote_sku__in={listing.remote_sku for listing in listings},
        deleted_at=None,
    ).values_list("channel_id", "remote_sku")
    for key in rows:
        (doubled if key in seen else seen).add(key)
    return doubled


def _record(listing: Listing, before: str | None, after: str | None, user: User | None) -> None:
    trail.record(
        merchant_id=listing.merchant_id,
        action="listing.map",
        subject=listing,
        user=user,
        before={"sku": before},
        after={"sku": after},
    )


def _tell(merchant_id: int, listing_ids: Sequence[int]) -> None:
    for tell in on_mapped:
        tell(merchant_id, listing_ids)
