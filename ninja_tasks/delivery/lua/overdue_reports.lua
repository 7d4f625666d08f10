-- KEYS: reports.  ARGV: whether to take those of windows that are not over too, window ms
-- Returns: class, letters, delivery id of the last, ...
local now = now_ms()
local taken = {}
local reports = redis.call('HGETALL', KEYS[1])
for i = 1, #reports, 2 do
  -- What follows the id is of a later version; what cannot be read is of no use.
  local ends_at, counted, id = string.match(reports[i + 1], '^(%d+) (%d+) (%S+)')
  local is_over = now >= tonumber(ends_at or 0)
  if tonumber(counted or 0) > 0 and (is_over or ARGV[1] == '1') then
    taken[#taken + 1], taken[#taken + 2], taken[#taken + 3] = reports[i], counted, id
    redis.call('HSET', KEYS[1], reports[i], string.format('%.0f 0 %s', now + ARGV[2], id))
  elseif is_over then
    redis.call('HDEL', KEYS[1], reports[i])
  end
end
return taken
