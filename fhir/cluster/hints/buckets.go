package hints

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"pulsegate/fhir/limit"
)

// errDown is the error of a bucket that is not asked for, because Redis did not
// answer before.
var errDown = errors.New("redis: does not answer")

// takeScript takes tokens from a bucket by Redis's own clock, and expires the bucket
// when it would be full. ARGV holds the rate per second, the size, the tokens to
// take, and how many more to take if they are there. It returns whether the bucket
// had a token, and the tokens taken beyond those asked for or the wait in
// microseconds.
var takeScript = redis.NewScript(`
local rate, size, n, extra = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local key = KEYS[1]
local left, at
if redis.call('TYPE', key).ok == 'string' then
	local l, a = string.match(redis.call('GET', key), '^(-?%d+%.%d+) (%d+)$')
	left, at = tonumber(l), tonumber(a)
end
if not left or not at then left, at = size, now end
if now > at then left = left + (now - at) * rate / 1000000 end
left = math.min(left, size)
if left < 1 then return {0, math.ceil((1 - left) * 1000000 / rate)} end
if n == 0 then return {1, 0} end
left = left - n
local more = math.floor(math.max(0, math.min(extra, left)))
left = left - more
redis.call('SET', key, string.format('%.6f %.0f', left, now), 'PX', math.ceil((size - left) * 1000 / rate) + 1000)
return {1, more}`)

// Take is limit.Shared's. It waits at most Timing.Take, and not at all after several
// failures, until Redis answers again.
func (r *Redis) Take(bucket []byte, rate, size, n float64, extra int) (more int, wait time.Duration, ok bool,
	err error) {
	if r.down.Load() {
		return 0, 0, false, errDown
	}
	mac := hmac.New(sha256.New, r.secret)
	mac.Write(bucket)
	key := r.prefix + "bucket:" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:15])
	ctx, cancel := context.WithTimeout(r.ctx, r.timing.Take)
	defer cancel()
	out, err := takeScript.Run(ctx, r.client, []string{key}, rate, size, n, extra).Int64Slice()
	if err == nil && (len(out) != 2 || out[1] < 0 || out[0] == 1 && out[1] > int64(extra)) {
		err = errAnswer
	}
	if !r.note(err) {
		return 0, 0, false, err
	}
	if out[0] == 0 {
		return 0, time.Duration(out[1]) * time.Microsecond, false, nil
	}
	return int(out[1]), 0, true, nil
}

// Limits implements limit.Shared.
type Limits struct {
	Redis *Redis     // nil without Redis: each process then applies its share
	Live  func() int // returns the number of live processes
}

var _ limit.Shared = (*Limits)(nil)

// Take implements limit.Shared.
func (l *Limits) Take(bucket []byte, rate, size, n float64, extra int) (int, time.Duration, bool, error) {
	if l.Redis == nil {
		return 0, 0, false, errDown
	}
	return l.Redis.Take(bucket, rate, size, n, extra)
}

// Processes implements limit.Shared.
func (l *Limits) Processes() int { return l.Live() }
