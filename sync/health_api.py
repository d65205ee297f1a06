"""The health scorecard for programs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from channels.models import Channel
from merchants.api import ApiView, Problem, read_query
from merchants.models import Scope
from sync import history
from sync.history import KEPT_BACK_DAYS, Period
from sync.score import NOTHING, Figure, gravest, judge

DAYS_MAX = 400


class HealthQuery(serializers.Serializer[Any]):
    """Whose figures, and over how long."""

    period = serializers.ChoiceField(
        choices=[period.value for period in Period], required=False, default=Period.DAY.value
    )
    channel = serializers.IntegerField(required=False, min_value=1, max_value=2**63 - 1, default=None, allow_null=True)


class DaysQuery(serializers.Serializer[Any]):
    """Whose days, and how many."""

    days = serializers.IntegerField(required=False, min_value=1, max_value=DAYS_MAX, default=KEPT_BACK_DAYS)
    channel = serializers.IntegerField(required=False, min_value=1, max_value=2**63 - 1, default=None, allow_null=True)


class FigureSerializer(serializers.Serializer[Any]):
    """One figure. `value` is in seconds (latency, queue lag, breaker), a share of one, or a count; null: not measured yet."""

    key = serializers.CharField()
    name = serializers.CharField()
    value = serializers.FloatField(allow_null=True)
    said = serializers.CharField(help_text="The value in words.")
    target = serializers.CharField()
    standing = serializers.CharField(help_text="ok, investigate, bad or unknown.")
    advice = serializers.CharField(help_text="What to do next; empty when nothing is to be done.")
    detail = serializers.CharField()


class HealthSerializer(serializers.Serializer[Any]):
    """The scorecard of a merchant or of one channel."""

    period = serializers.CharField()
    channel = serializers.IntegerField(allow_null=True)
    at = serializers.DateTimeField()
    standing = serializers.CharField(help_text="The gravest of all figures.")
    figures = FigureSerializer(many=True)


class DaySerializer(serializers.Serializer[Any]):
    """The figures of one day, by the merchant's own clock."""

    day = serializers.DateField()
    figures = FigureSerializer(many=True)


class HealthDaysSerializer(serializers.Serializer[Any]):
    """The days that are kept, oldest first."""

    channel = serializers.IntegerField(allow_null=True)
    days = DaySerializer(many=True)


class _HealthRoute(ApiView):
    scopes = {"GET": Scope.HEALTH_READ}

    def channel_asked(self, asked: int | None) -> int | None:
        """The channel, if it is one of the key's merchant. Raises Problem (404)."""
        if asked is not None and not Channel.objects.filter(merchant=self.merchant, pk=asked).exists():
            raise Problem(404, "not-found", f"There is no channel {asked}. Leave `channel` out for all of them.")
        return asked


class HealthView(_HealthRoute):
    """How well the stores are kept in step."""

    @extend_schema(parameters=[HealthQuery], responses=HealthSerializer)
    def get(self, request: Request) -> Response:
        """Every figure of the last hour, day, week or month: value, target, how it stands, and what to do next."""
        asked, now = read_query(HealthQuery, request), timezone.now()
        channel = self.channel_asked(asked["channel"])
        figures = history.figures(self.merchant, Period(asked["period"]), channel_id=channel, now=now)
        return Response(
            {
                "period": asked["period"],
                "channel": channel,
                "at": now,
                "standing": gravest(figure.standing for figure in figures),
                "figures": [_told(figure) for figure in figures],
            }
        )


class HealthDaysView(_HealthRoute):
    """How well they were kept in step before."""

    @extend_schema(parameters=[DaysQuery], responses=HealthDaysSerializer)
    def get(self, request: Request) -> Response:
        """The figures of every day that is kept, without today."""
        asked = read_query(DaysQuery, request)
        channel = self.channel_asked(asked["channel"])
        today = history.local_day(self.merchant, timezone.now())
        kept = history.days(self.merchant, first=today - timedelta(days=asked["days"]), last=today)
        days = [
            {"day": day, "figures": [_told(figure) for figure in judge(card.get(channel, NOTHING))]}
            for day, card in kept.items()
        ]
        return Response({"channel": channel, "days": days})


def _told(figure: Figure) -> dict[str, Any]:
    return {
        "key": figure.key,
        "name": figure.name,
        "value": figure.value,
        "said": figure.said,
        "target": figure.target,
        "standing": figure.standing,
        "advice": figure.advice,
        "detail": figure.detail,
    }
