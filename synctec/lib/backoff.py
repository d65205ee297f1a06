"""When to try again: 1, 2, 4, 8, 16 seconds with jitter, then never.

The delay is drawn between half of its step and the whole of it ("equal jitter"). The upper end keeps the
announced schedule true; the lower end, against full jitter from zero, gives a struggling channel its rest.
Half of each step is the whole of the step before, so a later delay is never shorter than an earlier one.

The random generator is handed in: a simulation replays a run from its seed.
"""

import random
from datetime import datetime, timedelta
from typing import Final

RETRY_SECONDS: Final = (1, 2, 4, 8, 16)
#: Retries after the first try. The failure that follows the last of them is final.
MAX_ATTEMPTS: Final = len(RETRY_SECONDS)


def delay_seconds(attempt: int, rng: random.Random) -> float:
    """Return the seconds to wait before retry `attempt` (1 to MAX_ATTEMPTS). Raises ValueError outside."""
    if not 1 <= attempt <= MAX_ATTEMPTS:
        raise ValueError(f"retry {attempt} is not on the schedule of 1 to {MAX_ATTEMPTS}")
    step = RETRY_SECONDS[attempt - 1]
    return rng.uniform(step / 2, step)


def next_attempt_at(*, now: datetime, failures: int, rng: random.Random) -> datetime | None:
    """Return when to try again after `failures` failed tries in a row (1 or more), or None for "give up"."""
    if failures > MAX_ATTEMPTS:
        return None
    return now + timedelta(seconds=delay_seconds(failures, rng))


#: Standard Webhooks, "Deliverability and reliability": the pauses between attempts; the last one goes on.
REDELIVERY_SECONDS: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000)
_REDELIVERY_JITTER: Final = 0.1


def redelivery_seconds(failures: int, rng: random.Random, *, schedule: tuple[int, ...] = REDELIVERY_SECONDS) -> float:
    """Return the seconds to wait after `failures` failed attempts in a row (1 or more), a tenth more or less."""
    if failures < 1:
        raise ValueError("nothing has failed yet")
    step = schedule[min(failures, len(schedule)) - 1]
    return rng.uniform(step * (1 - _REDELIVERY_JITTER), step * (1 + _REDELIVERY_JITTER))
