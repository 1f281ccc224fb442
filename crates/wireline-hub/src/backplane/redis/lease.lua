-- KEYS: the node's lease.
-- ARGV: a word for the lease if it is a new one; how long it lasts; how long a row is kept that nobody writes; the node;
-- then for each row its key, and the members or nothing.
-- The answer: the word for the lease. Rows with another word are those of a lease that has ended.
local word = redis.call('GET', KEYS[1]) or ARGV[1]
redis.call('SET', KEYS[1], word, 'PX', ARGV[2])
for index = 5, #ARGV, 2 do
  local key, members = ARGV[index], ARGV[index + 1]
  if members == '' then
    redis.call('HDEL', key, ARGV[4])
  else
    redis.call('HSET', key, ARGV[4], word .. members)
    redis.call('PEXPIRE', key, ARGV[3])
  end
end
return word
