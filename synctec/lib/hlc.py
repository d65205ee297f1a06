"""Hybrid logical clock: stamps close to wall time that never go back, in one signed 64-bit integer.

    bit 63   0 (the stamp fits a PostgreSQL bigint and sorts as one)
    62..15   milliseconds since 1970 (48 bits: until the year 10889)
    14..0    counter (32,768 stamps a millisecond; more carry into the milliseconds)

After Kulkarni et al., "Logical Physical Clocks" (2014). `now_ms` is an argument: the caller reads the clock.
"""

import threading
from typing import Final

COUNTER_BITS: Final = 15
COUNTER_MAX: Final = (1 << COUNTER_BITS) - 1
MILLISECONDS_MAX: Final = (1 << 48) - 1
#: A peer's stamp further ahead of our wall clock than this is taken for a broken clock.
FUTURE_LIMIT_MS: Final = 5 * 60 * 1000
# A wall clock beyond the year 6429 is read as that year: room to count on, for ever, without overflow.
_WALL_MAX_MS: Final = 1 << 47


def pack(milliseconds: int, counter: int) -> int:
    """Return the stamp of these parts. Raises ValueError when one does not fit its bits."""
    if not 0 <= milliseconds <= MILLISECONDS_MAX or not 0 <= counter <= COUNTER_MAX:
        raise ValueError(f"{milliseconds} ms and counter {counter} do not fit 48 and {COUNTER_BITS} bits")
    return (milliseconds << COUNTER_BITS) | counter


def unpack(stamp: int) -> tuple[int, int]:
    """Return (milliseconds, counter) of a stamp. Raises ValueError for a number that is no stamp."""
    if not 0 <= stamp < 1 << 63:
        raise ValueError(f"{stamp} is not a stamp: expected 0 to 2**63 - 1")
    return stamp >> COUNTER_BITS, stamp & COUNTER_MAX


class HybridClock:
    """One clock, shared by the threads of a process. Each stamp is greater than all it gave or saw before."""

    def __init__(self, start: int = 0) -> None:
        """Continue after the stamp `start`, e.g. the greatest one on disk. Raises ValueError for no stamp."""
        unpack(start)
        self._latest = start
        self._lock = threading.Lock()

    def tick(self, now_ms: int) -> int:
        """Return the stamp of an event of our own at wall time `now_ms`."""
        with self._lock:
            return self._advance(self._latest, now_ms)

    def observe(self, remote: int, now_ms: int) -> tuple[int, bool]:
        """Return (stamp of receiving the remote stamp, whether it was clamped).

        The stamp is greater than `remote`, unless `remote` lies more than FUTURE_LIMIT_MS after `now_ms`: one
        broken clock must not drag every other into the future, so it then counts as just at that limit.
        """
        limit = pack(_wall_ms(now_ms) + FUTURE_LIMIT_MS, COUNTER_MAX)
        clamped = remote > limit
        with self._lock:
            return self._advance(max(self._latest, min(remote, limit)), now_ms), clamped

    def _advance(self, seen: int, now_ms: int) -> int:
        # Adding 1 to the packed stamp carries a full counter into the milliseconds by itself.
        self._latest = max(seen + 1, pack(_wall_ms(now_ms), 0))
        return self._latest


def _wall_ms(now_ms: int) -> int:
    return min(max(now_ms, 0), _WALL_MAX_MS)
