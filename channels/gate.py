"""The last door before a channel: what may not be written is refused here, right before the request.

The engine opens no batch for a channel in shadow mode (`sync.push`, and a trigger of the database says so). This is the
second lock on the same door: a write that comes by any other way, or that was on its way when the mode was switched on,
is refused.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from channels import protocol
from channels.models import Channel

#: What changes a store's stock. Whatever else a connector can do goes through.
WRITES = frozenset({"write_quantities", "activate_level"})


class WritesOff(protocol.Refused):
    """Nothing is written to this channel: it is in shadow mode. Nothing was sent."""


def refuse_in_shadow(channel_id: int) -> None:
    """Ask the database, now, whether the channel may be written to.

    Raises:
        WritesOff: it is in shadow mode.
    """
    if Channel.objects.filter(pk=channel_id, is_shadow=True).exists():
        raise WritesOff(
            "The channel is in shadow mode: nothing is written to it. Let it go live first.", code="SHADOW_MODE"
        )


class _Gated:
    """A connector whose writes ask first."""

    def __init__(self, connector: protocol.Connector, channel_id: int) -> None:
        self._connector = connector
        self._channel_id = channel_id

    def __getattr__(self, name: str) -> Any:
        return partial(self._write, name) if name in WRITES else getattr(self._connector, name)

    def _write(self, name: str, *args: Any, **kwargs: Any) -> Any:
        refuse_in_shadow(self._channel_id)
        return getattr(self._connector, name)(*args, **kwargs)


def gated(connector: protocol.Connector, *, channel_id: int) -> protocol.Connector:
    """The same connector; what writes stock raises `WritesOff` while the channel is in shadow mode."""
    return cast(protocol.Connector, _Gated(connector, channel_id))
