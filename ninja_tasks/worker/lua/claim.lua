-- Acknowledges what is done, and takes messages: off their lists and into the held ones, in one step.
-- KEYS: held messages, their leases, then the lists in the order in which they are looked at
-- ARGV: most messages to take, prefix of their tags, how many seconds a lease lasts, for each list the
--       end of its entry and its priority, then the acknowledged tags
-- Returns: whether a lease has ended, then for each message the number of its list and its bytes; the
--          n-th has the tag <prefix>.<n>.<priority>
local most, prefix, lists = tonumber(ARGV[1]), ARGV[2], #KEYS - 2
for first = 4 + 2 * lists, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  redis.call('ZREM', KEYS[2], unpack(ARGV, first, last))
  redis.call('HDEL', KEYS[1], unpack(ARGV, first, last))
end
-- Most questions are those of idle workers.
if redis.call('EXISTS', unpack(KEYS, 2)) == 0 then return { 0 } end
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local ended = redis.call('ZCOUNT', KEYS[2], '-inf', now - tonumber(ARGV[3])) > 0
local taken, count = { ended and 1 or 0 }, 0
for number = 1, lists do
  local list, ends, priority = KEYS[number + 2], ARGV[2 + 2 * number], ARGV[3 + 2 * number]
  -- This comes first: after one command that frees memory, a full Redis lets a script write.
  local messages = count < most and redis.call('RPOP', list, most - count)
  if messages and #messages > 0 then
    local held, leases = {}, {}
    for _, raw in ipairs(messages) do
      count = count + 1
      local tag = prefix .. '.' .. count .. '.' .. priority
      held[#held + 1], held[#held + 2] = tag, '[' .. raw .. ends
      leases[#leases + 1], leases[#leases + 2] = string.format('%.6f', now), tag
      taken[#taken + 1], taken[#taken + 2] = number, raw
    end
    local written = redis.pcall('HSET', KEYS[1], unpack(held))
    if type(written) ~= 'table' then written = redis.pcall('ZADD', KEYS[2], unpack(leases)) end
    if type(written) == 'table' and written.err then
      -- A script has no rollback.
      for at = #messages, 1, -1 do
        redis.call('RPUSH', list, messages[at])
        redis.pcall('HDEL', KEYS[1], held[2 * at - 1])
      end
      return redis.error_reply(written.err)
    end
  end
end
return taken
