"""Lists of tables that grow for ever are read along an index, page by page, and never counted."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from channels.models import InboxEvent, ListingLevel, Push, PushBatch
from inventory.models import Movement, Shortage, StockLevel
from merchants import trail
from merchants.admin_lists import WINDOW_ROWS, oldest_id_since
from merchants.models import AuditEvent, Member, Role, User
from sync.models import DirtySku, Drift, OrderLine
from tests.factories import NOON, Trade, deliver, later, make_trade

pytestmark = pytest.mark.django_db

BIG_TABLES = (
    Movement,
    InboxEvent,
    Push,
    PushBatch,
    AuditEvent,
    Shortage,
    OrderLine,
    DirtySku,
    StockLevel,
    ListingLevel,
    Drift,
)


@pytest.fixture
def superuser(client: Client) -> User:
    user = User.objects.create_superuser(username="root", email="root@synctec.test", password="x")
    client.force_login(user)
    return user


@pytest.fixture
def alder() -> Trade:
    return make_trade("Alder", stock_of={f"SKU-{number}": 5 for number in range(60)})


def url(model: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def grow(trade: Trade, rows: int, *, start: int = 0) -> None:
    """So many rows in each of the big tables that the trade itself does not fill."""
    shop, merchant = trade.shops["north"], trade.merchant
    codes = sorted(trade.skus)
    for number in range(start, start + rows):
        code = codes[number % len(codes)]
        level, event = shop.level(code), deliver(shop, "orders/create", b"{}")
        batch = PushBatch.objects.create(id=uuid.uuid4(), merchant=merchant, channel=shop.channel, lease_token=1)
        about: dict[str, Any] = {"merchant": merchant, "channel": shop.channel, "listing_level": level}
        Push.objects.create(
            **about,
            batch=batch,
            position=0,
            from_quantity=2,
            to_quantity=1,
            state="confirmed",
            settled_at=NOON,
        )
        Drift.objects.create(
            **about, expected=1, actual=2, action="explained", cause="passing", correlation_id=uuid.uuid4()
        )
        OrderLine.objects.create(
            merchant=merchant,
            channel=shop.channel,
            order_id=str(number),
            line_id="1",
            sku=trade.skus[code],
            facts={},
            desired_committed=0,
            desired_on_hand=0,
            latest_event=event,
            correlation_id=event.correlation_id,
        )
        Shortage.objects.create(
            merchant=merchant,
            stock_level=trade.stock(code),
            quantity=1,
            cause="sale",
            correlation_id=uuid.uuid4(),
            occurred_at=NOON,
        )
        DirtySku.objects.create(merchant=merchant, sku=trade.skus[code], correlation_id=uuid.uuid4(), caused_at=NOON)
        trail.record(merchant_id=merchant.pk, action="sku.change", subject=trade.skus[code])


def queries_of(client: Client, path: str, query: dict[str, Any] | None = None) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        response = client.get(path, query or {})
    assert response.status_code == 200
    return [query["sql"] for query in captured.captured_queries]


def test_lists_take_as_many_queries_for_50_rows_as_for_5(client: Client, superuser: User, alder: Trade) -> None:
    grow(alder, 5)
    few = {model: len(queries_of(client, url(model), {"q": ""})) for model in BIG_TABLES}
    grow(alder, 45, start=5)

    many = {model: len(queries_of(client, url(model), {"q": ""})) for model in BIG_TABLES}

    # The estimate of the table's size is asked for once there is more than one page.
    assert {model.__name__: many[model] for model in BIG_TABLES if many[model] > few[model] + 1} == {}
    assert max(many.values()) <= 9


@pytest.mark.parametrize("model", BIG_TABLES, ids=lambda model: model.__name__)
def test_a_big_table_is_never_counted(model: Any, client: Client, superuser: User, alder: Trade) -> None:
    grow(alder, 2)
    table = model._meta.db_table

    queries = [
        sql
        for query in ({}, {"p": "2"}, {"q": "SKU-1"}, {"q": str(uuid.uuid4())}, {"within": "24h"})
        for sql in queries_of_any(client, url(model), query)
    ]

    counting = [sql for sql in queries if "count(" in sql.lower() and table in sql]
    assert counting == []


def queries_of_any(client: Client, path: str, query: dict[str, str]) -> list[str]:
    """As `queries_of`, for lists that lack the filter and lead back to themselves."""
    with CaptureQueriesContext(connection) as captured:
        response = client.get(path, query)
    assert response.status_code in (200, 302)
    return [query["sql"] for query in captured.captured_queries]


def test_pages_are_turned_until_the_rows_end(client: Client, superuser: User, alder: Trade) -> None:
    path = url(StockLevel)

    first, second = client.get(path), client.get(path, {"p": 2})

    assert len(first.context["cl"].result_list) == 50
    assert first.context["cl"].next_url == "?p=2"
    assert len(second.context["cl"].result_list) == 10
    assert second.context["cl"].next_url == ""
    assert "Rows 51–60" in second.content.decode().replace("&ndash;", "–")


def test_rows_are_found_by_their_exact_keys(client: Client, superuser: User, alder: Trade) -> None:
    shop = alder.shops["north"]
    event = deliver(shop, "orders/create", b"{}", webhook_id="b54557e4-bdd9-4b37-8a5f-bf7d70bcd043")
    deliver(shop, "orders/paid", b"{}", webhook_id="another")

    def found(model: Any, key: str) -> list[Any]:
        return [row.pk for row in client.get(url(model), {"q": key}).context["cl"].result_list]

    assert found(InboxEvent, event.webhook_id) == [event.pk]
    assert found(InboxEvent, str(event.correlation_id)) == [event.pk]
    assert found(InboxEvent, "b54557e4") == []
    assert found(StockLevel, "SKU-7") == [alder.stock("SKU-7").pk]
    assert found(Movement, "SKU-7") == [Movement.objects.get(stock_level__sku__code="SKU-7").pk]
    assert found(ListingLevel, "SKU-7") == [shop.level("SKU-7").pk + 60, shop.level("SKU-7").pk]


def test_few_and_old_events_are_found_by_their_own_index(client: Client, superuser: User, alder: Trade) -> None:
    shop = alder.shops["north"]
    waiting = deliver(shop, "orders/create", b"{}")
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO channels_inboxevent (merchant_id, channel_id, topic, webhook_id, body_kept_on,
                body_sha256, hlc, received_at, correlation_id, state, settled_at)
            SELECT %s, %s, 'orders/create', number, now(), '', number, now(), gen_random_uuid(), 'applied', now()
            FROM generate_series(1, 20000) AS number
            """,
            [alder.merchant.pk, shop.channel.pk],
        )
        cursor.execute("ANALYZE channels_inboxevent")

    page = client.get(url(InboxEvent), {"state": "pending"})
    plans = plans_of(client, {"state": "pending"}, model=InboxEvent)

    assert [event.pk for event in page.context["cl"].result_list] == [waiting.pk]
    assert any("inbox_event_pending" in plan for plan in plans)
    assert not any("Seq Scan on channels_inboxevent" in plan for plan in plans)


def test_the_oldest_id_since_a_moment_is_found_between_gaps(alder: Trade) -> None:
    Shortage.objects.all().delete()
    made = [
        Shortage.objects.create(
            merchant=alder.merchant,
            stock_level=alder.stock("SKU-1"),
            quantity=1,
            cause="sale",
            correlation_id=uuid.uuid4(),
            occurred_at=NOON,
            created_at=later(60 * minute),
        )
        for minute in range(40)
    ]
    Shortage.objects.filter(pk__in=[made[9].pk, made[10].pk, made[20].pk]).delete()

    assert oldest_id_since(Shortage, "created_at", later(60 * 8)) == made[8].pk
    assert made[8].pk < (oldest_id_since(Shortage, "created_at", later(60 * 9)) or 0) <= made[11].pk
    assert (oldest_id_since(Shortage, "created_at", later(60 * 100)) or 0) > made[-1].pk
    assert oldest_id_since(Shortage, "created_at", NOON - timedelta(days=1)) == made[0].pk
    assert oldest_id_since(Drift, "found_at", NOON) is None


# --- at the size of a real ledger -----------------------------------------------------------------

MOVEMENTS = 200_000


@pytest.fixture
def long_ledger(alder: Trade) -> Trade:
    """Movements of sixty stock levels, one a second, of which very few are adjustments."""
    levels = list(StockLevel.objects.filter(merchant=alder.merchant).order_by("pk").values_list("pk", flat=True))
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO inventory_movement (merchant_id, stock_level_id, seq, account, delta,
            balance_after, cause, idempotency_key, reference, correlation_id, effective_at, created_at) SELECT
            %(merchant)s, (%(levels)s::bigint[])[1 + number %% 60], 2 + number / 60, 'on_hand', -1, 0, CASE
            WHEN number %% 20000 = 7 THEN 'adjustment' ELSE 'sale' END, 'k' || number, '', gen_random_uuid(),
            now(), now() - make_interval(secs => %(rows)s - number) FROM generate_series(0, %(rows)s - 1) AS
            number """,
            {"merchant": alder.merchant.pk, "levels": levels, "rows": MOVEMENTS},
        )
        cursor.execute("ANALYZE inventory_movement")
    return alder


def plans_of(client: Client, query: dict[str, str], *, model: Any = Movement) -> list[str]:
    """How PostgreSQL reads a table for a page of its list."""
    plans = []
    for sql in queries_of(client, url(model), query):
        if model._meta.db_table in sql and sql.lstrip().upper().startswith(("SELECT", "WITH")):
            with connection.cursor() as cursor:
                cursor.execute("EXPLAIN " + sql.replace("%", "%%"))
                plans.append("\n".join(line for (line,) in cursor.fetchall()))
    assert plans
    return plans


LOOKS: tuple[dict[str, str], ...] = (
    {},
    {"p": "100"},
    {"q": "SKU-7"},
    {"cause__exact": "adjustment"},
    {"cause__exact": "write_off"},
    {"account__exact": "held", "cause__exact": "sale"},
    {"within": "1h"},
    {"within": "24h", "cause__exact": "adjustment"},
)


@pytest.mark.slow
def test_a_long_ledger_is_listed_and_filtered_along_its_indexes(
    client: Client, superuser: User, long_ledger: Trade
) -> None:
    member = User.objects.create_user(username="m", email="m@synctec.test", password="x", is_staff=True)
    Member.objects.create(merchant=long_ledger.merchant, user=member, role=Role.VIEWER)
    newest = str(Movement.objects.latest("pk").correlation_id)

    for user in (superuser, member):
        client.force_login(user)
        for query in (*LOOKS, {"q": newest}):
            for plan in plans_of(client, query):
                assert "Seq Scan on inventory_movement" not in plan, (user, query, plan)

    # A filter that no index serves looks at the newest rows, and says so.
    page = client.get(url(Movement), {"cause__exact": "adjustment"})
    assert [row.seq for row in page.context["cl"].result_list] == [2 + 180_007 // 60]
    assert f"newest {WINDOW_ROWS:,} rows" in page.content.decode()
