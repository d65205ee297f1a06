"""Publishing: from stock to what every store location should show.

Level-triggered: it computes today's value of the SKUs marked dirty, however many changes the marks stand for. Publishers
of one SKU take turns (a lock on its row), so that an older value never overwrites a newer one. Where units are divided
among the stores (`split`, and `guard` when they are few), everything that shares components is published together, under
locks on its stock and its levels, so that no unit is promised twice.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from locations.pace import threshold
from locations.publishing import NO_RULE, Policy, Rule, Shelf, Terms, most_specific, numbers
from sync.ports import Desire, Engine, Group, PublishBooks, ShelfStock, Target
from synctec.lib.failpoints import failpoint

BATCH_SKUS = 500
#: Where units are divided a raise waits until the others were lowered: so many rounds are looked ahead at most.
ROUNDS_AHEAD = 4

Rules = Mapping[tuple[str, int, int], Rule]


@dataclass(slots=True)
class Published:
    """What a batch came to: SKUs done, levels changed, and the channels that have something to push."""

    skus: int = 0
    changed_levels: int = 0
    channels: set[int] = field(default_factory=set)
    #: The correlation ids of the events that made the SKUs dirty.
    stories: list[uuid.UUID] = field(default_factory=list)


def publish_batch(engine: Engine, *, merchant_id: int) -> Published:
    """Publish one batch of a merchant's dirty SKUs; `.skus` tells whether there may be more."""
    books = engine.books
    with books.transaction():
        marks = books.take_marks(merchant_id, BATCH_SKUS)
        if not marks:
            return Published()
        divided = [sku for sku, mark in marks.items() if mark.is_divided]
        if divided:
            books.lock_shelves(divided)
        now = engine.now()
        targets = books.load_targets(list(marks))
        facts = _load(books, merchant_id, list(marks), targets)
        stock = facts.stock
        desired, quotas = _compute(targets, facts, now)
        # Where nobody divides units any more, holds may have all of them again.
        left = [cell for cell, held in stock.items() if held.quota is not None and cell not in quotas]
        quotas |= dict.fromkeys(books.undivided(left) if left else ())
        wished = [Desire(target, desired[target.level_id]) for target in targets]
        allowed = books.restrain(merchant_id, wished, now)
        changed = [desire for desire in allowed if desire.desired != desire.target.desired]
        books.write_quotas(
            merchant_id, {cell: quota for cell, quota in quotas.items() if cell in stock and stock[cell].quota != quota}
        )
        books.write_desires(changed, marks, now)
        failpoint("publish.before_commit")
    stories = list(dict.fromkeys(story for mark in marks.values() for story in mark.correlation_ids))
    return Published(len(marks), len(changed), {desire.target.channel_id for desire in changed}, stories)


class Foreseen(NamedTuple):
    """What a level would be told in the end, and the least and the greatest on the way."""

    target: Target
    desired: int
    least: int
    greatest: int

    @property
    def desire(self) -> Desire:
        """As the publisher would wish it."""
        return Desire(self.target, self.desired)


def foresee(engine: Engine, *, merchant_id: int, skus: Sequence[int]) -> list[Foreseen]:
    """The levels of these SKUs that would be told another number, were every write confirmed. Reads, and locks nothing.

    SKUs that share units must come together. Levels in shadow mode are told nothing.
    """
    now, books = engine.now(), engine.books
    targets = books.load_targets(skus)
    facts = _load(books, merchant_id, skus, targets)
    rounds: list[dict[int, int | None]] = []
    standing = targets
    for _ in range(ROUNDS_AHEAD):
        told, _quotas = _compute(standing, facts, now)
        rounds.append(told)
        following = [_as_told(target, told[target.level_id]) for target in standing]
        if following == standing or not any(group.policy != Policy.SHARED for group in facts.groups.values()):
            break
        standing = following
    found = []
    for target in targets:
        numbers_told = [number for told in rounds if (number := told[target.level_id]) is not None]
        if target.is_shadow or not numbers_told or {*numbers_told} <= {target.desired}:
            continue
        found.append(Foreseen(target, numbers_told[-1], min(numbers_told), max(numbers_told)))
    return found


def _as_told(target: Target, told: int | None) -> Target:
    """The level once its store has confirmed the number; one that is silent or in doubt stays as it is."""
    if told is None or target.is_suspect or target.failing_since is not None:
        return target
    return target._replace(desired=told, shown=told, ceiling=max(0, told))


class _Facts(NamedTuple):
    """What decides the numbers, besides the levels themselves."""

    groups: Mapping[int, Group]
    parts: Mapping[int, Mapping[int, int]]
    drawn_on: Mapping[int, Sequence[int]]
    stock: Mapping[tuple[int, int], ShelfStock]
    rules: Rules


def _load(books: PublishBooks, merchant_id: int, skus: Sequence[int], targets: Sequence[Target]) -> _Facts:
    groups = books.load_groups({target.group_id for target in targets if target.group_id is not None})
    parts = books.load_parts(merchant_id, skus)
    drawn_on = books.load_warehouses({target.store_location_id for target in targets})
    stock = books.load_stock({sku for sku_parts in parts.values() for sku in sku_parts})
    rules = books.load_rules({target.channel_id for target in targets}, skus)
    return _Facts(groups, parts, drawn_on, stock, rules)


def _compute(
    targets: Sequence[Target], facts: _Facts, now: datetime
) -> tuple[dict[int, int | None], dict[tuple[int, int], int | None]]:
    """What each level should show, and what holds may still take of each stock level where units are divided."""
    desired: dict[int, int | None] = dict.fromkeys((target.level_id for target in targets), None)
    quotas: dict[tuple[int, int], int | None] = {}
    for group_id, members in _by_group(targets, facts.drawn_on).items():
        group = facts.groups[group_id]
        for family in _families(members, facts.parts) if group.policy != Policy.SHARED else [members]:
            shelves = [_shelf(target, group, facts.parts, facts.drawn_on, facts.rules, now) for target in family]
            pool = _pool(shelves, group, facts.stock)
            units = {cell: held.available for cell, held in pool.items()}
            terms = _terms(group, shelves, pool)
            result = numbers(shelves, units, terms)
            desired.update(result.shown)
            quotas.update(result.quotas)
            if group.policy != Policy.SHARED:
                desired.update(_in_shadow(family, shelves, units, terms))
    desired.update((target.level_id, None) for target in targets if target.is_gone)
    return desired, quotas


def _in_shadow(
    family: Sequence[Target], shelves: Sequence[Shelf], units: Mapping[tuple[int, int], int], terms: Terms
) -> dict[int, int]:
    """What each channel in shadow mode would be told if it went live now. The others are told as if it never did."""
    told: dict[int, int] = {}
    for channel_id in sorted({target.channel_id for target in family if target.is_shadow}):
        live = [
            shelf._replace(silent_for=None) if target.channel_id == channel_id else shelf
            for target, shelf in zip(family, shelves, strict=True)
        ]
        shown = numbers(live, units, terms).shown
        told |= {target.level_id: shown[target.level_id] for target in family if target.channel_id == channel_id}
    return told


def _by_group(targets: Iterable[Target], drawn_on: Mapping[int, Sequence[int]]) -> dict[int, list[Target]]:
    """The levels that are ours to say something about, and those that may have sold what is ours."""
    groups: dict[int, list[Target]] = defaultdict(list)
    for target in targets:
        is_ours = target.is_publishable or target.is_gone
        if is_ours and target.group_id is not None and drawn_on.get(target.store_location_id):
            groups[target.group_id].append(target)
    return groups


def _families(targets: Iterable[Target], parts: Mapping[int, Mapping[int, int]]) -> list[list[Target]]:
    """The levels by what they share: those of a SKU, of its bundles, of their other parts, and so on."""
    if len(parts) == 1:
        return [list(targets)]
    family_of: dict[int, list[Target]] = {}  # component -> family; merged families are the same list
    families: list[list[Target]] = []
    for target in targets:
        shared = [family_of[sku] for sku in parts[target.sku_id] if sku in family_of]
        family = shared[0] if shared else []
        if not shared:
            families.append(family)
        for other in shared[1:]:
            if other is not family:
                family += other
                families = [kept for kept in families if kept is not other]
                family_of = {sku: family if kept is other else kept for sku, kept in family_of.items()}
        family.append(target)
        family_of |= dict.fromkeys(parts[target.sku_id], family)
    return families


def _shelf(
    target: Target,
    group: Group,
    parts: Mapping[int, Mapping[int, int]],
    drawn_on: Mapping[int, Sequence[int]],
    rules: Rules,
    now: datetime,
) -> Shelf:
    silent_for = None
    if target.failing_since is not None:
        silent_for = max(0.0, (now - target.failing_since).total_seconds())
    return Shelf(
        key=target.level_id,
        parts=parts[target.sku_id],
        warehouses=drawn_on[target.store_location_id],
        shown=target.shown,
        ceiling=target.ceiling,
        rule=_rule(target, rules),
        weight=target.velocity.weight(now) if group.is_weighted_by_velocity else target.weight,
        velocity=target.velocity.units_per_second(now),
        lot=target.velocity.lot,
        silent_for=silent_for,
        can_raise=not (target.is_suspect or target.has_paused_raises),
    )


def _rule(target: Target, rules: Rules) -> Rule:
    if not rules:
        return NO_RULE
    return most_specific(
        (
            rules.get(("listing", target.listing_id, 0)),
            rules.get(("sku", target.channel_id, target.sku_id)),
            rules.get(("channel", target.channel_id, 0)),
        )
    )


def _pool(
    shelves: Iterable[Shelf], group: Group, stock: Mapping[tuple[int, int], ShelfStock]
) -> dict[tuple[int, int], ShelfStock]:
    """Every level of these shelves' components in the group's warehouses."""
    skus = {sku for shelf in shelves for sku in shelf.parts}
    nothing = ShelfStock(0, None)
    return {
        (sku, warehouse): stock.get((sku, warehouse), nothing) for sku in sorted(skus) for warehouse in group.warehouses
    }


def _terms(group: Group, shelves: Sequence[Shelf], pool: Mapping[tuple[int, int], ShelfStock]) -> Terms:
    policy = Policy(group.policy)
    return Terms(
        policy=policy,
        thresholds=_thresholds(shelves, group) if policy is Policy.GUARD else {},
        allows_split_shipment=group.allows_split_shipment,
        holds_weight=group.holds_weight,
        quotas={cell: held.quota for cell, held in pool.items() if held.quota is not None},
        window_seconds=group.window_seconds,
    )


def _thresholds(shelves: Sequence[Shelf], group: Group) -> dict[int, int]:
    """Per SKU, the units that are sold elsewhere before the news of a sale is everywhere, with a margin."""
    paces: dict[int, float] = defaultdict(float)
    parts: dict[int, int] = defaultdict(int)  # units in one of what is sold
    lots: dict[int, int] = defaultdict(int)  # units that the biggest single sale takes
    for shelf in shelves:
        for sku, units in shelf.parts.items():
            paces[sku] += shelf.velocity * units
            parts[sku] = max(parts[sku], units)
            lots[sku] = max(lots[sku], units * shelf.lot)
    if group.guard_units is not None:
        return dict.fromkeys(paces, group.guard_units)
    return {
        sku: threshold(pace, group.window_seconds, lot=lots[sku], floor=2 * parts[sku]) for sku, pace in paces.items()
    }
