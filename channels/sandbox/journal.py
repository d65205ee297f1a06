"""The book of a sandbox: every command that was carried out, and now and then a picture of everything.

A command is written (handed to the kernel) before its answer leaves, so killing the process with SIGKILL
loses nothing that was answered; only a power cut can. Opening reads the picture, then replays what came
after it.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMAT = 1
PICTURE_AFTER_BYTES = 64 * 1024 * 1024
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)


class DataError(Exception):
    """The data folder cannot be used. The text says what to do."""


class Journal:
    """An open data folder. Only one process may have it open."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise DataError(f"another sandbox uses {folder}; stop it or give another --data") from error
        self._log = -1
        self._buffer: list[bytes] = []
        self.size_bytes = 0
        self.generation = 0

    def load(self) -> tuple[dict[str, Any] | None, Iterator[list[Any]]]:
        """The newest picture (None at first) and the commands after it, oldest first."""
        pictures = sorted(self.folder.glob("picture-*.bin"))
        picture = None
        if pictures:
            picture = _read_picture(pictures[-1])
            self.generation = int(pictures[-1].stem.split("-")[1])
        return picture, self._read_log(self._log_path(self.generation))

    def open(self) -> None:
        """Begin appending to the current log. Call after `load` was consumed."""
        self._log = os.open(self._log_path(self.generation), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.size_bytes = os.fstat(self._log).st_size

    def append(self, entry: list[Any]) -> None:
        """Write one command through to the kernel, with those put off before it."""
        self._buffer.append(_line(entry))
        self.flush()

    def append_later(self, entry: list[Any]) -> None:
        """Write with the next command or flush: for what may be forgotten without harm."""
        self._buffer.append(_line(entry))

    def flush(self) -> None:
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        self._buffer.clear()
        written = os.write(self._log, data)
        while written < len(data):
            written += os.write(self._log, data[written:])
        self.size_bytes += len(data)

    def take_picture(self, state: dict[str, Any]) -> None:
        """Save everything and begin a new log; the old files go once the new ones are complete."""
        self.flush()
        self.generation += 1
        path = self.folder / f"picture-{self.generation:06d}.bin"
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            pickle.dump({"format": FORMAT, "state": state}, file, protocol=5)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        os.close(self._log)
        self.open()
        for old in self.folder.glob("*-*.*"):
            number = old.stem.split("-")[1]
            if number.isdigit() and int(number) < self.generation:
                old.unlink()

    def close(self) -> None:
        if self._log >= 0:
            self.flush()
            os.close(self._log)
            self._log = -1
        self._lock.close()

    def _log_path(self, generation: int) -> Path:
        return self.folder / f"commands-{generation:06d}.jsonl"

    def _read_log(self, path: Path) -> Iterator[list[Any]]:
        if not path.exists():
            return
        with path.open("rb") as file:
            good = 0
            for line in file:
                if not line.endswith(b"\n"):
                    break  # torn by a power cut or a kill in the middle of a write: never answered
                yield json.loads(line)
                good += len(line)
        if good < path.stat().st_size:
            os.truncate(path, good)


def _line(entry: list[Any]) -> bytes:
    return _ENCODER.encode(entry).encode() + b"\n"


class _Reader(pickle.Unpickler):
    """Reads only what a picture is made of."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("channels.sandbox.") or (module, name) == ("collections", "OrderedDict"):
            return super().find_class(module, name)
        raise DataError(f"a picture holds {module}.{name}, which does not belong there; remove the data folder")


def _read_picture(path: Path) -> dict[str, Any]:
    content = _Reader(io.BytesIO(path.read_bytes())).load()
    if content.get("format") != FORMAT:
        raise DataError(f"{path} was written by another version of the sandbox; remove the data folder")
    state: dict[str, Any] = content["state"]
    return state
