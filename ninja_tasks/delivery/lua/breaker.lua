-- KEYS: gate.  Returns: closed, open or half_open: the pause is over and one goal tries
local open_until = tonumber(redis.call('HGET', KEYS[1], 'open_until') or 0)
if open_until == 0 then return 'closed' end
return open_until > now_ms() and 'open' or 'half_open'
