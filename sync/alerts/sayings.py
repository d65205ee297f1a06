"""Alerts in words. Pure but for the findings it is handed."""

from __future__ import annotations

from datetime import timedelta

from sync import words
from sync.alerts.questions import Finding
from sync.alerts.rules import Limits, Rule, Standing, Unit

#: Parts named in a text; the page shows more.
NAMED_MAX = 10


def in_words(unit: Unit, value: float) -> str:
    """A number as people say it."""
    if unit is Unit.PERCENT:
        return f"{value:.1f} %"
    if unit is Unit.COUNT:
        return words.grouped(round(value))
    return words.duration(timedelta(seconds=value if unit is Unit.SECONDS else value * 3_600))


def title_of(rule: Rule, finding: Finding, standing: Standing) -> str:
    """What is wrong, in a line."""
    template = rule.title_of_one if rule.title_of_one and standing.value == 1 else rule.title
    line = template.format(who=finding.who, value=in_words(rule.unit, standing.value))
    return " ".join(line.split())[:200]


def text_of(rule: Rule, finding: Finding, standing: Standing) -> str:
    """What it means, what it consists of, and what to do next."""
    parts = [rule.means]
    if finding.detail:
        parts.append(f"It says: {' '.join(finding.detail.split())[:300]}")
    if standing.members:
        named = [said for _, said in standing.members[:NAMED_MAX]]
        others = max(len(standing.members), round(standing.value) if rule.unit is Unit.COUNT else 0) - len(named)
        parts.append("\n".join(f"- {said}" for said in named) + (f"\n- and {others} more" if others > 0 else ""))
    parts.append(f"Next: {rule.next_step}")
    return "\n".join(parts)


def limits_in_words(rule: Rule, limits: Limits) -> str:
    """When a rule raises an alert and when it ends, in a sentence."""
    if not limits.is_on:
        return "Off"
    side = "at or below" if rule.is_below else "from"
    hold = f" for {words.duration(limits.hold)}" if limits.hold else ""
    critical = "" if limits.critical_at is None else f", critical {side} {in_words(rule.unit, limits.critical_at)}"
    over = in_words(rule.unit, limits.clear_at)
    return f"{side.capitalize()} {in_words(rule.unit, limits.raise_at)}{hold}{critical}; over at {over}"
