"""What is available, in Redis: written through by version after every commit that moves stock, never the truth.

One hash per SKU, a field per warehouse, and the moment `at` (by the clock of Redis) when all of it was last read from
PostgreSQL. While `at` is young the hash is trusted: an older version (`seq`) never overwrites a newer one, and what a
write-through failed to bring is at most TRUSTED_SECONDS late. A hash that is missing or old, after a FLUSHALL, a restart
with old data or an outage, is read anew from PostgreSQL; nothing else needs to notice that Redis was lost.

The same hashes are the gate before holds: it refuses what cannot be had at memory speed, and counts what it let through
since the latest version. What it lets through is decided by PostgreSQL, so a gate that knows too little costs time, and
never a unit.

Invariant: no reading is older than TRUSTED_SECONDS; a Redis that is away costs one call in REST_SECONDS its
TIMEOUT_SECONDS and changes no answer.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Final, TypeVar

import msgspec
import redis
import structlog
from django.conf import settings
from django.db import connection
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from inventory.ledger import Balance
from synctec.lib import sql

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

#: How old a hash may be, counted from when PostgreSQL was asked; then it is read anew.
TRUSTED_SECONDS: Final = 10.0
#: What the gate let through counts so long at most, should whoever was let through have died.
TAKEN_SECONDS: Final = 1.0
#: A hash nobody reads or writes is dropped.
KEPT_SECONDS: Final = 3600
TIMEOUT_SECONDS: Final = 0.1
REST_SECONDS: Final = 1.0

#: Fields of a packed shelf, in Lua's counting: 1 seq, 2 available, 3 quota (-1: none), 4 when the first hold expires
#: (ms, 0: none known), 5 when this was written (ms), 6 units let through since, 7 when the last of them was (ms).
_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_WRITE: Final = (
    _NOW
    + """
-- KEYS: a hash each. ARGV: how long to keep it (ms); then per key warehouse, seq, available, quota, first expiry.
for i, key in ipairs(KEYS) do
  local first = (i - 1) * 5 + 2
  local warehouse, seq, expiry = ARGV[first], tonumber(ARGV[first + 1]), tonumber(ARGV[first + 4])
  local stored, shelf = redis.call('HGETALL', key), nil
  for j = 1, #stored, 2 do
    if stored[j] == warehouse then shelf = cmsgpack.unpack(stored[j + 1]) end
  end
  if not shelf or seq > shelf[1] then
    local known = shelf and shelf[4] or 0
    shelf = {seq, tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3]), known, now, 0, 0}
    -- What was let through here may have been decided elsewhere: it counts no longer, whichever shelf it was meant for.
    for j = 1, #stored, 2 do
      if stored[j] ~= warehouse and stored[j] ~= 'at' then
        local other = cmsgpack.unpack(stored[j + 1])
        if other[6] > 0 then
          other[6] = 0
          redis.call('HSET', key, stored[j], cmsgpack.pack(other))
        end
      end
    end
  end
  if expiry > 0 and (shelf[4] == 0 or expiry < shelf[4]) then shelf[4] = expiry end
  redis.call('HSET', key, warehouse, cmsgpack.pack(shelf))
  redis.call('PEXPIRE', key, ARGV[1])
end
"""
)

_READ: Final = (
    _NOW
    + """
local answer = {now}
for i, key in ipairs(KEYS) do
  local stored, flat = redis.call('HGETALL', key), {0}
  for j = 1, #stored, 2 do
    if stored[j] == 'at' then
      flat[1] = tonumber(stored[j + 1])
    else
      local shelf = cmsgpack.unpack(stored[j + 1])
      for _, value in ipairs({tonumber(stored[j]), shelf[1], shelf[2], shelf[3]}) do flat[#flat + 1] = value end
    end
  end
  answer[#answer + 1] = flat
end
return answer
"""
)

_FILL: Final = (
    _NOW
    + """
-- ARGV: how long to keep (ms), when PostgreSQL was about to be asked (ms); then per key the number of its shelves and
-- per shelf warehouse, seq, available, quota, first expiry.
local asked_at, place = tonumber(ARGV[2]), 3
for _, key in ipairs(KEYS) do
  local at = tonumber(redis.call('HGET', key, 'at') or 0)
  local count = tonumber(ARGV[place])
  place = place + 1
  if at <= asked_at or at > now then
    local stored, fresh = redis.call('HGETALL', key), {}
    for i = 1, #stored, 2 do
      if stored[i] ~= 'at' then
        local shelf = cmsgpack.unpack(stored[i + 1])
        if shelf[5] > asked_at then fresh[stored[i]] = shelf else redis.call('HDEL', key, stored[i]) end
      end
    end
    for i = 0, count - 1 do
      local first = place + i * 5
      local newer = fresh[ARGV[first]]
      if not newer or newer[1] <= tonumber(ARGV[first + 1]) then
        local shelf = {tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3]),
                       tonumber(ARGV[first + 4]), now, 0, 0}
        redis.call('HSET', key, ARGV[first], cmsgpack.pack(shelf))
      end
    end
    redis.call('HSET', key, 'at', ARGV[2])
    redis.call('PEXPIRE', key, ARGV[1])
  end
  place = place + count * 5
end
"""
)

_GATE: Final = (
    _NOW
    + """
-- KEYS: the hashes of all components. ARGV: the callers' now, how long a hash and what was let through count (ms), and the
-- wishes as MessagePack: a list of {may it be spread, how many are wanted, places in KEYS of its components, units of each
-- in one, warehouses allowed (none given: all)}.
-- Answers per wish 1 (go on), 0 (refused) or -1 (cannot tell), and how many there are.
local asked_at, trusted, lasts = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local opened, touched = {}, {}

local function open(key)
  local hash = opened[key]
  if hash then return hash end
  hash = {at = 0, shelves = {}}
  local stored = redis.call('HGETALL', key)
  for j = 1, #stored, 2 do
    if stored[j] == 'at' then
      hash.at = tonumber(stored[j + 1])
    else
      local shelf = cmsgpack.unpack(stored[j + 1])
      if now - shelf[7] > lasts then shelf[6] = 0 end
      local free = shelf[2]
      if shelf[3] >= 0 and shelf[3] < free then free = shelf[3] end
      hash.shelves[stored[j]] = {packed = shelf, free = math.max(0, free - shelf[6])}
    end
  end
  opened[key] = hash
  return hash
end

local function let_through(key, warehouse, units)
  local shelf = opened[key].shelves[warehouse]
  shelf.packed[6], shelf.packed[7] = shelf.packed[6] + units, now
  shelf.free = shelf.free - units
  touched[key] = touched[key] or {}
  touched[key][warehouse] = shelf.packed
end

local function decide(keys, per_one, wanted, spread, allowed)
  local sure, hashes = true, {}
  for i, key in ipairs(keys) do
    local hash, shelves = open(key), {}
    for warehouse, shelf in pairs(hash.shelves) do
      if not allowed or allowed[warehouse] then
        shelves[warehouse] = shelf
        if shelf.packed[4] > 0 and shelf.packed[4] <= asked_at then sure = false end
      end
    end
    if hash.at > now or now - hash.at > trusted then sure = false end
    hashes[i] = shelves
  end
  local most = spread and math.huge or 0
  if spread then
    for i in ipairs(keys) do
      local units = 0
      for _, shelf in pairs(hashes[i]) do units = units + shelf.free end
      most = math.min(most, math.floor(units / per_one[i]))
    end
  else
    for warehouse in pairs(hashes[1]) do
      local here = math.huge
      for i in ipairs(keys) do
        local shelf = hashes[i][warehouse]
        here = math.min(here, shelf and math.floor(shelf.free / per_one[i]) or 0)
      end
      if here >= wanted then
        for i, key in ipairs(keys) do let_through(key, warehouse, wanted * per_one[i]) end
        return 1, here
      end
      most = math.max(most, here)
    end
  end
  if spread and most >= wanted then
    for i, key in ipairs(keys) do
      local units = wanted * per_one[i]
      for warehouse, shelf in pairs(hashes[i]) do
        local taken = math.min(units, shelf.free)
        if taken > 0 then let_through(key, warehouse, taken) end
        units = units - taken
      end
    end
    return 1, most
  end
  return sure and 0 or -1, most
end

local answer = {}
for _, wish in ipairs(cmsgpack.unpack(ARGV[4])) do
  local keys, allowed = {}, nil
  for i, place in ipairs(wish[3]) do keys[i] = KEYS[place] end
  for _, warehouse in ipairs(wish[5]) do
    allowed = allowed or {}
    allowed[tostring(warehouse)] = true
  end
  answer[#answer + 1], answer[#answer + 2] = decide(keys, wish[4], wish[2], wish[1], allowed)
end
for key, shelves in pairs(touched) do
  for warehouse, shelf in pairs(shelves) do redis.call('HSET', key, warehouse, cmsgpack.pack(shelf)) end
end
return answer
"""
)


#: KEYS: a hash each. Nothing that was let through counts any more.
_TAKE_BACK: Final = """
for _, key in ipairs(KEYS) do
  local stored = redis.call('HGETALL', key)
  for j = 1, #stored, 2 do
    if stored[j] ~= 'at' then
      local shelf = cmsgpack.unpack(stored[j + 1])
      if shelf[6] > 0 then
        shelf[6] = 0
        redis.call('HSET', key, stored[j], cmsgpack.pack(shelf))
      end
    end
  end
end
"""


@dataclass(frozen=True, slots=True)
class Shelf:
    """What there is of a SKU in a warehouse, as of ledger sequence `seq`."""

    sku_id: int
    warehouse_id: int
    seq: int
    available: int
    quota: int | None
    held_until: datetime | None = None  # when the first of the holds on it expires

    @classmethod
    def of(cls, balance: Balance, held_until: Mapping[int, datetime] | None) -> Shelf:
        """The shelf that a balance is about."""
        return cls(
            balance.sku_id,
            balance.warehouse_id,
            balance.seq,
            balance.available,
            balance.quota,
            held_until.get(balance.stock_level_id) if held_until else None,
        )

    @property
    def holdable(self) -> int:
        """Units that a hold can have."""
        return max(0, self.available if self.quota is None else min(self.available, self.quota))


@dataclass(frozen=True, slots=True)
class Reading:
    """All shelves of a SKU and how old the reading is at most (seconds)."""

    shelves: tuple[Shelf, ...]
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Wish:
    """`quantity` of something made of `parts` (stocked SKU -> units in one), from these warehouses (none: any)."""

    parts: Mapping[int, int]
    quantity: int
    warehouse_ids: Sequence[int] = ()
    split: bool = False


class Gate(enum.IntEnum):
    """What the gate says of a request."""

    UNSURE = -1
    REFUSED = 0
    OPEN = 1


@dataclass(slots=True)
class _Access:
    """Whether Redis answers. One failure is enough to leave it alone for a while."""

    rests_until: float = 0.0
    is_away: bool = False


_access = _Access()


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT_SECONDS,
        socket_connect_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


@cache
def _script(text: str) -> Script:
    return _redis().register_script(text)


def _ask(call: Callable[[], Answer]) -> Answer | None:
    """What Redis answers; None when it does not, or did not a moment ago."""
    if time.monotonic() < _access.rests_until:
        return None
    try:
        answer = call()
    except redis.RedisError as error:
        _access.rests_until = time.monotonic() + REST_SECONDS
        if not _access.is_away:
            _access.is_away = True
            log.warning("availability.without_redis", error=type(error).__name__)
        return None
    if _access.is_away:
        _access.is_away = False
        log.info("availability.redis_is_back")
    return answer


def _key(merchant_id: int, sku_id: int) -> str:
    return f"stock:{{{merchant_id}}}:{sku_id}"


def _milliseconds(moment: datetime | None) -> int:
    return int(moment.timestamp() * 1000) if moment else 0


def _packed(shelf: Shelf) -> tuple[int, int, int, int, int]:
    quota = -1 if shelf.quota is None else shelf.quota
    return shelf.warehouse_id, shelf.seq, shelf.available, quota, _milliseconds(shelf.held_until)


def write_through(merchant_id: int, shelves: Sequence[Shelf]) -> None:
    """Write what a commit left on these shelves, unless a later one did so already. Never raises for Redis."""
    if shelves:
        keys = [_key(merchant_id, shelf.sku_id) for shelf in shelves]
        values = [value for shelf in shelves for value in _packed(shelf)]
        _ask(lambda: _script(_WRITE)(keys=keys, args=[KEPT_SECONDS * 1000, *values]))


def read(merchant_id: int, sku_ids: Collection[int]) -> dict[int, Reading]:
    """What there is of these SKUs, at most TRUSTED_SECONDS old; from PostgreSQL what Redis does not know as well."""
    wanted = sorted(set(sku_ids))
    if not wanted:
        return {}
    answer = _ask(lambda: _script(_READ)(keys=[_key(merchant_id, sku) for sku in wanted]))
    if answer is None:
        return _readings(_from_ledger(merchant_id, wanted), wanted)
    now, hashes = answer[0], answer[1:]
    known = {
        sku: Reading(tuple(_unpacked(sku, flat)), (now - flat[0]) / 1000)
        for sku, flat in zip(wanted, hashes, strict=True)
        if 0 <= now - flat[0] <= TRUSTED_SECONDS * 1000
    }
    missing = [sku for sku in wanted if sku not in known]
    return known | _fill(merchant_id, missing, asked_at=now)


def refresh(merchant_id: int, sku_ids: Collection[int]) -> None:
    """Read these SKUs from PostgreSQL again, because the gate did not know enough. Never raises for Redis."""
    time_now = _ask(lambda: _redis().time()) if sku_ids else None
    if time_now is not None:
        seconds, microseconds = time_now
        _fill(merchant_id, sorted(set(sku_ids)), asked_at=seconds * 1000 + microseconds // 1000)


def forget(merchant_id: int, sku_ids: Collection[int]) -> None:
    """Trust nothing that is written of these SKUs: for changes that no movement tells of, such as quotas."""
    if sku_ids:
        _ask(lambda: _redis().delete(*(_key(merchant_id, sku) for sku in sku_ids)))


def _fill(merchant_id: int, sku_ids: Sequence[int], *, asked_at: int) -> dict[int, Reading]:
    if not sku_ids:
        return {}
    shelves = _from_ledger(merchant_id, sku_ids)
    # What a transaction has not committed yet is nobody else's business.
    if not connection.in_atomic_block:
        values: list[int] = []
        for sku in sku_ids:
            values += [len(shelves[sku]), *(value for shelf in shelves[sku] for value in _packed(shelf))]
        keys = [_key(merchant_id, sku) for sku in sku_ids]
        _ask(lambda: _script(_FILL)(keys=keys, args=[KEPT_SECONDS * 1000, asked_at, *values]))
    return _readings(shelves, sku_ids)


def _readings(shelves: Mapping[int, Sequence[Shelf]], sku_ids: Sequence[int]) -> dict[int, Reading]:
    return {sku: Reading(tuple(shelves[sku]), 0.0) for sku in sku_ids}


def _from_ledger(merchant_id: int, sku_ids: Sequence[int]) -> dict[int, list[Shelf]]:
    shelves: dict[int, list[Shelf]] = {sku: [] for sku in sku_ids}
    for row in sql.rows(
        """
        SELECT level.sku_id, level.warehouse_id, level.seq, level.available, level.quota, (
            SELECT min(part.expires_at) FROM inventory_holdpart part
            WHERE part.stock_level_id = level.id AND part.expires_at IS NOT NULL)
        FROM inventory_stocklevel level WHERE level.merchant_id = %s AND level.sku_id = ANY(%s::bigint[])
        """,
        [merchant_id, list(sku_ids)],
    ):
        shelves[row[0]].append(Shelf(*row))
    return shelves


def _unpacked(sku_id: int, flat: Sequence[int]) -> list[Shelf]:
    return [
        Shelf(sku_id, flat[i], flat[i + 1], flat[i + 2], None if flat[i + 3] < 0 else flat[i + 3])
        for i in range(1, len(flat), 4)
    ]


def ask_gate(merchant_id: int, wishes: Sequence[Wish], *, now: datetime) -> list[tuple[Gate, int]]:
    """Whether what is wished for, one after the other, may be there, and how many there are.

    OPEN counts the units until the next version is written or they are taken back, and promises nothing. Without Redis:
    UNSURE.
    """
    if not wishes:
        return []
    places: dict[int, int] = {}
    told = [
        (
            wish.split,
            wish.quantity,
            [places.setdefault(sku, len(places) + 1) for sku in wish.parts],
            list(wish.parts.values()),
            wish.warehouse_ids,
        )
        for wish in wishes
    ]
    keys = [_key(merchant_id, sku) for sku in places]
    times = _milliseconds(now.astimezone(UTC)), int(TRUSTED_SECONDS * 1000), int(TAKEN_SECONDS * 1000)
    answer = _ask(lambda: _script(_GATE)(keys=keys, args=[*times, msgspec.msgpack.encode(told)]))
    if answer is None:
        return [(Gate.UNSURE, 0)] * len(wishes)
    return [(Gate(verdict), int(units)) for verdict, units in zip(answer[::2], answer[1::2], strict=True)]


def take_back(merchant_id: int, sku_ids: Collection[int]) -> None:
    """Count nothing that the gate let through of these SKUs: no version will follow it, since nothing came of it.

    What is being decided elsewhere counts no more either, which costs that decision's rivals a decision of their own.
    """
    if sku_ids:
        _ask(lambda: _script(_TAKE_BACK)(keys=[_key(merchant_id, sku) for sku in sku_ids]))
