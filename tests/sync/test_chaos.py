"""What a chaos run is made of. A short run is in `tests/journeys`, a whole one is `make chaos`."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from django.core.management import CommandError, call_command

from channels.sandbox.faults import Faults, parse_faults
from sync.invariants import Violation
from sync.management.chaos import FAULTS_ON_THE_WAY, LINK_TROUBLES, STORE_TROUBLES, Chaos, Report
from sync.management.chaos_scene import BUNDLES, COUNTED, GOODS, PROBES, unkept
from sync.management.chaos_till import Promise, Till
from sync.management.demo_goods import bundles, goods
from synctec.lib.failpoints import POINTS
from synctec.lib.secret import Secret
from synctec.local.proxy import SOUND


@pytest.mark.parametrize("draw", STORE_TROUBLES)
def test_the_sandbox_understands_every_trouble_of_a_store(draw: object) -> None:
    assert callable(draw)

    assert parse_faults(draw(random.Random(1))) != Faults()


@pytest.mark.parametrize("draw", LINK_TROUBLES)
def test_every_trouble_of_a_link_is_one(draw: object) -> None:
    assert callable(draw)

    assert draw(random.Random(1)) != SOUND


@pytest.mark.parametrize(("point", "faults"), FAULTS_ON_THE_WAY.items())
def test_the_way_to_a_crash_point_can_be_gone(point: str, faults: dict[str, object]) -> None:
    assert point in POINTS
    assert parse_faults(faults) != Faults()


def test_there_are_goods_for_everyone() -> None:
    carried = goods(GOODS)
    in_bundles = {code for bundle in bundles(BUNDLES, carried) for code, _ in bundle.parts}

    assert GOODS - len(in_bundles) > PROBES + COUNTED


@pytest.mark.parametrize("option", ["--minutes=0", "--stores=1"])
def test_senseless_options_are_refused(option: str) -> None:
    with pytest.raises(CommandError, match="some time and two stores"):
        call_command("chaos", option)


# --- the verdict --------------------------------------------------------------------------------------------------


def make_report(minutes: float = 10) -> Report:
    return Report(minutes, seed=1, policy="guard", crash_points={"push.after_send": True})


def test_a_violation_names_what_is_broken() -> None:
    good, bad = make_report(), make_report()

    bad.violate("oversold_units_are_declared", "each is a shortage", {"sku": "MUG"})

    assert (good.is_good, bad.is_good) == (True, False)
    assert bad.violations == [
        {"name": "oversold_units_are_declared", "says": "each is a shortage", "rows": [{"sku": "MUG"}]}
    ]


def test_a_time_that_was_missed_fails_the_run_and_is_no_violation() -> None:
    report = make_report()

    report.goals_missed.append("recovery of worker within 20 s: 31.0 s")

    assert (report.is_good, report.violations) == (False, [])


@pytest.mark.parametrize(("minutes", "is_good"), [(9, True), (10, False), (60, False)])
def test_a_whole_run_visits_every_crash_point(minutes: float, is_good: bool) -> None:
    report = make_report(minutes)

    report.crash_points["sweep.after_find"] = None

    assert (report.is_good, report.unvisited) == (is_good, ["sweep.after_find"])


@pytest.mark.parametrize(("goals_missed", "status"), [([], 0), (["converged within 60 s: 90 s"], 1)])
def test_the_command_ends_as_its_report_says(
    goals_missed: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = make_report()
    report.goals_missed += goals_missed
    monkeypatch.setattr(Chaos, "__init__", lambda self, **_: None)
    monkeypatch.setattr(Chaos, "run", lambda self: report)

    with pytest.raises(SystemExit) if status else nullcontext() as ended:
        call_command("chaos", "--json")

    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], said["goals_missed"]) == (status == 0, goals_missed)
    assert ended is None or ended.value.code == status


# --- what is made of what was found -------------------------------------------------------------------------------


class Scene:
    """A scene on which all is over: one SKU of ten units, all of them sold."""

    plain: ClassVar[list[str]] = ["MUG"]
    opening_units = 10
    shoppers = SimpleNamespace(tally=SimpleNamespace(orders=9))
    changes: ClassVar[dict[str, int]] = {}

    def __init__(self, **found: Any) -> None:
        self.found = {"sold": 6, "sold_by_holds": 5, "held": 0, "reported": 1, "declared": 0, "promises": [], **found}
        self.broken: dict[str, Violation] = found.get("broken", {})
        self.till = SimpleNamespace(tally={"held": 1}, surprises=found.get("surprises", []))

    def audit(self, *, timeout_seconds: float) -> dict[str, Any]:
        well = {
            "violations": [],
            "quiet": True,
            "passes_done": True,
            "channels_left_out": [],
            "settled_seconds": 5.0,
        }
        return {**well, **self.found.get("audit", {})}

    def units_sold(self) -> Counter[str]:
        return Counter(MUG=self.found["sold"])

    def units_sold_by_holds(self) -> Counter[str]:
        return Counter(MUG=self.found["sold_by_holds"])

    def units_held(self) -> Counter[str]:
        return Counter(MUG=self.found["held"])

    def units_reported(self) -> Counter[str]:
        return Counter(MUG=self.found["reported"])

    def units_declared(self) -> Counter[str]:
        return Counter(MUG=self.found["declared"])

    def promises_broken(self) -> list[dict[str, Any]]:
        broken: list[dict[str, Any]] = self.found["promises"]
        return broken

    def do_nothing(self, **_: object) -> None:
        """Nothing is left to be done on it."""

    close_stores = heal = await_children = close_till = write_orders = do_nothing


def settle(monkeypatch: pytest.MonkeyPatch, policy: str = "guard", **found: Any) -> list[str]:
    """The names of the violations that follow from what is found."""
    monkeypatch.setattr("sync.management.chaos.Scene", lambda *_, **__: Scene(**found))
    chaos = Chaos(minutes=1, seed=1, stores=2, policy=policy, folder=Path(), say=lambda _: None)
    chaos._settle_accounts()
    return [violation["name"] for violation in chaos._report.violations]


@pytest.mark.parametrize("policy", ["shared", "guard", "split"])
def test_all_units_may_be_sold(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    assert settle(monkeypatch, policy) == []


@pytest.mark.parametrize(
    ("found", "violation"),
    [
        ({"audit": {"quiet": False}}, "all_comes_to_rest"),
        ({"audit": {"passes_done": False}}, "all_comes_to_rest"),
        ({"audit": {"channels_left_out": [{"channel": "North", "state": "needs_auth"}]}}, "every_channel_is_active"),
        ({"audit": {"violations": [{"name": "pushes_add_up"}]}}, "pushes_add_up"),
        ({"broken": {"pushes_add_up": Violation("pushes_add_up", "", ())}}, "pushes_add_up"),
        ({"promises": [{"key": "till-1"}]}, "api_keeps_its_word"),
        ({"surprises": [{"key": "till-1"}]}, "api_answers"),
        ({"sold": 7}, "oversold_units_are_declared"),
        ({"sold_by_holds": 6}, "oversold_units_are_declared"),
        ({"reported": 0}, "oversold_units_are_declared"),
    ],
)
def test_whatever_is_wrong_in_the_end_is_a_violation(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], violation: str
) -> None:
    assert settle(monkeypatch, **found) == [violation]


@pytest.mark.parametrize("found", [{"sold": 7, "declared": 1}, {"held": 1}])
def test_a_declared_unit_is_forgiven_unless_units_are_split(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]
) -> None:
    assert settle(monkeypatch, "guard", **found) == []
    assert settle(monkeypatch, "split", **found) == ["split_oversells_nothing"]


# --- what the API promised ----------------------------------------------------------------------------------------

HELD = Promise("MUG", 2, frozenset({"committed"}))


@pytest.mark.parametrize(
    ("rows", "is_kept"),
    [
        ([("till-1", "MUG", 2, "committed")], True),
        ([], False),
        ([("till-1", "MUG", 2, "committed")] * 2, False),
        ([("till-1", "MUG", 1, "committed")], False),
        ([("till-1", "MUG", 2, "released")], False),
        ([("till-1", "TEE", 2, "committed")], False),
    ],
)
def test_a_promise_is_kept_exactly_once(rows: list[tuple[object, ...]], is_kept: bool) -> None:
    broken = unkept({"till-1": HELD}, rows, refused=[])

    assert [row["key"] for row in broken] == ([] if is_kept else ["till-1"])


def test_what_was_refused_is_nowhere() -> None:
    broken = unkept({}, [("till-1", "MUG", 2, "active")], refused=["till-1", "till-2"])

    assert [row["key"] for row in broken] == ["till-1"]


class Api(BaseHTTPRequestHandler):
    """Answers what it is told to, one after the other, and keeps what it was asked."""

    answers: ClassVar[list[tuple[int, dict[str, object]]]]
    asked: ClassVar[list[tuple[str, str, object]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers["Idempotency-Key"], body))
        status, answer = self.answers.pop(0)
        if not status:
            return  # the connection ends without a word
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is said."""


@pytest.fixture
def till() -> Iterator[Till]:
    Api.answers, Api.asked = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Till(("127.0.0.1", server.server_port), Secret("st_key"), random.Random(1), ["MUG"], ["TEE"])
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_program_asks_again_with_the_same_key_until_it_is_answered(till: Till) -> None:
    in_flight: dict[str, object] = {"type": "urn:synctec:problem:request-in-flight"}
    Api.answers = [(0, {}), (503, {}), (409, in_flight), (201, {"id": 7})]

    till._hold("till-1")

    [asked, *again] = Api.asked
    assert (asked[0], asked[1]) == ("/api/v1/holds", "till-1")
    assert again == [asked] * 3
    assert till.holds.keys() == {"till-1"}
    assert till.tally == {"held": 1, "asked_again": 3}


def test_a_refusal_is_an_answer(till: Till) -> None:
    Api.answers = [(409, {"type": "urn:synctec:problem:unavailable"})]

    till._hold("till-1")

    assert (till.holds, till.refused) == ({}, ["till-1"])


def test_an_answer_that_is_not_documented_is_a_surprise(till: Till) -> None:
    Api.answers = [(403, {"type": "urn:synctec:problem:not-allowed"})]

    till._report("till-1")

    assert [(row["key"], row["status"]) for row in till.surprises] == [("till-1", 403)]


def test_a_request_that_nobody_answers_is_a_surprise_in_the_end(till: Till) -> None:
    Api.answers = [(503, {})] * 100
    till.start()
    while not Api.asked:
        time.sleep(0.01)

    till.stop(patience_seconds=0.0)

    assert [row["key"] for row in till.surprises] == ["till-1"]
