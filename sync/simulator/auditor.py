"""The auditor: judges a run by the truth of the stores and by the books alone, with none of the engine's arithmetic.

It looks at what every commit changed (`look`), which finds what later repairs would hide, and at everything when the world
has come to rest (`audit_end`). The first violation ends the run; it is named after the invariant it breaks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sync.simulator.memory.rows import EventRow, LevelRow, LineRow, PushRow, StockRow
from sync.simulator.stores import Order, Store

if TYPE_CHECKING:
    from sync.simulator.world import World

#: Calls that one channel may get in a minute, however bad the day: workers that spin are found by this.
CALLS_PER_MINUTE = 240

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


@dataclass(slots=True)
class Auditor:
    """Watches one run."""

    world: World
    violations: list[Violation] = field(default_factory=list)
    accounts: dict[int, Account] = field(default_factory=lambda: defaultdict(Account))
    #: Units taken by order lines, by stock level, as the auditor has last seen each line.
    taken: dict[Any, dict[int, int]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
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
        for row in stock.values():
            self._stock(row)
        for listing_level in levels.values():
            self._level(listing_level)
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
        for lines in books.orders.values():
            for line in lines.values():
                self._line(line, None)
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
        lacking = max(0, row.committed + row.held - row.on_hand)
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

    def _level(self, level: LevelRow) -> None:
        if level.held:
            row = self.world.books.stock[level.held_at or 0]
            held = sum(other.held for other in self.world.books.levels.values() if other.held_at == row.id)
            if held != row.held:
                self.blame("held sum", f"stock level {row.id} holds {row.held}, its listing levels {held}")
        if level.open_push is not None and level.open_push.state != "open":
            self.blame("one open push", f"level {level.id}: push {level.open_push.id} is {level.open_push.state}")

    def _event(self, event: EventRow, before: tuple[Any, ...]) -> None:
        if before[_STATE] != "pending":
            self.blame("event settled once", f"event {event.envelope.event_id} was settled before")

    # --- by the truth, at all times ---------------------------------------------------------------------------------

    def offered_too_much(self, sku: int, excess: int) -> None:
        """Stores offer more units than there are."""
        if self.world.setting.policy == "split" and self.world.is_within_promise and not self.violations:
            shelf = self.world.shelves[sku]
            available = sum(row.available for row in self.world.books.stock.values() if row.sku_id == sku)
            offers = [
                f"{item} {units}"
                for store in self.world.stores
                for (item, _), units in store.counters.items()
                if units and sku in store.by_item[item].recipe
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
        world, books = self.world, self.world.books
        if world.setting.bundles:
            return self._unpublished_bundles() if world.setting.policy == "shared" else ""
        for sku in world.shelves:
            available = sum(row.available for row in books.stock.values() if row.sku_id == sku)
            levels = [level for level in books.levels.values() if level.listing.sku_id == sku]
            if world.setting.policy == "shared":
                shown = max(0, available - world.setting.buffer)
                wrong = [level.desired for level in levels if level.desired != shown]
                if wrong:
                    return f"SKU {sku}: {available} available, a store should show {wrong[0]}"
            elif world.setting.policy == "split" and not world.setting.buffer:
                offered = sum(level.desired or 0 for level in levels)
                if offered != max(0, available):
                    return f"SKU {sku}: {available} available, {offered} offered"
        return ""

    def _unpublished_bundles(self) -> str:
        books = self.world.books
        available = {row.sku_id: row.available for row in books.stock.values()}
        for level in books.levels.values():
            recipe = self.world.recipes[level.listing.sku_id or 0]
            packed = min(max(0, available[sku]) // units for sku, units in recipe.items())
            packed = max(0, packed - self.world.setting.buffer)
            if level.desired != packed:
                return f"level {level.id}: {packed} can be packed, it should show {level.desired}"
        return ""

    def audit_end(self) -> None:
        """All is at rest: everything must be right."""
        if self.violations:
            return
        self._inbox()
        self._orders()
        self._pool()
        self._keys()
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
            for order in store.orders.values():
                for line in order.lines:
                    row = books.orders.get((store.channel_id, order.order_id), {}).get(
                        (store.channel_id, order.order_id, line.line_id)
                    )
                    truth = _units_taken(order, line)
                    known = row.applied.taken if row is not None else 0
                    if truth != known:
                        self.blame("orders", f"{line.line_id} has taken {truth} units, the books say {known}")
                        return

    def _pool(self) -> None:
        """What the books say is available is what is on the shelf; sold beyond it is declared."""
        world, books = self.world, self.world.books
        ambiguous = sum(1 for drift in books.drifts if drift.is_ambiguous)
        late = self._late_writes()
        by_hand, masked = any(store.edited for store in world.stores), world.hidden
        for sku, shelf in world.shelves.items():
            available = sum(row.available for row in books.stock.values() if row.sku_id == sku)
            # A unit taken out by hand just after a late raise leaves the number that was expected: no reading shows it.
            raised = sum(
                push.to_quantity - push.from_quantity for push in late if by_hand and push.level.listing.sku_id == sku
            )
            hidden = max(0, raised) + masked[sku]
            is_flagged = ambiguous or by_hand or late or world.setting.clock_ahead
            if available != shelf.left and not (is_flagged and available <= shelf.left + hidden):
                self.blame("pool", f"SKU {sku}: {available} available, {shelf.left} on the shelf")
        undeclared = self.undeclared_units()
        if undeclared:
            self.blame("undeclared", f"{undeclared} units were sold beyond stock without a shortage")
        if world.setting.policy == "split" and world.is_within_promise:
            oversold = sum(shelf.oversold for shelf in world.shelves.values())
            if oversold:
                self.blame("split", f"{oversold} units were sold beyond stock")

    def undeclared_units(self) -> int:
        """Units sold beyond stock of which no shortage tells."""
        books, hidden = self.world.books, self.world.hidden
        undeclared = 0
        for sku, shelf in self.world.shelves.items():
            shortages = [shortage for row in books.stock.values() if row.sku_id == sku for shortage in row.shortages]
            still_open = sum(shortage.quantity - shortage.covered for shortage in shortages)
            declared = sum(shortage.quantity for shortage in shortages)
            lacking = max(0, -shelf.left)
            undeclared += max(
                0, lacking - still_open - hidden[sku], shelf.oversold - shelf.returned - declared - hidden[sku]
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

    def doubtful_lowers(self, level_id: int, at: datetime) -> list[int]:
        """By how much writes would have lowered a level that were refused about that time: a loss that nobody had seen yet
        may have been what made them come too late.
        """
        return [
            push.from_quantity - push.to_quantity
            for push in self.world.books.pushes.values()
            if push.level.id == level_id
            and push.state == "rejected"
            and push.from_quantity > push.to_quantity
            and push.batch.opened_at - DOUBT <= at
            and (push.settled_at is None or at <= push.settled_at + DOUBT)
        ]

    def _may_be_misread(self, push: PushRow) -> bool:
        """A write of unknown outcome looks like a change by hand of the same size."""
        return push.batch.state == "unresolved"

    def _rates(self) -> None:
        """Repairs are rare, and nobody is called without end: what heals by itself must not hide what is broken."""
        world = self.world
        for connector in world.connectors.values():
            minutes = Counter(int(at // 60) for at in connector.calls)
            if minutes and max(minutes.values()) > CALLS_PER_MINUTE:
                self.blame("calls", f"{max(minutes.values())} calls to a store in a minute")
        by_hand = any(store.edited for store in world.stores)
        drifts = [drift for drift in world.books.drifts if not drift.is_ambiguous]
        if drifts and not by_hand and not self._late_writes() and not world.setting.clock_ahead:
            drift = drifts[0]
            self.blame(
                "repairs", f"level {drift.level_id}: {drift.expected} expected, {drift.actual} found, {drift.action}"
            )


def _units_taken(order: Order, line: Any) -> int:
    return int(line.ordered - line.removed - line.put_back(order.refunds))
