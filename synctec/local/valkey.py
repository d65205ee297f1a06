"""A private Valkey node (or Redis, if that is what the machine has)."""

import socket
from dataclasses import dataclass, field
from pathlib import Path

from synctec.local.binaries import valkey_server
from synctec.local.process import ChildSpec

# Enough for a pair (cache, broker) for each of many pytest workers.
DATABASES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyNode:
    """One node: its own port and its own append-only file."""

    name: str
    home: Path
    port: int
    password: str = field(repr=False)
    is_durable: bool = True

    def url(self, database: int = 0) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def child(self) -> ChildSpec:
        """Write the node's configuration and describe its process."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration = self.home / "valkey.conf"
        # In a file only we can read, because a command line is shown to every user of the machine.
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration())
        return ChildSpec(
            name=self.name,
            command=[str(valkey_server()), str(configuration)],
            environment={"LC_ALL": "C.UTF-8", "TZ": "UTC"},
            working_directory=self.home,
            is_ready=self.is_ready,
            # What matters is in the append-only file, so there is nothing to wait long for.
            grace_seconds=5,
        )

    def is_ready(self) -> bool:
        """Whether the node answers PING, which it does not while it loads its file."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    received = connection.recv(1024)
                    if not received:
                        return False
                    answer += received
                return b"+PONG" in answer
        except OSError:
            return False

    def _configuration(self) -> str:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self.password,
            "dir": f'"{self.home}"',
            "databases": str(DATABASES),
            "appendonly": "yes" if self.is_durable else "no",
            # At most a second of doorbells, locks and tokens is lost in a crash. None of them is
            # the truth, and a lock that is forgotten too early is caught by its fence.
            "appendfsync": "everysec",
            "save": '""',
            # A broker that evicts keys loses messages; better an error that somebody sees.
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())
