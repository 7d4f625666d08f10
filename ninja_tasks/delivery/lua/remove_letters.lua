-- Removes letters that are still the ones that were read: a replayed goal may have died again.
-- KEYS: letters, times of letters, then, if the goals may be enqueued as new ones, their pages
-- ARGV: pairs of delivery id and document.  Returns: how many
local removed = 0

-- What was charged is forgiven, and what may have counted stays known.
local function forgive(key)
  local page = read_page(key)
  if page.delivered or page.replays < 0 or page.lease_until > 0 then return end
  if page.doubtful > 0 then page.duplicate = 1 end
  page.charged, page.doubtful, page.lost, page.losses = 0, 0, 0, '-'
  write_page(key, page, math.max(1, redis.call('PTTL', key)))
end

for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    local page = KEYS[2 + (i + 1) / 2]
    if page then forgive(page) end
    removed = removed + 1
  end
end
return removed
