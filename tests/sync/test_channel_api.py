"""Shadow mode, held changes, restoring and the kill switch over HTTP: the acts of the pages, for programs."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from channels import steering
from channels.models import Channel, ChannelState, WritingStop
from merchants.models import AuditEvent, Scope
from sync import shadow
from sync.models import HoldState, PushHold, ShadowReport
from tests.engine import engine
from tests.factories import NOON, Shop, Trade, make_trade
from tests.fakes import FakeChannel
from tests.sync.test_bigruns import adjust, push, settle
from tests.sync.test_repair_api import Program

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


@pytest.fixture
def south(alder: Trade) -> Shop:
    return alder.shops["south"]


@pytest.fixture
def program(alder: Trade) -> Program:
    return Program(alder.merchant, Scope.CHANNELS_READ, Scope.CHANNELS_WRITE)


@pytest.fixture
def hold(alder: Trade, south: Shop) -> PushHold:
    Channel.objects.filter(pk=south.channel.pk).update(big_run_levels=1)
    adjust(alder, "MUG", -10)
    settle(alder)
    return PushHold.objects.get()


def of_trail(action: str) -> AuditEvent:
    return AuditEvent.objects.get(action=action)


def test_channels_are_listed_with_what_keeps_them_from_being_written(program: Program, south: Shop) -> None:
    shadow.enter(channel=south.channel, user=None)

    told = program.get("channels").json()["channels"]

    assert [(one["name"], one["state"], one["is_shadow"]) for one in told] == [
        ("North", "active", False),
        ("South", "active", True),
    ]


def test_the_condition_of_a_channel_is_that_of_its_page(program: Program, south: Shop) -> None:
    told = program.get(f"channels/{south.channel.pk}/condition").json()

    assert (told["channel"]["name"], told["breaker"], told["away_seconds"]) == ("South", "half_open", 0.0)
    assert told["budget_capacity"] > 0


def test_one_channel_is_paused_and_resumed(program: Program, south: Shop) -> None:
    at = f"channels/{south.channel.pk}"
    paused = program.post(f"{at}/pause", {"reason": "a bad import"})
    again = program.post(f"{at}/pause", {"reason": "a bad import"})

    assert (paused.status_code, paused.json()["state"], paused.json()["state_reason"]) == (
        200,
        "paused",
        "a bad import",
    )
    assert (again.status_code, again.json()["type"]) == (409, "urn:synctec:problem:cannot-change")
    assert "not active" in again.json()["detail"]
    assert program.post(f"{at}/resumption", {"reason": "mended"}).json()["state"] == ChannelState.ACTIVE
    assert [of_trail(f"channel.{verb}").api_key for verb in ("pause", "resume")] == [program.key] * 2


def test_a_channel_is_reconciled_while_it_is_active(program: Program, south: Shop) -> None:
    at = f"channels/{south.channel.pk}/reconciliation"

    assert program.post(at).status_code == 202
    assert of_trail("channel.reconcile").api_key == program.key
    Channel.objects.filter(pk=south.channel.pk).update(state=ChannelState.PAUSED)
    assert "only an active channel" in program.post(at).json()["detail"]


def test_raises_go_on_after_a_drift_alarm(program: Program, south: Shop) -> None:
    steering.pause_raises(channel_id=south.channel.pk, reason="too much differs", now=NOON)
    assert program.get("channels").json()["channels"][1]["raises_paused_reason"] == "too much differs"

    told = program.post(f"channels/{south.channel.pk}/raises", {"reason": "it was a count"}).json()

    assert told["raises_paused_at"] is None
    assert (of_trail("channel.resume_raises").api_key, of_trail("channel.resume_raises").reason) == (
        program.key,
        "it was a count",
    )


def test_all_writing_is_stopped_and_resumed(program: Program, alder: Trade) -> None:
    assert program.get("writing").json()["stops"] == []

    stopped = program.post("writing/stop", {"reason": "wrong numbers"}).json()

    assert [(stop["is_everybody"], stop["reason"]) for stop in stopped["stops"]] == [(False, "wrong numbers")]
    assert "2 active channels" in program.get("writing").json()["preview"]
    assert program.post("writing/stop", {"reason": "again"}).status_code == 409
    assert program.post("writing/resumption", {"reason": "mended"}).json()["stops"] == []
    assert program.post("writing/resumption", {"reason": "mended"}).status_code == 409
    assert [of_trail(f"writing.{verb}").api_key for verb in ("stop", "resume")] == [program.key] * 2


def test_a_stop_of_the_installation_is_shown_and_is_not_the_merchants_to_end(program: Program) -> None:
    WritingStop.objects.create(merchant=None, reason="an upgrade")

    assert program.get("writing").json()["stops"][0]["is_everybody"] is True
    assert program.post("writing/resumption", {"reason": "please"}).status_code == 409
    assert WritingStop.objects.filter(ended_at=None).exists()


def test_a_store_is_tried_out_compared_and_goes_live(program: Program, alder: Trade, south: Shop) -> None:
    at = f"channels/{south.channel.pk}"
    assert program.post(f"{at}/shadow/comparison").status_code == 409
    assert program.post(f"{at}/shadow", {"reason": "a trial"}).json()["is_shadow"] is True
    assert "already" in program.post(f"{at}/shadow", {"reason": "a trial"}).json()["detail"]
    assert program.get(f"{at}/shadow").json()["report"] is None
    adjust(alder, "MUG", -4)
    settle(alder)
    assert program.post(f"{at}/shadow/comparison").status_code == 202
    channel = Channel.objects.get(pk=south.channel.pk)
    shadow.note(channel.pk)
    store = FakeChannel.of(south)
    store.levels[FakeChannel.where(south, "TEE")] = 9
    shadow.compare(engine(timezone.now(), {channel: store}), channel=channel)

    report = program.get(f"{at}/shadow").json()["report"]
    assert (report["levels"], report["exact"], report["differing"]) == (2, 0, 2)
    assert {row["sku"]: row["reason"] for row in report["rows"]} == {"MUG": "timing", "TEE": "edited"}
    assert all(row["why"] for row in report["rows"])
    assert len(program.get(f"{at}/shadow", limit=1, day=report["day"]).json()["report"]["rows"]) == 1
    assert program.get(f"{at}/shadow", day="2001-01-01").status_code == 404

    first = program.get(f"{at}/going-live").json()
    assert (first["writes"], first["to_zero"], first["is_big"]) == (1, 0, False)
    assert [(row["sku"], row["shows"], row["would_show"]) for row in first["levels"]] == [("MUG", 10, 6)]
    wrong = program.post(f"{at}/going-live", {"expected": 50, "reason": "right"})
    assert (wrong.status_code, "look at them again" in wrong.json()["detail"]) == (409, True)
    live = program.post(f"{at}/going-live", {"expected": 1, "reason": "right"})
    assert (live.status_code, live.json()["writes"]) == (200, 1)
    assert not Channel.objects.get(pk=channel.pk).is_shadow
    assert program.get(f"{at}/going-live").status_code == 409
    assert [of_trail(f"channel.{verb}").api_key for verb in ("enter_shadow", "go_live")] == [program.key] * 2


def test_a_held_change_is_looked_at_and_confirmed_once(
    program: Program, alder: Trade, south: Shop, hold: PushHold
) -> None:
    [listed] = program.get("held-changes", state="held").json()["held_changes"]
    assert (listed["id"], listed["channel"], listed["zeroed"]) == (hold.pk, "South", 1)
    told = program.get(f"held-changes/{hold.pk}").json()
    assert (told["levels_count"], told["levels_to_write"]) == (1, 0)
    assert [(row["sku"], row["shown"], row["wished"]) for row in told["levels"]] == [("MUG", 10, 0)]

    confirmed = program.post(f"held-changes/{hold.pk}/confirmation", {"reason": "meant"}, once="k")
    repeated = program.post(f"held-changes/{hold.pk}/confirmation", {"reason": "meant"}, once="k")
    late = program.post(f"held-changes/{hold.pk}/discard", {"reason": "not meant"})

    assert (confirmed.json()["state"], confirmed.json()["decision_reason"]) == ("confirmed", "meant")
    assert repeated.content == confirmed.content
    assert (late.status_code, late.json()["type"]) == (409, "urn:synctec:problem:decided-already")
    settle(alder)
    assert south.level("MUG").desired == 0
    assert of_trail("push_hold.confirm").api_key == program.key
    assert program.get("held-changes", state="held").json()["held_changes"] == []


def test_a_held_change_is_discarded_once_it_was_mended(
    program: Program, alder: Trade, south: Shop, hold: PushHold
) -> None:
    adjust(alder, "MUG", 10)

    told = program.post(f"held-changes/{hold.pk}/discard", {"reason": "put right"}).json()

    assert told["state"] == HoldState.CANCELLED
    settle(alder)
    assert south.level("MUG").desired == 10


def test_pages_of_held_changes_follow_one_another(program: Program, alder: Trade, south: Shop) -> None:
    for _ in range(3):
        PushHold.objects.create(
            merchant=alder.merchant,
            channel=south.channel,
            kind="big_run",
            state="cancelled",
            decided_at=NOON,
            reason="much",
        )

    first = program.get("held-changes", limit=2).json()
    second = program.get("held-changes", limit=2, cursor=first["next"]).json()

    assert [len(page["held_changes"]) for page in (first, second)] == [2, 1]
    assert second["next"] is None


def test_a_channel_is_restored_after_a_look_and_tells_how_far_it_is(
    program: Program, alder: Trade, south: Shop
) -> None:
    store = FakeChannel.of(south)
    adjust(alder, "MUG", -10)
    settle(alder)
    push(south, store)
    at = f"channels/{south.channel.pk}/restore"

    looked = program.get(at, before="2020-01-01T10:00:00Z").json()
    assert looked["count"] == 1
    assert [(row["sku"], row["shown"], row["restored"]) for row in looked["levels"]] == [("MUG", 0, 10)]
    made = program.post(at, {"before": "2020-01-01T10:00:00Z", "reason": "a bad import"})
    twice = program.post(at, {"before": "2020-01-01T10:00:00Z", "reason": "a bad import"})

    assert (made.status_code, made.json()["kind"]) == (201, "restore")
    assert (twice.status_code, twice.json()["type"]) == (409, "urn:synctec:problem:cannot-restore")
    assert of_trail("channel.restore").api_key == program.key
    settle(alder)
    hold = f"held-changes/{made.json()['id']}"
    assert program.get(hold).json()["levels_to_write"] == 1
    push(south, store)
    assert program.get(hold).json()["levels_to_write"] == 0
    assert store.levels[FakeChannel.where(south, "MUG")] == 10


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("pause", {}, "reason"),
        ("pause", {"reason": " "}, "reason"),
        ("raises", {"reason": 7}, "reason"),
        ("shadow", {"reason": "x", "day": "2026-01-01"}, "day"),
        ("going-live", {"reason": "x"}, "expected"),
        ("going-live", {"reason": "x", "expected": "1"}, "expected"),
        ("going-live", {"reason": "x", "expected": -1}, "expected"),
        ("restore", {"reason": "x"}, "before"),
        ("restore", {"reason": "x", "before": "2026-11-20T12:00:00"}, "before"),
        ("restore", {"reason": "x", "before": "2099-11-20T12:00:00Z"}, "before"),
        ("restore", {"before": "2020-11-20T12:00:00Z"}, "reason"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    program: Program, south: Shop, path: str, body: dict[str, Any], field: str
) -> None:
    before = AuditEvent.objects.count()

    answer = program.post(f"channels/{south.channel.pk}/{path}", body)

    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert AuditEvent.objects.count() == before


def test_another_merchants_channels_are_not_there(alder: Trade, south: Shop, hold: PushHold) -> None:
    ShadowReport.objects.create(merchant=alder.merchant, channel=south.channel, day=NOON.date(), compared_at=NOON)
    stranger = Program(make_trade("Birch").merchant, Scope.CHANNELS_READ, Scope.CHANNELS_WRITE)
    at, why = f"channels/{south.channel.pk}", {"reason": "x"}

    assert [one["name"] for one in stranger.get("channels").json()["channels"]] == ["North", "South"]
    assert south.channel.pk not in [one["id"] for one in stranger.get("channels").json()["channels"]]
    assert stranger.get("held-changes").json()["held_changes"] == []
    for answer in (
        stranger.get(f"{at}/condition"),
        stranger.get(f"{at}/shadow"),
        stranger.get(f"{at}/going-live"),
        stranger.get(f"{at}/restore", before="2020-01-01T10:00:00Z"),
        stranger.get(f"held-changes/{hold.pk}"),
        stranger.get(f"held-changes/{2**70}"),
        stranger.get(f"channels/{2**70}/condition"),
        *(stranger.post(f"{at}/{act}", why) for act in ("pause", "resumption", "raises", "shadow")),
        *(stranger.post(f"{at}/{act}") for act in ("reconciliation", "shadow/comparison")),
        stranger.post(f"{at}/going-live", why | {"expected": 0}),
        stranger.post(f"{at}/restore", why | {"before": "2020-01-01T10:00:00Z"}),
        *(stranger.post(f"held-changes/{hold.pk}/{act}", why) for act in ("confirmation", "discard")),
    ):
        assert answer.status_code == 404
    stranger.post("writing/stop", why)
    assert not WritingStop.objects.filter(merchant=alder.merchant).exists()
    hold.refresh_from_db()
    assert hold.state == HoldState.HELD


def test_looking_is_not_steering(alder: Trade, south: Shop, hold: PushHold) -> None:
    reader = Program(alder.merchant, Scope.CHANNELS_READ)
    operator = Program(alder.merchant, Scope.SYNC_READ, Scope.SYNC_WRITE)

    assert reader.get(f"held-changes/{hold.pk}").status_code == 200
    assert reader.post(f"held-changes/{hold.pk}/confirmation", {"reason": "x"}).status_code == 403
    assert reader.post("writing/stop", {"reason": "x"}).status_code == 403
    assert operator.post(f"channels/{south.channel.pk}/pause", {"reason": "x"}).status_code == 403
