"""How log lines look: key=value on a console, one JSON object per line for machines, never a secret."""

import re
from typing import Any, Literal

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from synctec.lib.secret import Secret

Format = Literal["console", "json"]

HIDDEN = "[hidden]"
# The last words of a name decide: `access_token` is a secret, `tokens_left` and `idempotency_key` are not.
_SECRET_NAMES = re.compile(
    r"(^|_)(password|secret|token|credentials?|authorization|cookie|hmac|signature|(api|secret|private)_?keys?)$",
    re.IGNORECASE,
)
# A password inside an address, as drivers like to quote it: scheme://user:password@host.
_PASSWORD_IN_ADDRESS = re.compile(r"(?<=://)([^\s:/@]*):[^\s/@]+@")


def hide_secrets(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Hide values whose name says they are secret, and passwords inside addresses, at any depth."""
    return {name: _hidden(name, value) for name, value in event.items()}


def logging_config(*, level: str, log_format: Format) -> dict[str, Any]:
    """The dictionary for `logging.config.dictConfig`: all loggers, ours or not, through one formatter."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structured": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": _shared_processors(),
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *_rendering(log_format),
                ],
            }
        },
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "structured"}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            # Django's own handlers would print everything a second time.
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            "django.server": {"handlers": [], "level": "INFO", "propagate": True},
            # A line for each message, each task and each query tells nobody anything at INFO.
            "celery.app.trace": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.beat": {"level": "WARNING"},
            "django_celery_beat": {"level": "WARNING"},
            # Tells of every connection it opens or gives up.
            "psycopg.pool": {"level": "ERROR"},
        },
    }


def configure_structlog() -> None:
    """Send `structlog.get_logger()` through the standard library's logging."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared_processors(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _shared_processors() -> list[Processor]:
    return [
        # Correlation ids bound by whoever handles the request or the task.
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _rendering(log_format: Format) -> list[Processor]:
    # Hiding comes after the traceback became text, because texts of exceptions quote addresses.
    shown: list[Processor] = [structlog.processors.format_exc_info, hide_secrets]
    if log_format == "json":
        return [*shown, structlog.processors.JSONRenderer(default=_as_text)]
    renderer = structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, pad_level=False)
    return [*shown, renderer]


def _hidden(name: object, value: Any) -> Any:
    if isinstance(name, str) and _SECRET_NAMES.search(name):
        return HIDDEN
    if isinstance(value, Secret):
        return HIDDEN
    if isinstance(value, str):
        return _PASSWORD_IN_ADDRESS.sub(rf"\1:{HIDDEN}@", value)
    if isinstance(value, dict):
        return {key: _hidden(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(None, item) for item in value]
    return value


def _as_text(value: object) -> str:
    return repr(value)
