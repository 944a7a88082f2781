package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/user"
)

// model is the expected state of a session.
type model struct {
	secret, sid, user string
	epoch             uint64
	created, seen     time.Time
	ended             bool
}

// world has the sessions of two users.
type world struct {
	clock *clocktest.Clock
	db    *pebblestore.DB
	users *user.Registry
	s     *session.Sessions
	idle  map[string]time.Duration // by user
	ids   []string
}

func newWorld(t *rapid.T) *world {
	w := &world{clock: clocktest.At(time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)), idle: map[string]time.Duration{}}
	var err error
	if w.db, err = pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), Clock: w.clock.Now,
		CacheBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	w.users = &user.Registry{Store: w.db, Clock: w.clock.Now}
	w.s = &session.Sessions{Store: w.db, Users: w.users, Clock: w.clock.Now}
	add := func(login string, roles role.Roles, patient, practitioner string, rest time.Duration) {
		u, err := w.users.New(login, login, roles, patient, practitioner)
		if err != nil {
			t.Fatal(err)
		}
		w.save(t, &u)
		w.ids, w.idle[u.ID] = append(w.ids, u.ID), rest
	}
	add("ada", role.Roles{role.Patient}, "p1", "", time.Hour)
	add("ben", role.Roles{role.Practitioner}, "", "d1", 15*time.Minute)
	return w
}

func (w *world) commit(t *rapid.T, ws ...store.StateWrite) {
	if _, err := w.db.Commit(context.Background(), &store.Batch{State: ws}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) save(t *rapid.T, u *user.User) {
	ws, err := w.users.Writes(u)
	if err != nil {
		t.Fatal(err)
	}
	w.commit(t, ws...)
}

func (w *world) load(t *rapid.T, id string) user.User {
	u, err := w.users.Get(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (w *world) change(t *rapid.T, f func(*user.User)) {
	u := w.load(t, rapid.SampledFrom(w.ids).Draw(t, "user"))
	f(&u)
	w.save(t, &u)
}

// valid reports whether m may be accepted, and whether it must be, given that
// the last activity may be recorded up to a minute late.
func (w *world) valid(t *rapid.T, m *model) (may, must bool) {
	u := w.load(t, m.user)
	rest := w.clock.Now().Sub(m.seen)
	if m.ended || u.Disabled || u.Epoch != m.epoch || w.clock.Now().Sub(m.created) >= 12*time.Hour ||
		rest >= w.idle[m.user] {
		return false, true
	}
	return true, rest < w.idle[m.user]-time.Minute
}

// TestSessionModel compares sessions with a model for random sequences of
// sign-ins, waits, requests, sign-outs and changes of users. The last activity
// may be recorded up to a minute late, so a session may end that much early,
// but never late.
func TestSessionModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		defer func() {
			if err := w.db.Close(); err != nil {
				t.Error(err)
			}
		}()
		ctx, sessions := context.Background(), w.s
		var all []*model
		some := func() *model { return all[rapid.IntRange(0, len(all)-1).Draw(t, "session")] }
		begin := func(t *rapid.T) {
			u := w.load(t, rapid.SampledFrom(w.ids).Draw(t, "user"))
			secret, sess, ws, err := sessions.Begin(&u, session.Proof{ACR: authn.PhishingResistant, At: w.clock.Now()},
				session.Browser{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			w.commit(t, ws...)
			all = append(all, &model{secret: secret, sid: sess.SID, user: u.ID, epoch: u.Epoch, created: w.clock.Now(),
				seen: w.clock.Now()})
		}
		begin(t)
		t.Repeat(map[string]func(*rapid.T){
			"sign in": begin,
			"wait": func(t *rapid.T) {
				w.clock.Add(time.Duration(rapid.SampledFrom([]int{1, 50, 600, 840, 900, 3500, 3600, 20000}).Draw(t,
					"s")) * time.Second)
			},
			"act": func(t *rapid.T) {
				m := some()
				want, sure := w.valid(t, m)
				sess, u, err := sessions.Find(ctx, m.secret)
				if err == nil && (sess.SID != m.sid || u.ID != m.user) {
					t.Fatalf("the session of another user: %s", u.Login)
				}
				if err != nil && fhir.KindOf(err) != fhir.Unauthorized {
					t.Fatal(err)
				}
				if err == nil && !want || err != nil && want && sure {
					t.Fatalf("found: %v, want %v", err, want)
				}
				if err == nil {
					m.seen = w.clock.Now()
				}
			},
			"check alive": func(t *rapid.T) { // does not count as activity
				m := some()
				want, sure := w.valid(t, m)
				ok, err := sessions.Alive(ctx, m.sid)
				if err != nil || ok && !want || !ok && want && sure {
					t.Fatalf("alive %v %v, want %v", ok, err, want)
				}
			},
			"sign out": func(t *rapid.T) {
				m := some()
				if sess, _, err := sessions.Find(ctx, m.secret); err == nil {
					w.commit(t, sess.End())
					m.ended = true
				}
			},
			"roles or authenticators change": func(t *rapid.T) {
				w.change(t, func(u *user.User) { u.End() })
			},
			"disable": func(t *rapid.T) {
				w.change(t, func(u *user.User) { u.Disabled = !u.Disabled })
			},
			"guess": func(t *rapid.T) {
				for _, secret := range []string{"", "x", some().sid, some().secret + "x"} {
					if _, _, err := sessions.Find(ctx, secret); fhir.KindOf(err) != fhir.Unauthorized {
						t.Fatalf("a guess: %v", err)
					}
				}
			},
		})
	})
}

// TestStepUpReplacesTheSession checks that a new sign-in at a browser replaces
// the session: the old secret becomes invalid, the SID and the absolute end
// stay, and a weaker sign-in does not renew the passkey's age.
func TestStepUpReplacesTheSession(t *testing.T) {
	clock := clocktest.At(time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC))
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), Clock: clock.Now, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	users := &user.Registry{Store: db, Clock: clock.Now}
	sessions := &session.Sessions{Store: db, Users: users, Clock: clock.Now}
	u, err := users.New("ada", "Ada", role.Roles{role.Administrator}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	ws, err := users.Writes(&u)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(acr string, before *session.Session, also ...store.StateWrite) (string, session.Session) {
		t.Helper()
		secret, sess, writes, err := sessions.Begin(&u, session.Proof{ACR: acr, At: clock.Now()}, session.Browser{},
			before)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Commit(t.Context(), &store.Batch{State: append(also, writes...)}); err != nil {
			t.Fatal(err)
		}
		return secret, sess
	}
	old, first := sign(authn.MultiFactor, nil, ws...)
	if first.Meets(session.StepUp(), clock.Now()) {
		t.Error("password and code count as a passkey")
	}
	clock.Add(10 * time.Minute)
	secret, second := sign(authn.PhishingResistant, &first)
	if _, _, err := sessions.Find(t.Context(), old); fhir.KindOf(err) != fhir.Unauthorized {
		t.Error("the old secret is still valid:", err)
	}
	if second.SID != first.SID || !second.Created.Equal(first.Created) || second.CSRF == first.CSRF {
		t.Errorf("%+v after %+v", second, first)
	}
	if sess, _, err := sessions.Find(t.Context(), secret); err != nil || !sess.Meets(session.StepUp(), clock.Now()) {
		t.Error("a fresh passkey:", err)
	}
	clock.Add(4 * time.Minute)
	_, third := sign(authn.MultiFactor, &second)
	if !third.Meets(session.StepUp(), clock.Now().Add(time.Minute)) ||
		third.Meets(session.StepUp(), clock.Now().Add(time.Minute+time.Second)) {
		t.Error("the passkey must count for five minutes from its use")
	}
}
