"""Attach to a stack that is running: what `manage.py` and people with a shell need to reach its servers."""

import base64
import os
import secrets
from collections.abc import Mapping, Sequence

from synctec.local.datafolder import DataFolder, RunningState
from synctec.local.errors import LocalStackError

# Commands that need the settings, but no server behind them.
OFFLINE_COMMANDS = frozenset(
    {
        "",
        "help",
        "--help",
        "-h",
        "version",
        "--version",
        "check",
        "makemigrations",
        "collectstatic",
        "findstatic",
    }
    | {
        "makemessages",
        "compilemessages",
        "spectacular",
        "startapp",
        "diffsettings",
        "bench",
        "smoke",
        "chaos",
        "simulate",
    }
)


class NotRunningError(LocalStackError):
    """There is no stack to attach to."""


def state(folder: DataFolder | None = None) -> RunningState:
    """What the running stack wrote down about itself. Raises NotRunningError."""
    folder = folder or DataFolder.default()
    found = folder.read_state() if folder.is_in_use() else None
    if found is None:
        raise NotRunningError(
            f"No stack is running on {folder.path}. Start one with `make run` in another terminal and try "
            "again, or set DATABASE_URL, REDIS_URL, SECRET_KEY and CREDENTIAL_KEYS to use your own servers."
        )
    return found


def environment(folder: DataFolder | None = None) -> dict[str, str]:
    """The environment variables of the running stack. Raises NotRunningError."""
    return dict(state(folder).environment)


def offline_environment() -> dict[str, str]:
    """Enough for the settings to load where no server is needed. It reaches and decrypts nothing."""
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    return {
        "DATABASE_URL": "postgresql://offline@127.0.0.1:1/offline",
        "DATABASE_POOL_SIZE": "0",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "SECRET_KEY": secrets.token_urlsafe(50),
        "CREDENTIAL_KEYS": f"offline:{key}",
    }


def complete_environment(arguments: Sequence[str]) -> Mapping[str, str]:
    """What `manage.py ARGUMENTS` still needs in its environment. Raises NotRunningError.

    Nothing if DATABASE_URL is set; the running stack's variables if there is one; placeholders for
    commands that need no server. What is set already is never replaced.
    """
    if "DATABASE_URL" in os.environ:
        return {}
    command = arguments[0] if arguments else ""
    try:
        found = environment()
    except NotRunningError:
        if command not in OFFLINE_COMMANDS and "--help" not in arguments:
            raise
        found = offline_environment()
    return {name: value for name, value in found.items() if name not in os.environ}
