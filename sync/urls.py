"""Addresses of the pages and of the health checks."""

from __future__ import annotations

from django.urls import path

from sync import health, views

urlpatterns = [
    path("", views.board, name="board"),
    path("live/", views.live, name="live"),
    path("story/", views.find_story, name="find_story"),
    path("story/<uuid:correlation_id>/", views.story, name="story"),
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("healthz", health.healthz, name="healthz"),
]
