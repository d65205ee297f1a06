"""Circuit breaker in Redis, shared by all workers that talk to one channel.

One Lua script keeps the whole state, by the clock of the Redis server, so that workers with different clocks and at the same
time agree on it.

    closed      every call is admitted
    open        none is, until the pause is over
    half open   one at a time, across all workers: the probe. Its answer closes, its failure opens for longer

    admission = breaker.admit()
    if admission.wait_seconds: ...come back then...
    breaker.answered(admission) | breaker.failed(admission, "HTTP_502") | breaker.withdrawn(admission)

It opens when half of ten calls or more in the past minute failed, or five in a row: whoever leaves a failing channel
alone for a growing while, as our engine does, never comes to ten a minute. It stays open for ten seconds, then for a
quarter of the time that it has been open for, a minute at most. So that it is over is noticed soon after a short trouble
and within a minute after a long one, and a call every ten seconds costs nobody anything.

A key that is missing (first use, FLUSHALL, a restart) is HALF OPEN: nobody knows, so one call asks. Unless it is one
failure too many in a row, its failure only lets the next one ask. Whoever holds the probe and dies has a lease that
runs out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import redis

from synctec.lib.ids import uuid7

#: Opens at this share of the calls in the window, if there were so many.
FAILING_SHARE: Final = 0.5
CALLS_MIN: Final = 10
WINDOW_SECONDS: Final = 60.0
#: Opens at so many failures in a row.
RUN_MAX: Final = 5
OPEN_SECONDS: Final = 10.0
OPEN_SECONDS_MAX: Final = 60.0
#: Longer than a call lives with its waits, so that there are never two probes.
PROBE_LEASE_SECONDS: Final = 45.0
#: When to come back while another call is the probe.
PROBE_WAIT_SECONDS: Final = 1.0

_SCRIPT: Final = """
-- Fields: known (1 once a call has ended since the key was made), run (failures in a row), opened_at and open_until (s) while
-- not closed, probe (the holder's token) and probe_until (s), reason (of the latest failure), and the window: calls n0.. and
-- failures f0.. per slot, newest first, slot_at (s) being the beginning of the newest.
local SLOTS = 12
local key, act, token, why = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local SHARE, CALLS_MIN, WINDOW, RUN_MAX = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local OPEN, OPEN_MAX = tonumber(ARGV[8]), tonumber(ARGV[9])
local LEASE, PROBE_WAIT = tonumber(ARGV[10]), tonumber(ARGV[11])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local s = {}
local stored = redis.call('HGETALL', key)
for i = 1, #stored, 2 do s[stored[i]] = stored[i + 1] end
local function get(name) return tonumber(s[name]) end

-- The window moves on. After a clock that went back nothing in it means anything.
local SLOT = WINDOW / SLOTS
local steps = get('slot_at') and math.floor((now - get('slot_at')) / SLOT) or SLOTS
local calls, failures, n, f = 0, 0, {}, {}
for i = 0, SLOTS - 1 do
  local from = i - steps
  n[i] = (steps >= 0 and from >= 0 and get('n' .. from)) or 0
  f[i] = (steps >= 0 and from >= 0 and get('f' .. from)) or 0
  calls, failures = calls + n[i], failures + f[i]
end
local slot_at = (steps < 0 or steps >= SLOTS) and now or get('slot_at') + steps * SLOT

local open_until, probe_until = get('open_until'), get('probe_until')
-- Nothing is put off for longer than it may be: then the clock went back.
if open_until and open_until - now > OPEN_MAX then open_until = now end
if probe_until and (probe_until <= now or probe_until - now > LEASE) then probe_until = nil end

local function state()
  if open_until then return now < open_until and 'open' or 'half_open' end
  return s.known and 'closed' or 'half_open'
end
local function close()
  open_until, probe_until, s.opened_at, s.probe, s.known = nil, nil, nil, nil, '1'
  for i = 0, SLOTS - 1 do n[i], f[i] = 0, 0 end
  calls, failures = 0, 0
end
local function open()
  s.opened_at, s.known = s.opened_at or string.format('%.17g', now), '1'
  open_until = now + math.min(OPEN_MAX, math.max(OPEN, (now - get('opened_at')) / 4))
  probe_until, s.probe = nil, nil
end

local was, wait, is_probe = state(), 0, 0
if act == 'admit' then
  if was == 'open' then
    wait = open_until - now
  elseif was == 'half_open' and probe_until then
    wait = math.min(PROBE_WAIT, probe_until - now)
  elseif was == 'half_open' then
    is_probe, s.probe, probe_until = 1, token, now + LEASE
  end
elseif act == 'withdrawn' then
  if s.probe == token then s.probe, probe_until = nil, nil end
elseif act == 'answered' then
  n[0], calls, s.run = n[0] + 1, calls + 1, '0'
  -- What was sent before it opened tells nothing of now; where nothing is known, anything does.
  if was ~= 'closed' and (s.probe == token or not open_until) then close() end
elseif act == 'failed' then
  n[0], f[0], calls, failures = n[0] + 1, f[0] + 1, calls + 1, failures + 1
  s.run, s.reason = tostring((get('run') or 0) + 1), why
  local is_many = get('run') >= RUN_MAX or (calls >= CALLS_MIN and failures >= SHARE * calls)
  if open_until then
    if s.probe == token then open() end
  elseif is_many then
    open()
  elseif s.probe == token then
    s.probe, probe_until = nil, nil
  end
end

if act ~= 'peek' and not (act == 'admit' and is_probe == 0) then
  s.slot_at = string.format('%.17g', slot_at)
  s.open_until = open_until and string.format('%.17g', open_until)
  s.probe_until = probe_until and string.format('%.17g', probe_until)
  for i = 0, SLOTS - 1 do s['n' .. i], s['f' .. i] = tostring(n[i]), tostring(f[i]) end
  local fields = {}
  for name, value in pairs(s) do
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  redis.call('DEL', key)
  redis.call('HSET', key, unpack(fields))
  redis.call('EXPIRE', key, 86400)
end
local is = state()
local left = is == 'open' and open_until - now or 0
local open_for = get('opened_at') and now - get('opened_at') or 0
return {
  is, string.format('%.17g', wait), is_probe, string.format('%.17g', left), string.format('%.17g', math.max(0, open_for)),
  probe_until and 1 or 0, calls, failures, get('run') or 0, open_until and 1 or 0, s.reason or '',
}
"""


class State(enum.StrEnum):
    """Whether calls are admitted."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a breaker holds at one moment."""

    state: State
    #: While open: until the next call may ask.
    left_seconds: float
    #: Since it opened first without having been closed again.
    open_for_seconds: float
    #: A call is asking right now.
    is_probing: bool
    #: It has opened and was not closed since; half open without it: nothing is known.
    has_opened: bool
    #: In the past minute.
    calls: int
    failures: int
    #: Failures in a row.
    run: int
    #: Of the latest failure.
    reason: str


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether one call may be made now. Each that is granted is to be ended."""

    token: str
    wait_seconds: float
    is_probe: bool
    standing: Standing

    @property
    def is_granted(self) -> bool:
        return not self.wait_seconds


class Breaker:
    """The breaker `key`. Every method is one atomic call and raises redis.RedisError when Redis is away."""

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._key = key
        self._script = client.register_script(_SCRIPT)

    def admit(self) -> Admission:
        """Ask for one call: granted, as the probe or as one of many; or the seconds to wait."""
        token = uuid7().hex
        wait_seconds, is_probe, standing = self._run("admit", token)
        return Admission(token, wait_seconds, is_probe, standing)

    def answered(self, admission: Admission) -> Standing:
        """The call was answered, whatever with: refused and throttled are answers."""
        return self._run("answered", admission.token)[2]

    def failed(self, admission: Admission, reason: str) -> Standing:
        """No whole answer came, or the channel said that it is broken. `reason`: a word, shown to people."""
        return self._run("failed", admission.token, reason[:80])[2]

    def withdrawn(self, admission: Admission) -> None:
        """The call was not made after all."""
        self._run("withdrawn", admission.token)

    def peek(self) -> Standing:
        """Return the state now and change nothing."""
        return self._run("peek", "")[2]

    def _run(self, act: str, token: str, reason: str = "") -> tuple[float, bool, Standing]:
        limits = (
            FAILING_SHARE,
            CALLS_MIN,
            WINDOW_SECONDS,
            RUN_MAX,
            OPEN_SECONDS,
            OPEN_SECONDS_MAX,
            PROBE_LEASE_SECONDS,
            PROBE_WAIT_SECONDS,
        )
        reply = self._script(keys=[self._key], args=[act, token, reason, *map(repr, limits)])
        state, wait, is_probe, left, open_for, is_probing, calls, failures, run, has_opened, why = reply
        return (
            float(wait),
            bool(is_probe),
            Standing(
                state=State(_text(state)),
                left_seconds=float(left),
                open_for_seconds=float(open_for),
                is_probing=bool(is_probing),
                has_opened=bool(has_opened),
                calls=int(calls),
                failures=int(failures),
                run=int(run),
                reason=_text(why),
            ),
        )


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
