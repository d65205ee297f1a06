"""The API of alerts: which are open, and saying that somebody is at it. Their routes are in `sync.api_urls`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.http import Http404, HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from merchants.api import (
    ApiView,
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
from merchants.models import Scope
from sync.alerts import deeds
from sync.alerts.rules import BY_NAME
from sync.models import Alert, AlertState
from synctec.lib import clock

_SHOWN_STATES = [AlertState.FIRING, AlertState.ACKNOWLEDGED, AlertState.RECOVERED]
MINUTES_MAX = round(deeds.SNOOZE_MAX / timedelta(minutes=1))


class AlertQuery(PageQuery):
    """Which alerts."""

    state = serializers.ChoiceField(choices=[str(state) for state in _SHOWN_STATES], required=False)


class AlertShown(serializers.ModelSerializer[Alert]):
    """One alert of the merchant's."""

    what_next = serializers.SerializerMethodField(help_text="What to do about it.")
    members = serializers.SerializerMethodField(help_text="What it consists of, such as SKUs: a sample.")

    class Meta:
        model = Alert
        fields = (
            "id",
            "rule",
            "subject",
            "severity",
            "state",
            "title",
            "text",
            "what_next",
            "members",
            "value",
            "worst",
            "cause",
            "since",
            "raised_at",
            "recovered_at",
            "acknowledged_at",
            "note",
            "snoozed_until",
        )

    def get_what_next(self, alert: Alert) -> str:
        rule = BY_NAME.get(alert.rule)
        return rule.next_step if rule else ""

    def get_members(self, alert: Alert) -> list[str]:
        return [said for _, said in alert.members]


class AlertPage(serializers.Serializer[Any]):
    """Alerts, and where the next page begins."""

    alerts = AlertShown(many=True)
    next = serializers.CharField(allow_null=True)


class Acknowledgement(StrictSerializer):
    """Why nobody else needs to look."""

    note = StrictText(max_length=500, required=False, allow_blank=True, default="")


class Snooze(StrictSerializer):
    """For how long nobody is to be told."""

    minutes = StrictInteger(min_value=1, max_value=MINUTES_MAX)


class AlertsView(ApiView):
    """The merchant's alerts."""

    scopes = {"GET": Scope.ALERTS_READ}

    @extend_schema(operation_id="alerts_list", parameters=[AlertQuery], responses=AlertPage)
    def get(self, request: Request) -> Response:
        """Alerts, newest first; `state=firing` for those nobody is at."""
        asked = read_query(AlertQuery, request)
        rows = Alert.objects.filter(merchant=self.merchant).exclude(state=AlertState.PENDING).order_by("-id")
        if asked.get("state"):
            rows = rows.filter(state=asked["state"])
        if asked["cursor"]:
            rows = rows.filter(pk__lt=decode_cursor(asked["cursor"], parts=1)[0])
        found = list(rows[: asked["limit"] + 1])
        page = found[: asked["limit"]]
        following = encode_cursor(page[-1].pk) if len(found) > len(page) else None
        return Response({"alerts": AlertShown(page, many=True).data, "next": following})


class _DeedView(ApiView):
    def done(self, request: Request, act: Callable[[], Alert]) -> HttpResponse:
        """Do it once and show the alert as it then is."""
        try:
            return self.once(request, lambda: (200, dict(AlertShown(act()).data)))
        except Alert.DoesNotExist:
            raise Http404("There is no such alert.") from None
        except deeds.DeedRefused as refused:
            raise Problem(409, "alert-is-over", str(refused)) from None


class AcknowledgementView(_DeedView):
    """Somebody is at it."""

    scopes = {"POST": Scope.ALERTS_WRITE}

    @extend_schema(request=Acknowledgement, responses=AlertShown)
    def post(self, request: Request, alert_id: int) -> HttpResponse:
        """Acknowledge an alert: it is not told again, unless it becomes critical. Its end is told."""
        asked = read(Acknowledgement, request.data)
        return self.done(
            request,
            lambda: deeds.acknowledge(
                alert_id,
                merchant_id=self.merchant.pk,
                note=asked["note"],
                now=clock.now(),
                user=None,
                api_key=self.key,
            ),
        )


class SnoozeView(_DeedView):
    """Not now."""

    scopes = {"POST": Scope.ALERTS_WRITE}

    @extend_schema(request=Snooze, responses=AlertShown)
    def post(self, request: Request, alert_id: int) -> HttpResponse:
        """Put an alert off: nobody is told of it for so many minutes, a week at most."""
        minutes = read(Snooze, request.data)["minutes"]
        return self.done(
            request,
            lambda: deeds.snooze(
                alert_id,
                merchant_id=self.merchant.pk,
                until=clock.now() + timedelta(minutes=minutes),
                now=clock.now(),
                user=None,
                api_key=self.key,
            ),
        )
