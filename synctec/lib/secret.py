"""A string that does not show itself: access tokens, client secrets, keys."""

import hmac
from typing import Any, NoReturn, Self, SupportsIndex

_MASK = "<secret>"


class Secret:
    """An immutable string that only `reveal()` gives out.

    repr, str and format show a mask, so an f-string, a log line or a traceback with locals stays clean. It
    is no `str`, so the JSON encoders refuse it, and pickling (a Celery argument, a cache entry) raises
    TypeError.
    Equality takes the same time wherever two secrets differ; a plain `str` never equals a Secret.
    """

    __slots__ = ("__value",)
    __value: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a Secret wraps a str, not {type(value).__name__}")
        object.__setattr__(self, "_Secret__value", value)

    def reveal(self) -> str:
        """Return the plain text. Call it in the expression that needs it, and keep no copy."""
        return self.__value

    def __repr__(self) -> str:
        return _MASK

    def __str__(self) -> str:
        return _MASK

    def __format__(self, format_spec: str) -> str:
        return _MASK

    def __bool__(self) -> bool:
        """An empty secret is false: `if not client_secret` asks whether one was configured."""
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_comparable(self.__value), _comparable(other.__value))

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed; make a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret cannot be changed; make a new one")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Secret is not to be pickled: pass the id of its row, or seal it first")


def _comparable(value: str) -> bytes:
    # "surrogatepass": any str can be compared, whatever bytes an environment variable brought in.
    return value.encode("utf-8", "surrogatepass")
