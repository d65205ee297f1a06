"""Addresses of the API of alerts and channels, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from sync import api, channel_api

urlpatterns = [
    path("alerts", api.AlertsView.as_view(), name="api_alerts"),
    path("alerts/<int:alert_id>/acknowledgement", api.AcknowledgementView.as_view(), name="api_alert_acknowledgement"),
    path("alerts/<int:alert_id>/snooze", api.SnoozeView.as_view(), name="api_alert_snooze"),
    path("channels", channel_api.ChannelsView.as_view(), name="api_channels"),
    path("channels/<int:channel_id>/condition", channel_api.ConditionView.as_view(), name="api_condition"),
    path("channels/<int:channel_id>/pause", channel_api.PauseView.as_view(), name="api_pause"),
    path("channels/<int:channel_id>/resumption", channel_api.ResumptionView.as_view(), name="api_resumption"),
    path(
        "channels/<int:channel_id>/reconciliation", channel_api.ReconciliationView.as_view(), name="api_reconciliation"
    ),
    path("channels/<int:channel_id>/raises", channel_api.RaisesView.as_view(), name="api_raises"),
    path("channels/<int:channel_id>/shadow", channel_api.ShadowView.as_view(), name="api_shadow"),
    path(
        "channels/<int:channel_id>/shadow/comparison",
        channel_api.ShadowComparisonView.as_view(),
        name="api_shadow_comparison",
    ),
    path("channels/<int:channel_id>/going-live", channel_api.GoingLiveView.as_view(), name="api_going_live"),
    path("channels/<int:channel_id>/restore", channel_api.RestoreView.as_view(), name="api_restore"),
    path("held-changes", channel_api.HoldsView.as_view(), name="api_held_changes"),
    path("held-changes/<int:hold_id>", channel_api.HoldView.as_view(), name="api_held_change"),
    path(
        "held-changes/<int:hold_id>/confirmation",
        channel_api.HoldConfirmationView.as_view(),
        name="api_held_change_confirmation",
    ),
    path("held-changes/<int:hold_id>/discard", channel_api.HoldDiscardView.as_view(), name="api_held_change_discard"),
    path("writing", channel_api.WritingView.as_view(), name="api_writing"),
    path("writing/stop", channel_api.StopView.as_view(), name="api_writing_stop"),
    path("writing/resumption", channel_api.WritingResumptionView.as_view(), name="api_writing_resumption"),
]
