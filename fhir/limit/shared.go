package limit

import (
	"strings"
	"sync"
	"time"
)

// Shared keeps buckets that the processes of a cluster share. It is safe for
// concurrent use. Implementations answer within milliseconds or fail.
type Shared interface {
	// Take removes n tokens from a bucket that earns rate tokens per second and holds
	// size tokens, and then up to extra tokens more, as many as are left. If the
	// bucket has less than one token, Take removes nothing, and returns false and the
	// time until it has one. If n is 0, nothing is removed. bucket names the bucket; it
	// contains addresses and must not be stored in plain.
	Take(bucket []byte, rate, size, n float64, extra int) (more int, wait time.Duration, ok bool, err error)
	// Processes returns the number of live processes, this one included.
	Processes() int
}

// ahead is the part of a second's tokens that a process may take from a shared
// bucket beyond those it needs, so that a busy endpoint asks only this often.
// What a process knows of a bucket, such as tokens taken ahead, is lost after keep.
const (
	ahead = 0.01
	keep  = time.Second
)

// sharing adds the shared form to Buckets. Of each shared bucket it keeps what
// spares a call: tokens that were taken ahead, and the end of a refusal.
type sharing struct {
	by   Shared
	name string

	mu    sync.Mutex
	byKey map[Key]*shareState
	swept time.Time
}

// shareState is the state of one shared bucket in this process. Its lock is held
// during a call, so that concurrent requests do not all take tokens ahead.
type shareState struct {
	mu      sync.Mutex
	ahead   int           // tokens taken at the time at and not used
	refused time.Duration // the wait of a refusal at the time at
	at      time.Time
}

// Share makes the buckets of t those of all processes that use the same name, and
// returns t. If by is nil, they remain those of this process. Share must be called
// before t is used.
func (t *Buckets) Share(by Shared, name string) *Buckets {
	if by != nil {
		t.shared = &sharing{by: by, name: name, byKey: map[Key]*shareState{}}
	}
	return t
}

func (s *sharing) take(k Key, now time.Time, n, rate, size float64) (wait time.Duration, ok bool, err error) {
	st := s.state(k, now)
	st.mu.Lock()
	defer st.mu.Unlock()
	since := now.Sub(st.at)
	if fresh := since >= 0 && since < keep; fresh { // not if the clock was set back
		if since < st.refused {
			return st.refused - since, false, nil
		}
		if n == 1 && st.ahead > 0 {
			st.ahead--
			return 0, true, nil
		}
	}
	extra := 0
	if n == 1 {
		extra = int(rate * ahead)
	}
	more, wait, ok, err := s.by.Take(s.bucket(k), rate, size, n, extra)
	if err != nil {
		return 0, false, err
	}
	// A refusal holds until its wait is over, because other processes can only
	// lengthen it.
	st.ahead, st.refused, st.at = more, wait, now
	return wait, ok, nil
}

// state returns the state of a bucket.
func (s *sharing) state(k Key, now time.Time) *shareState {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.byKey[k]
	if st != nil {
		return st
	}
	s.evict(now)
	st = &shareState{at: now}
	s.byKey[k] = st
	return st
}

// evict makes space for one more state. At most once a second it removes those that
// spare no call. Then it removes arbitrary ones.
func (s *sharing) evict(now time.Time) {
	if len(s.byKey) < maxBuckets {
		return
	}
	if d := now.Sub(s.swept); d >= time.Second || d < 0 {
		s.swept = now
		for k, st := range s.byKey {
			if st.idle(now) {
				delete(s.byKey, k)
			}
		}
	}
	for k := range s.byKey {
		if len(s.byKey) < maxBuckets {
			return
		}
		delete(s.byKey, k)
	}
}

// idle reports whether the state can be removed. A state in use is kept.
func (st *shareState) idle(now time.Time) bool {
	if !st.mu.TryLock() {
		return false
	}
	defer st.mu.Unlock()
	since := now.Sub(st.at)
	return st.ahead == 0 && st.refused == 0 || since < 0 || since >= keep
}

// bucket returns the name of a bucket in Shared. A zero byte ends each part.
func (s *sharing) bucket(k Key) []byte {
	return []byte(strings.Join([]string{s.name, k.remote, k.client}, "\x00"))
}
