"""Small children that behave well or badly, for the supervisor's tests."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synctec.local.process import ChildSpec, LogStream, is_alive
from synctec.local.supervisor import Supervisor

SLEEPER = "import time; print('up', flush=True); time.sleep(300)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
PARENT = (
    f"import subprocess, sys; quiet = subprocess.DEVNULL;"
    f"p = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], stdout=quiet);"
    "print(p.pid, flush=True); p.wait()"
)
#: Starts its child in a session of its own, as PostgreSQL does.
APART = PARENT.replace("stdout=quiet", "stdout=quiet, start_new_session=True")
FAILING = "import sys; sys.exit(3)"


@pytest.fixture
def log_text() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(log_text: io.StringIO) -> LogStream:
    return LogStream(log_text, colour=False)


@pytest.fixture
def make_supervisor(log: LogStream) -> Iterator[Callable[[], Supervisor]]:
    """Make supervisors that are stopped at the end of the test."""
    made: list[Supervisor] = []

    def make() -> Supervisor:
        made.append(Supervisor(log))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.stop()


@pytest.fixture
def supervisor(make_supervisor: Callable[[], Supervisor]) -> Supervisor:
    return make_supervisor()


@pytest.fixture
def python_child(tmp_path: Path) -> Callable[..., ChildSpec]:
    """Describe a child that runs the given Python text."""

    def describe(name: str, text: str, *, is_ready: Callable[[], bool] | None = None) -> ChildSpec:
        return ChildSpec(
            name=name,
            command=[sys.executable, "-I", "-S", "-c", text],
            environment=dict(os.environ),
            working_directory=tmp_path,
            is_ready=is_ready,
            ready_timeout_seconds=20,
            grace_seconds=1,
        )

    return describe


def until(condition: Callable[[], object], *, timeout_seconds: float = 20) -> None:
    """Wait until the condition holds; fail the test when it never does."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition never held"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether the process has ended (one that waits to be reaped by a foreign parent counts as ended)."""
    return not is_alive(pid) or process_state(pid) in ("", "Z")


def process_state(pid: int) -> str:
    """T: it stands still, Z: it waits to be reaped; empty: there is no such process."""
    listed = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip()[:1]
