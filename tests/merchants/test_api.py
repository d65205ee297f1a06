"""The base of the API: keys, scopes, strict reading, problems, doing things once."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.db import close_old_connections, connection
from django.test import Client
from django.urls import get_resolver
from django.utils import timezone
from rest_framework.exceptions import ValidationError

from merchants import api, idempotency, keys
from merchants.models import ApiKey, AuditEvent, Merchant, RememberedAnswer, Scope
from synctec.lib.secret import Secret

#: Every route with the scope each of its methods asks for. A new route fails the test until it is entered here.
ROUTES: dict[str, dict[str, str]] = {
    "api/v1/movements": {"POST": Scope.STOCK_WRITE},
    "api/v1/counts": {"POST": Scope.STOCK_WRITE},
    "api/v1/transfers": {"GET": Scope.STOCK_READ, "POST": Scope.STOCK_WRITE},
    "api/v1/transfers/<uuid:reference>": {"GET": Scope.STOCK_READ},
    "api/v1/transfers/<uuid:reference>/receipts": {"POST": Scope.STOCK_WRITE},
    "api/v1/transfers/<uuid:reference>/cancellation": {"POST": Scope.STOCK_WRITE},
    "api/v1/changes": {"GET": Scope.FEED_READ},
    "api/v1/availability": {"GET": Scope.STOCK_READ},
    "api/v1/health": {"GET": Scope.HEALTH_READ},
    "api/v1/health/days": {"GET": Scope.HEALTH_READ},
    "api/v1/holds": {"GET": Scope.HOLDS_WRITE, "POST": Scope.HOLDS_WRITE},
    "api/v1/holds/batch": {"POST": Scope.HOLDS_WRITE},
    "api/v1/holds/batch/extend": {"POST": Scope.HOLDS_WRITE},
    "api/v1/holds/batch/commit": {"POST": Scope.HOLDS_WRITE},
    "api/v1/holds/batch/fulfil": {"POST": Scope.HOLDS_WRITE},
    "api/v1/holds/batch/cancel": {"POST": Scope.HOLDS_WRITE},
    "api/v1/holds/batch/release": {"POST": Scope.HOLDS_WRITE},
    "api/v1/holds/<int:hold_id>": {"GET": Scope.HOLDS_WRITE},
    "api/v1/holds/<int:hold_id>/extend": {"POST": Scope.HOLDS_WRITE},
    "api/v1/holds/<int:hold_id>/commit": {"POST": Scope.HOLDS_WRITE},
    "api/v1/holds/<int:hold_id>/fulfil": {"POST": Scope.HOLDS_WRITE},
    "api/v1/holds/<int:hold_id>/cancel": {"POST": Scope.HOLDS_WRITE},
    "api/v1/holds/<int:hold_id>/release": {"POST": Scope.HOLDS_WRITE},
    "api/v1/dead-letters": {"GET": Scope.SYNC_READ},
    "api/v1/dead-letters/retries": {"POST": Scope.SYNC_WRITE},
    "api/v1/dead-letters/<int:letter_id>": {"GET": Scope.SYNC_READ},
    "api/v1/dead-letters/<int:letter_id>/retry": {"POST": Scope.SYNC_WRITE},
    "api/v1/dead-letters/<int:letter_id>/dismissal": {"POST": Scope.SYNC_WRITE},
    "api/v1/dead-letters/<int:letter_id>/reopening": {"POST": Scope.SYNC_WRITE},
    "api/v1/jobs": {"GET": Scope.SYNC_READ},
    "api/v1/jobs/<int:job_id>": {"GET": Scope.SYNC_READ},
    "api/v1/jobs/<int:job_id>/cancellation": {"POST": Scope.SYNC_WRITE},
    "api/v1/replays": {"POST": Scope.SYNC_WRITE},
    "api/v1/resyncs": {"POST": Scope.SYNC_WRITE},
    "api/v1/alerts": {"GET": Scope.ALERTS_READ},
    "api/v1/alerts/<int:alert_id>/acknowledgement": {"POST": Scope.ALERTS_WRITE},
    "api/v1/alerts/<int:alert_id>/snooze": {"POST": Scope.ALERTS_WRITE},
    "api/v1/channels": {"GET": Scope.CHANNELS_READ},
    "api/v1/channels/<int:channel_id>/condition": {"GET": Scope.CHANNELS_READ},
    "api/v1/channels/<int:channel_id>/pause": {"POST": Scope.CHANNELS_WRITE},
    "api/v1/channels/<int:channel_id>/resumption": {"POST": Scope.CHANNELS_WRITE},
    "api/v1/channels/<int:channel_id>/reconciliation": {"POST": Scope.CHANNELS_WRITE},
    "api/v1/channels/<int:channel_id>/raises": {"POST": Scope.CHANNELS_WRITE},
    "api/v1/channels/<int:channel_id>/shadow": {"GET": Scope.CHANNELS_READ, "POST": Scope.CHANNELS_WRITE},
    "api/v1/channels/<int:channel_id>/shadow/comparison": {"POST": Scope.CHANNELS_WRITE},
    "api/v1/channels/<int:channel_id>/going-live": {"GET": Scope.CHANNELS_READ, "POST": Scope.CHANNELS_WRITE},
    "api/v1/channels/<int:channel_id>/restore": {"GET": Scope.CHANNELS_READ, "POST": Scope.CHANNELS_WRITE},
    "api/v1/held-changes": {"GET": Scope.CHANNELS_READ},
    "api/v1/held-changes/<int:hold_id>": {"GET": Scope.CHANNELS_READ},
    "api/v1/held-changes/<int:hold_id>/confirmation": {"POST": Scope.CHANNELS_WRITE},
    "api/v1/held-changes/<int:hold_id>/discard": {"POST": Scope.CHANNELS_WRITE},
    "api/v1/writing": {"GET": Scope.CHANNELS_READ},
    "api/v1/writing/stop": {"POST": Scope.CHANNELS_WRITE},
    "api/v1/writing/resumption": {"POST": Scope.CHANNELS_WRITE},
    "api/v1/key": {"GET": api.ANY_SCOPE},
}


@pytest.fixture
def alder(db: None) -> Merchant:
    return Merchant.objects.create(name="Alder", slug="alder")


MakeKey = Callable[..., tuple[ApiKey, Secret]]


@pytest.fixture
def make_key(alder: Merchant) -> MakeKey:
    def make(*scopes: str, expires_in: timedelta | None = None) -> tuple[ApiKey, Secret]:
        expires_at = timezone.now() + expires_in if expires_in else None
        return keys.create(
            merchant=alder, name="till", scopes=scopes or (Scope.STOCK_READ,), expires_at=expires_at, user=None
        )

    return make


def get_key(client: Client, token: str) -> Any:
    return client.get("/api/v1/key", headers={"authorization": f"Bearer {token}"})


# --- keys ---------------------------------------------------------------------------------------------------


def test_a_key_opens_and_says_what_it_may_do(client: Client, make_key: MakeKey) -> None:
    key, secret = make_key(Scope.STOCK_READ, Scope.FEED_READ)

    answer = get_key(client, secret.reveal())

    assert answer.status_code == 200
    assert answer.json() == {
        "name": "till",
        "prefix": key.prefix,
        "merchant": "alder",
        "scopes": ["feed:read", "stock:read"],
        "expires_at": None,
    }
    key.refresh_from_db()
    assert key.last_used_at is not None


def test_the_secret_is_kept_nowhere(make_key: MakeKey) -> None:
    key, secret = make_key()

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_jsonb(k)::text FROM merchants_apikey k UNION ALL SELECT to_jsonb(a)::text FROM merchants_auditevent a"
        )
        stored = " ".join(row[0] for row in cursor.fetchall())
    assert secret.reveal() not in stored
    assert secret.reveal().removeprefix(key.prefix) not in stored
    assert len(secret.reveal()) == len("st_12345678_") + 43


def test_making_and_revoking_are_on_the_trail(make_key: MakeKey) -> None:
    key, _ = make_key()

    assert keys.revoke(key, user=None, now=timezone.now(), reason="till stolen")
    assert not keys.revoke(key, user=None, now=timezone.now())

    events = AuditEvent.objects.filter(object_type="merchants.apikey").order_by("pk")
    assert [(event.action, event.reason) for event in events] == [
        ("apikey.create", ""),
        ("apikey.revoke", "till stolen"),
    ]


def test_a_revoked_key_is_refused_in_the_next_request(client: Client, make_key: MakeKey) -> None:
    key, secret = make_key()
    assert get_key(client, secret.reveal()).status_code == 200

    keys.revoke(key, user=None, now=timezone.now())

    refused = get_key(client, secret.reveal())
    assert refused.status_code == 401
    assert "was revoked" in refused.json()["detail"]


def test_an_expired_key_and_one_of_a_merchant_switched_off_are_refused(
    client: Client, make_key: MakeKey, alder: Merchant
) -> None:
    _, expired = make_key(expires_in=timedelta(seconds=-1))
    _, living = make_key(expires_in=timedelta(hours=1))
    assert "has expired" in get_key(client, expired.reveal()).json()["detail"]
    assert get_key(client, living.reveal()).status_code == 200

    Merchant.objects.filter(pk=alder.pk).update(is_active=False)

    assert get_key(client, living.reveal()).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer st_00000000_" + "x" * 43,
        "Bearer ä",
        "Bearer st_\x00",
        "Token x y z",
    ],
)
def test_what_is_no_key_is_refused_with_a_problem(client: Client, db: None, header: str) -> None:
    answer = client.get("/api/v1/key", headers={"authorization": header} if header else {})

    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Bearer realm="SyncTec"'
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:synctec:problem:not-authenticated"


def test_use_is_noted_coarsely(make_key: MakeKey) -> None:
    key, secret = make_key()
    now = timezone.now()

    keys.recognise(secret.reveal(), now=now)
    keys.recognise(secret.reveal(), now=now + timedelta(minutes=4))

    key.refresh_from_db()
    assert key.last_used_at == now


# --- routes -------------------------------------------------------------------------------------------------


def api_routes() -> dict[str, type[api.ApiView]]:
    return {place: view for place, view in api.routes(get_resolver().url_patterns) if place.startswith("api/v1/")}


def test_every_route_is_in_the_table_with_its_scopes() -> None:
    assert {place: dict(view.scopes) for place, view in api_routes().items()} == ROUTES


def test_every_method_of_every_route_names_its_scope() -> None:
    for place, view in api_routes().items():
        methods = {name.upper() for name in view.http_method_names_known()} - {"HEAD"}
        assert methods == set(view.scopes), place


@pytest.mark.parametrize(("place", "method"), [(place, method) for place, named in ROUTES.items() for method in named])
def test_a_key_without_the_scope_is_refused_and_no_key_too(
    client: Client, make_key: MakeKey, place: str, method: str
) -> None:
    url = "/" + re.sub(r"<int:\w+>", "1", place.replace("<uuid:reference>", str(uuid.uuid4())))
    needed = ROUTES[place][method]
    others = [scope for scope in Scope.values if scope != needed]
    _, secret = make_key(*others)

    refused = client.generic(method, url, headers={"authorization": f"Bearer {secret.reveal()}"})

    assert refused.status_code == (200 if needed == api.ANY_SCOPE else 403)
    assert client.generic(method, url).status_code == 401


def test_where_no_route_is_a_problem_says_so(client: Client) -> None:
    answer = client.get("/api/v1/nothing/here")

    assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")


def test_a_method_the_route_does_not_know_is_405(client: Client, make_key: MakeKey) -> None:
    _, secret = make_key()

    answer = client.delete("/api/v1/key", headers={"authorization": f"Bearer {secret.reveal()}"})

    assert answer.status_code == 405
    assert answer["Content-Type"] == "application/problem+json"


def as_in_schema(place: str) -> str:
    return re.sub(r"<\w+:(\w+)>", r"{\1}", place)


def test_the_schema_lists_every_route_and_its_scope(client: Client) -> None:
    schema = client.get("/api/v1/schema/").json()

    listed = {path.removeprefix("/"): set(methods) for path, methods in schema["paths"].items()}
    routes = {as_in_schema(place): {method.lower() for method in methods} for place, methods in ROUTES.items()}
    assert listed == routes
    for place, methods in ROUTES.items():
        for method, scope in methods.items():
            described = schema["paths"]["/" + as_in_schema(place)][method.lower()]
            assert described["security"] == [{"ApiKey": []}]
            assert not scope or scope in described["description"]


def test_people_read_of_every_route_without_anything_from_elsewhere(client: Client, db: None) -> None:
    page = client.get("/api/v1/docs/")

    shown = page.content.decode()
    assert page.status_code == 200
    for place in ROUTES:
        assert "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", place) in shown
    assert "lines[].quantity" in shown
    assert "default-src 'none'" in page["Content-Security-Policy"]
    assert "//" not in "".join(part.split('"')[0] for part in shown.split('src="')[1:])


# --- throttle -----------------------------------------------------------------------------------------------


def test_too_many_requests_are_told_how_long_to_wait(client: Client, make_key: MakeKey, settings: Any) -> None:
    settings.API_REQUESTS_PER_MINUTE = 6  # one in ten seconds
    _, secret = make_key()
    _, other = make_key()

    statuses = [get_key(client, secret.reveal()).status_code for _ in range(3)]

    # A window may end between two of them.
    assert 429 in statuses
    refused = get_key(client, secret.reveal())
    assert refused.status_code == 200 or 1 <= int(refused["Retry-After"]) <= 10
    assert get_key(client, other.reveal()).status_code == 200


def test_without_redis_nobody_is_refused(
    client: Client, make_key: MakeKey, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.API_REQUESTS_PER_MINUTE = 1
    nowhere = redis.Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.2)
    monkeypatch.setattr(api, "_redis", lambda: nowhere)
    monkeypatch.setattr(api.KeyThrottle, "_rests_until", 0.0)
    _, secret = make_key()

    assert [get_key(client, secret.reveal()).status_code for _ in range(3)] == [200, 200, 200]


# --- strict reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "Expecting value"),
        (b"{", "at line 1"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b"[1e400]", "too large"),
        (b'{"a": 1, "a": 2}', "'a' comes twice"),
        (b"[" * 51 + b"]" * 51, "nested more than 50"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 50"),
        (b'["\\u0000"]', "NUL"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\ud800": 1}', "surrogate"),
        (b"[" + b"9" * 5000 + b"]", "not the JSON"),
    ],
)
def test_what_is_no_strict_json_is_refused(body: bytes, complaint: str) -> None:
    with pytest.raises(api.Problem, match="not the JSON we take") as refused:
        api.loads(body)

    assert refused.value.status_code == 400
    assert complaint in str(refused.value.detail)


def test_strict_json_reads_what_is_fine() -> None:
    assert api.loads(json.dumps({"a": [1, 2.5, None, True, "ä😀"]}).encode()) == {"a": [1, 2.5, None, True, "ä😀"]}
    assert api.loads(b"[" * 50 + b"]" * 50)


class _Thing(api.StrictSerializer):
    count = api.StrictInteger(min_value=1)
    name = api.StrictText(max_length=5)
    when = api.Moment(required=False)
    loud = api.StrictBoolean(required=False)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"count": True}, "count"),
        ({"count": "1"}, "count"),
        ({"count": 1.0}, "count"),
        ({"count": 2**31}, "count"),
        ({"count": 0}, "count"),
        ({"count": None}, "count"),
        ({"name": 5}, "name"),
        ({"name": "too long"}, "name"),
        ({"name": ["x"]}, "name"),
        ({"when": "2026-11-20T12:00:00"}, "when"),
        ({"when": "2026-13-20T12:00:00Z"}, "when"),
        ({"when": "0001-01-01T00:00:00+14:00"}, "when"),
        ({"when": 5}, "when"),
        ({"loud": 1}, "loud"),
        ({"loud": "true"}, "loud"),
        ({"cuont": 1}, "cuont"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        api.read(_Thing, {"count": 3, "name": "x"} | change)

    assert list(refused.value.detail) == [field]


@pytest.mark.parametrize("data", [None, [], "x", 5])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(ValidationError):
        api.read(_Thing, data)


def test_cursors_come_back_as_they_went_and_nothing_else_does() -> None:
    assert api.decode_cursor(api.encode_cursor(12, 34), parts=2) == (12, 34)
    for cursor in ("", "x", "ä", api.encode_cursor(1), api.encode_cursor(1, 2) + "=", "LTE6Mg", "a" * 200):
        with pytest.raises(ValidationError):
            api.decode_cursor(cursor, parts=2)


# --- once ---------------------------------------------------------------------------------------------------


def once(
    merchant: Merchant, key: str, act: Callable[[], idempotency.Answer], request: str = "same"
) -> idempotency.Answer:
    return idempotency.once(merchant_id=merchant.pk, key=key, request=request, act=act)


def test_a_repetition_gets_the_same_answer_and_does_nothing(alder: Merchant) -> None:
    done: list[int] = []

    def act() -> idempotency.Answer:
        done.append(1)
        return idempotency.Answer(201, f'{{"number": {len(done)}}}')

    first, second = once(alder, "k", act), once(alder, "k", act)

    assert (first.body, first.is_replay) == ('{"number": 1}', False)
    assert (second.status, second.body, second.is_replay) == (201, '{"number": 1}', True)
    assert done == [1]


def test_another_content_under_the_same_key_is_refused(alder: Merchant) -> None:
    once(alder, "k", lambda: idempotency.Answer(200, "{}"))

    with pytest.raises(idempotency.AnotherRequest):
        once(alder, "k", lambda: idempotency.Answer(200, "{}"), request="other")


def test_keys_of_two_merchants_do_not_meet(alder: Merchant) -> None:
    birch = Merchant.objects.create(name="Birch", slug="birch")
    once(alder, "k", lambda: idempotency.Answer(200, '"alder"'))

    assert once(birch, "k", lambda: idempotency.Answer(200, '"birch"'), request="other").body == '"birch"'


def test_what_fails_is_undone_and_may_be_tried_again(alder: Merchant) -> None:
    def act() -> idempotency.Answer:
        Merchant.objects.create(name="Never", slug="never")
        raise api.Problem(409, "conflict", "no")

    with pytest.raises(api.Problem):
        once(alder, "k", act)

    assert not Merchant.objects.filter(slug="never").exists()
    assert once(alder, "k", lambda: idempotency.Answer(200, "{}")).is_replay is False


@pytest.mark.django_db(transaction=True)
def test_of_many_at_the_same_moment_one_does_it_and_the_others_wait_or_repeat() -> None:
    merchant = Merchant.objects.create(name="Alder", slug="alder")
    start, done, outcomes = threading.Barrier(8), [], []

    def act() -> idempotency.Answer:
        done.append(1)
        return idempotency.Answer(201, "{}")

    def ask() -> None:
        start.wait()
        try:
            outcomes.append("replayed" if once(merchant, "k", act).is_replay else "done")
        except idempotency.InFlight:
            outcomes.append("in flight")
        finally:
            close_old_connections()
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert done == [1]
    assert outcomes.count("done") == 1
    assert set(outcomes) <= {"done", "replayed", "in flight"}
    assert RememberedAnswer.objects.count() == 1


def test_old_answers_are_forgotten_and_young_ones_are_not(alder: Merchant) -> None:
    once(alder, "old", lambda: idempotency.Answer(200, "{}"))
    once(alder, "young", lambda: idempotency.Answer(200, "{}"))
    RememberedAnswer.objects.filter(key="old").update(created_at=timezone.now() - timedelta(days=4))

    assert idempotency.forget_old(now=timezone.now()) == 1

    assert list(RememberedAnswer.objects.values_list("key", flat=True)) == ["young"]
