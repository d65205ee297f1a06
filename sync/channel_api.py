"""The API of those who steer channels: shadow mode, held changes, restoring, the kill switch, how a channel does.

The acts are those of the pages (`sync.channel_pages`, the admin), with their locks, their previews and their trail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from django.db import transaction
from django.http import Http404, HttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from channels import steering, writing
from channels.condition import condition_of
from channels.models import Channel
from merchants.api import (
    PAGE_DEFAULT,
    PAGE_MAX,
    ApiView,
    Moment,
    PageQuery,
    Problem,
    StrictInteger,
    StrictSerializer,
    StrictText,
    decode_cursor,
    encode_cursor,
    read,
    read_query,
)
from merchants.models import Merchant, Scope
from sync import bigruns, comparison, rewind, shadow, tasks
from sync.models import HoldState, PushHold, ShadowReport

_BIGINT_MAX = 2**63 - 1


class Why(StrictSerializer):
    """Why, for the audit trail; it must be given."""

    reason = StrictText(max_length=500)


class _SteeringView(ApiView):
    """Finds what the address names, and says why an act was refused."""

    def channel(self, channel_id: int) -> Channel:
        """The merchant's channel. Raises Http404, the same for another's and for none."""
        channel = Channel.objects.filter(merchant=self.merchant, pk=min(channel_id, _BIGINT_MAX)).first()
        if channel is None:
            raise Http404("There is no such channel.")
        return channel

    def hold(self, hold_id: int) -> PushHold:
        """The merchant's held change. Raises Http404 likewise."""
        holds = PushHold.objects.filter(merchant=self.merchant).select_related("channel")
        hold = holds.filter(pk=min(hold_id, _BIGINT_MAX)).first()
        if hold is None:
            raise Http404("There is no such held change.")
        return hold

    def refusing(self, request: Request, act: Callable[[], tuple[int, Any]]) -> HttpResponse:
        """Do it once; what cannot be done now is a conflict, in the words of whoever refused."""
        try:
            return self.once(request, act)
        except rewind.CannotRestore as error:
            if error.field:
                raise exceptions.ValidationError({error.field: [str(error)]}) from None
            raise Problem(409, "cannot-restore", str(error)) from None
        except (shadow.CannotSwitch, steering.CannotSteer, writing.CannotSwitch) as error:
            raise Problem(409, "cannot-change", str(error)) from None
        except bigruns.AlreadyDecided as error:
            raise Problem(409, "decided-already", str(error)) from None


# --- channels -----------------------------------------------------------------------------------------------


class ChannelShown(serializers.ModelSerializer[Channel]):
    """A channel and what keeps it from being written to."""

    class Meta:
        model = Channel
        fields = (
            "id",
            "name",
            "kind",
            "account",
            "state",
            "state_reason",
            "is_shadow",
            "shadow_since",
            "raises_paused_at",
            "raises_paused_reason",
        )


class ChannelList(serializers.Serializer[Any]):
    """All channels of a merchant."""

    channels = ChannelShown(many=True)


class ChannelsView(ApiView):
    """The merchant's channels."""

    scopes = {"GET": Scope.CHANNELS_READ}

    @extend_schema(operation_id="channels_list", responses=ChannelList)
    def get(self, request: Request) -> Response:
        """All channels, by name: whether each is active, in shadow mode, or not raised."""
        channels = Channel.objects.filter(merchant=self.merchant).order_by("name", "pk")
        return Response({"channels": ChannelShown(channels, many=True).data})


class CallsShown(serializers.Serializer[Any]):
    """What became of the calls of one class in this hour and the one before."""

    urgency = serializers.CharField()
    calls = serializers.IntegerField()
    cost = serializers.FloatField(help_text="In the channel's own points.")
    throttled = serializers.IntegerField(help_text="Asked to wait by the channel.")
    paced = serializers.IntegerField(help_text="Not sent to stay within the budget.")
    rested = serializers.IntegerField(help_text="Not sent while the channel did not answer.")
    unanswered = serializers.IntegerField()
    server_errors = serializers.IntegerField()
    waited_seconds = serializers.FloatField()


class ConditionShown(serializers.Serializer[Any]):
    """Whether a channel answers, and what is left of its budget. What Redis knows is null while it is away."""

    channel = ChannelShown()
    breaker = serializers.CharField(allow_null=True, help_text="closed, open or half_open.")
    reason = serializers.CharField(help_text="Why it opened, or the channel's latest error.")
    next_probe_seconds = serializers.FloatField(allow_null=True)
    failing_since = serializers.DateTimeField(allow_null=True)
    next_call_at = serializers.DateTimeField()
    budget_left = serializers.FloatField(allow_null=True)
    budget_capacity = serializers.FloatField(allow_null=True)
    budget_per_second = serializers.FloatField(allow_null=True)
    blocked_seconds = serializers.FloatField(allow_null=True)
    away_seconds = serializers.FloatField(help_text="Of the past day.")
    calls = CallsShown(many=True)


class ConditionView(_SteeringView):
    """How a channel does."""

    scopes = {"GET": Scope.CHANNELS_READ}

    @extend_schema(responses=ConditionShown)
    def get(self, request: Request, channel_id: int) -> Response:
        """A channel's breaker with its reason and next probe, its budget, what its calls came to."""
        channel = self.channel(channel_id)
        found = asdict(condition_of(channel, now=timezone.now()))
        return Response(ConditionShown(found | {"channel": channel}).data)


class _ChannelActView(_SteeringView):
    """One deed about a channel, with a reason."""

    scopes = {"POST": Scope.CHANNELS_WRITE}

    def done(self, request: Request, channel: Channel, act: Callable[[str], object]) -> HttpResponse:
        """Do it once and show the channel as it then is."""
        reason = read(Why, request.data)["reason"]

        def act_and_show() -> tuple[int, Any]:
            act(reason)
            channel.refresh_from_db()
            return 200, ChannelShown(channel).data

        return self.refusing(request, act_and_show)


class PauseView(_ChannelActView):
    """The kill switch of one channel."""

    @extend_schema(request=Why, responses=ChannelShown)
    def post(self, request: Request, channel_id: int) -> HttpResponse:
        """Write nothing to the channel until it is resumed. What it tells is still received and applied."""
        channel = self.channel(channel_id)
        pause = partial(steering.pause, channel=channel, user=None, api_key=self.key)
        return self.done(request, channel, lambda reason: pause(reason=reason))


class ResumptionView(_ChannelActView):
    """The end of a pause."""

    @extend_schema(request=Why, responses=ChannelShown)
    def post(self, request: Request, channel_id: int) -> HttpResponse:
        """Write to the channel again: it is read, then brought to the right numbers at once."""
        channel = self.channel(channel_id)
        resume = partial(steering.resume, channel=channel, user=None, api_key=self.key, now=timezone.now())
        return self.done(request, channel, lambda reason: resume(reason=reason))


class ReconciliationView(_ChannelActView):
    """A reconciliation on a program's word."""

    @extend_schema(request=None, responses={202: ChannelShown})
    def post(self, request: Request, channel_id: int) -> HttpResponse:
        """Have the channel's newest orders and all its levels read and compared as soon as a worker is free."""
        channel = self.channel(channel_id)

        def act() -> tuple[int, Any]:
            steering.reconcile_now(channel=channel, user=None, api_key=self.key)
            return 202, ChannelShown(channel).data

        return self.refusing(request, act)


class RaisesView(_ChannelActView):
    """The end of what a drift alarm began."""

    @extend_schema(request=Why, responses=ChannelShown)
    def post(self, request: Request, channel_id: int) -> HttpResponse:
        """Let raises go on that a drift alarm has paused; lowers never stopped. Nothing happens where none are paused."""
        channel = self.channel(channel_id)
        resume = partial(steering.resume_raises, channel_id=channel.pk, user=None, api_key=self.key)
        return self.done(request, channel, lambda reason: resume(reason=reason))


# --- the kill switch of all channels ------------------------------------------------------------------------


class StopShown(serializers.Serializer[Any]):
    """A stop that is on."""

    is_everybody = serializers.BooleanField(help_text="Set by an operator for the whole installation.")
    began_at = serializers.DateTimeField()
    reason = serializers.CharField()


class WritingShown(serializers.Serializer[Any]):
    """Whether the merchant's channels are written to; `stops` is empty when they are."""

    stops = StopShown(many=True)
    preview = serializers.CharField(help_text="What a stop, or its end, concerns.")


class WritingView(ApiView):
    """Whether anything is written."""

    scopes = {"GET": Scope.CHANNELS_READ}

    @extend_schema(responses=WritingShown)
    def get(self, request: Request) -> Response:
        """Whether writing to all channels is stopped, since when and why; and how much waits."""
        return Response(_writing(self.merchant))


def _writing(merchant: Merchant) -> Any:
    return WritingShown({"stops": writing.stops_on(merchant.pk), "preview": writing.preview(merchant)}).data


class StopView(_SteeringView):
    """The kill switch."""

    scopes = {"POST": Scope.CHANNELS_WRITE}

    @extend_schema(request=Why, responses=WritingShown)
    def post(self, request: Request) -> HttpResponse:
        """Begin no more writes to any channel of the merchant. Stores are still read and their sales counted."""
        reason = read(Why, request.data)["reason"]

        def act() -> tuple[int, Any]:
            writing.stop(merchant=self.merchant, user=None, api_key=self.key, reason=reason)
            return 200, _writing(self.merchant)

        return self.refusing(request, act)


class WritingResumptionView(_SteeringView):
    """The end of a stop."""

    scopes = {"POST": Scope.CHANNELS_WRITE}

    @extend_schema(request=Why, responses=WritingShown)
    def post(self, request: Request) -> HttpResponse:
        """Write again: what is to be written is read first, and every channel is reconciled."""
        reason = read(Why, request.data)["reason"]

        def act() -> tuple[int, Any]:
            writing.resume(merchant=self.merchant, user=None, api_key=self.key, now=timezone.now(), reason=reason)
            return 200, _writing(self.merchant)

        return self.refusing(request, act)


# --- shadow mode --------------------------------------------------------------------------------------------


class RowsQuery(serializers.Serializer[Any]):
    """How many rows are shown."""

    limit = serializers.IntegerField(required=False, min_value=1, max_value=PAGE_MAX, default=PAGE_DEFAULT)


class DayQuery(RowsQuery):
    """Which comparison."""

    day = serializers.DateField(required=False, help_text="The latest when left out.")


class ComparedRow(serializers.Serializer[Any]):
    """A level that shows another number than it would be told."""

    sku = serializers.CharField()
    title = serializers.CharField()
    place = serializers.CharField()
    intended = serializers.IntegerField(allow_null=True)
    actual = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField(help_text="The likely one.")
    why = serializers.CharField(help_text="The same in words.")


class ComparisonShown(serializers.ModelSerializer[ShadowReport]):
    """What a channel in shadow mode would be told, against what it shows."""

    rows = serializers.SerializerMethodField(
        help_text="Those that differ, the greatest differences first, up to `limit`."
    )

    class Meta:
        model = ShadowReport
        fields = ("day", "compared_at", "levels", "exact", "near", "differing", "reasons", "rows")

    @extend_schema_field(ComparedRow(many=True))
    def get_rows(self, report: ShadowReport) -> Any:
        rows = report.rows[: self.context["limit"]]
        words = [row | {"why": comparison.WORDS[comparison.Reason(row["reason"])]} for row in rows]
        return ComparedRow(words, many=True).data


class ShadowShown(serializers.Serializer[Any]):
    """A channel's shadow mode and its comparisons."""

    channel = ChannelShown()
    days = serializers.ListField(child=serializers.DateField(), help_text="Days that were compared, newest first.")
    report = ComparisonShown(allow_null=True)


class ShadowView(_ChannelActView):
    """Shadow mode."""

    scopes = {"GET": Scope.CHANNELS_READ, "POST": Scope.CHANNELS_WRITE}

    @extend_schema(parameters=[DayQuery], responses=ShadowShown)
    def get(self, request: Request, channel_id: int) -> Response:
        """Whether the channel is in shadow mode, and the comparison of a day."""
        channel = self.channel(channel_id)
        asked = read_query(DayQuery, request)
        day = asked.get("day")
        reports = ShadowReport.objects.filter(channel=channel).order_by("-day")
        report = reports.filter(day=day).first() if day else reports.first()
        if day and report is None:
            raise Http404("No comparison of that day. `days` names those there are.")
        days = list(reports.values_list("day", flat=True))
        shown = {"channel": channel, "days": days, "report": report}
        return Response(ShadowShown(shown, context={"limit": asked["limit"]}).data)

    @extend_schema(request=Why, responses=ChannelShown)
    def post(self, request: Request, channel_id: int) -> HttpResponse:
        """Write nothing to the channel from now on; everything is computed, logged and compared once a day."""
        channel = self.channel(channel_id)
        enter = partial(shadow.enter, channel=channel, user=None, api_key=self.key)
        return self.done(request, channel, lambda reason: enter(reason=reason))


class ShadowComparisonView(_SteeringView):
    """A comparison on a program's word."""

    scopes = {"POST": Scope.CHANNELS_WRITE}

    @extend_schema(request=None, responses={202: ChannelShown})
    def post(self, request: Request, channel_id: int) -> HttpResponse:
        """Read the store and compare it now; the report is there within a minute or so."""
        channel = self.channel(channel_id)

        def act() -> tuple[int, Any]:
            if not channel.is_shadow:
                raise shadow.CannotSwitch(f"{channel} is not in shadow mode: there is nothing to compare.")
            transaction.on_commit(partial(tasks.ring_compare_shadow, channel.pk))
            return 202, ChannelShown(channel).data

        return self.refusing(request, act)


class FirstWrite(serializers.Serializer[Any]):
    """A level that would be written first."""

    listing_level_id = serializers.IntegerField()
    sku = serializers.CharField()
    title = serializers.CharField()
    place = serializers.CharField()
    shows = serializers.IntegerField()
    would_show = serializers.IntegerField()


class FirstWritesShown(serializers.Serializer[Any]):
    """What going live would begin with."""

    writes = serializers.IntegerField(help_text="Hand it back as `expected` to go live.")
    to_zero = serializers.IntegerField()
    is_big = serializers.BooleanField(help_text="Whether a run like this would be held, were it not confirmed here.")
    levels = FirstWrite(many=True, help_text="The greatest changes first, up to `limit`.")


class GoingLive(StrictSerializer):
    """That the first writes were looked at, and why the channel goes live."""

    expected = StrictInteger(min_value=0, help_text="`writes` of the preview.")
    reason = StrictText(max_length=500)


class GoingLiveView(_SteeringView):
    """The way out of shadow mode."""

    scopes = {"GET": Scope.CHANNELS_READ, "POST": Scope.CHANNELS_WRITE}

    @extend_schema(parameters=[RowsQuery], responses=FirstWritesShown)
    def get(self, request: Request, channel_id: int) -> Response:
        """The first writes that going live would begin with. Changes nothing."""
        channel = self.channel(channel_id)
        limit = read_query(RowsQuery, request)["limit"]
        if not channel.is_shadow:
            raise Problem(409, "cannot-change", f"{channel} is not in shadow mode.")
        return Response(_first_writes(shadow.first_pushes(channel, limit=limit)))

    @extend_schema(request=GoingLive, responses=FirstWritesShown)
    def post(self, request: Request, channel_id: int) -> HttpResponse:
        """Write to the channel from now on. Refused when it would be told much more or less by now than was looked at."""
        channel = self.channel(channel_id)
        asked = read(GoingLive, request.data)

        def act() -> tuple[int, Any]:
            first = shadow.go_live(channel=channel, user=None, api_key=self.key, **asked)
            transaction.on_commit(partial(tasks.ring_push, channel.pk))
            transaction.on_commit(partial(tasks.ring_publish, channel.merchant_id))
            return 200, _first_writes(first)

        return self.refusing(request, act)


def _first_writes(first: shadow.FirstPushes) -> Any:
    names = ("listing_level_id", "sku", "title", "place", "shows", "would_show")
    levels = [dict(zip(names, row, strict=True)) for row in first.rows]
    told = {"writes": first.writes, "to_zero": first.to_zero, "is_big": first.is_big, "levels": levels}
    return FirstWritesShown(told).data


# --- held changes -------------------------------------------------------------------------------------------


class HeldChangeShown(serializers.ModelSerializer[PushHold]):
    """Changes of a channel that wait for a person, or numbers that were restored."""

    channel_id = serializers.IntegerField()
    channel = serializers.CharField(source="channel.name")

    class Meta:
        model = PushHold
        fields: tuple[str, ...] = (
            "id",
            "channel",
            "channel_id",
            "kind",
            "state",
            "reason",
            "restored_to",
            "zeroed",
            "changed",
            "of_levels",
            "created_at",
            "decided_at",
            "decision_reason",
        )


class HeldLevelShown(serializers.Serializer[Any]):
    """A level that is kept from a change."""

    sku = serializers.CharField()
    title = serializers.CharField()
    place = serializers.CharField()
    shown = serializers.IntegerField(help_text="What it shows now.")
    first = serializers.IntegerField(help_text="What is kept, before what is sold is taken off it.")
    wished = serializers.IntegerField(allow_null=True, help_text="What is computed.")
    cause = serializers.CharField()
    state = serializers.CharField()
    correlation_id = serializers.UUIDField(allow_null=True)


class HeldChangeWithLevels(HeldChangeShown):
    """A held change with its levels, the greatest changes first."""

    levels = serializers.SerializerMethodField()
    levels_count = serializers.SerializerMethodField(help_text="All that it keeps or kept.")
    levels_to_write = serializers.SerializerMethodField(
        help_text="Those whose store does not show yet what they are told: 0 once a restore is through."
    )

    class Meta:
        model = PushHold
        fields: tuple[str, ...] = (*HeldChangeShown.Meta.fields, "levels_count", "levels_to_write", "levels")

    @extend_schema_field(HeldLevelShown(many=True))
    def get_levels(self, hold: PushHold) -> Any:
        return HeldLevelShown(bigruns.preview(hold, limit=self.context["limit"]), many=True).data

    def get_levels_count(self, hold: PushHold) -> int:
        return hold.levels.count()

    def get_levels_to_write(self, hold: PushHold) -> int:
        return hold.levels.filter(listing_level__is_out_of_sync=True).count()


class HeldChangeQuery(PageQuery):
    """Which held changes."""

    state = serializers.ChoiceField(choices=HoldState.choices, required=False)


class HeldChangePage(serializers.Serializer[Any]):
    """Held changes, newest first."""

    held_changes = HeldChangeShown(many=True)
    next = serializers.CharField(allow_null=True, help_text="The cursor of the next page; null at the end.")


class HoldsView(ApiView):
    """Held changes."""

    scopes = {"GET": Scope.CHANNELS_READ}

    @extend_schema(operation_id="held_changes_list", parameters=[HeldChangeQuery], responses=HeldChangePage)
    def get(self, request: Request) -> Response:
        """Held changes and restores, newest first; `state=held` for those that wait."""
        asked = read_query(HeldChangeQuery, request)
        rows = PushHold.objects.filter(merchant=self.merchant).select_related("channel").order_by("-id")
        if asked.get("state"):
            rows = rows.filter(state=asked["state"])
        if asked["cursor"]:
            rows = rows.filter(pk__lt=decode_cursor(asked["cursor"], parts=1)[0])
        found = list(rows[: asked["limit"] + 1])
        page = found[: asked["limit"]]
        following = encode_cursor(page[-1].pk) if len(found) > len(page) else None
        return Response({"held_changes": HeldChangeShown(page, many=True).data, "next": following})


class HoldView(_SteeringView):
    """One held change."""

    scopes = {"GET": Scope.CHANNELS_READ}

    @extend_schema(parameters=[RowsQuery], responses=HeldChangeWithLevels)
    def get(self, request: Request, hold_id: int) -> Response:
        """What is held and why, level by level; of a restore, how far it is."""
        limit = read_query(RowsQuery, request)["limit"]
        return Response(HeldChangeWithLevels(self.hold(hold_id), context={"limit": limit}).data)


class _DecisionView(_SteeringView):
    scopes = {"POST": Scope.CHANNELS_WRITE}

    def decided(self, request: Request, hold_id: int, act: Callable[..., PushHold]) -> HttpResponse:
        """Decide once, have the levels published, and show the hold as it then is."""
        hold = self.hold(hold_id)
        reason = read(Why, request.data)["reason"]

        def act_and_show() -> tuple[int, Any]:
            act(hold_id=hold.pk, user=None, api_key=self.key, reason=reason)
            transaction.on_commit(partial(tasks.ring_publish, hold.merchant_id))
            return 200, HeldChangeShown(self.hold(hold.pk)).data

        return self.refusing(request, act_and_show)


class HoldConfirmationView(_DecisionView):
    """The word that a change is meant."""

    @extend_schema(request=Why, responses=HeldChangeShown)
    def post(self, request: Request, hold_id: int) -> HttpResponse:
        """Let what is computed be shown. Of a restore: let the computed numbers go."""
        return self.decided(request, hold_id, bigruns.confirm)


class HoldDiscardView(_DecisionView):
    """The word that a change was a mistake."""

    @extend_schema(request=Why, responses=HeldChangeShown)
    def post(self, request: Request, hold_id: int) -> HttpResponse:
        """The cause was mended: end the hold and compute everything anew. What is big then is held again."""
        return self.decided(request, hold_id, bigruns.look_again)


# --- restoring ----------------------------------------------------------------------------------------------


class BeforeQuery(RowsQuery):
    """The moment before which the channel's numbers were right."""

    before = Moment()


class FormerShown(serializers.Serializer[Any]):
    """A level that was written to since."""

    listing_level_id = serializers.IntegerField(source="level_id")
    sku = serializers.CharField(source="code")
    title = serializers.CharField()
    place = serializers.CharField()
    shown = serializers.IntegerField()
    then = serializers.IntegerField(help_text="What it showed before the first write since.")
    sold = serializers.IntegerField(help_text="Since that write, by anybody.")
    restored = serializers.IntegerField(help_text="What it would show; where units are divided among stores, at most.")


class RestorePreview(serializers.Serializer[Any]):
    """What restoring would show."""

    count = serializers.IntegerField()
    levels = FormerShown(many=True, help_text="The greatest changes first, up to `limit`.")


class Restoring(StrictSerializer):
    """To what a channel is restored, and why."""

    before = Moment()
    reason = StrictText(max_length=500)


class RestoreView(_SteeringView):
    """A channel restored to what it showed."""

    scopes = {"GET": Scope.CHANNELS_READ, "POST": Scope.CHANNELS_WRITE}

    @extend_schema(parameters=[BeforeQuery], responses=RestorePreview)
    def get(self, request: Request, channel_id: int) -> Response:
        """What the channel would show if it were restored to what it showed before a moment. Changes nothing."""
        channel = self.channel(channel_id)
        asked = read_query(BeforeQuery, request)
        former = rewind.preview(channel=channel, before=asked["before"])
        return Response(RestorePreview({"count": len(former), "levels": former[: asked["limit"]]}).data)

    @extend_schema(request=Restoring, responses={201: HeldChangeShown})
    def post(self, request: Request, channel_id: int) -> HttpResponse:
        """Have the channel show what it did before a moment, less what was sold since.

        The answer is a held change: `levels_to_write` of it tells how far the restore is, and its confirmation ends it.
        """
        channel = self.channel(channel_id)
        asked = read(Restoring, request.data)

        def act() -> tuple[int, Any]:
            hold = rewind.restore(channel=channel, user=None, api_key=self.key, now=timezone.now(), **asked)
            transaction.on_commit(partial(tasks.ring_publish, channel.merchant_id))
            return 201, HeldChangeShown(self.hold(hold.pk)).data

        return self.refusing(request, act)
