"""The live page: what it shows, to whom, and what it costs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.contenttypes.models import ContentType
from django.test import Client

from channels import steering
from channels.models import (
    BatchState,
    Channel,
    ChannelState,
    EventState,
    InboxEvent,
    Listing,
    ListingLevel,
    Push,
    PushBatch,
    PushState,
)
from inventory import holding, holds
from inventory.holds import Ask, Commitment
from inventory.models import BomLine, Sku, SkuKind, StockLevel, Warehouse
from locations.models import GroupWarehouse, LocationGroup, PublishingRule
from merchants.models import Member, Merchant, Role, User
from sync import apply, board, letters, publish
from sync.board import Cell, CellState, Counts, Sort, View
from tests.engine import engine
from tests.factories import NOON, Shop, Trade, deliver, later, make_trade, order_body

pytestmark = pytest.mark.django_db

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

#: Unchanged: session, person, memberships, groups, SKUs, pulse. Changed: columns, cells, events too.
QUERIES_UNCHANGED = 6
QUERIES_CHANGED = 9


def join(trade: Trade, name: str, role: Role, *, is_staff: bool = False) -> User:
    person = User.objects.create_user(username=name, email=f"{name}@example.com", password="pw", is_staff=is_staff)
    Member.objects.create(merchant=trade.merchant, user=person, role=role)
    return person


def browser_of(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


@pytest.fixture
def trade() -> Trade:
    return make_trade()


@pytest.fixture
def owner(trade: Trade) -> Client:
    return browser_of(join(trade, "olive", Role.OWNER, is_staff=True))


def view_of(trade: Trade, **changes: Any) -> View:
    return View(merchant_id=trade.merchant.pk, group_id=trade.group.pk, **changes)


def shown(trade: Trade, **changes: Any) -> board.Board:
    view = view_of(trade, **changes)
    return board.show(view, board.look(view))


def row_of(trade: Trade, code: str) -> board.Row:
    return next(row for row in shown(trade).rows if row.sku.code == code)


def sell(trade: Trade, shop: Shop, code: str, quantity: int) -> InboxEvent:
    event = deliver(shop, "orders/create", order_body(shop, 1001, (code, quantity)))
    # Due since long: a test's one transaction began before the event did.
    InboxEvent.objects.filter(pk=event.pk).update(next_attempt_at=LONG_AGO)
    apply.apply_batch(engine(later(11)), merchant_id=trade.merchant.pk)
    event.refresh_from_db()
    assert event.state == EventState.APPLIED, event.reason
    return event


def confirm_push(level: ListingLevel, *, took_ms: int) -> Push:
    batch = PushBatch.objects.create(
        id=uuid.uuid4(),
        merchant_id=level.merchant_id,
        channel_id=level.channel_id,
        state=BatchState.DONE,
        lease_token=1,
    )
    return Push.objects.create(
        merchant_id=level.merchant_id,
        channel_id=level.channel_id,
        batch=batch,
        position=0,
        listing_level=level,
        from_quantity=9,
        to_quantity=level.shown,
        state=PushState.CONFIRMED,
        caused_at=NOON,
        created_at=NOON,
        settled_at=later(took_ms / 1000),
    )


class TestTable:
    def test_every_sku_has_a_row_and_every_store_a_column(self, trade: Trade) -> None:
        table = shown(trade)

        assert [column.name for column in table.columns] == ["North", "South"]
        assert [row.sku.code for row in table.rows] == ["MUG", "TEE"]
        assert [[cell.shown for cell in row.cells] for row in table.rows] == [[10, 10], [5, 5]]
        assert [row.sku.available for row in table.rows] == [10, 5]

    def test_a_sale_shows_what_the_other_store_is_still_to_show(self, trade: Trade) -> None:
        sell(trade, trade.shops["north"], "MUG", 3)
        publish.publish_batch(engine(later(12)), merchant_id=trade.merchant.pk)

        row = row_of(trade, "MUG")

        assert (row.sku.on_hand, row.sku.committed, row.sku.available) == (10, 3, 7)
        assert row.cells[0] == Cell(CellState.LEVEL, 7, 7, 1)
        assert row.cells[1] == Cell(CellState.MOVING, 10, 7, 1)

    def test_the_latency_is_that_of_the_store_confirmed_last(self, trade: Trade) -> None:
        confirm_push(trade.shops["north"].level("MUG"), took_ms=120)
        confirm_push(trade.shops["south"].level("MUG"), took_ms=340)

        assert row_of(trade, "MUG").latency_words == "340 ms"
        assert row_of(trade, "TEE").latency_words == ""

    def test_a_store_that_does_not_stock_the_sku_has_an_empty_cell(self, trade: Trade) -> None:
        ListingLevel.objects.filter(pk=trade.shops["south"].level("MUG").pk).update(is_stocked=False)

        assert row_of(trade, "MUG").cells[1] == board.NO_CELL

    def test_a_deleted_listing_has_an_empty_cell(self, trade: Trade) -> None:
        listing = trade.shops["south"].listings["MUG"]
        listing.deleted_at = NOON
        listing.save()

        assert row_of(trade, "MUG").cells[1] == board.NO_CELL

    def test_skus_of_other_groups_are_not_shown(self, trade: Trade) -> None:
        Sku.objects.create(merchant=trade.merchant, code="ELSEWHERE")

        assert [row.sku.code for row in shown(trade).rows] == ["MUG", "TEE"]

    def test_the_search_finds_by_sku_and_title_and_takes_wildcards_literally(self, trade: Trade) -> None:
        Sku.objects.filter(code="TEE").update(title="100% cotton")

        assert [row.sku.code for row in shown(trade, search="mu").rows] == ["MUG"]
        assert [row.sku.code for row in shown(trade, search="0% c").rows] == ["TEE"]
        assert shown(trade, search="_").rows == ()

    def test_the_sku_changed_last_comes_first_when_sorted_by_change(self, trade: Trade) -> None:
        StockLevel.objects.filter(sku=trade.skus["TEE"]).update(updated_at=later(60))
        StockLevel.objects.filter(sku=trade.skus["MUG"]).update(updated_at=later(30))

        assert [row.sku.code for row in shown(trade, sort=Sort.CHANGE).rows] == ["TEE", "MUG"]

    def test_a_bundle_shows_how_many_its_parts_make_warehouse_by_warehouse(self, trade: Trade) -> None:
        gift = Sku.objects.create(merchant=trade.merchant, code="GIFT", kind=SkuKind.BUNDLE)
        crate = Sku.objects.create(merchant=trade.merchant, code="CRATE", kind=SkuKind.BUNDLE)
        for bundle, part, quantity in (
            (gift, trade.skus["MUG"], 2),
            (gift, trade.skus["TEE"], 1),
            (crate, gift, 2),
        ):
            BomLine.objects.create(merchant=trade.merchant, bundle=bundle, component=part, quantity=quantity)
        for bundle in (gift, crate):
            listing = Listing.objects.create(
                merchant=trade.merchant,
                channel=trade.shops["north"].channel,
                sku=bundle,
                remote_variant_id=bundle.code,
            )
            ListingLevel.objects.create(
                merchant=trade.merchant,
                channel=listing.channel,
                listing=listing,
                store_location=trade.shops["north"].location,
            )
        second = Warehouse.objects.create(merchant=trade.merchant, code="TWO", name="Second")
        GroupWarehouse.objects.create(merchant=trade.merchant, group=trade.group, warehouse=second)
        StockLevel.objects.create(merchant=trade.merchant, sku=trade.skus["MUG"], warehouse=second, on_hand=99)

        rows = {row.sku.code: row.sku.available for row in shown(trade).rows}

        assert rows == {"CRATE": 2, "GIFT": 5, "MUG": 109, "TEE": 5}

    def test_the_fifty_first_sku_is_on_the_second_page(self) -> None:
        trade = make_trade(stock_of={f"SKU-{number:03}": 1 for number in range(51)}, shops=("north",))

        first, second = shown(trade), shown(trade, page=2)

        assert (len(first.rows), first.has_next) == (50, True)
        assert ([row.sku.code for row in second.rows], second.has_next) == (["SKU-050"], False)

    def test_the_buffer_of_a_store_is_told_in_its_column(self, trade: Trade) -> None:
        north = trade.shops["north"].channel
        PublishingRule.objects.create(merchant=trade.merchant, channel=north, buffer_units=2, buffer_percent="12.50")

        assert [column.buffer for column in shown(trade).columns] == ["12.5 % + 2", ""]


class TestCell:
    def test_each_state_of_a_level(self) -> None:
        right = (5, 5, True, False, "", 0, "")

        assert board.cell(*right).state == CellState.LEVEL
        assert board.cell(5, 4, True, False, "", 0, "").state == CellState.MOVING
        assert board.cell(5, 5, True, True, "another number", 0, "").state == CellState.SUSPECT
        assert board.cell(5, None, True, False, "", 0, "").state == CellState.UNMAPPED
        assert board.cell(5, None, False, False, "", 0, "").state == CellState.UNTRACKED
        assert board.cell(5, 4, True, False, "", board.STUCK_FAILURES, "refused").state == CellState.STUCK

    def test_failures_of_a_level_that_came_right_do_not_count(self) -> None:
        assert board.cell(5, 5, True, False, "", 9, "refused").state == CellState.LEVEL

    def test_of_two_listings_the_graver_is_shown(self) -> None:
        right, moving = Cell(CellState.LEVEL, 5, 5, 1), Cell(CellState.MOVING, 6, 5, 1)

        assert board.merge(right, moving) == Cell(CellState.MOVING, 6, 5, 2)
        assert board.merge(moving, right) == Cell(CellState.MOVING, 6, 5, 2)


class TestVerdict:
    @pytest.mark.parametrize(
        ("counts", "tone", "text"),
        [
            (Counts(), "right", "All 10 stores show the right numbers"),
            (Counts(moving=3), "moving", "3 of 2\u202f000 levels are on their way"),
            (Counts(moving=1), "moving", "1 of 2\u202f000 levels is on its way"),
            (Counts(moving=500), "moving", "500+ of 2\u202f000 levels are on their way"),
            (Counts(suspect=2), "moving", "2 of 2\u202f000 levels are being checked with the store"),
            (Counts(pending=4), "moving", "4 events being worked in"),
            (Counts(moving=3, stuck=1), "needs", "1 of 2\u202f000 levels cannot be set and needs somebody"),
            (Counts(dead=1, shortages=1), "right", "All 10 stores show the right numbers"),
        ],
    )
    def test_says_the_gravest_thing_that_keeps_numbers_from_being_right(
        self, counts: Counts, tone: str, text: str
    ) -> None:
        assert board.verdict(counts=counts, stores=10, levels=2000) == board.Verdict(tone, text)

    def test_a_fresh_trade_shows_the_right_numbers(self, trade: Trade) -> None:
        assert shown(trade).verdict == board.Verdict("right", "All 2 stores show the right numbers")

    def test_a_store_that_must_be_authorized_is_named(self, trade: Trade) -> None:
        Channel.objects.filter(pk=trade.shops["south"].channel.pk).update(state=ChannelState.NEEDS_AUTH)

        assert [need.text for need in shown(trade).needs] == ["South needs to be authorized again"]

    def test_raises_that_an_alarm_has_paused_need_somebody_and_lead_to_the_button(self, trade: Trade) -> None:
        south = trade.shops["south"].channel
        before = shown(trade).fingerprint
        steering.pause_raises(channel_id=south.pk, reason="5 of 9 levels differ", now=NOON)

        board = shown(trade)

        assert before != board.fingerprint
        assert [(column.badge, column.tone) for column in board.columns] == [("", "calm"), ("no raises", "warning")]
        [need] = board.needs
        assert need.text.startswith("South is not raised: 5 of 9 levels differ. Lowers go on")
        staff = browser_of(join(trade, "mara", Role.MANAGER, is_staff=True)).get("/").content.decode()
        assert f'href="/admin/channels/channel/{south.pk}/resume-raises' in staff
        assert "resume-raises" not in browser_of(join(trade, "vera", Role.VIEWER)).get("/").content.decode()

    def test_a_hold_whose_order_does_not_come_needs_somebody(self, trade: Trade) -> None:
        for age in (61, 59):
            then = datetime.now(UTC) - timedelta(minutes=age)
            (answer,) = holding.hold([Ask("MUG", 1)], merchant_id=trade.merchant.pk, now=then)
            assert answer.held is not None
            commitment = Commitment(answer.held.hold_id, trade.shops["north"].channel.pk, "1001")
            holds.commit([commitment], merchant_id=trade.merchant.pk, now=then)

        (need,) = [need for need in shown(trade).needs if need.admin_page == "inventory_hold"]

        assert need.text == "1 hold waits for an order that has not come for an hour"

    def test_an_event_that_could_not_be_applied_needs_somebody(self, trade: Trade) -> None:
        event = deliver(trade.shops["north"], "orders/create", b"{}")
        InboxEvent.objects.filter(pk=event.pk).update(state=EventState.DEAD, reason="no id", settled_at=NOON)
        letters.keep()

        assert [need.text for need in shown(trade).needs] == [
            "1 dead letter: given up, until somebody looks or the cause goes away"
        ]


class TestNewestEvents:
    @staticmethod
    def line(number: int, state: EventState = EventState.APPLIED, reason: str = "") -> board.EventLine:
        return board.EventLine(number, str(number), NOON, "North", "Order placed", state, reason, 0)

    def test_a_run_of_echoes_is_one_line(self) -> None:
        echo, unmapped = "echo: as expected", "unmapped variant 1"
        lines = [
            self.line(7, EventState.IGNORED, echo),
            self.line(6, EventState.IGNORED, echo),
            self.line(5),
            self.line(4, EventState.IGNORED, unmapped),
            self.line(3, EventState.IGNORED, unmapped),
            self.line(2, EventState.IGNORED, echo),
        ]

        folded = board.fold_echoes(lines)

        assert [(line.event_id, line.echoes) for line in folded] == [(7, 2), (5, 0), (4, 0), (3, 0), (2, 1)]

    def test_the_last_line_still_counts_its_whole_run(self) -> None:
        lines = [
            self.line(3),
            self.line(2, EventState.IGNORED, "echo: 1"),
            self.line(1, EventState.IGNORED, "echo: 2"),
        ]

        folded = board.fold_echoes([*lines, self.line(0)], limit=2)

        assert [(line.event_id, line.echoes) for line in folded] == [(3, 0), (2, 2)]


class TestFingerprint:
    @pytest.fixture
    def fingerprint(self, trade: Trade) -> Callable[[], str]:
        return lambda: board.look(view_of(trade)).fingerprint

    def test_stays_while_nothing_changes(self, fingerprint: Callable[[], str]) -> None:
        assert fingerprint() == fingerprint()

    def test_changes_with_everything_the_page_shows(self, trade: Trade, fingerprint: Callable[[], str]) -> None:
        north = trade.shops["north"]
        seen = [fingerprint()]

        event = deliver(north, "orders/create", b"{}")
        seen.append(fingerprint())
        InboxEvent.objects.filter(pk=event.pk).update(state=EventState.DEAD, reason="no id", settled_at=NOON)
        seen.append(fingerprint())
        ListingLevel.objects.filter(pk=north.level("MUG").pk).update(desired=9)
        seen.append(fingerprint())
        ListingLevel.objects.filter(pk=north.level("MUG").pk).update(pushed=-1)
        seen.append(fingerprint())
        StockLevel.objects.filter(sku=trade.skus["TEE"]).update(held=1)
        seen.append(fingerprint())
        Channel.objects.filter(pk=north.channel.pk).update(state=ChannelState.PAUSED)
        seen.append(fingerprint())

        assert len(set(seen)) == len(seen)

    def test_ignores_what_other_merchants_do(self, trade: Trade, fingerprint: Callable[[], str]) -> None:
        birch = make_trade("Birch", shops=("east",))
        before = fingerprint()

        sell(birch, birch.shops["east"], "MUG", 1)

        assert fingerprint() == before


class TestPage:
    def test_shows_the_table_and_the_newest_events_in_words(self, trade: Trade, owner: Client) -> None:
        event = sell(trade, trade.shops["north"], "MUG", 1)

        page = owner.get("/").content.decode()

        assert "Order placed" in page
        assert f"/story/{event.correlation_id}/" in page
        assert 'id="sku-' in page

    def test_unchanged_it_answers_304_and_nothing_else(self, trade: Trade, owner: Client) -> None:
        first = owner.get("/live/")

        again = owner.get("/live/", headers={"if-none-match": first.headers["ETag"]})

        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")

    def test_changed_it_answers_with_the_whole_part(self, trade: Trade, owner: Client) -> None:
        first = owner.get("/live/")
        sell(trade, trade.shops["north"], "MUG", 1)

        again = owner.get("/live/", headers={"if-none-match": first.headers["ETag"]})

        assert again.status_code == 200
        assert again.headers["ETag"] != first.headers["ETag"]

    def test_the_page_and_its_part_agree_on_the_fingerprint(self, trade: Trade, owner: Client) -> None:
        page = owner.get("/").content.decode()
        etag = owner.get("/live/").headers["ETag"]

        assert f'data-etag="&quot;{etag.strip(chr(34))}&quot;"' in page

    @pytest.mark.parametrize("query", ["page=abc", "page=0", "page=-1", "page=99999999999999999999", "sort=x", "q=%00"])
    def test_nonsense_in_the_address_is_ignored(self, owner: Client, query: str) -> None:
        assert owner.get(f"/?{query}").status_code == 200

    def test_runs_nothing_but_our_own_files(self, trade: Trade, owner: Client) -> None:
        sell(trade, trade.shops["north"], "MUG", 1)
        response = owner.get("/")
        page = response.content.decode()

        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
        assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:|//cdn", page) == []


class TestCost:
    """What one look costs must not depend on the number of rows."""

    @pytest.fixture(params=[5, 50])
    def looker(self, request: pytest.FixtureRequest) -> Client:
        trade = make_trade(stock_of={f"SKU-{number:03}": 3 for number in range(request.param)})
        client = browser_of(join(trade, "olive", Role.OWNER))
        # Once, so that the caches of content types and the like are filled.
        client.get("/live/")
        ContentType.objects.clear_cache()
        return client

    def test_a_changed_page(self, looker: Client, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(QUERIES_CHANGED):
            looker.get("/live/")

    def test_the_whole_page(self, looker: Client, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(QUERIES_CHANGED):
            looker.get("/")

    def test_an_unchanged_page(self, looker: Client, django_assert_num_queries: Any) -> None:
        etag = looker.get("/live/").headers["ETag"]

        with django_assert_num_queries(QUERIES_UNCHANGED):
            assert looker.get("/live/", headers={"if-none-match": etag}).status_code == 304

    def test_nothing_is_counted_without_a_limit(
        self, looker: Client, django_assert_num_queries: Callable[..., Any]
    ) -> None:
        with django_assert_num_queries(QUERIES_CHANGED) as captured:
            looker.get("/live/")

        for query in captured:
            unbounded = query["sql"].count("count(*)") - query["sql"].count("AS counted")
            # What is left counts a list that is limited above, or one store location's few warehouses.
            assert unbounded <= 2


class TestCast:
    """Olive owns Alder, Vic is a colleague there, Sam is of Birch and must see nothing of Alder."""

    def test_a_colleague_sees_the_board(self, trade: Trade) -> None:
        vic = browser_of(join(trade, "vic", Role.VIEWER))

        assert vic.get("/?merchant=alder").status_code == 200

    def test_a_stranger_gets_404(self, trade: Trade) -> None:
        birch = make_trade("Birch", shops=("east",))
        sam = browser_of(join(birch, "sam", Role.OWNER, is_staff=True))

        assert sam.get("/?merchant=alder").status_code == 404
        assert sam.get(f"/?group={trade.group.pk}").status_code == 404
        assert sam.get(f"/live/?group={trade.group.pk}").status_code == 404
        assert "North" not in sam.get("/").content.decode()

    def test_a_superuser_who_is_no_member_sees_no_merchant(self, trade: Trade) -> None:
        root = User.objects.create_superuser(username="root", email="root@example.com", password="pw")

        response = browser_of(root).get("/")

        assert response.status_code == 403
        assert "Alder" not in response.content.decode()
        assert browser_of(root).get("/?merchant=alder").status_code == 404

    def test_somebody_not_signed_in_is_asked_to(self, client: Client) -> None:
        response = client.get("/?q=mug")

        assert (response.status_code, response.headers["Location"]) == (302, "/login/?next=/%3Fq%3Dmug")

    def test_a_session_that_ended_reloads_the_page(self, client: Client) -> None:
        response = client.get("/live/", headers={"hx-request": "true"})

        assert (response.status_code, response.headers["HX-Refresh"]) == (401, "true")

    def test_a_switched_off_merchant_is_gone(self, trade: Trade, owner: Client) -> None:
        Merchant.objects.filter(pk=trade.merchant.pk).update(is_active=False)

        assert owner.get("/?merchant=alder").status_code == 404

    def test_a_member_of_two_merchants_can_switch(self, trade: Trade, owner: Client) -> None:
        birch = make_trade("Birch", shops=("east",))
        Member.objects.create(merchant=birch.merchant, user=User.objects.get(username="olive"), role=Role.VIEWER)

        assert "North" in owner.get("/").content.decode()
        page = owner.get("/?merchant=birch").content.decode()

        assert "East" in page
        assert 'id="store-' in page
        assert "North" not in page


class TestEmptyStates:
    @staticmethod
    def buttons(page: bytes) -> list[str]:
        return re.findall(r'<a class="button" href="([^"]+)"', page.decode())

    def test_without_a_group_there_is_one_button_that_makes_one(self, trade: Trade, owner: Client) -> None:
        fresh = Merchant.objects.create(name="Fresh", slug="fresh")
        Member.objects.create(merchant=fresh, user=User.objects.get(username="olive"), role=Role.OWNER)

        assert self.buttons(owner.get("/?merchant=fresh").content) == ["/admin/locations/locationgroup/add/"]

    def test_without_a_store_there_is_a_button_that_connects_one(self, trade: Trade, owner: Client) -> None:
        fresh = Merchant.objects.create(name="Fresh", slug="fresh")
        Member.objects.create(merchant=fresh, user=User.objects.get(username="olive"), role=Role.OWNER)
        LocationGroup.objects.create(merchant=fresh, name="Everywhere")

        page = owner.get("/?merchant=fresh").content

        assert b"No store connected yet" in page
        assert b"Nothing has arrived yet" in page
        assert self.buttons(page) == ["/admin/channels/channel/add/", "/admin/channels/channel/"]

    def test_an_empty_group_of_a_merchant_with_stores_is_to_be_filled(self, trade: Trade, owner: Client) -> None:
        group = LocationGroup.objects.create(merchant=trade.merchant, name="Overseas")

        page = owner.get(f"/?group={group.pk}").content

        assert b"No store shares this stock yet" in page
        assert "/admin/locations/locationgroup/" in self.buttons(page)

    def test_a_search_without_a_match_leads_back(self, owner: Client) -> None:
        page = owner.get("/?q=nosuch").content

        assert b"No SKU matches" in page
        assert "/" in self.buttons(page)

    def test_those_whom_the_admin_would_turn_away_get_no_link_to_it(self, trade: Trade) -> None:
        vic = browser_of(join(trade, "vic", Role.VIEWER))
        LocationGroup.objects.all().delete()

        page = vic.get("/").content

        assert self.buttons(page) == []
        assert b"/admin/" not in page
