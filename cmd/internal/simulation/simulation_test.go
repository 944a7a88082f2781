package simulation_test

import (
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
	"testing"
	"time"

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
	return simulation.Options{Dir: t.TempDir(), Seed: 1, Wearers: 2, Clock: clock, Wall: clock.Now, Start: start}
}

// TestSettingsWork connects to each vendor with the written settings: it builds the
// vendor, authorizes a wearer, redeems the code and reads the account and a stream.
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
		t.Run(code, func(t *testing.T) { connect(t, o, code, v) })
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

func connect(t *testing.T, o simulation.Options, code string, v settings) {
	c := cloud.Config{ClientID: v.ClientID, ClientSecret: read(t, v.SecretFile), AuthURL: v.AuthorizeURL,
		TokenURL: v.TokenURL, RevokeURL: v.RevokeURL, APIURL: v.APIURL, Options: map[string]string{},
		HTTP: http.DefaultClient, Clock: o.Clock.Now}
	for name, value := range v.Options {
		if strings.HasSuffix(name, "-file") {
			value = read(t, value)
		}
		c.Options[name] = value
	}
	vendor, err := clouds.All()[code](c)
	if err != nil {
		t.Fatal(err)
	}
	auth := vendor.OAuth()
	var scopes []string
	for _, s := range auth.Scopes {
		scopes = append(scopes, s.Name)
	}
	const callback = "http://localhost:8080/auth/devices/callback"
	q := url.Values{"response_type": {"code"}, "client_id": {c.ClientID}, "redirect_uri": {callback}, "state": {"s"},
		"scope": {strings.Join(scopes, " ")}}
	for name, value := range auth.Params {
		q.Set(name, value)
	}
	page, err := http.Get(auth.AuthURL + "?" + q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer page.Body.Close()
	if html, err := io.ReadAll(page.Body); err != nil || page.StatusCode != 200 ||
		!strings.Contains(string(html), "<form") {
		t.Errorf("page of %s: %d %v", code, page.StatusCode, err)
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
	case <-time.After(time.Minute):
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
