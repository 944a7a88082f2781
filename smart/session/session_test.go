package session_test

import (
	"context"
	"strings"
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

// TestSessionLivesAsItsRulesSay holds a session to the rules in words: it is
// there while it is used often enough, at most 12 hours, while the user is as
// when it began; in any order of use, waiting, changes and restarts.
func TestSessionLivesAsItsRulesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewMem()
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		now := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
		clock := func() time.Time { return now }
		db, err := pebblestore.Open("", pebblestore.Options{FS: fs, Clock: clock})
		must(err)
		defer func() { must(db.Close()) }()
		ctx := context.Background()
		users := &user.Registry{Store: db, Clock: clock}
		all := &session.Sessions{Store: db, Users: users, Clock: clock}
		commit := func(ws ...store.StateWrite) {
			_, err := db.Commit(ctx, &store.Batch{State: ws})
			must(err)
		}
		save := func(u *user.User) {
			ws, err := users.Writes(u)
			must(err)
			commit(ws...)
			*u, err = users.Get(ctx, u.ID)
			must(err)
		}
		staff := rapid.Bool().Draw(t, "staff")
		idle, roles := time.Hour, role.Roles{role.Patient}
		if staff {
			idle, roles = 15*time.Minute, role.Roles{role.Auditor}
		}
		u, err := users.New("ada", "Ada", roles, "p1", "")
		must(err)
		save(&u)
		acr := rapid.SampledFrom([]string{authn.MultiFactor, authn.PhishingResistant}).Draw(t, "acr")
		secret, x, ws, err := all.Begin(&u, session.Proof{ACR: acr, At: now}, nil)
		must(err)
		commit(ws...)
		for _, w := range ws {
			if strings.Contains(w.Key, secret) || strings.Contains(string(w.Value), secret) {
				t.Fatal("the secret is stored")
			}
		}
		began, seen, over := now, now, false
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				u.End()
				save(&u)
				over = true
			case 1:
				must(db.Close())
				db, err = pebblestore.Open("", pebblestore.Options{FS: fs, Clock: clock})
				must(err)
				users.Store, all.Store = db, db
			case 2:
				if rapid.IntRange(0, 4).Draw(t, "end") == 0 {
					commit(x.End())
					over = true
				}
			default:
				now = now.Add(rapid.SampledFrom([]time.Duration{time.Second, 5 * time.Minute, 14 * time.Minute, 15 * time.Minute, 59 * time.Minute, time.Hour}).Draw(t, "wait"))
			}
			// A use within a minute of the last need not count as one.
			over = over || now.Sub(began) >= 12*time.Hour || now.Sub(seen) >= idle
			alive, err := all.Alive(ctx, x.SID)
			must(err)
			found, who, err := all.Find(ctx, secret)
			switch {
			case over && (fhir.KindOf(err) != fhir.Unauthorized || alive):
				t.Fatalf("over, and found: %v %v", err, alive)
			case !over && (err != nil || who.ID != u.ID || found.SID != x.SID || !alive):
				t.Fatalf("not over, and not found: %v %v", err, alive)
			case over:
				return
			}
			if now.Sub(seen) >= time.Minute {
				seen = now
			}
			strong := acr == authn.PhishingResistant && now.Sub(began) <= 5*time.Minute
			if found.Meets(session.StepUp(), now) != strong {
				t.Fatalf("step-up after %v by %s: %v", now.Sub(began), acr, !strong)
			}
		}
	})
}

// TestAnotherSignInTakesTheFormerSecret: fixation has no hold, and the absolute
// end does not move.
func TestAnotherSignInTakesTheFormerSecret(t *testing.T) {
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	now := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	users := &user.Registry{Store: db, Clock: func() time.Time { return now }}
	all := &session.Sessions{Store: db, Users: users, Clock: users.Clock}
	ctx := context.Background()
	u, err := users.New("ada", "Ada", role.Roles{role.Patient}, "p1", "")
	if err != nil {
		t.Fatal(err)
	}
	ws, err := users.Writes(&u)
	if err != nil {
		t.Fatal(err)
	}
	first, x, more, err := all.Begin(&u, session.Proof{ACR: authn.PhishingResistant, At: now}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Commit(ctx, &store.Batch{State: append(ws, more...)}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(30 * time.Minute)
	second, y, more, err := all.Begin(&u, session.Proof{ACR: authn.MultiFactor, At: now}, &x)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Commit(ctx, &store.Batch{State: more}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := all.Find(ctx, first); fhir.KindOf(err) != fhir.Unauthorized {
		t.Error("the former secret:", err)
	}
	got, _, err := all.Find(ctx, second)
	if err != nil || got.SID != x.SID || !got.Created.Equal(x.Created) || y.CSRF == x.CSRF || second == first {
		t.Errorf("%+v %v", got, err)
	}
	if got.Meets(session.StepUp(), now) {
		t.Error("an old passkey sign-in is fresh because of a later password")
	}
}
