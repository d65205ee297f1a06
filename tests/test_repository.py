"""What must hold for the repository as a whole, whoever changes it."""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_socket import SocketConnectBlockedError

from synctec.local.datafolder import PROJECT

APPS = ("synctec", "merchants", "inventory", "channels", "locations", "sync")
# Django finds these by their names; what they hold is obvious.
OBVIOUS_MODULES = {"__init__", "apps", "migrations", "management", "templatetags", "formats"}
SKIPPED_FOLDERS = {".git", ".venv", ".local", "node_modules", "vendor", "staticfiles", "fixtures"}
TEXT_SUFFIXES = {".py", ".html", ".css", ".js", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".lua"}
# Put together here, so that this file does not find itself.
LEFTOVER_MARKERS = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"]) + r")\b")


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of ours."""
    for path in sorted(PROJECT.rglob("*")):
        relative = path.relative_to(PROJECT)
        is_ours = not any(part in SKIPPED_FOLDERS or part.endswith("_cache") for part in relative.parts)
        if is_ours and path.is_file() and path.suffix in TEXT_SUFFIXES:
            yield relative, path.read_text()


def variables() -> list[str]:
    """Every environment variable the settings read."""
    return re.findall(r'\benv\.\w+\(\s*"([A-Z_]+)"', (PROJECT / "synctec/settings.py").read_text())


def modules() -> list[str]:
    """Every module of ours; packages below an app count as one."""
    paths = [path for app in APPS for path in (PROJECT / app).iterdir()]
    return sorted(
        f"{path.parent.name}.{path.stem}"
        for path in paths
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem not in OBVIOUS_MODULES
    )


def requirements(file: str) -> list[str]:
    lines = (PROJECT / file).read_text().splitlines()
    return [line for line in lines if line and not line.lstrip().startswith(("#", "-r"))]


@pytest.mark.slow
def test_import_contracts_hold() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert result.returncode == 0, result.stdout


def test_no_test_reaches_the_outside() -> None:
    # 192.0.2.0/24 is reserved for examples (RFC 5737); nobody would answer if the block failed.
    with (
        socket.socket() as outside,
        pytest.warns(UserWarning, match="192.0.2.1"),
        pytest.raises(SocketConnectBlockedError),
    ):
        outside.connect(("192.0.2.1", 443))


@pytest.mark.parametrize("variable", variables())
def test_every_setting_is_documented(variable: str) -> None:
    assert f"`{variable}`" in (PROJECT / "README.md").read_text()


@pytest.mark.parametrize("module", modules())
def test_every_module_has_its_line_in_the_architecture(module: str) -> None:
    architecture = (PROJECT / "docs/architecture.md").read_text()

    assert f"`{module}`" in architecture


def test_no_work_is_left_behind_in_comments() -> None:
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if LEFTOVER_MARKERS.search(line)
    ]

    assert found == []


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt", "constraints.txt", "Makefile"])
def test_packages_come_from_wherever_the_machine_is_told_to_look(file: str) -> None:
    assert "://" not in (PROJECT / file).read_text().replace("postgresql://offline", "").replace("redis://127", "")


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_as_in_the_tested_set(file: str) -> None:
    tested = (PROJECT / "constraints.txt").read_text()

    for line in requirements(file):
        name, version = line.split("#")[0].strip().split("==")
        assert f"\n{name.split('[')[0]}==" in tested, name
        assert re.search(rf"^{re.escape(name.split('[')[0])}=={re.escape(version)}\b", tested, re.MULTILINE), name


def test_everything_that_production_installs_has_its_reason() -> None:
    assert [line for line in requirements("requirements.txt") if "#" not in line] == []
