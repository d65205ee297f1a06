"""Sell one unit in one practice store and wait until every other store shows one less."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels.models import Channel, ChannelKind, ChannelState
from sync import quiet
from sync.management.commands.measure_sync import plain_skus
from sync.measure import measure
from sync.store_books import PracticeStores


class Command(BaseCommand):
    help = "Sell one unit in one practice store and wait until every other store shows it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--timeout", type=float, default=20.0, help="seconds to wait (default 20)")

    def handle(self, *args: Any, **options: Any) -> None:
        channels = list(Channel.objects.filter(kind=ChannelKind.SANDBOX, state=ChannelState.ACTIVE).order_by("pk"))
        if len(channels) < 2:
            raise CommandError("Connect at least two practice stores first: `python manage.py load_demo` makes ten.")
        quiet.wait(timeout_seconds=options["timeout"])
        stores = PracticeStores(settings.SANDBOX_URL)
        handles = [channel.account.split(".")[0] for channel in channels]
        before = {handle: stores.latest_change(handle) for handle in handles}
        # What there is most of is not divided among the stores: where units are divided, a sale is no other store's news.
        goods = stores.goods(handles[0])
        sku = max((code for code in plain_skus(channels) if code in goods), key=lambda code: goods[code].available)
        stores.buy(handles[0], sku)
        deadline = time.monotonic() + options["timeout"]
        while True:
            changes = [change for handle in handles for change in stores.changes(handle, after=before[handle])]
            measured = measure(changes, handles)
            if measured.latencies_ms or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        report = {
            "converged": bool(measured.latencies_ms) and not measured.unreflected,
            "stores": len(handles),
            "sold_in": handles[0],
            "sku": sku,
            "latency_ms": measured.percentile(1.0),
        }
        self.stdout.write(json.dumps(report) if options["json"] else str(report))
        if not report["converged"]:
            sys.exit(1)
