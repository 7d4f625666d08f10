-- Begins the leases of held messages anew; one that was put back meanwhile stays back.
-- KEYS: leases
-- ARGV: for each message its tag, and for how many seconds its lease has run when it begins
-- After one command that takes no memory, a full Redis lets a script write.
redis.call('ZREM', KEYS[1], '')
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local leases = {}
for at = 1, #ARGV, 2 do
  leases[at], leases[at + 1] = string.format('%.6f', now - ARGV[at + 1]), ARGV[at]
end
return redis.call('ZADD', KEYS[1], 'XX', 'CH', unpack(leases))
