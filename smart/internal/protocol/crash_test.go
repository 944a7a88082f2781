package protocol

import (
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"pulsegate/fhir/porttest"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
)

// child is the environment variable that makes the test binary run a server at
// the address that it contains.
const child = "PULSEGATE_TEST_SERVE"

func TestMain(m *testing.M) {
	if addr := os.Getenv(child); addr != "" {
		w := &world{clock: &clock{t: time.Now().UTC()}, dir: os.Getenv(child + "_DIR"), handler: &swapHandler{},
			base: "http://" + addr}
		w.open()
		panic(http.Serve(must(net.Listen("tcp", addr)), w.handler))
	}
	os.Exit(m.Run())
}

// serve starts a server process with the data directory of w and waits until it
// responds. The returned function kills the process with SIGKILL.
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
		_ = cmd.Wait() // the error says that the process was killed
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
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

// TestSingleUseSurvivesKill checks that an assertion and a code that were used
// before a SIGKILL stay used. The process is killed right after the response.
func TestSingleUseSurvivesKill(t *testing.T) {
	w := newWorld(t)
	back := w.backend("system/*.rs")
	app := w.app(client.None, nil)
	code := w.code(app, "launch/patient patient/*.rs offline_access", nil)
	w.close()
	t.Cleanup(w.open) // newWorld closes the world
	addr := "127.0.0.1:" + strconv.Itoa(must(porttest.Reserve()))
	w.base = "http://" + addr
	assertion := w.assertion(back.ID)
	post := func(form url.Values) (int, m) {
		s, out, _ := w.postForm(token.Path, client.Client{Method: client.SecretBasic}, form,
			func(r *http.Request) { r.Header.Del("Authorization") })
		return s, out
	}
	requestToken := func(assertion string) int {
		s, _ := post(url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"},
			"client_assertion":      {assertion},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}})
		return s
	}
	redeem := func() (int, m) {
		return post(url.Values{"grant_type": {"authorization_code"}, "client_id": {app.ID}, "code": {code},
			"redirect_uri": {redirect}, "code_verifier": {verifier}})
	}
	kill := w.serve(addr)
	if s := requestToken(assertion); s != 200 {
		kill()
		t.Fatal(s)
	}
	kill()
	kill = w.serve(addr)
	if s := requestToken(assertion); s != 401 {
		t.Error("replayed assertion after SIGKILL:", s)
	}
	if s := requestToken(w.assertion(back.ID)); s != 200 {
		t.Error("new assertion after SIGKILL:", s)
	}
	s, out := redeem()
	kill()
	if s != 200 {
		t.Fatal(s, out)
	}
	kill = w.serve(addr)
	defer kill()
	if s, out := redeem(); s != 400 || out["error"] != "invalid_grant" {
		t.Error("redeemed code after SIGKILL:", s, out)
	}
	if s, _ := post(url.Values{"grant_type": {"refresh_token"}, "client_id": {app.ID},
		"refresh_token": {out["refresh_token"].(string)}}); s != 400 {
		t.Error("the refresh token is valid after the second use of the code:", s)
	}
}

// TestClockJumps checks that codes, assertions and tokens that were used or
// have expired stay invalid when the clock is set back, and that tokens from
// the future are refused.
func TestClockJumps(t *testing.T) {
	w := newWorld(t)
	back, app := w.backend("system/*.rs"), w.app(client.None, nil)
	used, code := w.assertion(back.ID), w.code(app, "launch/patient patient/*.rs offline_access", nil)
	form := func(assertion string) url.Values {
		return url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"},
			"client_assertion":      {assertion},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
	}
	requestToken := func(assertion string) int {
		res := must(w.browser.PostForm(w.base+token.Path, form(assertion)))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	if s := requestToken(used); s != 200 {
		t.Fatal(s)
	}
	out := w.authorize(app, "launch/patient patient/*.rs offline_access")
	w.clock.add(24 * time.Hour)
	for name, s := range map[string]int{"access token a day later": w.read(out["access_token"], "Patient/p1"),
		"assertion a day later": requestToken(used)} {
		if s != 401 {
			t.Errorf("%s: %d", name, s)
		}
	}
	if s, _, _ := w.redeem(app, code, nil); s != 400 {
		t.Error("code a day later:", s)
	}
	if s := requestToken(w.assertion(back.ID)); s != 200 {
		t.Error("new assertion a day later:", s)
	}
	w.clock.add(-24 * time.Hour)
	for range 2 {
		if s := requestToken(used); s == 200 {
			t.Error("replayed assertion accepted after the clock went back")
		}
		if s, _, _ := w.redeem(app, code, nil); s == 200 {
			t.Error("expired code accepted after the clock went back")
		}
		w.reopen()
	}
	// A token that was issued an hour in the future is not valid yet.
	w.clock.add(24 * time.Hour)
	_, fresh, _ := w.postForm(token.Path, back,
		url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}}, nil)
	w.clock.add(-time.Hour)
	if s := w.read(fresh["access_token"], "Patient/p1"); s != 401 {
		t.Error("token from the future:", s)
	}
}
