"""Who must hear of a channel that begins or ceases to be written to."""

from __future__ import annotations

from collections.abc import Callable

from channels.models import Channel

#: Called with a channel in the transaction that changes its state. Filled by the engine when it starts, since this app
#: may not import it.
on_change: list[Callable[[Channel], object]] = []


def tell_changed(channel: Channel) -> None:
    """Tell of a channel's new state, in the caller's transaction."""
    for tell in on_change:
        tell(channel)
