"""Failpoints: armed from outside, done once, refused in production."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import OperationalError, transaction

from inventory.models import Warehouse
from merchants.models import Merchant
from synctec.lib import failpoints
from synctec.lib.failpoints import POINTS, arm, disarm, failpoint, obey
from synctec.local.datafolder import PROJECT

POINT = "apply.before_commit"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process obeys."""
    obey(tmp_path)
    yield tmp_path
    failpoints.handler = None


def test_nothing_happens_while_nothing_is_armed(folder: Path) -> None:
    failpoint(POINT)
    failpoints.handler = None
    failpoint(POINT)


def test_an_action_happens_once_and_its_file_is_gone(folder: Path) -> None:
    arm(folder, POINT, "error")

    with pytest.raises(OperationalError):
        failpoint(POINT)
    failpoint(POINT)

    assert list(folder.iterdir()) == []


def test_an_action_waits_for_its_passage(folder: Path) -> None:
    arm(folder, POINT, "error@3")

    failpoint(POINT)
    failpoint(POINT)
    with pytest.raises(OperationalError):
        failpoint(POINT)


def test_a_pause_lasts(folder: Path) -> None:
    arm(folder, POINT, "pause:0.2")
    began = time.monotonic()

    failpoint(POINT)

    assert time.monotonic() - began >= 0.2


def test_an_action_can_be_taken_back(folder: Path) -> None:
    arm(folder, POINT, "kill")

    assert disarm(folder, POINT) is True
    assert disarm(folder, POINT) is False
    failpoint(POINT)


def test_a_kill_leaves_no_time_to_tidy_up(tmp_path: Path) -> None:
    arm(tmp_path, POINT, "kill")
    program = f"""
import atexit, pathlib
from synctec.lib import failpoints
atexit.register(print, "tidied up")
failpoints.obey(pathlib.Path({str(tmp_path)!r}))
failpoints.failpoint({POINT!r})
print("survived")
"""

    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (-9, "")


@pytest.mark.django_db(transaction=True)
def test_a_lost_commit_is_committed_and_looks_like_a_lost_database(folder: Path) -> None:
    merchant = Merchant.objects.create(name="Acme", slug="acme")
    arm(folder, POINT, "lost_commit")

    @transaction.atomic
    def write() -> None:
        Warehouse.objects.create(merchant=merchant, name="North")
        failpoint(POINT)

    with pytest.raises(OperationalError):
        write()

    assert Warehouse.objects.get().name == "North"


@pytest.mark.parametrize(
    ("point", "action"), [("apply.typo", "kill"), (POINT, "explode"), (POINT, "pause"), (POINT, "kill:1")]
)
def test_what_does_not_exist_cannot_be_armed(tmp_path: Path, point: str, action: str) -> None:
    with pytest.raises(ValueError, match=r"is no action|no failpoint"):
        arm(tmp_path, point, action)


def test_a_handler_sees_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[str] = []
    monkeypatch.setattr(failpoints, "handler", passed.append)

    failpoint("push.after_send")

    assert passed == ["push.after_send"]


def test_every_point_in_the_source_is_listed_and_stands_in_one_place() -> None:
    source = [
        path.read_text()
        for app in ("channels", "inventory", "locations", "sync")
        for path in (PROJECT / app).rglob("*.py")
        if "simulator" not in path.parts  # plays the tasks, and passes their points
    ]
    placed = [point for text in source for point in re.findall(r'\bfailpoint\(\s*"([^"]*)"', text)]

    assert set(placed) == set(POINTS)
    assert len(placed) == len(set(placed))
