package token_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
)

// longestWait bounds the time after a clock error during which no token is
// issued.
const longestWait = client.MaxLife + client.Skew

// TestUnauthenticatedRequestKeepsMark checks that a request without valid
// client authentication does not move the high-water mark while the clock is
// ahead.
func TestUnauthenticatedRequestKeepsMark(t *testing.T) {
	public := func(w *world) string {
		c, err := w.reg.Add(t.Context(),
			client.Client{Name: "Phone app", Method: client.None, RedirectURIs: []string{"https://app.example/cb"},
				Scope: "patient/*.rs"})
		if err != nil {
			t.Fatal(err)
		}
		return c.ID
	}
	for name, send := range map[string]func(w *world) url.Values{
		"empty form": func(*world) url.Values { return url.Values{} },
		"grant type": func(*world) url.Values { return url.Values{"grant_type": {"client_credentials"}} },
		"unknown client": func(*world) url.Values {
			return url.Values{"grant_type": {"refresh_token"},
				"client_id": {"unknown"}}
		},
		"assertion of an unknown client": func(w *world) url.Values {
			return form(w.assertion(m{"sub": "unknown", "iss": "unknown"}), "system/Observation.rs")
		},
		"expired assertion": func(w *world) url.Values {
			return form(w.assertion(m{"exp": w.clock.Now().Add(-time.Hour).Unix()}), "system/Observation.rs")
		},
		"well-formed refresh token": func(*world) url.Values {
			return url.Values{"grant_type": {"refresh_token"},
				"refresh_token": {strings.Repeat("a", 26) + "." + strings.Repeat("b", 43) + "." +
					strings.Repeat("c", 22)}}
		},
		"refresh token of a public client": func(w *world) url.Values {
			return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}, "client_id": {public(w)}}
		},
		"code of a public client": func(w *world) url.Values {
			return url.Values{"grant_type": {"authorization_code"}, "code": {"x"},
				"code_verifier": {strings.Repeat("v", 43)}, "client_id": {public(w)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.clock.Add(72 * time.Hour)
			if s, out, _ := w.post(send(w), nil); s < 400 {
				t.Fatalf("%d %v", s, out)
			}
			w.clock.Add(-72 * time.Hour)
			if s, out := w.requestToken(w.assertion(nil)); s != 200 {
				t.Errorf("%d %v", s, out)
			}
		})
	}
}

// TestClockAheadOnce checks that after the clock was ahead while tokens were
// issued, tokens are issued again after the lifetime of an assertion at the
// latest, however far it was ahead.
func TestClockAheadOnce(t *testing.T) {
	for name, lead := range map[string]time.Duration{"an hour": time.Hour, "three days": 72 * time.Hour,
		"ten years": 10 * 365 * 24 * time.Hour} {
		for _, restart := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				used := w.assertion(nil)
				if s, out := w.requestToken(used); s != 200 {
					t.Fatal(s, out)
				}
				w.clock.Add(lead)
				if s, out := w.requestToken(w.assertion(nil)); s != 200 {
					t.Fatal(s, out)
				}
				w.clock.Add(-lead)
				if restart {
					w.open()
				}
				if s, _ := w.requestToken(used); s != 401 {
					t.Error("replayed assertion:", s)
				}
				waited := time.Duration(0)
				for {
					s, out := w.requestToken(w.assertion(nil))
					if s == 200 {
						if _, err := w.bearer(out["access_token"]); err != nil {
							t.Error("the token is refused:", err)
						}
						break
					}
					if waited > longestWait {
						t.Fatalf("no token after %s: %v", waited, out)
					}
					if restart {
						w.open() // a restart must not restart the wait
					}
					waited += time.Minute
					w.clock.Add(time.Minute)
				}
				if s, _ := w.requestToken(used); s != 401 {
					t.Error("replayed assertion after the wait:", s)
				}
			})
		}
	}
}

// TestResetMark checks that an operator can end the wait, that the reset is
// recorded in the same commit, and that a used assertion stays used.
func TestResetMark(t *testing.T) {
	w := newWorld(t)
	used := w.assertion(nil)
	if s, out := w.requestToken(used); s != 200 {
		t.Fatal(s, out)
	}
	w.clock.Add(72 * time.Hour)
	if s, out := w.requestToken(w.assertion(nil)); s != 200 {
		t.Fatal(s, out)
	}
	w.clock.Add(-72 * time.Hour)
	if s, _ := w.requestToken(w.assertion(nil)); s != 401 {
		t.Fatalf("a token was issued during the wait: %d", s)
	}
	if mark, err := w.endpoint.Mark(t.Context()); err != nil || mark.Mark.Sub(mark.Clock) != longestWait {
		t.Errorf("the mark leads by %s", mark.Mark.Sub(mark.Clock))
	}
	by := audit.Event{Type: audit.Operator, Interaction: "clock-reset",
		Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0"}}}
	w.state.fail = errors.New("disk")
	if _, err := w.endpoint.ResetMark(t.Context(), by); err == nil {
		t.Error("a reset succeeded without its AuditEvent")
	}
	w.state.fail = nil
	if s, _ := w.requestToken(w.assertion(nil)); s != 401 {
		t.Error("a reset without an AuditEvent took effect")
	}
	events, at := len(w.state.events), w.state.seq
	mark, err := w.endpoint.ResetMark(t.Context(), by)
	if err != nil || !mark.Mark.Equal(mark.Clock) || len(w.state.events) != events+1 || w.state.seq != at+1 {
		t.Errorf("%+v %v, %d events in %d commits", mark, err, len(w.state.events)-events, w.state.seq-at)
	}
	for range 2 {
		if s, out := w.requestToken(w.assertion(nil)); s != 200 {
			t.Error("after the reset:", s, out)
		}
		if s, _ := w.requestToken(used); s != 401 {
			t.Error("replayed assertion after the reset:", s)
		}
		w.open()
	}
}

// TestMarkOfTwoServers checks that a server sees the mark that another has moved, and its
// reset, although both were started before.
func TestMarkOfTwoServers(t *testing.T) {
	w := newWorld(t)
	here := w.endpoint
	w.open()
	there := w.endpoint
	at := func(e *token.Endpoint, assertion string) int {
		w.endpoint = e
		s, _ := w.requestToken(assertion)
		return s
	}
	old := w.assertion(m{"exp": w.clock.Now().Add(time.Minute).Unix()})
	const lead = 4 * time.Minute
	w.clock.Add(lead)
	if s := at(there, w.assertion(nil)); s != 200 {
		t.Fatal(s)
	}
	w.clock.Add(-lead) // this server's clock is slow
	if s := at(here, old); s != 401 {
		t.Errorf("an assertion that had expired for the other server: %d", s)
	}
	w.clock.Add(72 * time.Hour)
	if s := at(there, w.assertion(nil)); s != 200 {
		t.Fatal(s)
	}
	w.clock.Add(-72 * time.Hour)
	if s := at(here, w.assertion(nil)); s != 401 {
		t.Errorf("before the reset: %d", s)
	}
	if _, err := there.ResetMark(t.Context(),
		audit.Event{Type: audit.Operator, Interaction: "clock-reset"}); err != nil {
		t.Fatal(err)
	}
	if s := at(here, w.assertion(nil)); s != 200 {
		t.Errorf("after the reset at the other server: %d", s)
	}
}

// TestJTIIsKeptForADay checks that a jti is kept for a day after its assertion
// has expired, because the mark alone does not refuse assertions for all of
// that time.
func TestJTIIsKeptForADay(t *testing.T) {
	exp := time.Unix(1_800_000_000, 0)
	for _, w := range token.UseAssertion(&client.Proof{Client: client.Client{ID: "c"},
		Assertion: &client.Assertion{JTI: "j", Exp: exp}}) {
		if w.Expires.Before(exp.Add(24 * time.Hour)) {
			t.Errorf("the jti expires at %s", w.Expires)
		}
	}
}
