"""What the engine and a channel's connector say to each other. Pure values; no I/O, no Django.

A connector translates: foreign bytes into the events below, and the engine's wishes into the channel's API. It decides
nothing about stock. Everything a channel can answer wrongly becomes one of the errors drawn here:

    ChannelError                  anything that went wrong with a channel; `.retry_after` seconds when it said so
    +- MalformedEvent             the bytes of an inbound event make no sense: never retried
    +- Unavailable                nothing was applied: refused, 5xx before work, down, timed out connecting
    +- OutcomeUnknown             sent, but no whole answer: it may or may not have been applied
    +- Throttled                  the channel asks to wait
    |  +- Paced                   we wait by ourselves to stay within its budget: nothing was sent
    +- NotAuthorized              credentials refused, or a scope is missing
    +- Refused                    our request is wrong and will stay wrong
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

#: Versions are whole seconds at some channels, so two of them can be equal and yet differ. What was read so much later than
#: the version it shows is the last word on that version.
VERSION_IS_FINAL_AFTER = timedelta(seconds=2)


class ChannelError(Exception):
    """Something went wrong with a channel. The text says what, and what to do, without secrets."""

    def __init__(self, message: str, *, code: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class MalformedEvent(ChannelError):
    """An inbound event cannot be understood, however often it is read."""


class Unavailable(ChannelError):
    """The channel did not do it, and may later."""


class OutcomeUnknown(ChannelError):
    """The request may have been applied."""


class Throttled(ChannelError):
    """The channel asks to wait `retry_after` seconds. Nothing says that a write certainly was not applied."""


class Paced(Throttled):
    """Our own budget of the channel is used up: nothing was sent. `gives_way`: for calls as urgent as this one and less."""

    gives_way: bool = False


class Resting(Paced):
    """The channel does not answer: nothing was sent, and nothing will be for `retry_after` seconds. Then one call asks.

    Certainly not sent: neither an attempt nor a failure, and no outcome becomes unknown by it. `because` is the code of the
    latest failure.
    """

    because: str = ""


class NotAuthorized(ChannelError):
    """The channel refuses our credentials or a scope is missing: a person must authorize again."""


class Refused(ChannelError):
    """The channel understood the request and refuses it; repeating it cannot help."""


class Cause(enum.StrEnum):
    """What kind of trouble an account as a whole has."""

    NO_CONNECTION = "no_connection"  # nobody could be reached
    NO_ANSWER = "no_answer"  # no whole answer in time
    SERVER_ERROR = "server_error"  # it answers that it is broken
    UNREADABLE = "unreadable"  # it answers something that is no answer
    CLOSED = "closed"  # frozen or locked
    NOT_AUTHORIZED = "not_authorized"
    OTHER = "other"


#: The code of an Unavailable that certainly never left this machine.
NOT_SENT = "NOT_SENT"

_CAUSES = {
    NOT_SENT: Cause.NO_CONNECTION,
    "INTERNAL_SERVER_ERROR": Cause.SERVER_ERROR,
    "SERVICE_UNAVAILABLE": Cause.SERVER_ERROR,
    "TIMEOUT": Cause.SERVER_ERROR,
    "OutcomeUnknown": Cause.NO_ANSWER,
    "ANSWER_UNREADABLE": Cause.UNREADABLE,
    "RedirectRefused": Cause.UNREADABLE,
    "ResponseTooLarge": Cause.UNREADABLE,
    "HTTP_402": Cause.CLOSED,
    "HTTP_423": Cause.CLOSED,
}


def cause_of(error: ChannelError) -> Cause:
    """What kind of trouble an error tells of."""
    if isinstance(error, NotAuthorized):
        return Cause.NOT_AUTHORIZED
    code = error.because if isinstance(error, Resting) else error.code
    if code in _CAUSES:
        return _CAUSES[code]
    if code.startswith("HTTP_5"):
        return Cause.SERVER_ERROR
    if isinstance(error, OutcomeUnknown):
        return Cause.NO_ANSWER
    return Cause.OTHER


def is_breakage(error: ChannelError) -> bool:
    """Whether the error says that the channel, or the way there, is broken: no whole answer, or one of 5xx.

    What is refused, throttled or closed was answered.
    """
    return isinstance(error, Unavailable | OutcomeUnknown) and cause_of(error) is not Cause.CLOSED


# --- what arrives -------------------------------------------------------------------------------------------------


class Restock(enum.StrEnum):
    """What became of refunded units."""

    CANCEL = "cancel"  # unshipped, back to available
    RETURN = "return"  # shipped, came back, available again
    NONE = "no_restock"  # not available again
    LEGACY = "legacy_restock"  # available again; old refunds do not tell whether the units had shipped


@dataclass(frozen=True, slots=True)
class RefundedUnits:
    """Units of one order line in one refund. `refund_id` and `line_id` identify it for ever."""

    refund_id: str
    line_id: str
    quantity: int
    restock: Restock
    location_id: str | None  # where they were put back, which need not be where they were taken from
    occurred_at: datetime


#: Units by location: (its id, how many), each once.
UnitsAt = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class LineState:
    """One order line as its channel describes it."""

    line_id: str
    variant_id: str  # "" when the variant is gone
    sku: str
    ordered: int  # units ever ordered, edits that added included
    current: int | None  # units after removals and refunds; None: the channel does not say
    shipped: int
    location_id: str | None  # where the channel takes all its units from; None: it does not say, or from several places
    places: UnitsAt = ()  # by the location they are assigned to, those shipped from there included
    shipped_from: UnitsAt = ()  # of those shipped, as far as the channel says


@dataclass(frozen=True, slots=True)
class OrderState:
    """A whole order as of `version`, the channel's own time of its latest change."""

    order_id: str
    name: str
    version: datetime
    created_at: datetime
    cancelled_at: datetime | None
    is_test: bool  # the store's counter falls for a test order, too: it counts like any other
    lines: tuple[LineState, ...]
    refunds: tuple[RefundedUnits, ...] = ()
    read_at: datetime | None = None  # when we read it at the channel; None: the channel told it by itself


@dataclass(frozen=True, slots=True)
class OrderDeleted:
    """An order is gone from its channel for good. What it took from stock and had not put back stays taken."""

    order_id: str


@dataclass(frozen=True, slots=True)
class RefundMade:
    """A refund told on its own, without its order."""

    order_id: str
    refunds: tuple[RefundedUnits, ...]


@dataclass(frozen=True, slots=True)
class OrderTouched:
    """An order changed in a way the message does not describe: it is to be read."""

    order_id: str
    why: str


@dataclass(frozen=True, slots=True)
class LevelTouched:
    """A level changed. `available` is what the message shows, if anything: it may be merged or late."""

    inventory_item_id: str
    location_id: str
    available: int | None
    source_at: datetime | None
    is_stocked: bool | None = None  # connect: True, disconnect: False, else None


@dataclass(frozen=True, slots=True)
class CatalogueTouched:
    """A product was made, changed or deleted; `variants` is None when the message does not list them all."""

    product_id: str
    is_deleted: bool
    variants: tuple[VariantState, ...] | None


@dataclass(frozen=True, slots=True)
class ItemTouched:
    """An inventory item changed: whether it is tracked, its SKU, or that it is gone."""

    inventory_item_id: str
    is_deleted: bool
    sku: str | None = None
    is_tracked: bool | None = None


@dataclass(frozen=True, slots=True)
class LocationTouched:
    """A store location was made, renamed, (de)activated or deleted."""

    location_id: str
    name: str
    is_active: bool
    is_deleted: bool = False


@dataclass(frozen=True, slots=True)
class AppUninstalled:
    """The merchant removed us from the store: our token is dead, unless we were installed again since."""

    is_so: bool | None = None  # as the store answers when it is asked now; None: it was not


@dataclass(frozen=True, slots=True)
class BulkFinished:
    """A bulk operation of ours ended."""

    operation_id: str
    status: str


@dataclass(frozen=True, slots=True)
class ComplianceRequest:
    """A privacy request that must be answered and recorded."""

    kind: str


@dataclass(frozen=True, slots=True)
class Uninteresting:
    """Understood, and of no consequence here."""

    reason: str


Event = (
    OrderState
    | OrderDeleted
    | RefundMade
    | OrderTouched
    | LevelTouched
    | CatalogueTouched
    | ItemTouched
    | LocationTouched
    | AppUninstalled
    | BulkFinished
    | ComplianceRequest
    | Uninteresting
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """The envelope of one webhook, read from its headers. None of it is covered by the signature."""

    topic: str
    account: str
    webhook_id: str
    event_id: str
    api_version: str
    triggered_at: datetime | None


# --- what is read -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VariantState:
    """One variant of the channel's catalogue."""

    variant_id: str
    product_id: str
    inventory_item_id: str
    sku: str
    barcode: str
    title: str
    is_tracked: bool
    is_store_bundle: bool
    sells_when_out_of_stock: bool


@dataclass(frozen=True, slots=True)
class LocationState:
    """One store location."""

    location_id: str
    name: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class LevelState:
    """A level as read from the channel. `available` is None when the store does not count the item there."""

    inventory_item_id: str
    location_id: str
    available: int | None
    is_stocked: bool
    source_at: datetime | None


@dataclass(frozen=True, slots=True)
class PolledOrder:
    """An order as polled: `body` goes to the inbox like a webhook's; `version` and `fingerprint` make its identity.

    Versions are whole seconds at some channels, so an order can change once more within the second it was read in. The
    fingerprint differs when what was read does, and when it was read late enough for its version to be final.
    """

    order_id: str
    version: datetime
    body: bytes
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class OrderPage:
    """One page of changed orders, oldest change first; `cursor` leads to the next, None: that was all."""

    orders: tuple[PolledOrder, ...]
    cursor: str | None


# --- what is written ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QuantityChange:
    """Set one level `from_quantity` -> `to_quantity`, only if it still shows `from_quantity`."""

    inventory_item_id: str
    location_id: str
    from_quantity: int
    to_quantity: int


class RowOutcome(enum.StrEnum):
    """What the channel said of one row of a write."""

    CONFIRMED = "confirmed"
    STALE = "stale"  # the level no longer showed `from_quantity`
    REFUSED = "refused"  # this row can never work as it is
    NOT_APPLIED = "not_applied"  # nothing wrong with it; another row failed the batch


@dataclass(frozen=True, slots=True)
class RowResult:
    """Outcome of one row, in the order of the rows sent."""

    outcome: RowOutcome
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Answer to a write. `source_at` is the channel's own time of it, when it told."""

    rows: tuple[RowResult, ...]
    source_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a channel can do; the engine adapts."""

    compare_and_set: bool
    idempotency_keys: bool
    rows_per_write: int
    levels_per_read: int
    orders_per_read: int


@dataclass(frozen=True, slots=True)
class SubscriptionReport:
    """What a check of the webhook subscriptions found and mended."""

    present: tuple[str, ...] = ()
    created: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = field(default=())  # (topic, why)


@dataclass(frozen=True, slots=True)
class ThrottleStatus:
    """A channel's own view of our budget, in its points or calls."""

    maximum: float
    available: float
    restored_per_second: float


class CallEnd(enum.Enum):
    """How a call to a channel ended."""

    ANSWERED = enum.auto()  # whatever the answer was
    BROKEN = enum.auto()  # `is_breakage`
    NOT_MADE = enum.auto()


class Pacing(Protocol):
    """Who keeps a channel's budget (`channels.pacing`); handed to the connector. One call at a time."""

    def acquire(self, cost: float) -> None:
        """Return once `cost` is ours; each grant must be settled. Raises Throttled if it would take long."""
        ...

    def settle(
        self,
        *,
        reserved: float,
        actual: float,
        status: ThrottleStatus | None = None,
        end: CallEnd = CallEnd.ANSWERED,
        error: ChannelError | None = None,
    ) -> float:
        """A granted call ended: what it really cost (0: surely not sent), what the channel says is left, how it ended and
        with which error. Returns for how many seconds no call will be made because of it.
        """
        ...

    def penalize(self, seconds: float) -> None:
        """The channel asked everybody to stay away for so long."""
        ...


class EventReader(Protocol):
    """The inbound half of a connector: pure, needs no credentials but the signing secrets it is given."""

    def authenticate(self, *, headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> bool:
        """Whether the raw bytes carry a good signature by any of the secrets. Never raises. Header names are lower case."""
        ...

    def read_delivery(self, headers: Mapping[str, str]) -> Delivery:
        """The envelope. Raises MalformedEvent when a header that must be there is missing or absurd."""
        ...

    def interpret(self, *, topic: str, body: bytes) -> tuple[Event, ...]:
        """What the event says. Raises MalformedEvent, naming the field, whatever the bytes are."""
        ...

    def read_order_id(self, said: str) -> str:
        """The id by which events name this order, from however the channel's own APIs write it.

        Raises MalformedEvent when no order can have it.
        """
        ...


class SnapshotState(enum.StrEnum):
    """How far a channel has come with writing down all its levels."""

    UNDER_WAY = "under_way"
    READY = "ready"
    PARTIAL = "partial"  # it failed, and some of the levels can be read all the same
    FAILED = "failed"
    GONE = "gone"  # the channel does not know it, or keeps it no longer: begin anew


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All levels of a channel as it writes them down in the background. Not of one moment: it may take minutes."""

    snapshot_id: str
    state: SnapshotState
    error: str = ""  # the channel's own word for why it failed


@runtime_checkable
class TakesSnapshots(Protocol):
    """What a connector offers besides `Connector` when its channel can write down all its levels at once."""

    def begin_snapshot(self) -> str:
        """Have the channel begin; returns the snapshot's id. Throttled: too many are under way, come back later."""
        ...

    def read_snapshot(self, snapshot_id: str) -> Snapshot:
        """How far it is."""
        ...

    def snapshot_levels(self, snapshot_id: str) -> Iterator[tuple[LevelState, ...]]:
        """The levels of a snapshot that is ready or partial, page by page, never as a whole in memory.

        In any order. A level that is missing is no proof that the store has none. `source_at` is when the store changed it.
        """
        ...

    def cancel_snapshot(self, snapshot_id: str) -> None:
        """Nobody waits for it any more. Nothing happens if it has ended or is unknown."""
        ...


class Connector(Protocol):
    """One channel's API, for one account. Every method raises ChannelError subclasses only."""

    capabilities: Capabilities

    @property
    def its_time(self) -> datetime | None:
        """The channel's clock at its latest answer (HTTP's Date header, whole seconds); None where it does not tell."""
        ...

    def read_locations(self) -> tuple[LocationState, ...]: ...

    def read_catalogue(self) -> Iterator[tuple[VariantState, ...]]:
        """All variants, page by page."""
        ...

    def read_variants(self, product_id: str) -> tuple[VariantState, ...]: ...

    def read_levels(self, inventory_item_ids: Sequence[str]) -> tuple[LevelState, ...]:
        """All levels of these items at all locations; items unknown to the channel are left out."""
        ...

    def read_orders_since(self, since: datetime, *, cursor: str | None) -> OrderPage: ...

    def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
        """These orders as of now, with the locations they are assigned to."""
        ...

    def write_quantities(self, changes: Sequence[QuantityChange], *, key: str, reference: str) -> WriteResult:
        """Send all rows as one write under the idempotency `key`; the same key and rows may be sent again.

        Raises OutcomeUnknown when it cannot be told whether it was applied; any other ChannelError means it was not.
        """
        ...

    def activate_level(self, *, inventory_item_id: str, location_id: str, key: str) -> None: ...

    def ensure_webhooks(self, callback_url: str) -> SubscriptionReport: ...

    def read_scopes(self) -> frozenset[str]:
        """What our token allows, in the channel's own words. Raises NotAuthorized when the app is not installed."""
        ...
