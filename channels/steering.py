"""What a merchant tells a channel to do: pause, go on, be reconciled now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from django.db import transaction

from channels import connect, states
from channels.models import Channel, ChannelState, ListingLevel
from merchants import trail
from merchants.models import User

#: Called with a channel's id, after the commit, when somebody wants it reconciled now. Filled by the engine
#: when it starts, since this app may not import it. Without it, the schedule gets there.
on_reconcile: list[Callable[[int], object]] = []


class CannotSteer(Exception):
    """The channel is in a state in which this cannot be done. The text says what to do instead."""


@transaction.atomic
def pause(*, channel: Channel, user: User | None, reason: str = "") -> None:
    """Write nothing to the channel until it is resumed; what it tells us is still received and applied.

    Raises:
        CannotSteer: the channel is not active.
    """
    _move(channel, ChannelState.ACTIVE, ChannelState.PAUSED, user, reason)


@transaction.atomic
def resume(*, channel: Channel, user: User | None, now: datetime, reason: str = "") -> None:
    """Write to the channel again, at once, after reading what happened meanwhile.

    Raises:
        CannotSteer: the channel is not paused.
    """
    _move(channel, ChannelState.PAUSED, ChannelState.ACTIVE, user, reason)
    Channel.objects.filter(pk=channel.pk).update(next_call_at=now, failures=0, failing_since=None)
    _want_reconciled(channel.pk)


@transaction.atomic
def reconcile_now(*, channel: Channel, user: User | None) -> None:
    """Have the channel's orders and levels read and compared as soon as a worker is free.

    Raises:
        CannotSteer: the channel is not active, so it cannot be asked.
    """
    if channel.state != ChannelState.ACTIVE:
        raise CannotSteer(f"{channel} is {channel.get_state_display().lower()}: only an active channel is reconciled.")
    trail.record(merchant_id=channel.merchant_id, action="channel.reconcile", subject=channel, user=user)
    _want_reconciled(channel.pk)


def stock_at_location(*, level: ListingLevel, user: User | None, now: datetime, reason: str = "") -> None:
    """Have the store count an item at a location where it does not, and publish it there once it was read.

    Always somebody's decision: a write to a location that does not stock an item adds to what it last held there.

    Raises:
        CannotSteer: the store stocks it there already, or the channel is not active.
        ChannelError: the store refused, or could not be asked.
    """
    if level.is_stocked:
        raise CannotSteer(f"{level.store_location} stocks it already.")
    if level.channel.state != ChannelState.ACTIVE:
        raise CannotSteer(f"{level.channel} is {level.channel.get_state_display().lower()}: it cannot be asked.")
    if level.channel.is_shadow:
        raise CannotSteer(f"{level.channel} is in shadow mode: nothing is written to it. Let it go live first.")
    # The same key for the same level and version: pressing twice asks once.
    connect.connector_for(level.channel).activate_level(
        inventory_item_id=level.listing.inventory_item_id,
        location_id=level.store_location.remote_id,
        key=f"stock-{level.pk}-{level.version}",
    )
    with transaction.atomic():
        ListingLevel.objects.filter(pk=level.pk).update(
            is_stocked=True, suspect_since=now, suspect_reason="stocked on purpose", next_check_at=now
        )
        trail.record(
            merchant_id=level.merchant_id, action="listing_level.stock", subject=level, user=user, reason=reason
        )


def _move(channel: Channel, before: ChannelState, after: ChannelState, user: User | None, reason: str) -> None:
    """Change the state under the row's lock, if it is still what it was thought to be."""
    stored = Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
    if stored.state != before:
        raise CannotSteer(f"{stored} is {stored.get_state_display().lower()}, not {before.label.lower()}.")
    Channel.objects.filter(pk=channel.pk).update(state=after, state_reason=reason)
    channel.state, channel.state_reason = after, reason
    states.tell_changed(channel)
    trail.record(
        merchant_id=channel.merchant_id,
        action=f"channel.{'pause' if after == ChannelState.PAUSED else 'resume'}",
        subject=channel,
        user=user,
        before={"state": before},
        after={"state": after},
        reason=reason,
    )


def _want_reconciled(channel_id: int) -> None:
    for ask in on_reconcile:
        transaction.on_commit(partial(ask, channel_id))
