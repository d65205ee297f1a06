"""Start everything on free ports and a temporary folder, sell one unit, and see it everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from synctec.local.stack import LocalStack


class Command(BaseCommand):
    help = "Start the whole stack headless, sell one unit in one practice store, wait until every other store shows it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--timeout", type=float, default=20.0, help="seconds to wait for the stores (default 20)")

    def handle(self, *args: Any, **options: Any) -> None:
        report: dict[str, Any] = {"converged": False}
        with tempfile.TemporaryDirectory(prefix="synctec-smoke-", ignore_cleanup_errors=True) as folder:
            stack = LocalStack(Path(folder) / "data")
            try:
                stack.start()
                report = _sell_one(stack, options["timeout"])
            except Exception as error:
                report["error"] = f"{type(error).__name__}: {error}"
            finally:
                stack.stop()
                stack.remove_data()
        if options["json"]:
            self.stdout.write(json.dumps(report))
        else:
            for name, value in report.items():
                self.stdout.write(f"{name:>12}  {value}")
        if not report["converged"]:
            sys.exit(1)


def _sell_one(stack: LocalStack, timeout_seconds: float) -> dict[str, Any]:
    """Let a process that is attached to the new stack do it: this one's settings know no servers."""
    environment = {**os.environ, **stack.environment}
    command = [sys.executable, "manage.py", "sell_one", "--json", "--timeout", str(timeout_seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_seconds + 30)
    if not done.stdout.strip():
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
