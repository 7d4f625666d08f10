-- May this goal be sent now? Claims it if so.
-- KEYS: page, times of parked goals, gate, heartbeat of this process, letters
-- ARGV: delivery id, token, this process, expired, stop on doubt, then of the message: made, charged,
--       doubtful, possible duplicate, replays
-- Constants: LEASE, LIFE (of a page), HEARTBEAT_LIFE and PROBE (until another goal may try an API that
--       fails), all in ms; MAX_ATTEMPTS; MOST_LOSSES (how often a worker may be lost)
-- Returns: answer, milliseconds to wait, made, charged, doubtful, possible duplicate, replays,
--          when its workers were lost since the last answer
write_although_full(KEYS[3])
local now = now_ms()
local token, process = ARGV[2], ARGV[3]
-- A claim must outlive its lease, or nobody would know that its worker was lost.
local life = math.max(LIFE, 2 * LEASE)
local page = read_page(KEYS[1])
local function answer(word, wait)
  return {word, math.ceil(wait or 0), page.made, page.charged, page.doubtful, page.duplicate,
          page.replays, page.losses}
end

if page.delivered then return answer('delivered') end
local replays = tonumber(ARGV[10])
-- One outcome until a person replays it: whatever comes of this goal otherwise is a later copy.
local letter = read_letter(KEYS[#KEYS], ARGV[1])
if letter and letter.is_of_sent_goal and replays <= letter.replays then return answer('dead') end
local others = page.lease_until > 0 and page.token ~= token
if others and page.lease_until > now then
  local alive = 0
  if page.owner == '-' then alive = page.lease_until - now
  else alive = redis.call('PTTL', string.sub(KEYS[4], 1, -#process - 1) .. page.owner) end
  if alive > 0 then return answer('busy', math.min(alive, page.lease_until - now)) end
end
-- A whole number is a parked goal, so this message is an old copy of it; the mover's claims are not whole.
local due = redis.call('ZSCORE', KEYS[2], ARGV[1])
if due and tonumber(due) % 1 == 0 and replays <= math.max(page.replays, 0) then return answer('parked') end

local counts = {made = tonumber(ARGV[6]), charged = tonumber(ARGV[7]), doubtful = tonumber(ARGV[8]),
                duplicate = tonumber(ARGV[9])}
for name, value in pairs(counts) do
  -- What a person replays carries the counts that now hold; any other message can be an old copy.
  if replays > page.replays or value > page[name] then page[name] = value end
end
if replays > page.replays then page.lost, page.losses = 0, '-' end
page.replays = math.max(page.replays, replays)
if others and page.claimed_at > 0 then
  -- The second of two that may have reached the API.
  if page.doubtful > 0 then page.duplicate = 1 end
  page.made, page.charged, page.doubtful = page.made + 1, page.charged + 1, page.doubtful + 1
  page.lease_until, page.lost = 0, page.lost + 1
  page.losses = (page.losses == '-' and '' or page.losses) .. string.format('%.0f,', page.claimed_at)
  write_page(KEYS[1], page, life)
end
if page.lost >= MOST_LOSSES then return answer('lost') end
if ARGV[4] == '1' then return answer('expired') end
if ARGV[5] == '1' and page.doubtful > counts.doubtful then return answer('doubt') end
if page.charged >= MAX_ATTEMPTS then return answer('exhausted') end

local gate = redis.call('HMGET', KEYS[3], 'paused', 'hold_until', 'open_until', 'probe', 'probe_until', 'probe_owner')
if gate[1] then return answer('paused', 5000) end
local hold_until = tonumber(gate[2] or 0)
if hold_until > now then return answer('hold', hold_until - now) end
local open_until = tonumber(gate[3] or 0)
if open_until > now then return answer('breaker', open_until - now) end
if open_until > 0 and gate[4] and gate[4] ~= token and tonumber(gate[5]) > now
    and is_alive(string.sub(KEYS[4], 1, -#process - 1), gate[6]) then
  return answer('breaker', 1000)
end

page.token, page.claimed_at, page.lease_until = token, now, now + LEASE
page.owner = process
-- The main process beats for its children, and may not know this one yet.
redis.call('SET', KEYS[4], '1', 'PX', HEARTBEAT_LIFE, 'NX')
write_page(KEYS[1], page, life)
if open_until > 0 then
  redis.call('HSET', KEYS[3], 'probe', token, 'probe_until', string.format('%.0f', now + PROBE), 'probe_owner', process)
end
return answer('go')
