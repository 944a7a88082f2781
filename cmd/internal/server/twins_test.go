package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
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

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/oauth/token"
)

// twinsBase is the public base URL of twins.
const twinsBase = "http://localhost:8080"

// twins are several servers over one store. To their clients they are one server
// behind a load balancer. They are what the processes of a cluster are to each
// other, with a log that takes no time: state that a server keeps in memory is
// missing at the others.
//
// The servers have one keys directory, but each has its own data directory.
type twins struct {
	t     *testing.T
	db    *pebblestore.DB
	nodes []*twin
}

// twin is one server of twins.
type twin struct {
	*services
	dir  string
	addr string // of the listener
	stop func() error
}

// newTwins starts n servers with the named settings changed. They end with the test.
func newTwins(t *testing.T, n int, set map[string]string) *twins {
	t.Helper()
	return newTwinsAt(t, n, set, time.Now)
}

// newTwinsAt is newTwins with a clock for all servers and the store.
func newTwinsAt(t *testing.T, n int, set map[string]string, clock func() time.Time) *twins {
	t.Helper()
	db, err := pebblestore.Open(t.TempDir(), pebblestore.Options{Clock: clock, NoSync: true, CacheBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	tw := &twins{t: t, db: db}
	for range n {
		tw.start(set, clock)
	}
	return tw
}

// start starts one more server.
func (tw *twins) start(set map[string]string, clock func() time.Time) *twin {
	tw.t.Helper()
	n := &twin{dir: tw.t.TempDir()}
	if err := os.Chmod(n.dir, 0o700); err != nil {
		tw.t.Fatal(err)
	}
	if len(tw.nodes) > 0 {
		first := tw.nodes[0].dir
		if err := os.Symlink(filepath.Join(first, "keys"), filepath.Join(n.dir, "keys")); err != nil {
			tw.t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(n.dir, "audit"), os.DirFS(filepath.Join(first, "audit"))); err != nil {
			tw.t.Fatal(err)
		}
	}
	all := map[string]string{"base-url": twinsBase}
	maps.Copy(all, set)
	ready := make(chan struct{})
	m := &Main{Config: settings(tw.t, n.dir, all), Version: versionOfTest, clock: clock, shared: tw.db,
		Log:    slog.New(slog.NewTextHandler(tw.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
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
	tw.t.Cleanup(func() {
		if err := n.stop(); err != nil {
			tw.t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		tw.t.Fatalf("the server did not start: %v", err)
	}
	tw.nodes = append(tw.nodes, n)
	return n
}

// ops returns the operator's commands of a server.
func (n *twin) ops() operations { return operations{n.services} }

// RoundTrip sends a request for the base URL to this server.
func (n *twin) RoundTrip(r *http.Request) (*http.Response, error) {
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
	nodes []*twin

	mu   sync.Mutex
	next int // guarded by mu
}

func (r *rotation) node() *twin {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.nodes[r.next%len(r.nodes)]
	r.next++
	return n
}

func (r *rotation) RoundTrip(rq *http.Request) (*http.Response, error) { return r.node().RoundTrip(rq) }

// client returns a client that keeps cookies, does not follow redirects, and sends
// each request to another server than the last.
func (tw *twins) client() *http.Client { return clientOver(tw.t, &rotation{nodes: tw.nodes}) }

// at returns a client of one server.
func (tw *twins) at(i int) *http.Client { return clientOver(tw.t, tw.nodes[i]) }

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
		path = twinsBase + path
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
func (tw *twins) backend(node int, scope string, change func(*admin.NewClient)) *backendApp {
	tw.t.Helper()
	key, set := keyPair(tw.t)
	in := admin.NewClient{Name: "Backend", JWKS: set, Scope: scope}
	if change != nil {
		change(&in)
	}
	info, err := tw.nodes[node].ops().AddClient(tw.t.Context(), operatorOfTest, in)
	if err != nil {
		tw.t.Fatal(err)
	}
	return &backendApp{id: info.ID, key: key, scope: scope}
}

// assertion returns a signed JWT by which the backend authenticates.
func (b *backendApp) assertion(t *testing.T, now time.Time) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{"iss": b.id, "sub": b.id, "aud": twinsBase + token.Path,
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
func (tw *twins) patient(node int, id string) {
	tw.t.Helper()
	ops := tw.nodes[node].ops()
	if _, err := ops.AddPatient(tw.t.Context(), operatorOfTest, admin.NewPatient{ID: id, Given: "Ada",
		Family: "Beispiel", TimeZone: "Europe/Berlin"}); err != nil {
		tw.t.Fatal(err)
	}
	if _, err := ops.GrantConsent(tw.t.Context(), operatorOfTest, admin.NewConsent{Patient: id, Vendor: "apple",
		Recipient: "any"}); err != nil {
		tw.t.Fatal(err)
	}
}

// TestTwinsStop stops one of two servers. The other must go on.
func TestTwinsStop(t *testing.T) {
	tw := newTwins(t, 2, nil)
	tw.patient(0, "ada")
	bearer := tw.backend(0, "system/*.rs", nil).bearer(t, tw.client())
	if err := tw.nodes[0].stop(); err != nil {
		t.Fatal(err)
	}
	send(t, tw.at(1), http.StatusOK, http.MethodGet, "/fhir/Patient/ada", "", bearer...)
	tw.patient(1, "ben")
}
