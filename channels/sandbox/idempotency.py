"""What a store remembers of `@idempotent` keys: 24 hours from the first request. Pure.

A key is tied to a fingerprint of its parameters. What a second request with the same key meets: same
parameters after success -> the original outcome; after a refusal -> PREVIOUS_ATTEMPT_FAILED; other
parameters -> KEY_PARAMETER_MISMATCH. (CONCURRENT_REQUEST concerns requests in flight and is the server's.)
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

MEMORY_US = 24 * 3600 * 1_000_000


class Verdict(enum.Enum):
    NEW = "new"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    MISMATCH = "mismatch"


@dataclass(slots=True)
class Remembered:
    fingerprint: str
    expires_us: int
    outcome: Any  # what the command returned; None when it was refused


@dataclass(slots=True)
class KeyMemory:
    entries: OrderedDict[str, Remembered] = field(default_factory=OrderedDict)

    def look_up(self, key: str, fingerprint: str, *, now_us: int) -> tuple[Verdict, Any]:
        """What is known of this key, and the remembered outcome where it succeeded."""
        self._forget_expired(now_us)
        entry = self.entries.get(key)
        if entry is None:
            return Verdict.NEW, None
        if entry.fingerprint != fingerprint:
            return Verdict.MISMATCH, None
        if entry.outcome is None:
            return Verdict.FAILED, None
        return Verdict.SUCCEEDED, entry.outcome

    def remember(self, key: str, fingerprint: str, outcome: Any, *, now_us: int) -> None:
        self.entries[key] = Remembered(fingerprint, now_us + MEMORY_US, outcome)

    def _forget_expired(self, now_us: int) -> None:
        entries = self.entries
        while entries:
            oldest = next(iter(entries))
            if entries[oldest].expires_us > now_us:
                return
            del entries[oldest]


def fingerprint_of(operation: str, parameters: object) -> str:
    text = json.dumps([operation, parameters], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
