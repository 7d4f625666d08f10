-- Writes a dead letter, unless its goal is delivered, or has one that says more.
-- KEYS: letters, times of letters, page of the goal
-- ARGV: delivery id, document, died at in seconds, replays, attempts
-- Returns: written, kept (the letter that is there) or delivered
local page = read_page(KEYS[3])
if page.delivered then return 'delivered' end
local there = read_letter(KEYS[1], ARGV[1])
local replays, attempts = tonumber(ARGV[4]), tonumber(ARGV[5])
local says_more = not there or replays > there.replays
  or (replays == there.replays and attempts > there.attempts)
if says_more then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
end
-- Its worker's claim ends with the letter.
if page.claimed_at == -1 then
  page.lease_until = 0
  write_page(KEYS[3], page, math.max(1, redis.call('PTTL', KEYS[3])))
end
-- The answer to the first of two equal calls was lost.
return (says_more or there.document == ARGV[2]) and 'written' or 'kept'
