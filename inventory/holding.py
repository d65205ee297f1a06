"""How holds come about: asked for, refused by the gate or decided, written, and only then promised (design rule 9).

One interface, three strategies, chosen per SKU. `pessimistic` locks the stock levels, decides and commits. `optimistic`
decides on what it read and commits if nothing moved since. `atomic` lets one of the threads that wait at the same time
act for all of them: a gate in Redis refuses what cannot be had, in one call, and what is left is decided and committed
together. All three end in the same decision under the same row locks, so they may be mixed on shared components.

A decision is two ways to PostgreSQL and back, however many share it: what it rests on is locked and read in one, because
recipes are remembered from before and only checked; what it comes to is written and committed in the other.

Invariant: a "yes" is committed before it is said; a hold never takes more than is available, nor more than the stock
level's quota.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, connection, transaction

from inventory import availability, recipes, stock
from inventory.allotment import Place, allot, most
from inventory.availability import Gate, Wish
from inventory.holds import (
    BATCH_MAX,
    Answer,
    Ask,
    Expired,
    Held,
    Part,
    Refusal,
    check_count,
    check_lifetime,
    entry_of,
    find,
)
from inventory.ledger import Balance, Entry
from inventory.models import HoldState, Strategy
from inventory.recipes import Recipe
from synctec.lib import sql
from synctec.lib.combiner import Combiner, NotDone

#: How often a decision is taken anew because something moved meanwhile, before it takes locks.
TRIES: Final = 6
#: How long a decision waits, when there is a crowd, for those just answered to ask again.
LINGER_SECONDS: Final = 0.004
_COMBINED_MAX: Final = 200
#: So many may wait for a decision, and so long: then the caller had better come again.
_WAITING_MAX: Final = 5_000
_WAIT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Group:
    """Requests that came together."""

    asks: Sequence[Ask]
    all_or_nothing: bool
    now: datetime


_Decide = Callable[[int, Sequence[_Group]], list[list[Answer]]]


def hold(asks: Sequence[Ask], *, merchant_id: int, now: datetime, all_or_nothing: bool = False) -> list[Answer]:
    """Hold what is asked for, each request on its own or all of them together; an answer for each.

    Inside a transaction of the caller the decision is part of it; outside, it is committed when this returns.

    Raises:
        ValueError: more than BATCH_MAX requests, a quantity below 1, or a lifetime that is none.
    """
    _check(asks)
    group = _Group(asks, all_or_nothing, now)
    if not connection.in_atomic_block:
        strategies = {recipe.strategy for recipe in recipes.recalled(merchant_id, _codes([group])).values()}
        if strategies <= {Strategy.ATOMIC}:
            answers = _decided_with_others(merchant_id, group)
            if answers is not None:
                return answers
    known = recipes.remembered(merchant_id, _codes([group]))
    strategies = {recipe.strategy for recipe in known.values()}
    decide = _decide_optimistically if strategies == {Strategy.OPTIMISTIC} else _decide_locked
    return _answered(merchant_id, [group], known, decide)[0]


def _check(asks: Sequence[Ask]) -> None:
    check_count(asks)
    for ask in asks:
        check_lifetime(ask.lifetime)
        if ask.quantity < 1:
            raise ValueError("A hold is for one unit at least.")


def _codes(groups: Sequence[_Group]) -> set[str]:
    return {ask.sku for group in groups for ask in group.asks}


# --- by one thread for all ---------------------------------------------------------------------------------------


#: One per merchant and process: who decides for all threads that are waiting.
_combiners: dict[int, Combiner[_Group, list[Answer] | None]] = {}


def _decided_with_others(merchant_id: int, group: _Group) -> list[Answer] | None:
    """The answers; None: another strategy was chosen for one of the SKUs."""
    combiner = _combiners.get(merchant_id)
    if combiner is None:
        made = Combiner(
            partial(_decide_for_all, merchant_id),
            batch_max=_COMBINED_MAX,
            waiting_max=_WAITING_MAX,
            timeout_seconds=_WAIT_SECONDS,
            linger_seconds=LINGER_SECONDS,
            weigh=lambda waiting: len(waiting.asks),
            weight_max=BATCH_MAX,
        )
        combiner = _combiners.setdefault(merchant_id, made)
    # Whoever decides must find a connection, however many requests wait for it.
    sql.give_back()
    try:
        return combiner.submit(group)
    except NotDone as error:
        raise OperationalError("too many holds wait to be decided") from error


def _decide_for_all(merchant_id: int, groups: Sequence[_Group]) -> Sequence[list[Answer] | Exception | None]:
    try:
        known = recipes.remembered(merchant_id, _codes(groups))
        others = {code for code, recipe in known.items() if recipe.strategy != Strategy.ATOMIC}
        is_ours = [not others or others.isdisjoint(_codes([group])) for group in groups]
        ours = [group for group, is_it in zip(groups, is_ours, strict=True) if is_it]
        answers = iter(_answered(merchant_id, ours, known, _decide_locked))
        return [next(answers) if is_it else None for is_it in is_ours]
    except (DatabaseError, InterfaceError, stock.Moved) as error:
        return [error] * len(groups)
    finally:
        sql.give_back()


# --- by the gate -------------------------------------------------------------------------------------------------


def _answered(
    merchant_id: int, groups: Sequence[_Group], known: Mapping[str, Recipe], decide: _Decide
) -> list[list[Answer]]:
    """The gate's answers to some requests, and those of `decide` to the others."""
    refused, let_through = _refused_by_gate(merchant_id, groups, known)
    untaken = {sku for skus in let_through.values() for sku in skus}
    try:
        answers = _decided(merchant_id, groups, refused, decide)
        untaken = {
            sku for (group, place), skus in let_through.items() if not answers[group][place].is_new for sku in skus
        }
    finally:
        availability.take_back(merchant_id, untaken)
    return _reconsidered(merchant_id, groups, known, refused, answers, untaken, decide) if untaken else answers


def _decided(
    merchant_id: int, groups: Sequence[_Group], refused: Sequence[Sequence[Answer | None]], decide: _Decide
) -> list[list[Answer]]:
    if not any(map(any, refused)):
        return decide(merchant_id, groups) if groups else []
    left: list[_Group] = []
    known: list[Sequence[Answer | None]] = []
    for group, answers in zip(groups, refused, strict=True):
        if group.all_or_nothing and any(answer is not None and answer.refusal for answer in answers):
            answers = [answer or Answer(refusal=Refusal.NOT_ALONE) for answer in answers]
        known.append(answers)
        asks = [ask for ask, answer in zip(group.asks, answers, strict=True) if answer is None]
        left.append(_Group(asks, group.all_or_nothing, group.now))
    some = [group for group in left if group.asks]
    decided = (answer for answers in (decide(merchant_id, some) if some else []) for answer in answers)
    return [[answer or next(decided) for answer in answers] for answers in known]


def _reconsidered(
    merchant_id: int,
    groups: Sequence[_Group],
    known: Mapping[str, Recipe],
    refused: Sequence[Sequence[Answer | None]],
    answers: list[list[Answer]],
    untaken: Set[int],
    decide: _Decide,
) -> list[list[Answer]]:
    """The answers, where what the gate refused for the sake of units that nobody took in the end is decided after all."""
    places: dict[int, list[int]] = {}
    for number, (group, of_gate) in enumerate(zip(groups, refused, strict=True)):
        in_vain = [
            place
            for place, (ask, answer) in enumerate(zip(group.asks, of_gate, strict=True))
            if answer is not None and answer.refusal and not untaken.isdisjoint(known[ask.sku].parts)
        ]
        if in_vain:
            places[number] = list(range(len(group.asks))) if group.all_or_nothing else in_vain
    again = [
        _Group([groups[number].asks[place] for place in of_group], groups[number].all_or_nothing, groups[number].now)
        for number, of_group in places.items()
    ]
    try:
        decided = decide(merchant_id, again) if again else []
    except (DatabaseError, InterfaceError, stock.Moved):
        if connection.in_atomic_block:
            raise
        # What was promised before is committed, and must be told.
        return answers
    for (number, of_group), of_decision in zip(places.items(), decided, strict=True):
        for place, answer in zip(of_group, of_decision, strict=True):
            answers[number][place] = answer
    return answers


def _refused_by_gate(
    merchant_id: int, groups: Sequence[_Group], known: Mapping[str, Recipe]
) -> tuple[list[list[Answer | None]], dict[tuple[int, int], Collection[int]]]:
    """For each request that the gate is sure to be in vain, the refusal, or what its key got before; and the SKUs that it
    counted for each of those it let through, by (group, place).
    """
    answers: list[list[Answer | None]] = [[None] * len(group.asks) for group in groups]
    asked: list[tuple[int, int, Ask]] = []
    wishes: list[Wish] = []
    for number, group in enumerate(groups):
        for place, ask in enumerate(group.asks):
            wish = _wish(merchant_id, ask, known.get(ask.sku))
            if wish is not None:
                asked.append((number, place, ask))
                wishes.append(wish)
    now = max((group.now for group in groups), default=None)
    verdicts = availability.ask_gate(merchant_id, wishes, now=now) if now else []
    refused: list[tuple[int, int, Ask, int]] = []
    let_through: dict[tuple[int, int], Collection[int]] = {}
    for (number, place, ask), wish, (verdict, units) in zip(asked, wishes, verdicts, strict=True):
        if verdict is Gate.REFUSED:
            refused.append((number, place, ask, units))
        elif verdict is Gate.OPEN:
            let_through[number, place] = wish.parts.keys()
    # What is gone now may have been given to this very request before.
    earlier = _by_key(merchant_id, [ask.key for _, _, ask, _ in refused if ask.key])
    for number, place, ask, units in refused:
        answers[number][place] = (
            _again(ask, *earlier[ask.key])
            if ask.key in earlier
            else Answer(refusal=Refusal.UNAVAILABLE, available=units)
        )
    return answers, let_through


def _wish(merchant_id: int, ask: Ask, recipe: Recipe | None) -> Wish | None:
    """What the gate is asked; None: the request is not for the gate."""
    if recipe is None or recipe.strategy != Strategy.ATOMIC:
        return None
    if not ask.warehouses:
        return Wish(recipe.parts, ask.quantity, (), ask.split)
    codes = recipes.remembered_warehouses(merchant_id)
    if any(code not in codes for code in ask.warehouses):
        return None
    return Wish(recipe.parts, ask.quantity, [codes[code] for code in ask.warehouses], ask.split)


# --- by PostgreSQL -----------------------------------------------------------------------------------------------


def _decide_optimistically(merchant_id: int, groups: Sequence[_Group]) -> list[list[Answer]]:
    more: set[int] = set()
    for attempt in range(TRIES):
        try:
            with _attempt():
                return _decide(merchant_id, groups, more, locks=False)
        except stock.Moved:
            time.sleep(random.uniform(0, 0.001 * 2**attempt))  # noqa: S311 - spreads contenders, guards nothing
    return _decide_locked(merchant_id, groups)


def _decide_locked(merchant_id: int, groups: Sequence[_Group]) -> list[list[Answer]]:
    more: set[int] = set()
    for _ in range(TRIES):
        try:
            with _attempt():
                return _decide(merchant_id, groups, more, locks=True)
        except stock.Moved as moved:
            # A recipe was changed, a hold extended or expired, or a key used, by somebody whom the locks do not keep out:
            # seldom once, never often.
            latest = moved
    raise latest


@contextmanager
def _attempt() -> Iterator[None]:
    """A transaction that decides. A key that somebody used at the same time is found by the next attempt.

    Unless it is part of a larger one it is a pipeline, so that the COMMIT goes along with what was written. psycopg's
    `commit` waits for all answers; nothing is told or promised before.

    Raises:
        Moved: decide again.
    """
    try:
        with nullcontext() if connection.in_atomic_block else sql.pipeline(), transaction.atomic():
            yield
    except IntegrityError as error:
        if "hold_made_once" in str(error):
            raise stock.Moved from error
        raise


def _decide(merchant_id: int, groups: Sequence[_Group], more: set[int], *, locks: bool) -> list[list[Answer]]:
    """Decide and write, in the transaction under way. `more`: further stock levels that an earlier attempt found to
    matter; what this one finds is added.

    Raises:
        Moved: what the decision rests on is no longer so; nothing of it may be kept.
    """
    now = max(group.now for group in groups)
    asks = [ask for group in groups for ask in group.asks]
    desk, balances, expired = _look(merchant_id, asks, now, more, locks=locks)
    answers = [desk.serve(group) for group in groups]
    if not locks and (desk.made or expired):
        stock.claim(balances.values())
    changes = {(part.sku_id, part.correlation_id) for part in expired}
    changes |= {
        (balances[part.stock_level_id].sku_id, held.correlation_id) for held in desk.made for part in held.parts
    }
    freed = _end_expired(merchant_id, expired, now)
    with sql.pipeline():
        entries = freed + desk.write(merchant_id)
        stock.post(merchant_id=merchant_id, balances=balances, entries=entries, now=now, held_until=desk.held_until())
        stock.tell_changes(merchant_id, changes, now)
    if desk.refused_skus:
        transaction.on_commit(partial(availability.refresh, merchant_id, desk.refused_skus), robust=True)
    return answers


def _look(
    merchant_id: int, asks: Sequence[Ask], now: datetime, more: set[int], *, locks: bool
) -> tuple[_Desk, dict[int, Balance], list[Expired]]:
    """Lock or read what a decision rests on, by what is remembered of recipes, and see whether that was right.

    Raises:
        Moved: it was not, or what has expired reaches further than was known: `more` tells how far.
    """
    codes = {ask.sku for ask in asks}
    known = recipes.remembered(merchant_id, codes)
    sku_ids = sorted({sku for recipe in known.values() for sku in recipe.parts})
    keys = [ask.key for ask in asks if ask.key]
    levels, skus, bom, warehouses, expiring, ids, *used = sql.together(
        stock.ask_balances(merchant_id=merchant_id, sku_ids=sku_ids, stock_level_ids=more, locks=locks),
        *recipes.ask(merchant_id, codes, known),
        recipes.ask_warehouses(merchant_id),
        _ask_expired(merchant_id, sku_ids, now),
        ("SELECT nextval('inventory_hold_id_seq') FROM generate_series(1, %s)", [len(asks)]),
        *([_ask_keys(merchant_id, keys)] if keys else []),
    )
    if recipes.recipes_in(skus, bom) != known:
        recipes.forget(merchant_id, codes)
        raise stock.Moved
    recipes.remember(merchant_id, known)
    balances = stock.balances_in(levels)
    expired = _expired_parts(sorted({hold_id for (hold_id,) in expiring}), now)
    unlocked = {part.stock_level_id for part in expired} - set(balances)
    if unlocked:
        more |= unlocked
        raise stock.Moved
    earlier = _found(merchant_id, used[0]) if used else {}
    return (
        _Desk(known, dict(warehouses), balances, expired, earlier, (hold_id for (hold_id,) in ids)),
        balances,
        expired,
    )


def _ask_expired(merchant_id: int, sku_ids: Sequence[int], now: datetime) -> sql.Question:
    """Asks for the expired holds on any stock level of these SKUs."""
    return (
        """
        SELECT part.hold_id FROM inventory_stocklevel level
        JOIN inventory_holdpart part ON part.stock_level_id = level.id AND part.expires_at <= %s
        WHERE level.merchant_id = %s AND level.sku_id = ANY(ARRAY(SELECT unnest(%s::bigint[])))
        """,
        [now, merchant_id, list(sku_ids)],
    )


def _expired_parts(hold_ids: Sequence[int], now: datetime) -> list[Expired]:
    """All parts of these holds, on whatever stock levels they are."""
    if not hold_ids:
        return []
    return [
        Expired(*row)
        for row in sql.rows(
            """
            SELECT part.hold_id, part.stock_level_id, part.quantity, level.sku_id, hold.reference, hold.correlation_id
            FROM inventory_holdpart part JOIN inventory_hold hold ON hold.id = part.hold_id
            JOIN inventory_stocklevel level ON level.id = part.stock_level_id
            WHERE part.hold_id = ANY(%s::bigint[]) AND part.expires_at <= %s ORDER BY part.hold_id, part.stock_level_id
            """,
            [hold_ids, now],
        )
    ]


class _Desk:
    """Serves requests in order from what is free, and remembers what was given to whom."""

    def __init__(
        self,
        known: Mapping[str, Recipe],
        warehouses: Mapping[str, int],
        balances: Mapping[int, Balance],
        expired: Sequence[Expired],
        earlier: Mapping[str, tuple[bytes, Held]],
        ids: Iterator[int],
    ) -> None:
        self._known = known
        self._warehouses = warehouses
        self._codes = {warehouse: code for code, warehouse in warehouses.items()}
        shelved = {balance.warehouse_id for balance in balances.values()}
        self._anywhere = [warehouse for warehouse in warehouses.values() if warehouse in shelved]
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
        order = [self._warehouses[code] for code in dict.fromkeys(ask.warehouses)] or self._anywhere
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

    def _make(self, ask: Ask, recipe: Recipe, taken: Mapping[Place, int], now: datetime) -> Answer:
        parts = []
        for (sku, warehouse), units in taken.items():
            self._free[sku, warehouse] -= units
            parts.append(
                Part(self._level_at[sku, warehouse], recipe.codes[sku], self._codes[warehouse], units),
            )
        held = Held(
            hold_id=next(self._ids),
            sku=ask.sku,
            sku_id=recipe.sku_id,
            quantity=ask.quantity,
            state=HoldState.ACTIVE,
            reference=ask.reference,
            order_channel_id=None,
            order_id="",
            correlation_id=ask.correlation_id,
            expires_at=now + ask.lifetime,
            created_at=now,
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
                correlation_id, expires_at, created_at, source)
            SELECT %s, * FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::text[], %s::bytea[], %s::text[],
                %s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::text[]) AS asked (id, sku_id, quantity, key)
            ORDER BY asked.key
            """,
            [
                merchant_id,
                [held.hold_id for held in self.made],
                [held.sku_id for held in self.made],
                [held.quantity for held in self.made],
                [ask.key or f"unkeyed:{held.hold_id}" for ask, held in zip(self._asks, self.made, strict=True)],
                [ask.fingerprint() if ask.key else b"" for ask in self._asks],
                [held.reference for held in self.made],
                [held.correlation_id for held in self.made],
                [held.expires_at for held in self.made],
                [held.created_at for held in self.made],
                [ask.source for ask in self._asks],
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
            entry_of(held, part, "taken", held.created_at, held=part.quantity, quota=-part.quantity, source=ask.source)
            for ask, held in zip(self._asks, self.made, strict=True)
            for part in held.parts
        ]


def _end_expired(merchant_id: int, expired: Sequence[Expired], now: datetime) -> list[Entry]:
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
    return [entry_of(part, part, "expired", now, held=-part.quantity, quota=part.quantity) for part in expired]


def _again(ask: Ask, fingerprint: bytes, held: Held) -> Answer:
    """The answer to a request whose key was used before."""
    if ask.fingerprint() != fingerprint:
        return Answer(refusal=Refusal.KEY_REUSED)
    return Answer(held=held, is_replay=True)


def _by_key(merchant_id: int, keys: Sequence[str]) -> dict[str, tuple[bytes, Held]]:
    return _found(merchant_id, sql.rows(*_ask_keys(merchant_id, keys))) if keys else {}


def _ask_keys(merchant_id: int, keys: Sequence[str]) -> sql.Question:
    return (
        """
        SELECT idempotency_key, asked_sha256, id FROM inventory_hold
        WHERE merchant_id = %s AND idempotency_key = ANY(%s::text[])
        """,
        [merchant_id, list(keys)],
    )


def _found(merchant_id: int, used: Sequence[tuple[Any, ...]]) -> dict[str, tuple[bytes, Held]]:
    """What the keys were used for, and the holds they got."""
    held = find([hold_id for _, _, hold_id in used], merchant_id=merchant_id)
    return {key: (fingerprint, held[hold_id]) for key, fingerprint, hold_id in used}
