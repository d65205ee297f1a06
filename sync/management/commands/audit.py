"""Check the invariants. Exit status 1 and the first offending rows when one does not hold."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from sync import invariants, quiet


class Command(BaseCommand):
    help = (
        "Check that the ledger, the registers, the pushes and the stores agree. With --settle it first has every channel "
        "reconciled twice and waits until all is quiet; with --live it checks only what must hold at any moment."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--live", action="store_true", help="only what must hold while the system is at work")
        parser.add_argument("--settle", action="store_true", help="reconcile twice and wait for quiet first")
        parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for quiet (default 120)")

    def handle(self, *args: Any, **options: Any) -> None:
        started = time.monotonic()
        if options["settle"]:
            for _ in range(2):
                quiet.reconcile_all_now(timeout_seconds=options["timeout"])
        is_quiet = options["live"] or quiet.wait(timeout_seconds=options["timeout"])
        checks = [check.name for check in invariants.ALWAYS]
        found = list(invariants.violations(when_quiet=not options["live"]))
        if not options["live"]:
            checks += [check.name for check in invariants.WHEN_QUIET]
            checks += ["stores_show_what_is_reported", invariants.ACKNOWLEDGED, invariants.SALES_KNOWN]
            found += invariants.stores_that_differ()
            found += invariants.practice_books_that_differ()
        report = {
            "ok": not found,
            "quiet": is_quiet,
            "checks": checks,
            "violations": [{"name": v.name, "says": v.says, "rows": v.rows} for v in found],
            "seconds": round(time.monotonic() - started, 2),
        }
        if options["json"]:
            self.stdout.write(json.dumps(report, default=str))
        else:
            self._print(report)
        if found:
            sys.exit(1)

    def _print(self, report: dict[str, Any]) -> None:
        for violation in report["violations"]:
            self.stdout.write(self.style.ERROR(f"BROKEN {violation['name']}: {violation['says']}"))
            for row in violation["rows"]:
                self.stdout.write("  " + ", ".join(f"{name}={value}" for name, value in row.items()))
        verdict = (
            f"{len(report['checks'])} invariants checked in {report['seconds']} s, {len(report['violations'])} broken"
        )
        self.stdout.write(self.style.SUCCESS(verdict) if report["ok"] else self.style.ERROR(verdict))
