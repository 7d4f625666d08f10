-- Counts a dead letter.  A class's value: <end of its window, ms> <letters counted in it> <delivery id of the last>
-- KEYS: reports.  ARGV: class, delivery id, letters counted elsewhere, window ms
-- Returns: for how many letters an event is due
local now = now_ms()
local ends_at, counted = 0, 0
local text = redis.call('HGET', KEYS[1], ARGV[1])
if text then
  local words = string.gmatch(text, '%S+')
  ends_at, counted = tonumber(words() or '') or 0, tonumber(words() or '') or 0
end
counted = counted + 1 + tonumber(ARGV[3])
local due = 0
if now >= ends_at then due, counted, ends_at = counted, 0, now + ARGV[4] end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %d %s', ends_at, counted, ARGV[2]))
return due
