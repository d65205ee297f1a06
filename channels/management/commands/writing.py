"""Stop all writing to channels, for everybody or for one merchant; let it go on; say how it stands."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from channels import writing
from merchants.models import Merchant


class Command(BaseCommand):
    help = (
        "The kill switch. `stop` begins no more writes to any channel, while channels are still read and what they tell is "
        "applied; writes under way end. `resume` reads what is to be written first, and has every channel reconciled."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("act", choices=["stop", "resume", "status"])
        parser.add_argument("--reason", default="", help="kept in every merchant's audit trail; needed to stop")
        parser.add_argument("--merchant", default="", help="only this merchant's channels (its short name)")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        merchant = None
        if options["merchant"]:
            merchant = Merchant.objects.filter(slug=options["merchant"]).first()
            if merchant is None:
                raise CommandError(f"There is no merchant {options['merchant']!r}.")
        try:
            if options["act"] == "stop":
                if not options["reason"].strip():
                    raise CommandError("Say why: --reason 'what happened'.")
                writing.stop(merchant=merchant, user=None, reason=options["reason"])
            elif options["act"] == "resume":
                writing.resume(merchant=merchant, user=None, now=timezone.now(), reason=options["reason"])
        except writing.CannotSwitch as error:
            raise CommandError(str(error)) from None
        self._tell(as_json=options["json"])

    def _tell(self, *, as_json: bool) -> None:
        stops = writing.merchants_stopped()
        if as_json:
            told = [
                {"merchant": name or None, "since": stop.began_at.isoformat(), "reason": stop.reason}
                for name, stop in stops
            ]
            self.stdout.write(json.dumps({"is_stopped": bool(stops), "stops": told}))
            return
        for name, stop in stops:
            self.stdout.write(
                f"STOPPED for {name or 'everybody'} since {stop.began_at:%Y-%m-%d %H:%M} UTC: {stop.reason}"
            )
        if not stops:
            self.stdout.write("Writing is on.")
