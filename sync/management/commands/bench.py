"""Start servers on free ports and a temporary folder, measure one thing in them, print the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from synctec.local.datafolder import PROJECT
from synctec.local.stack import LocalStack

BENCHES = ("apply", "hold", "ingest", "reconcile")
STORES, SKUS = 10, 10_000
#: How long each figure is measured; with `--scale` there are five times as many.
SECONDS, SCALE_SECONDS = 10.0, 3.0
#: What `--scale` goes through: (stores, SKUs), one of them changed at a time.
SCALE = ((STORES, 1_000), (STORES, SKUS), (STORES, 100_000), (2, SKUS), (50, SKUS))
PAGE = PROJECT / "docs/performance.md"

Case = dict[str, Any]


class Command(BaseCommand):
    help = (
        "Measure a hot path beside a yardstick of the same run, in a throw-away stack (fsync on), never in a running one. "
        "apply: stored order events to ledger. hold: reservations. ingest: webhooks over HTTP. reconcile: every level of "
        "every store compared (stores x SKUs; 100,000), in calls, time and memory."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", choices=BENCHES)
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--seconds",
            type=float,
            help=f"how long each figure is measured (default {SECONDS:g}, with --scale {SCALE_SECONDS:g})",
        )
        parser.add_argument("--stores", type=int, default=STORES, help=f"default {STORES}")
        parser.add_argument("--skus", type=int, default=SKUS, help=f"default {SKUS}")
        parser.add_argument(
            "--scale", action="store_true", help=f"with few and many stores and SKUs; written into {PAGE.name}"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        what = options["what"]
        seconds = options["seconds"]
        if seconds is None:
            seconds = SCALE_SECONDS if options["scale"] else SECONDS
        if min(seconds, options["stores"], options["skus"]) <= 0:
            raise CommandError("--seconds, --stores and --skus must be above zero.")
        sizes = SCALE if options["scale"] else ((options["stores"], options["skus"]),)
        cases = [case for stores, skus in sizes for case in _measure(what, seconds, stores, skus)]
        if options["scale"]:
            PAGE.write_text(with_table(PAGE.read_text(), what, cases))
        if options["json"]:
            self.stdout.write(json.dumps({"bench": what, "cores": os.cpu_count(), "cases": cases}))
        else:
            for line in _lines(cases):
                self.stdout.write(line)


def _measure(what: str, seconds: float, stores: int, skus: int) -> list[Case]:
    """Have a process measure that is attached to the new servers: this one's settings know none.

    Raises:
        CommandError: it failed; its own words are on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="synctec-bench-", ignore_cleanup_errors=True) as folder:
        stack = LocalStack(Path(folder) / "data", services_only=True)
        try:
            stack.start()
            done = subprocess.run(
                [sys.executable, "-m", "sync.benchmarks", what, str(seconds), str(stores), str(skus)],
                env={**os.environ, **stack.environment, "DJANGO_SETTINGS_MODULE": "synctec.settings"},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
        finally:
            stack.discard()
    if done.returncode:
        raise CommandError(f"bench {what} failed (exit status {done.returncode}); what it said is above.")
    # Whatever else was printed came before.
    cases: list[Case] = json.loads(done.stdout.splitlines()[-1])
    return cases


def _lines(cases: list[Case]) -> Iterator[str]:
    for case in cases:
        yield case["case"]
        yield f"  {case['figure']:>12,.1f}  {case['unit']}"
        yield f"  {case['against_figure']:>12,.1f}  {case['against']}"
        yield f"  {case['ratio']:>12}  times"
        for name, value in case["notes"].items():
            yield f"  {value:>12}  {name.replace('_', ' ')}"


def with_table(page: str, what: str, cases: list[Case]) -> str:
    """The page with the bench's table between its markers made anew. Raises CommandError: it has none."""
    begin, end = f"<!-- bench {what}: begin -->\n", f"<!-- bench {what}: end -->"
    before, is_there, rest = page.partition(begin)
    _, ends, after = rest.partition(end)
    if not is_there or not ends:
        raise CommandError(f"{PAGE} lacks the markers {begin.strip()} and {end}.")
    rows = [
        f"| {case['case']} | {case['figure']:,.0f} {case['unit']} | {case['against']} | {case['against_figure']:,.0f} "
        f"| {case['ratio']} |"
        for case in cases
    ]
    head = ["| case | figure | against | its figure | times |", "|---|---|---|---|---|"]
    return before + begin + "\n".join([*head, *rows, ""]) + end + after
