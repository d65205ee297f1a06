"""Many runs: seeds divided among processes, results added up. What comes out does not depend on how they were divided."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from sync.simulator.world import Setting, World
from synctec.lib import heap

#: Seeds that a process takes at a time.
CHUNK = 20

#: What `guard` promises beside `shared` under the same seeds: under all faults it oversells this share at most, and without
#: faults, where it oversells nothing, it sells that share at least.
GUARD_OVERSELLS, GUARD_SELLS = 0.02, 0.96
#: Of fewer units oversold a share says nothing.
ENOUGH_UNITS = 1_000


@dataclass(frozen=True, slots=True)
class Result:
    """What one run came to. Units are counted by the stores' own truth."""

    seed: int
    digest: str
    seconds: float  # of one core
    units_sold: int
    oversold_units: int
    declared_units: int
    undeclared_units: int
    webhooks: int
    webhooks_lost: int
    pushes: int
    kills: int
    drifts: int
    ambiguous: int
    converged_seconds: float
    #: (invariant, virtual seconds, what is wrong); empty: nothing is.
    violation: tuple[str, float, str] | tuple[()]


@dataclass(slots=True)
class Summary:
    """Many results of one setting."""

    setting: Setting
    results: list[Result] = field(default_factory=list)

    def total(self, name: str) -> int:
        return sum(getattr(result, name) for result in self.results)

    @property
    def bad(self) -> list[Result]:
        return [result for result in self.results if result.violation]

    def as_json(self) -> dict[str, Any]:
        """The figures, all in one flat object."""
        runs = len(self.results)
        converged = sorted(result.converged_seconds for result in self.results)
        bad = self.bad
        return {
            "runs": runs,
            "policy": self.setting.policy,
            "faults": self.setting.faults,
            "oversold_units": self.total("oversold_units"),
            "declared_units": self.total("declared_units"),
            "undeclared_units": self.total("undeclared_units"),
            "violations": len(bad),
            "first_bad_seed": bad[0].seed if bad else None,
            "invariants_broken": sorted({result.violation[0] for result in bad if result.violation}),
            "units_sold": self.total("units_sold"),
            "seconds_per_run": round(sum(result.seconds for result in self.results) / max(1, runs), 4),
            "webhooks": self.total("webhooks"),
            "webhooks_lost": self.total("webhooks_lost"),
            "pushes": self.total("pushes"),
            "kills": self.total("kills"),
            "drifts": self.total("drifts"),
            "ambiguous": self.total("ambiguous"),
            "converged_seconds_p50": round(quantile(converged, 0.5), 1),
            "converged_seconds_p99": round(quantile(converged, 0.99), 1),
            "digest": digest_of(self.results),
        }


def broken_promises(summaries: Sequence[Summary]) -> list[str]:
    """What the policies promise of many runs and did not keep, by policies that were run under the same seeds."""
    of = {(summary.setting.policy, summary.setting.faults): summary for summary in summaries if _is_usual(summary)}
    broken = []
    for (policy, faults), summary in of.items():
        if policy == "split" and summary.total("oversold_units"):
            broken.append(f"split has oversold {summary.total('oversold_units')} units")
        shared = of.get(("shared", faults))
        if policy != "guard" or shared is None:
            continue
        oversold, beside = summary.total("oversold_units"), shared.total("oversold_units")
        sold, possible = summary.total("units_sold"), shared.total("units_sold")
        if faults == "none" and oversold:
            broken.append(f"guard has oversold {oversold} units although nothing went wrong")
        if faults == "none" and sold < GUARD_SELLS * possible:
            broken.append(f"guard has sold {sold} units, {sold / possible:.1%} of the {possible} of shared")
        if faults == "full" and beside >= ENOUGH_UNITS and oversold > GUARD_OVERSELLS * beside:
            broken.append(f"guard has oversold {oversold} units, {oversold / beside:.1%} of the {beside} of shared")
    return broken


def _is_usual(summary: Summary) -> bool:
    """Whether it is a policy as it comes, in the world that its promises are about."""
    setting = summary.setting
    return setting == Setting(policy=setting.policy, faults=setting.faults)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which this share of them lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def digest_of(results: Iterable[Result]) -> str:
    """One digest over the traces of all runs."""
    total = 0
    for result in results:
        total = (total * 1_000_003 + int(result.digest, 16)) % 2**64
    return f"{total:016x}"


def run_one(setting: Setting, seed: int, *, story: list[str] | None = None, tier: type[World] = World) -> Result:
    """One run, from its seed."""
    began = time.process_time()
    world = tier(setting, seed, story=story)
    world.run()
    books, auditor = world.books, world.auditor
    found = auditor.violations[0] if auditor.violations else None
    return Result(
        seed=seed,
        digest=world.scheduler.digest,
        seconds=time.process_time() - began,
        units_sold=sum(shelf.sold for shelf in world.shelves.values()),
        oversold_units=sum(max(0, shelf.oversold - shelf.excused) for shelf in world.shelves.values()),
        declared_units=sum(shortage.quantity for row in books.stock.values() for shortage in row.shortages),
        undeclared_units=auditor.undeclared_units() if found is None or found.invariant == "undeclared" else 0,
        webhooks=world.wire.sent,
        webhooks_lost=world.wire.lost,
        pushes=len(books.pushes),
        kills=world.kills,
        drifts=len(books.drifts),
        ambiguous=sum(drift.is_ambiguous for drift in books.drifts),
        converged_seconds=world.converged_seconds,
        violation=(found.invariant, found.at, found.says) if found else (),
    )


def run_many(
    setting: Setting,
    seeds: Sequence[int],
    *,
    jobs: int = 1,
    each: Callable[[Result], object] | None = None,
    tier: type[World] = World,
) -> Summary:
    """All these seeds, in order. `each` is called with every result as it comes."""
    summary = Summary(setting)
    for result in _results(setting, seeds, jobs, tier):
        summary.results.append(result)
        if each is not None:
            each(result)
    return summary


def _results(setting: Setting, seeds: Sequence[int], jobs: int, tier: type[World]) -> Iterator[Result]:
    quieten()
    if jobs <= 1:
        for seed in seeds:
            yield run_one(setting, seed, tier=tier)
        return
    chunks = [(setting, tuple(seeds[start : start + CHUNK])) for start in range(0, len(seeds), CHUNK)]
    with multiprocessing.get_context("fork").Pool(jobs, initializer=quieten) as pool:
        for results in pool.imap(_run_chunk, chunks):
            yield from results


def _run_chunk(work: tuple[Setting, tuple[int, ...]]) -> list[Result]:
    setting, seeds = work
    return [run_one(setting, seed) for seed in seeds]


def quieten() -> None:
    """The acts log what goes wrong; here that is most of what happens."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    heap.settle()


def jobs_default() -> int:
    """One process per core that we may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def replay_command(setting: Setting, seed: int, *, tier: str = "memory") -> str:
    """The command that repeats a run, and shows its story where its tier can tell it."""
    told = [f"--{name.replace('_', '-')} {value}" for name, value in _changed(setting) if value is not True]
    flags = [f"--{name.replace('_', '-')}" for name, value in _changed(setting) if value is True]
    ending = "--trace" if tier == "memory" else f"--tier {tier}"
    return " ".join(["python manage.py simulate", *told, *flags, f"--seed {seed} --runs 1 {ending}"])


def _changed(setting: Setting) -> list[tuple[str, Any]]:
    usual = asdict(Setting())
    always = ("policy", "faults")
    return [(name, value) for name, value in asdict(setting).items() if value != usual[name] or name in always]
