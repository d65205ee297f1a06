"""The settings as a new process reads them from its environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synctec.local.attach import offline_environment
from synctec.local.datafolder import PROJECT

pytestmark = pytest.mark.slow

READ = "import sys, synctec.settings as s; print(eval(sys.argv[1], vars(s)))"
PRODUCTION = {"PUBLIC_URL": "https://sync.example.com", "ALLOWED_HOSTS": "sync.example.com"}


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with exactly these variables (and what it needs to find itself)."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def read(expression: str, **environment: str) -> str:
    result = python("-c", READ, expression, **{**offline_environment(), **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_all_bad_variables_are_reported_at_once() -> None:
    environment = {"SECRET_KEY": "canary", "LOG_LEVEL": "LOUD", "PUBLIC_URL": "http://sync.example.com"}

    result = python("-c", "import synctec.settings", **environment)

    assert result.returncode != 0
    for name in ("SECRET_KEY", "LOG_LEVEL", "PUBLIC_URL", "DATABASE_URL", "REDIS_URL", "CREDENTIAL_KEYS"):
        assert f"'{name}'" in result.stderr
    assert "canary" not in result.stderr


def test_a_broken_key_ring_stops_the_start_without_quoting_a_key() -> None:
    result = python("-c", "import synctec.settings", **{**offline_environment(), "CREDENTIAL_KEYS": "one:canary"})

    assert result.returncode != 0
    assert "'CREDENTIAL_KEYS'" in result.stderr
    assert "canary" not in result.stderr


def test_production_passes_djangos_own_audit() -> None:
    result = python("manage.py", "check", "--deploy", "--fail-level=WARNING", **{**offline_environment(), **PRODUCTION})

    assert result.returncode == 0, result.stderr


def test_cookies_need_https_wherever_it_is_spoken() -> None:
    expression = "(SESSION_COOKIE_SECURE, CSRF_COOKIE_SECURE, SECURE_SSL_REDIRECT, SECURE_HSTS_SECONDS > 0)"

    assert read(expression, **PRODUCTION) == "(True, True, True, True)"
    assert read(expression, PUBLIC_URL="http://127.0.0.1:8000") == "(False, False, False, False)"


def test_broker_and_locks_default_to_the_one_redis() -> None:
    found = read("(CELERY_BROKER_URL, REDLOCK_URLS)", REDIS_URL="redis://:word@cache:6379/0")

    assert found == "('redis://:word@cache:6379/1', ['redis://:word@cache:6379/0'])"


def test_the_pool_keeps_connections_only_when_there_is_one() -> None:
    pooled = read("DATABASES['default']['OPTIONS']['pool']['max_size']", DATABASE_POOL_SIZE="7")

    assert pooled == "7"
    assert read("'pool' in DATABASES['default']['OPTIONS']", DATABASE_POOL_SIZE="0") == "False"


def test_failpoints_are_refused_where_others_could_reach_us(tmp_path: Path) -> None:
    production = python(
        "-c", "import synctec.settings", **offline_environment(), **PRODUCTION, FAILPOINTS=str(tmp_path)
    )

    assert production.returncode != 0
    assert "FAILPOINTS" in production.stderr
    assert read("failpoints.handler is not None", FAILPOINTS=str(tmp_path)) == "True"
    assert read("failpoints.handler is not None", **PRODUCTION) == "False"
