"""The data folder of a stack: its lock, secrets and ports, and what a running stack tells about itself."""

import base64
import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from synctec.local.errors import LocalStackError

PROJECT = Path(__file__).resolve().parents[2]


class AlreadyRunningError(LocalStackError):
    """Another stack uses this data folder."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Made once per data folder, for this machine only."""

    secret_key: str = field(repr=False)
    credential_keys: str = field(repr=False)
    postgres_password: str = field(repr=False)
    valkey_password: str = field(repr=False)
    demo_password: str = field(repr=False)

    @classmethod
    def generate(cls) -> "Secrets":
        return cls(
            secret_key=secrets.token_urlsafe(50),
            credential_keys=f"local:{base64.b64encode(secrets.token_bytes(32)).decode()}",
            # Hexadecimal, because they become part of URLs and of configuration files.
            postgres_password=secrets.token_hex(16),
            valkey_password=secrets.token_hex(16),
            demo_password=secrets.token_urlsafe(12),
        )


@dataclass(frozen=True, slots=True)
class RunningState:
    """What a running stack writes down, so that commands and people can attach to it."""

    supervisor_pid: int
    urls: Mapping[str, str]
    ports: Mapping[str, int]
    pids: Mapping[str, int | None]
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Paths and small files of one stack. Files with secrets in them are readable by their owner only."""

    path: Path

    @classmethod
    def default(cls) -> "DataFolder":
        """The folder named in LOCAL_DATA, else `.local` in the project (not in git)."""
        return cls(Path(os.environ.get("LOCAL_DATA") or PROJECT / ".local").resolve())

    @property
    def postgres_home(self) -> Path:
        return self.path / "postgres"

    @property
    def sandbox_data(self) -> Path:
        return self.path / "sandbox"

    @property
    def log_file(self) -> Path:
        return self.path / "stack.log"

    def create(self) -> None:
        """Make the folder. As root, others may pass through it (not list it): `nobody` runs the database."""
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):
            self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for as long as the stack runs. The lock vanishes with the process, however it ends.

        Raises AlreadyRunningError.
        """
        with self._lock_file.open("a") as file:
            if not _lock(file.fileno(), fcntl.LOCK_EX):
                raise AlreadyRunningError(
                    f"A stack is already running on {self.path}. Use that one, stop it with Ctrl-C in its "
                    "terminal, or start another with LOCAL_DATA=<another folder> and another PORT."
                )
            yield

    def is_in_use(self) -> bool:
        """Whether a stack holds the lock."""
        if not self._lock_file.exists():
            return False
        with self._lock_file.open("a") as file:
            return not _lock(file.fileno(), fcntl.LOCK_SH)

    def secrets(self) -> Secrets:
        """Read the secrets, or make them."""
        found = self._read("secrets.json")
        if found is not None:
            return Secrets(**found)
        made = Secrets.generate()
        self._write("secrets.json", asdict(made))
        return made

    def last_ports(self) -> dict[str, int]:
        """The ports of the last run, to be used again: stores and browsers remember addresses."""
        return dict(self._read("ports.json") or {})

    def remember_ports(self, ports: Mapping[str, int]) -> None:
        self._write("ports.json", dict(ports))

    def write_state(self, state: RunningState) -> None:
        self._write("state.json", asdict(state))

    def read_state(self) -> RunningState | None:
        found = self._read("state.json")
        return RunningState(**found) if found else None

    def forget_state(self) -> None:
        (self.path / "state.json").unlink(missing_ok=True)

    @property
    def _lock_file(self) -> Path:
        return self.path / "lock"

    def _read(self, name: str) -> Any:
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else None

    def _write(self, name: str, content: Mapping[str, object]) -> None:
        """Replace the file in one step, so that a reader never sees half of it."""
        partial = self.path / f".{name}.partial"
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(content, indent=2))
        partial.rename(self.path / name)


def _lock(descriptor: int, kind: int) -> bool:
    """Try for a moment: `is_in_use` of another process may hold the lock for an instant."""
    for _ in range(5):
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False
