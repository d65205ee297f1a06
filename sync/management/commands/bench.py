"""Start servers on free ports and a temporary folder, measure one thing in them, print the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from synctec.local.stack import LocalStack

BENCHES = ("apply", "hold", "ingest")


class Command(BaseCommand):
    help = (
        "Measure a hot path beside a yardstick of the same run, in a throw-away stack (fsync on), never in a running one. "
        "apply: stored order events to ledger. hold: reservations. ingest: webhooks over HTTP."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", choices=BENCHES)
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--seconds", type=float, default=10.0, help="how long each figure is measured (default 10)")

    def handle(self, *args: Any, **options: Any) -> None:
        cases = _measure(options["what"], options["seconds"])
        if options["json"]:
            self.stdout.write(json.dumps({"bench": options["what"], "cores": os.cpu_count(), "cases": cases}))
            return
        for case in cases:
            self.stdout.write(self.style.MIGRATE_HEADING(case["case"]))
            self.stdout.write(f"  {case['figure']:>12,.1f}  {case['unit']}")
            self.stdout.write(f"  {case['against_figure']:>12,.1f}  {case['against']}")
            self.stdout.write(f"  {case['ratio']:>12}  times")
            for name, value in case["notes"].items():
                self.stdout.write(f"  {value:>12}  {name.replace('_', ' ')}")


def _measure(what: str, seconds: float) -> list[dict[str, Any]]:
    """Have a process measure that is attached to the new servers: this one's settings know none.

    Raises:
        CommandError: it failed; its own words are on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="synctec-bench-", ignore_cleanup_errors=True) as folder:
        stack = LocalStack(Path(folder) / "data", services_only=True)
        try:
            stack.start()
            done = subprocess.run(
                [sys.executable, "-m", "sync.benchmarks", what, str(seconds)],
                env={**os.environ, **stack.environment, "DJANGO_SETTINGS_MODULE": "synctec.settings"},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
        finally:
            stack.discard()
    if done.returncode:
        raise CommandError(f"bench {what} failed (exit status {done.returncode}); what it said is above.")
    cases: list[dict[str, Any]] = json.loads(done.stdout)
    return cases
