package protocol

import (
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/proof/keys"
)

// TestKeyRotationWithCachedKeySet checks that a verifier that caches the key
// set for its maximum age can verify every token during rotations.
func TestKeyRotationWithCachedKeySet(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	fetch := func() jwk.Set {
		res := must(http.Get(w.base + "/.well-known/jwks.json"))
		defer res.Body.Close()
		return must(jwk.ParseReader(res.Body))
	}
	set, at := fetch(), w.clock.now()
	seen := map[string]bool{}
	for i := range 40 {
		if i == 5 {
			w.clock.add(keys.MaxAge)
			set, at = fetch(), w.clock.now()
		}
		w.clock.add(20 * time.Second)
		if _, err := w.ring.Tick(token.MaxUserLife); err != nil {
			t.Fatal(err)
		}
		w.subject.AuthTime = w.clock.now()
		out := w.authorize(c, "openid launch/patient patient/*.rs")
		if w.clock.now().Sub(at) > time.Minute {
			set, at = fetch(), w.clock.now()
		}
		for _, name := range []string{"access_token", "id_token"} {
			h, _ := claimsOf(t, out[name])
			seen[h["kid"].(string)] = true
			if _, err := jws.Verify([]byte(out[name].(string)), jws.WithKeySet(set)); err != nil {
				t.Fatalf("step %d: %s: %v", i, name, err)
			}
		}
		if s := w.read(out["access_token"], "Patient/p1"); s != 200 {
			t.Fatal(s)
		}
	}
	if len(seen) != 4 {
		t.Errorf("%d keys signed, want two keys per algorithm", len(seen))
	}
}

// TestKeyRotationDuringRequests checks that no request fails while keys are
// rotated.
func TestKeyRotationDuringRequests(t *testing.T) {
	w := newWorld(t)
	back := w.backend("system/*.rs")
	done := make(chan struct{})
	var wg sync.WaitGroup
	var requests, failed atomic.Int32
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				s, out, _ := w.postForm(token.Path, back,
					url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}}, nil)
				if s != 200 || w.read(out["access_token"], "Patient/p1") != 200 {
					failed.Add(1)
				}
				requests.Add(1)
			}
		})
	}
	for range 10 {
		if err := w.ring.Rotate(token.MaxUserLife); err != nil {
			t.Fatal(err)
		}
		now := requests.Load()
		for end := time.Now().Add(2 * time.Minute); requests.Load() < now+4 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	close(done)
	wg.Wait()
	if failed.Load() != 0 || requests.Load() < 40 {
		t.Errorf("%d of %d requests failed", failed.Load(), requests.Load())
	}
}
