"""Keeps children running: starts them, restarts with backoff those that die, stops them in order."""

import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from synctec.local.errors import LocalStackError
from synctec.local.process import ChildSpec, LogStream, kill_group, signal_tree, spawn, stop, wait_for

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 10.0
# A child that lived this long was healthy: its next death starts the backoff anew.
HEALTHY_AFTER_SECONDS = 30.0
LOOP_SECONDS = 0.1
# For programs that end their own processes before they go.
ABANDON_GRACE_SECONDS = 3.0


class StartFailedError(LocalStackError):
    """A child died, or was not ready in time; its own last lines in the log say why."""


@dataclass(frozen=True, slots=True)
class ChildState:
    """What a child is doing right now."""

    name: str
    pid: int | None
    restarts: int
    is_running: bool


@dataclass(slots=True, eq=False)
class _Child:
    spec: ChildSpec
    is_kept_alive: bool
    process: subprocess.Popen[bytes]
    started_at: float
    restarts: int = 0
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    # Monotonic time of the next start; set while the child is down.
    restart_at: float | None = None
    # A chaos run wants it down at least until then.
    held_until: float = 0.0

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None


class Supervisor:
    """Runs children until it is stopped. Every public method may be called from any thread.

    All children are started by one thread of our own, because the kernel ends a child with the *thread* that
    started it (see `process.spawn`).
    """

    def __init__(self, log: LogStream, *, on_change: Callable[[], None] | None = None) -> None:
        self._log = log
        self._on_change = on_change or (lambda: None)
        self._children: dict[str, _Child] = {}
        self._orders: queue.Queue[tuple[Callable[[], object], Future[object]]] = queue.Queue()
        self._is_stopping = False
        # Set when no more children will be started; set when the last one is gone.
        self._loop_has_ended = threading.Event()
        self._may_end = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        self._thread.start()

    def start(self, *specs: ChildSpec) -> None:
        """Start these children at once, keep them alive, and return when each of them is ready.

        Raises StartFailedError.
        """
        self.launch(*specs)
        for spec in specs:
            self.wait_until_ready(spec)

    def launch(self, *specs: ChildSpec) -> None:
        """Start these children and keep them alive; return at once."""
        for spec in specs:
            self._order(partial(self._spawn, spec, is_kept_alive=True))

    def run(self, spec: ChildSpec, *, timeout_seconds: float) -> None:
        """Run one program to its end. Raises StartFailedError if it fails or takes too long."""
        self._order(partial(self._spawn, spec, is_kept_alive=False))
        child = self._children[spec.name]
        has_ended = wait_for(lambda: not child.is_running, timeout_seconds=timeout_seconds)
        del self._children[spec.name]
        if not has_ended:
            kill_group(child.process.pid)
            raise StartFailedError(f"{spec.name} took longer than {timeout_seconds:.0f} s.")
        if child.process.returncode != 0:
            raise StartFailedError(
                f"{spec.name} failed: {_describe_exit(child.process.returncode)}. See its lines above."
            )

    def wait_until_ready(self, spec: ChildSpec) -> None:
        """Wait until the child answers. Raises StartFailedError if it dies first or the time is over."""
        if spec.is_ready is None:
            return
        child = self._children[spec.name]
        first_process = child.process
        is_ready = spec.is_ready

        def is_settled() -> bool:
            return self._is_stopping or first_process.poll() is not None or is_ready()

        if not wait_for(is_settled, timeout_seconds=spec.ready_timeout_seconds):
            raise StartFailedError(f"{spec.name} was not ready after {spec.ready_timeout_seconds:.0f} s.")
        if self._is_stopping:
            raise StartFailedError(f"{spec.name} was stopped before it was ready.")
        if first_process.returncode is not None:
            raise StartFailedError(f"{spec.name} ended while starting: {_describe_exit(first_process.returncode)}.")

    def kill(self, name: str, *, down_seconds: float = 0) -> None:
        """Kill a child; it is restarted as after any death, but not before `down_seconds` have passed."""
        child = self._children[name]
        child.held_until = time.monotonic() + down_seconds
        if child.restart_at is not None:
            child.restart_at = max(child.restart_at, child.held_until)
        if child.is_running:
            # Processes of its own outside its group end with it only if they are not stopped.
            signal_tree(child.process.pid, signal.SIGCONT)
            kill_group(child.process.pid)

    def pause(self, name: str) -> None:
        """Have a child and everything it started stand still."""
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Have a child that stands still go on; one that does not goes on anyway."""
        self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, signal_number: signal.Signals) -> None:
        child = self._children[name]
        if child.is_running:
            signal_tree(child.process.pid, signal_number)

    def children(self) -> list[ChildState]:
        """The children in the order they were started."""
        return [
            ChildState(
                name=child.spec.name,
                pid=child.process.pid if child.is_running else None,
                restarts=child.restarts,
                is_running=child.is_running,
            )
            for child in list(self._children.values())
        ]

    def stop(self, *groups: tuple[str, ...]) -> None:
        """Stop the named groups one after the other (the children of a group together), then all others."""
        self._end_loop()
        named = {name for group in groups for name in group}
        rest = tuple(name for name in self._children if name not in named)
        for group in (*groups, rest):
            self._stop_group([self._children[name] for name in group if name in self._children])
        self._end_thread()

    def abandon(self) -> None:
        """End all children at once, as if we had been killed. For data that nobody needs any more."""
        self._end_loop()
        self._stop_group(list(self._children.values()), is_abandoned=True)
        self._end_thread()

    def _end_loop(self) -> None:
        self._is_stopping = True
        self._loop_has_ended.wait()

    def _end_thread(self) -> None:
        self._may_end.set()
        self._thread.join()

    def _stop_group(self, children: list[_Child], *, is_abandoned: bool = False) -> None:
        threads = [threading.Thread(target=self._stop_child, args=(child, is_abandoned)) for child in children]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _stop_child(self, child: _Child, is_abandoned: bool) -> None:
        if not child.is_running:
            kill_group(child.process.pid)
            return
        spec = child.spec
        if is_abandoned:
            stop(child.process, stop_signal=spec.death_signal, grace_seconds=ABANDON_GRACE_SECONDS)
        elif not stop(child.process, stop_signal=spec.stop_signal, grace_seconds=spec.grace_seconds):
            self._log.write("supervisor", f"{spec.name} did not stop in {spec.grace_seconds:.0f} s and was killed")

    def _order(self, action: Callable[[], object]) -> None:
        """Have the supervisor's thread do it, and wait for the outcome."""
        if self._is_stopping:
            raise StartFailedError("The stack is stopping.")
        outcome: Future[object] = Future()
        self._orders.put((action, outcome))
        outcome.result()

    def _loop(self) -> None:
        # Orders that came in before the stop are still carried out, so that nobody waits for ever.
        while not self._is_stopping or not self._orders.empty():
            with suppress(queue.Empty):
                action, outcome = self._orders.get(timeout=LOOP_SECONDS)
                try:
                    outcome.set_result(action())
                except Exception as error:
                    outcome.set_exception(error)
            for child in list(self._children.values()):
                if child.is_kept_alive and not child.is_running and not self._is_stopping:
                    self._restart_when_due(child)
        self._loop_has_ended.set()
        # If this thread ended now, the kernel would kill the children before they are asked to stop.
        self._may_end.wait()

    def _spawn(self, spec: ChildSpec, *, is_kept_alive: bool) -> None:
        process = spawn(spec, self._log)
        self._children[spec.name] = _Child(spec, is_kept_alive, process, started_at=time.monotonic())
        self._on_change()

    def _restart_when_due(self, child: _Child) -> None:
        now = time.monotonic()
        if child.restart_at is None:
            if now - child.started_at >= HEALTHY_AFTER_SECONDS:
                child.backoff_seconds = FIRST_BACKOFF_SECONDS
            # What it had started would otherwise keep its port or its files.
            kill_group(child.process.pid)
            child.restart_at = max(now + child.backoff_seconds, child.held_until)
            reason = _describe_exit(child.process.returncode)
            wait_seconds = child.restart_at - now
            self._log.write("supervisor", f"{child.spec.name} ended ({reason}); restart in {wait_seconds:.1f} s")
            child.backoff_seconds = min(child.backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)
            self._on_change()
        elif now >= child.restart_at:
            child.process = spawn(child.spec, self._log)
            child.started_at = now
            child.restarts += 1
            child.restart_at = None
            self._on_change()


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "still running"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"
