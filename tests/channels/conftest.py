"""Alder with its shop North and Birch with its shop Elsewhere, each with an app of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from channels import connect, inbox, webhooks
from channels.models import Channel
from merchants.models import Member, Merchant, Role, User
from tests.channels.cast import make_shop


@pytest.fixture(autouse=True)
def _forgetful_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What this process remembers of channels ends with the test, and so does a database that was away."""
    monkeypatch.setattr(inbox, "on_received", [])
    yield
    webhooks.forget_everything()
    connect.forget_tokens()


@pytest.fixture
def alder(db: None) -> Merchant:
    return Merchant.objects.create(name="Alder", slug="alder")


@pytest.fixture
def birch(db: None) -> Merchant:
    return Merchant.objects.create(name="Birch", slug="birch")


@pytest.fixture
def manager(alder: Merchant) -> User:
    user = User.objects.create_user("mia", "mia@alder.test", "a long password")
    Member.objects.create(merchant=alder, user=user, role=Role.MANAGER)
    return user


@pytest.fixture
def north(alder: Merchant) -> Channel:
    return make_shop(alder, "north")


@pytest.fixture
def elsewhere(birch: Merchant) -> Channel:
    return make_shop(birch, "elsewhere")


@pytest.fixture(scope="session")
def sandbox_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A sandbox of the tests' own, with nothing in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("sandbox")
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "channels.sandbox", "--port", str(port), "--data", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(url)
            yield url
        finally:
            process.terminate()


def _wait_for(url: str) -> None:
    for _ in range(200):
        try:
            requests.get(f"{url}/_control/health", timeout=5)
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the sandbox did not start")


@pytest.fixture
def sandbox(sandbox_url: str, settings: Any) -> str:
    """The sandbox's address, told to the system."""
    settings.SANDBOX_URL = sandbox_url
    return sandbox_url
