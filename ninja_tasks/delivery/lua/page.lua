-- A full Redis lets a script write after one command that takes no memory, and a delivery frees more
-- than it takes: the message is larger than what the ledger keeps.
local function write_although_full(key)
  redis.call('HDEL', key, '')
end

-- Whether a process that an earlier version may not have named has a heartbeat.
local function is_alive(heartbeats, process)
  return not process or redis.call('EXISTS', heartbeats .. process) == 1
end

-- A goal's page in the ledger, one string of words:
--   d <delivered at, ms> <attempts> <possible duplicate> <token>
--   o <attempts> <charged> <doubtful> <possible duplicate> <replays> <0> <token> <claimed at, ms> <lease until, ms>
--     <process that claimed it> <how often its worker was lost since the last answer> <when, ms and comma>
-- The 0 is a slot of the limit in pages of an earlier version.
-- A lease of 0 means that the attempt with this token is settled. With a lease, -1 as the time of the claim
-- means that it is settled too, and its worker is writing the goal's dead letter; 0 means that an earlier
-- version asked about the goal before its turn, and did not send it.
-- More words than these are those of a later version. Of a page that cannot be read nobody knows whether
-- its goal was counted, so it reads as one attempt in doubt.
local function read_page(key)
  local text = redis.call('GET', key)
  local page = {made = 0, charged = 0, doubtful = 0, duplicate = 0, replays = -1,
                token = '-', claimed_at = 0, lease_until = 0, owner = '-', lost = 0, losses = '-'}
  if not text then return page end
  local words = {}
  for word in string.gmatch(text, '%S+') do words[#words + 1] = word end
  local function number(at) return tonumber(words[at] or '') or 0 end
  if words[1] == 'd' and tonumber(words[2] or '') then
    page.delivered, page.at = true, words[2]
    page.made, page.duplicate, page.token = number(3), number(4), words[5] or '-'
    return page
  end
  if words[1] ~= 'o' or not tonumber(words[4] or '') then
    page.made, page.doubtful, page.replays = 1, 1, 0
    return page
  end
  page.made, page.charged, page.doubtful = number(2), number(3), number(4)
  page.duplicate, page.replays = number(5), number(6)
  page.token = words[8] or '-'
  page.claimed_at, page.lease_until = number(9), number(10)
  page.owner, page.lost, page.losses = words[11] or '-', number(12), string.match(words[13] or '', '^[%d,]+$') or '-'
  return page
end

local function write_page(key, page, ttl_ms)
  local text = string.format('o %d %d %d %d %d 0 %s %.0f %.0f %s %d %s', page.made, page.charged,
    page.doubtful, page.duplicate, page.replays, page.token, page.claimed_at, page.lease_until,
    page.owner, page.lost, page.losses)
  redis.call('SET', key, text, 'PX', string.format('%.0f', ttl_ms))
end

-- A goal's dead letter, if there is one that can be read. A malformed message is no outcome of a goal, whose
-- id it may have; and one that is invalid was not sent, nor can it be replayed.
local function read_letter(key, delivery_id)
  local text = redis.call('HGET', key, delivery_id)
  if not text then return nil end
  local is_json, letter = pcall(cjson.decode, text)
  if not is_json or type(letter) ~= 'table' or letter.reason == 'malformed' then return nil end
  return {document = text, is_of_sent_goal = letter.reason ~= 'invalid',
          replays = tonumber(letter.replays) or 0, attempts = tonumber(letter.attempts) or 0}
end
