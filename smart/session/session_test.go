package session_test

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/authn"
	"pulsegate/smart/role"
	"pulsegate/smart/session"
	"pulsegate/smart/user"
)

// model is a session as the promises have it.
type model struct {
	secret, sid, user string
	epoch             uint64
	created, seen     time.Time
	ended             bool
}

// Sessions against a model: whatever signs in, rests, acts, signs out, changes
// or is disabled, a session lives exactly as long as it may. A mark of use may
// be up to a minute old, so it may end that much early and never late.
func TestSessionsLiveAsLongAsTheyMay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
		clock := func() time.Time { return now }
		db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), Clock: clock, CacheBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}()
		ctx := context.Background()
		users := &user.Registry{Store: db, Clock: clock}
		s := &session.Sessions{Store: db, Users: users, Clock: clock}
		commit := func(ws ...store.StateWrite) {
			if _, err := db.Commit(ctx, &store.Batch{State: ws}); err != nil {
				t.Fatal(err)
			}
		}
		idle := map[string]time.Duration{}
		var ids []string
		add := func(login string, roles role.Roles, patient, practitioner string, rest time.Duration) {
			u, err := users.New(login, login, roles, patient, practitioner)
			if err != nil {
				t.Fatal(err)
			}
			ws, err := users.Writes(&u)
			if err != nil {
				t.Fatal(err)
			}
			commit(ws...)
			ids, idle[u.ID] = append(ids, u.ID), rest
		}
		add("ada", role.Roles{role.Patient}, "p1", "", time.Hour)
		add("ben", role.Roles{role.Practitioner}, "", "d1", 15*time.Minute)
		load := func(id string) user.User {
			u, err := users.Get(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
		change := func(id string, f func(*user.User)) {
			u := load(id)
			f(&u)
			ws, err := users.Writes(&u)
			if err != nil {
				t.Fatal(err)
			}
			commit(ws...)
		}
		var all []*model
		live := func(m *model) (yes, sure bool) {
			u := load(m.user)
			rest := now.Sub(m.seen)
			if m.ended || u.Disabled || u.Epoch != m.epoch || now.Sub(m.created) >= 12*time.Hour || rest >= idle[m.user] {
				return false, true
			}
			return true, rest < idle[m.user]-time.Minute
		}
		some := func() *model { return all[rapid.IntRange(0, len(all)-1).Draw(t, "session")] }
		begin := func(t *rapid.T) {
			u := load(rapid.SampledFrom(ids).Draw(t, "user"))
			secret, x, ws, err := s.Begin(&u, session.Proof{ACR: authn.PhishingResistant, At: now}, nil)
			if err != nil {
				t.Fatal(err)
			}
			commit(ws...)
			all = append(all, &model{secret: secret, sid: x.SID, user: u.ID, epoch: u.Epoch, created: now, seen: now})
		}
		begin(t)
		t.Repeat(map[string]func(*rapid.T){
			"sign in": begin,
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.SampledFrom([]int{1, 50, 600, 840, 900, 3500, 3600, 20000}).Draw(t, "s")) * time.Second)
			},
			"act": func(t *rapid.T) {
				m := some()
				want, sure := live(m)
				x, u, err := s.Find(ctx, m.secret)
				if err == nil && (x.SID != m.sid || u.ID != m.user) {
					t.Fatalf("the session of somebody else: %s", u.Login)
				}
				if err != nil && fhir.KindOf(err) != fhir.Unauthorized {
					t.Fatal(err)
				}
				if err == nil && !want || err != nil && want && sure {
					t.Fatalf("found: %v, want %v", err, want)
				}
				if err == nil {
					m.seen = now
				}
			},
			"is it alive": func(t *rapid.T) { // does not count as use
				m := some()
				want, sure := live(m)
				ok, err := s.Alive(ctx, m.sid)
				if err != nil || ok && !want || !ok && want && sure {
					t.Fatalf("alive %v %v, want %v", ok, err, want)
				}
			},
			"sign out": func(t *rapid.T) {
				m := some()
				if x, _, err := s.Find(ctx, m.secret); err == nil {
					commit(x.End())
					m.ended = true
				}
			},
			"roles or authenticators change": func(t *rapid.T) {
				change(rapid.SampledFrom(ids).Draw(t, "user"), func(u *user.User) { u.End() })
			},
			"disable": func(t *rapid.T) {
				change(rapid.SampledFrom(ids).Draw(t, "user"), func(u *user.User) { u.Disabled = !u.Disabled })
			},
			"guess": func(t *rapid.T) {
				for _, secret := range []string{"", "x", some().sid, some().secret + "x"} {
					if _, _, err := s.Find(ctx, secret); fhir.KindOf(err) != fhir.Unauthorized {
						t.Fatalf("a guess: %v", err)
					}
				}
			},
		})
	})
}

// A new sign-in at a browser replaces the session there: the old secret is
// worth nothing, the SID and the absolute end stay, and a weaker sign-in does
// not make the passkey fresh.
func TestStepUpReplacesTheSession(t *testing.T) {
	now := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), Clock: clock, CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	users := &user.Registry{Store: db, Clock: clock}
	s := &session.Sessions{Store: db, Users: users, Clock: clock}
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
		secret, x, writes, err := s.Begin(&u, session.Proof{ACR: acr, At: now}, before)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Commit(t.Context(), &store.Batch{State: append(also, writes...)}); err != nil {
			t.Fatal(err)
		}
		return secret, x
	}
	old, first := sign(authn.MultiFactor, nil, ws...)
	if first.Meets(session.StepUp(), now) {
		t.Error("password and code are no passkey")
	}
	now = now.Add(10 * time.Minute)
	secret, second := sign(authn.PhishingResistant, &first)
	if _, _, err := s.Find(t.Context(), old); fhir.KindOf(err) != fhir.Unauthorized {
		t.Error("the old secret still is one:", err)
	}
	if second.SID != first.SID || !second.Created.Equal(first.Created) || second.CSRF == first.CSRF {
		t.Errorf("%+v after %+v", second, first)
	}
	if x, _, err := s.Find(t.Context(), secret); err != nil || !x.Meets(session.StepUp(), now) {
		t.Error("a fresh passkey:", err)
	}
	now = now.Add(4 * time.Minute)
	_, third := sign(authn.MultiFactor, &second)
	if !third.Meets(session.StepUp(), now.Add(time.Minute)) || third.Meets(session.StepUp(), now.Add(time.Minute+time.Second)) {
		t.Error("the passkey counts from when it was shown, for five minutes")
	}
}
