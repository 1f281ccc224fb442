-- KEYS: the topic's stream; the publication's key; the node's fence.
-- ARGV: what is delivered; its mark; a mark for the beginning of the topic; bytes of payload;
-- the history's messages, bytes, and age; the lifetime of the position; that of the publication's key; the channel; the
-- number of the connection.
local key = KEYS[1]
if is_late(KEYS[3], ARGV[11]) then
  return redis.error_reply('TRYAGAIN over another connection')
end
local known = redis.call('GET', KEYS[2])
if known then
  return known
end
local last, before = beginning(ARGV[3]), 0
if redis.call('EXISTS', key) == 1 then
  local facts = describe(key)
  last = facts['last-generated-id']
  if facts['last-entry'] then
    before = tonumber(facts['last-entry'][2][10])
  end
end
local id = whole(offset_of(last) + 1) .. '-' .. ARGV[2]
local time, total = now(), before + tonumber(ARGV[4])
redis.call('XADD', key, 'MAXLEN', ARGV[5], id, 'd', ARGV[1], 'p', last,
  'x', whole(time + tonumber(ARGV[7])), 'b', whole(before), 'e', whole(total))
local bytes = tonumber(ARGV[6])
trim(key, function(entry)
  return tonumber(entry[2][6]) >= time and total - tonumber(entry[2][8]) <= bytes
end)
keep_up(key, ARGV[8])
-- Last, since a script that fails is not undone.
redis.call('SET', KEYS[2], id, 'PX', ARGV[9])
redis.call('PUBLISH', ARGV[10], id .. ' ' .. last .. '\n' .. ARGV[1])
return id
