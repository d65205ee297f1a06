"""Holds: units reserved through the API for an order that does not exist yet (design rule 9).

One interface, three strategies, chosen per SKU. `pessimistic` locks the stock levels, decides and commits. `optimistic`
decides on what it read and commits if nothing moved since. `atomic` has a gate in Redis refuse what cannot be had, and
what is left of requests of threads waiting at the same time is decided and committed together. All three end in the same
decision under the same row locks, so they may be mixed on shared components.

A hold ends in one of three ways: it is released (or expires: a predicate, so whoever next decides about its stock levels,
or the sweep, releases it first); it is committed without an order, which books the sale itself; or it is committed to an
order of a channel and waits until the engine books that order, in whose transaction its units are released.

Rows are locked in the order stock levels, holds, each in ascending id. A hold's state changes under the locks of its
stock levels only; an extension needs the hold's alone.

Invariant: a "yes" is committed before it is said; `held` of a stock level is what its holds hold (`ended_at` is null) and
what checks hold; a hold never takes more than is available, nor more than the level's quota.
"""

from __future__ import annotations

import enum
import hashlib
import json
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, LiteralString

from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, connection, transaction

from inventory import availability, recipes, stock
from inventory.allotment import Place, allot, most
from inventory.availability import Gate
from inventory.ledger import Balance, Entry
from inventory.models import Cause, Hold, HoldState, Strategy
from merchants import trail
from merchants.models import User
from synctec.lib import sql
from synctec.lib.combiner import Combiner, NotDone
from synctec.lib.ids import uuid7

BATCH_MAX: Final = 500
LIFETIME: Final = timedelta(minutes=15)
LIFETIME_MAX: Final = timedelta(hours=24)
#: How often a decision is taken anew because something moved meanwhile, before it takes locks.
TRIES: Final = 6
#: How long a decision waits, when there is a crowd, for those just answered to ask again.
LINGER_SECONDS: Final = 0.002
_COMBINED_MAX: Final = 200
#: So many may wait for a decision, and so long: then the caller had better come again.
_WAITING_MAX: Final = 5_000
_WAIT_SECONDS: Final = 10.0

Order = tuple[int, str]  # channel, its order id

#: Asked, under the locks of the stock levels concerned, which of these orders have been booked: `(merchant_id, orders)`.
#: Filled by the engine, which this app must not import. Raises UnknownChannel for a channel that is not the merchant's.
order_is_booked: list[Callable[[int, Collection[Order]], set[Order]]] = []


class UnknownChannel(LookupError):
    """The merchant has no such channel."""


class Refusal(enum.StrEnum):
    """Why something was not done."""

    UNAVAILABLE = "unavailable"
    UNKNOWN_SKU = "unknown-sku"
    UNKNOWN_WAREHOUSE = "unknown-warehouse"
    KEY_REUSED = "idempotency-key-reused"
    NOT_ALONE = "another-was-refused"  # all or nothing
    UNKNOWN_HOLD = "unknown-hold"
    UNKNOWN_CHANNEL = "unknown-channel"
    EXPIRED = "hold-expired"
    RELEASED = "hold-released"
    COMMITTED = "hold-committed"


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
    correlation_id: uuid.UUID = field(default_factory=uuid7)

    def fingerprint(self) -> bytes:
        """What is asked, apart from when and under which key."""
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
    quantity: int
    state: str
    reference: str
    order_channel_id: int | None
    order_id: str
    correlation_id: uuid.UUID
    expires_at: datetime
    created_at: datetime
    ended_at: datetime | None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A hold, or why there is none or nothing was done with it; `available` says how many could have been held."""

    held: Held | None = None
    refusal: Refusal | None = None
    available: int | None = None
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class _Group:
    """Requests that came together."""

    asks: Sequence[Ask]
    all_or_nothing: bool
    now: datetime


@dataclass(frozen=True, slots=True)
class _Expired:
    """A part of a hold that has expired."""

    hold_id: int
    stock_level_id: int
    quantity: int
    sku_id: int
    reference: str
    correlation_id: uuid.UUID


# --- holding ----------------------------------------------------------------------------------------------------


def hold(asks: Sequence[Ask], *, merchant_id: int, now: datetime, all_or_nothing: bool = False) -> list[Answer]:
    """Hold what is asked for, each request on its own or all of them together; an answer for each.

    Inside a transaction of the caller the decision is part of it; outside, it is committed when this returns.

    Raises:
        ValueError: more than BATCH_MAX requests, a quantity below 1, or a lifetime that is none.
    """
    _check(asks)
    known = recipes.remembered(merchant_id, [ask.sku for ask in asks])
    answers: list[Answer | None] = [None] * len(asks)
    refused = [
        (place, units)
        for place, ask in enumerate(asks)
        if (units := _gate_refuses(merchant_id, ask, known.get(ask.sku), now)) is not None
    ]
    if refused:
        # What is gone now may have been given to this very request before.
        earlier = _recall(merchant_id, [asks[place] for place, _ in refused])
        for (place, units), found in zip(refused, earlier, strict=True):
            answers[place] = found or Answer(refusal=Refusal.UNAVAILABLE, available=units)
        if all_or_nothing and any(answer is not None and answer.refusal for answer in answers):
            return [answer or Answer(refusal=Refusal.NOT_ALONE) for answer in answers]
    rest = [place for place, answer in enumerate(answers) if answer is None]
    if rest:
        group = _Group([asks[place] for place in rest], all_or_nothing, now)
        strategies = {known[ask.sku].strategy if ask.sku in known else Strategy.PESSIMISTIC for ask in group.asks}
        for place, answer in zip(rest, _decided(merchant_id, group, strategies), strict=True):
            answers[place] = answer
    return [answer for answer in answers if answer is not None]


def _check(asks: Sequence[Ask]) -> None:
    _check_count(asks)
    for ask in asks:
        _check_lifetime(ask.lifetime)
        if ask.quantity < 1:
            raise ValueError("A hold is for one unit at least.")


def _gate_refuses(merchant_id: int, ask: Ask, recipe: recipes.Recipe | None, now: datetime) -> int | None:
    """How many units there are, if the gate is sure that these are not enough; None: let PostgreSQL decide."""
    if recipe is None or recipe.strategy != Strategy.ATOMIC:
        return None
    warehouses: list[int] = []
    if ask.warehouses:
        codes = recipes.remembered_warehouses(merchant_id)
        if any(code not in codes for code in ask.warehouses):
            return None
        warehouses = [codes[code] for code in ask.warehouses]
    verdict, units = availability.ask_gate(
        merchant_id,
        parts=recipe.parts,
        quantity=ask.quantity,
        warehouse_ids=warehouses,
        split=ask.split,
        now=now,
    )
    return units if verdict is Gate.REFUSED else None


def _decided(merchant_id: int, group: _Group, strategies: set[str]) -> list[Answer]:
    if strategies == {Strategy.OPTIMISTIC}:
        return _decide_optimistically(merchant_id, group)
    if strategies == {Strategy.ATOMIC} and not connection.in_atomic_block:
        combiner = _combiners.get(merchant_id)
        if combiner is None:
            made = Combiner(
                partial(_decide_together, merchant_id),
                batch_max=_COMBINED_MAX,
                waiting_max=_WAITING_MAX,
                timeout_seconds=_WAIT_SECONDS,
                linger_seconds=LINGER_SECONDS,
            )
            combiner = _combiners.setdefault(merchant_id, made)
        try:
            return combiner.submit(group)
        except NotDone as error:
            raise OperationalError("too many holds wait to be decided") from error
    return _decide_locked(merchant_id, [group])[0]


#: One per merchant and process: who decides for all threads that are waiting.
_combiners: dict[int, Combiner[_Group, list[Answer]]] = {}


def _decide_together(merchant_id: int, groups: Sequence[_Group]) -> Sequence[list[Answer] | Exception]:
    try:
        return _decide_locked(merchant_id, groups)
    except (DatabaseError, InterfaceError, stock.Moved) as error:
        return [error] * len(groups)


def _decide_optimistically(merchant_id: int, group: _Group) -> list[Answer]:
    for attempt in range(TRIES):
        try:
            with _attempt():
                return _decide(merchant_id, [group], stock.read_balances)[0]
        except stock.Moved:
            time.sleep(random.uniform(0, 0.001 * 2**attempt))  # noqa: S311 - spreads contenders, guards nothing
    return _decide_locked(merchant_id, [group])[0]


def _decide_locked(merchant_id: int, groups: Sequence[_Group]) -> list[list[Answer]]:
    for _ in range(TRIES):
        try:
            with _attempt():
                return _decide(merchant_id, groups, stock.lock_balances)
        except stock.Moved as moved:
            # A hold was extended, or a key used, by somebody whom the locks do not keep out: seldom once, never often.
            latest = moved
    raise latest


@contextmanager
def _attempt() -> Iterator[None]:
    """A transaction that decides. A key that somebody used at the same time is found by the next attempt.

    Raises:
        Moved: decide again.
    """
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        if "hold_made_once" in str(error):
            raise stock.Moved from error
        raise


def _decide(
    merchant_id: int,
    groups: Sequence[_Group],
    balances_of: Callable[[Iterable[int]], dict[int, Balance]],
) -> list[list[Answer]]:
    """Decide and write, in the transaction under way.

    Raises:
        Moved: what the decision rests on is no longer so; nothing of it may be kept.
    """
    now = max(group.now for group in groups)
    asks = [ask for group in groups for ask in group.asks]
    with sql.pipeline():  # sends BEGIN along
        known = recipes.load(merchant_id, [ask.sku for ask in asks])
    rows, ids = sql.together(
        _places(merchant_id, known.values(), now),
        ("SELECT nextval('inventory_hold_id_seq') FROM generate_series(1, %s)", [len(asks)]),
    )
    warehouses = {code: warehouse for _, hold_id, code, warehouse in rows if hold_id is None}
    level_ids, expired_ids = {row[0] for row in rows}, sorted({row[1] for row in rows if row[1] is not None})
    if any(code not in warehouses for ask in asks for code in ask.warehouses):
        warehouses = recipes.warehouses(merchant_id)  # there are warehouses without a shelf of these SKUs
    balances = balances_of(level_ids)
    expired = _expired_parts(expired_ids, now)
    earlier = _by_key(merchant_id, [ask.key for ask in asks if ask.key])
    desk = _Desk(known, warehouses, balances, expired, earlier, (hold_id for (hold_id,) in ids))
    answers = [desk.serve(group) for group in groups]
    if balances_of is stock.read_balances and (desk.made or expired):
        stock.claim(balances.values())
    changes = {(part.sku_id, part.correlation_id) for part in expired}
    changes |= {
        (balances[part.stock_level_id].sku_id, held.correlation_id) for held in desk.made for part in held.parts
    }
    freed = _end_expired(merchant_id, expired, now)
    with sql.pipeline():
        entries = freed + desk.write(merchant_id)
        stock.post(merchant_id=merchant_id, balances=balances, entries=entries, now=now, held_until=desk.held_until())
        _tell(merchant_id, changes, now)
    if desk.refused_skus:
        transaction.on_commit(partial(availability.refresh, merchant_id, desk.refused_skus), robust=True)
    return answers


def _places(merchant_id: int, known: Iterable[recipes.Recipe], now: datetime) -> tuple[LiteralString, Sequence[Any]]:
    """Asks for the stock levels of these SKUs in active warehouses: level, null, warehouse's code and id; and for those of
    the expired holds on them: level, hold."""
    return (
        """
        WITH wanted AS (
            SELECT level.id, warehouse.code, warehouse.id AS warehouse_id FROM inventory_stocklevel level
            JOIN inventory_warehouse warehouse ON warehouse.id = level.warehouse_id AND warehouse.is_active
            WHERE level.merchant_id = %s AND level.sku_id = ANY(%s::bigint[])
        ), expired AS (
            SELECT DISTINCT part.hold_id FROM wanted
            JOIN inventory_holdpart part ON part.stock_level_id = wanted.id AND part.expires_at <= %s)
        SELECT id, NULL::bigint, code, warehouse_id FROM wanted UNION ALL
        SELECT part.stock_level_id, part.hold_id, NULL, NULL FROM expired JOIN inventory_holdpart part USING (hold_id)
        """,
        [merchant_id, sorted({sku for recipe in known for sku in recipe.parts}), now],
    )


def _expired_parts(hold_ids: Sequence[int], now: datetime) -> list[_Expired]:
    if not hold_ids:
        return []
    return [
        _Expired(*row)
        for row in sql.rows(
            """
            SELECT part.hold_id, part.stock_level_id, part.quantity, level.sku_id, hold.reference, hold.correlation_id
            FROM inventory_holdpart part JOIN inventory_hold hold ON hold.id = part.hold_id
            JOIN inventory_stocklevel level ON level.id = part.stock_level_id
            WHERE part.hold_id = ANY(%s::bigint[]) AND part.expires_at <= %s ORDER BY part.hold_id, part.stock_level_id
            """,
            [list(hold_ids), now],
        )
    ]


class _Desk:
    """Serves requests in order from what is free, and remembers what was given to whom."""

    def __init__(
        self,
        known: Mapping[str, recipes.Recipe],
        warehouses: Mapping[str, int],
        balances: Mapping[int, Balance],
        expired: Sequence[_Expired],
        earlier: Mapping[str, tuple[bytes, Held]],
        ids: Iterator[int],
    ) -> None:
        self._known = known
        self._warehouses = warehouses
        self._codes = {warehouse: code for code, warehouse in warehouses.items()}
        self._level_at = {
            (balance.sku_id, balance.warehouse_id): balance.stock_level_id for balance in balances.values()
        }
        self._earlier = earlier
        self._ids = ids
        freed: dict[int, int] = defaultdict(int)
        for part in expired:
            freed[part.stock_level_id] += part.quantity
        self._free: dict[Place, int] = {}
        for level_id, balance in balances.items():
            limit = balance.available if balance.quota is None else min(balance.available, balance.quota)
            self._free[balance.sku_id, balance.warehouse_id] = limit + freed[level_id]
        self.made: list[Held] = []
        self._asks: list[Ask] = []
        self._by_key: dict[str, tuple[bytes, int]] = {}
        self.refused_skus: set[int] = set()

    def serve(self, group: _Group) -> list[Answer]:
        """Answer the requests of a group."""
        before = (dict(self._free), len(self.made), dict(self._by_key)) if group.all_or_nothing else None
        answers = [self._serve(ask, group.now) for ask in group.asks]
        if before is not None and any(answer.refusal for answer in answers):
            self._free, count, self._by_key = before
            del self.made[count:], self._asks[count:]
            return [
                answer if answer.refusal or answer.is_replay else Answer(refusal=Refusal.NOT_ALONE)
                for answer in answers
            ]
        return answers

    def _serve(self, ask: Ask, now: datetime) -> Answer:
        if ask.key in self._earlier:
            fingerprint, held = self._earlier[ask.key]
            return _again(ask, fingerprint, held)
        if ask.key and ask.key in self._by_key:
            fingerprint, place = self._by_key[ask.key]
            return _again(ask, fingerprint, self.made[place])
        recipe = self._known.get(ask.sku)
        if recipe is None:
            return Answer(refusal=Refusal.UNKNOWN_SKU)
        if any(code not in self._warehouses for code in ask.warehouses):
            return Answer(refusal=Refusal.UNKNOWN_WAREHOUSE)
        order = [self._warehouses[code] for code in dict.fromkeys(ask.warehouses)] or list(self._codes)
        taken = allot(
            recipe.parts,
            ask.quantity,
            self._free,
            order,
            is_ordered=bool(ask.warehouses),
            may_split=ask.split,
        )
        if taken is None:
            self.refused_skus |= set(recipe.parts)
            units = most(recipe.parts, self._free, order, may_split=ask.split)
            return Answer(refusal=Refusal.UNAVAILABLE, available=units)
        return self._make(ask, recipe, taken, now)

    def _make(self, ask: Ask, recipe: recipes.Recipe, taken: Mapping[Place, int], now: datetime) -> Answer:
        parts = []
        for (sku, warehouse), units in taken.items():
            self._free[sku, warehouse] -= units
            parts.append(
                Part(self._level_at[sku, warehouse], recipe.codes[sku], self._codes[warehouse], units),
            )
        held = Held(
            hold_id=next(self._ids),
            sku=ask.sku,
            quantity=ask.quantity,
            state=HoldState.ACTIVE,
            reference=ask.reference,
            order_channel_id=None,
            order_id="",
            correlation_id=ask.correlation_id,
            expires_at=now + ask.lifetime,
            created_at=now,
            ended_at=None,
            parts=tuple(parts),
        )
        if ask.key:
            self._by_key[ask.key] = (ask.fingerprint(), len(self.made))
        self.made.append(held)
        self._asks.append(ask)
        return Answer(held=held)

    def held_until(self) -> dict[int, datetime]:
        """When the first of the holds made on a stock level expires."""
        first: dict[int, datetime] = {}
        for held in self.made:
            for part in held.parts:
                known = first.get(part.stock_level_id)
                first[part.stock_level_id] = min(known, held.expires_at) if known else held.expires_at
        return first

    def write(self, merchant_id: int) -> list[Entry]:
        """Write the holds made and return what they take from the ledger.

        Raises:
            IntegrityError: (hold_made_once) somebody used one of the keys meanwhile.
        """
        if not self.made:
            return []
        sql.execute(
            """
            INSERT INTO inventory_hold (merchant_id, id, sku_id, quantity, idempotency_key, asked_sha256, reference,
                correlation_id, expires_at, created_at)
            SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::text[], %s::bytea[], %s::text[],
                %s::uuid[], %s::timestamptz[], %s::timestamptz[]) AS asked (id, sku_id, quantity, key)
            ORDER BY asked.key
            """,
            [
                merchant_id,
                [held.hold_id for held in self.made],
                [self._known[held.sku].sku_id for held in self.made],
                [held.quantity for held in self.made],
                [ask.key or f"unkeyed:{held.hold_id}" for ask, held in zip(self._asks, self.made, strict=True)],
                [ask.fingerprint() if ask.key else b"" for ask in self._asks],
                [held.reference for held in self.made],
                [held.correlation_id for held in self.made],
                [held.expires_at for held in self.made],
                [held.created_at for held in self.made],
            ],
        )
        parts = [(held, part) for held in self.made for part in held.parts]
        sql.execute(
            """
            INSERT INTO inventory_holdpart (merchant_id, hold_id, stock_level_id, quantity, expires_at)
            SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::timestamptz[])
            """,
            [
                merchant_id,
                [held.hold_id for held, _ in parts],
                [part.stock_level_id for _, part in parts],
                [part.quantity for _, part in parts],
                [held.expires_at for held, _ in parts],
            ],
        )
        return [
            _entry(held, part, "taken", held.created_at, held=part.quantity, quota=-part.quantity)
            for held, part in parts
        ]


def _entry(hold: Held | _Expired, part: Part | _Expired, act: str, now: datetime, **moves: Any) -> Entry:
    return Entry(
        stock_level_id=part.stock_level_id,
        cause=moves.pop("cause", Cause.RESERVATION),
        key=f"hold:{hold.hold_id}:{part.stock_level_id}:{act}",
        reference=hold.reference or f"hold {hold.hold_id}",
        correlation_id=hold.correlation_id,
        effective_at=now,
        **moves,
    )


def _end_expired(merchant_id: int, expired: Sequence[_Expired], now: datetime) -> list[Entry]:
    """Release holds that have expired, under the locks of their stock levels; returns what that gives to the ledger.

    Raises:
        Moved: one of them was extended meanwhile.
    """
    if not expired:
        return []
    hold_ids = sorted({part.hold_id for part in expired})
    ended = sql.rows(
        """
        WITH due AS (
            SELECT id FROM inventory_hold
            WHERE id = ANY(%s::bigint[]) AND merchant_id = %s AND state = 'active' AND expires_at <= %s
            ORDER BY id FOR NO KEY UPDATE
        ), ended AS (
            UPDATE inventory_hold hold SET state = 'released', ended_at = %s FROM due WHERE hold.id = due.id
            RETURNING hold.id
        ), parts AS (
            UPDATE inventory_holdpart part SET expires_at = NULL FROM due WHERE part.hold_id = due.id)
        SELECT count(*) FROM ended
        """,
        [hold_ids, merchant_id, now, now],
    )
    if ended[0][0] < len(hold_ids):
        raise stock.Moved
    return [_entry(part, part, "expired", now, held=-part.quantity, quota=part.quantity) for part in expired]


def _tell(merchant_id: int, changes: Iterable[tuple[int, uuid.UUID]], now: datetime) -> None:
    told = sorted(set(changes))
    if told:
        for tell in stock.on_changes:
            tell(merchant_id, told, now)


def _again(ask: Ask, fingerprint: bytes, held: Held) -> Answer:
    """The answer to a request whose key was used before."""
    if ask.fingerprint() != fingerprint:
        return Answer(refusal=Refusal.KEY_REUSED)
    return Answer(held=held, is_replay=True)


def _recall(merchant_id: int, asks: Sequence[Ask]) -> list[Answer | None]:
    """For each request the answer it got before, if its key was used."""
    earlier = _by_key(merchant_id, [ask.key for ask in asks if ask.key])
    return [_again(ask, *earlier[ask.key]) if ask.key in earlier else None for ask in asks]


def _by_key(merchant_id: int, keys: Sequence[str]) -> dict[str, tuple[bytes, Held]]:
    if not keys:
        return {}
    rows = sql.rows(
        """
        SELECT idempotency_key, asked_sha256, id FROM inventory_hold
        WHERE merchant_id = %s AND idempotency_key = ANY(%s::text[])
        """,
        [merchant_id, list(keys)],
    )
    held = find([hold_id for _, _, hold_id in rows], merchant_id=merchant_id)
    return {key: (fingerprint, held[hold_id]) for key, fingerprint, hold_id in rows}


def find(hold_ids: Collection[int], *, merchant_id: int) -> dict[int, Held]:
    """These holds of the merchant as their rows say."""
    if not hold_ids:
        return {}
    wanted = sorted(set(hold_ids))
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
            SELECT hold.id, sku.code, hold.quantity, hold.state, hold.reference, hold.order_channel_id, hold.order_id,
                hold.correlation_id, hold.expires_at, hold.created_at, hold.ended_at
            FROM inventory_hold hold JOIN inventory_sku sku ON sku.id = hold.sku_id
            WHERE hold.merchant_id = %s AND hold.id = ANY(%s::bigint[])
            """,
            [merchant_id, wanted],
        )
    }


# --- what becomes of a hold -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Commitment:
    """A hold that became a sale: of a channel's order, or, with neither channel nor order, one that we book ourselves."""

    hold_id: int
    order_channel_id: int | None = None
    order_id: str = ""
    reference: str = ""


class _Book:
    """Holds under the locks of their stock levels and their own, and what is to be written about them."""

    def __init__(
        self, merchant_id: int, hold_ids: Collection[int], now: datetime, *, locks_levels: bool = True
    ) -> None:
        self.merchant_id, self.now = merchant_id, now
        wanted = sorted(set(hold_ids))
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

    def change(self, held: Held, /, act: str = "", *, cause: Cause = Cause.RESERVATION, **times: int) -> Answer:
        """Note a hold's new state and, as an act, how many times its units each account moves."""
        self.held[held.hold_id] = held
        self._changed.add(held.hold_id)
        for part in held.parts if times else ():
            units = {account: sign * part.quantity for account, sign in times.items()}
            self._entries.append(_entry(held, part, act, self.now, cause=cause, **units))
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
                    %s::timestamptz[]) AS told (id, state, reference, order_channel_id, order_id, expires_at, ended_at)
            ), parts AS (
                UPDATE inventory_holdpart part SET expires_at = CASE told.state WHEN 'active' THEN told.expires_at END
                FROM told WHERE part.hold_id = told.id)
            UPDATE inventory_hold hold SET state = told.state, reference = told.reference, ended_at = told.ended_at,
                order_channel_id = told.order_channel_id, order_id = told.order_id, expires_at = told.expires_at
            FROM told WHERE hold.id = told.id
            """,
            [
                [held.hold_id for held in changed],
                [held.state for held in changed],
                [held.reference for held in changed],
                [held.order_channel_id for held in changed],
                [held.order_id for held in changed],
                [held.expires_at for held in changed],
                [held.ended_at for held in changed],
            ],
        )
        stock.post(merchant_id=self.merchant_id, balances=self.balances, entries=self._entries, now=self.now)
        _tell(
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
    _check_count(hold_ids)
    _check_lifetime(lifetime)
    book = _Book(merchant_id, hold_ids, now, locks_levels=False)
    answers = []
    for hold_id in hold_ids:
        held = book.held.get(hold_id)
        if held is None:
            answers.append(Answer(refusal=Refusal.UNKNOWN_HOLD))
        elif held.state == HoldState.COMMITTED:
            answers.append(Answer(held, Refusal.COMMITTED))
        elif _has_expired(held, now):
            answers.append(Answer(held, Refusal.EXPIRED))
        elif held.state == HoldState.RELEASED:
            answers.append(Answer(held, Refusal.RELEASED))
        else:
            answers.append(book.change(replace(held, expires_at=max(held.expires_at, now + lifetime))))
    return _settled(book, answers, all_or_nothing=all_or_nothing)


@transaction.atomic
def release(hold_ids: Sequence[int], *, merchant_id: int, now: datetime, all_or_nothing: bool = False) -> list[Answer]:
    """Give the units of holds back. What was released before, by whatever, stays so; what was committed is refused.

    Raises:
        ValueError: more than BATCH_MAX holds.
    """
    _check_count(hold_ids)
    book = _Book(merchant_id, hold_ids, now)
    answers = []
    for hold_id in hold_ids:
        held = book.held.get(hold_id)
        if held is None:
            answers.append(Answer(refusal=Refusal.UNKNOWN_HOLD))
        elif held.state == HoldState.COMMITTED:
            answers.append(Answer(held, Refusal.COMMITTED))
        elif held.state == HoldState.RELEASED:
            answers.append(Answer(held, is_replay=True))
        else:
            answers.append(_release(book, held))
    return _settled(book, answers, all_or_nothing=all_or_nothing)


def _release(book: _Book, held: Held) -> Answer:
    return book.change(replace(held, state=HoldState.RELEASED, ended_at=book.now), "released", held=-1, quota=1)


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
    commitments: Sequence[Commitment], *, merchant_id: int, now: datetime, all_or_nothing: bool = False
) -> list[Answer]:
    """Make sales of holds, once each. One that has expired is committed if its units are still there.

    Raises:
        ValueError: more than BATCH_MAX holds, or an order without its channel or the other way round.
    """
    _check_count(commitments)
    if any((each.order_channel_id is None) != (not each.order_id) for each in commitments):
        raise ValueError("Name an order with its channel, or neither of them.")
    book = _Book(merchant_id, [each.hold_id for each in commitments], now)
    booked, unknown = _booked(merchant_id, commitments)
    answers = []
    for each in commitments:
        held = book.held.get(each.hold_id)
        if held is None:
            answers.append(Answer(refusal=Refusal.UNKNOWN_HOLD))
        elif each.order_channel_id in unknown:
            answers.append(Answer(held, Refusal.UNKNOWN_CHANNEL))
        else:
            answers.append(_commit(book, held, each, (each.order_channel_id, each.order_id) in booked))
    return _settled(book, answers, all_or_nothing=all_or_nothing)


def _booked(merchant_id: int, commitments: Iterable[Commitment]) -> tuple[set[tuple[int | None, str]], set[int | None]]:
    """Which of the orders are booked, and which channels nobody knows."""
    by_channel: dict[int, set[Order]] = defaultdict(set)
    for each in commitments:
        if each.order_channel_id is not None:
            by_channel[each.order_channel_id].add((each.order_channel_id, each.order_id))
    booked: set[tuple[int | None, str]] = set()
    unknown: set[int | None] = set()
    for channel_id, orders in by_channel.items():
        try:
            for ask in order_is_booked:
                booked |= ask(merchant_id, orders)
        except UnknownChannel:
            unknown.add(channel_id)
    return booked, unknown


def _commit(book: _Book, held: Held, commitment: Commitment, is_booked: bool) -> Answer:
    order = (commitment.order_channel_id, commitment.order_id)
    if held.state == HoldState.COMMITTED:
        if (held.order_channel_id, held.order_id) == order:
            return Answer(held, is_replay=True)
        return Answer(held, Refusal.COMMITTED)
    is_held = held.state == HoldState.ACTIVE
    if not is_held:
        if not _has_expired(held, book.now):
            return Answer(held, Refusal.RELEASED)
        if not is_booked and not book.take_again(held):
            return Answer(held, Refusal.EXPIRED)
    sold = replace(
        held,
        state=HoldState.COMMITTED,
        reference=commitment.reference or held.reference,
        order_channel_id=commitment.order_channel_id,
        order_id=commitment.order_id,
        ended_at=book.now,
    )
    if commitment.order_channel_id is None:
        if is_held:
            return book.change(sold, "sold", cause=Cause.SALE, held=-1, committed=1)
        return book.change(sold, "sold", cause=Cause.SALE, committed=1, quota=-1)
    if is_booked:
        return book.change(sold, "taken-over", held=-1) if is_held else book.change(sold)
    waiting = replace(sold, ended_at=None)
    return book.change(waiting) if is_held else book.change(waiting, "held-again", held=1, quota=-1)


def _has_expired(held: Held, now: datetime) -> bool:
    """Whether a hold ended, or is about to end, because its time was up and for no other reason."""
    if held.state == HoldState.ACTIVE:
        return held.expires_at <= now
    ended_late = held.ended_at is not None and held.ended_at >= held.expires_at
    return held.state == HoldState.RELEASED and held.order_channel_id is None and ended_late


def _check_count(batch: Sequence[object]) -> None:
    if len(batch) > BATCH_MAX:
        raise ValueError(f"At most {BATCH_MAX} holds at once.")


def _check_lifetime(lifetime: timedelta) -> None:
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


def taken_over_by_orders(
    *, merchant_id: int, orders: Collection[Order], balances: Mapping[int, Balance], now: datetime
) -> list[Entry]:
    """End the holds that wait for these orders, which the caller is about to book; returns what that gives back.

    To be posted before the orders' own entries, in the same transaction, under the locks of `balances`. A hold of which a
    stock level is not among them, because it was committed a moment ago, is left to the sweep.
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
    if not waiting:
        return []
    hold_ids = [hold_id for (hold_id,) in waiting]
    sql.execute("UPDATE inventory_hold SET ended_at = %s WHERE id = ANY(%s::bigint[])", [now, hold_ids])
    ended = find(hold_ids, merchant_id=merchant_id)
    return [
        _entry(held, part, "taken-over", now, held=-part.quantity) for held in ended.values() for part in held.parts
    ]


def sweep(*, now: datetime, limit: int = BATCH_MAX) -> int:
    """Release what has expired, and end holds whose order was booked past them; returns how many holds ended.

    Nothing waits for it: decisions free what has expired on their own stock levels. It gives the rest back to the stores.
    """
    due: dict[int, list[int]] = defaultdict(list)
    for merchant_id, hold_id in sql.rows(
        """
        SELECT merchant_id, id FROM inventory_hold WHERE state = 'active' AND expires_at <= %s
        ORDER BY expires_at LIMIT %s
        """,
        [now, limit],
    ):
        due[merchant_id].append(hold_id)
    waiting: dict[int, dict[int, Order]] = defaultdict(dict)
    for merchant_id, hold_id, channel_id, order_id in sql.rows(
        """
        SELECT merchant_id, id, order_channel_id, order_id FROM inventory_hold
        WHERE state = 'committed' AND ended_at IS NULL ORDER BY id DESC LIMIT %s
        """,
        [limit],
    ):
        waiting[merchant_id][hold_id] = (channel_id, order_id)
    for merchant_id, orders in waiting.items():
        booked = {order for ask in order_is_booked for order in ask(merchant_id, set(orders.values()))}
        due[merchant_id] += [hold_id for hold_id, order in orders.items() if order in booked]
    return sum(_sweep_merchant(merchant_id, hold_ids, now) for merchant_id, hold_ids in due.items() if hold_ids)


@transaction.atomic
def _sweep_merchant(merchant_id: int, hold_ids: Sequence[int], now: datetime) -> int:
    """End these holds: the active ones, if they have expired, and the committed ones, whose orders are booked."""
    book = _Book(merchant_id, hold_ids, now)
    ended = [held for held in book.held.values() if held.ended_at is None]
    for held in ended:
        if held.state == HoldState.COMMITTED:
            book.change(replace(held, ended_at=now), "taken-over", held=-1)
        elif _has_expired(held, now):
            _release(book, held)
    book.write()
    return sum(held.ended_at is not None for held in map(book.held.__getitem__, [held.hold_id for held in ended]))
