"""`manage.py scorecard`: the health figures of everybody or of one merchant; and days of them written anew."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from merchants.models import Merchant
from sync import history, scorecard
from sync.history import Period
from sync.score import Figure


class Command(BaseCommand):
    help = "Print the health scorecard; with --keep-days write that many days of it anew, as long as their facts exist."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--merchant", default="", help="its slug; everybody together without it")
        parser.add_argument("--period", choices=[period.value for period in Period], default=Period.DAY.value)
        parser.add_argument("--json", action="store_true")
        parser.add_argument("--keep-days", type=int, default=0, metavar="DAYS")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        if options["keep_days"]:
            written = history.keep_days(now=now, back=options["keep_days"], anew=True)
            self.stdout.write(f"{written} days written")
            return
        figures = self._figures(options["merchant"], Period(options["period"]), now)
        if options["json"]:
            told = {figure.key: {"value": figure.value, "standing": figure.standing} for figure in figures}
            self.stdout.write(json.dumps(told))
            return
        for figure in figures:
            detail = f" ({figure.detail})" if figure.detail else ""
            self.stdout.write(
                f"{figure.standing_said:<17} {figure.name:<28} {figure.said}{detail}; target: {figure.target}"
            )
            if figure.advice:
                self.stdout.write(f"{'':<17} {figure.advice}")

    def _figures(self, slug: str, period: Period, now: Any) -> tuple[Figure, ...]:
        if not slug:
            since = now - timedelta(days=period.days)
            return scorecard.figures(merchant_id=None, since=since, until=now, now=now)
        merchant = Merchant.objects.filter(slug=slug).first()
        if merchant is None:
            raise CommandError(f"There is no merchant {slug!r}.")
        return history.figures(merchant, period, now=now)
