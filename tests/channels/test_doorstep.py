"""Deliveries are answered before anything that only browsers need; everything else goes past the door."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import Resolver404, resolve
from hypothesis import example, given
from hypothesis import strategies as st

from channels.doorstep import doorstep
from channels.models import Channel
from channels.webhooks import deliver
from tests.channels.cast import client, path_of, signed_headers

BEHIND = "behind the door"


def answer(path: str) -> HttpResponse:
    request = RequestFactory().get("/")
    request.path_info = path
    answered: Any = doorstep(lambda _: HttpResponse(BEHIND))(request)
    assert isinstance(answered, HttpResponse)
    return answered


def goes_on(path: str) -> bool:
    return answer(path).content == BEHIND.encode()


def leads_to_deliver(path: str) -> bool:
    try:
        return resolve(path).func is deliver
    except Resolver404:
        return False


@pytest.mark.django_db
class TestADelivery:
    def test_is_stored_by_the_door(self, north: Channel) -> None:
        request = RequestFactory().post(
            path_of(north),
            data=b"{}",
            content_type="application/json",
            **signed_headers(north, b"{}"),  # type: ignore[arg-type]  # headers, not named arguments
        )

        def nobody(request: HttpRequest) -> HttpResponse:
            raise AssertionError("it went past the door")

        answered = doorstep(nobody)(request)

        assert (answered.status_code, answered["Content-Length"]) == (200, "2")

    def test_over_plain_http_is_sent_to_https_first(self, north: Channel, settings: Any) -> None:
        settings.SECURE_SSL_REDIRECT = True

        answered = Client().post(path_of(north), data=b"{}", content_type="application/json")

        assert answered.status_code == 301
        assert answered["Location"].startswith("https://")

    def test_needs_no_session_and_gets_no_cookie(self, north: Channel) -> None:
        answered = client().post(path_of(north), data=b"{}", content_type="application/json")

        assert answered.status_code == 401
        assert not answered.cookies
        assert "Vary" not in answered


class TestTheDoor:
    @pytest.mark.parametrize("path", ["/", "/login/", "/admin/", "/api/v1/levels/", "/webhooks/", "/livez"])
    def test_lets_everything_else_pass(self, path: str) -> None:
        assert goes_on(path)

    @given(
        kind=st.text(max_size=8), token=st.text(max_size=24), ending=st.sampled_from(["/", "", "//", "/x", "\n", "/\n"])
    )
    @example(kind="shopify", token="a%2Fb", ending="/")
    @example(kind="shopify", token="a\nb", ending="/")
    def test_stands_at_exactly_the_addresses_that_are_made(self, kind: str, token: str, ending: str) -> None:
        path = f"/webhooks/{kind}/{token}{ending}"

        assert answer_is_of_the_door(path) is leads_to_deliver(path)


def answer_is_of_the_door(path: str) -> bool:
    return answer(path).status_code == 405  # it was a GET
