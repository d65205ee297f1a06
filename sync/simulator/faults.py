"""The swarm: what goes wrong in a run, and how often. Each seed draws each rate anew, so that faults meet in all mixtures.

Rates are shares (0 to 1) of whatever they are about; times are seconds. Ranges after the published ones of systems that are
tested this way, and after what channels document of themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

LEVELS = ("none", "light", "full")

#: A process that is stopped longer than this and then sends is outside the promise of `split`.
ZOMBIE_SECONDS = 200.0


@dataclass(frozen=True, slots=True)
class Window:
    """Something is away from `start` for `seconds`; `which` says whose, where that matters."""

    start: float
    seconds: float
    which: int = 0


@dataclass(frozen=True, slots=True)
class Jump:
    """The database's clock is set, ahead or back, by `seconds`."""

    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Faults:
    """One run's share of each. As it stands here: a good day."""

    # webhooks
    webhook_delay: float = 0.2  # mean
    webhook_very_late: float = 0.0  # of them: until long after everything else has come to rest
    webhook_lost: float = 0.0
    webhook_doubled: float = 0.0
    webhook_merged: float = 0.0  # shows the level as it is when it is sent, not as it was when it changed
    # calls to channels
    request_lost: float = 0.0
    answer_lost: float = 0.0
    request_late: float = 0.0  # it is executed 5 to 60 s after we gave it up
    server_error: float = 0.0
    throttled: float = 0.0  # some of them are executed all the same
    malformed: float = 0.0
    unauthorized: float = 0.0  # the token has expired; for half of them another is at hand
    list_lag: float = 0.0  # the order list's, at most
    orders_per_page: int = 50
    keeps_refusals: bool = False
    hides_refusals: bool = False
    replays_stale: bool = False
    store_clock_error: float = 0.0  # at most
    # processes
    killed: float = 0.0  # per step
    stopped: float = 0.0  # per step, for 5 to 120 s
    stopped_long: float = 0.0  # per step, for longer than ZOMBIE_SECONDS: outside the promise
    # locks and messages
    lock_lost: float = 0.0
    bell_lost: float = 0.0
    bell_doubled: float = 0.0
    # the database
    commit_unknown: float = 0.0
    database_errors: float = 0.0  # per transaction
    # what happens once or a few times, at set times
    flushes: tuple[float, ...] = ()
    database_down: tuple[Window, ...] = ()
    hub_down: tuple[Window, ...] = ()
    outages: tuple[Window, ...] = ()  # of a store
    clogs: tuple[Window, ...] = ()  # a store answers, after the window
    throttles: tuple[Window, ...] = ()
    clock_jumps: tuple[Jump, ...] = ()  # back; ahead by more than a second: outside the promise
    refusals: tuple[Window, ...] = ()  # a store takes no write of one of its articles
    stops: tuple[Window, ...] = ()  # the kill switch is on: nothing is written to any store
    unmapped: tuple[Window, ...] = ()  # a listing of a store is mapped to no SKU
    variants_deleted: tuple[Window, ...] = ()  # a store deletes an article; after the window we know it
    #: In so many warehouses the stock is, and from one or more of them each store sells.
    warehouses: int = 1
    # people
    cancelled: float = 0.0  # of orders
    deleted: float = 0.0  # of cancelled ones
    refunded: float = 0.0
    edited: float = 0.0
    shipped: float = 0.2
    losses_by_hand: int = 0  # times a merchant takes units out of a counter
    gains_by_hand: int = 0  # times a merchant puts some in: outside the promise

    def healed(self) -> Faults:
        """What is left when everything works again: delays of a good day."""
        return Faults(
            list_lag=self.list_lag,
            orders_per_page=self.orders_per_page,
            keeps_refusals=self.keeps_refusals,
            hides_refusals=self.hides_refusals,
            replays_stale=self.replays_stale,
            store_clock_error=self.store_clock_error,
        )

    def last(self, *, refused_for: float) -> float:
        """Until when they go on: until every outage is over, and what was refused may be tried again (seconds)."""
        return max(
            (
                *(window.start + window.seconds for window in self.outages),
                *(window.start + window.seconds + refused_for for window in self.refusals),
            ),
            default=0.0,
        )

    def describe(self) -> str:
        """What differs from a good day, for people."""
        good = Faults()
        told = [
            f"{f.name}={_brief(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(good, f.name)
        ]
        return ", ".join(told) or "none"


def _brief(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple):
        return "[" + " ".join(_brief(each) for each in value) + "]"
    if isinstance(value, Window):
        return f"{value.which}@{value.start:.0f}+{value.seconds:.0f}"
    if isinstance(value, Jump):
        return f"{value.seconds:+.0f}@{value.at:.0f}"
    return str(value)


@dataclass(slots=True)
class Swarm:
    """Draws a run's faults."""

    rng: random.Random
    seconds: float
    stores: int
    #: A seed leaves about this share of all faults out altogether: what is rare alone may be common in company.
    absent: float = 0.25
    scale: float = 1.0

    def draw(self, *, gains_by_hand: bool, long_stops: bool, clock_ahead: bool) -> Faults:
        rate = self._rate
        rng = self.rng
        calls = 0.2 * self.scale
        faults = Faults(
            webhook_delay=0.2 * (150 ** (rng.random() * self.scale)) if self._is_there() else 0.2,
            webhook_very_late=rate(0.01),
            webhook_lost=rate(0.25),
            webhook_doubled=rate(0.4),
            webhook_merged=rate(0.5),
            request_lost=rate(calls),
            answer_lost=rate(calls),
            request_late=rate(calls),
            server_error=rate(calls),
            throttled=rate(0.05),
            malformed=rate(0.03),
            unauthorized=rate(0.02),
            list_lag=rate(20.0),
            orders_per_page=rng.choice((1, 2, 3, 5)) if rng.random() < 0.3 else 50,
            keeps_refusals=rng.random() < 0.5,
            hides_refusals=rng.random() < 0.3,
            replays_stale=rng.random() < 0.3,
            store_clock_error=rate(0.9),
            killed=rate(0.02),
            stopped=rate(0.003),
            stopped_long=0.002 if long_stops else 0.0,
            lock_lost=rate(0.5),
            bell_lost=rate(0.3),
            bell_doubled=rate(0.3),
            commit_unknown=rate(0.01),
            database_errors=rate(0.005),
            flushes=tuple(window.start for window in self._several(4, lambda: 0.0)),
            database_down=self._several(2, lambda: rng.uniform(1, 8)),
            hub_down=self._several(1, lambda: rng.uniform(1, 30)),
            outages=self._several(3, lambda: rng.uniform(1, 60)) + self._long_outage(),
            clogs=self._swizzled(),
            throttles=self._several(2, lambda: rng.uniform(1, 20)),
            clock_jumps=self._jumps(clock_ahead),
            refusals=self._several(3, lambda: rng.uniform(5, 120)) if rng.random() < 0.1 * self.scale else (),
            cancelled=rate(0.15),
            refunded=rate(0.15),
            edited=rate(0.08),
            shipped=rate(0.5),
            losses_by_hand=rng.randrange(4) if self._is_there() else 0,
            deleted=rate(1.0),
            unmapped=self._several(2, lambda: rng.uniform(5, 120)),
            variants_deleted=self._several(2, lambda: rng.uniform(0.2, 60)),
            warehouses=rng.choice((2, 3)) if rng.random() < 0.35 * self.scale else 1,
            stops=self._several(1, lambda: rng.uniform(5, 60)) if rng.random() < 0.5 else (),
        )
        return replace(faults, gains_by_hand=rng.randrange(1, 4)) if gains_by_hand else faults

    def _is_there(self) -> bool:
        return self.rng.random() >= self.absent

    def _rate(self, most: float) -> float:
        """Zero, or anything up to `most`."""
        return self.rng.random() * most * self.scale if self._is_there() else 0.0

    def _several(self, most: int, length: Callable[[], float]) -> tuple[Window, ...]:
        count = self.rng.randrange(most + 1) if self._is_there() else 0
        found = [
            Window(self.rng.uniform(0, self.seconds), length(), self.rng.randrange(self.stores)) for _ in range(count)
        ]
        return tuple(sorted(found, key=lambda window: window.start))

    def _long_outage(self) -> tuple[Window, ...]:
        """Ten minutes, long after the last shopper has gone."""
        if self.rng.random() >= 0.15 * self.scale:
            return ()
        return (Window(self.rng.uniform(0, self.seconds), 600.0, self.rng.randrange(self.stores)),)

    def _jumps(self, ahead: bool) -> tuple[Jump, ...]:
        """The database's clock is set once or twice: by up to a second in either direction, or back by up to an hour."""
        rng = self.rng
        if rng.random() >= 0.25 * self.scale and not ahead:
            return ()
        moments = sorted(rng.uniform(0, self.seconds) for _ in range(rng.randint(1, 2)))
        if ahead:
            return tuple(Jump(moment, 3600.0 ** rng.random()) for moment in moments)
        steps = (rng.uniform(-1, 1), -(3600.0 ** rng.random()))
        return tuple(Jump(moment, rng.choice(steps)) for moment in moments)

    def _swizzled(self) -> tuple[Window, ...]:
        """Some of the stores are clogged one by one, and freed one by one in another order."""
        rng = self.rng
        if rng.random() >= 0.3 * self.scale:
            return ()
        chosen = rng.sample(range(self.stores), rng.randint(1, self.stores))
        start = rng.uniform(0, self.seconds * 0.7)
        clogged = {store: start + 2.0 * place for place, store in enumerate(chosen)}
        rng.shuffle(chosen)
        freed = {store: start + 2.0 * len(chosen) + 3.0 * (place + 1) for place, store in enumerate(chosen)}
        return tuple(Window(clogged[store], freed[store] - clogged[store], store) for store in sorted(chosen))


def draw(
    level: str,
    rng: random.Random,
    *,
    seconds: float,
    stores: int,
    gains_by_hand: bool = False,
    long_stops: bool = False,
    clock_ahead: bool = False,
) -> Faults:
    """The faults of a run. Raises ValueError for a level that does not exist."""
    if level == "none":
        return Faults()
    if level not in LEVELS:
        raise ValueError(f"There are no faults {level!r}; choose one of {', '.join(LEVELS)}.")
    swarm = Swarm(rng, seconds, stores, scale=1.0 if level == "full" else 0.25)
    return swarm.draw(gains_by_hand=gains_by_hand, long_stops=long_stops, clock_ahead=clock_ahead)
