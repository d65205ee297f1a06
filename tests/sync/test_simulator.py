"""The simulator: a seed is a run to the last event, fixed seeds hold under every policy, and planted bugs are noticed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sync.simulator import mutants, table
from sync.simulator.run import Result, Summary, broken_promises, replay_command, run_many
from sync.simulator.scheduler import Killed, Scheduler
from sync.simulator.world import POLICIES, Setting, World
from synctec.local.datafolder import PROJECT

FIXED_SEEDS = range(10)


def broken(results: list[Result]) -> list[str]:
    return [f"seed {result.seed}: {result.violation}" for result in results if result.violation]


@pytest.mark.parametrize("policy", POLICIES)
def test_fixed_seeds_hold_under_all_faults(policy: str) -> None:
    summary = run_many(Setting(policy=policy, faults="full"), FIXED_SEEDS)

    assert not broken(summary.results)
    assert summary.total("undeclared_units") == 0
    assert summary.total("kills") > 0
    assert summary.total("webhooks_lost") > 0
    assert summary.total("units_sold") > 30 * len(FIXED_SEEDS)
    if policy == "split":
        assert summary.total("oversold_units") == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_bundles_hold_too(policy: str) -> None:
    summary = run_many(Setting(policy=policy, faults="full", bundles=2), range(3))

    assert not broken(summary.results)


@pytest.mark.parametrize("policy", POLICIES)
def test_several_warehouses_hold_too(policy: str) -> None:
    summary = run_many(Setting(policy=policy, faults="full", warehouses=3), range(3))

    assert not broken(summary.results)
    if policy == "split":
        assert summary.total("oversold_units") == 0


def test_stores_share_the_units_of_the_warehouses_that_hang_together() -> None:
    world = World(Setting(faults="none", stores=4, warehouses=3), seed=3)

    assert sorted(warehouse for site in world.sites for warehouse in site) == [1, 2, 3]
    assert all(world.sites[store.site].issuperset(store.warehouses) for store in world.stores)
    assert sum(shelf.initial for (sku, _), shelf in world.shelves.items() if sku == 1) == 25


def test_what_channels_keep_back_saves_them_from_overselling() -> None:
    plain = run_many(Setting(policy="shared", faults="none"), FIXED_SEEDS)

    buffered = run_many(Setting(policy="shared", faults="none", buffer=5), FIXED_SEEDS)

    assert plain.total("oversold_units") > buffered.total("oversold_units") == 0
    assert plain.total("units_sold") > buffered.total("units_sold")
    assert not broken(buffered.results)


def test_a_replay_names_all_that_makes_the_run_and_its_tier() -> None:
    setting = Setting(policy="shared", buffer=2, long_stops=True)

    told, repeated = replay_command(setting, 7), replay_command(setting, 7, tier="postgres")

    assert told == (
        "python manage.py simulate --policy shared --faults full --buffer 2 --long-stops --seed 7 --runs 1 --trace"
    )
    assert repeated == told.replace("--trace", "--tier postgres")


def test_the_table_is_put_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nof last year\n{table.END}\nafter\n")

    written = table.write(page, runs=1, jobs=1)

    assert page.read_text() == f"before\n{table.BEGIN}\n{written}{table.END}\nafter\n"
    assert written.startswith("1 seeds per cell")
    assert [row.split(" | ")[0] for row in written.splitlines()[4:]] == [f"| {name}" for name, _ in table.ROWS]


def simulate(*arguments: str) -> dict[str, Any]:
    """What the command prints, in a process of its own."""
    command = [sys.executable, "manage.py", "simulate", *arguments, "--jobs", "1", "--json"]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures: dict[str, Any] = json.loads(ran.stdout)
    return figures


@pytest.mark.slow
def test_the_same_seeds_are_the_same_runs_in_another_process() -> None:
    here = run_many(Setting(policy="guard"), range(3)).as_json()

    there = simulate("--policy", "guard", "--runs", "3")

    assert there["digest"] == here["digest"]
    assert there["units_sold"] == here["units_sold"]
    assert there["violations"] == 0
    assert there["first_bad_seed"] is None
    assert {"runs", "policy", "oversold_units", "undeclared_units", "seconds_per_run"} <= there.keys()


def test_results_do_not_depend_on_the_number_of_processes() -> None:
    setting = Setting(policy="split", faults="light")

    alone, together = run_many(setting, range(4), jobs=1), run_many(setting, range(4), jobs=2)

    assert [result.digest for result in alone.results] == [result.digest for result in together.results]


def summary(policy: str, faults: str, *, oversold: int, sold: int = 1000) -> Summary:
    (result,) = run_many(Setting(policy=policy, faults="none"), range(1)).results
    return Summary(Setting(policy=policy, faults=faults), [replace(result, oversold_units=oversold, units_sold=sold)])


@pytest.mark.parametrize(
    ("policy", "faults", "oversold", "sold", "says"),
    [
        ("guard", "full", 20, 1000, ""),
        ("guard", "full", 21, 1000, "guard has oversold 21 units, 2.1% of the 1000 of shared"),
        ("guard", "none", 0, 960, ""),
        ("guard", "none", 1, 1000, "guard has oversold 1 units although nothing went wrong"),
        ("guard", "none", 0, 959, "guard has sold 959 units, 95.9% of the 1000 of shared"),
        ("split", "full", 1, 1000, "split has oversold 1 units"),
        ("split", "none", 0, 10, ""),
    ],
)
def test_what_a_policy_promises_is_held_against_many_runs(
    policy: str, faults: str, oversold: int, sold: int, says: str
) -> None:
    beside = summary("shared", faults, oversold=1000)

    broken = broken_promises([beside, summary(policy, faults, oversold=oversold, sold=sold)])

    assert broken == ([says] if says else [])


def test_a_planted_bug_is_caught() -> None:
    mutant = next(mutant for mutant in mutants.MUTANTS if mutant.name == "write without compare-and-set")

    found = mutants.hunt(mutant, seeds=5)

    assert found.is_caught, found.sentence()


def test_a_planted_bug_leaves_nothing_behind() -> None:
    before = [getattr(owner, name) for mutant in mutants.MUTANTS for owner, name, _ in mutant.patches]
    for mutant in mutants.MUTANTS:
        with mutant.planted():
            pass

    assert before == [getattr(owner, name) for mutant in mutants.MUTANTS for owner, name, _ in mutant.patches]


def test_there_are_enough_planted_bugs() -> None:
    assert len({mutant.name for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS) >= 15


class TestScheduler:
    def test_tasks_take_turns_by_their_times(self) -> None:
        scheduler, seen = Scheduler(), []

        def work(name: str, pause: float) -> None:
            for _ in range(2):
                scheduler.sleep(pause)
                seen.append((name, scheduler.time))

        scheduler.spawn("slow", lambda: work("slow", 2.0))
        scheduler.spawn("quick", lambda: work("quick", 1.5))
        scheduler.run(10.0)

        assert seen == [("quick", 1.5), ("slow", 2.0), ("quick", 3.0), ("slow", 4.0)]
        assert scheduler.time == 10.0

    def test_what_is_killed_goes_no_further(self) -> None:
        scheduler, seen = Scheduler(), []

        def work() -> None:
            try:
                scheduler.sleep(5.0)
                seen.append("went on")
            except Exception:
                seen.append("survived")
            except Killed:
                seen.append("killed")
                raise

        task = scheduler.spawn("victim", work)
        scheduler.at(1.0, "kill", scheduler.kill, task)
        scheduler.run(10.0)

        assert seen == ["killed"]
        assert task.is_over

    def test_a_task_can_be_killed_before_it_begins(self) -> None:
        scheduler, seen = Scheduler(), []
        task = scheduler.spawn("unborn", lambda: seen.append("began"), delay=2.0)
        scheduler.at(1.0, "kill", scheduler.kill, task)

        scheduler.run(10.0)

        assert seen == []
