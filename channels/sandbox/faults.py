"""What can go wrong in a store, and the dice that decide it. Pure but for the generator of each store."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from typing import Any

from channels.sandbox.store import Refusal

_RATES = (
    "error_rate",
    "timeout_before_rate",
    "timeout_after_rate",
    "late_rate",
    "throttle_rate",
    "webhook_lost_rate",
    "webhook_double_rate",
    "webhook_reorder_rate",
)
#: https://shopify.dev/docs/api/admin-graphql/latest/enums/BulkOperationErrorCode
BULK_ERRORS = ("ACCESS_DENIED", "INTERNAL_SERVER_ERROR", "TIMEOUT")
_RANGES = ("latency_ms", "late_ms", "webhook_delay_ms")


@dataclass(frozen=True, slots=True)
class Faults:
    """Switches of one store. Everything off by default."""

    latency_ms: tuple[int, int] = (0, 0)  # before an API answer, from..to
    error_rate: float = 0.0  # 500/502/503 instead of working
    timeout_before_rate: float = 0.0  # nothing applied, no answer
    timeout_after_rate: float = 0.0  # applied, answer lost
    late_rate: float = 0.0  # no answer, and the request is worked off after the client gave up ...
    late_ms: tuple[int, int] = (0, 0)  # ... so much later
    hang_ms: int = 0  # how long a lost answer keeps the connection open before it closes
    throttle_rate: float = 0.0  # THROTTLED out of the blue
    webhook_lost_rate: float = 0.0
    webhook_double_rate: float = 0.0
    webhook_delay_ms: tuple[int, int] = (0, 0)
    webhook_reorder_rate: float = 0.0  # this share waits 0.2-2 s, so that later ones overtake
    webhook_merge: bool = False  # level webhooks show the value at sending, not at happening
    order_list_lag_ms: int = 0  # `orders` does not show changes younger than this
    bulk_error: str | None = (
        None  # bulk operations fail with this code (INTERNAL_SERVER_ERROR, TIMEOUT, ACCESS_DENIED) ...
    )
    bulk_partial: bool = False  # ... half-way, and what they found until then can be read
    outage: bool = False  # API connections are closed at once, webhooks wait
    seed: int | None = None  # start the dice anew from here


def parse_faults(given: dict[str, Any]) -> Faults:
    """Read switches from JSON; a number for a range means from..to the same. Raises Refusal with what is
    wrong.
    """
    known = {f.name for f in fields(Faults)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise Refusal(f"there is no fault {name!r}; known: {', '.join(sorted(known))}", status=400)
        values[name] = _checked(name, value)
    return Faults(**values)


def _checked(name: str, value: Any) -> Any:
    if name in _RATES:
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise Refusal(f"{name} must be between 0 and 1", status=400)
        return float(value)
    if name in _RANGES:
        pair = [value, value] if isinstance(value, int) else value
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
            raise Refusal(f"{name} must be [from, to] in milliseconds", status=400)
        return (int(pair[0]), int(pair[1]))
    if name in ("outage", "webhook_merge", "bulk_partial"):
        return bool(value)
    if name == "bulk_error":
        if value is not None and value not in BULK_ERRORS:
            raise Refusal(f"bulk_error is one of {', '.join(BULK_ERRORS)}", status=400)
        return value
    if value is not None and not isinstance(value, int):
        raise Refusal(f"{name} must be a whole number", status=400)
    return value


@dataclass(slots=True)
class Dice:
    """The faults of one store together with its generator."""

    faults: Faults = field(default_factory=Faults)
    generator: random.Random = field(default_factory=lambda: random.Random(0))

    def set(self, faults: Faults) -> None:
        self.faults = faults
        if faults.seed is not None:
            self.generator = random.Random(faults.seed)

    def falls(self, rate: float) -> bool:
        return rate > 0 and self.generator.random() < rate

    def seconds_in(self, range_ms: tuple[int, int]) -> float:
        return self.generator.uniform(*range_ms) / 1000 if range_ms[1] else 0.0
