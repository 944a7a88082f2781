package simulation_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/html"
	"golang.org/x/oauth2"
	"gopkg.in/yaml.v3"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/clouds"
	"pulsegate/adapters/simulate"
	"pulsegate/cmd/internal/simulation"
)

// settings is an entry of the written file.
type settings struct {
	ClientID     string            `yaml:"client-id"`
	SecretFile   string            `yaml:"client-secret-file"`
	AuthorizeURL string            `yaml:"authorize-url"`
	TokenURL     string            `yaml:"token-url"`
	RevokeURL    string            `yaml:"revoke-url"`
	APIURL       string            `yaml:"api-url"`
	Options      map[string]string `yaml:"options"`
}

func options(t *testing.T) simulation.Options {
	t.Helper()
	start := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	clock := simulate.NewClock(nil, start.AddDate(0, 0, 20), 1)
	return simulation.Options{Dir: t.TempDir(), Seed: 1, Wearers: 2, Clock: clock, Wall: clock.Now, Start: start,
		Server: "http://localhost:8080"}
}

// TestSettingsWork connects to each vendor with the written settings, as a server does:
// a wearer signs in and accepts on the vendor's page, the code is redeemed, the account
// and a stream are read, and the webhook is subscribed to.
func TestSettingsWork(t *testing.T) {
	o := options(t)
	s, err := simulation.New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s)
	defer srv.Close()
	file, err := s.WriteSettings(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var vendors map[string]settings
	if err := yaml.Unmarshal(b, &vendors); err != nil {
		t.Fatal(err)
	}
	for _, code := range clouds.Codes() {
		v, ok := vendors[code]
		if !ok {
			t.Logf("%s is not simulated", code)
			continue
		}
		t.Run(code, func(t *testing.T) {
			v := build(t, o, code, v)
			token := authorize(t, v)
			readAccount(t, o, v, token)
			if n, ok := v.(cloud.Notifier); ok {
				subscribe(t, o, n, token)
			}
		})
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v", file, info.Mode())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// build makes a vendor of its settings.
func build(t *testing.T, o simulation.Options, code string, s settings) cloud.Vendor {
	t.Helper()
	c := cloud.Config{ClientID: s.ClientID, ClientSecret: read(t, s.SecretFile), AuthURL: s.AuthorizeURL,
		TokenURL: s.TokenURL, RevokeURL: s.RevokeURL, APIURL: s.APIURL, Options: map[string]string{},
		HTTP: http.DefaultClient, Clock: o.Clock.Now}
	for name, value := range s.Options {
		if strings.HasSuffix(name, "-file") {
			value = read(t, value)
		}
		c.Options[name] = value
	}
	v, err := clouds.All()[code](c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// authorize accepts on the vendor's page and returns the access token.
func authorize(t *testing.T, v cloud.Vendor) string {
	t.Helper()
	auth := v.OAuth()
	client := &http.Client{Transport: dialect{auth}}
	conf := oauth2.Config{ClientID: auth.ClientID, ClientSecret: auth.ClientSecret,
		Endpoint:    oauth2.Endpoint{AuthURL: auth.AuthURL, TokenURL: auth.TokenURL},
		RedirectURL: "http://localhost:8080/auth/devices/callback"}
	for _, s := range auth.Scopes {
		conf.Scopes = append(conf.Scopes, s.Name)
	}
	verifier := oauth2.GenerateVerifier()
	params := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	for name, value := range auth.Params {
		params = append(params, oauth2.SetAuthURLParam(name, value))
	}
	back := accept(t, conf.AuthCodeURL("the state", params...))
	if !strings.HasPrefix(back.String(), conf.RedirectURL+"?") || back.Query().Get("state") != "the state" {
		t.Fatalf("redirected to %s", back)
	}
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, client)
	tok, err := conf.Exchange(ctx, back.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil || tok.RefreshToken == "" {
		t.Fatal(err)
	}
	return tok.AccessToken
}

// dialect speaks the form of a vendor's token endpoint, as package link does.
type dialect struct{ oauth cloud.OAuth }

func (d dialect) RoundTrip(rq *http.Request) (*http.Response, error) {
	if err := rq.ParseForm(); err != nil {
		return nil, err
	}
	for name, value := range d.oauth.TokenParams {
		rq.PostForm.Set(name, value)
	}
	body := rq.PostForm.Encode()
	sent := rq.Clone(rq.Context())
	sent.Body, sent.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	r, err := http.DefaultTransport.RoundTrip(sent)
	if err != nil || d.oauth.Unwrap == nil {
		return r, err
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	status, raw := d.oauth.Unwrap(r.StatusCode, raw)
	r.StatusCode, r.Body = status, io.NopCloser(bytes.NewReader(raw))
	return r, nil
}

// accept opens a page, submits its form as a browser does and returns the address to
// which it is redirected.
func accept(t *testing.T, address string) *url.URL {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	page, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close()
	doc, err := html.Parse(page.Body)
	if err != nil || page.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v", page.StatusCode, err)
	}
	action, fields := "", url.Values{}
	for n := range doc.Descendants() {
		attr := map[string]string{}
		for _, a := range n.Attr {
			attr[a.Key] = a.Val
		}
		_, checked := attr["checked"]
		name := attr["name"]
		switch {
		case n.Data == "form":
			action = attr["action"]
		case n.Data == "input" && (attr["type"] == "hidden" || checked):
			fields.Add(name, attr["value"])
		case n.Data == "button" && !fields.Has(name):
			fields.Set(name, attr["value"])
		case n.Data == "select":
			for option := range n.Descendants() {
				if option.Data == "option" && !fields.Has(name) {
					fields.Set(name, option.Attr[0].Val)
				}
			}
		}
	}
	to, err := page.Request.URL.Parse(action)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.PostForm(to.String(), fields)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	back, err := res.Location()
	if err != nil {
		t.Fatalf("%d, %v", res.StatusCode, err)
	}
	return back
}

// readAccount reads the account and a window of every stream.
func readAccount(t *testing.T, o simulation.Options, v cloud.Vendor, token string) {
	t.Helper()
	c := &cloud.Client{HTTP: http.DefaultClient, Token: token, Clock: o.Clock.Now, Account: "1"}
	if ids, err := v.Account(t.Context(), c); err != nil || len(ids) == 0 {
		t.Fatalf("account: %v, %v", ids, err)
	}
	items := 0
	streams := v.Streams()
	for i := range streams {
		from := o.Start.AddDate(0, 0, 10)
		p, err := v.Page(t.Context(), c, cloud.Query{Stream: &streams[i], From: from, To: from.AddDate(0, 0, 1)})
		if err != nil {
			t.Errorf("%s: %v", streams[i].Name, err)
		}
		items += p.Items
	}
	// Withings has one item of each kind on a day, and two days more on both sides.
	if least := map[string]int{"withings": 8}[v.Code()]; items < cmp.Or(least, 100) {
		t.Errorf("%d items in %d streams", items, len(streams))
	}
}

// subscribe serves the webhook and subscribes to it until nothing is left to do.
func subscribe(t *testing.T, o simulation.Options, n cloud.Notifier, token string) {
	t.Helper()
	var challenges atomic.Int32
	var callback string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		challenges.Add(1)
		// An error is the reason of a refusal, which some vendors want to see.
		receipt, _ := n.Receive(r.Context(), &cloud.Notification{Method: r.Method, Query: r.URL.Query(),
			Path: strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/hooks"), "/"), Header: r.Header, Body: body,
			Now: o.Clock.Now(), Callback: callback})
		w.WriteHeader(receipt.Status)
		_, _ = w.Write(receipt.Body) // the client may be gone
	}))
	defer srv.Close()
	callback = srv.URL + "/hooks"
	for range 20 {
		next, err := n.Subscribe(t.Context(), callback)
		if err != nil {
			t.Fatal(err)
		}
		if wait := next.Sub(o.Clock.Now()); wait > time.Hour {
			break
		}
		o.Clock.Set(next)
	}
	if own, ok := n.(cloud.AccountNotifier); ok {
		c := &cloud.Client{HTTP: http.DefaultClient, Token: token, Clock: o.Clock.Now}
		if _, err := own.SubscribeAccount(t.Context(), c, callback, []string{"user.metrics"}); err != nil {
			t.Fatal(err)
		}
	}
	if challenges.Load() == 0 {
		t.Error("the vendor has not verified the webhook")
	}
}

// TestSecretsAreKept checks that a second start has the same secrets, so that a server
// need not be configured again.
func TestSecretsAreKept(t *testing.T) {
	o := options(t)
	var first map[string]string
	for range 2 {
		s, err := simulation.New(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.WriteSettings("http://127.0.0.1:1"); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(o.Dir)
		if err != nil {
			t.Fatal(err)
		}
		now := map[string]string{}
		for _, e := range entries {
			now[e.Name()] = read(t, o.Dir+"/"+e.Name())
		}
		if first != nil && fmt.Sprint(first) != fmt.Sprint(now) {
			t.Error("the second start changed a file")
		}
		first = now
	}
}

// TestRun serves both clouds and pushes as a phone until the context ends.
func TestRun(t *testing.T) {
	pushed := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil && json.Valid(body) && r.URL.Path == "/ingest/apple/health-auto-export" {
			select {
			case pushed <- r.Header.Get("Authorization"):
			default:
			}
		}
	}))
	defer server.Close()
	o := options(t)
	o.Push, o.PushKey = server.URL+"/ingest/apple/health-auto-export", "the key"
	s, err := simulation.New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	select {
	case got := <-pushed:
		if got != "Bearer the key" {
			t.Errorf("pushed with %q", got)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("nothing was pushed")
	}
	for path, want := range map[string]int{"/oura/v2/usercollection/sleep": 400, "/google/v4/users/me/identity": 401,
		"/google/googlehealthapi/webhooks/webhooks_public_keyset.json": 200, "/other": 404} {
		res, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil || res.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, res.StatusCode, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run ended with %v", err)
	}
}

func TestRefusedOptions(t *testing.T) {
	for name, change := range map[string]func(*simulation.Options){
		"wearers": func(o *simulation.Options) { o.Wearers = 0 },
		"format":  func(o *simulation.Options) { o.Push = "http://localhost/ingest/apple/csv" },
		"key": func(o *simulation.Options) {
			if err := os.WriteFile(o.Dir+"/google-service-account.json", []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		o := options(t)
		change(&o)
		if _, err := simulation.New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
