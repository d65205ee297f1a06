"""The feed: every change of stock, in an order to which nothing is ever added behind what was read.

A counter of the rows (their id) would not do: ids are given when a row is written and become visible when its transaction
ends, so a reader past id 8 may never see id 7. Here each movement carries the number of its transaction, and a reader gets
only transactions below the oldest one still under way (`pg_snapshot_xmin` of the very snapshot that reads). What is below
it has ended, for good; what begins later gets a greater number. So (transaction, id) is an order that only grows at its
end, and a cursor in it misses nothing. The price: a transaction that stays open holds up the feed, not longer than
`idle_in_transaction_session_timeout` and the statement timeouts let it.

A page covers so many movements and tells them per stock level, with the level's numbers of *now* and its latest sequence
number: whoever applies a page with a lower `seq` than they have seen may leave it out. So the same page twice, or an old
one late, does no harm.

Transaction numbers go on through a crash, a failover and a recovery from WAL. A database filled from a dump starts again
at small ones: the runbook says what to do then, and a cursor from before is refused rather than silently answered with
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from synctec.lib import sql

PAGE_MAX = 500


class Position(NamedTuple):
    """A place in the feed: after this movement of this transaction. Places are compared as tuples."""

    transaction: int
    movement: int


#: Before everything.
START = Position(0, 0)


class CursorOfAnotherTime(Exception):
    """The place lies ahead of everything: it is from before the database was filled anew."""


@dataclass(frozen=True, slots=True)
class Change:
    """A stock level as it is now, and the movements of the page that brought it there, oldest first."""

    sku: str
    warehouse: str
    on_hand: int
    committed: int
    held: int
    available: int
    seq: int
    updated_at: datetime
    movements: tuple[dict[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "sku": self.sku,
            "warehouse": self.warehouse,
            "on_hand": self.on_hand,
            "committed": self.committed,
            "held": self.held,
            "available": self.available,
            "seq": self.seq,
            "updated_at": self.updated_at.isoformat(),
            "movements": list(self.movements),
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Some changes, the place after them, and whether more can be read at once."""

    changes: tuple[Change, ...]
    position: Position
    has_more: bool


def end_of(merchant_id: int) -> Position:
    """The place after all that can be read now."""
    found = sql.rows(
        """
        SELECT transaction_id, id FROM inventory_movement
        WHERE merchant_id = %s AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
        ORDER BY transaction_id DESC, id DESC LIMIT 1
        """,
        [merchant_id],
    )
    return Position(*found[0]) if found else START


def read(*, merchant_id: int, after: Position, limit: int = PAGE_MAX, skip_source: str = "") -> Page:
    """The next changes of a merchant's stock, of `limit` movements at most, in one query and so in one snapshot.

    With `skip_source` (the beginning of an API key) a level is left out when all its movements came by that key.

    Raises:
        CursorOfAnotherTime: start again from the levels as they are.
    """
    rows = sql.rows(
        """
        SELECT movement.transaction_id, movement.id, movement.stock_level_id, movement.seq, movement.account,
            movement.delta, movement.cause, movement.reference, movement.reason, movement.source,
            movement.correlation_id, movement.effective_at, movement.created_at,
            sku.code, warehouse.code, level.on_hand, level.committed, level.held, level.available, level.seq,
            level.updated_at
        FROM (
            SELECT * FROM inventory_movement
            WHERE merchant_id = %s AND (transaction_id, id) > (%s, %s)
                AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
            ORDER BY transaction_id, id LIMIT %s
        ) AS movement
        JOIN inventory_stocklevel level ON level.id = movement.stock_level_id
        JOIN inventory_sku sku ON sku.id = level.sku_id
        JOIN inventory_warehouse warehouse ON warehouse.id = level.warehouse_id
        ORDER BY movement.transaction_id, movement.id
        """,
        [merchant_id, after.transaction, after.movement, limit],
    )
    if not rows:
        _refuse_another_time(after)
        return Page((), after, has_more=False)
    by_level: dict[int, list[tuple[Any, ...]]] = {}
    for row in rows:
        # A level stands where its latest movement of the page stands.
        by_level[row[2]] = [*by_level.pop(row[2], []), row]
    changes = tuple(_change(moved) for moved in by_level.values() if not _is_echo(moved, skip_source))
    return Page(changes, Position(rows[-1][0], rows[-1][1]), has_more=len(rows) == limit)


def _refuse_another_time(after: Position) -> None:
    (horizon,) = sql.rows("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")[0]
    if after.transaction > horizon:
        raise CursorOfAnotherTime


def _is_echo(moved: list[tuple[Any, ...]], source: str) -> bool:
    return bool(source) and all(row[9] == source for row in moved)


def _change(moved: list[tuple[Any, ...]]) -> Change:
    sku, warehouse, on_hand, committed, held, available, seq, updated_at = moved[-1][13:]
    told = tuple(_movement(row) for row in moved)
    return Change(sku, warehouse, on_hand, committed, held, available, seq, updated_at, told)


def _movement(row: tuple[Any, ...]) -> dict[str, Any]:
    _, _, _, seq, account, delta, cause, reference, reason, source, correlation_id, effective_at, created_at, *_ = row
    return {
        "seq": seq,
        "account": account,
        "delta": delta,
        "cause": cause,
        "reference": reference,
        "reason": reason,
        "source": source,
        "correlation_id": str(correlation_id),
        "effective_at": effective_at.isoformat(),
        "recorded_at": created_at.isoformat(),
    }
