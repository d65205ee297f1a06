"""Admin of location groups, their mapping matrix, and publishing rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from channels.admin import channel_filter
from channels.models import Channel, ChannelState
from locations import impact, matrix
from locations.impact import Impact
from locations.models import GroupLocation, GroupWarehouse, LocationGroup, PublishingRule, Weighting
from locations.pace import UNKNOWN_PROPAGATION_SECONDS, threshold
from locations.publishing import Policy
from merchants.admin_base import (
    ReasonForm,
    TenantAdmin,
    TenantForm,
    TenantInline,
    TenantInlineFormSet,
    acting_user,
    column,
    merchant_filter,
    page_action,
)


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """One input of the matrix as shown."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One store location and its cells, in the order of the warehouses."""

    title: str
    cells: tuple[MatrixCell, ...]


def cell_name(store_location_id: int, warehouse_id: int) -> str:
    """The name of a cell's input."""
    return f"cell-{store_location_id}-{warehouse_id}"


#: The policies in a merchant's words, with what each costs.
POLICIES = [
    (
        "Shared: every store shows the whole pool, so nothing is hidden from anybody. What is sold in one store goes from "
        "the others about a second later; a sale made elsewhere in that second can be one unit too many. Each such unit "
        "is listed as a shortage.",
    ),
    (
        "Guard: shared while more units are left than can be sold before the news has gone round; below that, and for a "
        "store that cannot be reached, split. Only a rush larger than ever expected can oversell. This is the right "
        "choice for most.",
    ),
    (
        "Split: every unit is for sale in one store only, so that no unit is sold twice, whatever is late or broken. The "
        "price: a store can show 0 while another still has some, until units have been moved over.",
    ),
]

#: Paces of which the group's page tells the threshold: how they are called, and units per second.
PACES = [("once a day", 1 / 86_400), ("once an hour", 1 / 3600), ("once a minute", 1 / 60), ("once a second", 1.0)]


#: What the page that asks adds to the fields of the form it repeats: how many changes somebody has seen.
SEEN = "_seen"


class AskFirst(Exception):
    """The change is large, and nobody has seen yet what stores would be told. Undoes it."""

    def __init__(self, foreseen: Impact, problem: str = "") -> None:
        super().__init__(problem)
        self.impact = foreseen
        self.problem = problem


class AsksFirst(TenantAdmin):
    """Forms that show what stores would be told before a large change is made; going on then confirms just that."""

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except AskFirst as asked:
            return self._ask_first(request, asked)

    def weigh(self, request: HttpRequest, row: Any, sku_ids: Sequence[int] | None = None) -> None:
        """The last step of saving. Raises AskFirst, which undoes all of it."""
        foreseen = impact.ask(row.merchant_id, sku_ids)
        if not foreseen.is_large:
            return
        seen, reason = request.POST.get(SEEN, ""), ReasonForm(request.POST)
        if not (seen.isascii() and seen.isdigit() and len(seen) < 10):
            raise AskFirst(foreseen)
        if not reason.is_valid():
            raise AskFirst(foreseen, "The reason is too long.")
        if abs(foreseen.size - int(seen)) > max(5, int(seen) // 10):
            raise AskFirst(foreseen, f"{foreseen.size:,} levels would change by now, not {int(seen):,}: look again.")
        name = self.opts.verbose_name
        impact.confirm(foreseen, f"{str(name).capitalize()} {row}", acting_user(request), reason.cleaned_data["reason"])

    def _ask_first(self, request: HttpRequest, asked: AskFirst) -> HttpResponse:
        """Everything that was typed in goes along, to be sent again as it is."""
        form = ReasonForm()
        for name, values in request.POST.lists():
            if name not in (SEEN, "_do", "csrfmiddlewaretoken", *form.fields):
                hidden = forms.MultipleHiddenInput() if len(values) > 1 else forms.HiddenInput()
                form.fields[name] = forms.CharField(
                    widget=hidden, required=False, initial=values if len(values) > 1 else values[0]
                )
        form.fields[SEEN] = forms.CharField(widget=forms.HiddenInput, initial=str(asked.impact.size))
        if asked.problem:
            messages.error(request, asked.problem)
        return self.form_page(
            request,
            title="This changes much: look before it is saved",
            form=form,
            submit="Save, and let the stores show it",
            intro="Nothing is saved yet. This is what the stores would be told, with the stock as it is now. It is more than "
            "is let through without somebody's word; saving it here is that word, so it is not held afterwards.",
            back=request.get_full_path(),
            facts=[(channel.name, channel.in_words) for channel in asked.impact.channels],
        )


class GroupForm(TenantForm):
    """A group with its matrix: the cells are inputs of the same page, checked together with its fields."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "policy" in self.fields:
            self.fields["policy"].help_text = format_html("<ul>{}</ul>", format_html_join("", "<li>{}</li>", POLICIES))
        self.cells: dict[tuple[int, int], int] = {}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        self.cells = read_cells(self.data)
        refuse_bad_weight(self, "holds_weight")
        if cleaned.get("policy") == Policy.GUARD and cleaned.get("guard_units") == 0:
            self.add_error(
                "guard_units", "At 0 nothing is ever divided. Leave it empty, give at least 1, or choose shared."
            )
        return cleaned


def read_cells(data: Mapping[str, Any]) -> dict[tuple[int, int], int]:
    """The priorities given; an empty cell means that the store location does not draw on that warehouse.

    Raises:
        ValidationError: a priority is no whole number from 1 up, or a store location has one twice.
    """
    cells: dict[tuple[int, int], int] = {}
    seen: set[tuple[int, int]] = set()
    for name, value in data.items():
        kind, _, rest = name.partition("-")
        location, _, warehouse = rest.partition("-")
        text = str(value).strip()
        if kind != "cell" or not location.isdecimal() or not warehouse.isdecimal() or not text:
            continue
        if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:6]) <= 32_767:
            raise ValidationError(f"The matrix has “{text[:20]}” in a cell. Priorities are whole numbers from 1 up.")
        key, priority = (int(location), int(warehouse)), int(text)
        if (key[0], priority) in seen:
            raise ValidationError(
                f"A store location has priority {priority} twice. Give each of its warehouses a priority of its own."
            )
        seen.add((key[0], priority))
        cells[key] = priority
    return cells


def refuse_bad_weight(form: Any, name: str) -> None:
    """Weights are 0 or comparable: one that is a millionth of another was a slip of the hand."""
    weight = form.cleaned_data.get(name)
    if weight is not None and not (weight == 0 or 0.01 <= weight <= 10_000):
        form.add_error(name, "Give a weight from 0.01 to 10,000, or 0 for no share at all.")


class GroupLocationForm(TenantForm):
    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        refuse_bad_weight(self, "weight")
        return cleaned


class GroupLocationFormSet(TenantInlineFormSet):
    """The store locations of a group: somebody has to get the units that are divided."""

    def clean(self) -> None:
        super().clean()
        group = self.instance
        if group.policy == Policy.SHARED or group.weighting == Weighting.VELOCITY:
            return
        kept = [form for form in self.forms if form not in self.deleted_forms and form.cleaned_data]
        weights = [form.cleaned_data.get("weight") for form in kept]
        if weights and not any(weights):
            raise ValidationError(
                "Weight: all store locations have 0, so divided units would be for sale nowhere. Give one more than 0."
            )


class GroupLocationInline(TenantInline):
    model = GroupLocation
    form = GroupLocationForm
    formset = GroupLocationFormSet
    autocomplete_fields = ("store_location",)
    fields = ("store_location", "weight")
    verbose_name_plural = "store locations"


class GroupWarehouseInline(TenantInline):
    model = GroupWarehouse
    autocomplete_fields = ("warehouse",)
    fields = ("warehouse",)
    verbose_name_plural = "warehouses"


@admin.register(LocationGroup)
class LocationGroupAdmin(AsksFirst):
    form = GroupForm
    list_display = ("name", "policy", "location_count", "warehouse_count", "merchant")
    list_filter = ("policy", merchant_filter())
    list_select_related = ("merchant",)
    search_fields = ("name",)
    search_help_text = "Name"
    ordering = ("name",)
    autocomplete_fields = ("merchant",)
    readonly_fields = ("threshold_in_force",)
    fieldsets = (
        (None, {"fields": ("merchant", "name", "policy", "routing")}),
        ("Guard", {"fields": ("guard_units", "threshold_in_force")}),
        ("While units are divided", {"fields": ("weighting", "holds_weight", "allows_split_shipment")}),
    )
    inlines = (GroupLocationInline, GroupWarehouseInline)
    change_form_template = "admin/locations/group_form.html"
    actions_detail = ("read_again",)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        # Counted per row by their indexes: a group has few members, and joining both would multiply them.
        def count_of(model: type[models.Model]) -> Any:
            rows = model._default_manager.filter(group=models.OuterRef("pk")).order_by()
            counted = rows.values("group").annotate(count=models.Count("pk")).values("count")
            return models.functions.Coalesce(models.Subquery(counted), 0)

        queryset: models.QuerySet[Any] = super().get_queryset(request)
        counted: models.QuerySet[Any] = queryset.annotate(
            counted_locations=count_of(GroupLocation), counted_warehouses=count_of(GroupWarehouse)
        )
        return counted

    @page_action("Read again…", path="read-again", icon="visibility")
    def read_again(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Its page, which belongs to the engine."""
        group = self.get_managed(request, object_id)
        query = urlencode({"merchant": group.merchant.slug, "group": group.pk})
        return HttpResponseRedirect(f"{reverse('resync')}?{query}")

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        # Who may be a member depends on the merchant, which is settled once the group exists.
        return self.inlines if obj is not None else ()

    @column("store locations")
    def location_count(self, group: Any) -> int:
        count: int = group.counted_locations
        return count

    @column("warehouses")
    def warehouse_count(self, group: Any) -> int:
        count: int = group.counted_warehouses
        return count

    @column("threshold in force")
    def threshold_in_force(self, group: Any) -> str:
        return threshold_in_words(group)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if change and form.changed_data:
            matrix.announce(obj.merchant_id, timezone.now())

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> Any:
        """A new group is edited further at once: it has no members yet."""
        if "_addanother" in request.POST or "_popup" in request.POST:
            return super().response_add(request, obj, post_url_continue)
        messages.success(request, f"{obj} was created. Now choose its store locations and warehouses.")
        return HttpResponseRedirect(reverse("admin:locations_locationgroup_change", args=[obj.pk]))

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Members are not saved one by one: `save_related` sets them together with the matrix."""
        formset.save(commit=False)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if not change:
            return
        members = {formset.model: _members(formset) for formset in formsets}
        locations, warehouses = members.get(GroupLocation, []), members.get(GroupWarehouse, [])
        cells = _with_defaults(form, locations, warehouses)
        try:
            is_changed = matrix.set_matrix(
                group=form.instance,
                cells=cells,
                user=acting_user(request),
                now=timezone.now(),
                store_location_ids=locations,
                warehouse_ids=warehouses,
                weights=_weights(formsets),
            )
        except matrix.MatrixError as error:
            messages.error(request, f"The matrix was not saved. {error}")
        else:
            if is_changed or {*form.changed_data} - {"name"}:
                self.weigh(request, form.instance)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        merchant_id = obj.merchant_id
        super().delete_model(request, obj)
        matrix.announce(merchant_id, timezone.now())

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        group = context.get("original")
        if group is not None:
            context.update(shown_matrix(group, request.POST, may_change=self.has_change_permission(request, group)))
        return super().render_change_form(request, context, *args, **kwargs)


def _members(formset: Any) -> list[int]:
    """The members a formset asks for, in the order of its rows."""
    field = "store_location" if formset.model is GroupLocation else "warehouse"
    kept = [form for form in formset.forms if form not in formset.deleted_forms]
    rows = [
        form.cleaned_data.get(field) or getattr(form.instance, field, None) for form in kept if _is_filled(form, field)
    ]
    return [row.pk for row in rows if row is not None]


def _weights(formsets: Any) -> dict[int, float]:
    return {
        form.cleaned_data["store_location"].pk: form.cleaned_data["weight"]
        for formset in formsets
        if formset.model is GroupLocation
        for form in formset.forms
        if form not in formset.deleted_forms and form.cleaned_data.get("store_location")
    }


def _is_filled(form: Any, field: str) -> bool:
    return bool(form.cleaned_data.get(field)) or getattr(form.instance, f"{field}_id", None) is not None


def _with_defaults(form: Any, locations: list[int], warehouses: list[int]) -> dict[tuple[int, int], int]:
    """The cells of those who are members. Who joins now had no row to fill in: it draws on every warehouse in
    order."""
    known = set(GroupLocation.objects.filter(group=form.instance).values_list("store_location_id", flat=True))
    known_warehouses = set(GroupWarehouse.objects.filter(group=form.instance).values_list("warehouse_id", flat=True))
    joining = [location for location in locations if location not in known or not known_warehouses]
    cells = {
        (location, warehouse): priority
        for (location, warehouse), priority in form.cells.items()
        if location in locations and warehouse in warehouses
    }
    return {**matrix.full_matrix(joining, warehouses), **cells}


def threshold_in_words(group: LocationGroup) -> str:
    """From how many units of a SKU down the group divides them, and why."""
    if group.policy == Policy.SHARED:
        return "None: shared never divides."
    if group.policy == Policy.SPLIT:
        return "None: split always divides."
    if group.guard_units is not None:
        return f"{group.guard_units} units of every SKU, as set here."
    if group._state.adding:
        return "Computed per SKU once the group has store locations."
    window, slowest = propagation_window(group)
    units = ", ".join(f"{threshold(pace, window)} for one that sells {name}" for name, pace in PACES)
    return f"Computed per SKU: {units}. So many may be sold in the {window:.1f} seconds that news takes. {slowest}"


def propagation_window(group: LocationGroup) -> tuple[float, str]:
    """Seconds from a sale in the slowest store of the group to the number shown in the slowest other one, and which
    these are. A store of which nothing is measured yet is taken to be slow; one that is not written to does not count."""
    members = Channel.objects.filter(locations__membership__group=group, state=ChannelState.ACTIVE)
    channels = list(members.distinct().order_by("pk"))

    def inbound(channel: Channel) -> float:
        return channel.inbound_seconds if channel.inbound_observed_at else UNKNOWN_PROPAGATION_SECONDS

    def outbound(channel: Channel) -> float:
        return channel.outbound_seconds if channel.outbound_observed_at else UNKNOWN_PROPAGATION_SECONDS

    if not channels:
        return 2 * UNKNOWN_PROPAGATION_SECONDS, "Nothing is measured yet."
    first, last = max(channels, key=inbound), max(channels, key=outbound)
    if first.inbound_observed_at is None or last.outbound_observed_at is None:
        return inbound(first) + outbound(last), "Not every store is measured yet."
    return (
        inbound(first) + outbound(last),
        f"Slowest to tell: {first}, {inbound(first):.1f} s; slowest to be told: {last}, {outbound(last):.1f} s.",
    )


def shown_matrix(group: LocationGroup, posted: Mapping[str, Any], *, may_change: bool) -> dict[str, Any]:
    """The matrix as a table of inputs; what was posted and refused is shown again."""
    cells = {cell_name(*key): str(priority) for key, priority in matrix.matrix_of(group).items()}
    members = GroupLocation.objects.filter(group=group).select_related("store_location__channel")
    warehouses = [
        row.warehouse for row in GroupWarehouse.objects.filter(group=group).select_related("warehouse").order_by("pk")
    ]
    rows = []
    for member in members.order_by("store_location__channel__name", "store_location__name"):
        names = [cell_name(member.store_location_id, warehouse.pk) for warehouse in warehouses]
        shown = tuple(MatrixCell(name, str(posted.get(name, cells.get(name, "")))) for name in names)
        rows.append(MatrixRow(str(member.store_location), shown))
    return {"matrix_warehouses": warehouses, "matrix_rows": rows, "matrix_may_change": may_change}


class RuleForm(TenantForm):
    """A rule is for a channel, for a SKU on it, or for one listing of it."""

    merchant_from = "channel"

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        channel, sku, listing = cleaned.get("channel"), cleaned.get("sku"), cleaned.get("listing")
        if sku and listing:
            raise ValidationError("Choose a SKU or a listing, or neither for the whole channel; not both.")
        if channel and listing and listing.channel_id != channel.pk:
            self.add_error("listing", f"This listing is in {listing.channel}. Choose one of {channel}.")
        if channel and sku and sku.merchant_id != channel.merchant_id:
            self.add_error("sku", "This SKU belongs to another merchant. Choose one of your own.")
        if not any(cleaned.get(name) is not None for name in ("buffer_units", "buffer_percent", "cap", "floor")):
            raise ValidationError("Set at least one of buffer, cap and floor; an empty rule says nothing.")
        return cleaned


@admin.register(PublishingRule)
class PublishingRuleAdmin(AsksFirst):
    form = RuleForm
    list_display = ("target", "channel", "buffer_units", "buffer_percent", "cap", "floor")
    list_filter = (channel_filter(), merchant_filter())
    list_select_related = ("channel", "sku", "listing__channel")
    search_fields = ("channel__name", "sku__code", "listing__title")
    search_help_text = "Channel, SKU or listing"
    ordering = ("channel__name", "pk")
    autocomplete_fields = ("channel", "sku", "listing")
    fieldsets = (
        (None, {"fields": ("merchant", "channel", "sku", "listing")}),
        ("Shown quantity", {"fields": (("buffer_units", "buffer_percent"), ("cap", "floor"))}),
    )

    @column("for")
    def target(self, rule: PublishingRule) -> str:
        if rule.listing:
            return f"listing {rule.listing.title or rule.listing.remote_sku}"
        return f"SKU {rule.sku.code}" if rule.sku else "the whole channel"

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        announce_rule(obj)
        self.weigh(request, obj, _skus_of(obj))

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        super().delete_model(request, obj)
        announce_rule(obj)


def announce_rule(rule: PublishingRule) -> None:
    """Have what the rule is about published anew."""
    matrix.announce(rule.merchant_id, timezone.now(), sku_ids=_skus_of(rule))


def _skus_of(rule: PublishingRule) -> list[int] | None:
    """Of which SKUs a rule says something; None: of all."""
    sku_id = rule.sku_id or (rule.listing.sku_id if rule.listing else None)
    return [sku_id] if sku_id else None
