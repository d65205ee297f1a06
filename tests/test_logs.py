import json
import logging

import pytest
import structlog

from synctec.lib.secret import Secret
from synctec.logs import Format, hide_secrets, logging_config


def formatter(log_format: Format) -> logging.Formatter:
    config = logging_config(level="INFO", log_format=log_format)["formatters"]["structured"]
    arguments = {name: value for name, value in config.items() if name != "()"}
    formatter = config["()"](**arguments)
    assert isinstance(formatter, structlog.stdlib.ProcessorFormatter)
    return formatter


def line(log_format: Format, message: str, *args: object, error: BaseException | None = None, **extra: object) -> str:
    exc_info = (type(error), error, None) if error else None
    record = logging.getLogger("sync.push").makeRecord(
        "sync.push", logging.WARNING, "push.py", 1, message, args, exc_info, extra=extra
    )
    return formatter(log_format).format(record)


def test_a_json_line_has_its_fields() -> None:
    found = json.loads(line("json", "pushed %d rows", 3, channel_id=7))

    assert found["event"] == "pushed 3 rows"
    assert found["channel_id"] == 7
    assert found["level"] == "warning"
    assert found["logger"] == "sync.push"


def test_a_console_line_is_one_line_with_its_fields() -> None:
    found = line("console", "pushed", channel_id=7)

    assert "pushed" in found
    assert "channel_id=7" in found
    assert "\n" not in found


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_secrets_are_hidden_by_name_by_type_and_in_addresses(log_format: Format) -> None:
    found = line(
        log_format,
        "no answer from redis://user:canary@cache/0",
        access_token="canary",
        nested={"client_secret": "canary", "shop": "north"},
        key=Secret("canary"),
        error=RuntimeError("postgresql://user:canary@db/synctec is away"),
    )

    assert "canary" not in found
    assert "north" in found


def test_hiding_leaves_ordinary_fields_alone() -> None:
    event = {"event": "sold", "sku": "MUG-1", "quantity": 2, "idempotency_key": "order:7", "tokens_left": 5}

    assert hide_secrets(None, "info", event) == event
