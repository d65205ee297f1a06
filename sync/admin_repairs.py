"""Admin of what was given up and of jobs: lists to search, and the buttons that are on the pages too."""

from __future__ import annotations

from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import ModelAdmin as PlainModelAdmin
from django.contrib.admin import SimpleListFilter
from django.db import models, transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html

from channels.admin import channel_filter, listing_level_ids
from inventory.admin import table
from merchants.admin_base import (
    BigTableAdmin,
    ReasonForm,
    acting_user,
    as_uuid,
    column,
    merchant_filter,
    page_action,
    pretty_json,
    reach_of,
    recent,
    story_link,
)
from sync import jobs, letters, remedies, tasks
from sync.models import JOB_UNDER_WAY, DeadLetter, Job, JobState, LetterState
from synctec.lib import clock

_LETTER_COLOURS = {"open": "danger", "retried": "info", "recovered": "success", "dismissed": "warning"}
_JOB_COLOURS = {
    "waiting": "info",
    "running": "info",
    "cancelling": "warning",
    "done": "success",
    "cancelled": "warning",
    "failed": "danger",
}


def _can_end(job: Job) -> bool:
    """Whether it is under way and was not told to end yet."""
    return job.state in JOB_UNDER_WAY and job.state != JobState.CANCELLING


class WhyForm(ReasonForm):
    """Asks why, and takes no silence for an answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = True


class LetterStateFilter(SimpleListFilter):
    """Letters by state. Those that are not at an end are few: a partial index holds them."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> list[tuple[str, str]]:
        return list(LetterState.choices)

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
        if self.value() in (LetterState.OPEN, LetterState.RETRIED):
            return queryset.filter(state=self.value(), ended_at=None)
        return queryset.filter(state=self.value()) if self.value() in LetterState.values else queryset


@admin.register(DeadLetter)
class DeadLetterAdmin(BigTableAdmin):
    list_display = ("opened_at", "channel", "about", "cause", "code", "state_badge", "attempts", "retries", "story")
    list_filter = (LetterStateFilter, recent("opened_at"), "cause", channel_filter(), merchant_filter())
    unindexed_filters = ("cause",)
    rare_choices = {"state": (LetterState.OPEN, LetterState.RETRIED)}
    list_select_related = ("channel", "listing_level__listing", "listing_level__store_location")
    search_fields = ("correlation_id",)
    search_help_text = "Exact SKU or correlation id"
    actions = ("try_again",)
    actions_detail = ("try_this_again", "dismiss", "reopen")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("channel", "about"),
                    ("cause", "code"),
                    "explanation",
                    "what_to_do",
                    "said",
                    ("state_badge", "attempts"),
                    "story",
                    "merchant",
                )
            },
        ),
        ("Attempts", {"fields": ("attempts_shown",)}),
        (
            "What became of it",
            {
                "fields": (
                    ("opened_at", "ended_at"),
                    "outcome",
                    ("retries", "retried_at"),
                    "retried_by_job",
                    ("dismissed_at", "dismissed_by"),
                    "dismissed_because",
                )
            },
        ),
    )
    readonly_fields = ("about", "explanation", "what_to_do", "state_badge", "attempts_shown", "story")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        correlation_id = as_uuid(key)
        if correlation_id:
            return Q(correlation_id=correlation_id)
        return Q(listing_level_id__in=listing_level_ids(request, key))

    @column("about")
    def about(self, letter: DeadLetter) -> str:
        if letter.event_id is None:
            return letters.subject(letter)
        page = reverse("admin:channels_inboxevent_change", args=[letter.event_id])
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', page, letters.subject(letter)
        )

    @column("state", badge=_LETTER_COLOURS)
    def state_badge(self, letter: DeadLetter) -> str:
        return letter.state

    @column("what it means")
    def explanation(self, letter: DeadLetter) -> str:
        return remedies.remedy(letter.cause, letter.code).explanation

    @column("what to do")
    def what_to_do(self, letter: DeadLetter) -> str:
        return remedies.remedy(letter.cause, letter.code).action

    @column("attempts that failed")
    def attempts_shown(self, letter: DeadLetter) -> str:
        return table(
            ("Attempt", "When", "Seconds", "What was asked for", "Answer"),
            [
                (
                    tried.number,
                    tried.started_at or "",
                    "" if tried.seconds is None else f"{tried.seconds:.2f}",
                    tried.request,
                    tried.answer,
                )
                for tried in letters.attempts(letter)
            ],
            empty="None was made: there was no way to ask.",
        )

    @column("story")
    def story(self, letter: DeadLetter) -> str:
        return story_link(letter.correlation_id)

    def has_try_permission(self, request: HttpRequest) -> bool:
        return self.has_act_permission(request)

    @admin.action(description="Try again", permissions=["try"])
    def try_again(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        managed = queryset if reach_of(request).every else queryset.filter(merchant_id__in=reach_of(request).managed)
        tried = 0
        for letter in managed:
            try:
                self._retry(request, letter)
            except letters.CannotChange:
                continue
            tried += 1
        messages.success(request, f"{tried} are tried again.")

    def _retry(self, request: HttpRequest, letter: DeadLetter) -> None:
        for channel_id in letters.retry(letter=letter, user=acting_user(request)):
            transaction.on_commit(partial(tasks.ring_push, channel_id))

    @page_action(
        "Try again",
        path="try-again",
        icon="replay",
        primary=True,
        offered=lambda letter: letter.ended_at is None and letter.state == LetterState.OPEN,
    )
    def try_this_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        letter = self.get_managed(request, object_id)
        back = reverse("admin:sync_deadletter_change", args=[letter.pk])
        if request.method != "POST":
            return self.form_page(
                request,
                title="Try again",
                form=forms.Form(),
                submit="Try again",
                intro="Always safe: what was done already is not done twice.",
                back=back,
                facts=[("About", letters.subject(letter)), ("Said last", letter.said)],
            )
        try:
            self._retry(request, letter)
            messages.success(request, "It is tried again.")
        except letters.CannotChange as error:
            messages.info(request, str(error))
        return HttpResponseRedirect(back)

    @page_action(
        "Dismiss…",
        path="dismiss",
        icon="visibility_off",
        offered=lambda letter: letter.ended_at is None and letter.state == LetterState.OPEN,
    )
    def dismiss(self, request: HttpRequest, object_id: str) -> HttpResponse:
        letter = self.get_managed(request, object_id)
        back = reverse("admin:sync_deadletter_change", args=[letter.pk])
        form = WhyForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                reason = form.cleaned_data["reason"]
                letters.dismiss(letter=letter, reason=reason, user=acting_user(request), now=clock.now())
                messages.success(request, "Dismissed. It can be reopened.")
            except letters.CannotChange as error:
                messages.info(request, str(error))
            return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title="Dismiss",
            form=form,
            submit="Dismiss",
            intro="Say why nobody need do anything about it. It is not opened again for the same trouble.",
            back=back,
            facts=[("About", letters.subject(letter)), ("Said last", letter.said)],
        )

    @page_action(
        "Reopen",
        path="reopen",
        icon="undo",
        offered=lambda letter: letter.ended_at is None and letter.state == LetterState.DISMISSED,
    )
    def reopen(self, request: HttpRequest, object_id: str) -> HttpResponse:
        letter = self.get_managed(request, object_id)
        back = reverse("admin:sync_deadletter_change", args=[letter.pk])
        if request.method != "POST":
            return self.form_page(
                request, title="Reopen", form=forms.Form(), submit="Reopen", intro="It needs somebody again.", back=back
            )
        try:
            letters.reopen(letter=letter, user=acting_user(request))
            messages.success(request, "It needs somebody again.")
        except letters.CannotChange as error:
            messages.info(request, str(error))
        return HttpResponseRedirect(back)


@admin.register(Job)
class JobAdmin(BigTableAdmin):
    list_display = ("created_at", "title", "state_badge", "progress", "result", "created_by", "merchant")
    list_filter = ("state", recent("created_at"), merchant_filter())
    unindexed_filters = ("state",)
    list_select_related = ("created_by", "merchant")
    search_fields = ("kind",)
    search_help_text = "Exact kind, such as retry_letters"
    actions_detail = ("cancel_job",)
    fields = (
        ("title", "state_badge"),
        "progress",
        "preview",
        "result",
        "error",
        ("done", "changed", "failed"),
        "counted",
        "asked_for",
        ("created_by", "api_key"),
        ("created_at", "started_at", "finished_at"),
        "correlation_id",
        "merchant",
    )
    readonly_fields = ("title", "state_badge", "progress", "counted", "asked_for")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(kind=key)

    @column("what")
    def title(self, job: Job) -> str:
        page = reverse("job", args=[job.pk])
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', page, jobs.title_of(job)
        )

    @column("state", badge=_JOB_COLOURS)
    def state_badge(self, job: Job) -> str:
        return job.state

    @column("progress")
    def progress(self, job: Job) -> str:
        return f"{job.done:,} of {job.total:,}"

    @column("counted")
    def counted(self, job: Job) -> str:
        return pretty_json(job.tally)

    @column("asked for")
    def asked_for(self, job: Job) -> str:
        return pretty_json(job.parameters)

    @page_action("Cancel…", path="cancel", icon="cancel", offered=_can_end)
    def cancel_job(self, request: HttpRequest, object_id: str) -> HttpResponse:
        job = self.get_managed(request, object_id)
        back = reverse("admin:sync_job_change", args=[job.pk])
        if not _can_end(job):
            messages.info(request, "It has ended, or is about to.")
            return HttpResponseRedirect(back)
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            jobs.cancel(job=job, user=acting_user(request), reason=form.cleaned_data["reason"])
            messages.success(request, "It ends after the batch that is under way.")
            return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title="Cancel the job",
            form=form,
            submit="Cancel the job",
            intro="It ends after the batch that is under way. What was done stays done.",
            back=back,
            facts=[("What", jobs.title_of(job)), ("Done", self.progress(job))],
        )
