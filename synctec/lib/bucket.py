"""Token bucket in Redis, shared by all workers that talk to one channel.

One Lua script keeps the whole state, by the clock of the Redis server. Levels are floats: costs of a GraphQL
call are, after refunds, no round numbers. A key that is missing (first use, FLUSHALL, a restart) is an EMPTY
bucket that fills at its rate: after a loss we must not burst.

    wait = bucket.reserve(cost)          # 0.0: taken, send now; otherwise come back in that many seconds
    answer = session.post(...)
    bucket.settle(cost, actual_cost)     # the channel gives the difference back
    bucket.sync(available, capacity, rate)   # as its throttleStatus says

A caller that dies between reserve and settle leaves its cost "in flight"; that is forgotten after one to two
minutes, longer than any request lives.
"""

from dataclasses import dataclass
from typing import Final

import redis

_SCRIPT: Final = """
-- Fields: level, at (s), capacity, rate (1/s), blocked (s), and two counters with a current (c) and a
-- former (f) generation: flight (reserved, not settled) and settled (settled a moment ago).
local FLIGHT_S, SETTLED_S = 60, 1
local key, act = KEYS[1], ARGV[1]
local capacity, rate = tonumber(ARGV[2]), tonumber(ARGV[3])
local a, b, c = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local s = {}
local stored = redis.call('HGETALL', key)
for i = 1, #stored, 2 do s[stored[i]] = tonumber(stored[i + 1]) end
local function get(name, default) if s[name] == nil then s[name] = default end return s[name] end

capacity, rate = get('capacity', capacity), get('rate', rate)
-- max(0): the clock may go back after a failover; then nothing is gained.
s.level = math.min(capacity, get('level', 0) + rate * math.max(0, now - get('at', now)))
s.at = now
local blocked = math.max(0, get('blocked', 0) - now)

local function age(name, span)
  local passed = now - get(name .. '_at', now)
  get(name .. '_c', 0)
  get(name .. '_f', 0)
  if passed >= span or passed < 0 then
    s[name .. '_f'] = (passed < 2 * span) and s[name .. '_c'] or 0
    s[name .. '_c'] = 0
    s[name .. '_at'] = now
  end
end
local function total(name) return s[name .. '_c'] + s[name .. '_f'] end
age('flight', FLIGHT_S)
age('settled', SETTLED_S)

local wait = 0
if act == 'reserve' then
  if a > capacity then
    wait = -1
  elseif blocked > 0 or s.level < a then
    wait = math.max(blocked, (a - s.level) / rate)
  else
    s.level = s.level - a
    s.flight_c = s.flight_c + a
  end
elseif act == 'settle' then
  s.level = math.min(capacity, s.level + a - b)
  local old = math.min(a, s.flight_f)
  s.flight_f = s.flight_f - old
  s.flight_c = math.max(0, s.flight_c - (a - old))
  s.settled_c = s.settled_c + b
elseif act == 'sync' then
  s.capacity, s.rate = b, c
  capacity, rate = b, c
  -- Down at once. Up only as far as even an old report allows: it may not know what was settled just now.
  local ceiling = math.min(capacity, a - total('flight'))
  s.level = math.min(ceiling, math.max(s.level, ceiling - total('settled')))
elseif act == 'penalize' then
  s.blocked = math.max(s.blocked, now + a)
  blocked = s.blocked - now
end

if act ~= 'peek' then
  local fields = {}
  for name, value in pairs(s) do
    fields[#fields + 1] = name
    fields[#fields + 1] = string.format('%.17g', value)
  end
  redis.call('HSET', key, unpack(fields))
  redis.call('PEXPIRE', key, math.ceil((86400 + blocked) * 1000))
end
local answer = {}
for i, value in ipairs({wait, s.level, capacity, rate, total('flight'), blocked}) do
  answer[i] = string.format('%.17g', value)
end
return answer
"""


class BucketError(Exception):
    """Base of this module's errors."""


class CostAboveCapacity(BucketError):
    """The bucket can never hold that much: split the call, or correct the capacity."""


@dataclass(frozen=True, slots=True)
class BucketState:
    """What a bucket holds at one moment."""

    level: float
    capacity: float
    rate_per_second: float
    in_flight: float
    blocked_seconds: float


class TokenBucket:
    """The bucket `key`. Every method is one atomic call and raises redis.RedisError when Redis is away."""

    def __init__(self, client: "redis.Redis", key: str, *, default_capacity: float, default_rate: float) -> None:
        """Set what holds until the channel first says otherwise: tokens at most, tokens per second."""
        _check_shape(default_capacity, default_rate)
        self._key = key
        self._defaults = (float(default_capacity), float(default_rate))
        self._script = client.register_script(_SCRIPT)

    def reserve(self, cost: float) -> float:
        """Take `cost` tokens and return 0.0, or take nothing and return the seconds to wait.

        Others may come first, so a wait is no promise. Raises CostAboveCapacity, and ValueError below 0.
        """
        _check_cost(cost)
        wait_seconds, state = self._run("reserve", cost)
        if wait_seconds < 0:
            raise CostAboveCapacity(f"a cost of {cost:g} never fits a bucket of {state.capacity:g}")
        return wait_seconds

    def settle(self, reserved: float, actual: float) -> None:
        """End a reservation: the call cost `actual`, the rest goes back. More than reserved is taken, too.

        Call it once for every granted reservation, with 0 for a call that was certainly not sent.
        """
        _check_cost(reserved)
        _check_cost(actual)
        self._run("settle", reserved, actual)

    def sync(self, available: float, capacity: float, rate: float) -> None:
        """Take over what the channel reports: tokens available, at most, and per second.

        The level never comes to lie above `available` less what is in flight, which the report may not count.
        """
        _check_shape(capacity, rate)
        self._run("sync", available, capacity, rate)

    def penalize(self, seconds: float) -> None:
        """Grant nothing for this long, or longer if already so: after THROTTLED, 429 or Retry-After."""
        self._run("penalize", max(seconds, 0.0))

    def peek(self) -> BucketState:
        """Return the state now and change nothing."""
        _wait, state = self._run("peek")
        return state

    def _run(self, act: str, *arguments: float) -> tuple[float, BucketState]:
        padded = (*arguments, 0.0, 0.0, 0.0)[:3]
        reply = self._script(keys=[self._key], args=[act, *map(repr, (*self._defaults, *padded))])
        wait_seconds, *values = map(float, reply)
        return wait_seconds, BucketState(*values)


def _check_shape(capacity: float, rate: float) -> None:
    if not (0 < capacity < float("inf") and 0 < rate < float("inf")):
        raise ValueError(f"a bucket needs a capacity and a rate above 0, not {capacity!r} and {rate!r}")


def _check_cost(cost: float) -> None:
    if not 0 <= cost < float("inf"):
        raise ValueError(f"a cost is 0 or more, not {cost!r}")
