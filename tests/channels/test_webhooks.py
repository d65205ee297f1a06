"""The webhook endpoint: what is acknowledged is stored, and nothing that arrives makes it fail."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, close_old_connections, connection
from django.test import Client
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from channels import bodies, credentials, inbox, webhooks
from channels.models import Channel, ChannelKind, ChannelState, EventState, InboxEvent
from synctec.lib.combiner import Crowded, NotDone
from synctec.lib.secret import Secret
from synctec.lib.signing import sign_base64
from tests.channels.cast import SECRETS, client, deliver, deliver_with, make_shop, path_of, signed_headers

BODY = b'{"id": 820982911946154508, "note": "\xc3\xa9"}'

pytestmark = pytest.mark.django_db
keeps_fixtures = effort(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def post(channel: Channel, body: bytes, headers: dict[str, str]) -> Any:
    return client().post(path_of(channel), data=body, content_type="application/json", **headers)  # type: ignore[arg-type]  # headers, not named arguments


class TestAGoodDelivery:
    def test_is_stored_and_answered_with_an_empty_object(self, north: Channel) -> None:
        response = deliver(north, BODY)

        assert (response.status_code, response.content) == (200, b"{}")
        assert response["Content-Type"] == "application/json"
        event = InboxEvent.objects.get()
        assert (event.channel_id, event.topic, event.state) == (north.pk, "orders/create", EventState.PENDING)
        assert bodies.read(event) == BODY

    def test_is_acknowledged_again_when_repeated(self, north: Channel) -> None:
        answers = [deliver(north, x_shopify_webhook_id="w-1").status_code for _ in range(3)]

        assert answers == [200, 200, 200]
        assert InboxEvent.objects.get().duplicates == 2

    def test_may_use_the_headers_of_the_newer_events(self, north: Channel) -> None:
        headers = {name.replace("HTTP_X_", "HTTP_"): value for name, value in signed_headers(north, BODY).items()}

        assert post(north, BODY, headers).status_code == 200

    def test_may_come_from_a_practice_store(self, alder: Any) -> None:
        practice = make_shop(alder, "north", kind=ChannelKind.SANDBOX)

        assert deliver(practice).status_code == 200

    @pytest.mark.parametrize("state", ChannelState.values)
    def test_is_stored_whatever_the_channels_state(self, north: Channel, state: str) -> None:
        Channel.objects.update(state=state)

        assert deliver(north).status_code == 200
        assert InboxEvent.objects.count() == 1

    def test_is_stored_after_the_tokens_were_wiped(self, north: Channel) -> None:
        credentials.wipe(north)

        assert deliver(north, x_shopify_topic="shop/redact").status_code == 200

    def test_may_be_empty(self, north: Channel) -> None:
        assert deliver(north, b"").status_code == 200

    @keeps_fixtures
    @given(body=st.binary(max_size=300))
    @example(body=b"\x00")
    @example(body=b"[" * 5000)
    @example(body=b'{"id": 1e400}')
    def test_may_hold_any_bytes(self, north: Channel, body: bytes) -> None:
        response = deliver(north, body)

        assert response.status_code == 200
        assert bodies.read(InboxEvent.objects.latest("pk")) == body


class TestASignature:
    @keeps_fixtures
    @given(body=st.binary(min_size=1, max_size=200), data=st.data())
    def test_is_refused_when_a_single_bit_of_the_body_differs(
        self, north: Channel, body: bytes, data: st.DataObject
    ) -> None:
        place = data.draw(st.integers(0, len(body) * 8 - 1))
        flipped = bytearray(body)
        flipped[place // 8] ^= 1 << place % 8

        response = post(north, bytes(flipped), signed_headers(north, body))

        assert response.status_code == 401
        assert not InboxEvent.objects.exists()

    @pytest.mark.parametrize(
        "signature",
        [
            None,
            "",
            " ",
            "nonsense",
            "=" * 44,
            "é" * 44,
            "\x00",
            "\ud800",
            "A" * 100_000,
            "ÿþ",
            "0" * 43 + "=",
        ],
    )
    def test_is_refused_when_missing_or_absurd(self, north: Channel, signature: str | None) -> None:
        response = deliver(north, x_shopify_hmac_sha256=signature)

        assert response.status_code == 401
        assert "signature" in response.json()["detail"]
        assert not InboxEvent.objects.exists()

    def test_is_refused_of_the_same_json_written_otherwise(self, north: Channel) -> None:
        headers = signed_headers(north, b'{"id":1}')

        assert post(north, b'{"id": 1}', headers).status_code == 401

    def test_is_taken_by_old_and_new_secret_while_they_are_exchanged(self, north: Channel) -> None:
        credentials.store(north, client_id="app-of-north", client_secret=Secret("the new one"))
        by_new = sign_base64(BODY, "the new one")

        assert deliver(north, BODY).status_code == 200
        assert deliver(north, BODY, x_shopify_hmac_sha256=by_new).status_code == 200

        credentials.forget_previous_client_secret(north)
        webhooks.forget_everything()
        assert deliver(north, BODY).status_code == 401
        assert deliver(north, BODY, x_shopify_hmac_sha256=by_new).status_code == 200

    def test_is_taken_at_once_after_a_rotation_unless_read_just_now(
        self, north: Channel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert deliver(north, BODY).status_code == 200  # the old secret is remembered now
        credentials.store(north, client_id="app-of-north", client_secret=Secret("the new one"))
        by_new = sign_base64(BODY, "the new one")

        assert deliver(north, BODY, x_shopify_hmac_sha256=by_new).status_code == 401
        monkeypatch.setattr(webhooks, "DOOR_DOUBT_SECONDS", -1.0)
        assert deliver(north, BODY, x_shopify_hmac_sha256=by_new).status_code == 200

    def test_is_refused_for_a_channel_without_secrets(self, north: Channel) -> None:
        north.credential.delete()

        assert deliver(north).status_code == 401
        assert deliver(north, x_shopify_hmac_sha256=sign_base64(BODY, "guess")).status_code == 401

    def test_is_checked_with_the_apps_own_secret_where_the_channel_has_none(
        self, north: Channel, settings: Any
    ) -> None:
        settings.SHOPIFY_CLIENT_ID = "our-app"
        settings.SHOPIFY_CLIENT_SECRET = "of-our-app"
        settings.SHOPIFY_PREVIOUS_CLIENT_SECRET = "of-our-app-before"
        credentials.store(north, client_id="our-app")

        for secret, status in (("of-our-app", 200), ("of-our-app-before", 200), (SECRETS["north"], 401)):
            answer = deliver(north, BODY, x_shopify_hmac_sha256=sign_base64(BODY, secret))
            assert answer.status_code == status

    def test_that_fails_is_logged_once_without_body_or_secret(
        self, north: Channel, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            for _ in range(5):
                deliver(north, b"canary-body", x_shopify_hmac_sha256="canary-signature")

        lines = [record.getMessage() for record in caplog.records if "webhook.refused" in record.getMessage()]
        assert len(lines) == 1
        assert str(north.pk) in lines[0]
        assert "canary" not in caplog.text
        assert north.webhook_token not in caplog.text
        assert SECRETS["north"] not in caplog.text


class TestAnotherTenant:
    def test_cannot_have_its_delivery_replayed_to_a_strangers_address(self, north: Channel, elsewhere: Channel) -> None:
        response = deliver(north, BODY, at=elsewhere)

        assert response.status_code == 401
        assert not InboxEvent.objects.exists()

    def test_cannot_use_its_own_signature_in_a_strangers_name(self, north: Channel, elsewhere: Channel) -> None:
        response = deliver(north, BODY, x_shopify_shop_domain=elsewhere.account)

        assert response.status_code == 401
        assert not InboxEvent.objects.exists()

    def test_with_the_same_app_is_told_apart_by_the_shop(self, north: Channel, elsewhere: Channel) -> None:
        credentials.store(elsewhere, client_id="app-of-elsewhere", client_secret=Secret(SECRETS["north"]))

        response = deliver(north, BODY, at=elsewhere)

        assert response.status_code == 401
        assert "another account" in response.json()["detail"]
        assert not InboxEvent.objects.exists()


class TestAHeader:
    @pytest.mark.parametrize("name", ["topic", "shop_domain", "webhook_id"])
    @pytest.mark.parametrize("value", [None, "", "\x00", "orders\x00create", "é\x7f", "x" * 5000, "a\r\nb", "\ud800"])
    def test_that_must_be_there_is_named_when_missing_or_absurd(
        self, north: Channel, name: str, value: str | None
    ) -> None:
        response = deliver_with(north, {f"x_shopify_{name}": value})

        assert response.status_code == 400
        assert name.replace("_", "-") in response.json()["detail"]
        assert not InboxEvent.objects.exists()

    @pytest.mark.parametrize(("name", "length"), [("topic", 81), ("webhook_id", 161)])
    def test_that_is_part_of_the_identity_is_never_cut(self, north: Channel, name: str, length: int) -> None:
        assert deliver_with(north, {f"x_shopify_{name}": "x" * length}).status_code == 400
        assert deliver_with(north, {f"x_shopify_{name}": "x" * (length - 1)}).status_code == 200

    @pytest.mark.parametrize("name", ["event_id", "api_version", "triggered_at"])
    @pytest.mark.parametrize(
        "value",
        [
            None,
            "",
            "\x00",
            "é",
            "x" * 5000,
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59-14:00",
            "2026-13-40",
            "\ud800",
        ],
    )
    def test_that_only_informs_never_costs_the_delivery(self, north: Channel, name: str, value: str | None) -> None:
        response = deliver_with(north, {f"x_shopify_{name}": value})

        assert response.status_code == 200
        assert InboxEvent.objects.count() == 1

    def test_may_name_the_shop_in_capitals(self, north: Channel) -> None:
        assert deliver(north, x_shopify_shop_domain="North.MyShopify.COM").status_code == 200

    @keeps_fixtures
    @given(
        values=st.dictionaries(
            st.sampled_from(
                [
                    "topic",
                    "shop_domain",
                    "webhook_id",
                    "event_id",
                    "api_version",
                    "triggered_at",
                    "hmac_sha256",
                    "name",
                ]
            ),
            st.text(max_size=200),
        )
    )
    def test_of_any_text_never_makes_a_server_error(self, north: Channel, values: dict[str, str]) -> None:
        response = deliver_with(north, {f"x_shopify_{name}": value for name, value in values.items()})

        assert response.status_code in (200, 400, 401)


class TestAnAddress:
    @pytest.mark.parametrize(
        "token",
        [
            "unknown-but-well-formed",
            "short",
            "x" * 41,
            "x" * 5000,
            "%00",
            "..%2f",
            "%ff%fe",
            "'; DROP TABLE",
            "é" * 20,
        ],
    )
    def test_that_is_unknown_is_not_found(self, north: Channel, token: str) -> None:
        response = client().post(f"/webhooks/shopify/{token}/", data=b"{}", content_type="application/json")

        assert response.status_code == 404

    @pytest.mark.parametrize("kind", ["sandbox", "amazon", "SHOPIFY", "%00"])
    def test_of_another_kind_is_not_found(self, north: Channel, kind: str) -> None:
        deliver(north)  # the address is remembered now
        response = client().post(
            f"/webhooks/{kind}/{north.webhook_token}/",
            data=BODY,
            content_type="application/json",
            **signed_headers(north, BODY),  # type: ignore[arg-type]  # headers, not named arguments
        )

        assert response.status_code == 404
        assert InboxEvent.objects.count() == 1

    @pytest.mark.parametrize("method", ["get", "put", "patch", "delete", "options", "head"])
    def test_takes_nothing_but_post(self, north: Channel, method: str) -> None:
        response = getattr(client(), method)(path_of(north))

        assert (response.status_code, response["Allow"]) == (405, "POST")

    def test_needs_no_session_and_no_csrf_token(self, north: Channel) -> None:
        answer = Client(enforce_csrf_checks=True).post(
            path_of(north),
            data=BODY,
            content_type="application/json",
            **signed_headers(north, BODY),  # type: ignore[arg-type]  # headers, not named arguments
        )

        assert answer.status_code == 200
        assert not answer.cookies

    def test_of_a_channel_deleted_meanwhile_is_not_found(self, north: Channel) -> None:
        deliver(north)
        Channel.objects.all().delete()
        webhooks.forget_everything()

        assert deliver(north).status_code == 404


class Unread(io.BytesIO):
    """A body nobody may read."""

    def read(self, *args: Any) -> bytes:
        raise AssertionError("read although it is too large")


class TestASize:
    def test_of_exactly_the_limit_is_taken(self, north: Channel) -> None:
        assert deliver(north, b"x" * webhooks.BODY_BYTES_MAX).status_code == 200

    def test_above_the_limit_is_refused_without_reading(self, north: Channel) -> None:
        for declared in (str(webhooks.BODY_BYTES_MAX + 1), "9" * 400):
            response = client().generic(
                "POST",
                path_of(north),
                **{**signed_headers(north, b""), "wsgi.input": Unread(), "CONTENT_LENGTH": declared},  # type: ignore[arg-type]
            )

            assert response.status_code == 413

    def test_that_is_not_declared_is_found_out(self, north: Channel) -> None:
        for size, status in ((webhooks.BODY_BYTES_MAX, 200), (webhooks.BODY_BYTES_MAX + 1, 413)):
            body = b"x" * size
            response = client().generic(
                "POST",
                path_of(north),
                **{
                    **signed_headers(north, body),
                    "HTTP_TRANSFER_ENCODING": "chunked",
                    "wsgi.input": io.BytesIO(body),
                    "CONTENT_LENGTH": "",
                },  # type: ignore[arg-type]
            )

            assert response.status_code == status

    @pytest.mark.parametrize("declared", ["-1", "abc", "1.5", "٣", "0x10"])
    def test_that_is_nonsense_never_makes_a_server_error(self, north: Channel, declared: str) -> None:
        response = client().generic(
            "POST",
            path_of(north),
            **{**signed_headers(north, BODY), "wsgi.input": io.BytesIO(BODY), "CONTENT_LENGTH": declared},  # type: ignore[arg-type]
        )

        assert response.status_code in (400, 401)

    def test_that_breaks_off_is_a_bad_request(self, north: Channel) -> None:
        class BrokenOff(io.BytesIO):
            def read(self, *args: Any) -> bytes:
                raise ConnectionResetError

        response = client().generic(
            "POST",
            path_of(north),
            **{**signed_headers(north, BODY), "wsgi.input": BrokenOff(), "CONTENT_LENGTH": "10"},  # type: ignore[arg-type]
        )

        assert response.status_code == 400


@contextmanager
def database_away() -> Iterator[None]:
    """Nobody listens where the database was."""
    port = connection.settings_dict["PORT"]
    connection.close()
    connection.settings_dict["PORT"] = "1"
    try:
        yield
    finally:
        connection.settings_dict["PORT"] = port
        connection.close()


@pytest.mark.django_db(transaction=True)
class TestTheDatabase:
    def test_away_makes_the_channel_try_again(self, north: Channel) -> None:
        with database_away():
            response = deliver(north)

        assert response.status_code == 503
        assert response["Retry-After"] == "10"

    def test_away_is_told_also_where_the_address_is_remembered(self, north: Channel) -> None:
        deliver(north)

        with database_away():
            assert deliver(north).status_code == 503

        assert InboxEvent.objects.count() == 1

    def test_away_is_not_asked_by_everybody(self, north: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
        with database_away():
            deliver(north)
            monkeypatch.setattr(webhooks, "_accept", lambda *args, **kwargs: pytest.fail("asked at once again"))

            assert deliver(north).status_code == 503

    def test_back_again_stores_again(self, north: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(webhooks, "AWAY_SECONDS", 0.0)
        with database_away():
            assert deliver(north).status_code == 503

        assert deliver(north).status_code == 200
        assert InboxEvent.objects.count() == 1

    def test_ending_the_connection_costs_one_delivery_and_no_more(self, north: Channel) -> None:
        deliver(north)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (pid,) = cursor.fetchone()
        settings_of_it = connection.get_connection_params()
        with psycopg.connect(
            **{name: settings_of_it[name] for name in ("host", "port", "user", "password", "dbname")},
            autocommit=True,
        ) as operator:
            operator.execute("SELECT pg_terminate_backend(%s)", [pid])

        assert deliver(north).status_code == 503
        close_old_connections()  # as after each request, but not after one of the test client
        assert deliver(north).status_code == 200
        assert InboxEvent.objects.count() == 2

    def test_refusing_for_any_reason_is_not_acknowledged(self, north: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(**_: Any) -> None:
            raise OperationalError("disk full")

        monkeypatch.setattr(inbox, "receive", refuse)

        assert deliver(north).status_code == 503

    @pytest.mark.parametrize("error", [Crowded, NotDone])
    def test_kept_busy_by_too_many_is_not_acknowledged(
        self, north: Channel, monkeypatch: pytest.MonkeyPatch, error: type[NotDone]
    ) -> None:
        def turn_away(**_: Any) -> None:
            raise error

        monkeypatch.setattr(inbox, "receive", turn_away)
        response = deliver(north)

        assert (response.status_code, response["Retry-After"]) == (503, "10")
        monkeypatch.undo()
        assert deliver(north).status_code == 200  # and nobody is kept out for it


class TestTheKeys:
    def test_that_went_missing_make_the_channel_try_again(self, north: Channel, settings: Any) -> None:
        settings.CREDENTIAL_KEYS = "other:" + "A" * 43 + "="

        response = deliver(north)

        assert response.status_code == 503
        assert "cannot be read" in response.json()["detail"]


def test_topics_nobody_knows_and_compliance_topics_are_taken_too(north: Channel) -> None:
    topics = [
        "customers/data_request",
        "customers/redact",
        "shop/redact",
        "app/uninstalled",
        "some/new_topic",
    ]

    for topic in topics:
        body = json.dumps({"topic": topic, "nonce": str(uuid.uuid4())}).encode()
        assert deliver(north, body, x_shopify_topic=topic).status_code == 200

    assert sorted(InboxEvent.objects.values_list("topic", flat=True)) == sorted(topics)
