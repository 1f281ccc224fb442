-- KEYS: the topic's stream.
-- ARGV: the id behind which to read, or nothing; publications at most; a mark for the beginning of the topic; the
-- lifetime of the position.
-- The answer: the last id; whether everything behind that id follows; and of each publication the id, the id before it,
-- and what was delivered.
local key, after, max = KEYS[1], ARGV[1], tonumber(ARGV[2])
if redis.call('EXISTS', key) == 0 then
  -- A stream without entries, to which nothing was added: it knows its last id.
  local id = redis.call('XADD', key, 'MAXLEN', 0, beginning(ARGV[3]), 'd', '')
  redis.call('XSETID', key, id, 'ENTRIESADDED', 0, 'MAXDELETEDID', id)
end
local is_untouched = describe(key)['entries-added'] == 0
keep_up(key, is_untouched and math.min(tonumber(ARGV[4]), UNTOUCHED) or ARGV[4])
local time = now()
trim(key, function(entry)
  return tonumber(entry[2][6]) >= time
end)
local top = describe(key)['last-generated-id']
local entries, is_proven = {}, after == top
if after ~= '' and not is_proven then
  entries = redis.call('XRANGE', key, '(' .. after, '+', 'COUNT', whole(math.max(max, 1)))
  is_proven = entries[1] ~= nil and entries[1][2][4] == after
end
if not is_proven then
  entries = {}
  if max > 0 then
    local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', whole(max))
    for index = #newest, 1, -1 do
      entries[#entries + 1] = newest[index]
    end
  end
end
local answer = {top, is_proven and '1' or '0'}
for index = 1, math.min(#entries, max) do
  local id, fields = entries[index][1], entries[index][2]
  answer[#answer + 1] = id
  answer[#answer + 1] = fields[4]
  answer[#answer + 1] = fields[2]
end
return answer
