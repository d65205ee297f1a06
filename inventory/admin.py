"""Admin of SKUs, bundles, warehouses and the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from uuid import uuid4

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import ModelAdmin as PlainModelAdmin
from django.contrib.admin import SimpleListFilter
from django.db import IntegrityError, models
from django.db.models import Q, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold import widgets

from inventory import counts, delivery, holds, sheets, stock, transfers
from inventory.bom import LEVELS_MAX, find_cycle, longest_way
from inventory.goods import Refused
from inventory.models import (
    BomLine,
    CountState,
    EndpointState,
    Hold,
    HoldPart,
    HoldState,
    Movement,
    Shortage,
    Sku,
    SkuKind,
    StockCount,
    StockLevel,
    Transfer,
    TransferLine,
    TransferState,
    Warehouse,
    WebhookDelivery,
    WebhookEndpoint,
)
from inventory.movements import Reporter
from merchants.admin_base import (
    BigTableAdmin,
    ReadOnlyAdmin,
    ReasonForm,
    TenantAdmin,
    TenantForm,
    TenantInline,
    TenantInlineFormSet,
    acting_user,
    as_uuid,
    column,
    managed_merchants,
    merchant_filter,
    page_action,
    pretty_json,
    recent,
    sole_merchant_id,
    story_link,
    visible_merchant_ids,
)
from merchants.admin_lists import choice_filter
from merchants.models import ApiKey, Merchant, User
from synctec.lib import clock, sql
from synctec.lib.ids import uuid7
from synctec.lib.secret import Secret

if TYPE_CHECKING:
    ModelChoiceField = forms.ModelChoiceField[Warehouse]
else:
    ModelChoiceField = forms.ModelChoiceField

#: Rows of a history shown within another row's page.
LATEST_ROWS = 20
#: Complaints about a list that somebody typed, shown at once.
ERRORS_SHOWN = 20


def sku_ids(request: HttpRequest, code: str) -> list[int]:
    """The SKUs with exactly this code that the person sees."""
    return list(
        Sku.objects.filter(merchant_id__in=visible_merchant_ids(request), code=code).values_list("pk", flat=True)
    )


def stock_level_ids(request: HttpRequest, code: str) -> list[int]:
    """The stock levels of the SKUs with exactly this code."""
    return list(StockLevel.objects.filter(sku_id__in=sku_ids(request, code)).values_list("pk", flat=True))


def by_event_or_sku(request: HttpRequest, key: str) -> Q:
    """Rows of a stock level by the correlation id of an event, or by SKU code."""
    correlation_id = as_uuid(key)
    if correlation_id:
        return Q(correlation_id=correlation_id)
    return Q(stock_level_id__in=stock_level_ids(request, key))


def _link(url_name: str, key: object, text: object) -> str:
    return format_html(
        '<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>',
        reverse(url_name, args=[key]),
        text,
    )


def warehouse_filter(*, lookup: str) -> type[SimpleListFilter]:
    """A filter by warehouse; the choices come from the warehouses, not from the rows listed."""

    def choices(request: HttpRequest) -> Iterable[tuple[str, str]]:
        found = Warehouse.objects.filter(merchant_id__in=visible_merchant_ids(request)).order_by("name")
        return [(str(key), name) for key, name in found.values_list("pk", "name")[:100]]

    return choice_filter(title="warehouse", parameter="warehouse", choices=choices, lookup=lookup)


# --- SKUs and bundles -----------------------------------------------------------------------------


class SkuForm(TenantForm):
    """Kind and components fit together: see `BomLineFormSet`, which sees the lines."""

    def clean_kind(self) -> str:
        kind: str = self.cleaned_data["kind"]
        if kind == SkuKind.BUNDLE and self.instance.pk and "kind" in self.changed_data:
            units = StockLevel.objects.filter(sku=self.instance).aggregate(on_hand=Sum("on_hand"))["on_hand"]
            if units:
                raise forms.ValidationError(
                    f"{units} units of this SKU are on hand, and a bundle has no stock of its own. "
                    "Adjust them to 0 first, or make a new SKU for the bundle."
                )
        return kind


class BomLineFormSet(TenantInlineFormSet):
    """The components of one bundle."""

    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        lines = [form.cleaned_data for form in self.forms if _is_kept(form, self)]
        components = [line["component"] for line in lines if line.get("component")]
        if self.instance.kind == SkuKind.STOCKED and components:
            raise forms.ValidationError("A stocked SKU has no components. Choose the kind Bundle, or remove the lines.")
        if self.instance.kind == SkuKind.BUNDLE and not components:
            raise forms.ValidationError("A bundle needs at least one component.")
        if len({component.pk for component in components}) < len(components):
            raise forms.ValidationError("A component is named twice. Put both quantities into one line.")
        if components:
            refuse_impossible_bundle(self.instance, components)


def _is_kept(form: Any, formset: Any) -> bool:
    return bool(form.cleaned_data) and form not in formset.deleted_forms


def refuse_impossible_bundle(bundle: Sku, components: Collection[Sku]) -> None:
    """Refuse components by which bundles would contain themselves, or be nested too deep. Others wait with their changes.

    Raises:
        ValidationError: naming the way, such as A > B > A.
    """
    sql.rows("SELECT bom_take_turns(%s)", [next(iter(components)).merchant_id])
    here = bundle.pk or 0  # 0: not saved yet, so nothing contains it
    wanted = {here: [component.pk for component in components]}
    below = _edges(set(wanted[here]), "bundle_id", "component_id") | wanted
    cycle = find_cycle(below, here)
    if cycle:
        raise forms.ValidationError(
            f"The bundle would contain itself: {_way(cycle, bundle)}. Remove a component on this way."
        )
    above = _edges({here}, "component_id", "bundle_id")
    way = [*reversed(longest_way(above, here)), *longest_way(below, here)[1:]]
    if len(way) - 1 > LEVELS_MAX:
        raise forms.ValidationError(
            f"Bundles may be nested {LEVELS_MAX} levels deep, and this would be {len(way) - 1}: {_way(way, bundle)}. "
            "Put the parts of one of them directly into the next."
        )


def _edges(start: set[int], source: str, target: str) -> dict[int, list[int]]:
    """The BOM lines that lead away from these SKUs, through all levels."""
    edges: dict[int, list[int]] = {}
    frontier = start
    while frontier:
        for key in frontier:
            edges[key] = []
        for one, other in BomLine.objects.filter(**{f"{source}__in": frontier}).values_list(source, target):
            edges[one].append(other)
        frontier = {other for key in frontier for other in edges[key]} - set(edges)
    return edges


def _way(sku_ids: Sequence[int], bundle: Sku) -> str:
    codes = dict(Sku.objects.filter(pk__in=sku_ids).values_list("pk", "code")) | {bundle.pk or 0: bundle.code}
    return " > ".join(codes[key] for key in sku_ids)


class BomLineInline(TenantInline):
    model = BomLine
    fk_name = "bundle"
    formset = BomLineFormSet
    autocomplete_fields = ("component",)
    fields = ("component", "quantity")
    verbose_name = "component"
    verbose_name_plural = "components (bundles only)"


class AdjustForm(forms.Form):
    """Change the units on hand of one stock level: by so many, or to what was counted."""

    warehouse = forms.ModelChoiceField(
        queryset=Warehouse.objects.none(), widget=widgets.UnfoldAdminSelectWidget, empty_label=None
    )
    change = forms.IntegerField(
        required=False,
        min_value=-1_000_000,
        max_value=1_000_000,
        label="Change by",
        help_text="Units found (5) or lost (-5).",
        widget=widgets.UnfoldAdminIntegerFieldWidget,
    )
    counted = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=100_000_000,
        label="or counted on hand",
        help_text="All units in the warehouse, sold but not yet shipped ones included.",
        widget=widgets.UnfoldAdminIntegerFieldWidget,
    )
    reason = forms.CharField(
        max_length=500,
        label="Reason",
        help_text="Kept with the movement for ever, such as: cycle count, damaged in aisle 3.",
        widget=widgets.UnfoldAdminTextInputWidget,
    )
    #: Makes a doubled click harmless: the movement's idempotency key.
    once = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(self, data: Any, *, merchant_id: int, warehouse_id: int | None = None) -> None:
        super().__init__(data, initial={"once": uuid4(), "warehouse": warehouse_id})
        field = self.fields["warehouse"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = Warehouse.objects.filter(merchant_id=merchant_id, is_active=True).order_by("name")
        if warehouse_id is not None:
            field.queryset = Warehouse.objects.filter(merchant_id=merchant_id, pk=warehouse_id)
            field.widget = forms.HiddenInput()

    def clean_reason(self) -> str:
        reason: str = self.cleaned_data["reason"].strip()
        if not reason:
            raise forms.ValidationError("Say why: a colleague will read it.")
        return reason

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        change, counted = cleaned.get("change"), cleaned.get("counted")
        if not self.errors and (change is None) == (counted is None):
            raise forms.ValidationError("Fill in one of the two: the change, or the units counted.")
        if change == 0:
            self.add_error("change", "A change of 0 units changes nothing.")
        return cleaned


def post_adjustment(sku: Sku, cleaned: dict[str, Any], request: HttpRequest) -> int:
    """Post what the form says and return the change; 0 when the count agrees with the books.

    Raises:
        IntegrityError: the change was posted before.
        Refused: nothing can be counted there.
    """
    warehouse, user, key = cleaned["warehouse"], acting_user(request), f"adjust:{cleaned['once']}"
    if cleaned["change"] is None:
        said = counts.Counted(key, sku.code, warehouse.code, cleaned["counted"], reason=cleaned["reason"])
        (outcome,) = counts.take(
            merchant_id=sku.merchant_id,
            counts=[said],
            reporter=Reporter(user_id=user.pk),
            all_or_nothing=True,
            now=clock.now(),
        )
        for error in outcome.errors:
            raise Refused(error["field"], error["detail"])
        return outcome.correction or 0
    stock.adjust(
        merchant_id=sku.merchant_id,
        sku_id=sku.pk,
        warehouse_id=warehouse.pk,
        delta=cleaned["change"],
        reason=cleaned["reason"],
        user=user,
        now=clock.now(),
        idempotency_key=key,
    )
    return int(cleaned["change"])


def adjust_page(
    model_admin: TenantAdmin, request: HttpRequest, *, sku: Sku, warehouse: Warehouse | None, back: str
) -> HttpResponse:
    """The page that asks for an adjustment, and posts it."""
    form = AdjustForm(
        request.POST or None, merchant_id=sku.merchant_id, warehouse_id=warehouse.pk if warehouse else None
    )
    if form.is_valid():
        try:
            delta = post_adjustment(sku, form.cleaned_data, request)
        except IntegrityError:
            messages.warning(request, "This adjustment was posted already; nothing was changed again.")
        except Refused as refused:
            form.add_error(None, refused.detail)
        else:
            _tell_adjusted(request, sku, delta)
        if not form.errors:
            return HttpResponseRedirect(back)
    levels = StockLevel.objects.filter(sku=sku).select_related("warehouse").order_by("warehouse__name")
    if warehouse is not None:
        levels = levels.filter(warehouse=warehouse)
    return model_admin.form_page(
        request,
        title=f"Adjust {sku.code}",
        form=form,
        submit="Post the adjustment",
        intro="The change is written to the ledger as a movement and published to every store.",
        back=back,
        facts=[
            (
                level.warehouse.name,
                f"{level.on_hand} on hand, {level.committed} committed, {level.available} available",
            )
            for level in levels
        ],
    )


def _tell_adjusted(request: HttpRequest, sku: Sku, delta: int) -> None:
    if delta:
        messages.success(request, f"{sku.code}: {delta:+d} units posted to the ledger.")
    else:
        messages.info(request, f"{sku.code}: the count agrees with the books, so nothing was posted.")


@admin.register(Sku)
class SkuAdmin(TenantAdmin):
    form = SkuForm
    list_display = ("code", "title", "kind_badge", "on_hand", "available", "listing_count", "merchant")
    list_filter = ("kind", merchant_filter())
    list_select_related = ("merchant",)
    search_fields = ("code", "title", "barcode")
    search_help_text = "SKU, title or barcode"
    ordering = ("code",)
    autocomplete_fields = ("merchant",)
    inlines = (BomLineInline,)
    actions_detail = ("adjust_stock", "read_again")
    fieldsets = (
        (None, {"fields": ("merchant", "code", "title", "barcode", "kind", "strategy")}),
        (
            "When it runs low",
            {"fields": ("low_stock_at", ("reorder_point", "reorder_quantity"), ("lead_time_days", "safety_stock"))},
        ),
        ("Now", {"fields": ("stock_shown", "listings_shown", "movements_shown")}),
    )
    readonly_fields = ("stock_shown", "listings_shown", "movements_shown")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = list(super().get_fieldsets(request, obj))
        return fieldsets if obj else fieldsets[:2]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The totals are read for the rows shown, two queries in all, rather than joined to every SKU."""
        changelist = super().get_changelist_instance(request)
        keys = [sku.pk for sku in changelist.result_list]
        levels = StockLevel.objects.filter(sku_id__in=keys).values_list("sku_id")
        totals = {key: units for key, *units in levels.annotate(Sum("on_hand"), Sum("available")).order_by()}
        related = Sku._meta.get_field("listings").related_model
        listings = related._default_manager.filter(sku_id__in=keys, deleted_at=None).values_list("sku_id")
        counts = dict(listings.annotate(models.Count("pk")).order_by())
        for sku in changelist.result_list:
            sku.shown_units = totals.get(sku.pk, [None, None])
            sku.shown_listings = counts.get(sku.pk, 0)
        return changelist

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """A changed recipe changes how many bundles there are: they are published anew."""
        super().save_related(request, form, formsets, change)
        if any(formset.has_changed() for formset in formsets):
            for tell in stock.on_change:
                tell(form.instance.merchant_id, [form.instance.pk], uuid7(), clock.now())

    @column("kind", ordering="kind", badge={"Bundle": "info"})
    def kind_badge(self, sku: Sku) -> str:
        return sku.get_kind_display()

    @column("on hand")
    def on_hand(self, sku: Any) -> int | None:
        units: int | None = sku.shown_units[0]
        return units

    @column("available")
    def available(self, sku: Any) -> int | None:
        units: int | None = sku.shown_units[1]
        return units

    @column("listings")
    def listing_count(self, sku: Any) -> int:
        count: int = sku.shown_listings
        return count

    @column("stock")
    def stock_shown(self, sku: Sku) -> str:
        levels = StockLevel.objects.filter(sku=sku).select_related("warehouse").order_by("warehouse__name")
        return table(
            ("Warehouse", "On hand", "Committed", "Held", "Available", ""),
            [
                (
                    _link("admin:inventory_stocklevel_change", level.pk, level.warehouse.name),
                    level.on_hand,
                    level.committed,
                    level.held,
                    level.available,
                    _link("admin:inventory_stocklevel_adjust_level", level.pk, "Adjust…"),
                )
                for level in levels
            ],
            empty="No stock booked yet." if sku.kind == SkuKind.STOCKED else "A bundle has no stock of its own.",
        )

    @column("listings")
    def listings_shown(self, sku: Sku) -> str:
        related = sku.listings.filter(deleted_at=None).select_related("channel").order_by("channel__name", "pk")
        rows = list(related.prefetch_related("levels")[: LATEST_ROWS * 5])
        return table(
            ("Channel", "Title", "Shown", "Should show"),
            [
                (
                    listing.channel.name,
                    _link("admin:channels_listing_change", listing.pk, listing.title or listing.remote_sku),
                    sum(level.shown for level in listing.levels.all()),
                    sum(level.desired or 0 for level in listing.levels.all()),
                )
                for listing in rows
            ],
            empty="No listing is mapped to this SKU.",
        )

    @column("latest movements")
    def movements_shown(self, sku: Sku) -> str:
        return movements_table(StockLevel.objects.filter(sku=sku).values_list("pk", flat=True))

    @page_action("Adjust stock…", path="adjust", icon="edit_square", primary=True)
    def adjust_stock(self, request: HttpRequest, object_id: str) -> HttpResponse:
        sku = self.get_managed(request, object_id)
        back = reverse("admin:inventory_sku_change", args=[sku.pk])
        if sku.kind == SkuKind.BUNDLE:
            messages.error(request, "A bundle has no stock of its own: adjust its components.")
            return HttpResponseRedirect(back)
        return adjust_page(self, request, sku=sku, warehouse=None, back=back)

    @page_action("Read again…", path="read-again", icon="visibility")
    def read_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Its page, which belongs to the engine."""
        sku = self.get_managed(request, object_id)
        query = urlencode({"merchant": sku.merchant.slug, "sku": sku.code})
        return HttpResponseRedirect(f"{reverse('resync')}?{query}")


def table(headers: Collection[str], rows: Collection[Collection[object]], *, empty: str) -> str:
    """A small table within an object's page. Cells are escaped unless they are safe already."""
    return render_to_string("admin/lists/small_table.html", {"headers": headers, "rows": rows, "empty": empty})


def movements_table(stock_levels: Iterable[int]) -> str:
    """The newest movements of some stock levels, newest first."""
    newest: list[Movement] = []
    for key in list(stock_levels)[:LATEST_ROWS]:
        # Level by level along (stock_level, seq): sorting all movements of a busy SKU would take its whole
        # history.
        ledger = Movement.objects.filter(stock_level_id=key).select_related("user", "stock_level__warehouse")
        newest.extend(ledger.order_by("-seq")[:LATEST_ROWS])
    newest.sort(key=lambda movement: movement.pk, reverse=True)
    return table(
        ("When", "Warehouse", "Account", "Change", "After", "Cause", "For", "Story"),
        [
            (
                timezone.localtime(movement.created_at).strftime("%Y-%m-%d %H:%M:%S"),
                movement.stock_level.warehouse.name,
                movement.get_account_display(),
                f"{movement.delta:+d}",
                movement.balance_after,
                movement.get_cause_display(),
                movement.reason or movement.reference,
                story_link(movement.correlation_id),
            )
            for movement in newest[:LATEST_ROWS]
        ],
        empty="Nothing has moved yet.",
    )


# --- warehouses and stock -------------------------------------------------------------------------


@admin.register(Warehouse)
class WarehouseAdmin(TenantAdmin):
    list_display = ("name", "code", "is_active", "merchant")
    list_filter = ("is_active", merchant_filter())
    list_select_related = ("merchant",)
    search_fields = ("name", "code")
    search_help_text = "Name or code"
    ordering = ("name",)
    autocomplete_fields = ("merchant",)
    fields = ("merchant", "code", "name", "is_active")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        super().save_model(request, obj, form, change)
        if change and "is_active" in form.changed_data:
            skus = StockLevel.objects.filter(warehouse=obj).values_list("sku_id", flat=True)
            stock.tell_changed(merchant_id=obj.merchant_id, sku_ids=skus, correlation_id=uuid7(), now=clock.now())


@admin.register(StockLevel)
class StockLevelAdmin(BigTableAdmin):
    """Read-only but for the adjustment, which writes a movement."""

    list_display = (
        "sku_code",
        "warehouse",
        "on_hand",
        "committed",
        "held",
        "available_units",
        "updated_at",
        "merchant",
    )
    list_filter = (warehouse_filter(lookup="warehouse_id"), merchant_filter())
    list_select_related = ("sku", "warehouse", "merchant")
    search_fields = ("sku__code",)
    search_help_text = "Exact SKU"
    actions_detail = ("adjust_level",)
    actions_row = ("adjust_level",)
    fieldsets = (
        (None, {"fields": (("sku", "warehouse"), "merchant")}),
        ("Units", {"fields": (("on_hand", "available"), ("committed", "held"), ("seq", "updated_at"), "quota")}),
        ("Latest movements", {"fields": ("movements_shown",)}),
    )
    readonly_fields = ("movements_shown",)

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(sku_id__in=sku_ids(request, key))

    @column("SKU")
    def sku_code(self, level: StockLevel) -> str:
        return level.sku.code

    @column("available")
    def available_units(self, level: StockLevel) -> str:
        if level.available < 0:
            return format_html('<strong class="text-red-700 dark:text-red-400">{}</strong>', level.available)
        return str(level.available)

    @column("latest movements")
    def movements_shown(self, level: StockLevel) -> str:
        return movements_table([level.pk])

    @page_action("Adjust…", path="adjust", icon="edit_square", primary=True)
    def adjust_level(self, request: HttpRequest, object_id: str) -> HttpResponse:
        level = self.get_managed(request, object_id)
        back = reverse("admin:inventory_stocklevel_change", args=[level.pk])
        return adjust_page(self, request, sku=level.sku, warehouse=level.warehouse, back=back)


@admin.register(Movement)
class MovementAdmin(BigTableAdmin):
    list_display = (
        "created_at",
        "sku_code",
        "warehouse_name",
        "account",
        "change",
        "balance_after",
        "cause_badge",
        "what_for",
        "story",
    )
    list_filter = (recent("created_at"), "cause", "account", merchant_filter())
    unindexed_filters = ("cause", "account")
    list_select_related = ("stock_level__sku", "stock_level__warehouse")
    search_fields = ("correlation_id",)
    search_help_text = "Exact SKU or correlation id"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("stock_level", "seq"),
                    ("account", "delta", "balance_after"),
                    ("cause", "reference"),
                    "reason",
                )
            },
        ),
        (
            "Why and when",
            {"fields": (("user", "source", "story"), ("effective_at", "created_at"), "idempotency_key", "merchant")},
        ),
    )
    readonly_fields = ("story",)

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return by_event_or_sku(request, key)

    @column("SKU")
    def sku_code(self, movement: Movement) -> str:
        return movement.stock_level.sku.code

    @column("warehouse")
    def warehouse_name(self, movement: Movement) -> str:
        return movement.stock_level.warehouse.name

    @column("change")
    def change(self, movement: Movement) -> str:
        return f"{movement.delta:+d}"

    @column("cause", badge={"Sale": "success", "Manual adjustment": "warning", "Opening stock": "info"})
    def cause_badge(self, movement: Movement) -> str:
        return movement.get_cause_display()

    @column("for")
    def what_for(self, movement: Movement) -> str:
        return movement.reason or movement.reference

    @column("story")
    def story(self, movement: Movement) -> str:
        return story_link(movement.correlation_id)


class OpenFilter(SimpleListFilter):
    """Open shortages: a partial index holds them and nothing else."""

    title = "state"
    parameter_name = "open"

    def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("yes", "Open"), ("no", "Covered")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
        if self.value() in ("yes", "no"):
            return queryset.filter(covered_at__isnull=self.value() == "yes")
        return queryset


@admin.register(Shortage)
class ShortageAdmin(BigTableAdmin):
    list_display = (
        "occurred_at",
        "sku_code",
        "warehouse_name",
        "quantity",
        "open_units",
        "cause",
        "reference",
        "covered_at",
        "story",
    )
    list_filter = (OpenFilter, recent("created_at"), "cause", merchant_filter())
    unindexed_filters = ("cause",)
    list_select_related = ("stock_level__sku", "stock_level__warehouse")
    rare_choices = {"open": ("yes",)}
    search_fields = ("correlation_id",)
    search_help_text = "Exact SKU or correlation id"
    fields = (
        "stock_level",
        ("quantity", "quantity_covered"),
        ("cause", "reference"),
        ("occurred_at", "covered_at"),
        "story",
        "merchant",
    )
    readonly_fields = ("story",)

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return by_event_or_sku(request, key)

    @column("SKU")
    def sku_code(self, shortage: Shortage) -> str:
        return shortage.stock_level.sku.code

    @column("warehouse")
    def warehouse_name(self, shortage: Shortage) -> str:
        return shortage.stock_level.warehouse.name

    @column("still short")
    def open_units(self, shortage: Shortage) -> int:
        return shortage.quantity - shortage.quantity_covered

    @column("story")
    def story(self, shortage: Shortage) -> str:
        return story_link(shortage.correlation_id)


class WaitingFilter(SimpleListFilter):
    """Holds whose units are still held: partial indexes hold them and nothing else."""

    title = "units"
    parameter_name = "held"

    def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> list[tuple[str, str]]:
        return [
            ("yes", "Held"),
            ("order", "Held for an order on its way"),
            ("late", "Held for an order for over an hour"),
            ("no", "No longer held"),
        ]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
        if self.value() == "yes":
            return queryset.filter(state=HoldState.ACTIVE)
        if self.value() in ("order", "late"):
            waiting = queryset.filter(state=HoldState.COMMITTED, ended_at=None)
            since = timezone.now() - holds.LATE_ORDER
            return waiting.filter(committed_at__lt=since) if self.value() == "late" else waiting
        return queryset.exclude(ended_at=None) if self.value() == "no" else queryset


@admin.register(Hold)
class HoldAdmin(BigTableAdmin):
    """Made and ended through the API; here a hold can be released, with a trace."""

    list_display = (
        "created_at",
        "sku_code",
        "quantity",
        "state_badge",
        "expires_at",
        "reference",
        "order_shown",
        "story",
    )
    list_filter = (WaitingFilter, recent("created_at"), merchant_filter())
    list_select_related = ("sku", "merchant")
    rare_choices = {"held": ("yes", "order", "late")}
    search_fields = ("correlation_id",)
    search_help_text = "Exact SKU or correlation id"
    actions_detail = ("release_hold",)
    actions_row = ("release_hold",)
    fieldsets = (
        (None, {"fields": (("sku", "quantity"), ("state", "reference"), "order_shown", "parts_shown")}),
        ("When", {"fields": (("created_at", "expires_at"), ("committed_at", "ended_at"), ("closed_at", "story"))}),
        ("By whom", {"fields": (("source", "idempotency_key"), "merchant")}),
    )
    readonly_fields = ("order_shown", "parts_shown", "story")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        correlation_id = as_uuid(key)
        return Q(correlation_id=correlation_id) if correlation_id else Q(sku_id__in=sku_ids(request, key))

    @column("SKU")
    def sku_code(self, hold: Hold) -> str:
        return hold.sku.code

    @column("state", badge={"Active": "info", "Committed": "success", "Fulfilled": "success"})
    def state_badge(self, hold: Hold) -> str:
        return hold.get_state_display()

    @column("order")
    def order_shown(self, hold: Hold) -> str:
        if hold.order_channel_id is None:
            return ""
        return hold.order_id if hold.ended_at else f"{hold.order_id} (on its way)"

    @column("holds")
    def parts_shown(self, hold: Hold) -> str:
        parts = HoldPart.objects.filter(hold=hold).select_related("stock_level__sku", "stock_level__warehouse")
        return table(
            ("SKU", "Warehouse", "Units"),
            [
                (
                    _link("admin:inventory_stocklevel_change", part.stock_level_id, part.stock_level.sku.code),
                    part.stock_level.warehouse.name,
                    part.quantity,
                )
                for part in parts.order_by("pk")
            ],
            empty="Nothing.",
        )

    @column("story")
    def story(self, hold: Hold) -> str:
        return story_link(hold.correlation_id)

    @page_action("Release…", path="release", icon="lock_open", offered=lambda hold: hold.ended_at is None)
    def release_hold(self, request: HttpRequest, object_id: str) -> HttpResponse:
        hold = self.get_managed(request, object_id)
        back = reverse("admin:inventory_hold_change", args=[hold.pk])
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            released = holds.release_by_hand(
                merchant_id=hold.merchant_id,
                hold_id=hold.pk,
                reason=form.cleaned_data["reason"],
                user=acting_user(request),
                now=clock.now(),
            )
            if released:
                messages.success(request, f"Released: {hold.quantity} x {hold.sku.code} can be sold again.")
            else:
                messages.info(request, "This hold had ended already; nothing was changed.")
            return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title=f"Release {hold.quantity} x {hold.sku.code}",
            form=form,
            submit="Release the hold",
            intro="Its units can be sold again at once. The shop that asked for it is not told.",
            back=back,
            facts=[
                ("State", hold.get_state_display()),
                ("Expires", hold.expires_at),
                ("Order", self.order_shown(hold)),
            ],
        )


# --- transfers ------------------------------------------------------------------------------------


class PlaceField(ModelChoiceField):
    """A warehouse, told apart by its merchant's name when the person acts for several."""

    def label_from_instance(self, obj: Any) -> str:
        return f"{obj.name} ({obj.code})"


def _active_warehouses(request: HttpRequest) -> models.QuerySet[Warehouse]:
    """The warehouses a person may move stock in."""
    return Warehouse.objects.filter(merchant__in=managed_merchants(request), is_active=True).order_by("name")


def _is_in_transit(transfer: Transfer) -> bool:
    return transfer.state == TransferState.IN_TRANSIT


def _moment_field(label: str) -> forms.DateTimeField:
    """When it happened, for those who write it down afterwards."""
    return forms.DateTimeField(
        label=label,
        required=False,
        help_text="Leave it empty for now. A count taken after that moment has seen it.",
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"],
        widget=widgets.UnfoldAdminTextInputWidget(attrs={"type": "datetime-local"}),
    )


class SendForm(forms.Form):
    """Which units leave which warehouse for which."""

    origin = PlaceField(queryset=Warehouse.objects.none(), label="From", widget=widgets.UnfoldAdminSelectWidget)
    destination = PlaceField(queryset=Warehouse.objects.none(), label="To", widget=widgets.UnfoldAdminSelectWidget)
    units = forms.CharField(
        label="What",
        help_text="A SKU and a quantity per line, such as: MUG-BLUE, 12",
        widget=widgets.UnfoldAdminTextareaWidget,
        max_length=200_000,
    )
    reference = forms.CharField(max_length=200, required=False, widget=widgets.UnfoldAdminTextInputWidget)
    allow_shortage = forms.BooleanField(
        required=False,
        label="They have left already",
        help_text="Send them even if the books say that they are sold or not there.",
        widget=widgets.UnfoldBooleanWidget,
    )
    effective_at = _moment_field("Left at")
    #: Makes a doubled click harmless: the transfer's own id.
    once = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(self, data: Any, *, request: HttpRequest) -> None:
        super().__init__(data, initial={"once": uuid4()})
        for name in ("origin", "destination"):
            field = self.fields[name]
            assert isinstance(field, forms.ModelChoiceField)
            field.queryset = _active_warehouses(request)

    def clean_units(self) -> list[transfers.Units]:
        sheet = sheets.read(self.cleaned_data["units"], quantity_min=1)
        if sheet.errors:
            raise forms.ValidationError(sheet.errors[:ERRORS_SHOWN])
        return [transfers.Units(row.sku, row.quantity) for row in sheet.rows]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        origin, destination = cleaned.get("origin"), cleaned.get("destination")
        if origin and destination and origin.merchant_id != destination.merchant_id:
            raise forms.ValidationError("Both warehouses must be the same merchant's.")
        return cleaned


class ReceiveForm(forms.Form):
    """How many of each SKU arrived."""

    effective_at = _moment_field("Arrived at")
    once = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(self, data: Any, *, lines: Iterable[TransferLine]) -> None:
        super().__init__(data, initial={"once": uuid4()})
        self.skus: dict[str, str] = {}
        for line in lines:
            if line.in_transit:
                name = f"line_{line.pk}"
                self.skus[name] = line.sku.code
                self.fields[name] = forms.IntegerField(
                    label=line.sku.code,
                    initial=line.in_transit,
                    min_value=0,
                    max_value=line.in_transit,
                    help_text=f"{line.in_transit} in transit.",
                    widget=widgets.UnfoldAdminIntegerFieldWidget,
                )

    def units(self) -> list[transfers.Units]:
        """What the form says has arrived."""
        said = self.cleaned_data
        return [transfers.Units(sku, said[name]) for name, sku in self.skus.items() if said[name]]


class NeededReasonForm(ReasonForm):
    """Asks why, and takes no silence for an answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["reason"].required = True


@admin.register(Transfer)
class TransferAdmin(BigTableAdmin):
    """Sent, received and cancelled through `inventory.transfers`."""

    list_display = ("sent_at", "origin", "destination", "state_badge", "in_transit", "reference", "merchant")
    list_filter = ("state", merchant_filter())
    list_select_related = ("origin", "destination", "merchant")
    rare_choices = {"state__exact": ("in_transit",)}
    unindexed_filters = ()
    search_fields = ("uid",)
    search_help_text = "Exact transfer id"
    actions_list = ("send_units",)
    actions_detail = ("receive_units", "cancel_transfer")
    fields = (
        ("origin", "destination"),
        ("state_badge", "reference"),
        "lines_shown",
        ("sent_at", "closed_at"),
        ("user", "source"),
        ("uid", "story"),
        "merchant",
    )
    readonly_fields = ("state_badge", "lines_shown", "story")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        return super().get_queryset(request).prefetch_related("lines__sku")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        uid = as_uuid(key)
        return Q(uid=uid) if uid else None

    @column("state", badge={"In Transit": "info", "Received": "success", "Cancelled": "warning"})
    def state_badge(self, transfer: Transfer) -> str:
        return transfer.get_state_display()

    @column("units in transit")
    def in_transit(self, transfer: Transfer) -> int:
        return sum(line.in_transit for line in transfer.lines.all())

    @column("units")
    def lines_shown(self, transfer: Transfer) -> str:
        return table(
            ("SKU", "Sent", "Received", "Taken back", "In transit"),
            [
                (line.sku.code, line.quantity, line.received, line.returned, line.in_transit)
                for line in transfer.lines.all()
            ],
            empty="",
        )

    @column("story")
    def story(self, transfer: Transfer) -> str:
        return story_link(transfer.correlation_id)

    @page_action("Send a transfer…", path="send", icon="local_shipping", primary=True)
    def send_units(self, request: HttpRequest) -> HttpResponse:
        form = SendForm(request.POST or None, request=request)
        if form.is_valid():
            asked = form.cleaned_data
            try:
                transfer = transfers.send(
                    merchant_id=asked["origin"].merchant_id,
                    origin=asked["origin"].code,
                    destination=asked["destination"].code,
                    units=asked["units"],
                    reference=asked["reference"],
                    allow_shortage=asked["allow_shortage"],
                    actor=transfers.Actor(user=acting_user(request)),
                    now=clock.now(),
                    effective_at=asked["effective_at"],
                    uid=asked["once"],
                )
            except transfers.TransferRefused as refused:
                form.add_error(None, [error["detail"] for error in refused.errors[:ERRORS_SHOWN]])
            except IntegrityError:
                messages.warning(request, "This transfer was sent already; nothing was sent again.")
                return HttpResponseRedirect(reverse("admin:inventory_transfer_changelist"))
            else:
                messages.success(request, "The units are in transit: in no warehouse until they are received.")
                return HttpResponseRedirect(reverse("admin:inventory_transfer_change", args=[transfer.pk]))
        return self.form_page(
            request,
            title="Send a transfer",
            form=form,
            submit="Send it",
            intro="The units leave the first warehouse now. No store sells them until the second has received them.",
            back=reverse("admin:inventory_transfer_changelist"),
        )

    @page_action("Receive…", path="receive", icon="inventory", primary=True, offered=_is_in_transit)
    def receive_units(self, request: HttpRequest, object_id: str) -> HttpResponse:
        transfer = self.get_managed(request, object_id)
        back = reverse("admin:inventory_transfer_change", args=[transfer.pk])
        form = ReceiveForm(request.POST or None, lines=transfer.lines.all())
        if not form.skus:
            messages.info(request, "Nothing of this transfer is in transit any more.")
            return HttpResponseRedirect(back)
        if form.is_valid():
            try:
                transfers.receive(
                    transfer=transfer,
                    units=form.units(),
                    actor=transfers.Actor(user=acting_user(request)),
                    now=clock.now(),
                    effective_at=form.cleaned_data["effective_at"],
                    once=str(form.cleaned_data["once"]),
                )
            except transfers.TransferRefused as refused:
                form.add_error(None, [error["detail"] for error in refused.errors[:ERRORS_SHOWN]])
            except IntegrityError:
                messages.warning(request, "This arrival was booked already; nothing was changed again.")
                return HttpResponseRedirect(back)
            else:
                messages.success(request, f"Received into {transfer.destination}.")
                return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title=f"Receive into {transfer.destination}",
            form=form,
            submit="Receive",
            intro="What did not arrive yet stays in transit. What got lost: cancel the rest, then write it off.",
            back=back,
        )

    @page_action("Cancel…", path="cancel", icon="undo", offered=_is_in_transit)
    def cancel_transfer(self, request: HttpRequest, object_id: str) -> HttpResponse:
        transfer = self.get_managed(request, object_id)
        back = reverse("admin:inventory_transfer_change", args=[transfer.pk])
        form = NeededReasonForm(request.POST or None)
        if form.is_valid():
            try:
                transfers.cancel(
                    transfer=transfer,
                    reason=form.cleaned_data["reason"],
                    actor=transfers.Actor(user=acting_user(request)),
                    now=clock.now(),
                )
            except transfers.TransferRefused as refused:
                messages.warning(request, str(refused))
            else:
                messages.success(request, f"What was in transit is back in {transfer.origin}.")
            return HttpResponseRedirect(back)
        return self.form_page(
            request,
            title="Cancel the transfer",
            form=form,
            submit="Take the units back",
            intro=f"What is in transit goes back into {transfer.origin}. What was received stays where it is.",
            back=back,
            facts=[(line.sku.code, f"{line.in_transit} in transit") for line in transfer.lines.all()],
        )


# --- counts ---------------------------------------------------------------------------------------


class CountForm(forms.Form):
    """What was counted in a warehouse, typed or as a file; shown against the books before it is booked."""

    warehouse = PlaceField(queryset=Warehouse.objects.none(), widget=widgets.UnfoldAdminSelectWidget)
    sheet = forms.CharField(
        label="Counted",
        required=False,
        max_length=200_000,
        help_text="A SKU and a quantity per line. All units in the warehouse, sold but not yet shipped ones included.",
        widget=widgets.UnfoldAdminTextareaWidget,
    )
    file = forms.FileField(
        required=False,
        label="or a CSV file",
        help_text="With the columns SKU and quantity.",
        widget=widgets.UnfoldAdminFileFieldWidget,
    )
    reason = forms.CharField(max_length=500, label="Reason", widget=widgets.UnfoldAdminTextInputWidget)
    #: When the counting page was opened the first time; movements after it are added to the count.
    counted_at = forms.DateTimeField(widget=forms.HiddenInput, input_formats=["%Y-%m-%dT%H:%M:%S.%f%z"])
    #: Makes a doubled click harmless: the beginning of the counts' keys.
    once = forms.UUIDField(widget=forms.HiddenInput)
    #: The sheet that the person has seen against the books.
    seen = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, data: Any, files: Any, *, request: HttpRequest) -> None:
        now = clock.now().strftime("%Y-%m-%dT%H:%M:%S.%f%z")
        super().__init__(data, files, initial={"once": uuid4(), "counted_at": now})
        field = self.fields["warehouse"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = _active_warehouses(request)

    def clean_file(self) -> str:
        """The file's text. A spreadsheet's own format is told apart from a broken one by its words only."""
        file = self.cleaned_data["file"]
        if file is None:
            return ""
        if file.size > 200_000:
            raise forms.ValidationError("A sheet has 200,000 bytes at most. Split it.")
        try:
            text: str = file.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise forms.ValidationError("This is no CSV file in UTF-8. Save the sheet as CSV (UTF-8).") from None
        return text

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        text = cleaned["file"] or cleaned["sheet"]
        sheet = sheets.read(text, quantity_min=0)
        if sheet.errors:
            raise forms.ValidationError(sheet.errors[:ERRORS_SHOWN])
        if not sheet.rows:
            raise forms.ValidationError("Type what was counted, or choose a file.")
        place, moment = cleaned["warehouse"], cleaned["counted_at"]
        cleaned["text"] = text
        cleaned["counts"] = [
            counts.Counted(
                f"{cleaned['once']}:{row.number}", row.sku, place.code, row.quantity, moment, cleaned["reason"]
            )
            for row in sheet.rows
        ]
        return cleaned


@admin.register(StockCount)
class StockCountAdmin(BigTableAdmin):
    """Booked through `inventory.counts`."""

    list_display = ("counted_at", "sku_code", "warehouse_name", "quantity", "correction_shown", "state_badge", "story")
    list_filter = (recent("created_at"), "state", merchant_filter())
    unindexed_filters = ("state",)
    list_select_related = ("stock_level__sku", "stock_level__warehouse")
    search_fields = ("correlation_id",)
    search_help_text = "Exact SKU or correlation id"
    actions_list = ("enter_counts",)
    fields = (
        ("stock_level", "quantity"),
        ("state_badge", "correction"),
        ("counted_at", "said_at", "created_at"),
        "reason",
        ("user", "source"),
        ("idempotency_key", "story"),
        "merchant",
    )
    readonly_fields = ("state_badge", "story")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return by_event_or_sku(request, key)

    @column("SKU")
    def sku_code(self, count: StockCount) -> str:
        return count.stock_level.sku.code

    @column("warehouse")
    def warehouse_name(self, count: StockCount) -> str:
        return count.stock_level.warehouse.name

    @column("difference")
    def correction_shown(self, count: StockCount) -> str:
        return f"{count.correction:+d}" if count.correction else "none"

    @column("state", badge={"Applied": "success", "Superseded by a newer count": "warning"})
    def state_badge(self, count: StockCount) -> str:
        return count.get_state_display()

    @column("story")
    def story(self, count: StockCount) -> str:
        return story_link(count.correlation_id)

    @page_action("Enter counts…", path="enter", icon="checklist", primary=True)
    def enter_counts(self, request: HttpRequest) -> HttpResponse:
        """Two steps: the differences from the books are shown first, and booked when they have been seen."""
        is_sent = request.method == "POST"
        form = CountForm(request.POST if is_sent else None, request.FILES if is_sent else None, request=request)
        facts: list[tuple[str, str]] = []
        submit = "Compare with the books"
        if form.is_valid():
            asked = form.cleaned_data
            merchant_id, now = asked["warehouse"].merchant_id, clock.now()
            fingerprint = hashlib.sha256(f"{asked['warehouse'].pk}:{asked['text']}".encode()).hexdigest()
            if asked["seen"] == fingerprint:
                booked = counts.take(
                    merchant_id=merchant_id,
                    counts=asked["counts"],
                    reporter=Reporter(user_id=acting_user(request).pk),
                    all_or_nothing=True,
                    now=now,
                )
                refused = [outcome for outcome in booked if outcome.status == "refused"]
                if not refused:
                    changed = sum(bool(outcome.correction) for outcome in booked)
                    messages.success(request, f"{len(booked)} counts booked; {changed} differed from the books.")
                    return HttpResponseRedirect(reverse("admin:inventory_stockcount_changelist"))
            else:
                booked = counts.preview(merchant_id=merchant_id, counts=asked["counts"], now=now)
                refused = [outcome for outcome in booked if outcome.status == "refused"]
            for outcome in refused[:ERRORS_SHOWN]:
                line = outcome.key.rpartition(":")[2]
                form.add_error(None, f"Line {line}: {outcome.errors[0]['detail']}")
            if not refused:
                facts = [
                    (count.sku, _told_difference(count, outcome))
                    for count, outcome in zip(asked["counts"], booked, strict=True)
                ]
                submit = "Book the counts"
                form.data = {**request.POST.dict(), "seen": fingerprint, "sheet": asked["text"]}
        return self.form_page(
            request,
            title="Enter counts",
            form=form,
            submit=submit,
            intro="What was counted becomes what is on hand as of when this page was opened; what moved since is added. "
            "The differences from the books are shown before anything is booked.",
            back=reverse("admin:inventory_stockcount_changelist"),
            facts=facts,
        )


def _told_difference(count: counts.Counted, outcome: counts.Outcome) -> str:
    if outcome.status == CountState.SUPERSEDED:
        return f"{count.quantity} counted; a newer count stands, so nothing is moved"
    if not outcome.correction:
        return f"{count.quantity} counted, as the books say"
    return f"{count.quantity} counted, {outcome.correction:+d} against the books"


# --- webhook endpoints ----------------------------------------------------------------------------


class EndpointForm(forms.Form):
    """Where to tell of changes, and of which not."""

    merchant = forms.ModelChoiceField(
        queryset=Merchant.objects.none(), widget=widgets.UnfoldAdminSelectWidget, empty_label=None
    )
    url = forms.URLField(
        label="Address",
        max_length=500,
        assume_scheme="https",
        help_text="An address of yours that takes POST, with https.",
        widget=widgets.UnfoldAdminURLInputWidget,
    )
    description = forms.CharField(max_length=120, required=False, widget=widgets.UnfoldAdminTextInputWidget)
    skipped_key = forms.ModelChoiceField(
        queryset=ApiKey.objects.none(),
        required=False,
        label="But not of changes made with",
        help_text="The API key of the program behind this address, so that it does not hear its own echo.",
        widget=widgets.UnfoldAdminSelectWidget,
    )

    def __init__(self, data: Any, *, request: HttpRequest) -> None:
        super().__init__(data)
        merchants, api_keys = self.fields["merchant"], self.fields["skipped_key"]
        assert isinstance(merchants, forms.ModelChoiceField)
        assert isinstance(api_keys, forms.ModelChoiceField)
        merchants.queryset = managed_merchants(request)
        api_keys.queryset = ApiKey.objects.filter(merchant__in=merchants.queryset, revoked_at=None).order_by("name")
        sole = sole_merchant_id(request)
        if sole is not None:
            merchants.initial, merchants.widget = sole, forms.HiddenInput()

    def clean_url(self) -> str:
        url: str = self.cleaned_data["url"]
        try:
            delivery.check_url(url)
        except delivery.EndpointRefused as refused:
            raise forms.ValidationError(str(refused)) from None
        return url

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        merchant, key = cleaned.get("merchant"), cleaned.get("skipped_key")
        if merchant and key and key.merchant_id != merchant.pk:
            self.add_error("skipped_key", "This key is another merchant's.")
        if merchant and WebhookEndpoint.objects.filter(merchant=merchant, url=cleaned.get("url")).exists():
            self.add_error("url", "This address is told already.")
        return cleaned


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ReadOnlyAdmin):
    """Written by `inventory.delivery`."""

    list_display = ("name", "url", "state_badge", "failures", "last_delivered_at", "merchant")
    list_filter = ("state", merchant_filter())
    list_select_related = ("merchant",)
    search_fields = ("url", "description")
    search_help_text = "Address or description"
    actions_list = ("add_endpoint",)
    actions_detail = ("switch_on_page", "switch_off_page", "rotate_page")
    fields = (
        ("url", "description"),
        ("state_badge", "state_reason"),
        "skipped_key",
        ("failures", "failing_since", "next_attempt_at"),
        ("last_delivered_at", "previous_until", "created_at"),
        "deliveries_shown",
        "merchant",
    )
    readonly_fields = ("state_badge", "deliveries_shown")

    @column("name")
    def name(self, endpoint: WebhookEndpoint) -> str:
        return str(endpoint)

    @column(
        "state", badge={"Active": "success", "Switched off": "warning", "Switched off: it did not answer": "danger"}
    )
    def state_badge(self, endpoint: WebhookEndpoint) -> str:
        return endpoint.get_state_display()

    @column("latest messages")
    def deliveries_shown(self, endpoint: WebhookEndpoint) -> str:
        newest = WebhookDelivery.objects.filter(endpoint=endpoint).order_by("-id")[:LATEST_ROWS]
        return table(
            ("When", "Message", "Levels", "State", "Attempts", "Answer"),
            [
                (
                    timezone.localtime(message.created_at).strftime("%Y-%m-%d %H:%M:%S"),
                    _link("admin:inventory_webhookdelivery_change", message.pk, message.message_id),
                    message.changes,
                    message.get_state_display(),
                    message.attempts,
                    message.answer,
                )
                for message in newest
            ],
            empty="Nothing has changed since it was added.",
        )

    @page_action("Add an endpoint…", path="new-endpoint", icon="webhook", primary=True)
    def add_endpoint(self, request: HttpRequest) -> HttpResponse:
        form = EndpointForm(request.POST or None, request=request)
        if form.is_valid():
            endpoint, secret = delivery.create(**form.cleaned_data, user=acting_user(request))
            return self._show_secret(request, endpoint, secret, title=f"The secret of {endpoint}")
        return self.form_page(
            request,
            title="Add a webhook endpoint",
            form=form,
            submit="Add it",
            intro="It is told of every change of stock from now on, signed after Standard Webhooks. The secret is shown "
            "once, on the next page.",
            back=reverse("admin:inventory_webhookendpoint_changelist"),
        )

    @page_action(
        "Switch on…",
        path="on",
        icon="play_arrow",
        primary=True,
        offered=lambda endpoint: endpoint.state != EndpointState.ACTIVE,
    )
    def switch_on_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(
            request,
            object_id,
            title="Switch on {}",
            submit="Switch it on",
            intro="It is told what it missed first, with the numbers of now.",
            act=lambda endpoint, user, _: delivery.switch_on(endpoint, user=user, now=timezone.now()),
            done="{} is told of changes again.",
        )

    @page_action(
        "Switch off…",
        path="off",
        icon="pause",
        offered=lambda endpoint: endpoint.state == EndpointState.ACTIVE,
    )
    def switch_off_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._ask(
            request,
            object_id,
            title="Switch off {}",
            submit="Switch it off",
            intro="It is told nothing more. What it misses is told when it is switched on again.",
            act=lambda endpoint, user, reason: delivery.switch_off(endpoint, user=user, reason=reason),
            done="{} is told nothing more.",
        )

    @page_action("New secret…", path="rotate", icon="key")
    def rotate_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        endpoint = self.get_managed(request, object_id)
        back = reverse("admin:inventory_webhookendpoint_change", args=[endpoint.pk])
        if request.method == "POST":
            secret = delivery.rotate_secret(endpoint, user=acting_user(request), now=timezone.now())
            return self._show_secret(request, endpoint, secret, title=f"The new secret of {endpoint}")
        return self.form_page(
            request,
            title=f"A new secret for {endpoint}",
            form=forms.Form(),
            submit="Make a new secret",
            intro="For 24 hours messages carry two signatures, one of the old secret and one of the new. Change yours "
            "meanwhile. A secret before the old one ends at once.",
            back=back,
        )

    def _show_secret(
        self, request: HttpRequest, endpoint: WebhookEndpoint, secret: Secret, *, title: str
    ) -> HttpResponse:
        return self.secret_page(
            request,
            title=title,
            secret=secret,
            intro="Check the signature of every message with it (webhook-signature, HMAC-SHA256).",
            back=reverse("admin:inventory_webhookendpoint_change", args=[endpoint.pk]),
            facts=[("Address", endpoint.url)],
        )

    def _ask(
        self,
        request: HttpRequest,
        object_id: str,
        *,
        title: str,
        submit: str,
        intro: str,
        act: Callable[[WebhookEndpoint, User, str], None],
        done: str,
    ) -> HttpResponse:
        endpoint = self.get_managed(request, object_id)
        back = reverse("admin:inventory_webhookendpoint_change", args=[endpoint.pk])
        form = ReasonForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            act(endpoint, acting_user(request), form.cleaned_data["reason"])
            messages.success(request, done.format(endpoint))
            return HttpResponseRedirect(back)
        facts = [("Address", endpoint.url), ("Failures in a row", endpoint.failures)]
        return self.form_page(
            request, title=title.format(endpoint), form=form, submit=submit, intro=intro, back=back, facts=facts
        )


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(BigTableAdmin):
    list_display = ("created_at", "endpoint", "message_id", "changes", "state_badge", "attempts", "answer", "merchant")
    list_filter = (recent("created_at"), "state", merchant_filter())
    unindexed_filters = ("state",)
    list_select_related = ("endpoint", "merchant")
    search_fields = ("message_id",)
    search_help_text = "Exact message id"
    fields = (
        ("endpoint", "message_id"),
        ("state_badge", "attempts", "answer"),
        ("created_at", "settled_at"),
        "body_shown",
        "merchant",
    )
    readonly_fields = ("state_badge", "body_shown")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        return Q(message_id=key)

    @column("state", badge={"On its way": "info", "Delivered": "success", "Replaced by a newer one": ""})
    def state_badge(self, message: WebhookDelivery) -> str:
        return message.get_state_display()

    @column("message")
    def body_shown(self, message: WebhookDelivery) -> str:
        return pretty_json(json.loads(message.body))
