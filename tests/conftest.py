"""Servers of the tests' own, and the few fixtures every test may want.

Each pytest process starts a real PostgreSQL and real Valkey nodes on free ports, in a temporary folder and without
fsync, before Django's settings are loaded; xdist's first worker uses those of its controller, which tests nothing. A
database of its own in a shared PostgreSQL would not do: transactions are numbered across all databases of a server, so
an open one in the test of another worker would hold up the feed of stock changes. Neither the data of `make run` nor
servers named in the shell are ever touched.
"""

import base64
import importlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import django
import hypothesis
import pytest
import redis
import structlog
from django.conf import settings
from django.db import connection, transaction
from django.test import TransactionTestCase

from synctec.local.stack import LocalStack

# Set by the controller; its first worker finds it in the environment it inherits.
NODES_VARIABLE = "SYNCTEC_TEST_VALKEY_NODES"


def _start_servers() -> LocalStack | None:
    """Start the servers unless this is the worker that uses the controller's."""
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0":
        return None
    stack = LocalStack(Path(tempfile.mkdtemp(prefix="synctec-tests-")), services_only=True, is_durable=False)
    stack.start()
    os.environ["DATABASE_URL"] = stack.environment["DATABASE_URL"]
    os.environ[NODES_VARIABLE] = ",".join(node.url(0).removesuffix("/0") for node in stack.valkeys)
    return stack


def _load_settings() -> None:
    """Load Django's settings for this process, with its servers' addresses."""
    nodes = os.environ[NODES_VARIABLE].split(",")
    os.environ |= {
        "REDIS_URL": f"{nodes[0]}/0",
        "CELERY_BROKER_URL": f"{nodes[0]}/1",
        "REDLOCK_URLS": ",".join(f"{node}/0" for node in nodes),
        "SECRET_KEY": "only-for-tests-" * 4,
        "CREDENTIAL_KEYS": f"test:{base64.b64encode(b'k' * 32).decode()}",
        "ALLOWED_HOSTS": "testserver,localhost,127.0.0.1",
        "PUBLIC_URL": "http://127.0.0.1:8000",
        "SANDBOX_URL": "",
        "DEBUG": "false",
        # A thread that a test leaves to itself would keep its connection and starve the pool.
        "DATABASE_POOL_SIZE": "0",
        "STATIC_MANIFEST": "false",
        "LOG_LEVEL": "WARNING",
        "LOG_FORMAT": "console",
        "DJANGO_SETTINGS_MODULE": "synctec.settings",
    }
    # Passwords in tests protect nothing, and the real hasher is slow on purpose.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    django.setup()
    # As every process of ours does: tasks belong to this application, in whichever thread.
    importlib.import_module("synctec.celery")
    # A worker that finds it here would load the settings before it knows its own databases.
    del os.environ["DJANGO_SETTINGS_MODULE"]
    if os.environ["REDIS_URL"] != settings.REDIS_URL:
        pytest.exit("Unset DJANGO_SETTINGS_MODULE: the settings were loaded before the test servers ran.", 4)


# Not in a hook: conftest files of sub-folders may import models as soon as this one is loaded.
_STACK = _start_servers()
_load_settings()

from inventory import availability  # noqa: E402  # models need the settings
from sync import tasks, watch  # noqa: E402

# Whoever imports `synctec.wsgi` begins to evaluate alerts and to ring for sweeps, in the midst of any test.
watch._is_started = True


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers and remove their data."""
    if _STACK is not None:
        _STACK.discard()


# How long an example takes is the machine's affair. A property whose examples are costly takes a share of these numbers.
hypothesis.settings.register_profile("push", deadline=None, max_examples=1_000)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=20_000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "push"))


# Written after the migrations, and never again.
_KEPT = {"django_content_type", "auth_permission"}
# What deleted rows have left in the tables is given back once in so many tests.
_FLUSH_EVERY = 200
# Threads and processes that a test has left to themselves may be about to commit.
_UNDER_WAY = """
    SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND backend_type = 'client backend' AND xact_start IS NOT NULL
"""
_PATIENCE_SECONDS = 5.0
_emptied = itertools.count(1)
_flush = TransactionTestCase._fixture_teardown  # type: ignore[attr-defined]


def _empty(test: TransactionTestCase) -> None:
    """Instead of Django's, which truncates every table there is and writes those two again: a test fills a dozen or two."""
    if next(_emptied) % _FLUSH_EVERY == 0 or not _is_still():
        _flush(test)
        return
    names = set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - _KEPT
    with transaction.atomic(), connection.cursor() as cursor:
        # As a replica: histories forbid it, and what refers to what does not matter when all goes.
        cursor.execute("SET LOCAL session_replication_role = 'replica'")
        asks = (f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {name})" for name in sorted(names))  # noqa: S608  # ours
        cursor.execute(" UNION ALL ".join(asks))
        filled = [name for (name,) in cursor.fetchall()]
        if filled:
            cursor.execute("; ".join(f"DELETE FROM {name}" for name in filled))  # noqa: S608  # as above


def _is_still() -> bool:
    """Whether nobody else is in a transaction, perhaps after a moment."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(_UNDER_WAY)
            if not cursor.fetchone():
                return True
        time.sleep(0.01)
    return False


TransactionTestCase._fixture_teardown = _empty  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _loud_again() -> Iterator[None]:
    """The simulator quietens its process, and that may be this one."""
    yield
    structlog.configure(wrapper_class=structlog.stdlib.BoundLogger)


@pytest.fixture(scope="session")
def _valkey_clients() -> Iterator[list[redis.Redis]]:
    urls = dict.fromkeys([settings.REDIS_URL, settings.CELERY_BROKER_URL, *settings.REDLOCK_URLS])
    clients = [redis.Redis.from_url(url) for url in urls]
    yield clients
    for client in clients:
        client.close()


@pytest.fixture(autouse=True)
def _empty_valkey(_valkey_clients: list[redis.Redis], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts with empty Valkey databases, as it starts with an empty PostgreSQL one, and nobody remembers that one
    of them did not answer a moment ago.
    """
    for client in _valkey_clients:
        client.flushdb()
    monkeypatch.setattr(availability, "_access", availability._Access())
    monkeypatch.setattr(tasks, "_broker_rests_until", 0.0)
    monkeypatch.setattr(tasks, "_heard_until", {})
