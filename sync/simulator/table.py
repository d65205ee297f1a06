"""The table of docs/simulator.md: what each policy oversells and sells, measured, never typed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sync.simulator.run import Summary, run_many
from sync.simulator.world import Setting

BEGIN = "<!-- table: written by `manage.py simulate --table` -->"
END = "<!-- end of table -->"

ROWS: tuple[tuple[str, Setting], ...] = (
    ("shared", Setting(policy="shared")),
    ("shared, buffer 2", Setting(policy="shared", buffer=2)),
    ("shared, buffer 5", Setting(policy="shared", buffer=5)),
    ("guard, T = 5", Setting(policy="guard", guard_units=5)),
    ("guard, T = 10", Setting(policy="guard", guard_units=10)),
    ("guard, T = 20", Setting(policy="guard", guard_units=20)),
    ("guard, T as measured", Setting(policy="guard")),
    ("split", Setting(policy="split")),
)


def write(path: Path, *, runs: int, jobs: int) -> str:
    """Measure every row with and without faults and put the table between its marks in the page; returns the table.

    Raises:
        ValueError: the page has no place for it.
    """
    page = path.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"{path} needs one line {BEGIN!r} and one {END!r}.")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = render(runs=runs, jobs=jobs)
    path.write_text(f"{before}{BEGIN}\n{table}{END}{after}")
    return table


def render(*, runs: int, jobs: int) -> str:
    """The table in Markdown."""
    lines = [
        f"{runs} seeds per cell; 10 stores, 2 SKUs of 25 units, 100 shoppers within 5 minutes.",
        "",
        "| policy | oversold a run, no faults | runs that oversold | sold, of shared | oversold a run, all faults | "
        "most a run oversold, all faults | undeclared | violations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shared_sold = 0
    for name, setting in ROWS:
        quiet = run_many(_with_faults(setting, "none"), range(runs), jobs=jobs)
        rough = run_many(_with_faults(setting, "full"), range(runs), jobs=jobs)
        shared_sold = shared_sold or quiet.total("units_sold")
        lines.append(_line(name, quiet, rough, shared_sold))
    return "\n".join(lines) + "\n"


def _with_faults(setting: Setting, faults: str) -> Setting:
    return replace(setting, faults=faults)


def _line(name: str, quiet: Summary, rough: Summary, shared_sold: int) -> str:
    runs = len(quiet.results)
    oversold = sum(result.oversold_units > 0 for result in quiet.results)
    cells = (
        name,
        f"{quiet.total('oversold_units') / runs:.3g}",
        f"{oversold / runs:.1%}",
        f"{quiet.total('units_sold') / max(1, shared_sold):.1%}",
        f"{rough.total('oversold_units') / runs:.3g}",
        str(max(result.oversold_units for result in rough.results)),
        str(quiet.total("undeclared_units") + rough.total("undeclared_units")),
        str(len(quiet.bad) + len(rough.bad)),
    )
    return "| " + " | ".join(cells) + " |"
