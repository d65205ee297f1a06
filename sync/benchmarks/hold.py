"""`bench hold`: decisions a second with many callers at the same time, each "yes" committed.

Beside the default strategy: a bare decrement in Lua, which promises nothing that outlives Redis, and the other two. Then
each strategy gives out what is scarce, to see that it gives no more than there is.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import redis
from django.conf import settings
from django.db import connection

from inventory import holding, stock
from inventory.holds import BATCH_MAX, Ask
from inventory.models import Sku, StockLevel, Strategy
from sync.benchmarks import goods, numbers
from sync.benchmarks.figures import Case, percentile
from synctec.lib import sql

CALLERS = 32
#: Over so many SKUs, and over one.
SPREAD = 1_000
#: Holds of each desk before anything is measured.
EARLIER = 2_000
SCARCE_UNITS = 40
DECREMENT = """
local left = tonumber(redis.call('GET', KEYS[1]))
if left < 1 then return 0 end
redis.call('SET', KEYS[1], left - 1)
return 1
"""

Decide = Callable[[random.Random], bool]


class Oversold(Exception):
    """More was given than there was, or promised than is stored."""


def run(*, seconds: float, stores: int, skus: int) -> list[Case]:
    """Measure for about so many seconds per figure. Raises Oversold."""
    spread = min(SPREAD, skus)
    made = goods.stock_up(stores=stores, skus=max(skus, 3 * (spread + 1)), bundles=0)
    desks = {strategy: _Desk(made.merchant_id, strategy, place, spread) for place, strategy in enumerate(Strategy)}
    bare = _BareGate(spread)
    for desk in desks.values():
        desk.fill()
    # As autovacuum does within a minute: plans made for tables of a few rows (also those of foreign keys) read all of them.
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    cases = []
    for name, hot in (("one hot SKU", True), (f"{spread} SKUs", False)):
        figures = {strategy: _drive(desk.decider(hot=hot), seconds) for strategy, desk in desks.items()}
        against = {"a bare decrement in Lua, not durable": _drive(bare.decider(hot=hot), seconds)}
        against |= {f"the {other} strategy": figures[other] for other in (Strategy.PESSIMISTIC, Strategy.OPTIMISTIC)}
        figure, latencies = figures[Strategy.ATOMIC]
        cases += [
            Case(
                case=f"{stores} stores, {skus} SKUs, {CALLERS} callers, {name}",
                unit="decisions/s",
                figure=round(figure, 1),
                against=other,
                against_figure=round(other_figure, 1),
                notes={
                    "p50_ms": round(percentile(latencies, 0.5), 2),
                    "p99_ms": round(percentile(latencies, 0.99), 2),
                },
            )
            for other, (other_figure, _) in against.items()
        ]
    for desk in desks.values():
        desk.check()
    return cases


class _Desk:
    """Where holds of one strategy are asked for, on SKUs of its own: the last of them is scarce."""

    def __init__(self, merchant_id: int, strategy: str, place: int, spread: int) -> None:
        self._merchant_id = merchant_id
        first = 1 + place * (spread + 1)
        self._codes = [f"SKU-{number}" for number in range(first, first + spread + 1)]
        self._given = 0
        self._lock = threading.Lock()
        Sku.objects.filter(merchant=merchant_id, code__in=self._codes).update(strategy=strategy)

    def decider(self, *, hot: bool) -> Decide:
        codes = self._codes[:1] if hot else self._codes[:-1]
        return lambda rng: self._ask(rng.choice(codes))

    def _ask(self, code: str) -> bool:
        try:
            asks = [Ask(sku=code, quantity=1)]
            (answer,) = holding.hold(asks, merchant_id=self._merchant_id, now=datetime.now(UTC))
        finally:
            sql.give_back()  # as at the end of a request
        if answer.held is not None:
            with self._lock:
                self._given += 1
        return answer.held is not None

    def fill(self) -> None:
        """Make holds, so that the tables are not those of an empty shop."""
        codes = itertools.cycle(self._codes[:-1])
        for _ in range(EARLIER // BATCH_MAX):
            asks = [Ask(sku=code, quantity=1) for code in itertools.islice(codes, BATCH_MAX)]
            answers = holding.hold(asks, merchant_id=self._merchant_id, now=datetime.now(UTC))
            self._given += sum(answer.held is not None for answer in answers)

    def check(self) -> None:
        """Ask for more of the scarce SKU than there is; compare all that was promised with what is stored."""
        scarce = self._codes[-1]
        level = StockLevel.objects.get(merchant=self._merchant_id, sku__code=scarce)
        stock.adjust(
            merchant_id=self._merchant_id,
            sku_id=level.sku_id,
            warehouse_id=level.warehouse_id,
            delta=SCARCE_UNITS - numbers.UNITS,
            reason="nearly sold out",
            user=None,
            now=datetime.now(UTC),
        )
        wanted = list(itertools.repeat(scarce, 2 * SCARCE_UNITS))
        with ThreadPoolExecutor(CALLERS) as threads:
            given = sum(threads.map(self._ask, wanted))
        ((stored,),) = sql.rows(
            """
            SELECT coalesce(sum(hold.quantity), 0) FROM inventory_hold hold JOIN inventory_sku sku ON sku.id = hold.sku_id
            WHERE sku.code = ANY(%s::text[])
            """,
            [self._codes],
        )
        if given != SCARCE_UNITS or stored != self._given:
            raise Oversold(f"{given} of {SCARCE_UNITS} given; {self._given} promised, {stored} stored")


class _BareGate:
    """A counter in Redis and nothing else."""

    def __init__(self, spread: int) -> None:
        self._redis = redis.Redis.from_url(settings.REDIS_URL, max_connections=CALLERS)
        self._script = self._redis.register_script(DECREMENT)
        self._keys = [f"bench:{number}" for number in range(spread)]
        self._redis.mset(dict.fromkeys(self._keys, numbers.UNITS))

    def decider(self, *, hot: bool) -> Decide:
        keys = self._keys[:1] if hot else self._keys
        return lambda rng: bool(self._script(keys=[rng.choice(keys)]))


def _drive(decide: Decide, seconds: float) -> tuple[float, list[float]]:
    """Decisions a second of all callers together, and how long each took (ms, ascending)."""
    start = threading.Barrier(CALLERS)

    def call(seed: int) -> list[float]:
        rng, latencies = random.Random(seed), []
        start.wait(timeout=30)
        ends_at = time.perf_counter() + seconds
        while (began := time.perf_counter()) < ends_at:
            decide(rng)
            latencies.append((time.perf_counter() - began) * 1000)
        connection.close()
        return latencies

    began = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as threads:
        latencies = sorted(itertools.chain.from_iterable(threads.map(call, range(CALLERS))))
    return len(latencies) / (time.perf_counter() - began), latencies
