"""Addresses of the pages and of the health checks."""

from __future__ import annotations

from datetime import date

from django.urls import path, register_converter

from sync import health, views
from sync import report_views as reports


class DateConverter:
    """A day in an address: 2026-11-30."""

    regex = "[0-9]{4}-[0-9]{2}-[0-9]{2}"

    def to_python(self, value: str) -> date:
        """Raises ValueError (no such page) when there is no such day."""
        return date.fromisoformat(value)

    def to_url(self, value: date) -> str:
        return value.isoformat()


register_converter(DateConverter, "date")

urlpatterns = [
    path("", views.board, name="board"),
    path("live/", views.live, name="live"),
    path("story/", views.find_story, name="find_story"),
    path("story/<uuid:correlation_id>/", views.story, name="story"),
    path("reports/", reports.days, name="reports"),
    path("reports/mail/", reports.want_mail, name="report_mail"),
    path("reports/<date:day>/", reports.day, name="report"),
    path("reports/<date:day>.csv", reports.day_csv, name="report_csv"),
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("healthz", health.healthz, name="healthz"),
]
