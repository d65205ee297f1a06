"""The programs a person starts: `python -m synctec.local ...` and `manage.py`, as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synctec.local.datafolder import PROJECT, DataFolder, RunningState


def python(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "LOCAL_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.create()
    return folder


def test_status_shows_addresses_and_processes(folder: DataFolder) -> None:
    state = RunningState(
        supervisor_pid=1,
        urls={"web": "http://127.0.0.1:8000"},
        ports={},
        pids={"postgres": 7, "beat": None},
        environment={"SECRET_KEY": "canary"},
    )

    with folder.locked():
        folder.write_state(state)
        result = python("-m", "synctec.local", "status", data=folder.path)

    assert result.returncode == 0
    assert result.stdout.split() == ["web", "http://127.0.0.1:8000", "postgres", "7", "beat", "down"]


def test_status_fails_when_nothing_runs(folder: DataFolder) -> None:
    result = python("-m", "synctec.local", "status", data=folder.path)

    assert result.returncode == 1
    assert "No stack is running on" in result.stderr


def test_a_second_run_is_refused(folder: DataFolder) -> None:
    with folder.locked():
        result = python("-m", "synctec.local", "run", "--port", "0", data=folder.path)

    assert result.returncode == 1
    assert "A stack is already running on" in result.stderr
    assert "Traceback" not in result.stderr


def test_clean_removes_the_data(folder: DataFolder) -> None:
    folder.secrets()

    result = python("-m", "synctec.local", "clean", data=folder.path)

    assert result.returncode == 0
    assert not folder.path.exists()


def test_clean_spares_a_running_stack(folder: DataFolder) -> None:
    folder.secrets()

    with folder.locked():
        result = python("-m", "synctec.local", "clean", data=folder.path)

    assert result.returncode == 1
    assert (folder.path / "secrets.json").exists()


def test_a_command_without_a_stack_says_what_to_do(folder: DataFolder) -> None:
    result = python("manage.py", "audit", data=folder.path)

    assert result.returncode == 1
    assert "Start one with `make run`" in result.stderr
    assert "Traceback" not in result.stderr
