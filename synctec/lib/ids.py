"""Identifiers that sort by the time they were made."""

import secrets
import threading
import time
import uuid
from collections.abc import Callable
from typing import Final

_RANDOM_BITS: Final = 74
_lock = threading.Lock()
_latest = 0  # 48 bits of milliseconds, then the 74 random bits

#: Makes every id instead of clock and chance, where a run must come out the same again (`sync.simulator`).
source: Callable[[], uuid.UUID] | None = None


def uuid7() -> uuid.UUID:
    """Return a version 7 UUID (RFC 9562), greater than every one this process made before.

    Inside one millisecond, or when the clock goes back, the random part counts on (RFC 9562 6.2, method 2).
    """
    global _latest
    if source is not None:
        return source()
    fresh = ((time.time_ns() // 1_000_000) << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS - 1)
    with _lock:
        # A random step, not 1, so that one id does not give away its neighbour.
        _latest = value = max(fresh, _latest + 1 + secrets.randbits(32))
    milliseconds, rest = value >> _RANDOM_BITS, value & ((1 << _RANDOM_BITS) - 1)
    high, low = rest >> 62, rest & ((1 << 62) - 1)
    return uuid.UUID(int=(milliseconds << 80) | (0x7 << 76) | (high << 64) | (0b10 << 62) | low)
