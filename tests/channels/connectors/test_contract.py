"""What every kind of channel in the registry must do, against a real server with every fault it knows."""

import http.client
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import redis
from django.conf import settings

from channels.connectors import REGISTRY
from channels.connectors.shopify import auth
from channels.connectors.shopify.connector import ShopifyConnector
from channels.pacing import Pacer, Unpaced
from channels.protocol import (
    ChannelError,
    Connector,
    Event,
    LevelTouched,
    MalformedEvent,
    NotAuthorized,
    OrderState,
    OutcomeUnknown,
    Pacing,
    PolledOrder,
    QuantityChange,
    Refused,
    Restock,
    RowOutcome,
    SnapshotState,
    TakesSnapshots,
    Throttled,
    Unavailable,
)
from synctec.lib.bucket import TokenBucket
from synctec.lib.http import GuardedSession
from synctec.lib.secret import Secret
from tests.sandbox.clients import Delivered, Receiver, StoreClient, call, wait_until

_keys = itertools.count(1)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def new_key() -> str:
    return f"contract-{time.time_ns()}-{next(_keys)}"


def number(gid: str) -> str:
    return gid.rpartition("/")[2]


class Shop:
    """A store in the sandbox and the connector under test."""

    def __init__(self, kind: str, store: StoreClient, session: GuardedSession, pacer: Pacing) -> None:
        self.kind = kind
        self.store = store
        self.session = session
        self.token = Secret(store.token)
        self.refreshes = 0
        self.connector = self.connect(pacer)

    def connect(self, pacer: Pacing) -> Connector:
        return REGISTRY[self.kind].connect(
            account=f"{self.store.handle}.myshopify.com",
            base_url=self.store.url,
            token=self.give_token,
            session=self.session,
            pacer=pacer,
        )

    def give_token(self, force_refresh: bool) -> Secret:
        if force_refresh:
            self.refreshes += 1
            self.token = self.request_token().access_token
        return self.token

    def request_token(self) -> auth.TokenGrant:
        return auth.request_by_client_credentials(
            base_url=self.store.url,
            client_id=self.store.client_id,
            client_secret=Secret(self.store.secret),
            session=self.session,
            now=datetime.now(UTC),
        )

    def item(self, sku: str) -> str:
        return number(self.store.items[sku])

    def location(self, name: str = "Main") -> str:
        return number(self.store.locations[name])

    def change(self, sku: str, before: int, after: int, location: str = "Main") -> QuantityChange:
        return QuantityChange(self.item(sku), self.location(location), before, after)

    def write(self, *changes: QuantityChange, key: str | None = None) -> list[tuple[str, str]]:
        """Outcome and code of each row."""
        result = self.connector.write_quantities(list(changes), key=key or new_key(), reference="batch")
        return [(row.outcome.value, row.code) for row in result.rows]

    def available(self, sku: str, location: str = "Main") -> int | None:
        for level in self.connector.read_levels([self.item(sku)]):
            if level.location_id == self.location(location):
                return level.available
        return None

    def read_event(self, polled: PolledOrder) -> OrderState:
        (event,) = REGISTRY[self.kind].reader.interpret(topic="orders/polled", body=polled.body)
        assert isinstance(event, OrderState)
        return event

    def poll(self, order_id: object) -> OrderState:
        (polled,) = self.connector.read_orders([str(order_id)])
        return self.read_event(polled)


@pytest.fixture(params=sorted(REGISTRY))
def shop(
    request: pytest.FixtureRequest, make_shop: Callable[..., StoreClient], guarded_session: GuardedSession
) -> Shop:
    """A store with 10 mugs at Main and 4 at Back, 3 cups, a bundle and a leaflet nobody counts."""
    store = make_shop()
    store.add_variants(
        [
            {"sku": "MUG", "title": "Mug", "barcode": "4001", "levels": {"Main": 10, "Back": 4}},
            {"sku": "CUP", "title": "Cup", "policy": "CONTINUE", "levels": {"Main": 3}},
            {"sku": "SET", "title": "Set", "requires_components": True, "components": {"MUG": 1, "CUP": 1}},
            {"sku": "LEAFLET", "title": "Leaflet", "tracked": False, "levels": {"Main": 0}},
        ]
    )
    return Shop(request.param, store, guarded_session, Unpaced())


class TestReading:
    def test_locations_are_read_with_their_state(self, shop: Shop) -> None:
        shop.store.post("/admin-ui/locations", {"name": "Annex"})
        shop.store.post("/admin-ui/locations/deactivate", {"location": "Annex"})

        found = {location.name: location for location in shop.connector.read_locations()}

        assert found["Main"].location_id == shop.location("Main")
        assert {name: location.is_active for name, location in found.items()} == {
            "Main": True,
            "Back": True,
            "Annex": False,
        }

    def test_the_catalogue_tells_what_the_engine_must_know(self, shop: Shop) -> None:
        variants = {variant.sku: variant for page in shop.connector.read_catalogue() for variant in page}

        assert variants.keys() == {"MUG", "CUP", "SET", "LEAFLET"}
        assert variants["MUG"].inventory_item_id == shop.item("MUG")
        assert variants["MUG"].barcode == "4001"
        assert [sku for sku, variant in variants.items() if variant.is_store_bundle] == ["SET"]
        assert [sku for sku, variant in variants.items() if not variant.is_tracked] == ["LEAFLET"]
        assert [sku for sku, variant in variants.items() if variant.sells_when_out_of_stock] == ["CUP"]
        assert shop.connector.read_variants(variants["MUG"].product_id) == (variants["MUG"],)
        assert shop.connector.read_variants("1") == ()

    def test_a_long_catalogue_is_read_to_its_end(self, shop: Shop) -> None:
        shop.store.add_variants([{"sku": f"N-{n}", "title": f"N {n}", "levels": {"Main": n}} for n in range(230)])

        pages = list(shop.connector.read_catalogue())
        levels = shop.connector.read_levels([shop.item(f"N-{n}") for n in range(230)])

        assert sum(len(page) for page in pages) == 234
        assert len(pages) == 3
        assert [level.available for level in levels if level.is_stocked] == list(range(230))

    def test_levels_are_read_at_all_places(self, shop: Shop) -> None:
        levels = shop.connector.read_levels([shop.item("MUG"), "999", shop.item("LEAFLET")])

        found = {(level.inventory_item_id, level.location_id): level for level in levels}
        mug = found[shop.item("MUG"), shop.location("Main")]
        assert (mug.available, mug.is_stocked) == (10, True)
        assert mug.source_at is not None
        assert abs(datetime.now(UTC) - mug.source_at) < timedelta(minutes=5)
        assert found[shop.item("MUG"), shop.location("Back")].available == 4
        assert found[shop.item("LEAFLET"), shop.location("Main")].available is None
        assert {item for item, _ in found} == {shop.item("MUG"), shop.item("LEAFLET")}

    def test_a_level_switched_off_is_shown_as_such(self, shop: Shop) -> None:
        shop.store.post("/admin-ui/levels/disconnect", {"sku": "MUG", "location": "Back"})

        levels = {level.location_id: level for level in shop.connector.read_levels([shop.item("MUG")])}

        back = levels[shop.location("Back")]
        assert (back.is_stocked, back.available) == (False, None)

    def test_the_scopes_needed_are_granted(self, shop: Shop) -> None:
        assert isinstance(shop.connector, ShopifyConnector)

        assert auth.missing_scopes(shop.connector.read_scopes()) == ()


class TestOrders:
    def test_a_sale_is_polled_with_its_lines_and_their_place(self, shop: Shop) -> None:
        bought = shop.store.buy("MUG", 2)

        order = shop.poll(bought["id"])

        assert order.name == bought["name"]
        assert [(line.sku, line.ordered, line.current, line.shipped, line.location_id) for line in order.lines] == [
            ("MUG", 2, 2, 0, shop.location("Main"))
        ]
        assert order.cancelled_at is None

    def test_everything_that_happens_to_an_order_is_read(self, shop: Shop) -> None:
        bought = shop.store.buy("MUG", 5)
        line_id = bought["lines"][0]["id"]
        path = f"/shop/orders/{bought['id']}"
        shop.store.post(f"{path}/fulfill", {"lines": [{"line_id": line_id, "quantity": 2}]})
        shop.store.post(f"{path}/refund", {"lines": [{"line_id": line_id, "quantity": 1, "restock_type": "return"}]})
        shop.store.post(f"{path}/refund", {"lines": [{"line_id": line_id, "quantity": 2, "restock_type": "cancel"}]})
        shop.store.post(f"{path}/edit", {"additions": [{"sku": "CUP", "quantity": 1}]})

        order = shop.poll(bought["id"])

        mug = next(line for line in order.lines if line.sku == "MUG")
        cup = next(line for line in order.lines if line.sku == "CUP")
        assert (mug.ordered, mug.current, mug.shipped) == (5, 2, 2)
        assert (cup.ordered, cup.current, cup.shipped) == (1, 1, 0)
        assert [(refund.quantity, refund.restock) for refund in order.refunds] == [
            (1, Restock.RETURN),
            (2, Restock.CANCEL),
        ]
        assert len({refund.refund_id for refund in order.refunds}) == 2

    def test_an_order_that_another_place_is_to_ship_is_polled_with_that_place(self, shop: Shop) -> None:
        bought = shop.store.buy("MUG", 2)

        status, answer = shop.store.post(f"/shop/orders/{bought['id']}/move", {"location": "Back"})

        assert status == 200, answer
        (line,) = shop.poll(bought["id"]).lines
        assert line.location_id == shop.location("Back")
        assert line.places == ((shop.location("Back"), 2),)
        levels = {level.location_id: level.available for level in shop.connector.read_levels([shop.item("MUG")])}
        assert levels == {shop.location("Main"): 10, shop.location("Back"): 2}

    def test_a_cancelled_order_says_when(self, shop: Shop) -> None:
        bought = shop.store.buy("MUG", 1)
        shop.store.post(f"/shop/orders/{bought['id']}/cancel", {"restock": True})

        assert shop.poll(bought["id"]).cancelled_at is not None

    def test_a_poll_and_the_webhook_of_an_order_agree(self, shop: Shop, webhooks: Receiver) -> None:
        shop.connector.ensure_webhooks(webhooks.url)
        bought = shop.store.buy("MUG", 3)
        line_id = bought["lines"][0]["id"]
        shop.store.post(
            f"/shop/orders/{bought['id']}/refund",
            {"lines": [{"line_id": line_id, "quantity": 1, "restock_type": "cancel"}]},
        )
        delivered = wait_until(lambda: webhooks.of("orders/updated"))[-1]

        (told,) = REGISTRY[shop.kind].reader.interpret(topic="orders/updated", body=delivered.body)
        polled = shop.poll(bought["id"])

        assert isinstance(told, OrderState)
        assert (told.order_id, told.version, told.refunds) == (
            polled.order_id,
            polled.version,
            polled.refunds,
        )
        assert [(line.line_id, line.variant_id, line.ordered, line.current) for line in told.lines] == [
            (line.line_id, line.variant_id, line.ordered, line.current) for line in polled.lines
        ]

    def test_changed_orders_are_paged_oldest_first(self, shop: Shop) -> None:
        shop.store.post("/admin-ui/adjust", {"sku": "MUG", "set": 500})
        bought = [str(shop.store.buy("MUG")["id"]) for _ in range(60)]

        polled: list[PolledOrder] = []
        cursor: str | None = None
        while True:
            page = shop.connector.read_orders_since(LONG_AGO, cursor=cursor)
            polled += page.orders
            cursor = page.cursor
            if cursor is None:
                break

        assert [order.order_id for order in polled] == bought
        assert [order.version for order in polled] == sorted(order.version for order in polled)
        assert all(shop.read_event(order).version == order.version for order in polled)

    def test_only_orders_changed_since_are_listed(self, shop: Shop) -> None:
        shop.store.buy("MUG")

        page = shop.connector.read_orders_since(datetime.now(UTC) + timedelta(hours=1), cursor=None)

        assert (page.orders, page.cursor) == ((), None)

    def test_an_order_with_many_lines_is_read_whole(self, shop: Shop) -> None:
        shop.store.add_variants([{"sku": f"L-{n}", "title": f"L {n}", "levels": {"Main": 9}} for n in range(45)])
        lines = [{"sku": f"L-{n}", "quantity": 1 + n % 3} for n in range(45)]
        status, bought = shop.store.post("/shop/orders", {"lines": lines})
        assert status == 201
        shop.store.post(f"/shop/orders/{bought['id']}/fulfill", {})

        order = shop.poll(bought["id"])

        assert {line.sku: line.shipped for line in order.lines} == {line["sku"]: line["quantity"] for line in lines}
        assert {line.location_id for line in order.lines} == {shop.location("Main")}

    def test_unknown_orders_are_left_out(self, shop: Shop) -> None:
        assert shop.connector.read_orders(["123456"]) == ()


class TestWriting:
    def test_a_level_is_set_when_it_shows_what_it_changes_from(self, shop: Shop) -> None:
        result = shop.connector.write_quantities(
            [shop.change("MUG", 10, 7)], key=new_key(), reference="gid://synctec/PushBatch/77"
        )

        assert [row.outcome for row in result.rows] == [RowOutcome.CONFIRMED]
        assert result.source_at is not None
        assert shop.available("MUG") == 7
        assert shop.store.changes()[-1]["reference"] == "gid://synctec/PushBatch/77"

    def test_a_sale_in_between_is_never_overwritten(self, shop: Shop) -> None:
        shop.store.buy("MUG", 3)

        assert shop.write(shop.change("MUG", 10, 9)) == [("stale", "CHANGE_FROM_QUANTITY_STALE")]
        assert shop.available("MUG") == 7

    def test_one_stale_row_fails_the_batch_and_is_named(self, shop: Shop) -> None:
        rows = shop.write(shop.change("MUG", 10, 9), shop.change("CUP", 99, 1), shop.change("MUG", 4, 2, "Back"))

        assert rows == [("not_applied", ""), ("stale", "CHANGE_FROM_QUANTITY_STALE"), ("not_applied", "")]
        assert (shop.available("MUG"), shop.available("MUG", "Back")) == (10, 4)

    def test_a_bundle_is_refused_and_named(self, shop: Shop) -> None:
        rows = shop.write(shop.change("MUG", 10, 9), shop.change("SET", 0, 1))

        assert rows == [("not_applied", ""), ("refused", "NON_MUTABLE_INVENTORY_ITEM")]
        assert shop.available("MUG") == 10

    def test_unknown_items_places_and_doubled_rows_are_refused(self, shop: Shop) -> None:
        unknown_item = QuantityChange("999", shop.location(), 0, 1)
        unknown_place = QuantityChange(shop.item("MUG"), "999", 0, 1)
        twice = shop.change("CUP", 3, 2)

        assert shop.write(unknown_item, shop.change("MUG", 10, 9), unknown_place) == [
            ("refused", "INVALID_INVENTORY_ITEM"),
            ("not_applied", ""),
            ("refused", "INVALID_LOCATION"),
        ]
        assert shop.write(twice, twice) == [("refused", "NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR")] * 2

    def test_an_untracked_item_does_no_harm(self, shop: Shop) -> None:
        (row,) = shop.write(shop.change("LEAFLET", 0, 5))

        assert row[0] in ("confirmed", "refused", "stale")

    def test_as_many_rows_as_promised_fit_one_write(self, shop: Shop) -> None:
        count = shop.connector.capabilities.rows_per_write
        shop.store.add_variants([{"sku": f"W-{n}", "title": "W", "levels": {"Main": 9}} for n in range(count)])

        rows = shop.write(*(shop.change(f"W-{n}", 9, n) for n in range(count)))

        assert rows == [("confirmed", "")] * count

    def test_setting_what_is_there_is_confirmed(self, shop: Shop) -> None:
        assert shop.write(shop.change("MUG", 10, 10)) == [("confirmed", "")]

    def test_quantities_below_zero_can_be_set(self, shop: Shop) -> None:
        assert shop.write(shop.change("MUG", 10, -2)) == [("confirmed", "")]
        assert shop.available("MUG") == -2


class TestReplays:
    def test_the_same_key_applies_once(self, shop: Shop) -> None:
        key = new_key()
        change = shop.change("MUG", 10, 7)

        assert shop.write(change, key=key) == [("confirmed", "")]
        assert shop.write(change, key=key) == [("confirmed", "")]
        assert shop.available("MUG") == 7

    def test_a_store_that_answers_replays_with_stale_says_so(self, shop: Shop) -> None:
        shop.store.configure(replay="stale")
        key = new_key()
        change = shop.change("MUG", 10, 7)
        shop.write(change, key=key)

        assert shop.write(change, key=key) == [("stale", "CHANGE_FROM_QUANTITY_STALE")]
        assert shop.available("MUG") == 7

    def test_a_key_with_other_rows_is_our_mistake(self, shop: Shop) -> None:
        key = new_key()
        shop.write(shop.change("MUG", 10, 7), key=key)

        with pytest.raises(Refused) as caught:
            shop.write(shop.change("MUG", 7, 5), key=key)

        assert caught.value.code == "IDEMPOTENCY_KEY_PARAMETER_MISMATCH"

    def test_a_key_whose_attempt_failed_is_spent(self, shop: Shop) -> None:
        key = new_key()
        change = shop.change("MUG", 9, 7)
        shop.write(change, key=key)

        assert shop.write(change, key=key) == [("not_applied", "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED")]

    def test_a_request_in_flight_is_asked_for_again(self, shop: Shop) -> None:
        shop.store.set_faults(latency_ms=[400, 400])
        key = new_key()
        change = shop.change("MUG", 10, 7)
        started = threading.Event()

        def first() -> list[tuple[str, str]]:
            started.set()
            return shop.write(change, key=key)

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(first)
            started.wait()
            time.sleep(0.1)
            with pytest.raises(OutcomeUnknown) as caught:
                shop.write(change, key=key)
            assert running.result() == [("confirmed", "")]

        assert (caught.value.code, caught.value.retry_after) == ("IDEMPOTENCY_CONCURRENT_REQUEST", 1.0)
        shop.store.set_faults()
        assert shop.write(change, key=key) == [("confirmed", "")]


class TestFaults:
    @pytest.mark.parametrize("faults", [{"timeout_before_rate": 1}, {"timeout_after_rate": 1}, {"error_rate": 1}])
    def test_an_unknown_outcome_is_settled_by_the_same_key(self, shop: Shop, faults: dict[str, int]) -> None:
        key = new_key()
        change = shop.change("MUG", 10, 7)
        shop.store.set_faults(**faults)
        with pytest.raises(OutcomeUnknown):
            shop.write(change, key=key)
        shop.store.set_faults()

        assert shop.write(change, key=key) == [("confirmed", "")]
        assert shop.available("MUG") == 7
        assert len([one for one in shop.store.changes() if one["cause"] == "api"]) == 1

    def test_an_answer_that_does_not_come_in_time_is_unknown(self, shop: Shop) -> None:
        shop.store.set_faults(timeout_after_rate=1, hang_ms=3000)

        with pytest.raises(OutcomeUnknown):
            shop.write(shop.change("MUG", 10, 7))

        shop.store.set_faults()
        assert shop.available("MUG") == 7

    @pytest.mark.parametrize(
        "faults",
        [{"timeout_before_rate": 1}, {"timeout_after_rate": 1}, {"error_rate": 1}, {"outage": True}],
    )
    def test_a_read_that_fails_changed_nothing(self, shop: Shop, faults: dict[str, int]) -> None:
        shop.store.set_faults(**faults)
        reads: list[Callable[[], object]] = [
            shop.connector.read_locations,
            lambda: list(shop.connector.read_catalogue()),
            lambda: shop.connector.read_levels([shop.item("MUG")]),
            lambda: shop.connector.read_orders_since(LONG_AGO, cursor=None),
            lambda: shop.connector.read_orders(["1"]),
        ]

        for read in reads:
            with pytest.raises(Unavailable):
                read()

    def test_a_store_that_hangs_up_leaves_a_write_open(self, shop: Shop) -> None:
        shop.store.set_faults(outage=True)

        with pytest.raises(OutcomeUnknown):
            shop.write(shop.change("MUG", 10, 7))

    def test_throttling_is_reported_with_a_wait_and_applies_nothing(self, shop: Shop) -> None:
        shop.store.set_faults(throttle_rate=1)

        with pytest.raises(Throttled) as caught:
            shop.write(shop.change("MUG", 10, 7))

        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 1
        shop.store.set_faults()
        assert shop.available("MUG") == 10

    def test_an_empty_bucket_says_how_long_it_takes(self, shop: Shop) -> None:
        shop.store.configure(bucket_points=40, restore_per_second=10)

        def write_much() -> None:
            for _ in range(10):
                shop.write(shop.change("MUG", 10, 10))

        with pytest.raises(Throttled) as caught:
            write_much()

        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after < 5

    def test_any_mixture_of_faults_ends_in_a_protocol_error_or_an_answer(self, shop: Shop) -> None:
        shop.store.set_faults(
            timeout_before_rate=0.2, timeout_after_rate=0.2, error_rate=0.2, throttle_rate=0.1, seed=7
        )
        shown = 10

        for target in range(20):
            key, change = new_key(), shop.change("MUG", shown, target)
            for _ in range(200):
                try:
                    rows = shop.write(change, key=key)
                except (OutcomeUnknown, Throttled, Unavailable):
                    continue
                break
            assert rows == [("confirmed", "")]
            shown = target

        shop.store.set_faults()
        assert shop.available("MUG") == 19


class TestAccess:
    def test_an_expired_token_is_replaced_in_the_middle_of_the_work(self, shop: Shop) -> None:
        shop.token = shop.request_token().access_token
        call("POST", f"{shop.store.control}/expire_tokens")

        assert shop.write(shop.change("MUG", 10, 7)) == [("confirmed", "")]
        assert shop.refreshes == 1

    def test_an_uninstalled_app_has_no_access(self, shop: Shop) -> None:
        shop.store.post("/admin-ui/uninstall")
        shop.connector = REGISTRY[shop.kind].connect(
            account="x.myshopify.com",
            base_url=shop.store.url,
            token=lambda force_refresh: shop.token,
            session=shop.session,
            pacer=Unpaced(),
        )

        with pytest.raises(NotAuthorized):
            shop.connector.read_locations()

    def test_a_wrong_client_secret_is_refused(self, shop: Shop) -> None:
        with pytest.raises(NotAuthorized) as caught:
            auth.request_by_client_credentials(
                base_url=shop.store.url,
                client_id=shop.store.client_id,
                client_secret=Secret("not-the-secret"),
                session=shop.session,
                now=datetime.now(UTC),
            )

        assert "not-the-secret" not in str(caught.value)

    def test_the_code_flow_ends_in_a_pair_that_can_be_refreshed(self, shop: Shop) -> None:
        url = auth.authorization_url(
            base_url=shop.store.url,
            client_id=shop.store.client_id,
            redirect_uri="http://127.0.0.1/callback",
            state="nonce",
        )
        secret = Secret(shop.store.secret)

        callback = auth.check_callback(
            approve(url), expected_state="nonce", client_secret=secret, now=datetime.now(UTC)
        )
        client = {"base_url": shop.store.url, "client_id": shop.store.client_id}
        first = auth.exchange_code(
            **client, client_secret=secret, code=callback.code, session=shop.session, now=datetime.now(UTC)
        )
        assert first.refresh_token is not None
        second = auth.refresh(
            **client,
            client_secret=secret,
            refresh_token=first.refresh_token,
            session=shop.session,
            now=datetime.now(UTC),
        )

        assert callback.shop == f"{shop.store.handle}.myshopify.com"
        assert auth.missing_scopes(second.scopes) == ()
        assert second.access_token != first.access_token
        shop.token = second.access_token
        assert shop.available("MUG") == 10
        with pytest.raises(NotAuthorized):  # a code works once
            auth.exchange_code(
                **client,
                client_secret=secret,
                code=callback.code,
                session=shop.session,
                now=datetime.now(UTC),
            )


def approve(authorization_url: str) -> dict[str, str]:
    """Click the button of the store's page; the parameters the browser comes back with."""
    parts = urlsplit(authorization_url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=5)
    form = urlencode(parse_qsl(parts.query))
    connection.request("POST", parts.path, form, {"Content-Type": "application/x-www-form-urlencoded"})
    location = connection.getresponse().headers["Location"]
    connection.close()
    return dict(parse_qsl(urlsplit(location).query))


class TestActivation:
    def test_an_item_is_stocked_on_purpose_and_keeps_its_quantity(self, shop: Shop) -> None:
        shop.store.post("/admin-ui/levels/disconnect", {"sku": "MUG", "location": "Back"})

        for _ in range(2):  # the second time there is nothing left to do
            shop.connector.activate_level(
                inventory_item_id=shop.item("MUG"), location_id=shop.location("Back"), key=new_key()
            )

        assert shop.available("MUG", "Back") == 4

    def test_an_unknown_place_is_refused(self, shop: Shop) -> None:
        with pytest.raises(Refused):
            shop.connector.activate_level(inventory_item_id=shop.item("MUG"), location_id="999", key=new_key())


class TestWebhooks:
    CAUSED = frozenset(
        {
            "orders/create",
            "orders/updated",
            "orders/edited",
            "orders/cancelled",
            "refunds/create",
            "inventory_levels/update",
            "inventory_levels/connect",
            "inventory_levels/disconnect",
            "inventory_items/update",
            "products/update",
            "products/delete",
            "locations/create",
            "locations/deactivate",
        }
    )

    def test_all_topics_are_made_once_and_mended_when_wrong(self, shop: Shop, webhooks: Receiver) -> None:
        first = shop.connector.ensure_webhooks("http://127.0.0.1:9/old")
        second = shop.connector.ensure_webhooks(webhooks.url)
        third = shop.connector.ensure_webhooks(webhooks.url)

        assert first.failed == second.failed == third.failed == ()
        assert len(first.created) >= 20
        assert second.repaired == third.present == first.created

    def test_duplicates_are_removed(self, shop: Shop, webhooks: Receiver) -> None:
        shop.store.subscribe("ORDERS_CREATE", "http://127.0.0.1:9/one")
        shop.store.subscribe("ORDERS_CREATE", "http://127.0.0.1:9/two")

        report = shop.connector.ensure_webhooks(webhooks.url)
        shop.store.buy("MUG")
        wait_until(lambda: webhooks.of("orders/create"))

        assert report.repaired == ("orders/create",)
        assert len(webhooks.of("orders/create")) == 1

    def test_everything_delivered_is_authentic_and_understood(self, shop: Shop, webhooks: Receiver) -> None:
        shop.connector.ensure_webhooks(webhooks.url)
        bought = shop.store.buy("MUG", 2)
        path = f"/shop/orders/{bought['id']}"
        line_id = bought["lines"][0]["id"]
        shop.store.post(f"{path}/fulfill", {"lines": [{"line_id": line_id, "quantity": 1}]})
        shop.store.post(f"{path}/edit", {"additions": [{"sku": "CUP", "quantity": 1}]})
        shop.store.post(f"{path}/refund", {"lines": [{"line_id": line_id, "quantity": 1, "restock_type": "return"}]})
        cancelled = shop.store.buy("CUP")
        shop.store.post(f"/shop/orders/{cancelled['id']}/cancel", {"restock": True})
        shop.store.post("/admin-ui/adjust", {"sku": "MUG", "delta": -1})
        shop.store.post("/admin-ui/levels/disconnect", {"sku": "MUG", "location": "Back"})
        shop.store.post("/admin-ui/levels/connect", {"sku": "MUG", "location": "Back"})
        shop.store.post("/admin-ui/locations", {"name": "Annex"})
        shop.store.post("/admin-ui/locations/deactivate", {"location": "Annex"})
        shop.store.post("/admin-ui/variants/rename", {"sku": "CUP", "new_sku": "BEAKER"})
        shop.store.post("/admin-ui/products/delete", {"product": "LEAFLET"})
        wait_until(lambda: {delivered.topic for delivered in webhooks.deliveries} >= self.CAUSED)
        shop.store.post("/admin-ui/uninstall")  # whatever is still under way then is dropped
        wait_until(lambda: webhooks.of("app/uninstalled"))

        events = {delivered.topic: self.understand(shop, delivered) for delivered in webhooks.deliveries}

        assert isinstance(events["inventory_levels/update"], LevelTouched)
        assert isinstance(events["orders/create"], OrderState)

    def understand(self, shop: Shop, delivered: Delivered) -> Event:
        reader = REGISTRY[shop.kind].reader
        headers = {name.lower(): value for name, value in delivered.headers.items()}
        assert reader.authenticate(headers=headers, body=delivered.body, secrets=["old", shop.store.secret])
        assert not reader.authenticate(headers=headers, body=delivered.body + b" ", secrets=[shop.store.secret])
        delivery = reader.read_delivery(headers)
        assert delivery.account == f"{shop.store.handle}.myshopify.com"
        assert delivery.triggered_at is not None
        (event,) = reader.interpret(topic=delivery.topic, body=delivered.body)
        return event

    def test_bytes_that_are_no_event_are_malformed(self, shop: Shop) -> None:
        with pytest.raises(MalformedEvent):
            REGISTRY[shop.kind].reader.interpret(topic="orders/create", body=b"{}")


def test_the_answers_about_cost_are_within_what_was_foreseen(shop: Shop) -> None:
    """No read of ours is refused for its cost, and the generous sizes are the ones in use."""
    shop.connector.read_orders_since(LONG_AGO, cursor=None)
    shop.connector.read_levels([shop.item("MUG")])

    assert shop.store.stats()["since_start"]["api_calls"] == 2


def test_workers_sharing_a_pacer_are_never_throttled(
    make_shop: Callable[..., StoreClient], guarded_session: GuardedSession
) -> None:
    """A small bucket, three workers, and a channel that would refuse the first call too many."""
    store = make_shop(bucket={"maximumAvailable": 100, "restoreRate": 100})
    store.add_variants([{"sku": "MUG", "title": "Mug", "levels": {"Main": 10}}])
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        bucket = TokenBucket(client, "pace:contract", default_capacity=100, default_rate=100)
        shop = Shop("sandbox", store, guarded_session, Unpaced())

        def work(_worker: int) -> int:
            connector = shop.connect(Pacer(bucket, max_wait_seconds=10))
            return sum(len(connector.read_levels([shop.item("MUG")])) for _ in range(8))

        with ThreadPoolExecutor(3) as pool:
            counts = list(pool.map(work, range(3)))

    assert counts == [8, 8, 8]
    assert store.stats()["since_start"].get("throttled", 0) == 0


def test_every_error_of_the_protocol_is_a_channel_error() -> None:
    for kind in (Unavailable, OutcomeUnknown, Throttled, NotAuthorized, Refused, MalformedEvent):
        assert issubclass(kind, ChannelError)


class TestSnapshots:
    """Of channels that can write down all their levels at once."""

    @pytest.fixture
    def taker(self, shop: Shop) -> TakesSnapshots:
        connector = shop.connector
        if not isinstance(connector, TakesSnapshots):
            pytest.skip("this kind of channel makes no snapshots")
        return connector

    def test_a_snapshot_shows_what_reading_shows(self, shop: Shop, taker: TakesSnapshots) -> None:
        shop.store.post("/admin-ui/levels/disconnect", {"sku": "CUP", "location": "Main"})
        snapshot_id = taker.begin_snapshot()
        wait_until(lambda: taker.read_snapshot(snapshot_id).state is not SnapshotState.UNDER_WAY)

        shown = {level for page in taker.snapshot_levels(snapshot_id) for level in page}

        read = shop.connector.read_levels([shop.item(sku) for sku in ("MUG", "CUP", "SET", "LEAFLET")])
        assert taker.read_snapshot(snapshot_id).state is SnapshotState.READY
        assert shown == set(read)
        assert len(shown) >= 4

    def test_a_snapshot_that_fails_says_why_and_may_be_read_in_part(self, shop: Shop, taker: TakesSnapshots) -> None:
        states = []
        for is_partial in (True, False):
            shop.store.set_faults(bulk_error="TIMEOUT", bulk_partial=is_partial)
            snapshot_id = taker.begin_snapshot()
            wait_until(lambda: taker.read_snapshot(snapshot_id).state is not SnapshotState.UNDER_WAY)  # noqa: B023
            states.append(taker.read_snapshot(snapshot_id))
            if is_partial:
                assert 0 < sum(len(page) for page in taker.snapshot_levels(snapshot_id)) < 4

        assert [state.state for state in states] == [SnapshotState.PARTIAL, SnapshotState.FAILED]
        assert {state.error for state in states} == {"TIMEOUT"}

    def test_one_too_many_waits_and_a_cancelled_one_has_failed(self, shop: Shop, taker: TakesSnapshots) -> None:
        shop.store.configure(bulk_seconds=30.0)
        snapshots = [taker.begin_snapshot() for _ in range(5)]

        with pytest.raises(Throttled):
            taker.begin_snapshot()
        taker.cancel_snapshot(snapshots[0])
        taker.cancel_snapshot(snapshots[0])

        assert taker.read_snapshot(snapshots[0]).state is SnapshotState.FAILED
        assert taker.read_snapshot("999999").state is SnapshotState.GONE
        assert taker.begin_snapshot()

    def test_a_file_whose_address_has_run_out_cannot_be_read(self, shop: Shop, taker: TakesSnapshots) -> None:
        shop.store.configure(bulk_url_seconds=0.0)
        snapshot_id = taker.begin_snapshot()
        wait_until(lambda: taker.read_snapshot(snapshot_id).state is SnapshotState.READY)

        with pytest.raises(Unavailable, match="HTTP 403"):
            list(taker.snapshot_levels(snapshot_id))
