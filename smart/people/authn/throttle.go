package authn

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
)

const (
	prefixThrottle = "throttle/"
	freeTries      = 5  // failures of an account
	freeAddress    = 20 // failures of an address, over all accounts
	maxDelay       = 15 * time.Minute
	maxDelayFrom   = time.Minute // shorter, because an address may be that of a whole hospital
	forget         = 24 * time.Hour
)

// Throttle counts failed attempts and delays further ones.
type Throttle struct {
	Store store.State
	Clock func() time.Time
}

type failures struct {
	Count int       `json:"n"`
	Last  time.Time `json:"last"`
}

// Try is one attempt. account and address are the keys of its two counters,
// with their values and stored bytes as read by Begin.
type Try struct {
	account, address       string
	byAccount, byAddress   failures
	oldAccount, oldAddress []byte
	now                    time.Time
}

func throttleKey(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return prefixThrottle + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Begin reports how long the account has to wait at this device and address,
// zero if it may try now. device is empty unless the browser has signed in with
// the account before.
func (t Throttle) Begin(ctx context.Context, account, device, remote string) (try Try, wait time.Duration, err error) {
	try = Try{account: throttleKey("account", account, device),
		address: throttleKey("address", limit.Network(remote)), now: t.Clock()}
	if try.byAccount, try.oldAccount, err = t.read(ctx, try.account, try.now); err != nil {
		return try, 0, err
	}
	if try.byAddress, try.oldAddress, err = t.read(ctx, try.address, try.now); err != nil {
		return try, 0, err
	}
	wait = max(try.byAccount.wait(try.now, freeTries, maxDelay), try.byAddress.wait(try.now, freeAddress, maxDelayFrom))
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
	over := f.Count - free
	if over < 0 {
		return 0
	}
	d := most
	if over < 10 {
		d = min(most, time.Second<<over)
	}
	// If the clock was set back, the wait is still at most d.
	return min(d, max(0, f.Last.Add(d).Sub(now)))
}

// Failed returns the writes that count a failure. They use compare-and-swap, so
// that concurrent attempts are all counted. If the batch fails with Conflict,
// the attempt has to begin again.
func (try Try) Failed() ([]store.StateWrite, error) {
	account, err := try.count(try.account, try.byAccount, try.oldAccount)
	if err != nil {
		return nil, err
	}
	address, err := try.count(try.address, try.byAddress, try.oldAddress)
	return []store.StateWrite{account, address}, err
}

func (try Try) count(key string, f failures, old []byte) (store.StateWrite, error) {
	f.Count, f.Last = f.Count+1, try.now.UTC()
	b, err := json.Marshal(f)
	if err != nil {
		return store.StateWrite{}, fhir.Wrap("authn.Throttle", err)
	}
	w := store.StateWrite{Key: key, Value: b, Expect: store.StateAbsent, Expires: try.now.Add(forget)}
	if old != nil {
		w.Expect, w.Old = store.StateEquals, old
	}
	return w, nil
}

// Succeeded returns the write that resets the account's failures. The failures
// of the address remain, because otherwise an attacker could reset them with an
// account of their own. The write fails with Conflict if a failure was counted
// in the meantime, so that concurrent attempts cannot avoid the delay.
func (try Try) Succeeded() store.StateWrite {
	w := store.StateWrite{Key: try.account, Expect: store.StateAbsent}
	if try.oldAccount != nil {
		w.Expect, w.Old = store.StateEquals, try.oldAccount
	}
	return w
}
