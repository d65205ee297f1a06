"""The conductor of a chaos run: breaks a running stack by a seeded schedule, heals it, and asks what came of it.

1. Everything once, alone: each part is killed or stopped, Valkey emptied, and the time until a sale gets through is taken;
   then a process dies at each failpoint.
2. Anything at any time, several troubles at once, until the minutes are over. Meanwhile programs use the API, and what must
   hold at any moment is looked at.
3. All is healed; two passes of reconciliation and the auditor; our books against those of the stores and of the programs.

The seed decides what is done and when; what it meets is up to the machine.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from locations.publishing import Policy
from sync.management.chaos_scene import Scene, succeeds
from sync.ports import DOUBTFUL
from synctec.lib import failpoints
from synctec.local.proxy import Trouble, Way
from synctec.local.stack import VALKEY_NODES, WORKERS

WORKER_NAMES = tuple(f"worker-{number}" for number in range(1, WORKERS + 1))
VALKEY_NAMES = tuple(f"valkey-{number}" for number in range(1, VALKEY_NODES + 1))
PROCESSES = (*WORKER_NAMES, "beat", "web", "postgres", *VALKEY_NAMES, "sandbox")

#: What is promised, in seconds: from the trouble, or the end of a pause, until a sale gets through to every store.
RECOVERY_GOALS = {
    "worker": 20.0,
    "valkey": 10.0,
    "postgres": 30.0,
    "web": 20.0,
    "beat": 20.0,
    "flush": 10.0,
    "worker pause": 20.0,
    "postgres pause": 30.0,
}
#: How long a part stands still that is paused alone: beyond what requests wait for an answer.
PAUSE_SECONDS = 12.0
#: From the end of all trouble until two passes of reconciliation are over and nothing is left to do but to wait for the end
#: of doubts: a write that was given up may come true for another few minutes.
CONVERGED_GOAL = 60.0
#: How long a crash point may take to be passed, and a sale to get through after it.
PATIENCE_SECONDS = 90.0
#: How long the stack may take until the first sale gets through.
START_SECONDS = 180.0
#: The share of the time after which no further crash point is visited alone, in runs too short for all.
ALONE_SHARE = 0.7
#: A run of so many minutes has to visit every crash point.
WHOLE_MINUTES = 10.0
#: Between two troubles, on average.
CALM_SECONDS = 2.5

#: Crash points that everyday traffic does not pass, and what has to be wrong with the stores for it.
FAULTS_ON_THE_WAY: dict[str, dict[str, Any]] = {
    "push.before_unknown_commit": {"timeout_after_rate": 0.5},
    "push.stale_before_commit": {"webhook_delay_ms": [1_500, 3_000]},
}


@dataclass
class Report:
    """What a run came to."""

    minutes: float
    seed: int
    policy: str
    kills: int = 0  # by signal, and at crash points visited alone
    faults: dict[str, int] = field(default_factory=dict)
    orders: int = 0
    changes: dict[str, int] = field(default_factory=dict)
    units_sold: int = 0
    #: What a program did through the API, and how often it had to ask again.
    api: dict[str, int] = field(default_factory=dict)
    #: Of goods that are in no bundle and that only shoppers move: by the stores' books, and by our shortages.
    oversold_units: int = 0
    declared_units: int = 0
    violations: list[dict[str, Any]] = field(default_factory=list)
    #: Times promised and not kept. They fail the run like a violation, but on a busy machine they may not be our fault.
    goals_missed: list[str] = field(default_factory=list)
    converged_seconds: float | None = None
    at_rest_seconds: float | None = None
    recovery: dict[str, float | None] = field(default_factory=dict)
    #: Whether a sale got through after a crash there; None = not visited alone, for lack of time.
    crash_points: dict[str, bool | None] = field(default_factory=dict)

    @property
    def unvisited(self) -> list[str]:
        """Crash points whose turn did not come within the time."""
        return [name for name, is_survived in self.crash_points.items() if is_survived is None]

    @property
    def is_good(self) -> bool:
        """Whether every invariant holds, every time was kept and, in a whole run, every crash point was visited."""
        is_complete = not self.unvisited or self.minutes < WHOLE_MINUTES
        return not self.violations and not self.goals_missed and is_complete

    def violate(self, name: str, says: str, *rows: object) -> None:
        self.violations.append({"name": name, "says": says, "rows": list(rows)})


class Chaos:
    """One run. `say` is told what happens, a line at a time."""

    def __init__(
        self, *, minutes: float, seed: int, stores: int, policy: str, folder: Path, say: Callable[[str], object]
    ) -> None:
        self._rng = random.Random(seed)
        self._scene = Scene(folder, stores=stores, minutes=minutes, seed=seed, policy=policy)
        self._seconds = minutes * 60
        self._say = say
        self._report = Report(minutes, seed, policy)
        # Ends of troubles under way, by the moment they are due.
        self._ends: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def run(self) -> Report:
        """Raises LocalStackError when the stack does not start."""
        self._say("starting the stack")
        with self._scene.open() as scene:
            if scene.seconds_to_sync(patience_seconds=START_SECONDS) is None:
                raise RuntimeError("The stack does not sync before anything was done to it.")
            began = time.monotonic()
            self._measure_recoveries()
            self._visit_crash_points(until=began + ALONE_SHARE * self._seconds)
            self._break_anything(until=began + self._seconds)
            self._settle_accounts()
        return self._report

    # --- 1. everything once, alone ------------------------------------------------------------------------------------

    def _measure_recoveries(self) -> None:
        self._measure("worker", partial(self._kill_all, WORKER_NAMES))
        self._measure("valkey", partial(self._kill_all, VALKEY_NAMES))
        for name in ("postgres", "web", "beat"):
            self._measure(name, partial(self._kill_all, [name]))
        self._measure("flush", partial(self._scene.flush, range(VALKEY_NODES)))
        # The other one has to do without what this one holds.
        paused = self._rng.choice(WORKER_NAMES)
        self._measure("worker pause", partial(self._scene.stack.pause, paused))
        self._scene.stack.resume(paused)
        self._measure("postgres pause", partial(self._pause_and_resume, "postgres"))

    def _measure(self, what: str, trouble: Callable[[], object]) -> None:
        """How long it takes after the trouble until a sale gets through."""
        trouble()
        self._count(what)
        seconds = self._scene.seconds_to_sync(patience_seconds=PATIENCE_SECONDS)
        self._report.recovery[what] = None if seconds is None else round(seconds, 1)
        self._say(f"{what}: a sale got through after {_seconds(seconds)}")
        if seconds is None or seconds > RECOVERY_GOALS[what]:
            self._report.goals_missed.append(
                f"recovery of {what} within {RECOVERY_GOALS[what]:.0f} s: {_seconds(seconds)}"
            )
        self._scene.await_children(timeout_seconds=PATIENCE_SECONDS)

    def _kill_all(self, victims: Iterable[str]) -> None:
        for victim in victims:
            self._kill(victim)

    def _pause_and_resume(self, victim: str) -> None:
        self._scene.stack.pause(victim)
        time.sleep(PAUSE_SECONDS)
        self._scene.stack.resume(victim)

    def _visit_crash_points(self, *, until: float) -> None:
        # A worker that stands still for longer than its lease, and a commit whose answer is lost, are crashes of their own.
        visits = [(point, "kill") for point in failpoints.POINTS]
        visits += [
            ("apply.before_commit", "lost_commit"),
            ("push.after_claim", "pause:25"),
            ("push.after_send", "pause:25"),
        ]
        self._report.crash_points = {_name_of(*visit): None for visit in visits}
        self._rng.shuffle(visits)
        for point, action in visits:
            if time.monotonic() > until:
                return
            self._report.crash_points[_name_of(point, action)] = self._visit(point, action)

    def _visit(self, point: str, action: str) -> bool:
        """Have a process crash at the point; whether it was passed at all, and a sale got through afterwards."""
        scene = self._scene
        name = _name_of(point, action)
        failpoints.arm(scene.failpoints, point, action)
        succeeds(lambda: scene.stores.set_faults(FAULTS_ON_THE_WAY.get(point, {})))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (scene.failpoints / point).exists() and time.monotonic() < deadline:
            if point.startswith("check."):
                succeeds(lambda: scene.count_anew(self._rng))
            elif point.startswith("credentials."):
                self._expire_any()
            time.sleep(0.25)
        succeeds(lambda: scene.stores.set_faults({}))
        if failpoints.disarm(scene.failpoints, point):
            self._say(f"{name}: never passed")
            self._report.violate("crash_point_is_reached", "every crash point is passed in a run", name)
            return False
        self._report.kills += action == "kill"
        self._count("failpoint")
        seconds = scene.seconds_to_sync(patience_seconds=PATIENCE_SECONDS)
        self._say(f"{name}: a sale got through after {_seconds(seconds)}")
        if seconds is None:
            self._report.violate(
                "crash_point_is_survived", f"after a crash sales get through within {PATIENCE_SECONDS} s", name
            )
        return seconds is not None

    # --- 2. anything at any time --------------------------------------------------------------------------------------

    def _break_anything(self, *, until: float) -> None:
        kinds: list[tuple[int, str, Callable[[], str]]] = [
            (6, "kill", self._kill_any),
            (3, "stop", self._stop_any),
            (1, "flush", self._flush_any),
            (6, "link", self._spoil_link),
            (6, "store", self._spoil_store),
            (4, "failpoint", self._arm_any),
            (1, "token", self._expire_any),
        ]
        weights = [weight for weight, _, _ in kinds]
        while time.monotonic() < until:
            next_at = time.monotonic() + self._rng.expovariate(1 / CALM_SECONDS)
            [(_, kind, begin)] = self._rng.choices(kinds, weights)
            what = begin()
            self._count(kind)
            self._say(f"{until - time.monotonic():5.0f} s left | {kind}: {what}")
            while time.monotonic() < min(next_at, until):
                self._end_what_is_due()
                time.sleep(0.05)

    def _count(self, kind: str) -> None:
        self._report.faults[kind] = self._report.faults.get(kind, 0) + 1

    def _for_seconds(self, seconds: float, end: Callable[[], object]) -> None:
        heapq.heappush(self._ends, (time.monotonic() + seconds, next(self._numbers), end))

    def _end_what_is_due(self) -> None:
        while self._ends and self._ends[0][0] <= time.monotonic():
            heapq.heappop(self._ends)[2]()

    def _kill(self, victim: str, *, down_seconds: float = 0.0) -> None:
        self._scene.stack.kill(victim, down_seconds=down_seconds)
        self._report.kills += 1

    def _kill_any(self) -> str:
        victim, down = self._rng.choice(PROCESSES), self._rng.choice((0.0, 0.0, self._rng.uniform(1, 8)))
        self._kill(victim, down_seconds=down)
        return f"{victim}, down for {down:.0f} s more" if down else victim

    def _stop_any(self) -> str:
        victim, seconds = self._rng.choice(PROCESSES), self._rng.uniform(5, self._rng.choice((10, 20, 60)))
        if victim == "sandbox":
            # The conductor speaks to the stores, too, and would stand still with them.
            seconds = min(seconds, 10.0)
        stack = self._scene.stack
        stack.pause(victim)
        self._for_seconds(seconds, lambda: stack.resume(victim))
        return f"{victim} for {seconds:.0f} s"

    def _flush_any(self) -> str:
        nodes = self._rng.choice((range(VALKEY_NODES), [self._rng.randrange(VALKEY_NODES)]))
        self._scene.flush(nodes)
        return f"{len(nodes)} of {VALKEY_NODES} nodes"

    def _spoil_link(self) -> str:
        rng = self._rng
        link = rng.choice(list(self._scene.stack.links.values()))
        trouble, seconds = rng.choice(LINK_TROUBLES)(rng), rng.uniform(2, 15)
        if trouble is None or trouble.refuses:
            link.cut()
        if trouble is None:
            return f"{link.name}: cut"
        link.set(trouble)
        self._for_seconds(seconds, link.heal)
        return f"{link.name} for {seconds:.0f} s: {_wrong(trouble)}"

    def _spoil_store(self) -> str:
        rng = self._rng
        handle = rng.choice(self._scene.handles)
        faults, seconds = rng.choice(STORE_TROUBLES)(rng), rng.uniform(3, 25)
        stores = self._scene.stores
        succeeds(lambda: stores.set_faults(faults, handle=handle))
        self._for_seconds(seconds, lambda: succeeds(lambda: stores.set_faults({}, handle=handle)))
        return f"{handle} for {seconds:.0f} s: {', '.join(f'{name}={value}' for name, value in faults.items())}"

    def _arm_any(self) -> str:
        point = self._rng.choice(list(failpoints.POINTS))
        action = self._rng.choice(("kill", "kill", "error", f"pause:{self._rng.uniform(1, 25):.0f}"))
        failpoints.arm(self._scene.failpoints, point, action)
        return _name_of(point, action)

    def _expire_any(self) -> str:
        handle = self._rng.choice(self._scene.handles)
        succeeds(lambda: self._scene.stores.expire_tokens(handle))
        return handle

    # --- 3. healed ----------------------------------------------------------------------------------------------------

    def _settle_accounts(self) -> None:
        scene, report = self._scene, self._report
        scene.close_stores()
        self._say("healing everything")
        scene.heal()
        healed_at = time.monotonic()
        scene.await_children(timeout_seconds=PATIENCE_SECONDS)
        scene.close_till(patience_seconds=CONVERGED_GOAL)
        self._say("healed; two passes of reconciliation, then the auditor")
        asked_at = time.monotonic()
        audit = scene.audit(timeout_seconds=2 * CONVERGED_GOAL + DOUBTFUL.total_seconds())
        report.converged_seconds = round(asked_at - healed_at + audit["settled_seconds"], 1)
        report.at_rest_seconds = round(time.monotonic() - healed_at, 1)
        report.violations += audit["violations"]
        for broken in scene.broken.values():
            report.violate(broken.name, f"at any moment: {broken.says}", *broken.rows)
        if not audit["quiet"] or not audit["passes_done"]:
            report.violate(
                "all_comes_to_rest", "when all is healed, and no write can come true any more, nothing is left to do"
            )
        if audit["channels_left_out"]:
            report.violate("every_channel_is_active", "no trouble ends a channel", *audit["channels_left_out"])
        if report.converged_seconds > CONVERGED_GOAL:
            report.goals_missed.append(f"converged within {CONVERGED_GOAL:.0f} s: {report.converged_seconds:.0f} s")
        tally = scene.shoppers.tally
        report.orders, report.changes = tally.orders, dict(scene.changes)
        self._count_units()
        self._hold_to_promises()
        scene.write_orders()

    def _count_units(self) -> None:
        """What was sold and is held, against what there was: by the books of the stores, and of those who used the API."""
        scene, report = self._scene, self._report
        sold, held = scene.units_sold() + scene.units_sold_by_holds(), scene.units_held()
        reported, declared = scene.units_reported(), scene.units_declared()
        report.units_sold = sold.total()
        for sku in scene.plain:
            stock = scene.opening_units + reported[sku]
            oversold = max(0, sold[sku] - stock)
            report.oversold_units += oversold
            report.declared_units += declared[sku]
            row = {"sku": sku, "stock": stock, "sold": sold[sku], "held": held[sku], "declared": declared[sku]}
            if oversold > declared[sku]:
                report.violate("oversold_units_are_declared", "every unit sold beyond stock is an open shortage", row)
            if sold[sku] + held[sku] > stock and report.policy == Policy.SPLIT:
                report.violate("split_oversells_nothing", "where units are split, none is sold or held twice", row)

    def _hold_to_promises(self) -> None:
        till, report = self._scene.till, self._report
        report.api = dict(till.tally)
        broken = self._scene.promises_broken()
        if broken:
            report.violate("api_keeps_its_word", "what the API acknowledged is in the books exactly once", *broken)
        if till.surprises:
            report.violate("api_answers", "every request is answered in the end, as documented", *till.surprises)


# --- what can be wrong with a link, and with a store; None: cut ---------------------------------------------------------

LINK_TROUBLES: tuple[Callable[[random.Random], Trouble | None], ...] = (
    lambda rng: None,
    lambda rng: Trouble(latency_ms=(rng.randrange(5, 50), rng.randrange(50, 800)), way=_some_way(rng)),
    lambda rng: Trouble(refuses=True),
    lambda rng: Trouble(stalls=True, way=_some_way(rng)),
    lambda rng: Trouble(slice_bytes=rng.randrange(1, 200), slice_pause_ms=rng.randrange(1, 5), way=_some_way(rng)),
    lambda rng: Trouble(bytes_per_second=rng.randrange(2_000, 50_000), way=_some_way(rng)),
)
STORE_TROUBLES: tuple[Callable[[random.Random], dict[str, Any]], ...] = (
    lambda rng: {"error_rate": rng.uniform(0.1, 0.8)},
    lambda rng: {"timeout_before_rate": rng.uniform(0.1, 0.5), "hang_ms": rng.choice((0, 2_000))},
    lambda rng: {"timeout_after_rate": rng.uniform(0.1, 0.5), "hang_ms": rng.choice((0, 2_000))},
    lambda rng: {"late_rate": rng.uniform(0.1, 0.5), "late_ms": [5_000, rng.choice((10_000, 60_000))]},
    lambda rng: {"throttle_rate": rng.uniform(0.3, 1.0)},
    lambda rng: {"webhook_lost_rate": rng.uniform(0.1, 0.5), "webhook_double_rate": rng.uniform(0.0, 0.4)},
    lambda rng: {"webhook_reorder_rate": rng.uniform(0.2, 0.8), "webhook_delay_ms": [0, rng.randrange(200, 5_000)]},
    lambda rng: {"latency_ms": [100, rng.randrange(200, 4_000)]},
    lambda rng: {"order_list_lag_ms": rng.randrange(500, 2_500), "webhook_merge": True},
    lambda rng: {"outage": True},
)


def _some_way(rng: random.Random) -> Way:
    return rng.choice((Way.BOTH, Way.TO_SERVER, Way.TO_CLIENT))


def _wrong(trouble: Trouble) -> str:
    sound = Trouble()
    names = ("latency_ms", "refuses", "stalls", "slice_bytes", "slice_pause_ms", "bytes_per_second")
    wrong = [f"{name}={getattr(trouble, name)}" for name in names if getattr(trouble, name) != getattr(sound, name)]
    return ", ".join([*wrong, *([] if trouble.way == Way.BOTH else [str(trouble.way)])])


def _name_of(point: str, action: str) -> str:
    return point if action == "kill" else f"{point}={action}"


def _seconds(seconds: float | None) -> str:
    return "no time" if seconds is None else f"{seconds:.1f} s"
