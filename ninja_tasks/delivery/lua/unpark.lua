-- Forgets goals whose claim still stands: one that was parked again meanwhile stays.
-- KEYS: documents, due times, enqueue times.  ARGV: pairs of delivery id and claim
for i = 1, #ARGV, 2 do
  local due = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if due and tonumber(due) == tonumber(ARGV[i + 1]) then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('ZREM', KEYS[3], ARGV[i])
  end
end
