"""Pages of lists, cursors, and the search syntax of `query:` arguments. Pure."""

from __future__ import annotations

import base64
import bisect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from graphql import GraphQLError

Row = TypeVar("Row")
Key = tuple[int | str, ...]

MAX_PAGE = 250
_TERM = re.compile(r"""(?P<not>-)?(?P<field>\w+):(?P<op>>=|<=|>|<)?(?P<value>'[^']*'|"[^"]*"|\S+)""")


class BadRequest(GraphQLError):
    """A request that is valid by the schema and wrong all the same."""

    def __init__(self, message: str, *, code: str = "BAD_REQUEST") -> None:
        super().__init__(message, extensions={"code": code})


def page_of(
    rows: Sequence[Row], key: Callable[[Row], Key], args: Mapping[str, Any], *, unlimited: bool
) -> dict[str, Any]:
    """A connection over `rows`, which are sorted by `key`. `unlimited`: all of them (bulk operations)."""
    ordered = rows[::-1] if args.get("reverse") else rows
    start, stop = _window(ordered, key, args)
    if unlimited:
        low, high = start, stop
    else:
        low, high = _bounds(args, start, stop)
    shown = ordered[low:high]
    return {
        "nodes": shown,
        "edges": lambda _info: [{"cursor": cursor_of(key(row)), "node": row} for row in shown],
        "pageInfo": lambda _info: {
            "hasNextPage": high < len(ordered),
            "hasPreviousPage": low > 0,
            "startCursor": cursor_of(key(shown[0])) if shown else None,
            "endCursor": cursor_of(key(shown[-1])) if shown else None,
        },
    }


def _bounds(args: Mapping[str, Any], start: int, stop: int) -> tuple[int, int]:
    first, last = args.get("first"), args.get("last")
    if first is None and last is None:
        raise BadRequest("you must provide one of first or last")
    if first is not None and last is not None:
        raise BadRequest("providing both first and last is not supported")
    size: int = args["first"] if first is not None else args["last"]
    if not 0 <= size <= MAX_PAGE:
        raise BadRequest(f"the page size must be between 0 and {MAX_PAGE}")
    if first is not None:
        return start, min(stop, start + size)
    return max(start, stop - size), stop


def _window(ordered: Sequence[Row], key: Callable[[Row], Key], args: Mapping[str, Any]) -> tuple[int, int]:
    """Where `after` and `before` cut the list. Works by the position in the order: rows may come and go
    meanwhile.
    """
    start, stop = 0, len(ordered)
    if args.get("after"):
        start = _position(ordered, key, args["after"], reverse=bool(args.get("reverse")), after=True)
    if args.get("before"):
        stop = _position(ordered, key, args["before"], reverse=bool(args.get("reverse")), after=False)
    return start, max(start, stop)


def _position(ordered: Sequence[Row], key: Callable[[Row], Key], cursor: str, *, reverse: bool, after: bool) -> int:
    wanted = _key_in(cursor)
    if not reverse:
        find = bisect.bisect_right if after else bisect.bisect_left
        return find(ordered, wanted, key=key)
    count = len(ordered)
    ascending = ordered[::-1]
    if after:
        return count - bisect.bisect_left(ascending, wanted, key=key)
    return count - bisect.bisect_right(ascending, wanted, key=key)


def cursor_of(key: Key) -> str:
    return base64.b64encode(json.dumps({"last_id": key[-1], "last_value": list(key)}).encode()).decode()


def _key_in(cursor: str) -> Key:
    try:
        return tuple(json.loads(base64.b64decode(cursor, validate=True))["last_value"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"Invalid cursor for current pagination sort: {cursor[:60]}") from error


Reader = Callable[[Any], Any]


def matching(rows: Sequence[Row], query: str | None, readers: Mapping[str, Callable[[Row], Any]]) -> Sequence[Row]:
    """Rows which all terms of the search accept. Terms about fields not listed are ignored, as the real
    search does.
    """
    if not query:
        return rows
    kept = list(rows)
    for term in _TERM.finditer(query):
        read = readers.get(term["field"])
        if read is None:
            continue
        accept = _test(term["field"], term["op"] or "", term["value"].strip("'\""), negated=bool(term["not"]))
        kept = [row for row in kept if accept(read(row))]
    return kept


def earliest(query: str | None, field: str) -> int | None:
    """The lower bound in microseconds which the search puts on a time field, to start reading from there."""
    for term in _TERM.finditer(query or ""):
        if term["field"] == field and term["op"] in (">=", ">") and not term["not"]:
            return _microseconds(term["value"].strip("'\""), field)
    return None


def _test(field: str, operator: str, wanted: str, *, negated: bool) -> Callable[[Any], bool]:
    compare = _comparison(field, operator, wanted)
    return (lambda value: not compare(value)) if negated else compare


def _comparison(field: str, operator: str, wanted: str) -> Callable[[Any], bool]:
    if field.endswith("_at"):
        # Shown times have whole seconds, and so has the comparison.
        limit = _microseconds(wanted, field)
        tests: dict[str, Callable[[int], bool]] = {
            ">=": lambda us: us // 1_000_000 * 1_000_000 >= limit // 1_000_000 * 1_000_000,
            ">": lambda us: us // 1_000_000 > limit // 1_000_000,
            "<=": lambda us: us // 1_000_000 <= limit // 1_000_000,
            "<": lambda us: us // 1_000_000 * 1_000_000 < limit,
            "": lambda us: us // 1_000_000 == limit // 1_000_000,
        }
        return tests[operator]
    if operator and wanted.lstrip("-").isdigit():
        number = int(wanted)
        numeric: dict[str, Callable[[Any], bool]] = {
            ">=": lambda value: int(value) >= number,
            ">": lambda value: int(value) > number,
            "<=": lambda value: int(value) <= number,
            "<": lambda value: int(value) < number,
        }
        return numeric[operator]
    text = wanted.lower()
    if text.endswith("*"):
        return lambda value: str(value).lower().startswith(text[:-1])
    return lambda value: str(value).lower() == text


def _microseconds(text: str, field: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadRequest(f"Invalid timestamp for query filter `{field}`.") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000)
