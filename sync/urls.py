"""Addresses of the pages and of the health checks."""

from __future__ import annotations

from datetime import date

from django.urls import path, register_converter

from sync import alert_pages, channel_pages, health, health_api, repair_api, repair_views, scoreboard, scrape, views
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
    path("dead-letters/", repair_views.dead_letters, name="dead_letters"),
    path("dead-letters/retry/", repair_views.retry_letters, name="retry_letters"),
    path("dead-letters/group/", repair_views.letter_group, name="letter_group"),
    path("dead-letters/<int:letter_id>/", repair_views.letter, name="dead_letter"),
    path("dead-letters/<int:letter_id>/<slug:act>/", repair_views.act_on_letter, name="act_on_letter"),
    path("events/", repair_views.events, name="events"),
    path("events/replay/", repair_views.replay, name="replay"),
    path("resync/", repair_views.resync_page, name="resync"),
    path("jobs/", repair_views.job_list, name="jobs"),
    path("jobs/<int:job_id>/", repair_views.job, name="job"),
    path("jobs/<int:job_id>/cancel/", repair_views.cancel_job, name="cancel_job"),
    path("api/v1/dead-letters", repair_api.LettersView.as_view(), name="api_dead_letters"),
    path("api/v1/dead-letters/retries", repair_api.LetterRetriesView.as_view(), name="api_dead_letter_retries"),
    path("api/v1/dead-letters/<int:letter_id>", repair_api.LetterView.as_view(), name="api_dead_letter"),
    path(
        "api/v1/dead-letters/<int:letter_id>/retry", repair_api.LetterRetryView.as_view(), name="api_dead_letter_retry"
    ),
    path(
        "api/v1/dead-letters/<int:letter_id>/dismissal",
        repair_api.LetterDismissalView.as_view(),
        name="api_dead_letter_dismissal",
    ),
    path(
        "api/v1/dead-letters/<int:letter_id>/reopening",
        repair_api.LetterReopeningView.as_view(),
        name="api_dead_letter_reopening",
    ),
    path("api/v1/jobs", repair_api.JobsView.as_view(), name="api_jobs"),
    path("api/v1/jobs/<int:job_id>", repair_api.JobView.as_view(), name="api_job"),
    path(
        "api/v1/jobs/<int:job_id>/cancellation", repair_api.JobCancellationView.as_view(), name="api_job_cancellation"
    ),
    path("api/v1/replays", repair_api.ReplaysView.as_view(), name="api_replays"),
    path("api/v1/resyncs", repair_api.ResyncsView.as_view(), name="api_resyncs"),
    path("reports/", reports.days, name="reports"),
    path("reports/mail/", reports.want_mail, name="report_mail"),
    path("reports/<date:day>/", reports.day, name="report"),
    path("reports/<date:day>.csv", reports.day_csv, name="report_csv"),
    path("holds/", channel_pages.holds_page, name="holds"),
    path("holds/<int:hold_id>/", channel_pages.hold_page, name="hold"),
    path("stores/<int:channel_id>/shadow/", channel_pages.shadow_page, name="shadow"),
    path("stores/<int:channel_id>/shadow/report.csv", channel_pages.shadow_csv, name="shadow_csv"),
    path("stores/<int:channel_id>/live/", channel_pages.go_live_page, name="go_live"),
    path("stores/<int:channel_id>/restore/", channel_pages.restore_page, name="restore"),
    path("health/", scoreboard.scoreboard, name="scoreboard"),
    path("health/live/", scoreboard.scoreboard_live, name="scoreboard_live"),
    path("health/days.csv", scoreboard.scoreboard_csv, name="scoreboard_csv"),
    path("api/v1/health", health_api.HealthView.as_view(), name="api_health"),
    path("api/v1/health/days", health_api.HealthDaysView.as_view(), name="api_health_days"),
    path("metrics", scrape.metrics_page, name="metrics"),
    path("alerts/", alert_pages.alerts, name="alerts"),
    path("alerts/me/", alert_pages.tell_me, name="alerts_me"),
    path("alerts/<int:alert_id>/", alert_pages.alert, name="alert"),
    path("alerts/<int:alert_id>/acknowledge/", alert_pages.acknowledge, name="acknowledge_alert"),
    path("alerts/<int:alert_id>/snooze/", alert_pages.snooze, name="snooze_alert"),
    path("livez", health.livez, name="livez"),
    path("readyz", health.readyz, name="readyz"),
    path("healthz", health.healthz, name="healthz"),
]
