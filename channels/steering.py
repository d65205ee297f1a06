"""What a merchant tells a channel to do: pause, go on, be reconciled now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial

from django.db import transaction
from django.db.models import Q

from channels import connect, states
from channels.models import Channel, ChannelState, ListingLevel, WritingStop
from merchants import trail
from merchants.models import ApiKey, User

#: Called with a channel's id, after the commit, when somebody wants it reconciled now. Filled by the engine
#: when it starts, since this app may not import it. Without it, the schedule gets there.
on_reconcile: list[Callable[[int], object]] = []


#: Called with (merchant id, what is meant, user, reason) when somebody wants listings read again; returns in words what was
#: done. Filled by the engine likewise.
on_read_again: list[Callable[[int, Mapping[str, int], User | None, str], str]] = []


class CannotSteer(Exception):
    """The channel is in a state in which this cannot be done. The text says what to do instead."""


@transaction.atomic
def pause(*, channel: Channel, user: User | None, api_key: ApiKey | None = None, reason: str = "") -> None:
    """Write nothing to the channel until it is resumed; what it tells us is still received and applied.

    Raises:
        CannotSteer: the channel is not active.
    """
    _move(channel, ChannelState.ACTIVE, ChannelState.PAUSED, user, api_key, reason)


@transaction.atomic
def resume(
    *, channel: Channel, user: User | None, api_key: ApiKey | None = None, now: datetime, reason: str = ""
) -> None:
    """Write to the channel again, at once, after reading what happened meanwhile.

    Raises:
        CannotSteer: the channel is not paused.
    """
    _move(channel, ChannelState.PAUSED, ChannelState.ACTIVE, user, api_key, reason)
    Channel.objects.filter(pk=channel.pk).update(next_call_at=now, failures=0, failing_since=None)
    _want_reconciled(channel.pk)


@transaction.atomic
def reconcile_now(*, channel: Channel, user: User | None, api_key: ApiKey | None = None) -> None:
    """Have the channel's orders and levels read and compared as soon as a worker is free.

    Raises:
        CannotSteer: the channel is not active, so it cannot be asked.
    """
    if channel.state != ChannelState.ACTIVE:
        raise CannotSteer(f"{channel} is {channel.get_state_display().lower()}: only an active channel is reconciled.")
    trail.record(
        merchant_id=channel.merchant_id, action="channel.reconcile", subject=channel, user=user, api_key=api_key
    )
    _want_reconciled(channel.pk)


def read_again(*, merchant_id: int, meant: Mapping[str, int], user: User | None, reason: str = "") -> str:
    """Have a level, a listing or a channel (by number) read now, and written where it differs; in words, what was done.

    Raises:
        CannotSteer: none of it is mapped and in a channel that can be read.
    """
    return " ".join(read(merchant_id, meant, user, reason) for read in on_read_again)


@transaction.atomic
def pause_raises(*, channel_id: int, reason: str, now: datetime) -> bool:
    """Raise nothing in the channel until `resume_raises`; lowers go on. Returns whether that is new. An alarm's deed."""
    stored = Channel.objects.select_for_update(no_key=True).get(pk=channel_id)
    if stored.raises_paused_at is not None:
        return False
    Channel.objects.filter(pk=channel_id).update(raises_paused_at=now, raises_paused_reason=reason[:500])
    states.tell_changed(stored)
    trail.record(merchant_id=stored.merchant_id, action="channel.pause_raises", subject=stored, reason=reason[:500])
    return True


@transaction.atomic
def resume_raises(*, channel_id: int, user: User | None, api_key: ApiKey | None = None, reason: str) -> bool:
    """Raise what should be raised again: somebody has looked, or a clean reconciliation followed. Whether it was paused."""
    stored = Channel.objects.select_for_update(no_key=True).get(pk=channel_id)
    if stored.raises_paused_at is None:
        return False
    Channel.objects.filter(pk=channel_id).update(raises_paused_at=None, raises_paused_reason="")
    states.tell_changed(stored)
    trail.record(
        merchant_id=stored.merchant_id,
        action="channel.resume_raises",
        subject=stored,
        user=user,
        api_key=api_key,
        before={"reason": stored.raises_paused_reason},
        reason=reason,
    )
    return True


def stock_at_location(*, level: ListingLevel, user: User | None, now: datetime, reason: str = "") -> None:
    """Have the store count an item at a location where it does not, and publish it there once it was read.

    Always somebody's decision: a write to a location that does not stock an item adds to what it last held there.

    Raises:
        CannotSteer: the store stocks it there already, or the channel is not active.
        ChannelError: the store refused, or could not be asked.
    """
    if level.is_stocked:
        raise CannotSteer(f"{level.store_location} stocks it already.")
    if WritingStop.objects.filter(Q(merchant=None) | Q(merchant_id=level.merchant_id), ended_at=None).exists():
        raise CannotSteer("All writing is stopped: resume it first.")
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


def _move(
    channel: Channel,
    before: ChannelState,
    after: ChannelState,
    user: User | None,
    api_key: ApiKey | None,
    reason: str,
) -> None:
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
        api_key=api_key,
        before={"state": before},
        after={"state": after},
        reason=reason,
    )


def _want_reconciled(channel_id: int) -> None:
    for ask in on_reconcile:
        transaction.on_commit(partial(ask, channel_id))
