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

Callers have ranks. Rank 0 may take all there is; each lower rank (1, 2, ...) only what leaves a share of the capacity
to those above. So however much the lower ranks ask for, rank 0 finds that share waiting, and never waits much longer
than in a bucket of its own: at most cost / (0.85 x rate) seconds behind others of its rank, as long as the channel
reports no less than we reckon. A lower rank in turn is never starved: while it is kept waiting, and asks again within
half a minute, 5 % of the rate is put by for it until that is enough for its call (of up to half the capacity), however
much those above ask for. A bucket of which nothing is known leaves nothing to anybody: the first answer tells what
there is.
"""

from dataclasses import dataclass
from typing import Final

import redis

_SCRIPT: Final = """
-- Fields: level, at (s), capacity, rate (1/s), blocked (s), and two counters with a current (c) and a
-- former (f) generation: flight (reserved, not settled) and settled (settled a moment ago). Known: 1 once it was reported or
-- full. Per lower rank that is kept waiting: pot (put by for it), want (the cost it asked for) and asked (s).
local FLIGHT_S, SETTLED_S = 60, 1
local LOWEST, PUT_BY, ASKS_AGAIN_S = 3, 0.05, 30
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
local passed = math.max(0, now - get('at', now))
s.level = math.min(capacity, get('level', 0) + rate * passed)
s.at = now
if s.level >= capacity then s.known = 1 end
for rank = 1, LOWEST do
  local asked = s['asked_' .. rank]
  if asked and now - asked <= ASKS_AGAIN_S then
    s['pot_' .. rank] = math.min(s['want_' .. rank], capacity / 2, s['pot_' .. rank] + PUT_BY * rate * passed)
  elseif asked then
    s['asked_' .. rank], s['pot_' .. rank], s['want_' .. rank] = now - 2 * ASKS_AGAIN_S, 0, 0
  end
end
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
  local rank, share, others = b, c, 0
  for other = 1, LOWEST do
    if other ~= rank then others = others + (s['pot_' .. other] or 0) end
  end
  local left = (s.known == 1 and share * capacity or 0) + math.min(others, capacity / 2)
  local needed = a + math.min(left, capacity - a)
  local pot, enough = s['pot_' .. rank] or 0, math.min(a, capacity / 2)
  if a > capacity then
    wait = -1
  elseif blocked > 0 or s.level < a or (s.level < needed and (rank == 0 or pot < enough)) then
    wait = (needed - s.level) / rate
    if rank > 0 then
      s['pot_' .. rank], s['want_' .. rank], s['asked_' .. rank] = pot, a, now
      wait = math.min(wait, (enough - pot) / (PUT_BY * rate))
    end
    wait = math.max(blocked, (a - s.level) / rate, wait)
  else
    s.level = s.level - a
    s.flight_c = s.flight_c + a
    if rank > 0 and s['asked_' .. rank] then
      s['asked_' .. rank], s['pot_' .. rank], s['want_' .. rank] = now - 2 * ASKS_AGAIN_S, 0, 0
    end
  end
elseif act == 'settle' then
  s.level = math.min(capacity, s.level + a - b)
  local old = math.min(a, s.flight_f)
  s.flight_f = s.flight_f - old
  s.flight_c = math.max(0, s.flight_c - (a - old))
  s.settled_c = s.settled_c + b
elseif act == 'sync' then
  s.capacity, s.rate, s.known = b, c, 1
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

#: The last of the ranks.
RANK_LOWEST: Final = 3


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

    def reserve(self, cost: float, *, rank: int = 0, leaving: float = 0.0) -> float:
        """Take `cost` tokens and return 0.0, or take nothing and return the seconds to wait.

        `rank` from 0 to `RANK_LOWEST`; `leaving` is the share of the capacity (0 to 1) that is left to the ranks above.
        Others may come first, so a wait is no promise. Raises CostAboveCapacity, and ValueError below 0.
        """
        _check_cost(cost)
        if not 0 <= rank <= RANK_LOWEST or not 0 <= leaving <= 1:
            raise ValueError(f"there is no rank {rank!r} that leaves {leaving!r} of a bucket")
        wait_seconds, state = self._run("reserve", cost, float(rank), leaving)
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
