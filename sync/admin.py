"""Admin of the engine's own records, all of them read-only; and the schedule in the admin's looks."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import ModelAdmin as PlainModelAdmin
from django.contrib.admin import SimpleListFilter
from django.contrib.postgres.expressions import ArraySubquery
from django.db import models
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django_celery_beat.admin import ClockedScheduleAdmin as PlainClockedAdmin
from django_celery_beat.admin import CrontabScheduleAdmin as PlainCrontabAdmin
from django_celery_beat.admin import PeriodicTaskAdmin as PlainPeriodicTaskAdmin
from django_celery_beat.admin import PeriodicTaskForm, TaskSelectWidget
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from channels.admin import channel_filter, listing_level_ids
from channels.models import Channel
from inventory.admin import sku_ids, stock_level_ids, table
from merchants import trail
from merchants.admin_base import (
    BigTableAdmin,
    InstallationAdmin,
    ReadOnlyAdmin,
    ReasonForm,
    UnfoldModelAdmin,
    acting_user,
    as_uuid,
    column,
    merchant_filter,
    page_action,
    pretty_json,
    recent,
    story_link,
    visible_merchant_ids,
)
from sync import admin_repairs, alerts_admin, answers, passes, reports, tasks
from sync.models import (
    TIMING,
    Allocation,
    AuditResult,
    BufferUse,
    DailyReport,
    Difference,
    DirtySku,
    Drift,
    DriftAction,
    Heartbeat,
    HeldLevel,
    OrderLine,
    Presence,
    PushHold,
    ReconcileRun,
    ReportMail,
    RunKind,
    RunState,
    ScorecardDay,
    ShadowReport,
    ShadowWrite,
)

__all__ = ["admin_repairs", "alerts_admin"]  # they register their own

#: By the first word of what a line waits for: the admin list where that is mended, what it shows there (empty: what is waited
#: for), and in words.
_REMEDIES = {
    "variant": ("channels_listing", {"sku__isempty": "1"}, "Map the listing to a SKU"),
    "SKU": ("channels_listing", {"q": ""}, "Map a listing of this store that has that SKU"),
    "location": ("locations_locationgroup", {}, "Let the location draw on a warehouse"),
    "bundle:": ("inventory_sku", {"kind__exact": "bundle"}, "Mend what the bundle is made of"),
}


#: Of a level that drifts all the time it is enough to know that.
REPEATS_SHOWN = 20


class AnswerForm(ReasonForm):
    """Whose number counts."""

    answer = forms.ChoiceField(
        label="Whose number counts?",
        choices=[
            ("adopt", "The store's: take the difference over into the pool"),
            ("override", "The pool's: overwrite the store"),
        ],
        widget=UnfoldAdminSelectWidget,
    )
    field_order = ("answer", "reason")


class WaitingFilter(SimpleListFilter):
    """Lines that wait for a mapping: a partial index holds them and nothing else."""

    title = "booked"
    parameter_name = "waiting"

    def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("yes", "Waiting for something")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
        return queryset.filter(~Q(waiting_for="")) if self.value() == "yes" else queryset


@admin.register(OrderLine)
class OrderLineAdmin(BigTableAdmin):
    list_display = (
        "updated_at",
        "channel",
        "order_shown",
        "sku",
        "committed",
        "on_hand",
        "waiting_for",
        "story",
    )
    list_filter = (WaitingFilter, recent("created_at"), channel_filter(), merchant_filter())
    list_select_related = ("channel", "sku")
    rare_choices = {"waiting": ("yes",)}
    search_fields = ("order_id",)
    search_help_text = "Exact order id, SKU or correlation id"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("channel", "order_name"),
                    ("order_id", "line_id"),
                    ("sku", "remote_variant_id"),
                    ("waiting_for", "remedy"),
                    "merchant",
                )
            },
        ),
        (
            "Booked",
            {
                "fields": (
                    ("desired_committed", "applied_committed"),
                    ("desired_on_hand", "applied_on_hand"),
                    "postings",
                )
            },
        ),
        ("Taken from", {"fields": ("allocations_shown", "placements_shown")}),
        ("Facts", {"fields": ("facts_shown", "story", ("created_at", "updated_at"))}),
    )
    readonly_fields = ("story", "remedy", "facts_shown", "allocations_shown", "placements_shown")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        correlation_id = as_uuid(key)
        if correlation_id:
            return Q(correlation_id=correlation_id)
        channels = Channel.objects.filter(merchant_id__in=visible_merchant_ids(request)).values_list("pk", flat=True)
        of_order = Q(channel_id__in=list(channels), order_id=key)
        skus = sku_ids(request, key)
        return of_order | Q(sku_id__in=skus) if skus else of_order

    @column("order")
    def order_shown(self, line: OrderLine) -> str:
        return f"{line.order_name or line.order_id}"

    @column("committed")
    def committed(self, line: OrderLine) -> int:
        return line.applied_committed

    @column("on hand")
    def on_hand(self, line: OrderLine) -> int:
        return line.applied_on_hand

    @column("story")
    def story(self, line: OrderLine) -> str:
        return story_link(line.correlation_id)

    @column("what to do")
    def remedy(self, line: OrderLine) -> str:
        kind, _, name = line.waiting_for.partition(" ")
        if kind not in _REMEDIES:
            return ""
        page, query, text = _REMEDIES[kind]
        address = (
            f"{reverse(f'admin:{page}_changelist')}?{urlencode({key: value or name for key, value in query.items()})}"
        )
        return format_html('<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', address, text)

    @column("facts")
    def facts_shown(self, line: OrderLine) -> str:
        return pretty_json(line.facts)

    @column("taken from")
    def allocations_shown(self, line: OrderLine) -> str:
        rows = line.allocations.select_related("stock_level__sku", "stock_level__warehouse").order_by("pk")
        return table(
            ("SKU", "Warehouse", "Units per line unit", "Committed", "On hand"),
            [
                (
                    row.stock_level.sku.code,
                    row.stock_level.warehouse.name,
                    row.units_per_line_unit,
                    row.committed,
                    row.on_hand,
                )
                for row in rows[:200]
            ],
            empty="Nothing taken yet.",
        )

    @column("at its places")
    def placements_shown(self, line: OrderLine) -> str:
        rows = line.placements.select_related("listing_level__store_location").order_by("pk")
        return table(
            ("Location", "Committed", "On hand", "Since"),
            [(row.listing_level.store_location.name, row.committed, row.on_hand, row.changed_at) for row in rows[:200]],
            empty="It never was anywhere but at its own location.",
        )


@admin.register(Allocation)
class AllocationAdmin(BigTableAdmin):
    list_display = ("order_line", "sku_code", "warehouse_name", "units_per_line_unit", "committed", "on_hand")
    list_filter = (merchant_filter(),)
    list_select_related = ("order_line", "stock_level__sku", "stock_level__warehouse")
    search_fields = ("stock_level__sku__code",)
    search_help_text = "Exact SKU"

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(stock_level_id__in=stock_level_ids(request, key))

    @column("SKU")
    def sku_code(self, allocation: Allocation) -> str:
        return allocation.stock_level.sku.code

    @column("warehouse")
    def warehouse_name(self, allocation: Allocation) -> str:
        return allocation.stock_level.warehouse.name


@admin.register(DirtySku)
class DirtySkuAdmin(BigTableAdmin):
    list_display = ("sku", "caused_at", "story", "merchant")
    list_filter = (merchant_filter(),)
    list_select_related = ("sku", "merchant")
    search_fields = ("sku__code",)
    search_help_text = "Exact SKU"
    fields = ("sku", "caused_at", "story", "merchant")
    readonly_fields = ("story",)

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(sku_id__in=sku_ids(request, key))

    @column("story")
    def story(self, mark: DirtySku) -> str:
        return story_link(mark.correlation_id)


@admin.register(Drift)
class DriftAdmin(BigTableAdmin):
    list_display = (
        "found_at",
        "channel",
        "listing_title",
        "expected",
        "actual",
        "cause",
        "action_badge",
        "repeats",
        "explanation",
        "story",
    )
    list_filter = (recent("found_at"), "action", "cause", "is_ambiguous", channel_filter(), merchant_filter())
    unindexed_filters = ("action", "cause", "is_ambiguous")
    list_select_related = ("channel", "listing_level__listing__sku")
    search_fields = ("correlation_id",)
    search_help_text = "Exact SKU"
    fields = (
        "channel",
        "listing_level",
        ("expected", "actual"),
        "cause",
        "action_badge",
        "repeats",
        "explanation",
        "is_ambiguous",
        "run",
        ("previous_confirmed_at", "found_at"),
        ("held", "held_at"),
        ("decided_by", "decided_at"),
        "story",
        "merchant",
    )
    readonly_fields = ("story", "action_badge", "repeats")
    actions_detail = ("answer",)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Drift]:
        """With the drifts of each row's level within 30 days up to then, itself included, as many as matter."""
        others = Drift.objects.filter(
            listing_level=models.OuterRef("listing_level"),
            found_at__lte=models.OuterRef("found_at"),
            found_at__gt=models.OuterRef("found_at") - reports.REPEATS_WITHIN,
        )
        found = others.exclude(cause__in=TIMING).order_by("-pk").values("pk")[:REPEATS_SHOWN]
        rows: models.QuerySet[Drift] = super().get_queryset(request)
        return rows.annotate(again=ArraySubquery(found))

    @column("in 30 days")
    def repeats(self, drift: Any) -> str:
        times = len(drift.again)
        if times < reports.REPEATS:
            return ""
        told = f"{times} times" + (" or more" if times == REPEATS_SHOWN else "")
        sku = drift.listing_level.listing.sku
        if sku is None:
            return told
        address = f"{reverse('admin:sync_drift_changelist')}?{urlencode({'q': sku.code})}"
        return format_html('<a class="text-red-700 dark:text-red-400" href="{}">{}</a>', address, told)

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(listing_level_id__in=listing_level_ids(request, key))

    @column("listing")
    def listing_title(self, drift: Drift) -> str:
        listing = drift.listing_level.listing
        return listing.title or listing.remote_sku or listing.remote_variant_id

    @page_action(
        "Answer…",
        path="answer",
        icon="help",
        primary=True,
        offered=lambda drift: drift.action == DriftAction.ASKED,
    )
    def answer(self, request: HttpRequest, object_id: str) -> HttpResponse:
        drift = self.get_managed(request, object_id)
        back = reverse("admin:sync_drift_change", args=[drift.pk])
        if drift.action != DriftAction.ASKED:
            messages.info(request, "There is nothing to answer here: it was settled before.")
            return HttpResponseRedirect(back)
        form = AnswerForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                answered = answers.answer(
                    drift_id=drift.pk,
                    adopt=form.cleaned_data["answer"] == "adopt",
                    reason=form.cleaned_data["reason"],
                    user=acting_user(request),
                    now=timezone.now(),
                )
            except answers.AlreadyAnswered:
                messages.info(request, "Somebody has answered meanwhile; nothing was changed.")
            except answers.NothingToCount:
                messages.error(request, "The listing is mapped to no stock any more. Map it first, then answer again.")
            else:
                messages.success(request, f"{answered.get_action_display()}.")
                tasks.ring_publish(drift.merchant_id)
            return HttpResponseRedirect(back)
        difference = drift.actual - drift.expected
        return self.form_page(
            request,
            title=f"{abs(difference)} {'more' if difference > 0 else 'fewer'} than expected: whose number counts?",
            form=form,
            submit="Decide",
            intro="No order, refund or push explains the difference, so somebody changed it in the store."
            + (" Until you decide, the missing units are not sold anywhere." if drift.held else ""),
            back=back,
            facts=[("Listing", str(drift.listing_level)), ("Expected", drift.expected), ("Found", drift.actual)],
        )

    @column("action", badge={"explained": "success", "adopted": "warning", "overridden": "info", "asked": "danger"})
    def action_badge(self, drift: Drift) -> str:
        return drift.action

    @column("story")
    def story(self, drift: Drift) -> str:
        return story_link(drift.correlation_id)


@admin.register(ReconcileRun)
class ReconcileRunAdmin(BigTableAdmin):
    list_display = (
        "started_at",
        "channel",
        "how",
        "state_badge",
        "progress",
        "recovered",
        "levels_suspect",
        "is_alarming",
        "took",
    )
    list_filter = ("state", "kind", "is_alarming", channel_filter(), merchant_filter())
    unindexed_filters = ("state", "kind", "is_alarming")
    list_select_related = ("channel",)
    search_fields = ("channel__name",)
    search_help_text = "Exact name of the channel"
    fields = (
        ("channel", "kind"),
        "state_badge",
        ("started_at", "finished_at"),
        ("orders_read", "orders_recovered"),
        ("progress", "levels_suspect"),
        "is_alarming",
        ("cancel_requested_at", "cancelled_by"),
        "error",
        "found_shown",
        "merchant",
    )
    readonly_fields = ("state_badge", "progress", "found_shown")
    actions_detail = ("cancel",)

    def find(self, request: HttpRequest, key: str) -> Q | None:
        found = Channel.objects.filter(merchant_id__in=visible_merchant_ids(request), name=key)
        return Q(channel_id__in=list(found.values_list("pk", flat=True)))

    @column("state", badge={"running": "info", "done": "success", "failed": "danger", "cancelled": "warning"})
    def state_badge(self, run: ReconcileRun) -> str:
        return run.state

    @column("how")
    def how(self, run: ReconcileRun) -> str:
        return "full" if run.kind == RunKind.FULL else "by page"

    @column("orders recovered")
    def recovered(self, run: ReconcileRun) -> int:
        return run.orders_recovered

    @column("took")
    def took(self, run: ReconcileRun) -> str:
        if run.finished_at is None:
            return ""
        return f"{(run.finished_at - run.started_at).total_seconds():,.0f} s"

    @column("levels read")
    def progress(self, run: ReconcileRun) -> str:
        if run.state != RunState.RUNNING:
            return f"{run.levels_read}"
        if not run.has_orders:
            return "reading orders"
        return f"{run.levels_read} of {run.levels_total}"

    @column("found")
    def found_shown(self, run: ReconcileRun) -> str:
        rows: list[tuple[object, ...]] = [
            (row.listing_level.listing, row.expected, row.actual, row.get_cause_display(), row.get_action_display())
            for row in run.drifts.select_related("listing_level__listing__channel").order_by("pk")[:200]
        ]
        rows += [
            (row.listing_level.listing, row.expected, row.actual, "being looked into", "")
            for row in run.differences.select_related("listing_level__listing__channel").order_by("pk")[:200]
        ]
        return table(("Listing", "Expected", "Found", "Cause", "Action"), rows, empty="Nothing that differs.")

    @page_action("Cancel…", path="cancel", icon="cancel", offered=lambda run: run.state == RunState.RUNNING)
    def cancel(self, request: HttpRequest, object_id: str) -> HttpResponse:
        run = self.get_managed(request, object_id)
        back = reverse("admin:sync_reconcilerun_change", args=[run.pk])
        if run.state != RunState.RUNNING:
            messages.info(request, "It is over already.")
            return HttpResponseRedirect(back)
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            user = acting_user(request)
            if passes.cancel(run_id=run.pk, user=user, reason=form.cleaned_data["reason"], now=timezone.now()):
                messages.success(request, "It ends at its next page. What it has found stays.")
            else:
                messages.info(request, "It has ended meanwhile.")
            return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title=f"Cancel the reconciliation of {run.channel}",
            form=form,
            submit="Cancel it",
            intro="What it has found stays and is settled. The next one begins where this one ends.",
            back=back,
            facts=[("Levels read", f"{run.levels_read} of {run.levels_total}"), ("Differ", run.levels_suspect)],
        )


@admin.register(Difference)
class DifferenceAdmin(BigTableAdmin):
    list_display = ("found_at", "channel", "listing_title", "expected", "actual", "previous_confirmed_at")
    list_filter = (channel_filter(), merchant_filter())
    list_select_related = ("channel", "listing_level__listing")
    search_fields = ("listing_level__listing__sku__code",)
    search_help_text = "Exact SKU"

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(listing_level_id__in=listing_level_ids(request, key))

    @column("listing")
    def listing_title(self, difference: Difference) -> str:
        listing = difference.listing_level.listing
        return listing.title or listing.remote_sku or listing.remote_variant_id


@admin.register(DailyReport)
class DailyReportAdmin(ReadOnlyAdmin):
    list_display = ("day", "merchant", "findings", "computed_at", "page")
    list_filter = (merchant_filter(),)
    list_select_related = ("merchant",)
    ordering = ("-day", "merchant__name")
    fields = ("day", "merchant", "computed_at", "page", "mails_shown", "figures_shown")
    actions_detail = ("compute_anew",)

    @column("findings")
    def findings(self, report: DailyReport) -> int:
        return int(report.figures["findings"])

    @column("page")
    def page(self, report: DailyReport) -> str:
        address = f"{reverse('report', kwargs={'day': report.day})}?{urlencode({'merchant': report.merchant.slug})}"
        return format_html('<a class="text-primary-600 dark:text-primary-500" href="{}">Open</a>', address)

    @column("by e-mail")
    def mails_shown(self, report: DailyReport) -> str:
        mails = report.mails.select_related("user").order_by("pk")[:200]
        return table(
            ("To", "Sent", "Attempts", "Error"),
            [
                (
                    mail.user.email,
                    mail.sent_at or ("given up" if mail.given_up_at else "waits"),
                    mail.attempts,
                    mail.error,
                )
                for mail in mails
            ],
            empty="Nobody wants it.",
        )

    @column("figures")
    def figures_shown(self, report: DailyReport) -> str:
        return pretty_json(report.figures)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return list(self.fields)

    @page_action("Compute anew", path="compute-anew", icon="refresh")
    def compute_anew(self, request: HttpRequest, object_id: str) -> HttpResponse:
        report = self.get_managed(request, object_id)
        back = reverse("admin:sync_dailyreport_change", args=[report.pk])
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                reports.write(report.merchant, report.day, now=timezone.now())
            except reports.FactsForgotten as error:
                messages.error(request, str(error))
                return HttpResponseRedirect(back)
            trail.record(
                merchant_id=report.merchant_id,
                action="daily_report.compute",
                subject=report,
                user=acting_user(request),
                reason=form.cleaned_data["reason"],
            )
            messages.success(request, "Computed anew from the facts.")
            return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title=f"Compute the report of {report.day} anew",
            form=form,
            submit="Compute",
            intro="Its figures are replaced by what the findings and reconciliations of that day say now. No mail is sent "
            "again.",
            back=back,
        )


@admin.register(ReportMail)
class ReportMailAdmin(BigTableAdmin):
    list_display = ("next_attempt_at", "report", "user", "attempts", "sent_at", "given_up_at", "error")
    list_filter = (merchant_filter(),)
    list_select_related = ("report__merchant", "user")
    search_fields = ("user__email",)
    search_help_text = "Exact e-mail address"

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(user__email=key)


@admin.register(AuditResult)
class AuditResultAdmin(InstallationAdmin):
    list_display = ("name", "state_badge", "checked_at", "broken_since", "seconds", "error")
    ordering = ("name",)
    fields = ("name", "checked_at", "broken_since", "offending_row", "seconds", "error")

    @column("state", badge={"holds": "success", "broken": "danger", "not asked": "warning"})
    def state_badge(self, result: AuditResult) -> str:
        if result.broken_since:
            return "broken"
        return "not asked" if result.error else "holds"

    @column("first row that breaks it")
    def offending_row(self, result: AuditResult) -> str:
        return pretty_json(result.offender) if result.offender else ""


@admin.register(Heartbeat)
class HeartbeatAdmin(InstallationAdmin):
    list_display = ("name", "beat_at")
    ordering = ("name",)
    fields = ("name", "beat_at")


@admin.register(Presence)
class PresenceAdmin(InstallationAdmin):
    list_display = ("hour", "name", "minutes_there")
    list_filter = ("name",)
    ordering = ("-hour", "name")
    fields = ("name", "hour", "minutes_there")

    @column("minutes in which it was there")
    def minutes_there(self, presence: Presence) -> int:
        return presence.minutes.bit_count()


@admin.register(BufferUse)
class BufferUseAdmin(ReadOnlyAdmin):
    list_display = ("hour", "channel", "levels", "entered", "below_zero", "used", "size")
    list_filter = (merchant_filter(),)
    list_select_related = ("channel",)
    ordering = ("-hour", "channel__name")
    fields = ("hour", "channel", "levels", "entered", "below_zero", "used", "size")


@admin.register(ScorecardDay)
class ScorecardDayAdmin(ReadOnlyAdmin):
    list_display = ("day", "merchant", "channel", "computed_at")
    list_filter = (merchant_filter(),)
    list_select_related = ("merchant", "channel")
    ordering = ("-day", "merchant__name", "channel__name")
    fields = ("day", "merchant", "channel", "computed_at", "facts_shown")

    @column("facts")
    def facts_shown(self, card: ScorecardDay) -> str:
        return pretty_json(card.facts)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return list(self.fields)


# --- the schedule ---------------------------------------------------------------------------------


class TaskSelect(UnfoldAdminSelectWidget, TaskSelectWidget):  # type: ignore[misc]
    """The registered tasks, in the admin's looks."""


class ScheduledTaskForm(PeriodicTaskForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = TaskSelect()


for _model in (PeriodicTask, IntervalSchedule, CrontabSchedule, ClockedSchedule, SolarSchedule):
    if admin.site.is_registered(_model):
        admin.site.unregister(_model)


@admin.register(PeriodicTask)
class ScheduledTaskAdmin(PlainPeriodicTaskAdmin, UnfoldModelAdmin):  # type: ignore[misc]
    form = ScheduledTaskForm
    list_display = ("name", "task", "enabled", "interval", "crontab", "last_run_at", "total_run_count")
    date_hierarchy = None


@admin.register(IntervalSchedule)
class IntervalAdmin(UnfoldModelAdmin):
    list_display = ("__str__", "every", "period")


@admin.register(CrontabSchedule)
class CrontabAdmin(PlainCrontabAdmin, UnfoldModelAdmin):  # type: ignore[misc]
    pass


@admin.register(ClockedSchedule)
class ClockedAdmin(PlainClockedAdmin, UnfoldModelAdmin):  # type: ignore[misc]
    pass


# --- shadow mode and held changes: their pages are in `sync.channel_pages` --------------------------------------------


@admin.register(PushHold)
class PushHoldAdmin(BigTableAdmin):
    list_display = ("created_at", "channel", "kind", "state_badge", "reason", "decided_at")
    list_filter = (channel_filter(), merchant_filter())
    list_select_related = ("channel",)
    fields = (
        "channel",
        ("kind", "state_badge"),
        "reason",
        "restored_to",
        ("zeroed", "changed", "of_levels"),
        ("created_at", "created_by"),
        ("decided_at", "decided_by"),
        "decision_reason",
        "page",
        "merchant",
    )
    readonly_fields = ("state_badge", "page")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(pk=int(key)) if key.isascii() and key.isdigit() and len(key) < 19 else None

    @column("state", badge={"held": "danger", "confirmed": "success", "cancelled": "info"})
    def state_badge(self, hold: PushHold) -> str:
        return hold.state

    @column("page")
    def page(self, hold: PushHold) -> str:
        return format_html(
            '<a class="text-primary-600 dark:text-primary-500" href="{}">What is held, and what to do</a>',
            reverse("hold", args=[hold.pk]),
        )


@admin.register(HeldLevel)
class HeldLevelAdmin(BigTableAdmin):
    list_display = ("created_at", "channel", "listing_level", "kind", "from_quantity", "to_quantity", "state", "cause")
    list_filter = (channel_filter(), merchant_filter())
    list_select_related = ("channel", "listing_level__listing__channel", "listing_level__store_location__channel")
    search_fields = ("id",)
    search_help_text = "Exact SKU"

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(listing_level_id__in=listing_level_ids(request, key))


@admin.register(ShadowWrite)
class ShadowWriteAdmin(BigTableAdmin):
    list_display = ("updated_at", "channel", "listing_level", "from_quantity", "to_quantity", "actual", "ended_at")
    list_filter = (channel_filter(), merchant_filter())
    list_select_related = ("channel", "listing_level__listing__channel", "listing_level__store_location__channel")
    search_fields = ("id",)
    search_help_text = "Exact SKU"

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(listing_level_id__in=listing_level_ids(request, key))


@admin.register(ShadowReport)
class ShadowReportAdmin(ReadOnlyAdmin):
    list_display = ("day", "channel", "levels", "exact", "near", "compared_at")
    list_filter = (channel_filter(), merchant_filter())
    list_select_related = ("channel",)
    ordering = ("-day", "channel")
    fields = ("channel", ("day", "compared_at"), ("levels", "exact", "near"), "reasons_shown", "merchant")
    readonly_fields = ("reasons_shown",)

    @column("why others differ")
    def reasons_shown(self, report: ShadowReport) -> str:
        return pretty_json(report.reasons)
