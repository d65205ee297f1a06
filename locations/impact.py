"""What a change of settings would have stores told: asked of the engine inside the transaction that makes the change, so that
it can be undone, shown to whoever makes it, and confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from merchants.models import User


class LevelChange(NamedTuple):
    """A listing level and the numbers it would be told on the way, from the least to the greatest."""

    level_id: int
    shown: int
    least: int
    greatest: int


@dataclass(frozen=True, slots=True)
class ChannelImpact:
    """What one channel would be told in the end."""

    channel_id: int
    name: str
    of_levels: int
    lowered: int
    zeroed: int
    raised: int
    changes: tuple[LevelChange, ...]
    #: So much at once would be held until somebody confirms it.
    is_large: bool

    @property
    def in_words(self) -> str:
        """What it comes to."""
        parts = [f"{self.lowered:,} of {self.of_levels:,} levels are lowered, {self.zeroed:,} of them to zero"]
        if self.raised:
            parts.append(f"{self.raised:,} are raised")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Impact:
    """What all channels would be told, those that change."""

    channels: tuple[ChannelImpact, ...] = ()

    @property
    def is_large(self) -> bool:
        return any(channel.is_large for channel in self.channels)

    @property
    def size(self) -> int:
        """Levels that change: what a person has seen, should it be asked for again."""
        return sum(len(channel.changes) for channel in self.channels)


#: Called with a merchant's id and SKUs (None: all). Filled by the engine when it starts, since this app may not import it.
on_ask: list[Callable[[int, Sequence[int] | None], Impact]] = []
#: Called when somebody has seen it and goes on: (impact, what is changed, user, reason).
on_confirm: list[Callable[[Impact, str, User | None, str], object]] = []


def ask(merchant_id: int, sku_ids: Sequence[int] | None) -> Impact:
    """What stores would be told because of what this transaction has changed. Nothing is written."""
    return Impact(tuple(channel for asked in on_ask for channel in asked(merchant_id, sku_ids).channels))


def confirm(impact: Impact, what: str, user: User | None, reason: str) -> None:
    """It was seen and is meant: it shall not be held once more."""
    for tell in on_confirm:
        tell(impact, what, user, reason)
