"""The health page: the scorecard of a merchant or of one of its channels, its live part, and its days as CSV."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from channels.models import Channel
from inventory.models import Cause
from merchants.access import Seats, member_page
from merchants.models import Merchant
from merchants.pages import own_page
from sync import history, scorecard
from sync.history import Period
from sync.score import NOTHING, Figure, Standing, Waits, gravest, judge
from synctec.lib.spreadsheet import as_csv

TREND_DAYS: Final = 30
#: A trend is drawn into a box of so many points.
TREND_WIDTH, TREND_HEIGHT = 120, 24
#: Of the many figures, those that tell channels apart at a glance.
AT_A_GLANCE: Final = ("latency_p99", "accuracy", "overselling", "uptime_connector", "errors")

TONES: Final[Mapping[Standing, tuple[str, str]]] = {
    Standing.OK: ("right", "●"),
    Standing.INVESTIGATE: ("warning", "▲"),
    Standing.BAD: ("danger", "◆"),
    Standing.UNKNOWN: ("calm", "○"),
}


@dataclass(frozen=True, slots=True)
class Address:
    """The state of the page, all of it in its address."""

    merchant: str
    channel: str
    period: Period

    def url(self, name: str = "scoreboard", **changes: str) -> str:
        state = {
            "merchant": self.merchant,
            "channel": self.channel,
            "period": "" if self.period is Period.DAY else self.period.value,
        }
        told = urlencode({key: value for key, value in (state | changes).items() if value})
        return reverse(name) + (f"?{told}" if told else "")


@dataclass(frozen=True, slots=True)
class Trend:
    """One figure over the days that are kept, as points of a line, and what it says."""

    points: str
    said: str


@dataclass(frozen=True, slots=True)
class Row:
    """A figure as a line of the page."""

    figure: Figure
    trend: Trend | None

    @property
    def tone(self) -> str:
        return TONES[self.figure.standing][0]

    @property
    def shape(self) -> str:
        return TONES[self.figure.standing][1]


@dataclass(frozen=True, slots=True)
class ChannelLine:
    """A channel beside the others."""

    name: str
    url: str
    tone: str
    shape: str
    standing: str
    figures: tuple[Figure, ...]


@own_page
@never_cache
@require_safe
@member_page()
def scoreboard(request: HttpRequest, seats: Seats) -> HttpResponse:
    """The whole page."""
    return render(request, "sync/scoreboard.html", _context(request, seats))


@own_page
@never_cache
@require_safe
@member_page()
def scoreboard_live(request: HttpRequest, seats: Seats) -> HttpResponse:
    """The part of it that changes; 304 while its fingerprint is the one the page has."""
    context = _context(request, seats)
    etag = f'"{context["fingerprint"]}"'
    if request.headers.get("If-None-Match") == etag:
        return HttpResponse(status=304, headers={"ETag": etag})
    response = render(request, "sync/_scoreboard_live.html", context)
    response.headers["ETag"] = etag
    return response


@own_page
@never_cache
@require_safe
@member_page()
def scoreboard_csv(request: HttpRequest, seats: Seats) -> HttpResponse:
    """Every figure of the days that are kept, a row per day and channel."""
    merchant = seats.current.merchant
    names = {channel.pk: channel.name for channel in _channels(merchant)}
    today = history.local_day(merchant, timezone.now())
    kept = history.days(merchant, first=today - timedelta(days=TREND_DAYS), last=today)
    keys = [figure.key for figure in judge(NOTHING)]
    rows = [
        [
            day.isoformat(),
            "all" if channel is None else names.get(channel, str(channel)),
            *(figure.value for figure in judge(facts)),
        ]
        for day, card in kept.items()
        for channel, facts in sorted(card.items(), key=lambda item: item[0] or 0)
    ]
    response = HttpResponse(as_csv(["day", "channel", *keys], rows), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="health-{merchant.slug}-{today}.csv"'
    return response


def _context(request: HttpRequest, seats: Seats) -> dict[str, Any]:
    merchant, now = seats.current.merchant, timezone.now()
    channels = _channels(merchant)
    channel = _chosen(channels, request.GET.get("channel", ""))
    channel_id = None if channel is None else channel.pk
    address = Address(
        merchant=merchant.slug if len(seats.every) > 1 else "",
        channel="" if channel_id is None else str(channel_id),
        period=_period(request.GET.get("period", "")),
    )
    looked = history.look(merchant, address.period, now=now)
    waits = scorecard.waits([merchant.pk], now=now)
    figures = _figures(looked.card, waits, channel_id, address.period)
    lines = [
        _line(one, _figures(looked.card, waits, one.pk, address.period), address.url(channel=str(one.pk)))
        for one in channels
    ]
    short = scorecard.shortages([merchant.pk], channel_id=channel_id, since=looked.since, until=looked.until)
    trends = _trends(merchant, channel_id, now)
    # What changes with every look, such as ages, is part of it; the moment of the look is not.
    seen = repr((address, figures, lines, short, trends))
    return {
        "seats": seats,
        "address": address,
        "channel": channel,
        "channels": lines if len(lines) > 1 and channel is None else [],
        "has_channels": bool(lines),
        "glance": [figure.name for figure in figures if figure.key in AT_A_GLANCE],
        "rows": [Row(figure, trends.get(figure.key)) for figure in figures],
        "verdict": _verdict(figures),
        "shortages": [(one, Cause(one.cause).label) for one in short],
        "looked": looked,
        "periods": [(period.said, address.url(period=period.value), period is address.period) for period in Period],
        "everything_url": address.url(channel=""),
        "csv_url": address.url("scoreboard_csv", channel="", period=""),
        "live_url": address.url("scoreboard_live"),
        "trend_box": f"0 0 {TREND_WIDTH} {TREND_HEIGHT}",
        "fingerprint": hashlib.sha256(seen.encode()).hexdigest()[:32],
        "now": now,
    }


def _channels(merchant: Merchant) -> list[Channel]:
    return list(Channel.objects.filter(merchant=merchant).order_by("name", "pk"))


def _chosen(channels: Sequence[Channel], asked: str) -> Channel | None:
    """The channel asked for; None for all of them.

    Raises:
        Http404: it is not one of the merchant's.
    """
    if not asked:
        return None
    for channel in channels:
        if str(channel.pk) == asked:
            return channel
    raise Http404("No such channel.")


def _period(asked: str) -> Period:
    return Period(asked) if asked in set(Period) else Period.DAY


def _figures(
    card: scorecard.Card, waits: Mapping[int | None, Waits], channel_id: int | None, period: Period
) -> tuple[Figure, ...]:
    return judge(card.get(channel_id, NOTHING), waits.get(channel_id, Waits()), days=period.days)


def _line(channel: Channel, figures: Sequence[Figure], url: str) -> ChannelLine:
    standing = gravest(figure.standing for figure in figures if not figure.key.startswith("uptime_w"))
    tone, shape = TONES[standing]
    glance = tuple(figure for figure in figures if figure.key in AT_A_GLANCE)
    return ChannelLine(
        channel.name, url, tone, shape, "not measured yet" if standing is Standing.UNKNOWN else standing, glance
    )


def _verdict(figures: Sequence[Figure]) -> dict[str, str]:
    """The one sentence on top."""
    for standing, tone, said in ((Standing.BAD, "needs", "bad"), (Standing.INVESTIGATE, "needs", "worth a look")):
        names = [figure.name for figure in figures if figure.standing is standing]
        if names:
            verb = "is" if len(names) == 1 else "are"
            return {"tone": tone, "text": f"{_listed(names)} {verb} {said}"}
    if all(figure.standing is Standing.UNKNOWN for figure in figures if figure.key.startswith("latency")):
        return {"tone": "right", "text": "Nothing to complain about; nothing was sold in this time"}
    return {"tone": "right", "text": "Everything is within its target"}


def _listed(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _trends(merchant: Merchant, channel_id: int | None, now: datetime) -> dict[str, Trend]:
    """By figure: its line over the days that are kept, from two measured days on."""
    today = history.local_day(merchant, now)
    first = today - timedelta(days=TREND_DAYS)
    kept = history.days(merchant, first=first, last=today)
    measured: dict[str, list[tuple[int, Figure]]] = {}
    for day, card in kept.items():
        for figure in judge(card.get(channel_id, NOTHING)):
            if figure.value is not None:
                measured.setdefault(figure.key, []).append(((day - first).days, figure))
    return {key: _trend(days) for key, days in measured.items() if len(days) > 1}


def _trend(days: Sequence[tuple[int, Figure]]) -> Trend:
    values = [figure.value or 0.0 for _, figure in days]
    low, high = min(values), max(values)
    reach = high - low
    points = " ".join(
        f"{place * TREND_WIDTH / TREND_DAYS:.1f},{_height(value, low, reach):.1f}"
        for (place, _), value in zip(days, values, strict=True)
    )
    lowest = min(days, key=lambda day: day[1].value or 0.0)[1].said
    highest = max(days, key=lambda day: day[1].value or 0.0)[1].said
    span = f"{len(days)} days: {lowest}" if not reach else f"{len(days)} days: between {lowest} and {highest}"
    return Trend(points, f"{span}; latest {days[-1][1].said}")


def _height(value: float, low: float, reach: float) -> float:
    """The higher the value, the further up; a line that never moved lies in the middle."""
    return TREND_HEIGHT / 2 if not reach else 1 + (TREND_HEIGHT - 2) * (1 - (value - low) / reach)
