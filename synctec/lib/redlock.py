"""Redlock over N independent Redis or Valkey nodes, many keys at a time.

Its place: a contention limiter, not the truth. It keeps two workers from preparing the same SKUs at once.
What decides is PostgreSQL (row locks, unique keys, the lease token checked in every commit), so a lock that
is lost, doubled by a node that restarted empty, or refused for want of nodes costs time and nothing else.

    locks = Redlock([node_a, node_b, node_c])
    with locks.try_lock({"sku:17", "sku:18"}, auto_extend=True) as held:
        for key in held.keys: ...        # what another worker holds is left for the next batch

After "Distributed Locks with Redis" (redis.io): a key is held when a quorum of nodes set it to our token,
within the time to live less the time it took to ask and an allowance for clock drift. All keys of a call go
to a node in one script; the nodes work at the same time, because every request is written before the first
reply is read. A node that is down or slower than the node timeout counts as "no" and is left alone for a
moment.

Assumption: a node that crashes without its data stays away for one time to live. Where it comes back sooner,
a second holder is possible (see above for what that costs).
"""

import logging
import secrets
import threading
import time
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

#: What a holder that stands still leaves to nobody for longer than its row locks (docs/adr/0019).
TTL_MS: Final = 10_000
NODE_TIMEOUT_SECONDS: Final = 0.1
#: How long a node that failed is not asked again, so that a dead one does not slow every lock.
COOLDOWN_SECONDS: Final = 1.0
#: Auto-extension ends after this, so that a worker that hangs or forgets to release blocks nobody for ever.
MAX_HOLD_SECONDS: Final = 600.0
# redis.io: clock drift allowance = 1 % of the time to live + 2 ms.
_DRIFT_SHARE: Final = 0.01
_DRIFT_SECONDS: Final = 0.002

_TAKE: Final = """
local taken = {}
for i, key in ipairs(KEYS) do
  taken[i] = redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0
end
return taken
"""
# 1: still ours, extended. 2: gone here (the node restarted), set again. 0: somebody else's.
_KEEP: Final = """
local kept = {}
for i, key in ipairs(KEYS) do
  local owner = redis.call('GET', key)
  if owner == ARGV[1] then
    kept[i] = redis.call('PEXPIRE', key, ARGV[2])
  elseif not owner then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    kept[i] = 2
  else
    kept[i] = 0
  end
end
return kept
"""
_DROP: Final = """
local dropped = {}
for i, key in ipairs(KEYS) do
  dropped[i] = redis.call('GET', key) == ARGV[1] and redis.call('DEL', key) or 0
end
return dropped
"""

logger = logging.getLogger(__name__)


class Redlock:
    """Locks over these nodes. Shared by the threads of a process."""

    def __init__(
        self,
        nodes: Sequence["redis.Redis"],
        *,
        ttl_ms: int = TTL_MS,
        prefix: str = "lock:",
        node_timeout_seconds: float = NODE_TIMEOUT_SECONDS,
        max_hold_seconds: float = MAX_HOLD_SECONDS,
    ) -> None:
        """Take one client per node: its address and password are used, its timeouts and retries are not."""
        if not nodes:
            raise ValueError("Redlock needs at least one node")
        self.quorum: Final = len(nodes) // 2 + 1
        self.ttl_ms: Final = ttl_ms
        self.max_hold_seconds: Final = max_hold_seconds
        self._prefix = prefix
        self._timeout_seconds = node_timeout_seconds
        cooldown_seconds = COOLDOWN_SECONDS if len(nodes) > 1 else 0.0
        self._nodes = [_Node(node, node_timeout_seconds, cooldown_seconds) for node in nodes]
        self._extender = _Extender(interval_seconds=ttl_ms / 3000)

    def try_lock(self, keys: Collection[str], *, auto_extend: bool = False) -> "Locked":
        """Try each key once and return what was granted: all of them, some, or none. Never raises.

        Takes one round trip, or two where others hold some of the keys. With `auto_extend` a background
        thread extends the lock at a third of its time to live until it is released, lost, or held for
        `max_hold_seconds`.
        """
        token = secrets.token_hex(16)
        wanted = sorted(set(keys))
        started_at = time.monotonic()
        replies = self._ask(_TAKE, wanted, token, self.ttl_ms)
        valid_until = started_at + self.validity_seconds
        granted = frozenset(key for index, key in enumerate(wanted) if _count(replies, index, 1) >= self.quorum)
        if time.monotonic() >= valid_until:
            granted = frozenset()
        self._drop_ungranted(wanted, granted, replies, token)
        silent = replies.count(None)
        is_degraded = len(replies) - silent < self.quorum and bool(wanted)
        locked = Locked(self, keys=granted, token=token, valid_until=valid_until, is_degraded=is_degraded)
        if granted and auto_extend:
            self._extender.add(locked)
        return locked

    def close(self) -> None:
        """Close the connections to the nodes. Locks still held expire by themselves."""
        self._extender.stop()
        for node in self._nodes:
            node.close()

    @property
    def validity_seconds(self) -> float:
        """How long after asking a granted key may be counted on."""
        return self.ttl_ms / 1000 * (1 - _DRIFT_SHARE) - _DRIFT_SECONDS

    def _drop_ungranted(
        self, wanted: list[str], granted: frozenset[str], replies: list[list[int] | None], token: str
    ) -> None:
        # A node that did not answer may have set the key all the same.
        silent = replies.count(None) > 0
        marked = [
            key for index, key in enumerate(wanted) if key not in granted and (silent or _count(replies, index, 1) > 0)
        ]
        self._ask(_DROP, marked, token)

    def _keep(self, locked: "Locked") -> bool | None:
        """Return True if a quorum extended every key, False if some key is lost, None if too few answered."""
        replies = self._ask(_KEEP, sorted(locked.keys), locked.token, self.ttl_ms)
        kept = [_count(replies, index, 1) for index in range(len(locked.keys))]
        if all(count >= self.quorum for count in kept):
            return True
        silent = replies.count(None)
        return None if all(count + silent >= self.quorum for count in kept) else False

    def _drop(self, locked: "Locked") -> None:
        self._extender.remove(locked)
        self._ask(_DROP, sorted(locked.keys), locked.token)

    def _ask(self, script: str, keys: list[str], *arguments: str | int) -> list[list[int] | None]:
        """Run the script on all nodes at once; a node without an answer in time gives None."""
        if not keys:
            return []
        command = ("EVAL", script, len(keys), *(self._prefix + key for key in keys), *arguments)
        asked = [(node, node.send(command)) for node in self._nodes]
        stop_at = time.monotonic() + self._timeout_seconds
        return [
            None if connection is None else node.receive(connection, stop_at - time.monotonic())
            for node, connection in asked
        ]


class Locked:
    """Keys granted together under one token. Use it as a context manager, or call `release`."""

    def __init__(
        self,
        locks: Redlock,
        *,
        keys: frozenset[str],
        token: str,
        valid_until: float,
        is_degraded: bool = False,
    ) -> None:
        self.keys: Final = keys
        #: Too few nodes answered to grant anything: nobody can lock now, which is no refusal.
        self.is_degraded: Final = is_degraded
        self.token: Final = token
        #: `time.monotonic()` until which the keys may be counted on.
        self.valid_until = valid_until
        self.expires_hold_at: Final = time.monotonic() + locks.max_hold_seconds
        self._locks = locks
        self._mutex = threading.Lock()
        self._released = False
        self._gone = False

    @property
    def lost(self) -> bool:
        """True once some key may be another's: before release, validity ran out or a quorum disowned it."""
        if self._released or not self.keys:
            return self._gone
        return self._gone or time.monotonic() >= self.valid_until

    def extend(self) -> bool:
        """Ask for the whole time to live again; True if a quorum granted it for every key. Never raises.

        False leaves `valid_until` as it was, so the work may go on until then, unless `lost` says otherwise.
        """
        with self._mutex:
            if self._released or self._gone or not self.keys:
                return False
            started_at = time.monotonic()
            kept = self._locks._keep(self)
            if kept:
                self.valid_until = started_at + self._locks.validity_seconds
            elif kept is False:
                self._gone = True
                self._locks._drop(self)
            return bool(kept)

    def release(self) -> None:
        """Delete the keys where they still carry our token. May be called twice; never raises."""
        with self._mutex:
            if self._released:
                return
            self._gone = self.lost
            self._released = True
            self._locks._drop(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Locked {len(self.keys)} keys{', lost' if self.lost else ''}>"


class _Node:
    """One lock node: short timeouts, no retries, and a pause after a failure."""

    def __init__(self, client: "redis.Redis", timeout_seconds: float, cooldown_seconds: float) -> None:
        given = client.connection_pool
        options: dict[str, Any] = {
            **given.connection_kwargs,
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            "health_check_interval": 0,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
        }
        self._pool = redis.ConnectionPool(connection_class=given.connection_class, **options)
        self._cooldown_seconds = cooldown_seconds
        self._asked_again_at = 0.0

    def send(self, command: tuple[str | int, ...]) -> Any:
        """Write the command and return the connection to read the reply from, or None."""
        if time.monotonic() < self._asked_again_at:
            return None
        connection = None
        try:
            connection = self._pool.get_connection()
            connection.send_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        except (redis.RedisError, OSError) as error:
            self._failed(connection, error)
            return None
        return connection

    def receive(self, connection: Any, timeout_seconds: float) -> list[int] | None:
        """Return the reply, or None."""
        try:
            reply: list[int] = connection.read_response(timeout=max(timeout_seconds, 0.001))
        except (redis.RedisError, OSError) as error:
            self._failed(connection, error)
            return None
        self._pool.release(connection)
        return reply

    def close(self) -> None:
        self._pool.disconnect()

    def _failed(self, connection: Any, error: Exception) -> None:
        self._asked_again_at = time.monotonic() + self._cooldown_seconds
        logger.warning("lock node did not answer: %s", type(error).__name__)
        if connection is not None:
            # A late reply must not be taken for the next one.
            connection.disconnect()
            self._pool.release(connection)


class _Extender:
    """One daemon thread that extends the registered locks; it ends when there has been none for a while."""

    def __init__(self, *, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._changed = threading.Condition()
        self._due: dict[Locked, float] = {}
        self._thread: threading.Thread | None = None

    def add(self, locked: Locked) -> None:
        with self._changed:
            self._due[locked] = time.monotonic() + self._interval_seconds
            # is_alive: after a fork the child has the object but not the thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="redlock-extender", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, locked: Locked) -> None:
        with self._changed:
            self._due.pop(locked, None)

    def stop(self) -> None:
        with self._changed:
            self._due.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (locked := self._next_due()) is not None:
            extended = locked.extend()
            now = time.monotonic()
            with self._changed:
                if locked not in self._due:
                    continue
                if locked.lost or now >= locked.expires_hold_at:
                    del self._due[locked]
                else:
                    pause = self._interval_seconds if extended else self._interval_seconds / 4
                    self._due[locked] = now + pause

    def _next_due(self) -> Locked | None:
        """Wait until a lock is due and return it; None after some idle time, when the thread ends."""
        with self._changed:
            while True:
                if not self._due:
                    self._changed.wait(self._interval_seconds)
                if not self._due:
                    self._thread = None
                    return None
                locked = min(self._due, key=self._due.__getitem__)
                wait_seconds = self._due[locked] - time.monotonic()
                if wait_seconds <= 0:
                    return locked
                self._changed.wait(wait_seconds)


def _count(replies: Sequence[list[int] | None], index: int, value: int) -> int:
    return sum(1 for reply in replies if reply is not None and reply[index] == value)
