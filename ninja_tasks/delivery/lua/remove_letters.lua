-- Removes letters that are still the ones that were read: a replayed goal may have died again.
-- KEYS: letters, times of letters.  ARGV: pairs of delivery id and document.  Returns: how many
local removed = 0
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    removed = removed + 1
  end
end
return removed
