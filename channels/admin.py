"""Admin of channels, listings, the inbox and the pushes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import ModelAdmin as PlainModelAdmin
from django.contrib.admin import SimpleListFilter
from django.db import connection, models, transaction
from django.db.models import F, Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold import widgets

from channels import (
    bodies,
    condition,
    connect,
    credentials,
    mapping,
    onboarding,
    practice,
    replay,
    steering,
    subscriptions,
    writing,
)
from channels.models import (
    BatchState,
    CallHour,
    Channel,
    ChannelState,
    EventState,
    InboxEvent,
    Listing,
    ListingLevel,
    Outage,
    Push,
    PushBatch,
    PushState,
    StoreLocation,
    WritingStop,
)
from channels.protocol import ChannelError
from channels.urgency import Urgency
from inventory.admin import sku_ids, table
from merchants import trail
from merchants.admin_base import (
    BigTableAdmin,
    ReadOnlyAdmin,
    ReasonForm,
    TenantAdmin,
    TenantForm,
    acting_user,
    as_uuid,
    column,
    managed_merchants,
    merchant_filter,
    page_action,
    preformatted,
    pretty_json,
    reach_of,
    recent,
    sole_merchant_id,
    story_link,
    visible_merchant_ids,
)
from merchants.admin_lists import choice_filter
from merchants.models import Merchant
from synctec.lib import clock
from synctec.lib.secret import Secret

#: A longer body is not laid out again, only shown as it came.
PRETTY_BYTES_MAX = 512 * 1024

_STATE_COLOURS = {
    "Active": "success",
    "Connecting": "info",
    "Paused: nothing is written": "warning",
    "Needs to be authorized again": "danger",
    "Uninstalled in the store": "danger",
}
_EVENT_COLOURS = {"pending": "info", "applied": "success", "ignored": "", "dead": "danger"}
_PUSH_COLOURS = {"open": "info", "confirmed": "success", "rejected": "warning"}


def channel_filter() -> type[SimpleListFilter]:
    """A filter by channel; the choices come from the channels, not from the rows listed."""

    def choices(request: HttpRequest) -> Iterable[tuple[str, str]]:
        found = Channel.objects.filter(merchant_id__in=visible_merchant_ids(request)).order_by("name")
        return [(str(key), name) for key, name in found.values_list("pk", "name")[:100]]

    return choice_filter(title="channel", parameter="channel", choices=choices, lookup="channel_id")


def listing_level_ids(request: HttpRequest, code: str) -> list[int]:
    """The listing levels of the SKUs with exactly this code."""
    listings = list(Listing.objects.filter(sku_id__in=sku_ids(request, code)).values_list("pk", flat=True))
    return list(ListingLevel.objects.filter(listing_id__in=listings).values_list("pk", flat=True))


# --- channels -------------------------------------------------------------------------------------


class ChannelForm(TenantForm):
    """Name and starting moment; and a secret that can be replaced, but never read."""

    new_client_secret = forms.CharField(
        required=False,
        max_length=255,
        strip=True,
        label="Replace client secret",
        help_text="Stored sealed and never shown again. The old one stays valid until its rotation is ended.",
        widget=widgets.UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
    )


class StoreForm(forms.Form):
    """Asks whose a new store is and what it is to be called."""

    merchant = forms.ModelChoiceField(
        queryset=Merchant.objects.none(), widget=widgets.UnfoldAdminSelectWidget, empty_label=None
    )
    name = forms.CharField(
        max_length=80,
        help_text="Any name you like, such as: Practice store.",
        widget=widgets.UnfoldAdminTextInputWidget,
    )

    def __init__(self, data: Any, *, merchants: models.QuerySet[Merchant], sole: int | None) -> None:
        super().__init__(data)
        field = self.fields["merchant"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = merchants
        if sole:
            field.initial = sole
            field.widget = forms.HiddenInput()


class ShopifyForm(StoreForm):
    """Asks for a Shopify store and the credentials of the merchant's own app in it."""

    account = forms.CharField(
        max_length=255,
        label="Domain",
        help_text="The store's own domain, such as north.myshopify.com.",
        widget=widgets.UnfoldAdminTextInputWidget,
    )
    client_id = forms.CharField(
        max_length=120, label="Client id", help_text="Of your app.", widget=widgets.UnfoldAdminTextInputWidget
    )
    client_secret = forms.CharField(
        max_length=255,
        label="Client secret",
        help_text="Stored sealed and never shown again.",
        widget=widgets.UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
    )


class SwitchForm(forms.Form):
    """Asks for whom all writing is stopped or resumed, and why."""

    merchant = forms.ModelChoiceField(
        queryset=Merchant.objects.none(), widget=widgets.UnfoldAdminSelectWidget, empty_label=None
    )
    reason = forms.CharField(
        max_length=500,
        help_text="Kept in the audit trail, and shown to all.",
        widget=widgets.UnfoldAdminTextInputWidget,
    )

    def __init__(self, data: Any, *, merchants: models.QuerySet[Merchant], sole: int | None, is_stop: bool) -> None:
        super().__init__(data)
        field = self.fields["merchant"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = merchants
        self.fields["reason"].required = is_stop
        if sole:
            field.initial = sole
            field.widget = forms.HiddenInput()


class SandboxForm(StoreForm):
    """Asks, besides, whether a practice store is to have something to sell."""

    with_goods = forms.BooleanField(
        required=False,
        initial=True,
        label="Carry my SKUs",
        help_text=f"Puts up to {practice.SKUS_MAX} of your SKUs on its shelves.",
        widget=widgets.UnfoldBooleanSwitchWidget,
    )


@admin.register(Channel)
class ChannelAdmin(TenantAdmin):
    """Channels come by being connected and go by being uninstalled: none is added or deleted by hand."""

    form = ChannelForm
    list_display = ("name", "kind", "account", "state_badge", "failures", "last_error_short", "merchant")
    list_filter = ("state", "kind", merchant_filter())
    list_select_related = ("merchant",)
    search_fields = ("name", "account")
    search_help_text = "Name or account"
    ordering = ("name",)
    actions_list = ("connect_shopify_store", "add_practice_store", "stop_writing", "resume_writing")
    actions_detail = (
        "resume_raises",
        "reconcile_now",
        "pause",
        "resume",
        {
            "title": "More",
            "icon": "more_horiz",
            "items": ["read_channel_again", "check_webhooks", "shadow", "restore"],
        },
    )
    fieldsets = (
        (None, {"fields": ("merchant", "name", ("kind", "account"), ("state_shown", "state_reason"), "is_shadow")}),
        (
            "Sync",
            {
                "fields": (
                    ("on_loss", "on_gain"),
                    ("drift_alarm_percent", "drift_alarm_levels"),
                    ("raises_paused_at", "raises_paused_reason"),
                    "orders_counted_from",
                    "orders_watermark",
                    ("failures", "next_call_at"),
                    "last_error",
                )
            },
        ),
        ("Calls and outages", {"fields": ("breaker_shown", "budget_shown", "calls_shown", "outages_shown")}),
        (
            "Big changes",
            {"fields": (("holds_big_runs", "big_run_levels"), ("big_run_zero_percent", "big_run_change_percent"))},
        ),
        ("Webhooks", {"fields": ("webhook_path",)}),
        ("Credentials", {"fields": ("credentials_shown", "new_client_secret")}),
        ("Locations", {"fields": ("locations_shown",)}),
    )
    readonly_fields = (
        "kind",
        "account",
        "state_shown",
        "state_reason",
        "is_shadow",
        "orders_watermark",
        "raises_paused_at",
        "raises_paused_reason",
        "failures",
        "next_call_at",
        "last_error",
        "breaker_shown",
        "budget_shown",
        "calls_shown",
        "outages_shown",
        "webhook_path",
        "credentials_shown",
        "locations_shown",
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        if obj is not None and self.has_change_permission(request, obj):
            return fieldsets
        return [
            (
                title,
                {**options, "fields": [name for name in options["fields"] if name != "new_client_secret"]},
            )
            for title, options in fieldsets
        ]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        new_secret = form.cleaned_data.get("new_client_secret")
        if new_secret:
            credential = getattr(obj, "credential", None)
            credentials.store(
                obj, client_id=credential.client_id if credential else "", client_secret=Secret(new_secret)
            )
            trail.record(
                merchant_id=obj.merchant_id,
                action="channel.replace_client_secret",
                subject=obj,
                user=acting_user(request),
            )

    @column("state", ordering="state", badge=_STATE_COLOURS)
    def state_badge(self, channel: Channel) -> str:
        return channel.get_state_display()

    @column("state")
    def state_shown(self, channel: Channel) -> str:
        return channel.get_state_display()

    @column("last error")
    def last_error_short(self, channel: Channel) -> str:
        return _short(channel.last_error)

    @column("breaker")
    def breaker_shown(self, channel: Channel) -> str:
        found = condition.condition_of(channel, now=timezone.now())
        if found.breaker is None:
            return "Not known: Redis does not answer. Calls are not kept back."
        if found.next_probe_seconds is None:
            return "Closed: calls are made." if found.breaker == "closed" else "Nothing known yet: the next call asks."
        said = "One call asks now" if found.breaker == "half_open" else f"Asked again in {found.next_probe_seconds:g} s"
        return f"Open, because of {found.reason or 'too many failures'}. {said}. No other call is made."

    @column("budget now")
    def budget_shown(self, channel: Channel) -> str:
        found = condition.condition_of(channel, now=timezone.now())
        if found.budget_left is None:
            return "Not known: Redis does not answer. Nothing is sent."
        blocked = f"; nothing for {found.blocked_seconds:g} s, as the store asked" if found.blocked_seconds else ""
        return (
            f"{max(0.0, found.budget_left):,.0f} of {found.budget_capacity:,.0f} points left, "
            f"{found.budget_per_second:g} a second{blocked}"
        )

    @column("calls since the last full hour began")
    def calls_shown(self, channel: Channel) -> str:
        found = condition.condition_of(channel, now=timezone.now())
        return table(
            ("For", "Calls", "Points", "Asked to wait", "Paced", "Held back", "No answer", "5xx", "Waited"),
            [
                (
                    condition.URGENCY_WORDS[Urgency[row.urgency.upper()]],
                    row.calls,
                    f"{row.cost:,.0f}",
                    row.throttled,
                    row.paced,
                    row.rested,
                    row.unanswered,
                    row.server_errors,
                    f"{row.waited_seconds:,.1f} s",
                )
                for row in found.calls
            ],
            empty="No calls in this hour or the one before.",
        )

    @column("latest outages")
    def outages_shown(self, channel: Channel) -> str:
        return table(
            ("From", "Until", "Cause", "Message"),
            [
                (
                    _when(outage.began_at),
                    _when(outage.ended_at) if outage.ended_at else "now",
                    outage.get_cause_display(),
                    _short(outage.message, 120),
                )
                for outage in condition.outages_of(channel)
            ],
            empty="It has always answered.",
        )

    @column("webhook path")
    def webhook_path(self, channel: Channel) -> str:
        return format_html("<code>{}</code>", connect.callback_url(channel))

    @column("stored")
    def credentials_shown(self, channel: Channel) -> str:
        credential = getattr(channel, "credential", None)
        if credential is None:
            return "None stored."
        kept = [
            name
            for name, sealed in (
                ("client secret", credential.sealed_client_secret),
                ("previous client secret", credential.sealed_previous_client_secret),
                ("access token", credential.sealed_access_token),
                ("refresh token", credential.sealed_refresh_token),
            )
            if sealed
        ]
        return f"{', '.join(kept) or 'no secret'}; since {_when(credential.updated_at)}"

    @column("locations")
    def locations_shown(self, channel: Channel) -> str:
        rows = channel.locations.order_by("name")
        return table(
            ("Location", "Identifier", "Active"),
            [(location.name, location.remote_id, "yes" if location.is_active else "no") for location in rows[:100]],
            empty="No locations read yet.",
        )

    @page_action("Connect a Shopify store…", path="connect-shopify-store", icon="storefront")
    def connect_shopify_store(self, request: HttpRequest) -> HttpResponse:
        """Connect a store with the merchant's own app, or give one that was connected before its new credentials."""
        back = reverse("admin:channels_channel_changelist")
        form = ShopifyForm(request.POST or None, merchants=managed_merchants(request), sole=sole_merchant_id(request))
        if form.is_valid():
            asked = form.cleaned_data
            try:
                channel = onboarding.connect_with_client_credentials(
                    merchant=asked["merchant"],
                    name=asked["name"],
                    account=asked["account"].strip().lower(),
                    client_id=asked["client_id"],
                    client_secret=Secret(asked["client_secret"]),
                    user=acting_user(request),
                )
            except (ChannelError, onboarding.OnboardingError) as error:
                form.add_error(None, f"The store could not be connected: {error}")
            else:
                messages.success(
                    request,
                    f"{channel} is connected; its locations, catalogue and levels are being read. "
                    "Put its location into a location group to have it kept in step.",
                )
                return HttpResponseRedirect(reverse("admin:channels_channel_change", args=[channel.pk]))
        return self.form_page(
            request,
            title="Connect a Shopify store",
            form=form,
            submit="Connect",
            intro=(
                "With an app of your own organisation (client credentials). A store that needs to be authorized again "
                "is connected anew the same way: its mappings and its history stay."
            ),
            back=back,
        )

    @page_action("Add a practice store…", path="add-practice-store", icon="add_business", primary=True)
    def add_practice_store(self, request: HttpRequest) -> HttpResponse:
        """Connect a sandbox store, to try the system out."""
        back = reverse("admin:channels_channel_changelist")
        form = SandboxForm(request.POST or None, merchants=managed_merchants(request), sole=sole_merchant_id(request))
        if form.is_valid():
            asked = form.cleaned_data
            channel = self._connect_practice_store(
                request, asked["merchant"], asked["name"], with_goods=asked["with_goods"]
            )
            if channel is not None:
                return HttpResponseRedirect(reverse("admin:channels_channel_change", args=[channel.pk]))
        return self.form_page(
            request,
            title="Add a practice store",
            form=form,
            submit="Add the store",
            intro=(
                "An emulated store that behaves like the real thing: it sells, sends webhooks and answers "
                "the same calls. Put its location into a location group to have it kept in step."
            ),
            back=back,
        )

    def _connect_practice_store(
        self, request: HttpRequest, merchant: Merchant, name: str, *, with_goods: bool
    ) -> Channel | None:
        try:
            channel = onboarding.connect_sandbox_store(merchant=merchant, name=name, user=acting_user(request))
            if with_goods:
                practice.stock_shelves(channel)
            onboarding.activate(channel, now=timezone.now(), user=acting_user(request))
        except (ChannelError, onboarding.OnboardingError) as error:
            messages.error(request, f"The practice store could not be added: {error}")
            return None
        messages.success(
            request, f"{name} is connected. Put its location into a location group to have it kept in step."
        )
        return channel

    @page_action("Stop all writing…", path="stop-writing", icon="dangerous")
    def stop_writing(self, request: HttpRequest) -> HttpResponse:
        """The kill switch for all channels of one merchant."""
        return self._switch(request, is_stop=True)

    @page_action("Resume writing…", path="resume-writing", icon="play_arrow")
    def resume_writing(self, request: HttpRequest) -> HttpResponse:
        """Write to all channels of one merchant again, after reading."""
        return self._switch(request, is_stop=False)

    def _switch(self, request: HttpRequest, *, is_stop: bool) -> HttpResponse:
        back = reverse("admin:channels_channel_changelist")
        merchants = managed_merchants(request)
        form = SwitchForm(request.POST or None, merchants=merchants, sole=sole_merchant_id(request), is_stop=is_stop)
        if request.method == "POST" and form.is_valid():
            merchant, reason = form.cleaned_data["merchant"], form.cleaned_data["reason"]
            try:
                if is_stop:
                    writing.stop(merchant=merchant, user=acting_user(request), reason=reason)
                    messages.warning(request, f"Writing to all channels of {merchant} is stopped.")
                else:
                    writing.resume(merchant=merchant, user=acting_user(request), now=timezone.now(), reason=reason)
                    messages.success(request, f"Channels of {merchant} are read now, and written to after that.")
            except writing.CannotSwitch as error:
                messages.error(request, str(error))
            return HttpResponseRedirect(back)
        # For whom it may be done, and what it will come to.
        shown = merchants if is_stop else merchants.filter(pk__in=writing.stopped_merchant_ids())
        facts = [(str(merchant), writing.preview(merchant)) for merchant in shown[:50]]
        return self.form_page(
            request,
            title="Stop all writing" if is_stop else "Resume writing",
            form=form,
            submit="Stop all writing" if is_stop else "Resume writing",
            intro=(
                "No write to any of the merchant's channels begins after this. Writes under way end and are noted. Channels "
                "are still read and their sales counted, so the stores keep what they show, and may sell what is gone."
                if is_stop
                else "What is to be written is read first, and every channel is reconciled; then the stores are brought to "
                "the right numbers."
            ),
            back=back,
            facts=facts,
        )

    @page_action(
        "Reconcile now",
        path="reconcile",
        icon="sync",
        offered=lambda channel: channel.state == ChannelState.ACTIVE,
    )
    def reconcile_now(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(
            request,
            object_id,
            title="Reconcile {} now",
            intro="Its newest orders and all its levels are read and compared, as soon as a worker is free.",
            submit="Reconcile",
            act=lambda channel, user, _reason: steering.reconcile_now(channel=channel, user=user),
            done="{} will be reconciled as soon as a worker is free.",
        )

    @page_action("Pause…", path="pause", icon="pause", offered=lambda channel: channel.state == ChannelState.ACTIVE)
    def pause(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(
            request,
            object_id,
            title="Pause {}",
            intro="Nothing is written to the store until it is resumed. Its sales are still counted.",
            submit="Pause",
            act=lambda channel, user, reason: steering.pause(channel=channel, user=user, reason=reason),
            done="{} is paused: nothing is written to it.",
        )

    @page_action(
        "Resume…",
        path="resume",
        icon="play_arrow",
        primary=True,
        offered=lambda channel: channel.state == ChannelState.PAUSED,
    )
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(
            request,
            object_id,
            title="Resume {}",
            intro="The store is read, then brought to the right numbers at once.",
            submit="Resume",
            act=lambda channel, user, reason: steering.resume(
                channel=channel, user=user, now=timezone.now(), reason=reason
            ),
            done="{} is active again.",
        )

    @page_action("Read again…", path="read-again", icon="visibility")
    def read_channel_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return _read_again(self, request, self.get_managed(request, object_id), "channel")

    @page_action(
        "Let raises go on…",
        path="resume-raises",
        icon="trending_up",
        primary=True,
        offered=lambda channel: channel.raises_paused_at is not None,
    )
    def resume_raises(self, request: HttpRequest, object_id: str) -> HttpResponse:
        channel = self.get_managed(request, object_id)
        waiting = ListingLevel.objects.filter(channel=channel, is_out_of_sync=True, desired__gt=F("shown")).count()
        return self._ask(
            request,
            object_id,
            title="Let raises to {} go on",
            intro="They were paused because a reconciliation found that too much differs there; lowers went on. Look at what "
            f"it found under Drifts first. {waiting} levels are then raised within seconds. A clean reconciliation does this "
            "by itself.",
            submit="Let raises go on",
            act=lambda channel, user, reason: steering.resume_raises(channel_id=channel.pk, user=user, reason=reason),
            done="{} is raised again where it should be.",
        )

    @page_action("Shadow mode", path="shadow", icon="visibility")
    def shadow(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Its page, which belongs to the engine."""
        return HttpResponseRedirect(reverse("shadow", args=[self.get_managed(request, object_id).pk]))

    @page_action("Restore…", path="restore", icon="history")
    def restore(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Its page, which belongs to the engine."""
        return HttpResponseRedirect(reverse("restore", args=[self.get_managed(request, object_id).pk]))

    @page_action("Check webhooks", path="check-webhooks", icon="webhook")
    def check_webhooks(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(
            request,
            object_id,
            title="Check the webhook subscriptions of {}",
            intro="Missing subscriptions are created, and wrong ones are repaired.",
            submit="Check",
            act=lambda channel, _user, _reason: _check_webhooks(request, channel),
            done="",
        )

    def _ask(
        self,
        request: HttpRequest,
        object_id: str,
        *,
        title: str,
        intro: str,
        submit: str,
        act: Any,
        done: str,
    ) -> HttpResponse:
        """Ask, then do it: a page changes nothing by being looked at."""
        channel = self.get_managed(request, object_id)
        back = reverse("admin:channels_channel_change", args=[channel.pk])
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                act(channel, acting_user(request), form.cleaned_data["reason"])
            except (steering.CannotSteer, ChannelError) as error:
                messages.error(request, str(error))
            else:
                if done:
                    messages.success(request, done.format(channel.name))
            return HttpResponseRedirect(back)
        return self.form_page(
            request, title=title.format(channel.name), form=form, submit=submit, intro=intro, back=back
        )


def _read_again(model_admin: TenantAdmin, request: HttpRequest, row: Any, what: str) -> HttpResponse:
    """Ask before the row's levels are read, and have it done."""
    back = reverse(f"admin:channels_{row._meta.model_name}_change", args=[row.pk])
    form = ReasonForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            done = steering.read_again(
                merchant_id=row.merchant_id,
                meant={what: row.pk},
                user=acting_user(request),
                reason=form.cleaned_data["reason"],
            )
            messages.success(request, done)
        except steering.CannotSteer as error:
            messages.error(request, str(error))
        return HttpResponseRedirect(back)
    return model_admin.form_page(
        request,
        title=f"Read the {row._meta.verbose_name} again",
        form=form,
        submit="Read again",
        intro="The store is read, what differs is explained or settled, and what must be written is written at once.",
        back=back,
        facts=[(str(row._meta.verbose_name).capitalize(), str(row))],
    )


def _check_webhooks(request: HttpRequest, channel: Channel) -> None:
    report = subscriptions.check(channel, now=clock.now())
    trail.record(
        merchant_id=channel.merchant_id,
        action="channel.check_webhooks",
        subject=channel,
        user=acting_user(request),
        after={
            "present": len(report.present),
            "created": list(report.created),
            "repaired": list(report.repaired),
            "failed": [list(failure) for failure in report.failed],
        },
    )
    if report.created or report.repaired:
        # What was not told of meanwhile is read.
        for ask in steering.on_reconcile:
            transaction.on_commit(partial(ask, channel.pk))
    found = f"{len(report.present)} in order, {len(report.created)} created, {len(report.repaired)} repaired"
    if report.failed:
        failures = "; ".join(f"{topic}: {why}" for topic, why in report.failed)
        messages.error(request, f"Webhook subscriptions: {found}; {len(report.failed)} failed ({failures}).")
    else:
        messages.success(request, f"Webhook subscriptions: {found}.")


def _short(text: str, characters_max: int = 60) -> str:
    return text if len(text) <= characters_max else f"{text[: characters_max - 1]}…"


@admin.register(StoreLocation)
class StoreLocationAdmin(TenantAdmin):
    """What the channel calls its places; read from it, so nothing is typed in here."""

    list_display = ("name", "channel", "group", "is_active", "remote_id")
    list_filter = (channel_filter(), "is_active", merchant_filter())
    list_select_related = ("channel", "membership__group")
    search_fields = ("name", "channel__name")
    search_help_text = "Name of the location or the channel"
    ordering = ("channel__name", "name", "pk")
    fields = ("merchant", "channel", "name", "remote_id", "is_active")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @column("location group")
    def group(self, location: Any) -> str:
        membership = getattr(location, "membership", None)
        return str(membership.group) if membership else "–"


# --- listings -------------------------------------------------------------------------------------


class MappedFilter(SimpleListFilter):
    """Listings by what stands between them and being kept in step."""

    title = "mapping"
    parameter_name = "mapped"

    def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("yes", "Mapped"), ("no", "Not mapped"), ("deleted", "Deleted in the store")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
        match self.value():
            case "yes":
                return queryset.filter(sku__isnull=False, deleted_at=None)
            case "no":
                return queryset.filter(sku__isnull=True, deleted_at=None)
            case "deleted":
                return queryset.filter(deleted_at__isnull=False)
        return queryset


@admin.register(Listing)
class ListingAdmin(TenantAdmin):
    """Only the mapping is ours; the rest is what the store says."""

    list_display = (
        "title_shown",
        "channel",
        "remote_sku",
        "sku",
        "is_tracked",
        "is_store_bundle",
        "deleted_at",
    )
    list_filter = (MappedFilter, channel_filter(), "is_tracked", "is_store_bundle", merchant_filter())
    list_select_related = ("channel", "sku")
    search_fields = ("title", "remote_sku", "sku__code", "barcode")
    search_help_text = "Title, SKU or barcode"
    autocomplete_fields = ("sku",)
    actions = ("map_by_code",)
    actions_detail = ("read_listing_again",)
    fieldsets = (
        (None, {"fields": ("merchant", "channel", "title", "sku")}),
        (
            "In the store",
            {
                "fields": (
                    ("remote_sku", "barcode"),
                    ("remote_product_id", "remote_variant_id", "inventory_item_id"),
                    ("is_tracked", "is_store_bundle", "sells_when_out_of_stock"),
                    "deleted_at",
                )
            },
        ),
        ("Levels", {"fields": ("levels_shown",)}),
    )
    readonly_fields = (
        "channel",
        "title",
        "remote_sku",
        "barcode",
        "remote_product_id",
        "remote_variant_id",
        "inventory_item_id",
        "is_tracked",
        "is_store_bundle",
        "sells_when_out_of_stock",
        "deleted_at",
        "levels_shown",
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        mapping.map_listing(listing=obj, sku=form.cleaned_data.get("sku"), user=acting_user(request))

    @admin.action(description="Map to the SKU of the same code", permissions=["change"])
    def map_by_code(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        managed = queryset if reach_of(request).every else queryset.filter(merchant_id__in=reach_of(request).managed)
        ids = list(managed.values_list("pk", flat=True))
        mapped = mapping.map_by_code(listing_ids=ids, user=acting_user(request))
        messages.success(request, f"{mapped} of {len(ids)} listings mapped by their code.")

    @page_action("Read again…", path="read-again", icon="visibility")
    def read_listing_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return _read_again(self, request, self.get_managed(request, object_id), "listing")

    @column("title", ordering="title")
    def title_shown(self, listing: Listing) -> str:
        return listing.title or listing.remote_sku or listing.remote_variant_id

    @column("levels")
    def levels_shown(self, listing: Listing) -> str:
        levels = listing.levels.select_related("store_location").order_by("store_location__name")
        return table(
            ("Location", "Shown", "Should show", "Confirmed", "Trouble"),
            [
                (
                    format_html(
                        '<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>',
                        reverse("admin:channels_listinglevel_change", args=[level.pk]),
                        level.store_location.name,
                    ),
                    level.shown,
                    "–" if level.desired is None else level.desired,
                    _when(level.confirmed_at),
                    level.suspect_reason or level.last_error,
                )
                for level in levels[:200]
            ],
            empty="The store has told of no level yet.",
        )


def _when(at: Any) -> str:
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S}" if at else "never"


class SyncFilter(SimpleListFilter):
    """Levels by what is the matter with them: each is served by a partial index."""

    title = "sync"
    parameter_name = "sync"

    def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("behind", "Shows another number than it should"), ("suspect", "Unexplained reading")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
        if self.value() == "behind":
            return queryset.filter(is_out_of_sync=True)
        if self.value() == "suspect":
            return queryset.filter(suspect_since__isnull=False)
        return queryset


@admin.register(ListingLevel)
class ListingLevelAdmin(BigTableAdmin):
    list_display = (
        "listing_title",
        "channel",
        "location",
        "shown",
        "should_show",
        "state",
        "confirmed_at",
        "last_error_short",
    )
    list_filter = (SyncFilter, channel_filter(), merchant_filter())
    list_select_related = ("listing", "channel", "store_location__channel", "listing__channel")
    rare_choices = {"sync": ("behind", "suspect")}
    search_fields = ("listing__sku__code",)
    search_help_text = "Exact SKU"
    fieldsets = (
        (None, {"fields": ("listing", ("store_location", "is_stocked"), "merchant")}),
        (
            "Shown",
            {
                "fields": (
                    ("shown", "desired"),
                    ("base", "reported"),
                    ("order_effects", "pushed"),
                    ("confirmed_at", "source_at"),
                    "version",
                )
            },
        ),
        (
            "Suspicion",
            {
                "fields": (
                    ("suspect_since", "suspect_reason"),
                    "gone_at",
                    ("sample", "since_sample", "sampled_until"),
                    ("held", "held_at"),
                    "next_check_at",
                )
            },
        ),
        ("Pushing", {"fields": (("next_push_at", "push_failures"), "last_error", "waiting_since")}),
        ("Latest pushes", {"fields": ("pushes_shown",)}),
    )
    readonly_fields = ("pushes_shown",)
    actions_detail = ("stock_here", "read_level_again")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(pk__in=listing_level_ids(request, key))

    @page_action("Read again…", path="read-again", icon="visibility")
    def read_level_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return _read_again(self, request, self.get_managed(request, object_id), "level")

    @page_action("Stock it here…", path="stock-here", icon="add_location", offered=lambda level: not level.is_stocked)
    def stock_here(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask, then have the store count the item at this location: never a by-product of anything else."""
        level = self.get_managed(request, object_id)
        back = reverse("admin:channels_listinglevel_change", args=[level.pk])
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                steering.stock_at_location(
                    level=level,
                    user=acting_user(request),
                    now=timezone.now(),
                    reason=form.cleaned_data["reason"],
                )
            except (steering.CannotSteer, ChannelError) as error:
                messages.error(request, str(error))
            else:
                messages.success(request, f"{level.store_location} stocks it now; its number follows in a moment.")
            return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title=f"Stock {level.listing.title or level.listing.remote_sku} at {level.store_location.name}",
            form=form,
            submit="Stock it here",
            intro="The store begins to count it at this location and offers it from there.",
            back=back,
        )

    @column("listing")
    def listing_title(self, level: ListingLevel) -> str:
        return level.listing.title or level.listing.remote_sku or level.listing.remote_variant_id

    @column("location")
    def location(self, level: ListingLevel) -> str:
        return level.store_location.name

    @column("should show")
    def should_show(self, level: ListingLevel) -> int | None:
        return level.desired

    @column("state", badge={"in step": "success", "behind": "warning", "suspect": "danger", "not published": ""})
    def state(self, level: ListingLevel) -> str:
        if level.suspect_since:
            return "suspect"
        if level.desired is None:
            return "not published"
        return "in step" if level.desired == level.shown else "behind"

    @column("last error")
    def last_error_short(self, level: ListingLevel) -> str:
        return _short(level.last_error, 40)

    @column("latest pushes")
    def pushes_shown(self, level: ListingLevel) -> str:
        pushes = level.pushes.order_by("-pk")[:20]
        return table(
            ("When", "From", "To", "State", "Error"),
            [
                (
                    _when(push.created_at),
                    push.from_quantity,
                    push.to_quantity,
                    push.get_state_display(),
                    push.error,
                )
                for push in pushes
            ],
            empty="Nothing was pushed yet.",
        )


# --- what arrived ---------------------------------------------------------------------------------


class EventStateFilter(SimpleListFilter):
    """Events by state. What waits and what was set aside has partial indexes; what was applied is nearly
    everything."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(state.value, state.label) for state in EventState]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
        return queryset.filter(state=self.value()) if self.value() in EventState.values else queryset


@admin.register(InboxEvent)
class InboxEventAdmin(BigTableAdmin):
    list_display = (
        "received_at",
        "channel",
        "topic",
        "state_badge",
        "reason_short",
        "attempts",
        "duplicates",
        "story",
    )
    list_filter = (EventStateFilter, recent("received_at"), channel_filter(), merchant_filter())
    list_select_related = ("channel",)
    rare_choices = {"state": (EventState.PENDING, EventState.DEAD)}
    search_fields = ("webhook_id",)
    search_help_text = "Exact webhook id or correlation id"
    actions = ("apply_again",)
    actions_detail = ("apply_this_again",)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("channel", "topic"),
                    ("state_badge", "reason"),
                    ("attempts", "duplicates"),
                    "story",
                    "merchant",
                )
            },
        ),
        ("When", {"fields": (("triggered_at", "received_at"), "is_clock_suspect", ("settled_at", "next_attempt_at"))}),
        ("Envelope", {"fields": ("webhook_id", "event_id", ("api_version", "hlc"), "body_sha256_shown")}),
        ("Body", {"fields": ("body_shown",)}),
    )
    readonly_fields = ("state_badge", "story", "body_shown", "body_sha256_shown")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        return super().get_queryset(request).defer("body_sha256")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        correlation_id = as_uuid(key)
        # Shopify's webhook ids are UUIDs too, so such a key may be either.
        found = self._with_webhook_id(request, key)
        return found | Q(correlation_id=correlation_id) if correlation_id else found

    def _with_webhook_id(self, request: HttpRequest, key: str) -> Q:
        """Events with this webhook id, looked up in the unique index channel by channel, topic by topic."""
        channels = Channel.objects.filter(merchant_id__in=visible_merchant_ids(request))
        with connection.cursor() as cursor:
            cursor.execute(_BY_WEBHOOK_ID, {"channels": list(channels.values_list("pk", flat=True)), "key": key})
            return Q(pk__in=[row[0] for row in cursor.fetchall()])

    @column("state", badge=_EVENT_COLOURS)
    def state_badge(self, event: InboxEvent) -> str:
        return event.state

    @column("reason")
    def reason_short(self, event: InboxEvent) -> str:
        return _short(event.reason)

    @column("story")
    def story(self, event: InboxEvent) -> str:
        return story_link(event.correlation_id)

    @column("SHA-256")
    def body_sha256_shown(self, event: InboxEvent) -> str:
        return bytes(event.body_sha256).hex()

    @column("body")
    def body_shown(self, event: InboxEvent) -> str:
        try:
            return shown_body(bodies.read(event))
        except bodies.Unreadable as error:
            return f"It cannot be shown: {error}. Its hash, above, stays."

    def has_apply_permission(self, request: HttpRequest) -> bool:
        return self.has_act_permission(request)

    @admin.action(description="Apply again", permissions=["apply"])
    def apply_again(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        managed = queryset if reach_of(request).every else queryset.filter(merchant_id__in=reach_of(request).managed)
        ids = list(managed.values_list("pk", flat=True))
        count = replay.replay(ids=ids, user=acting_user(request), now=timezone.now())
        left = (
            f"; {len(ids) - count} wait already, are too old, or would put back what is newer"
            if count < len(ids)
            else ""
        )
        messages.success(request, f"{count} events will be applied again{left}.")

    @page_action("Apply again…", path="apply-again", icon="replay")
    def apply_this_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        event = self.get_managed(request, object_id)
        back = reverse("admin:channels_inboxevent_change", args=[event.pk])
        if not replay.may_replay(event):
            why = "It waits to be applied already."
            if event.state != EventState.PENDING:
                why = (
                    "Its body is not kept any more, or it says how a product or a location was then, and would put that "
                    "back. Reconcile the channel instead."
                )
            messages.info(request, why)
            return HttpResponseRedirect(back)
        if request.method == "POST":
            replay.replay(ids=[event.pk], user=acting_user(request), now=timezone.now())
            messages.success(request, "The event will be applied again.")
            return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title="Apply the event again",
            form=forms.Form(),
            submit="Apply again",
            intro="Applying an event twice changes nothing the second time, so this is always safe.",
            back=back,
            facts=[("Topic", event.topic), ("State", event.state), ("Reason", event.reason)],
        )


_BY_WEBHOOK_ID = """
    WITH RECURSIVE topic_of (channel_id, topic) AS (
        SELECT channel_id, (
            SELECT topic FROM channels_inboxevent event
            WHERE event.channel_id = known.channel_id ORDER BY topic LIMIT 1)
        FROM unnest(%(channels)s::bigint[]) AS known (channel_id)
        UNION ALL
        SELECT channel_id, (
            SELECT topic FROM channels_inboxevent event
            WHERE event.channel_id = topic_of.channel_id AND event.topic > topic_of.topic
            ORDER BY topic LIMIT 1)
        FROM topic_of WHERE topic IS NOT NULL
    )
    SELECT event.id FROM topic_of JOIN channels_inboxevent event USING (channel_id, topic)
    WHERE event.webhook_id = %(key)s LIMIT 100
"""


def shown_body(body: bytes) -> str:
    """A webhook's body for reading: laid out when it is JSON, always escaped, cut off when very long."""
    text = body.decode("utf-8", errors="replace")
    if len(body) > PRETTY_BYTES_MAX:
        return preformatted(text)
    try:
        return pretty_json(json.loads(text))
    except (ValueError, RecursionError):
        return preformatted(text)


# --- what was sent --------------------------------------------------------------------------------


class PushStateFilter(SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(state.value, state.value.capitalize()) for state in PushState]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
        return queryset.filter(state=self.value()) if self.value() in PushState.values else queryset


@admin.register(Push)
class PushAdmin(BigTableAdmin):
    list_display = (
        "created_at",
        "channel",
        "listing_title",
        "from_to",
        "state_badge",
        "error_short",
        "latency",
        "settled_at",
    )
    list_filter = (PushStateFilter, recent("created_at"), channel_filter(), merchant_filter())
    unindexed_filters = ("state",)
    list_select_related = ("channel", "listing_level__listing")
    search_fields = ("correlation_ids",)
    search_help_text = "Exact SKU or correlation id"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    "channel",
                    "listing_level",
                    ("from_quantity", "to_quantity"),
                    "state_badge",
                    "merchant",
                )
            },
        ),
        ("Answer", {"fields": (("error_code", "error"), ("batch", "position"))}),
        ("Why and when", {"fields": ("stories", ("caused_at", "created_at"), "settled_at")}),
    )
    readonly_fields = ("state_badge", "stories")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        resolved = request.resolver_match
        queryset = super().get_queryset(request)
        if resolved and resolved.url_name == "channels_push_change":
            # The page spells out the level, its listing and its location; a list needs only the listing's
            # title.
            return queryset.select_related("listing_level__listing__channel", "listing_level__store_location__channel")
        return queryset

    def find(self, request: HttpRequest, key: str) -> Q | None:
        correlation_id = as_uuid(key)
        if correlation_id:
            return Q(correlation_ids__contains=[correlation_id])
        return Q(listing_level_id__in=listing_level_ids(request, key))

    @column("listing")
    def listing_title(self, push: Push) -> str:
        listing = push.listing_level.listing
        return listing.title or listing.remote_sku or listing.remote_variant_id

    @column("quantity")
    def from_to(self, push: Push) -> str:
        return f"{push.from_quantity} → {push.to_quantity}"

    @column("state", badge=_PUSH_COLOURS)
    def state_badge(self, push: Push) -> str:
        return push.state

    @column("error")
    def error_short(self, push: Push) -> str:
        return _short(push.error_code or push.error, 40)

    @column("since its event")
    def latency(self, push: Push) -> str:
        if not push.caused_at or not push.settled_at:
            return ""
        return f"{(push.settled_at - push.caused_at).total_seconds() * 1000:,.0f} ms"

    @column("stories")
    def stories(self, push: Push) -> str:
        return table(
            ("Event",),
            [(story_link(correlation_id),) for correlation_id in push.correlation_ids[:64]],
            empty="None told.",
        )


class BatchStateFilter(SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(state.value, state.value.capitalize()) for state in BatchState]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
        return queryset.filter(state=self.value()) if self.value() in BatchState.values else queryset


@admin.register(PushBatch)
class PushBatchAdmin(BigTableAdmin):
    """Ids are UUIDs that grow with time, so the newest come first here too."""

    list_display = (
        "id",
        "created_at",
        "channel",
        "state_badge",
        "attempts",
        "sent_at",
        "answered_at",
        "error_short",
    )
    list_filter = (BatchStateFilter, channel_filter(), merchant_filter())
    unindexed_filters = ("state",)
    list_select_related = ("channel",)
    search_fields = ("id",)
    search_help_text = "Exact id"
    fieldsets = (
        (None, {"fields": ("id", "channel", "state_badge", "attempts", "merchant")}),
        (
            "When",
            {
                "fields": (
                    ("created_at", "sent_at"),
                    "answered_at",
                    "next_attempt_at",
                    "error",
                )
            },
        ),
        ("Rows", {"fields": ("rows_shown",)}),
    )
    readonly_fields = ("state_badge", "rows_shown")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        batch_id = as_uuid(key)
        return Q(pk=batch_id) if batch_id else None

    @column("state", badge={"intent": "info", "unknown": "warning", "done": "success", "unresolved": "danger"})
    def state_badge(self, batch: PushBatch) -> str:
        return batch.state

    @column("error")
    def error_short(self, batch: PushBatch) -> str:
        return _short(batch.error, 40)

    @column("rows")
    def rows_shown(self, batch: PushBatch) -> str:
        pushes = batch.pushes.select_related("listing_level__listing").order_by("position")
        return table(
            ("#", "Listing", "From", "To", "State", "Error"),
            [
                (
                    push.position,
                    push.listing_level.listing.title or push.listing_level.listing.remote_sku,
                    push.from_quantity,
                    push.to_quantity,
                    push.state,
                    push.error_code or push.error,
                )
                for push in pushes[:250]
            ],
            empty="No rows.",
        )


# --- how channels do ------------------------------------------------------------------------------


@admin.register(Outage)
class OutageAdmin(ReadOnlyAdmin):
    list_display = ("channel", "began_at", "ended_at", "cause", "message_short", "merchant")
    list_filter = (channel_filter(), "cause", merchant_filter())
    list_select_related = ("channel", "merchant")
    fields = ("merchant", "channel", ("began_at", "ended_at"), "cause", "message")

    @column("message")
    def message_short(self, outage: Outage) -> str:
        return _short(outage.message, 80)


@admin.register(CallHour)
class CallHourAdmin(ReadOnlyAdmin):
    list_display = ("hour", "channel", "for_what", "calls", "points", "throttled", "paced", "rested", "unanswered")
    list_filter = (channel_filter(), merchant_filter())
    list_select_related = ("channel",)

    @column("for")
    def for_what(self, hour: CallHour) -> str:
        return condition.URGENCY_WORDS[Urgency(hour.urgency)]

    @column("points")
    def points(self, hour: CallHour) -> str:
        return f"{hour.cost:,.0f}"


@admin.register(WritingStop)
class WritingStopAdmin(ReadOnlyAdmin):
    """Written by the buttons on the list of channels, and by operators. Those of the installation are for superusers."""

    list_display = ("whose", "began_at", "ended_at", "reason", "end_reason")
    list_filter = (merchant_filter(),)
    list_select_related = ("merchant",)

    @column("for")
    def whose(self, stop: WritingStop) -> str:
        return str(stop.merchant) if stop.merchant else "Everybody"
