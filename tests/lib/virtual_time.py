"""Time for what keeps its moments in Redis: it passes at once, and nobody sleeps."""

import redis

#: The moments that a bucket and a breaker keep.
MOMENTS = (
    *("at", "blocked", "flight_at", "settled_at", "asked_1", "asked_2", "asked_3"),
    *("opened_at", "open_until", "probe_until", "slot_at"),
)
_SCRIPT = """
for i = 2, #ARGV do
  local moment = redis.call('HGET', KEYS[1], ARGV[i])
  if moment then redis.call('HSET', KEYS[1], ARGV[i], string.format('%.17g', tonumber(moment) - tonumber(ARGV[1]))) end
end
"""


def pass_time(client: "redis.Redis", key: str, seconds: float) -> None:
    """Move everything that is kept under `key` so far into the past."""
    client.eval(_SCRIPT, 1, key, repr(float(seconds)), *MOMENTS)
