-- Redis' own clock, in milliseconds: the clocks of the workers may differ.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + time[2] / 1000
end
