"""The register of one order line: how everything said of it joins, and what it does to stock. Pure.

Order events are state, not deltas. Joining is commutative, associative and idempotent, so duplicates, reordering and
replays of a line's events end in the same register:

- what a whole order says of the line's units is kept once per content, with the first and the latest version that said
  it: the latest counts;
- where its units are assigned is kept likewise, and where they were shipped from as the latest version says;
- what cannot be undone is united: a cancellation, a deletion, and refunds by their own id.

From the same register follows what the line does at each of its places, and what it had done to its store's counter at an
earlier moment of the store's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from channels.protocol import (
    VERSION_IS_FINAL_AFTER,
    LineState,
    OrderState,
    RefundedUnits,
    Restock,
    UnitsAt,
)

#: A cancellation refunds what is left of its order; the two are dated apart by no more than this.
CANCELS_WITHIN = timedelta(minutes=1)

_NEVER = datetime.min.replace(tzinfo=UTC)
_TICK = timedelta(microseconds=1)


class Said(NamedTuple):
    """What versions of the order say of the line's units, and which versions those are."""

    ordered: int  # units ever ordered
    removed: int  # of them, units that edits took out again
    shipped: int
    first: datetime  # the oldest version that said so
    version: datetime  # the newest
    read_at: datetime | None = None  # when the newest was read at the store; None: it was told by a message

    @property
    def kept(self) -> int:
        """Units that edits have left in the order."""
        return max(0, self.ordered - self.removed)


class Located(NamedTuple):
    """Where a version of the order says that the line's units are."""

    version: datetime  # the newest that said so
    read_at: datetime | None  # when that was read at the store; None: it was told by a message
    places: UnitsAt  # most units first
    first: datetime  # the oldest version that said so

    @property
    def units(self) -> int:
        """Units in all places together."""
        return sum(units for _, units in self.places)


class Register(NamedTuple):
    """Everything known of one order line."""

    says: tuple[Said, ...] = ()  # one per content, the newest version last; empty while only refunds are known
    variant_id: str = ""
    sku: str = ""
    located: tuple[Located, ...] = ()  # where its units are assigned: one per content, the newest version last
    shipped_from: Located | None = None  # the newest
    created_at: datetime | None = None
    cancelled_at: datetime | None = None
    is_deleted: bool = False
    #: When the stock was first counted, if the order is older: what it did until then is in the opening stock.
    counted_at: datetime | None = None
    refunds: tuple[RefundedUnits, ...] = ()

    @property
    def said(self) -> Said | None:
        """What the newest version says. Of equal versions: what was read last, then what takes most from stock.

        An order that was empty when it was cancelled no longer tells that edits had emptied it: earlier versions do.
        """
        if not self.says:
            return None
        newest = self.says[-1]
        if len(self.says) < 2 or newest.removed or self.cancelled_at is None or newest.version < self.cancelled_at:
            return newest
        cancelled_from = self.cancelled_at - CANCELS_WITHIN
        if any(refund.occurred_at >= cancelled_from for refund in self.refunds):
            return newest  # the cancellation itself says what it took out
        removed = max(said.removed for said in self.says)
        return newest._replace(removed=min(removed, newest.ordered)) if removed else newest

    @property
    def needs_reading(self) -> bool:
        """Whether two different things were said under the newest version, and no later reading settles which holds."""
        if len(self.says) < 2:
            return False
        rival, newest = self.says[-2:]
        is_settled = newest.read_at is not None and newest.read_at >= newest.version + VERSION_IS_FINAL_AFTER
        return rival.version == newest.version and not is_settled


class Effect(NamedTuple):
    """What a line does to the pool, in units of its SKU: sold and not shipped, and on hand."""

    committed: int = 0
    on_hand: int = 0

    @property
    def taken(self) -> int:
        """Units the line takes away from what is available."""
        return self.committed - self.on_hand


# --- joining ----------------------------------------------------------------------------------------------------


def of_order(order: OrderState, line: LineState, *, counted_at: datetime | None = None) -> Register:
    """The register that this one message would make on its own; `counted_at` if the stock was counted after the sale."""
    refunds = tuple(refund for refund in order.refunds if refund.line_id == line.line_id) if order.refunds else ()
    ordered = max(0, line.ordered)
    said = Said(
        ordered=ordered,
        removed=_removed(order, line, refunds),
        shipped=min(max(0, line.shipped), ordered),
        first=order.version,
        version=order.version,
        read_at=order.read_at,
    )
    return Register(
        says=(said,),
        variant_id=line.variant_id,
        sku=line.sku,
        located=_located(order, line, ordered),
        shipped_from=_located_at(order, line.shipped_from) if line.shipped_from else None,
        created_at=order.created_at,
        cancelled_at=order.cancelled_at,
        counted_at=counted_at,
        refunds=_united(refunds),
    )


def _located(order: OrderState, line: LineState, ordered: int) -> tuple[Located, ...]:
    if line.places:
        return (_located_at(order, line.places),)
    if line.location_id is not None:
        return (_located_at(order, ((line.location_id, ordered),)),)
    if order.read_at is not None and line.current == 0:
        return (_located_at(order, ()),)  # nothing of it is left to be anywhere
    return ()


def _located_at(order: OrderState, places: UnitsAt) -> Located:
    most_first = tuple(sorted(places, key=lambda place: (-place[1], place[0]))) if len(places) > 1 else places
    return Located(order.version, order.read_at, most_first, order.version)


def _removed(order: OrderState, line: LineState, refunds: Iterable[RefundedUnits]) -> int:
    """Units that edits took out of the order: they are neither left in it nor refunded."""
    if line.current is None:
        return 0
    if order.cancelled_at is not None and not line.current:
        cancelled_from = order.cancelled_at - CANCELS_WITHIN
        if not any(refund.occurred_at >= cancelled_from for refund in order.refunds):
            # Nobody says what the cancellation itself took out; as far as we know, nothing was put back.
            return 0
    return max(0, line.ordered - line.current - sum(refund.quantity for refund in refunds))


def of_refunds(refunds: tuple[RefundedUnits, ...]) -> Register:
    """The register of a line of which only refunds are known."""
    return Register(refunds=_united(refunds))


def join(one: Register, other: Register) -> Register:
    """Everything that either of them knows."""
    if one == other:
        return one
    return Register(
        says=_latest_last(one.says, other.says),
        variant_id=max(one.variant_id, other.variant_id),  # a deleted variant's id is told no more
        sku=max(one.sku, other.sku),
        located=_newest_last(one.located, other.located),
        shipped_from=max(filter(None, (one.shipped_from, other.shipped_from)), key=_newness, default=None),
        created_at=_earlier(one.created_at, other.created_at),
        cancelled_at=_earlier(one.cancelled_at, other.cancelled_at),
        is_deleted=one.is_deleted or other.is_deleted,
        counted_at=_earlier(one.counted_at, other.counted_at),
        refunds=_united(one.refunds + other.refunds),
    )


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min(one, other) if one and other else one or other


def _latest_last(one: tuple[Said, ...], other: tuple[Said, ...]) -> tuple[Said, ...]:
    """Each content once, with the first and the newest version that said it."""
    if not one or not other:
        return one or other
    united: dict[tuple[int, int, int], Said] = {}
    for said in one + other:
        content = (said.ordered, said.removed, said.shipped)
        known = united.get(content)
        if known is not None:
            newest = max(known, said, key=_age)
            said = Said(*content, min(known.first, said.first), newest.version, newest.read_at)
        united[content] = said
    return tuple(sorted(united.values(), key=_rank))


def _newest_last(one: tuple[Located, ...], other: tuple[Located, ...]) -> tuple[Located, ...]:
    """Each content once, with the first and the newest version that said it."""
    if not one or not other:
        return one or other
    united: dict[UnitsAt, Located] = {}
    for located in one + other:
        known = united.get(located.places)
        if known is not None:
            newest = max(known, located, key=_newness)
            located = newest._replace(first=min(known.first, located.first))
        united[located.places] = located
    return tuple(sorted(united.values(), key=_newness))


def _newness(located: Located) -> tuple[datetime, datetime, UnitsAt]:
    return located.version, located.read_at or _NEVER, located.places


def _age(said: Said) -> tuple[datetime, datetime]:
    return said.version, said.read_at or _NEVER


def _rank(said: Said) -> tuple[datetime, datetime, int, int, int]:
    """Newer is more; of equal age, what leaves less for sale. Never equal for different contents."""
    return *_age(said), said.kept, said.ordered, said.shipped


def _united(refunds: tuple[RefundedUnits, ...]) -> tuple[RefundedUnits, ...]:
    """Each refund once, in a fixed order. Of two contents under one id the greater wins: refunds do not shrink."""
    if len(refunds) < 2:
        return refunds
    united: dict[str, RefundedUnits] = {}
    for refund in refunds:
        known = united.get(refund.refund_id)
        united[refund.refund_id] = refund if known is None else max(known, refund, key=_content)
    return tuple(united[key] for key in sorted(united))


def _content(refund: RefundedUnits) -> tuple[int, str, str, str, datetime]:
    return refund.quantity, refund.restock, refund.location_id or "", refund.line_id, refund.occurred_at


# --- what it does to stock --------------------------------------------------------------------------------------


def effect(register: Register) -> Effect:
    """What the line must have done to the pool, given all that is known of it.

    Units that it takes are committed until they leave the building or are written off: refunded, cancelled or deleted
    without being put back. What is told of refunds may be ahead of what is told of shipments: units that came back have
    been shipped.
    """
    said = register.said
    if said is None:
        return Effect()
    if register.counted_at is not None:
        # Its units never were in our books: only what happened to it since changes what is there.
        return Effect(on_hand=-taken_since(register, register.counted_at, register.counted_at)[0])
    if not register.refunds:
        committed = 0 if register.cancelled_at or register.is_deleted else max(0, said.kept - said.shipped)
        return Effect(committed, committed - said.kept)
    units = dict.fromkeys(Restock, 0)
    for refund in register.refunds:
        units[refund.restock] += refund.quantity
    inside = max(0, said.kept - units[Restock.CANCEL])
    inside -= min(inside, max(said.shipped, units[Restock.RETURN]))
    # An old kind of refund says "put back" and not from where: from what had not left, as far as that goes.
    inside -= min(inside, units[Restock.LEGACY])
    committed = 0 if register.cancelled_at or register.is_deleted else max(0, inside - units[Restock.NONE])
    return Effect(committed, committed - _taken(said.kept, register.refunds))


def parts(register: Register, whole: Effect) -> tuple[tuple[str | None, Effect], ...]:
    """What the line must have done at each place, its home first (None: the channel does not say where that is).

    The parts add up to `whole`, which is the line's `effect`. A unit is taken where it is assigned, leaves from where it was
    shipped, and is put back where its refund says: sold at one place and put back at another, it stays taken at the first.
    """
    if not (register.located or register.shipped_from or register.refunds):
        return ((None, whole),)  # the common case, a new sale, needs none of the rest
    said = register.said
    homes = _homes(register)
    if said is None or (len(homes) == 1 and not register.refunds):
        return ((homes[0], whole),)
    put_back = _put_back(register, said)
    if len(homes) == 1 and len(register.located) < 2 and all(place in (None, homes[0]) for place, _ in put_back):
        return ((homes[0], whole),)
    sold = whole.taken + sum(units for _, units in put_back)
    taken = _sold_at(register, said, homes, sold, put_back)
    for place, units in put_back:
        if place is not None:
            taken[place] = taken.get(place, 0) - units
    for place, units in put_back:
        if place is None:
            left = _fill(taken, -units, dict(taken))
            taken[homes[0]] += left
    committed = _open_at(register, said, homes, whole.committed, put_back)
    return tuple(
        (place, Effect(committed.get(place, 0), committed.get(place, 0) - units)) for place, units in taken.items()
    )


def _homes(register: Register) -> list[str | None]:
    """The places that the line's units are at or have left from, the one with most of them first."""
    if not register.located and register.shipped_from is None:
        return [None]
    assigned = next((located.places for located in reversed(register.located) if located.places), ())
    shipped = register.shipped_from.places if register.shipped_from else ()
    return list(dict.fromkeys(place for place, _ in assigned + shipped)) or [None]


def _put_back(register: Register, said: Said) -> list[tuple[str | None, int]]:
    """Units that refunds have put back, and where; no more than the line had, or than there were counted."""
    found = []
    left = said.kept
    for refund in register.refunds:
        if refund.restock is Restock.NONE:
            continue
        if register.counted_at is None:
            found.append((refund.location_id, min(left, refund.quantity)))
            left -= found[-1][1]
        elif refund.occurred_at > register.counted_at:
            found.append((refund.location_id, refund.quantity))
    return found


def _sold_at(
    register: Register, said: Said, homes: list[str | None], units: int, put_back: Iterable[tuple[str | None, int]]
) -> dict[str | None, int]:
    """At which places the store's counter fell for these units of the line, before any was put back."""
    sold = dict.fromkeys(homes, 0)
    if register.counted_at is None:
        shipped = _shipped_from(register, said)
        units = _fill(sold, units, shipped)
        units = _fill(sold, units, _assigned(register, shipped))
        # What is assigned nowhere any more was cancelled. Where it had been is known from older versions, or else likely:
        # most units go back to where they came from.
        for newer, older in zip(register.located[::-1], register.located[-2::-1], strict=False):
            # What was said before and after something else changed at the later of its times.
            until = newer.first if newer.first > older.version else newer.version
            gone = min(units, older.units - newer.units, _refunded(register, older.version, until))
            if gone <= 0:
                continue  # removed by an edit, or moved
            fewer = {place: was - dict(newer.places).get(place, 0) for place, was in older.places}
            units -= gone - _fill(sold, gone, fewer)
        for place, most in put_back:
            if place in homes:
                units = _fill(sold, units, {place: most})
    sold[homes[0]] += units
    return sold


def _refunded(register: Register, since: datetime, until: datetime) -> int:
    """Units refunded between two versions of the order that need not have been shipped."""
    return sum(
        refund.quantity
        for refund in register.refunds
        if refund.restock is not Restock.RETURN
        and (since < refund.occurred_at <= until or since == refund.occurred_at == until)
    )


def _open_at(
    register: Register, said: Said, homes: list[str | None], units: int, put_back: Iterable[tuple[str | None, int]]
) -> dict[str | None, int]:
    """From which places these units of the line are still to be shipped."""
    open_at = dict.fromkeys(homes, 0)
    if len(homes) > 1:
        assigned = _assigned(register, _shipped_from(register, said))
        excess = sum(assigned.values()) - units
        for place, most in put_back:
            if place in assigned and excess > 0:
                # Told before its units were cancelled.
                excess = -_fill(assigned, -excess, {place: min(most, assigned[place])})
        units = _fill(open_at, units, assigned)
    open_at[homes[0]] += units
    return open_at


def _shipped_from(register: Register, said: Said) -> dict[str | None, int]:
    shipped: dict[str | None, int] = {}
    if register.shipped_from is not None:
        _fill(shipped, said.shipped, dict(register.shipped_from.places))
    return shipped


def _assigned(register: Register, shipped: Mapping[str | None, int]) -> dict[str | None, int]:
    """Units by the place that is to ship them, as far as the newest version that tells knows."""
    places = register.located[-1].places if register.located else ()
    return {place: max(0, units - shipped.get(place, 0)) for place, units in places}


def _fill(counts: dict[str | None, int], units: int, most: Mapping[str, int] | Mapping[str | None, int]) -> int:
    """Add units to the counts, in order and up to the most that each may get; returns what is left over.

    Units below zero are taken away, likewise.
    """
    sign = -1 if units < 0 else 1
    left = abs(units)
    for place, most_here in most.items():
        here = max(0, min(left, most_here))
        counts[place] = counts.get(place, 0) + sign * here
        left -= here
    return sign * left


def _taken(kept: int, refunds: Iterable[RefundedUnits]) -> int:
    """Units that a line takes from its store's counter: those left in the order, less those put back."""
    return max(0, kept - sum(refund.quantity for refund in refunds if refund.restock is not Restock.NONE))


def taken_since(register: Register, since: datetime, until: datetime) -> tuple[int, bool]:
    """Units that the line took from its store's counter after `until`, by the store's clock (below zero: gave back).

    The second value tells whether that is uncertain, because something that moved units happened within [since, until],
    or may have: an edit has no date of its own, only the versions between which it was made. A store that cuts its
    moments to whole seconds needs a `since` a second before `until`.
    """
    said = register.said
    if said is None or register.created_at is None:
        return 0, False
    if register.counted_at is not None:
        until = max(until, register.counted_at)
    moves = [refund for refund in register.refunds if refund.restock is not Restock.NONE]
    before, after = _kept_at(register, since - _TICK), _kept_at(register, until)
    is_uncertain = (
        len(before | after) > 1
        or any(since <= refund.occurred_at <= until for refund in moves)
        # A line nobody told of until then may be one that an edit added to an older order.
        or (register.created_at <= until and min(said.first for said in register.says) >= since)
    )
    then = _taken(min(after), (refund for refund in moves if refund.occurred_at <= until))
    return _taken(said.kept, moves) - then, is_uncertain


def taken_elsewhere_since(register: Register, units: int, until: datetime) -> tuple[int, bool]:
    """As `taken_since`, for one place of a line that has been at several, or may have: it has taken these units there in all,
    and that was learned of late.

    No store dates the change of a place, so only a line of an order that was placed after `until` is certain.
    """
    is_newer = register.created_at is not None and register.counted_at is None and register.created_at > until
    return (units, False) if is_newer else (0, True)


def _kept_at(register: Register, moment: datetime) -> set[int]:
    """How many units edits may have left in the order at that moment; none before the order was placed."""
    assert register.created_at is not None
    if moment < register.created_at:
        return {0}
    newest = register.said
    assert newest is not None
    if moment >= newest.version or (len(register.says) == 1 and (newest.first <= moment or not newest.removed)):
        return {newest.kept}
    told = [(at, said.kept) for said in register.says for at in (said.first, said.version)]
    before = max((at for at, _ in told if at <= moment), default=None)
    after = min((at for at, _ in told if at > moment), default=None)
    kept = {kept for at, kept in told if at in (before, after)}
    kept |= {said.kept for said in register.says if said.first <= moment < said.version}
    if before is None:
        # As it was placed, before anybody told: edits may have added and removed since.
        kept |= {said.ordered for said in register.says if said.first == after}
    return kept


# --- storage ----------------------------------------------------------------------------------------------------


def to_json(register: Register) -> dict[str, Any]:
    """The register as it is stored; what is not known is left out."""
    facts: dict[str, Any] = {}
    if register.says:
        facts["says"] = [_row(said) for said in register.says]
        if register.needs_reading:
            facts["contested"] = True  # for whoever looks for such orders; it follows from what is said
        facts["variant"] = register.variant_id
        facts["sku"] = register.sku
    if register.located:
        facts["located"] = [_located_row(located) for located in register.located]
    if register.shipped_from:
        facts["shipped_from"] = _located_row(register.shipped_from)
    if register.created_at:
        facts["created"] = register.created_at.isoformat()
    if register.cancelled_at:
        facts["cancelled"] = register.cancelled_at.isoformat()
    if register.is_deleted:
        facts["deleted"] = True
    if register.counted_at:
        facts["counted"] = register.counted_at.isoformat()
    if register.refunds:
        facts["refunds"] = {
            refund.refund_id: [
                refund.line_id,
                refund.quantity,
                refund.restock,
                refund.location_id,
                refund.occurred_at.isoformat(),
            ]
            for refund in register.refunds
        }
    return facts


def _row(said: Said) -> list[int | str]:
    """Newest version and reading are left out where they say no more than the first version does."""
    row: list[int | str] = [said.ordered, said.removed, said.shipped, said.first.isoformat()]
    if said.read_at or said.version != said.first:
        row.append(said.version.isoformat())
    if said.read_at:
        row.append(said.read_at.isoformat())
    return row


def _located_row(located: Located) -> list[Any]:
    row: list[Any] = [located.version.isoformat(), [list(place) for place in located.places]]
    if located.read_at or located.first != located.version:
        row.append(located.read_at.isoformat() if located.read_at else "")
    if located.first != located.version:
        row.append(located.first.isoformat())
    return row


def _located_from(version: str, places: list[tuple[str, int]], read_at: str = "", first: str = "") -> Located:
    told = tuple((place, units) for place, units in places)
    newest = datetime.fromisoformat(version)
    return Located(newest, _moment_or_none(read_at), told, _moment_or_none(first) or newest)


def _located_rows(rows: list[Any]) -> list[Any]:
    """As they are stored; before a line could be at several places, it was one row of a version and a place."""
    if rows and isinstance(rows[0], str):
        version, place = rows
        return [[version, [[place, 0]]]]
    return rows


def _said(ordered: int, removed: int, shipped: int, first: str, version: str = "", read_at: str = "") -> Said:
    first_at = datetime.fromisoformat(first)
    return Said(ordered, removed, shipped, first_at, _moment_or_none(version) or first_at, _moment_or_none(read_at))


def from_json(facts: dict[str, Any]) -> Register:
    """The register as it was stored."""
    moment = datetime.fromisoformat
    shipped_from = facts.get("shipped_from")
    return Register(
        says=tuple(_said(*row) for row in facts.get("says", ())),
        variant_id=facts.get("variant", ""),
        sku=facts.get("sku", ""),
        located=tuple(_located_from(*row) for row in _located_rows(facts.get("located", []))),
        shipped_from=_located_from(*shipped_from) if shipped_from else None,
        created_at=_moment_or_none(facts.get("created")),
        cancelled_at=_moment_or_none(facts.get("cancelled")),
        is_deleted="deleted" in facts,
        counted_at=_moment_or_none(facts.get("counted")),
        refunds=tuple(
            RefundedUnits(refund_id, line_id, quantity, Restock(restock), location_id, moment(at))
            for refund_id, (line_id, quantity, restock, location_id, at) in facts.get("refunds", {}).items()
        ),
    )


def _moment_or_none(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
