-- KEYS: letters.  ARGV: delivery id, document as it was read, new document
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
