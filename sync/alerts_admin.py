"""Admin of alerts and their rules, and of what is known of processes, sizes and questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.widgets import UnfoldAdminSelectWidget

from merchants.admin_base import (
    InstallationAdmin,
    ReadOnlyAdmin,
    TenantAdmin,
    TenantForm,
    column,
    merchant_filter,
    preformatted,
    reach_of,
    recent,
)
from merchants.admin_lists import choice_filter
from sync.alerts.listing import values_of
from sync.alerts.rules import BY_NAME, RULES, About, limits_of, problem_with
from sync.alerts.sayings import limits_in_words
from sync.models import Alert, ProcessBeat, RuleCheck, RuleOverride, SizeSample

log = structlog.get_logger(__name__)

_RULE_CHOICES = [(rule.name, rule.label) for rule in RULES]


class RuleForm(TenantForm):
    """When a rule raises an alert for one merchant."""

    rule = forms.ChoiceField(choices=_RULE_CHOICES, widget=UnfoldAdminSelectWidget)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        rule = BY_NAME.get(cleaned.get("rule") or self.instance.rule)
        if rule is None:
            return cleaned
        merchant_id = self.instance.merchant_id
        if (rule.about is About.INSTALLATION) != (merchant_id is None):
            of_installation = "This rule is about the installation: leave the merchant empty."
            self.add_error(None, of_installation if merchant_id else "This rule is about a merchant: choose which.")
        names = ("is_on", "raise_at", "clear_at", "critical_at", "hold_seconds")
        problem = problem_with(rule, limits_of(rule, {name: cleaned.get(name) for name in names}))
        if problem is not None:
            self.add_error(*problem)
        return cleaned


@admin.register(RuleOverride)
class RuleOverrideAdmin(TenantAdmin):
    """What a merchant wants otherwise than shipped. Rules of the installation are a superuser's."""

    form = RuleForm
    list_display = ("label", "limits_shown", "is_on", "merchant")
    list_filter = ("is_on", merchant_filter())
    list_select_related = ("merchant",)
    ordering = ("rule",)
    fields = ("merchant", "rule", "shipped", "is_on", "raise_at", "clear_at", "critical_at", "hold_seconds")
    readonly_fields = ("shipped",)

    @column("rule", ordering="rule")
    def label(self, row: RuleOverride) -> str:
        rule = BY_NAME.get(row.rule)
        return rule.label if rule else row.rule

    @column("raised")
    def limits_shown(self, row: RuleOverride) -> str:
        rule = BY_NAME.get(row.rule)
        return limits_in_words(rule, limits_of(rule, values_of(row))) if rule else "not asked any more"

    @column("as shipped")
    def shipped(self, row: RuleOverride) -> str:
        rule = BY_NAME.get(row.rule)
        if rule is not None:
            return f"{limits_in_words(rule, limits_of(rule, None))}. Counted in {rule.unit}."
        lines = [f"{r.label}: {limits_in_words(r, limits_of(r, None))}, in {r.unit}" for r in RULES]
        return preformatted("\n".join(lines))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        fields = super().get_readonly_fields(request, obj)
        return [*fields, "rule"] if obj is not None else fields

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {
            name: value for name, value in super().get_changeform_initial_data(request).items() if name != "shipped"
        }

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        merchant = form.base_fields.get("merchant")
        if merchant is not None and not reach_of(request).every:
            merchant.required = True
        return form

    def record(
        self, request: HttpRequest, row: Any, verb: str, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        """The trail is a merchant's; what concerns the installation is in the log."""
        if row.merchant_id is None:
            log.warning("alert_rule.changed", rule=row.rule, verb=verb, after=dict(after), user_id=request.user.pk)
            return
        super().record(request, row, verb, before, after)


def _rule_filter() -> type[admin.SimpleListFilter]:
    return choice_filter(title="rule", parameter="rule", choices=lambda _: _RULE_CHOICES)


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    """Written by `sync.alerts`. People act on their pages."""

    list_display = ("raised_at", "title", "severity_badge", "state_badge", "told_at", "recovered_at", "merchant")
    list_filter = (recent("since"), "state", "severity", _rule_filter(), merchant_filter())
    unindexed_filters = ("state", "severity", "rule")
    list_select_related = ("merchant",)
    fields = (
        ("title", "page"),
        ("rule", "subject", "cause"),
        ("severity_badge", "state_badge", "value", "worst"),
        ("since", "raised_at", "better_since", "recovered_at"),
        ("told_at", "times_told", "snoozed_until"),
        ("acknowledged_at", "acknowledged_by", "acknowledged_with", "note"),
        "text_shown",
        "merchant",
    )
    readonly_fields = ("page", "severity_badge", "state_badge", "text_shown")

    @column("severity", badge={"critical": "danger", "warning": "warning", "info": "info"})
    def severity_badge(self, alert: Alert) -> str:
        return alert.severity

    @column("state", badge={"Firing": "danger", "Acknowledged": "warning", "Recovered": "success"})
    def state_badge(self, alert: Alert) -> str:
        return alert.get_state_display()

    @column("page")
    def page(self, alert: Alert) -> str:
        if alert.raised_at is None:
            return "not raised yet"
        link = reverse("alert", args=[alert.pk])
        return format_html('<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', link, "What to do")

    @column("text")
    def text_shown(self, alert: Alert) -> str:
        return preformatted(alert.text)


@admin.register(ProcessBeat)
class ProcessBeatAdmin(InstallationAdmin):
    list_display = ("name", "progressed_at", "started_at", "stopped_at", "clock_ahead_seconds")
    ordering = ("name",)


@admin.register(RuleCheck)
class RuleCheckAdmin(InstallationAdmin):
    list_display = ("name", "asked_at", "seconds", "failing_since", "error")
    ordering = ("name",)


@admin.register(SizeSample)
class SizeSampleAdmin(InstallationAdmin):
    list_display = ("taken_at", "database_bytes", "inbox_waiting", "outbox_waiting", "redis_bytes", "redis_bytes_max")
    ordering = ("-taken_at",)
