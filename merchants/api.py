"""What all routes of the HTTP API share: who asks, what they may do, strict reading, clear refusals, doing things once.

A view says which scope each of its methods needs; a method that names none is closed. What it reads is read strictly:
unknown fields, booleans as numbers, numbers as texts, and times without an offset are refused, and every refusal is a
problem document (RFC 9457) that names the field and the way out.

    class Things(ApiView):
        scopes = {"GET": Scope.STOCK_READ, "POST": Scope.STOCK_WRITE}

        def post(self, request: Request) -> HttpResponse:
            asked = read(ThingSerializer, request.data)
            return self.once(request, lambda: (201, make_thing(self.merchant, asked)))
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from typing import IO, Any, ClassVar, Final, NoReturn

import redis
import structlog
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, URLResolver
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from redis.backoff import NoBackoff
from redis.retry import Retry
from rest_framework import exceptions, serializers
from rest_framework.authentication import BaseAuthentication
from rest_framework.parsers import BaseParser
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from merchants import idempotency, keys
from merchants.models import ApiKey, Merchant, Scope
from merchants.pages import own_page
from synctec.lib import sql

log = structlog.get_logger(__name__)

BODY_BYTES_MAX: Final = 5 * 1024 * 1024
JSON_DEPTH_MAX: Final = 50
INT4_MIN, INT4_MAX = -(2**31), 2**31 - 1
PAGE_DEFAULT, PAGE_MAX = 100, 250
RETRY_AFTER_SECONDS: Final = 5
#: What a method asks for that any living key may use.
ANY_SCOPE: Final = ""


# --- refusals -----------------------------------------------------------------------------------------------


class Problem(exceptions.APIException):
    """A refusal: its status, a name for programs, words for people, and which fields are to blame."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status_code = status
        self.name = name
        self.errors = errors or []
        self.headers = dict(headers or {})
        self.more = dict(more or {})


_TITLES = {
    "invalid-request": "The request cannot be read",
    "not-authenticated": "No valid API key",
    "not-allowed": "The API key may not do this",
    "not-found": "There is no such thing",
    "too-many-requests": "Too many requests",
    "try-again": "Not now",
    "internal-error": "Our mistake",
}


def problem_response(error: Exception, context: Mapping[str, Any]) -> Response:
    """Any exception as a problem document; what nobody expected is logged and tells nothing."""
    problem = _as_problem(error)
    if problem.status_code >= 500:
        log.error("api.failed", error=type(error).__name__, exc_info=error)
    document: dict[str, Any] = {
        "type": f"urn:synctec:problem:{problem.name}",
        "title": _TITLES.get(problem.name, problem.name.replace("-", " ").capitalize()),
        "status": problem.status_code,
        "detail": str(problem.detail),
        **problem.more,
    }
    if problem.errors:
        document["errors"] = problem.errors
    response = Response(document, status=problem.status_code, content_type="application/problem+json")
    for name, value in problem.headers.items():
        response[name] = value
    return response


def _as_problem(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, exceptions.ValidationError):
        fields = [{"field": field, "detail": text} for field, text in flattened(error.detail)]
        return Problem(400, "invalid-request", "Correct the fields named in `errors`.", errors=fields)
    if isinstance(error, exceptions.Throttled):
        wait = str(math.ceil(getattr(error, "wait", None) or 1))
        return Problem(
            429, "too-many-requests", f"Wait {wait} s, then go on more slowly.", headers={"Retry-After": wait}
        )
    if isinstance(error, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        headers = {"WWW-Authenticate": 'Bearer realm="SyncTec"'}
        return Problem(401, "not-authenticated", str(error.detail), headers=headers)
    if isinstance(error, Http404 | exceptions.NotFound):
        return Problem(404, "not-found", str(error) or "There is nothing at this address.")
    if isinstance(error, PermissionDenied | exceptions.PermissionDenied):
        return Problem(403, "not-allowed", str(error))
    if isinstance(error, exceptions.APIException):
        return Problem(error.status_code, "invalid-request", str(error.detail))
    if isinstance(error, sql.AWAY):
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return Problem(503, "try-again", "The database is away or busy. Send the same request again.", headers=headers)
    return Problem(500, "internal-error", "This should not happen. The error was noted; nothing was changed.")


def flattened(detail: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a serializer's errors with their places, such as lines[3].quantity."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            if isinstance(name, int):
                yield from flattened(inner, f"{place}[{name}]")
            else:
                is_whole = name == "non_field_errors"
                yield from flattened(inner, place if is_whole else f"{place}.{name}" if place else str(name))
    elif isinstance(detail, list | tuple):
        for index, inner in enumerate(detail):
            if isinstance(inner, Mapping | list):
                if inner:
                    yield from flattened(inner, f"{place}[{index}]")
            else:
                yield place or "body", str(inner)
    else:
        yield place or "body", str(detail)


# --- who asks -----------------------------------------------------------------------------------------------


class ApiKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer st_...`: the key is looked up for every request, so a revoked one ends at once."""

    def authenticate(self, request: Request) -> tuple[None, ApiKey] | None:
        """Raises AuthenticationFailed. None when no key was sent."""
        kind, _, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if not kind:
            return None
        if kind.lower() != "bearer":
            raise exceptions.AuthenticationFailed("Send the API key as: Authorization: Bearer st_...")
        try:
            key = keys.recognise(token.strip(), now=timezone.now())
        except keys.KeyRefused as refused:
            raise exceptions.AuthenticationFailed(str(refused)) from None
        structlog.contextvars.bind_contextvars(merchant_id=key.merchant_id, api_key_prefix=key.prefix)
        return None, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="SyncTec"'


class HasScope(BasePermission):
    """The key has the scope that the view asks for with this method; a method that names none is closed."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        assert isinstance(view, ApiView)
        if not isinstance(request.auth, ApiKey):
            raise exceptions.NotAuthenticated("Send an API key: Authorization: Bearer st_...")
        # A method the view does not know is answered with 405 by the view itself.
        needed = view.scopes.get(request.method or "")
        if needed is None and (request.method or "").lower() not in view.http_method_names_known():
            return True
        if needed is None or (needed != ANY_SCOPE and needed not in request.auth.scopes):
            raise exceptions.PermissionDenied(
                f"The API key {request.auth.prefix} lacks the scope {needed or 'of a route that is closed'}. "
                "Make a key that has it."
            )
        return True


class KeyThrottle(BaseThrottle):
    """So many requests per key in each window of ten seconds, counted in Redis. Without Redis nobody is refused."""

    WINDOW_SECONDS: ClassVar[int] = 10
    REST_SECONDS: ClassVar[float] = 1.0
    _rests_until: ClassVar[float] = 0.0

    def allow_request(self, request: Request, view: APIView) -> bool:
        assert isinstance(request.auth, ApiKey)
        if time.monotonic() < KeyThrottle._rests_until:
            return True
        window = int(time.time()) // self.WINDOW_SECONDS
        name = f"api:throttle:{request.auth.pk}:{window}"
        try:
            with _redis().pipeline(transaction=False) as pipe:
                pipe.incr(name)
                pipe.expire(name, 2 * self.WINDOW_SECONDS)
                count, _ = pipe.execute()
        except redis.RedisError as error:
            KeyThrottle._rests_until = time.monotonic() + self.REST_SECONDS
            log.warning("api.throttle_without_redis", error=type(error).__name__)
            return True
        return bool(count * 60 <= settings.API_REQUESTS_PER_MINUTE * self.WINDOW_SECONDS)

    def wait(self) -> float:
        return self.WINDOW_SECONDS - time.time() % self.WINDOW_SECONDS


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=0.2, socket_connect_timeout=0.2, retry=Retry(NoBackoff(), 0)
    )


# --- strict reading -----------------------------------------------------------------------------------------


class StrictJSONParser(BaseParser):
    """JSON as RFC 8259 has it: no NaN, no numbers beyond a float, no name twice, not too deep, not too long."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """Raises Problem: 413 for a body over the limit, 400 for one that is no such JSON."""
        declared = ((parser_context or {})["request"].META.get("CONTENT_LENGTH") or "").strip()
        too_large = Problem(413, "too-large", f"A body may have {BODY_BYTES_MAX} bytes at most. Send smaller batches.")
        if declared.isdecimal() and int(declared[:12]) > BODY_BYTES_MAX:
            raise too_large
        try:
            body = stream.read(BODY_BYTES_MAX + 1)
        except OSError:
            raise Problem(400, "invalid-request", "The body broke off. Send it again.") from None
        if len(body) > BODY_BYTES_MAX:
            raise too_large
        return loads(body)


def loads(body: bytes) -> Any:
    """Read strict JSON whose texts PostgreSQL can hold. Raises Problem (400)."""
    try:
        value = json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_object_of,
            parse_constant=_no_constant,
            parse_float=_finite_float,
        )
        _check_depth_and_texts(value)
    except RecursionError:
        raise _bad_json(f"it is nested more than {JSON_DEPTH_MAX} deep") from None
    except UnicodeDecodeError:
        raise _bad_json("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _bad_json(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:
        raise _bad_json(str(error)) from None
    return value


def _bad_json(why: str) -> Problem:
    return Problem(400, "invalid-request", f"The body is not the JSON we take: {why}.")


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:60]!r} comes twice in one object")
    return read


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _check_depth_and_texts(value: Any) -> None:
    layer, depth = [value], 0
    while layer:
        depth += 1
        if depth > JSON_DEPTH_MAX:
            raise RecursionError
        below: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str) and ("\x00" in item or (not item.isascii() and _has_surrogate(item))):
                raise ValueError("a text holds a NUL or half a surrogate pair")
        layer = below


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses what it does not know, so that a misspelled field is not silently ignored."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = [str(name) for name in data if name not in self.fields] if isinstance(data, Mapping) else []
        errors: dict[str, Any] = {
            name[:100]: [f"There is no such field. Known are: {', '.join(self.fields)}."] for name in unknown
        }
        try:
            value = super().to_internal_value(data)
        except exceptions.ValidationError as error:
            if isinstance(error.detail, dict):
                errors.update(error.detail)
        if errors:
            raise exceptions.ValidationError(errors)
        return value


class StrictInteger(serializers.IntegerField):
    """A JSON number without a fraction that PostgreSQL's int4 holds; no text, no true."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"min_value": INT4_MIN, "max_value": INT4_MAX, **options})

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return data


class StrictText(serializers.CharField):
    """A JSON text; a number is none."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class StrictBoolean(serializers.BooleanField):
    """true or false; not 1, not "yes"."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class Moment(serializers.DateTimeField):
    """An instant in ISO 8601 with its offset from UTC, in this century."""

    default_error_messages = {"moment": "Give a date and time with its offset, such as 2026-11-20T12:00:00Z."}

    def to_internal_value(self, value: Any) -> datetime:
        try:
            moment = parse_datetime(value) if isinstance(value, str) else None
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None or not 2000 <= moment.year < 2100:
            self.fail("moment")
        return moment


def read(serializer: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
    """What the request says, checked. Raises ValidationError, which names every wrong field."""
    asked = serializer(data=data)
    asked.is_valid(raise_exception=True)
    return dict(asked.validated_data)


class PageQuery(serializers.Serializer[Any]):
    """Where a page begins and how long it is, as every list takes them."""

    cursor = serializers.CharField(required=False, max_length=200, default="", help_text="`next` of the page before.")
    limit = serializers.IntegerField(required=False, min_value=1, max_value=PAGE_MAX, default=PAGE_DEFAULT)


def read_query(serializer: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """What the query string says, checked: unknown names and names given twice are refused."""
    known = serializer().fields
    for name, values in request.query_params.lists():
        if name not in known:
            raise exceptions.ValidationError(
                {name[:100]: [f"There is no such parameter. Known are: {', '.join(known)}."]}
            )
        if len(values) > 1:
            raise exceptions.ValidationError({name: ["Give it once."]})
    return read(serializer, request.query_params.dict())


def encode_cursor(*position: int) -> str:
    """A place in a list, for the client to hand back and not to read."""
    return base64.urlsafe_b64encode(":".join(map(str, position)).encode()).rstrip(b"=").decode("ascii")


def decode_cursor(cursor: str, *, parts: int) -> tuple[int, ...]:
    """The place that `encode_cursor` wrote. Raises ValidationError for anything else."""
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
        position = tuple(int(part) for part in text.split(":") if re.fullmatch(r"[0-9]{1,18}", part))
    except (ValueError, binascii.Error):
        position = ()
    if len(position) != parts or encode_cursor(*position) != cursor:
        raise exceptions.ValidationError({"cursor": ["Not a cursor of this list. Hand back `next` as it came."]})
    return position


# --- views --------------------------------------------------------------------------------------------------


class ApiSchema(AutoSchema):
    """Says of every route what all of them have in common."""

    def get_override_parameters(self) -> list[Any]:
        if self.method != "POST":
            return []
        return [
            OpenApiParameter(
                "Idempotency-Key",
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                required=getattr(self.view, "needs_idempotency_key", True),
                description="1 to 255 characters of your choice. The same key and body get the same answer for at "
                "least 24 hours; another body is refused.",
            )
        ]

    def get_description(self) -> str:  # type: ignore[override]
        assert isinstance(self.view, ApiView)
        needed = self.view.scopes.get(self.method, ANY_SCOPE)
        return f"{super().get_description()}\n\nScope: `{needed}`." if needed else super().get_description()


class KeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the schema describes our keys."""

    target_class = "merchants.api.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API key made in the admin, st_..."}


class ApiView(APIView):
    """A route of the API. `scopes` says what each method asks of the key."""

    authentication_classes = [ApiKeyAuthentication]
    permission_classes = [HasScope]
    throttle_classes = [KeyThrottle]
    parser_classes = [StrictJSONParser]
    renderer_classes = [JSONRenderer]
    schema = ApiSchema()

    scopes: ClassVar[Mapping[str, str]] = {}
    #: Whether POST must come with an Idempotency-Key; not where the body names each thing itself.
    needs_idempotency_key: ClassVar[bool] = True

    @classmethod
    def http_method_names_known(cls) -> list[str]:
        """The methods this view has code for, in lower case."""
        return [name for name in cls.http_method_names if name != "options" and hasattr(cls, name)]

    @property
    def key(self) -> ApiKey:
        """The key of the request."""
        key = self.request.auth
        assert isinstance(key, ApiKey)
        return key

    @property
    def merchant(self) -> Merchant:
        """Whose data the request is about: the key's merchant, never anything the request says."""
        return self.key.merchant

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response]:
        return problem_response

    def options(self, request: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """The schema tells what there is to know."""
        raise exceptions.MethodNotAllowed("OPTIONS")

    def once(self, request: Request, act: Callable[[], tuple[int, Any]]) -> HttpResponse:
        """Answer with what `act` returns (a status and JSON), or with what it returned for this Idempotency-Key before.

        `act` runs in one transaction with the remembered answer. What it returns is remembered, whatever the status;
        what it raises is not, and undoes everything.
        """
        if not self.needs_idempotency_key and not request.headers.get("Idempotency-Key"):
            return _rendered(_answer(act))
        key = idempotency_key(request)
        said = json.dumps([request.method, request.get_full_path(), request.data], sort_keys=True)
        try:
            answer = idempotency.once(merchant_id=self.merchant.pk, key=key, request=said, act=lambda: _answer(act))
        except idempotency.InFlight:
            raise Problem(
                409,
                "request-in-flight",
                "A request with this Idempotency-Key is being carried out. Send it again in a moment.",
                headers={"Retry-After": "1"},
            ) from None
        except idempotency.AnotherRequest:
            raise Problem(
                422,
                "idempotency-key-reused",
                "This Idempotency-Key was used for a request with another content. Use a new key for a new request.",
            ) from None
        return _rendered(answer)


def idempotency_key(request: Request) -> str:
    """The request's Idempotency-Key. Raises ValidationError."""
    key = request.headers.get("Idempotency-Key", "")
    if not key or len(key) > 255 or not key.isascii() or not key.isprintable():
        raise exceptions.ValidationError(
            {
                "Idempotency-Key": [
                    "Send this header with 1 to 255 printable ASCII characters: new for each request, the same when you "
                    "repeat it."
                ]
            }
        )
    return key


def _answer(act: Callable[[], tuple[int, Any]]) -> idempotency.Answer:
    status, data = act()
    return idempotency.Answer(status, JSONRenderer().render(data).decode())


def _rendered(answer: idempotency.Answer) -> HttpResponse:
    kind = "application/json" if answer.status < 400 else "application/problem+json"
    response = HttpResponse(answer.body, status=answer.status, content_type=kind)
    if answer.is_replay:
        response["Idempotency-Replayed"] = "true"
    return response


def routes(patterns: list[URLPattern | URLResolver], prefix: str = "") -> Iterator[tuple[str, type[ApiView]]]:
    """Every route of the API below these URL patterns with its view, for whoever lists or checks them."""
    for pattern in patterns:
        place = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, place)
        else:
            view = getattr(pattern.callback, "view_class", None)
            if isinstance(view, type) and issubclass(view, ApiView):
                yield place, view


# --- routes of this app -------------------------------------------------------------------------------------


class KeySerializer(serializers.ModelSerializer[ApiKey]):
    """A key as its own program sees it."""

    merchant = serializers.SlugRelatedField[Merchant](slug_field="slug", read_only=True)

    class Meta:
        model = ApiKey
        fields = ("name", "prefix", "merchant", "scopes", "expires_at")


class OwnKeyView(ApiView):
    """Which key this is and what it may do."""

    scopes = {"GET": ANY_SCOPE}
    serializer_class = KeySerializer

    def get(self, request: Request) -> Response:
        """The key this request was made with: a first call to try it."""
        return Response(KeySerializer(self.key).data)


@own_page
def docs_page(request: HttpRequest) -> HttpResponse:
    """What the API offers, for people: drawn from the schema, with nothing from elsewhere."""
    schema = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    routes_shown = [
        {
            "method": method.upper(),
            "path": path,
            "about": operation.get("description", ""),
            "parameters": operation.get("parameters", []),
            "body": _fields_of(schema, operation.get("requestBody", {})),
        }
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    return render(request, "merchants/api_docs.html", {"routes": routes_shown, "scopes": Scope.choices})


def _fields_of(schema: Mapping[str, Any], body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fields of a request's body, those of its lines under their list's name."""
    found = body.get("content", {}).get("application/json", {}).get("schema", {})
    return list(_described(schema, found, ""))


def _described(schema: Mapping[str, Any], described: Mapping[str, Any], prefix: str) -> Iterator[dict[str, Any]]:
    name = described.get("$ref", "").rpartition("/")[2]
    model = schema["components"]["schemas"][name] if name else described
    for field, details in model.get("properties", {}).items():
        inner = next(iter(details.get("allOf", [])), details)
        yield {
            "name": f"{prefix}{field}",
            "type": inner.get("format") or inner.get("type", "choice"),
            "is_required": field in model.get("required", []),
            "about": details.get("description", ""),
        }
        if inner.get("type") == "array":
            yield from _described(schema, inner["items"], f"{prefix}{field}[].")


def no_such_route(request: HttpRequest, path: str = "") -> HttpResponse:
    """A clear answer below /api/v1/ where no route is."""
    detail = "There is no such route. /api/v1/schema/ lists them all."
    document = {"type": "urn:synctec:problem:not-found", "title": _TITLES["not-found"], "status": 404, "detail": detail}
    return HttpResponse(json.dumps(document), status=404, content_type="application/problem+json")
