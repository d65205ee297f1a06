"""Loading the demo merchant against a real sandbox."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db.models import F

from channels.models import Channel, ChannelState, Listing, ListingLevel
from inventory.models import BomLine, Movement, Sku, StockLevel
from locations.models import LocationGroup, Mapping, PublishingRule
from merchants.models import Member, Merchant, Role, User
from sync import live, publish
from sync.management.demo_goods import bundles, demo_stores, goods

SMALL = {"stores": 3, "skus": 8, "bundles": 2, "units": 100}  # more than guard divides before any news was timed


@pytest.fixture(scope="module")
def sandbox_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("sandbox")
    command = [sys.executable, "-m", "channels.sandbox", "--port", str(port), "--data", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            requests.get(f"{url}/_control/health", timeout=5)
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the sandbox did not start")


@pytest.fixture
def sandbox(sandbox_url: str, settings: Any) -> str:
    """A sandbox without stores, told to the system."""
    for store in requests.get(f"{sandbox_url}/_control/stores", timeout=5).json():
        requests.delete(f"{sandbox_url}/_control/stores/{store['handle']}", timeout=5)
    settings.SANDBOX_URL = sandbox_url
    return sandbox_url


def load(**options: Any) -> dict[str, Any]:
    out = io.StringIO()
    call_command("load_demo", **{**SMALL, **options}, json=True, stdout=out)
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


def shelf(url: str, handle: str) -> dict[str, int]:
    variants = requests.get(f"{url}/_control/stores/{handle}/shelf", timeout=5).json()["variants"]
    return {variant["sku"]: variant["available"] for variant in variants}


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_demo_is_loaded_in_step_repeated_and_repaired(sandbox: str) -> None:
    # One store first, as when the command was interrupted.
    load(stores=1)
    report = load(password="a long password")
    merchant = Merchant.objects.get(slug="demo-outfitters")
    while publish.publish_batch(live.engine(), merchant_id=merchant.pk).skus:
        pass

    # Everything is there, mapped, active and in step from the beginning.
    assert (report["stores"], report["stores_created"], report["channels_activated"]) == (3, 2, 2)
    assert list(Channel.objects.values_list("state", flat=True)) == [ChannelState.ACTIVE] * 3
    assert Listing.objects.filter(sku__isnull=False).count() == 3 * (8 + 2)
    assert not ListingLevel.objects.exclude(desired=F("shown")).exists()
    assert Sku.objects.filter(kind="bundle").count() == 2
    assert BomLine.objects.count() == 5
    group = LocationGroup.objects.get(merchant=merchant)
    assert sorted(Mapping.objects.filter(group=group).values_list("priority", flat=True)) == [
        1,
        1,
        1,
        2,
        2,
        2,
    ]
    assert PublishingRule.objects.get().buffer_units == 2

    # The stores show the pool, less the buffer; a bundle is packed in one warehouse.
    plain, buffered = shelf(sandbox, "demo-harbor-street"), shelf(sandbox, "demo-northgate")
    codes = [good.code for good in goods(8)]
    assert {plain[code] for code in codes} == {100}
    assert {buffered[code] for code in codes} == {98}
    assert (plain["SET-01"], plain["SET-02"]) == (100, 80)
    assert StockLevel.objects.filter(warehouse__code="OVERFLOW").count() == 2

    # Both people can sign in.
    for email, is_superuser in (("demo@synctec.test", False), ("admin@synctec.test", True)):
        user = User.objects.get(email=email)
        assert user.check_password("a long password")
        assert (user.is_staff, user.is_superuser) == (True, is_superuser)
        assert Member.objects.get(user=user).role == Role.OWNER

    # Once more: nothing is made, nothing is moved.
    movements, listings = Movement.objects.count(), Listing.objects.count()
    again = load(password="a long password")
    assert (again["stores_created"], again["channels_activated"], again["stock_levels_opened"]) == (0, 0, 0)
    assert (Movement.objects.count(), Listing.objects.count()) == (movements, listings)

    # A store that the sandbox lost is made again and connected anew; the others are left alone.
    requests.delete(f"{sandbox}/_control/stores/demo-old-mill", timeout=5)
    repaired = load(password="a long password")
    assert (repaired["stores_created"], repaired["channels_activated"]) == (1, 1)
    assert shelf(sandbox, "demo-old-mill") == plain
    living = Listing.objects.filter(channel__account="demo-old-mill.myshopify.com", deleted_at=None)
    assert living.count() == 10
    webhooks = requests.get(f"{sandbox}/_control/stores/demo-old-mill/webhooks", timeout=5).json()
    assert webhooks["subscriptions"]
    assert Movement.objects.count() == movements


@pytest.mark.django_db
def test_without_a_sandbox_there_are_goods_but_no_stores(settings: Any) -> None:
    settings.SANDBOX_URL = ""

    report = load()

    assert (report["stores"], report["skus"], report["stock_levels_opened"]) == (0, 8, 10)
    assert not Channel.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_sandbox_that_does_not_answer_is_told(settings: Any) -> None:
    settings.SANDBOX_URL = "http://127.0.0.1:1"

    with pytest.raises(CommandError, match="Harbor Street"):
        load(stores=1)


def test_goods_have_codes_of_their_own_and_stay_the_same() -> None:
    many = goods(5_000)

    assert len({good.code for good in many}) == 5_000
    assert many[:200] == goods(200)
    assert many[0].code == "MUG-HB-SL"
    assert many[0].title == "Harbor enamel mug, slate"


def test_stores_have_handles_of_their_own_and_some_keep_a_buffer() -> None:
    stores = demo_stores(23)

    assert len({store.handle for store in stores}) == 23
    assert [store.handle for store in demo_stores(10) if store.buffer_units] == [
        "demo-northgate",
        "demo-station-arcade",
    ]


def test_bundles_are_made_of_goods_that_are_carried() -> None:
    carried = goods(9)

    made = bundles(10, carried)

    assert {code for bundle in made for code, _ in bundle.parts} <= {good.code for good in carried}
    assert [len(bundle.parts) for bundle in made] == [2, 3, 2]
    assert bundles(4, goods(2)) == []
