"""A private PostgreSQL server: its data folder, its command line, its databases."""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from synctec.local.binaries import postgres_bin
from synctec.local.errors import LocalStackError
from synctec.local.process import Account, ChildSpec, command_line, wait_for

SUPERUSER = "synctec"
DATABASE = "synctec"
# Where a root user's data goes when nobody may not enter the folder that was asked for.
ROOT_FALLBACK_FOLDER = Path("/var/lib/synctec-local")
# Valid from PostgreSQL 17 on and the same everywhere; older servers take the system's C.UTF-8.
BUILTIN_LOCALE_SINCE = 17

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # A socket's path may be 107 bytes long, which data folders in deep trees exceed.
    "unix_socket_directories": "",
    # Web pool + 2 workers x (8 threads + 1) + beat + commands, with room for a second worker each.
    "max_connections": "120",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """One server with one superuser and one database.

    As root it runs as `nobody` (PostgreSQL refuses to run as root), in a folder that `nobody` can reach.
    """

    home: Path
    programs: Path
    account: Account | None
    port: int
    password: str = field(repr=False)
    is_durable: bool = True

    @classmethod
    def prepare(cls, home: Path, *, port: int, password: str, is_durable: bool = True) -> "PostgresServer":
        """Find or make a usable home and create the data folder if there is none (about a second).

        Raises LocalStackError.
        """
        account = _account_for(home)
        if account:
            home = reachable_home(home, account)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Resolved, because the account may reach the target of a symbolic link but not the link.
        programs = postgres_bin().resolve()
        if account:
            os.chown(home, account.uid, account.gid)
            programs = _reachable_programs(programs, home, account)
        server = cls(home=home, programs=programs, account=account, port=port, password=password, is_durable=is_durable)
        server.end_orphan()
        if not (server.data / "PG_VERSION").exists():
            server._create_data_folder()
        return server

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def url(self) -> str:
        return f"postgresql://{SUPERUSER}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"

    def child(self) -> ChildSpec:
        settings = {**SETTINGS, "port": str(self.port), **({} if self.is_durable else NOT_DURABLE)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return ChildSpec(
            name="postgres",
            command=[str(self.programs / "postgres"), "-D", str(self.data), *options],
            environment=_environment(),
            working_directory=self.home,
            account=self.account,
            is_ready=self.is_ready,
            # Fast shutdown: do not wait for clients to leave.
            stop_signal=signal.SIGINT,
            # Immediate shutdown: as after a crash, but without leaving shared memory behind.
            death_signal=signal.SIGQUIT,
            grace_seconds=20,
        )

    def is_ready(self) -> bool:
        """Whether the server itself says so: line 8 of its pid file, of the server on our port."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[3].strip() == str(self.port) and lines[7].strip() == "ready"

    def end_orphan(self) -> None:
        """End a server that still works on our data though the stack that started it was killed.

        The caller holds the data folder's lock, so nobody else can want that server. Raises LocalStackError.
        """
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        if not self._is_our_server(pid):
            return  # a stale file; the new server sees that, too
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        if not wait_for(lambda: not self._is_our_server(pid), timeout_seconds=20):
            raise LocalStackError(f"PostgreSQL (process {pid}) still runs on {self.data} and does not stop: end it.")

    def _is_our_server(self, pid: int) -> bool:
        return f"-D {self.data} " in command_line(pid)

    def create_database(self) -> None:
        """Create our database unless it is there."""
        names = self.query("SELECT string_agg(datname, ',') FROM pg_database", database="postgres").split(",")
        if DATABASE not in names:
            self.query(f"CREATE DATABASE {DATABASE}", database="postgres")

    def read_stamp(self) -> str:
        """The note left in the database by `write_stamp`; empty if there is none."""
        return self.query(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
        )

    def write_stamp(self, stamp: str) -> None:
        """Leave a note in the database, so that it is lost exactly when the data is. Hexadecimal only."""
        assert stamp.isalnum()
        self.query(f"COMMENT ON DATABASE {DATABASE} IS '{stamp}'")

    def query(self, sql: str, *, database: str = DATABASE) -> str:
        """Run one statement with psql, and return its only value as text. Raises LocalStackError.

        psql, because this package must work without any installed library.
        """
        command = [str(self.programs / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]
        connection = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": SUPERUSER,
            "PGDATABASE": database,
        }
        environment = {**_environment(), **connection, "PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "10"}
        return _run(command, environment=environment, working_directory=self.home).strip()

    def _create_data_folder(self) -> None:
        # initdb leaves a half-made folder behind when it is killed; nothing in it can be of value.
        shutil.rmtree(self.data, ignore_errors=True)
        password_file = self.home / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if self.account:
            os.chown(password_file, self.account.uid, self.account.gid)
        try:
            _run(
                [
                    str(self.programs / "initdb"),
                    f"--pgdata={self.data}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    *self._locale_options(),
                    # The server syncs what matters at its first checkpoint.
                    "--no-sync",
                ],
                environment=_environment(),
                working_directory=self.home,
                account=self.account,
            )
        finally:
            password_file.unlink()

    def _locale_options(self) -> list[str]:
        command = [str(self.programs / "postgres"), "--version"]
        version = _run(command, environment=_environment(), working_directory=self.home, account=self.account)
        if int(version.split()[2].split(".")[0]) >= BUILTIN_LOCALE_SINCE:
            return ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        return ["--locale=C.UTF-8"]


def reachable_home(home: Path, account: Account) -> Path:
    """The folder itself if the account can get there, else one under /var/lib named after it."""
    if _can_enter(home.parent, account):
        return home
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    ROOT_FALLBACK_FOLDER.mkdir(mode=0o711, exist_ok=True)
    return ROOT_FALLBACK_FOLDER / digest


def remove_data(home: Path) -> None:
    """Delete the server's folder, wherever `prepare` has put it. The server must be stopped."""
    account = _account_for(home)
    if account:
        home = reachable_home(home, account)
    for folder in (home, *home.parent.glob(f"{home.name}-programs-*")):
        shutil.rmtree(folder, ignore_errors=True)
    if home.parent == ROOT_FALLBACK_FOLDER:
        with suppress(OSError):  # it may hold the data of other stacks
            ROOT_FALLBACK_FOLDER.rmdir()


def _account_for(home: Path) -> Account | None:
    """Whom to become: as root, whoever owns the data already or else nobody; otherwise stay who we are.

    Raises LocalStackError if the data belongs to somebody we cannot become.
    """
    owner = home.stat().st_uid if home.exists() else None
    if os.geteuid() == 0:
        entry = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
        return Account(entry.pw_uid, entry.pw_gid)
    if owner is not None and owner != os.geteuid():
        raise LocalStackError(
            f"{home} belongs to another user (was the stack started as root before?): "
            "remove it as that user with `make clean`, or name another folder in LOCAL_DATA."
        )
    return None


def _can_enter(folder: Path, account: Account) -> bool:
    """Whether the account may pass every folder down to this one."""
    return all(_allows(path, account, bits=0o1) for path in (folder.resolve(), *folder.resolve().parents))


def _allows(path: Path, account: Account, *, bits: int) -> bool:
    """Whether the account has these permission bits (of one octal digit) on the path."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return True  # it will be made by us, and open enough
    if status.st_uid == account.uid:
        return (status.st_mode >> 6) & bits == bits
    if status.st_gid == account.gid:
        return (status.st_mode >> 3) & bits == bits
    return status.st_mode & bits == bits


def _reachable_programs(programs: Path, home: Path, account: Account) -> Path:
    """The programs, or a copy in the home if the account cannot read them (a venv in root's home)."""
    if _can_enter(programs, account) and _allows(programs / "postgres", account, bits=0o5):
        return programs
    # Named after what was copied, so that an upgraded wheel is copied again. PostgreSQL finds its
    # libraries and shared files relative to its programs, so the installation can be moved.
    status = (programs / "postgres").stat()
    copy = home.with_name(f"{home.name}-programs-{status.st_size}-{int(status.st_mtime)}")
    installation = programs.parent
    package = installation.parent
    if not copy.exists():
        partial = copy.with_name(f"{copy.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        without_headers = shutil.ignore_patterns("include")
        shutil.copytree(installation, partial / package.name / installation.name, ignore=without_headers)
        # Where the wheel keeps what its programs are linked with, beside the package.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name)
        for folder in (partial, partial / package.name):
            folder.chmod(0o755)
        partial.rename(copy)
    return copy / package.name / installation.name / programs.name


def _environment() -> Mapping[str, str]:
    """As little as the programs need: nothing of the caller's PG* variables may leak in."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _run(
    command: list[str],
    *,
    environment: Mapping[str, str],
    working_directory: Path,
    account: Account | None = None,
) -> str:
    """Run a short program of PostgreSQL to its end and return what it says. Raises LocalStackError."""
    result = subprocess.run(
        command,
        env=dict(environment),
        cwd=working_directory,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if result.returncode != 0:
        raise LocalStackError(f"{Path(command[0]).name} failed: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout
