"""Telling endpoints, over real HTTP: signatures, retries, rotation, giving up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.utils import timezone

from inventory import delivery, stock, tasks
from inventory.models import DeliveryState, EndpointState, WebhookDelivery, WebhookEndpoint
from merchants import posting
from merchants.models import AuditEvent
from synctec.lib.backoff import REDELIVERY_SECONDS, redelivery_seconds
from synctec.lib.secret import Secret
from tests.factories import NOON, Trade, make_trade
from tests.inventory.conftest import Program

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Receiver:
    """A merchant's own server: keeps what it gets, and answers as it is told."""

    url: str
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    @property
    def changes(self) -> list[dict[str, Any]]:
        """What the latest message told of."""
        told: list[dict[str, Any]] = json.loads(self.got[-1][1])["data"]["changes"]
        return told


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status, headers = known.answers.pop(0) if known.answers else (204, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        origin = f"http://127.0.0.1:{server.server_port}"
        settings.WEBHOOK_PRIVATE_ORIGINS = [origin]
        known = Receiver(f"{origin}/hooks/stock")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield known
        server.shutdown()
        thread.join()


@dataclass
class Told:
    """An endpoint of Alder's and its secret."""

    endpoint: WebhookEndpoint
    secret: Secret

    def fresh(self) -> WebhookEndpoint:
        self.endpoint.refresh_from_db()
        return self.endpoint

    def be_due(self) -> None:
        WebhookEndpoint.objects.update(next_attempt_at=timezone.now() - timedelta(seconds=1))


@pytest.fixture
def told(alder: Trade, receiver: Receiver) -> Told:
    return Told(*delivery.create(merchant=alder.merchant, url=receiver.url, user=None))


def adjust(trade: Trade, delta: int, code: str = "MUG") -> None:
    stock.adjust(
        merchant_id=trade.merchant.pk,
        sku_id=trade.skus[code].pk,
        warehouse_id=trade.warehouse.pk,
        delta=delta,
        reason="test",
        user=None,
        now=NOON,
    )


def deliver(told: Told, at: datetime | None = None) -> bool:
    return delivery.deliver(told.endpoint.pk, now=lambda: at or timezone.now(), rng=random.Random(1))


def signs(secret: Secret, headers: dict[str, str], body: bytes) -> bool:
    """The receiver's own check, as Standard Webhooks describes it."""
    key = base64.b64decode(secret.reveal().removeprefix("whsec_"))
    message = b".".join([headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body])
    mine = "v1," + base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()
    return mine in headers["webhook-signature"].split(" ")


def test_a_change_is_told_once_signed_and_with_its_numbers(alder: Trade, told: Told, receiver: Receiver) -> None:
    assert delivery.due() == []
    adjust(alder, 3)
    assert delivery.due() == [told.endpoint.pk]

    deliver(told)

    ((headers, body),) = receiver.got
    assert signs(told.secret, headers, body)
    assert not signs(told.secret, headers, body.replace(b"13", b"99"))
    assert abs(int(headers["webhook-timestamp"]) - timezone.now().timestamp()) < 60
    message = json.loads(body)
    assert message["type"] == "stock.changed"
    (change,) = message["data"]["changes"]
    assert (change["sku"], change["on_hand"], change["available"], change["seq"]) == ("MUG", 13, 13, 2)
    assert change["movements"][0]["cause"] == "adjustment"
    assert delivery.due() == []
    assert WebhookDelivery.objects.get().state == DeliveryState.DELIVERED
    assert told.fresh().last_delivered_at is not None


def test_many_changes_are_one_message_with_the_newest_numbers(alder: Trade, told: Told, receiver: Receiver) -> None:
    for _ in range(5):
        adjust(alder, -1)
    adjust(alder, 1, "TEE")

    deliver(told)

    assert [(change["sku"], change["on_hand"]) for change in receiver.changes] == [("MUG", 5), ("TEE", 6)]
    assert len(receiver.got) == 1


def test_more_than_a_message_holds_is_told_in_several(
    alder: Trade, told: Told, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "MESSAGE_MOVEMENTS", 2)
    for _ in range(5):
        adjust(alder, 1)

    tasks.tell_endpoint(told.endpoint.pk)

    assert [len(json.loads(body)["data"]["changes"][0]["movements"]) for _, body in receiver.got] == [2, 2, 1]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 3


def test_a_failed_message_is_sent_again_with_its_id_and_its_bytes(alder: Trade, told: Told, receiver: Receiver) -> None:
    receiver.answers = [(500, {})]
    adjust(alder, 3)

    deliver(told)
    assert told.fresh().failures == 1
    assert delivery.due() == []
    told.be_due()
    deliver(told)

    (first, first_body), (again, again_body) = receiver.got
    assert (first["webhook-id"], first_body) == (again["webhook-id"], again_body)
    assert (told.fresh().failures, told.endpoint.failing_since) == (0, None)
    assert WebhookDelivery.objects.get().attempts == 2


def test_what_happens_meanwhile_makes_a_new_message_of_both(alder: Trade, told: Told, receiver: Receiver) -> None:
    receiver.answers = [(503, {})]
    adjust(alder, 3)
    deliver(told)
    adjust(alder, -1)
    told.be_due()

    deliver(told)

    (first, _), (second, _) = receiver.got
    assert first["webhook-id"] != second["webhook-id"]
    assert [(change["on_hand"], len(change["movements"])) for change in receiver.changes] == [(12, 2)]
    states = WebhookDelivery.objects.order_by("pk").values_list("state", flat=True)
    assert list(states) == [DeliveryState.REPLACED, DeliveryState.DELIVERED]


@pytest.mark.parametrize(
    ("status", "headers"), [(301, {"Location": "http://127.0.0.1:1/"}), (400, {}), (404, {}), (429, {}), (500, {})]
)
def test_whatever_is_no_2xx_is_a_failure(
    alder: Trade, told: Told, receiver: Receiver, status: int, headers: dict[str, str]
) -> None:
    receiver.answers = [(status, headers)]
    adjust(alder, 3)

    assert deliver(told) is False

    assert (told.fresh().failures, told.endpoint.state) == (1, EndpointState.ACTIVE)
    assert len(receiver.got) == 1


def test_attempts_follow_the_schedule_and_end_after_five_days(alder: Trade, told: Told, receiver: Receiver) -> None:
    receiver.answers = [(500, {})] * 30
    adjust(alder, 3)
    now, pauses = timezone.now(), []
    while told.fresh().state == EndpointState.ACTIVE:
        # The database's clock decides whose turn it is; ours, which is ahead, when the next one is.
        told.be_due()
        deliver(told, at=now)
        pauses.append((told.fresh().next_attempt_at - now).total_seconds())
        now = told.endpoint.next_attempt_at

    for failures, pause in enumerate(pauses, start=1):
        step = REDELIVERY_SECONDS[min(failures, 7) - 1]
        assert 0.9 * step - 1 <= pause <= 1.1 * step + 1
    assert told.endpoint.state == EndpointState.FAILED
    assert "failed for five days" in told.endpoint.state_reason
    assert told.endpoint.failing_since is not None
    assert now - told.endpoint.failing_since >= timedelta(hours=120)
    assert delivery.due() == []
    assert AuditEvent.objects.filter(action="webhookendpoint.give_up").exists()

    receiver.answers = []
    delivery.switch_on(told.endpoint, user=None, now=timezone.now() - timedelta(seconds=1))
    assert delivery.due() == [told.endpoint.pk]
    deliver(told)
    assert receiver.changes[0]["on_hand"] == 13


def test_gone_means_gone(alder: Trade, told: Told, receiver: Receiver) -> None:
    receiver.answers = [(410, {})]
    adjust(alder, 3)

    deliver(told)

    assert told.fresh().state == EndpointState.FAILED
    assert "410" in told.endpoint.state_reason


def test_an_endpoint_may_ask_for_a_longer_pause(alder: Trade, told: Told, receiver: Receiver) -> None:
    receiver.answers = [(503, {"Retry-After": "600"})]
    adjust(alder, 3)

    deliver(told)

    assert told.fresh().next_attempt_at - timezone.now() > timedelta(seconds=590)


def test_retry_after_is_read_as_seconds_or_a_date() -> None:
    said = {
        "": 0,
        "30": 30,
        "-1": 0,
        "soon": 0,
        "999999999999": 86400,
        "Fri, 20 Nov 2026 12:01:00 GMT": 60,
        "Fri, 20 Nov 2020 12:01:00 GMT": 0,
        "Fri, 20 Nov 2099 12:01:00 GMT": 86400,
    }

    assert {header: posting.retry_after(header, NOON).total_seconds() for header in said} == said


def test_during_a_rotation_both_secrets_sign(alder: Trade, told: Told, receiver: Receiver) -> None:
    now = timezone.now()
    new = delivery.rotate_secret(told.endpoint, user=None, now=now)
    adjust(alder, 3)
    deliver(told)
    headers, body = receiver.got[-1]
    assert signs(told.secret, headers, body)
    assert signs(new, headers, body)

    adjust(alder, 1)
    told.be_due()
    deliver(told, at=now + timedelta(hours=25))

    headers, body = receiver.got[-1]
    assert not signs(told.secret, headers, body)
    assert signs(new, headers, body)


def test_secrets_lie_sealed_and_are_in_no_trail(told: Told) -> None:
    stored = told.fresh()

    assert told.secret.reveal() not in stored.sealed_secret
    assert stored.sealed_secret.startswith("v1.")
    assert all(told.secret.reveal() not in json.dumps(event.after) for event in AuditEvent.objects.all())


def test_a_sealed_secret_of_another_endpoint_does_not_open(alder: Trade, told: Told, receiver: Receiver) -> None:
    other, _ = delivery.create(merchant=alder.merchant, url=f"{receiver.url}/2", user=None)
    WebhookEndpoint.objects.filter(pk=told.endpoint.pk).update(sealed_secret=other.sealed_secret)
    adjust(alder, 3)

    deliver(told)

    assert receiver.got == []
    assert told.fresh().failures == 1
    assert "does not open" in WebhookDelivery.objects.get().answer


def test_an_echo_of_its_own_key_is_not_told(alder: Trade, receiver: Receiver) -> None:
    wms = Program(alder.merchant)
    endpoint, secret = delivery.create(merchant=alder.merchant, url=receiver.url, skipped_key=wms.key, user=None)
    line = {"key": "1", "type": "receipt", "sku": "MUG", "warehouse": "MAIN", "quantity": 1}
    wms.post_lines("movements", line)

    deliver(Told(endpoint, secret))
    assert receiver.got == []
    assert delivery.due() == []

    adjust(alder, 1, "TEE")
    deliver(Told(endpoint, secret))
    assert [change["sku"] for change in receiver.changes] == ["TEE"]


def test_an_endpoint_hears_of_its_own_merchant_only(told: Told, receiver: Receiver) -> None:
    adjust(make_trade("Birch", stock_of={"CUP": 3}), 1, "CUP")

    assert delivery.due() == []
    assert deliver(told) is False
    assert receiver.got == []


def test_a_second_worker_leaves_an_attempt_under_way_alone(alder: Trade, told: Told, receiver: Receiver) -> None:
    adjust(alder, 3)
    attempt = delivery._claim(told.endpoint.pk, timezone.now())
    assert attempt is not None

    assert deliver(told) is False
    assert receiver.got == []

    # The first one died; its lease ends, the message is the same, and what the dead one writes later is ignored.
    told.be_due()
    deliver(told)
    assert receiver.got[0][0]["webhook-id"] == attempt.delivery.message_id
    late = posting.PostAnswer(is_acknowledged=False, says="too late")
    assert delivery._settle(attempt, late, timezone.now(), random.Random(1)) is False
    assert told.fresh().failures == 0


def test_nobody_is_told_where_nobody_answers(alder: Trade, settings: Any) -> None:
    settings.WEBHOOK_PRIVATE_ORIGINS = ["http://127.0.0.1:9"]
    endpoint, secret = delivery.create(merchant=alder.merchant, url="http://127.0.0.1:9/x", user=None)
    adjust(alder, 3)

    deliver(Told(endpoint, secret))

    assert WebhookEndpoint.objects.get().failures == 1


def test_addresses_inside_are_refused(alder: Trade) -> None:
    for url in (
        "http://example.com/x",
        "https://127.0.0.1/x",
        "https://localhost/x",
        "https://user:pw@example.com/",
        "https://[::1]/",
        "https://example.com:8443/",
        "https://2130706433/",
        "ftp://example.com/",
        "nonsense",
        "",
    ):
        with pytest.raises(delivery.EndpointRefused):
            delivery.create(merchant=alder.merchant, url=url, user=None)

    assert not WebhookEndpoint.objects.exists()


def test_the_sweep_wakes_a_worker_once(
    alder: Trade, told: Told, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[int] = []
    monkeypatch.setattr(tasks.tell_endpoint, "delay", woken.append)
    adjust(alder, 3)

    tasks.sweep_endpoints()
    tasks.sweep_endpoints()
    assert woken == [told.endpoint.pk]

    tasks.tell_endpoint(told.endpoint.pk)
    assert receiver.changes[0]["on_hand"] == 13
    tasks.sweep_endpoints()
    assert woken == [told.endpoint.pk]


def test_old_messages_are_forgotten_and_open_ones_kept(alder: Trade, told: Told, receiver: Receiver) -> None:
    adjust(alder, 3)
    deliver(told)
    receiver.answers = [(500, {})]
    adjust(alder, 3)
    deliver(told)
    WebhookDelivery.objects.update(created_at=datetime(2026, 1, 1, tzinfo=UTC))

    tasks.forget_old()

    assert WebhookDelivery.objects.get().state == DeliveryState.OPEN


def test_a_new_key_of_the_ring_reseals_the_secrets(alder: Trade, told: Told, receiver: Receiver, settings: Any) -> None:
    settings.CREDENTIAL_KEYS = f"new:{base64.b64encode(b'n' * 32).decode()},{settings.CREDENTIAL_KEYS}"

    assert delivery.reseal_all() == (1, [])
    assert delivery.reseal_all() == (0, [])

    assert told.fresh().sealed_secret.startswith("v1.new.")
    adjust(alder, 3)
    deliver(told)
    assert signs(told.secret, *receiver.got[0])


def test_pauses_stay_within_a_tenth_of_their_step() -> None:
    rng = random.Random(7)
    for failures in range(1, 20):
        step = REDELIVERY_SECONDS[min(failures, 7) - 1]
        assert all(0.9 * step <= redelivery_seconds(failures, rng) <= 1.1 * step for _ in range(50))
    with pytest.raises(ValueError, match="nothing has failed"):
        redelivery_seconds(0, rng)
