"""Steps of a round that fail alone: what is wrong with one is no reason to leave out the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")


def alone(step: str, act: Callable[[], T], **about: object) -> T | None:
    """What the step returns; None where it failed, which is logged with what it was about."""
    try:
        return act()
    except Exception:
        log.exception("step.failed", step=step, **about)
        return None
