"""Reading requests of shoppers, staff and operators. What passes here has the types the commands expect."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from channels.sandbox.store import Refusal

_ROWS = ("lines", "additions", "removals", "variants")
_FLAGS = ("restock",)
_NUMBERS = ("delta", "quantity")
NUMBER_MAX = 2_000_000_000


async def json_body(request: web.Request) -> dict[str, Any]:
    """The JSON object of the body, {} for none. Raises Refusal (400)."""
    value = await json_value(request)
    if not isinstance(value, dict):
        raise Refusal("the body must be a JSON object", code="bad_json", status=400)
    return value


async def json_value(request: web.Request) -> Any:
    """The JSON value of the body, {} for none. Raises Refusal (400)."""
    raw = await request.read()
    if not raw:
        return {}
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise Refusal("the body is not JSON", code="bad_json", status=400) from None


def checked(field: str, value: Any) -> Any:
    """The value, if it has the type this field must have. Raises Refusal (400)."""
    if field in _ROWS:
        if value is None and field != "variants":
            return None
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise Refusal(f"{field} must be a list of objects", status=400)
    elif field in _FLAGS:
        if not isinstance(value, bool):
            raise Refusal(f"{field} must be true or false", status=400)
    elif field in _NUMBERS:
        if value is not None and (type(value) is not int or abs(value) > NUMBER_MAX):
            raise Refusal(f"{field} must be a whole number", status=400)
    elif value is None and field == "location":
        return None
    elif not isinstance(value, str | int):
        raise Refusal(f"{field} must be a text", status=400)
    else:
        return str(value)
    return value


def whole_number(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else otherwise
