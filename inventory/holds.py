"""Holds: units reserved through the API for an order that does not exist yet (design rule 9). What becomes of them.

A hold ends in one of three ways: it is released (or expires: a predicate, so whoever next decides about its stock levels,
or the sweep, releases it first); it is committed without an order, which books the sale itself; or it is committed to an
order of a channel and waits until the engine books what it holds, in whose transaction its units are released. A sale
without an order has nobody else to tell what became of it: it is fulfilled (shipped, handed over) or cancelled here. How a
hold comes about: `inventory.holding`.

Rows are locked in the order stock levels, holds, each in ascending id. A hold's state changes under the locks of its
stock levels only; an extension needs the hold's alone.

Invariant: `held` of a stock level is what its holds hold (`ended_at` is null) and what checks hold.
"""

from __future__ import annotations

import enum
import hashlib
import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from django.db import transaction

from inventory import stock
from inventory.ledger import Balance, Entry
from inventory.models import Cause, Hold, HoldState
from inventory.movements import CLOCK_SKEW
from merchants import trail
from merchants.models import User
from synctec.lib import sql
from synctec.lib.alone import alone
from synctec.lib.ids import uuid7

BATCH_MAX: Final = 500
LIFETIME: Final = timedelta(minutes=15)
LIFETIME_MAX: Final = timedelta(hours=24)

#: From then on a hold is shown as waiting for an order that may never come.
LATE_ORDER: Final = timedelta(hours=1)
#: No id is greater: what is, nobody has.
ID_MAX: Final = 2**63 - 1

Order = tuple[int, str]  # channel, its order id
Wait = tuple[int, str, int]  # channel, its order id, the SKU that is held for it

#: Asked, under the locks of the stock levels concerned, which of these wait for nothing any more, because the order's line
#: of that SKU is booked or nothing of the order is open: `(merchant_id, waits)`. Filled by the engine, which this app must
#: not import.
order_is_booked: list[Callable[[int, Collection[Wait]], set[Wait]]] = []

#: Asked by which id the engine knows these orders, which programs may call otherwise: `(merchant_id, orders)`. None where
#: the channel has no such ids; nothing for a channel that is not the merchant's. Filled as the other.
order_ids: list[Callable[[int, Collection[Order]], dict[Order, str | None]]] = []


class Refusal(enum.StrEnum):
    """Why something was not done."""

    UNAVAILABLE = "unavailable"
    UNKNOWN_SKU = "unknown-sku"
    UNKNOWN_WAREHOUSE = "unknown-warehouse"
    KEY_REUSED = "idempotency-key-reused"
    NOT_ALONE = "another-was-refused"  # all or nothing
    UNKNOWN_HOLD = "unknown-hold"
    UNKNOWN_CHANNEL = "unknown-channel"
    NO_ORDER_ID = "no-order-id"
    IN_THE_FUTURE = "in-the-future"
    EXPIRED = "hold-expired"
    RELEASED = "hold-released"
    NOT_COMMITTED = "hold-not-committed"
    COMMITTED = "hold-committed"
    FULFILLED = "hold-fulfilled"
    CANCELLED = "hold-cancelled"


@dataclass(frozen=True, slots=True)
class Ask:
    """A hold somebody wants. With the same key, the same request gets the same hold."""

    sku: str
    quantity: int
    key: str = ""  # empty: never asked again
    warehouses: tuple[str, ...] = ()  # codes, in the order they are tried; none: all, most available first
    split: bool = False
    reference: str = ""
    lifetime: timedelta = LIFETIME
    source: str = ""  # how the API key begins that asks
    correlation_id: uuid.UUID = field(default_factory=uuid7)

    def fingerprint(self) -> bytes:
        """What is asked, apart from when, by whom and under which key."""
        said = [
            self.sku,
            self.quantity,
            self.warehouses,
            self.split,
            self.reference,
            self.lifetime.total_seconds(),
        ]
        return hashlib.sha256(json.dumps(said).encode()).digest()


@dataclass(frozen=True, slots=True)
class Part:
    """Units of a stocked SKU in a warehouse that a hold holds."""

    stock_level_id: int
    sku: str
    warehouse: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Held:
    """A hold as its row says."""

    hold_id: int
    sku: str
    sku_id: int
    quantity: int
    state: str
    reference: str
    order_channel_id: int | None
    order_id: str
    correlation_id: uuid.UUID
    expires_at: datetime
    created_at: datetime
    committed_at: datetime | None = None
    ended_at: datetime | None = None  # its units were no longer held
    closed_at: datetime | None = None  # a sale without an order was fulfilled or cancelled
    parts: tuple[Part, ...] = ()

    @property
    def wait(self) -> Wait | None:
        """What a hold that was committed to an order waits for."""
        return None if self.order_channel_id is None else (self.order_channel_id, self.order_id, self.sku_id)


@dataclass(frozen=True, slots=True)
class Answer:
    """A hold, or why there is none or nothing was done with it; `available` says how many could have been held."""

    held: Held | None = None
    refusal: Refusal | None = None
    available: int | None = None
    is_replay: bool = False

    @property
    def is_new(self) -> bool:
        """Whether this made a hold."""
        return self.held is not None and not self.is_replay and self.refusal is None


@dataclass(frozen=True, slots=True)
class Expired:
    """A part of a hold that has expired."""

    hold_id: int
    stock_level_id: int
    quantity: int
    sku_id: int
    reference: str
    correlation_id: uuid.UUID


def find(hold_ids: Collection[int], *, merchant_id: int) -> dict[int, Held]:
    """These holds of the merchant as their rows say."""
    wanted = _ids(hold_ids)
    if not wanted:
        return {}
    parts: dict[int, list[Part]] = defaultdict(list)
    for hold_id, *part in sql.rows(
        """
        SELECT part.hold_id, part.stock_level_id, sku.code, warehouse.code, part.quantity
        FROM inventory_holdpart part JOIN inventory_stocklevel level ON level.id = part.stock_level_id
        JOIN inventory_sku sku ON sku.id = level.sku_id
        JOIN inventory_warehouse warehouse ON warehouse.id = level.warehouse_id
        WHERE part.hold_id = ANY(%s::bigint[]) ORDER BY part.id
        """,
        [wanted],
    ):
        parts[hold_id].append(Part(*part))
    return {
        row[0]: replace(Held(*row), parts=tuple(parts[row[0]]))
        for row in sql.rows(
            """
            SELECT hold.id, sku.code, hold.sku_id, hold.quantity, hold.state, hold.reference, hold.order_channel_id,
                hold.order_id, hold.correlation_id, hold.expires_at, hold.created_at, hold.committed_at, hold.ended_at,
                hold.closed_at
            FROM inventory_hold hold JOIN inventory_sku sku ON sku.id = hold.sku_id
            WHERE hold.merchant_id = %s AND hold.id = ANY(%s::bigint[])
            """,
            [merchant_id, wanted],
        )
    }


def _ids(hold_ids: Iterable[int]) -> list[int]:
    """Those of the ids that a hold can have, in the order in which rows are locked."""
    return sorted({hold_id for hold_id in hold_ids if hold_id <= ID_MAX})


def entry_of(hold: Held | Expired, part: Part | Expired, act: str, at: datetime, **moves: Any) -> Entry:
    """What a hold's part moves in the ledger, once for each act."""
    return Entry(
        stock_level_id=part.stock_level_id,
        cause=moves.pop("cause", Cause.RESERVATION),
        key=f"hold:{hold.hold_id}:{part.stock_level_id}:{act}",
        reference=hold.reference or f"hold {hold.hold_id}",
        correlation_id=hold.correlation_id,
        effective_at=at,
        **moves,
    )


# --- what becomes of a hold -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Commitment:
    """A hold that became a sale: of a channel's order, or, with neither channel nor order, one that we book ourselves.

    `is_handed_over`: such a sale of ours is over at once, because the customer has left with the goods.
    """

    hold_id: int
    order_channel_id: int | None = None
    order_id: str = ""
    reference: str = ""
    is_handed_over: bool = False


@dataclass(frozen=True, slots=True)
class Fulfilment:
    """The units of a hold that was sold without an order have left the warehouse, then or now."""

    hold_id: int
    effective_at: datetime | None = None


class _Book:
    """Holds under the locks of their stock levels and their own, and what is to be written about them.

    `source`: how the API key begins by which that happens.
    """

    def __init__(
        self,
        merchant_id: int,
        hold_ids: Collection[int],
        now: datetime,
        *,
        source: str = "",
        locks_levels: bool = True,
    ) -> None:
        self.merchant_id, self.now, self._source = merchant_id, now, source
        wanted = _ids(hold_ids)
        self.balances: dict[int, Balance] = {}
        if locks_levels:
            level_ids = sql.rows(
                """
                SELECT DISTINCT stock_level_id FROM inventory_holdpart
                WHERE merchant_id = %s AND hold_id = ANY(%s::bigint[])
                """,
                [merchant_id, wanted],
            )
            self.balances = stock.lock_balances(level_id for (level_id,) in level_ids)
        sql.rows(
            """
            SELECT id FROM inventory_hold WHERE merchant_id = %s AND id = ANY(%s::bigint[])
            ORDER BY id FOR NO KEY UPDATE
            """,
            [merchant_id, wanted],
        )
        self.held = find(wanted, merchant_id=merchant_id)
        self._room = {level_id: balance.holdable for level_id, balance in self.balances.items()}
        self._changed: set[int] = set()
        self._entries: list[Entry] = []

    def change(
        self,
        held: Held,
        /,
        act: str = "",
        *,
        cause: Cause = Cause.RESERVATION,
        at: datetime | None = None,
        **times: int,
    ) -> Answer:
        """Note a hold's new state and, as an act (of now, or `at`), how many times its units each account moves."""
        self.held[held.hold_id] = held
        self._changed.add(held.hold_id)
        for part in held.parts if times else ():
            units = {account: sign * part.quantity for account, sign in times.items()}
            self._entries.append(entry_of(held, part, act, at or self.now, cause=cause, source=self._source, **units))
        return Answer(held=held)

    def take_again(self, held: Held) -> bool:
        """Whether the units of a hold that has ended are still there; if so, nobody else in this book gets them."""
        if any(self._room[part.stock_level_id] < part.quantity for part in held.parts):
            return False
        for part in held.parts:
            self._room[part.stock_level_id] -= part.quantity
        return True

    def write(self) -> None:
        """Write what was noted."""
        changed = [self.held[hold_id] for hold_id in sorted(self._changed)]
        if not changed:
            return
        sql.execute(
            """
            WITH told AS (
                SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::timestamptz[],
                    %s::timestamptz[], %s::timestamptz[], %s::timestamptz[])
                    AS told (id, state, reference, order_channel_id, order_id, expires_at, committed_at, ended_at, closed_at)
            ), parts AS (
                UPDATE inventory_holdpart part SET expires_at = CASE told.state WHEN 'active' THEN told.expires_at END
                FROM told WHERE part.hold_id = told.id)
            UPDATE inventory_hold hold SET state = told.state, reference = told.reference, ended_at = told.ended_at,
                order_channel_id = told.order_channel_id, order_id = told.order_id, expires_at = told.expires_at,
                committed_at = told.committed_at, closed_at = told.closed_at
            FROM told WHERE hold.id = told.id
            """,
            [
                [held.hold_id for held in changed],
                [held.state for held in changed],
                [held.reference for held in changed],
                [held.order_channel_id for held in changed],
                [held.order_id for held in changed],
                [held.expires_at for held in changed],
                [held.committed_at for held in changed],
                [held.ended_at for held in changed],
                [held.closed_at for held in changed],
            ],
        )
        stock.post(merchant_id=self.merchant_id, balances=self.balances, entries=self._entries, now=self.now)
        stock.tell_changes(
            self.merchant_id,
            [(self.balances[entry.stock_level_id].sku_id, entry.correlation_id) for entry in self._entries],
            self.now,
        )


def _settled(book: _Book, answers: list[Answer], *, all_or_nothing: bool) -> list[Answer]:
    """Write what a batch came to; nothing, if it is to be all and something was refused."""
    if all_or_nothing and any(answer.refusal for answer in answers):
        return [answer if answer.refusal else Answer(refusal=Refusal.NOT_ALONE) for answer in answers]
    book.write()
    return answers


#: Why nothing more is done with a hold in this state.
_ENDED: Final[Mapping[str, Refusal]] = {
    HoldState.COMMITTED: Refusal.COMMITTED,
    HoldState.RELEASED: Refusal.RELEASED,
    HoldState.FULFILLED: Refusal.FULFILLED,
    HoldState.CANCELLED: Refusal.CANCELLED,
}


@transaction.atomic
def extend(
    hold_ids: Sequence[int],
    *,
    merchant_id: int,
    now: datetime,
    lifetime: timedelta = LIFETIME,
    all_or_nothing: bool = False,
) -> list[Answer]:
    """Let holds live for `lifetime` from now, unless they live longer anyway. What has expired is not extended.

    Raises:
        ValueError: more than BATCH_MAX holds, or a lifetime that is none.
    """
    check_count(hold_ids)
    check_lifetime(lifetime)
    book = _Book(merchant_id, hold_ids, now, locks_levels=False)
    answers = []
    for hold_id in hold_ids:
        held = book.held.get(hold_id)
        if held is None:
            answers.append(Answer(refusal=Refusal.UNKNOWN_HOLD))
        elif _has_expired(held, now):
            answers.append(Answer(held, Refusal.EXPIRED))
        elif held.state != HoldState.ACTIVE:
            answers.append(Answer(held, _ENDED[held.state]))
        else:
            answers.append(book.change(replace(held, expires_at=max(held.expires_at, now + lifetime))))
    return _settled(book, answers, all_or_nothing=all_or_nothing)


@transaction.atomic
def release(
    hold_ids: Sequence[int], *, merchant_id: int, now: datetime, source: str = "", all_or_nothing: bool = False
) -> list[Answer]:
    """Give the units of holds back. What was released before, by whatever, stays so; what was committed is refused.

    Raises:
        ValueError: more than BATCH_MAX holds.
    """
    check_count(hold_ids)
    book = _Book(merchant_id, hold_ids, now, source=source)
    answers = []
    for hold_id in hold_ids:
        held = book.held.get(hold_id)
        if held is None:
            answers.append(Answer(refusal=Refusal.UNKNOWN_HOLD))
        elif held.state == HoldState.RELEASED:
            answers.append(Answer(held, is_replay=True))
        elif held.state != HoldState.ACTIVE:
            answers.append(Answer(held, _ENDED[held.state]))
        else:
            answers.append(_release(book, held))
    return _settled(book, answers, all_or_nothing=all_or_nothing)


def _release(book: _Book, held: Held) -> Answer:
    # A hold that had expired and was held again for an order is released a second time.
    act = "released" if held.state == HoldState.ACTIVE else "released-from-order"
    return book.change(replace(held, state=HoldState.RELEASED, ended_at=book.now), act, held=-1, quota=1)


@transaction.atomic
def release_by_hand(*, merchant_id: int, hold_id: int, reason: str, user: User | None, now: datetime) -> bool:
    """Give the units of one hold back because somebody says so, even of one that waits for its order; with a trace.

    Returns whether there was anything left to give back.
    """
    book = _Book(merchant_id, [hold_id], now)
    held = book.held.get(hold_id)
    if held is None or held.ended_at is not None:
        return False
    _release(book, held)
    book.write()
    trail.record(
        merchant_id=merchant_id,
        action="hold.release",
        subject=Hold.objects.select_related("sku").get(pk=hold_id),
        user=user,
        before={"state": held.state},
        after={"state": HoldState.RELEASED},
        reason=reason,
        correlation_id=held.correlation_id,
    )
    return True


@transaction.atomic
def commit(
    commitments: Sequence[Commitment],
    *,
    merchant_id: int,
    now: datetime,
    source: str = "",
    all_or_nothing: bool = False,
) -> list[Answer]:
    """Make sales of holds, once each. One that has expired is committed if its units are still there.

    Raises:
        ValueError: more than BATCH_MAX holds, an order without its channel or the other way round, or an order that is said
            to be handed over.
    """
    check_count(commitments)
    if any((each.order_channel_id is None) != (not each.order_id) for each in commitments):
        raise ValueError("Name an order with its channel, or neither of them.")
    if any(each.is_handed_over and each.order_id for each in commitments):
        raise ValueError("An order's channel tells when it is shipped.")
    named = _named(merchant_id, commitments)
    book = _Book(merchant_id, [each.hold_id for each in commitments], now, source=source)
    waits = [_wait(book, called) for called in named]
    booked = _booked(merchant_id, waits)
    answers = []
    for each, called, wait in zip(commitments, named, waits, strict=True):
        held = book.held.get(each.hold_id)
        if held is None:
            answers.append(Answer(refusal=Refusal.UNKNOWN_HOLD))
        elif isinstance(called, Refusal):
            answers.append(Answer(held, called))
        else:
            answers.append(_commit(book, held, called, wait in booked))
    return _settled(book, answers, all_or_nothing=all_or_nothing)


def _named(merchant_id: int, commitments: Sequence[Commitment]) -> list[Commitment | Refusal]:
    """The commitments with their orders' ids as the engine knows them, or why there can be no such order."""
    orders = {(each.order_channel_id, each.order_id) for each in commitments if each.order_channel_id is not None}
    known = {order: order_id for ask in order_ids if orders for order, order_id in ask(merchant_id, orders).items()}

    def name(each: Commitment) -> Commitment | Refusal:
        if each.order_channel_id is None:
            return each
        order = (each.order_channel_id, each.order_id)
        if order not in known:
            return Refusal.UNKNOWN_CHANNEL
        order_id = known[order]
        return Refusal.NO_ORDER_ID if order_id is None else replace(each, order_id=order_id)

    return [name(each) for each in commitments]


def _wait(book: _Book, named: Commitment | Refusal) -> Wait | None:
    """What the hold would wait for."""
    if isinstance(named, Refusal) or named.order_channel_id is None or named.hold_id not in book.held:
        return None
    return named.order_channel_id, named.order_id, book.held[named.hold_id].sku_id


def _booked(merchant_id: int, waits: Iterable[Wait | None]) -> set[Wait | None]:
    """Those that wait for nothing any more."""
    asked = {wait for wait in waits if wait is not None}
    return {wait for ask in order_is_booked for wait in ask(merchant_id, asked)} if asked else set()


def _commit(book: _Book, held: Held, commitment: Commitment, is_booked: bool) -> Answer:
    order = (commitment.order_channel_id, commitment.order_id)
    if held.state in (HoldState.COMMITTED, HoldState.FULFILLED) and (held.order_channel_id, held.order_id) == order:
        if commitment.is_handed_over and held.state == HoldState.COMMITTED:
            return _fulfil(book, held, book.now)
        return Answer(held, is_replay=True)
    is_held = held.state == HoldState.ACTIVE
    if not is_held:
        if not _has_expired(held, book.now):
            return Answer(held, _ENDED[held.state])
        if not is_booked and not book.take_again(held):
            return Answer(held, Refusal.EXPIRED)
    sold = replace(
        held,
        state=HoldState.COMMITTED,
        reference=commitment.reference or held.reference,
        order_channel_id=commitment.order_channel_id,
        order_id=commitment.order_id,
        committed_at=book.now,
        ended_at=book.now,
    )
    if commitment.order_channel_id is None:
        held_moves, quota_moves = (-1, 0) if is_held else (0, -1)
        answer = book.change(sold, "sold", cause=Cause.SALE, held=held_moves, committed=1, quota=quota_moves)
        return _fulfil(book, sold, book.now) if commitment.is_handed_over else answer
    if is_booked:
        return book.change(sold, "taken-over", held=-1) if is_held else book.change(sold)
    waiting = replace(sold, ended_at=None)
    return book.change(waiting) if is_held else book.change(waiting, "held-again", held=1, quota=-1)


@transaction.atomic
def fulfil(
    fulfilments: Sequence[Fulfilment],
    *,
    merchant_id: int,
    now: datetime,
    source: str = "",
    all_or_nothing: bool = False,
) -> list[Answer]:
    """Say of sales without an order that their units have left, once each. A count that saw them gone is not changed.

    Raises:
        ValueError: more than BATCH_MAX holds.
    """
    check_count(fulfilments)
    book = _Book(merchant_id, [each.hold_id for each in fulfilments], now, source=source)
    answers = []
    for each in fulfilments:
        held = book.held.get(each.hold_id)
        if held is None:
            answers.append(Answer(refusal=Refusal.UNKNOWN_HOLD))
        elif each.effective_at is not None and each.effective_at > now + CLOCK_SKEW:
            answers.append(Answer(held, Refusal.IN_THE_FUTURE))
        elif held.state == HoldState.FULFILLED:
            answers.append(Answer(held, is_replay=True))
        else:
            refusal = _no_sale(held)
            moment = min(each.effective_at or now, now)
            answers.append(Answer(held, refusal) if refusal else _fulfil(book, held, moment))
    return _settled(book, answers, all_or_nothing=all_or_nothing)


def _fulfil(book: _Book, sold: Held, moment: datetime) -> Answer:
    shipped = replace(sold, state=HoldState.FULFILLED, closed_at=book.now)
    return book.change(shipped, "shipped", cause=Cause.SHIPMENT, at=moment, on_hand=-1, committed=-1)


@transaction.atomic
def cancel(
    hold_ids: Sequence[int], *, merchant_id: int, now: datetime, source: str = "", all_or_nothing: bool = False
) -> list[Answer]:
    """Take sales without an order back, once each: their units, which have not left, can be sold again.

    Raises:
        ValueError: more than BATCH_MAX holds.
    """
    check_count(hold_ids)
    book = _Book(merchant_id, hold_ids, now, source=source)
    answers = []
    for hold_id in hold_ids:
        held = book.held.get(hold_id)
        if held is None:
            answers.append(Answer(refusal=Refusal.UNKNOWN_HOLD))
        elif held.state == HoldState.CANCELLED:
            answers.append(Answer(held, is_replay=True))
        elif refusal := _no_sale(held):
            answers.append(Answer(held, refusal))
        else:
            cancelled = replace(held, state=HoldState.CANCELLED, closed_at=now)
            answers.append(book.change(cancelled, "cancelled", cause=Cause.CANCEL, committed=-1, quota=1))
    return _settled(book, answers, all_or_nothing=all_or_nothing)


def _no_sale(held: Held) -> Refusal | None:
    """Why a hold is no sale of ours whose end we could be told."""
    if held.state == HoldState.ACTIVE:
        return Refusal.NOT_COMMITTED
    if held.state == HoldState.COMMITTED and held.order_channel_id is None:
        return None
    return _ENDED[held.state]


def _has_expired(held: Held, now: datetime) -> bool:
    """Whether a hold ended, or is about to end, because its time was up and for no other reason."""
    if held.state == HoldState.ACTIVE:
        return held.expires_at <= now
    ended_late = held.ended_at is not None and held.ended_at >= held.expires_at
    return held.state == HoldState.RELEASED and held.order_channel_id is None and ended_late


def check_count(batch: Sequence[object]) -> None:
    """Raises ValueError: too many at once."""
    if len(batch) > BATCH_MAX:
        raise ValueError(f"At most {BATCH_MAX} holds at once.")


def check_lifetime(lifetime: timedelta) -> None:
    """Raises ValueError: no time a hold may live."""
    if not timedelta() < lifetime <= LIFETIME_MAX:
        raise ValueError(f"A hold lives for more than nothing and at most {LIFETIME_MAX}.")


# --- what the engine asks of holds ------------------------------------------------------------------------------


def levels_held_for_orders(*, merchant_id: int, orders: Collection[Order]) -> set[int]:
    """The stock levels of holds that wait for one of these orders: to be locked together with those of the sale."""
    return {
        level_id
        for (level_id,) in sql.rows(
            """
            SELECT DISTINCT part.stock_level_id FROM unnest(%s::bigint[], %s::text[]) AS told (channel_id, order_id)
            JOIN inventory_hold hold ON hold.order_channel_id = told.channel_id AND hold.order_id = told.order_id
                AND hold.state = 'committed' AND hold.ended_at IS NULL
            JOIN inventory_holdpart part ON part.hold_id = hold.id
            WHERE hold.merchant_id = %s
            """,
            [[channel for channel, _ in orders], [order for _, order in orders], merchant_id],
        )
    }


def lock_waiting(
    *, merchant_id: int, orders: Collection[Order], balances: Mapping[int, Balance]
) -> list[tuple[Wait, Held]]:
    """Lock the holds that wait for these orders, about which the caller decides under the locks of `balances`.

    A hold of which a stock level is not among them, because it was committed a moment ago, is left to the sweep.
    """
    waiting = sql.rows(
        """
        SELECT hold.id FROM unnest(%s::bigint[], %s::text[]) AS told (channel_id, order_id)
        JOIN inventory_hold hold ON hold.order_channel_id = told.channel_id AND hold.order_id = told.order_id
            AND hold.state = 'committed' AND hold.ended_at IS NULL
        WHERE hold.merchant_id = %s AND NOT EXISTS (
            SELECT 1 FROM inventory_holdpart part
            WHERE part.hold_id = hold.id AND part.stock_level_id <> ALL (%s::bigint[]))
        ORDER BY hold.id FOR NO KEY UPDATE OF hold
        """,
        [[channel for channel, _ in orders], [order for _, order in orders], merchant_id, list(balances)],
    )
    found = find([hold_id for (hold_id,) in waiting], merchant_id=merchant_id)
    return [(held.wait, held) for _, held in sorted(found.items()) if held.wait is not None]


def taken_over(held: Held, now: datetime) -> tuple[Entry, ...]:
    """What is given back once the order of a waiting hold is booked: to be posted before the order's own entries."""
    return tuple(entry_of(held, part, "taken-over", now, held=-part.quantity) for part in held.parts)


def end_waiting(
    *,
    merchant_id: int,
    hold_ids: Sequence[int],
    entries: Iterable[Entry],
    balances: Mapping[int, Balance],
    now: datetime,
) -> None:
    """End locked holds whose orders the caller books in this transaction, and tell of the SKUs that their entries free."""
    sql.execute("UPDATE inventory_hold SET ended_at = %s WHERE id = ANY(%s::bigint[])", [now, list(hold_ids)])
    changes = [(balances[entry.stock_level_id].sku_id, entry.correlation_id) for entry in entries]
    stock.tell_changes(merchant_id, changes, now)


# --- the sweep --------------------------------------------------------------------------------------------------

#: After which waiting hold this process's next sweep goes on: those that wait in vain keep nobody from his turn.
_looked_at: Order = (0, "")


def sweep(*, now: datetime, limit: int = BATCH_MAX) -> int:
    """Release what has expired, and end holds whose order was booked past them; returns how many holds ended.

    Each merchant on its own, so many at most of each: whatever is wrong with one's holds keeps nobody else's.

    Nothing waits for it: decisions free what has expired on their own stock levels. It gives the rest back to the stores.
    """
    expired: dict[int, list[int]] = defaultdict(list)
    for merchant_id, hold_id in sql.rows(
        """
        SELECT merchant_id, id FROM (
            SELECT merchant_id, id, row_number() OVER (PARTITION BY merchant_id ORDER BY expires_at, id) AS place
            FROM inventory_hold WHERE state = 'active' AND expires_at <= %s) due
        WHERE place <= %s ORDER BY merchant_id, place
        """,
        [now, limit],
    ):
        expired[merchant_id].append(hold_id)
    waiting = _next_waiting(limit)
    return sum(
        alone(
            "sweep holds",
            partial(_sweep_found, merchant_id, expired[merchant_id], waiting.get(merchant_id, {}), now),
            merchant_id=merchant_id,
        )
        or 0
        for merchant_id in sorted({*expired, *waiting})
    )


def _sweep_found(merchant_id: int, expired: Sequence[int], waiting: Mapping[int, Wait], now: datetime) -> int:
    """End those of a merchant's holds that have expired, and those that wait for nothing any more."""
    booked = _booked(merchant_id, waiting.values())
    due = [*expired, *(hold_id for hold_id, wait in waiting.items() if wait in booked)]
    return _sweep_merchant(merchant_id, due, now) if due else 0


def _next_waiting(limit: int) -> dict[int, dict[int, Wait]]:
    """By merchant, what the next `limit` waiting holds wait for (or as many as there are), going round and round."""
    global _looked_at
    begun, found = _looked_at, _waiting_after(_looked_at, limit)
    if len(found) < limit and begun > (0, ""):
        found += _waiting_after((0, ""), limit - len(found))
    waiting: dict[int, dict[int, Wait]] = defaultdict(dict)
    for merchant_id, hold_id, channel_id, order_id, sku_id in found:
        waiting[merchant_id][hold_id] = (channel_id, order_id, sku_id)
        _looked_at = (channel_id, order_id)
    return waiting


def _waiting_after(order: Order, limit: int) -> list[tuple[Any, ...]]:
    """So many holds that wait for orders after this one; all of the last order's."""
    return sql.rows(
        """
        SELECT merchant_id, id, order_channel_id, order_id, sku_id FROM inventory_hold
        WHERE state = 'committed' AND ended_at IS NULL AND (order_channel_id, order_id) > (%s, %s)
        ORDER BY order_channel_id, order_id FETCH FIRST %s ROWS WITH TIES
        """,
        [*order, limit],
    )


@transaction.atomic
def _sweep_merchant(merchant_id: int, hold_ids: Sequence[int], now: datetime) -> int:
    """End these holds: the active ones, if they have expired, and the committed ones, if they wait for nothing any more."""
    book = _Book(merchant_id, hold_ids, now)
    unended = [held for held in book.held.values() if held.ended_at is None]
    # Asked under the locks: what had expired when it was found may have been committed to an order since.
    booked = _booked(merchant_id, (held.wait for held in unended))
    ended = 0
    for held in unended:
        if held.state == HoldState.COMMITTED and held.wait in booked:
            book.change(replace(held, ended_at=now), "taken-over", held=-1)
            ended += 1
        elif held.state == HoldState.ACTIVE and _has_expired(held, now):
            _release(book, held)
            ended += 1
    book.write()
    return ended
