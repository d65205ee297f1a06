"""Strict reading of JSON that somebody else wrote: no value is used before its type and range are checked.

Plain functions, no schema library: this runs for every event, hundreds a second. Each raises MalformedEvent
naming the field and what was expected; nothing else escapes, whatever the bytes.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, NoReturn

from channels.protocol import MalformedEvent

JsonObject = dict[str, Any]

DEPTH_MAX = 50
LIST_LENGTH_MAX = 1000
TEXT_LENGTH_MAX = 255
#: Shopify's own bound of a quantity.
QUANTITY_MAX = 1_000_000_000
#: A bound of ours for one order line; nobody ships more, and an absurd number must not reach the ledger.
LINE_UNITS_MAX = 1_000_000
#: Ids are unsigned 64-bit numbers there and signed ones here; those seen stay below 2^60.
ID_MAX = 2**63 - 1

_DIGITS = re.compile(r"-?[0-9]{1,19}")
_GID = re.compile(r"gid://shopify/([A-Za-z]{1,60})/([0-9]{1,19})(?:\?.*)?")
#: RFC 3339 with any number of fractional digits (Shopify sends up to nanoseconds).
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,12})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_YEAR_MIN = 1970
_YEAR_MAX = 2999
#: What PostgreSQL cannot hold in a text.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def malformed(where: str, expected: str, found: object) -> NoReturn:
    """Raise MalformedEvent: which field, what was expected, and the type (never the value) that was found."""
    kind = "nothing" if found is None else type(found).__name__
    raise MalformedEvent(f"{where}: expected {expected}, found {kind}", code="malformed")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def read_document(body: bytes) -> JsonObject:
    """The JSON object in `body`, at most `DEPTH_MAX` levels deep, without NaN or Infinity."""
    try:
        document = _DECODER.decode(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else "not JSON in UTF-8"
        raise MalformedEvent(f"body: expected a JSON object, found bytes that are {reason}", code="malformed") from None
    if type(document) is not dict:
        malformed("body", "a JSON object", document)
    _check_depth(document)
    return document


def _check_depth(document: JsonObject) -> None:
    level: list[Any] = [document]
    for _ in range(DEPTH_MAX):
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) in (dict, list)
        ]
        if not level:
            return
    raise MalformedEvent(f"body: expected at most {DEPTH_MAX} levels, found more", code="malformed")


def read_remote_id(value: object, where: str, *, kind: str = "") -> str:
    """The bare number of an id as text, from 123, "123" or "gid://shopify/<kind>/123", so that all sources
    agree.
    """
    if type(value) is int:
        number = value
    elif type(value) is str:
        number = _number_of(value, where, kind=kind)
    else:
        malformed(where, "an id", value)
    if not -ID_MAX <= number <= ID_MAX:
        malformed(where, "an id within 63 bits", value)
    return str(number)


def _number_of(value: str, where: str, *, kind: str) -> int:
    if _DIGITS.fullmatch(value):
        return int(value)
    gid = _GID.fullmatch(value)
    if gid is None or (kind and gid[1] != kind):
        malformed(where, f"the id of a {kind}" if kind else "an id", value)
    return int(gid[2])


def read_quantity(value: object, where: str) -> int:
    """A whole number within Shopify's bounds; true, 1.0 and "1" are not."""
    if type(value) is not int:
        malformed(where, "a whole number", value)
    if not -QUANTITY_MAX <= value <= QUANTITY_MAX:
        malformed(where, f"a quantity between -{QUANTITY_MAX} and {QUANTITY_MAX}", value)
    return value


def read_count(value: object, where: str) -> int:
    """A quantity that cannot be negative."""
    count = read_quantity(value, where)
    if count < 0:
        malformed(where, "a quantity of zero or more", value)
    return count


def read_units(value: object, where: str) -> int:
    """Units of one order line: a count within reason, so that sums of them fit every account."""
    units = read_count(value, where)
    if units > LINE_UNITS_MAX:
        malformed(where, f"at most {LINE_UNITS_MAX} units", value)
    return units


def read_flag(value: object, where: str) -> bool:
    """True or false, nothing that merely resembles them."""
    if type(value) is not bool:
        malformed(where, "true or false", value)
    return value


def read_text(value: object, where: str) -> str:
    """A text for people: absent is empty, cut to `TEXT_LENGTH_MAX`, characters no database holds replaced.

    Not refused, because an odd title must not cost a sale.
    """
    if value is None:
        return ""
    if type(value) is not str:
        malformed(where, "a text", value)
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value[:TEXT_LENGTH_MAX])


def read_moment(value: object, where: str) -> datetime:
    """A moment in UTC from RFC 3339; digits beyond microseconds are cut off."""
    if type(value) is not str or not _MOMENT.fullmatch(value):
        malformed(where, "a date and time with its offset (RFC 3339)", value)
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        malformed(where, "a date and time that exists", value)
    if not _YEAR_MIN <= moment.year <= _YEAR_MAX:
        malformed(where, f"a year between {_YEAR_MIN} and {_YEAR_MAX}", value)
    return moment


def read_moment_or_none(value: object, where: str) -> datetime | None:
    """As `read_moment`, or None when absent."""
    return None if value is None else read_moment(value, where)


def read_object(value: object, where: str) -> JsonObject:
    """A JSON object."""
    if type(value) is not dict:
        malformed(where, "an object", value)
    return value


def read_objects(value: object, where: str) -> list[JsonObject]:
    """A list of at most `LIST_LENGTH_MAX` objects."""
    if type(value) is not list:
        malformed(where, "a list", value)
    if len(value) > LIST_LENGTH_MAX:
        raise MalformedEvent(
            f"{where}: expected at most {LIST_LENGTH_MAX} entries, found {len(value)}", code="malformed"
        )
    for item in value:
        if type(item) is not dict:
            malformed(where, "a list of objects", item)
    return value


def read_objects_or_none(value: object, where: str) -> list[JsonObject]:
    """As `read_objects`; an absent list is empty."""
    return [] if value is None else read_objects(value, where)
