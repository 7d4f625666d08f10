-- KEYS: documents, due times.  ARGV: how many, lease ms.  Returns: delivery id, claim, document, ...
write_although_full(KEYS[1])
local now = now_ms()
local claim = string.format('%.1f', math.floor(now + ARGV[2]) + 0.5)
local claimed = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])) do
  local document = redis.call('HGET', KEYS[1], id)
  if document then
    redis.call('ZADD', KEYS[2], claim, id)
    claimed[#claimed + 1], claimed[#claimed + 2], claimed[#claimed + 3] = id, claim, document
  else
    redis.call('ZREM', KEYS[2], id)
  end
end
return claimed
