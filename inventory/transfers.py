"""Transfers between warehouses: out of one, in transit, into the other, in parts if need be.

Units in transit are in no warehouse, so no store sells them; they stand on the transfer's lines, and sent = received +
taken back + in transit, always. A transfer that is cancelled takes back what is still in transit; what was received stays.
Units that got lost on the way are taken back and then reported as damaged where they came from.

Locks: the transfer, then the stock levels.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from inventory import ledger, stock
from inventory.goods import Goods, Refused
from inventory.models import Cause, Transfer, TransferLine, TransferState
from inventory.movements import LINES_MAX, ON_HAND_MAX, QUANTITY_MAX, Reporter, check_moment
from merchants import trail
from merchants.models import ApiKey, User
from synctec.lib.ids import uuid7


class TransferRefused(Exception):
    """What was asked of a transfer cannot be done; `errors` name each field and the way out. Nothing was changed."""

    def __init__(self, errors: Sequence[Mapping[str, str]]) -> None:
        super().__init__("; ".join(error["detail"] for error in errors))
        self.errors = [dict(error) for error in errors]


@dataclass(frozen=True, slots=True)
class Units:
    """So many units of a SKU, by its code."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does it: a person, or a program with its API key."""

    user: User | None = None
    api_key: ApiKey | None = None

    @property
    def reporter(self) -> Reporter:
        return Reporter(self.user.pk if self.user else None, self.api_key.prefix if self.api_key else "")


@transaction.atomic
def send(
    *,
    merchant_id: int,
    origin: str,
    destination: str,
    units: Sequence[Units],
    reference: str,
    allow_shortage: bool,
    actor: Actor,
    now: datetime,
    effective_at: datetime | None = None,
    uid: uuid.UUID | None = None,
) -> Transfer:
    """Take the units out of one warehouse, on their way to another.

    With `allow_shortage` units leave that are sold or missing by the books, because they have left already. `effective_at`
    is when they left, now if not given: a count made after that has not seen them.

    Raises:
        TransferRefused: naming every field that is wrong.
        IntegrityError: a transfer with this `uid` was sent before.
    """
    goods = Goods.of(merchant_id, skus=(line.sku for line in units), warehouses=(origin, destination))
    errors: list[dict[str, str]] = []
    origin_id = _warehouse(goods, origin, "origin", errors)
    destination_id = _warehouse(goods, destination, "destination", errors)
    if origin == destination:
        errors.append({"field": "destination", "detail": "The units are there already. Name another warehouse."})
    skus = _checked(units, goods, errors)
    left_at = _moment(effective_at, now, errors)
    if errors:
        raise TransferRefused(errors)
    transfer = Transfer.objects.create(
        merchant_id=merchant_id,
        uid=uid or uuid7(),
        origin_id=origin_id,
        destination_id=destination_id,
        reference=reference,
        user=actor.user,
        source=actor.reporter.source,
        correlation_id=uuid7(),
        sent_at=left_at,
    )
    lines = TransferLine.objects.bulk_create(
        TransferLine(merchant_id=merchant_id, transfer=transfer, sku_id=sku, quantity=line.quantity)
        for sku, line in zip(skus, units, strict=True)
    )
    shelves = _lock_shelves(transfer, origin_id, skus)
    for place, (sku, line) in enumerate(zip(skus, units, strict=True)):
        balance = shelves.balance(sku)
        available = balance.available
        if balance.on_hand - line.quantity < -ON_HAND_MAX:
            errors.append(_beyond_sense(place))
        elif line.quantity > available and not allow_shortage:
            errors.append(
                {
                    "field": f"lines[{place}].quantity",
                    "detail": f"{max(available, 0)} of {line.sku!r} are available in {origin!r}. Send no more, or set "
                    "allow_shortage if they have left already.",
                }
            )
    if errors:
        raise TransferRefused(errors)
    moved = {line.sku_id: -line.quantity for line in lines}
    _book(transfer, Cause.TRANSFER_OUT, moved, "out", actor, shelves, left_at, now)
    _record(transfer, "transfer.send", actor, {"units": {line.sku: line.quantity for line in units}})
    return transfer


def _warehouse(goods: Goods, code: str, field: str, errors: list[dict[str, str]]) -> int:
    """The id behind a warehouse's code; 0 and an error when there is none."""
    try:
        return goods.warehouse(code, field=field)
    except Refused as refused:
        errors.append({"field": refused.field, "detail": refused.detail})
        return 0


def _checked(units: Sequence[Units], goods: Goods, errors: list[dict[str, str]]) -> list[int]:
    """The SKUs of the lines; what is wrong with them goes to `errors`."""
    if not 1 <= len(units) <= LINES_MAX:
        errors.append({"field": "lines", "detail": f"Give 1 to {LINES_MAX:,} lines."})
    skus: list[int] = []
    for place, line in enumerate(units):
        if not 0 < line.quantity <= QUANTITY_MAX:
            errors.append({"field": f"lines[{place}].quantity", "detail": f"Give 1 to {QUANTITY_MAX:,} units."})
        try:
            sku = goods.sku(line.sku)
        except Refused as refused:
            errors.append({"field": f"lines[{place}].sku", "detail": refused.detail})
            continue
        if sku in skus:
            detail = f"{line.sku!r} stands in an earlier line. Put both quantities into one."
            errors.append({"field": f"lines[{place}].sku", "detail": detail})
        skus.append(sku)
    return skus


def _moment(effective_at: datetime | None, now: datetime, errors: list[dict[str, str]]) -> datetime:
    """When it happened, not later than now; what is wrong with it goes to `errors`."""
    try:
        check_moment(effective_at, now)
    except Refused as refused:
        errors.append({"field": refused.field, "detail": refused.detail})
    return min(effective_at or now, now)


def _beyond_sense(place: int) -> dict[str, str]:
    detail = f"More than {ON_HAND_MAX:,} units on hand, or missing, cannot be right. Correct the quantity."
    return {"field": f"lines[{place}].quantity", "detail": detail}


def find(*, merchant_id: int, uid: uuid.UUID) -> Transfer | None:
    """A merchant's transfer, if there is one of that name."""
    return Transfer.objects.filter(merchant_id=merchant_id, uid=uid).first()


@transaction.atomic
def receive(
    *,
    transfer: Transfer,
    units: Sequence[Units] | None,
    actor: Actor,
    now: datetime,
    effective_at: datetime | None = None,
    once: str | None = None,
) -> Transfer:
    """Put units that arrived into their warehouse: those named, or all that are in transit.

    `effective_at` is when they arrived, now if not given: a count made after that has seen them.

    Raises:
        TransferRefused: more than is in transit, a SKU that was not sent, a transfer that ended, or a moment to come.
        IntegrityError: `once` was used before.
    """
    locked, lines = _lock(transfer)
    _refuse_ended(locked)
    errors: list[dict[str, str]] = []
    arrived_at = _moment(effective_at, now, errors)
    arrived = {line.sku_id: line.in_transit for line in lines.values() if line.in_transit}
    if units is not None:
        arrived = _arrived(units, lines)
    shelves = _lock_shelves(locked, locked.destination_id, arrived)
    for place, (sku, quantity) in enumerate(arrived.items()):
        if shelves.balance(sku).on_hand + quantity > ON_HAND_MAX:
            errors.append(_beyond_sense(place))
    if errors:
        raise TransferRefused(errors)
    _book(locked, Cause.TRANSFER_IN, arrived, f"in:{once or uuid7()}", actor, shelves, arrived_at, now)
    for line in lines.values():
        line.received += arrived.get(line.sku_id, 0)
    _close(locked, lines, TransferState.RECEIVED, now)
    _record(locked, "transfer.receive", actor, {"units": sum(arrived.values()), "state": locked.state})
    return locked


@transaction.atomic
def cancel(*, transfer: Transfer, reason: str, actor: Actor, now: datetime) -> Transfer:
    """Take what is in transit back into the warehouse it came from. Cancelling twice changes nothing.

    Raises:
        TransferRefused: everything was received.
    """
    locked, lines = _lock(transfer)
    if locked.state == TransferState.CANCELLED:
        return locked
    _refuse_ended(locked)
    back = {line.sku_id: line.in_transit for line in lines.values() if line.in_transit}
    shelves = _lock_shelves(locked, locked.origin_id, back)
    _book(locked, Cause.TRANSFER_BACK, back, "back", actor, shelves, now, now, reason=reason)
    for line in lines.values():
        line.returned += back.get(line.sku_id, 0)
    _close(locked, lines, TransferState.CANCELLED, now)
    _record(locked, "transfer.cancel", actor, {"units": sum(back.values()), "state": locked.state}, reason)
    return locked


def _lock(transfer: Transfer) -> tuple[Transfer, dict[str, TransferLine]]:
    """The transfer under its lock, and its lines by SKU code."""
    locked = Transfer.objects.select_for_update(no_key=True).get(pk=transfer.pk)
    lines = TransferLine.objects.filter(transfer=locked).select_related("sku").order_by("pk")
    return locked, {line.sku.code: line for line in lines}


def _refuse_ended(transfer: Transfer) -> None:
    if transfer.state != TransferState.IN_TRANSIT:
        detail = f"The transfer was {transfer.state} before; nothing of it is in transit. Send a new one."
        raise TransferRefused([{"field": "transfer", "detail": detail}])


def _arrived(units: Sequence[Units], lines: Mapping[str, TransferLine]) -> dict[int, int]:
    """Units by SKU id. Raises TransferRefused."""
    errors: list[dict[str, str]] = []
    arrived: dict[int, int] = {}
    for place, said in enumerate(units):
        line = lines.get(said.sku)
        if line is None:
            detail = f"{said.sku!r} is not on this transfer. Report it as a receipt of its own."
            errors.append({"field": f"lines[{place}].sku", "detail": detail})
        elif line.sku_id in arrived:
            detail = f"{said.sku!r} stands in an earlier line. Put both quantities into one."
            errors.append({"field": f"lines[{place}].sku", "detail": detail})
        elif not 0 < said.quantity <= line.in_transit:
            detail = f"{line.in_transit} units of {said.sku!r} are in transit. Report more as an adjustment."
            errors.append({"field": f"lines[{place}].quantity", "detail": detail})
        else:
            arrived[line.sku_id] = said.quantity
    if not units:
        errors.append({"field": "lines", "detail": "Name what arrived, or leave the field out for everything."})
    if errors:
        raise TransferRefused(errors)
    return arrived


@dataclass(frozen=True, slots=True)
class _Shelves:
    """Stock levels of a warehouse, locked."""

    warehouse_id: int
    levels: Mapping[tuple[int, int], int]
    balances: Mapping[int, ledger.Balance]

    def level(self, sku: int) -> int:
        return self.levels[(sku, self.warehouse_id)]

    def balance(self, sku: int) -> ledger.Balance:
        return self.balances[self.level(sku)]


def _lock_shelves(transfer: Transfer, warehouse_id: int, skus: Iterable[int]) -> _Shelves:
    levels = stock.ensure_levels(merchant_id=transfer.merchant_id, pairs=[(sku, warehouse_id) for sku in skus])
    return _Shelves(warehouse_id, levels, stock.lock_balances(levels.values()))


def _book(
    transfer: Transfer,
    cause: Cause,
    moved: Mapping[int, int],
    step: str,
    actor: Actor,
    shelves: _Shelves,
    effective_at: datetime,
    now: datetime,
    *,
    reason: str = "",
) -> None:
    """Move on_hand of these SKUs in a warehouse."""
    reporter = actor.reporter
    entries = [
        ledger.Entry(
            stock_level_id=shelves.level(sku),
            cause=cause,
            key=f"transfer:{transfer.pk}:{sku}:{step}",
            reference=transfer.reference or f"transfer {str(transfer.uid)[-12:]}",
            correlation_id=transfer.correlation_id,
            effective_at=effective_at,
            on_hand=units,
            reason=reason,
            user_id=reporter.user_id,
            source=reporter.source,
        )
        for sku, units in moved.items()
    ]
    stock.post(merchant_id=transfer.merchant_id, balances=shelves.balances, entries=entries, now=now)
    stock.tell_changed(merchant_id=transfer.merchant_id, sku_ids=moved, correlation_id=transfer.correlation_id, now=now)


def _close(transfer: Transfer, lines: Mapping[str, TransferLine], state: TransferState, now: datetime) -> None:
    """Write the lines, and end the transfer once nothing is in transit."""
    TransferLine.objects.bulk_update(lines.values(), ["received", "returned"])
    if not any(line.in_transit for line in lines.values()):
        transfer.state, transfer.closed_at = state, now
        transfer.save(update_fields=["state", "closed_at"])


def _record(transfer: Transfer, action: str, actor: Actor, after: Mapping[str, object], reason: str = "") -> None:
    trail.record(
        merchant_id=transfer.merchant_id,
        action=action,
        subject=transfer,
        user=actor.user,
        api_key=actor.api_key,
        after=after,
        reason=reason,
        correlation_id=transfer.correlation_id,
    )
