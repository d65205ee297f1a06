"""Break a throw-away stack of real processes by a seeded schedule, heal it, and see whether anything was lost."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from locations.publishing import Policy
from sync.management.chaos import Chaos, Report


class Command(BaseCommand):
    help = (
        "Start a stack of real processes behind bad networks, kill and stop them while shoppers buy, then heal everything "
        "and audit. Exit status 1 if an invariant is broken, a promised time was missed or, from ten minutes on, a crash "
        "point was not visited; each is named."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing on the way")
        parser.add_argument("--minutes", type=float, default=10.0, help="how long things are broken (default 10)")
        parser.add_argument("--seed", type=int, default=1, help="decides what is broken, and when")
        parser.add_argument("--stores", type=int, default=10, help="practice stores (default 10)")
        parser.add_argument(
            "--policy",
            choices=list(Policy),
            default=Policy.GUARD,
            help="how units are divided; split must oversell none",
        )
        parser.add_argument(
            "--evidence",
            type=Path,
            help="a folder to leave what the processes said in, and every order as its store and as we know it",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["minutes"] <= 0 or options["stores"] < 2:
            raise CommandError("Chaos needs some time and two stores at least: --minutes above 0, --stores from 2.")
        # As Ctrl-C: the stack is discarded on the way out.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        began = time.monotonic()

        def say(line: str) -> None:
            if not options["json"]:
                self.stdout.write(f"{time.monotonic() - began:6.1f} s  {line}")

        folder = Path(tempfile.mkdtemp(prefix="synctec-chaos-"))
        try:
            chaos = Chaos(
                minutes=options["minutes"],
                seed=options["seed"],
                stores=options["stores"],
                policy=options["policy"],
                folder=folder,
                say=say,
            )
            report = chaos.run()
        except KeyboardInterrupt:
            raise CommandError("interrupted; everything was stopped and removed", returncode=130) from None
        finally:
            if options["evidence"]:
                options["evidence"].mkdir(parents=True, exist_ok=True)
                for file in (folder / "stack.log", folder / "orders.jsonl"):
                    if file.exists():
                        shutil.move(file, options["evidence"] / file.name)
            shutil.rmtree(folder, ignore_errors=True)
        self._print(report, as_json=options["json"])
        if not report.is_good:
            sys.exit(1)

    def _print(self, report: Report, *, as_json: bool) -> None:
        figures = {"ok": report.is_good, **asdict(report), "unvisited": report.unvisited}
        if as_json:
            self.stdout.write(json.dumps(figures, default=str))
            return
        for name, figure in figures.items():
            if name != "violations":
                self.stdout.write(f"{name:>18}  {json.dumps(figure, default=str)}")
        for violation in report.violations:
            self.stdout.write(self.style.ERROR(f"BROKEN {violation['name']}: {violation['says']}"))
            for row in violation["rows"]:
                self.stdout.write(f"  {json.dumps(row, default=str)}")
        for goal in report.goals_missed:
            self.stdout.write(self.style.ERROR(f"MISSED {goal}"))
        for name in report.unvisited:
            self.stdout.write(self.style.WARNING(f"NOT VISITED {name}"))
