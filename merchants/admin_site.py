"""The admin as a whole: its menu and its first page. `settings.UNFOLD` names these functions as strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connection
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse

from merchants.admin_base import reach_of

#: What the menu shows: (group, ((title, icon, model), ...)). Models by label, since upper apps may not be
#: imported here.
_MENU: Sequence[tuple[str, Sequence[tuple[str, str, str]]]] = (
    (
        "Stock",
        (
            ("SKUs", "sell", "inventory.sku"),
            ("Stock levels", "inventory_2", "inventory.stocklevel"),
            ("Movements", "swap_vert", "inventory.movement"),
            ("Shortages", "production_quantity_limits", "inventory.shortage"),
            ("Holds", "back_hand", "inventory.hold"),
            ("Transfers", "local_shipping", "inventory.transfer"),
            ("Counts", "checklist", "inventory.stockcount"),
            ("Warehouses", "warehouse", "inventory.warehouse"),
        ),
    ),
    (
        "Channels",
        (
            ("Channels", "storefront", "channels.channel"),
            ("Listings", "link", "channels.listing"),
            ("Listing levels", "compare_arrows", "channels.listinglevel"),
            ("Store locations", "location_on", "channels.storelocation"),
        ),
    ),
    (
        "Sharing",
        (
            ("Location groups", "hub", "locations.locationgroup"),
            ("Publishing rules", "rule", "locations.publishingrule"),
        ),
    ),
    (
        "What happened",
        (
            ("Inbox", "inbox", "channels.inboxevent"),
            ("Order lines", "receipt_long", "sync.orderline"),
            ("Pushes", "publish", "channels.push"),
            ("Drifts", "difference", "sync.drift"),
            ("Dead letters", "mail_off", "sync.deadletter"),
            ("Jobs", "checklist_rtl", "sync.job"),
            ("Outages", "cloud_off", "channels.outage"),
            ("Writing stopped", "dangerous", "channels.writingstop"),
            ("Webhook messages", "outgoing_mail", "inventory.webhookdelivery"),
            ("Reconciliations", "fact_check", "sync.reconcilerun"),
            ("Differences being looked into", "search", "sync.difference"),
            ("Daily reports", "summarize", "sync.dailyreport"),
            ("Held changes", "pan_tool", "sync.pushhold"),
            ("Shadow comparisons", "visibility", "sync.shadowreport"),
            ("Intended writes", "edit_off", "sync.shadowwrite"),
            ("Audit trail", "history", "merchants.auditevent"),
        ),
    ),
    (
        "Alerts",
        (
            ("Alerts", "notification_important", "sync.alert"),
            ("Alert rules", "rule_settings", "sync.ruleoverride"),
            ("Notification targets", "notifications", "merchants.notificationtarget"),
            ("Messages", "mark_email_read", "merchants.notificationmessage"),
        ),
    ),
    (
        "Programs",
        (
            ("API keys", "key", "merchants.apikey"),
            ("Webhook endpoints", "webhook", "inventory.webhookendpoint"),
        ),
    ),
    (
        "People",
        (
            ("Merchants", "business", "merchants.merchant"),
            ("Members", "groups", "merchants.member"),
            ("Users", "person", "merchants.user"),
        ),
    ),
    (
        "Machine room",
        (
            ("Waiting to be published", "pending", "sync.dirtysku"),
            ("Remembered answers", "replay", "merchants.rememberedanswer"),
            ("Push batches", "stacks", "channels.pushbatch"),
            ("Calls by hour", "speed", "channels.callhour"),
            ("Allocations", "account_tree", "sync.allocation"),
            ("Held levels", "front_hand", "sync.heldlevel"),
            ("Report mails", "mail", "sync.reportmail"),
            ("Scorecard days", "monitoring", "sync.scorecardday"),
            ("Buffers by hour", "inventory", "sync.bufferuse"),
            ("Presences", "groups", "sync.presence"),
            ("Heartbeats", "ecg_heart", "sync.heartbeat"),
            ("Audit results", "rule", "sync.auditresult"),
            ("Processes", "memory", "sync.processbeat"),
            ("Rule checks", "quiz", "sync.rulecheck"),
            ("Sizes", "database", "sync.sizesample"),
            ("Schedule", "schedule", "django_celery_beat.periodictask"),
        ),
    ),
)

#: Shown to superusers only.
_SUPERUSER_MODELS = frozenset(
    {
        "merchants.user",
        "django_celery_beat.periodictask",
        "sync.heartbeat",
        "sync.auditresult",
        "sync.presence",
        "sync.processbeat",
        "sync.rulecheck",
        "sync.sizesample",
    }
)


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """The menu of the admin, for this person."""
    groups: list[dict[str, Any]] = []
    for title, entries in _MENU:
        items = [
            {"title": name, "icon": icon, "link": link}
            for name, icon, label in entries
            if (request.user.is_superuser or label not in _SUPERUSER_MODELS) and (link := _list_url(label))
        ]
        if items:
            groups.append(
                {
                    "title": title,
                    "separator": bool(groups),
                    "collapsible": title == "Machine room",
                    "items": items,
                }
            )
    return groups


def _list_url(label: str) -> str:
    try:
        return reverse(f"admin:{label.replace('.', '_')}_changelist")
    except NoReverseMatch:
        return ""  # the app is not installed here


def stylesheet(request: HttpRequest) -> str:
    """Our few additions to the admin's looks."""
    return static("merchants/admin.css")


def environment(request: HttpRequest) -> list[str] | None:
    """The label on top of every page: whether all writing is stopped for somebody this person sees, or for everybody."""
    reach = reach_of(request)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT bool_or(merchant_id IS NULL), count(*) FROM channels_writingstop
            WHERE ended_at IS NULL AND (merchant_id IS NULL OR %s OR merchant_id = ANY(%s))
            """,
            [reach.every, sorted(reach.visible)],
        )
        is_everybody, stops = cursor.fetchone()
    if not stops:
        return None
    return ["ALL WRITING IS STOPPED FOR EVERYBODY" if is_everybody else "ALL WRITING IS STOPPED", "danger"]


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The first page: what needs somebody, as numbers that lead to the rows behind them."""
    context["attention"] = _attention(request)
    # Under another name, since `items` of a dictionary is its method to a template.
    context["menu"] = [{"title": group["title"], "items_shown": group["items"]} for group in sidebar(request)]
    return context


#: Each is answered by a partial index that holds little but the rows counted; and no count goes beyond a
#: thousand.
_COUNTS = (
    (
        "Open shortages",
        "Units sold beyond stock",
        "inventory.shortage",
        "open=yes",
        "inventory_shortage",
        "covered_at IS NULL",
    ),
    (
        "Dead letters",
        "Given up: each says why and what to press",
        "sync.deadletter",
        "state=open",
        "sync_deadletter",
        "ended_at IS NULL AND state = 'open'",
    ),
    (
        "Dead events",
        "Could not be applied",
        "channels.inboxevent",
        "state=dead",
        "channels_inboxevent",
        "state = 'dead'",
    ),
    (
        "Waiting events",
        "Not applied yet",
        "channels.inboxevent",
        "state=pending",
        "channels_inboxevent",
        "state = 'pending'",
    ),
    (
        "Suspect levels",
        "A store shows a number nobody explained",
        "channels.listinglevel",
        "sync=suspect",
        "channels_listinglevel",
        "suspect_since IS NOT NULL",
    ),
    (
        "Out of step",
        "A store shows another number than it should",
        "channels.listinglevel",
        "sync=behind",
        "channels_listinglevel",
        "is_out_of_sync",
    ),
    (
        "Silent endpoints",
        "Switched off after days without an answer",
        "inventory.webhookendpoint",
        "state__exact=failed",
        "inventory_webhookendpoint",
        "state = 'failed'",
    ),
)
_COUNTED_AT_MOST = 1000


def _attention(request: HttpRequest) -> list[dict[str, Any]]:
    reach = reach_of(request)
    merchants = None if reach.every else sorted(reach.visible)
    cards = []
    with connection.cursor() as cursor:
        for title, explanation, label, query, table, condition in _COUNTS:
            cursor.execute(
                f"""
                SELECT count(*) FROM (
                    SELECT 1 FROM {table}
                    WHERE {condition} AND (%(every)s OR merchant_id = ANY(%(merchants)s::bigint[]))
                    LIMIT %(most)s
                ) AS counted
                """,  # noqa: S608
                {"every": merchants is None, "merchants": merchants or [], "most": _COUNTED_AT_MOST},
            )
            (count,) = cursor.fetchone()
            shown = f"{count}+" if count >= _COUNTED_AT_MOST else str(count)
            cards.append(
                {
                    "title": title,
                    "explanation": explanation,
                    "count": shown,
                    "link": f"{_list_url(label)}?{query}",
                }
            )
    return cards
