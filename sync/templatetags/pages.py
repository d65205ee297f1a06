"""Filters of the pages' templates."""

from __future__ import annotations

from datetime import datetime, timedelta

from django import template

from sync import words

register = template.Library()


@register.filter
def ago(at: datetime, now: datetime) -> str:
    """How long before `now`; the page's script keeps it current."""
    return words.ago(at, now)


@register.filter
def after(at: datetime | None, start: datetime) -> str:
    """How long after `start`, with a plus: "+84 ms"; what came before it has a minus."""
    if at is None:
        return ""
    span = at - start
    return f"+{words.duration(span)}" if span >= timedelta(0) else f"\u2212{words.duration(-span)}"
