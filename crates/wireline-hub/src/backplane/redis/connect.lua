-- KEYS: the node's fence.
-- ARGV: the number of the connection, greater than those before; how long it is remembered, in milliseconds.
if tonumber(redis.call('GET', KEYS[1]) or 0) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
