"""Child processes: how one is described, started, listened to and ended."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

LAUNCHER = Path(__file__).with_name("launch.py")
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
POLL_SECONDS = 0.02
SERVER_PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class Account:
    """The user a child runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One program of the stack: how it is started, when it counts as ready, how it is asked to stop."""

    name: str
    command: Sequence[str]
    # Secrets may be in here, so it is kept out of repr.
    environment: Mapping[str, str] = field(repr=False)
    working_directory: Path
    account: Account | None = None
    is_ready: Callable[[], bool] | None = None
    ready_timeout_seconds: float = 60
    stop_signal: signal.Signals = signal.SIGTERM
    # Sent by the kernel when the supervisor itself is killed. Our programs lose nothing by it.
    death_signal: signal.Signals = signal.SIGKILL
    grace_seconds: float = 10


class LogStream:
    """One stream for the lines of all children, each line prefixed with the child's name in its colour."""

    def __init__(self, output: TextIO, *, width: int = 10, colour: bool | None = None) -> None:
        self._output = output
        self._width = width
        self._colour = output.isatty() if colour is None else colour
        self._colours: dict[str, int] = {}
        self._lock = threading.Lock()

    def write(self, name: str, line: str) -> None:
        """Write one line of a child. A reader that went away must not stop the stack."""
        with self._lock, suppress(OSError, ValueError):
            self._output.write(f"{self._prefix(name)} {line}\n")
            self._output.flush()

    def _prefix(self, name: str) -> str:
        label = f"{name:<{self._width}} |"
        if not self._colour:
            return label
        number = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
        return f"\033[{number}m{label}\033[0m"


def spawn(spec: ChildSpec, log: LogStream) -> subprocess.Popen[bytes]:
    """Start the child in a process group of its own and copy its lines to the log.

    Must be called from a thread that lives as long as the child should: the kernel sends the death
    signal when the thread that started the child ends.
    """
    account = spec.account or Account(-1, -1)
    launch = (sys.executable, "-I", "-S", str(LAUNCHER))
    numbers = (os.getpid(), int(spec.death_signal), account.uid, account.gid)
    process = subprocess.Popen(
        [*launch, *(str(number) for number in numbers), *spec.command],
        env=dict(spec.environment),
        cwd=spec.working_directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Ctrl-C reaches only the supervisor, which stops its children in order.
        start_new_session=True,
    )
    assert process.stdout is not None
    reader = threading.Thread(
        target=_copy_lines, args=(spec.name, process.stdout, log), name=f"log-{spec.name}", daemon=True
    )
    reader.start()
    return process


def stop(process: subprocess.Popen[bytes], *, stop_signal: signal.Signals, grace_seconds: float) -> bool:
    """Ask the child to stop, wait, and kill its whole group if it does not. True if no kill was needed."""
    # What stands still hears of nothing.
    signal_tree(process.pid, signal.SIGCONT)
    with suppress(ProcessLookupError):
        process.send_signal(stop_signal)
    stopped_in_time = wait_for(lambda: process.poll() is not None, timeout_seconds=grace_seconds)
    kill_group(process.pid)
    process.wait()
    return stopped_in_time


def kill_group(pid: int) -> None:
    """Kill the child and everything it started in its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def signal_tree(pid: int, signal_number: signal.Signals) -> None:
    """Signal a process and all its descendants, those in process groups of their own included."""
    signalled: set[int] = set()
    # The parent comes first; whatever it started meanwhile is found by the next look.
    while found := [each for each in (pid, *descendants(pid)) if each not in signalled]:
        for each in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal_number)
        signalled.update(found)


def descendants(pid: int) -> list[int]:
    """The ids of all processes that it started, and that these started, parents first."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, []))
    for each in found:  # grows meanwhile
        found += children.get(each, [])
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """Every process with its parent."""
    if Path("/proc/self").exists():
        for status in Path("/proc").glob("[0-9]*/stat"):
            # One that has ended since it was listed.
            with suppress(OSError):
                # Its name is in brackets and may hold anything.
                yield int(status.parent.name), int(status.read_text().rpartition(")")[2].split()[1])
        return
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        child, parent = line.split()
        yield int(child), int(parent)


def wait_for(condition: Callable[[], bool], *, timeout_seconds: float) -> bool:
    """Wait until the condition holds; False when the time is over."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def free_ports(wanted: Mapping[str, int | None]) -> dict[str, int]:
    """A different free port of the loopback for each name: the wanted one if it is free, else a random one.

    Not from the range the system gives to outgoing connections: while one of our servers is down, a client
    that keeps trying could be given that very port, connect to itself and keep the server from coming back.
    """
    ports: dict[str, int] = {}
    for name, preferred in wanted.items():
        candidates = [preferred] if preferred else []
        candidates += random.sample(SERVER_PORTS, 200)
        taken = set(ports.values())
        ports[name] = next(port for port in candidates if port not in taken and is_port_free(port))
    return ports


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        # As servers do, so that connections in TIME_WAIT from the last run do not count as "in use".
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def accepts_connections(port: int, host: str = "127.0.0.1") -> bool:
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def command_line(pid: int) -> str:
    """The process's words with spaces between them; empty if there is no such process."""
    if Path("/proc/self").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    # macOS has no /proc, but always has ps; a small Linux may have it the other way round.
    result = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return f"{result.stdout.strip()} "


def _copy_lines(name: str, stream: IO[bytes], log: LogStream) -> None:
    with stream:
        for line in stream:
            log.write(name, line.decode(errors="replace").rstrip())
