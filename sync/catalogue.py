"""What events about products, items, locations and the app itself mean: rare, so through the ORM, one at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from channels import connect, credentials, onboarding, protocol, states
from channels.models import Channel, ChannelState, EventState, Listing, StoreLocation
from merchants import trail
from sync.decide import Envelope, Verdict
from sync.models import ReconcileRun, RunState
from sync.tables import upkeep


def read_untold(events: tuple[protocol.Event, ...], channel_id: int) -> tuple[protocol.Event, ...]:
    """Read the variants of products that were only said to have changed, and whether an app that is said to have been
    removed still is. Talks to the channel: never in a transaction.

    Raises:
        ChannelError: the channel could not be asked.
    """
    if not any(map(_is_untold, events)):
        return events
    connector = connect.connector_for(Channel.objects.get(pk=channel_id))
    return tuple(_told(event, connector) if _is_untold(event) else event for event in events)


def _is_untold(event: protocol.Event) -> bool:
    if isinstance(event, protocol.CatalogueTouched):
        return event.variants is None and not event.is_deleted
    return isinstance(event, protocol.AppUninstalled) and event.is_so is None


def _told(event: protocol.Event, connector: protocol.Connector) -> protocol.Event:
    if isinstance(event, protocol.CatalogueTouched):
        return replace(event, variants=connector.read_variants(event.product_id))
    assert isinstance(event, protocol.AppUninstalled)
    try:
        connector.read_scopes()
    except protocol.NotAuthorized:
        return replace(event, is_so=True)
    return replace(event, is_so=False)


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
            return _uninstalled(event, channel, envelope)
        case protocol.BulkFinished(operation_id=operation_id, status=status):
            return _bulk_finished(operation_id, status, channel, now)
        case protocol.ComplianceRequest(kind=kind):
            return _compliance(kind, channel, envelope)
        case protocol.Uninteresting(reason=reason):
            return Verdict(EventState.IGNORED, reason)
        case _:
            raise TypeError(f"{type(event).__name__} moves stock and is applied elsewhere")


def _bulk_finished(operation_id: str, status: str, channel: Channel, now: datetime) -> Verdict:
    """The full sync that rests until its snapshot is ready need not rest any longer."""
    waiting = ReconcileRun.objects.filter(
        channel=channel, state=RunState.RUNNING, snapshot_id=operation_id, levels_read=0
    )
    if waiting.update(leased_until=now):
        return Verdict(EventState.APPLIED, f"bulk operation {operation_id} {status}: the full sync goes on")
    return Verdict(EventState.IGNORED, f"bulk operation {operation_id} {status}: no one waits for it")


def _product(event: protocol.CatalogueTouched, channel: Channel, envelope: Envelope, now: datetime) -> Verdict:
    listings = Listing.objects.filter(channel=channel, remote_product_id=event.product_id)
    if event.is_deleted:
        mapped = list(listings.filter(sku__isnull=False).values_list("sku_id", flat=True))
        gone = onboarding.retire_listings(listings, now=now)
        _publish(mapped, channel, envelope, now)
        return Verdict(EventState.APPLIED, f"{gone} listings deleted")
    assert event.variants is not None, "read_untold comes first"
    onboarding.save_listings(channel, event.variants)
    onboarding.map_listings(channel)
    upkeep.add_missing_levels(merchant_id=channel.merchant_id)
    present = [variant.variant_id for variant in event.variants]
    gone = onboarding.retire_listings(listings.exclude(remote_variant_id__in=present), now=now)
    _publish(list(listings.filter(sku__isnull=False).values_list("sku_id", flat=True)), channel, envelope, now)
    return Verdict(EventState.APPLIED, f"{len(present)} listings, {gone} deleted")


def _item(event: protocol.ItemTouched, channel: Channel, envelope: Envelope, now: datetime) -> Verdict:
    listings = Listing.objects.filter(channel=channel, inventory_item_id=event.inventory_item_id)
    if event.is_deleted:
        changed = onboarding.retire_listings(listings, now=now)
    elif event.is_tracked is not None:
        counted_otherwise = list(listings.exclude(is_tracked=event.is_tracked).values_list("pk", flat=True))
        changed = Listing.objects.filter(pk__in=counted_otherwise).update(is_tracked=event.is_tracked)
        onboarding.doubt_levels(counted_otherwise, reason=onboarding.COUNTED_OTHERWISE)
    else:
        changed = 0
    if not changed:
        return Verdict(EventState.IGNORED, "nothing that matters changed")
    _publish(list(listings.filter(sku__isnull=False).values_list("sku_id", flat=True)), channel, envelope, now)
    return Verdict(EventState.APPLIED)


def _location(event: protocol.LocationTouched, channel: Channel) -> Verdict:
    if event.is_deleted:
        changed = StoreLocation.objects.filter(channel=channel, remote_id=event.location_id).update(is_active=False)
        return Verdict(
            EventState.APPLIED if changed else EventState.IGNORED, "" if changed else "not a location of ours"
        )
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


def _uninstalled(event: protocol.AppUninstalled, channel: Channel, envelope: Envelope) -> Verdict:
    """The token is dead: forget it, write no more, and say so."""
    assert event.is_so is not None, "read_untold comes first"
    if not event.is_so:
        # Told late, or again: a token got since works, and it is all there is.
        return Verdict(EventState.IGNORED, "superseded: the store takes our token, so the app was installed again")
    before = channel.state
    channel.state = ChannelState.UNINSTALLED
    channel.state_reason = "The app was removed in the store. Connect the store again to go on."
    channel.save(update_fields=["state", "state_reason"])
    states.tell_changed(channel)
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
        upkeep.mark_dirty(
            merchant_id=channel.merchant_id, sku_ids=sku_ids, correlation_id=envelope.correlation_id, now=now
        )
