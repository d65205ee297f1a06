"""What a bench says: one figure, and what it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Case:
    """`figure` in `unit`, measured next to `against_figure` of `against`; `notes` are further measurements of the run."""

    case: str
    unit: str
    figure: float
    against: str
    against_figure: float
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return round(self.figure / self.against_figure, 2) if self.against_figure else 0.0

    def as_json(self) -> dict[str, Any]:
        """As `manage.py bench --json` prints it."""
        return {**asdict(self), "ratio": self.ratio}


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which `share` of the (ascending) values lie; 0.0 when there are none."""
    if not sorted_values:
        return 0.0
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]
