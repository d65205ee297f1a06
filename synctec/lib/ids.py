"""Identifiers that sort by the time they were made."""

import secrets
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Final

_RANDOM_BITS: Final = 74
_STEP_BYTES: Final = 4
_lock = threading.Lock()
_latest = 0  # 48 bits of milliseconds, then the 74 random bits

#: Makes every id instead of clock and chance, where a run must come out the same again (`sync.simulator`).
source: Callable[[], uuid.UUID] | None = None


def uuid7() -> uuid.UUID:
    """Return a version 7 UUID (RFC 9562), greater than every one this process made before.

    Inside one millisecond, or when the clock goes back, the random part counts on (RFC 9562 6.2, method 2).
    """
    return uuid7s(1)[0]


def uuid7s(count: int) -> list[uuid.UUID]:
    """Return so many of them, ascending, at the price of one look at the clock and one call for randomness."""
    global _latest
    if source is not None:
        return [source() for _ in range(count)]
    noise = secrets.token_bytes(_STEP_BYTES * count)
    fresh = ((time.time_ns() // 1_000_000) << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS - 1)
    made = []
    with _lock:
        for start in range(0, len(noise), _STEP_BYTES):
            # A random step, not 1, so that one id does not give away its neighbour.
            _latest = max(fresh, _latest + 1 + int.from_bytes(noise[start : start + _STEP_BYTES]))
            made.append(_as_uuid(_latest))
    return made


def _as_uuid(value: int) -> uuid.UUID:
    milliseconds, rest = value >> _RANDOM_BITS, value & ((1 << _RANDOM_BITS) - 1)
    high, low = rest >> 62, rest & ((1 << 62) - 1)
    return uuid.UUID(int=(milliseconds << 80) | (0x7 << 76) | (high << 64) | (0b10 << 62) | low)


def earliest(moment: datetime) -> uuid.UUID:
    """The smallest id that could have been made at this moment, so that a span of time is a range of ids.

    By the wall clock of whoever makes them: leave a margin where several machines do.
    """
    return _as_uuid(int(moment.timestamp() * 1000) << _RANDOM_BITS)
