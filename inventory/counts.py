"""Stock takes: somebody counted, and the books follow as of that moment.

What a count says is the number of units that were *in the warehouse* at its moment, sold but not shipped ones included.
So it is about `on_hand` alone, and it has seen (absorbs) every movement of `on_hand` whose `effective_at` is not after it:
receipts, adjustments, damage, returns, transfers sent and received, what a store's edit took, and the shipment of orders.
It never touches `committed` or `held`: a sale that is not shipped lies on the shelf and was counted; its shipment, later,
takes it from both. A movement that happened after the count is added to it, whenever it is learnt of.

- A count that is the newest sets `on_hand` to its quantity plus what moved since; the difference from the books is one
  movement of the cause "counted" (none if they agreed).
- A count older than the newest moves nothing and is kept as superseded.
- A movement older than the newest count is written down, with a second one that takes it back (`inventory.ledger`), so
  that every balance is the sum of its movements.

When it happened is the word of whoever reports it. A movement dated earlier than it was leaves too much on hand if a count
lies between: reporters that are not sure shall leave `effective_at` out, which means now.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import IntegrityError, transaction

from inventory import ledger, stock, stocktake
from inventory.goods import Goods, Refused
from inventory.models import Cause, CountState, StockCount
from inventory.movements import QUANTITY_MAX, Reporter, check_moment
from synctec.lib import sql
from synctec.lib.ids import uuid7

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Counted:
    """So many units of a SKU were in a warehouse at a moment (or now)."""

    key: str
    sku: str
    warehouse: str
    quantity: int
    counted_at: datetime | None = None
    reason: str = ""


@dataclass(slots=True)
class Outcome:
    """What became of one count, in the order of the counts: applied, superseded, duplicate, refused or not_applied."""

    key: str
    status: str
    errors: list[dict[str, str]] = field(default_factory=list)
    correction: int | None = None
    on_hand: int | None = None


def take(
    *, merchant_id: int, counts: Sequence[Counted], reporter: Reporter, all_or_nothing: bool, now: datetime
) -> list[Outcome]:
    """Book the counts in one transaction; returns what became of each, in order."""
    for attempt in range(_ATTEMPTS):
        try:
            with transaction.atomic():
                return _take(merchant_id, counts, reporter, all_or_nothing, now)
        except IntegrityError as error:
            if "stock_count_taken_once" not in str(error) or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def preview(*, merchant_id: int, counts: Sequence[Counted], now: datetime) -> list[Outcome]:
    """What `take` would answer. Nothing is booked."""
    with transaction.atomic():
        outcomes = take(merchant_id=merchant_id, counts=counts, reporter=Reporter(), all_or_nothing=False, now=now)
        transaction.set_rollback(True)
    return outcomes


@dataclass(frozen=True, slots=True)
class _Placed:
    """A count whose names mean something."""

    place: int
    said: Counted
    pair: tuple[int, int]
    moment: datetime

    def as_base(self) -> stocktake.Count:
        return stocktake.Count(self.moment, self.said.key, self.said.quantity)


def _take(
    merchant_id: int, counts: Sequence[Counted], reporter: Reporter, all_or_nothing: bool, now: datetime
) -> list[Outcome]:
    goods = Goods.of(merchant_id, skus=(said.sku for said in counts), warehouses=(said.warehouse for said in counts))
    outcomes = [Outcome(said.key, CountState.SUPERSEDED.value) for said in counts]
    placed: list[_Placed] = []
    for place, said in enumerate(counts):
        try:
            placed.append(_Placed(place, said, _check(said, goods, now), min(said.counted_at or now, now)))
        except Refused as refused:
            _refuse(outcomes[place], refused)
    levels = stock.ensure_levels(merchant_id=merchant_id, pairs=(count.pair for count in placed))
    balances = stock.lock_balances(levels.values())
    fresh = _without_duplicates(merchant_id, placed, levels, outcomes)
    if all_or_nothing and any(outcome.status == "refused" for outcome in outcomes):
        for count in fresh:
            outcomes[count.place].status = "not_applied"
        return outcomes
    applied = _newest(fresh, levels)
    correlation_id = uuid7()
    entries = _entries(applied, balances, reporter, correlation_id)
    stock.post(merchant_id=merchant_id, balances=balances, entries=list(entries.values()), now=now)
    stock.note_counts({level: count.moment for level, count in applied.items()})
    for level, count in applied.items():
        outcome = outcomes[count.place]
        outcome.status = CountState.APPLIED.value
        outcome.correction = entries[level].on_hand if level in entries else 0
    _write(merchant_id, fresh, levels, outcomes, reporter, correlation_id)
    for count in placed:
        outcomes[count.place].on_hand = balances[levels[count.pair]].on_hand
    skus = {count.pair[0] for level, count in applied.items() if level in entries}
    stock.tell_changed(merchant_id=merchant_id, sku_ids=skus, correlation_id=correlation_id, now=now)
    return outcomes


def _check(said: Counted, goods: Goods, now: datetime) -> tuple[int, int]:
    """The (SKU, warehouse) a count is about. Raises Refused."""
    if not 0 <= said.quantity <= QUANTITY_MAX:
        raise Refused("quantity", f"A count finds 0 to {QUANTITY_MAX:,} units.")
    check_moment(said.counted_at, now, field="counted_at")
    return goods.sku(said.sku), goods.warehouse(said.warehouse)


def _refuse(outcome: Outcome, refused: Refused) -> None:
    outcome.status = "refused"
    outcome.errors.append({"field": refused.field, "detail": refused.detail})


def _without_duplicates(
    merchant_id: int, placed: Sequence[_Placed], levels: Mapping[tuple[int, int], int], outcomes: Sequence[Outcome]
) -> list[_Placed]:
    """The counts whose keys are new; of the others the outcome says duplicate or refused."""
    rows = StockCount.objects.filter(merchant_id=merchant_id, idempotency_key__in=[count.said.key for count in placed])
    known = {
        key: (level, quantity, said_at)
        for key, level, quantity, said_at in rows.values_list(
            "idempotency_key", "stock_level_id", "quantity", "said_at"
        )
    }
    fresh = []
    for count in placed:
        level, said = levels[count.pair], count.said
        if said.key not in known:
            known[said.key] = (level, said.quantity, said.counted_at)
            fresh.append(count)
            continue
        was_level, was_quantity, was_said = known[said.key]
        try:
            if was_level != level:
                raise _used_before(said, "sku", "another SKU or warehouse")
            if was_quantity != said.quantity:
                raise _used_before(said, "quantity", f"{was_quantity} units")
            if said.counted_at is not None and was_said != said.counted_at:
                raise _used_before(said, "counted_at", was_said.isoformat() if was_said else "no moment")
            outcomes[count.place].status = "duplicate"
        except Refused as refused:
            _refuse(outcomes[count.place], refused)
    return fresh


def _used_before(said: Counted, field_name: str, was: str) -> Refused:
    return Refused(
        field_name, f"The key {said.key!r} was used before, with {was}. Give a new count a new key of its own."
    )


def _newest(fresh: Sequence[_Placed], levels: Mapping[tuple[int, int], int]) -> dict[int, _Placed]:
    """Per level the count that becomes its base: newer than the others, and than the base it has."""
    newest: dict[int, _Placed] = {}
    for count in fresh:
        level = levels[count.pair]
        if level not in newest or count.as_base() > newest[level].as_base():
            newest[level] = count
    bases = sql.rows(
        """
        SELECT level, base.counted_at, base.idempotency_key, base.quantity FROM unnest(%s::bigint[]) AS level
        CROSS JOIN LATERAL (
            SELECT counted_at, idempotency_key, quantity FROM inventory_stockcount
            WHERE stock_level_id = level ORDER BY counted_at DESC, idempotency_key COLLATE "C" DESC LIMIT 1) AS base
        """,
        [list(newest)],
    )
    for level, *base in bases:
        if newest[level].as_base() < stocktake.Count(*base):
            del newest[level]
    return newest


def _entries(
    applied: Mapping[int, _Placed],
    balances: Mapping[int, ledger.Balance],
    reporter: Reporter,
    correlation_id: uuid.UUID,
) -> dict[int, ledger.Entry]:
    """What the new bases move, by level; nothing where the books agreed."""
    changed = dict(
        sql.rows(
            """
            SELECT base.level, coalesce(sum(movement.delta), 0)::bigint
            FROM unnest(%s::bigint[], %s::timestamptz[]) AS base (level, counted_at)
            LEFT JOIN inventory_movement movement ON movement.stock_level_id = base.level
                AND movement.account = 'on_hand' AND movement.effective_at > base.counted_at AND movement.cause <> 'count'
            GROUP BY base.level
            """,
            [list(applied), [count.moment for count in applied.values()]],
        )
    )
    entries = {}
    for level, count in applied.items():
        units = stocktake.correction(
            quantity=count.said.quantity, changed_since=changed[level], books=balances[level].on_hand
        )
        if units:
            entries[level] = ledger.Entry(
                stock_level_id=level,
                cause=Cause.COUNT,
                key=f"count:{count.said.key}",
                reference=f"{count.said.quantity} counted",
                correlation_id=correlation_id,
                effective_at=count.moment,
                on_hand=units,
                reason=count.said.reason.strip(),
                user_id=reporter.user_id,
                source=reporter.source,
            )
    return entries


def _write(
    merchant_id: int,
    fresh: Sequence[_Placed],
    levels: Mapping[tuple[int, int], int],
    outcomes: Sequence[Outcome],
    reporter: Reporter,
    correlation_id: uuid.UUID,
) -> None:
    StockCount.objects.bulk_create(
        StockCount(
            merchant_id=merchant_id,
            stock_level_id=levels[count.pair],
            quantity=count.said.quantity,
            counted_at=count.moment,
            said_at=count.said.counted_at,
            state=outcomes[count.place].status,
            correction=outcomes[count.place].correction or 0,
            idempotency_key=count.said.key,
            reason=count.said.reason.strip(),
            user_id=reporter.user_id,
            source=reporter.source,
            correlation_id=correlation_id,
        )
        for count in fresh
    )
