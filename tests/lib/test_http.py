"""The outside seam against real servers on the loopback that misbehave in every way we know."""

import datetime
import gzip
import ipaddress
import logging
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gql.graphql_request import GraphQLRequest
from gql.transport.exceptions import TransportConnectionFailed
from gql.transport.requests import RequestsHTTPTransport

from synctec.lib.http import (
    AddressRefused,
    AddressRule,
    Dialler,
    GuardedSession,
    HttpError,
    Limits,
    NotSent,
    OutcomeUnknown,
    RedirectRefused,
    ResponseTooLarge,
    SocketAddress,
    Target,
    open_socket,
    resolve,
)

TOKEN = "shpat_canary"
TOKEN_HEADER = {"X-Shopify-Access-Token": TOKEN}
Behaviour = Callable[[socket.socket, "Seen"], bool]


@dataclass
class Seen:
    """One request as a server received it."""

    connection: int
    head: str
    body: bytes

    def header(self, name: str) -> str | None:
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None


@dataclass
class Server:
    """A server on a free port. Its behaviour answers a request and says whether to keep the connection."""

    behaviour: Behaviour
    tls: ssl.SSLContext | None = None
    requests: list[Seen] = field(default_factory=list)
    connections: int = 0
    server_names: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            with connection:
                while (seen := _receive(connection, number)) is not None:
                    self.requests.append(seen)
                    if not self.behaviour(connection, seen):
                        return
        except OSError:
            connection.close()


def _receive(connection: socket.socket, number: int) -> Seen | None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65_536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    seen = Seen(number, head.decode("latin-1"), body)
    while len(seen.body) < int(seen.header("Content-Length") or 0):
        seen.body += connection.recv(65_536)
    return seen


def answering(
    body: bytes = b'{"ok": true}', *, status: str = "200 OK", headers: str = "", announced: int | None = None
) -> Behaviour:
    length = len(body) if announced is None else announced
    reply = f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n".encode() + body

    def behave(connection: socket.socket, seen: Seen) -> bool:
        connection.sendall(reply)
        return announced is None

    return behave


def raw(reply: bytes) -> Behaviour:
    def behave(connection: socket.socket, seen: Seen) -> bool:
        connection.sendall(reply)
        return False

    return behave


def silent(connection: socket.socket, seen: Seen) -> bool:
    # Waits until the client goes away.
    connection.recv(1)
    return False


def resetting(connection: socket.socket, seen: Seen) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return False


def trickling(prefix: bytes, drop: bytes) -> Behaviour:
    def behave(connection: socket.socket, seen: Seen) -> bool:
        connection.sendall(prefix)
        for _ in range(2_000):
            connection.sendall(drop)
            time.sleep(0.02)
        return False

    return behave


StartServer = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[StartServer]:
    servers: list[Server] = []

    def start_one(behaviour: Behaviour | None = None, *, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(behaviour or answering(), tls=tls))
        return servers[-1]

    yield start_one
    for server in servers:
        server.stop()


def session_for(*servers: Server, pool_size: int = 10, **limits: Any) -> GuardedSession:
    rule = AddressRule()
    for server in servers:
        rule |= AddressRule.exact_origin(server.origin)
    # Generous, so that a busy machine fails no test; what is under test is set by the test.
    patient = {"connect_timeout_seconds": 20, "read_timeout_seconds": 20, "deadline_seconds": 60}
    return GuardedSession(rule, limits=Limits(**(patient | limits)), pool_size=pool_size)


# -- which addresses ---------------------------------------------------------------------------------------

SHOPIFY = AddressRule.https_suffix(".myshopify.com")
SANDBOX = AddressRule.exact_origin("http://127.0.0.1:41000")


@pytest.mark.parametrize(
    "url",
    [
        "https://one.myshopify.com",
        "https://one.myshopify.com/admin/api/2026-10/graphql.json?a=b",
        "https://one.myshopify.com:443/",
        "HTTPS://ONE.MYSHOPIFY.COM/",
    ],
)
def test_a_suffix_allows_https_to_its_hosts(url: str) -> None:
    assert SHOPIFY.judge(url) == Target("https", "one.myshopify.com", 443, public_only=True)


def test_an_international_name_is_judged_as_the_resolver_will_see_it() -> None:
    assert SHOPIFY.judge("https://öne.myshopify.com").host == "xn--ne-eka.myshopify.com"
    with pytest.raises(AddressRefused):
        SHOPIFY.judge("https://one。myshopify。com")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "one.myshopify.com",
        "//one.myshopify.com",
        "http://one.myshopify.com",
        "http://one.myshopify.com:443",
        "ftp://one.myshopify.com",
        "file:///etc/passwd",
        "gopher://one.myshopify.com",
        "https://",
        "https:///one.myshopify.com",
        "https://myshopify.com",
        "https://.myshopify.com",
        "https://one.myshopify.com:8443",
        "https://one.myshopify.com:0",
        "https://one.myshopify.com:99999",
        "https://one.myshopify.com.",
        "https://one.myshopify.com.evil.example",
        "https://evil.example/one.myshopify.com",
        "https://evil.example?one.myshopify.com",
        "https://evil.example#.myshopify.com",
        "https://evilmyshopify.com",
        "https://one.myshopify.com@evil.example",
        "https://user@one.myshopify.com",
        "https://user:pass@one.myshopify.com",
        "https://evil.example\\.myshopify.com",
        "https://evil.example\\@one.myshopify.com",
        "https://evil.example%2f.myshopify.com",
        "https://evil.example%00.myshopify.com",
        "https://evil example.myshopify.com",
        "https://-one.myshopify.com",
        "https://127.0.0.1",
        "https://[::1]",
        "https://[::1",
        "https://one.myshopify.com\t.evil.example",
        "https://" + "a." * 130 + "myshopify.com",
    ],
)
def test_a_suffix_allows_nothing_else(url: str) -> None:
    with pytest.raises(AddressRefused):
        SHOPIFY.judge(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1%25eth0]",
        "localhost",
        "metadata",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "1.1.1.1",
    ],
)
def test_public_https_takes_names_only(host: str) -> None:
    with pytest.raises(AddressRefused):
        AddressRule.public_https().judge(f"https://{host}/")


def test_public_https_takes_any_name() -> None:
    target = AddressRule.public_https().judge("https://shop.example.org/wp-json")

    assert target == Target("https", "shop.example.org", 443, public_only=True)


def test_listed_hosts_are_taken_exactly() -> None:
    rule = AddressRule.https_hosts("api.example.com")

    assert rule.judge("https://API.example.com/x").public_only
    with pytest.raises(AddressRefused):
        rule.judge("https://x.api.example.com/")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1",
        "http://127.0.0.1:41001",
        "https://127.0.0.1:41000",
        "http://localhost:41000",
        "http://127.0.0.2:41000",
        "http://0:41000",
    ],
)
def test_an_origin_is_taken_exactly(url: str) -> None:
    assert SANDBOX.judge("http://127.0.0.1:41000/x") == Target("http", "127.0.0.1", 41000, public_only=False)
    with pytest.raises(AddressRefused):
        SANDBOX.judge(url)


def test_joined_rules_allow_what_either_allows() -> None:
    rule = SHOPIFY | SANDBOX

    assert rule.judge("https://one.myshopify.com/").public_only
    assert not rule.judge("http://127.0.0.1:41000/").public_only
    with pytest.raises(AddressRefused):
        rule.judge("http://one.myshopify.com:41000/")


@pytest.mark.parametrize("suffix", ["", ".", "myshopify.com", "*.myshopify.com", ".1"])
def test_a_suffix_that_would_allow_too_much_is_a_mistake(suffix: str) -> None:
    with pytest.raises(ValueError, match="no host suffix"):
        AddressRule.https_suffix(suffix)


def test_an_origin_with_more_than_an_origin_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="nothing more"):
        AddressRule.exact_origin("http://127.0.0.1:41000/path")
    with pytest.raises(ValueError, match="no host name"):
        AddressRule.https_hosts("127.0.0.1")


def test_a_refusal_sends_nothing_and_names_the_origin_only(start: StartServer) -> None:
    server = start()
    session = GuardedSession(SHOPIFY)

    with pytest.raises(AddressRefused) as caught:
        session.get(f"{server.origin}/secret-path?token={TOKEN}", headers=TOKEN_HEADER)

    assert str(caught.value) == f"http://127.0.0.1:{server.port} is not an address this session may talk to"
    assert server.connections == 0
    assert not caught.value.maybe_carried_out


@pytest.mark.parametrize("url", ["nonsense", "http://", "http://[", "http://*evil", "mailto:x", "http://\udc80"])
def test_a_broken_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(AddressRefused):
        GuardedSession(SHOPIFY).get(url)


# -- resolve once, check all, connect to what was checked -------------------------------------------------


@dataclass
class Network:
    """A resolver and a connector that record, instead of going out."""

    answers: list[list[str]]
    resolved: list[str] = field(default_factory=list)
    dialled: list[str] = field(default_factory=list)
    really_at: int | None = None

    def resolve(self, host: str, port: int) -> list[SocketAddress]:
        answer = self.answers[min(len(self.resolved), len(self.answers) - 1)]
        self.resolved.append(host)
        return [_address(ip, port) for ip in answer]

    def open_socket(self, address: SocketAddress, timeout_seconds: float) -> socket.socket:
        self.dialled.append(address.ip)
        if self.really_at is None:
            raise ConnectionRefusedError(111, "Connection refused")
        return open_socket(_address("127.0.0.1", self.really_at), timeout_seconds)

    def session(self, rule: AddressRule = SHOPIFY, **options: Any) -> GuardedSession:
        return GuardedSession(rule, dialler=Dialler(self.resolve, self.open_socket), **options)


def _address(ip: str, port: int) -> SocketAddress:
    if ipaddress.ip_address(ip).version == 6:
        return SocketAddress(socket.AF_INET6, (ip, port, 0, 0))
    return SocketAddress(socket.AF_INET, (ip, port))


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["23.227.38.74", "127.0.0.1"],
        ["23.227.38.74", "23.227.38.65", "23.227.38.66", "23.227.38.67", "10.0.0.1"],
        ["2606:4700::1", "::1"],
        ["::ffff:127.0.0.1"],
        ["169.254.169.254"],
    ],
)
def test_one_address_that_is_not_public_refuses_the_name(answer: list[str]) -> None:
    network = Network([answer])

    with pytest.raises(AddressRefused, match=r"one\.myshopify\.com resolves to .+, which is not public"):
        network.session().get("https://one.myshopify.com/")

    assert network.dialled == []


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    rebinding = Network([["23.227.38.74"], ["127.0.0.1"]])

    with pytest.raises(NotSent, match="connection refused"):
        rebinding.session().get("https://one.myshopify.com/")

    assert rebinding.resolved == ["one.myshopify.com"]
    assert rebinding.dialled == ["23.227.38.74"]


def test_a_second_connection_is_checked_again() -> None:
    rebinding = Network([["23.227.38.74"], ["127.0.0.1"]])
    session = rebinding.session()
    with pytest.raises(NotSent):
        session.get("https://one.myshopify.com/")

    with pytest.raises(AddressRefused, match="resolves to"):
        session.get("https://one.myshopify.com/")

    assert rebinding.dialled == ["23.227.38.74"]


def test_three_addresses_of_a_name_are_tried() -> None:
    network = Network([["2606:4700::1", "23.227.38.74", "23.227.38.75", "23.227.38.76"]])

    with pytest.raises(NotSent):
        network.session().get("https://one.myshopify.com/")

    assert network.dialled == ["2606:4700::1", "23.227.38.74", "23.227.38.75"]


def test_a_name_without_addresses_was_not_sent_to() -> None:
    with pytest.raises(NotSent, match="the name has no address"):
        Network([[]]).session().get("https://one.myshopify.com/")


def test_the_system_resolver_is_asked_for_brackets_too() -> None:
    assert [address.ip for address in resolve("127.0.0.1", 80)] == ["127.0.0.1"]
    assert [address.ip for address in resolve("[::1]", 80)] == ["::1"]


# -- TLS ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    folder: Path
    ca_file: str

    def server_context(self, names: list[str | None]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem")
        context.sni_callback = lambda _socket, name, _context: names.append(name)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority, and a server certificate of it for one.myshopify.com."""
    folder = tmp_path_factory.mktemp("authority")
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )

    ca = certificate(ca_name, ca_key, ca=True).sign(ca_key, hashes.SHA256())
    names = x509.SubjectAlternativeName([x509.DNSName("one.myshopify.com")])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    server = (
        certificate(x509.Name([]), server_key, ca=False)
        .add_extension(names, critical=True)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain_key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(plain_key + server.public_bytes(pem))
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    return Authority(folder, str(folder / "ca.pem"))


def tls_server(start: StartServer, authority: Authority, behaviour: Behaviour | None = None) -> Server:
    names: list[str | None] = []
    server = start(behaviour, tls=authority.server_context(names))
    server.server_names = names
    return server


def test_tls_goes_by_the_name_while_the_connection_goes_by_the_address(
    start: StartServer, authority: Authority
) -> None:
    server = tls_server(start, authority)
    network = Network([["23.227.38.74"]], really_at=server.port)
    session = network.session(ca_bundle=authority.ca_file)

    answers = [session.post("https://one.myshopify.com/admin", json={"n": n}, headers=TOKEN_HEADER) for n in range(3)]

    assert [answer.json() for answer in answers] == [{"ok": True}] * 3
    assert [seen.header("Host") for seen in server.requests] == ["one.myshopify.com"] * 3
    assert [seen.body for seen in server.requests] == [b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']
    assert server.server_names == ["one.myshopify.com"]
    assert network.dialled == ["23.227.38.74"]
    session.close()


def test_a_certificate_of_another_host_is_refused_before_anything_is_sent(
    start: StartServer, authority: Authority
) -> None:
    server = tls_server(start, authority)
    network = Network([["23.227.38.74"]], really_at=server.port)

    with pytest.raises(NotSent, match=r"certificate refused .*Hostname mismatch"):
        network.session(ca_bundle=authority.ca_file).get("https://two.myshopify.com/", headers=TOKEN_HEADER)

    assert server.requests == []


def test_a_certificate_of_an_unknown_authority_is_refused(start: StartServer, authority: Authority) -> None:
    server = tls_server(start, authority)
    network = Network([["23.227.38.74"]], really_at=server.port)

    with pytest.raises(NotSent, match="certificate refused"):
        network.session().get("https://one.myshopify.com/", headers=TOKEN_HEADER)

    assert server.requests == []


def test_a_server_that_never_shakes_hands_was_not_sent_to(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        network = Network([["23.227.38.74"]], really_at=mute.getsockname()[1])
        session = network.session(limits=Limits(connect_timeout_seconds=0.3))

        with pytest.raises(NotSent, match="timed out"):
            session.get("https://one.myshopify.com/")


def test_a_trickle_over_tls_ends_at_the_deadline(start: StartServer, authority: Authority) -> None:
    server = tls_server(start, authority, trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"))
    network = Network([["23.227.38.74"]], really_at=server.port)
    limits = Limits(connect_timeout_seconds=20, deadline_seconds=1.5)

    with pytest.raises(OutcomeUnknown, match="the time for the whole request is over"):
        network.session(ca_bundle=authority.ca_file, limits=limits).get("https://one.myshopify.com/")


@pytest.mark.parametrize(
    "options",
    [{"verify": False}, {"verify": "/x"}, {"stream": True}, {"cert": "/x"}, {"proxies": {"http": "x"}}],
)
def test_weakening_options_are_refused(start: StartServer, options: dict[str, Any]) -> None:
    server = start()

    with pytest.raises(ValueError, match="not offered"):
        session_for(server).get(server.origin, **options)

    assert server.connections == 0


# -- no redirects, proxies, netrc, cookies ----------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x", "300 x", "399 x"])
def test_a_redirect_is_not_followed_and_the_token_stays(start: StartServer, status: str) -> None:
    trap = start()
    server = start(answering(b"", status=status, headers=f"Location: {trap.origin}/steal?x={TOKEN}\r\n"))
    session = session_for(server, trap)

    with pytest.raises(RedirectRefused) as caught:
        session.post(f"{server.origin}/admin", json={}, headers=TOKEN_HEADER, allow_redirects=True)

    assert len(server.requests) == 1
    assert trap.connections == 0
    assert TOKEN not in str(caught.value)
    assert status[:3] in str(caught.value)
    assert caught.value.maybe_carried_out


@pytest.mark.parametrize("location", ["/elsewhere", "", "http://[", "//evil.example/"])
def test_odd_redirects_are_refused_too(start: StartServer, location: str) -> None:
    server = start(answering(b"", status="302 Found", headers=f"Location: {location}\r\n"))

    with pytest.raises(RedirectRefused):
        session_for(server).get(server.origin)


def test_not_modified_is_an_answer(start: StartServer) -> None:
    server = start(raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"))

    assert session_for(server).get(server.origin).status_code == 304


def test_proxies_and_netrc_of_the_environment_are_not_used(
    start: StartServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy, server = start(), start()
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.origin)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    session_for(server).get(server.origin)

    assert proxy.connections == 0
    assert server.requests[0].header("Authorization") is None


def test_cookies_are_not_kept(start: StartServer) -> None:
    server = start(answering(headers="Set-Cookie: who=me; Path=/\r\n"))
    session = session_for(server)

    session.get(server.origin)
    session.get(server.origin)

    assert server.requests[1].header("Cookie") is None


# -- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized", "429 Too Many Requests", "500 Oops", "503 x"])
def test_any_other_status_is_an_answer(start: StartServer, status: str) -> None:
    server = start(answering(b'{"errors": []}', status=status, headers="Retry-After: 2\r\n"))

    answer = session_for(server).post(server.origin, json={"a": 1})

    assert answer.status_code == int(status[:3])
    assert answer.json() == {"errors": []}
    assert answer.headers["Retry-After"] == "2"
    assert len(server.requests) == 1


def test_a_packed_answer_is_unpacked(start: StartServer) -> None:
    server = start(answering(gzip.compress(b'{"ok": 1}'), headers="Content-Encoding: gzip\r\n"))

    assert session_for(server).get(server.origin).json() == {"ok": 1}


def test_a_head_request_announces_a_body_that_never_comes(start: StartServer) -> None:
    server = start(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"))

    assert session_for(server).head(server.origin).content == b""


def test_an_answer_that_ends_with_its_connection_is_taken(start: StartServer) -> None:
    server = start(raw(b'HTTP/1.0 200 OK\r\n\r\n{"ok": 1}'))

    assert session_for(server).get(server.origin).json() == {"ok": 1}


def test_connections_are_kept_alive(start: StartServer) -> None:
    server = start()
    session = session_for(server)

    for _ in range(5):
        session.get(server.origin)

    assert server.connections == 1


def test_threads_share_a_session(start: StartServer) -> None:
    def echo(connection: socket.socket, seen: Seen) -> bool:
        return answering(seen.body)(connection, seen)

    server = start(echo)
    session = session_for(server, pool_size=8)

    def ask(number: int) -> int:
        return int(session.post(server.origin, json=number).json())

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(ask, range(200)))

    assert numbers == list(range(200))
    assert server.connections <= 8


def test_a_closed_connection_is_replaced(start: StartServer) -> None:
    def once(connection: socket.socket, seen: Seen) -> bool:
        answering()(connection, seen)
        return False

    server = start(once)
    session = session_for(server)

    for _ in range(3):
        session.get(server.origin)
        time.sleep(0.1)  # the end of the connection arrives

    assert len(server.requests) == 3


# -- too large ---------------------------------------------------------------------------------------------


def chunked(connection: socket.socket, seen: Seen) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")


def endless(connection: socket.socket, seen: Seen) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 0x1000)


@pytest.mark.parametrize("behaviour", [answering(b"x" * 100_001), answering(b"", announced=10**12), chunked, endless])
def test_an_answer_over_the_limit_is_cut_off(start: StartServer, behaviour: Behaviour) -> None:
    server = start(behaviour)

    with pytest.raises(ResponseTooLarge, match="over 100000 bytes") as caught:
        session_for(server, max_response_bytes=100_000).get(server.origin)

    assert caught.value.maybe_carried_out


def test_an_answer_at_the_limit_is_taken(start: StartServer) -> None:
    server = start(answering(b"x" * 100_000))

    assert len(session_for(server, max_response_bytes=100_000).get(server.origin).content) == 100_000


@pytest.mark.parametrize("layers", [1, 2])
def test_a_bomb_is_cut_off_before_it_is_unpacked(start: StartServer, layers: int) -> None:
    bomb = gzip.compress(bytes(200_000_000), 9)
    for _ in range(layers - 1):
        bomb = gzip.compress(bomb, 9)
    encodings = ", ".join(["gzip"] * layers)
    server = start(answering(bomb, headers=f"Content-Encoding: {encodings}\r\n"))
    session = session_for(server, max_response_bytes=1_000_000)
    tracemalloc.start()

    with pytest.raises(ResponseTooLarge):
        session.get(server.origin)

    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


# -- not sent, or outcome unknown --------------------------------------------------------------------------


def test_a_refused_connection_was_not_sent() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{nobody.getsockname()[1]}"

        with pytest.raises(NotSent, match=r"^GET to 127\.0\.0\.1: connection refused$") as caught:
            GuardedSession(AddressRule.exact_origin(origin)).get(origin + "/path")

    assert not caught.value.maybe_carried_out


def test_a_name_that_is_not_found_was_not_sent() -> None:
    def fail(host: str, port: int) -> list[SocketAddress]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(NotSent, match="the host name was not found"):
        GuardedSession(SHOPIFY, dialler=Dialler(resolve=fail)).get("https://one.myshopify.com/")


def test_a_connection_that_takes_too_long_was_not_sent() -> None:
    def fail(address: SocketAddress, timeout_seconds: float) -> socket.socket:
        raise TimeoutError

    dialler = Dialler(resolve=lambda host, port: [_address("8.8.8.8", port)], open_socket=fail)

    with pytest.raises(NotSent, match="timed out"):
        GuardedSession(SHOPIFY, dialler=dialler).get("https://one.myshopify.com/")


def test_a_deadline_that_passes_while_resolving_was_not_sent() -> None:
    def slow(host: str, port: int) -> list[SocketAddress]:
        time.sleep(0.05)
        return [_address("8.8.8.8", port)]

    session = GuardedSession(SHOPIFY, limits=Limits(deadline_seconds=0.01), dialler=Dialler(resolve=slow))

    with pytest.raises(NotSent, match="the time for the whole request is over"):
        session.get("https://one.myshopify.com/")


@pytest.mark.parametrize(
    "behaviour",
    [
        resetting,
        raw(b""),
        raw(b"\x00\x01garbage\r\n\r\n"),
        raw(b"HTTP/1.1 200"),
        raw(b"HTTP/1.1 200 OK\r\nX: y\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"),
        answering(b"half of it", announced=20),
    ],
)
def test_a_request_without_a_whole_answer_has_an_unknown_outcome(start: StartServer, behaviour: Behaviour) -> None:
    server = start(behaviour)

    with pytest.raises(OutcomeUnknown) as caught:
        session_for(server).post(server.origin, json={})

    assert caught.value.maybe_carried_out
    assert len(server.requests) == 1


def test_a_read_timeout_has_an_unknown_outcome_and_is_not_retried(start: StartServer) -> None:
    server = start(silent)

    with pytest.raises(OutcomeUnknown, match="timed out"):
        session_for(server, read_timeout_seconds=0.2).post(server.origin, json={})

    assert len(server.requests) == 1


def test_a_timeout_can_be_given_with_the_request(start: StartServer) -> None:
    server = start(silent)

    with pytest.raises(OutcomeUnknown, match="timed out"):
        session_for(server).post(server.origin, json={}, timeout=0.2)
    with pytest.raises(OutcomeUnknown, match="timed out"):
        session_for(server).post(server.origin, json={}, timeout=(20, 0.2))


@pytest.mark.parametrize(
    "behaviour",
    [
        silent,
        trickling(b"", b"H"),
        trickling(b"HTTP/1.1 200 OK\r\n", b"X: y\r"),
        trickling(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"x"),
        trickling(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
)
def test_no_trickle_outlasts_the_deadline(start: StartServer, behaviour: Behaviour) -> None:
    server = start(behaviour)

    with pytest.raises(OutcomeUnknown, match=r"the time for the whole request is over|timed out"):
        session_for(server, deadline_seconds=0.6).post(server.origin, json={})


def test_a_kept_connection_that_dies_under_a_request_is_not_retried(start: StartServer) -> None:
    def answer_then_drop(connection: socket.socket, seen: Seen) -> bool:
        return seen.body == b"1" and answering()(connection, seen)

    server = start(answer_then_drop)
    session = session_for(server)
    session.post(server.origin, data=b"1")

    with pytest.raises(OutcomeUnknown):
        session.post(server.origin, data=b"2")

    assert [seen.body for seen in server.requests] == [b"1", b"2"]


def test_a_session_goes_on_after_failures(start: StartServer) -> None:
    def by_path(connection: socket.socket, seen: Seen) -> bool:
        bad = {"/too-large": chunked, "/cut": answering(b"x", announced=9), "/lost": resetting}
        return bad.get(seen.head.split()[1], answering())(connection, seen)

    server = start(by_path)
    session = session_for(server, pool_size=1, max_response_bytes=1_000)

    for path in ("/too-large", "/cut", "/lost") * 3:
        with pytest.raises(HttpError):
            session.get(server.origin + path)
        assert session.get(server.origin + "/good").json() == {"ok": True}


# -- nothing secret in what goes wrong -----------------------------------------------------------------------


def everything_told_by(error: BaseException) -> str:
    told = repr(error) + str(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    return told


@pytest.mark.parametrize("behaviour", [resetting, raw(b"x"), chunked, answering(b"", status="302 x")])
def test_errors_tell_no_header_path_or_query(start: StartServer, behaviour: Behaviour) -> None:
    server = start(behaviour)
    url = f"{server.origin}/hook-canary?consumer_secret=canary"

    with pytest.raises(HttpError) as caught:
        session_for(server, max_response_bytes=10).post(url, json={"a": "canary"}, headers=TOKEN_HEADER)

    assert "canary" not in everything_told_by(caught.value)


@pytest.mark.parametrize("value", ["canary\n", " canary", "canary\r\nX: y", "canary€", 17])
def test_a_broken_header_is_not_quoted(start: StartServer, value: Any) -> None:
    server = start()

    with pytest.raises(NotSent) as caught:
        session_for(server).get(server.origin, headers={"X-Shopify-Access-Token": value})

    assert "canary" not in everything_told_by(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("url", ["canary", "http://[canary", "http://*canary", "https://canary@one.myshopify.com"])
def test_a_broken_url_is_not_quoted_either(url: str) -> None:
    with pytest.raises(AddressRefused) as caught:
        GuardedSession(SHOPIFY).get(url)

    assert "canary" not in everything_told_by(caught.value)


# -- behind gql ----------------------------------------------------------------------------------------------


def gql_transport(server: Server, session: requests.Session) -> RequestsHTTPTransport:
    transport = RequestsHTTPTransport(f"{server.origin}/graphql.json", headers=TOKEN_HEADER)
    transport.session = session
    return transport


def test_gql_speaks_through_it(start: StartServer) -> None:
    server = start(answering(b'{"data": {"shop": {"name": "One"}}, "extensions": {"cost": 1}}'))

    result = gql_transport(server, session_for(server)).execute(GraphQLRequest("{ shop { name } }"))

    assert result.data == {"shop": {"name": "One"}}
    assert result.extensions == {"cost": 1}
    assert server.requests[0].header("X-Shopify-Access-Token") == TOKEN


def test_gql_passes_our_errors_on_as_the_cause(start: StartServer) -> None:
    server = start(resetting)

    with pytest.raises(TransportConnectionFailed) as caught:
        gql_transport(server, session_for(server)).execute(GraphQLRequest("{ shop { name } }"))

    assert isinstance(caught.value.__cause__, OutcomeUnknown)


def test_nothing_is_logged_above_debug(start: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    server = start(resetting)

    with caplog.at_level(logging.INFO), pytest.raises(OutcomeUnknown):
        session_for(server).get(f"{server.origin}/?token=canary", headers=TOKEN_HEADER)

    assert caplog.text == ""
