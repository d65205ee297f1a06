"""A chaos run too short to be whole: every trouble of its first phase, once, alone, while people and programs trade.

How long things take is not asked here: other tests share the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sync.management.chaos import RECOVERY_GOALS
from synctec.local.datafolder import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("stack")]


def test_nothing_is_lost_or_sold_twice_when_each_part_fails_once() -> None:
    words = ["chaos", "--minutes=0.5", "--stores=3", "--seed=1", "--policy=split", "--json"]

    done = subprocess.run(
        [sys.executable, "manage.py", *words], cwd=PROJECT, capture_output=True, text=True, timeout=560, check=False
    )

    assert done.stdout.strip(), done.stderr
    report = json.loads(done.stdout)
    assert report["violations"] == []
    assert report["oversold_units"] == 0
    assert report["recovery"].keys() == RECOVERY_GOALS.keys()
    assert None not in report["recovery"].values()
    assert min(report["orders"], report["api"]["held"], report["api"]["received"]) > 0
