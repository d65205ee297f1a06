"""Admin of notification targets: whom to tell, how, of what; trying it out; and what became of each message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold import widgets

from merchants import notices, targets
from merchants.admin_base import (
    BigTableAdmin,
    ReadOnlyAdmin,
    ReasonForm,
    acting_user,
    column,
    managed_merchants,
    merchant_filter,
    page_action,
    preformatted,
    reach_of,
    recent,
    sole_merchant_id,
)
from merchants.models import (
    Merchant,
    NoticeKind,
    NotificationMessage,
    NotificationTarget,
    Severity,
    TargetState,
    TargetWay,
    User,
)
from merchants.targets import Wishes
from merchants.wording import as_text
from synctec.lib import clock

#: Messages shown on a target's page.
LATEST_ROWS = 20


class WishesForm(forms.Form):
    """What a target wants to hear, and when."""

    minimum_severity = forms.ChoiceField(
        label="Tell from",
        choices=Severity.choices,
        initial=Severity.WARNING,
        widget=widgets.UnfoldAdminSelectWidget,
    )
    kinds = forms.MultipleChoiceField(
        label="About",
        choices=NoticeKind.choices,
        initial=list(targets.USUAL_KINDS),
        widget=widgets.UnfoldAdminCheckboxSelectMultipleWidget,
    )
    quiet_from = forms.TimeField(
        required=False,
        label="Quiet from",
        help_text="Such as 22:00. Until the end of the quiet hours only critical alerts are told; the rest comes afterwards.",
        widget=widgets.UnfoldAdminTextInputWidget,
    )
    quiet_until = forms.TimeField(
        required=False,
        label="Quiet until",
        help_text="Such as 07:00, by the merchant's clock.",
        widget=widgets.UnfoldAdminTextInputWidget,
    )
    hourly_max = forms.IntegerField(
        label="Messages an hour at most",
        initial=12,
        min_value=1,
        max_value=60,
        help_text="The rest waits and comes together in the next one. A critical alert is told all the same, once.",
        widget=widgets.UnfoldAdminTextInputWidget,
    )

    def __init__(self, data: Any, *, request: HttpRequest, initial: dict[str, Any] | None = None) -> None:
        super().__init__(data, initial=initial)
        if not reach_of(request).every:
            kinds = self.fields["kinds"]
            assert isinstance(kinds, forms.MultipleChoiceField)
            # Of the installation hear those who run it; and everybody, while nobody of them asked to.
            kinds.choices = [choice for choice in NoticeKind.choices if choice[0] != NoticeKind.MACHINE]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                self.wishes().check()
            except targets.TargetRefused as refused:
                self.add_error(refused.field, str(refused))
        return cleaned

    def wishes(self) -> Wishes:
        """What was asked for."""
        names = ("minimum_severity", "kinds", "quiet_from", "quiet_until", "hourly_max")
        return Wishes(**{name: self.cleaned_data[name] for name in names})


class TargetForm(WishesForm):
    """Whom to tell, and how."""

    merchant = forms.ModelChoiceField(
        queryset=Merchant.objects.none(), widget=widgets.UnfoldAdminSelectWidget, empty_label=None
    )
    name = forms.CharField(
        max_length=80, help_text="Such as: Warehouse, or #stock.", widget=widgets.UnfoldAdminTextInputWidget
    )
    way = forms.ChoiceField(label="How", choices=TargetWay.choices, widget=widgets.UnfoldAdminSelectWidget)
    address = forms.CharField(
        max_length=500,
        help_text="An e-mail address; or the https address of the incoming webhook.",
        widget=widgets.UnfoldAdminTextInputWidget,
    )
    field_order = ("merchant", "name", "way", "address")

    def __init__(self, data: Any, *, request: HttpRequest, initial: dict[str, Any] | None = None) -> None:
        super().__init__(data, request=request, initial=initial)
        merchants = self.fields["merchant"]
        assert isinstance(merchants, forms.ModelChoiceField)
        merchants.queryset = managed_merchants(request)
        sole = sole_merchant_id(request)
        if sole is not None:
            merchants.initial, merchants.widget = sole, forms.HiddenInput()


@admin.register(NotificationTarget)
class NotificationTargetAdmin(ReadOnlyAdmin):
    """Written by `merchants.targets`."""

    list_display = ("name", "way", "address_shown", "minimum_severity", "state_badge", "last_delivered_at", "merchant")
    list_filter = ("way", "state", merchant_filter())
    list_select_related = ("merchant", "member__user")
    search_fields = ("name", "address")
    search_help_text = "Name or address"
    actions_list = ("add_target",)
    actions_detail = ("test_page", "change_page", "switch_on_page", "switch_off_page", "renew_page")
    fields = (
        ("name", "way"),
        ("address_shown", "member"),
        ("state_badge", "state_reason"),
        ("minimum_severity", "kinds_shown"),
        ("quiet_from", "quiet_until", "hourly_max"),
        ("failures", "failing_since", "next_attempt_at"),
        ("last_delivered_at", "created_at"),
        "messages_shown",
        "merchant",
    )
    readonly_fields = ("address_shown", "state_badge", "kinds_shown", "messages_shown")

    @column("address")
    def address_shown(self, target: NotificationTarget) -> str:
        return notices.address_of(target)

    @column("about")
    def kinds_shown(self, target: NotificationTarget) -> str:
        return "; ".join(NoticeKind(kind).label for kind in target.kinds)

    @column("state", badge={"Active": "success", "Does not take what it is told": "danger", "Switched off": "warning"})
    def state_badge(self, target: NotificationTarget) -> str:
        if target.state == TargetState.ACTIVE and target.failing_since:
            return "Does not take what it is told"
        return target.get_state_display()

    @column("latest messages")
    def messages_shown(self, target: NotificationTarget) -> str:
        newest = NotificationMessage.objects.filter(target=target).order_by("-id")[:LATEST_ROWS]
        if not newest:
            return "Nothing was to be told yet. Send a test to try it out."
        rows = format_html_join(
            "",
            '<tr><td>{}</td><td><a class="text-primary-600 dark:text-primary-500" href="{}">{}</a></td><td>{}</td>'
            "<td>{}</td><td>{}</td></tr>",
            (
                (
                    timezone.localtime(message.created_at).strftime("%Y-%m-%d %H:%M:%S"),
                    reverse("admin:merchants_notificationmessage_change", args=[message.pk]),
                    message.subject,
                    message.get_state_display(),
                    message.attempts,
                    message.answer,
                )
                for message in newest
            ),
        )
        head = format_html_join(
            "", '<th scope="col">{}</th>', ((n,) for n in ("When", "Message", "State", "Tries", "Answer"))
        )
        return format_html('<table class="admin-table"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>', head, rows)

    @page_action("Add a target…", path="new-target", icon="notifications", primary=True)
    def add_target(self, request: HttpRequest) -> HttpResponse:
        form = TargetForm(request.POST or None, request=request)
        if form.is_valid():
            asked = form.cleaned_data
            try:
                target, secret = targets.create(
                    merchant=asked["merchant"],
                    name=asked["name"],
                    way=asked["way"],
                    address=asked["address"],
                    wishes=form.wishes(),
                    user=acting_user(request),
                )
            except targets.TargetRefused as refused:
                form.add_error(refused.field, str(refused))
            else:
                page = reverse("admin:merchants_notificationtarget_change", args=[target.pk])
                if secret is None:
                    messages.success(request, f"{target} is told from now on. Send a test to see whether it arrives.")
                    return HttpResponseRedirect(page)
                return self._show_secret(request, target, secret, back=page)
        return self.form_page(
            request,
            title="Add a notification target",
            form=form,
            submit="Add it",
            intro="It is told when something is wrong and when that is over. What happens within a minute is one message.",
            back=reverse("admin:merchants_notificationtarget_changelist"),
        )

    @page_action("Send a test…", path="test", icon="send", primary=True)
    def test_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Says what really came of it."""
        target = self.get_managed(request, object_id)
        back = reverse("admin:merchants_notificationtarget_change", args=[target.pk])
        if request.method == "POST":
            answer = notices.send_test(target, user=acting_user(request), now=clock.now)
            if answer.is_acknowledged:
                messages.success(request, f"The test was taken: {answer.says}.")
            else:
                messages.error(request, f"The test was not taken: {answer.says}.")
            return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title=f"Send a test to {target}",
            form=forms.Form(),
            submit="Send it now",
            intro="The answer is shown afterwards. It takes 20 seconds at most.",
            back=back,
            facts=[("Address", notices.address_of(target)), ("How", target.get_way_display())],
        )

    @page_action("What it is told…", path="wishes", icon="tune")
    def change_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        target = self.get_managed(request, object_id)
        back = reverse("admin:merchants_notificationtarget_change", args=[target.pk])
        now_is = {
            "minimum_severity": target.minimum_severity,
            "kinds": target.kinds,
            "quiet_from": target.quiet_from,
            "quiet_until": target.quiet_until,
            "hourly_max": target.hourly_max,
        }
        form = WishesForm(request.POST or None, request=request, initial=now_is)
        if form.is_valid():
            targets.change(target, wishes=form.wishes(), user=acting_user(request), now=clock.now())
            messages.success(request, f"{target} is told so from now on.")
            return HttpResponseRedirect(back)
        return self.form_page(request, title=f"What {target} is told", form=form, submit="Save", back=back)

    @page_action("Switch on…", path="on", icon="play_arrow", offered=lambda target: target.state != TargetState.ACTIVE)
    def switch_on_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(
            request,
            object_id,
            title="Switch on {}",
            submit="Switch it on",
            intro="It is told what comes from now on. What waited for it is old news.",
            act=lambda target, user, _: targets.switch_on(target, user=user, now=clock.now()),
            done="{} is told again.",
        )

    @page_action("Switch off…", path="off", icon="pause", offered=lambda target: target.state == TargetState.ACTIVE)
    def switch_off_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(
            request,
            object_id,
            title="Switch off {}",
            submit="Switch it off",
            intro="It is told nothing more, not even what is critical.",
            act=lambda target, user, reason: targets.switch_off(target, user=user, reason=reason),
            done="{} is told nothing more.",
        )

    @page_action("New secret…", path="secret", icon="key", offered=lambda target: target.way == TargetWay.WEBHOOK)
    def renew_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        target = self.get_managed(request, object_id)
        back = reverse("admin:merchants_notificationtarget_change", args=[target.pk])
        if target.way != TargetWay.WEBHOOK:
            messages.info(request, "Only signed webhooks have a secret.")
            return HttpResponseRedirect(back)
        if request.method == "POST":
            secret = targets.renew_secret(target, user=acting_user(request), now=clock.now())
            return self._show_secret(request, target, secret, back=back)
        return self.form_page(
            request,
            title=f"A new secret for {target}",
            form=forms.Form(),
            submit="Make a new secret",
            intro="The old one ends at once: messages are signed with the new one from now on.",
            back=back,
        )

    def _show_secret(self, request: HttpRequest, target: NotificationTarget, secret: Any, *, back: str) -> HttpResponse:
        return self.secret_page(
            request,
            title=f"The secret of {target}",
            secret=secret,
            intro="Check the signature of every message with it (webhook-signature, HMAC-SHA256).",
            back=back,
            facts=[("Address", target.address)],
        )

    def _ask(
        self,
        request: HttpRequest,
        object_id: str,
        *,
        title: str,
        submit: str,
        intro: str,
        act: Callable[[NotificationTarget, User, str], None],
        done: str,
    ) -> HttpResponse:
        target = self.get_managed(request, object_id)
        back = reverse("admin:merchants_notificationtarget_change", args=[target.pk])
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            act(target, acting_user(request), form.cleaned_data["reason"])
            messages.success(request, done.format(target))
            return HttpResponseRedirect(back)
        facts = [("Address", notices.address_of(target)), ("Failures in a row", target.failures)]
        return self.form_page(
            request, title=title.format(target), form=form, submit=submit, intro=intro, back=back, facts=facts
        )


@admin.register(NotificationMessage)
class NotificationMessageAdmin(BigTableAdmin):
    list_display = ("created_at", "target", "subject", "state_badge", "attempts", "answer", "merchant")
    list_filter = (recent("created_at"), "state", merchant_filter())
    unindexed_filters = ("state",)
    list_select_related = ("target", "merchant")
    search_fields = ("message_id",)
    search_help_text = "Exact message id"
    fields = (
        ("target", "message_id"),
        ("state_badge", "attempts", "answer"),
        ("created_at", "settled_at", "is_test"),
        "tries_shown",
        "body_shown",
        "merchant",
    )
    readonly_fields = ("state_badge", "tries_shown", "body_shown")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(message_id=key)

    @column("state", badge={"On its way": "info", "Sent": "success"})
    def state_badge(self, message: NotificationMessage) -> str:
        return message.get_state_display()

    @column("tries")
    def tries_shown(self, message: NotificationMessage) -> str:
        lines = [f"{tried['at'][:19]}  {tried['seconds']:>6.2f} s  {tried['answer']}" for tried in message.log]
        return preformatted("\n".join(lines)) if lines else "It was not tried yet."

    @column("message")
    def body_shown(self, message: NotificationMessage) -> str:
        return preformatted(as_text(message.content))
