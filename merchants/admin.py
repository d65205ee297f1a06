"""Admin of merchants, their people and the audit trail."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as PlainUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Q
from django.http import HttpRequest
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from merchants.admin_base import (
    BigTableAdmin,
    TenantAdmin,
    TenantInline,
    column,
    merchant_filter,
    pretty_json,
    reach_of,
    recent,
    story_link,
)
from merchants.models import AuditEvent, Member, Merchant, User

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
    fields = ("name", "slug", "timezone", "is_active")
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
    fields = ("merchant", "user", "role")

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
