-- Says that processes are alive, also to a full Redis.
-- KEYS: gate, then their heartbeats.  ARGV: life of each, ms
write_although_full(KEYS[1])
for number = 2, #KEYS do
  redis.call('SET', KEYS[number], '1', 'PX', ARGV[1])
end
