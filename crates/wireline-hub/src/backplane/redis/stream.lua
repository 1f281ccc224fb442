-- What the scripts on a topic share. A topic is a stream. An entry's id is its offset and its mark; its fields are
-- d: what is delivered, p: the id before it, x: when it expires, in milliseconds,
-- b and e: bytes of payload in this life of the topic before it, and with it.

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function whole(number)
  return string.format('%.0f', number)
end

local function offset_of(id)
  return tonumber(string.match(id, '^%d+'))
end

-- Where a topic begins of which nothing is known: at the time, so that its offsets are greater than those of its lives
-- before, and with a mark of its own.
local function beginning(mark)
  return whole(now()) .. '-' .. mark
end

local function describe(key)
  local facts, list = {}, redis.call('XINFO', 'STREAM', key)
  for index = 1, #list, 2 do
    facts[list[index]] = list[index + 1]
  end
  return facts
end

-- A name that was only asked for is kept for two minutes, which nodes that hear it prolong: whoever asks for names costs
-- little.
local UNTOUCHED = 120000

local function keep_up(key, lifetime)
  if redis.call('PTTL', key) < tonumber(lifetime) / 2 then
    redis.call('PEXPIRE', key, lifetime)
  end
end

-- Takes away the oldest entries, up to the first that may stay: what follows that may stay, too.
local function trim(key, may_stay)
  local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  if not first or may_stay(first) then
    return
  end
  -- Offsets have no gaps, so that they can be halved.
  local low = offset_of(first[1]) + 1
  local high = offset_of(describe(key)['last-generated-id']) + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = redis.call('XRANGE', key, whole(middle), whole(middle))[1]
    if entry and may_stay(entry) then
      high = middle
    else
      low = middle + 1
    end
  end
  redis.call('XTRIM', key, 'MINID', whole(low))
end
