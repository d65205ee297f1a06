"""One clock for all: the database's.

What stock did when, which hold has expired, which count is the newest: that is decided between facts that several machines
wrote down, and their wall clocks differ. The database has one.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Final

from synctec.lib import sql

READ_AGAIN_SECONDS: Final = 30.0
#: An answer that took longer than this says too little about now: it is asked for again, a few times.
SLOW_SECONDS: Final = 0.25
ASKED_MAX: Final = 3
#: Counts on while the machine sleeps, where the system has such a clock.
_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class DatabaseClock:
    """The database's clock, carried on by this machine's steady one: processes whose wall clocks differ agree on what is due.

    Read anew now and then, since no two clocks run quite alike.
    """

    def __init__(self) -> None:
        self._read: tuple[datetime, float] | None = None

    def __call__(self) -> datetime:
        """The time. Raises OperationalError when it must be read and the database is away."""
        read = self._read
        if read is None or time.clock_gettime(_STEADY) - read[1] > READ_AGAIN_SECONDS:
            read = self._read = _ask()
        return read[0] + timedelta(seconds=time.clock_gettime(_STEADY) - read[1])


def _ask() -> tuple[datetime, float]:
    """The database's time, and what our clock said when we asked; of slow answers the quickest."""
    quickest = None
    for _ in range(ASKED_MAX):
        asked_at = time.clock_gettime(_STEADY)
        [(moment,)] = sql.rows("SELECT clock_timestamp()")
        took = time.clock_gettime(_STEADY) - asked_at
        if quickest is None or took < quickest[0]:
            quickest = (took, moment, asked_at)
        if took <= SLOW_SECONDS:
            break
    assert quickest is not None
    return quickest[1], quickest[2]


#: This process's.
now: Final = DatabaseClock()
