package keys_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/cluster/sealed"
	"pulsegate/fhir/cluster/sealed/sealedtest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/pebblestore/pebbletest"
	"pulsegate/smart/internal/compact"
	"pulsegate/smart/proof/keys"
)

// ring is the part of a keys.Ring that the tests use.
type ring interface {
	JWKS() ([]byte, error)
	Tick(overlap time.Duration) (time.Duration, error)
	Sign(typ string, claims any) (string, error)
	SignAssertion(claims any) (string, error)
	Verify(token, typ string) (compact.Claims, error)
	http.Handler
}

// turns is a cluster of two processes. Each call goes to another one than the last.
type turns struct {
	two  [2]*keys.Ring
	last int
}

func (r *turns) next() *keys.Ring {
	r.last = 1 - r.last
	return r.two[r.last]
}

func (r *turns) JWKS() ([]byte, error)                             { return r.next().JWKS() }
func (r *turns) Tick(overlap time.Duration) (time.Duration, error) { return r.next().Tick(overlap) }
func (r *turns) Sign(typ string, claims any) (string, error)       { return r.next().Sign(typ, claims) }
func (r *turns) SignAssertion(claims any) (string, error)          { return r.next().SignAssertion(claims) }
func (r *turns) Verify(token, typ string) (compact.Claims, error)  { return r.next().Verify(token, typ) }
func (r *turns) ServeHTTP(w http.ResponseWriter, rq *http.Request) { r.next().ServeHTTP(w, rq) }

// cluster is the store and the cluster key file of several processes.
type cluster struct {
	t    *testing.T
	db   *pebblestore.DB
	file []string // names of keys, see sealedtest.Keys
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	db := pebbletest.Open(t)
	return &cluster{t, db, []string{"first"}}
}

func (w *cluster) vault(st sealed.Store) *sealed.Vault {
	w.t.Helper()
	return sealedtest.Open(w.t, st, w.file...)
}

// open starts a process with the store st.
func (w *cluster) open(st sealed.Store, clock *clocktest.Clock) *keys.Ring {
	w.t.Helper()
	r, err := keys.OpenShared(w.t.Context(), w.vault(st), clock.Now)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *cluster) openTwo(clock *clocktest.Clock) ring {
	w.t.Helper()
	return &turns{two: [2]*keys.Ring{w.open(w.db, clock), w.open(w.db, clock)}}
}

// secretKey is the key of the signing keys in small state.
const secretKey = "sealed/signing-keys"

func verifies(r ring, token string) bool {
	_, err := r.Verify(token, typ)
	return err == nil
}

func jwks(t *testing.T, r ring) string {
	t.Helper()
	b, err := r.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestFirstStartOfTwoProcesses interrupts the first start of a process, which has found
// no keys, by that of another one.
func TestFirstStartOfTwoProcesses(t *testing.T) {
	for name, control := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
			var one *keys.Ring
			var token string
			two := w.open(&sealedtest.Interrupted{Store: w.db, Key: secretKey, Careless: control, By: func() {
				one = w.open(w.db, clock)
				token = must(one.Sign(typ, map[string]any{"sub": "c"}))
			}}, clock)
			if ok := verifies(two, token) && verifies(one, token); ok == control {
				t.Errorf("the token of the first process verifies: %t", ok)
			}
			if jwks(t, one) != jwks(t, two) || len(kids(t, one)) != 1 {
				t.Error("the processes publish different keys")
			}
		})
	}
}

// TestRotationByTwoProcesses lets a process that is interrupted find out that another
// one has rotated the keys.
func TestRotationByTwoProcesses(t *testing.T) {
	for name, control := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
			one, st := w.open(w.db, clock), &sealedtest.Interrupted{Store: w.db, Key: secretKey, Careless: control}
			two := w.open(st, clock)
			clock.Add(keys.MaxAge)
			var rotated string
			st.By = func() {
				if _, err := one.Tick(overlap); err != nil {
					t.Error(err)
				}
				rotated = jwks(t, one)
			}
			if _, err := two.Tick(overlap); err != nil {
				t.Fatal(err)
			}
			if st.By != nil || (jwks(t, two) == rotated) == control || jwks(t, one) != jwks(t, two) {
				t.Errorf("rotated twice:\n%s\n%s", rotated, jwks(t, two))
			}
		})
	}
}

// TestOtherProcessKnowsNewKeys checks that a token verifies everywhere as soon as it is
// signed, that old keys verify for the overlap only, and that the published keys are the
// same. The control is two servers with key files.
func TestOtherProcessKnowsNewKeys(t *testing.T) {
	clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
	one, two := w.open(w.db, clock), w.open(w.db, clock)
	old := must(one.Sign(typ, nil))
	for range 3 {
		if err := one.Rotate(overlap); err != nil {
			t.Fatal(err)
		}
		a, b := must(one.Sign(typ, nil)), must(two.Sign(typ, nil))
		if kid(t, a) != kid(t, b) || kid(t, a) == kid(t, old) {
			t.Error("the processes sign with different keys")
		}
		if !verifies(two, a) || !verifies(one, b) || !verifies(two, old) || jwks(t, one) != jwks(t, two) {
			t.Error("the keys differ")
		}
		one, two = two, one
	}
	clock.Add(overlap)
	if verifies(one, old) || verifies(two, old) || len(kids(t, two)) != 1 {
		t.Error("an old key verifies after the overlap")
	}
	if verifies(openFiles(t, t.TempDir(), clock), must(openFiles(t, t.TempDir(), clock).Sign(typ, nil))) {
		t.Error("control: a token verifies at a server with other key files")
	}
}

func TestImport(t *testing.T) {
	clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
	dir := t.TempDir()
	alone := openFiles(t, dir, clock)
	before := must(alone.Sign(typ, nil))
	if err := alone.Rotate(overlap); err != nil {
		t.Fatal(err)
	}
	published := jwks(t, alone)
	imp := func(dir string) bool {
		t.Helper()
		imported, err := keys.Import(t.Context(), dir, w.vault(w.db), clock.Now)
		if err != nil {
			t.Fatal(err)
		}
		return imported
	}
	if imp(t.TempDir()) {
		t.Error("imported from an empty directory")
	}
	if !imp(dir) {
		t.Error("not imported")
	}
	r := w.openTwo(clock)
	if jwks(t, r) != published || !verifies(r, before) || !verifies(r, must(alone.Sign(typ, nil))) ||
		!verifies(alone, must(r.Sign(typ, nil))) {
		t.Error("the cluster has other keys than the server that it was")
	}
	other := t.TempDir()
	openFiles(t, other, clock)
	if imp(other) || jwks(t, r) != published {
		t.Error("imported into a cluster with keys")
	}
	broken := t.TempDir()
	if err := os.MkdirAll(filepath.Join(broken, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "keys", "a.jwk"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Import(t.Context(), broken, w.vault(w.db), clock.Now); err == nil {
		t.Error("a malformed key file was ignored")
	}
}

// TestKeysThatCannotBeRead checks that a process without the cluster key neither signs
// nor verifies, and does not call tokens invalid.
func TestKeysThatCannotBeRead(t *testing.T) {
	clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
	behind := w.open(w.db, clock)
	token := must(behind.Sign(typ, nil))
	w.file = []string{"second", "first"}
	ahead := w.open(w.db, clock)
	if err := ahead.Rotate(overlap); err != nil { // sealed under the new key
		t.Fatal(err)
	}
	if _, err := behind.Verify(token, typ); !errors.Is(err, sealed.ErrKey) || errors.Is(err, compact.ErrMalformed) {
		t.Error(err)
	}
	if _, err := behind.Sign(typ, nil); !errors.Is(err, sealed.ErrKey) ||
		!strings.Contains(err.Error(), "second line") {
		t.Error(err)
	}
	if _, err := behind.JWKS(); err == nil {
		t.Error("published keys without reading them")
	}
	if !verifies(ahead, token) {
		t.Error("the replacement of the cluster key ended a token")
	}
	for _, bad := range []string{"", "[", `[{"kty":"oct","k":"AAAA"}]`, `{}`} {
		v := w.vault(w.db)
		s, err := v.Get(t.Context(), "signing-keys")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Replace(t.Context(), s, []byte(bad)); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.OpenShared(t.Context(), v, clock.Now); err == nil || store.Lost(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// terms gives the role for as long as the small state "role/keys" has its value.
type terms struct{ epoch string }

func (r terms) Run(ctx context.Context, _ string, work func(context.Context, role.Term)) {
	work(ctx, r)
}

func (r terms) Bind(b *store.Batch) {
	b.State = append(b.State, store.StateWrite{Key: "role/keys", Value: []byte(r.epoch), Expect: store.StateEquals,
		Old: []byte(r.epoch)})
}

func (r terms) Store(store.Store) store.Store { panic("not used") }

// TestOnlyTheRoleRotates checks that a process that has lost its role without noticing
// cannot rotate. The control has the role.
func TestOnlyTheRoleRotates(t *testing.T) {
	for name, held := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
			r := w.open(w.db, clock)
			clock.Add(keys.MaxAge)
			if _, err := w.db.Commit(t.Context(), &store.Batch{State: []store.StateWrite{{Key: "role/keys",
				Value: []byte("2")}}}); err != nil {
				t.Fatal(err)
			}
			roles := terms{"1"}
			if held {
				roles.epoch = "2"
			}
			var log bytes.Buffer
			ctx, cancel := context.WithCancel(t.Context())
			r.Run(ctx, roles, overlap, slog.New(slog.NewTextHandler(writer(func(b []byte) {
				log.Write(b)
				cancel() // after the first line of the log
			}), nil)))
			if rotated := len(kids(t, r)) == 2; rotated != held {
				t.Errorf("rotated: %t", rotated)
			}
			if strings.Contains(log.String(), "not rotated") == held {
				t.Error(log.String())
			}
		})
	}
}

type writer func([]byte)

func (fn writer) Write(b []byte) (int, error) {
	fn(b)
	return len(b), nil
}

// TestRunWithoutRole checks that a process without the role does not rotate.
func TestRunWithoutRole(t *testing.T) {
	clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
	r := w.open(w.db, clock)
	clock.Add(keys.MaxAge)
	r.Run(t.Context(), never{}, overlap, slog.New(slog.DiscardHandler))
	if n := len(kids(t, r)); n != 1 {
		t.Errorf("%d keys", n)
	}
}

type never struct{}

func (never) Run(context.Context, string, func(context.Context, role.Term)) {}

// TestRunOfACluster runs three processes with leases. One of them rotates, once.
func TestRunOfACluster(t *testing.T) {
	clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
	var rings []*keys.Ring
	for range 3 {
		rings = append(rings, w.open(w.db, clock))
	}
	clock.Add(keys.MaxAge)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	rotated := make(chan struct{}, 9)
	log := slog.New(slog.NewTextHandler(writer(func([]byte) { rotated <- struct{}{} }), nil))
	var running sync.WaitGroup
	for _, r := range rings {
		leases, err := role.New(role.Options{State: w.db, Node: "n", Lease: 200 * time.Millisecond, Clock: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { r.Run(ctx, leases, overlap, log) })
	}
	<-rotated
	published := jwks(t, rings[0])
	stop() // the others may take the role until then
	running.Wait()
	for _, r := range rings {
		if len(kids(t, r)) != 2 || jwks(t, r) != published {
			t.Errorf("%d keys", len(kids(t, r)))
		}
	}
}

func TestLostKeys(t *testing.T) {
	clock, w := clocktest.At(time.Unix(1_800_000_000, 0)), newCluster(t)
	r := w.open(w.db, clock)
	v := w.vault(w.db)
	s, err := v.Get(t.Context(), "signing-keys")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Replace(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Sign(typ, nil); fhir.KindOf(err) != fhir.Unavailable {
		t.Error(err)
	}
	if _, err := r.Tick(overlap); fhir.KindOf(err) != fhir.Unavailable {
		t.Error(err)
	}
}
