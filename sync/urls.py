"""Addresses of the pages and of the health checks."""

from __future__ import annotations

from django.urls import path

from sync import health, health_api, scoreboard, scrape, views

urlpatterns = [
    path("", views.board, name="board"),
    path("live/", views.live, name="live"),
    path("story/", views.find_story, name="find_story"),
    path("story/<uuid:correlation_id>/", views.story, name="story"),
    path("health/", scoreboard.scoreboard, name="scoreboard"),
    path("health/live/", scoreboard.scoreboard_live, name="scoreboard_live"),
    path("health/days.csv", scoreboard.scoreboard_csv, name="scoreboard_csv"),
    path("api/v1/health", health_api.HealthView.as_view(), name="api_health"),
    path("api/v1/health/days", health_api.HealthDaysView.as_view(), name="api_health_days"),
    path("metrics", scrape.metrics_page, name="metrics"),
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("healthz", health.healthz, name="healthz"),
]
