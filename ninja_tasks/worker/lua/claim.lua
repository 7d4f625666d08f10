-- Acknowledges what is done, and takes messages: off their lists and into the held ones, in one step.
-- KEYS: held messages, their leases, then the lists in the order in which they are looked at
-- ARGV: most messages to take, prefix of their tags, number of rooms, for each room how many messages
--       it takes, for each list the end of its entry, its priority, the number of its room, and for how many
--       seconds its leases have run when they begin, then the acknowledged tags
-- Returns: for each message the number of its list and its bytes; the n-th has the tag
--          <prefix>.<n>.<priority>
local lists, rooms, free = #KEYS - 2, tonumber(ARGV[3]), {}
for room = 1, rooms do free[room] = tonumber(ARGV[3 + room]) end
for first = 4 + rooms + 4 * lists, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  redis.call('ZREM', KEYS[2], unpack(ARGV, first, last))
  redis.call('HDEL', KEYS[1], unpack(ARGV, first, last))
end
local most = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local taken, count = {}, 0
for number = 1, lists do
  local list, words = KEYS[number + 2], rooms + 4 * number
  local ends, priority, room = ARGV[words], ARGV[words + 1], tonumber(ARGV[words + 2])
  local begun = string.format('%.6f', now - ARGV[words + 3])
  local wanted = math.min(most - count, free[room])
  -- This comes first: after one command that frees memory, a full Redis lets a script write.
  local messages = wanted > 0 and redis.call('RPOP', list, wanted)
  if messages and #messages > 0 then
    local held, leases = {}, {}
    free[room] = free[room] - #messages
    for _, raw in ipairs(messages) do
      count = count + 1
      local tag = ARGV[2] .. '.' .. count .. '.' .. priority
      held[#held + 1], held[#held + 2] = tag, '[' .. raw .. ends
      leases[#leases + 1], leases[#leases + 2] = begun, tag
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
