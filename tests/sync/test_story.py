"""The story of one event, told from what the engine itself wrote down, and how it is found."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.test import Client

from channels.models import EventState, InboxEvent, ListingLevel, PushState
from inventory.models import Shortage
from merchants.models import Member, Role, User
from sync import apply, letters, publish, push, story
from sync.models import DeadLetter, FailureCause
from tests.engine import engine, ref
from tests.factories import Shop, Trade, deliver, level_body, make_trade, order_body
from tests.fakes import FakeChannel

pytestmark = pytest.mark.django_db(transaction=True)

#: Events, movements, pushes, order lines, levels, shortages, drifts.
QUERIES_OF_A_STORY = 8


def run_engine(trade: Trade) -> None:
    """Run the engine until it is quiet, every store answering."""
    apply.apply_batch(engine(), merchant_id=trade.merchant.pk)
    publish.publish_batch(engine(), merchant_id=trade.merchant.pk)
    for shop in trade.shops.values():
        push.push_channel(engine(stores={shop.channel: FakeChannel.of(shop)}), channel=ref(shop.channel))


def sell(trade: Trade, shop: Shop, code: str, quantity: int, *, order: int = 1001) -> InboxEvent:
    event = deliver(shop, "orders/create", order_body(shop, order, (code, quantity)), webhook_id=f"hook-{order}")
    run_engine(trade)
    event.refresh_from_db()
    return event


def told(trade: Trade, event: InboxEvent) -> story.Story:
    found = story.tell(event.correlation_id, merchant_ids=[trade.merchant.pk])
    assert found is not None
    return found


def member(trade: Trade, name: str, role: Role) -> Client:
    person = User.objects.create_user(username=name, email=f"{name}@example.com", password="pw")
    Member.objects.create(merchant=trade.merchant, user=person, role=role)
    client = Client()
    client.force_login(person)
    return client


@pytest.fixture
def trade() -> Trade:
    return make_trade(shops=("north", "south", "west"))


class TestTelling:
    def test_a_sale_is_told_from_the_webhook_to_the_other_stores(self, trade: Trade) -> None:
        event = sell(trade, trade.shops["north"], "MUG", 3)

        tale = told(trade, event)

        assert tale.title == "Order placed in North"
        assert tale.orders == "#1001"
        assert [arrival.sayings for arrival in tale.arrivals] == [("Order #1001 with 1 line",)]
        assert [(step.facts, step.effect) for step in tale.lines] == [(("3 ordered",), "3 sold, not shipped")]
        assert [(step.sku, step.account, step.delta, step.movement.balance_after) for step in tale.movements] == [
            ("MUG", "committed", "+3", 3)
        ]
        assert [
            (step.store, step.push.from_quantity, step.push.to_quantity, step.push.state) for step in tale.pushes
        ] == [
            ("South", 10, 7, PushState.CONFIRMED),
            ("West", 10, 7, PushState.CONFIRMED),
        ]
        assert tale.stores_confirmed == 2
        assert tale.is_finished

    def test_a_change_that_waits_to_be_written_names_the_stores(self, trade: Trade) -> None:
        event = deliver(trade.shops["north"], "orders/create", order_body(trade.shops["north"], 1001, ("MUG", 3)))
        apply.apply_batch(engine(), merchant_id=trade.merchant.pk)
        publish.publish_batch(engine(), merchant_id=trade.merchant.pk)

        tale = told(trade, event)

        assert [(step.store, step.note) for step in tale.levels] == [
            ("North", "the store of the sale showed it by itself"),
            ("South", "waits to be written"),
            ("West", "waits to be written"),
        ]
        assert not tale.is_finished

    def test_a_sale_beyond_stock_tells_its_shortage(self, trade: Trade) -> None:
        event = sell(trade, trade.shops["north"], "TEE", 7)

        assert [shortage.quantity for shortage in told(trade, event).shortages] == [2]
        assert Shortage.objects.count() == 1

    def test_an_order_that_was_changed_later_links_to_the_later_story(self, trade: Trade) -> None:
        north = trade.shops["north"]
        first = sell(trade, north, "MUG", 3)
        later_event = deliver(north, "orders/cancelled", order_body(north, 1001, ("MUG", 3), at=90, cancelled=True))
        run_engine(trade)

        [line] = told(trade, first).lines

        assert line.is_changed_since
        assert line.line.correlation_id == later_event.correlation_id
        assert "cancelled" in line.facts

    def test_a_level_webhook_tells_of_its_level(self, trade: Trade) -> None:
        north = trade.shops["north"]
        event = deliver(north, "inventory_levels/update", level_body(north, "MUG", 4))
        run_engine(trade)

        tale = told(trade, event)

        assert tale.movements == ()
        assert [(step.store, step.sku) for step in tale.levels] == [("North", "MUG")]
        assert tale.levels[0].note.startswith("being checked")

    def test_bytes_that_make_no_sense_are_told_as_they_are(self, trade: Trade) -> None:
        event = deliver(trade.shops["north"], "orders/create", b"\xff\x00<no json>")
        run_engine(trade)

        [arrival] = told(trade, event).arrivals

        assert arrival.event.state == EventState.DEAD
        assert arrival.sayings[0].startswith("Cannot be understood: ")
        assert "<no json>" in arrival.body

    def test_deeply_nested_json_is_shown_as_text(self, trade: Trade) -> None:
        event = deliver(trade.shops["north"], "orders/create", b"[" * 200_000)

        [arrival] = told(trade, event).arrivals

        assert (len(arrival.body), arrival.is_body_cut) == (story.BODY_SHOWN_MAX, True)

    def test_what_was_given_up_is_told_with_what_to_do_and_how_it_ended(self, trade: Trade) -> None:
        event = deliver(trade.shops["north"], "orders/create", b"{}")
        run_engine(trade)

        tale = told(trade, event)
        [step] = tale.letters
        assert (step.about, step.letter.cause, step.needs_somebody) == ("The event of North", "unreadable", True)
        assert (tale.letters_open, bool(step.remedy.action)) == (1, True)

        InboxEvent.objects.filter(pk=event.pk).update(state=EventState.APPLIED)
        letters.keep()

        tale = told(trade, event)
        assert [step.is_living for step in tale.letters] == [False]
        assert tale.letters_open == 0

    def test_a_number_that_does_not_arrive_is_told_as_given_up(self, trade: Trade) -> None:
        event = sell(trade, trade.shops["north"], "MUG", 3)
        south = trade.shops["south"]
        ListingLevel.objects.filter(pk=south.level("MUG").pk).update(
            desired=7, waiting_correlation_ids=[event.correlation_id, uuid.uuid4()]
        )
        DeadLetter.objects.create(
            merchant=trade.merchant,
            channel=south.channel,
            listing_level=south.level("MUG"),
            cause=FailureCause.REFUSED,
            correlation_id=uuid.uuid4(),
        )

        [step] = told(trade, event).letters

        assert step.about == "MUG in South, Shop floor"

    def test_another_merchants_story_is_not_told(self, trade: Trade) -> None:
        birch = make_trade("Birch", shops=("east",))
        event = sell(trade, trade.shops["north"], "MUG", 1)

        assert story.tell(event.correlation_id, merchant_ids=[birch.merchant.pk]) is None

    def test_it_costs_one_query_per_kind_of_step(self, trade: Trade, django_assert_num_queries: Any) -> None:
        event = sell(trade, trade.shops["north"], "TEE", 7)

        with django_assert_num_queries(QUERIES_OF_A_STORY):
            told(trade, event)


class TestFinding:
    @pytest.mark.parametrize("query", ["#1001", "1001", "hook-1001", "MUG", "mug", " 1001 "])
    def test_a_sale_is_found_by_what_one_has_at_hand(self, trade: Trade, query: str) -> None:
        event = sell(trade, trade.shops["north"], "MUG", 3)

        found = story.find(query, merchant_ids=[trade.merchant.pk])

        assert event.correlation_id in [one.correlation_id for one in found]

    def test_a_sale_is_found_by_its_correlation_id(self, trade: Trade) -> None:
        event = sell(trade, trade.shops["north"], "MUG", 3)

        found = story.find(str(event.correlation_id), merchant_ids=[trade.merchant.pk])

        assert [one.correlation_id for one in found] == [event.correlation_id]

    def test_all_events_of_an_order_are_found_each_once_newest_first(self, trade: Trade) -> None:
        north = trade.shops["north"]
        first = sell(trade, north, "MUG", 3)
        second = deliver(north, "orders/cancelled", order_body(north, 1001, ("MUG", 3), at=90, cancelled=True))
        run_engine(trade)

        found = story.find("#1001", merchant_ids=[trade.merchant.pk])

        assert [one.correlation_id for one in found] == [second.correlation_id, first.correlation_id]

    def test_nothing_of_another_merchant_is_found(self, trade: Trade) -> None:
        birch = make_trade("Birch", shops=("east",), stock_of={"HAT": 1})
        event = sell(trade, trade.shops["north"], "MUG", 3)

        for query in ("#1001", "hook-1001", "MUG", str(event.correlation_id)):
            assert story.find(query, merchant_ids=[birch.merchant.pk]) == ()

    @pytest.mark.parametrize("query", ["", "  ", "nosuch", "%", "00000000-0000-0000-0000-000000000000"])
    def test_what_there_is_not_is_not_found(self, trade: Trade, query: str) -> None:
        assert story.find(query, merchant_ids=[trade.merchant.pk]) == ()


class TestPages:
    def test_a_member_reads_the_story(self, trade: Trade) -> None:
        event = sell(trade, trade.shops["north"], "MUG", 3)
        owner = member(trade, "olive", Role.OWNER)

        response = owner.get(f"/story/{event.correlation_id}/")
        page = response.content.decode()

        assert response.status_code == 200
        assert "Order placed" in page
        assert "Raw message" in page
        assert "confirmed" in page

    def test_a_viewer_does_not_read_the_raw_message(self, trade: Trade) -> None:
        event = sell(trade, trade.shops["north"], "MUG", 3)

        page = member(trade, "vic", Role.VIEWER).get(f"/story/{event.correlation_id}/").content.decode()

        assert "Raw message" not in page
        assert "line_items" not in page

    def test_a_stranger_gets_404(self, trade: Trade) -> None:
        event = sell(trade, trade.shops["north"], "MUG", 3)
        sam = member(make_trade("Birch", shops=("east",)), "sam", Role.OWNER)

        assert sam.get(f"/story/{event.correlation_id}/").status_code == 404
        assert sam.get(f"/story/{uuid.uuid4()}/").status_code == 404

    def test_a_raw_message_cannot_smuggle_markup(self, trade: Trade) -> None:
        event = deliver(trade.shops["north"], "orders/create", b'{"id": "<script>alert(1)</script>"}')
        run_engine(trade)

        page = member(trade, "olive", Role.OWNER).get(f"/story/{event.correlation_id}/").content.decode()

        assert "<script>alert" not in page

    def test_the_only_story_found_is_opened_at_once(self, trade: Trade) -> None:
        event = sell(trade, trade.shops["north"], "MUG", 3)

        response = member(trade, "olive", Role.OWNER).get("/story/?q=hook-1001")

        assert response.headers["Location"] == f"/story/{event.correlation_id}/"

    def test_nothing_found_says_what_can_be_searched_for(self, trade: Trade) -> None:
        page = member(trade, "olive", Role.OWNER).get("/story/?q=nosuch%00").content.decode()

        assert "No story of “nosuch”" in page
        assert "an order's name or number" in page.replace("&#x27;", "'")
