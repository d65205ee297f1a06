"""The ledger's arithmetic: from balances and entries to movements, new balances and shortages. Pure.

Invariant: balances only change by entries, every entry yields movements with the next sequence numbers of its stock
level, and the open units of a level's shortages are exactly those that were sold beyond what is on hand. Units that are
only held are not among them: a suspicion may prove unfounded, a reservation may expire.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from inventory import stocktake

#: The cause of what sets the books to a count.
COUNT = "count"


@dataclass(slots=True)
class Balance:
    """A stock level's three accounts, the sequence number of its latest movement, and what the level is of.

    `quota`: units that holds may still take of those available; None: all of them. `counted_at`: the moment of its newest
    count.
    """

    stock_level_id: int
    on_hand: int
    committed: int
    held: int
    seq: int
    counted_at: datetime | None = None
    quota: int | None = None
    sku_id: int = 0
    warehouse_id: int = 0

    @property
    def available(self) -> int:
        return self.on_hand - self.committed - self.held

    @property
    def oversold(self) -> int:
        """Units sold that are not there."""
        return max(0, self.committed - self.on_hand)

    @property
    def holdable(self) -> int:
        """Units that a hold can have."""
        return max(0, self.available if self.quota is None else min(self.available, self.quota))


@dataclass(frozen=True, slots=True)
class Entry:
    """One business fact about one stock level. Its accounts move together, so shortages are judged after all of them.

    `quota` moves with the accounts where the level has one. It is a permission and no stock, so it has no movement.
    """

    stock_level_id: int
    cause: str
    key: str
    reference: str
    correlation_id: uuid.UUID
    effective_at: datetime
    on_hand: int = 0
    committed: int = 0
    held: int = 0
    quota: int = 0
    reason: str = ""
    user_id: int | None = None
    #: How the API key begins that told of it.
    source: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One movement to be written: an account's share of an entry."""

    entry: Entry
    account: str
    delta: int
    balance_after: int
    seq: int

    @property
    def idempotency_key(self) -> str:
        return f"{self.entry.key}:{self.account}"


@dataclass(slots=True)
class OpenShortage:
    """Units of a shortage that nothing has covered yet. `id` is None for one this posting makes."""

    id: int | None
    stock_level_id: int
    open_units: int
    covered_units: int = 0
    entry: Entry | None = None


@dataclass(slots=True)
class Posting:
    """What to write: movements in order, balances after them, shortages made and shortages covered."""

    lines: list[Line] = field(default_factory=list)
    balances: dict[int, Balance] = field(default_factory=dict)
    shortages: list[OpenShortage] = field(default_factory=list)
    covered: list[OpenShortage] = field(default_factory=list)


def post(
    balances: Mapping[int, Balance], entries: Iterable[Entry], open_shortages: Sequence[OpenShortage] = ()
) -> Posting:
    """Apply the entries in order to the balances, which are changed in place and returned in the posting.

    `open_shortages` are those of the levels concerned, oldest first.

    Raises:
        AssertionError: a committed or held balance or a quota would fall below zero, so the caller's books are wrong.
    """
    posting = Posting()
    queues: dict[int, list[OpenShortage]] = defaultdict(list)
    for shortage in open_shortages:
        queues[shortage.stock_level_id].append(shortage)
    touched: dict[int, OpenShortage] = {}
    for entry in entries:
        balance = balances[entry.stock_level_id]
        lacked = balance.oversold
        _move(balance, entry, posting.lines)
        if _is_in_the_count(balance, entry):
            _move(balance, _counted_already(entry), posting.lines)
        lacks = balance.oversold
        queue = queues[entry.stock_level_id]
        if lacks > lacked:
            made = OpenShortage(None, entry.stock_level_id, lacks - lacked, entry=entry)
            queue.append(made)
            posting.shortages.append(made)
        elif lacks < lacked:
            _cover(queue, lacked - lacks, touched)
        posting.balances[entry.stock_level_id] = balance
    posting.covered = list(touched.values())
    return posting


def _is_in_the_count(balance: Balance, entry: Entry) -> bool:
    """Whether the newest count saw already what this entry does to on_hand."""
    return bool(entry.on_hand) and entry.cause != COUNT and stocktake.absorbs(balance.counted_at, entry.effective_at)


def _counted_already(entry: Entry) -> Entry:
    """The other half of an entry older than the count: it stays in the ledger and moves on_hand by nothing."""
    return replace(
        entry,
        cause=COUNT,
        key=f"counted:{entry.key}",
        on_hand=-entry.on_hand,
        committed=0,
        held=0,
        reason="It happened before the newest count, which saw it.",
    )


def _move(balance: Balance, entry: Entry, lines: list[Line]) -> None:
    for account, delta in (("on_hand", entry.on_hand), ("committed", entry.committed), ("held", entry.held)):
        if delta:
            after = getattr(balance, account) + delta
            setattr(balance, account, after)
            balance.seq += 1
            lines.append(Line(entry, account, delta, after, balance.seq))
    if balance.quota is not None:
        balance.quota += entry.quota
        assert balance.quota >= 0, f"quota of stock level {balance.stock_level_id} below zero by {entry.key}"
    assert balance.committed >= 0, f"committed of stock level {balance.stock_level_id} below zero by {entry.key}"
    assert balance.held >= 0, f"held of stock level {balance.stock_level_id} below zero by {entry.key}"


def _cover(queue: list[OpenShortage], units: int, touched: dict[int, OpenShortage]) -> None:
    """Cover the oldest open units first."""
    while units:
        assert queue, "shortages do not add up to what is lacking"
        oldest = queue[0]
        covered = min(units, oldest.open_units)
        oldest.open_units -= covered
        oldest.covered_units += covered
        units -= covered
        if oldest.id is not None:
            touched[oldest.id] = oldest
        if not oldest.open_units:
            queue.pop(0)
