"""Signing in and out."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from merchants.models import User

pytestmark = pytest.mark.django_db


@pytest.fixture
def olive() -> User:
    return User.objects.create_user(username="olive", email="olive@example.com", password="pine-tar-42")


def test_the_right_password_leads_to_the_page_asked_for(client: Client, olive: User) -> None:
    answer = {"username": "olive@example.com", "password": "pine-tar-42", "next": "/story/"}

    response = client.post("/login/", answer)

    assert (response.status_code, response.headers["Location"]) == (302, "/story/")


def test_a_wrong_password_says_what_to_check(client: Client, olive: User) -> None:
    response = client.post("/login/", {"username": "olive@example.com", "password": "wrong"})

    assert response.status_code == 200
    assert b"No account has this e-mail address and password" in response.content
    assert "_auth_user_id" not in client.session


def test_a_login_does_not_lead_to_another_site(client: Client, olive: User) -> None:
    answer = {"username": "olive@example.com", "password": "pine-tar-42", "next": "https://evil.example/"}

    assert client.post("/login/", answer).headers["Location"] == "/"


def test_signing_out_needs_a_post(client: Client, olive: User) -> None:
    client.force_login(olive)

    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/").headers["Location"] == "/login/"
    assert "_auth_user_id" not in client.session


def test_the_login_page_runs_nothing_but_our_own_files(client: Client) -> None:
    response = client.get("/login/")

    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    assert re.findall(r"<script|<style|\sstyle=|\son[a-z]+=", response.content.decode()) == []


def test_an_address_that_does_not_exist_says_so_in_our_words(client: Client) -> None:
    response = client.get("/nowhere/")

    assert response.status_code == 404
    assert b"There is nothing at this address" in response.content
