"""One GraphQL request and every way it can end, as the errors of `channels.protocol`.

`gql` over `requests`: documents are parsed and printed once (`documents.py`), no schema is fetched, and the
session is the guarded one of `synctec.lib.http`, which alone decides about addresses, redirects, time and
size.

| what happens | a query | a mutation |
|---|---|---|
| nothing was sent | Unavailable | Unavailable |
| no whole answer, unreadable or oversize answer, redirect | Unavailable | OutcomeUnknown |
| 5xx, INTERNAL_SERVER_ERROR, TIMEOUT | Unavailable | OutcomeUnknown: it may come after the work |
| 429, THROTTLED | Throttled | Throttled: repeat under the same key |
| 401 twice (the second time with a fresh token), 403, ACCESS_DENIED | NotAuthorized | NotAuthorized |
| 402, 423 (a frozen or locked shop) | Unavailable | Unavailable |
| any other 4xx or GraphQL error | Refused | Refused; OutcomeUnknown where part of it was answered |
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

from gql import Client, GraphQLRequest
from gql.client import SyncClientSession
from gql.transport.exceptions import TransportQueryError
from gql.transport.requests import RequestsHTTPTransport
from graphql import ExecutionResult

from channels.connectors.shopify.costs import CostBook
from channels.connectors.shopify.documents import Document
from channels.connectors.shopify.parsing import JsonObject
from channels.connectors.shopify.version import GRAPHQL_PATH
from channels.protocol import (
    NOT_SENT,
    CallEnd,
    ChannelError,
    NotAuthorized,
    OutcomeUnknown,
    Pacing,
    Refused,
    Throttled,
    ThrottleStatus,
    Unavailable,
    is_breakage,
)
from synctec.lib import http
from synctec.lib.http import GuardedSession
from synctec.lib.secret import Secret

#: What to wait when the channel throttles without saying how long; Shopify's advice is one second.
THROTTLED_SECONDS_DEFAULT = 1.0
RETRY_SECONDS_MAX = 300.0

_BROKEN_CODES = ("INTERNAL_SERVER_ERROR", "SERVICE_UNAVAILABLE", "TIMEOUT")
_SHOP_CLOSED_STATUSES = {402: "frozen until its bill is paid", 423: "locked"}
_POINTS_MAX = 1e9
_NOT_PRINTABLE = re.compile(r"[^ -~\u00a0-\ud7ff]+")

#: Process-wide: all connectors ask for the same documents.
_COSTS = CostBook()


class _StatusError(Exception):
    """An answer whose status is not 200."""

    def __init__(self, status: int, retry_after: float | None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.retry_after = retry_after


class _AnswerError(Exception):
    """An answer with status 200 that is no GraphQL answer."""


class _PreparedRequest(GraphQLRequest):
    """A request whose text was printed when the document was parsed."""

    def __init__(self, document: Document, variables: Mapping[str, Any]) -> None:
        super().__init__(document.node, variable_values=dict(variables), operation_name=document.name)
        self._text = document.text

    @property
    def payload(self) -> dict[str, Any]:
        return {"query": self._text, "operationName": self.operation_name, "variables": self.variable_values}


class _Transport(RequestsHTTPTransport):
    """gql's transport over a session it does not own: neither made, nor closed, nor retried by it."""

    def __init__(self, *, url: str, session: GuardedSession) -> None:
        super().__init__(url=url)
        self.session = session
        self.date = ""  # of the latest answer
        self.is_answered = False

    def connect(self) -> None:
        pass

    def close(self) -> None:
        pass

    def execute(
        self,
        request: GraphQLRequest,
        timeout: int | None = None,
        extra_args: dict[str, Any] | None = None,
        upload_files: bool = False,
    ) -> ExecutionResult:
        if self.session is None:
            raise TypeError("a transport without its session")
        body = json.dumps(request.payload, separators=(",", ":")).encode()
        response = self.session.post(self.url, data=body, **(extra_args or {}))
        self.date, self.is_answered = response.headers.get("Date", ""), True
        if response.status_code != 200:
            raise _StatusError(response.status_code, _seconds(response.headers.get("Retry-After")))
        return _read_answer(response.content)


def _read_answer(content: bytes) -> ExecutionResult:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        raise _AnswerError("not JSON") from None
    if type(answer) is not dict:
        raise _AnswerError("not an object")
    data, errors, extensions = answer.get("data"), answer.get("errors"), answer.get("extensions")
    if not errors and type(data) is not dict:
        raise _AnswerError("neither data nor errors")
    if errors and type(errors) is not list:
        errors = [{"message": errors if type(errors) is str else "an error of unknown form"}]
    return ExecutionResult(
        data=data if type(data) is dict else None,
        errors=errors or None,
        extensions=extensions if type(extensions) is dict else None,
    )


class ShopifyClient:
    """Sends documents to one store."""

    def __init__(
        self,
        *,
        account: str,
        base_url: str,
        token: Callable[[bool], Secret],
        session: GuardedSession,
        pacer: Pacing,
    ) -> None:
        self._account = account
        self._token = token
        self._pacer = pacer
        self._transport = _Transport(url=base_url.rstrip("/") + GRAPHQL_PATH, session=session)
        # A session of gql's own making; connecting and closing are no-ops of the transport.
        self._graphql = SyncClientSession(Client(transport=self._transport, fetch_schema_from_transport=False))

    @property
    def its_time(self) -> datetime | None:
        """The store's clock at its latest answer, in whole seconds; None when it told none that can be read."""
        try:
            told = parsedate_to_datetime(self._transport.date)
        except ValueError:
            return None
        return told if told.tzinfo else told.replace(tzinfo=UTC)

    def query(self, document: Document, variables: Mapping[str, Any], *, size: int = 1) -> JsonObject:
        """The `data` of a query. `size` (ids, page length) serves to foresee the cost.

        Raises:
            ChannelError: never OutcomeUnknown, since nothing is changed by reading.
        """
        return self._send(document, variables, size)

    def mutate(self, document: Document, variables: Mapping[str, Any], *, size: int = 1) -> object:
        """The payload of a mutation's one field, as it came.

        Raises:
            OutcomeUnknown: it may have been applied.
            ChannelError: it was not.
        """
        data = self._send(document, variables, size)
        return next(iter(data.values()), None)

    def _send(self, document: Document, variables: Mapping[str, Any], size: int) -> JsonObject:
        reserved = float(_COSTS.expected(document.name, size))
        self._pacer.acquire(reserved)
        self._transport.is_answered = False
        actual, status, is_costed = reserved, None, False  # unless we learn better, it was spent
        error: ChannelError | None = None
        try:
            result = self._post(document, variables)
            actual, status = self._read_cost(document, size, result, reserved)
            is_costed = True
            if result.errors:
                self._raise_for_errors(document, result)
        except ChannelError as raised:
            error = raised
            if not is_costed and (isinstance(error, Throttled | NotAuthorized) or error.code == NOT_SENT):
                actual = 0.0
            raise
        finally:
            rest_seconds = self._pacer.settle(
                reserved=reserved, actual=actual, status=status, end=self._end(error), error=error
            )
            if error is not None and rest_seconds:
                error.retry_after = max(error.retry_after or 0.0, rest_seconds)
        return result.data or {}

    def _end(self, error: ChannelError | None) -> CallEnd:
        if error is not None and is_breakage(error):
            return CallEnd.BROKEN
        return CallEnd.ANSWERED if self._transport.is_answered else CallEnd.NOT_MADE

    def _post(self, document: Document, variables: Mapping[str, Any]) -> ExecutionResult:
        try:
            return self._post_once(document, variables, force_refresh=False)
        except _StatusError as refusal:
            if refusal.status != 401:
                self._raise_for_status(document, refusal)
        try:
            return self._post_once(document, variables, force_refresh=True)
        except _StatusError as refusal:
            self._raise_for_status(document, refusal)

    def _post_once(self, document: Document, variables: Mapping[str, Any], *, force_refresh: bool) -> ExecutionResult:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "X-Shopify-Access-Token": self._token(force_refresh).reveal(),
        }
        request = _PreparedRequest(document, variables)
        try:
            return self._graphql.execute(request, get_execution_result=True, extra_args={"headers": headers})
        except TransportQueryError as answered:
            return ExecutionResult(data=answered.data, errors=answered.errors, extensions=answered.extensions)
        except _AnswerError as unreadable:
            self._fail(document, f"answered something unreadable ({unreadable})", code="ANSWER_UNREADABLE")
        except http.NotSent as error:
            raise Unavailable(f"{self._account} cannot be reached: {error}", code=NOT_SENT) from None
        except http.AddressRefused as error:
            raise Refused(f"The address of {self._account} is not allowed: {error}", code="ADDRESS_REFUSED") from None
        except http.HttpError as error:
            self._fail(document, f"gave no usable answer: {error}", code=type(error).__name__)

    def _fail(self, document: Document, what: str, *, code: str, retry_after: float | None = None) -> NoReturn:
        """Something broke between asking and knowing."""
        kind: type[ChannelError] = OutcomeUnknown if document.is_mutation else Unavailable
        raise kind(f"{self._account} {what}", code=code, retry_after=retry_after) from None

    def _raise_for_status(self, document: Document, refusal: _StatusError) -> NoReturn:
        status, code = refusal.status, f"HTTP_{refusal.status}"
        if status == 429:
            seconds = refusal.retry_after or THROTTLED_SECONDS_DEFAULT
            self._pacer.penalize(seconds)
            raise Throttled(f"{self._account} asks to wait {seconds:g} s", code=code, retry_after=seconds) from None
        if status in (401, 403):
            raise NotAuthorized(
                f"{self._account} refuses our access (HTTP {status}): connect the store again.", code=code
            ) from None
        if status in _SHOP_CLOSED_STATUSES:
            raise Unavailable(
                f"{self._account} is {_SHOP_CLOSED_STATUSES[status]} (HTTP {status}).", code=code
            ) from None
        if status >= 500 or status < 400:
            self._fail(document, f"answered HTTP {status}", code=code, retry_after=refusal.retry_after)
        if status == 404:
            raise Refused(
                f"{self._account} is no store that can be reached (HTTP 404): check its address.", code=code
            ) from None
        raise Refused(f"{self._account} refused the request (HTTP {status}).", code=code) from None

    def _read_cost(
        self, document: Document, size: int, result: ExecutionResult, reserved: float
    ) -> tuple[float, ThrottleStatus | None]:
        """What the request cost and what the store says is left; `reserved` where it does not say."""
        cost = (result.extensions or {}).get("cost")
        if type(cost) is not dict:
            return reserved, None
        requested, actual = _points(cost.get("requestedQueryCost")), _points(cost.get("actualQueryCost"))
        if requested:
            _COSTS.learn(document.name, size, math.ceil(requested))
        if actual is None:  # a throttled request is not executed and costs nothing
            actual = 0.0 if _is_throttled(result) else reserved
        return actual, _read_throttle_status(cost.get("throttleStatus"))

    def _raise_for_errors(self, document: Document, result: ExecutionResult) -> NoReturn:
        """The gravest of the top-level errors, in the order of the table above."""
        errors = [_describe(error) for error in result.errors or ()]
        codes = [code for code, _ in errors]
        said = "; ".join(dict.fromkeys(message for _, message in errors if message))[:300]
        if "THROTTLED" in codes:
            seconds = _throttled_seconds(result.extensions)
            self._pacer.penalize(seconds)
            raise Throttled(f"{self._account} asks to wait {seconds:.1f} s", code="THROTTLED", retry_after=seconds)
        if document.is_mutation and any(value is not None for value in (result.data or {}).values()):
            self._fail(document, f"applied a write and then failed: {said}", code=codes[0])
        if "ACCESS_DENIED" in codes:
            raise NotAuthorized(f"{self._account} denies access: {said}", code="ACCESS_DENIED")
        for code in codes:
            if code in _BROKEN_CODES:
                self._fail(document, f"failed inside: {said}", code=code)
        raise Refused(f"{self._account} refused {document.name}: {said}", code=codes[0])


def _describe(error: object) -> tuple[str, str]:
    """Code and printable text of one top-level error, whatever its form."""
    if type(error) is not dict:
        return "UNKNOWN", ""
    extensions = error.get("extensions")
    code = extensions.get("code") if type(extensions) is dict else None
    message = error.get("message")
    return (
        code[:100] if type(code) is str and code else "UNKNOWN",
        _NOT_PRINTABLE.sub(" ", message[:300]) if type(message) is str else "",
    )


def _is_throttled(result: ExecutionResult) -> bool:
    return any(_describe(error)[0] == "THROTTLED" for error in result.errors or ())


def _points(value: object) -> float | None:
    """A number of points that can be reckoned with."""
    if type(value) is int or type(value) is float:
        return float(value) if 0 <= value < _POINTS_MAX else None
    return None


def _read_throttle_status(value: object) -> ThrottleStatus | None:
    if type(value) is not dict:
        return None
    maximum = _points(value.get("maximumAvailable"))
    available = _points(value.get("currentlyAvailable"))
    restored = _points(value.get("restoreRate"))
    if not maximum or available is None or not restored:
        return None
    return ThrottleStatus(maximum=maximum, available=min(available, maximum), restored_per_second=restored)


def _throttled_seconds(extensions: JsonObject | None) -> float:
    """How long until the bucket holds what was asked for: (requested - available) / restore rate."""
    cost = (extensions or {}).get("cost")
    if type(cost) is not dict:
        return THROTTLED_SECONDS_DEFAULT
    requested, status = (
        _points(cost.get("requestedQueryCost")),
        _read_throttle_status(cost.get("throttleStatus")),
    )
    if requested is None or status is None or requested <= status.available:
        return THROTTLED_SECONDS_DEFAULT
    return min((requested - status.available) / status.restored_per_second, RETRY_SECONDS_MAX)


def _seconds(header: str | None) -> float | None:
    """The seconds of a Retry-After header; a date or nonsense is none."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return min(seconds, RETRY_SECONDS_MAX) if 0 < seconds < math.inf else None
