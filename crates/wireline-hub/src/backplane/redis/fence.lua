-- Stops what was sent over a connection that the node has given up: it may have been held up in the network or in front of
-- a server that hung, and come after what the node has done since.
local function is_late(key, connection)
  return tonumber(redis.call('GET', key) or 0) > tonumber(connection)
end
