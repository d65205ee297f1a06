"""The auditor: judges a run by the truth of the stores and by the books alone, with none of the engine's arithmetic.

It looks at what every commit changed (`look`), which finds what later repairs would hide, and at everything when the world
has come to rest (`audit_end`). The first violation ends the run; it is named after the invariant it breaks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sync.ports import DriftFound
from sync.residue import sums
from sync.simulator.memory.rows import EventRow, LevelRow, LineRow, PushRow, StockRow
from sync.simulator.stores import Store

if TYPE_CHECKING:
    from sync.simulator.world import World

#: Calls that one channel may get in a minute and in a second, however bad the day: workers that spin are found by this.
CALLS_PER_MINUTE, CALLS_PER_SECOND = 80, 12

#: So long a write that was refused the second time may explain what its level shows: until it is read, or longer.
DOUBT = timedelta(minutes=5)

_STATE = [column.name for column in fields(EventRow)].index("state")


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold."""

    invariant: str
    at: float
    says: str


@dataclass(slots=True)
class Account:
    """What the auditor has counted of a stock level itself."""

    movements: int = 0
    on_hand: int = 0
    committed: int = 0
    held: int = 0
    #: Sum over order lines of what they say they have committed here.
    by_lines: int = 0
    #: Sum over listing levels of what they say they hold here.
    by_levels: int = 0


@dataclass(slots=True)
class Auditor:
    """Watches one run."""

    world: World
    violations: list[Violation] = field(default_factory=list)
    accounts: dict[int, Account] = field(default_factory=lambda: defaultdict(Account))
    #: Units taken by order lines, by stock level, as the auditor has last seen each line.
    taken: dict[Any, dict[int, int]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    #: By listing level, what it holds and at which stock level, as the auditor has last seen it.
    holding: dict[int, tuple[int | None, int]] = field(default_factory=dict)
    latest_commit: float = 0.0
    #: Webhooks that were acknowledged: their channel believes that we know.
    acknowledged: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.violations

    def blame(self, invariant: str, says: str) -> None:
        """Note a violation."""
        at = self.world.scheduler.time
        self.violations.append(Violation(invariant, at, says))
        self.world.tell("violation", 0, lambda: f"{invariant}: {says}")

    # --- at every commit ------------------------------------------------------------------------------------------

    def look(self, undo: list[tuple[Any, ...]]) -> None:
        """A transaction is about to commit; `undo` names what it changed, with the values before."""
        if self.violations:
            return
        self.latest_commit = self.world.scheduler.time
        stock: dict[int, StockRow] = {}
        levels: dict[int, LevelRow] = {}
        for take_back, *arguments in undo:
            if not arguments:
                continue
            subject = arguments[0]
            kind = subject.__class__
            if kind is StockRow:
                stock[subject.id] = subject
            elif kind is LevelRow:
                levels[subject.id] = subject
            elif kind is EventRow:
                self._event(subject, arguments[1])
            elif kind is tuple and len(subject) == 3:
                table = getattr(take_back, "__self__", None)
                line = table.get(subject) if isinstance(table, dict) else None
                if isinstance(line, LineRow):
                    self._line(line, arguments[1] if len(arguments) > 1 else None)
                    for level in line.taken_from:
                        stock[level] = self.world.books.stock[level]
        for listing_level in levels.values():
            for place in self._level(listing_level):
                stock[place] = self.world.books.stock[place]
        for row in stock.values():
            self._stock(row)
        if self.world.story is not None:
            self._tell(stock, levels)

    def _tell(self, stock: dict[int, StockRow], levels: dict[int, LevelRow]) -> None:
        for row in stock.values():
            says = f"{row.on_hand} - {row.committed} - {row.held} = {row.available}"
            self.world.tell("stock", row.sku_id, lambda says=says: says)  # type: ignore[misc]
        for level in levels.values():
            push = level.open_push
            says = (
                f"{level.listing.inventory_item_id}: reported {level.base}{level.order_effects:+d}{level.pushed:+d}="
                f"{level.reported} shown {level.shown} desired {level.desired}"
                + (f" suspect({level.suspect_reason}, {level.suspect_available})" if level.suspect_since else "")
                + (f" sample {level.sample}{level.since_sample or 0:+d}" if level.sample is not None else "")
                + (f" held {level.held}" if level.held else "")
                + (f" open {push.from_quantity}->{push.to_quantity} {str(push.batch.id)[-4:]}" if push else "")
                + (f" doubtful {level.doubtful_by}" if level.doubtful_by else "")
            )
            self.world.tell("level", level.id, lambda says=says: says)  # type: ignore[misc]

    def look_anew(self) -> None:
        """The database has lost its newest commits: count everything again."""
        books = self.world.books
        self.accounts = defaultdict(Account)
        self.taken.clear()
        self.keys.clear()
        self.holding.clear()
        for lines in books.orders.values():
            for line in lines.values():
                self._line(line, None)
        for level in books.levels.values():
            self._level(level)
        for row in books.stock.values():
            self._stock(row)

    def _stock(self, row: StockRow) -> None:
        account = self.accounts[row.id]
        movements = row.movements
        for line in movements[account.movements :]:
            account.movements += 1
            if line.seq != account.movements:
                self.blame(
                    "ledger sequence", f"stock level {row.id}: movement {line.seq} is number {account.movements}"
                )
            if line.idempotency_key in self.keys:
                self.blame("ledger key once", f"{line.idempotency_key} was posted twice")
            self.keys.add(line.idempotency_key)
            after = getattr(account, line.account) + line.delta
            setattr(account, line.account, after)
            if line.balance_after != after:
                self.blame("ledger chain", f"stock level {row.id}: {line.account} is {after}, not {line.balance_after}")
            if line.delta > 0 and line.account == "on_hand" and line.entry.cause in ("channel_edit", "check"):
                self.blame("no rise by reading", f"stock level {row.id} rose by {line.delta} because of a reading")
        if account.movements != len(movements) or row.seq != account.movements:
            self.blame("ledger sequence", f"stock level {row.id}: {row.seq} of {len(movements)} movements")
        if (row.on_hand, row.committed, row.held) != (account.on_hand, account.committed, account.held):
            self.blame("ledger sum", f"stock level {row.id} is not the sum of its movements")
        if row.committed != account.by_lines:
            self.blame("lines sum", f"stock level {row.id}: {row.committed} committed, {account.by_lines} by its lines")
        if row.held != account.by_levels:
            self.blame("held sum", f"stock level {row.id} holds {row.held}, its listing levels {account.by_levels}")
        lacking = max(0, row.committed - row.on_hand)
        if lacking or row.shortages:
            declared = sum(shortage.quantity - shortage.covered for shortage in row.shortages)
            if declared != lacking:
                self.blame("shortage", f"stock level {row.id} lacks {lacking}, open shortages say {declared}")

    def _line(self, line: LineRow, before: LineRow | None) -> None:
        if line.applied != line.desired and not line.waiting_for:
            self.blame("applied is desired", f"order line {line.key}")
        if before is not None:
            said, said_before = line.register.said, before.register.said
            if said_before is not None and (said is None or said.version < said_before.version):
                self.blame("register never goes back", f"order line {line.key} forgot {said_before.version}")
            if len(line.register.refunds) < len(before.register.refunds):
                self.blame("register never goes back", f"order line {line.key} forgot a refund")
            if before.register.cancelled_at and not line.register.cancelled_at:
                self.blame("register never goes back", f"order line {line.key} forgot its cancellation")
        known = self.taken.get(line.key)
        if known is None:
            known = self.taken[line.key] = {}
        for level, taken in line.taken_from.items():
            self.accounts[level].by_lines += taken.committed - known.get(level, 0)
            known[level] = taken.committed

    def _level(self, level: LevelRow) -> list[int]:
        """Returns the stock levels at which the listing level holds more or less than before."""
        if level.open_push is not None and level.open_push.state != "open":
            self.blame("one open push", f"level {level.id}: push {level.open_push.id} is {level.open_push.state}")
        before, now = self.holding.get(level.id, (None, 0)), (level.held_at, level.held)
        if now == before:
            return []
        self.holding[level.id] = now
        for (place, units), sign in ((before, -1), (now, 1)):
            if place is not None:
                self.accounts[place].by_levels += sign * units
        return [place for place, _ in (before, now) if place is not None]

    def _event(self, event: EventRow, before: tuple[Any, ...]) -> None:
        if before[_STATE] != "pending" and event.state != "pending":  # taken up again is another matter
            self.blame("event settled once", f"event {event.envelope.event_id} was settled before")

    # --- by the truth, at all times ---------------------------------------------------------------------------------

    def offered_too_much(self, place: tuple[int, int], excess: int) -> None:
        """Stores offer more units of a SKU than there are at their site."""
        if self.world.setting.policy != "split" or self.violations or not self.world.promises_about(place):
            return
        sku, site = place
        shelf = self.world.shelves[place]
        if excess > shelf.tolerated + shelf.doubled + self.world.granted_twice(place):
            available = sum(row.available for row in self._stock_at(place))
            offers = [
                f"{item} {units}"
                for store in self.world.stores
                for (item, _), units in store.counters.items()
                if units and store.site == site and sku in store.by_item[item].recipe
            ]
            self.blame(
                "split",
                f"stores offer {excess} units of SKU {sku} more than there are: {', '.join(offers)} of {shelf.left} left; "
                f"the books say {available}",
            )

    # --- at rest ----------------------------------------------------------------------------------------------------

    def unrest(self) -> str:
        """What is still going on; "" when nothing is."""
        world, books = self.world, self.world.books
        waiting = next((channel for channel, passes in world.passes.items() if passes < 2), None)
        if waiting is not None:
            return f"channel {waiting} was reconciled {world.passes[waiting]} times"
        if world.wire.under_way:
            return f"{world.wire.under_way} webhooks are under way"
        pending = next((event for event in books.events.values() if event.state == "pending"), None)
        if pending is not None:
            return f"event {pending.envelope.event_id} is pending: {pending.reason}"
        if any(books.marks.values()):
            return "SKUs are marked for publishing"
        gone = next((level for level in books.levels.values() if level.gone_at is not None), None)
        if gone is not None:
            return (
                f"level {gone.id} ({gone.listing.inventory_item_id}) is gone, and what it sold before is not known yet"
            )
        for store in world.stores:
            for (item, location), units in store.counters.items():
                says = self._restless(store, item, location, units)
                if says:
                    return says
        return self._unpublished()

    def _restless(self, store: Store, item: str, location: str, units: int) -> str:
        level = self.world.books.level_of(store.channel_id, item, location)
        if level.suspect_since is not None:
            return f"level {level.id} ({item}) is suspect: {level.suspect_reason}"
        if level.open_push is not None:
            return f"level {level.id} ({item}) has an open push"
        if units != level.reported or units != level.desired:
            return f"level {level.id} ({item}): shows {units}, reported {level.reported}, desired {level.desired}"
        return ""

    def _unpublished(self) -> str:
        """Units that no store offers although they are there: nothing would ever offer them."""
        return next(filter(None, map(self._unpublished_at, range(len(self.world.sites)))), "")

    def _unpublished_at(self, site: int) -> str:
        """Of the stores of one site."""
        world = self.world
        stores = {store.channel_id: store for store in world.stores if store.site == site}
        available: dict[int, Counter[int]] = defaultdict(Counter)  # by warehouse and SKU
        for row in world.books.stock.values():
            if row.warehouse_id in world.sites[site]:
                available[row.warehouse_id][row.sku_id] += row.available
        levels = [
            level
            for level in world.books.levels.values()
            if level.channel_id in stores and level.listing.deleted_at is None
        ]
        if len(world.sites[site]) > 1:
            offers = [(level.listing.sku_id or 0, stores[level.channel_id], level.desired or 0) for level in levels]
            return self._unpublished_among(offers, available)
        shown: dict[int, list[int]] = defaultdict(list)
        for level in levels:
            shown[level.listing.sku_id or 0].append(level.desired or 0)
        [there] = available.values()
        told = (self._unpublished_of(family, there, shown) for family in world.families)
        return next(filter(None, told), "")

    def _unpublished_among(
        self, offers: Sequence[tuple[int, Store, int]], available: Mapping[int, Mapping[int, int]]
    ) -> str:
        """Where stores draw on several warehouses: what is offered by each is `(SKU, store, units)`."""
        setting, recipes = self.world.setting, self.world.recipes
        for sku, store, units in offers:
            most = _most(recipes[sku], store, available)
            if setting.policy == "shared" and units != max(0, most - setting.buffer):
                return f"SKU {sku}: {most} available to store {store.number}, which should show {units}"
            if units > max(0, most - setting.buffer):
                return f"SKU {sku}: {most} available to store {store.number}, which should show {units}"
        if setting.policy == "shared" or setting.buffer or setting.bundles:
            return ""  # of bundles nobody tells from which warehouse they are promised
        for sku in recipes:
            drawn = {frozenset(store.warehouses) for other, store, _ in offers if other == sku}
            left = {
                union: sum(available[warehouse][sku] for warehouse in union)
                - sum(units for other, store, units in offers if other == sku and union.issuperset(store.warehouses))
                for union in _unions(drawn)
            }
            if setting.policy == "guard" and min(left.values(), default=0) < 0:
                continue  # some of it is shared
            for store in (store for other, store, _ in offers if other == sku):
                if all(units > 0 for union, units in left.items() if union.issuperset(store.warehouses)):
                    return f"SKU {sku}: store {store.number} could offer one more, nobody does; {left} left"
        return ""

    def _stock_at(self, place: tuple[int, int]) -> list[StockRow]:
        """The stock levels of a SKU at a site."""
        sku, site = place
        warehouses = self.world.sites[site]
        return [row for row in self.world.books.stock.values() if row.sku_id == sku and row.warehouse_id in warehouses]

    def _unpublished_of(self, family: Collection[int], available: Counter[int], shown: dict[int, list[int]]) -> str:
        """Of SKUs that share components."""
        recipes = self.world.recipes
        left = Counter(available)
        for sku in family:
            for part, units in recipes[sku].items():
                left[part] -= units * sum(shown[sku])
        setting = self.world.setting
        policy, threshold, buffer = setting.policy, setting.guard_units, setting.buffer
        if policy == "split" or (policy == "guard" and all(left[part] >= min(0, available[part]) for part in left)):
            for sku in family if not buffer else ():
                if all(left[part] >= units for part, units in recipes[sku].items()):
                    return f"SKU {sku}: one more could be offered, nobody does; {shown[sku]} of {available}"
            return ""
        for sku in family:
            packed = min(max(0, available[part]) // units for part, units in recipes[sku].items())
            if set(shown[sku]) - {max(0, packed - buffer)}:
                return f"SKU {sku}: {packed} available, stores should show {shown[sku]}"
            if policy == "guard" and threshold is not None and 0 < packed <= threshold:
                return f"SKU {sku}: {packed} available and not divided, at a threshold of {threshold}"
        return ""

    def audit_end(self) -> None:
        """All is at rest: everything must be right."""
        if self.violations:
            return
        self._inbox()
        self._orders()
        self._pool()
        self._keys()
        self._stops()
        self._rates()
        if self.world.books.broken:
            self.blame("constraint", self.world.books.broken[0])

    def _inbox(self) -> None:
        books = self.world.books
        rows = duplicates = 0
        for event in books.events.values():
            if event.state not in ("applied", "ignored", "dead"):
                self.blame("event settled once", f"event {event.envelope.event_id} is {event.state}")
            if event.state == "dead":
                self.blame("no event dies", f"event {event.envelope.event_id} is dead: {event.reason}")
            if not event.webhook_id.startswith("poll:"):
                rows += 1
                duplicates += event.duplicates
        stored = set(books.delivered())
        lost = [delivery for delivery in self.acknowledged if delivery not in stored]
        if lost:
            self.blame("acknowledged is stored", f"{len(lost)} webhooks, such as {lost[0]}")
        if len(self.acknowledged) > rows + duplicates:
            self.blame("acks", f"{len(self.acknowledged)} acknowledged, {rows} rows and {duplicates} duplicates")

    def _orders(self) -> None:
        """What the stores' own orders have taken is what the books say they have taken."""
        books = self.world.books
        for store in self.world.stores:
            told = [order for order in store.deleted.values() if self.world.was_told(store, order)]
            for order in (*store.orders.values(), *told):
                for line in order.lines:
                    row = books.orders.get((store.channel_id, order.order_id), {}).get(
                        (store.channel_id, order.order_id, line.line_id)
                    )
                    truth = line.taken(order.refunds)
                    known = row.applied.taken if row is not None else 0
                    if truth != known:
                        self.blame("orders", f"{line.line_id} has taken {truth} units, the books say {known}")
                        return

    def _pool(self) -> None:
        """What the books say is available is what is on the shelf; sold beyond it is declared."""
        world, late = self.world, self._late_writes()
        by_hand = any(store.edited for store in world.stores) or bool(world.untold())
        masked = world.hidden
        mistaken = self._mistaken(late)
        for place, shelf in world.shelves.items():
            sku, _ = place
            available = sum(row.available for row in self._stock_at(place))
            # A unit taken out by hand just after a late raise leaves the number that was expected: no reading shows it.
            raised = sum(
                push.to_quantity - push.from_quantity
                for push in late
                if by_hand and world.place_of(push.level.listing.sku_id or 0, push.level.id) == place
            )
            most, least = shelf.left + max(0, raised) + masked[place], shelf.left - mistaken[place]
            if not least <= available <= most and not world.setting.clock_ahead:
                self.blame(
                    "pool",
                    f"SKU {sku}: {available} available, {shelf.left} on the shelf ({least} to {most} can be told)",
                )
        undeclared = self.undeclared_units()
        if undeclared:
            self.blame("undeclared", f"{undeclared} units were sold beyond stock without a shortage")
        if world.setting.policy == "split":
            for place, shelf in world.shelves.items():
                if shelf.oversold > shelf.excused + world.granted_twice(place) and world.promises_about(place):
                    self.blame("split", f"SKU {place[0]}: {shelf.oversold} units were sold beyond stock")

    def _mistaken(self, late: list[PushRow]) -> Counter[tuple[int, int]]:
        """By SKU and site, units that the books may miss although they are there: lowers that came true after they were given
        up and were taken for losses by hand, and gains by hand, which are overwritten. Whoever deletes an order before it is
        told of makes both.
        """
        world = self.world
        mistaken: Counter[tuple[int, int]] = Counter()
        for push in late:
            place = world.place_of(push.level.listing.sku_id or 0, push.level.id)
            mistaken[place] += max(0, push.from_quantity - push.to_quantity)
        for drift in world.books.drifts:
            if drift.is_ambiguous and drift.action == "adopted":
                place = world.place_of(world.books.levels[drift.level_id].listing.sku_id or 0, drift.level_id)
                mistaken[place] += drift.expected - drift.actual
        for store, item, location, units in self._moved_by_deleted():
            level = world.books.level_of(store.channel_id, item, location)
            found = sum(
                abs(drift.actual - drift.expected) for drift in world.books.drifts if drift.level_id == level.id
            )
            for sku, quantity in store.by_item[item].recipe.items():
                mistaken[sku, store.site] += quantity * min(units, found)
        if world.drawn.gains_by_hand:
            for store in world.stores:
                for (item, _), change in store.edited.items():
                    for sku, units in store.by_item[item].recipe.items():
                        mistaken[sku, store.site] += units * max(0, change)
        return mistaken

    def _moved_by_deleted(self) -> Iterator[tuple[Store, str, str, int]]:
        """Units that deleted orders have moved at a counter, there and back: (store, item, location, units)."""
        for store in self.world.stores:
            moved: Counter[tuple[str, str]] = Counter()
            for order in store.deleted.values():
                for line in order.lines:
                    moved[line.article.inventory_item_id, line.location_id] += line.moved(order.refunds)
            for (item, location), units in moved.items():
                yield store, item, location, units

    def undeclared_units(self) -> int:
        """Units sold beyond stock of which no shortage tells."""
        hidden = self.world.hidden
        undeclared = 0
        for place, shelf in self.world.shelves.items():
            shortages = [shortage for row in self._stock_at(place) for shortage in row.shortages]
            still_open = sum(shortage.quantity - shortage.covered for shortage in shortages)
            declared = sum(shortage.quantity for shortage in shortages)
            lacking = max(0, -shelf.left)
            undeclared += max(
                0, lacking - still_open - hidden[place], shelf.oversold - shelf.repaid - declared - hidden[place]
            )
        return undeclared

    def _keys(self) -> None:
        """A write that the books count as applied took effect once."""
        effects = {key: times for store in self.world.stores for key, times in store.effects.items()}
        for key, times in effects.items():
            if times != 1:
                self.blame("key once", f"the write {key} took effect {times} times")
        batches = {str(batch_id): batch_id for batch_id in self.world.books.batches}
        unknown = next((key for key in effects if key not in batches), None)
        if unknown is not None:
            self.blame("attempt before request", f"the write {unknown} took effect, and we know of none")
        applied = {batches.get(key) for key in effects}
        for push in self.world.books.pushes.values():
            if push.state == "confirmed" and push.batch.id not in applied and not self._may_be_misread(push):
                self.blame("confirmed is applied", f"push {push.id} never took effect")
                return

    def _stops(self) -> None:
        """While the kill switch is on no write is begun, nor one asked for again."""
        if self.world.drawn.clock_jumps:
            return  # moments tell nothing then
        for began_at, ended_at in self.world.stopped:
            for push in self.world.books.pushes.values():
                if ended_at is not None and began_at < push.batch.sent_at < ended_at:
                    self.blame("kill switch", f"push {push.id} was sent at {push.batch.sent_at}")
                    return

    def _late_writes(self) -> list[PushRow]:
        """Writes that took effect after their store refused them, or told nothing: they look like changes by hand."""
        effects = {key for store in self.world.stores for key in store.effects}
        pushes = self.world.books.pushes.values()
        return [push for push in pushes if push.state != "confirmed" and str(push.batch.id) in effects]

    def late_raises(self) -> Counter[int]:
        """By listing level, the units that it was raised by after its store had refused to."""
        raises: Counter[int] = Counter()
        for push in self._late_writes():
            if push.state == "rejected":
                raises[push.level.id] += max(0, push.to_quantity - push.from_quantity)
        return raises

    def looks_like_lowers(self, units: int, level_id: int, at: datetime) -> bool:
        """Whether a loss looks like writes that were refused about that time, together with those that had been applied all
        the same: it may have been what made them come too late.
        """
        refused = [
            push
            for push in self.world.books.pushes.values()
            if push.level.id == level_id
            and push.state == "rejected"
            and push.from_quantity > push.to_quantity
            and push.batch.opened_at - DOUBT <= at
            and (push.settled_at is None or at <= push.settled_at + DOUBT)
        ]
        if not refused:
            return False
        effects = {key for store in self.world.stores for key in store.effects}
        applied = [push.from_quantity - push.to_quantity for push in refused if str(push.batch.id) in effects]
        alike = sums([push.from_quantity - push.to_quantity for push in refused])
        return any(units + ours in alike for ours in {0, *sums(applied)})

    def is_in_doubt(self, level_id: int) -> bool:
        """Whether there was a write to the level of which nobody could tell what became of it."""
        return any(push.level.id == level_id and _is_doubtful(push) for push in self.world.books.pushes.values())

    def _may_be_misread(self, push: PushRow) -> bool:
        """A write of unknown outcome looks like a change by hand of the same size."""
        return push.batch.state == "unresolved"

    def _rates(self) -> None:
        """Repairs are rare, and nobody is called without end: what heals by itself must not hide what is broken."""
        world = self.world
        for connector in world.connectors.values():
            for seconds, most in ((60, CALLS_PER_MINUTE), (1, CALLS_PER_SECOND)):
                calls = Counter(at // seconds for at in connector.calls)
                if calls and max(calls.values()) > most:
                    self.blame("calls", f"{max(calls.values())} calls to a store within {seconds} s")
        self._repairs()

    def _repairs(self) -> None:
        """A drift has a cause: somebody's hand on that very counter, an order deleted there, or a write that came true after
        it was given up. One that is called ambiguous has a write of which nobody could tell.
        """
        books = self.world.books
        late = {push.level.id for push in self._late_writes()}
        by_hand = {
            books.level_of(store.channel_id, item, location).id
            for store in self.world.stores
            for item, location in store.edited
        } | {
            books.level_of(store.channel_id, item, location).id for store, item, location, _ in self._moved_by_deleted()
        }
        for drift in books.drifts:
            says = f"level {drift.level_id}: {drift.expected} expected, {drift.actual} found, {drift.action}"
            if drift.level_id not in late and drift.level_id not in by_hand:
                self.blame("repairs", says)
            elif drift.is_ambiguous and not self._is_in_doubt(drift):
                self.blame("ambiguous", says)

    def _is_in_doubt(self, drift: DriftFound) -> bool:
        """Whether a write to the level had no answer, or was refused the second time, before the drift was seen."""
        return any(
            push.level.id == drift.level_id
            and _is_doubtful(push)
            # By a clock that was set back in between, what was earlier can seem later.
            and (push.batch.opened_at <= drift.found_at or self.world.drawn.clock_jumps)
            for push in self.world.books.pushes.values()
        )


def _most(recipe: Mapping[int, int], store: Store, available: Mapping[int, Mapping[int, int]]) -> int:
    """How many a store could sell of something, if no other sold any: made in one warehouse each, and not beyond the sum."""
    there = [available[warehouse] for warehouse in store.warehouses]
    together = min(max(0, sum(units[sku] for units in there)) // each for sku, each in recipe.items())
    if sum(recipe.values()) == 1:
        return together
    return min(together, sum(min(max(0, units[sku]) // each for sku, each in recipe.items()) for units in there))


def _unions(sets: Iterable[frozenset[int]]) -> set[frozenset[int]]:
    """The sets and whatever they make together."""
    unions: set[frozenset[int]] = set()
    for one in sets:
        unions |= {one, *(one | other for other in unions)}
    return unions


def _is_doubtful(push: PushRow) -> bool:
    """Whether a write had no answer, or was refused the second time."""
    return push.batch.state == "unresolved" or (
        push.state != "confirmed" and push.batch.sent_at != push.batch.opened_at
    )
