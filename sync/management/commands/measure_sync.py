"""Measure the sync by the practice stores' own clocks, while shoppers buy."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels.models import Channel, ChannelKind, ChannelState
from channels.shoppers import NoGoods, Shoppers
from sync import quiet
from sync.measure import measure
from sync.store_books import PracticeStores
from synctec.lib import sql

#: The promise that is measured: this long after the last sale no store shows a wrong number.
SETTLE_SECONDS = 2.0


class Command(BaseCommand):
    help = "Send shoppers to the practice stores and print how long each sale took to reach every other store."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--rate", type=float, default=20.0, help="orders per second over all stores (default 20)")
        parser.add_argument("--seconds", type=float, default=20.0, help="how long shoppers come (default 20)")
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--stores", type=int, default=0, help="use only so many stores (default: all)")

    def handle(self, *args: Any, **options: Any) -> None:
        channels = list(Channel.objects.filter(kind=ChannelKind.SANDBOX, state=ChannelState.ACTIVE).order_by("pk"))
        channels = channels[: options["stores"] or None]
        if len(channels) < 2:
            raise CommandError("Connect at least two practice stores first: `python manage.py load_demo` makes ten.")
        stores = PracticeStores(settings.SANDBOX_URL)
        handles = [channel.account.split(".")[0] for channel in channels]
        if not quiet.wait(timeout_seconds=60):
            raise CommandError(
                "The system did not come to rest within a minute: measure when nothing else is going on."
            )
        skus = plain_skus(channels)
        before = {handle: stores.latest_change(handle) for handle in handles}
        try:
            shoppers = Shoppers(
                settings.SANDBOX_URL, handles, options["rate"], random.Random(options["seed"]), skus=skus
            )
        except NoGoods as error:
            raise CommandError(str(error)) from None
        tally = shoppers.run(options["seconds"])
        time.sleep(SETTLE_SECONDS)
        wrong = _wrong_levels(channels, stores)
        is_quiet = quiet.wait(timeout_seconds=60)
        changes = [change for handle in handles for change in stores.changes(handle, after=before[handle])]
        measured = measure(changes, handles)
        self._print(
            {
                "sales": measured.sales,
                "stores": len(handles),
                "orders_per_second": round(tally.orders / options["seconds"], 1),
                "sold_out": tally.sold_out,
                "errors": tally.errors,
                "p50_ms": measured.percentile(0.5),
                "p99_ms": measured.percentile(0.99),
                "max_ms": measured.percentile(1.0),
                "unreflected": measured.unreflected,
                "wrong_levels": wrong,
                "quiet": is_quiet,
            },
            as_json=options["json"],
        )

    def _print(self, report: dict[str, Any], *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(report))
            return
        for name, figure in report.items():
            self.stdout.write(f"{name:>18}  {figure}")


def plain_skus(channels: Sequence[Channel]) -> list[str]:
    """SKUs of these channels that are neither bundles nor components: their numbers are moved by their own sales alone."""
    return [
        code
        for (code,) in sql.rows(
            """
            SELECT DISTINCT listing.remote_sku FROM channels_listing listing JOIN inventory_sku sku ON sku.id = listing.sku_id
            WHERE listing.channel_id = ANY(%s::bigint[]) AND sku.kind = 'stocked'
                AND NOT EXISTS (SELECT 1 FROM inventory_bomline line WHERE line.component_id = sku.id)
            """,
            [[channel.pk for channel in channels]],
        )
    ]


def _wrong_levels(channels: Sequence[Channel], stores: PracticeStores) -> int:
    """Levels whose store shows another number than the pool's minus its buffer, right now."""
    wrong = 0
    for channel in channels:
        shelf = stores.shelf(channel.account.split(".")[0])
        for item, location, desired in sql.rows(
            """
            SELECT listing.inventory_item_id, location.remote_id, level.desired FROM channels_listinglevel level
            JOIN channels_listing listing ON listing.id = level.listing_id
            JOIN channels_storelocation location ON location.id = level.store_location_id
            WHERE level.channel_id = %s AND level.desired IS NOT NULL
            """,
            [channel.pk],
        ):
            wrong += shelf.get((item, location)) != desired
    return wrong
