"""Planted bugs: each takes one guard away, in the engine's own code or around it, and the simulator must notice.

A bug counts as caught by a seed when the run breaks an invariant with it and none without it. Some guards stand behind
another that makes up for them (a ledger key behind a register, a lock behind a transaction); these are planted where the
direct check sees them.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from channels.protocol import PolledOrder, QuantityChange, RowOutcome, WriteResult
from inventory.ledger import Entry, OpenShortage
from locations import publishing
from locations.publishing import Numbers
from sync import check, decide, publish, register
from sync.decide import Level, Line
from sync.ports import Batch, ChannelRef, GivenBack, Reached
from sync.register import Effect, Register
from sync.residue import Judgement, Ruling
from sync.simulator import world as simulated
from sync.simulator.books import WatchedBooks
from sync.simulator.memory.rows import LevelRow
from sync.simulator.run import quieten, run_one
from sync.simulator.stores import DONE, Store, Told
from sync.simulator.wire import StoreConnector
from sync.simulator.world import POLICIES, Setting, World

Patch = tuple[object, str, Callable[[Any], Any]]  # of what, which attribute, made from the original


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted bug: what is patched, and in which settings it is looked for."""

    name: str
    patches: tuple[Patch, ...]
    settings: tuple[Setting, ...] = (Setting(policy="split"), Setting(policy="shared"))

    @contextmanager
    def planted(self) -> Iterator[None]:
        """With the bug in place."""
        with ExitStack() as stack:
            for owner, name, make in self.patches:
                original = getattr(owner, name)
                setattr(owner, name, make(original))
                stack.callback(setattr, owner, name, original)
            yield


@dataclass(frozen=True, slots=True)
class Hunt:
    """What caught a mutant: the first seed, the policy, the invariant; nothing: it got away."""

    name: str
    seeds: int
    seed: int | None = None
    policy: str = ""
    invariant: str = ""
    says: str = ""

    @property
    def is_caught(self) -> bool:
        return self.seed is not None

    def sentence(self) -> str:
        if self.seed is None:
            return f"{self.name}: NOT CAUGHT in {self.seeds} seeds"
        return f"{self.name}: seed {self.seed}, {self.policy}, {self.invariant}: {self.says}"

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "caught": self.is_caught,
            "seed": self.seed,
            "policy": self.policy,
            "invariant": self.invariant,
        }


def hunt(mutant: Mutant, seeds: int) -> Hunt:
    """Look for the first seed that notices."""
    for seed in range(seeds):
        for setting in mutant.settings:
            with mutant.planted():
                result = run_one(setting, seed)
            # A plant that crashes proves nothing but that it was badly planted.
            if result.violation and result.violation[0] != "crash" and not run_one(setting, seed).violation:
                invariant, _, says = result.violation
                return Hunt(mutant.name, seeds, seed, setting.policy, invariant, says)
    return Hunt(mutant.name, seeds)


def hunt_all(*, seeds: int = 300, jobs: int = 1) -> Iterator[Hunt]:
    """Hunt every mutant, in the order of the list."""
    with multiprocessing.get_context("fork").Pool(jobs, initializer=quieten) as pool:
        yield from pool.imap(_hunt_numbered, [(place, seeds) for place in range(len(MUTANTS))])


def _hunt_numbered(work: tuple[int, int]) -> Hunt:
    place, seeds = work
    return hunt(MUTANTS[place], seeds)


# --- arrivals -----------------------------------------------------------------------------------------------------


def _acknowledge_first(receive: Any) -> Any:
    def receive_webhook(self: World, store: Store, topic: str, webhook_id: str, told: Told) -> bool:
        if self.faults.killed and self.luck.random() < self.faults.killed:
            self.auditor.acknowledged.append((store.channel_id, topic, webhook_id))
            return True  # and then it dies before it has stored anything
        return bool(receive(self, store, topic, webhook_id, told))

    return receive_webhook


def _drop_what_failed(put_off: Any) -> Any:
    def put_off_events(self: WatchedBooks, event_ids: Collection[int], after: timedelta, reason: str) -> None:
        for event_id in event_ids:
            event = self.events.pop(event_id, None)
            if event is not None:
                self._pending[event.merchant_id].pop(event_id, None)
                self._delivered.pop((event.envelope.channel_id, event.topic, event.webhook_id), None)

    return put_off_events


def _move_watermark_first(store_orders: Any) -> Any:
    def store_later(
        self: WatchedBooks,
        channel: ChannelRef,
        topic: str,
        orders: Sequence[PolledOrder],
        reached: Reached,
        now: datetime,
    ) -> int:
        # A watermark that runs ahead by as much as the overlap takes back, stored in a commit of its own.
        watermark, cut_short_at = (moment and moment + simulated.POLL_OVERLAP for moment in reached)
        ahead = Reached(watermark, cut_short_at)
        store_orders(self, channel, topic, (), ahead, now)
        return int(store_orders(self, channel, topic, orders, ahead, now))

    return store_later


# --- registers and ledger -------------------------------------------------------------------------------------------


def _count_again(settle: Any) -> Any:
    def settle_as_delta(line: Line, *rest: Any) -> None:
        line.applied = Effect()
        settle(line, *rest)

    return settle_as_delta


def _forget_versions(join: Any) -> Any:
    def last_arrival_wins(one: Register, other: Register) -> Register:
        joined: Register = join(one, other)
        return joined._replace(says=other.says or one.says)

    return last_arrival_wins


def _forget_cancellations(join: Any) -> Any:
    def forgetful(one: Register, other: Register) -> Register:
        joined: Register = join(one, other)
        return joined._replace(cancelled_at=other.cancelled_at)

    return forgetful


def _give_back_deleted(effect: Any) -> Any:
    def nothing_of_deleted(register: Register) -> Effect:
        return Effect() if register.is_deleted else effect(register)

    return nothing_of_deleted


def _number_nothing(settle: Any) -> Any:
    def settle_under_one_key(line: Line, *rest: Any) -> None:
        line.postings = 0
        settle(line, *rest)

    return settle_under_one_key


def _take_up_nothing(_: Any) -> Any:
    def take_up(self: WatchedBooks, *waits: object) -> int:
        del self, waits
        return 0

    return take_up


def _miss_a_component(recipe: Any) -> Any:
    def shortened(line: Line, world: Any) -> Mapping[int, int]:
        parts: Mapping[int, int] = recipe(line, world)
        return dict(list(parts.items())[:1])

    return shortened


def _route_no_remainder(route: Any) -> Any:
    def route_what_is_there(units: int, warehouses: Sequence[int], available: Mapping[int, int]) -> dict[int, int]:
        there = sum(max(0, available.get(warehouse, 0)) for warehouse in warehouses)
        return dict(route(min(units, there), warehouses, available)) if there else {}

    return route_what_is_there


def _declare_nothing(_: Any) -> Any:
    def make_no_shortage(self: WatchedBooks, made: OpenShortage, now: datetime) -> None:
        del self, made, now

    return make_no_shortage


# --- levels ---------------------------------------------------------------------------------------------------------


def _believe_webhooks(write: Any) -> Any:
    def write_and_book(self: WatchedBooks, levels: Collection[Level], now: datetime, check_after: timedelta) -> None:
        write(self, levels, now, check_after)
        for level in levels:
            told = level.becomes.available if level.becomes is not None and level.becomes.is_suspect else None
            place = next(iter(self._stock_drawn_on(self.levels[level.id])), None)
            if told is not None and place is not None and told != level.reported:
                row = self.levels[level.id]
                self._touch_level(row)
                row.base += told - level.reported
                entry = Entry(
                    place, "adjustment", f"told:{self._id('told')}", "", self._uuid(), now, told - level.reported
                )
                self.post(1, self.lock_balances([place]), [entry], now)

    return write_and_book


def _forget_own_orders(_: Any) -> Any:
    def write_no_effects(self: WatchedBooks, levels: Collection[Level], now: datetime) -> None:
        del self, levels, now

    return write_no_effects


def _keep_holds(entries: Any) -> Any:
    def without_releases(*arguments: Any) -> list[Entry]:
        return [entry for entry in entries(*arguments) if entry.held >= 0]

    return without_releases


def _lose_thrice(judge: Any) -> Any:
    def judged(*arguments: Any, **wishes: Any) -> Judgement:
        judgement: Judgement = judge(*arguments, **wishes)
        if judgement.ruling is Ruling.ADOPT:
            return replace(judgement, residue=3 * judgement.residue)
        return judgement

    return judged


def _let_go_at_once(judge: Any) -> Any:
    def judged(*arguments: Any, **wishes: Any) -> Judgement:
        judgement: Judgement = judge(*arguments, **wishes)
        return replace(judgement, ruling=Ruling.UNSTOCKED, hold=0) if judgement.ruling is Ruling.GONE else judgement

    return judged


def _doubt_everything(judge: Any) -> Any:
    def judged(*arguments: Any, **wishes: Any) -> Judgement:
        judgement: Judgement = judge(*arguments, **wishes)
        return replace(judgement, is_ambiguous=True)

    return judged


def _audit_at_once(_: Any) -> Any:
    return lambda moment, orders_read_at, lag: True


# --- policies -------------------------------------------------------------------------------------------------------


def _divide_nothing(_: Any) -> Any:
    return lambda shelves, group: {}


def _bound_each_alone(_: Any) -> Any:
    return lambda sets: list(dict.fromkeys(sets))


def _show_nothing(numbers: Any) -> Any:
    def nothing(*arguments: Any) -> Numbers:
        found: Numbers = numbers(*arguments)
        return found._replace(shown=dict.fromkeys(found.shown, 0))

    return nothing


def _keep_one_back(numbers: Any) -> Any:
    def one_less(*arguments: Any) -> Numbers:
        found: Numbers = numbers(*arguments)
        most = max(found.shown, key=found.shown.__getitem__, default=None)
        if most is None or not found.shown[most]:
            return found
        return found._replace(shown={**found.shown, most: found.shown[most] - 1})

    return one_less


# --- pushes ---------------------------------------------------------------------------------------------------------


def _overwrite(write: Any) -> Any:
    def write_harder(self: Store, changes: Sequence[QuantityChange], key: str) -> WriteResult:
        now = tuple(
            replace(row, from_quantity=self.counters[(row.inventory_item_id, row.location_id)]) for row in changes
        )
        return write(self, now, key)  # type: ignore[no-any-return]

    return write_harder


def _new_key_each_time(claim_repeat: Any) -> Any:
    def claim_renamed(self: WatchedBooks, channel_id: int, lease: timedelta) -> Batch | None:
        batch: Batch | None = claim_repeat(self, channel_id, lease)
        if batch is None:
            return None
        row = self.batches[batch.id]
        renamed = batch._replace(id=self._world.new_id())
        row.id = renamed.id
        self.batches[row.id] = row  # the first key is known, too
        self._unanswered[channel_id][row.id] = self._unanswered[channel_id].pop(batch.id)
        return renamed

    return claim_renamed


def _take_stale_for_done(write: Any) -> Any:
    def write_quantities(
        self: StoreConnector, changes: Sequence[QuantityChange], *, key: str, reference: str
    ) -> WriteResult:
        answer: WriteResult = write(self, changes, key=key, reference=reference)
        if any(row.outcome is RowOutcome.STALE for row in answer.rows):
            return WriteResult((DONE,) * len(changes), answer.source_at)
        return answer

    return write_quantities


def _forget_doubts(give_back: Any) -> Any:
    def give_back_for_good(self: WatchedBooks, rows: Sequence[GivenBack]) -> None:
        give_back(self, [replace(row, is_doubtful_until=None) for row in rows])

    return give_back_for_good


def _trust_nothing_shown(_: Any) -> Any:
    def ceiling(self: WatchedBooks, level: LevelRow) -> int:
        del self, level
        return 0

    return ceiling


def _write_on(_: Any) -> Any:
    def stop_writing(self: WatchedBooks, merchant_id: int, *, is_on: bool) -> None:
        del self, merchant_id, is_on

    return stop_writing


def _open_two(_: Any) -> Any:
    def fence_nobody(self: WatchedBooks, batch: Batch, state: str, error: str, next_attempt: timedelta | None) -> bool:
        row = self.batches[batch.id]
        self._touch(row)
        row.state = state
        self._remove(self._unanswered[row.channel_id], row.id)
        return True

    return fence_nobody


def _flush_nothing(transaction: Any) -> Any:
    def never_waiting(self: WatchedBooks, *, waits_for_disk: bool = False) -> Any:
        del waits_for_disk
        return transaction(self)

    return never_waiting


# --- around it ------------------------------------------------------------------------------------------------------


def _sweep_nothing(_: Any) -> Any:
    def sweep(self: World) -> None:
        del self

    return sweep


def _release_anybodys(_: Any) -> Any:
    def release(self: World, keys: Sequence[str], token: int) -> None:
        for key in keys:
            self.locked.pop(key, None)

    return release


def _no_overlap(_: Any) -> Any:
    return timedelta(0)


#: Few stores, so that the orders of one follow each other closely.
BUSY = (Setting(policy="shared", stores=2), Setting(policy="split", stores=2))
GUARDED = (Setting(policy="guard", guard_units=10),)
EVERY_POLICY = tuple(Setting(policy=policy) for policy in POLICIES)
SCATTERED = (Setting(policy="split", warehouses=3), Setting(policy="shared", warehouses=3))
BUNDLED = (Setting(policy="shared", bundles=2), Setting(policy="split", bundles=2))

MUTANTS: tuple[Mutant, ...] = (
    Mutant("acknowledge before the commit", ((World, "receive", _acknowledge_first),)),
    Mutant("drop events that cannot be applied yet", ((WatchedBooks, "put_off_events", _drop_what_failed),)),
    Mutant("poll without overlap", ((simulated, "POLL_OVERLAP", _no_overlap),), BUSY),
    Mutant("move the watermark before its page is stored", ((WatchedBooks, "store_orders", _move_watermark_first),)),
    Mutant("count order events as deltas", ((decide, "_settle", _count_again),)),
    Mutant("last arrival wins in the register", ((decide, "join", _forget_versions),)),
    Mutant("forget cancellations", ((decide, "join", _forget_cancellations),)),
    Mutant("give back what a deleted order took", ((decide, "effect", _give_back_deleted),)),
    Mutant("count refunds by message, not by id", ((register, "_united", lambda _: lambda refunds: refunds),)),
    Mutant("post a line under the same ledger key again", ((decide, "_settle", _number_nothing),)),
    Mutant(
        "drop what waits for a mapping",
        ((WatchedBooks, "_take_up", _take_up_nothing), (WatchedBooks, "take_up_placeable_lines", _take_up_nothing)),
    ),
    Mutant("leave a component out of a bundle", ((decide, "_recipe", _miss_a_component),), BUNDLED),
    Mutant("book no more of a sale than there is", ((decide, "route", _route_no_remainder),), SCATTERED),
    Mutant("write no shortages", ((WatchedBooks, "_make_shortage", _declare_nothing),)),
    Mutant("book what level webhooks show", ((WatchedBooks, "write_level_changes", _believe_webhooks),)),
    Mutant("forget that own orders move the counter", ((WatchedBooks, "write_order_effects", _forget_own_orders),)),
    Mutant("never release what is held", ((check, "_entries", _keep_holds),)),
    Mutant("audit before the order list is complete", ((check, "is_known_up_to", _audit_at_once),)),
    Mutant("take three times what is missing out of the pool", ((check, "judge", _lose_thrice),)),
    Mutant("give what a deleted variant showed to others at once", ((check, "judge", _let_go_at_once),)),
    Mutant("call every difference ambiguous", ((check, "judge", _doubt_everything),)),
    Mutant("divide nothing under guard", ((publish, "_thresholds", _divide_nothing),), GUARDED),
    Mutant(
        "bound no union of warehouses",
        ((publishing, "_unions", _bound_each_alone),),
        (Setting(policy="split", warehouses=3, stores=3),),
    ),
    Mutant("offer nothing", ((publish, "numbers", _show_nothing),), EVERY_POLICY),
    Mutant("keep a unit back", ((publish, "numbers", _keep_one_back),), EVERY_POLICY),
    Mutant("keep a unit back in one of several warehouses", ((publish, "numbers", _keep_one_back),), SCATTERED),
    Mutant("write without compare-and-set", ((Store, "write", _overwrite),)),
    Mutant("take a new key for a repeated write", ((WatchedBooks, "claim_repeat", _new_key_each_time),)),
    Mutant("take stale for done", ((StoreConnector, "write_quantities", _take_stale_for_done),)),
    Mutant("forget that a request may still be executed", ((WatchedBooks, "give_back", _forget_doubts),)),
    Mutant("raise without waiting for the lowering", ((WatchedBooks, "_ceiling", _trust_nothing_shown),)),
    Mutant("write although the kill switch is on", ((WatchedBooks, "stop_writing", _write_on),)),
    Mutant("answer for a batch that is another's by now", ((WatchedBooks, "fence", _open_two),)),
    Mutant("send before the intention is on the disk", ((WatchedBooks, "transaction", _flush_nothing),)),
    Mutant("sweep nothing", ((World, "_sweep", _sweep_nothing),)),
    Mutant("release locks without asking whose they are", ((World, "release", _release_anybodys),)),
)
