package link_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/fhir/store"
)

func TestSingleFlight(t *testing.T) {
	w := newWorld(t, true)
	l := w.connect("p1")
	w.clock.Add(time.Hour)
	const n = 16
	var got [n]string
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			ctx := w.Context()
			if i%4 == 3 { // a caller that goes away
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				cancel()
			}
			token, err := w.links.Token(ctx, l.ID, "")
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			got[i] = token
		})
	}
	wg.Wait()
	w.links.Wait()
	if n := w.srv.count("/token", "refresh_token"); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
	want := w.mustToken(l.ID, "")
	for i, token := range got {
		if token != want && token != "" {
			t.Errorf("caller %d got another token", i)
		}
	}
}

// TestRefusedTokenIsReplaced: many callers hold a token that the vendor no longer
// accepts. One refresh serves them all.
func TestRefusedTokenIsReplaced(t *testing.T) {
	w := newWorld(t, true)
	l := w.connect("p1")
	old := w.mustToken(l.ID, "")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got, err := w.links.Token(w.Context(), l.ID, old); err != nil || got == old {
				t.Errorf("got the refused token or %v", err)
			}
		})
	}
	wg.Wait()
	if n := w.srv.count("/token", "refresh_token"); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
}

// lost holds answers after which it is unknown whether the refresh token was used.
var lost = map[string]func(http.ResponseWriter, *http.Request) bool{
	"cut":     cut,
	"gateway": answer(502, ""),
	"timeout": answer(504, "<html>plain-text</html>"),
	"half an answer": func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte(`{"access_token":"at`))
		return true
	},
	"redirect": func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "/token", http.StatusTemporaryRedirect)
		return true
	},
	"not HTTP": func(w http.ResponseWriter, _ *http.Request) bool {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = conn.Write([]byte("plain-text that is not HTTP\r\n\r\n"))
		_ = conn.Close()
		return true
	},
}

func TestLostAnswer(t *testing.T) {
	for name, hook := range lost {
		for _, rotates := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, rotates)
				l := w.connect("p1")
				w.clock.Add(time.Hour)
				w.srv.token = hook
				_, err := w.token(w.links, l.ID, "")
				w.srv.set(func() { w.srv.token = nil })
				if !rotates {
					w.problem(err, cloud.Unavailable, l.ID, link.Working, "")
					w.mustToken(l.ID, "")
					return
				}
				w.problem(err, cloud.Unauthorized, l.ID, link.Reconnect, "answer-lost")
				for range 3 {
					if _, err := w.token(w.restart(), l.ID, ""); cloud.ProblemOf(err) != cloud.Unauthorized {
						t.Error(err)
					}
				}
				if n := w.srv.count("/token", "refresh_token"); n != 1 {
					t.Errorf("%d refresh requests, want 1", n)
				}
				if again := w.connect("p1"); again.ID != l.ID || again.Status != link.Working {
					t.Errorf("connected again: %+v", again)
				}
				w.mustToken(l.ID, "")
			})
		}
	}
}

// TestRefreshIsRepeatedAfterAnUnusedRequest shows the failures that leave the refresh
// token unused.
func TestRefreshIsRepeatedAfterAnUnusedRequest(t *testing.T) {
	refused := httptest.NewServer(nil)
	closed := refused.URL + "/token"
	refused.Close()
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	defer untrusted.Close()
	for name, c := range map[string]struct {
		hook    func(http.ResponseWriter, *http.Request) bool
		url     string
		problem cloud.Problem
		wait    time.Duration
	}{
		"429": {hook: func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Retry-After", "120")
			return answer(429, `{"error":"rate_limit"}`)(w, r)
		}, problem: cloud.Throttled, wait: 2 * time.Minute},
		"500":              {hook: answer(500, "plain-text"), problem: cloud.Unavailable},
		"503":              {hook: answer(503, ""), problem: cloud.Unavailable},
		"invalid client":   {hook: answer(401, `{"error":"invalid_client"}`), problem: cloud.Rejected},
		"bad request":      {hook: answer(400, "<html>plain-text</html>"), problem: cloud.Rejected},
		"dial":             {url: closed, problem: cloud.Unavailable},
		"certificate":      {url: untrusted.URL, problem: cloud.Unavailable},
		"no such protocol": {url: "gopher://host", problem: cloud.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, true)
			if c.url != "" { // the unreachable issuer issued the grant
				w.vendor.tokenURL = c.url
				w.opts.HTTP = &http.Client{Transport: detour{w.srv.URL}}
				w.links = w.restart()
			}
			l := w.connect("p1")
			w.clock.Add(time.Hour)
			w.srv.token = c.hook
			if c.url != "" {
				w.opts.HTTP = &http.Client{}
				w.links = w.restart()
			}
			for range 2 {
				_, err := w.token(w.links, l.ID, "")
				w.problem(err, c.problem, l.ID, link.Working, "")
				if e, ok := err.(*cloud.Error); !ok || e.RetryAfter != c.wait {
					t.Errorf("%v: wait %v, want %v", err, e.RetryAfter, c.wait)
				}
			}
			w.srv.set(func() { w.srv.token = nil })
			if c.url != "" {
				w.opts.HTTP = &http.Client{Transport: detour{w.srv.URL}}
			}
			w.links = w.restart()
			w.mustToken(l.ID, "")
		})
	}
}

// detour sends the requests for a token to the test server.
type detour struct{ base string }

func (d detour) RoundTrip(r *http.Request) (*http.Response, error) {
	to := r.Clone(r.Context())
	u, err := r.URL.Parse(d.base + "/token")
	if err != nil {
		return nil, err
	}
	if r.Method == http.MethodPost && r.URL.Path != "/revoke" {
		to.URL, to.Host = u, u.Host
	}
	return http.DefaultTransport.RoundTrip(to)
}

// TestUnfinishedConnection: a vendor that accepts connections and does not complete
// the TLS handshake has received nothing.
func TestUnfinishedConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	w := newWorld(t, true)
	w.vendor.tokenURL = "https://" + l.Addr().String() + "/token"
	w.opts.HTTP = &http.Client{Transport: detour{w.srv.URL}}
	w.links = w.restart()
	id := w.connect("p1").ID
	w.clock.Add(time.Hour)
	w.opts.HTTP = &http.Client{Timeout: 20 * time.Millisecond,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}}
	w.links = w.restart()
	_, err = w.token(w.links, id, "")
	w.problem(err, cloud.Unavailable, id, link.Working, "")
}

func TestEndedGrant(t *testing.T) {
	w := newWorld(t, true)
	l := w.connect("p1")
	w.srv.set(func() { w.srv.grants[0].revoked = true })
	w.clock.Add(time.Hour)
	_, err := w.token(w.links, l.ID, "")
	w.problem(err, cloud.Unauthorized, l.ID, link.Reconnect, "invalid_grant")

	if _, err := w.token(w.links, "unknown", ""); cloud.ProblemOf(err) != cloud.Unauthorized {
		t.Errorf("unknown link: %v", err)
	}
}

func TestIssuerChanged(t *testing.T) {
	w := newWorld(t, true)
	l := w.connect("p1")
	w.vendor.tokenURL += "?of=another-provider"
	w.clock.Add(time.Hour)
	_, err := w.token(w.links, l.ID, "")
	w.problem(err, cloud.Unauthorized, l.ID, link.Reconnect, "issuer-changed")
	if n := w.srv.count("/token", "refresh_token"); n > 0 {
		t.Error("a refresh token was sent to another issuer")
	}
}

// TestRefreshTokenWithAnEnd: a refresh token whose end the vendor states is not used
// after it, also if later answers do not repeat the statement.
func TestRefreshTokenWithAnEnd(t *testing.T) {
	w := newWorld(t, false)
	a := w.browse("p1", session)
	w.srv.token = func(rw http.ResponseWriter, r *http.Request) bool {
		v := w.srv.issue(r.PostForm)
		v["refresh_token_expires_in"] = 604800
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return answer(200, string(b))(rw, r)
	}
	l, err := w.complete(a)
	if err != nil {
		t.Fatal(err)
	}
	w.srv.set(func() { w.srv.token = nil })
	w.clock.Add(6 * 24 * time.Hour)
	w.mustToken(l.ID, "")
	w.clock.Add(24 * time.Hour)
	_, err = w.token(w.links, l.ID, "")
	w.problem(err, cloud.Unauthorized, l.ID, link.Reconnect, "grant-expired")
}

// hold makes the next request to the token endpoint wait. It returns a channel that
// is closed when the request has come and one that lets it continue.
func (w *world) hold(then func(http.ResponseWriter, *http.Request) bool) (came, release chan struct{}) {
	came, release = make(chan struct{}), make(chan struct{})
	w.srv.set(func() {
		w.srv.token = func(rw http.ResponseWriter, r *http.Request) bool {
			w.srv.set(func() { w.srv.token = nil })
			close(came)
			<-release
			return then != nil && then(rw, r)
		}
	})
	return came, release
}

// later calls Token in a goroutine.
func (w *world) later(id string) chan error {
	done := make(chan error, 1)
	go func() {
		_, err := w.token(w.links, id, "")
		done <- err
	}()
	return done
}

// TestKilledDuringRefresh has a second process find what a process leaves behind that
// is killed between its request and the answer.
func TestKilledDuringRefresh(t *testing.T) {
	for _, rotates := range []bool{true, false} {
		w := newWorld(t, rotates)
		l := w.connect("p1")
		w.clock.Add(time.Hour)
		came, release := w.hold(cut)
		done := w.later(l.ID)
		<-came
		got, err := w.token(w.restart(), l.ID, "")
		if rotates {
			w.problem(err, cloud.Unauthorized, l.ID, link.Reconnect, "refresh-interrupted")
			if n := w.srv.count("/token", "refresh_token"); n != 1 {
				t.Errorf("%d refresh requests, want 1", n)
			}
		} else if err != nil || got == "" {
			t.Errorf("%q, %v", got, err)
		}
		close(release)
		if err := <-done; err == nil {
			t.Error("the killed process has a token")
		}
		if !rotates {
			w.mustToken(l.ID, "")
		}
	}
}

// TestKilledBeforeTheCommit: the vendor has rotated the tokens, and the process dies
// before the new pair is stored.
func TestKilledBeforeTheCommit(t *testing.T) {
	w := newWorld(t, true)
	l := w.connect("p1")
	w.clock.Add(time.Hour)
	disk := &failing{State: w.db, fail: 2} // after the mark
	w.opts.Store = disk
	_, err := w.token(w.restart(), l.ID, "")
	if cloud.ProblemOf(err) != cloud.Unavailable {
		t.Fatal(err)
	}
	_, err = w.token(w.links, l.ID, "")
	w.problem(err, cloud.Unauthorized, l.ID, link.Reconnect, "refresh-interrupted")
	if n := w.srv.count("/token", "refresh_token"); n != 1 {
		t.Errorf("%d refresh requests, want 1", n)
	}
}

// failing is a store whose commits fail from the one with number fail on.
type failing struct {
	store.State
	fail, commits int
}

func (f *failing) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if f.commits++; f.commits >= f.fail {
		return store.Result{}, net.ErrClosed
	}
	return f.State.Commit(ctx, b)
}

func TestRefreshRacesUnlink(t *testing.T) {
	w := newWorld(t, true)
	l := w.connect("p1")
	w.clock.Add(time.Hour)
	came, release := w.hold(nil)
	done := w.later(l.ID)
	<-came
	if err := w.links.Unlink(t.Context(), by, l.ID, false); err != nil {
		t.Fatal(err)
	}
	w.srv.set(func() { w.srv.grants[0].revoked = false }) // the vendor rotated before it saw the revocation
	close(release)
	if err := <-done; err == nil {
		t.Error("an unlinked account has a token")
	}
	if n := w.srv.live(); n > 0 {
		t.Errorf("%d grants are live after unlinking", n)
	}
	if left := w.keys("link/"); len(left) > 0 {
		t.Errorf("remain: %v", left)
	}
}

func TestRefreshRacesReconnect(t *testing.T) {
	for name, then := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"success": nil, "ended": answer(400, `{"error":"invalid_grant"}`), "cut": cut, "outage": answer(503, "")} {
		for _, revokesAll := range []bool{false, true} {
			w := newWorld(t, true)
			w.vendor.revokesAll = revokesAll
			l := w.connect("p1")
			w.clock.Add(time.Hour)
			came, release := w.hold(then)
			done := w.later(l.ID)
			<-came
			w.connect("p1")
			close(release)
			if err := <-done; cloud.ProblemOf(err) != cloud.Unavailable {
				t.Errorf("%s: %v", name, err)
			}
			if l := w.link(l.ID); l.Status != link.Working {
				t.Errorf("%s: status %s (%s)", name, l.Status, l.Reason)
			}
			w.mustToken(l.ID, "")
			if then != nil {
				continue
			}
			if n, want := w.srv.live(), 1; !revokesAll && n != want {
				t.Errorf("%d grants are live, want %d", n, want)
			}
			if n := w.srv.count("/revoke", ""); revokesAll && n > 0 {
				t.Error("a revocation that ends every grant was sent although a link uses the account")
			}
		}
	}
}
