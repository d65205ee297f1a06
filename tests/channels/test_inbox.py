"""The inbox: stored once, committed before anything else, counted when repeated."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from django.conf import settings
from django.db import DataError, IntegrityError, OperationalError, connection, connections, transaction
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from channels import bodies, inbox
from channels.models import Channel, EventState, InboxEvent
from channels.protocol import Delivery, PolledOrder
from synctec.lib.combiner import NotDone
from synctec.lib.hlc import FUTURE_LIMIT_MS, pack, unpack
from synctec.lib.sql import rows
from tests.channels.cast import all_at_once

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def delivery(webhook_id: str = "w-1", topic: str = "orders/create") -> Delivery:
    return Delivery(
        topic=topic,
        account="north.myshopify.com",
        webhook_id=webhook_id,
        event_id="e-1",
        api_version="2026-10",
        triggered_at=NOON,
    )


def receive(channel: Channel, *, what: Delivery | None = None, body: bytes = b"{}") -> inbox.Receipt:
    return inbox.receive(
        channel_id=channel.pk,
        merchant_id=channel.merchant_id,
        delivery=what or delivery(),
        body=body,
        now=NOON,
    )


@pytest.mark.django_db(transaction=True)
class TestReceiving:
    def test_stores_the_delivery_raw_and_pending(self, north: Channel) -> None:
        body = b'{"id": 1, "odd": "\x00\xff"}'

        receipt = receive(north, body=body)

        event = InboxEvent.objects.get()
        assert (event.pk, event.correlation_id) == (receipt.event_id, receipt.correlation_id)
        assert not receipt.is_duplicate
        assert (event.merchant_id, event.channel_id, event.topic, event.webhook_id) == (
            north.merchant_id,
            north.pk,
            "orders/create",
            "w-1",
        )
        assert bodies.read(event) == body
        assert bytes(event.body_sha256) == hashlib.sha256(body).digest()
        assert (event.state, event.duplicates, event.attempts) == (EventState.PENDING, 0, 0)
        assert (event.triggered_at, event.received_at) == (NOON, NOON)

    def test_is_committed_when_it_returns(self, north: Channel) -> None:
        receive(north)

        database = settings.DATABASES["default"]
        with psycopg.connect(
            host=database["HOST"],
            port=database["PORT"],
            user=database["USER"],
            password=database["PASSWORD"],
            dbname=connection.settings_dict["NAME"],
        ) as another:
            assert another.execute("SELECT count(*) FROM channels_inboxevent").fetchone() == (1,)

    def test_takes_one_statement(self, north: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
        receive(north)  # the process's clock is set by the first one
        statements: list[str] = []

        def counted(statement: LiteralString, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
            statements.append(statement)
            return rows(statement, parameters)

        monkeypatch.setattr("synctec.lib.sql.rows", counted)
        receive(north, what=delivery("w-2"))

        assert len(statements) == 1

    def test_is_refused_inside_a_transaction(self, north: Channel) -> None:
        with transaction.atomic(), pytest.raises(RuntimeError, match="outside of any transaction"):
            receive(north)

        assert not InboxEvent.objects.exists()

    def test_counts_a_repeated_delivery_and_keeps_the_first(self, north: Channel) -> None:
        first = receive(north, body=b"first")

        second = receive(north, body=b"second")

        assert second == inbox.Receipt(first.event_id, True, first.correlation_id)
        event = InboxEvent.objects.get()
        assert (bodies.read(event), event.duplicates) == (b"first", 1)

    def test_keeps_the_same_id_of_another_topic_or_channel_apart(self, north: Channel, elsewhere: Channel) -> None:
        receipts = [
            receive(north),
            receive(north, what=delivery(topic="orders/updated")),
            receive(elsewhere),
        ]

        assert [receipt.is_duplicate for receipt in receipts] == [False, False, False]
        assert InboxEvent.objects.count() == 3

    def test_makes_one_row_of_fifty_deliveries_at_the_same_moment(self, north: Channel) -> None:
        receipts = all_at_once(50, lambda: receive(north))

        event = InboxEvent.objects.get()
        assert event.duplicates == 49
        assert sorted(receipt.is_duplicate for receipt in receipts) == [False] + [True] * 49
        assert {receipt.correlation_id for receipt in receipts} == {event.correlation_id}

    def test_stamps_later_events_higher(self, north: Channel) -> None:
        for number in range(5):
            receive(north, what=delivery(f"w-{number}"))

        stamps = list(InboxEvent.objects.order_by("pk").values_list("hlc", flat=True))
        assert stamps == sorted(set(stamps))


@contextmanager
def nobody_writes() -> Iterator[psycopg.Connection]:
    """Whoever wants to store an event waits for the end of this block."""
    database = settings.DATABASES["default"]
    with psycopg.connect(
        host=database["HOST"],
        port=database["PORT"],
        user=database["USER"],
        password=database["PASSWORD"],
        dbname=connection.settings_dict["NAME"],
    ) as another:
        another.execute("LOCK TABLE channels_inboxevent IN EXCLUSIVE MODE")
        yield another


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.002)


def blocked(another: psycopg.Connection) -> int:
    """How many connections wait for the end of `nobody_writes`."""
    found = another.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    assert found is not None
    return int(found[0])


class Rush:
    """Deliveries under way at the same time: the first one is being written, the others wait for their turn."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self.receipts: list[Future[inbox.Receipt]] = []

    def deliver(self, channel: Channel, *deliveries: Delivery) -> None:
        def run(what: Delivery) -> inbox.Receipt:
            try:
                return receive(channel, what=what, body=what.webhook_id.encode())
            finally:
                connections.close_all()

        for what in deliveries:
            waiting = len(inbox._intake._waiting)
            self.receipts.append(self._pool.submit(run, what))
            if len(self.receipts) == 1:
                wait_until(lambda: inbox._intake._is_led and not inbox._intake._waiting)
            else:
                wait_until(lambda: len(inbox._intake._waiting) > waiting)  # noqa: B023  # waited for within the round

    def outcomes(self) -> list[inbox.Receipt | BaseException]:
        return [receipt.exception(10) or receipt.result() for receipt in self.receipts]


@pytest.fixture
def rush() -> Iterator[Rush]:
    with ThreadPoolExecutor(max_workers=16) as pool:
        yield Rush(pool)


def commits() -> list[int]:
    """How many events each commit brought."""
    return [size for (size,) in rows("SELECT count(*) FROM channels_inboxevent GROUP BY xmin::text ORDER BY min(id)")]


@pytest.mark.django_db(transaction=True)
class TestSharingACommit:
    def test_deliveries_that_come_meanwhile_are_committed_together(self, north: Channel, rush: Rush) -> None:
        inbox._clock()
        with nobody_writes():
            rush.deliver(north, *(delivery(f"w-{number}") for number in range(6)))
            assert not any(receipt.done() for receipt in rush.receipts)

        receipts = rush.outcomes()
        assert commits() == [1, 5]
        stored = {event.webhook_id: event for event in InboxEvent.objects.all()}
        for number, receipt in enumerate(receipts):
            assert isinstance(receipt, inbox.Receipt)
            event = stored[f"w-{number}"]
            assert receipt == inbox.Receipt(event.pk, False, event.correlation_id)
            assert bodies.read(event) == event.webhook_id.encode()
            assert bytes(event.body_sha256) == hashlib.sha256(event.webhook_id.encode()).digest()

    def test_acknowledgements_are_rows_and_duplicates(self, north: Channel, elsewhere: Channel, rush: Rush) -> None:
        receive(north, what=delivery("known"))
        with nobody_writes():
            rush.deliver(north, delivery("first"), *[delivery("known")] * 2, *[delivery("new")] * 3)
            rush.deliver(elsewhere, delivery("new"))

        receipts = rush.outcomes()
        found = sorted(InboxEvent.objects.values_list("channel_id", "webhook_id", "duplicates"))
        assert found == sorted(
            [(north.pk, "first", 0), (north.pk, "known", 2), (north.pk, "new", 2), (elsewhere.pk, "new", 0)]
        )
        assert [getattr(receipt, "is_duplicate", None) for receipt in receipts] == [
            False,
            True,
            True,
            False,
            True,
            True,
            False,
        ]

    def test_one_that_cannot_be_stored_fails_alone(self, north: Channel, elsewhere: Channel, rush: Rush) -> None:
        gone = Channel(pk=elsewhere.pk + 1000, merchant_id=elsewhere.merchant_id)
        inbox._clock()
        with nobody_writes():
            rush.deliver(north, delivery("w-1"), delivery("w-2"), delivery("w-3", topic="t" * 81))
            rush.deliver(gone, delivery("w-4"))
            rush.deliver(north, delivery("w-5"), delivery("w\x00"))

        kinds = [type(outcome) for outcome in rush.outcomes()]
        assert kinds == [inbox.Receipt, inbox.Receipt, DataError, IntegrityError, inbox.Receipt, DataError]
        assert sorted(InboxEvent.objects.values_list("webhook_id", flat=True)) == ["w-1", "w-2", "w-5"]

    def test_nothing_is_acknowledged_when_the_connection_breaks(self, north: Channel, rush: Rush) -> None:
        inbox._clock()
        with nobody_writes() as another:
            rush.deliver(north, *(delivery(f"w-{number}") for number in range(4)))
            wait_until(lambda: blocked(another) == 1)
            another.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
            first = rush.receipts[0].exception(10)
        outcomes = rush.outcomes()

        assert isinstance(first, OperationalError)
        acknowledged = [outcome for outcome in outcomes if isinstance(outcome, inbox.Receipt)]
        assert len(acknowledged) == InboxEvent.objects.count() == 3

    def test_a_database_that_is_away_acknowledges_nobody(self, north: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
        inbox._clock()

        def away(*_: Any) -> None:
            time.sleep(0.05)
            raise OperationalError("away")

        monkeypatch.setattr(inbox, "_insert", away)

        def refused() -> type[BaseException]:
            try:
                receive(north)
            except (OperationalError, NotDone) as error:
                return type(error)
            raise AssertionError("acknowledged")

        assert set(all_at_once(8, refused)) <= {OperationalError, NotDone}
        assert not InboxEvent.objects.exists()

    def test_needs_one_connection_however_many_deliver(self, north: Channel, rush: Rush) -> None:
        inbox._clock()
        with nobody_writes() as another:
            rush.deliver(north, *(delivery(f"w-{number}") for number in range(10)))
            wait_until(lambda: blocked(another) > 0)
            time.sleep(0.05)  # time enough for a second one to come
            assert blocked(another) == 1

        assert all(isinstance(outcome, inbox.Receipt) for outcome in rush.outcomes())


_THEN, _LATER, _FAR = (datetime(year, 1, 1) for year in (2001, 2090, 2999))  # noqa: DTZ001  # the zone is given apart


def restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was remembered in the process is gone."""
    monkeypatch.setattr(inbox, "_process_clock", None)


def arrive(channel: Channel, webhook_id: str, *, now: datetime, told_at: datetime | None = None) -> InboxEvent:
    what = replace(delivery(webhook_id), triggered_at=told_at)
    inbox.receive(channel_id=channel.pk, merchant_id=channel.merchant_id, delivery=what, body=b"{}", now=now)
    return InboxEvent.objects.get(webhook_id=webhook_id)


@pytest.mark.django_db(transaction=True)
class TestTheClock:
    def test_continues_after_the_greatest_stamp_on_disk_however_old_its_row(
        self, north: Channel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ahead = arrive(north, "ahead", now=NOON + timedelta(days=400))
        # Other processes, with better clocks, have stored more since than anybody would look through.
        rows(
            """
            INSERT INTO channels_inboxevent (merchant_id, channel_id, topic, webhook_id, body_kept_on, body_sha256, hlc,
                received_at, correlation_id)
            SELECT %s, %s, 'orders/create', 'other-' || n, now(), '', n, now(), gen_random_uuid()
            FROM generate_series(1, 1500) n RETURNING 1
            """,
            [north.merchant_id, north.pk],
        )
        restart(monkeypatch)

        assert arrive(north, "after", now=NOON).hlc == ahead.hlc + 1

    def test_of_the_channel_is_followed(self, north: Channel) -> None:
        told_at = NOON + timedelta(seconds=90)
        event = arrive(north, "w-1", now=NOON, told_at=told_at)

        assert event.hlc > pack(int(told_at.timestamp() * 1000), 0)
        assert not event.is_clock_suspect

    def test_of_the_channel_is_flagged_and_not_followed_when_it_is_far_ahead(
        self, north: Channel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        restart(monkeypatch)
        told_at = datetime(2999, 1, 1, tzinfo=UTC)
        event = arrive(north, "w-1", now=NOON, told_at=told_at)

        assert (event.is_clock_suspect, event.triggered_at) == (True, told_at)
        assert unpack(event.hlc)[0] <= NOON.timestamp() * 1000 + FUTURE_LIMIT_MS + 1

    def test_of_a_polled_order_is_flagged_alike(self, north: Channel) -> None:
        with connection.cursor() as cursor:
            inbox.receive_many(
                cursor,
                channel_id=north.pk,
                merchant_id=north.merchant_id,
                topic="orders/polled",
                orders=[polled("1"), polled("2", seconds=301)],
                now=NOON,
            )

        assert {bodies.read(event): event.is_clock_suspect for event in InboxEvent.objects.all()} == {
            b"1": False,
            b"2": True,
        }

    @effort(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        arrivals=st.lists(
            st.tuples(
                st.booleans(),
                st.datetimes(_THEN, _LATER, timezones=st.just(UTC)),
                st.none() | st.datetimes(_THEN, _FAR, timezones=st.just(UTC)),
            ),
            min_size=2,
            max_size=8,
        )
    )
    def test_never_goes_back_under_any_wall_clock_any_channels_clock_and_any_restart(
        self, north: Channel, monkeypatch: pytest.MonkeyPatch, arrivals: list[tuple[bool, datetime, datetime | None]]
    ) -> None:
        InboxEvent.objects.all().delete()
        restart(monkeypatch)

        for place, (restarts, now, told_at) in enumerate(arrivals):
            if restarts:
                restart(monkeypatch)
            arrive(north, f"w-{place}", now=now, told_at=told_at)

        events = list(InboxEvent.objects.order_by("pk"))
        stamps = [event.hlc for event in events]
        assert stamps == sorted(set(stamps))
        for event, (_, now, told_at) in zip(events, arrivals, strict=True):
            limit = timedelta(milliseconds=FUTURE_LIMIT_MS + 1)
            assert event.is_clock_suspect == (told_at is not None and told_at - now > limit)


@pytest.mark.django_db(transaction=True)
class TestRinging:
    def test_wakes_the_engine_once_per_new_event(self, north: Channel) -> None:
        rung: list[int] = []
        inbox.on_received.append(rung.append)

        receive(north)
        receive(north)

        assert rung == [north.merchant_id]

    def test_a_failing_hint_fails_nothing(self, north: Channel) -> None:
        def broken(merchant_id: int) -> None:
            raise ConnectionError("no broker")

        rung: list[int] = []
        inbox.on_received.extend([broken, rung.append])

        receipt = receive(north)

        assert not receipt.is_duplicate
        assert rung == [north.merchant_id]


def polled(order_id: str, seconds: int = 0) -> PolledOrder:
    return PolledOrder(order_id=order_id, version=NOON + timedelta(seconds=seconds), body=f"{order_id}".encode())


@pytest.mark.django_db
class TestReceivingPolledOrders:
    def receive(self, channel: Channel, *orders: PolledOrder) -> int:
        with connection.cursor() as cursor:
            return inbox.receive_many(
                cursor,
                channel_id=channel.pk,
                merchant_id=channel.merchant_id,
                topic="orders/polled",
                orders=orders,
                now=NOON,
            )

    def test_stores_them_as_events_of_their_own(self, north: Channel) -> None:
        assert self.receive(north, polled("1"), polled("2")) == 2

        events = list(InboxEvent.objects.order_by("webhook_id"))
        assert [bodies.read(event) for event in events] == [b"1", b"2"]
        assert [event.webhook_id.rpartition(":")[0] for event in events] == [
            "poll:1:2026-11-20T12:00:00+00:00",
            "poll:2:2026-11-20T12:00:00+00:00",
        ]
        assert bytes(events[0].body_sha256) == hashlib.sha256(b"1").digest()
        assert {event.state for event in events} == {EventState.PENDING}
        assert len({event.hlc for event in events}) == 2

    def test_counts_only_what_is_new(self, north: Channel) -> None:
        self.receive(north, polled("1"))

        assert self.receive(north, polled("1"), polled("1", seconds=5), polled("2"), polled("2")) == 2
        assert InboxEvent.objects.count() == 3
        assert set(InboxEvent.objects.values_list("duplicates", flat=True)) == {0}

    def test_takes_what_changed_within_the_second_it_was_read_in(self, north: Channel) -> None:
        self.receive(north, polled("1"))

        assert self.receive(north, replace(polled("1"), body=b"changed once more")) == 1
        assert InboxEvent.objects.count() == 2

    def test_goes_with_the_callers_transaction(self, north: Channel) -> None:
        class ChangedMyMind(Exception):
            pass

        def change_my_mind() -> None:
            with transaction.atomic():
                self.receive(north, polled("1"))
                raise ChangedMyMind

        with pytest.raises(ChangedMyMind):
            change_my_mind()

        assert not InboxEvent.objects.exists()

    def test_has_nothing_to_do_for_no_orders(self, north: Channel) -> None:
        assert self.receive(north) == 0
