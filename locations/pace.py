"""How fast things sell, how fast news travels, and what may be sold before the news arrives. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

#: Before anything is measured: news is taken to travel as slowly as may be before somebody is called. The first that arrives
#: makes the estimate fall by most of it.
UNKNOWN_PROPAGATION_SECONDS = 60.0
#: What takes longer than this was lost and found again by a reconciliation; it counts as no more.
LONGEST_PROPAGATION_SECONDS = 600.0
#: The memory of a slow time fades by half in this time.
PROPAGATION_HALF_LIFE_SECONDS = 300.0
PROPAGATION_LIFETIME_SECONDS = PROPAGATION_HALF_LIFE_SECONDS / math.log(2)

#: An estimate is written down when it changed by such a share, or that long after the last time.
NOTED_CHANGE = 0.1
NOTED_AFTER_SECONDS = 10.0

#: A rush shows in the sales of some minutes, what a store usually sells in those of a day.
RUSH_SECONDS = 60.0
USUAL_SECONDS = 86_400.0
#: How long a large order is expected to come again, while smaller ones come. Silence proves nothing.
LARGEST_SECONDS = 30 * 86_400.0

#: From here on the tail of a Poisson distribution is bounded instead of summed: its terms would underflow.
LARGEST_SUMMED_MEAN = 500.0


@dataclass(frozen=True, slots=True)
class Propagation:
    """How long a sale in one store takes to show in the others: a high estimate, for one channel.

    It rises at once to the slowest that is observed: a unit sold twice costs more than a store that shows 0 for a while.
    It falls with time and not with the number of observations, so that a rush of fast ones does not wipe out what was
    slow a minute ago; and only while there are observations, since silence proves nothing.
    """

    seconds: float = UNKNOWN_PROPAGATION_SECONDS
    observed_at: datetime | None = None

    def observed(self, seconds: float, now: datetime) -> Propagation:
        """The estimate after news that took so many seconds arrived at `now`."""
        took = min(max(seconds, 0.001), LONGEST_PROPAGATION_SECONDS)
        if self.observed_at is None:
            # One observation is better than a guess, and not yet a rule.
            return Propagation(max(took, math.sqrt(self.seconds * took)), now)
        # A silence counts as one half-life at most.
        idle = min(max(0.0, (now - self.observed_at).total_seconds()), PROPAGATION_HALF_LIFE_SECONDS)
        faded = self.seconds * math.exp(-idle / PROPAGATION_LIFETIME_SECONDS)
        return Propagation(max(faded, took), max(now, self.observed_at))

    def is_worth_noting(self, after: Propagation, now: datetime) -> bool:
        """Whether `after` is to be written down: most observations change nothing to speak of, and a row that everybody
        writes would be in everybody's way.
        """
        return (
            self.observed_at is None
            or abs(after.seconds - self.seconds) > NOTED_CHANGE * self.seconds
            or (now - self.observed_at).total_seconds() > NOTED_AFTER_SECONDS
        )


def grows_materially(before_seconds: float, after_seconds: float) -> bool:
    """Whether news takes so much longer that what is shown is computed anew for it: a power of two lies between.

    Computing costs little, and each number that changes a call; an estimate that wavers must not cost one each time.
    """
    return after_seconds > before_seconds and (
        before_seconds <= 0 or math.floor(math.log2(after_seconds)) > math.floor(math.log2(before_seconds))
    )


@dataclass(frozen=True, slots=True)
class Velocity:
    """How fast something sells: units sold, each counting less as it becomes older; and how many at once."""

    rush_units: float = 0.0
    usual_units: float = 0.0
    largest_sale: float = 0.0
    sold_at: datetime | None = None

    def sold(self, units: int, now: datetime, *, largest: int | None = None) -> Velocity:
        """The state after sales of `units` at `now`, `largest` of them at once (None: all).

        Sales of long ago that are learnt of late count as of now.
        """
        rush, usual = self._faded(now)
        known = 0.0 if self.sold_at is None else self.largest_sale * math.exp(-self._age(now) / LARGEST_SECONDS)
        at_once = max(known, units if largest is None else largest)
        return Velocity(rush + units, usual + units, at_once, max(now, self.sold_at or now))

    @property
    def lot(self) -> int:
        """The units that one sale may take."""
        return max(1, math.ceil(self.largest_sale))

    def units_per_second(self, now: datetime) -> float:
        """What to expect: the pace of the last minutes or that of the last day, whichever is higher."""
        if self.sold_at is None:
            return 0.0
        rush, usual = self._faded(now)
        return max(rush / RUSH_SECONDS, usual / USUAL_SECONDS)

    def weight(self, now: datetime) -> float:
        """A store's weight when shares follow velocity: what it usually sells, and one unit, so that none counts nothing."""
        return 1.0 + self._faded(now)[1]

    def _faded(self, now: datetime) -> tuple[float, float]:
        if self.sold_at is None:
            return 0.0, 0.0
        age = self._age(now)
        return self.rush_units * math.exp(-age / RUSH_SECONDS), self.usual_units * math.exp(-age / USUAL_SECONDS)

    def _age(self, now: datetime) -> float:
        """Seconds since the latest sale."""
        assert self.sold_at is not None
        return max(0.0, (now - self.sold_at).total_seconds())


def threshold(
    units_per_second: float, window_seconds: float, *, lot: int = 1, risk: float = 1e-6, floor: int = 2
) -> int:
    """The units that may be sold within one window, but for a chance of `risk`; at least `floor`.

    The pace is not known, it was seen: in the sales of `RUSH_SECONDS`. What may come after so many follows a negative
    binomial distribution (Poisson sales whose pace has Jeffreys' prior). So little is kept back where news is fast, and much
    where it is slow, even of what has not sold yet: the first sale may be the first of a rush. What `burst` says of sales
    that take `lot` units each is the least.
    """
    foreseen = _most_foreseen(units_per_second * RUSH_SECONDS + 0.5, window_seconds / RUSH_SECONDS, risk)
    return max(foreseen, burst(units_per_second, window_seconds, lot=lot, risk=risk, floor=floor))


def burst(units_per_second: float, window_seconds: float, *, lot: int = 1, risk: float = 1e-6, floor: int = 2) -> int:
    """The units that a burst of sales within one window does not exceed, but for a chance of `risk`; at least `floor`, and
    at least one sale.

    Sales are taken to be independent (a Poisson process) and to take `lot` units each. With b the smallest number of sales
    with P(N > b) < risk, the answer is that of b sales.
    """
    mean = units_per_second * window_seconds / lot
    assert mean >= 0, "a pace and a duration"
    assert 1e-9 <= risk < 1, "a probability that sums of fractions can still tell from zero"
    sales = _most_by_chernoff(mean, risk) if mean > LARGEST_SUMMED_MEAN else _most(mean, risk)
    return max(floor, lot * max(1, sales))


def _most_foreseen(shape: float, ratio: float, risk: float) -> int:
    """Of what sold `shape` times in some time: the most that sells in `ratio` times as long."""
    none = -shape * math.log1p(ratio)  # the logarithm of the chance that there are none
    if none < -LARGEST_SUMMED_MEAN:
        return _most_foreseen_by_chernoff(shape, ratio, risk)
    count, term, share = 0, math.exp(none), ratio / (1 + ratio)
    tail = -math.expm1(none)
    while tail >= risk:
        count += 1
        term *= (count - 1 + shape) / count * share
        tail -= term
    return count


def _most_foreseen_by_chernoff(shape: float, ratio: float, risk: float) -> int:
    """An upper bound of it: P(N > b) <= (mean / b)^b ((b + shape) / (mean + shape))^(b + shape), solved by bisection."""
    mean = shape * ratio

    def is_rare(units: float) -> bool:
        return (units + shape) * math.log((units + shape) / (mean + shape)) - units * math.log(units / mean) < math.log(
            risk
        )

    low, high = math.floor(mean), math.ceil(2 * mean)
    while not is_rare(high):
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_rare(middle) else (middle, high)
    return high


def _most(mean: float, risk: float) -> int:
    count, term = 0, math.exp(-mean)
    tail = -math.expm1(-mean)
    while tail >= risk:
        count += 1
        term *= mean / count
        tail -= term
    return count


def _most_by_chernoff(mean: float, risk: float) -> int:
    """An upper bound of it: P(N > b) <= exp(-mean) (e mean / b)^b, solved for b by bisection."""
    low, high = math.floor(mean), math.ceil(4 * mean)
    while high - low > 1:
        middle = (low + high) // 2
        if middle - mean - middle * math.log(middle / mean) < math.log(risk):
            high = middle
        else:
            low = middle
    return high
