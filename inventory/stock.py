"""The one module that writes stock: levels, movements and shortages, always together and set-based.

Invariant: every change of a stock level is written in the same transaction as the movements that explain it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

import psycopg
from django.db import transaction

from inventory import availability, ledger
from inventory.models import Cause, StockLevel
from merchants import trail
from merchants.models import User
from synctec.lib import sql
from synctec.lib.ids import uuid7

Cursor = psycopg.Cursor[tuple[Any, ...]]

#: Told of every committed change made here by hand: `(merchant_id, sku_ids, correlation_id, now)`. The engine, which
#: this app must not import, hangs its publishing mark on it (see `sync.hooks`). Called inside the transaction.
on_change: list[Callable[[int, Sequence[int], uuid.UUID, datetime], None]] = []

#: As `on_change`, told of many changes at once: `(merchant_id, [(sku_id, correlation_id)], now)`.
on_changes: list[Callable[[int, Sequence[tuple[int, uuid.UUID]], datetime], None]] = []


class Moved(Exception):
    """Somebody moved a stock level after it was read: read it again and decide again."""


class InsufficientReason(ValueError):
    """A manual change of stock needs a reason that a colleague will understand."""


def ensure_levels(*, merchant_id: int, pairs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Stock level ids of these (SKU, warehouse) pairs, made with zero stock where there are none yet."""
    wanted = sorted(set(pairs))
    if not wanted:
        return {}
    skus, warehouses = [sku for sku, _ in wanted], [warehouse for _, warehouse in wanted]
    select = """
        SELECT level.sku_id, level.warehouse_id, level.id FROM inventory_stocklevel level
        JOIN unnest(%s::bigint[], %s::bigint[]) AS pair (sku_id, warehouse_id) USING (sku_id, warehouse_id)
    """
    with sql.cursor() as cursor:
        cursor.execute(select, [skus, warehouses])
        found = {(sku, warehouse): level for sku, warehouse, level in cursor.fetchall()}
        missing = [pair for pair in wanted if pair not in found]
        if missing:
            cursor.execute(
                """
                INSERT INTO inventory_stocklevel (merchant_id, sku_id, warehouse_id)
                SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[]) ON CONFLICT DO NOTHING
                """,
                [merchant_id, [sku for sku, _ in missing], [warehouse for _, warehouse in missing]],
            )
            cursor.execute(select, [skus, warehouses])
            found = {(sku, warehouse): level for sku, warehouse, level in cursor.fetchall()}
    return found


#: Columns in the order of a Balance.
_READ_BALANCES: Final = """
    SELECT id, on_hand, committed, held, seq, counted_at, quota, sku_id, warehouse_id FROM inventory_stocklevel
"""
#: Stock levels by their ids, and all those of some SKUs in active warehouses. Through ARRAY(), so that no plan seems better
#: for one list than for any: the plan is made once.
_OF_SKUS: Final = """
    WHERE id = ANY(%s::bigint[] || ARRAY(
        SELECT level.id FROM inventory_stocklevel level
        JOIN inventory_warehouse warehouse ON warehouse.id = level.warehouse_id AND warehouse.is_active
        WHERE level.merchant_id = %s AND level.sku_id = ANY(ARRAY(SELECT unnest(%s::bigint[])))))
"""
_LOCKED: Final = " ORDER BY id FOR NO KEY UPDATE"


def lock_balances(stock_level_ids: Iterable[int]) -> dict[int, ledger.Balance]:
    """Lock these stock levels in ascending id and read their balances. Call once per transaction, late."""
    return balances_in(
        sql.rows(_READ_BALANCES + "WHERE id = ANY(%s::bigint[])" + _LOCKED, [sorted(set(stock_level_ids))])
    )


def ask_balances(
    *, merchant_id: int, sku_ids: Collection[int], stock_level_ids: Collection[int], locks: bool
) -> sql.Question:
    """Asks for the stock levels of these SKUs in active warehouses, and for those named, for `balances_in`.

    With `locks` as `lock_balances`; otherwise `claim` them before posting.
    """
    statement = _READ_BALANCES + _OF_SKUS
    return statement + _LOCKED if locks else statement, [sorted(stock_level_ids), merchant_id, sorted(sku_ids)]


def balances_in(rows: Iterable[tuple[Any, ...]]) -> dict[int, ledger.Balance]:
    """The balances that such rows tell of, by stock level."""
    return {row[0]: ledger.Balance(*row) for row in rows}


def lock_levels_of(sku_ids: Iterable[int]) -> None:
    """Lock all stock levels of these SKUs in ascending id: until the transaction ends nothing is taken from them."""
    sql.rows(
        "SELECT 1 FROM inventory_stocklevel WHERE sku_id = ANY(%s::bigint[]) ORDER BY id FOR NO KEY UPDATE",
        [sorted(set(sku_ids))],
    )


def claim(balances: Iterable[ledger.Balance]) -> None:
    """Lock stock levels that were read without a lock, provided that they still are what was read.

    Raises:
        Moved: one of them is not.
    """
    read = sorted(balances, key=lambda balance: balance.stock_level_id)
    unmoved = sql.rows(
        """
        SELECT level.id FROM inventory_stocklevel level
        JOIN unnest(%s::bigint[], %s::bigint[], %s::int[]) AS read (id, seq, quota) ON read.id = level.id
        WHERE level.seq = read.seq AND level.quota IS NOT DISTINCT FROM read.quota
        ORDER BY level.id FOR NO KEY UPDATE OF level
        """,
        [
            [balance.stock_level_id for balance in read],
            [balance.seq for balance in read],
            [balance.quota for balance in read],
        ],
    )
    if len(unmoved) < len(read):
        raise Moved


def post(
    *,
    merchant_id: int,
    balances: Mapping[int, ledger.Balance],
    entries: Sequence[ledger.Entry],
    now: datetime,
    held_until: Mapping[int, datetime] | None = None,
) -> None:
    """Write the entries to the ledger of stock levels that `lock_balances` (or `claim`) has locked.

    After the commit the new availability is written through to Redis; `held_until` adds when the first of the holds made
    here on a level expires.

    Raises:
        IntegrityError: an entry with the same idempotency key has been posted before.
    """
    if not entries:
        return
    short = [level for level, balance in balances.items() if balance.oversold]
    posting = ledger.post(balances, entries, _open_shortages(short))
    with sql.pipeline(), sql.cursor() as cursor:
        _write_movements(cursor, merchant_id, posting.lines)
        _write_balances(cursor, posting.balances.values(), now)
        _write_shortages(cursor, merchant_id, posting, now)
    shelves = [availability.Shelf.of(balance, held_until) for balance in posting.balances.values()]
    transaction.on_commit(partial(availability.write_through, merchant_id, shelves), robust=True)


def _open_shortages(stock_level_ids: Sequence[int]) -> list[ledger.OpenShortage]:
    if not stock_level_ids:
        return []
    with sql.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, stock_level_id, quantity - quantity_covered FROM inventory_shortage
            WHERE stock_level_id = ANY(%s::bigint[]) AND covered_at IS NULL ORDER BY id
            """,
            [list(stock_level_ids)],
        )
        return [ledger.OpenShortage(*row) for row in cursor.fetchall()]


def _write_movements(cursor: Cursor, merchant_id: int, lines: Sequence[ledger.Line]) -> None:
    cursor.execute(
        """
        INSERT INTO inventory_movement (merchant_id, stock_level_id, seq, account, delta, balance_after, cause,
            idempotency_key, reference, reason, user_id, correlation_id, effective_at, source)
        SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::int[], %s::int[], %s::text[], %s::text[],
            %s::text[], %s::text[], %s::bigint[], %s::uuid[], %s::timestamptz[], %s::text[])
        """,
        [
            merchant_id,
            [line.entry.stock_level_id for line in lines],
            [line.seq for line in lines],
            [line.account for line in lines],
            [line.delta for line in lines],
            [line.balance_after for line in lines],
            [str(line.entry.cause) for line in lines],
            [line.idempotency_key for line in lines],
            [line.entry.reference[:200] for line in lines],
            [line.entry.reason[:500] for line in lines],
            [line.entry.user_id for line in lines],
            [line.entry.correlation_id for line in lines],
            [line.entry.effective_at for line in lines],
            [line.entry.source for line in lines],
        ],
    )


def _write_balances(cursor: Cursor, balances: Iterable[ledger.Balance], now: datetime) -> None:
    rows = list(balances)
    cursor.execute(
        """
        UPDATE inventory_stocklevel level
        SET on_hand = new.on_hand, committed = new.committed, held = new.held, seq = new.seq, quota = new.quota,
            updated_at = %s
        FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::int[], %s::bigint[], %s::int[])
            AS new (id, on_hand, committed, held, seq, quota)
        WHERE level.id = new.id
        """,
        [
            now,
            [balance.stock_level_id for balance in rows],
            [balance.on_hand for balance in rows],
            [balance.committed for balance in rows],
            [balance.held for balance in rows],
            [balance.seq for balance in rows],
            [balance.quota for balance in rows],
        ],
    )


def _write_shortages(cursor: Cursor, merchant_id: int, posting: ledger.Posting, now: datetime) -> None:
    if posting.shortages:
        made = [(shortage, shortage.entry) for shortage in posting.shortages]
        cursor.execute(
            """
            INSERT INTO inventory_shortage (merchant_id, stock_level_id, quantity, quantity_covered, covered_at, cause,
                reference, correlation_id, occurred_at)
            SELECT %s, * FROM unnest(%s::bigint[], %s::int[], %s::int[], %s::timestamptz[], %s::text[], %s::text[],
                %s::uuid[], %s::timestamptz[])
            """,
            [
                merchant_id,
                [shortage.stock_level_id for shortage, _ in made],
                [shortage.open_units + shortage.covered_units for shortage, _ in made],
                [shortage.covered_units for shortage, _ in made],
                [None if shortage.open_units else now for shortage, _ in made],
                [str(entry.cause) for _, entry in made if entry],
                [entry.reference[:200] for _, entry in made if entry],
                [entry.correlation_id for _, entry in made if entry],
                [entry.effective_at for _, entry in made if entry],
            ],
        )
    if posting.covered:
        cursor.execute(
            """
            UPDATE inventory_shortage shortage
            SET quantity_covered = shortage.quantity_covered + new.units,
                covered_at = CASE WHEN shortage.quantity_covered + new.units = shortage.quantity THEN %s END
            FROM unnest(%s::bigint[], %s::int[]) AS new (id, units) WHERE shortage.id = new.id
            """,
            [
                now,
                [shortage.id for shortage in posting.covered],
                [shortage.covered_units for shortage in posting.covered],
            ],
        )


def note_counts(counted_at: Mapping[int, datetime]) -> None:
    """Say of locked stock levels when their newest count was: what happened before it moves on_hand no more."""
    sql.execute(
        """
        UPDATE inventory_stocklevel level SET counted_at = new.counted_at
        FROM unnest(%s::bigint[], %s::timestamptz[]) AS new (id, counted_at) WHERE level.id = new.id
        """,
        [list(counted_at), list(counted_at.values())],
    )


def tell_changed(*, merchant_id: int, sku_ids: Iterable[int], correlation_id: uuid.UUID, now: datetime) -> None:
    """Tell whoever hangs on `on_change` of SKUs whose stock was changed here, in the caller's transaction."""
    keys = sorted(set(sku_ids))
    if keys:
        for tell in on_change:
            tell(merchant_id, keys, correlation_id, now)


def tell_changes(merchant_id: int, changes: Iterable[tuple[int, uuid.UUID]], now: datetime) -> None:
    """As `tell_changed`, of many changes: each SKU with the correlation id of what changed it."""
    told = list(dict.fromkeys(changes))
    if told:
        for tell in on_changes:
            tell(merchant_id, told, now)


@transaction.atomic
def adjust(
    *,
    merchant_id: int,
    sku_id: int,
    warehouse_id: int,
    delta: int,
    reason: str,
    user: User | None,
    now: datetime,
    idempotency_key: str | None = None,
) -> uuid.UUID:
    """Change the units on hand by `delta` for a reason somebody gave; returns the correlation id of the change.

    Raises:
        InsufficientReason: the reason is empty.
        ValueError: `delta` is zero.
    """
    if not reason.strip():
        raise InsufficientReason("Give a reason: it is shown with the movement for ever.")
    if not delta:
        raise ValueError("A change of 0 units changes nothing.")
    correlation_id = uuid7()
    levels = ensure_levels(merchant_id=merchant_id, pairs=[(sku_id, warehouse_id)])
    level_id = levels[(sku_id, warehouse_id)]
    balances = lock_balances([level_id])
    before = replace(balances[level_id])
    entry = ledger.Entry(
        stock_level_id=level_id,
        cause=Cause.ADJUSTMENT,
        key=idempotency_key or f"adjust:{correlation_id}",
        reference="manual adjustment",
        correlation_id=correlation_id,
        effective_at=now,
        on_hand=delta,
        reason=reason.strip(),
        user_id=user.pk if user else None,
    )
    post(merchant_id=merchant_id, balances=balances, entries=[entry], now=now)
    _record_adjustment(merchant_id, level_id, before, balances[level_id], entry, user)
    tell_changed(merchant_id=merchant_id, sku_ids=[sku_id], correlation_id=correlation_id, now=now)
    return correlation_id


def _record_adjustment(
    merchant_id: int,
    level_id: int,
    before: ledger.Balance,
    after: ledger.Balance,
    entry: ledger.Entry,
    user: User | None,
) -> None:
    trail.record(
        merchant_id=merchant_id,
        action="stock.adjust",
        subject=StockLevel.objects.select_related("sku", "warehouse").get(pk=level_id),
        user=user,
        before={"on_hand": before.on_hand},
        after={"on_hand": after.on_hand},
        reason=entry.reason,
        correlation_id=entry.correlation_id,
    )


@transaction.atomic
def open_stock(*, merchant_id: int, quantities: Mapping[tuple[int, int], int], now: datetime) -> int:
    """Book opening stock for (SKU, warehouse) pairs that have none booked yet; returns how many were booked."""
    correlation_id = uuid7()
    levels = ensure_levels(merchant_id=merchant_id, pairs=quantities)
    balances = lock_balances(levels.values())
    entries = [
        ledger.Entry(
            stock_level_id=levels[pair],
            cause=Cause.OPENING,
            key=f"opening:{levels[pair]}",
            reference="opening stock",
            correlation_id=correlation_id,
            effective_at=now,
            on_hand=quantity,
        )
        for pair, quantity in quantities.items()
        if quantity and not balances[levels[pair]].seq
    ]
    post(merchant_id=merchant_id, balances=balances, entries=entries, now=now)
    skus = {sku for sku, _ in quantities}
    tell_changed(merchant_id=merchant_id, sku_ids=skus, correlation_id=correlation_id, now=now)
    return len(entries)
