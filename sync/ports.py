"""What the engine's acts need of the world: books to read and write, channels to talk to, locks. Pure protocols.

The acts (`sync.apply`, `publish`, `push`, `check`, `reconcile`) are written against these, so the very same functions run
on PostgreSQL (`sync.tables`) and, a thousand times faster and with every fault there is, in the simulator's memory
(`sync.simulator.memory`). A test runs random sequences of these operations on both and compares.

A method says what it does to the books, not how. Everything between `transaction()` and its end happens as a whole or not
at all; methods that say "lock" keep others from those rows until then.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import NamedTuple, Protocol

from channels import protocol
from channels.protocol import QuantityChange
from inventory.ledger import Balance, Entry
from locations.pace import Velocity
from locations.publishing import Rule
from locations.routing import Routing
from sync.decide import Envelope, Level, Line, LineKey, ListingFacts, Verdict

#: A push tells of this many of the events behind it; the newest are kept.
STORY_EVENTS = 64
#: Lowers of a level that were given up and may have been applied: so many are kept in mind.
DOUBTFUL_LOWERS = 8
#: From so many failures in a row on, a channel is taken to be in outage.
OUTAGE_FAILURES = 2
#: A sample waits for the order list: until then the level is looked at now and then, for it may explain itself.
LOOK_AGAIN = timedelta(seconds=5)
#: A request without an answer may still be executed so long after it was sent: by a paused worker, a slow channel.
DOUBTFUL = timedelta(seconds=200)
#: How long a claimed event is left alone: a worker that died with it loses no more time than this.
CLAIM_LEASE = timedelta(seconds=8)
#: The database's clock is never set back by less than this; two sweeps at once may see as much.
CLOCK_STEP = timedelta(seconds=1)

#: What has waited for so long is written before what sells faster.
WAITED_LONG = timedelta(seconds=10)
#: What sold within this time sells now.
SELLS_NOW = timedelta(minutes=10)

OrderKey = tuple[int, str]  # channel, order


# --- events -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Claimed:
    """An inbox row in the hands of this worker."""

    envelope: Envelope
    kind: str
    topic: str
    body: bytes | None  # None: `unreadable` says why
    attempts: int
    leased_until: datetime
    events: tuple[protocol.Event, ...] = ()
    is_read: bool = False  # its order was asked for in this claim
    unreadable: str = ""


class Mentioned(NamedTuple):
    """What the events of a batch name, by (channel, the channel's own id)."""

    variants: frozenset[tuple[int, str]]
    items: frozenset[tuple[int, str]]
    orders: frozenset[OrderKey]
    codes: frozenset[tuple[int, str]] = frozenset()  # SKUs of the store's own, of lines that name no variant


class Mappings(NamedTuple):
    """The configuration around what is mentioned. Read without locks: it changes rarely, and is read again per batch."""

    listings_by_variant: Mapping[tuple[int, str], ListingFacts]
    listings_by_item: Mapping[tuple[int, str], tuple[ListingFacts, ...]]
    location_ids: Mapping[tuple[int, str], int]
    default_locations: Mapping[int, int]
    warehouses: Mapping[int, tuple[int, ...]]  # those switched on (`routing.in_use`), by priority
    parts: Mapping[int, Mapping[int, int]]
    bundles: Mapping[int, tuple[int, ...]]
    counted_from: Mapping[int, datetime | None]
    routing: Mapping[int, Routing] = MappingProxyType({})
    split_shipment: Collection[int] = ()
    listings_by_code: Mapping[tuple[int, str], ListingFacts] = MappingProxyType({})

    def listings(self) -> Iterator[tuple[int, ListingFacts]]:
        """The listings that lines may be of, with their channels."""
        for by_name in (self.listings_by_variant, self.listings_by_code):
            for (channel, _), facts in by_name.items():
                yield channel, facts

    def stocked_skus(self, sku_ids: Iterable[int]) -> set[int]:
        """The SKUs with stock behind these: themselves, or the components of bundles."""
        return {component for sku in sku_ids for component in self.parts[sku]}


class Waiting(NamedTuple):
    """A hold that waits for an order's line of its SKU, and what ending it gives back."""

    hold_id: int
    order: OrderKey
    sku_id: int
    gives_back: tuple[Entry, ...]


class InboxBooks(Protocol):
    """The inbox: every acknowledged event, in exactly one state."""

    def claim_events(self, merchant_id: int, limit: int, leases: Sequence[timedelta]) -> list[Claimed]:
        """Take due events, oldest first: count the attempt and keep others away. A commit of its own.

        The first attempt keeps them away for the first of `leases` and so on; the last is for all further attempts.
        """
        ...

    def take_events(self, event_ids: Collection[int]) -> set[int]:
        """Lock those of the events that are still pending and that nobody else has locked."""
        ...

    def settle_events(self, verdicts: Mapping[int, Verdict]) -> None:
        """Move pending events to their final states."""
        ...

    def retry_event(self, event_id: int, after: timedelta, reason: str) -> None:
        """Leave a pending event alone for a while, saying what went wrong."""
        ...

    def put_off_events(self, event_ids: Collection[int], after: timedelta, reason: str) -> None:
        """Leave pending events alone for a while at no cost of an attempt; an empty reason leaves the one there is."""
        ...

    def give_back_events(self, claims: Collection[Claimed], after: timedelta, reason: str) -> None:
        """Put off events whose claims have neither ended nor passed to anybody else. A commit of its own."""
        ...


class StockBooks(Protocol):
    """Registers, ledger and levels as applying events sees them."""

    def load_mappings(self, merchant_id: int, mentioned: Mentioned, known_skus: Collection[int]) -> Mappings:
        """Listings, locations, the mapping matrix and bundles around what is mentioned.

        A code of the store's own stands for the listing that carries it, or whose SKU does; for none while those that do are
        mapped to several SKUs. Listings that are gone come first, and of these the newest.
        """
        ...

    def channels_with_several_places(self, channel_ids: Collection[int]) -> set[int]:
        """Those of the channels that have more than one active location, mapped or not."""
        ...

    def lines_with_a_place(self, orders: Collection[OrderKey]) -> set[LineKey]:
        """The known lines of these orders of which it is known where they are taken from."""
        ...

    def contested_orders(self, orders: Collection[OrderKey]) -> set[OrderKey]:
        """Those of the orders of which two different things are known under their newest version."""
        ...

    def skus_of_orders(self, orders: Collection[OrderKey]) -> dict[OrderKey, set[int]]:
        """The SKUs that the known lines of these orders moved."""
        ...

    def lock_lines(self, orders: Collection[OrderKey]) -> dict[LineKey, Line]:
        """Lock the registers of these orders and read them, with what they have taken from where."""
        ...

    def lock_stock(
        self,
        merchant_id: int,
        mappings: Mappings,
        skus: Collection[int],
        locations: Collection[int],
        taken: Collection[int],
    ) -> tuple[dict[tuple[int, int], int], dict[int, Balance]]:
        """Make and lock the stock levels that sales of these SKUs at these store locations may draw on.

        `taken` are stock levels from which lines have taken units already. Returns ids by (SKU, warehouse), and balances.
        """
        ...

    def lock_balances(self, stock_level_ids: Collection[int]) -> dict[int, Balance]:
        """Lock these stock levels in ascending id and read their balances."""
        ...

    def lock_levels(self, merchant_id: int, pairs: Collection[tuple[int, int]]) -> dict[tuple[int, int], Level]:
        """Make and lock the listing levels of these (listing, store location) pairs."""
        ...

    def post(self, merchant_id: int, balances: Mapping[int, Balance], entries: Sequence[Entry], now: datetime) -> None:
        """Write entries to the ledger of locked stock levels, with their shortages."""
        ...

    def held_for_orders(self, merchant_id: int, orders: Collection[OrderKey]) -> set[int]:
        """The stock levels of holds that wait for one of these orders."""
        ...

    def lock_holds(
        self, merchant_id: int, orders: Collection[OrderKey], balances: Mapping[int, Balance], now: datetime
    ) -> list[Waiting]:
        """Lock the holds on these stock levels that wait for one of these orders."""
        ...

    def end_holds(
        self, merchant_id: int, ended: Sequence[Waiting], balances: Mapping[int, Balance], now: datetime
    ) -> None:
        """End locked holds, whose orders are booked, and mark their SKUs for publishing. What they give back is posted."""
        ...

    def write_lines(self, merchant_id: int, lines: Collection[Line], now: datetime) -> None:
        """Write registers and what each has taken from where."""
        ...

    def write_order_effects(self, levels: Collection[Level], now: datetime) -> None:
        """Move the effects of own orders; `desired` moves along, since the store's counter has moved by itself.

        A suspicion that the orders have explained is dropped; one with a sample is looked at again at once.
        """
        ...

    def write_level_changes(self, levels: Collection[Level], now: datetime, check_after: timedelta) -> None:
        """Raise and clear suspicions (`Level.becomes`)."""
        ...

    def note_inbound_lag(self, lags: Mapping[int, float], now: datetime) -> None:
        """Per channel: seconds between an event in the store and its arrival, the longest of a batch.

        Where that makes news materially slower in a group that guards its units by it, its SKUs are marked.
        """
        ...


# --- publishing -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Mark:
    """Why a SKU is published: the events behind it and when the oldest of them arrived."""

    correlation_ids: list[uuid.UUID] = field(default_factory=list)
    caused_at: datetime | None = None
    is_divided: bool = False  # its units are, or may have to be, divided among the stores


class Target(NamedTuple):
    """A listing level that may have to show another number, with all that says what it may still sell."""

    level_id: int
    channel_id: int
    listing_id: int
    store_location_id: int
    sku_id: int
    group_id: int | None
    weight: float
    desired: int | None
    is_publishable: bool
    is_suspect: bool
    has_paused_raises: bool  # its channel: too much differs there
    shown: int  # at least, as far as we know, writes under way included (units)
    ceiling: int  # what the store may still sell without our knowing (units, never negative)
    velocity: Velocity
    #: Of its channel: since when it does not answer. One that is not written to any more has been so for ever, since nobody
    #: asks it how long: whatever it may sell is its own.
    failing_since: datetime | None
    #: Its channel is in shadow mode: a silent one to all others; its own number is what would be written if it were not.
    is_shadow: bool = False
    #: The store counts it no more. Told nothing, it is a silent one to all others until what it sold before is known.
    is_gone: bool = False


class Group(NamedTuple):
    """The publishing policy of a location group, with what was measured of its channels."""

    group_id: int
    warehouses: tuple[int, ...]
    policy: str
    guard_units: int | None  # None: computed
    is_weighted_by_velocity: bool
    allows_split_shipment: bool
    holds_weight: float
    window_seconds: float  # how long news takes from the slowest of its active channels to the slowest of the others


class ShelfStock(NamedTuple):
    """Units of a SKU in a warehouse: available, and of these what holds may still take (None: all)."""

    available: int
    quota: int | None


class Desire(NamedTuple):
    """What a level should show from now on; None: not ours to say."""

    target: Target
    desired: int | None


class PublishBooks(Protocol):
    """Marks, and what decides the numbers."""

    def mark_dirty(self, merchant_id: int, marks: Mapping[int, tuple[uuid.UUID, datetime]]) -> None:
        """Mark SKUs for publishing: SKU -> (correlation id, when the event behind it arrived)."""
        ...

    def take_marks(self, merchant_id: int, limit: int) -> dict[int, Mark]:
        """Take the marks of SKUs that no other publisher is busy with; those SKUs are ours until the transaction ends.

        SKUs whose groups divide units among stores come with everything that shares components with them.
        """
        ...

    def lock_shelves(self, sku_ids: Collection[int]) -> None:
        """Lock the stock levels and then the listing levels of these SKUs, so that what is read of both afterwards fits
        together and nothing is granted twice."""
        ...

    def load_targets(self, sku_ids: Collection[int]) -> list[Target]:
        """The listing levels of these SKUs, in ascending id."""
        ...

    def load_groups(self, group_ids: Collection[int]) -> dict[int, Group]: ...

    def load_parts(self, merchant_id: int, sku_ids: Collection[int]) -> dict[int, dict[int, int]]:
        """Stocked components of each SKU (itself when it is no bundle), in units."""
        ...

    def load_warehouses(self, store_locations: Collection[int]) -> dict[int, tuple[int, ...]]:
        """The warehouses each store location draws on, by priority."""
        ...

    def load_stock(self, sku_ids: Collection[int]) -> dict[tuple[int, int], ShelfStock]:
        """What is there of these SKUs, by (SKU, warehouse)."""
        ...

    def load_rules(self, channel_ids: Collection[int], sku_ids: Collection[int]) -> dict[tuple[str, int, int], Rule]:
        """Rules by what they are for: ("channel", id, 0), ("sku", channel id, SKU id), ("listing", id, 0)."""
        ...

    def restrain(self, merchant_id: int, wished: Sequence[Desire], now: datetime) -> list[Desire]:
        """What the levels may be told of what is `wished`: many big changes that no sales explain wait for a person.

        Everything is given, changed or not. A number that is held stays, less what was sold since (see `sync.blast`).
        """
        ...

    def write_desires(self, changed: Sequence[Desire], marks: Mapping[int, Mark], now: datetime) -> None:
        """Write what should be shown, unless the listing is another SKU's by now."""
        ...

    def undivided(self, cells: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of these (SKU, warehouse) that no policy divides any more, neither for the SKU nor for a bundle of it."""
        ...

    def write_quotas(self, merchant_id: int, quotas: Mapping[tuple[int, int], int | None]) -> None:
        """What holds through the API may still take, by (SKU, warehouse); None: all that is available."""
        ...


# --- pushing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChannelRef:
    """A channel as the acts name it."""

    channel_id: int
    merchant_id: int
    kind: str


class Picked(NamedTuple):
    """A level that shows another number than it should."""

    level_id: int
    inventory_item_id: str
    location_id: str
    shown: int
    desired: int
    failures: int


class Row(NamedTuple):
    """One row of a batch under way."""

    push_id: int
    level_id: int
    change: QuantityChange


class Batch(NamedTuple):
    """A write that is committed and may be sent by the holder of the lease token."""

    id: uuid.UUID
    lease_token: int
    attempt: int
    is_repeat: bool
    rows: tuple[Row, ...]
    is_full: bool = False  # there may be more to write than fits
    opened_at: datetime | None = None  # of a repeat: when its key was used first


@dataclass(frozen=True, slots=True)
class GivenBack:
    """A row that was not applied: what was said of it, and how long its level waits before it is tried again."""

    push_id: int
    code: str
    message: str
    pause: timedelta
    failures: int
    #: Set when nothing proves that it never will be: until then it may still be executed.
    is_doubtful_until: datetime | None = None
    may_be_applied: bool = False  # it may have been, and be what it is refused for


class PushBooks(Protocol):
    """Writes under way: an attempt is committed before its request."""

    def claim_repeat(self, channel_id: int, lease: timedelta) -> Batch | None:
        """Take over an unanswered batch whose sender's lease has run out. A commit of its own."""
        ...

    def lock_claims(self, channel_id: int) -> None:
        """One claim of a channel at a time, until the transaction ends."""
        ...

    def out_of_sync(self, channel_id: int, limit: int) -> list[Picked]:
        """Lock levels to write next: decreases first; of them those that have waited for `WAITED_LONG`, then those that sell
        fastest just now, then the longest waiting. The same for raises.

        A suspect level is never raised, nor any level while its channel's raises are paused. It is lowered from what
        was read of it, or tried from what was expected while only a webhook speaks against that; once such a write has
        been refused as stale, the level is read first.
        """
        ...

    def open_batch(self, channel: ChannelRef, batch_id: uuid.UUID, chosen: Sequence[Picked], lease: timedelta) -> Batch:
        """Write the intention; what waited at the levels is now the pushes'."""
        ...

    def fence(self, batch: Batch, state: str, error: str, next_attempt: timedelta | None) -> bool:
        """Move the batch on, if it is still ours: a sender whose lease was taken over has nothing to say any more."""
        ...

    def uncount_attempt(self, batch: Batch) -> None: ...

    def lock_level_rows(self, level_ids: Iterable[int]) -> None:
        """Lock these listing levels in ascending id, before they are written as a set."""
        ...

    def confirm(self, push_ids: Sequence[int], source_at: datetime | None) -> None:
        """These pushes were applied by the channel: their differences are now part of what it must show.

        What they stood for is marked for publishing again where units are divided: a confirmed lower frees a raise.
        """
        ...

    def give_back(self, rows: Sequence[GivenBack]) -> None:
        """Mark pushes as not applied; what they stood for waits at their levels again."""
        ...

    def mind_clock(self) -> None:
        """Notice, sweep by sweep, that the database's clock was set back, and bring what is put off nearer by as much: else
        it would wait until the clock is there again. A commit of its own.
        """
        ...

    def end_doubts(self) -> None:
        """Raises that were given up can come true no more: have their levels read, and audited. A doubt about nothing ends,
        and its SKU is marked for publishing. A commit of its own.
        """
        ...

    def suspect(self, level_ids: Collection[int], reason: str, check_after: timedelta) -> None:
        """What these levels show is not known any more: whatever was read of them is out of date."""
        ...

    def channel_answered(self, channel_id: int) -> int:
        """The account answers (again); returns how many failures in a row that ends."""
        ...

    def mark_shelves_dirty(self, channel: ChannelRef, now: datetime) -> None:
        """Mark every SKU of this channel for publishing whose units are divided among the stores."""
        ...

    def count_failure(self, channel_id: int, cause: str, error: str) -> int:
        """One more failure of the whole account in a row; returns how many there are now."""
        ...

    def note_outage(self, channel_id: int, cause: str, error: str) -> bool:
        """The account is known to be in outage, whoever found out; False when that was known. Not one more failure."""
        ...

    def rest_channel(self, channel_id: int, wait: timedelta, error: str) -> None:
        """Nothing is sent to the account for so long."""
        ...


# --- checking and reconciling ---------------------------------------------------------------------------------------


class Due(NamedTuple):
    """A suspect level that is to be read now, and what was known of it before."""

    level_id: int
    inventory_item_id: str
    location_id: str
    version: int
    pushed: int


@dataclass(frozen=True, slots=True)
class LockedSuspect:
    """A suspect under its lock, with what settling it may touch."""

    level_id: int
    sku_id: int | None
    is_bundle: bool
    base: int
    order_effects: int
    pushed: int
    version: int
    is_first_reading: bool  # or the first since the store began to count the item there again
    gone_at: datetime | None  # the store counts it no more, and what it sold before may not be known yet
    sample: int | None
    sampled_from: datetime | None
    sampled_until: datetime | None
    sample_pushed: int | None
    sampled_ahead: timedelta | None
    held: int
    held_at: int | None
    confirmed_at: datetime | None
    open_push_id: int | None
    open_push_delta: int | None  # of a push whose outcome only the store can tell
    open_push_sent_at: datetime | None
    is_in_doubt: bool  # a write that was given up may have been executed before the sample was taken, or by now
    doubt_ends_at: datetime | None  # a raise that was given up cannot come true any more from then on
    doubtful_lowers: Sequence[
        int
    ]  # by how much writes would have lowered it that may have been applied before they were refused
    doubtful_lowers_at: Sequence[datetime]  # when each of those was opened

    @property
    def reported(self) -> int:
        return self.base + self.order_effects + self.pushed


@dataclass(frozen=True, slots=True)
class Finding:
    """What a reading comes to, as it is written to a level."""

    level_id: int
    is_settled: bool  # neither settled nor sampled: nothing new is known; look again at `next_check_at`
    residue: int = 0
    is_stocked: bool = True
    gone_at: datetime | None = None  # not counted there any more, and what was sold before may not be known yet
    shows: int | None = None  # while that is awaited: it is counted again
    sample: int | None = None
    sampled_from: datetime | None = None
    sampled_until: datetime | None = None
    sample_pushed: int | None = None
    sampled_ahead: timedelta | None = None
    #: What the store shows by the latest reading, beyond the sample.
    since_sample: int = 0
    held: int = 0
    held_at: int | None = None
    is_audited: bool = False  # an older sample was: what could explain it explains nothing newer
    ends_doubt: bool = False  # whether a raise that was given up came true is told
    next_check_at: datetime | None = None
    source_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DriftFound:
    """A difference that nothing explains."""

    level_id: int
    expected: int
    actual: int
    action: str
    explanation: str
    is_ambiguous: bool
    previous_confirmed_at: datetime | None
    correlation_id: uuid.UUID
    found_at: datetime
    held: int = 0
    held_at: int | None = None


@dataclass(frozen=True, slots=True)
class Edits:
    """What the merchant wants done about changes made in the store by hand: adopt | override | ask."""

    losses: str
    gains: str


class Seen(NamedTuple):
    """A level as it stood before a channel's levels were read as a whole."""

    level_id: int
    inventory_item_id: str
    location_id: str
    version: int


class Differs(NamedTuple):
    """A level that did not move while it was read and yet shows another number than it must. None: it is not counted."""

    level_id: int
    version: int
    expected: int | None
    actual: int | None


def held_first(held_at: int | None, drawn_on: Sequence[int]) -> tuple[int, ...]:
    """Stock levels in the order in which missing units are taken from them; `held_at` is where some are held already."""
    return tuple(dict.fromkeys(level for level in (held_at, *drawn_on) if level is not None))


class CheckBooks(Protocol):
    """Suspects, samples and what they come to."""

    def claim_suspects(self, channel_id: int, limit: int, lease: timedelta) -> list[Due]:
        """Take suspects that are due for a reading; others leave them alone for `lease`. A commit of its own."""
        ...

    def orders_applied_since(self, channel_id: int) -> datetime | None:
        """When the latest complete poll of the channel's orders began, if all that it found is applied by now.

        None, too, if that is still to come: then the clock was set back since.
        """
        ...

    def edits(self, channel_id: int) -> Edits:
        """What is done about changes by hand. In shadow mode the pool is left alone: another system may keep that store."""
        ...

    def hold_places(self, level_ids: Collection[int]) -> dict[int, tuple[int, ...]]:
        """Per level, the stock levels that units missing there may be taken from: first the one where some are held, then
        those in use that its location draws on, by priority."""
        ...

    def lock_suspects(self, level_ids: Collection[int]) -> list[LockedSuspect]:
        """Lock those of the levels that are suspect and have no write under way."""
        ...

    def taken_since(self, level_id: int, since: datetime, until: datetime, known_since: datetime) -> tuple[int, bool]:
        """Units that orders took from this level's counter after `until`, by the store's clock; and whether any change of
        it is dated within [since, until], so that nobody can tell on which side of the reading it lies.

        No date is told of units that change places: what of them was written at `known_since` or later, by our clock, may
        have happened before `until` or after. Nor is it told where the units of a line were that was first heard of since.
        """
        ...

    def write_findings(self, findings: Sequence[Finding], now: datetime) -> None: ...

    def add_drifts(self, channel: ChannelRef, drifts: Sequence[DriftFound]) -> None: ...

    def bundles_with(self, merchant_id: int, sku_ids: Collection[int]) -> set[int]:
        """These SKUs and every bundle that contains one of them."""
        ...

    def suspect_unsuspected(self, level_ids: Collection[int], reason: str, now: datetime) -> None:
        """Have these levels read as soon as possible, unless they are suspect already."""
        ...


class Reached(NamedTuple):
    """How far a channel's order list was read, by the store's clock."""

    #: Orders changed up to then are in the inbox; but lists lag, and some may still be added to it before that moment.
    watermark: datetime | None
    #: The latest poll got so far, and not to the end. Everything before has been at rest, and is in the inbox.
    cut_short_at: datetime | None = None


class PollBooks(Protocol):
    """What was read of a channel's orders and levels."""

    def orders_reached(self, channel_id: int) -> Reached:
        """Where the next poll begins. A channel that was never polled has its opening as the watermark."""
        ...

    def store_orders(
        self,
        channel: ChannelRef,
        topic: str,
        orders: Sequence[protocol.PolledOrder],
        reached: Reached,
        now: datetime,
    ) -> int:
        """Store one page and how far that reaches in one commit; returns how many of the orders were news.

        The watermark never moves back.
        """
        ...

    def orders_read(self, channel_id: int, at: datetime) -> None:
        """The order list was read to its end by a poll that began then."""
        ...

    def levels_page(self, channel_id: int, after: int, items: int) -> tuple[int, list[Seen]]:
        """The mapped levels of the next `items` listings after this listing id; the id to go on from, 0 at the end."""
        ...

    def standing(self, level_ids: Collection[int]) -> list[tuple[int, int, int, bool, bool]]:
        """(level, reported, version, is stocked, has an open push) of these levels, now."""
        ...


class Books(InboxBooks, StockBooks, PublishBooks, PushBooks, CheckBooks, PollBooks, Protocol):
    """Everything the engine keeps."""

    def transaction(self, *, waits_for_disk: bool = False) -> AbstractContextManager[object]:
        """All or nothing. `waits_for_disk`: nothing may be promised to anybody before it is on the disk."""
        ...


# --- the rest of the world --------------------------------------------------------------------------------------------


class Channels(Protocol):
    """The way to the channels."""

    def reader(self, kind: str) -> protocol.EventReader: ...

    def connector(self, channel_id: int) -> protocol.Connector: ...

    def needs_authorization(self, channel_id: int, reason: str) -> None:
        """The channel refuses our credentials: a person must authorize again."""
        ...

    def received(self, merchant_id: int) -> None:
        """Events were stored: wake whoever applies them."""
        ...


class Locked(Protocol):
    """Which keys are ours, and whether too few lock nodes answer to tell."""

    @property
    def keys(self) -> Set[str]: ...

    @property
    def is_degraded(self) -> bool: ...


class Locks(Protocol):
    """Redlock: it keeps workers off each other's SKUs; correctness does not rest on it."""

    def try_lock(self, keys: Sequence[str], *, patient: bool = False) -> AbstractContextManager[Locked]:
        """Take those of the keys that are free; `patient`: after waiting a moment for all of them to be."""
        ...


@dataclass(frozen=True, slots=True)
class Engine:
    """The acts' surroundings, handed to each of them."""

    books: Books
    channels: Channels
    locks: Locks
    rng: random.Random
    now: Callable[[], datetime]
    #: How late a channel's order list may be.
    audit_lag: timedelta
    #: Orders are read again from this much before the watermark.
    poll_overlap: timedelta
