package user_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/role"
	"pulsegate/smart/user"
)

type world struct {
	t   *testing.T
	db  *pebblestore.DB
	reg *user.Registry
	now time.Time
}

func newWorld(t *testing.T) *world {
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, db: db, now: time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)}
	w.reg = &user.Registry{Store: db, Clock: func() time.Time { return w.now }}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) commit(ws ...store.StateWrite) error {
	_, err := w.db.Commit(context.Background(), &store.Batch{State: ws})
	return err
}

func (w *world) save(u *user.User) error {
	w.t.Helper()
	ws, err := w.reg.Writes(u)
	w.must(err)
	return w.commit(ws...)
}

func (w *world) patient(login string) user.User {
	u, err := w.reg.New(login, "Ada", role.Roles{role.Patient}, "p1", "")
	w.must(err)
	return u
}

// TestLoginIsOneUsers: however a login name is typed it is one user's, also
// when many claim it at once.
func TestLoginIsOneUsers(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	var won, lost atomic.Int32
	for i := range 32 {
		u := w.patient([]string{"Ada", "ada", " ADA ", "ａｄａ"}[i%4])
		wg.Go(func() {
			ws, err := w.reg.Writes(&u)
			if err == nil {
				err = w.commit(ws...)
			}
			switch {
			case err == nil:
				won.Add(1)
			case fhir.KindOf(err) == fhir.Conflict:
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 31 {
		t.Errorf("%d won, %d lost", won.Load(), lost.Load())
	}
	for _, typed := range []string{"ada", "ADA", "ａda"} {
		if u, err := w.reg.ByLogin(context.Background(), typed); err != nil || u.Login != "ada" {
			t.Errorf("%q: %v %v", typed, u.Login, err)
		}
	}
	for _, typed := range []string{"", "a b", "ada\x00", strings.Repeat("a", 129), "bob"} {
		if _, err := w.reg.ByLogin(context.Background(), typed); fhir.KindOf(err) != fhir.NotFound {
			t.Errorf("%q: %v", typed, err)
		}
	}
}

// TestChangesDoNotOverwrite: of two changes of one reading the second fails.
func TestChangesDoNotOverwrite(t *testing.T) {
	w := newWorld(t)
	u := w.patient("ada")
	w.must(w.save(&u))
	a, err := w.reg.Get(context.Background(), u.ID)
	w.must(err)
	b := a
	a.Name, b.Disabled = "Ada B.", true
	w.must(w.save(&b))
	if err := w.save(&a); fhir.KindOf(err) != fhir.Conflict {
		t.Error(err)
	}
	if now, err := w.reg.Get(context.Background(), u.ID); err != nil || !now.Disabled || now.Name != "Ada" {
		t.Errorf("%+v %v", now, err)
	}
}

// TestInvite: a link is good once, for its time, for one state of its user, and
// what is stored does not let anybody make it again.
func TestInvite(t *testing.T) {
	ctx := context.Background()
	for name, spoil := range map[string]func(w *world, u *user.User, inv user.Invite){
		"used":     func(w *world, _ *user.User, inv user.Invite) { w.must(w.commit(inv.Redeem())) },
		"too old":  func(w *world, _ *user.User, _ user.Invite) { w.now = w.now.Add(user.InviteLife) },
		"disabled": func(w *world, u *user.User, _ user.Invite) { u.Disabled = true; w.must(w.save(u)) },
		"changed":  func(w *world, u *user.User, _ user.Invite) { u.End(); w.must(w.save(u)) },
	} {
		w := newWorld(t)
		u := w.patient("ada")
		w.must(w.save(&u))
		u, err := w.reg.Get(ctx, u.ID)
		w.must(err)
		token, wr, err := w.reg.Invite(&u, false)
		w.must(err)
		w.must(w.commit(wr))
		if strings.Contains(wr.Key+string(wr.Value), token) {
			t.Error("the secret is stored")
		}
		inv, who, err := w.reg.Invited(ctx, token)
		if err != nil || who.ID != u.ID {
			t.Fatal(err)
		}
		if _, _, err := w.reg.Invited(ctx, token[:len(token)-1]+"x"); fhir.KindOf(err) != fhir.NotFound {
			t.Error(err)
		}
		spoil(w, &u, inv)
		if _, _, err := w.reg.Invited(ctx, token); fhir.KindOf(err) != fhir.NotFound {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.commit(inv.Redeem()); name == "used" && fhir.KindOf(err) != fhir.Conflict {
			t.Errorf("%s: redeemed again: %v", name, err)
		}
	}
}

// TestRulesOfARecord: each broken rule is named.
func TestRulesOfARecord(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		login, name, patient, practitioner string
		roles                              role.Roles
		word                               string
	}{
		{"a b", "A", "", "", role.Roles{role.Auditor}, "login"},
		{"a", "", "", "", role.Roles{role.Auditor}, "name"},
		{"a", "A\nB", "", "", role.Roles{role.Auditor}, "name"},
		{"a", "A", "", "", role.Roles{role.Patient}, "patient"},
		{"a", "A", "", "", role.Roles{role.Practitioner}, "practitioner"},
		{"a", "A", "p 1", "", role.Roles{role.Auditor}, "patient"},
	} {
		_, err := w.reg.New(c.login, c.name, c.roles, c.patient, c.practitioner)
		if fhir.KindOf(err) != fhir.Invalid || !strings.Contains(fmt.Sprint(err), c.word) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
