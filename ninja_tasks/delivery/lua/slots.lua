-- Hands out slots of the shared limit: points in time, one interval after the other.
-- One worker's setting holds for all: that of the one which started last.
-- KEYS: the limit, the workers that asked lately
-- ARGV: this worker, for how many ms it has run, its limit: goals, and in how many seconds (0 goals: no
--       limit); how many slots it can use, and whether it holds one
-- Constants: HORIZON (slots are handed out so far ahead), ALIVE (a worker that has not asked for so long is
--       gone), both in ms
-- Fields of the limit: goals, seconds, by (the worker whose setting it is), since (its start), next_at: the next
--       slot that is free
-- Returns: the limit in force: goals, seconds; how many slots; microseconds until the first of them
write_although_full(KEYS[1])
local now = now_ms()
local worker, started = ARGV[1], now - ARGV[2]
local known = redis.call('HMGET', KEYS[1], 'goals', 'seconds', 'by', 'since', 'next_at')
local goals, seconds, by = tonumber(known[1] or -1), tonumber(known[2] or 1), known[3]
local since, next_at = tonumber(known[4] or 0), tonumber(known[5] or 0)

-- A start in the future: the clock was set back. The workers tell their starts again.
if by == worker or started >= since or since > now then
  local its_goals, its_seconds = tonumber(ARGV[3]), tonumber(ARGV[4])
  if its_goals ~= goals or its_seconds ~= seconds then
    -- What is handed out already lies within the horizon, or is dropped by whoever holds it.
    next_at = math.min(next_at, now + HORIZON)
  end
  goals, seconds, by, since = its_goals, its_seconds, worker, started
end

local count, first = 0, 0
if goals > 0 then
  local interval = seconds * 1000 / goals
  redis.call('ZADD', KEYS[2], now, worker)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ALIVE)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '(' .. string.format('%.3f', now), '+inf')
  redis.call('PEXPIRE', KEYS[2], ALIVE)
  -- Beyond the horizon each worker holds one slot at the most. So after a clock was set back, or a failover
  -- to a slower one, nobody waits for longer than that.
  local furthest = now + HORIZON + (redis.call('ZCARD', KEYS[2]) + 1) * interval
  next_at = math.min(math.max(next_at, now), furthest)

  local wanted = tonumber(ARGV[5])
  first = next_at - now
  count = math.max(0, math.min(wanted, math.floor((HORIZON - first) / interval) + 1))
  if count == 0 and wanted > 0 and ARGV[6] == '0' then count = 1 end
  next_at = next_at + count * interval
end
redis.call('HSET', KEYS[1], 'goals', goals, 'seconds', seconds, 'by', by,
  'since', string.format('%.3f', since), 'next_at', string.format('%.3f', next_at))
return {goals, seconds, count, math.ceil(first * 1000)}
