"""`bench apply`: order events a second, from stored inbox rows to committed ledger and dirty marks.

The events are stored in advance; then worker processes call `sync.apply.apply_batch` until the time is over or nothing is
left. Beside it, as many processes put the same kind of events through `sync.benchmarks.row_by_row`. Afterwards the auditor
looks at the books.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import LiteralString

from django.db import connection

from channels import bodies
from sync import apply as applying
from sync import invariants, live
from sync.benchmarks import goods, numbers, row_by_row
from sync.benchmarks.bodies import OrderBodies
from sync.benchmarks.figures import Case
from sync.benchmarks.workers import Crew, Drained
from synctec.lib import sql
from synctec.lib.ids import uuid7s

#: Every so many SKUs there is a bundle.
SKUS_PER_BUNDLE = 10
WORKERS = (1, 2)
#: Events of the first look, which also warms caches and plans.
TRIAL_EVENTS = 900
#: More than one process gets through row by row.
PLAIN_PER_SECOND = 500
#: More would only fill the disk: a body has about seven kilobytes.
EVENTS_MAX = 150_000
#: What the workers do, by name: they are new processes.
BATCH, ONE = f"{__name__}.apply_batch", f"{__name__}.apply_one"
AGAINST = "row by row through the ORM, one event per transaction"

_STORE: LiteralString = """
    COPY channels_inboxevent (id, merchant_id, channel_id, topic, webhook_id, body_kept_on, body_sha256, hlc, received_at,
        correlation_id)
    FROM STDIN (FORMAT BINARY)
"""
_TYPES = ["int8", "int8", "int8", "text", "text", "date", "bytea", "int8", "timestamptz", "uuid"]
_NUMBERS: LiteralString = """
    SELECT nextval(pg_get_serial_sequence('channels_inboxevent', 'id')) FROM generate_series(1, %s)
"""
_KEEP: LiteralString = "COPY channels_inboxbody (merchant_id, event_id, kept_on, sealed) FROM STDIN (FORMAT BINARY)"
_KEEP_TYPES = ["int8", "int8", "date", "bytea"]


class BooksDiffer(Exception):
    """The work was not done as it should have been."""


def run(*, seconds: float, stores: int, skus: int) -> list[Case]:
    """Measure each case for about so many seconds. Raises BooksDiffer."""
    bundles = max(1, skus // SKUS_PER_BUNDLE)
    made = goods.stock_up(stores=stores, skus=skus, bundles=bundles)
    rng = random.Random(1)
    cases = {
        f"{skus} SKUs, uniform": lambda: rng.randint(1, skus),
        f"{skus} SKUs, one of them hot": lambda: 1,
        f"{bundles} bundles of {skus} SKUs": lambda: skus + rng.randint(1, bundles),
    }
    events = Events(made)
    with Crew(max(WORKERS)) as crew:
        return [_measure(f"{stores} stores, {name}", events, choose, crew, seconds) for name, choose in cases.items()]


def apply_batch(merchant_id: int, rng: random.Random) -> int:
    """What is measured: one batch; how many events it settled."""
    return applying.apply_batch(live.engine(), merchant_id=merchant_id).settled


def apply_one(merchant_id: int, rng: random.Random) -> int:
    """What it is held against: one event."""
    return int(row_by_row.apply_one(merchant_id=merchant_id, now=datetime.now(UTC)))


class Events:
    """Stores order events in advance, each of an order of its own."""

    def __init__(self, made: goods.Goods) -> None:
        self.merchant_id = made.merchant_id
        self._stores = itertools.cycle(made.stores)
        self._bodies = OrderBodies()
        self._orders = itertools.count(7_200_000_000_000)
        self.body_bytes = len(self._bodies.body(order_id=7_200_000_000_000, variant_ids=[numbers.STORE]))

    def store(self, count: int, choose: Callable[[], int]) -> None:
        """Put so many events into the inbox; `choose` gives the number of the SKU each is about."""
        now = datetime.now(UTC)
        today = bodies.day_of(now)
        ids = [event_id for (event_id,) in sql.rows(_NUMBERS, [count])]
        kept = []
        with connection.cursor() as cursor, cursor.copy(_STORE) as copy:
            copy.set_types(_TYPES)
            for event_id, order, store, correlation_id in zip(
                ids, self._orders, self._stores, uuid7s(count), strict=False
            ):
                channel = store.channel.pk
                body = self._bodies.body(order_id=order, variant_ids=[store.variant_id(choose())])
                kept.append((self.merchant_id, event_id, today, bodies.seal(body, channel_id=channel)))
                envelope = ("orders/create", f"bench-{order}", today, b"\0" * 32, order, now, correlation_id)
                copy.write_row((event_id, self.merchant_id, channel, *envelope))
        with connection.cursor() as cursor, cursor.copy(_KEEP) as copy:
            copy.set_types(_KEEP_TYPES)
            for row in kept:
                copy.write_row(row)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE channels_inboxevent, channels_inboxbody")
            cursor.execute("CHECKPOINT")

    def forget_the_rest(self) -> None:
        """What nobody has come to is not part of the next case."""
        sql.execute("DELETE FROM channels_inboxevent WHERE state = 'pending'")
        sql.execute("DELETE FROM sync_dirtysku")


def _measure(name: str, stored: Events, choose: Callable[[], int], crew: Crew, seconds: float) -> Case:
    stored.store(TRIAL_EVENTS, choose)
    trial = crew.drain(stored.merchant_id, BATCH, workers=1, seconds=seconds)
    batches: dict[int, Drained] = {}
    plain: dict[int, Drained] = {}
    for workers in WORKERS:
        for act, per_second, found in ((BATCH, trial.per_second, batches), (ONE, PLAIN_PER_SECOND, plain)):
            stored.store(min(EVENTS_MAX, int(per_second * seconds * workers * 1.5) + 100), choose)
            found[workers] = crew.drain(stored.merchant_id, act, workers=workers, seconds=seconds)
            stored.forget_the_rest()
    _audit()
    return Case(
        case=name,
        unit="events/s",
        figure=round(max(found.per_second for found in batches.values()), 1),
        against=AGAINST,
        against_figure=round(max(found.per_second for found in plain.values()), 1),
        notes={
            **{f"with_{workers}_workers": round(found.per_second, 1) for workers, found in batches.items()},
            **{f"against_with_{workers}_workers": round(found.per_second, 1) for workers, found in plain.items()},
            "events_applied": trial.events + sum(found.events for found in (*batches.values(), *plain.values())),
            "body_bytes": stored.body_bytes,
        },
    )


def _audit() -> None:
    # The auditor asks of every stock level: with what the planner knew of empty tables that takes minutes.
    sql.execute("ANALYZE")
    ((applied, booked),) = sql.rows(
        """
        SELECT (SELECT count(*) FROM channels_inboxevent WHERE state = 'applied'),
            (SELECT count(*) FROM sync_orderline WHERE applied_committed = 1)
        """
    )
    broken = [violation.name for violation in invariants.violations(when_quiet=False)]
    if broken or applied != booked:
        raise BooksDiffer(f"{applied} events applied, {booked} units booked; broken: {broken}")
