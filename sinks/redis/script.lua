-- Writes one row if it is later than what is there, as stream.Ordering.Later says. KEYS[1] is the row's key. It returns 1
-- where it wrote, 0 where an equal or later event is there.
local rule, position, partition, time = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local keep, mend = ARGV[5], ARGV[6] == '1' -- milliseconds of a mark; the event that made the row may write it again
local ends, gone = ARGV[7], ARGV[8] == '1' -- of the row, or ''; fields and values follow

-- before compares bytes. Lua's < on texts asks the server's locale, and most of them order dashes and capitals otherwise.
local function before(a, b)
  if a == b then return false end
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

-- pcall where errors are to be expected: their text reaches the sink as the server says it.
local old = redis.pcall('HMGET', KEYS[1], '_position', '_partition', '_time')
if old.err then return old end
if old[1] then
  local newer
  if rule == 'position' or old[2] == partition then
    newer = before(old[1], position) or mend and old[1] == position
  else -- numbers of Lua hold microseconds until the year 2255
    local was, is = tonumber(old[3]) or 0, tonumber(time)
    newer = was < is or was == is and before(old[2] or '', partition)
  end
  if not newer then return 0 end
end

if not gone and ends ~= '' then
  local now = redis.call('TIME')
  gone = tonumber(ends) <= now[1] * 1000 + math.floor(now[2] / 1000)
end
local row = {'_partition', partition}
if rule == 'time' then
  row[3], row[4] = '_time', time
end
if gone then
  row[#row + 1], row[#row + 2] = '_deleted', '1'
else
  for i = 9, #ARGV do row[#row + 1] = ARGV[i] end
end

-- The new values go first: a server whose memory is full refuses this and nothing has changed.
local done = redis.pcall('HSET', KEYS[1], unpack(row))
if type(done) == 'table' and done.err then return done end
local place = 0
if old[1] then place = 1 end
if redis.call('HLEN', KEYS[1]) > #row / 2 + place then
  local wanted = {_position = true}
  for i = 1, #row, 2 do wanted[row[i]] = true end
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if not wanted[field] then redis.call('HDEL', KEYS[1], field) end
  end
end
if gone then
  redis.call('PEXPIRE', KEYS[1], keep)
elseif ends ~= '' then
  redis.call('PEXPIREAT', KEYS[1], ends)
else
  redis.call('PERSIST', KEYS[1])
end
-- The position goes last: where a user may not do one of the calls above, the row is written again once he may.
redis.call('HSET', KEYS[1], '_position', position)
return 1
