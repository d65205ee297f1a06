"""How much a store location shows. Pure.

Published quantity = what is available to the store location, minus the buffer, capped, and zero below the floor; then the
group's policy.

- `shared`: every store shows all that is available to it. A sale made elsewhere while the news travels can be one too many.
- `split`: every unit is promised to one store at most, so that nothing is sold twice, whatever is delayed or lost.
- `guard`: shared while there is more than a threshold, split at or below it.

**Split, as a theorem.** A store may sell up to its *ceiling* without asking. For every SKU and every union S of sets of
warehouses that stores draw on: what those who draw on nothing but S may sell together is at most what S has, or no more
than it was before. That is so after each call of `numbers`, whichever of the lowered numbers have reached their stores,
because a raise is granted only out of `available - sum of ceilings`: lower first, confirm, then raise. A bundle claims the
units of its parts. (By Hall's theorem the condition says that every unit for sale can be given from a warehouse that its
store draws on. A sale may still be routed to another one, whose units are promised elsewhere: then the units are there, but
not all in the right warehouse.)

Numbers are a function of the state, and change nothing that need not change: a share stays where it is until it has to be
lowered, until there are free units, or until a store is nearly sold out while others have more than their share.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from itertools import chain
from typing import NamedTuple, TypeVar

from inventory.bom import bundles_available
from locations.pace import UNKNOWN_PROPAGATION_SECONDS, burst
from locations.shares import Bound, fill

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """Buffer, cap and floor; None means not set here."""

    buffer_units: int | None = None
    buffer_percent: Decimal | None = None
    cap: int | None = None
    floor: int | None = None


#: Everything available is shown.
NO_RULE = Rule()


def most_specific(rules: Iterable[Rule | None]) -> Rule:
    """Merge rules given from the most to the least specific: field by field, the first that is set."""
    given = [rule for rule in rules if rule is not None]
    if len(given) < 2:
        return given[0] if given else NO_RULE
    return Rule(
        buffer_units=_first(rule.buffer_units for rule in given),
        buffer_percent=_first(rule.buffer_percent for rule in given),
        cap=_first(rule.cap for rule in given),
        floor=_first(rule.floor for rule in given),
    )


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def buffer_of(available: int, rule: Rule) -> int:
    """Units kept back: the percentage of what is available, rounded up, plus the fixed units."""
    if not rule.buffer_percent:
        return rule.buffer_units or 0
    percent = Decimal(rule.buffer_percent)
    share = (Decimal(max(0, available)) * percent / 100).to_integral_value(rounding=ROUND_CEILING)
    return int(share) + (rule.buffer_units or 0)


def published(available: int, rule: Rule) -> int:
    """What a store may show of `available` units under `rule`. Never below zero."""
    if rule is NO_RULE:
        return max(0, available)
    quantity = max(0, available - buffer_of(available, rule))
    if rule.cap is not None:
        quantity = min(quantity, rule.cap)
    if rule.floor is not None and quantity < rule.floor:
        return 0
    return quantity


class Policy(enum.StrEnum):
    """How a group divides its stock among its store locations."""

    SHARED = "shared"
    GUARD = "guard"
    SPLIT = "split"


#: Units of a SKU in a warehouse: (SKU, warehouse) -> available. May be below zero: sales are facts.
Pool = Mapping[tuple[int, int], int]


class Shelf(NamedTuple):
    """What one store location shows of one listing: a claim on the units it is made of.

    `ceiling` is the most that the store may still sell without our knowing of it: the greater of what it must show and what
    it was seen to show while suspect, and on top of that every raise whose outcome is open. It must be read under the lock
    that the pusher takes before it opens a raise; then a number that was told and not yet sent is no claim.
    """

    key: int
    parts: Mapping[int, int]  # SKU -> units in one; a plain SKU is its own part
    warehouses: Sequence[int]  # that it draws on, the first one first
    ceiling: int
    shown: int | None = None  # at least, as far as we know, writes under way included; None: its ceiling
    rule: Rule = NO_RULE
    weight: float = 1.0
    velocity: float = 0.0  # sold here, in units of the listing per second
    lot: int = 1  # units of the listing that one sale may take
    silent_for: float | None = None  # seconds of outage or pause, in which it goes on showing its ceiling; None: none
    can_raise: bool = True  # False while it is suspect, or not ours to write


@dataclass(frozen=True, slots=True)
class Terms:
    """A group's policy with what it needs to know."""

    policy: Policy
    #: `guard`: a SKU is shared above so many units and split at or below; see `thresholds`.
    thresholds: Mapping[int, int] = field(default_factory=dict)
    #: `guard`: once split, it stays so until there are so many units more than the threshold.
    slack: int = 3
    allows_split_shipment: bool = False  # the parts of a bundle may come from several warehouses
    #: What holds through our own API weigh against the stores while units are split; 0: they get what no store shows.
    holds_weight: float = 0.0
    #: What holds may still take now, per (SKU, warehouse); missing: whatever is available.
    quotas: Mapping[tuple[int, int], int] = field(default_factory=dict)
    #: A share that is sold out sooner than this is worth calls to two stores.
    cover_seconds: float = 900.0
    window_seconds: float = UNKNOWN_PROPAGATION_SECONDS
    risk: float = 1e-6


class Numbers(NamedTuple):
    """What each shelf shows from now on, and what holds may take of each (SKU, warehouse); None: whatever is available."""

    shown: dict[int, int]
    quotas: dict[tuple[int, int], int | None]


#: A matrix has a few distinct sets of warehouses. Beyond so many unions of them, only the sets and their sum are bounded:
#: what is promised is still in stock, if not always in a warehouse that its store draws on.
MOST_UNIONS = 256

Cell = tuple[int, int]  # (SKU, warehouse)
Cover = tuple[int, frozenset[int]]  # SKU, warehouses
Claim = dict[int, frozenset[int]]  # SKU -> the warehouses its units are promised from


class Found(NamedTuple):
    """What stores that draw on the same warehouses find there of a SKU."""

    units: int  # where there is plenty; if it is scarce in all, in all
    plenty: Sequence[int]  # the warehouses where it is shared
    claimed: frozenset[int]  # all of them, where none has plenty


def numbers(shelves: Sequence[Shelf], pool: Pool, terms: Terms) -> Numbers:
    """What each shelf of one group should show now, given what the others may still sell.

    `shelves` are all shelves of the group that share a SKU of `pool`, directly or through others: of a SKU, its bundles
    and their other parts; in ascending order of key. `pool` holds the levels of those SKUs in the group's warehouses.
    A silent shelf gets a number too, for when it is reached again.
    """
    scarce = _scarce(shelves, pool, terms)
    limits, claims = _limits(shelves, pool, terms, scarce)
    quotas: dict[Cell, int | None] = dict.fromkeys(pool)
    if not scarce:
        return Numbers({shelf.key: limit for shelf, limit in zip(shelves, limits, strict=True)}, quotas)
    cells = sorted(scarce)
    claimants = list(shelves)
    for sku, warehouse in cells if terms.holds_weight else ():
        available = max(0, pool.get((sku, warehouse), 0))
        quota = terms.quotas.get((sku, warehouse), available)
        claimants.append(Shelf(-1, {sku: 1}, (warehouse,), quota, weight=terms.holds_weight))
        limits.append(available)
        claims.append({sku: frozenset((warehouse,))})
    bounds = _bounds(claimants, claims, pool)
    promised = _promise(claimants, limits, claims, list(bounds.values()), len(shelves), terms.cover_seconds)
    _hold_back(claimants, promised)
    if terms.holds_weight:
        quotas.update(zip(cells, promised[len(shelves) :], strict=True))
    else:
        most = [max(shelf.ceiling, units) for shelf, units in zip(shelves, promised, strict=True)]
        quotas.update(_left_over(cells, pool, {cover: bound.left(most) for cover, bound in bounds.items()}))
    return Numbers({shelf.key: units for shelf, units in zip(shelves, promised, strict=False)}, quotas)


def _left_over(cells: Sequence[Cell], pool: Pool, rooms: dict[Cover, int]) -> dict[Cell, int]:
    """What no store may sell or is about to: holds get that, even where they weigh nothing."""
    quotas = {}
    for sku, warehouse in cells:
        covers = [cover for cover in rooms if cover[0] == sku and warehouse in cover[1]]
        units = max(0, min([pool.get((sku, warehouse), 0), *(rooms[cover] for cover in covers)]))
        for cover in covers:
            rooms[cover] -= units
        quotas[sku, warehouse] = units
    return quotas


def _scarce(shelves: Sequence[Shelf], pool: Pool, terms: Terms) -> set[Cell]:
    """The units that are split: all of them, none, or those that a store has no more of than the threshold."""
    if terms.policy == Policy.SHARED:
        return set()
    if terms.policy == Policy.SPLIT:
        return {(sku, warehouse) for shelf in shelves for sku in shelf.parts for warehouse in shelf.warehouses} | set(
            pool
        )
    scarce: set[Cell] = set()
    judged: set[tuple[int, tuple[int, ...]]] = set()
    silent = [shelf for shelf in shelves if shelf.silent_for is not None]
    for shelf in shelves:
        warehouses = tuple(shelf.warehouses)
        for sku in shelf.parts:
            if (sku, warehouses) in judged:
                continue
            judged.add((sku, warehouses))
            seen = sum(pool.get((sku, warehouse), 0) for warehouse in warehouses)
            seen -= _set_aside(sku, warehouses, silent, terms)
            excess = seen - terms.thresholds.get(sku, 0)
            if excess <= 0 or (excess <= terms.slack and _is_divided(sku, shelves, pool)):
                scarce.update((sku, warehouse) for warehouse in warehouses)
    return scarce


def _is_divided(sku: int, shelves: Sequence[Shelf], pool: Pool) -> bool:
    """Whether the stores may sell no more of it than there is."""
    claimed = sum(shelf.ceiling * shelf.parts.get(sku, 0) for shelf in shelves)
    return claimed <= sum(units for (stocked, _), units in pool.items() if stocked == sku)


def _set_aside(sku: int, warehouses: Sequence[int], silent: Sequence[Shelf], terms: Terms) -> int:
    """Units of a shared SKU that silent stores may have sold, but for a small chance, before the others know."""
    aside = 0
    for shelf in silent:
        if sku in shelf.parts and not set(warehouses).isdisjoint(shelf.warehouses):
            seconds = (shelf.silent_for or 0.0) + terms.window_seconds
            units = burst(shelf.velocity, seconds, lot=shelf.lot, risk=terms.risk)
            aside += shelf.parts[sku] * min(shelf.ceiling, units)
    return aside


def _limits(shelves: Sequence[Shelf], pool: Pool, terms: Terms, scarce: set[Cell]) -> tuple[list[int], list[Claim]]:
    """What each shelf may show at most, as if it were alone, and what it claims of scarce units."""
    limits, claims = [], []
    silent = [shelf for shelf in shelves if shelf.silent_for is not None] if terms.policy == Policy.GUARD else []
    homes: dict[tuple[frozenset[tuple[int, int]], int], int] = {}
    found: dict[tuple[int, Sequence[int]], Found] = {}
    for shelf in shelves:
        others = [other for other in silent if other is not shelf] if silent else silent
        warehouses, claim = tuple(shelf.warehouses), Claim()
        packed_at = warehouses
        if len(warehouses) > 1 and shelf.parts.keys() and not (terms.allows_split_shipment or _is_plain(shelf)):
            # A bundle is packed in one warehouse; while a part is scarce, its store promises it from one only.
            if any((sku, warehouse) in scarce for sku in shelf.parts for warehouse in warehouses):
                packed_at = (_home(shelf, pool, homes),)
            possible = sum(max(0, _packed(shelf, warehouse, pool)) for warehouse in packed_at)
        else:
            possible = None
        for sku, units in shelf.parts.items():
            here = found.get((sku, packed_at))
            if here is None:
                here = found[sku, packed_at] = _found(sku, packed_at, pool, scarce)
            total = here.units
            if not here.plenty:
                claim[sku] = here.claimed
            if packed_at is not warehouses:
                # What another warehouse is short of is missing from the whole.
                total = min(total, sum(pool.get((sku, warehouse), 0) for warehouse in warehouses))
            if here.plenty and others:
                total -= _set_aside(sku, here.plenty, others, terms)
            made = total // units
            possible = made if possible is None else min(possible, made)
        limits.append(published(possible or 0, shelf.rule))
        claims.append(claim)
    return limits, claims


def _found(sku: int, warehouses: Sequence[int], pool: Pool, scarce: set[Cell]) -> Found:
    plenty = [warehouse for warehouse in warehouses if (sku, warehouse) not in scarce]
    units = sum([pool.get((sku, warehouse), 0) for warehouse in plenty or warehouses])
    return Found(units, plenty, frozenset() if plenty else frozenset(warehouses))


def _is_plain(shelf: Shelf) -> bool:
    return len(shelf.parts) == 1 and 1 in shelf.parts.values()


def _packed(shelf: Shelf, warehouse: int, pool: Pool) -> int:
    return bundles_available(shelf.parts, {sku: pool.get((sku, warehouse), 0) for sku in shelf.parts})


def _home(shelf: Shelf, pool: Pool, homes: dict[tuple[frozenset[tuple[int, int]], int], int]) -> int:
    """The warehouse a bundle is promised from: where most can be packed per store that has chosen it already."""
    recipe = frozenset(shelf.parts.items())

    def room(warehouse: int) -> float:
        return _packed(shelf, warehouse, pool) / (homes.get((recipe, warehouse), 0) + 1)

    home = max(shelf.warehouses, key=room)
    homes[recipe, home] = homes.get((recipe, home), 0) + 1
    return home


def _bounds(claimants: Sequence[Shelf], claims: Sequence[Claim], pool: Pool) -> dict[Cover, Bound]:
    """What claimants may show together, per SKU and union of warehouses; what silent ones go on showing is taken off."""
    drawn: dict[int, dict[frozenset[int], list[int]]] = {}
    for place, claim in enumerate(claims):
        for sku, warehouses in claim.items():
            places = drawn.setdefault(sku, {})
            places.setdefault(warehouses, []).append(place)
            if len(warehouses) < len(claimants[place].warehouses):
                # What was promised from another home still counts among all warehouses it may come from.
                places.setdefault(frozenset(claimants[place].warehouses), [])
    bounds = {}
    for sku, places in drawn.items():
        for union in _unions(places):
            room = sum(pool.get((sku, warehouse), 0) for warehouse in union)
            units = {}
            for place in chain.from_iterable(places[warehouses] for warehouses in places if warehouses <= union):
                claimant = claimants[place]
                if claimant.silent_for is None:
                    units[place] = claimant.parts[sku]
                else:
                    room -= claimant.parts[sku] * claimant.ceiling
            bounds[sku, union] = Bound(room, units)
    return bounds


def _unions(sets: Iterable[frozenset[int]]) -> list[frozenset[int]]:
    """The sets and all unions of them that hang together."""
    found = list(dict.fromkeys(sets))
    single = tuple(found)
    if len(single) == 1:
        return found
    for union in found:  # grows meanwhile
        for other in single:
            joined = union | other
            if not union.isdisjoint(other) and joined not in found:
                found.append(joined)
        if len(found) > MOST_UNIONS:
            return [*single, frozenset().union(*single)]
    return found


def _promise(
    claimants: Sequence[Shelf],
    limits: Sequence[int],
    claims: Sequence[Claim],
    bounds: Sequence[Bound],
    first_quota: int,
    cover_seconds: float,
) -> list[int]:
    """The numbers while units are split. From `first_quota` on, claimants are our own quotas, which are lowered at once."""
    held = [claimant.ceiling for claimant in claimants]
    tops, weights, floors = list(limits), [0.0] * len(held), [0] * len(held)
    for place, claimant in enumerate(claimants):
        floors[place] = claimant.rule.floor or 0
        if claimant.silent_for is not None or not claimant.can_raise:
            tops[place] = min(held[place], tops[place])
        if claims[place] and claimant.silent_for is None:
            weights[place] = claimant.weight
    kept = [units if units >= floor else 0 for units, floor in zip(map(min, held, tops), floors, strict=True)]
    if len(held) == first_quota and _is_settled(claimants, held, kept, tops, weights, bounds, cover_seconds):
        return [units if claim else limit for units, claim, limit in zip(kept, claims, limits, strict=True)]
    shares = _fill(base=[0] * len(held), tops=tops, weights=weights, bounds=bounds, held=held, floors=floors)
    held[first_quota:] = [0] * (len(held) - first_quota)
    for place in range(first_quota, len(held)):
        room = min(bound.left(held) for bound in bounds if place in bound.units)
        held[place] = kept[place] = max(0, min(kept[place], shares[place], room))

    promised = _lowered(kept, shares, bounds, floors)
    rising = [
        place
        for place, weight in enumerate(weights)
        if weight and shares[place] > held[place] == promised[place] and claimants[place].can_raise
    ]
    needy = [place for place in rising if _is_needy(claimants[place], held[place], shares[place], cover_seconds)]
    # What is lowered counts with what it was until that is confirmed.
    granted = held
    for places in filter(None, (needy, rising)):
        gaps = [0.0] * len(held)
        goals = list(granted)
        for place in places:
            goals[place] = shares[place]
            gaps[place] = float(shares[place] - granted[place])
        granted = _fill(base=granted, tops=goals, weights=gaps, bounds=bounds, held=held, floors=floors)
    for place in rising:
        promised[place] = granted[place]
    _make_room(needy, promised, shares, bounds, floors)
    return [units if claims[place] else limits[place] for place, units in enumerate(promised)]


def _hold_back(claimants: Sequence[Shelf], promised: list[int]) -> None:
    """Raise nothing that is in doubt: what was doubtful stays so, and comes on top of every raise."""
    for place, claimant in enumerate(claimants):
        if claimant.shown is not None and claimant.shown < claimant.ceiling:
            promised[place] = min(promised[place], max(0, claimant.shown))


def _is_settled(
    claimants: Sequence[Shelf],
    held: Sequence[int],
    kept: Sequence[int],
    tops: Sequence[int],
    weights: Sequence[float],
    bounds: Sequence[Bound],
    cover_seconds: float,
) -> bool:
    """Whether all is given, nothing is given twice, and nobody could be in need: the usual case, told apart cheaply."""
    return all(bound.left(held) == 0 == bound.left(kept) for bound in bounds) and not any(
        weight and units < top and _is_needy(claimant, units, top, cover_seconds)
        for claimant, units, top, weight in zip(claimants, held, tops, weights, strict=True)
    )


def _is_needy(claimant: Shelf, held: int, share: int, cover_seconds: float) -> bool:
    """Whether moving units here pays: it is sold out, or has half its share at most and soon will be."""
    return held == 0 or (2 * held <= share and held <= claimant.velocity * cover_seconds)


def _fill(
    *,
    base: Sequence[int],
    tops: list[int],
    weights: Sequence[float],
    bounds: Sequence[Bound],
    held: Sequence[int],
    floors: Sequence[int],
) -> list[int]:
    """`fill`, but nobody gets less than what it may show at least; who cannot get that leaves its units to the others."""
    while True:
        given = fill(base=base, tops=tops, weights=weights, bounds=bounds, held=held)
        short = [place for place, floor in enumerate(floors) if base[place] < given[place] < floor]
        if not short:
            return given
        loser = min(short, key=lambda place: (held[place] >= floors[place], given[place]))
        tops = list(tops)
        tops[loser] = base[loser]


def _lowered(kept: list[int], shares: Sequence[int], bounds: Sequence[Bound], floors: Sequence[int]) -> list[int]:
    """What everyone can keep. Where there is too much, those furthest above their share give, so that few numbers change."""
    if all(bound.left(kept) >= 0 for bound in bounds):
        return list(kept)
    surplus = {place: units - shares[place] for place, units in enumerate(kept) if units > shares[place]}
    base = list(map(min, kept, shares))
    for place in sorted(surplus, key=lambda place: surplus[place]):
        room = min(
            (bound.left(base) // bound.units[place] for bound in bounds if place in bound.units), default=surplus[place]
        )
        units = base[place] + max(0, min(surplus[place], room))
        if units >= floors[place]:
            base[place] = units
    return base


def _make_room(
    needy: Sequence[int], promised: list[int], shares: Sequence[int], bounds: Sequence[Bound], floors: Sequence[int]
) -> None:
    """Lower those above their share by what the needy still lack of theirs; it is granted once that is confirmed."""
    wished = list(promised)
    for place in needy:
        wished[place] = shares[place]
    for bound in bounds:
        if not any(wished[place] > promised[place] for place in needy if place in bound.units):
            continue
        donors = [place for place in bound.units if wished[place] > shares[place]]
        for place in sorted(donors, key=lambda place: shares[place] - wished[place]):
            lacking = -bound.left(wished)
            if lacking <= 0:
                break
            units = max(shares[place], wished[place] - -(-lacking // bound.units[place]))
            wished[place] = promised[place] = units if units >= floors[place] else 0
