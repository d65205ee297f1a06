"""The inbox: stored once, committed before anything else, counted when repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.conf import settings
from django.db import connection, transaction

from channels import inbox
from channels.models import Channel, EventState, InboxEvent
from channels.protocol import Delivery, PolledOrder
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
        assert bytes(event.body) == body
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

    def test_takes_one_round_trip(self, north: Channel, django_assert_num_queries: Callable[..., object]) -> None:
        receive(north)  # the process's clock is set by the first one

        with django_assert_num_queries(1):  # type: ignore[attr-defined]
            receive(north, what=delivery("w-2"))

    def test_is_refused_inside_a_transaction(self, north: Channel) -> None:
        with transaction.atomic(), pytest.raises(RuntimeError, match="outside of any transaction"):
            receive(north)

        assert not InboxEvent.objects.exists()

    def test_counts_a_repeated_delivery_and_keeps_the_first(self, north: Channel) -> None:
        first = receive(north, body=b"first")

        second = receive(north, body=b"second")

        assert second == inbox.Receipt(first.event_id, True, first.correlation_id)
        event = InboxEvent.objects.get()
        assert (bytes(event.body), event.duplicates) == (b"first", 1)

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

    def test_stamps_above_what_is_stored_after_a_restart(self, north: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
        receive(north)
        far_ahead = 1 << 61
        InboxEvent.objects.update(hlc=far_ahead)
        monkeypatch.setattr(inbox, "_process_clock", None)

        receive(north, what=delivery("w-2"))

        assert InboxEvent.objects.get(webhook_id="w-2").hlc == far_ahead + 1


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
        assert [bytes(event.body) for event in events] == [b"1", b"2"]
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
