import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from synctec.local.binaries import postgres_bin
from synctec.local.datafolder import PROJECT
from synctec.local.errors import LocalStackError
from synctec.local.postgres import PostgresServer, reachable_home, remove_data
from synctec.local.process import Account, free_ports
from synctec.local.supervisor import Supervisor

pytestmark = pytest.mark.slow

is_root = os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="only root can become somebody else")

# Run with the system's Python by a user who may not be able to read our virtual environment.
NORMAL_USER_PROGRAM = """
import sys
from pathlib import Path
from synctec.local.postgres import PostgresServer
from synctec.local.process import LogStream, free_ports
from synctec.local.supervisor import Supervisor
port = free_ports({"pg": None})["pg"]
server = PostgresServer.prepare(Path(sys.argv[1]) / "postgres", port=port, password="secret")
supervisor = Supervisor(LogStream(sys.stderr))
supervisor.start(server.child())
server.create_database()
print(server.query("SELECT current_database()"), flush=True)
supervisor.stop()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that `nobody` can reach, which pytest's own temporary folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="synctec-postgres-"))
    folder.chmod(0o711)
    yield folder / "postgres"
    shutil.rmtree(folder)


def prepare(home: Path, *, password: str = "secret") -> PostgresServer:
    return PostgresServer.prepare(home, port=free_ports({"pg": None})["pg"], password=password, is_durable=False)


def start(server: PostgresServer, supervisor: Supervisor) -> None:
    supervisor.start(server.child())
    server.create_database()


def test_a_new_server_answers_in_utf8_and_utc(home: Path, supervisor: Supervisor) -> None:
    server = prepare(home)

    start(server, supervisor)

    with psycopg.connect(server.url) as connection:
        row = connection.execute(
            "SELECT current_setting('server_encoding'), current_setting('timezone'), lower('ÄÖ')"
        ).fetchone()
    assert row == ("UTF8", "UTC", "äö")


def test_data_survives_a_restart(home: Path, make_supervisor: Callable[[], Supervisor]) -> None:
    first_run = make_supervisor()
    server = prepare(home)
    start(server, first_run)
    server.query("CREATE TABLE kept AS SELECT 7 AS number")
    first_run.stop()

    again = prepare(home)
    start(again, make_supervisor())

    assert again.query("SELECT number FROM kept") == "7"


def test_a_server_left_over_by_a_killed_stack_is_ended_first(
    home: Path, make_supervisor: Callable[[], Supervisor]
) -> None:
    left_over = prepare(home)
    start(left_over, make_supervisor())

    again = prepare(home)

    assert not (again.data / "postmaster.pid").exists()


def test_nobody_gets_in_without_the_password(home: Path, supervisor: Supervisor) -> None:
    server = prepare(home)
    start(server, supervisor)

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url.replace("secret", "guess"))


def test_a_stamp_is_kept_by_the_database_itself(home: Path, supervisor: Supervisor) -> None:
    server = prepare(home)
    start(server, supervisor)

    assert server.read_stamp() == ""
    server.write_stamp("abc123")
    assert server.read_stamp() == "abc123"


def test_the_password_stays_out_of_repr_and_command_line(home: Path) -> None:
    server = prepare(home, password="canary")

    assert "canary" not in repr(server)
    assert "canary" not in " ".join(server.child().command)
    assert list(home.glob("password*")) == []


def test_a_failing_statement_says_why(home: Path, supervisor: Supervisor) -> None:
    server = prepare(home)
    start(server, supervisor)

    with pytest.raises(LocalStackError, match='relation "missing" does not exist'):
        server.query("SELECT * FROM missing")


@needs_root
def test_under_root_the_server_runs_as_nobody(home: Path, supervisor: Supervisor) -> None:
    server = prepare(home)

    start(server, supervisor)

    pid = supervisor.children()[0].pid
    assert server.account is not None
    assert Path(f"/proc/{pid}").stat().st_uid == server.account.uid
    assert server.data.stat().st_uid == server.account.uid


@needs_root
def test_under_root_a_closed_folder_is_replaced_by_one_nobody_can_reach(home: Path) -> None:
    home.parent.chmod(0o700)

    try:
        server = prepare(home)

        assert server.home != home
        assert (server.data / "PG_VERSION").exists()
    finally:
        remove_data(home)
    assert not server.home.exists()


def test_an_open_folder_is_used_as_it_is(home: Path) -> None:
    assert reachable_home(home, Account(uid=65534, gid=65534)) == home


@needs_root
@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs a Python that everybody may run")
def test_a_normal_user_runs_a_server_as_themselves(home: Path) -> None:
    if not os.stat(PROJECT).st_mode & 0o001 or not _is_readable_by_all(postgres_bin()):
        pytest.skip("this checkout cannot be read by another user")
    os.chown(home.parent, 65534, 65534)

    result = subprocess.run(
        ["/usr/bin/python3", "-B", "-c", NORMAL_USER_PROGRAM, str(home.parent)],
        cwd=PROJECT,
        env={"PG_BIN": str(postgres_bin()), "PATH": os.defpath},
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.stdout == "synctec\n", result.stderr


def _is_readable_by_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))
