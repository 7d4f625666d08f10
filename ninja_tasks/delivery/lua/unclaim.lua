-- Ends a claim that nobody heard was granted: its goal was not sent, and is not in doubt.
-- KEYS: page, gate
-- ARGV: token
-- Constants: LIFE (of a page), in ms
write_although_full(KEYS[2])
local page = read_page(KEYS[1])
if page.token == ARGV[1] and page.lease_until > 0 then
  page.lease_until = 0
  write_page(KEYS[1], page, LIFE)
end
if redis.call('HGET', KEYS[2], 'probe') == ARGV[1] then
  redis.call('HDEL', KEYS[2], 'probe', 'probe_until')
end
