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

const longestWait = client.MaxLife + client.Skew

// TestNobodyInParticularMovesTheMark holds that a request that has not shown
// who it is from leaves nothing behind while the clock is ahead.
func TestNobodyInParticularMovesTheMark(t *testing.T) {
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
		"nothing":      func(*world) url.Values { return url.Values{} },
		"a grant type": func(*world) url.Values { return url.Values{"grant_type": {"client_credentials"}} },
		"an unknown client": func(*world) url.Values {
			return url.Values{"grant_type": {"refresh_token"},
				"client_id": {"nobody"}}
		},
		"somebody's assertion": func(w *world) url.Values {
			return form(w.good(m{"sub": "nobody", "iss": "nobody"}), "system/Observation.rs")
		},
		"an assertion of before": func(w *world) url.Values {
			return form(w.good(m{"exp": w.clock.Now().Add(-time.Hour).Unix()}), "system/Observation.rs")
		},
		"a refresh token's form": func(*world) url.Values {
			return url.Values{"grant_type": {"refresh_token"},
				"refresh_token": {strings.Repeat("a", 26) + "." + strings.Repeat("b", 43) + "." +
					strings.Repeat("c", 22)}}
		},
		"a public client's claim": func(w *world) url.Values {
			return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}, "client_id": {public(w)}}
		},
		"a public client's a code": func(w *world) url.Values {
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
			if s, out := w.ask(w.good(nil)); s != 200 {
				t.Errorf("%d %v", s, out)
			}
		})
	}
}

// TestClockAheadOnce holds that a clock that once was ahead, with tokens
// issued meanwhile, costs the life of an assertion and not the lead.
func TestClockAheadOnce(t *testing.T) {
	for name, lead := range map[string]time.Duration{"an hour": time.Hour, "three days": 72 * time.Hour,
		"ten years": 10 * 365 * 24 * time.Hour} {
		for _, restart := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				used := w.good(nil)
				if s, out := w.ask(used); s != 200 {
					t.Fatal(s, out)
				}
				w.clock.Add(lead)
				if s, out := w.ask(w.good(nil)); s != 200 {
					t.Fatal(s, out)
				}
				w.clock.Add(-lead)
				if restart {
					w.open()
				}
				if s, _ := w.ask(used); s != 401 {
					t.Error("a replay:", s)
				}
				waited := time.Duration(0)
				for {
					s, out := w.ask(w.good(nil))
					if s == 200 {
						if _, err := w.bearer(out["access_token"]); err != nil {
							t.Error("the token is not taken:", err)
						}
						break
					}
					if waited > longestWait {
						t.Fatalf("no token after %s: %v", waited, out)
					}
					if restart {
						w.open() // a restart must not begin the wait anew
					}
					waited += time.Minute
					w.clock.Add(time.Minute)
				}
				if s, _ := w.ask(used); s != 401 {
					t.Error("a replay after the wait:", s)
				}
			})
		}
	}
}

// TestResetMark holds that an operator ends the wait, with a record in the
// same commit, and that nothing that was used becomes good again.
func TestResetMark(t *testing.T) {
	w := newWorld(t)
	used := w.good(nil)
	if s, out := w.ask(used); s != 200 {
		t.Fatal(s, out)
	}
	w.clock.Add(72 * time.Hour)
	if s, out := w.ask(w.good(nil)); s != 200 {
		t.Fatal(s, out)
	}
	w.clock.Add(-72 * time.Hour)
	if s, _ := w.ask(w.good(nil)); s != 401 {
		t.Fatalf("no wait to end: %d", s)
	}
	if k := w.end.Mark(); k.Mark.Sub(k.Clock) != longestWait {
		t.Errorf("the mark leads by %s", k.Mark.Sub(k.Clock))
	}
	by := audit.Event{Type: audit.Operator, Interaction: "clock-reset",
		Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0"}}}
	w.state.fail = errors.New("disk")
	if _, err := w.end.ResetMark(t.Context(), by); err == nil {
		t.Error("a reset that could not be recorded")
	}
	w.state.fail = nil
	if s, _ := w.ask(w.good(nil)); s != 401 {
		t.Error("reset although it could not be recorded")
	}
	events, at := len(w.state.events), w.state.t
	k, err := w.end.ResetMark(t.Context(), by)
	if err != nil || !k.Mark.Equal(k.Clock) || len(w.state.events) != events+1 || w.state.t != at+1 {
		t.Errorf("%+v %v, %d events in %d commits", k, err, len(w.state.events)-events, w.state.t-at)
	}
	for range 2 {
		if s, out := w.ask(w.good(nil)); s != 200 {
			t.Error("after the reset:", s, out)
		}
		if s, _ := w.ask(used); s != 401 {
			t.Error("a replay after the reset:", s)
		}
		w.open()
	}
}

// TestUsedForADay holds that what uses an assertion up is kept a day longer
// than the assertion: the mark alone no longer refuses all of that time.
func TestUsedForADay(t *testing.T) {
	exp := time.Unix(1_800_000_000, 0)
	for _, w := range token.UseAssertion(&client.Proof{Client: client.Client{ID: "c"},
		Assertion: &client.Assertion{JTI: "j", Exp: exp}}) {
		if w.Expires.Before(exp.Add(24 * time.Hour)) {
			t.Errorf("dropped at %s", w.Expires)
		}
	}
}
