"""Load the demo merchant: goods, stock, practice stores, and what links them.

May be run again at any time: what is there is left alone, what is missing is made, and a sandbox that lost
its stores gets them back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection, transaction
from django.utils import timezone
from environs import Env

from channels import credentials, onboarding, origins
from channels.models import Channel, ChannelKind, ChannelState, Listing, StoreLocation
from channels.protocol import ChannelError
from inventory import stock
from inventory.bom import bundles_available
from inventory.models import BomLine, Sku, SkuKind, StockLevel, Warehouse
from locations import matrix
from locations.models import LocationGroup, PublishingRule
from merchants.models import Member, Merchant, Role, User
from sync.management.demo_goods import Bundle, DemoStore, Good, bundles, demo_stores, goods
from synctec.lib.http import HttpError
from synctec.lib.secret import Secret

OWNER_EMAIL = "demo@synctec.test"
ADMIN_EMAIL = "admin@synctec.test"
#: Points a second of each practice store: as the API gives its largest shops, so that a demo is not about
#: waiting.
BUCKET = {"maximumAvailable": 20_000, "restoreRate": 1_000}
#: How many stores are seen to at the same time.
STORES_AT_ONCE = 4
#: Webhooks of the practice stores are tried again within minutes rather than hours.
RETRY_SCALE = 0.02


class SandboxAnswer(CommandError):
    """The sandbox answered otherwise than its documentation says."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the demo is to consist of."""

    goods: list[Good]
    bundles: list[Bundle]
    stores: list[DemoStore]
    units: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sandbox answered: its JSON as it came."""

    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class Opened:
    """What had to be done for one store."""

    is_created: bool
    is_activated: bool


@dataclass
class Report:
    """What was made; zeros when all was there."""

    merchant: str = ""
    stores: int = 0
    skus: int = 0
    bundles: int = 0
    stores_created: int = 0
    channels_activated: int = 0
    stock_levels_opened: int = 0
    seconds: float = 0.0


class Command(BaseCommand):
    help = "Load the demo merchant with its practice stores. Safe to repeat."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--stores", type=int, default=10)
        parser.add_argument("--skus", type=int, default=200, help="stocked SKUs, carried by every store")
        parser.add_argument("--bundles", type=int, default=4, help="bundles made of them")
        parser.add_argument("--units", type=int, default=50, help="opening stock of each SKU")
        parser.add_argument("--password", help="of both logins (else DEMO_PASSWORD, else: demo)")
        parser.add_argument("--json", action="store_true", help="print the report as one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        if min(options["stores"], options["skus"], options["bundles"], options["units"]) < 0:
            raise CommandError("Numbers must not be below zero.")
        started_at = time.monotonic()
        carried = goods(options["skus"])
        wanted = Wanted(
            goods=carried,
            bundles=bundles(options["bundles"], carried),
            stores=demo_stores(options["stores"]),
            units=options["units"],
        )
        report = load(wanted, password=options["password"] or _password_of_environment(), now=timezone.now())
        report.seconds = round(time.monotonic() - started_at, 2)
        self._tell(report, as_json=options["json"])

    def _tell(self, report: Report, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(asdict(report)))
            return
        self.stdout.write(
            f"{report.merchant}: {report.stores} stores ({report.stores_created} made now), "
            f"{report.skus} SKUs, {report.bundles} bundles, in {report.seconds} s"
        )
        if not settings.SANDBOX_URL:
            self.stdout.write("No practice stores: SANDBOX_URL is not set.")
        self.stdout.write(f"Logins: {OWNER_EMAIL} (owner), {ADMIN_EMAIL} (superuser)")


def _password_of_environment() -> str:
    password: str = Env().str("DEMO_PASSWORD", default="demo")
    return password


def load(wanted: Wanted, *, password: str, now: datetime) -> Report:
    """Make what is missing of the demo.

    1. The merchant and its people.  2. SKUs, bundles and opening stock.  3. Practice stores that carry them,
    connected and activated one by one.  4. The location group and its matrix, which lets the engine publish.
    """
    report = Report(skus=len(wanted.goods), bundles=len(wanted.bundles))
    with transaction.atomic():
        merchant, owner = make_people(password)
        report.merchant = merchant.name
        skus = make_skus(merchant, wanted)
        main, second = make_warehouses(merchant)
        report.stock_levels_opened = open_stock(merchant, wanted, skus, main, second, now)
    if settings.SANDBOX_URL:
        opened = open_stores(merchant, owner, wanted)
        report.stores = len(opened)
        report.stores_created = sum(store.is_created for store in opened)
        report.channels_activated = sum(store.is_activated for store in opened)
    link(merchant, wanted, (main, second), owner, now)
    if report.channels_activated:
        matrix.announce(merchant.pk, now)
    return report


# --- 1. people ------------------------------------------------------------------------------------


def make_people(password: str) -> tuple[Merchant, User]:
    """The demo merchant and its two logins; a changed password is taken over."""
    merchant, _ = Merchant.objects.get_or_create(slug="demo-outfitters", defaults={"name": "Demo Outfitters"})
    owner = _person(OWNER_EMAIL, "demo", password, is_superuser=False)
    admin = _person(ADMIN_EMAIL, "admin", password, is_superuser=True)
    for user in (owner, admin):
        Member.objects.get_or_create(merchant=merchant, user=user, defaults={"role": Role.OWNER})
    return merchant, owner


def _person(email: str, username: str, password: str, *, is_superuser: bool) -> User:
    user, is_new = User.objects.get_or_create(
        email=email, defaults={"username": username, "is_staff": True, "is_superuser": is_superuser}
    )
    if is_new or not user.check_password(password):
        user.set_password(password)
        user.save(update_fields=["password"])
    return user


# --- 2. goods -------------------------------------------------------------------------------------


def make_skus(merchant: Merchant, wanted: Wanted) -> dict[str, Sku]:
    """The SKUs by code, with the bundles and their lines."""
    rows = [Sku(merchant=merchant, code=good.code, title=good.title) for good in wanted.goods]
    rows += [
        Sku(merchant=merchant, code=bundle.code, title=bundle.title[:255], kind=SkuKind.BUNDLE)
        for bundle in wanted.bundles
    ]
    Sku.objects.bulk_create(rows, ignore_conflicts=True, batch_size=1000)
    codes = [row.code for row in rows]
    skus = {sku.code: sku for sku in Sku.objects.filter(merchant=merchant, code__in=codes)}
    made = set(BomLine.objects.filter(merchant=merchant).values_list("bundle_id", flat=True))
    BomLine.objects.bulk_create(
        BomLine(merchant=merchant, bundle=skus[bundle.code], component=skus[code], quantity=units)
        for bundle in wanted.bundles
        if skus[bundle.code].pk not in made
        for code, units in bundle.parts
    )
    return skus


def make_warehouses(merchant: Merchant) -> tuple[Warehouse, Warehouse]:
    """The main warehouse and an overflow one."""
    main, _ = Warehouse.objects.get_or_create(merchant=merchant, code="MAIN", defaults={"name": "Riverside warehouse"})
    second, _ = Warehouse.objects.get_or_create(
        merchant=merchant, code="OVERFLOW", defaults={"name": "Hilltop overflow"}
    )
    return main, second


def open_stock(
    merchant: Merchant,
    wanted: Wanted,
    skus: Mapping[str, Sku],
    main: Warehouse,
    second: Warehouse,
    now: datetime,
) -> int:
    """Book the opening stock where there is none yet: of every fourth SKU a fifth lies in the second
    warehouse."""
    quantities: dict[tuple[int, int], int] = {}
    for index, good in enumerate(wanted.goods):
        apart = wanted.units // 5 if index % 4 == 3 else 0
        quantities[skus[good.code].pk, main.pk] = wanted.units - apart
        if apart:
            quantities[skus[good.code].pk, second.pk] = apart
    booked = set(StockLevel.objects.filter(merchant=merchant, seq__gt=0).values_list("sku_id", "warehouse_id"))
    missing = {pair: units for pair, units in quantities.items() if pair not in booked}
    return stock.open_stock(merchant_id=merchant.pk, quantities=missing, now=now) if missing else 0


# --- 3. stores ------------------------------------------------------------------------------------


def open_stores(merchant: Merchant, owner: User, wanted: Wanted) -> list[Opened]:
    """See to all stores, several at a time: most of the work is waiting for the sandbox.

    Raises:
        CommandError: as `open_store`; the other stores are seen to all the same.
    """

    def see_to(store: DemoStore) -> Opened:
        try:
            return open_store(merchant, owner, store, wanted)
        finally:
            connection.close()  # this thread's own

    with ThreadPoolExecutor(max_workers=STORES_AT_ONCE) as threads:
        return list(threads.map(see_to, wanted.stores))


def open_store(merchant: Merchant, owner: User, store: DemoStore, wanted: Wanted) -> Opened:
    """See that the practice store exists, carries everything, and is connected and active.

    Raises:
        CommandError: the sandbox cannot be reached, or the store cannot be connected.
    """
    try:
        is_created, secrets = create_store(store)
        stocked = fill_shelves(merchant, store, wanted)
        channel = channel_of(merchant, store)
        if channel is not None and not is_created and not stocked and _is_in_use(channel, store, wanted):
            return Opened(is_created=False, is_activated=False)
        if channel is not None and is_created:
            forget_lost_store(channel)
        channel = connect(merchant, owner, store, secrets)
        onboarding.activate(channel, now=timezone.now(), user=owner)
    except (HttpError, ChannelError, onboarding.OnboardingError) as error:
        raise CommandError(f"{store.name}: {error}") from error
    return Opened(is_created=is_created, is_activated=True)


def forget_lost_store(channel: Channel) -> None:
    """The channel's store is another one from now on: its tokens and listings were those of the one that is
    gone."""
    credentials.wipe(channel)
    onboarding.retire_listings(Listing.objects.filter(channel=channel), now=timezone.now())


def channel_of(merchant: Merchant, store: DemoStore) -> Channel | None:
    """The channel of a practice store, if it was connected before."""
    account = f"{store.handle}{origins.SHOP_SUFFIX}"
    return Channel.objects.filter(merchant=merchant, kind=ChannelKind.SANDBOX, account=account).first()


def create_store(store: DemoStore) -> tuple[bool, dict[str, Any]]:
    """Make the store in the sandbox unless it is there; whether it was made, and its credentials."""
    answer = _ask(
        "POST",
        "/_control/stores",
        {
            "handle": store.handle,
            "name": store.name,
            "locations": [store.location],
            "bucket": BUCKET,
            "retry_scale": RETRY_SCALE,
        },
    )
    return answer.status == 201, answer.body


def fill_shelves(merchant: Merchant, store: DemoStore, wanted: Wanted) -> int:
    """Put what the store does not carry yet on its shelves, in the quantity it should show; returns how many
    SKUs."""
    carried = {variant["sku"] for variant in _ask("GET", f"/_control/stores/{store.handle}/variants").body}
    shown = quantities_to_show(merchant, buffer_units=store.buffer_units)
    offered: list[Good | Bundle] = [*wanted.goods, *wanted.bundles]
    rows = [
        {
            "sku": row.code,
            "title": row.variant,
            "product": row.product,
            "price": f"{row.price}.00",
            "levels": {store.location: shown.get(row.code, 0)},
        }
        for row in offered
        if row.code not in carried
    ]
    if rows:
        _ask("POST", f"/_control/stores/{store.handle}/variants", rows)
    return len(rows)


def quantities_to_show(merchant: Merchant, *, buffer_units: int) -> dict[str, int]:
    """What a store shows of each SKU when it is in step: so that a new store starts in step."""
    levels = StockLevel.objects.filter(merchant=merchant).values_list(
        "sku_id", "sku__code", "warehouse_id", "available"
    )
    total: dict[str, int] = {}
    by_warehouse: dict[int, dict[int, int]] = {}
    for sku_id, code, warehouse_id, available in levels:
        total[code] = total.get(code, 0) + available
        by_warehouse.setdefault(warehouse_id, {})[sku_id] = available
    recipes: dict[str, dict[int, int]] = {}
    for code, component_id, quantity in BomLine.objects.filter(merchant=merchant).values_list(
        "bundle__code", "component_id", "quantity"
    ):
        recipes.setdefault(code, {})[component_id] = quantity
    for code, recipe in recipes.items():
        # A bundle is packed in one warehouse.
        total[code] = sum(max(0, bundles_available(recipe, units)) for units in by_warehouse.values())
    return {code: max(0, units - buffer_units) for code, units in total.items()}


def _is_in_use(channel: Channel, store: DemoStore, wanted: Wanted) -> bool:
    """Whether nothing is left to do: the channel is active, hears of changes, and knows all its goods."""
    known = Listing.objects.filter(channel=channel, deleted_at=None, sku__isnull=False).count()
    return (
        channel.state in (ChannelState.ACTIVE, ChannelState.PAUSED)
        and known >= len(wanted.goods) + len(wanted.bundles)
        and bool(_ask("GET", f"/_control/stores/{store.handle}/webhooks").body["subscriptions"])
    )


def connect(merchant: Merchant, owner: User, store: DemoStore, secrets: Mapping[str, Any]) -> Channel:
    """Connect the store, or give its channel the new credentials of a store that was made again."""
    return onboarding.connect_with_client_credentials(
        merchant=merchant,
        name=store.name,
        account=f"{store.handle}{origins.SHOP_SUFFIX}",
        client_id=secrets["client_id"],
        client_secret=Secret(secrets["client_secret"]),
        user=owner,
        kind=ChannelKind.SANDBOX,
    )


def _ask(method: str, path: str, body: object = None) -> Answer:
    """One call of the sandbox's control API."""
    url = origins.sandbox_url()
    response = origins.sandbox_session(url).request(method, f"{url}{path}", json=body)
    if response.status_code >= 400:
        raise SandboxAnswer(f"The sandbox refused {method} {path}: {response.status_code} {response.text[:200]}")
    return Answer(response.status_code, response.json())


# --- 4. the link ----------------------------------------------------------------------------------


@transaction.atomic
def link(merchant: Merchant, wanted: Wanted, warehouses: Sequence[Warehouse], owner: User, now: datetime) -> None:
    """One group of all stores and both warehouses; who is in a group already stays as it is set."""
    group, _ = LocationGroup.objects.get_or_create(merchant=merchant, name="All stores")
    locations = list(
        StoreLocation.objects.filter(
            merchant=merchant, channel__kind=ChannelKind.SANDBOX, is_active=True, membership=None
        ).values_list("pk", flat=True)
    )
    if locations or not matrix.matrix_of(group):
        cells = matrix.matrix_of(group) | matrix.full_matrix(locations, [warehouse.pk for warehouse in warehouses])
        matrix.set_matrix(group=group, cells=cells, user=owner, now=now)
    for store in wanted.stores:
        channel = channel_of(merchant, store)
        if channel is not None and store.buffer_units:
            PublishingRule.objects.get_or_create(
                merchant=merchant,
                channel=channel,
                sku=None,
                listing=None,
                defaults={"buffer_units": store.buffer_units},
            )
