"""Addresses of the pages and of the health checks."""

from __future__ import annotations

from django.urls import path

from sync import alert_pages, health, views

urlpatterns = [
    path("", views.board, name="board"),
    path("live/", views.live, name="live"),
    path("story/", views.find_story, name="find_story"),
    path("story/<uuid:correlation_id>/", views.story, name="story"),
    path("alerts/", alert_pages.alerts, name="alerts"),
    path("alerts/me/", alert_pages.tell_me, name="alerts_me"),
    path("alerts/<int:alert_id>/", alert_pages.alert, name="alert"),
    path("alerts/<int:alert_id>/acknowledge/", alert_pages.acknowledge, name="acknowledge_alert"),
    path("alerts/<int:alert_id>/snooze/", alert_pages.snooze, name="snooze_alert"),
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("healthz", health.healthz, name="healthz"),
]
