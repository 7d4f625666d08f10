-- Writes what came of an attempt: page, breaker, hold, counters, latency.
-- KEYS: page, gate, counters, latencies, letters, times of letters
-- ARGV: delivery id, token, outcome, made, charged, doubtful, possible duplicate, replays,
--       feeds the breaker, hold ms, latency bucket, whether a dead letter follows
-- Constants: LIFE (of a page), BURIAL (how long a letter may take), COOLDOWN (the first), LONGEST_COOLDOWN,
--       LONG_OUTAGE, all in ms; THRESHOLD
-- Returns: news of the breaker ('', 'ailing' or 'recovered'), ms since it opened; then of the page:
--          delivered, made, charged, doubtful, possible duplicate
write_although_full(KEYS[2])
local now = now_ms()
local token, outcome = ARGV[2], ARGV[3]
local page = read_page(KEYS[1])
local made, charged, doubtful = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local duplicate, replays, dies = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[12] == '1'
local is_own, is_known = page.token == token, page.delivered or page.replays >= 0
local may_have_counted = outcome == 'delivered' or outcome == 'unknown'

local function answer(news, since)
  return {news, math.ceil(since), page.delivered and 1 or 0, page.made, page.charged, page.doubtful, page.duplicate}
end

-- The answer to the first of two equal calls was lost.
if is_own and (page.lease_until == 0 or page.claimed_at == -1) then return answer('', 0) end

local is_others_claim = not is_own and page.lease_until > 0
page.duplicate = math.max(page.duplicate, duplicate)
-- Another worker has taken this goal over meanwhile, so it was sent twice.
if not is_own and is_known and may_have_counted then page.duplicate = 1 end
page.made = math.max(page.made + (is_others_claim and 1 or 0), made)

if outcome == 'delivered' or page.delivered then
  page.delivered, page.at = true, page.at or string.format('%.0f', now)
  redis.call('SET', KEYS[1], string.format('d %s %d %d %s', page.at, page.made, page.duplicate, token), 'PX', LIFE)
  if read_letter(KEYS[5], ARGV[1]) then
    redis.call('HDEL', KEYS[5], ARGV[1])
    redis.call('ZREM', KEYS[6], ARGV[1])
  end
elseif not is_others_claim then
  -- An attempt from before a replay is charged no more.
  if replays >= page.replays then page.charged = math.max(page.charged, charged) end
  page.doubtful, page.replays = math.max(page.doubtful, doubtful), math.max(page.replays, replays)
  page.token, page.lease_until, page.lost, page.losses = token, 0, 0, '-'
  -- The claim goes on until the letter is there, or a copy would find neither.
  if dies then page.claimed_at, page.lease_until = -1, now + BURIAL else page.owner = '-' end
  write_page(KEYS[1], page, math.max(LIFE, 2 * BURIAL))
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
  if gate[6] then return answer('recovered', now - opened_at) end
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
    return answer('ailing', now - opened_at)
  end
end
return answer('', 0)
