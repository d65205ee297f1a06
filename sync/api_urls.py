"""Addresses of the API of alerts, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from sync import api

urlpatterns = [
    path("alerts", api.AlertsView.as_view(), name="api_alerts"),
    path("alerts/<int:alert_id>/acknowledgement", api.AcknowledgementView.as_view(), name="api_alert_acknowledgement"),
    path("alerts/<int:alert_id>/snooze", api.SnoozeView.as_view(), name="api_alert_snooze"),
]
