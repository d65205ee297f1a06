"""One run: stores, shoppers, workers and what happens to them, on one thread, from one seed.

1. *Opening*: the engine brings its first numbers into the stores, undisturbed.
2. *Faults*: shoppers come, and everything goes wrong as often as the seed has drawn it. Safety is judged all along.
3. *Healed*: everything works again and every channel is reconciled twice; all must come to rest in time, with every
   number right. What arrives after that must change nothing.
"""

from __future__ import annotations

import random
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import ClassVar

from django.db import OperationalError

from channels import protocol
from channels.protocol import OrderState, Restock
from locations.routing import Routing
from sync import apply, check, outage, publish, push, reconcile
from sync.ports import ChannelRef, Engine
from sync.residue import sums
from sync.simulator import faults as swarm
from sync.simulator.auditor import Auditor
from sync.simulator.books import SimulatedBooks, WatchedBooks
from sync.simulator.faults import Faults, Window
from sync.simulator.memory.rows import ListingRow, PushRow
from sync.simulator.scheduler import EPOCH, Killed, Scheduler, Task
from sync.simulator.stores import Article, Order, OrderLine, Shelf, Store, Told
from sync.simulator.wire import StoreConnector, Wire
from synctec.lib import failpoints, ids
from synctec.lib.clock import READ_AGAIN_SECONDS
from synctec.lib.redlock import TTL_MS

Where = tuple[int, int]  # SKU, and a warehouse or a site

KIND = "simulated"
MERCHANT = 1
#: When the first shopper may come (seconds): by then the opening numbers are shown.
OPENING_SECONDS = 20.0
SHOPPING_SECONDS = 300.0
SWEEP_SECONDS = 3.0
#: Between two reconciliations of a channel, while things go wrong.
RECONCILE_SECONDS = 60.0
#: After everything is healed all must be at rest within this.
CONVERGE_SECONDS = 300.0
#: A staying worker's pauses, as in production (`sync.tasks`).
GATHER_SECONDS = 0.02
PUSH_EVERY_SECONDS = 0.15
BELL_SECONDS = 5.0
#: After so long a row that its channel has refused is tried again.
REFUSED_SECONDS = push.REFUSED_PAUSE.total_seconds()
#: How long a store remembers a key: as Shopify does.
KEYS_KEPT_SECONDS = 86_400.0
LOCK_SECONDS = TTL_MS / 1000
#: So long a task waits for what others have locked, when it is patient.
PATIENT_SECONDS = 0.02
COMMIT_SECONDS = 0.002
AUDIT_LAG = timedelta(seconds=25)
POLL_OVERLAP = timedelta(seconds=60)
REAUTHORIZED_SECONDS = 20.0
#: What staff could not save they save again.
TRIED_AGAIN_SECONDS = 2.0
POOLS = {"apply": 3, "push": 3, "check": 2}
POLICIES = ("shared", "guard", "split")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated; with a seed it is a run, to the last event."""

    policy: str = "guard"
    faults: str = "full"
    stores: int = 10
    shoppers: int = 100
    skus: int = 2
    bundles: int = 0
    #: Threshold of `guard`; None: as measured.
    guard_units: int | None = None
    #: Units that every channel keeps back.
    buffer: int = 0
    #: None: one, and with faults as the seed draws it.
    warehouses: int | None = None
    #: Outside the promise: a merchant raises counters by hand; processes sleep longer than a request can be valid; the
    #: database's clock is set ahead.
    gains_by_hand: bool = False
    long_stops: bool = False
    clock_ahead: bool = False
    shopping_seconds: float = SHOPPING_SECONDS


@dataclass(slots=True)
class Attempt:
    """A shopper who wants something at a time, and what becomes of the order if there is one."""

    at: float
    store: int
    wanted: list[tuple[int, int]]  # (article, units)
    fates: list[tuple[float, str, float]]  # (seconds later, what, how much of it)


@dataclass(slots=True)
class Pool:
    """Workers of one kind, with the bells that wake them."""

    name: str
    jobs: deque[tuple[str, int]] = field(default_factory=deque)
    idle: deque[Task] = field(default_factory=deque)
    workers: list[Task] = field(default_factory=list)
    #: Bells that ring, and until when: a worker that dies cannot silence its own.
    ringing: dict[tuple[str, int], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loss:
    """Units that somebody took out of a level by hand, and the write that was open then."""

    at: datetime
    level_id: int
    units: int
    recipe: Mapping[int, int]
    push: PushRow | None


class Granted:
    """Keys that a task holds."""

    is_degraded = False

    def __init__(self, keys: Set[str]) -> None:
        self.keys = keys


class World:
    """Everything there is in one run."""

    #: What a run is made of, beside its books; the second tier has others (`sync.simulator.postgres`).
    scheduler_type: ClassVar[type[Scheduler]] = Scheduler
    auditor_type: ClassVar[type[Auditor]] = Auditor

    def __init__(self, setting: Setting, seed: int, *, story: list[str] | None = None) -> None:
        self.setting = setting
        self.seed = seed
        self.story = story
        self.scheduler = self.scheduler_type()
        self.people = random.Random(f"{seed}:people")
        self.staff = random.Random(f"{seed}:staff")
        self.luck = random.Random(f"{seed}:luck")
        self.drawn = swarm.draw(
            setting.faults,
            random.Random(f"{seed}:faults"),
            seconds=setting.shopping_seconds,
            stores=setting.stores,
            gains_by_hand=setting.gains_by_hand,
            long_stops=setting.long_stops,
            clock_ahead=setting.clock_ahead,
        )
        self.faults = Faults()
        self.is_healed = False
        self.kills = 0
        self.unrest = ""
        self.converged_seconds = 0.0
        self.hub_is_down = False
        self.database_is_down = False
        #: Locks: key -> (token, until when), as the lock nodes know them and as they really are held.
        self.locked: dict[str, tuple[int, float]] = {}
        self.holders: dict[str, tuple[int, float]] = {}
        self._tokens = 0
        self._ids = 0
        #: Warehouses that hang together by the stores that draw on them; and by SKU and place among these, what is there.
        self.sites: list[frozenset[int]] = []
        self.shelves: dict[Where, Shelf] = {}
        #: When the kill switch was put on, and off again.
        self.stopped: list[tuple[datetime, datetime | None]] = []
        self._losses: list[Loss] = []
        #: Writes of its SKU that had not taken effect when a listing was mapped again; and raises that were to be written
        #: then: by listing level to what, and behind which push.
        self._overtaken: set[int] = set()
        self._still_wished: dict[int, tuple[int, int]] = {}
        #: What we were told of each order, by its id.
        self._heard: dict[str, list[OrderState]] = defaultdict(list)
        self.stores: list[Store] = []
        self.wire = Wire(self.scheduler, random.Random(f"{seed}:wire"), self.faults, self, self.tell)
        self.connectors: dict[int, StoreConnector] = {}
        self.refs: dict[int, ChannelRef] = {}
        #: By how much the database's clock is ahead of the true time (seconds), and how workers have read it: by how much it
        #: was ahead then, and when that was.
        self.clock_ahead = 0.0
        self._clocks_read: dict[Task | None, tuple[float, float]] = {}
        self.books = self._new_books()
        self.engine = Engine(
            books=self.books,
            channels=self,
            locks=self,
            rng=random.Random(f"{seed}:engine"),
            now=self.workers_clock if self.drawn.clock_jumps else self.scheduler.clock,
            audit_lag=AUDIT_LAG,
            poll_overlap=POLL_OVERLAP,
        )
        self.pools = {name: Pool(name) for name in POOLS}
        self.passes: dict[int, int] = {}
        self.auditor = self.auditor_type(self)
        self._fill()

    # --- what there is ------------------------------------------------------------------------------------------

    def _new_books(self) -> SimulatedBooks:
        return WatchedBooks(self)

    def _fill(self) -> None:
        """Stock, stores and the books about them."""
        setting = self.setting
        places = random.Random(f"{self.seed}:places")
        warehouses = setting.warehouses or self.drawn.warehouses
        matrix = _matrix(setting.stores, warehouses, places)
        routing = places.choice(list(Routing)) if warehouses > 1 else Routing.PRIORITY
        self.sites = _sites(matrix)
        stock = _stock(setting, warehouses, places)
        for (sku, warehouse), units in stock.items():
            site = next(number for number, site in enumerate(self.sites) if warehouse in site)
            shelf = self.shelves.setdefault((sku, site), Shelf(0, 0))
            shelf.initial += units
            shelf.left += units
        skus = list(range(1, setting.skus + 1))
        recipes = {sku: {sku: 1} for sku in skus}
        for place in range(setting.bundles):
            parts = self.people.sample(skus, min(len(skus), self.people.randint(1, 2)))
            recipes[setting.skus + 1 + place] = {sku: self.people.randint(1, 2) for sku in sorted(parts)}
        self.recipes = recipes
        self.families = _families(recipes)
        errors = random.Random(f"{self.seed}:clocks")
        for number in range(setting.stores):
            articles = [
                Article(f"v{number}-{sku}", f"i{number}-{sku}", sku, recipe, sku > setting.skus)
                for sku, recipe in recipes.items()
            ]
            site = next(place for place, site in enumerate(self.sites) if matrix[number][0] in site)
            store = Store(
                number=number,
                channel_id=number + 1,
                shelves={sku: shelf for (sku, where), shelf in self.shelves.items() if where == site},
                warehouses=matrix[number],
                site=site,
                articles=articles,
                clock=self._clock,
                epoch=EPOCH,
                send=self.wire.send,
                index_lag=self._index_lag,
                offers_too_much=partial(self._offers_too_much, site),
                tell=self._counter_teller(number),
                clock_error=errors.uniform(-1, 1) * self.drawn.store_clock_error,
                keeps_refusals=self.drawn.keeps_refusals,
                hides_refusals=self.drawn.hides_refusals,
                remembers=KEYS_KEPT_SECONDS,
                replays_stale=self.drawn.replays_stale,
                orders_per_page=self.drawn.orders_per_page,
            )
            for article in articles:
                store.open(article, f"l{number}", 0)
            self.stores.append(store)
            self.connectors[store.channel_id] = StoreConnector(self.wire, store, self.step)
            self.refs[store.channel_id] = ChannelRef(store.channel_id, MERCHANT, KIND)
        self.books.open(setting, stock, recipes, self.stores, routing)

    def _clock(self) -> float:
        return self.scheduler.time

    def clock(self) -> datetime:
        """The database's clock."""
        return self.scheduler.moment(self.scheduler.time + self.clock_ahead)

    def workers_clock(self) -> datetime:
        """The database's clock as the running worker knows it: as it last read it, which may be a while ago."""
        task, now = self.scheduler.running, self.scheduler.time
        ahead, read_at = self._clocks_read.get(task, (0.0, -READ_AGAIN_SECONDS - 1.0))
        if now - read_at > READ_AGAIN_SECONDS:
            if self.database_is_down:
                raise OperationalError("the database is away")
            ahead, _ = self._clocks_read[task] = self.clock_ahead, now
        return self.scheduler.moment(now + ahead)

    def _index_lag(self) -> float:
        return self.luck.uniform(0, self.faults.list_lag) if self.faults.list_lag else 0.0

    def _counter_teller(self, number: int) -> Callable[[str], object] | None:
        if self.story is None:
            return None
        return lambda says: self.tell("counter", number, lambda: says)

    def _offers_too_much(self, site: int, sku: int, excess: int) -> None:
        self.auditor.offered_too_much((sku, site), excess)

    # --- the run ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the opening to rest. What is wrong is in `auditor.violations`."""
        try:
            self.open()
            self._spoil()
            self._invite()
            lasting = self.drawn.last(refused_for=REFUSED_SECONDS)
            self.scheduler.run(OPENING_SECONDS + max(self.setting.shopping_seconds, lasting))
            self.rest()
        except Exception as error:
            self.auditor.blame("crash", f"{type(error).__name__}: {error}")
            if self.story is not None:
                raise
        finally:
            self.close()

    def open(self) -> None:
        """Start the workers, and let them bring the first numbers into the stores."""
        failpoints.handler = self.passed
        ids.source = self.new_id
        for pool in self.pools.values():
            for _ in range(POOLS[pool.name]):
                self._hire(pool)
        self.scheduler.after(SWEEP_SECONDS, "sweep", self._sweep)
        self.ring("publish", MERCHANT)
        self.scheduler.run(OPENING_SECONDS)

    def rest(self) -> None:
        """Heal everything, wait until all is at rest, and audit it; then let what is very late arrive, and audit it again."""
        self._heal()
        self._converge()
        if self.auditor.is_clean:
            self.auditor.audit_end()
        if self.auditor.is_clean and self.wire.very_late:
            for deliver in self.wire.very_late:
                deliver()
            self.wire.very_late.clear()
            self._converge()
            self.auditor.audit_end()

    def close(self) -> None:
        """End every task; the process is free for another world."""
        failpoints.handler = None
        ids.source = None
        for pool in self.pools.values():
            for task in pool.workers:
                task.discard()

    def _spoil(self) -> None:
        """From now on things go wrong."""
        self.faults = self.wire.faults = self.drawn
        self.wire.began = self.scheduler.time
        start, at = self.scheduler.time, self.scheduler.at
        for moment in self.drawn.flushes:
            at(start + moment, "flush", self._flush)
        for window in self.drawn.database_down:
            at(start + window.start, "database down", self._set_database, True)
            at(start + window.start + window.seconds, "database up", self._set_database, False)
        for window in self.drawn.hub_down:
            at(start + window.start, "hub down", self._set_hub, True)
            at(start + window.start + window.seconds, "hub up", self._set_hub, False)
        for jump in self.drawn.clock_jumps:
            at(start + jump.at, "clock set", self._set_clock, jump.seconds)
        for window in self.drawn.refusals:
            at(start + window.start, "refused", self._set_refused, window.which, True)
            at(start + window.start + window.seconds, "taken again", self._set_refused, window.which, False)
        for window in self.drawn.stops:
            at(start + window.start, "stop", self._stop_writing)
            at(start + window.start + window.seconds, "go on", self._write_again)
        for window in self.drawn.unmapped:
            at(start + window.start, "unmapped", self._unmap, window)
            at(start + window.start + window.seconds, "mapped again", self._map_again, window)
        for window in self.drawn.variants_deleted:
            at(start + window.start, "variant deleted", self._delete_variant, window)
            at(start + window.start + window.seconds, "deletion known", self._know_deleted, window)
        if self.setting.faults != "none":
            for store in self.stores:
                first = self.luck.uniform(0, RECONCILE_SECONDS)
                self.scheduler.after(first, "reconcile", self._reconcile_again, store.channel_id)

    def _invite(self) -> None:
        """Shoppers and merchants, the same ones under every policy and all faults of a seed."""
        for attempt in self._attempts():
            self.scheduler.at(OPENING_SECONDS + attempt.at, "shopper", self._shop, attempt)
        seconds = self.setting.shopping_seconds
        for change, times in ((-1, self.drawn.losses_by_hand), (1, self.drawn.gains_by_hand)):
            for _ in range(times):
                moment, place = self.people.uniform(0, seconds), self.people.random()
                self.scheduler.at(OPENING_SECONDS + moment, "merchant", self._edit_by_hand, place, change)

    def _attempts(self) -> list[Attempt]:
        people, setting = self.people, self.setting
        attempts = []
        for _ in range(setting.shoppers):
            at = people.uniform(0, setting.shopping_seconds)
            store = people.randrange(setting.stores)
            lines = 2 if people.random() < 0.05 else 1
            articles = people.sample(range(len(self.recipes)), min(lines, len(self.recipes)))
            wanted = [(article, people.choices((1, 2, 3), (0.92, 0.06, 0.02))[0]) for article in articles]
            if people.random() < 0.03:
                wanted.append((articles[0], 1))  # the same once more, in a line of its own
            attempts.append(Attempt(at, store, wanted, self._fates()))
        return sorted(attempts, key=lambda attempt: attempt.at)

    def _fates(self) -> list[tuple[float, str, float]]:
        people, drawn = self.people, self.drawn
        fates = []
        for share, what in (
            (drawn.shipped, "ship"),
            (drawn.edited, "edit"),
            (drawn.refunded, "refund"),
            (drawn.cancelled, "cancel"),
        ):
            happens, later, measure = people.random() < share, people.expovariate(1 / 40), people.random()
            if happens:
                fates.append((later, what, measure))
            # Not where variants are: what a deleted order moved unheard is seen at its level alone.
            if happens and what == "cancel" and self.staff.random() < drawn.deleted and not drawn.variants_deleted:
                fates.append((later + self.staff.expovariate(1 / 40), "delete", measure))
        return fates

    def _shop(self, attempt: Attempt) -> None:
        store = self.stores[attempt.store]
        place = f"l{store.number}"
        order = store.buy([(store.articles[article], place, units) for article, units in attempt.wanted])
        self.tell("sold" if order else "sold out", store.number, lambda: f"{attempt.wanted} {order and order.order_id}")
        if order is not None:
            for later, what, measure in attempt.fates:
                self.scheduler.after(later, what, self._befall, store, order, what, measure)

    def _befall(self, store: Store, order: Order, what: str, measure: float) -> None:
        line: OrderLine = order.lines[int(measure * 100) % len(order.lines)]
        self.tell(what, store.number, lambda: f"{order.order_id} {measure:.2f}")
        if what == "ship":
            store.ship(order)
        elif what == "cancel":
            store.cancel(order, restock=measure < 0.7)
        elif what == "delete":
            store.delete(order)
        elif what == "edit":
            self._edit(store, order, line, measure)
        else:
            kinds = (Restock.CANCEL, Restock.RETURN, Restock.NONE)
            store.refund(order, line, 1, kinds[int(measure * len(kinds))])

    def _edit(self, store: Store, order: Order, line: OrderLine, measure: float) -> None:
        if measure < 0.2:
            article = store.articles[int(measure * 1000) % len(store.articles)]
            store.add_line(order, article, f"l{store.number}", 1)
        else:
            store.edit(order, line, 1 if measure < 0.4 else -1)

    def _edit_by_hand(self, place: float, change: int) -> None:
        store = self.stores[int(place * len(self.stores))]
        article = store.articles[int(place * 1000) % self.setting.skus]
        self.tell("by hand", store.number, lambda: f"{article.inventory_item_id} {change:+d}")
        where = (article.inventory_item_id, f"l{store.number}")
        level = self.books.level_of(store.channel_id, *where)
        before = store.counters.get(where, 0)
        store.edit_by_hand(where, change)
        lost = before - store.counters.get(where, 0)
        if lost > 0:
            self._losses.append(Loss(self.clock(), level.id, lost, article.recipe, level.open_push))

    def _listing_in(self, window: Window) -> tuple[Store, Article, ListingRow]:
        """Which listing such a window is about."""
        store = self.stores[window.which]
        article = store.articles[int(window.start * 1000) % len(store.articles)]
        level = self.books.level_of(store.channel_id, article.inventory_item_id, f"l{store.number}")
        return store, article, level.listing

    def _unmap(self, window: Window) -> None:
        """Staff map a listing to no SKU; while that fails they try again."""
        store, article, listing = self._listing_in(window)
        if self.is_healed or listing.sku_id is None:
            return
        if self._configure(lambda: self.books.map_listing(listing.id, None)):
            self.tell("unmapped", store.number, lambda: article.inventory_item_id)
            store.unmap(article, self._unknown(store, article))
        else:
            self.scheduler.after(TRIED_AGAIN_SECONDS, "unmapped", self._unmap, window)

    def _map_again(self, window: Window) -> None:
        store, article, listing = self._listing_in(window)
        if listing.sku_id is not None:
            return
        if self._configure(lambda: self.books.map_listing(listing.id, article.sku_id)):
            self.tell("mapped again", store.number, lambda: article.inventory_item_id)
            store.map_again(article)
            self._note_overtaken(article)
            self.ring("publish", MERCHANT)
            self.ring("apply", MERCHANT)
        else:
            self.scheduler.after(TRIED_AGAIN_SECONDS, "mapped again", self._map_again, window)

    def _note_overtaken(self, article: Article) -> None:
        effects = {key for store in self.stores for key in store.effects}
        newest = max(self.books.pushes, default=0)
        related = {sku for sku, recipe in self.recipes.items() if recipe.keys() & article.recipe.keys()}
        self._overtaken |= {
            write.id
            for write in self.books.pushes.values()
            if write.level.listing.sku_id in related
            and write.state != "confirmed"
            and str(write.batch.id) not in effects
        }
        for level in self.books.levels.values():
            if level.listing.sku_id in related and level.desired is not None and level.desired > level.reported:
                self._still_wished[level.id] = level.desired, newest

    def _delete_variant(self, window: Window) -> None:
        store, article, _ = self._listing_in(window)
        self.tell("variant deleted", store.number, lambda: article.inventory_item_id)
        store.delete_variant(article, self._lost(store, article))

    def _lost(self, store: Store, article: Article) -> int:
        """Units of an article that somebody's hand took out of its counter, and that are not booked yet."""
        level = self.books.level_of(store.channel_id, article.inventory_item_id, f"l{store.number}")
        lost = sum(loss.units for loss in self._losses if loss.level_id == level.id)
        for drift in self.books.drifts:
            if drift.level_id == level.id and drift.action == "adopted":
                lost = max(0, lost - max(0, drift.expected - drift.actual))
        return lost

    def _unknown(self, store: Store, article: Article) -> int:
        """Units of an article that its store has sold, or lost by somebody's hand, and that are not booked yet."""
        unknown = self._lost(store, article)
        for order in (*store.orders.values(), *store.deleted.values()):
            known = self.books.orders.get((store.channel_id, order.order_id), {})
            for line in order.lines:
                if line.article is article:
                    row = known.get((store.channel_id, order.order_id, line.line_id))
                    unknown += max(0, line.taken(order.refunds) - (row.applied.taken if row is not None else 0))
        return unknown

    def _know_deleted(self, window: Window) -> None:
        """A message, or the daily reading of the catalogue, has told of it."""
        store, article, listing = self._listing_in(window)
        if listing.deleted_at is not None:
            return
        if self._configure(lambda: self.books.delete_listing(listing.id)):
            self.tell("deletion known", store.number, lambda: article.inventory_item_id)
            self.ring("publish", MERCHANT)
        else:
            self.scheduler.after(TRIED_AGAIN_SECONDS, "deletion known", self._know_deleted, window)

    def _stop_writing(self) -> None:
        """The kill switch; while that fails it is tried again."""
        if self.is_healed or self.stopped:
            return
        if self._configure(lambda: self.books.stop_writing(MERCHANT, is_on=True)):
            self.tell("stopped writing", 0, lambda: "")
            self.stopped.append((self.clock(), None))
        else:
            self.scheduler.after(TRIED_AGAIN_SECONDS, "stop", self._stop_writing)

    def _write_again(self) -> None:
        if not self.stopped or self.stopped[-1][1] is not None:
            return
        began_at, _ = self.stopped[-1]
        if self._configure(lambda: self.books.stop_writing(MERCHANT, is_on=False)):
            self.tell("writes again", 0, lambda: "")
            self.stopped[-1] = (began_at, self.clock())
            for channel_id in self.connectors:
                self.ring("reconcile", channel_id)
        else:
            self.scheduler.after(TRIED_AGAIN_SECONDS, "go on", self._write_again)

    def _configure(self, change: Callable[[], object]) -> bool:
        """Whether a change of the configuration was made: it takes the web server and the database."""
        if self.hub_is_down:
            return False
        try:
            change()
        except OperationalError:
            return False
        return True

    def _heal(self) -> None:
        """Everything works from now on; what is under way still arrives."""
        self.is_healed = True
        self.faults = self.wire.faults = self.drawn.healed()
        self._set_database(False)
        self._set_hub(False)
        self._write_again()
        for window in self.drawn.unmapped:
            self._map_again(window)
        for window in self.drawn.variants_deleted:
            self._know_deleted(window)
        self.tell("healed", 0, lambda: "")
        self.passes = dict.fromkeys(self.connectors, 0)

    def _converge(self) -> None:
        """Reconcile everything twice and wait for rest."""
        scheduler = self.scheduler
        began = scheduler.time
        deadline = began + self._refused_seconds() + CONVERGE_SECONDS
        self.passes = dict.fromkeys(self.connectors, 0)
        asked = began
        while scheduler.time < deadline and self.auditor.is_clean:
            fewest = min(self.passes.values())
            if fewest < 2 and scheduler.time >= asked:
                for channel_id, passes in self.passes.items():
                    if passes == fewest:
                        self.ring("reconcile", channel_id)
                asked = scheduler.time + 30.0
            self.unrest = self.auditor.unrest()
            if not self.unrest:
                self.converged_seconds = max(0.0, self.auditor.latest_commit - began)
                return
            scheduler.run(scheduler.time + 5.0)
        if self.auditor.is_clean:
            self.auditor.blame("convergence", self.unrest or "never at rest")

    def _refused_seconds(self) -> float:
        """How long levels are left alone yet because their store has refused a write, which may have been told late. What is
        left alone for longer than a refusal is reason for is not waited for.
        """
        now = self.clock()
        due = [level.next_push_at for level in self.books.levels.values() if level.desired not in (None, level.shown)]
        return min(REFUSED_SECONDS, max(0.0, (max(due) - now).total_seconds())) if due else 0.0

    def place_of(self, sku: int, level_id: int) -> Where:
        """Where the units of a SKU are that a listing level sells."""
        return sku, self.stores[self.books.levels[level_id].channel_id - 1].site

    @property
    def hidden(self) -> Counter[Where]:
        """By SKU and site, units taken out by hand that no reading shows: under a write of the same size whose outcome nobody
        ever told, or that was refused the second time, or where a raise took effect after its store had refused it. And units
        of deleted orders that nobody told us of: of a bundle, which has no stock to take a loss from, or under such a write.
        """
        hidden: Counter[Where] = Counter()
        late = self.auditor.late_raises() if self._losses else Counter()
        for loss in self._losses:
            units = min(loss.units, late[loss.level_id])
            push = None if loss.push is None else self.books.pushes[loss.push.id]
            if push is not None and push.batch.state == "unresolved":
                is_alike = self._is_as_much_as(loss, [abs(push.to_quantity - push.from_quantity)])
                units = loss.units if is_alike else units
            if self._looks_like_lowers(loss):
                units = loss.units
            if self.books.levels[loss.level_id].listing.deleted_at is not None:
                units = loss.units  # nobody can read the level any more
            for sku, quantity in loss.recipe.items() if units else ():
                hidden[self.place_of(sku, loss.level_id)] += units * quantity
        for level_id, line, units in self.untold():
            is_gone = self.books.levels[level_id].listing.deleted_at is not None
            if units > 0 and (line.article.is_bundle or is_gone or self.auditor.is_in_doubt(level_id)):
                for sku, quantity in line.article.recipe.items():
                    hidden[self.place_of(sku, level_id)] += units * quantity
        return hidden

    def untold(self) -> list[tuple[int, OrderLine, int]]:
        """Lines of deleted orders of whose end nobody has told us, nor will: by listing level, the units that they have taken
        beyond what we know.
        """
        untold = []
        for store in self.stores:
            for order in store.deleted.values():
                if not self.was_told(store, order):
                    known = self.books.orders.get((store.channel_id, order.order_id), {})
                    for line in order.lines:
                        level = self.books.level_of(store.channel_id, line.article.inventory_item_id, line.location_id)
                        row = known.get((store.channel_id, order.order_id, line.line_id))
                        taken = row.applied.taken if row is not None else 0
                        untold.append((level.id, line, line.taken(order.refunds) - taken))
        return untold

    def was_told(self, store: Store, order: Order) -> bool:
        """Whether the newest state of the order has reached us, and no other under the same version."""
        newest = [state for state in self._heard[order.order_id] if state.version == order.version]
        truth = store.state(order)
        return bool(newest) and all(replace(state, read_at=None) == truth for state in newest)

    def promises_about(self, place: Where) -> bool:
        """Whether `split` promises that none of a SKU are oversold at a site in this run."""
        drawn, ahead = self.drawn, self.setting.clock_ahead
        return not drawn.gains_by_hand and not drawn.stopped_long and not ahead and not self.hidden[place]

    def granted_twice(self, place: Where) -> int:
        """Units of a SKU at a site by which writes raised counters after a listing was mapped again, whose units they had
        given to others.
        """
        sku, site = place
        done = {key for store in self.stores if store.site == site for key in store.effects}
        return sum(
            self.recipes[push.level.listing.sku_id].get(sku, 0) * max(0, push.to_quantity - push.from_quantity)
            for push in self.books.pushes.values()
            if str(push.batch.id) in done and push.level.listing.sku_id is not None and self._is_overtaken(push)
        )

    def _is_overtaken(self, push: PushRow) -> bool:
        wished, newest = self._still_wished.get(push.level.id, (0, 0))
        return push.id in self._overtaken or (push.id > newest and push.to_quantity <= wished)

    def _is_as_much_as(self, loss: Loss, writes: Sequence[int]) -> bool:
        """Whether the loss, alone or with others of its level, is as much as some of the writes: a reading cannot tell."""
        return not sums(writes).isdisjoint(self._with_others(loss))

    def _looks_like_lowers(self, loss: Loss) -> bool:
        return any(self.auditor.looks_like_lowers(units, loss.level_id, loss.at) for units in self._with_others(loss))

    def _with_others(self, loss: Loss) -> set[int]:
        """Its units, alone and together with others that the level lost."""
        others = [other.units for other in self._losses if other is not loss and other.level_id == loss.level_id]
        return {loss.units, *(loss.units + more for more in sums(others))}

    # --- processes ------------------------------------------------------------------------------------------------

    def _hire(self, pool: Pool) -> None:
        task = self.scheduler.spawn(pool.name, lambda: self._work(pool))
        pool.workers.append(task)

    def _work(self, pool: Pool) -> None:
        """A worker's life."""
        me = self.scheduler.running
        assert me is not None
        try:
            while True:
                while not pool.jobs:
                    pool.idle.append(me)
                    me.wait()
                what, key = pool.jobs.popleft()
                self._do(pool, what, key)
        except Killed:
            self.kills += 1
            self.tell("killed", 0, lambda: pool.name)
            pool.workers.remove(me)
            if me in pool.idle:
                pool.idle.remove(me)
            self.scheduler.after(self.luck.uniform(0.5, 3.0), "hired", self._hire_if_up, pool)
            raise

    def _hire_if_up(self, pool: Pool) -> None:
        if self.hub_is_down:
            self.scheduler.after(1.0, "hired", self._hire_if_up, pool)
        else:
            self._hire(pool)

    def _do(self, pool: Pool, what: str, key: int) -> None:
        try:
            getattr(self, f"_{what}")(key)
        except OperationalError:
            pass  # nothing is lost: the sweep comes back to it
        except protocol.ChannelError as error:
            self._note_failure(key, error)
        pool.ringing.pop((what, key), None)

    def _note_failure(self, channel_id: int, error: protocol.ChannelError) -> None:
        try:
            outage.note_failure(self.engine, self.refs[channel_id], error)
        except OperationalError:
            pass  # neither could that be noted

    def _apply(self, merchant_id: int) -> None:
        self.pause(GATHER_SECONDS)
        while True:
            applied = apply.apply_batch(self.engine, merchant_id=merchant_id)
            if applied.dirty:
                self._publish(merchant_id)
            if applied.claimed <= applied.busy:
                return
            self.pause(GATHER_SECONDS)

    def _publish(self, merchant_id: int) -> None:
        while True:
            published = publish.publish_batch(self.engine, merchant_id=merchant_id)
            failpoints.failpoint("publish.after_commit")
            for channel_id in sorted(published.channels):
                self.ring("push", channel_id)
            if not published.skus:
                return

    def _push(self, channel_id: int) -> None:
        while True:
            done = push.push_channel(self.engine, channel=self.refs[channel_id], max_batches=1)
            if done.has_suspects:
                self.ring("check", channel_id)
            if done.confirmed:
                self.ring("publish", MERCHANT)  # a confirmed lower may free a raise
            if not done.batches or done.wait_seconds or done.unknown:
                return
            self.pause(PUSH_EVERY_SECONDS)

    def _check(self, channel_id: int) -> None:
        channel = self.refs[channel_id]
        while True:
            done = check.check_channel(self.engine, channel=channel)
            if done.needs_orders:
                reconcile.poll_orders(self.engine, channel=channel)
            if done.read:
                self.ring("publish", MERCHANT)
            if done.read == 0 or done.waiting == done.read:
                return

    def _reconcile(self, channel_id: int) -> None:
        channel = self.refs[channel_id]
        reconcile.poll_orders(self.engine, channel=channel)
        reconcile.compare_levels(self.engine, channel=channel)
        self.ring("check", channel_id)
        if self.is_healed:
            self.passes[channel_id] += 1

    def _reconcile_again(self, channel_id: int) -> None:
        if not self.is_healed:
            self.ring("reconcile", channel_id)
            self.scheduler.after(RECONCILE_SECONDS, "reconcile", self._reconcile_again, channel_id)

    def _sweep(self) -> None:
        """Look for work that no bell announced."""
        self.scheduler.after(SWEEP_SECONDS, "sweep", self._sweep)
        if self.hub_is_down or self.database_is_down:
            return
        try:
            self.books.mind_clock()
            self.books.end_doubts()
            self.books.take_up_placeable_lines()
        except OperationalError:
            return  # the next sweep is not far
        for what, key in self.books.open_work():
            self.ring(what, key)

    # --- bells, waits and ends ------------------------------------------------------------------------------------

    def ring(self, what: str, key: int) -> None:
        """Wake a worker, unless one is on its way already."""
        pool = self.pools["apply" if what in ("apply", "publish") else "push" if what == "push" else "check"]
        faults, now = self.faults, self.scheduler.time
        bell = (what, key)
        is_doubled = faults.bell_doubled and self.luck.random() < faults.bell_doubled
        if pool.ringing.get(bell, -1.0) > now and not is_doubled:
            return
        pool.ringing[bell] = now + BELL_SECONDS
        if faults.bell_lost and self.luck.random() < faults.bell_lost:
            return
        pool.jobs.append(bell)
        if pool.idle:
            self.scheduler.after(0.001, "woken", self._wake, pool)

    def _wake(self, pool: Pool) -> None:
        if pool.jobs and pool.idle:
            pool.idle.popleft().resume()

    def pause(self, seconds: float) -> None:
        """A task waits, and then may find that it is dead, or that it was asleep for long."""
        self.scheduler.sleep(seconds)
        self.step()

    def step(self) -> None:
        """A moment at which a process may end or stall."""
        faults = self.faults
        if not (faults.killed or faults.stopped or faults.stopped_long):
            return
        fate = self.luck.random()
        if fate < faults.killed:
            raise Killed
        if fate < faults.killed + faults.stopped:
            self.tell("stopped", 0, lambda: "")
            self.scheduler.sleep(self.luck.uniform(5, 120))
        elif fate < faults.killed + faults.stopped + faults.stopped_long:
            self.tell("stopped long", 0, lambda: "")
            self.scheduler.sleep(swarm.ZOMBIE_SECONDS + self.luck.uniform(10, 200))

    def passed(self, point: str) -> None:
        """The engine passes a failpoint."""
        if self.scheduler.running is None:
            return
        if self.books.is_inside:
            # A process that stalls here loses its transaction: the database ends what idles in one.
            fate = self.luck.random() if self.faults.killed or self.faults.stopped else 1.0
            if fate < self.faults.killed:
                raise Killed
            if fate < self.faults.killed + self.faults.stopped:
                raise OperationalError("terminating connection due to idle-in-transaction timeout")
            return
        self.step()

    def _flush(self) -> None:
        """FLUSHALL: bells, their messages and locks are gone."""
        self.tell("flush", 0, lambda: "")
        self.locked.clear()
        self.holders.clear()
        for pool in self.pools.values():
            pool.jobs.clear()
            pool.ringing.clear()

    def silence_next_write(self) -> None:
        """The next write to a store is not answered, and was not executed."""
        self.wire.silent_writes += 1

    def _set_database(self, is_down: bool) -> None:
        self.tell("database down" if is_down else "database up", 0, lambda: "")
        self.database_is_down = is_down
        if is_down:
            self.books.crash()

    def _set_hub(self, is_down: bool) -> None:
        """The whole machine: workers die, nothing is received, locks and bells are gone."""
        if is_down:
            for pool in self.pools.values():
                for task in list(pool.workers):
                    self.scheduler.kill(task)
            self._flush()
        self.hub_is_down = is_down

    def _set_clock(self, seconds: float) -> None:
        self.tell("clock set", int(seconds), lambda: "")
        self.clock_ahead += seconds

    def _set_refused(self, number: int, is_refused: bool) -> None:
        """A store takes no writes of one of its articles, or takes them again."""
        store = self.stores[number]
        item = store.articles[number % len(store.articles)].inventory_item_id
        self.tell("refused" if is_refused else "taken again", number, lambda: item)
        (store.refused.add if is_refused else store.refused.discard)(item)

    # --- sync.ports.Channels ----------------------------------------------------------------------------------------

    def reader(self, kind: str) -> protocol.EventReader:
        return READER

    def connector(self, channel_id: int) -> protocol.Connector:
        return self.connectors[channel_id]

    def needs_authorization(self, channel_id: int, reason: str) -> None:
        self.books.set_channel_state(channel_id, "needs_auth")
        self.scheduler.after(REAUTHORIZED_SECONDS, "authorized", self._authorized, channel_id)

    def _authorized(self, channel_id: int) -> None:
        self.books.set_channel_state(channel_id, "active")
        self.ring("reconcile", channel_id)

    def received(self, merchant_id: int) -> None:
        self.ring("apply", merchant_id)

    # --- sync.ports.Locks -------------------------------------------------------------------------------------------

    @contextmanager
    def try_lock(self, keys: Sequence[str], *, patient: bool = False) -> Iterator[Granted]:
        """Redlock, as far as its users can tell: it may be lost, and ends by itself when its holder dies."""
        self.pause(PATIENT_SECONDS if patient else 0.001)
        now = self.scheduler.time
        self._tokens += 1
        token = self._tokens
        granted = []
        for key in keys:
            holder = self.locked.get(key)
            is_lost = self.faults.lock_lost and self.luck.random() < self.faults.lock_lost
            if holder is None or holder[1] <= now or is_lost:
                self.locked[key] = (token, now + LOCK_SECONDS)
                granted.append(key)
                true_holder = self.holders.get(key)
                if true_holder is not None and true_holder[1] > now and not is_lost:
                    self.auditor.blame("lock", f"{key} was granted while another task held it")
                self.holders[key] = (token, now + LOCK_SECONDS)
        try:
            yield Granted(frozenset(granted))
        except Killed:
            raise  # nobody is left to release anything
        except BaseException:
            self._let_go(granted, token)
            raise
        else:
            self._let_go(granted, token)

    def _let_go(self, keys: Sequence[str], token: int) -> None:
        for key in keys:
            if self.holders.get(key, (0, 0.0))[0] == token:
                del self.holders[key]
        self.release(keys, token)
        for key in keys:
            holder = self.holders.get(key)
            if holder is not None and holder[1] > self.scheduler.time and self.locked.get(key) != holder:
                self.auditor.blame("lock", f"{key} was released while another task held it")

    def release(self, keys: Sequence[str], token: int) -> None:
        """Delete the keys that are still ours."""
        for key in keys:
            if self.locked.get(key, (0, 0.0))[0] == token:
                del self.locked[key]

    # --- sync.simulator.wire.Hub ------------------------------------------------------------------------------------

    def receive(self, store: Store, topic: str, webhook_id: str, told: Told) -> bool:
        """The web server: acknowledged means committed."""
        if self.hub_is_down or self.database_is_down:
            return False
        faults = self.faults
        if faults.killed and self.luck.random() < faults.killed / 2:
            return False  # the process died before it had stored anything
        is_news = self.books.receive_webhook(store.channel_id, topic, webhook_id, told)
        self.hear(told)
        if is_news and not (faults.bell_lost and self.luck.random() < faults.bell_lost):
            self.ring("apply", MERCHANT)
        if faults.commit_unknown and self.luck.random() < faults.commit_unknown:
            return False  # stored, and yet the answer was never sent, or never arrived
        self.auditor.acknowledged.append((store.channel_id, topic, webhook_id))
        return True

    def hear(self, told: bytes) -> None:
        """A message is in the inbox, and so on the disk."""
        assert isinstance(told, Told)
        for event in told.events:
            if isinstance(event, OrderState):
                self._heard[event.order_id].append(event)

    # --- the database -----------------------------------------------------------------------------------------------

    def ask_database(self) -> None:
        """A statement is sent: is anybody there?"""
        if self.database_is_down:
            raise OperationalError("the database is away")
        if self.faults.database_errors and self.luck.random() < self.faults.database_errors:
            raise OperationalError("the connection was lost")

    def has_committed(self) -> None:
        """A task has committed: others have their turn, and it may not learn of it."""
        if self.scheduler.running is not None:
            self.pause(COMMIT_SECONDS)
            if self.faults.commit_unknown and self.luck.random() < self.faults.commit_unknown:
                raise OperationalError("the connection was lost after COMMIT")

    # --- for the story ------------------------------------------------------------------------------------------------

    def new_id(self) -> uuid.UUID:
        """An id that is the same when the run is repeated."""
        self._ids += 1
        return uuid.UUID(int=(self.seed << 80) | (7 << 76) | (0b10 << 62) | self._ids)

    def tell(self, label: str, value: int, what: Callable[[], str]) -> None:
        """Put something into the digest, and into the story if anybody wants it."""
        self.scheduler.note(label, value)
        if self.story is not None:
            task = self.scheduler.running
            self.story.append(f"{self.scheduler.time:9.3f} {task.name if task else '-':8} {label} {value} {what()}")


def _matrix(stores: int, warehouses: int, rng: random.Random) -> list[tuple[int, ...]]:
    """By store, the warehouses that it sells from, by priority. Each is some store's."""
    matrix = [tuple(rng.sample(range(1, warehouses + 1), rng.randint(1, warehouses))) for _ in range(stores)]
    forgotten = set(range(1, warehouses + 1)).difference(*matrix)
    return [matrix[0] + tuple(sorted(forgotten)), *matrix[1:]]


def _sites(matrix: Iterable[tuple[int, ...]]) -> list[frozenset[int]]:
    """Warehouses that hang together by the stores that draw on them."""
    sites: list[frozenset[int]] = []
    for warehouses in matrix:
        near = [site for site in sites if not site.isdisjoint(warehouses)]
        sites = [site for site in sites if site not in near]
        sites.append(frozenset(warehouses).union(*near))
    return sites


def _stock(setting: Setting, warehouses: int, rng: random.Random) -> dict[Where, int]:
    """Units by SKU and warehouse."""
    units = max(1, setting.shoppers // (2 * setting.skus))
    stock: dict[Where, int] = {}
    for sku in range(1, setting.skus + 1):
        weights = [rng.uniform(0.1, 1) for _ in range(warehouses)]
        found = Counter(rng.choices(range(1, warehouses + 1), weights, k=units))
        stock |= {(sku, warehouse): found[warehouse] for warehouse in range(1, warehouses + 1)}
    return stock


def _families(recipes: Mapping[int, Mapping[int, int]]) -> list[set[int]]:
    """SKUs that share components, together."""
    families: list[set[int]] = []
    for sku, recipe in recipes.items():
        related = [
            family for family in families if family & recipe.keys() or any(recipes[s].keys() & recipe for s in family)
        ]
        families = [family for family in families if family not in related]
        families.append(set().union({sku}, *related))
    return families


class Reader:
    """Messages are handed over as they are meant: what bytes may hide is the connectors' tests' affair."""

    def authenticate(self, *, headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> bool:
        return True

    def read_delivery(self, headers: Mapping[str, str]) -> protocol.Delivery:
        raise NotImplementedError

    def read_order_id(self, said: str) -> str:
        return said

    def interpret(self, *, topic: str, body: bytes) -> tuple[protocol.Event, ...]:
        assert isinstance(body, Told)
        return body.events


READER = Reader()
