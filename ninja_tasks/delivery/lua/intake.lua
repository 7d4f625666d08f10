-- Should a worker take goals from the queue, and is a parked goal due?
-- KEYS: gate, due times of parked goals
-- ARGV: name of the worker, turn's length ms, start of the names of heartbeats
-- Returns: open, paused, hold, breaker or probe; milliseconds for which that holds at least;
--          milliseconds until a parked goal is due, -1 if none is parked
write_although_full(KEYS[1])
local now = now_ms()
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
local due = first and math.max(0, math.ceil(first - now)) or -1
local gate = redis.call('HMGET', KEYS[1], 'paused', 'hold_until', 'open_until', 'probe_until', 'turn', 'turn_until', 'probe_owner')
if gate[1] then return {'paused', 0, due} end
local hold_until, open_until = tonumber(gate[2] or 0), tonumber(gate[3] or 0)
if hold_until > now then return {'hold', math.ceil(hold_until - now), due} end
if open_until > now then return {'breaker', math.ceil(open_until - now), due} end
if open_until > 0 then
  local probe_until = tonumber(gate[4] or 0)
  if probe_until > now and is_alive(ARGV[3], gate[7]) then return {'breaker', math.ceil(probe_until - now), due} end
  -- One worker at a time looks for a goal to probe with, or all of them would take goals in vain.
  if gate[5] and gate[5] ~= ARGV[1] and tonumber(gate[6]) > now then
    return {'breaker', math.ceil(tonumber(gate[6]) - now), due}
  end
  redis.call('HSET', KEYS[1], 'turn', ARGV[1], 'turn_until', string.format('%.0f', now + ARGV[2]))
  return {'probe', 0, due}
end
return {'open', 0, due}
