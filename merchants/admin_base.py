"""What every page of the admin has in common: who sees and changes what, and that each change leaves its
trace.

A superuser sees and changes everything. Staff who are members of merchants see the rows of those merchants,
and change them as owner or manager; Django's own permission rows are not used. Every write is recorded in the
audit trail with what was before and after, in the transaction of the write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast
from uuid import UUID

from django import forms
from django.contrib.admin import ModelAdmin as PlainModelAdmin
from django.contrib.admin import ShowFacets, SimpleListFilter
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html
from unfold import widgets
from unfold.decorators import action as unfold_action
from unfold.enums import ActionVariant

from merchants import trail
from merchants.admin_lists import (
    ROWS_OUT_OF_ORDER,
    EndlessChangeList,
    EndlessPaginator,
    choice_filter,
    oldest_id_since,
)
from merchants.models import Member, Merchant, Role, User
from synctec.lib.secret import Secret

if TYPE_CHECKING:
    from django.contrib.admin import TabularInline

    UnfoldModelAdmin = PlainModelAdmin[Any]
    UnfoldTabularInline = TabularInline[Any, Any]
    UnfoldInlineFormSet = forms.BaseInlineFormSet[Any, Any, Any]
    AnyModelForm = forms.ModelForm[Any]
else:
    from unfold.admin import ModelAdmin as UnfoldModelAdmin
    from unfold.admin import TabularInline as UnfoldTabularInline
    from unfold.forms import PaginationInlineFormSet as UnfoldInlineFormSet

    AnyModelForm = forms.ModelForm

Function = TypeVar("Function", bound=Callable[..., Any])

#: The roles that may change something.
_MANAGERS = frozenset({Role.OWNER, Role.MANAGER})

#: Sent by an autocomplete field that may offer rows of one merchant only.
OF_MERCHANT = "of_merchant"


# --- who sees what --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reach:
    """The merchants whose rows a person may see, manage and own in the admin; `every` for a superuser."""

    every: bool
    visible: frozenset[int] = frozenset()
    managed: frozenset[int] = frozenset()
    owned: frozenset[int] = frozenset()

    def may_see(self, merchant_id: int | None) -> bool:
        return self.every or merchant_id in self.visible

    def may_manage(self, merchant_id: int | None) -> bool:
        return self.every or merchant_id in self.managed


def reach_of(request: HttpRequest) -> Reach:
    """What the person behind the request reaches; read once per request."""
    known: Reach | None = getattr(request, "admin_reach", None)
    if known is None:
        known = _read_reach(request)
        request.admin_reach = known  # type: ignore[attr-defined]
    return known


def _read_reach(request: HttpRequest) -> Reach:
    user = request.user
    if not isinstance(user, User) or not (user.is_active and user.is_staff):
        return Reach(every=False)
    if user.is_superuser:
        return Reach(every=True)
    roles = dict(Member.objects.filter(user=user, merchant__is_active=True).values_list("merchant_id", "role"))
    return Reach(
        every=False,
        visible=frozenset(roles),
        managed=frozenset(merchant for merchant, role in roles.items() if role in _MANAGERS),
        owned=frozenset(merchant for merchant, role in roles.items() if role == Role.OWNER),
    )


def visible_merchant_ids(request: HttpRequest) -> list[int]:
    """The merchants a person sees, spelled out: so that the index serves a key such as (merchant, code)."""
    reach = reach_of(request)
    if not reach.every:
        return sorted(reach.visible)
    return list(Merchant.objects.order_by("pk").values_list("pk", flat=True))


def sole_merchant_id(request: HttpRequest) -> int | None:
    """The one merchant a person manages; None when there are several (or all) to choose from."""
    reach = reach_of(request)
    return next(iter(reach.managed)) if not reach.every and len(reach.managed) == 1 else None


def managed_merchants(request: HttpRequest) -> models.QuerySet[Merchant]:
    """The merchants a person may act for, by name."""
    merchants = Merchant.objects.filter(is_active=True).order_by("name")
    reach = reach_of(request)
    return merchants if reach.every else merchants.filter(pk__in=reach.managed)


def acting_user(request: HttpRequest) -> User:
    """The person behind an admin request."""
    if not isinstance(request.user, User):
        raise PermissionDenied("Sign in first.")
    return request.user


# --- columns and actions --------------------------------------------------------------------------


def column(
    description: str,
    *,
    ordering: str | None = None,
    boolean: bool = False,
    badge: Mapping[str, str] | None = None,
) -> Callable[[Function], Function]:
    """A column of a list or a line of a page. `badge`: value -> success, info, warning or danger."""

    def decorate(function: Function) -> Function:
        attributes: dict[str, Any] = {"short_description": description}
        if ordering:
            attributes["admin_order_field"] = ordering
        if boolean:
            attributes["boolean"] = True
        if badge is not None:
            attributes["label"] = dict(badge)
        for name, value in attributes.items():
            setattr(function, name, value)
        return function

    return decorate


def page_action(
    description: str,
    *,
    path: str,
    icon: str = "",
    primary: bool = False,
    offered: Callable[[Any], bool] | None = None,
) -> Callable[[Function], Function]:
    """A button above a list or on an object's page, leading to a page of its own. Shown to who may change something;
    `offered` tells of an object whether there is anything to do. The page asks again: things change."""

    def decorate(function: Function) -> Function:
        decorated: Any = unfold_action(
            description=description,
            url_path=path,
            icon=icon or None,
            permissions=["act"],
            variant=ActionVariant.PRIMARY if primary else ActionVariant.DEFAULT,
        )(function)
        decorated.offered = offered
        return cast(Function, decorated)

    return decorate


def story_link(correlation_id: UUID | None) -> str:
    """A link to everything that happened because of one event."""
    if correlation_id is None:
        return ""
    return format_html(
        '<a class="text-primary-600 dark:text-primary-500" href="/story/{}/" title="{}">{}…</a>',
        correlation_id,
        correlation_id,
        str(correlation_id)[-12:],
    )


def merchant_filter() -> type[SimpleListFilter]:
    """A filter by merchant, for those who see several."""

    def choices(request: HttpRequest) -> Iterable[tuple[str, str]]:
        merchants = Merchant.objects.order_by("name")
        if not reach_of(request).every:
            merchants = merchants.filter(pk__in=reach_of(request).visible)
        found = [(str(key), name) for key, name in merchants.values_list("pk", "name")[:200]]
        return found if len(found) > 1 else []

    return choice_filter(title="merchant", parameter="merchant", choices=choices)


_SPANS = {
    "1h": ("Past hour", timedelta(hours=1)),
    "24h": ("Past 24 hours", timedelta(hours=24)),
    "7d": ("Past 7 days", timedelta(days=7)),
    "30d": ("Past 30 days", timedelta(days=30)),
}


def recent(field: str) -> type[SimpleListFilter]:
    """A filter by age on `field`, a time that grows with the id: the index of the ids serves it."""

    class RecentFilter(SimpleListFilter):
        title = "age"
        parameter_name = "within"

        def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> Iterable[tuple[str, str]]:
            return [(key, title) for key, (title, _) in _SPANS.items()]

        def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
            span = _SPANS.get(self.value() or "")
            if span is None:
                return queryset
            instant = timezone.now() - span[1]
            bound = oldest_id_since(queryset.model, field, instant)
            if bound is None:
                return queryset.none()
            return queryset.filter(**{"pk__gte": bound - ROWS_OUT_OF_ORDER, f"{field}__gte": instant})

    return RecentFilter


# --- before and after -----------------------------------------------------------------------------

_NOT_RECORDED = ("sealed_", "secret_", "password", "webhook_token", "last_login")


def snapshot(row: models.Model) -> dict[str, Any]:
    """A row's own values as JSON, without secrets, for the audit trail."""
    values: dict[str, Any] = {}
    for field in row._meta.concrete_fields:
        if field.attname.startswith(_NOT_RECORDED) or field.generated:
            continue
        value = getattr(row, field.attname)
        if isinstance(value, datetime | date):
            values[field.name] = value.isoformat()
        elif isinstance(value, UUID | Decimal):
            values[field.name] = str(value)
        elif value is None or isinstance(value, str | int | float | bool | list | dict):
            values[field.name] = value
    return values


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Only what changed, before and after."""
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return (
        {name: before[name] for name in changed if name in before},
        {name: after[name] for name in changed if name in after},
    )


# --- forms ----------------------------------------------------------------------------------------


class TenantAutocomplete(AutocompleteSelect):
    """An autocomplete field that offers the rows of one merchant, once that is known."""

    merchant_id: int | None = None

    def get_url(self) -> str:
        url = super().get_url()
        return f"{url}?{OF_MERCHANT}={self.merchant_id}" if self.merchant_id else url


class TenantForm(AnyModelForm):
    """A form of one merchant's row: it offers that merchant's rows, and refuses others before the database
    does."""

    #: The merchant of a new row, when the person has one only.
    new_merchant_id: ClassVar[int | None] = None
    #: The field whose row tells the merchant of a new row.
    merchant_from: ClassVar[str] = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        merchant_id = getattr(self.instance, "merchant_id", None) or type(self).new_merchant_id
        if merchant_id:
            self.adopt_merchant(merchant_id)

    def adopt_merchant(self, merchant_id: int) -> None:
        """Make the row this merchant's and offer this merchant's rows only."""
        self.instance.merchant_id = merchant_id
        for field in self.fields.values():
            if isinstance(field, forms.ModelChoiceField) and _has_merchant(field.queryset):
                assert field.queryset is not None
                field.queryset = field.queryset.filter(merchant_id=merchant_id)
                widget = getattr(field.widget, "widget", field.widget)
                if isinstance(widget, TenantAutocomplete):
                    widget.merchant_id = merchant_id

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        source = cleaned.get(self.merchant_from) if self.merchant_from else None
        if source is not None and self.instance.pk is None:
            self.instance.merchant_id = source.merchant_id
        elif cleaned.get("merchant") is not None:
            self.instance.merchant_id = cleaned["merchant"].pk
        return cleaned

    def _get_validation_exclusions(self) -> set[str]:
        # The merchant is known though it is not in the form: constraints that name it are to be checked.
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        return excluded - {"merchant"} if getattr(self.instance, "merchant_id", None) else excluded


def _has_merchant(queryset: models.QuerySet[Any] | None) -> bool:
    return queryset is not None and any(field.name == "merchant" for field in queryset.model._meta.fields)


class TenantInlineFormSet(UnfoldInlineFormSet):
    """Rows within another row's page: they have its merchant."""

    def _construct_form(self, i: int, **kwargs: Any) -> Any:
        form = super()._construct_form(i, **kwargs)  # type: ignore[misc]
        self._adopt(form)
        return form

    @property
    def empty_form(self) -> Any:
        form = super().empty_form
        self._adopt(form)
        return form

    def _adopt(self, form: Any) -> None:
        merchant_id = getattr(self.instance, "merchant_id", None)
        if merchant_id and isinstance(form, TenantForm):
            form.adopt_merchant(merchant_id)


class ReasonForm(forms.Form):
    """Asks why, for the audit trail."""

    reason = forms.CharField(
        max_length=500,
        required=False,
        label="Reason",
        help_text="Kept in the audit trail.",
        widget=widgets.UnfoldAdminTextInputWidget,
    )


# --- admins ---------------------------------------------------------------------------------------


class _Autocompletes:
    """Foreign keys as autocomplete fields that keep to one merchant."""

    def formfield_for_foreignkey(
        self, db_field: models.ForeignKey[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> Any:
        if db_field.name in self.get_autocomplete_fields(request):  # type: ignore[attr-defined]
            kwargs["widget"] = TenantAutocomplete(db_field, self.admin_site)  # type: ignore[attr-defined]
        field: Any = super().formfield_for_foreignkey(  # type: ignore[misc]
            db_field, request, **kwargs
        )
        reach = reach_of(request)
        if field is not None and field.queryset is not None and not reach.every:
            if db_field.related_model is Merchant:
                field.queryset = field.queryset.filter(pk__in=reach.managed)
            elif _has_merchant(field.queryset):
                field.queryset = field.queryset.filter(merchant_id__in=reach.visible)
        return field


class TenantAdmin(_Autocompletes, UnfoldModelAdmin):
    """The admin of a model whose rows belong to merchants."""

    form = TenantForm
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    paginator = EndlessPaginator
    ordering: ClassVar[Any] = ("-pk",)
    list_before_template = "admin/lists/window_note.html"
    list_disable_select_all = True
    list_filter_sheet = False
    compressed_fields = True
    warn_unsaved_form = True
    actions: Any = ()

    #: From a row to its merchant; empty for rows that belong to none.
    merchant_path: ClassVar[str] = "merchant"
    #: Filters that no index serves: with one of them on, a list shows the newest rows only.
    unindexed_filters: ClassVar[Sequence[str]] = ()

    # Who may do what.

    def has_module_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_active and request.user.is_staff)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        if obj is None:
            return self.has_module_permission(request)
        return reach_of(request).may_see(self.merchant_id_of(obj))

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        reach = reach_of(request)
        if obj is None:
            return reach.every or bool(reach.managed)
        return reach.may_manage(self.merchant_id_of(obj))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_change_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_change_permission(request, obj)

    def has_act_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whether the buttons that do something are shown; each checks its own object again."""
        reach = reach_of(request)
        return reach.every or bool(reach.managed)

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[Any]:
        """The buttons of an object's page: those that mean something in its state."""
        row = self.get_object(request, str(object_id))
        buttons: list[Any] = super().get_actions_detail(request, object_id)  # type: ignore[misc]
        return [button for button in buttons if row is None or not button.method.offered or button.method.offered(row)]

    def sees_every_merchant(self, request: HttpRequest) -> bool:
        return reach_of(request).every

    def merchant_id_of(self, row: Any) -> int | None:
        merchant_id: int | None = row.merchant_id
        return merchant_id

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        # Rows are deleted one by one, each on its page: that is where the trail is written.
        actions: dict[str, Any] = super().get_actions(request)
        return {name: action for name, action in actions.items() if name != "delete_selected"}

    # What they see.

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[EndlessChangeList]:
        return EndlessChangeList

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        queryset: models.QuerySet[Any] = super().get_queryset(request)
        reach = reach_of(request)
        if self.merchant_path and not reach.every:
            queryset = queryset.filter(**{f"{self.merchant_path}__in": sorted(reach.visible)})
        related = self.list_select_related
        return queryset.select_related(*related) if isinstance(related, list | tuple) and related else queryset

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        merchant_id = request.GET.get(OF_MERCHANT, "")
        if merchant_id.isdigit() and self.merchant_path:
            queryset = queryset.filter(**{self.merchant_path: int(merchant_id)})
        found: tuple[models.QuerySet[Any], bool] = super().get_search_results(request, queryset, search_term)
        return found

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        fields = list(super().get_readonly_fields(request, obj))
        return [*fields, "merchant"] if obj is not None and "merchant" not in fields else fields

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        shows_merchant = reach_of(request).every or len(reach_of(request).visible) > 1
        if obj is None:
            shows_merchant = shows_merchant and not sole_merchant_id(request) and not self.form.merchant_from
        return fieldsets if shows_merchant else _without(fieldsets, "merchant")

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        if issubclass(form, TenantForm):
            form.new_merchant_id = sole_merchant_id(request)
        return form

    # What they leave behind.

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        before = snapshot(self.model._base_manager.get(pk=obj.pk)) if change else {}
        super().save_model(request, obj, form, change)
        self.record(request, obj, "change" if change else "create", before, snapshot(obj))

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        keys = [row.pk for row in formset.get_queryset()]
        before = {row.pk: snapshot(row) for row in formset.model._base_manager.filter(pk__in=keys)}
        for deleted in formset.deleted_forms:
            if deleted.instance.pk:
                self.record(request, deleted.instance, "delete", before.get(deleted.instance.pk, {}), {})
        super().save_formset(request, form, formset, change)
        for row in formset.new_objects:
            self.record(request, row, "create", {}, snapshot(row))
        for row, _ in formset.changed_objects:
            self.record(request, row, "change", before.get(row.pk, {}), snapshot(row))

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.record(request, obj, "delete", snapshot(obj), {})
        super().delete_model(request, obj)

    def record(
        self, request: HttpRequest, row: Any, verb: str, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        """Write one write into the audit trail; nothing when nothing changed."""
        was, became = difference(before, after)
        if not was and not became:
            return
        merchant_id = row.pk if isinstance(row, Merchant) else row.merchant_id
        trail.record(
            merchant_id=merchant_id,
            action=f"{row._meta.model_name}.{verb}",
            subject=row,
            user=acting_user(request),
            before=was,
            after=became,
        )

    # Pages of their own.

    def get_managed(self, request: HttpRequest, object_id: str | int) -> Any:
        """The row an action is about.

        Raises:
            Http404: there is none that the person sees.
            PermissionDenied: they may see it but not change it.
        """
        row = self.get_object(request, str(object_id))
        if row is None:
            raise Http404(f"There is no such {self.opts.verbose_name}.")
        if not reach_of(request).may_manage(self.merchant_id_of(row)):
            raise PermissionDenied("Only an owner or manager of the merchant may do this.")
        return row

    def form_page(
        self,
        request: HttpRequest,
        *,
        title: str,
        form: forms.Form,
        submit: str,
        intro: str = "",
        back: str = "",
        facts: Iterable[tuple[str, Any]] = (),
    ) -> HttpResponse:
        """A page that asks before something is done."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "form": form,
            "submit_text": submit,
            "intro": intro,
            "back": back,
            "facts": list(facts),
            "media": self.media + form.media,
        }
        return TemplateResponse(request, "admin/form_page.html", context)

    def secret_page(
        self,
        request: HttpRequest,
        *,
        title: str,
        secret: Secret,
        intro: str,
        back: str,
        facts: Iterable[tuple[str, Any]],
    ) -> HttpResponse:
        """The one page that ever shows a secret; no cache keeps it."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "secret": secret.reveal(),
            "intro": intro,
            "back": back,
            "facts": list(facts),
        }
        return TemplateResponse(request, "admin/secret_page.html", context, headers={"Cache-Control": "no-store"})


class ReadOnlyAdmin(TenantAdmin):
    """Written by the engine alone: nobody adds, changes or deletes a row here, superusers included."""

    warn_unsaved_form = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class InstallationAdmin(ReadOnlyAdmin):
    """Of the installation as a whole, so for superusers only. Without `fields`, all there are."""

    merchant_path = ""

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return list(self.fields or [field.name for field in self.model._meta.fields])

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return [(None, {"fields": self.get_readonly_fields(request, obj)})]

    def has_module_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_active and request.user.is_superuser)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_module_permission(request)


class BigTableAdmin(ReadOnlyAdmin):
    """A table that grows for ever: listed newest first, searched by exact keys that an index serves."""

    sortable_by: ClassVar[Any] = ()
    ordering = ("-id",)
    #: Choices of filters that a partial index answers with few rows: parameter -> values.
    rare_choices: ClassVar[Mapping[str, Collection[str]]] = {}

    def get_ordering(self, request: HttpRequest) -> Any:
        """Newest first. Few and old rows are read by their own index and sorted: PostgreSQL
        may else look for them by walking through all newer ones along the primary key.
        """
        if any(request.GET.get(name) in values for name, values in self.rare_choices.items()):
            return [(models.F("id") + 0).desc()]
        return super().get_ordering(request)

    def find(self, request: HttpRequest, key: str) -> models.Q | None:
        """The rows an exact key stands for; None when it cannot be one."""
        raise NotImplementedError

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        merchant_id = request.GET.get(OF_MERCHANT, "")
        if merchant_id.isdigit():
            queryset = queryset.filter(merchant_id=int(merchant_id))
        if not search_term.strip():
            return queryset, False
        found = self.find(request, search_term.strip())
        return (queryset.filter(found) if found is not None else queryset.none()), False


def as_uuid(key: str) -> UUID | None:
    """The UUID a search term is, if it is one."""
    try:
        return UUID(key)
    except ValueError:
        return None


def pretty_json(value: Any, *, characters_max: int = 100_000) -> str:
    """JSON for reading, cut off when it is very long; safe to show, since it is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return preformatted(text, characters_max=characters_max)


def preformatted(text: str, *, characters_max: int = 100_000) -> str:
    """Text in a fixed font, escaped, cut off when it is very long."""
    rest = len(text) - characters_max
    note = f"\n… {rest:,} more characters" if rest > 0 else ""
    return format_html('<pre class="admin-pre">{}{}</pre>', text[:characters_max], note)


def _without(fieldsets: Any, name: str) -> list[tuple[Any, dict[str, Any]]]:
    kept = []
    for title, options in fieldsets:
        fields = [field for field in options["fields"] if field != name]
        if fields:
            kept.append((title, {**options, "fields": fields}))
    return kept


class TenantInline(_Autocompletes, UnfoldTabularInline):
    """Rows of the same merchant within another row's page."""

    form = TenantForm
    formset = TenantInlineFormSet
    extra = 0
    hide_title = True

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_staff)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return reach_of(request).may_manage(getattr(obj, "merchant_id", None))

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_change_permission(request, obj)
