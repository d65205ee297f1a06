"""What a merchant tells a channel to do: pause, go on, be reconciled now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from django.db import transaction

from channels.models import Channel, ChannelState
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
    Channel.objects.filter(pk=channel.pk).update(next_call_at=now, failures=0)
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


def _move(channel: Channel, before: ChannelState, after: ChannelState, user: User | None, reason: str) -> None:
    """Change the state under the row's lock, if it is still what it was thought to be."""
    stored = Channel.objects.select_for_update(no_key=True).get(pk=channel.pk)
    if stored.state != before:
        raise CannotSteer(f"{stored} is {stored.get_state_display().lower()}, not {before.label.lower()}.")
    Channel.objects.filter(pk=channel.pk).update(state=after, state_reason=reason)
    channel.state, channel.state_reason = after, reason
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
