-- Writes what came of an attempt: page, breaker, hold, counters, latency.
-- KEYS: page, gate, counters, latencies, letters, times of letters
-- ARGV: delivery id, token, outcome, made, charged, doubtful, possible duplicate, replays,
--       feeds the breaker, hold ms, latency bucket
-- Constants: LIFE (of a page), COOLDOWN (the first), LONGEST_COOLDOWN, LONG_OUTAGE, all in ms;
--       THRESHOLD
-- Returns: news of the breaker ('', 'ailing' or 'recovered'), ms since it opened
write_although_full(KEYS[2])
local now = now_ms()
local token, outcome = ARGV[2], ARGV[3]
local page = read_page(KEYS[1])
-- The answer to the first of two equal calls was lost.
if page.token == token and page.lease_until == 0 then return {'', 0} end

if outcome == 'delivered' then
  local at, duplicate, made = string.format('%.0f', now), tonumber(ARGV[7]), tonumber(ARGV[4])
  if page.delivered then at, duplicate, made = page.at, 1, math.max(made, page.made) end
  redis.call('SET', KEYS[1], string.format('d %s %d %d %s', at, made, duplicate, token), 'PX', LIFE)
  redis.call('HDEL', KEYS[5], ARGV[1])
  redis.call('ZREM', KEYS[6], ARGV[1])
elseif not page.delivered and (page.token == token or page.lease_until == 0) then
  write_page(KEYS[1], {made = ARGV[4], charged = ARGV[5], doubtful = ARGV[6], duplicate = ARGV[7],
    replays = ARGV[8], slot = 0, token = token, claimed_at = page.claimed_at, lease_until = 0, owner = '-', lost = 0}, LIFE)
end

redis.call('HINCRBY', KEYS[3], 'attempts', 1)
redis.call('HINCRBY', KEYS[3], outcome, 1)
redis.call('HINCRBY', KEYS[4], ARGV[11], 1)

local gate = redis.call('HMGET', KEYS[2], 'opened_at', 'probe', 'cooldown', 'failures', 'hold_until', 'told')
local opened_at = tonumber(gate[1] or 0)
if tonumber(ARGV[10]) > 0 then
  local hold_until = math.max(tonumber(gate[5] or 0), now + tonumber(ARGV[10]))
  redis.call('HSET', KEYS[2], 'hold_until', string.format('%.0f', hold_until))
end

local function open(cooldown)
  redis.call('HSET', KEYS[2], 'open_until', string.format('%.0f', now + cooldown), 'cooldown', cooldown)
  redis.call('HDEL', KEYS[2], 'probe', 'probe_until')
end

if outcome == 'delivered' or outcome == 'rejected' then
  if opened_at > 0 then
    redis.call('HDEL', KEYS[2], 'opened_at', 'open_until', 'cooldown', 'probe', 'probe_until', 'told', 'turn', 'turn_until')
  end
  if gate[4] then redis.call('HDEL', KEYS[2], 'failures') end
  if gate[6] then return {'recovered', math.ceil(now - opened_at)} end
elseif ARGV[9] ~= '1' then
  -- The API asks for patience: it is well, but whether it takes goals is for another probe to find out.
  if gate[2] == token then redis.call('HDEL', KEYS[2], 'probe', 'probe_until') end
elseif opened_at == 0 then
  local failures = tonumber(gate[4] or 0) + 1
  redis.call('HSET', KEYS[2], 'failures', failures)
  if failures >= THRESHOLD then
    redis.call('HSET', KEYS[2], 'opened_at', string.format('%.0f', now))
    open(COOLDOWN)
  end
elseif gate[2] == token then
  open(math.min(tonumber(gate[3]) * 2, math.max(LONGEST_COOLDOWN, COOLDOWN)))
  if not gate[6] and now - opened_at >= LONG_OUTAGE then
    redis.call('HSET', KEYS[2], 'told', 1)
    return {'ailing', math.ceil(now - opened_at)}
  end
end
return {'', 0}
