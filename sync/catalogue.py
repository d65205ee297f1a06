"""What events about products, items, locations and the app itself mean: rare, so through the ORM, one at a time."""

from __future__ import annotations

from datetime import datetime

from channels import protocol
from channels.models import Channel, ChannelState, EventState, Listing, StoreLocation
from inventory.models import Sku
from merchants import trail
from sync import publish
from sync.decide import Envelope, Verdict


def apply(events: tuple[protocol.Event, ...], envelope: Envelope, now: datetime) -> Verdict:
    """Apply the events of one inbox row in the caller's transaction."""
    channel = Channel.objects.get(pk=envelope.channel_id)
    verdicts = [_apply_one(event, channel, envelope, now) for event in events]
    if not verdicts:
        return Verdict(EventState.IGNORED, "says nothing")
    return min(verdicts, key=lambda verdict: verdict.state)  # "applied" before "ignored"


def _apply_one(event: protocol.Event, channel: Channel, envelope: Envelope, now: datetime) -> Verdict:
    match event:
        case protocol.CatalogueTouched():
            return _product(event, channel, envelope, now)
        case protocol.ItemTouched():
            return _item(event, channel, envelope, now)
        case protocol.LocationTouched():
            return _location(event, channel)
        case protocol.AppUninstalled():
            return _uninstalled(channel, envelope)
        case protocol.BulkFinished(operation_id=operation_id, status=status):
            return Verdict(EventState.IGNORED, f"bulk operation {operation_id} {status}: no one waits for it")
        case protocol.ComplianceRequest(kind=kind):
            return _compliance(kind, channel, envelope)
        case protocol.Uninteresting(reason=reason):
            return Verdict(EventState.IGNORED, reason)
        case _:
            raise TypeError(f"{type(event).__name__} moves stock and is applied elsewhere")


def _product(event: protocol.CatalogueTouched, channel: Channel, envelope: Envelope, now: datetime) -> Verdict:
    listings = Listing.objects.filter(channel=channel, remote_product_id=event.product_id)
    if event.is_deleted:
        mapped = [sku for sku in listings.values_list("sku_id", flat=True) if sku is not None]
        gone = listings.filter(deleted_at__isnull=True).update(deleted_at=now)
        _publish(mapped, channel, envelope, now)
        return Verdict(EventState.APPLIED, f"{gone} listings deleted")
    variants = event.variants
    if variants is None:
        from channels.connect import connector_for

        variants = connector_for(channel).read_variants(event.product_id)
    changed = save_variants(channel, variants)
    gone_ids = listings.exclude(remote_variant_id__in=[variant.variant_id for variant in variants]).filter(
        deleted_at__isnull=True
    )
    gone = gone_ids.update(deleted_at=now)
    _publish([sku for sku in listings.values_list("sku_id", flat=True) if sku is not None], channel, envelope, now)
    return Verdict(EventState.APPLIED, f"{changed} listings, {gone} deleted")


def save_variants(channel: Channel, variants: tuple[protocol.VariantState, ...]) -> int:
    """Write what the channel says of its variants; new ones are mapped to the merchant's SKU of the same code."""
    codes = {variant.sku for variant in variants if variant.sku}
    skus = dict(Sku.objects.filter(merchant_id=channel.merchant_id, code__in=codes).values_list("code", "id"))
    known = set(
        Listing.objects.filter(
            channel=channel, remote_variant_id__in=[variant.variant_id for variant in variants]
        ).values_list("remote_variant_id", flat=True)
    )
    fields = {
        "remote_product_id": "product_id",
        "inventory_item_id": "inventory_item_id",
        "remote_sku": "sku",
        "title": "title",
        "barcode": "barcode",
        "is_tracked": "is_tracked",
        "is_store_bundle": "is_store_bundle",
        "sells_when_out_of_stock": "sells_when_out_of_stock",
    }
    rows = [
        Listing(
            merchant_id=channel.merchant_id,
            channel=channel,
            remote_variant_id=variant.variant_id,
            sku_id=None if variant.variant_id in known else skus.get(variant.sku),
            **{
                field: value[: Listing._meta.get_field(field).max_length] if isinstance(value, str) else value
                for field, value in ((field, getattr(variant, name)) for field, name in fields.items())
            },
        )
        for variant in variants
    ]
    Listing.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["channel", "remote_variant_id"],
        update_fields=[*fields, "deleted_at"],
    )
    return len(rows)


def _item(event: protocol.ItemTouched, channel: Channel, envelope: Envelope, now: datetime) -> Verdict:
    listings = Listing.objects.filter(channel=channel, inventory_item_id=event.inventory_item_id)
    if event.is_deleted:
        changed = listings.filter(deleted_at__isnull=True).update(deleted_at=now)
    elif event.is_tracked is not None:
        changed = listings.exclude(is_tracked=event.is_tracked).update(is_tracked=event.is_tracked)
    else:
        changed = 0
    if not changed:
        return Verdict(EventState.IGNORED, "nothing that matters changed")
    _publish([sku for sku in listings.values_list("sku_id", flat=True) if sku is not None], channel, envelope, now)
    return Verdict(EventState.APPLIED)


def _location(event: protocol.LocationTouched, channel: Channel) -> Verdict:
    if event.is_deleted:
        changed = StoreLocation.objects.filter(channel=channel, remote_id=event.location_id).update(is_active=False)
        return Verdict(EventState.APPLIED if changed else EventState.IGNORED, "" if changed else "not a location of ours")
    StoreLocation.objects.update_or_create(
        channel=channel,
        remote_id=event.location_id,
        defaults={
            "merchant_id": channel.merchant_id,
            "name": event.name[:255] or f"Location {event.location_id}",
            "is_active": event.is_active,
        },
    )
    return Verdict(EventState.APPLIED)


def _uninstalled(channel: Channel, envelope: Envelope) -> Verdict:
    """The token is dead: forget it, write no more, and say so."""
    from channels import credentials

    before = channel.state
    channel.state = ChannelState.UNINSTALLED
    channel.state_reason = "The app was removed in the store. Connect the store again to go on."
    channel.save(update_fields=["state", "state_reason"])
    credentials.wipe(channel)
    trail.record(
        merchant_id=channel.merchant_id,
        action="channel.uninstalled",
        subject=channel,
        before={"state": before},
        after={"state": channel.state},
        correlation_id=envelope.correlation_id,
    )
    return Verdict(EventState.APPLIED)


def _compliance(kind: str, channel: Channel, envelope: Envelope) -> Verdict:
    trail.record(
        merchant_id=channel.merchant_id,
        action=f"compliance.{kind}"[:60],
        subject=channel,
        reason="Order lines keep no personal data; the raw body is kept in the inbox for its retention time only.",
        correlation_id=envelope.correlation_id,
    )
    return Verdict(EventState.APPLIED, "recorded")


def _publish(sku_ids: list[int], channel: Channel, envelope: Envelope, now: datetime) -> None:
    if sku_ids:
        publish.mark_dirty(
            merchant_id=channel.merchant_id, sku_ids=sku_ids, correlation_id=envelope.correlation_id, now=now
        )


