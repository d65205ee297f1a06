"""Addresses of the pages and of the health checks."""

from __future__ import annotations

from django.urls import path

from sync import channel_pages, health, views

urlpatterns = [
    path("", views.board, name="board"),
    path("live/", views.live, name="live"),
    path("story/", views.find_story, name="find_story"),
    path("story/<uuid:correlation_id>/", views.story, name="story"),
    path("holds/", channel_pages.holds_page, name="holds"),
    path("holds/<int:hold_id>/", channel_pages.hold_page, name="hold"),
    path("stores/<int:channel_id>/shadow/", channel_pages.shadow_page, name="shadow"),
    path("stores/<int:channel_id>/shadow/report.csv", channel_pages.shadow_csv, name="shadow_csv"),
    path("stores/<int:channel_id>/live/", channel_pages.go_live_page, name="go_live"),
    path("stores/<int:channel_id>/restore/", channel_pages.restore_page, name="restore"),
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("healthz", health.healthz, name="healthz"),
]
