"""Beat and the workers are gone, the mail server is down, Slack hangs: it is noticed, said where it can be, and over again.

A stack of its own: what it is told of is in its settings. It takes minutes, nearly all of them waiting.
"""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket

import psycopg
import pytest

from sync.management.commands.load_demo import ADMIN_EMAIL
from synctec.local.stack import LocalStack
from tests.journeys.town import Town, say
from tests.journeys.visitor import Visitor
from tests.local.conftest import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.xdist_group("alarms")]

#: So long nothing of ours but the web server runs. Silence is noticed after 60 to 90 s, and said within another two minutes.
DOWN_SECONDS = 240
ALERTS = "/alerts/"
#: The rules that tell of silence, and how what they say begins.
SILENT = {
    "beat_silent": "The schedule (celery-beat) has started nothing for",
    "workers_silent": "No worker has done anything for",
}
#: Messages that each target may get of it all: what is wrong, what else came of it, and that it is over.
MESSAGES_MAX = 6


@dataclass
class Hook:
    """Somebody's webhook receiver: what it was posted, by message id; while `hangs` it answers nothing."""

    got: dict[str, list[bytes]] = field(default_factory=dict)
    goes_on: threading.Event = field(default_factory=threading.Event)

    def has_told(self, *, recovered: bool) -> bool:
        """Whether the messages have named all that was silent, or that it is over."""
        titles = [
            item["title"]
            for bodies in self.got.values()
            for item in json.loads(bodies[0])["data"]["items"]
            if item["is_recovery"] is recovered
        ]
        return all(any(begins in title for title in titles) for begins in SILENT.values())


@contextmanager
def open_hook(hook: Hook) -> Iterator[str]:
    """Its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.got.setdefault(self.headers.get("webhook-id", str(len(hook.got))), []).append(body)
            hook.goes_on.wait()
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        hook.goes_on.set()
        server.shutdown()


class MailServer:
    """Takes every letter, while it runs."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        with closing(socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @contextmanager
    def running(self) -> Iterator[None]:
        letters = self.letters

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.say("220 mail.test")
                while line := self.rfile.readline().decode().strip().upper():
                    if line == "DATA":
                        self.say("354 go on")
                        letter = ""
                        while (text := self.rfile.readline().decode()) != ".\r\n":
                            letter += text
                        letters.append(letter)
                    self.say("221 bye" if line == "QUIT" else "250 ok")
                    if line == "QUIT":
                        return

            def say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

        with Server(("127.0.0.1", self.port), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()


@dataclass
class Watched:
    """A town, and who is told of it."""

    town: Town
    hook: Hook
    slack: Hook
    mail: MailServer
    admin: Visitor


@pytest.fixture
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two stores, and three targets that are told of everything: a signed webhook, Slack, and e-mail."""
    hook, slack, mail = Hook(), Hook(), MailServer()
    hook.goes_on.set()
    with open_hook(hook) as origin, open_hook(slack) as slack_origin:
        local = LocalStack(
            tmp_path_factory.mktemp("alarms") / "data",
            demo_options=("--stores=2", "--skus=10", "--bundles=0"),
            variables={
                "EMAIL_HOST": "127.0.0.1",
                "EMAIL_PORT": str(mail.port),
                "EMAIL_SECURITY": "none",
                "WEBHOOK_PRIVATE_ORIGINS": f"{origin},{slack_origin}",
            },
        )
        with local:
            with psycopg.connect(local.environment["DATABASE_URL"], autocommit=True) as books:
                books.execute("UPDATE locations_locationgroup SET policy = 'shared'")
            admin = Visitor(local.urls["web"])
            admin.sign_in(ADMIN_EMAIL, local.demo_password)
            kinds = ["stock", "sync", "channels", "machine"]
            for name, way, address in (
                ("Pager", "webhook", f"{origin}/pager"),
                ("Chat", "slack", f"{slack_origin}/services/chat"),
                ("Night shift", "email", "night@example.com"),
            ):
                admin.fill_in(
                    "/admin/merchants/notificationtarget/new-target/", name=name, way=way, address=address, kinds=kinds
                )
            town = Town(local)
            town.until_calm()
            yield Watched(town, hook, slack, mail, admin)
        local.remove_data()


def alerts_raised(town: Town) -> Counter[tuple[str, str]]:
    """How often an alert was raised by each rule about each subject."""
    return Counter(town.rows("SELECT rule, subject FROM sync_alert WHERE raised_at IS NOT NULL"))


def alerts_open(town: Town) -> set[str]:
    """The rules of the alerts that were raised and are not over."""
    found = town.rows("SELECT rule FROM sync_alert WHERE raised_at IS NOT NULL AND recovered_at IS NULL")
    return {rule for (rule,) in found}


def targets_failing(town: Town) -> list[int]:
    """Targets that have not taken what they were told last."""
    found = town.rows("SELECT id FROM merchants_notificationtarget WHERE failing_since IS NOT NULL ORDER BY id")
    return [target_id for (target_id,) in found]


def test_when_nothing_runs_any_more_people_are_told_once_and_told_again_when_it_is_over(watched: Watched) -> None:
    town, hook = watched.town, watched.hook
    market = town.open_market(dict.fromkeys(town.plain_skus, 60))
    raised_before, told_before = alerts_raised(town), len(hook.got)

    # The mail server does not run yet, and Slack hangs.
    for victim in ("beat", "worker-1", "worker-2"):
        town.stack.kill(victim, down_seconds=DOWN_SECONDS)
    down_at = time.monotonic()
    for sku in town.plain_skus:
        town.stores.buy(town.handles[0], sku)
    until(lambda: alerts_open(town) >= SILENT.keys(), timeout_seconds=DOWN_SECONDS)
    noticed_after = time.monotonic() - down_at
    until(lambda: hook.has_told(recovered=False), timeout_seconds=DOWN_SECONDS)
    said_after = time.monotonic() - down_at
    shown = watched.admin.read(ALERTS).text
    # That Slack hangs is known after a quarter of a minute.
    until(lambda: len(targets_failing(town)) == 2, timeout_seconds=60)

    with watched.mail.running():
        watched.slack.goes_on.set()
        until(lambda: not alerts_open(town) & SILENT.keys() and not market.wrong(), timeout_seconds=DOWN_SECONDS + 300)
        over_after = time.monotonic() - down_at
        until(lambda: hook.has_told(recovered=True), timeout_seconds=180)
        # Whoever mended the mail server and the chat tries them: what waits for them would come by itself, but seldom.
        for target_id in targets_failing(town):
            watched.admin.fill_in(f"/admin/merchants/notificationtarget/{target_id}/test/")
        until(lambda: "target_failing" not in alerts_open(town), timeout_seconds=180)

    raised = alerts_raised(town) - raised_before
    messages = len(hook.got) - told_before
    say(
        f"noticed after {noticed_after:.0f} s, said after {said_after:.0f} s, over after {over_after:.0f} s "
        f"(of {DOWN_SECONDS} s down); alerts: {sorted(raised)}, open still: {alerts_open(town)}; "
        f"{messages} messages to the webhook, {len(watched.slack.got)} to Slack, {len(watched.mail.letters)} letters"
    )
    assert all(words in shown for words in SILENT.values())
    assert {rule for rule, _ in raised} >= SILENT.keys()
    assert set(raised.values()) == {1}
    assert all(len(bodies) == 1 for bodies in hook.got.values())
    assert messages <= MESSAGES_MAX
    assert 1 <= len(watched.mail.letters) <= MESSAGES_MAX
    # What hangs is asked ever more seldom.
    assert len(watched.slack.got) <= MESSAGES_MAX
