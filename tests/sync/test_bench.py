"""`manage.py bench`: what it prints, and that the work it speaks of was done. Never how fast."""

from __future__ import annotations

import json

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from channels.connect import reader_for
from channels.models import EventState, InboxEvent
from channels.protocol import OrderState
from inventory.models import Hold
from merchants.models import Merchant
from sync.benchmarks import apply, goods, hold, ingest, reconcile
from sync.benchmarks.bodies import OrderBodies
from sync.benchmarks.figures import Case, percentile
from sync.management.commands import bench
from sync.management.commands.bench import with_table
from sync.models import OrderLine, ReconcileRun


@pytest.fixture
def for_processes(monkeypatch: pytest.MonkeyPatch, transactional_db: None) -> None:
    """Processes that are started now find this test's database."""
    found = connection.settings_dict
    address = f"{found['USER']}:{found['PASSWORD']}@{found['HOST']}:{found['PORT']}/{found['NAME']}"
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{address}")
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "synctec.settings")


@pytest.mark.slow
def test_ingest_stores_what_it_counts(for_processes: None) -> None:
    # It ends itself with an error when rows and answers differ.
    (case,) = ingest.run(seconds=0.6, stores=2, skus=20)

    assert (case.unit, case.against) == ("webhooks/s", "an empty DRF view of the same server")
    assert min(case.figure, case.against_figure) > 0
    assert 0 < case.notes["rows_committed"] <= InboxEvent.objects.count()
    assert case.notes["p50_ms"] <= case.notes["p99_ms"]


@pytest.mark.slow
def test_apply_books_what_it_counts(for_processes: None) -> None:
    # It ends itself with an error when the auditor finds the books broken.
    cases = apply.run(seconds=0.3, stores=2, skus=20)

    assert len(cases) == 3
    for case in cases:
        assert case.unit == "events/s"
        assert min(case.figure, case.against_figure) > 0
    applied = InboxEvent.objects.filter(state=EventState.APPLIED).count()
    assert applied == sum(case.notes["events_applied"] for case in cases) == OrderLine.objects.count()


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_hold_stores_what_it_promises() -> None:
    # It ends itself with an error when a strategy gives more than there is, or promises what is not stored.
    cases = hold.run(seconds=0.05, stores=2, skus=20)

    assert len(cases) == 6
    for case in cases:
        assert case.unit == "decisions/s"
        assert min(case.figure, case.against_figure) > 0
    assert Hold.objects.exists()


@pytest.mark.slow
def test_reconcile_compares_what_it_counts_with_few_calls_too_many(for_processes: None) -> None:
    # It ends itself with an error when a level was left out or seems to differ.
    by_page, from_snapshot = reconcile.run(seconds=0.1, stores=2, skus=120)

    assert (by_page.unit, by_page.figure, by_page.against_figure) == ("calls", 6.0, 6.0)
    assert (from_snapshot.figure, from_snapshot.against_figure) == (8.0, 8.0)
    for case in (by_page, from_snapshot):
        assert case.ratio <= 1.2
        assert case.notes["peak_memory_mb"] > 0
    assert set(ReconcileRun.objects.values_list("levels_read", flat=True)) == {120}


@pytest.mark.django_db
def test_a_bench_writes_into_an_empty_database_only() -> None:
    Merchant.objects.create(name="Alder", slug="alder")

    with pytest.raises(goods.NotEmpty):
        goods.stock_up(stores=1, skus=1, bundles=0)


CASE = Case("ten stores", "events/s", 1200.0, "row by row", 100.0, {"workers": 2})


@pytest.mark.parametrize("options", [["--json"], []])
def test_the_command_prints_an_object_or_a_table(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "_measure", lambda *_: [CASE.as_json()])
    call_command("bench", "apply", *options)

    said = capsys.readouterr().out
    if not options:
        assert "ten stores" in said
        assert "1,200.0  events/s" in said
        return
    (case,) = json.loads(said)["cases"]
    assert case == {
        "case": "ten stores",
        "unit": "events/s",
        "figure": 1200.0,
        "against": "row by row",
        "against_figure": 100.0,
        "ratio": 12.0,
        "notes": {"workers": 2},
    }


@pytest.mark.parametrize("option", ["--seconds", "--stores", "--skus"])
def test_the_command_refuses_sizes_that_are_none(option: str) -> None:
    with pytest.raises(CommandError, match="above zero"):
        call_command("bench", "apply", option, "0")


def test_a_body_is_as_long_as_a_real_one_and_says_what_was_asked() -> None:
    body = OrderBodies(lines=2).body(order_id=71, variant_ids=[811, 812])
    (order,) = reader_for("shopify").interpret(topic="orders/create", body=body)

    assert 6_000 <= len(body) <= 20_000
    assert isinstance(order, OrderState)
    assert (order.order_id, [line.variant_id for line in order.lines]) == ("71", ["811", "812"])
    assert len({line.line_id for line in order.lines}) == 2
    assert order.version == order.created_at


def test_the_ratio_is_of_the_two_figures() -> None:
    case = Case("a", "things/s", 30.0, "b", 10.0)

    assert case.as_json()["ratio"] == 3.0
    assert Case("a", "things/s", 30.0, "nothing", 0.0).ratio == 0.0


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 3.0), (0.99, 4.0)])
def test_a_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], share) == expected
    assert percentile([], share) == 0.0


def test_the_table_replaces_the_one_before() -> None:
    page = "# Page\n<!-- bench apply: begin -->\nold\n<!-- bench apply: end -->\nrest\n"
    cases = [
        Case("ten", "events/s", 1200.0, against, figure) for against, figure in (("loop", 100.0), ("bare", 2400.0))
    ]
    table = with_table(page, "apply", [case.as_json() for case in cases])

    assert "old" not in table
    assert "| ten | 1,200 events/s | loop | 100 | 12.0 |\n| ten | 1,200 events/s | bare | 2,400 | 0.5 |\n" in table
    assert table.endswith("<!-- bench apply: end -->\nrest\n")
    assert with_table(table, "apply", [Case("ten", "events/s", 1.0, "b", 1.0).as_json()]).count("| ten |") == 1


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(CommandError, match="markers"):
        with_table("# Page\n", "apply", [])
