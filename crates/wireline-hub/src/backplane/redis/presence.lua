-- KEYS: the topic's rows. ARGV: what the names of leases begin with; the length of a lease's word.
-- The answer: of each row whose lease lasts the node, and the lease's word with the members behind it. The others are taken away.
local rows, answer, len = redis.call('HGETALL', KEYS[1]), {}, tonumber(ARGV[2])
for index = 1, #rows, 2 do
  local node, row = rows[index], rows[index + 1]
  if redis.call('GET', ARGV[1] .. node) == string.sub(row, 1, len) then
    answer[#answer + 1] = node
    answer[#answer + 1] = row
  else
    redis.call('HDEL', KEYS[1], node)
  end
end
return answer
