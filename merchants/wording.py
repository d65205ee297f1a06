"""What a message to a notification target says, in the form each way takes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: Things named in one message; of the others it says how many there are.
LISTED_MAX: Final = 20
SUBJECT_LENGTH_MAX: Final = 150

_GRAVITY: Final = {"critical": 0, "warning": 1, "info": 2}
_MARKS: Final = {"critical": "◆ Critical", "warning": "▲ Warning", "info": "● For your information"}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to tell."""

    severity: str
    is_recovery: bool
    title: str
    text: str = ""
    url: str = ""

    @property
    def mark(self) -> str:
        """How grave it is, as a shape and a word."""
        return "✓ Recovered" if self.is_recovery else _MARKS[self.severity]


def compose(items: Sequence[Item], *, merchant: str, url: str) -> dict[str, Any]:
    """The content of a message: the gravest first, and how many more there are. `url` shows them all."""
    ordered = sorted(items, key=lambda item: (item.is_recovery, _GRAVITY[item.severity]))
    listed = [
        {"severity": i.severity, "is_recovery": i.is_recovery, "title": i.title, "text": i.text, "url": i.url}
        for i in ordered[:LISTED_MAX]
    ]
    return {"merchant": merchant, "items": listed, "more": len(ordered) - len(listed), "url": url}


def items_of(content: Mapping[str, Any]) -> list[Item]:
    """The things a message names."""
    return [Item(**item) for item in content["items"]]


def subject(content: Mapping[str, Any]) -> str:
    """The line on the outside: the gravest, and how many there are."""
    items = items_of(content)
    first = items[0]
    others = len(items) - 1 + content["more"]
    line = f"[{content['merchant']}] {first.mark}: {first.title}"
    return (line if not others else f"{line[: SUBJECT_LENGTH_MAX - 15]} and {others} more")[:SUBJECT_LENGTH_MAX]


def as_text(content: Mapping[str, Any]) -> str:
    """A letter."""
    parts = []
    for item in items_of(content):
        lines = [f"{item.mark}: {item.title}", *([item.text] if item.text else []), *([item.url] if item.url else [])]
        parts.append("\n".join(lines))
    if content["more"]:
        parts.append(f"... and {content['more']} more.")
    parts.append(f"All of them, and what you are told of: {content['url']}")
    return "\n\n".join(parts) + "\n"


def as_slack(content: Mapping[str, Any]) -> bytes:
    """The JSON of an incoming webhook. What comes from elsewhere must not become a mention or a link.

    https://docs.slack.dev/messaging/formatting-message-text#escaping
    """
    lines = []
    for item in items_of(content):
        title = f"<{item.url}|{_escaped(item.title)}>" if item.url else _escaped(item.title)
        lines.append(f"*{item.mark}*: {title}" + (f"\n{_escaped(item.text)}" if item.text else ""))
    if content["more"]:
        lines.append(f"and {content['more']} more: <{content['url']}|all of them>")
    text = f"*{_escaped(content['merchant'])}*\n" + "\n".join(lines)
    return json.dumps({"text": text[:30_000]}, ensure_ascii=False).encode()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "¦")


def as_webhook(content: Mapping[str, Any], *, at: str, is_test: bool) -> bytes:
    """The body of a signed webhook: the same bytes whenever it is sent."""
    document = {"type": "alerts.test" if is_test else "alerts.told", "timestamp": at, "data": dict(content)}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode()
