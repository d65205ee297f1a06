import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from synctec.local.datafolder import PROJECT
from synctec.local.process import ChildSpec
from synctec.local.supervisor import StartFailedError, Supervisor
from tests.local.conftest import APART, FAILING, PARENT, SLEEPER, STUBBORN, is_gone, process_state, until

Describe = Callable[..., ChildSpec]

# A supervisor with one child, as a program of its own that a test can kill.
SUPERVISOR_PROGRAM = """
import os, sys, time
from pathlib import Path
from synctec.local.process import ChildSpec, LogStream
from synctec.local.supervisor import Supervisor
supervisor = Supervisor(LogStream(sys.stderr))
command, environment = ["sleep", "300"], dict(os.environ)
supervisor.start(
    ChildSpec(name="sleeper", command=command, environment=environment, working_directory=Path("/"))
)
print(supervisor.children()[0].pid, flush=True)
time.sleep(300)
"""


def pid_of(supervisor: Supervisor, name: str) -> int:
    pid = next(child.pid for child in supervisor.children() if child.name == name)
    assert pid is not None
    return pid


def test_a_killed_child_is_started_again(supervisor: Supervisor, python_child: Describe, log_text: io.StringIO) -> None:
    supervisor.start(python_child("sleeper", SLEEPER))
    first_pid = pid_of(supervisor, "sleeper")

    supervisor.kill("sleeper")

    until(lambda: supervisor.children()[0].restarts == 1)
    assert pid_of(supervisor, "sleeper") != first_pid
    assert "sleeper ended (killed by SIGKILL); restart in 0.5 s" in log_text.getvalue()


def test_the_wait_doubles_while_a_child_keeps_dying(
    supervisor: Supervisor, python_child: Describe, log_text: io.StringIO
) -> None:
    supervisor.start(python_child("failing", FAILING))

    until(lambda: supervisor.children()[0].restarts == 2)

    assert "failing ended (exit status 3); restart in 0.5 s" in log_text.getvalue()
    assert "failing ended (exit status 3); restart in 1.0 s" in log_text.getvalue()


def test_a_child_that_is_held_down_stays_down(
    supervisor: Supervisor, python_child: Describe, log_text: io.StringIO
) -> None:
    supervisor.start(python_child("sleeper", SLEEPER))

    supervisor.kill("sleeper", down_seconds=60)

    until(lambda: "restart in 60.0 s" in log_text.getvalue() or "restart in 59.9 s" in log_text.getvalue())
    assert supervisor.children()[0].is_running is False


def test_killing_a_child_kills_what_it_started(
    supervisor: Supervisor, python_child: Describe, log_text: io.StringIO
) -> None:
    supervisor.start(python_child("parent", PARENT))
    until(lambda: "parent     | " in log_text.getvalue())
    grandchild = int(log_text.getvalue().split("|")[1])

    supervisor.kill("parent", down_seconds=60)

    until(lambda: is_gone(grandchild))


def test_a_paused_child_stands_still_with_what_it_started(
    supervisor: Supervisor, python_child: Describe, log_text: io.StringIO
) -> None:
    supervisor.start(python_child("parent", APART))
    until(lambda: "parent     | " in log_text.getvalue())
    pids = [pid_of(supervisor, "parent"), int(log_text.getvalue().split("|")[1])]

    supervisor.pause("parent")
    assert [process_state(pid) for pid in pids] == ["T", "T"]

    supervisor.resume("parent")
    assert "T" not in [process_state(pid) for pid in pids]


def test_a_paused_child_can_be_stopped(supervisor: Supervisor, python_child: Describe, log_text: io.StringIO) -> None:
    supervisor.start(python_child("sleeper", SLEEPER))
    supervisor.pause("sleeper")

    supervisor.stop()

    assert "was killed" not in log_text.getvalue()


def test_stopping_leaves_no_process(supervisor: Supervisor, python_child: Describe) -> None:
    supervisor.start(python_child("first", SLEEPER), python_child("second", PARENT))
    pids = [pid_of(supervisor, "first"), pid_of(supervisor, "second")]

    supervisor.stop(("second",))

    assert [is_gone(pid) for pid in pids] == [True, True]
    assert [child.is_running for child in supervisor.children()] == [False, False]


def test_a_child_that_ignores_the_request_is_killed(
    supervisor: Supervisor, python_child: Describe, log_text: io.StringIO
) -> None:
    supervisor.start(python_child("stubborn", STUBBORN))
    until(lambda: "up" in log_text.getvalue())
    pid = pid_of(supervisor, "stubborn")

    supervisor.stop()

    assert is_gone(pid)
    assert "stubborn did not stop in 1 s and was killed" in log_text.getvalue()


def test_starting_returns_when_the_child_is_ready(
    supervisor: Supervisor, python_child: Describe, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    spec = python_child(
        "maker",
        f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(300)",
        is_ready=mark.exists,
    )

    supervisor.start(spec)

    assert mark.exists()


def test_a_child_that_dies_before_it_is_ready_fails_the_start(supervisor: Supervisor, python_child: Describe) -> None:
    spec = python_child("failing", FAILING, is_ready=lambda: False)

    with pytest.raises(StartFailedError, match="failing ended while starting: exit status 3"):
        supervisor.start(spec)


def test_a_program_that_fails_is_reported_and_not_repeated(supervisor: Supervisor, python_child: Describe) -> None:
    with pytest.raises(StartFailedError, match="failing failed: exit status 3"):
        supervisor.run(python_child("failing", FAILING), timeout_seconds=20)

    assert supervisor.children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties children to their parent's life")
def test_a_killed_supervisor_takes_its_children_along() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR_PROGRAM],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert program.stdout is not None
    child_pid = int(program.stdout.readline())

    program.send_signal(signal.SIGKILL)
    program.wait()
    program.stdout.close()

    until(lambda: is_gone(child_pid))
