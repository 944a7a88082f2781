package hints

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// Bounds of the registry of live processes.
const (
	maxNodes = 256
	maxNode  = 4096 // bytes of one value
)

// beatScript writes the value of an instance and returns the instances and values
// that have not expired. A registry that this package did not write is removed.
var beatScript = redis.NewScript(`
local key, instance, value, life, most = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('TYPE', key).ok ~= 'hash' or redis.call('HLEN', key) > most then redis.call('DEL', key) end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if life > 0 then
	redis.call('HSET', key, instance, string.format('%.0f %s', now + life, value))
	redis.call('PEXPIRE', key, life)
elseif instance ~= '' then
	redis.call('HDEL', key, instance)
end
local out, all = {}, redis.call('HGETALL', key)
for i = 1, #all, 2 do
	local expires, v = string.match(all[i + 1], '^(%d+) (.*)$')
	if expires and tonumber(expires) > now and tonumber(expires) <= now + 3600000 then
		out[#out + 1], out[#out + 2] = all[i], v
	else
		redis.call('HDEL', key, all[i])
	end
end
return out`)

// Beat states that an instance lives, and returns the values of all that do, by
// instance. The value is forgotten after life; a life of 0 forgets it at once.
func (r *Redis) Beat(ctx context.Context, instance string, value []byte, life time.Duration) (map[string][]byte,
	error) {
	if len(value) > maxNode {
		return nil, errAnswer
	}
	ctx, cancel := context.WithTimeout(ctx, r.timing.Call)
	defer cancel()
	out, err := beatScript.Run(ctx, r.client, []string{r.prefix + "nodes"}, instance, value, life.Milliseconds(),
		maxNodes).StringSlice()
	if err != nil {
		return nil, err
	}
	live := map[string][]byte{}
	for i := 0; i+1 < len(out); i += 2 {
		if len(out[i+1]) <= maxNode {
			live[out[i]] = []byte(out[i+1])
		}
	}
	return live, nil
}
