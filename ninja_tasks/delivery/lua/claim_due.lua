-- KEYS: documents, due times.  ARGV: how many, lease ms.  Returns: delivery id, claim, document, ...
local now = now_ms()
local claim = string.format('%.1f', math.floor(now + ARGV[2]) + 0.5)
local claimed = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  redis.call('ZADD', KEYS[2], claim, id)
  claimed[#claimed + 1] = id
  claimed[#claimed + 1] = claim
  claimed[#claimed + 1] = redis.call('HGET', KEYS[1], id)
end
return claimed
