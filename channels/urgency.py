"""How urgent a call to a channel is: who makes it says so, and whoever keeps the channel's budget obeys. Pure.

    with urgency.of(Urgency.RAISE):
        connector.write_quantities(...)

Said around the call and not with it, so that a connector need not know of it. Who says nothing is not urgent.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Urgency(enum.IntEnum):
    """The most urgent first. Each leaves a share of the budget to those before it."""

    LOWER = 0  # a number that must fall before it is sold, and orders without which events cannot be applied
    RAISE = 1
    SUSPECT = 2  # levels that show something unexpected, and whether a silent channel answers again
    BACKGROUND = 3  # reconciliation, full passes, bringing a channel in


_current: ContextVar[Urgency] = ContextVar("urgency", default=Urgency.BACKGROUND)


@contextmanager
def of(urgency: Urgency) -> Iterator[None]:
    """The calls made within are so urgent."""
    token = _current.set(urgency)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Urgency:
    """How urgent a call is that is made now."""
    return _current.get()
