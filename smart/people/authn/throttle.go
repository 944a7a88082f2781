package authn

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/internal/limit"
)

const (
	roomThrottle = "throttle/"
	freeTries    = 5  // of an account
	freeAddress  = 20 // of an address, over all accounts
	maxDelay     = 15 * time.Minute
	maxDelayFrom = time.Minute // an address may be a whole hospital's
	forget       = 24 * time.Hour
)

// Throttle counts failures.
type Throttle struct {
	Store store.State
	Clock func() time.Time
}

type failures struct {
	N    int       `json:"n"`
	Last time.Time `json:"last"`
}

// Try is one attempt to be counted.
type Try struct {
	account, address string
	a, b             failures
	oldA, oldB       []byte
	now              time.Time
}

func throttleKey(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return roomThrottle + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Begin asks whether the account may be tried now, from the address and, when
// it is known to have signed in with that account before, the device. If not,
// wait says how long.
func (t Throttle) Begin(ctx context.Context, account, device, remote string) (try Try, wait time.Duration, err error) {
	try = Try{account: throttleKey("account", account, device),
		address: throttleKey("address", limit.Network(remote)), now: t.Clock()}
	if try.a, try.oldA, err = t.read(ctx, try.account, try.now); err != nil {
		return try, 0, err
	}
	if try.b, try.oldB, err = t.read(ctx, try.address, try.now); err != nil {
		return try, 0, err
	}
	wait = max(try.a.wait(try.now, freeTries, maxDelay), try.b.wait(try.now, freeAddress, maxDelayFrom))
	return try, wait, nil
}

func (t Throttle) read(ctx context.Context, key string, now time.Time) (failures, []byte, error) {
	var f failures
	b, err := t.Store.Get(ctx, key)
	if err != nil {
		return f, nil, fhir.Wrap("authn.Throttle", err)
	}
	if b == nil {
		return f, nil, nil
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, nil, fhir.Wrap("authn.Throttle", err)
	}
	if now.Sub(f.Last) >= forget {
		f = failures{}
	}
	return f, b, nil
}

func (f failures) wait(now time.Time, free int, most time.Duration) time.Duration {
	over := f.N - free
	if over < 0 {
		return 0
	}
	d := most
	if over < 10 {
		d = min(most, time.Second<<over)
	}
	// A clock that went back must not make anybody wait longer than d.
	return min(d, max(0, f.Last.Add(d).Sub(now)))
}

// Failed are the writes that count a failure. They are compare-and-swap:
// tries at the same time count one by one, and a batch that lost has to begin
// again.
func (y Try) Failed() ([]store.StateWrite, error) {
	account, err := y.count(y.account, y.a, y.oldA)
	if err != nil {
		return nil, err
	}
	address, err := y.count(y.address, y.b, y.oldB)
	return []store.StateWrite{account, address}, err
}

func (y Try) count(key string, f failures, old []byte) (store.StateWrite, error) {
	f.N, f.Last = f.N+1, y.now.UTC()
	b, err := json.Marshal(f)
	if err != nil {
		return store.StateWrite{}, fhir.Wrap("authn.Throttle", err)
	}
	w := store.StateWrite{Key: key, Value: b, Expect: store.StateAbsent, Expires: y.now.Add(forget)}
	if old != nil {
		w.Expect, w.Old = store.StateEquals, old
	}
	return w, nil
}

// Succeeded is the write that ends the account's row of failures; that of the
// address stays, or one good account would free it to try others. It fails
// when a failure was counted meanwhile: of many tries at once none is free.
func (y Try) Succeeded() store.StateWrite {
	w := store.StateWrite{Key: y.account, Expect: store.StateAbsent}
	if y.oldA != nil {
		w.Expect, w.Old = store.StateEquals, y.oldA
	}
	return w
}
