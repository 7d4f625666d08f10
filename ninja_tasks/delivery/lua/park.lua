-- KEYS: documents, due times, enqueue times.  ARGV: delivery id, document, delay ms, enqueued at ms
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], math.floor(now_ms() + ARGV[3]), ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1])
