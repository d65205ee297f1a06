"""The whole stack of SyncTec on one machine: servers, migrations, demo data, and our own processes."""

import contextlib
import hashlib
import http.client
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from synctec.local.datafolder import PROJECT, DataFolder, RunningState, Secrets
from synctec.local.errors import LocalStackError
from synctec.local.postgres import PostgresServer, remove_data
from synctec.local.process import ChildSpec, LogStream, accepts_connections, free_ports, is_port_free
from synctec.local.proxy import Link, Proxy
from synctec.local.supervisor import ChildState, Supervisor
from synctec.local.valkey import ValkeyNode

LOOPBACK = "127.0.0.1"
# Known to everybody who reads this, so only for a web server that nobody else can reach.
LOOPBACK_DEMO_PASSWORD = "demo"
# What tells our processes where their servers are. A caller's own values come in through `external` only.
SERVER_VARIABLES = ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "REDLOCK_URLS")
OVERRIDABLE = (
    "SECRET_KEY",
    "CREDENTIAL_KEYS",
    "PUBLIC_URL",
    "ALLOWED_HOSTS",
    "DATABASE_POOL_SIZE",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "DEBUG",
)
VALKEY_NODES = 3
METRICS_FOLDER = "metrics"
WORKERS = 2
# A task stays while its channel has something to do, mostly waiting: threads are cheap, a queue is not.
WORKER_THREADS = 16
# More than could compute at the same time: deliveries under way share a commit, and wait for it together.
WEB_THREADS = 16
# Several commands of manage.py in one process, because each process pays for all the imports anew.
PREPARE_PROGRAM = """
import sys
import django
from django.core.management import call_command
django.setup()
for step in sys.argv[1:]:
    call_command(*step.split())
"""
# Said at every start: a worker of a local stack may well run as root, in a container or a CI job.
QUIET_WARNINGS = "ignore:You're running the worker with superuser privileges"


def web_command(*, host: str, port: int, application: str = "synctec.wsgi:application") -> list[str]:
    """How the web server is started."""
    options = {
        "--interface": "wsgi",
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--blocking-threads": str(WEB_THREADS),
        # Its only warning at this level is about the number of threads.
        "--log-level": "error",
    }
    words = [word for option in options.items() for word in option]
    switches = ["--no-ws", "--no-access-log", "--respawn-failed-workers"]
    return [sys.executable, "-m", "granian", *words, *switches, application]


class LocalStack:
    """One stack on one data folder. Use it as a context manager, or call start() and stop().

    `web_port=None` takes any free port. `services_only` starts the servers and nothing of our own.
    `external` names servers to use instead of our own (DATABASE_URL, REDIS_URL, ...). `demo_options` are
    given to the command load_demo, for instance `--stores=4`; `variables` to all our processes. With `behind_proxies`
    our processes reach their servers and the stores, and the stores reach us, through `links` that can be spoilt.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        web_port: int | None = None,
        host: str = LOOPBACK,
        log: LogStream | None = None,
        services_only: bool = False,
        is_durable: bool = True,
        external: Mapping[str, str] | None = None,
        demo_options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        behind_proxies: bool = False,
    ) -> None:
        self.folder = DataFolder(data_dir.resolve())
        self._web_port = web_port
        self._host = host
        self._services_only = services_only
        self._is_durable = is_durable
        self._external = {name: value for name, value in (external or {}).items() if value}
        self._demo_options = tuple(demo_options)
        self._variables = dict(variables or {})
        self._behind_proxies = behind_proxies
        self._log = log
        self._closing = contextlib.ExitStack()
        self._ports: dict[str, int] = {}
        self._environment: dict[str, str] = {}
        self._proxy: Proxy | None = None
        self._postgres: PostgresServer | None = None
        self._valkeys: list[ValkeyNode] = []
        self._supervisor: Supervisor | None = None

    def __enter__(self) -> "LocalStack":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and return when the web server says it is ready.

        Raises LocalStackError (AlreadyRunningError, StartFailedError, ...) and stops what was started.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything in order; a second call does nothing. The data stays."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor:
            workers = tuple(f"worker-{number}" for number in range(1, WORKERS + 1))
            valkeys = tuple(node.name for node in self._valkeys)
            supervisor.stop(("beat",), workers, ("web",), ("sandbox",), valkeys, ("postgres",))
            self.folder.forget_state()
        self._closing.close()

    def discard(self) -> None:
        """End everything at once and delete the data; a second call does nothing."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor:
            supervisor.abandon()
        self._closing.close()
        if self.folder.path.exists():
            self.remove_data()

    def remove_data(self) -> None:
        """Delete all data of this stack. It must be stopped."""
        remove_data(self.folder.postgres_home)
        for path in sorted(self.folder.path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        self.folder.path.rmdir()

    @property
    def urls(self) -> dict[str, str]:
        """Where people and tools look: web, admin, sandbox."""
        web = self._environment["PUBLIC_URL"]
        return {"web": web, "admin": f"{web}/admin/", "sandbox": self._environment["SANDBOX_URL"]}

    @property
    def environment(self) -> dict[str, str]:
        """The variables our processes run with; enough to run `manage.py` against this stack."""
        return dict(self._environment)

    @property
    def links(self) -> dict[str, Link]:
        """The proxied ways by the server at their end: postgres, valkey-1, ..., sandbox, web. Empty without proxies."""
        return self._proxy.links if self._proxy else {}

    @property
    def direct_environment(self) -> dict[str, str]:
        """`environment` past the proxies, for whoever looks on."""
        return {name: self._past_proxies(value) for name, value in self._environment.items()}

    @property
    def valkeys(self) -> list[ValkeyNode]:
        return list(self._valkeys)

    @property
    def demo_password(self) -> str:
        return LOOPBACK_DEMO_PASSWORD if self._host == LOOPBACK else self.folder.secrets().demo_password

    def children(self) -> list[ChildState]:
        return self._running_supervisor.children()

    def kill(self, name: str, *, down_seconds: float = 0) -> None:
        """Kill a child by its name. It is restarted on its own, but not before `down_seconds` have passed."""
        self._running_supervisor.kill(name, down_seconds=down_seconds)

    def pause(self, name: str) -> None:
        """Have a child and everything it started stand still, until `resume`."""
        self._running_supervisor.pause(name)

    def resume(self, name: str) -> None:
        """Have a child that stands still go on."""
        self._running_supervisor.resume(name)

    # -- starting, step by step --

    def _start(self) -> None:
        self.folder.create()
        self._closing.enter_context(self.folder.locked())
        if self._log is None:
            file = self._closing.enter_context(self.folder.log_file.open("a"))
            self._log = LogStream(file, colour=False)
        secrets = self.folder.secrets()
        self._choose_ports()
        if self._behind_proxies:
            self._start_proxy()
        self._supervisor = Supervisor(self._log, on_change=self._write_state)
        self._prepare_servers(secrets)
        self._environment = self._make_environment(secrets)
        self._write_state()
        self._start_servers()
        if not self._services_only:
            self._start_own_processes()

    def _choose_ports(self) -> None:
        if self._web_port and not is_port_free(self._web_port, self._host):
            raise LocalStackError(
                f"Port {self._web_port} is in use by another program. "
                f"Choose another: make run PORT={self._web_port + 1}"
            )
        last = self.folder.last_ports()
        names = ["postgres", *(f"valkey-{number}" for number in range(1, VALKEY_NODES + 1)), "sandbox"]
        if self._behind_proxies:
            names += [_proxy_port(name) for name in (*names, "web")]
        wanted = {"web": self._web_port or last.get("web"), **{name: last.get(name) for name in names}}
        self._ports = free_ports(wanted)
        self.folder.remember_ports(self._ports)

    def _start_proxy(self) -> None:
        ports = {
            name: (self._ports[_proxy_port(name)], port)
            for name, port in self._ports.items()
            if _proxy_port(name) in self._ports
        }
        self._proxy = Proxy(ports)
        self._closing.callback(self._proxy.stop)
        self._proxy.start()

    def _prepare_servers(self, secrets: Secrets) -> None:
        if "DATABASE_URL" not in self._external:
            wanted_home = self.folder.postgres_home
            self._postgres = PostgresServer.prepare(
                wanted_home,
                port=self._ports["postgres"],
                password=secrets.postgres_password,
                is_durable=self._is_durable,
            )
            if self._postgres.home != wanted_home:
                self._say(f"PostgreSQL may not enter {self.folder.path}; its data is in {self._postgres.home}")
        if "REDIS_URL" not in self._external:
            names = [f"valkey-{number}" for number in range(1, VALKEY_NODES + 1)]
            self._valkeys = [
                ValkeyNode(
                    name=name,
                    home=self.folder.path / name,
                    port=self._ports[name],
                    password=secrets.valkey_password,
                    is_durable=self._is_durable,
                )
                for name in names
            ]

    def _make_environment(self, secrets: Secrets) -> dict[str, str]:
        made = {
            "SECRET_KEY": secrets.secret_key,
            "CREDENTIAL_KEYS": secrets.credential_keys,
            "DEBUG": "false",
            "ALLOWED_HOSTS": f"localhost,{LOOPBACK}",
            "PUBLIC_URL": f"http://{LOOPBACK}:{self._ports['web']}",
            "SANDBOX_URL": f"http://{LOOPBACK}:{self._ports['sandbox']}",
            # Nobody ran collectstatic here; the files are served from where they lie.
            "STATIC_MANIFEST": "false",
            # The sandbox lists an order at once, so audits and reconciliation need not look far back.
            "AUDIT_LAG_SECONDS": "3",
            "RECONCILE_OVERLAP_SECONDS": "30",
            # All processes of the stack add up what they count.
            "PROMETHEUS_MULTIPROC_DIR": str(self.folder.path / METRICS_FOLDER),
            # Said, because a command that begins without servers says 0.
            "DATABASE_POOL_SIZE": "20",
            "LOG_LEVEL": "INFO",
            "LOG_FORMAT": "console",
            "DEMO_PASSWORD": self.demo_password,
        }
        if self._postgres:
            made["DATABASE_URL"] = self._postgres.url
        if self._valkeys:
            made["REDIS_URL"] = self._valkeys[0].url(0)
            made["CELERY_BROKER_URL"] = self._valkeys[0].url(1)
            made["REDLOCK_URLS"] = ",".join(node.url(0) for node in self._valkeys)
        if self._behind_proxies:
            made = {name: self._through_proxies(value) for name, value in made.items()}
        chosen = {name: self._external[name] for name in (*SERVER_VARIABLES, *OVERRIDABLE) if name in self._external}
        return {**made, **chosen, **self._variables}

    def _through_proxies(self, addresses: str) -> str:
        ports = {link.server_port: link.port for link in self.links.values()}
        return _with_ports(addresses, ports)

    def _past_proxies(self, addresses: str) -> str:
        ports = {link.port: link.server_port for link in self.links.values()}
        return _with_ports(addresses, ports)

    def _start_servers(self) -> None:
        specs = [node.child() for node in self._valkeys]
        if self._postgres:
            specs.append(self._postgres.child())
        self._running_supervisor.start(*specs)
        if self._postgres:
            self._postgres.create_database()

    def _start_own_processes(self) -> None:
        supervisor = self._running_supervisor
        self.folder.sandbox_data.mkdir(mode=0o700, exist_ok=True)
        self._empty_metrics()
        is_first_sandbox = not any(self.folder.sandbox_data.iterdir())
        schema, demo = _schema_stamp(), self._demo_stamp()
        done = self._postgres.read_stamp() if self._postgres else ""
        sandbox, web = self._sandbox(), self._web()
        # Two cores, and the web server spends its first seconds on imports: it need not wait for its tables.
        supervisor.launch(sandbox, web)
        steps = []
        if not done.startswith(schema):
            steps.append("migrate --no-input --verbosity=0")
        if done != schema + demo or is_first_sandbox:
            steps.append(" ".join(["load_demo", *self._demo_options]))
            supervisor.wait_until_ready(sandbox)
        if steps:
            self._say(f"preparing the database: {', '.join(step.split()[0] for step in steps)}")
            supervisor.run(self._python("prepare", "-c", PREPARE_PROGRAM, *steps), timeout_seconds=300)
        if steps and self._postgres:
            self._postgres.write_stamp(schema + demo)
        supervisor.wait_until_ready(sandbox)
        supervisor.wait_until_ready(web)
        # Last, because they would slow down the start of the page, and nothing is lost without them.
        supervisor.start(*(self._worker(number) for number in range(1, WORKERS + 1)), self._beat())

    def _empty_metrics(self) -> None:
        """Counting begins anew with the stack; a process that is restarted within it goes on."""
        folder = self.folder.path / METRICS_FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        for file in folder.glob("*.db"):
            file.unlink()

    def _demo_stamp(self) -> str:
        """Changes with whatever the demo data contains: the command, and the addresses it stores."""
        command = (PROJECT / "sync/management/commands/load_demo.py").read_bytes()
        addresses = [self._environment[name] for name in ("PUBLIC_URL", "SANDBOX_URL", "DEMO_PASSWORD")]
        return _digest([command, *(word.encode() for word in (*addresses, *self._demo_options))])

    # -- our own processes --

    def _sandbox(self) -> ChildSpec:
        port = self._ports["sandbox"]
        command = ["-m", "channels.sandbox", "--port", str(port), "--data", str(self.folder.sandbox_data)]
        return self._python("sandbox", *command, is_ready_port=port)

    def _web(self) -> ChildSpec:
        port = self._ports["web"]
        command = web_command(host=self._host, port=port)[1:]
        return self._python("web", *command, is_ready_port=port, ready_path="/readyz", is_group=True)

    def _worker(self, number: int) -> ChildSpec:
        options = ["-P", "threads", "-c", str(WORKER_THREADS), "-n", f"worker-{number}@%h", "-l", "INFO"]
        # Workers have nothing to tell each other; these only delay the start and fill the broker.
        quiet = ["--without-gossip", "--without-mingle"]
        return self._python(f"worker-{number}", "-m", "celery", "-q", "-A", "synctec", "worker", *options, *quiet)

    def _beat(self) -> ChildSpec:
        # No pid file: the supervisor knows whether it runs, and a stale file would keep it from starting.
        return self._python("beat", "-m", "celery", "-q", "-A", "synctec", "beat", "-l", "INFO", "--pidfile=")

    def _python(
        self,
        name: str,
        *arguments: str,
        is_ready_port: int | None = None,
        ready_path: str | None = None,
        is_group: bool = False,
    ) -> ChildSpec:
        def is_ready() -> bool:
            assert is_ready_port is not None
            return answers_ok(is_ready_port, ready_path) if ready_path else accepts_connections(is_ready_port)

        inherited = {name: value for name, value in os.environ.items() if name not in SERVER_VARIABLES}
        return ChildSpec(
            name=name,
            command=[sys.executable, *arguments],
            environment={
                **inherited,
                **self._environment,
                "DJANGO_SETTINGS_MODULE": "synctec.settings",
                "PYTHONUNBUFFERED": "1",
                "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", QUIET_WARNINGS),
            },
            working_directory=PROJECT,
            is_ready=is_ready if is_ready_port else None,
            # A program with processes of its own must get the chance to end them.
            death_signal=signal.SIGTERM if is_group else signal.SIGKILL,
        )

    # -- small things --

    @property
    def _running_supervisor(self) -> Supervisor:
        if self._supervisor is None:
            raise LocalStackError("The stack is not running: call start() first.")
        return self._supervisor

    def _say(self, text: str) -> None:
        assert self._log is not None
        self._log.write("supervisor", text)

    def _write_state(self) -> None:
        # Before the environment is known there is nothing to attach to; after stop() nobody should.
        if not self._environment or self._supervisor is None:
            return
        children = self._supervisor.children()
        self.folder.write_state(
            RunningState(
                supervisor_pid=os.getpid(),
                urls=self.urls,
                ports=self._ports,
                pids={child.name: child.pid for child in children},
                environment=self._environment,
            )
        )


def _proxy_port(name: str) -> str:
    """What the port of the proxy in front of a server is called."""
    return f"{name}-proxy"


def _with_ports(addresses: str, ports: Mapping[int, int]) -> str:
    """URLs, separated by commas, with other ports; anything else as it is."""
    return ",".join(_with_port(address, ports) for address in addresses.split(","))


def _with_port(address: str, ports: Mapping[int, int]) -> str:
    if "://" not in address:
        return address
    parts = urlsplit(address)
    if parts.port is None or parts.port not in ports:
        return address
    host = parts.netloc.removesuffix(f":{parts.port}")
    return parts._replace(netloc=f"{host}:{ports[parts.port]}").geturl()


def answers_ok(port: int, path: str) -> bool:
    """Whether GET on the loopback gives 200."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _schema_stamp() -> str:
    """Changes when there may be something to migrate: our migrations, or the packages that bring their own.

    Reading files takes a millisecond; asking Django takes a process of several seconds.
    """
    return _digest(path.read_bytes() for path in [*_migrations(), PROJECT / "constraints.txt"])


def _migrations() -> Iterator[Path]:
    yield from sorted(PROJECT.glob("*/migrations/*.py"))


def _digest(parts: "Iterator[bytes] | list[bytes]") -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32]
