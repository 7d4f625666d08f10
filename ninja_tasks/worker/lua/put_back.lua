-- Puts held messages back on their lists: those named, or those whose lease has ended.
-- KEYS: held messages, their leases
-- ARGV: command that puts one back (RPUSH: it is the next, LPUSH: it is the last), prefix of the lists,
--       separator before a priority, lease in seconds ('' if tags follow), then the tags, or how many
-- Returns: how many were put back
local tags = {}
if ARGV[4] == '' then
  for number = 5, #ARGV do tags[#tags + 1] = ARGV[number] end
else
  local ended = redis.call('TIME')[1] - tonumber(ARGV[4])
  tags = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ended, 'LIMIT', 0, ARGV[5])
end
local count = 0
-- The oldest last, so that it is the next to be taken.
for number = #tags, 1, -1 do
  local tag = tags[number]
  local held = redis.call('HGET', KEYS[1], tag)
  if held then
    local raw, queue = string.match(held, '^%[(.*),%s*"[^"]*",%s*"([^"]*)"%]$')
    if raw then
      -- Celery's own transport, which shares the format, has no priority in its tags.
      local priority = string.match(tag, '^[^.]+%.%d+%.(%d+)$')
      local list = ARGV[2] .. queue
      if priority and priority ~= '0' then list = list .. ARGV[3] .. priority end
      redis.call('HDEL', KEYS[1], tag)
      redis.call(ARGV[1], list, raw)
      count = count + 1
    end
  end
  -- An entry that nobody can read stays where it is, but does not stand in the way of others.
  redis.call('ZREM', KEYS[2], tag)
end
return count
