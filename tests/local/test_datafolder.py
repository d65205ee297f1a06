from pathlib import Path

import pytest

from synctec.local.datafolder import AlreadyRunningError, DataFolder, RunningState


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path / "data")
    folder.create()
    return folder


def test_a_second_stack_on_the_same_folder_is_refused(folder: DataFolder) -> None:
    with (
        folder.locked(),
        pytest.raises(AlreadyRunningError, match="A stack is already running on"),
        folder.locked(),
    ):
        pass


def test_the_folder_is_free_again_afterwards(folder: DataFolder) -> None:
    with folder.locked():
        assert folder.is_in_use() is True

    assert folder.is_in_use() is False


def test_secrets_are_made_once(folder: DataFolder) -> None:
    first = folder.secrets()

    assert folder.secrets() == first
    assert DataFolder(folder.path).secrets() == first


def test_secrets_are_for_their_owner_only_and_not_in_repr(folder: DataFolder) -> None:
    secrets = folder.secrets()

    assert (folder.path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert secrets.postgres_password not in repr(secrets)


def test_state_comes_back_as_it_was_written_and_can_be_forgotten(folder: DataFolder) -> None:
    state = RunningState(
        supervisor_pid=1,
        urls={"web": "http://127.0.0.1:8000"},
        ports={"web": 8000},
        pids={"web": 7, "beat": None},
        environment={"SECRET_KEY": "canary"},
    )

    folder.write_state(state)

    assert folder.read_state() == state
    assert (folder.path / "state.json").stat().st_mode & 0o777 == 0o600
    assert "canary" not in repr(state)
    folder.forget_state()
    assert folder.read_state() is None
