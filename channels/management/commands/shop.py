"""Send shoppers to the sandbox stores."""

from __future__ import annotations

import random
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels.shoppers import NoGoods, Shoppers, Tally, list_stores


class Command(BaseCommand):
    help = "Send shoppers to the sandbox stores: RATE orders a second over all stores, at random moments."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rate", type=float, default=5.0, help="orders a second in all")
        parser.add_argument("--stores", default="all", help="all, or handles separated by commas")
        parser.add_argument("--seconds", type=float, default=60.0)
        parser.add_argument("--max-quantity", type=int, default=1, help="units of one order: 1 up to this")
        parser.add_argument("--returns", type=float, default=0.0, help="share of visitors who cancel, such as 0.05")
        parser.add_argument("--seed", type=int, help="the same wishes again")
        parser.add_argument("--url", default=settings.SANDBOX_URL, help="address of the sandbox (SANDBOX_URL)")

    def handle(self, *args: Any, **options: Any) -> None:
        _check(options)
        try:
            shoppers = _shoppers(options)
            started_at = time.monotonic()
            tally = shoppers.run(options["seconds"], each_second=_Ticker(self))
        except NoGoods as error:
            raise CommandError(str(error)) from None
        seconds = time.monotonic() - started_at
        self.stdout.write(
            self.style.SUCCESS(
                f"{tally.orders} orders with {tally.units} units in {seconds:.1f} s "
                f"({tally.orders / seconds:.1f}/s), {tally.sold_out} sold out, "
                f"{tally.returned} returned, {tally.errors} errors"
            )
        )


class _Ticker:
    """Prints a line each second: what happened in it, and in all."""

    def __init__(self, command: BaseCommand) -> None:
        self._command = command
        self._before = Tally()
        self._second = 0

    def __call__(self, tally: Tally) -> None:
        self._second += 1
        new = tally - self._before
        self._before = tally
        self._command.stdout.write(
            f"{self._second:4d} s  {new.orders:4d} sold  {new.sold_out:4d} sold out  "
            f"{new.returned:3d} returned  {new.errors:3d} errors  |  {tally.orders:6d} in all"
        )


def _check(options: dict[str, Any]) -> None:
    if not options["url"]:
        raise CommandError("There is no sandbox here: set SANDBOX_URL, or give --url.")
    if options["rate"] <= 0 or options["seconds"] <= 0:
        raise CommandError("--rate and --seconds must be above zero.")
    if not 0 <= options["returns"] <= 1 or options["max_quantity"] < 1:
        raise CommandError("--returns is a share from 0 to 1, --max-quantity at least 1.")


def _shoppers(options: dict[str, Any]) -> Shoppers:
    wanted = options["stores"]
    stores = list_stores(options["url"]) if wanted == "all" else [name.strip() for name in wanted.split(",")]
    return Shoppers(
        options["url"],
        stores,
        options["rate"],
        random.Random(options["seed"]),  # noqa: S311 - whims, no secrets
        max_quantity=options["max_quantity"],
        return_share=options["returns"],
    )
