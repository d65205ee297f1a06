"""All settings, read from the environment. README.md documents every variable; a test keeps that complete.

Values are read lazily and checked together: a start with three bad variables names all three.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import django_stubs_ext
from django.core.exceptions import ImproperlyConfigured
from environs import Env, ValidationError, validate

from synctec.lib import failpoints, tracing
from synctec.lib.crypto import BadKeyRing, KeyRing
from synctec.lib.http import AddressRefused, AddressRule
from synctec.logs import configure_structlog, logging_config

# Lets classes of Django be written with their types at run time, such as ModelAdmin[Channel].
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
#: Whole days that any page or figure goes back by, and some to spare.
DAYS_READ_BACK = 35


def _check_public_url(value: str) -> None:
    """Sessions and webhooks may travel unencrypted only where nobody can listen."""
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValidationError("Give a full address such as https://sync.example.com.")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        raise ValidationError("Plain http is for the loopback only: use https.")


def _check_key_ring(value: str) -> None:
    try:
        KeyRing.parse(value)
    except BadKeyRing as error:
        raise ValidationError(str(error)) from None


def _check_origins(values: list[str]) -> None:
    for value in values:
        try:
            AddressRule.exact_origin(value)
        except (ValueError, AddressRefused):
            raise ValidationError(f"{value!r} is no origin: write scheme://host:port and nothing more.") from None


def _check_days(value: int) -> None:
    """The scorecard reads 30 days back, and a day that was missed is made up for within them."""
    if value and value < DAYS_READ_BACK:
        raise ValidationError(f"Keep them for {DAYS_READ_BACK} days at least, or 0 for ever.")


def _with_database(redis_url: str, number: int) -> str:
    """The same server's other database."""
    return urlunsplit(urlsplit(redis_url)._replace(path=f"/{number}"))


# -- What the environment says --

env = Env(eager=False)

# Pages with tracebacks, for a developer's eyes only.
DEBUG: bool = env.bool("DEBUG", default=False)
# Signs sessions and links; changing it logs everybody out. No default, so that nobody runs with a known one.
SECRET_KEY: str = env.str("SECRET_KEY", validate=validate.Length(min=32))
# Seals the channels' credentials: "id:base64key,id2:base64key", the first one seals, all of them open.
CREDENTIAL_KEYS: str = env.str("CREDENTIAL_KEYS", validate=_check_key_ring)
# Host names we answer to.
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1"])
# Where browsers and channels reach us; webhook addresses are built from it.
PUBLIC_URL: str = env.str("PUBLIC_URL", default="http://127.0.0.1:8000", validate=_check_public_url)
# A proxy in front of us sets X-Forwarded-Proto (and removes it from what clients send).
BEHIND_PROXY: bool = env.bool("BEHIND_PROXY", default=False)
# Where the emulated stores are; empty = there are none.
SANDBOX_URL: str = env.str("SANDBOX_URL", default="")
# Our own app at Shopify, for merchants who connect their stores by granting it access; empty = there is none.
SHOPIFY_CLIENT_ID: str = env.str("SHOPIFY_CLIENT_ID", default="")
SHOPIFY_CLIENT_SECRET: str = env.str("SHOPIFY_CLIENT_SECRET", default="")
# The app's secret before this one, while Shopify still signs with it (up to an hour after a rotation).
SHOPIFY_PREVIOUS_CLIENT_SECRET: str = env.str("SHOPIFY_PREVIOUS_CLIENT_SECRET", default="")
# PostgreSQL: the only truth.
DATABASE: dict[str, Any] = env.dj_db_url("DATABASE_URL")
# Connections one process keeps at most; 0 = no pool, one connection per thread.
DATABASE_POOL_SIZE: int = env.int("DATABASE_POOL_SIZE", default=20, validate=validate.Range(min=0, max=200))
# Redis or Valkey for cache, token buckets and doorbell marks.
REDIS_URL: str = env.str("REDIS_URL")
# Celery's broker; by default another database of the same server.
CELERY_BROKER_URL: str = env.str("CELERY_BROKER_URL", default="")
# Independent servers that together hold the locks; an odd number of them.
REDLOCK_URLS: list[str] = env.list("REDLOCK_URLS", default=[])
# Requests of one API key a minute, counted in tens of seconds.
API_REQUESTS_PER_MINUTE: int = env.int("API_REQUESTS_PER_MINUTE", default=3000, validate=validate.Range(min=1))
# Origins inside our own network that merchants' webhook endpoints may be at, such as http://wms.internal:8080.
WEBHOOK_PRIVATE_ORIGINS: list[str] = env.list("WEBHOOK_PRIVATE_ORIGINS", default=[], validate=_check_origins)
# The mail server that takes alerts and reports; empty = there is none, and targets of e-mail say so.
EMAIL_HOST: str = env.str("EMAIL_HOST", default="")
EMAIL_PORT: int = env.int("EMAIL_PORT", default=587, validate=validate.Range(min=1, max=65_535))
EMAIL_HOST_USER: str = env.str("EMAIL_HOST_USER", default="")
EMAIL_HOST_PASSWORD: str = env.str("EMAIL_HOST_PASSWORD", default="")
# starttls = begin in the open and change over (587), tls = encrypted from the start (465), none = a server on this machine.
EMAIL_SECURITY: str = env.str(
    "EMAIL_SECURITY", default="starttls", validate=validate.OneOf(["starttls", "tls", "none"])
)
# Who the letters come from.
EMAIL_FROM: str = env.str("EMAIL_FROM", default="SyncTec <synctec@localhost>")
# How far behind an audit looks, so that orders still on their way are not taken for a difference.
AUDIT_LAG_SECONDS: int = env.int("AUDIT_LAG_SECONDS", default=60, validate=validate.Range(min=1))
# How often each channel's orders and levels are read and compared.
RECONCILE_EVERY_SECONDS: int = env.int("RECONCILE_EVERY_SECONDS", default=3 * 3600, validate=validate.Range(min=10))
# How far before the last watermark orders are read again.
RECONCILE_OVERLAP_SECONDS: int = env.int("RECONCILE_OVERLAP_SECONDS", default=900, validate=validate.Range(min=0))
# How long the bodies of webhooks are kept, sealed; their hashes and what became of them stay. Keep a retired key of
# CREDENTIAL_KEYS on the ring for as long.
INBOX_BODY_DAYS: int = env.int("INBOX_BODY_DAYS", default=30, validate=validate.Range(min=1))
# How many days what is over is kept (see sync.retention); 0 = for ever. Dead letters and jobs that ended,
REPAIR_DAYS: int = env.int("REPAIR_DAYS", default=90, validate=_check_days)
# passes, findings that changed no stock, comparisons in shadow mode, decided holds, alerts that recovered,
FINDING_DAYS: int = env.int("FINDING_DAYS", default=180, validate=_check_days)
# refused pushes, outages, hours of calls and of buffers,
TRAFFIC_DAYS: int = env.int("TRAFFIC_DAYS", default=90, validate=_check_days)
# daily reports and days of the scorecard.
SCORE_DAYS: int = env.int("SCORE_DAYS", default=730, validate=_check_days)
# The folder whose files make processes die on purpose (see synctec.lib.failpoints); empty = nothing does.
FAILPOINTS: str = env.str("FAILPOINTS", default="")
# Serve static files under hashed names made by collectstatic; otherwise from where they lie.
STATIC_MANIFEST: bool = env.bool("STATIC_MANIFEST", default=True)
LOG_LEVEL: str = env.str(
    "LOG_LEVEL", default="INFO", validate=validate.OneOf(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
)
# console = for people, json = one object per line.
LOG_FORMAT: Any = env.str("LOG_FORMAT", default="console", validate=validate.OneOf(["console", "json"]))

# Who may read /metrics: whoever sends this token. Empty: nobody, but on the loopback everybody.
METRICS_TOKEN: str = env.str("METRICS_TOKEN", default="")
# The folder in which processes of one machine add up what they count (see synctec.lib.metrics); empty = each for itself.
PROMETHEUS_MULTIPROC_DIR: str = env.str("PROMETHEUS_MULTIPROC_DIR", default="")
# Where traces are sent to, as OTLP over HTTP, such as http://127.0.0.1:4318; empty = there are none.
OTEL_EXPORTER_OTLP_ENDPOINT: str = env.str("OTEL_EXPORTER_OTLP_ENDPOINT", default="")

env.seal()

_IS_HTTPS = PUBLIC_URL.startswith("https://")
PUBLIC_URL = PUBLIC_URL.rstrip("/")
CELERY_BROKER_URL = CELERY_BROKER_URL or _with_database(REDIS_URL, 1)
REDLOCK_URLS = REDLOCK_URLS or [REDIS_URL]
METRICS_ARE_OPEN = not METRICS_TOKEN and urlsplit(PUBLIC_URL).hostname in LOOPBACK_HOSTS
tracing.configure(OTEL_EXPORTER_OTLP_ENDPOINT)
if FAILPOINTS:
    # Not a system check: a web server runs none of them.
    if urlsplit(PUBLIC_URL).hostname not in LOOPBACK_HOSTS:
        raise ImproperlyConfigured(
            "FAILPOINTS makes processes die: it is for a stack whose PUBLIC_URL is the loopback."
        )
    failpoints.obey(Path(FAILPOINTS))

# -- Applications --

# Kept short: every process imports all of them before it does anything.
INSTALLED_APPS = [
    # Before the admin, whose templates it replaces.
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "django_celery_beat",
    # Ours, lower before upper (see docs/architecture.md).
    "merchants",
    "inventory",
    "channels",
    "locations",
    "sync",
]
MIDDLEWARE = [
    # First: whatever is logged of a request bears its id.
    "synctec.telemetry.RequestTeller",
    "django.middleware.security.SecurityMiddleware",
    # Deliveries, most of all requests, need nothing of what follows.
    "channels.doorstep.doorstep",
    # Right after security: a static file needs no session and no database.
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "synctec.urls"
WSGI_APPLICATION = "synctec.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# -- PostgreSQL --

DATABASES = {
    "default": {
        **DATABASE,
        # The pool keeps connections open, not the request.
        "CONN_MAX_AGE": 0,
        # The pool checks a connection before it hands it out, so a restarted server costs no request.
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            **DATABASE.get("OPTIONS", {}),
            # A server that is away must become a 503 (and a retry by the channel), not a hanging request.
            "connect_timeout": 5,
            # Statements of the hot paths are prepared (see synctec.lib.sql); Django's own never are.
            "prepare_threshold": 5,
            # The transaction of a worker that stands still must not keep its row locks: until it ends, nothing is sold and
            # nothing is held of those goods. Whoever has to wait longer within a transaction says so there.
            "options": "-c idle_in_transaction_session_timeout=10000",
        },
    }
}
if DATABASE_POOL_SIZE:
    DATABASES["default"]["OPTIONS"]["pool"] = {
        # One to start with: every idle connection is a process of the server.
        "min_size": 1,
        "max_size": DATABASE_POOL_SIZE,
        # Seconds to wait for a free connection before giving up. A channel waits 5 s for the answer to a
        # webhook; a 503 must reach it before that.
        "timeout": 3,
        # Give up a broken attempt soon and begin a new one: the pauses between tries double, and a server
        # that was away for 10 seconds should be found again at once.
        "reconnect_timeout": 3,
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# -- Cache --

CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "cache",
        "OPTIONS": {
            "SOCKET_CONNECT_TIMEOUT": 2,
            "SOCKET_TIMEOUT": 2,
            # A cache that is away is an empty cache.
            "IGNORE_EXCEPTIONS": True,
        },
    }
}
DJANGO_REDIS_LOG_IGNORED_EXCEPTIONS = True

# -- Who may enter --

AUTH_USER_MODEL = "merchants.User"
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    # For accounts brought along from elsewhere; upgraded at their next login.
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# -- Letters: see merchants.mail --

EMAIL_USE_TLS = EMAIL_SECURITY == "starttls"
EMAIL_USE_SSL = EMAIL_SECURITY == "tls"
# A mail server that hangs holds up one letter and nothing else.
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = SERVER_EMAIL = EMAIL_FROM
# What message ids end with.
EMAIL_DOMAIN = urlsplit(PUBLIC_URL).hostname or "localhost"

# -- Browsers: as strict as the address allows. make run is plain http on the loopback --

SESSION_COOKIE_SECURE = _IS_HTTPS
CSRF_COOKIE_SECURE = _IS_HTTPS
# Named apart from other programs on the same host, which share cookies whatever their port.
SESSION_COOKIE_NAME = "synctec_session"
CSRF_COOKIE_NAME = "synctec_csrf"
# Eight hours: a working day.
SESSION_COOKIE_AGE = 8 * 3600
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
SECURE_SSL_REDIRECT = _IS_HTTPS
# Probes of a load balancer come from inside, in plain http.
SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^readyz$", r"^healthz$", r"^metrics$"]
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if _IS_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = _IS_HTTPS
SECURE_HSTS_PRELOAD = _IS_HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_PROXY else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Webhooks may be larger; their view reads the raw body with a limit of its own.
DATA_UPLOAD_MAX_MEMORY_SIZE = 6 * 1024 * 1024
# An admin action on a full page of rows, and not much more.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2000

# -- The admin --

# Moments to the second: DATETIME_FORMAT has no effect while formats are localized.
FORMAT_MODULE_PATH = ["merchants.formats"]
UNFOLD = {
    "SITE_TITLE": "SyncTec",
    "SITE_HEADER": "SyncTec",
    "SITE_SUBHEADER": "Stock in step",
    "SITE_SYMBOL": "sync_alt",
    # Our pages' accent (static/synctec.css) is 600 of it.
    "COLORS": {
        "primary": {
            "50": "oklch(97.5% .012 215)",
            "100": "oklch(94.5% .025 215)",
            "200": "oklch(89% .05 215)",
            "300": "oklch(81% .085 215)",
            "400": "oklch(71% .11 215)",
            "500": "oklch(58% .1 215)",
            "600": "oklch(47% .081 215)",
            "700": "oklch(41% .07 215)",
            "800": "oklch(35% .06 215)",
            "900": "oklch(29% .05 215)",
            "950": "oklch(22% .04 215)",
        }
    },
    "SITE_URL": "/",
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": ["merchants.admin_site.stylesheet"],
    "ENVIRONMENT": "merchants.admin_site.environment",
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": "merchants.admin_site.sidebar",
    },
    "DASHBOARD_CALLBACK": "merchants.admin_site.dashboard",
}

# -- Static files --

STATIC_URL = "/static/"
# Where collectstatic puts them; without hashed names nothing is collected.
STATIC_ROOT = BASE_DIR / "staticfiles" if STATIC_MANIFEST else None
STATICFILES_DIRS = [BASE_DIR / "static"]
_STATIC_STORAGE = (
    "whitenoise.storage.CompressedManifestStaticFilesStorage"
    if STATIC_MANIFEST and not DEBUG
    else "django.contrib.staticfiles.storage.StaticFilesStorage"
)
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": _STATIC_STORAGE},
}
WHITENOISE_USE_FINDERS = DEBUG or not STATIC_MANIFEST
WHITENOISE_AUTOREFRESH = DEBUG

# -- The HTTP API: JSON in, JSON out, closed unless a view opens itself --

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    # No browsable API: its forms would be a second, untested user interface.
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "SyncTec",
    "DESCRIPTION": "Stock in step: movements in, changes out. Refusals are problem documents (RFC 9457).",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    "COMPONENT_SPLIT_REQUEST": True,
    # Fields of one name with different choices: whoever generates a client from the schema gets names that stay.
    "ENUM_NAME_OVERRIDES": {
        "TransferShownStateEnum": "inventory.models.TransferState",
        "JobStateEnum": "sync.models.JobState",
        "DeadLetterStateEnum": "sync.models.LetterState",
        "ChannelStateEnum": "channels.models.ChannelState",
        "ChannelKindEnum": "channels.models.ChannelKind",
        "HeldChangeStateEnum": "sync.models.HoldState",
        "HeldChangeKindEnum": "sync.models.HoldKind",
    },
}

# -- Celery: doorbells that may be lost or doubled (see docs/architecture.md) --

# A task is acknowledged when it is done, so a killed worker's tasks come back.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
# Take one message per thread, so that one worker does not sit on what another could do.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # After this long an unacknowledged message is delivered again. More than three times the time limit,
    # because the clock is not renewed for running tasks; no countdown may be longer.
    "visibility_timeout": 300,
    # Without it a publish can hang for ever on a peer that vanished.
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 10,
}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# None = never give up: the broker will come back.
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CONNECTION_TIMEOUT = 2
# A doorbell that cannot be rung is left to the sweep; the caller must not wait for the broker.
CELERY_TASK_PUBLISH_RETRY = False
# Results are rows in PostgreSQL, never values in a backend.
CELERY_RESULT_BACKEND = None
CELERY_TASK_IGNORE_RESULT = True
# Nothing that could execute code when it is read.
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
# Only prefork can enforce them; under threads our own timeouts for database and HTTP do.
CELERY_TASK_SOFT_TIME_LIMIT = 60
CELERY_TASK_TIME_LIMIT = 90
# On a cold shutdown, let running tasks finish for so long before they are given back.
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 30
# Threads cannot be cancelled; a task that runs twice changes nothing.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
# Logging is set up by LOGGING below, for all processes alike.
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
# Nobody listens to remote control; its queues would only add traffic.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
CELERY_TIMEZONE = "UTC"
# That of django_celery_beat, which also says that it makes progress.
CELERY_BEAT_SCHEDULER = "sync.beating:Scheduler"
# Seconds between two looks at the schedule; the sweeps run every few seconds.
CELERY_BEAT_MAX_LOOP_INTERVAL = 2

# -- Time and language: stored in UTC, shown in the merchant's zone; English only --

USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
LANGUAGE_CODE = "en-us"

# -- Logs --

LOGGING = logging_config(level=LOG_LEVEL, log_format=LOG_FORMAT)
configure_structlog()
