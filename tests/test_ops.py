"""The dashboard and the alert rules: what they ask for is there, and so is what they tell one to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sync import scrape
from synctec.lib import metrics
from synctec.local.datafolder import PROJECT

DASHBOARD = json.loads((PROJECT / "ops/grafana/synctec.json").read_text())
GROUPS = yaml.safe_load((PROJECT / "ops/prometheus/alerts.yml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
NAME = re.compile(r"\bsynctec_[a-z_]+")


def names_there_are() -> set[str]:
    """Every name as it is scraped: counters end with _total, histograms have three series."""
    names = scrape.gauge_names()
    for counted in metrics.COUNTED:
        for family in counted.describe():
            names |= (
                {f"{family.name}_{part}" for part in ("bucket", "count", "sum")}
                if family.type == "histogram"
                else {f"{family.name}_total"}
            )
    return names


def labels_of() -> dict[str, set[str]]:
    labels = {f"synctec_{name}": set(labels) for name, (_, labels) in scrape._GAUGES.items()}
    for counted in metrics.COUNTED:
        for family in counted.describe():
            for part in ("_bucket", "_count", "_sum", "_total"):
                labels[family.name + part] = {*counted._labelnames, "le"}
    return labels


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


def anchors() -> set[str]:
    """Of the runbook's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", (PROJECT / "docs/runbook.md").read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_metric_that_is_asked_for_is_there(where: str, expression: str) -> None:
    asked = set(NAME.findall(expression))

    assert asked
    assert asked <= names_there_are()


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_every_label_that_is_asked_for_is_one_of_a_metric_asked_for(where: str, expression: str) -> None:
    selected = re.findall(r"([a-z_]+)\s*=~?\s*\"", expression)
    grouped = [label for inner in re.findall(r"by \(([^)]*)\)", expression) for label in inner.split(", ")]

    known = set().union(*(labels_of()[name] for name in NAME.findall(expression)))
    assert {*selected, *grouped} <= known


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for _, expression in expressions() for name in NAME.findall(expression)}
    bases = {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in shown}

    assert bases == {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in names_there_are()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")

    assert page == "docs/runbook.md"
    assert anchor in anchors()
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]


def test_alerts_and_panels_are_told_apart() -> None:
    alerts, panels = [rule["alert"] for rule in RULES], [panel["id"] for panel in DASHBOARD["panels"]]

    assert len(set(alerts)) == len(alerts)
    assert len(set(panels)) == len(panels)
