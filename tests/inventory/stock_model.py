"""A model of stock in a few lines: what the API must answer, and what must be on the shelves afterwards.

It knows nothing of SQL, of ledgers or of Redis, and takes the shortest way to each number, so that a mistake in the code is
unlikely to be made here again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

#: What one of each is made of.
PARTS = {"MUG": {"MUG": 1}, "TEE": {"TEE": 1}, "SET": {"MUG": 2, "TEE": 1}}
STOCKED = ("MUG", "TEE")
WAREHOUSES = ("MAIN", "SECOND")

_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
_WHY_NOT = {
    "active": "hold-not-committed",
    "committed": "hold-committed",
    "released": "hold-released",
    "fulfilled": "hold-fulfilled",
    "cancelled": "hold-cancelled",
}


@dataclass
class Shelf:
    """A SKU in a warehouse: every change and every count there ever was, and what is sold and held."""

    changes: list[tuple[datetime, int]] = field(default_factory=list)
    counts: list[tuple[datetime, str, int]] = field(default_factory=list)
    committed: int = 0
    held: int = 0

    @property
    def on_hand(self) -> int:
        counted_at, _, units = max(self.counts, default=(_BEGINNING, "", 0))
        return units + sum(moved for at, moved in self.changes if at > counted_at)

    @property
    def available(self) -> int:
        return self.on_hand - self.committed - self.held


@dataclass
class Hold:
    """Units of something in a warehouse that somebody keeps, or has bought."""

    code: str
    warehouse: str
    quantity: int
    until: datetime
    state: str = "active"
    has_timed_out: bool = False


@dataclass
class Transfer:
    """Units on their way from one warehouse to the other."""

    code: str
    origin: str
    in_transit: int
    state: str = "in_transit"

    @property
    def destination(self) -> str:
        return next(code for code in WAREHOUSES if code != self.origin)


@dataclass
class Model:
    """Shelves, holds and transfers. `now` is everybody's clock."""

    now: datetime
    shelves: dict[tuple[str, str], Shelf]
    holds: dict[int, Hold] = field(default_factory=dict)
    transfers: dict[str, Transfer] = field(default_factory=dict)

    def free(self, code: str, warehouse: str) -> int:
        """How many could be held: what has expired is free, noticed or not."""
        return min(
            (self.shelves[part, warehouse].available + self._late(part, warehouse)) // units
            for part, units in PARTS[code].items()
        )

    def late(self) -> list[int]:
        """Holds that have expired and count as held until somebody notices."""
        return [hold_id for hold_id, hold in self.holds.items() if hold.state == "active" and hold.until <= self.now]

    def _late(self, part: str, warehouse: str) -> int:
        holds = [self.holds[hold_id] for hold_id in self.late()]
        return sum(PARTS[hold.code].get(part, 0) * hold.quantity for hold in holds if hold.warehouse == warehouse)

    def hold(self, hold_id: int, hold: Hold) -> None:
        self.holds[hold_id] = hold
        self._move(hold, held=1)

    def _move(self, hold: Hold, *, committed: int = 0, held: int = 0, left_at: datetime | None = None) -> None:
        """So many times what the hold is made of."""
        for part, units in PARTS[hold.code].items():
            shelf = self.shelves[part, hold.warehouse]
            shelf.committed += committed * units * hold.quantity
            shelf.held += held * units * hold.quantity
            if left_at is not None:
                shelf.changes.append((left_at, -units * hold.quantity))

    def act(self, act: str, hold_id: int, *, lifetime: timedelta, at: datetime) -> str:
        """Do something with a hold, unless there is a reason why not, which is returned."""
        hold = self.holds.get(hold_id)
        if hold is None:
            return "unknown-hold"
        ends_as = {"release": "released", "commit": "committed", "fulfil": "fulfilled", "cancel": "cancelled"}
        if hold.state == ends_as.get(act) or (act, hold.state) == ("commit", "fulfilled"):
            return ""
        if act == "extend":
            return self._extend(hold, lifetime)
        if act == "commit":
            return self._commit(hold)
        if hold.state != ("active" if act == "release" else "committed"):
            return _WHY_NOT[hold.state]
        if act == "release":
            self.release(hold_id)
        else:
            self._move(hold, committed=-1, left_at=at if act == "fulfil" else None)
            hold.state = ends_as[act]
        return ""

    def _extend(self, hold: Hold, lifetime: timedelta) -> str:
        if hold.has_timed_out or (hold.state == "active" and hold.until <= self.now):
            return "hold-expired"
        if hold.state != "active":
            return _WHY_NOT[hold.state]
        hold.until = max(hold.until, self.now + lifetime)
        return ""

    def _commit(self, hold: Hold) -> str:
        if hold.state == "active":
            self._move(hold, held=-1, committed=1)
        elif not hold.has_timed_out:
            return _WHY_NOT[hold.state]
        elif any(
            self.shelves[part, hold.warehouse].available < units * hold.quantity
            for part, units in PARTS[hold.code].items()
        ):
            return "hold-expired"
        else:
            self._move(hold, committed=1)
        hold.state, hold.has_timed_out = "committed", False
        return ""

    def release(self, hold_id: int) -> None:
        """Give back what a hold holds: because somebody says so, or because it is noticed that it has expired."""
        hold = self.holds[hold_id]
        hold.state, hold.has_timed_out = "released", hold.until <= self.now
        self._move(hold, held=-1)

    def send(self, name: str, transfer: Transfer) -> None:
        self.transfers[name] = transfer
        self.shelves[transfer.code, transfer.origin].changes.append((self.now, -transfer.in_transit))

    def receive(self, transfer: Transfer, units: int) -> None:
        self._arrive(transfer, transfer.destination, units, "received")

    def take_back(self, transfer: Transfer) -> None:
        self._arrive(transfer, transfer.origin, transfer.in_transit, "cancelled")

    def _arrive(self, transfer: Transfer, where: str, units: int, state: str) -> None:
        self.shelves[transfer.code, where].changes.append((self.now, units))
        transfer.in_transit -= units
        if not transfer.in_transit:
            transfer.state = state
