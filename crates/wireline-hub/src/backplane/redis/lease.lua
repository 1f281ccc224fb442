-- KEYS: the node's lease; its fence.
-- ARGV: the number of the connection; a word for the lease if it is a new one; how long it lasts; how long a row is kept that nobody writes; the node;
-- then for each row its key, and the members or nothing.
-- The answer: the word for the lease. Rows with another word are those of a lease that has ended.
if is_late(KEYS[2], ARGV[1]) then
  return redis.error_reply('TRYAGAIN over another connection')
end
local word = redis.call('GET', KEYS[1]) or ARGV[2]
redis.call('SET', KEYS[1], word, 'PX', ARGV[3])
for index = 6, #ARGV, 2 do
  local key, members = ARGV[index], ARGV[index + 1]
  if members == '' then
    redis.call('HDEL', key, ARGV[5])
  else
    redis.call('HSET', key, ARGV[5], word .. members)
    redis.call('PEXPIRE', key, ARGV[4])
  end
end
return word
