"""Admin of SKUs, bundles, warehouses and the ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any
from uuid import uuid4

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import ModelAdmin as PlainModelAdmin
from django.contrib.admin import SimpleListFilter
from django.db import IntegrityError, models, transaction
from django.db.models import Q, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold import widgets

from inventory import holds, stock
from inventory.bom import find_cycle
from inventory.models import (
    BomLine,
    Hold,
    HoldPart,
    HoldState,
    Movement,
    Shortage,
    Sku,
    SkuKind,
    StockLevel,
    Warehouse,
)
from merchants.admin_base import (
    BigTableAdmin,
    ReasonForm,
    TenantAdmin,
    TenantForm,
    TenantInline,
    TenantInlineFormSet,
    acting_user,
    as_uuid,
    column,
    merchant_filter,
    page_action,
    recent,
    story_link,
    visible_merchant_ids,
)
from merchants.admin_lists import choice_filter
from synctec.lib.ids import uuid7

#: Rows of a history shown within another row's page.
LATEST_ROWS = 20


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
        if self.instance.pk:
            refuse_cycle(self.instance, components)


def _is_kept(form: Any, formset: Any) -> bool:
    return bool(form.cleaned_data) and form not in formset.deleted_forms


def refuse_cycle(bundle: Sku, components: Collection[Sku]) -> None:
    """Refuse components that would make the bundle contain itself, through however many levels.

    Raises:
        ValidationError: naming the way round, such as A > B > A.
    """
    edges: dict[int, list[int]] = {bundle.pk: [component.pk for component in components]}
    frontier = set(edges[bundle.pk]) - {bundle.pk}
    while frontier:
        below: set[int] = set()
        for parent, child in BomLine.objects.filter(bundle_id__in=frontier).values_list("bundle_id", "component_id"):
            edges.setdefault(parent, []).append(child)
            below.add(child)
        frontier = below - set(edges)
    cycle = find_cycle(edges, bundle.pk)
    if cycle:
        codes = dict(Sku.objects.filter(pk__in=cycle).values_list("pk", "code"))
        way = " > ".join(codes[key] for key in cycle)
        raise forms.ValidationError(f"The bundle would contain itself: {way}. Remove a component on this way.")


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


@transaction.atomic
def post_adjustment(sku: Sku, cleaned: dict[str, Any], request: HttpRequest) -> int:
    """Post what the form says and return the change; 0 when the count agrees with the books."""
    delta = cleaned["change"]
    if delta is None:
        # The count is compared with the books under the lock that the posting takes too.
        level = StockLevel.objects.select_for_update(of=("self",)).filter(sku=sku, warehouse=cleaned["warehouse"])
        delta = cleaned["counted"] - next(iter(level.values_list("on_hand", flat=True)), 0)
    if delta:
        stock.adjust(
            merchant_id=sku.merchant_id,
            sku_id=sku.pk,
            warehouse_id=cleaned["warehouse"].pk,
            delta=delta,
            reason=cleaned["reason"],
            user=acting_user(request),
            now=timezone.now(),
            idempotency_key=f"adjust:{cleaned['once']}",
        )
    return int(delta)


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
        else:
            _tell_adjusted(request, sku, delta)
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
    actions_detail = ("adjust_stock",)
    fieldsets = (
        (None, {"fields": ("merchant", "code", "title", "barcode", "kind", "strategy")}),
        ("Now", {"fields": ("stock_shown", "listings_shown", "movements_shown")}),
    )
    readonly_fields = ("stock_shown", "listings_shown", "movements_shown")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = list(super().get_fieldsets(request, obj))
        return fieldsets if obj else fieldsets[:1]

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
                tell(form.instance.merchant_id, [form.instance.pk], uuid7(), timezone.now())

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
            {"fields": (("user", "story"), ("effective_at", "created_at"), "idempotency_key", "merchant")},
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
        return [("yes", "Held"), ("order", "Held for an order on its way"), ("no", "No longer held")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
        if self.value() == "yes":
            return queryset.filter(state=HoldState.ACTIVE)
        if self.value() == "order":
            return queryset.filter(state=HoldState.COMMITTED, ended_at=None)
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
    rare_choices = {"held": ("yes", "order")}
    search_fields = ("correlation_id",)
    search_help_text = "Exact SKU or correlation id"
    actions_detail = ("release_hold",)
    actions_row = ("release_hold",)
    fieldsets = (
        (None, {"fields": (("sku", "quantity"), ("state", "reference"), "order_shown", "parts_shown")}),
        ("When", {"fields": (("created_at", "expires_at"), ("ended_at", "story"), "idempotency_key", "merchant")}),
    )
    readonly_fields = ("order_shown", "parts_shown", "story")

    def find(self, request: HttpRequest, key: str) -> Q | None:
        correlation_id = as_uuid(key)
        return Q(correlation_id=correlation_id) if correlation_id else Q(sku_id__in=sku_ids(request, key))

    @column("SKU")
    def sku_code(self, hold: Hold) -> str:
        return hold.sku.code

    @column("state", badge={"Active": "info", "Committed": "success"})
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

    @page_action("Release…", path="release", icon="lock_open")
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
                now=timezone.now(),
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
