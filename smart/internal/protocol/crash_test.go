package protocol

import (
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"testing"
	"time"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
)

// child names the variable that makes the test binary a server over a
// directory, at an address.
const child = "PULSEGATE_TEST_SERVE"

func TestMain(m *testing.M) {
	if addr := os.Getenv(child); addr != "" {
		w := &world{clock: &clock{t: time.Now().UTC()}, dir: os.Getenv(child + "_DIR"), handler: &swap{},
			base: "http://" + addr}
		w.open()
		panic(http.Serve(must(net.Listen("tcp", addr)), w.handler))
	}
	os.Exit(m.Run())
}

// serve starts a server process over w's directory and waits for it; the
// function that is returned ends it with SIGKILL.
func (w *world) serve(addr string) func() {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+addr, child+"_DIR="+w.dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	kill := func() {
		if err := cmd.Process.Kill(); err != nil {
			w.t.Fatal(err)
		}
		_ = cmd.Wait() // says that it was killed
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		res, err := http.Get("http://" + addr + "/.well-known/jwks.json")
		if err == nil {
			if err := res.Body.Close(); err != nil {
				w.t.Fatal(err)
			}
			return kill
		}
		if time.Now().After(end) {
			kill()
			w.t.Fatal("the server does not start")
		}
	}
}

// What was used once is used after kill -9: the process has no time to write
// anything once the answer is out.
func TestSingleUseSurvivesKill(t *testing.T) {
	w := newWorld(t)
	back := w.backend("system/*.rs")
	app := w.app(client.None, nil)
	code := w.code(app, "launch/patient patient/*.rs offline_access", nil)
	w.close()
	t.Cleanup(w.open) // what newWorld closes
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w.base = "http://" + addr
	assertion := w.assertion(back.ID)
	ask := func(form url.Values) (int, m) {
		s, out, _ := w.postForm(token.Path, client.Client{Method: client.SecretBasic}, form,
			func(r *http.Request) { r.Header.Del("Authorization") })
		return s, out
	}
	byAssertion := func(a string) int {
		s, _ := ask(url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}, "client_assertion": {a},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}})
		return s
	}
	redeem := func() (int, m) {
		return ask(url.Values{"grant_type": {"authorization_code"}, "client_id": {app.ID}, "code": {code},
			"redirect_uri": {redirect}, "code_verifier": {verifier}})
	}
	kill := w.serve(addr)
	if s := byAssertion(assertion); s != 200 {
		kill()
		t.Fatal(s)
	}
	kill()
	kill = w.serve(addr)
	if s := byAssertion(assertion); s != 401 {
		t.Error("a replayed assertion after kill -9:", s)
	}
	if s := byAssertion(w.assertion(back.ID)); s != 200 {
		t.Error("a new assertion after kill -9:", s)
	}
	s, out := redeem()
	kill()
	if s != 200 {
		t.Fatal(s, out)
	}
	kill = w.serve(addr)
	defer kill()
	if s, out := redeem(); s != 400 || out["error"] != "invalid_grant" {
		t.Error("a code that was redeemed, after kill -9:", s, out)
	}
	if s, _ := ask(url.Values{"grant_type": {"refresh_token"}, "client_id": {app.ID},
		"refresh_token": {out["refresh_token"].(string)}}); s != 400 {
		t.Error("what the code gave outlives its second use:", s)
	}
}

// A clock that jumps neither reopens what was used nor revives what ended.
func TestClockJumps(t *testing.T) {
	w := newWorld(t)
	back, app := w.backend("system/*.rs"), w.app(client.None, nil)
	used, code := w.assertion(back.ID), w.code(app, "launch/patient patient/*.rs offline_access", nil)
	form := func(a string) url.Values {
		return url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}, "client_assertion": {a},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
	}
	ask := func(a string) int {
		res := must(w.browser.PostForm(w.base+token.Path, form(a)))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	if s := ask(used); s != 200 {
		t.Fatal(s)
	}
	out := w.authorize(app, "launch/patient patient/*.rs offline_access")
	w.clock.add(24 * time.Hour)
	for name, s := range map[string]int{"access token a day later": w.read(out["access_token"], "Patient/p1"),
		"assertion a day later": ask(used)} {
		if s != 401 {
			t.Errorf("%s: %d", name, s)
		}
	}
	if s, _, _ := w.redeem(app, code, nil); s != 400 {
		t.Error("a code a day later:", s)
	}
	if s := ask(w.assertion(back.ID)); s != 200 {
		t.Error("a new assertion a day later:", s)
	}
	w.clock.add(-24 * time.Hour)
	for range 2 {
		if s := ask(used); s == 200 {
			t.Error("a replayed assertion when the clock has gone back")
		}
		if s, _, _ := w.redeem(app, code, nil); s == 200 {
			t.Error("an expired code when the clock has gone back")
		}
		w.reopen()
	}
	// An hour ahead of the next token nothing may be used yet.
	w.clock.add(24 * time.Hour)
	_, fresh, _ := w.postForm(token.Path, back,
		url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}}, nil)
	w.clock.add(-time.Hour)
	if s := w.read(fresh["access_token"], "Patient/p1"); s != 401 {
		t.Error("a token from the future:", s)
	}
}
