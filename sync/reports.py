"""The daily report: what reconciliations have found in a day of a merchant, computed from the facts.

A day is the merchant's own. The report of a day that is over is stored some hours later, when what was found late in the
evening is explained too; it may be computed anew at any time. It is sent to the members who want it; a mail server that fails
is noted and asked again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.template.loader import render_to_string
from django.urls import reverse

from merchants.access import clock_of
from merchants.mail import AddressRefused, MailNotSent, send
from merchants.models import Member, Merchant
from sync import retention
from sync.models import TIMING, Cause, DailyReport, DriftAction, ReportMail
from synctec.lib import sql
from synctec.lib.alone import alone
from synctec.lib.spreadsheet import as_csv

log = structlog.get_logger(__name__)

Figures = dict[str, Any]

#: A day's report is written so long after its end.
READY_AFTER = timedelta(hours=6)
#: A listing that has drifted so often within `REPEATS_WITHIN` is told of as a repeated offender.
REPEATS = 2
REPEATS_WITHIN = timedelta(days=30)
OFFENDERS_MAX = 20
MAILS_AT_ONCE = 50
#: A mail that was refused is tried again after 10 minutes, then after twice as long and so on, for some two days.
MAIL_PAUSE = timedelta(minutes=10)
MAIL_ATTEMPTS = 8
UNWANTED = "not wanted any more"
#: Between the kind of goods and the rest in most SKUs: TEE-RED-M. The catalogue knows no product types.
_KIND_OF = r"split_part(regexp_replace(sku.code, '[-_/. ]', '-'), '-', 1)"

CSV_HEAD = (
    *("found at", "channel", "location", "SKU", "listing", "expected", "actual", "difference", "cause", "action"),
    *("explanation", "last good sync", "times in 30 days"),
)


class FactsForgotten(Exception):
    """The day cannot be computed anew. The text says why."""


def bounds(merchant: Merchant, day: date) -> tuple[datetime, datetime]:
    """When the merchant's day begins and ends."""
    clock = clock_of(merchant)
    begin, end = (datetime.combine(one, time(), tzinfo=clock) for one in (day, day + timedelta(days=1)))
    return begin.astimezone(UTC), end.astimezone(UTC)


def figures(merchant: Merchant, day: date) -> Figures:
    """What a day came to, as stored in `DailyReport.figures`.

    Accuracy: of the levels that passes compared, the share that showed what they must; None when none was compared.
    """
    begin, end = bounds(merchant, day)
    window = [merchant.pk, begin, end]
    passes = sql.rows(
        """
        SELECT channel.name, run.state, count(*), sum(run.is_alarming::int), sum(run.levels_read),
            sum(least(run.levels_suspect, run.levels_read))
        FROM sync_reconcilerun run JOIN channels_channel channel ON channel.id = run.channel_id
        WHERE run.merchant_id = %s AND run.started_at >= %s AND run.started_at < %s GROUP BY 1, 2 ORDER BY 1, 2
        """,
        window,
    )
    found = sql.rows(
        f"""
        SELECT drift.cause, drift.action, channel.name, extract(hour FROM drift.found_at AT TIME ZONE %s)::int,
            coalesce({_KIND_OF}, ''), count(*), sum(abs(drift.actual - drift.expected))
        FROM sync_drift drift JOIN channels_channel channel ON channel.id = drift.channel_id
        JOIN channels_listinglevel level ON level.id = drift.listing_level_id
        JOIN channels_listing listing ON listing.id = level.listing_id
        LEFT JOIN inventory_sku sku ON sku.id = listing.sku_id
        WHERE drift.merchant_id = %s AND drift.found_at >= %s AND drift.found_at < %s GROUP BY 1, 2, 3, 4, 5
        """,  # noqa: S608  # a constant of ours, no text from anywhere
        [str(clock_of(merchant)), *window],
    )
    [(orders,)] = sql.rows(
        """
        SELECT count(DISTINCT correlation_id) FROM sync_drift
        WHERE merchant_id = %s AND found_at >= %s AND found_at < %s AND cause = 'recovered_order'
        """,
        window,
    )
    channels: dict[str, Figures] = defaultdict(lambda: {"compared": 0, "right": 0, "findings": 0})
    states: dict[str, int] = defaultdict(int)
    alarms = 0
    for name, state, count, alarming, read, suspect in passes:
        states[state] += count
        alarms += alarming
        channels[name]["compared"] += read
        channels[name]["right"] += read - suspect
    by_cause: dict[str, Figures] = defaultdict(lambda: {"findings": 0, "units": 0})
    by_action: dict[str, int] = defaultdict(int)
    by_kind: dict[str, int] = defaultdict(int)
    by_hour = [0] * 24
    for cause, action, name, hour, kind, count, units in found:
        by_cause[cause or Cause.BY_HAND]["findings"] += count
        by_cause[cause or Cause.BY_HAND]["units"] += units
        by_action[action] += count
        channels[name]["findings"] += count
        by_hour[hour] += count
        by_kind[kind or "not mapped"] += count
    compared = sum(channel["compared"] for channel in channels.values())
    right = sum(channel["right"] for channel in channels.values())
    return {
        "compared": compared,
        "right": right,
        "accuracy": _percent(right, compared),
        "passes": dict(states),
        "alarms": alarms,
        "findings": sum(by_hour),
        "orders_recovered": orders,
        "by_cause": dict(by_cause),
        "by_action": dict(by_action),
        "by_channel": [
            {"channel": name, "accuracy": _percent(one["right"], one["compared"]), **one}
            for name, one in sorted(channels.items())
        ],
        "by_hour": by_hour,
        "by_kind": _most(by_kind),
        "offenders": list(_offenders(merchant.pk, end)),
    }


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 3) if whole else None


def _most(counts: dict[str, int]) -> list[Figures]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"kind": kind, "findings": count} for kind, count in ranked[:OFFENDERS_MAX]]


def _offenders(merchant_id: int, until: datetime) -> Iterator[Figures]:
    """Levels that have drifted again and again, those found too early left out."""
    for level, count, latest, sku, title, channel, location in sql.rows(
        """
        SELECT again.listing_level_id, again.found, again.latest, coalesce(sku.code, listing.remote_sku), listing.title,
            channel.name, place.name
        FROM (
            SELECT listing_level_id, count(*) AS found, (array_agg(cause ORDER BY found_at DESC))[1] AS latest
            FROM sync_drift
            WHERE merchant_id = %s AND found_at >= %s AND found_at < %s AND cause <> ALL(%s::text[])
            GROUP BY listing_level_id HAVING count(*) >= %s
        ) again
        JOIN channels_listinglevel level ON level.id = again.listing_level_id
        JOIN channels_listing listing ON listing.id = level.listing_id
        JOIN channels_channel channel ON channel.id = level.channel_id
        JOIN channels_storelocation place ON place.id = level.store_location_id
        LEFT JOIN inventory_sku sku ON sku.id = listing.sku_id
        ORDER BY again.found DESC, again.listing_level_id LIMIT %s
        """,
        [merchant_id, until - REPEATS_WITHIN, until, [str(cause) for cause in TIMING], REPEATS, OFFENDERS_MAX],
    ):
        yield {
            "level": level,
            "times": count,
            "latest": latest,
            "sku": sku,
            "title": title,
            "channel": channel,
            "location": location,
        }


def findings_csv(merchant: Merchant, day: date) -> str:
    """Every finding of the day, oldest first, times by the merchant's clock."""
    begin, end = bounds(merchant, day)
    clock = clock_of(merchant)
    rows = sql.rows(
        """
        SELECT drift.found_at, channel.name, place.name, coalesce(sku.code, listing.remote_sku), listing.title,
            drift.expected, drift.actual, drift.actual - drift.expected, drift.cause, drift.action, drift.explanation,
            drift.previous_confirmed_at, (SELECT count(*) FROM sync_drift other
                WHERE other.listing_level_id = drift.listing_level_id AND other.found_at <= drift.found_at
                    AND other.found_at > drift.found_at - %s AND other.cause <> ALL(%s::text[]))
        FROM sync_drift drift
        JOIN channels_channel channel ON channel.id = drift.channel_id
        JOIN channels_listinglevel level ON level.id = drift.listing_level_id
        JOIN channels_listing listing ON listing.id = level.listing_id
        JOIN channels_storelocation place ON place.id = level.store_location_id
        LEFT JOIN inventory_sku sku ON sku.id = listing.sku_id
        WHERE drift.merchant_id = %s AND drift.found_at >= %s AND drift.found_at < %s ORDER BY drift.found_at, drift.id
        """,
        [REPEATS_WITHIN, [str(cause) for cause in TIMING], merchant.pk, begin, end],
    )
    causes, actions = dict(Cause.choices), dict(DriftAction.choices)

    def told() -> Iterator[list[object]]:
        for found_at, *where, cause, action, explanation, confirmed_at, times in rows:
            yield [
                found_at.astimezone(clock).isoformat(timespec="seconds"),
                *where,
                causes.get(cause, cause),
                actions.get(action, action),
                explanation,
                confirmed_at.astimezone(clock).isoformat(timespec="seconds") if confirmed_at else "",
                times,
            ]

    return as_csv(CSV_HEAD, told())


def of_day(merchant: Merchant, day: date) -> Figures:
    """The stored figures of a day; of one that has none, and of today, those computed now."""
    stored = DailyReport.objects.filter(merchant=merchant, day=day).values_list("figures", flat=True).first()
    return figures(merchant, day) if stored is None else stored


def write(merchant: Merchant, day: date, *, now: datetime) -> DailyReport:
    """Compute a day's figures and store them, in place of those there are.

    Raises:
        FactsForgotten: what was found that day is not kept any more.
    """
    if not retention.reaches(bounds(merchant, day)[0], now=now):
        raise FactsForgotten(
            "What was found that day is not kept any more (FINDING_DAYS): its figures stay as they are."
        )
    report, _ = DailyReport.objects.update_or_create(
        merchant=merchant, day=day, defaults={"figures": figures(merchant, day), "computed_at": now}
    )
    return report


def write_due(*, now: datetime) -> int:
    """Write the report of the latest day that is over for every merchant who has none, and address it to those who want it.

    A day on which nothing was compared and nothing found has no report. Returns how many were written. Each merchant on its
    own.
    """
    return sum(
        alone("daily report", partial(_write_due, merchant, now), merchant_id=merchant.pk) or 0
        for merchant in Merchant.objects.filter(is_active=True)
    )


def _write_due(merchant: Merchant, now: datetime) -> int:
    day = (now - READY_AFTER).astimezone(clock_of(merchant)).date() - timedelta(days=1)
    if DailyReport.objects.filter(merchant=merchant, day=day).exists():
        return 0
    computed = figures(merchant, day)
    if not computed["compared"] and not computed["findings"] and not computed["passes"]:
        return 0
    report, is_new = DailyReport.objects.get_or_create(
        merchant=merchant, day=day, defaults={"figures": computed, "computed_at": now}
    )
    wanted_by = Member.objects.filter(merchant=merchant, wants_daily_report=True, user__is_active=True)
    ReportMail.objects.bulk_create(
        [
            ReportMail(merchant=merchant, report=report, user_id=user, next_attempt_at=now)
            for user in wanted_by.values_list("user_id", flat=True)
        ],
        ignore_conflicts=True,
    )
    return int(is_new)


def send_due(*, now: datetime) -> int:
    """Send reports that are due to those who want them; returns how many went out.

    A mail server that does not answer is not asked again in this round: the rest waits like the one it failed for.
    """
    sent, away = 0, ""
    for mail in _claim(now):
        row = ReportMail.objects.filter(pk=mail.pk)
        try:
            error = _send(mail, away)
        except MailNotSent as refused:
            error = str(refused)
            away = away if isinstance(refused, AddressRefused) else error
        if not error:
            row.update(sent_at=now, error="")
            sent += 1
            continue
        row.update(error=error[:500])
        if mail.attempts >= MAIL_ATTEMPTS or error == UNWANTED:
            row.update(given_up_at=now)
        log.warning("report.not_sent", mail=mail.pk, merchant_id=mail.merchant_id, attempts=mail.attempts, error=error)
    return sent


def _claim(now: datetime) -> Iterable[ReportMail]:
    """Mails that are due, the attempt counted and the next one planned before anything is sent."""
    claimed = sql.rows(
        """
        WITH due AS (
            SELECT id FROM sync_reportmail
            WHERE sent_at IS NULL AND given_up_at IS NULL AND next_attempt_at <= %s
            ORDER BY next_attempt_at, id LIMIT %s FOR UPDATE SKIP LOCKED
        )
        UPDATE sync_reportmail mail
        SET attempts = mail.attempts + 1, next_attempt_at = %s::timestamptz + %s::interval * power(2, mail.attempts)
        FROM due WHERE mail.id = due.id RETURNING mail.id
        """,
        [now, MAILS_AT_ONCE, now, MAIL_PAUSE],
    )
    return ReportMail.objects.filter(pk__in=[mail for (mail,) in claimed]).select_related("report__merchant", "user")


def _send(mail: ReportMail, away: str) -> str:
    """Send one, unless the server is `away`; nothing when it took it, else why it was not even asked.

    Raises:
        MailNotSent: the server does not answer, or refuses.
    """
    merchant = mail.report.merchant
    wants = Member.objects.filter(merchant=merchant, user=mail.user, wants_daily_report=True)
    if not mail.user.is_active or not wants.exists():
        return UNWANTED
    if away:
        return away
    address = settings.PUBLIC_URL + reverse("report", kwargs={"day": mail.report.day})
    told = mail.report.figures
    text = render_to_string(
        "sync/report_mail.txt",
        {
            "merchant": merchant,
            "day": mail.report.day,
            "figures": told,
            "causes": causes_of(told),
            "address": f"{address}?merchant={merchant.slug}",
        },
    )
    subject = f"{merchant.name}: stock in step on {mail.report.day:%Y-%m-%d}"
    send([mail.user.email], subject=subject, text=text, message_id=f"report-{mail.pk}")
    return ""


def causes_of(told: Figures) -> list[Figures]:
    """The causes of a day in words, those with most findings first."""
    words = dict(Cause.choices)
    ranked = sorted(told["by_cause"].items(), key=lambda item: (-item[1]["findings"], item[0]))
    return [{"cause": words.get(cause, cause), **counts} for cause, counts in ranked]
