-- ARGV: the channel; what is said there.
return redis.call('PUBLISH', ARGV[1], ARGV[2])
