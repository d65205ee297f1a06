"""The one seam to the outside: every request this system sends goes through a `GuardedSession`.

    session = GuardedSession(AddressRule.https_suffix(".myshopify.com"))
    session.post("https://one.myshopify.com/admin/...", json=..., headers=...)

What it adds to `requests.Session`: only addresses its rule allows; a name is resolved once per connection,
every address of it is checked, and the connection goes to a checked address (a second DNS answer finds no
gap); no redirects, proxies, netrc, cookies or silent retries; time limits on each step and on the whole; a
limit on the body as unpacked.

Errors tell a caller what may be done next:

    HttpError
    |-- AddressRefused     no usable URL, not allowed by the rule, or not public: nothing was sent
    |-- NotSent            certainly did not reach the server: safe to send again
    |-- OutcomeUnknown     sent, no whole answer: it may have been carried out (same idempotency key again)
    |-- RedirectRefused    answered with a redirect: a wrong address or a trap, look at the channel's settings
    `-- ResponseTooLarge   answered, but the answer is over the limit: most likely carried out

An answer of any other status, 500 included, is an answer and is returned. Error texts name the method, the
host and the reason, never a header, path, query or body; and errors are raised with no exception behind them,
because those of the libraries below quote the whole URL.
"""

import errno
import http.client
import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from typing import Any, ClassVar, Final, Self

import certifi
import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.exceptions
import urllib3.util
from urllib3.response import BaseHTTPResponse

from synctec.lib import metrics
from synctec.lib.addresses import is_public_address

CONNECT_TIMEOUT_SECONDS: Final = 3.0
READ_TIMEOUT_SECONDS: Final = 10.0
DEADLINE_SECONDS: Final = 30.0
MAX_RESPONSE_BYTES: Final = 10_000_000
POOL_SIZE: Final = 10
#: Of a name with many addresses all are checked and this many tried, sharing the connect timeout.
ADDRESSES_TRIED: Final = 3
_HOSTS_POOLED: Final = 100
_READ_BYTES: Final = 65_536
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST_LENGTH: Final = 253
# Labels of letters, digits, hyphens. The last one starts with a letter, which rules out every spelling of an
# IPv4 address (dotted, short, decimal, octal, hexadecimal) without listing them.
_HOST_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


class HttpError(Exception):
    """Base of what a GuardedSession raises."""

    #: Whether the server may have acted on the request.
    maybe_carried_out: ClassVar[bool] = False


class AddressRefused(HttpError):
    """The address is not one this session may talk to."""


class NotSent(HttpError):
    """No byte of the request left: name not found, no connection, no TLS, or the deadline came first."""


class OutcomeUnknown(HttpError):
    """The request was sent, wholly or in part, and no whole answer came back."""

    maybe_carried_out = True


class RedirectRefused(HttpError):
    """The server answered with a redirect. It is not followed: our token would travel along."""

    maybe_carried_out = True


class ResponseTooLarge(HttpError):
    """The answer is larger than this session takes."""

    maybe_carried_out = True


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes after a rule said yes."""

    scheme: str
    host: str
    port: int
    public_only: bool


@dataclass(frozen=True, slots=True)
class AddressRule:
    """Which scheme, host and port a session may talk to. Rules are joined with `|`.

    Host names are compared in lower case. Except for exact origins, which the operator vouches for, only
    https on port 443 to a host *name* is allowed, and all addresses of the name must be public.
    """

    origins: frozenset[tuple[str, str, int]] = frozenset()
    hosts: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()

    @classmethod
    def https_suffix(cls, suffix: str) -> Self:
        """Allow https://<anything>.example.com for the suffix ".example.com"."""
        if not suffix.startswith(".") or not _HOST_NAME.fullmatch(f"x{suffix.lower()}"):
            raise ValueError(f"{suffix!r} is no host suffix: write it with a leading dot, as '.example.com'")
        return cls(suffixes=(suffix.lower(),))

    @classmethod
    def https_hosts(cls, *hosts: str) -> Self:
        """Allow https to exactly these host names."""
        for host in hosts:
            if not _HOST_NAME.fullmatch(host.lower()):
                raise ValueError(f"{host!r} is no host name")
        return cls(hosts=frozenset(host.lower() for host in hosts))

    @classmethod
    def public_https(cls) -> Self:
        """Allow https to any name on the public internet: for addresses merchants type in."""
        return cls(suffixes=("",))

    @classmethod
    def exact_origin(cls, origin: str) -> Self:
        """Allow one origin such as "http://127.0.0.1:41000", public or not: for what the operator sets."""
        url = _parse(origin)
        if url.path not in {None, "/"} or url.query or url.fragment or url.auth:
            raise ValueError("an origin is scheme://host:port and nothing more")
        return cls(origins=frozenset({_origin_of(url)}))

    def __or__(self, other: "AddressRule") -> "AddressRule":
        return AddressRule(
            origins=self.origins | other.origins,
            hosts=self.hosts | other.hosts,
            suffixes=self.suffixes + other.suffixes,
        )

    def judge(self, url: str) -> Target:
        """Return where a request to `url` goes. Raises AddressRefused, whose text names the origin only."""
        parsed = _parse(url)
        scheme, host, port = origin = _origin_of(parsed)
        if parsed.auth:
            raise AddressRefused(f"{scheme}://{host}: user names in a URL are not taken")
        if origin in self.origins:
            return Target(scheme, host, port, public_only=False)
        if origin == ("https", host, 443) and self._names(host):
            return Target(scheme, host, port, public_only=True)
        raise AddressRefused(f"{scheme}://{host}:{port} is not an address this session may talk to")

    def _names(self, host: str) -> bool:
        if len(host) > _HOST_LENGTH or not _HOST_NAME.fullmatch(host):
            return False
        return host in self.hosts or host.endswith(self.suffixes)


def _parse(url: str) -> urllib3.util.Url:
    try:
        return urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError:
        pass
    raise AddressRefused("not a usable URL")


def _origin_of(url: urllib3.util.Url) -> tuple[str, str, int]:
    scheme = (url.scheme or "").lower()
    if scheme not in _DEFAULT_PORTS:
        raise AddressRefused("only https (and http to an exact origin) is spoken here")
    if not url.host:
        raise AddressRefused("the URL names no host")
    return scheme, url.host.lower(), _DEFAULT_PORTS[scheme] if url.port is None else url.port


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """One answer of the resolver: what `socket.connect` takes, and its IP address as text."""

    family: socket.AddressFamily
    sockaddr: tuple[Any, ...]

    @property
    def ip(self) -> str:
        return str(self.sockaddr[0])


def resolve(host: str, port: int) -> Sequence[SocketAddress]:
    """Ask the system's resolver, once. Raises OSError. Its time limit is the resolver's own (resolv.conf)."""
    answers = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    return [SocketAddress(family, sockaddr) for family, _type, _proto, _name, sockaddr in answers]


def open_socket(address: SocketAddress, timeout_seconds: float) -> socket.socket:
    """Connect to exactly this address. Raises OSError."""
    connection = _TimedSocket(address.family, socket.SOCK_STREAM)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(timeout_seconds)
        connection.connect(address.sockaddr)
    except BaseException:
        connection.close()
        raise
    return connection


@dataclass(slots=True)
class _Attempt:
    """One request on its way; sockets and connections below find it in `_current`."""

    target: Target
    expires_at: float
    resolve: Callable[[str, int], Sequence[SocketAddress]]
    open_socket: Callable[[SocketAddress, float], socket.socket]
    #: Set just before the first byte of the request is written; from then on the outcome can be unknown.
    begun: bool = False

    def remaining_seconds(self) -> float:
        remaining = self.expires_at - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        return remaining

    def is_over(self) -> bool:
        return time.monotonic() >= self.expires_at

    def dial(self, timeout_seconds: float) -> socket.socket:
        """Resolve, check, connect. Raises AddressRefused, or OSError when nobody answers."""
        addresses = self.resolve(self.target.host, self.target.port)
        if self.target.public_only:
            for address in addresses:
                if not is_public_address(address.ip):
                    raise AddressRefused(f"{self.target.host} resolves to {address.ip}, which is not public")
        stop_at = time.monotonic() + min(timeout_seconds, self.remaining_seconds())
        tried = addresses[:ADDRESSES_TRIED]
        failure = OSError(errno.EADDRNOTAVAIL, "the name has no address")
        for index, address in enumerate(tried):
            share_seconds = (stop_at - time.monotonic()) / (len(tried) - index)
            try:
                connection = self.open_socket(address, max(share_seconds, 0.001))
            except OSError as error:
                failure = error
                continue
            # What is left of the connect timeout is for TLS.
            connection.settimeout(max(stop_at - time.monotonic(), 0.001))
            return connection
        raise failure


_current: ContextVar[_Attempt | None] = ContextVar("synctec_http_attempt", default=None)


def _note_sending() -> None:
    attempt = _current.get()
    if attempt is not None:
        attempt.begun = True


def _step_seconds(step: float | None) -> float | None:
    """Return the time limit of the next socket call: its own step or what is left of the deadline."""
    attempt = _current.get()
    if attempt is None:
        return step
    return min(attempt.remaining_seconds(), math.inf if step is None else step)


class _TimedSocket(socket.socket):
    """A socket whose every call also keeps the deadline of the request, so that no trickle outlasts it."""

    _step: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._step = value
        super().settimeout(value)

    def recv_into(self, *args: Any) -> int:
        super().settimeout(_step_seconds(self._step))
        return super().recv_into(*args)

    def sendall(self, *args: Any) -> None:
        super().settimeout(_step_seconds(self._step))
        _note_sending()
        super().sendall(*args)


class _TimedTLSSocket(ssl.SSLSocket):
    """The same over TLS."""

    _step: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._step = value
        super().settimeout(value)

    def recv_into(self, *args: Any) -> int:
        super().settimeout(_step_seconds(self._step))
        return super().recv_into(*args)

    def sendall(self, *args: Any) -> None:
        super().settimeout(_step_seconds(self._step))
        _note_sending()
        super().sendall(*args)

    def send(self, *args: Any) -> int:
        # `sendall` of the base class sends in pieces, each with a time limit of its own.
        super().settimeout(_step_seconds(self._step))
        return super().send(*args)


def _dial_current(timeout: object) -> socket.socket:
    attempt = _current.get()
    if attempt is None:
        raise RuntimeError("this connection belongs to a GuardedSession and dials only for its requests")
    return attempt.dial(timeout if isinstance(timeout, float | int) else CONNECT_TIMEOUT_SECONDS)


class _HTTPConnection(urllib3.connection.HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _dial_current(self.timeout)


class _HTTPSConnection(urllib3.connection.HTTPSConnection):
    # Only dialling is replaced: server name indication, Host and the certificate check go by the name.
    def _new_conn(self) -> socket.socket:
        return _dial_current(self.timeout)


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(requests.adapters.HTTPAdapter):
    """Carries out one attempt over pooled connections and turns what goes wrong into this module's errors."""

    def __init__(self, *, tls: ssl.SSLContext, pool_size: int, max_response_bytes: int) -> None:
        self._tls = tls
        self._max_response_bytes = max_response_bytes
        super().__init__(pool_connections=_HOSTS_POOLED, pool_maxsize=pool_size)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._tls, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        attempt = _current.get()
        if attempt is None:
            raise RuntimeError("this adapter serves a GuardedSession only")
        try:
            return self._exchange(request, attempt, timeout)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            kind = OutcomeUnknown if attempt.begun else NotSent
            reason = "the time for the whole request is over" if attempt.is_over() else _reason(error)
            failure = kind(f"{request.method} to {attempt.target.host}: {reason}")
        # Outside the except block, so that the library's error (with the URL in it) is not chained.
        raise failure

    def _exchange(
        self, request: requests.PreparedRequest, attempt: _Attempt, timeout: tuple[float, float]
    ) -> requests.Response:
        connect_seconds, read_seconds = timeout
        target = attempt.target
        pool = self.poolmanager.connection_from_host(target.host, target.port, target.scheme)
        raw = pool.urlopen(
            method=request.method or "GET",
            url=request.path_url,
            body=request.body,
            headers=request.headers,
            redirect=False,
            retries=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
            timeout=urllib3.Timeout(connect=connect_seconds, read=read_seconds),
            chunked=request.body is not None and "Content-Length" not in request.headers,
        )
        with _closing_on_error(raw):
            _refuse_redirect(request, raw, target)
            body = self._read(request, raw, target)
        raw.release_conn()
        response = self.build_response(request, raw)
        response._content = body
        response._content_consumed = True  # type: ignore[attr-defined]  # missing from the stubs
        return response

    def _read(self, request: requests.PreparedRequest, raw: BaseHTTPResponse, target: Target) -> bytes:
        limit = self._max_response_bytes
        announced = raw.headers.get("Content-Length", "")
        size = int(announced) if request.method != "HEAD" and announced.isdecimal() else 0
        parts = []
        if size <= limit:
            size = 0
            for part in raw.stream(_READ_BYTES, decode_content=True):
                size += len(part)
                if size > limit:
                    break
                parts.append(part)
        if size > limit:
            raise ResponseTooLarge(f"{request.method} to {target.host}: the answer is over {limit} bytes")
        if not parts and _ends_with_connection(request, raw):
            # The standard library takes a head that was cut off for a whole one; nothing says it was whole.
            raise OutcomeUnknown(f"{request.method} to {target.host}: the connection ended in the answer")
        return b"".join(parts)


def _ends_with_connection(request: requests.PreparedRequest, raw: BaseHTTPResponse) -> bool:
    has_body = request.method != "HEAD" and raw.status not in {204, 304}
    return has_body and "Content-Length" not in raw.headers and "Transfer-Encoding" not in raw.headers


@contextmanager
def _closing_on_error(raw: BaseHTTPResponse) -> Iterator[None]:
    try:
        yield
    except BaseException:
        # A connection with half an answer on it must not go back to the pool alive.
        raw.close()
        raw.release_conn()
        raise


def _refuse_redirect(request: requests.PreparedRequest, raw: BaseHTTPResponse, target: Target) -> None:
    if not 300 <= raw.status < 400 or raw.status == http.HTTPStatus.NOT_MODIFIED:
        return
    try:
        elsewhere = urllib3.util.parse_url(raw.headers.get("Location", "")).host
    except urllib3.exceptions.LocationParseError:
        elsewhere = None
    whither = f" to {elsewhere}" if elsewhere and elsewhere.lower() != target.host else ""
    raise RedirectRefused(f"{request.method} to {target.host}: redirected{whither} (status {raw.status})")


def _reason(error: BaseException) -> str:
    """Say what went wrong without quoting anything of the request."""
    while error.args and isinstance(error.args[-1], Exception):
        error = error.args[-1]
    match error:
        case TimeoutError() | urllib3.exceptions.TimeoutError():
            return "timed out"
        case socket.gaierror():
            return "the host name was not found"
        case ssl.SSLCertVerificationError():
            return f"certificate refused ({error.verify_message})"
        case ssl.SSLError():
            return f"TLS failed ({error.reason})"
        case OSError(strerror=str(text)):
            return text.lower()
        case _:
            return type(error).__name__


@cache
def _tls_context(ca_bundle: str) -> ssl.SSLContext:
    # Shared by all sessions: reading the authorities takes some 60 ms, and there may be a session per store.
    context = ssl.create_default_context(cafile=ca_bundle)
    context.sslsocket_class = _TimedTLSSocket
    return context


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much one request of a session may take."""

    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS
    deadline_seconds: float = DEADLINE_SECONDS
    max_response_bytes: int = MAX_RESPONSE_BYTES


@dataclass(frozen=True, slots=True)
class Dialler:
    """The two system calls a session makes to find and reach a host; tests hand in their own."""

    resolve: Callable[[str, int], Sequence[SocketAddress]] = field(default=resolve)
    open_socket: Callable[[SocketAddress, float], socket.socket] = field(default=open_socket)


class GuardedSession(requests.Session):
    """A `requests.Session` that only talks to addresses of its rule, within its limits. See the module.

    Threads may share it once its headers are set. Connections are kept alive, up to `pool_size` per host.
    Bodies are always read whole inside the request: `stream`, `verify=False`, `cert` and `proxies` are
    refused with ValueError. A `timeout` given with a request replaces the read timeout, or (connect, read).
    """

    def __init__(
        self,
        rule: AddressRule,
        *,
        limits: Limits | None = None,
        pool_size: int = POOL_SIZE,
        ca_bundle: str | None = None,
        dialler: Dialler | None = None,
        purpose: str = "other",
    ) -> None:
        """Trust the certificate authorities in the file `ca_bundle`, or those that come with requests.

        `purpose` names in the metrics what the session is for: one of a few words, never an address.
        """
        super().__init__()
        self.purpose: Final = purpose
        self.rule: Final = rule
        self.limits: Final = limits or Limits()
        self._dialler = dialler or Dialler()
        self.trust_env = False
        self.headers.update({"User-Agent": "SyncTec", "Accept-Encoding": "gzip, deflate"})
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        tls = _tls_context(ca_bundle or certifi.where())
        adapter = _Adapter(tls=tls, pool_size=pool_size, max_response_bytes=self.limits.max_response_bytes)
        self.adapters.clear()
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Prepare as requests does. Raises AddressRefused for a broken URL, NotSent for a broken header."""
        failure: HttpError
        try:
            return super().prepare_request(request)
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema):
            failure = AddressRefused("not a usable URL")
        except requests.exceptions.InvalidHeader:
            failure = NotSent("a header has a line break, a leading space or a wrong type")
        raise failure

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send and read the whole answer. Raises HttpError of one of the kinds in the module's tree."""
        for option, only in (("stream", False), ("verify", True), ("cert", None)):
            if kwargs.get(option) not in {None, only}:
                raise ValueError(f"{option}={kwargs[option]!r} is not offered by a GuardedSession")
        if kwargs.get("proxies"):
            raise ValueError("proxies are not offered by a GuardedSession")
        attempt = _Attempt(
            target=self.rule.judge(request.url or ""),
            expires_at=time.monotonic() + self.limits.deadline_seconds,
            resolve=self._dialler.resolve,
            open_socket=self._dialler.open_socket,
        )
        token = _current.set(attempt)
        began, outcome = time.perf_counter(), "failed"
        try:
            response = super().send(
                request,
                timeout=self._timeouts(kwargs.get("timeout")),
                stream=False,
                verify=True,
                cert=None,
                proxies={},
                allow_redirects=False,
            )
            outcome = "throttled" if response.status_code == 429 else metrics.status_class(response.status_code)
            return response
        except HttpError as error:
            outcome = type(error).__name__
            raise
        finally:
            _current.reset(token)
            metrics.calls.labels(self.purpose, outcome).observe(time.perf_counter() - began)

    def _timeouts(self, given: Any) -> tuple[float, float]:
        connect, read = given if isinstance(given, tuple) else (None, given)
        return (
            self.limits.connect_timeout_seconds if connect is None else connect,
            self.limits.read_timeout_seconds if read is None else read,
        )
