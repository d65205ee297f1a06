"""Admin of merchants, their people and the audit trail."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as PlainUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from unfold import widgets
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from merchants import (
    keys,
    notices,
    targets_admin,  # noqa: F401  # registers the models of notification targets
)
from merchants.admin_base import (
    BigTableAdmin,
    ReadOnlyAdmin,
    ReasonForm,
    TenantAdmin,
    TenantInline,
    acting_user,
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
from merchants.models import ApiKey, AuditEvent, Member, Merchant, NotificationTarget, RememberedAnswer, Scope, User
from synctec.lib import clock

# What a person may do follows from their memberships, so Django's groups of permissions would only mislead.
if admin.site.is_registered(Group):
    admin.site.unregister(Group)


class MemberInline(TenantInline):
    model = Member
    autocomplete_fields = ("user",)
    fields = ("user", "role", "created_at")
    readonly_fields = ("created_at",)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return reach_of(request).every


@admin.register(Merchant)
class MerchantAdmin(TenantAdmin):
    """A merchant is never deleted: its ledger and trail are kept. It is switched off instead."""

    list_display = ("name", "slug", "timezone", "is_active", "created_at")
    list_filter = ("is_active",)
    search_fields = ("name", "slug")
    search_help_text = "Name or slug"
    ordering = ("name",)
    fields = ("name", "slug", "timezone", "quiet_hour", "is_active")
    prepopulated_fields = {"slug": ("name",)}
    inlines = (MemberInline,)
    merchant_path = "pk"

    def merchant_id_of(self, row: Any) -> int | None:
        return row.pk if isinstance(row, Merchant) else None

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [] if reach_of(request).every else ["slug", "is_active"]

    def get_prepopulated_fields(self, request: HttpRequest, obj: Any = None) -> dict[str, Any]:
        return {} if obj else dict(self.prepopulated_fields)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return reach_of(request).every

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Member)
class MemberAdmin(TenantAdmin):
    """Who works for a merchant. Owners change roles; a superuser lets people in."""

    list_display = ("user", "merchant", "role_badge", "created_at")
    list_filter = ("role", merchant_filter())
    list_select_related = ("user", "merchant")
    search_fields = ("user__email", "merchant__name")
    search_help_text = "E-mail address or merchant"
    ordering = ("merchant__name", "user__email")
    autocomplete_fields = ("user", "merchant")
    fields = ("merchant", "user", "role", "wants_daily_report")

    @column("role", ordering="role", badge={"owner": "success", "manager": "info"})
    def role_badge(self, member: Member) -> str:
        return member.role

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["merchant", "user"] if obj else []

    def has_add_permission(self, request: HttpRequest) -> bool:
        return reach_of(request).every

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        reach = reach_of(request)
        return reach.every or (bool(reach.owned) if obj is None else obj.merchant_id in reach.owned)


@admin.register(User)
class UserAdmin(PlainUserAdmin[User], TenantAdmin):  # type: ignore[misc]
    """People. Only superusers manage them, since a person may work for several merchants."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    merchant_path = ""
    list_display = ("email", "full_name", "is_active", "is_staff", "is_superuser", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser")
    search_fields = ("email", "first_name", "last_name")
    search_help_text = "E-mail address or name"
    ordering = ("email",)
    filter_horizontal = ()
    fieldsets = (
        (None, {"fields": ("email", "username", "password")}),
        ("Name", {"fields": ("first_name", "last_name")}),
        ("Access", {"fields": ("is_active", "is_staff", "is_superuser")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = (
        (None, {"classes": ("wide",), "fields": ("email", "username", "password1", "password2", "is_staff")}),
    )
    readonly_fields = ("last_login", "date_joined")

    @column("name", ordering="last_name")
    def full_name(self, user: User) -> str:
        return user.get_full_name()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fieldsets if obj else self.add_fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return list(self.readonly_fields) if obj else []

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Who could not be told at the address before is told at the new one at once."""
        super().save_model(request, obj, form, change)
        if change and "email" in form.changed_data:
            own = NotificationTarget.objects.filter(member__user=obj)
            notices.try_again(own.values_list("pk", flat=True), now=clock.now())

    def has_module_permission(self, request: HttpRequest) -> bool:
        return reach_of(request).every

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return reach_of(request).every

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return reach_of(request).every

    def has_add_permission(self, request: HttpRequest) -> bool:
        return reach_of(request).every

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # The trail and the ledger name people for ever; somebody who left is made inactive.
        return False

    def record(self, request: HttpRequest, row: Any, verb: str, before: Any, after: Any) -> None:
        """A person belongs to no merchant: the change is recorded with each one they work for."""
        for member in Member.objects.filter(user=row):
            super().record(request, _AtMerchant(row, member.merchant_id), verb, before, after)


class _AtMerchant:
    """A person as seen from one merchant, for the trail."""

    def __init__(self, user: User, merchant_id: int) -> None:
        self._user = user
        self.merchant_id = merchant_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._user, name)

    def __str__(self) -> str:
        return str(self._user)


class NewKeyForm(forms.Form):
    """What a new API key is for and may do."""

    merchant = forms.ModelChoiceField(
        queryset=Merchant.objects.none(), widget=widgets.UnfoldAdminSelectWidget, empty_label=None
    )
    name = forms.CharField(
        max_length=80,
        help_text="The program that will use it, such as: warehouse system, till 2.",
        widget=widgets.UnfoldAdminTextInputWidget,
    )
    scopes = forms.MultipleChoiceField(
        choices=Scope.choices,
        label="It may",
        help_text="No more than it needs.",
        widget=widgets.UnfoldAdminCheckboxSelectMultipleWidget,
    )
    days = forms.TypedChoiceField(
        choices=[("90", "90 days"), ("365", "a year"), ("30", "30 days"), ("0", "until it is revoked")],
        coerce=int,
        label="It works for",
        widget=widgets.UnfoldAdminSelectWidget,
    )

    def __init__(self, data: Any, *, request: HttpRequest) -> None:
        super().__init__(data)
        field = self.fields["merchant"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = managed_merchants(request)
        sole = sole_merchant_id(request)
        if sole is not None:
            field.initial, field.widget = sole, forms.HiddenInput()


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    """Keys are made and revoked, never changed or deleted: the trail and the ledger name them for ever."""

    list_display = ("name", "prefix", "state_badge", "scopes_shown", "expires_at", "last_used_at", "merchant")
    list_filter = (merchant_filter(),)
    list_select_related = ("merchant",)
    search_fields = ("name", "prefix")
    search_help_text = "Name or beginning of the key"
    actions_list = ("make_key",)
    actions_detail = ("revoke_key",)
    fields = (
        ("name", "prefix"),
        ("state_badge", "scopes_shown"),
        ("created_by", "created_at"),
        ("expires_at", "last_used_at", "revoked_at"),
        "merchant",
    )
    readonly_fields = ("state_badge", "scopes_shown")

    @column("state", badge={"Active": "success", "Expired": "warning", "Revoked": "danger"})
    def state_badge(self, key: ApiKey) -> str:
        if key.revoked_at:
            return "Revoked"
        return "Expired" if key.expires_at and key.expires_at <= timezone.now() else "Active"

    @column("may")
    def scopes_shown(self, key: ApiKey) -> str:
        return ", ".join(key.scopes)

    @page_action("Make an API key…", path="make", icon="key", primary=True)
    def make_key(self, request: HttpRequest) -> HttpResponse:
        back = reverse("admin:merchants_apikey_changelist")
        form = NewKeyForm(request.POST or None, request=request)
        if form.is_valid():
            asked = form.cleaned_data
            key, secret = keys.create(
                merchant=asked["merchant"],
                name=asked["name"],
                scopes=asked["scopes"],
                expires_at=timezone.now() + timedelta(days=asked["days"]) if asked["days"] else None,
                user=acting_user(request),
            )
            return self.secret_page(
                request,
                title=f"The API key for {key.name}",
                secret=secret,
                intro="Send it with every request, as Authorization: Bearer and the key.",
                back=reverse("admin:merchants_apikey_change", args=[key.pk]),
                facts=[("It may", ", ".join(key.scopes)), ("Expires", key.expires_at or "never")],
            )
        return self.form_page(
            request,
            title="Make an API key",
            form=form,
            submit="Make the key",
            intro="For a warehouse system, a till or a shop of your own. The key is shown once, on the next page.",
            back=back,
        )

    @page_action("Revoke…", path="revoke", icon="key_off", offered=lambda key: key.revoked_at is None)
    def revoke_key(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.get_managed(request, object_id)
        back = reverse("admin:merchants_apikey_change", args=[key.pk])
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            if keys.revoke(key, user=acting_user(request), now=timezone.now(), reason=form.cleaned_data["reason"]):
                messages.success(request, f"{key.name} is revoked: its next request is refused.")
            else:
                messages.info(request, f"{key.name} was revoked before.")
            return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title=f"Revoke {key.name}",
            form=form,
            submit="Revoke the key",
            intro="The program that uses it is refused from its next request on. A revoked key cannot be revived.",
            back=back,
            facts=[("Key", f"{key.prefix}…"), ("Last used", key.last_used_at or "never")],
        )


@admin.register(RememberedAnswer)
class RememberedAnswerAdmin(BigTableAdmin):
    """What was answered to requests of the API, for the days in which they may be repeated."""

    list_display = ("created_at", "key", "status", "merchant")
    list_filter = (recent("created_at"), merchant_filter())
    list_select_related = ("merchant",)
    search_fields = ("key",)
    search_help_text = "Exact Idempotency-Key"
    fields = (("key", "status"), "created_at", "body_shown", "merchant")
    readonly_fields = ("body_shown",)

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(merchant_id__in=visible_merchant_ids(request), key=key)

    @column("answer")
    def body_shown(self, answer: RememberedAnswer) -> str:
        return preformatted(answer.body)


@admin.register(AuditEvent)
class AuditEventAdmin(BigTableAdmin):
    list_display = ("at", "actor", "action", "subject", "reason", "story", "merchant")
    list_filter = (recent("at"), "actor_kind", merchant_filter())
    unindexed_filters = ("actor_kind",)
    list_select_related = ("user", "merchant")
    search_fields = ("object_id",)
    search_help_text = "Exact object, such as inventory.sku:42"
    fieldsets = (
        (None, {"fields": (("at", "actor"), ("action", "subject"), "reason", "story", "merchant")}),
        ("Before and after", {"fields": (("before_shown", "after_shown"),)}),
    )
    readonly_fields = ("actor", "subject", "story", "before_shown", "after_shown")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        object_type, _, object_id = key.rpartition(":")
        return Q(object_type=object_type.lower(), object_id=object_id) if object_type and object_id else None

    @column("who")
    def actor(self, event: AuditEvent) -> str:
        who = event.user or event.api_key
        return str(who) if who else event.get_actor_kind_display()

    @column("what to")
    def subject(self, event: AuditEvent) -> str:
        kind = event.object_type.rpartition(".")[2]
        return f"{kind} {event.object_label or event.object_id}"

    @column("story")
    def story(self, event: AuditEvent) -> str:
        return story_link(event.correlation_id)

    @column("before")
    def before_shown(self, event: AuditEvent) -> str:
        return pretty_json(event.before)

    @column("after")
    def after_shown(self, event: AuditEvent) -> str:
        return pretty_json(event.after)
