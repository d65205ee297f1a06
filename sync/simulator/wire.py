"""Between the stores and us: messages that are late, lost and doubled, and calls of which anything may become.

`Wire` carries webhooks to the hub until it acknowledges them; `StoreConnector` is `channels.protocol.Connector` for the
engine, whose tasks wait in it as they would for a network.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from channels.protocol import (
    Capabilities,
    ChannelError,
    LevelState,
    LocationState,
    NotAuthorized,
    OrderPage,
    OutcomeUnknown,
    PolledOrder,
    QuantityChange,
    SubscriptionReport,
    Throttled,
    Unavailable,
    VariantState,
    WriteResult,
)
from sync.simulator.faults import Faults, Window
from sync.simulator.scheduler import Scheduler
from sync.simulator.stores import Store, Told

T = TypeVar("T")

#: A channel sends again what was not acknowledged, after so many seconds each time; then it gives up.
REDELIVERED_AFTER = (5.0, 15.0, 40.0, 90.0)
#: The longest that a call waits for its answer, and for a connection.
READ_TIMEOUT = 10.0
CONNECT_TIMEOUT = 3.0


class Hub(Protocol):
    """Where webhooks arrive."""

    def receive(self, store: Store, topic: str, webhook_id: str, told: Told) -> bool:
        """Store it; whether it is acknowledged."""
        ...


class Wire:
    """The network of one run."""

    def __init__(
        self,
        scheduler: Scheduler,
        rng: random.Random,
        faults: Faults,
        hub: Hub,
        tell: Callable[[str, int, Callable[[], str]], object],
    ) -> None:
        self.scheduler = scheduler
        self.tell = tell
        self.rng = rng
        self.faults = faults
        self.hub = hub
        #: When the faults began: windows count from then.
        self.began = 0.0
        #: So many of the next writes are lost on their way.
        self.silent_writes = 0
        self.sent = 0
        self.lost = 0
        self.acknowledged = 0
        #: Messages that are under way, and those that arrive only when all is over.
        self.under_way = 0
        self.very_late: list[Callable[[], object]] = []

    # --- webhooks -----------------------------------------------------------------------------------------------

    def send(self, store: Store, topic: str, told: Told) -> None:
        """A store tells of something, once; what arrives is another matter."""
        faults, rng = self.faults, self.rng
        self.sent += 1
        webhook_id = f"{store.number}-{self.sent}"
        if rng.random() < faults.webhook_lost:
            self.lost += 1
            return
        if rng.random() < faults.webhook_very_late:
            self.very_late.append(lambda: self._deliver(store, topic, webhook_id, told, 0))
            return
        copies = 2 if rng.random() < faults.webhook_doubled else 1
        for _ in range(copies):
            self._deliver_after(rng.expovariate(1 / faults.webhook_delay), store, topic, webhook_id, told, 0)

    def _deliver_after(
        self, seconds: float, store: Store, topic: str, webhook_id: str, told: Told, attempt: int
    ) -> None:
        self.under_way += 1
        self.scheduler.after(seconds, "webhook", self._arrive, store, topic, webhook_id, told, attempt)

    def _arrive(self, store: Store, topic: str, webhook_id: str, told: Told, attempt: int) -> None:
        self.under_way -= 1
        self._deliver(store, topic, webhook_id, told, attempt)

    def _deliver(self, store: Store, topic: str, webhook_id: str, told: Told, attempt: int) -> None:
        if self.hub.receive(store, topic, webhook_id, told):
            self.acknowledged += 1
        elif attempt < len(REDELIVERED_AFTER):
            self._deliver_after(REDELIVERED_AFTER[attempt], store, topic, webhook_id, told, attempt + 1)
        else:
            self.lost += 1

    # --- calls --------------------------------------------------------------------------------------------------

    def window(self, windows: Sequence[Window], store: Store) -> Window | None:
        """The window a store is in now."""
        now = self.scheduler.time - self.began
        for window in windows:
            if window.which == store.number and window.start <= now < window.start + window.seconds:
                return window
        return None

    def left(self, window: Window) -> float:
        """Seconds until the window ends."""
        return max(0.01, self.began + window.start + window.seconds - self.scheduler.time)


class StoreConnector:
    """One store's API over a bad line. `step` is passed after every wait: a process may end or stall there."""

    capabilities = Capabilities(
        compare_and_set=True, idempotency_keys=True, rows_per_write=250, levels_per_read=100, orders_per_read=50
    )

    def __init__(self, wire: Wire, store: Store, step: Callable[[], None]) -> None:
        self._wire = wire
        self._store = store
        self._step = step
        #: When calls were made, for the auditor.
        self.calls: list[float] = []

    def write_quantities(self, changes: Sequence[QuantityChange], *, key: str, reference: str) -> WriteResult:
        self._tell("write", lambda: f"{key[-4:]}: {', '.join(map(_brief, changes))}")
        try:
            answer = self._call(lambda: self._store.write(changes, key), is_write=True)
        except ChannelError as error:
            says = repr(error)
            self._tell("no answer", lambda: f"{key[-4:]}: {says}")
            raise
        self._tell("written", lambda: f"{key[-4:]}: {' '.join(row.outcome for row in answer.rows)}")
        return answer

    def read_levels(self, inventory_item_ids: Sequence[str]) -> tuple[LevelState, ...]:
        return self._call(lambda: self._store.levels(inventory_item_ids))

    def read_orders_since(self, since: datetime, *, cursor: str | None) -> OrderPage:
        return self._call(lambda: self._store.orders_since(since, cursor))

    def read_orders(self, order_ids: Sequence[str]) -> tuple[PolledOrder, ...]:
        return self._call(lambda: self._store.orders_by_id(order_ids))

    @property
    def its_time(self) -> datetime | None:
        return self._store.now()

    def _call(self, execute: Callable[[], T], *, is_write: bool = False) -> T:
        wire, faults = self._wire, self._wire.faults
        rng, scheduler = wire.rng, wire.scheduler
        self.calls.append(scheduler.time)
        if faults.outages and wire.window(faults.outages, self._store):
            self._wait(CONNECT_TIMEOUT if rng.random() < 0.5 else 0.05)
            raise Unavailable("the store does not answer")
        if faults.throttles and (window := wire.window(faults.throttles, self._store)):
            self._wait(0.05)
            raise Throttled("the store asks to wait", retry_after=min(5.0, wire.left(window)))
        if faults.clogs and (window := wire.window(faults.clogs, self._store)):
            return self._clogged(execute, wire.left(window), is_write)
        if is_write and wire.silent_writes:
            wire.silent_writes -= 1
            self._wait(READ_TIMEOUT)
            raise _silence(is_write)
        there = rng.uniform(0.02, 0.3)
        fate = rng.random()
        if (fate := fate - faults.request_lost) < 0:
            self._wait(READ_TIMEOUT)
            raise _silence(is_write)
        if (fate := fate - faults.request_late) < 0:
            scheduler.after(READ_TIMEOUT + rng.uniform(5, 60), "late request", execute)
            self._wait(READ_TIMEOUT)
            raise _silence(is_write)
        if (fate := fate - faults.answer_lost) < 0:
            self._wait(there)
            execute()
            self._wait(READ_TIMEOUT - there)
            raise _silence(is_write)
        if (fate := fate - faults.server_error) < 0:
            self._wait(there)
            if rng.random() < 0.3:
                execute()
            self._wait(0.05)
            raise OutcomeUnknown("HTTP 502") if is_write else Unavailable("HTTP 502")
        if (fate := fate - faults.throttled) < 0:
            self._wait(there)
            if rng.random() < 0.3:
                execute()
            raise Throttled("HTTP 429", retry_after=rng.uniform(0.5, 5.0))
        if (fate := fate - faults.malformed) < 0:
            self._wait(there)
            execute()
            self._wait(0.05)
            raise OutcomeUnknown("an unreadable answer") if is_write else Unavailable("an unreadable answer")
        if (fate := fate - faults.unauthorized) < 0:
            self._wait(there)
            if rng.random() < 0.5:
                raise NotAuthorized("HTTP 401")
            self._wait(rng.uniform(0.1, 0.6))  # for a fresh token, with which it is asked once more
            return self._call(execute, is_write=is_write)
        self._wait(there)
        answer = execute()
        self._wait(rng.uniform(0.02, 0.3))
        return answer

    def _clogged(self, execute: Callable[[], T], seconds: float, is_write: bool) -> T:
        """The request waits in the line until it is free again; our patience may end before."""
        if seconds <= READ_TIMEOUT:
            self._wait(seconds)
            answer = execute()
            self._wait(0.05)
            return answer
        self._wire.scheduler.after(seconds, "late request", execute)
        self._wait(READ_TIMEOUT)
        raise _silence(is_write)

    def _tell(self, label: str, what: Callable[[], str]) -> None:
        self._wire.tell(label, self._store.number, what)

    def _wait(self, seconds: float) -> None:
        self._wire.scheduler.sleep(seconds)
        self._step()

    # --- what the simulated acts do not ask -------------------------------------------------------------------------

    def read_locations(self) -> tuple[LocationState, ...]:
        return ()

    def read_catalogue(self) -> Iterator[tuple[VariantState, ...]]:
        return iter(())

    def read_variants(self, product_id: str) -> tuple[VariantState, ...]:
        return ()

    def activate_level(self, *, inventory_item_id: str, location_id: str, key: str) -> None:
        raise NotImplementedError

    def ensure_webhooks(self, callback_url: str) -> SubscriptionReport:
        return SubscriptionReport()

    def read_scopes(self) -> frozenset[str]:
        return frozenset()


def _brief(change: QuantityChange) -> str:
    return f"{change.inventory_item_id} {change.from_quantity}->{change.to_quantity}"


def _silence(is_write: bool) -> ChannelError:
    return OutcomeUnknown("no answer") if is_write else Unavailable("no answer")
