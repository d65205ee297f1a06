"""Measuring the sync by the stores' own clocks: how long after a sale every other store stopped offering its units.

A sale is *reflected* at another store once that store has been lowered, by us, by all units that others sold up to it.
What a store shows = what it began with - its own sales - what others' sales took from it; so the last part can be read
off its feed of changes, exactly, as long as nothing but sales moves the stock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a level, as the store's feed tells it. `at_us` is the store's own clock in microseconds."""

    store: str
    sku: str
    at_us: int
    delta: int
    available: int
    is_sale: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """Latencies of all sales, in milliseconds: until the last of the other stores showed them."""

    sales: int
    unreflected: int
    latencies_ms: tuple[float, ...]

    def percentile(self, share: float) -> float | None:
        """The latency that `share` of the sales do not exceed."""
        if not self.latencies_ms:
            return None
        ordered = sorted(self.latencies_ms)
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def measure(changes: Iterable[Change], stores: Sequence[str]) -> Measured:
    """Latency of every sale, wherever it was made, until all of `stores` but its own showed it."""
    by_sku: dict[str, dict[str, list[Change]]] = defaultdict(lambda: defaultdict(list))
    for change in changes:
        by_sku[change.sku][change.store].append(change)
    latencies: list[float] = []
    sales = unreflected = 0
    for feeds in by_sku.values():
        for latency_ms in _latencies(feeds, stores):
            sales += 1
            if latency_ms is None:
                unreflected += 1
            else:
                latencies.append(latency_ms)
    return Measured(sales, unreflected, tuple(latencies))


def _latencies(feeds: Mapping[str, Sequence[Change]], stores: Sequence[str]) -> Iterator[float | None]:
    all_sales = sorted(
        (change for feed in feeds.values() for change in feed if change.is_sale), key=lambda sale: sale.at_us
    )
    reflected = {store: _reflected(feeds.get(store, ())) for store in stores}
    sold_by: dict[str, int] = defaultdict(int)
    sold = 0
    for sale in all_sales:
        sold -= sale.delta
        sold_by[sale.store] -= sale.delta
        moments = [_moment(reflected[store], sold - sold_by[store]) for store in stores if store != sale.store]
        if any(moment is None for moment in moments):
            yield None
        else:
            latest = max((moment for moment in moments if moment is not None), default=sale.at_us)
            yield max(0.0, (latest - sale.at_us) / 1000)


def _reflected(feed: Sequence[Change]) -> tuple[list[int], list[int]]:
    """Units of others' sales taken from this store, growing, and when; a store that shows nothing reflects any number."""
    units: list[int] = []
    moments: list[int] = []
    taken = 0
    for change in sorted(feed, key=lambda change: change.at_us):
        if not change.is_sale:
            taken -= change.delta
        reached = 1_000_000_000 if change.available <= 0 else taken
        if not units or reached > units[-1]:
            units.append(reached)
            moments.append(change.at_us)
    return units, moments


def _moment(reflected: tuple[list[int], list[int]], units: int) -> int | None:
    counts, moments = reflected
    if units <= 0:
        return 0
    place = bisect_left(counts, units)
    return moments[place] if place < len(moments) else None
