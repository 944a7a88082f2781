package backend

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/smarttest"
	"pulsegate/smart/oauth/discovery"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/proof/keys"
)

// server is a token endpoint with discovery, whose answers tests choose.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	config func(base string) string // guarded by mu
	answer http.HandlerFunc         // guarded by mu
	forms  []url.Values             // guarded by mu
}

func newServer(t *testing.T) *server {
	s := &server{}
	s.config = func(base string) string { return `{"token_endpoint":"` + base + `/token"}` }
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"` + "tok" + strconv.Itoa(s.count()) +
			`","token_type":"bearer","expires_in":300}`))
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		config, answer := s.config, s.answer
		s.mu.Unlock()
		if strings.HasSuffix(r.URL.Path, "/smart-configuration") {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			_, _ = w.Write([]byte(config(s.URL)))
			return
		}
		if r.ParseForm() == nil {
			s.mu.Lock()
			s.forms = append(s.forms, r.PostForm)
			s.mu.Unlock()
		}
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) set(answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.forms)
}

// ring is the key ring of all clients, because new RSA keys take long.
var ring = sync.OnceValues(func() (*keys.Ring, error) {
	dir, err := os.MkdirTemp("", "pulsegate-keys-")
	if err != nil {
		return nil, err
	}
	r, err := keys.Open(dir, newClock().Now)
	return r, errors.Join(err, os.RemoveAll(dir))
})

// testClient returns a Client for a base.
func testClient(t *testing.T, base string, clock *clocktest.Clock, edit func(*Config)) *Client {
	t.Helper()
	ring, err := ring()
	if err != nil {
		t.Fatal(err)
	}
	conf := Config{Base: base, ClientID: "us", Scope: "system/Observation.crus"}
	if edit != nil {
		edit(&conf)
	}
	c, err := New(conf, Options{HTTP: &http.Client{Timeout: 2 * time.Minute, CheckRedirect: noRedirect},
		Sign: ring.SignAssertion, Clock: clock.Now, NewID: fhir.RandomID})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func newClock() *clocktest.Clock { return clocktest.At(time.Unix(1_800_000_000, 0)) }

func TestTokenIsCachedUntilShortlyBeforeItExpires(t *testing.T) {
	s, clock := newServer(t), newClock()
	c := testClient(t, s.URL+"/fhir/", clock, nil)
	get := func() string {
		t.Helper()
		tok, err := c.Token(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	if a, b := get(), get(); a != "tok1" || b != a {
		t.Fatal(a, b)
	}
	clock.Add(269 * time.Second)
	if got := get(); got != "tok1" {
		t.Error(got)
	}
	clock.Add(time.Second)
	if got := get(); got != "tok2" {
		t.Error(got)
	}
	c.Reject("tok1") // not the current one
	if got := get(); got != "tok2" {
		t.Error(got)
	}
	c.Reject("tok2")
	if got := get(); got != "tok3" {
		t.Error(got)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for _, f := range s.forms {
		if f.Get("grant_type") != "client_credentials" || f.Get("scope") != "system/Observation.crus" ||
			f.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
			t.Errorf("%v", f)
		}
		a := f.Get("client_assertion")
		if a == "" || seen[a] {
			t.Error("an assertion is missing or repeated")
		}
		seen[a] = true
	}
}

func TestConcurrentCallsShareOneRequest(t *testing.T) {
	s, clock := newServer(t), newClock()
	release := make(chan struct{})
	answer := s.answer
	s.set(func(w http.ResponseWriter, r *http.Request) { <-release; answer(w, r) })
	c := testClient(t, s.URL, clock, nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if tok, err := c.Token(context.Background()); tok != "tok1" || err != nil {
				t.Error(tok, err)
			}
		})
	}
	// A caller that gives up does not end the request of the others.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Token(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(release)
	wg.Wait()
	if n := s.count(); n != 1 {
		t.Error(n, "requests")
	}
}

// TestHostileAnswers checks the class of each failure, and that neither the error nor
// its causes contain anything of the request or the answer.
func TestHostileAnswers(t *testing.T) {
	const secret = "SECRET"
	body := func(status int, media, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", media)
			w.WriteHeader(status)
			_, _ = w.Write([]byte(text))
		}
	}
	const js = "application/json"
	for name, c := range map[string]struct {
		class  Class
		config string // BASE is replaced
		answer http.HandlerFunc
	}{
		"invalid_client":    {InvalidClient, "", body(401, js, `{"error":"invalid_client","error_description":"SECRET"}`)},
		"invalid_scope":     {InvalidScope, "", body(400, js, `{"error":"invalid_scope"}`)},
		"code of its own":   {Refused, "", body(400, js, `{"error":"SECRET"}`)},
		"no JSON":           {Refused, "", body(400, "text/html", `SECRET`)},
		"busy":              {Busy, "", body(503, js, `{"error":"invalid_client"}`)},
		"throttled":         {Busy, "", body(429, js, ``)},
		"redirect":          {Refused, "", body(302, js, ``)},
		"HTML with a token": {Malformed, "", body(200, "text/html", `{"access_token":"SECRET","token_type":"bearer"}`)},
		"not a bearer":      {Malformed, "", body(200, js, `{"access_token":"SECRET","token_type":"mac"}`)},
		"line break":        {Malformed, "", body(200, js, `{"access_token":"SECRET\r\nX: y","token_type":"bearer"}`)},
		"empty token":       {Malformed, "", body(200, js, `{"access_token":"","token_type":"bearer"}`)},
		"huge token": {Malformed, "", body(200, js, `{"access_token":"`+strings.Repeat("x", maxToken+1)+
			`","token_type":"bearer"}`)},
		"huge body": {Malformed, "", body(200, js, `{"access_token":"SECRET","token_type":"bearer","x":"`+
			strings.Repeat("x", maxAnswer)+`"}`)},
		"never valid":        {Malformed, "", body(200, js, `{"access_token":"SECRET","token_type":"bearer","expires_in":-1}`)},
		"two values":         {Malformed, "", body(200, js, `{"access_token":"SECRET","token_type":"bearer"}{}`)},
		"hang up":            {Unreachable, "", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		"endpoint elsewhere": {Elsewhere, `{"token_endpoint":"https://other.example/token?SECRET"}`, nil},
		"same host, http":    {Elsewhere, `{"token_endpoint":"https://HOST/token"}`, nil},
		"credentials":        {Discovery, `{"token_endpoint":"http://u:SECRET@HOST/token"}`, nil},
		"no endpoint":        {Discovery, `{"authorization_endpoint":"BASE/token"}`, nil},
		"garbage":            {Discovery, `SECRET`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			if c.config != "" {
				s.config = func(base string) string {
					return strings.NewReplacer("BASE", base, "HOST", strings.TrimPrefix(base, "http://")).Replace(c.config)
				}
			}
			if c.answer != nil {
				s.set(c.answer)
			}
			_, err := testClient(t, s.URL, newClock(), nil).Token(context.Background())
			var e *Error
			if !errors.As(err, &e) || e.Kind != c.class || e.Class() != string(c.class) {
				t.Fatalf("got %v", err)
			}
			for x := err; x != nil; x = errors.Unwrap(x) {
				if strings.Contains(x.Error(), secret) || strings.Contains(x.Error(), "eyJ") ||
					strings.Contains(x.Error(), s.URL) {
					t.Errorf("the error tells: %v", x)
				}
			}
			if c.config != "" && s.count() != 0 {
				t.Error("an assertion was sent")
			}
		})
	}
}

func TestConfiguredEndpointNeedsNoDiscovery(t *testing.T) {
	s, other := newServer(t), newServer(t)
	other.config = func(string) string { return "no" }
	c := testClient(t, other.URL, newClock(), func(c *Config) { c.TokenURL = s.URL + "/token" })
	if tok, err := c.Token(context.Background()); err != nil || tok != "tok1" {
		t.Error(tok, err)
	}
	for _, conf := range []Config{{Base: "/x", ClientID: "us"}, {Base: s.URL}, {Base: s.URL + "?x", ClientID: "us"},
		{Base: s.URL, ClientID: "us", TokenURL: "x"}} {
		if _, err := New(conf, c.opts); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%+v: %v", conf, err)
		}
	}
}

func TestTokenWithoutLifetime(t *testing.T) {
	s, clock := newServer(t), newClock()
	s.set(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "t" + strconv.Itoa(s.count()), "token_type": "Bearer"})
	})
	c := testClient(t, s.URL, clock, nil)
	for _, want := range []string{"t1", "t2"} {
		if tok, err := c.Token(context.Background()); err != nil || tok != want {
			t.Error(tok, err)
		}
		clock.Add(unstated)
	}
}

// TestOwnTokenEndpoint authenticates at the token endpoint of this server, which
// checks assertions as SMART demands, by the URL of the JWK Set.
func TestOwnTokenEndpoint(t *testing.T) {
	clock := newClock()
	b := smarttest.New(t, clock.Now())
	b.Clients.AllowHTTP = true
	serverKeys, err := keys.Open(t.TempDir(), b.Clock)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := keys.Open(t.TempDir(), b.Clock)
	if err != nil {
		t.Fatal(err)
	}
	jwks := httptest.NewServer(ours)
	defer jwks.Close()
	reg, err := b.Clients.Add(context.Background(), client.Client{Name: "Pulsegate", Scope: "system/Observation.crus",
		JWKSURL: jwks.URL + keys.AssertionPath})
	if err != nil {
		t.Fatal(err)
	}
	assertions, err := client.NewAssertions(b.Clients, &client.Keys{HTTP: http.DefaultClient, Clock: b.Clock},
		b.Server.URL+token.Path)
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := token.New(context.Background(), token.Options{Store: b.DB, Audit: b.Audit, Keys: serverKeys,
		Assertions: assertions, Scopes: b.Scopes, Clock: b.Clock, Rand: rand.Reader, Issuer: b.Server.URL,
		Audience: b.Server.URL + "/fhir", Logger: b.Logger})
	if err != nil {
		t.Fatal(err)
	}
	endpoint.Mount(b.Engine)
	endpoints := discovery.Endpoints{Token: b.Server.URL + token.Path}
	discovery.Handler{BaseURL: b.Server.URL, Endpoints: endpoints}.Mount(b.Engine)
	get := func(id, scope string, sign func(any) (string, error)) (string, error) {
		c, err := New(Config{Base: b.Server.URL + "/fhir", ClientID: id, Scope: scope}, Options{HTTP: http.DefaultClient,
			Sign: sign, Clock: b.Clock, NewID: fhir.RandomID})
		if err != nil {
			t.Fatal(err)
		}
		return c.Token(context.Background())
	}
	tok, err := get(reg.ID, "system/Observation.crus", ours.SignAssertion)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serverKeys.Verify(tok, "at+jwt"); err != nil {
		t.Errorf("the token is not the server's: %v", err)
	}
	for name, c := range map[string]struct {
		id, scope string
		sign      func(any) (string, error)
		want      Class
	}{
		"unknown client":    {"nobody", "system/Observation.crus", ours.SignAssertion, InvalidClient},
		"other key":         {reg.ID, "system/Observation.crus", serverKeys.SignAssertion, InvalidClient},
		"a token's key":     {reg.ID, "system/Observation.crus", ours.SignID, InvalidClient},
		"scope not granted": {reg.ID, "system/Patient.crus", ours.SignAssertion, InvalidScope},
	} {
		_, err := get(c.id, c.scope, c.sign)
		var e *Error
		if !errors.As(err, &e) || e.Kind != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
