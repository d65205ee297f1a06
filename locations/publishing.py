"""How much a store location shows. Pure.

Published quantity = what is available to the store location, minus the buffer, capped, and zero below the floor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rule:
    """Buffer, cap and floor; None means not set here."""

    buffer_units: int | None = None
    buffer_percent: Decimal | None = None
    cap: int | None = None
    floor: int | None = None


def most_specific(rules: Iterable[Rule | None]) -> Rule:
    """Merge rules given from the most to the least specific: field by field, the first that is set."""
    given = [rule for rule in rules if rule is not None]

    return Rule(
        buffer_units=_first(rule.buffer_units for rule in given),
        buffer_percent=_first(rule.buffer_percent for rule in given),
        cap=_first(rule.cap for rule in given),
        floor=_first(rule.floor for rule in given),
    )


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)


def buffer_of(available: int, rule: Rule) -> int:
    """Units kept back: the percentage of what is available, rounded up, plus the fixed units."""
    percent = Decimal(rule.buffer_percent or 0)
    share = (Decimal(max(0, available)) * percent / 100).to_integral_value(rounding=ROUND_CEILING)
    return int(share) + (rule.buffer_units or 0)


def published(available: int, rule: Rule) -> int:
    """What a store shows of `available` units under `rule` (policy `shared`). Never below zero."""
    quantity = max(0, available - buffer_of(available, rule))
    if rule.cap is not None:
        quantity = min(quantity, rule.cap)
    if rule.floor is not None and quantity < rule.floor:
        return 0
    return quantity
