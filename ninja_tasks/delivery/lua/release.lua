-- Gives claims back that still stand: the goals are due again after a while.
-- KEYS: due times.  ARGV: ms until then, then pairs of delivery id and claim
-- After this a full Redis lets the script write.
redis.call('ZREM', KEYS[1], '')
for i = 2, #ARGV, 2 do
  local due = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if due and tonumber(due) == tonumber(ARGV[i + 1]) then
    redis.call('ZADD', KEYS[1], math.floor(now_ms() + ARGV[1]), ARGV[i])
  end
end
