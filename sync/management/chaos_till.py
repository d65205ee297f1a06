"""A program of the merchant in a chaos run: it reserves, sells and reports receipts through the API.

It does what the API asks of its clients: a key of its own for every deed, and the same request with the same key until it is
answered. What it was answered is a promise; at the end the books are held against it.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from synctec.lib.secret import Secret

DEEDS_PER_SECOND: Final = 3.0
#: An answer that takes longer is one that never comes: the request is sent again.
TIMEOUT_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.3
UNITS_MAX: Final = 2
#: Short, so that some expire within a run.
LIFETIME_SECONDS: Final = (2, 30)
#: How the keys of all its deeds begin.
MARK: Final = "till-"
WAREHOUSE: Final = "MAIN"


@dataclass(slots=True)
class Promise:
    """A hold or a movement that was acknowledged; `states` are those that a hold may end in."""

    sku: str
    units: int
    states: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Open:
    """A hold that nothing was decided about yet."""

    key: str
    hold_id: int


@dataclass(slots=True)
class Till:
    """One client of the API at `address`, in a thread of its own between `start` and `stop`."""

    address: tuple[str, int]
    secret: Secret
    rng: random.Random
    #: What it reserves and receives; and what it reports as damaged, which no store is asked about before.
    skus: Sequence[str]
    damaged_skus: Sequence[str]
    holds: dict[str, Promise] = field(default_factory=dict)
    movements: dict[str, Promise] = field(default_factory=dict)
    #: Keys of holds that were refused: nothing may have been held under them.
    refused: list[str] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    #: Answers that the API does not document for what was asked, and requests that nobody has answered until the end.
    surprises: list[dict[str, Any]] = field(default_factory=list)
    _open: list[_Open] = field(default_factory=list)
    _deeds: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _gives_up: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to trade."""
        self._thread = threading.Thread(target=self._trade, name="till", daemon=True)
        self._thread.start()

    def stop(self, *, patience_seconds: float) -> None:
        """Begin nothing new, and wait for the answer to what is under way: for so long."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(patience_seconds)
            self._gives_up.set()
            self._thread.join()

    # --- what it does -------------------------------------------------------------------------------------------------

    def _trade(self) -> None:
        while not self._stopping.wait(self.rng.expovariate(DEEDS_PER_SECOND)):
            self._deeds += 1
            key = f"{MARK}{self._deeds}"
            if self._open and self.rng.random() < 0.5:
                self._decide(self._open.pop(self.rng.randrange(len(self._open))), key)
            elif self.rng.random() < 0.3:
                self._report(key)
            else:
                self._hold(key)

    def _hold(self, key: str) -> None:
        sku, units = self.rng.choice(self.skus), self.rng.randint(1, UNITS_MAX)
        asked = {"sku": sku, "quantity": units, "expires_in": self.rng.randint(*LIFETIME_SECONDS), "split": True}
        status, answer = self._insist("holds", asked, key)
        if status == 201:
            self.holds[key] = Promise(sku, units, frozenset({"active", "released"}))
            self._open.append(_Open(key, answer["id"]))
            self.tally["held"] += 1
        elif status == 409:
            self.refused.append(key)
            self.tally["refused"] += 1
        elif status:
            self._wonder("holds", asked, key, status, answer)

    def _decide(self, held: _Open, key: str) -> None:
        """Sell it, give it back, or let it expire."""
        deed = self.rng.choice(("commit", "commit", "release", "expire"))
        if deed == "expire":
            self.tally["left_to_expire"] += 1
            return
        handed_over = deed == "commit" and self.rng.random() < 0.5
        asked = {"handed_over": True} if handed_over else {}
        status, answer = self._insist(f"holds/{held.hold_id}/{deed}", asked, key)
        promise = self.holds[held.key]
        if status == 200:
            ends_as = "released" if deed == "release" else "fulfilled" if handed_over else "committed"
            promise.states = frozenset({ends_as})
            self.tally[ends_as] += 1
        elif status == 409:
            # It had expired.
            promise.states = frozenset({"active", "released"})
            self.tally["too_late"] += 1
        elif status:
            self._wonder(deed, asked, key, status, answer)
        else:
            promise.states |= {"committed", "fulfilled"}

    def _report(self, key: str) -> None:
        is_damage = self.rng.random() < 0.3
        sku = self.rng.choice(self.damaged_skus if is_damage else self.skus)
        units = self.rng.randint(1, UNITS_MAX)
        line = {"key": key, "sku": sku, "warehouse": WAREHOUSE, "quantity": units}
        line |= {"type": "damage", "reason": "dropped"} if is_damage else {"type": "receipt"}
        asked = {"mode": "all_or_nothing", "lines": [line]}
        status, answer = self._insist("movements", asked, key)
        if status == 200:
            self.movements[key] = Promise(sku, -units if is_damage else units)
            self.tally["damaged" if is_damage else "received"] += 1
        elif status:
            self._wonder("movements", asked, key, status, answer)

    def _wonder(self, what: str, asked: object, key: str, status: int, answer: object) -> None:
        self.surprises.append({"asked": what, "key": key, "body": asked, "status": status, "answer": answer})

    # --- how it asks --------------------------------------------------------------------------------------------------

    def _insist(self, path: str, body: dict[str, Any], key: str) -> tuple[int, Any]:
        """The answer, however often it has to be asked for; status 0: there was none until the end."""
        began = time.monotonic()
        while not self._gives_up.is_set():
            status, answer = self._ask(path, body, key)
            if status and status < 500 and status != 429 and not _is_in_flight(status, answer):
                return status, answer
            self.tally["asked_again"] += 1
            self._gives_up.wait(RETRY_SECONDS)
        self.surprises.append({"asked": path, "key": key, "unanswered_seconds": round(time.monotonic() - began)})
        return 0, None

    def _ask(self, path: str, body: dict[str, Any], key: str) -> tuple[int, Any]:
        """One request; status 0 when nothing came back that can be read."""
        connection = http.client.HTTPConnection(*self.address, timeout=TIMEOUT_SECONDS)
        headers = {
            "Authorization": f"Bearer {self.secret.reveal()}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
        }
        try:
            connection.request("POST", f"/api/v1/{path}", body=json.dumps(body), headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, None
        finally:
            connection.close()


def _is_in_flight(status: int, answer: Any) -> bool:
    """Whether the same request is being carried out at this moment."""
    return status == 409 and str(answer.get("type", "")).endswith(":request-in-flight")
