package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/searchparameter"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog/memlog"
	"pulsegate/smart/oauth/token"
)

// peersBase is the public base URL of peers.
const peersBase = "http://localhost:8080"

// peers are several servers that share a store through a log, each with a copy of the
// store. To their clients they are one server behind a load balancer.
//
// The servers have one keys directory, but each has its own data directory.
type peers struct {
	t     *testing.T
	log   *memlog.Cluster
	nodes []*peer
}

// peer is one server of peers.
type peer struct {
	*services
	t    *testing.T
	dir  string
	addr string // of the listener
	stop func() error
}

// newPeers starts n servers with the named settings changed. They end with the test. A
// server looks at the log only when it writes or when it is told to: the commits of the
// others are missing until Sync.
func newPeers(t *testing.T, n int, set map[string]string) *peers {
	t.Helper()
	return newPeersAt(t, n, set, time.Now, time.Hour)
}

// newPeersAt is newPeers with a clock for all servers, and with the interval at which
// they look at the log.
func newPeersAt(t *testing.T, n int, set map[string]string, clock func() time.Time, poll time.Duration) *peers {
	t.Helper()
	all := &peers{t: t, log: memlog.New(memlog.Options{})}
	for range n {
		all.start(set, clock, poll)
	}
	return all
}

// open opens a copy of the store.
func (all *peers) open(clock func() time.Time, poll time.Duration,
	params *searchparameter.Parameters) *pebblestore.DB {
	all.t.Helper()
	name := fmt.Sprint("server", len(all.nodes))
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), Clock: clock, CacheBytes: 8 << 20,
		Registry: params.Registry,
		Shared:   &pebblestore.Shared{Log: all.log.Client(name), Node: name, Poll: poll}})
	if err != nil {
		all.t.Fatal(err)
	}
	all.t.Cleanup(func() {
		if err := db.Close(); err != nil {
			all.t.Error(err)
		}
	})
	if err := db.Sync(all.t.Context()); err != nil {
		all.t.Fatal(err)
	}
	return db
}

// start starts one more server.
func (all *peers) start(set map[string]string, clock func() time.Time, poll time.Duration) *peer {
	all.t.Helper()
	n := &peer{t: all.t, dir: all.t.TempDir()}
	if err := os.Chmod(n.dir, 0o700); err != nil {
		all.t.Fatal(err)
	}
	if len(all.nodes) > 0 {
		first := all.nodes[0].dir
		if err := os.Symlink(filepath.Join(first, "keys"), filepath.Join(n.dir, "keys")); err != nil {
			all.t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(n.dir, "audit"), os.DirFS(filepath.Join(first, "audit"))); err != nil {
			all.t.Fatal(err)
		}
	}
	values := map[string]string{"base-url": peersBase}
	maps.Copy(values, set)
	ready := make(chan struct{})
	params := searchparameter.New(nil)
	m := &Main{Config: settings(all.t, n.dir, values), Version: versionOfTest, clock: clock,
		shared: all.open(clock, poll, params), parameters: params,
		Log:    slog.New(slog.NewTextHandler(all.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		opened: func(s *services, addr net.Addr) { n.services, n.addr = s, addr.String() },
		Stdout: writerFunc(func(p []byte) (int, error) {
			if strings.Contains(string(p), "pulsegate ready ") {
				close(ready)
			}
			return len(p), nil
		})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	n.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	all.t.Cleanup(func() {
		if err := n.stop(); err != nil {
			all.t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		all.t.Fatalf("the server did not start: %v", err)
	}
	all.nodes = append(all.nodes, n)
	return n
}

// ops returns the operator's commands of a server. Like the admin socket, it brings the
// store up to date before.
func (n *peer) ops() operations {
	n.t.Helper()
	if err := n.store.Sync(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	return operations{n.services}
}

// RoundTrip sends a request for the base URL to this server.
func (n *peer) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := r.Clone(r.Context())
	sent.Host = r.URL.Host
	sent.URL.Host = n.addr
	resp, err := http.DefaultTransport.RoundTrip(sent)
	if err == nil {
		resp.Request = r // so that redirects are relative to the base URL
	}
	return resp, err
}

// rotation sends each request to another server than the last.
type rotation struct {
	nodes []*peer

	mu   sync.Mutex
	next int // guarded by mu
}

func (r *rotation) node() *peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.nodes[r.next%len(r.nodes)]
	r.next++
	return n
}

func (r *rotation) RoundTrip(rq *http.Request) (*http.Response, error) { return r.node().RoundTrip(rq) }

// client returns a client that keeps cookies, does not follow redirects, and sends
// each request to another server than the last.
func (all *peers) client() *http.Client { return clientOver(all.t, &rotation{nodes: all.nodes}) }

// at returns a client of one server.
func (all *peers) at(i int) *http.Client { return clientOver(all.t, all.nodes[i]) }

func clientOver(t *testing.T, tr http.RoundTripper) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: tr, Jar: jar,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is an HTTP response that has been read.
type answer struct {
	*http.Response
	body string
}

// send sends a request to a path of the base URL and checks the status of the answer,
// unless that is 0.
func send(t *testing.T, c *http.Client, status int, method, path, body string, header ...string) answer {
	t.Helper()
	if strings.HasPrefix(path, "/") {
		path = peersBase + path
	}
	rq, err := http.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		rq.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(rq)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if status != 0 && resp.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, status, b)
	}
	return answer{resp, string(b)}
}

// decode decodes the body into v.
func (a answer) decode(t *testing.T, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), v); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
}

// backendApp is a registered backend client.
type backendApp struct {
	id    string
	key   *ecdsa.PrivateKey
	scope string
}

// keyPair returns the key of a client and its key set.
func keyPair(t *testing.T) (*ecdsa.PrivateKey, json.RawMessage) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := jwk.FromRaw(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{jwk.KeyIDKey: "k", jwk.AlgorithmKey: jwa.ES384, jwk.KeyUsageKey: "sig"} {
		if err := public.Set(name, v); err != nil {
			t.Fatal(err)
		}
	}
	set, err := json.Marshal(map[string]any{"keys": []any{public}})
	if err != nil {
		t.Fatal(err)
	}
	return key, set
}

// backend registers a backend client at a server.
func (all *peers) backend(node int, scope string, change func(*admin.NewClient)) *backendApp {
	all.t.Helper()
	key, set := keyPair(all.t)
	in := admin.NewClient{Name: "Backend", JWKS: set, Scope: scope}
	if change != nil {
		change(&in)
	}
	info, err := all.nodes[node].ops().AddClient(all.t.Context(), operatorOfTest, in)
	if err != nil {
		all.t.Fatal(err)
	}
	return &backendApp{id: info.ID, key: key, scope: scope}
}

// assertion returns a signed JWT by which the backend authenticates.
func (b *backendApp) assertion(t *testing.T, now time.Time) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{"iss": b.id, "sub": b.id, "aud": peersBase + token.Path,
		"exp": now.Add(2 * time.Minute).Unix(), "jti": fhir.RandomID()})
	if err != nil {
		t.Fatal(err)
	}
	h := jws.NewHeaders()
	for name, v := range map[string]string{jws.KeyIDKey: "k", jws.TypeKey: "JWT"} {
		if err := h.Set(name, v); err != nil {
			t.Fatal(err)
		}
	}
	signed, err := jws.Sign(claims, jws.WithKey(jwa.ES384, b.key, jws.WithProtectedHeaders(h)))
	if err != nil {
		t.Fatal(err)
	}
	return string(signed)
}

// authenticated returns a form with the authentication of the backend.
func (b *backendApp) authenticated(t *testing.T, form url.Values) string {
	t.Helper()
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", b.assertion(t, time.Now()))
	return form.Encode()
}

// form returns the token request of the backend.
func (b *backendApp) form(assertion string) string {
	return url.Values{"grant_type": {"client_credentials"}, "scope": {b.scope},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion}}.Encode()
}

// formType is the header of a form.
var formType = []string{"Content-Type", "application/x-www-form-urlencoded"} // read only

// bearer requests a token through c and returns the headers of a request with it.
func (b *backendApp) bearer(t *testing.T, c *http.Client) []string {
	t.Helper()
	var out struct {
		Token string `json:"access_token"`
	}
	send(t, c, http.StatusOK, http.MethodPost, token.Path, b.form(b.assertion(t, time.Now())),
		formType...).decode(t, &out)
	return []string{"Authorization", "Bearer " + out.Token, "Content-Type", "application/fhir+json"}
}

// patient adds a patient, at a server, and the consent to disclose what every vendor
// has measured.
func (all *peers) patient(node int, id string) {
	all.t.Helper()
	ops := all.nodes[node].ops()
	if _, err := ops.AddPatient(all.t.Context(), operatorOfTest, admin.NewPatient{ID: id, Given: "Ada",
		Family: "Beispiel", TimeZone: "Europe/Berlin"}); err != nil {
		all.t.Fatal(err)
	}
	if _, err := ops.GrantConsent(all.t.Context(), operatorOfTest, admin.NewConsent{Patient: id, Vendor: "apple",
		Recipient: "any"}); err != nil {
		all.t.Fatal(err)
	}
}

// TestPeersStop stops one of two servers. The other must go on.
func TestPeersStop(t *testing.T) {
	all := newPeers(t, 2, nil)
	all.patient(0, "ada")
	bearer := all.backend(0, "system/*.rs", nil).bearer(t, all.client())
	if err := all.nodes[0].stop(); err != nil {
		t.Fatal(err)
	}
	send(t, all.at(1), http.StatusOK, http.MethodGet, "/fhir/Patient/ada", "", bearer...)
	all.patient(1, "ben")
}
