-- Begins the leases of held messages anew; one that was put back meanwhile stays back.
-- KEYS: leases
-- ARGV: tags
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
local leases = {}
for number, tag in ipairs(ARGV) do
  leases[2 * number - 1], leases[2 * number] = now, tag
end
return redis.call('ZADD', KEYS[1], 'XX', 'CH', unpack(leases))
