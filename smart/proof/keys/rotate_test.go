package keys_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/cluster/role"
	"pulsegate/smart/proof/keys"
)

const (
	typ     = "at+jwt"
	overlap = 6 * time.Minute
)

func kids(t *testing.T, r ring) (out []string) {
	t.Helper()
	b, err := r.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []struct{ Kid, Alg string } }
	if err := json.Unmarshal(b, &set); err != nil {
		t.Fatal(err)
	}
	ids := 0
	for _, k := range set.Keys {
		if k.Alg == keys.IDAlg {
			ids++
			continue
		}
		out = append(out, k.Kid)
	}
	if ids != len(out) {
		t.Fatalf("%d keys for id_tokens beside %d for access tokens", ids, len(out))
	}
	return out
}

func must(s string, err error) string {
	if err != nil {
		panic(err)
	}
	return s
}

// kid returns the key id in a token's header.
func kid(t *testing.T, token string) string {
	t.Helper()
	head, _, _ := strings.Cut(token, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	var h struct{ Kid string }
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h.Kid
}

func TestRotation(t *testing.T) {
	t.Run("files", func(t *testing.T) {
		clock, dir := clocktest.At(time.Unix(1_800_000_000, 0)), t.TempDir()
		open := func() ring { return openFiles(t, dir, clock) }
		testRotation(t, clock, open)
		clock.Add(48 * time.Hour) // the previous key of assertions is published for longer
		open()
		if files, err := filepath.Glob(filepath.Join(dir, "keys", "*")); err != nil || len(files) != 3 {
			t.Error(files, err)
		}
	})
	t.Run("two processes", func(t *testing.T) {
		clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
		testRotation(t, clock, func() ring { return w.openTwo(clock) })
	})
}

func openFiles(t *testing.T, dir string, clock *clocktest.Clock) *keys.Ring {
	t.Helper()
	r, err := keys.Open(dir, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testRotation(t *testing.T, clock *clocktest.Clock, open func() ring) {
	tick := func(r ring) time.Duration {
		t.Helper()
		wait, err := r.Tick(overlap)
		if err != nil || wait <= 0 || wait > time.Hour {
			t.Fatal(wait, err)
		}
		return wait
	}
	r := open()
	first := kids(t, r)
	tick(r)
	clock.Add(keys.MaxAge - time.Second)
	r = open() // the key's age survives a restart
	if wait := tick(r); wait != time.Second || len(kids(t, r)) != 1 {
		t.Fatal(wait, kids(t, r))
	}
	old, err := r.Sign(typ, map[string]any{"sub": "c"})
	if err != nil {
		t.Fatal(err)
	}
	clock.Add(time.Second)
	tick(r)
	both := kids(t, r)
	if len(both) != 2 || both[0] == first[0] || both[1] != first[0] {
		t.Fatalf("after 30 days: %v, was %v", both, first)
	}
	tick(r) // nothing is due
	if n := len(kids(t, r)); n != 2 {
		t.Fatal(n, "keys")
	}
	if kid(t, must(r.Sign(typ, nil))) != first[0] {
		t.Error("a key signs before it was published for a while")
	}
	clock.Add(keys.Lead)
	fresh, err := r.Sign(typ, map[string]any{"sub": "c"})
	if kid(t, fresh) != both[0] {
		t.Error("the new key does not sign")
	}
	if err != nil {
		t.Fatal(err)
	}
	clock.Add(overlap - time.Second)
	r = open() // the overlap survives a restart
	for _, token := range []string{old, fresh} {
		if _, err := r.Verify(token, typ); err != nil {
			t.Error("within the overlap:", err)
		}
	}
	clock.Add(time.Second)
	if _, err := r.Verify(old, typ); err == nil {
		t.Error("the old key verifies after the overlap")
	}
	r = open()
	if _, err := r.Verify(fresh, typ); err != nil {
		t.Error(err)
	}
}

// TestAssertionKeys checks that the keys of assertions are published for themselves,
// a day before they sign and a day longer than they sign.
func TestAssertionKeys(t *testing.T) {
	t.Run("files", func(t *testing.T) {
		clock, dir := clocktest.At(time.Unix(1_800_000_000, 0)), t.TempDir()
		testAssertionKeys(t, clock, func() ring { return openFiles(t, dir, clock) })
	})
	t.Run("two processes", func(t *testing.T) {
		clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
		testAssertionKeys(t, clock, func() ring { return w.openTwo(clock) })
	})
}

func testAssertionKeys(t *testing.T, clock *clocktest.Clock, open func() ring) {
	r := open()
	published := func() (out []string) {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, keys.AssertionPath, nil))
		var set struct {
			Keys []struct{ Kid, Alg, D string }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil {
			t.Fatal(err)
		}
		for _, k := range set.Keys {
			if k.Alg != "ES384" || k.D != "" {
				t.Errorf("published: %+v", k)
			}
			out = append(out, k.Kid)
		}
		return out
	}
	signs := func() string { t.Helper(); return kid(t, must(r.SignAssertion(map[string]any{"iss": "c"}))) }
	first := published()
	if len(first) != 1 || signs() != first[0] {
		t.Fatal(first)
	}
	if tokens := kids(t, r); slices.Contains(tokens, first[0]) {
		t.Error("the key of assertions is among those of tokens")
	}
	if _, err := r.Verify(must(r.SignAssertion(map[string]any{"sub": "c"})), "JWT"); err == nil {
		t.Error("an assertion verifies as a token")
	}
	clock.Add(keys.MaxAge)
	if _, err := r.Tick(overlap); err != nil {
		t.Fatal(err)
	}
	both := published()
	if len(both) != 2 || signs() != first[0] {
		t.Fatal(both)
	}
	r = open() // a restart keeps the purpose
	clock.Add(24*time.Hour - time.Second)
	if signs() != first[0] {
		t.Error("a key signs before it was published for a day")
	}
	clock.Add(time.Second)
	if signs() != both[0] || len(published()) != 2 {
		t.Error("the new key does not sign, or the old one is not published")
	}
	clock.Add(24 * time.Hour)
	if got := published(); len(got) != 1 || got[0] != both[0] {
		t.Error(got)
	}
}

func TestRunRotatesDueKeysImmediately(t *testing.T) {
	clock := clocktest.At(time.Unix(1_800_000_000, 0))
	r, err := keys.Open(t.TempDir(), clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	clock.Add(2 * keys.MaxAge)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Run(ctx, role.Alone{}, overlap, slog.New(slog.DiscardHandler)) // checks once before it returns
	if n := len(kids(t, r)); n != 2 {
		t.Fatal(n, "keys")
	}
}

func TestFailedRotationKeepsTheKey(t *testing.T) {
	clock := clocktest.At(time.Unix(1_800_000_000, 0))
	dir := t.TempDir()
	r, err := keys.Open(dir, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "keys")); err != nil {
		t.Fatal(err)
	}
	clock.Add(keys.MaxAge)
	if wait, err := r.Tick(overlap); err == nil || wait <= 0 || wait > time.Minute {
		t.Fatal(wait, err)
	}
	token, err := r.Sign(typ, map[string]any{"sub": "c"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Verify(token, typ); err != nil {
		t.Fatal(err)
	}
}
