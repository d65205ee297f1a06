"""Admin lists of tables that grow for ever: nothing here counts, sorts or walks through such a table.

A list is read newest first along an index, one page and one row at a time. What no index serves (a filter by
cause or topic, say) looks through the newest rows only, and the page says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib.admin import ModelAdmin as PlainModelAdmin
from django.contrib.admin import SimpleListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.paginator import EmptyPage, InvalidPage, Page, PageNotAnInteger, Paginator
from django.db import connection, models
from django.http import HttpRequest
from django.utils.functional import cached_property

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList
else:
    from unfold.views import ChangeList

#: Nobody turns further than this; an offset is walked through row by row.
PAGES_MAX = 200

#: How many of the newest rows a filter without an index looks through.
WINDOW_ROWS = 20_000

#: Ids are given before rows are committed, so a few rows stand out of order of time.
ROWS_OUT_OF_ORDER = 1_000


class EndlessPage(Page[Any]):
    """A page that knows whether another one follows, since one row more was read than is shown."""

    def __init__(self, rows: Sequence[Any], number: int, paginator: Paginator[Any], *, is_followed: bool) -> None:
        super().__init__(rows, number, paginator)
        self.is_followed = is_followed

    def has_next(self) -> bool:
        return self.is_followed


class EndlessPaginator(Paginator[Any]):
    """Pages of rows that nobody counts: there is a next page as long as a row follows."""

    template_name = "admin/lists/pagination_endless.html"

    def validate_number(self, number: Any) -> int:
        try:
            page = int(number)
        except (TypeError, ValueError) as error:
            raise PageNotAnInteger("The page's number is not a number.") from error
        if not 1 <= page <= PAGES_MAX:
            raise EmptyPage(f"Only {PAGES_MAX} pages can be turned. Search or filter to see older rows.")
        return page

    def page(self, number: Any) -> EndlessPage:
        page = self.validate_number(number)
        start = (page - 1) * self.per_page
        rows = list(self.object_list[start : start + self.per_page + 1])
        return EndlessPage(rows[: self.per_page], page, self, is_followed=len(rows) > self.per_page)

    @cached_property
    def count(self) -> int:
        """A bound, for code of Django's that insists on a number; never a COUNT."""
        return PAGES_MAX * self.per_page


class EndlessChangeList(ChangeList):
    """An admin list over `EndlessPaginator`. Filters that no index serves look through the newest rows."""

    is_windowed = False

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        self.request_seen = request
        super().__init__(request, *args, **kwargs)

    def get_queryset(
        self, request: HttpRequest, exclude_parameters: list[str | None] | None = None
    ) -> models.QuerySet[Any]:
        queryset = super().get_queryset(request, exclude_parameters)
        if self.query or not self._unindexed_parameters():
            return queryset
        oldest = self.root_queryset.order_by("-pk").values_list("pk", flat=True)[WINDOW_ROWS : WINDOW_ROWS + 1]
        bound = next(iter(oldest), None)
        if bound is None:
            return queryset
        self.is_windowed = True
        return queryset.filter(pk__gt=bound)

    def _unindexed_parameters(self) -> bool:
        fields = getattr(self.model_admin, "unindexed_filters", ())
        return any(name.split("__")[0] in fields for name in self.filter_params)

    def get_results(self, request: HttpRequest) -> None:
        paginator = self.model_admin.get_paginator(request, self.queryset, self.list_per_page)
        try:
            page = paginator.page(self.page_num)
        except InvalidPage as error:
            raise IncorrectLookupParameters from error
        self.paginator = paginator
        self.result_list = page.object_list
        self.first_row = (page.number - 1) * self.list_per_page + 1
        self.result_count = self.first_row - 1 + len(page.object_list)
        self.previous_url = self.get_query_string({"p": page.number - 1}) if page.has_previous() else ""
        self.next_url = self.get_query_string({"p": page.number + 1}) if page.has_next() else ""
        self.show_full_result_count = False
        # The theme shows a count of its own while the two differ.
        self.full_result_count = self.result_count
        self.show_admin_actions = True
        self.can_show_all = False
        self.multi_page = page.has_other_pages()

    @cached_property
    def rows_in_table(self) -> int | None:
        """About how many rows the table has, by the planner's statistics; None where that tells too much.

        The estimate is of all tenants together, so only who sees them all is shown it.
        """
        if self.is_narrowed or not getattr(self.model_admin, "sees_every_merchant", _nobody)(self.request_seen):
            return None
        return estimated_rows(self.model)

    @property
    def window_note(self) -> str:
        """What the page says when a filter looked through the newest rows only."""
        return (
            f"This filter looks through the newest {WINDOW_ROWS:,} rows. To find older ones, search for the "
            "exact key that the search field names."
        )

    @property
    def is_narrowed(self) -> bool:
        """Whether a search or a filter is on."""
        return bool(self.query or self.filter_params)


def _nobody(request: HttpRequest) -> bool:
    return False


def estimated_rows(model: type[models.Model]) -> int | None:
    """The planner's estimate of a table's rows; None when it was never analyzed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass", [model._meta.db_table])
        (rows,) = cursor.fetchone()
    return rows if rows > 0 else None


def oldest_id_since(model: type[models.Model], field: str, instant: datetime) -> int | None:
    """The smallest id from which on rows are at least as young as `instant`, found by halving the ids: about
    twenty probes of the primary key, whatever the size of the table. Times grow with ids (but for
    neighbours)."""
    quote = connection.ops.quote_name
    stored = model._meta.get_field(field)
    assert isinstance(stored, models.Field)
    assert stored.column
    table, column = quote(model._meta.db_table), quote(stored.column)
    with connection.cursor() as cursor:
        # Table and column are names of our own models, quoted.
        cursor.execute(
            f"""
            WITH RECURSIVE search (low, high) AS (
                SELECT (SELECT min(id) FROM {table}), (SELECT max(id) + 1 FROM {table})
                UNION ALL
                SELECT CASE WHEN probe.at < %(instant)s THEN probe.id + 1 ELSE search.low END,
                       CASE WHEN probe.at < %(instant)s THEN search.high
                            ELSE (search.low + search.high) / 2 END
                FROM search CROSS JOIN LATERAL (
                    SELECT id, {column} AS at FROM {table}
                    WHERE id >= (search.low + search.high) / 2 ORDER BY id LIMIT 1
                ) AS probe
                WHERE search.low < search.high
            )
            SELECT min(high) FROM search
            """,  # noqa: S608
            {"instant": instant},
        )
        (bound,) = cursor.fetchone()
    return int(bound) if bound is not None else None


def choice_filter(
    *,
    title: str,
    parameter: str,
    choices: Callable[[HttpRequest], Iterable[tuple[str, str]]],
    lookup: str = "",
) -> type[SimpleListFilter]:
    """A filter whose choices are asked of `choices` and never of the table that is listed."""

    class ChoiceFilter(SimpleListFilter):
        parameter_name = parameter

        def lookups(self, request: HttpRequest, model_admin: PlainModelAdmin[Any]) -> Iterable[tuple[str, str]]:
            return list(choices(request))

        def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any] | None:
            return queryset.filter(**{lookup or parameter: self.value()}) if self.value() else queryset

    ChoiceFilter.title = title
    return ChoiceFilter
