"""Run the engine in the deterministic simulator and say what held (see docs/simulator.md)."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

POLICIES = ("shared", "guard", "split")
#: While there are many to come, it is told how far they are each time that so many were run.
TOLD_EVERY_RUNS = 500


class Command(BaseCommand):
    help = "Run the engine's own code in virtual time, with faults of every kind, from seeds."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--tier",
            choices=("memory", "postgres"),
            default="memory",
            help="where the books are; postgres: in a throw-away server (default memory)",
        )
        parser.add_argument("--policy", choices=(*POLICIES, "all"), default="all")
        parser.add_argument("--faults", choices=("none", "light", "full"), default="full", help="(default full)")
        parser.add_argument("--runs", type=int, default=100, help="seeds per policy (default 100)")
        parser.add_argument(
            "--seed", type=int, default=0, help="the first seed; the next run takes the next (default 0)"
        )
        parser.add_argument("--fresh", action="store_true", help="start at a seed drawn at random, and say which")
        parser.add_argument("--stores", type=int, default=10)
        parser.add_argument("--shoppers", type=int, default=100, help="purchases attempted (default 100)")
        parser.add_argument("--skus", type=int, default=2)
        parser.add_argument("--bundles", type=int, default=0, help="bundles of those SKUs, sold along with them")
        parser.add_argument("--guard-units", type=int, help="threshold of guard (default: as measured)")
        parser.add_argument("--warehouses", type=int, help="in which the stock is (default: drawn, one without faults)")
        parser.add_argument("--buffer", type=int, default=0, help="units that every channel keeps back (default 0)")
        parser.add_argument("--shopping-seconds", type=float, default=300.0, help="virtual time they come in (300)")
        parser.add_argument("--gains-by-hand", action="store_true", help="merchants raise counters: breaks split")
        parser.add_argument("--long-stops", action="store_true", help="processes sleep for minutes: breaks split")
        parser.add_argument(
            "--clock-ahead", action="store_true", help="the database's clock is set ahead: breaks split"
        )
        parser.add_argument("--jobs", type=int, default=0, help="processes (default: one per core)")
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--trace", action="store_true", help="print the story of the first seed")
        parser.add_argument("--table", action="store_true", help="measure all policies, write docs/simulator.md")
        parser.add_argument("--mutants", action="store_true", help="plant every known bug and say what catches it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            from sync.simulator import mutants, run, table
            from sync.simulator.world import Setting
        except ImportError as error:
            raise CommandError(f"The simulator needs requirements-dev.txt installed: {error}") from None
        if min(options["runs"], options["stores"], options["skus"]) < 1:
            raise CommandError("--runs, --stores and --skus need 1 at least.")
        if min(options["shoppers"], options["buffer"]) < 0:
            raise CommandError("--shoppers and --buffer need 0 at least.")
        if options["tier"] == "postgres" and (options["mutants"] or options["table"] or options["trace"]):
            raise CommandError("--mutants, --table and --trace are for --tier memory.")
        jobs = options["jobs"] or run.jobs_default()
        if options["mutants"]:
            self._mutants(
                mutants.hunt_all(seeds=options["runs"] if options["runs"] != 100 else 300, jobs=jobs), options
            )
            return
        if options["table"]:
            path = Path(settings.BASE_DIR, "docs", "simulator.md")
            self.stdout.write(table.write(path, runs=options["runs"], jobs=jobs))
            self.stdout.write(f"Written: {path}")
            return
        first = random.SystemRandom().randrange(10**9) if options["fresh"] else options["seed"]
        seeds = range(first, first + options["runs"])
        policies = POLICIES if options["policy"] == "all" else (options["policy"],)
        chosen = [
            Setting(
                policy=policy,
                faults=options["faults"],
                stores=options["stores"],
                shoppers=options["shoppers"],
                skus=options["skus"],
                bundles=options["bundles"],
                guard_units=options["guard_units"],
                buffer=options["buffer"],
                warehouses=options["warehouses"],
                gains_by_hand=options["gains_by_hand"],
                long_stops=options["long_stops"],
                clock_ahead=options["clock_ahead"],
                shopping_seconds=options["shopping_seconds"],
            )
            for policy in policies
        ]
        if options["trace"]:
            for setting in chosen:
                self._trace(run, setting, first)
            return
        if options["tier"] == "postgres":
            from sync.simulator import postgres

            summaries = [postgres.measure(setting, seeds, jobs=min(jobs, len(seeds))) for setting in chosen]
        else:
            summaries = [
                run.run_many(setting, seeds, jobs=jobs, each=self._progress(run, setting, len(seeds)))
                for setting in chosen
            ]
        if options["json"]:
            self.stdout.write(json.dumps(self._joined(summaries)))
        else:
            for summary in summaries:
                self._print(run, summary, options["tier"])
        broken = run.broken_promises(summaries)
        for promise in broken:
            self.stderr.write(f"A promise was not kept: {promise}.")
        if broken or any(summary.bad for summary in summaries):
            raise SystemExit(1)

    def _progress(self, run: Any, setting: Any, runs: int) -> Callable[[Any], None]:
        """Tell on stderr how far it is, and each violation at once: many runs take an hour."""
        done = violations = oversold = 0

        def each(result: Any) -> None:
            nonlocal done, violations, oversold
            done += 1
            oversold += result.oversold_units
            if result.violation:
                violations += 1
                self.stderr.write(f"{result.violation[2]}: {run.replay_command(setting, result.seed)}")
            if done % TOLD_EVERY_RUNS == 0 and runs > TOLD_EVERY_RUNS:
                self.stderr.write(
                    f"{setting.policy}: {done} of {runs} runs, {oversold} oversold, {violations} violations",
                    self.style.NOTICE,
                )

        return each

    def _print(self, run: Any, summary: Any, tier: str) -> None:
        at_commit = _at_commit() if summary.bad else ""
        figures = summary.as_json()
        self.stdout.write(
            "{policy}, faults {faults}: {runs} runs, {units_sold} units sold, {oversold_units} oversold, "
            "{undeclared_units} undeclared, {violations} violations, {seconds_per_run} s a run".format(**figures)
        )
        for result in summary.bad[:10]:
            invariant, at, says = result.violation
            self.stdout.write(f"  seed {result.seed}, {at:.1f} s, {invariant}: {says}")
            self.stdout.write(f"    {run.replay_command(summary.setting, result.seed, tier=tier)}{at_commit}")

    def _trace(self, run: Any, setting: Any, seed: int) -> None:
        story: list[str] = []
        try:
            result = run.run_one(setting, seed, story=story)
        finally:
            self.stdout.write("\n".join(story))
        self.stdout.write(repr(result))

    def _mutants(self, hunts: Any, options: dict[str, Any]) -> None:
        found = []
        for hunt in hunts:
            found.append(hunt)
            if not options["json"]:
                self.stdout.write(hunt.sentence())
        caught = sum(hunt.is_caught for hunt in found)
        if options["json"]:
            self.stdout.write(
                json.dumps({"mutants": len(found), "caught": caught, "list": [hunt.as_json() for hunt in found]})
            )
        else:
            self.stdout.write(f"{caught} of {len(found)} caught")
        if caught < len(found):
            raise SystemExit(1)

    def _joined(self, summaries: list[Any]) -> dict[str, Any]:
        """One object; with several policies their sums, and each by itself under its name."""
        each: list[dict[str, Any]] = [summary.as_json() for summary in summaries]
        if len(each) == 1:
            return each[0]
        joined: dict[str, Any] = {
            name: sum(figures[name] for figures in each)
            for name in ("runs", "oversold_units", "declared_units", "undeclared_units", "violations", "units_sold")
        }
        bad = [figures["first_bad_seed"] for figures in each if figures["first_bad_seed"] is not None]
        seconds = sum(figures["seconds_per_run"] * figures["runs"] for figures in each) / max(1, joined["runs"])
        return joined | {
            "policy": "all",
            "first_bad_seed": min(bad, default=None),
            "seconds_per_run": round(seconds, 4),
            "policies": {figures["policy"]: figures for figures in each},
        }


def _at_commit() -> str:
    """What is checked out, as a comment behind a command; "" outside of a checkout."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607  # whichever git people use
            cwd=settings.BASE_DIR,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return f"  # at commit {asked.stdout.strip()}" if asked.returncode == 0 else ""
