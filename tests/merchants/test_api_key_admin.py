"""API keys in the admin: shown once, revoked at once, nobody else's."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from merchants import keys
from merchants.models import ApiKey, AuditEvent, Member, Merchant, Role, Scope, User

pytestmark = pytest.mark.django_db

LIST = reverse("admin:merchants_apikey_changelist")
MAKE = reverse("admin:merchants_apikey_make_key")


@pytest.fixture
def alder() -> Merchant:
    return Merchant.objects.create(name="Alder", slug="alder")


def sign_in(client: Client, merchant: Merchant, role: Role) -> User:
    user = User.objects.create_user(role, f"{role}@synctec.test", "x", is_staff=True)
    Member.objects.create(merchant=merchant, user=user, role=role)
    client.force_login(user)
    return user


def make(merchant: Merchant) -> ApiKey:
    return keys.create(merchant=merchant, name="till", scopes=[Scope.STOCK_READ], expires_at=None, user=None)[0]


def test_a_new_key_is_shown_once_and_works(client: Client, alder: Merchant) -> None:
    manager = sign_in(client, alder, Role.MANAGER)
    answers = {"merchant": alder.pk, "name": "till", "scopes": ["stock:read", "feed:read"], "days": "90"}

    page = client.post(MAKE, answers)

    (secret,) = re.findall(r"st_[0-9a-f]{8}_[\w-]{43}", page.content.decode())
    assert "no-store" in page["Cache-Control"]
    key = keys.recognise(secret, now=timezone.now())
    assert (key.merchant, key.created_by, sorted(key.scopes)) == (alder, manager, ["feed:read", "stock:read"])
    assert AuditEvent.objects.get(action="apikey.create").user == manager
    for url in (LIST, reverse("admin:merchants_apikey_change", args=[key.pk])):
        later = client.get(url).content.decode()
        assert key.prefix in later
        assert secret not in later


def test_a_key_without_a_name_or_a_scope_is_not_made(client: Client, alder: Merchant) -> None:
    sign_in(client, alder, Role.MANAGER)

    page = client.post(MAKE, {"merchant": alder.pk, "name": " ", "days": "90"})

    assert page.status_code == 200
    assert "This field is required" in page.content.decode()
    assert not ApiKey.objects.exists()


def test_revoking_asks_first_and_then_ends_the_key(client: Client, alder: Merchant) -> None:
    sign_in(client, alder, Role.OWNER)
    key = make(alder)
    url = reverse("admin:merchants_apikey_revoke_key", args=[key.pk])

    asked = client.get(url)
    assert "refused from its next request on" in asked.content.decode()
    assert ApiKey.objects.filter(revoked_at=None).exists()

    client.post(url, {"reason": "till stolen"})

    key.refresh_from_db()
    assert key.revoked_at is not None
    assert AuditEvent.objects.get(action="apikey.revoke").reason == "till stolen"


def test_a_viewer_may_look_only(client: Client, alder: Merchant) -> None:
    sign_in(client, alder, Role.VIEWER)
    key = make(alder)

    assert client.get(LIST).status_code == 200
    assert client.post(
        MAKE, {"merchant": alder.pk, "name": "x", "scopes": ["stock:read"], "days": "0"}
    ).status_code in (200, 403)
    assert client.post(reverse("admin:merchants_apikey_revoke_key", args=[key.pk]), {"reason": ""}).status_code == 403
    assert ApiKey.objects.get() == key
    assert ApiKey.objects.filter(revoked_at=None).exists()


def test_another_merchants_keys_do_not_exist(client: Client, alder: Merchant) -> None:
    sign_in(client, alder, Role.OWNER)
    birch = Merchant.objects.create(name="Birch", slug="birch")
    theirs = make(birch)

    assert theirs.prefix not in client.get(LIST).content.decode()
    assert (
        client.post(reverse("admin:merchants_apikey_revoke_key", args=[theirs.pk]), {"reason": ""}).status_code == 404
    )
    client.post(MAKE, {"merchant": birch.pk, "name": "x", "scopes": ["stock:read"], "days": "0"})
    assert ApiKey.objects.count() == 1
