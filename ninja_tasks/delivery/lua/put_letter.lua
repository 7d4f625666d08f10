-- Writes a dead letter, unless its goal is delivered, or has one that says more.
-- KEYS: letters, times of letters, page of the goal
-- ARGV: delivery id, document, died at in seconds, replays, attempts, bytes in base64 if it is of a message
--       that is no goal: such a letter is not written where its id has another, or has come to something
-- Returns: written or kept
local page = read_page(KEYS[3])
local text = redis.call('HGET', KEYS[1], ARGV[1])

local function write(delivery_id, document)
  redis.call('HSET', KEYS[1], delivery_id, document)
  redis.call('ZADD', KEYS[2], ARGV[3], delivery_id)
end

if ARGV[6] ~= '' then
  local is_json, letter = pcall(cjson.decode, text or '')
  if is_json and type(letter) == 'table' and letter.raw == ARGV[6] then return 'written' end
  if text or page.delivered then return 'kept' end
  write(ARGV[1], ARGV[2])
  return 'written'
end

if page.delivered then return 'kept' end
local there = read_letter(KEYS[1], ARGV[1])
local replays, attempts = tonumber(ARGV[4]), tonumber(ARGV[5])
local says_more = not there or replays > there.replays
  or (replays == there.replays and attempts > there.attempts)
if says_more then
  -- What is no letter of this goal moves to an id of its own.
  if text and not there then write(redis.sha1hex(text), text) end
  write(ARGV[1], ARGV[2])
end
-- Its worker's claim ends with the letter.
if page.claimed_at == -1 then
  page.lease_until = 0
  write_page(KEYS[3], page, math.max(1, redis.call('PTTL', KEYS[3])))
end
-- The answer to the first of two equal calls was lost.
return (says_more or there.document == ARGV[2]) and 'written' or 'kept'
