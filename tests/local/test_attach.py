from collections.abc import Iterator
from pathlib import Path

import pytest

from synctec.local import attach
from synctec.local.datafolder import DataFolder, RunningState


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataFolder:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("LOCAL_DATA", str(tmp_path / "data"))
    folder = DataFolder.default()
    folder.create()
    return folder


@pytest.fixture
def running(folder: DataFolder) -> Iterator[dict[str, str]]:
    environment = {"DATABASE_URL": "postgresql://running", "SECRET_KEY": "of the stack"}
    with folder.locked():
        folder.write_state(RunningState(supervisor_pid=1, urls={}, ports={}, pids={}, environment=environment))
        yield environment


def test_a_command_uses_the_running_stack(running: dict[str, str]) -> None:
    assert attach.complete_environment(["audit", "--json"]) == running


def test_what_the_shell_names_is_kept(running: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "of the shell")

    assert attach.complete_environment(["audit"]) == {"DATABASE_URL": "postgresql://running"}


def test_a_database_named_in_the_shell_needs_no_stack(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://of-the-shell")

    assert attach.complete_environment(["audit"]) == {}


def test_without_a_stack_a_command_says_what_to_do(folder: DataFolder) -> None:
    with pytest.raises(attach.NotRunningError, match="Start one with `make run`"):
        attach.complete_environment(["audit"])


def test_the_state_of_a_stack_that_was_killed_does_not_count(folder: DataFolder) -> None:
    folder.write_state(RunningState(supervisor_pid=1, urls={}, ports={}, pids={}, environment={}))

    with pytest.raises(attach.NotRunningError):
        attach.environment()


@pytest.mark.parametrize("arguments", [[], ["makemigrations", "--check"], ["audit", "--help"]])
def test_commands_that_need_no_server_get_along_without(folder: DataFolder, arguments: list[str]) -> None:
    found = attach.complete_environment(arguments)

    assert found["DATABASE_URL"] == "postgresql://offline@127.0.0.1:1/offline"
