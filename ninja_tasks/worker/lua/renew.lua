-- Begins the leases of held messages anew; one that was put back meanwhile stays back.
-- KEYS: leases
-- ARGV: tags
-- After one command that takes no memory, a full Redis lets a script write.
redis.call('ZREM', KEYS[1], '')
local time = redis.call('TIME')
local now = string.format('%.6f', time[1] + time[2] / 1000000)
local leases = {}
for at, tag in ipairs(ARGV) do leases[2 * at - 1], leases[2 * at] = now, tag end
return redis.call('ZADD', KEYS[1], 'XX', 'CH', unpack(leases))
