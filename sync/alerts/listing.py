"""Alerts as the pages show them. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from django.db.models import Q

from merchants.models import NotificationTarget, TargetState
from sync.alerts.rules import BY_NAME, RULES, SEVERITIES, About, Rule, limits_of
from sync.alerts.sayings import limits_in_words
from sync.models import Alert, AlertState, RuleOverride

HISTORY_SHOWN: Final = 50


@dataclass(frozen=True, slots=True)
class Line:
    """An open alert, and those that follow from it."""

    alert: Alert
    followers: list[Alert] = field(default_factory=list)


def is_seen(merchant_ids: Collection[int]) -> Q:
    """The alerts of these merchants, and those about the installation: they name no merchant."""
    return Q(merchant_id__in=merchant_ids) | Q(merchant=None)


def open_lines(merchant_id: int) -> list[Line]:
    """What is open, the gravest first; what follows from another alert is kept under that one."""
    rows = Alert.objects.filter(is_seen([merchant_id]), state__in=[AlertState.FIRING, AlertState.ACKNOWLEDGED])
    alerts = list(rows.select_related("acknowledged_by", "channel").order_by("raised_at", "pk"))
    lines = {f"{alert.rule} {alert.subject}": Line(alert) for alert in alerts}
    roots = []
    for alert in alerts:
        # What follows from something that follows from something else is shown under the first of them.
        root, seen = alert, {alert.pk}
        while root.cause in lines and lines[root.cause].alert.pk not in seen:
            root = lines[root.cause].alert
            seen.add(root.pk)
        if root is alert:
            roots.append(lines[f"{alert.rule} {alert.subject}"])
        else:
            lines[f"{root.rule} {root.subject}"].followers.append(alert)
    return sorted(
        roots, key=lambda line: (line.alert.state != AlertState.FIRING, -SEVERITIES.index(line.alert.severity))
    )


def history(merchant_id: int) -> list[Alert]:
    """What is over, the latest first. What only followed from something else is left out."""
    over = Alert.objects.filter(is_seen([merchant_id]), state=AlertState.RECOVERED, told_at__isnull=False)
    return list(over.select_related("channel").order_by("-recovered_at")[:HISTORY_SHOWN])


@dataclass(frozen=True, slots=True)
class RuleLine:
    """A rule, and when it raises an alert for this merchant."""

    rule: Rule
    limits: str
    is_on: bool
    override_id: int | None


def rule_lines(merchant_id: int | None) -> list[RuleLine]:
    """All rules of a merchant's (None: those of the installation), as they are for it."""
    overrides: Mapping[str, RuleOverride] = {
        row.rule: row
        for row in RuleOverride.objects.filter(Q(merchant=None) if merchant_id is None else Q(merchant_id=merchant_id))
    }
    lines = []
    for rule in RULES:
        if (rule.about is About.INSTALLATION) != (merchant_id is None):
            continue
        row = overrides.get(rule.name)
        limits = limits_of(rule, None if row is None else values_of(row))
        lines.append(RuleLine(rule, limits_in_words(rule, limits), limits.is_on, row.pk if row else None))
    return lines


def values_of(row: RuleOverride) -> dict[str, float | bool | None]:
    """What an override says, by the names the rules know."""
    return {name: getattr(row, name) for name in ("is_on", "raise_at", "clear_at", "critical_at", "hold_seconds")}


def targets_of(merchant_id: int) -> list[NotificationTarget]:
    """Who is told, those in trouble first."""
    rows = NotificationTarget.objects.filter(merchant_id=merchant_id).select_related("member__user")
    return sorted(
        rows, key=lambda target: (target.failing_since is None, target.state != TargetState.ACTIVE, target.name)
    )


def rule_of(alert: Alert) -> Rule | None:
    """The rule that raised it; None when it is not shipped any more."""
    return BY_NAME.get(alert.rule)
