"""Check the invariants. Exit status 1 and the first offending rows when one does not hold, or work never came to an end."""

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
        parser.add_argument("--timeout", type=float, default=300.0, help="seconds to wait for quiet (default 300)")

    def handle(self, *args: Any, **options: Any) -> None:
        started = time.monotonic()
        timeout_seconds = options["timeout"]
        are_passes_done = not options["settle"] or _reconcile_twice(timeout_seconds)
        settled = time.monotonic()
        is_quiet = options["live"] or quiet.wait(timeout_seconds=timeout_seconds)
        checks = [check.name for check in invariants.ALWAYS]
        found = list(invariants.violations(when_quiet=not options["live"]))
        if not options["live"]:
            checks += [check.name for check in invariants.WHEN_QUIET]
            checks += [invariants.SHOWN, invariants.ACKNOWLEDGED, invariants.SALES_KNOWN]
            found += invariants.stores_that_differ()
            found += invariants.practice_books_that_differ()
        report = {
            "ok": are_passes_done and is_quiet and not found,
            "passes_done": are_passes_done,
            "quiet": is_quiet,
            "channels_left_out": invariants.channels_left_out(),
            "checks": checks,
            "violations": [{"name": v.name, "says": v.says, "rows": v.rows} for v in found],
            # Twice reconciled, and all done but for writes in doubt.
            "settled_seconds": round(settled - started, 2),
            "seconds": round(time.monotonic() - started, 2),
        }
        if options["json"]:
            self.stdout.write(json.dumps(report, default=str))
        else:
            self._print(report)
        if not report["ok"]:
            sys.exit(1)

    def _print(self, report: dict[str, Any]) -> None:
        for violation in report["violations"]:
            self.stdout.write(self.style.ERROR(f"BROKEN {violation['name']}: {violation['says']}"))
            for row in violation["rows"]:
                self.stdout.write("  " + ", ".join(f"{name}={value}" for name, value in row.items()))
        for channel in report["channels_left_out"]:
            self.stdout.write("NOT COMPARED {channel}: {state} {reason}".format(**channel))
        if not report["passes_done"]:
            self.stdout.write(self.style.ERROR("NOT RECONCILED: a pass over a channel did not end in time"))
        if not report["quiet"]:
            self.stdout.write(self.style.ERROR("NOT QUIET: work was still going on when the time was over"))
        verdict = (
            f"{len(report['checks'])} invariants checked in {report['seconds']} s, {len(report['violations'])} broken"
        )
        self.stdout.write(self.style.SUCCESS(verdict) if report["ok"] else self.style.ERROR(verdict))


def _reconcile_twice(timeout_seconds: float) -> bool:
    """Two passes over every active channel; False when one of them did not end in time."""
    return all(quiet.reconcile_all_now(timeout_seconds=timeout_seconds) for _ in range(2))
