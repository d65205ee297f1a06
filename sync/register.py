"""The register of one order line: how everything said of it joins, and what it does to stock. Pure.

Order events are state, not deltas. Joining is commutative, associative and idempotent, so duplicates, reordering and
replays of a line's events end in the same register:

- what a whole order says (units ordered, left, shipped, ...) counts as of its version: the newest wins;
- what cannot be undone is united: a cancellation, and refunds by their own id.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from channels.protocol import LineState, OrderState, RefundedUnits, Restock


@dataclass(frozen=True, slots=True, order=True)
class Said:
    """What the newest version of the order says of the line. The order of the fields breaks ties of equal versions."""

    version: datetime
    ordered: int
    current: int  # -1: not told
    shipped: int
    variant_id: str
    sku: str


@dataclass(frozen=True, slots=True)
class Register:
    """Everything known of one order line. `said` is None while only refunds are known."""

    said: Said | None = None
    located: tuple[datetime, str] | None = None  # the newest place told, and by which version
    created_at: datetime | None = None
    cancelled_at: datetime | None = None
    refunds: tuple[RefundedUnits, ...] = ()


@dataclass(frozen=True, slots=True)
class Effect:
    """What a line does to the pool, in units of its SKU: sold and not shipped, and on hand."""

    committed: int = 0
    on_hand: int = 0

    @property
    def taken(self) -> int:
        """Units the line takes away from what is available."""
        return self.committed - self.on_hand


def of_order(order: OrderState, line: LineState) -> Register:
    """The register that this one message would make on its own."""
    said = Said(
        version=order.version,
        ordered=line.ordered,
        current=-1 if line.current is None else line.current,
        shipped=line.shipped,
        variant_id=line.variant_id,
        sku=line.sku,
    )
    located = (order.version, line.location_id) if line.location_id else None
    refunds = tuple(refund for refund in order.refunds if refund.line_id == line.line_id)
    return Register(said, located, order.created_at, order.cancelled_at, _by_id(refunds))


def of_refunds(refunds: tuple[RefundedUnits, ...]) -> Register:
    """The register of a line of which only refunds are known."""
    return Register(refunds=_by_id(refunds))


def join(one: Register, other: Register) -> Register:
    """Everything that either of them knows."""
    versions = [said for said in (one.said, other.said) if said is not None]
    return Register(
        said=max(versions, default=None),
        located=max((place for place in (one.located, other.located) if place is not None), default=None),
        created_at=min(filter(None, (one.created_at, other.created_at)), default=None),
        cancelled_at=min(filter(None, (one.cancelled_at, other.cancelled_at)), default=None),
        refunds=_by_id(one.refunds + other.refunds),
    )


def _by_id(refunds: tuple[RefundedUnits, ...]) -> tuple[RefundedUnits, ...]:
    """Each refund once, in a fixed order. Of two contents under one id the greater wins: refunds do not shrink."""
    united: dict[str, RefundedUnits] = {}
    for refund in refunds:
        known = united.get(refund.refund_id)
        if known is None or (refund.quantity, refund.restock, refund.location_id or "") > (
            known.quantity,
            known.restock,
            known.location_id or "",
        ):
            united[refund.refund_id] = refund
    return tuple(united[key] for key in sorted(united))


def effect(register: Register) -> Effect:
    """What the line must have done to the pool, given all that is known of it."""
    said = register.said
    if said is None:
        return Effect()
    units = dict.fromkeys(Restock, 0)
    for refund in register.refunds:
        units[refund.restock] += refund.quantity
    ordered = max(0, said.ordered)
    shipped = min(max(0, said.shipped), ordered)
    put_back = min(units[Restock.CANCEL], ordered)
    removed = 0
    if said.current >= 0 and register.cancelled_at is None:
        # Units that an edit took out of the order without a refund.
        removed = max(0, ordered - said.current - sum(units.values()))
    unshipped = max(0, ordered - put_back - removed - shipped)
    written_off = min(units[Restock.NONE], unshipped)
    still_open = unshipped - written_off
    if register.cancelled_at is not None:
        # Cancelled without being put back: sold no more, but not for sale either.
        written_off, still_open = written_off + still_open, 0
    # What is told of refunds may be ahead of what is told of shipments, but nothing comes back that was not sold.
    returned = min(units[Restock.RETURN], shipped + written_off + still_open)
    return Effect(committed=still_open, on_hand=returned - shipped - written_off)


def to_json(register: Register) -> dict[str, Any]:
    """The register as it is stored."""
    said = register.said
    return {
        "said": said
        and {
            "version": said.version.isoformat(),
            "ordered": said.ordered,
            "current": said.current,
            "shipped": said.shipped,
            "variant": said.variant_id,
            "sku": said.sku,
        },
        "located": register.located and [register.located[0].isoformat(), register.located[1]],
        "created": register.created_at and register.created_at.isoformat(),
        "cancelled": register.cancelled_at and register.cancelled_at.isoformat(),
        "refunds": {
            refund.refund_id: [
                refund.line_id,
                refund.quantity,
                str(refund.restock),
                refund.location_id,
                refund.occurred_at.isoformat(),
            ]
            for refund in register.refunds
        },
    }


def from_json(facts: dict[str, Any]) -> Register:
    """The register as it was stored."""
    said = facts["said"]
    return Register(
        said=said
        and Said(
            version=datetime.fromisoformat(said["version"]),
            ordered=said["ordered"],
            current=said["current"],
            shipped=said["shipped"],
            variant_id=said["variant"],
            sku=said["sku"],
        ),
        located=facts["located"] and (datetime.fromisoformat(facts["located"][0]), facts["located"][1]),
        created_at=facts["created"] and datetime.fromisoformat(facts["created"]),
        cancelled_at=facts["cancelled"] and datetime.fromisoformat(facts["cancelled"]),
        refunds=tuple(
            RefundedUnits(refund_id, line_id, quantity, Restock(restock), location_id, datetime.fromisoformat(at))
            for refund_id, (line_id, quantity, restock, location_id, at) in facts["refunds"].items()
        ),
    )
