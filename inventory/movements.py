"""Movements that no channel tells of: what a warehouse system, a till or a person reports.

Every line has a key of its own, so that a batch may be sent again, in other pieces or by two programs at once: a line is
applied once, and a second one with its key is a duplicate if it says the same and refused if it does not. The ledger
itself is what remembers.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import IntegrityError, models, transaction

from inventory import ledger, stock
from inventory.goods import Goods, Refused
from inventory.models import Cause
from synctec.lib import sql
from synctec.lib.ids import uuid7

LINES_MAX = 1_000
KEY_LENGTH_MAX = 80
QUANTITY_MAX = 100_000_000
#: No warehouse holds more; the columns hold twice of it, so that no sum of two overflows.
ON_HAND_MAX = 1_000_000_000
#: How far another's clock may be ahead of ours.
CLOCK_SKEW = timedelta(minutes=5)
#: Two batches with the same new keys: one of them starts again and then sees the other's.
_ATTEMPTS = 3


class Kind(models.TextChoices):
    """What a line reports. The quantity counts units; only an adjustment has a sign."""

    RECEIPT = "receipt", "A purchase order arrived"
    ADJUSTMENT = "adjustment", "Units found or lost, with a reason"
    DAMAGE = "damage", "Units damaged or written off, with a reason"
    RETURN = "return", "A return to stock that no channel tells of"


_CAUSES = {
    Kind.RECEIPT: Cause.RECEIPT,
    Kind.ADJUSTMENT: Cause.ADJUSTMENT,
    Kind.DAMAGE: Cause.DAMAGE,
    Kind.RETURN: Cause.RETURN,
}
_NEED_REASON = frozenset({Kind.ADJUSTMENT, Kind.DAMAGE})


class Status(models.TextChoices):
    """What became of a line."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    #: Fine by itself, but another line of an all-or-nothing batch was refused.
    NOT_APPLIED = "not_applied"


@dataclass(frozen=True, slots=True)
class Reported:
    """One line: so many units of a SKU moved in a warehouse, for a reason, at a moment (or now)."""

    key: str
    kind: Kind
    sku: str
    warehouse: str
    quantity: int
    reason: str = ""
    reference: str = ""
    effective_at: datetime | None = None

    @property
    def units(self) -> int:
        return -self.quantity if self.kind == Kind.DAMAGE else self.quantity


@dataclass(slots=True)
class Outcome:
    """What became of one line, in the order of the lines."""

    key: str
    status: Status
    errors: list[dict[str, str]] = field(default_factory=list)
    on_hand: int | None = None


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports: a person or a program, by the beginning of its API key."""

    user_id: int | None = None
    source: str = ""


def report(
    *, merchant_id: int, lines: Sequence[Reported], reporter: Reporter, all_or_nothing: bool, now: datetime
) -> list[Outcome]:
    """Book the lines in one transaction, levels locked once; returns what became of each, in order.

    With `all_or_nothing`, one refused line keeps all others from being booked.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with transaction.atomic():
                return _report(merchant_id, lines, reporter, all_or_nothing, now)
        except IntegrityError as error:
            if "movement_applied_once" not in str(error) or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _report(
    merchant_id: int, lines: Sequence[Reported], reporter: Reporter, all_or_nothing: bool, now: datetime
) -> list[Outcome]:
    goods = Goods.of(merchant_id, skus=(line.sku for line in lines), warehouses=(line.warehouse for line in lines))
    outcomes = [Outcome(line.key, Status.APPLIED) for line in lines]
    pairs: dict[int, tuple[int, int]] = {}
    for place, line in enumerate(lines):
        try:
            pairs[place] = _check(line, goods, now)
        except Refused as refused:
            _refuse(outcomes[place], refused)
    levels = stock.ensure_levels(merchant_id=merchant_id, pairs=pairs.values())
    balances = stock.lock_balances(levels.values())
    # Asked for under the lock: the same line, sent twice at the same moment, waited for it.
    known = _booked(merchant_id, [lines[place].key for place in pairs])
    correlation_id = uuid7()
    units = {level: balance.on_hand for level, balance in balances.items()}
    entries: list[ledger.Entry] = []
    for place, pair in pairs.items():
        line, outcome, level = lines[place], outcomes[place], levels[pair]
        entry = _entry(line, level, reporter, correlation_id, now)
        try:
            if line.key in known:
                _compare(line, entry, known[line.key])
                outcome.status = Status.DUPLICATE
                continue
            if abs(units[level] + line.units) > ON_HAND_MAX:
                raise Refused(
                    "quantity", f"More than {ON_HAND_MAX:,} units on hand cannot be right. Correct the quantity."
                )
        except Refused as refused:
            _refuse(outcome, refused)
            continue
        units[level] += line.units
        known[line.key] = _Booked(entry, now)
        entries.append(entry)
    if all_or_nothing and any(outcome.status == Status.REFUSED for outcome in outcomes):
        for outcome in outcomes:
            if outcome.status == Status.APPLIED:
                outcome.status = Status.NOT_APPLIED
        return outcomes
    stock.post(merchant_id=merchant_id, balances=balances, entries=entries, now=now)
    moved = {entry.stock_level_id for entry in entries}
    skus = {sku for (sku, _), level in levels.items() if level in moved}
    stock.tell_changed(merchant_id=merchant_id, sku_ids=skus, correlation_id=correlation_id, now=now)
    for place, pair in pairs.items():
        if outcomes[place].status in (Status.APPLIED, Status.DUPLICATE):
            outcomes[place].on_hand = balances[levels[pair]].on_hand
    return outcomes


def _check(line: Reported, goods: Goods, now: datetime) -> tuple[int, int]:
    """The (SKU, warehouse) a line is about. Raises Refused."""
    if not line.quantity:
        raise Refused("quantity", "A change of 0 units changes nothing. Leave the line out.")
    if abs(line.quantity) > QUANTITY_MAX:
        raise Refused("quantity", f"A line moves {QUANTITY_MAX:,} units at most.")
    if line.quantity < 0 and line.kind != Kind.ADJUSTMENT:
        raise Refused(
            "quantity", f"The units of a {line.kind} are counted from 1. Use an adjustment to go the other way."
        )
    if line.kind in _NEED_REASON and not line.reason.strip():
        raise Refused("reason", f"Give the reason of the {line.kind}: it is shown with the movement for ever.")
    check_moment(line.effective_at, now)
    return goods.sku(line.sku), goods.warehouse(line.warehouse)


def check_moment(moment: datetime | None, now: datetime, *, field: str = "effective_at") -> None:
    """Refuse what has not happened yet. Raises Refused."""
    if moment is not None and moment > now + CLOCK_SKEW:
        raise Refused(field, "This lies in the future. Set the clock of your system, or leave the field out for now.")


def _refuse(outcome: Outcome, refused: Refused) -> None:
    outcome.status = Status.REFUSED
    outcome.errors.append({"field": refused.field, "detail": refused.detail})


def _entry(line: Reported, level: int, reporter: Reporter, correlation_id: uuid.UUID, now: datetime) -> ledger.Entry:
    return ledger.Entry(
        stock_level_id=level,
        cause=_CAUSES[line.kind],
        key=_ledger_key(line.key),
        reference=line.reference,
        correlation_id=correlation_id,
        # Clocks may be ahead of ours; nothing has happened later than now.
        effective_at=min(line.effective_at or now, now),
        on_hand=line.units,
        reason=line.reason.strip(),
        user_id=reporter.user_id,
        source=reporter.source,
    )


def _ledger_key(key: str) -> str:
    return f"move:{key}"


class _Booked(NamedTuple):
    """What is in the ledger, and since when."""

    entry: ledger.Entry
    at: datetime


def _booked(merchant_id: int, keys: Iterable[str]) -> dict[str, _Booked]:
    """What is in the ledger under these keys."""
    found = sql.rows(
        """
        SELECT idempotency_key, stock_level_id, cause, reference, correlation_id, effective_at, delta, reason, created_at
        FROM inventory_movement WHERE merchant_id = %s AND idempotency_key = ANY(%s::text[])
        """,
        [merchant_id, [f"{_ledger_key(key)}:on_hand" for key in keys]],
    )
    return {
        name.removeprefix(_ledger_key("")).removesuffix(":on_hand"): _Booked(
            ledger.Entry(
                stock_level_id=level,
                cause=cause,
                key=name,
                reference=reference,
                correlation_id=correlation_id,
                effective_at=effective_at,
                on_hand=delta,
                reason=reason,
            ),
            created_at,
        )
        for name, level, cause, reference, correlation_id, effective_at, delta, reason, created_at in found
    }


def _compare(line: Reported, entry: ledger.Entry, known: _Booked) -> None:
    """Refuse a line whose key was used for something else, naming what differs."""

    booked = known.entry

    def differing() -> Iterable[tuple[str, Any]]:
        if entry.stock_level_id != booked.stock_level_id:
            yield "sku", "another SKU or warehouse"
        if entry.cause != booked.cause:
            yield "type", "another type"
        if entry.on_hand != booked.on_hand:
            yield "quantity", f"{abs(booked.on_hand)} units"
        if entry.reason != booked.reason:
            yield "reason", "another reason"
        if entry.reference != booked.reference:
            yield "reference", "another reference"
        # What lay ahead of our clock was booked as of its arrival.
        if line.effective_at not in (None, booked.effective_at) and line.effective_at <= known.at:
            yield "effective_at", booked.effective_at.isoformat()

    for field_name, was in differing():
        raise Refused(
            field_name, f"The key {line.key!r} was used before, with {was}. Give a new movement a new key of its own."
        )
