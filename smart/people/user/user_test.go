package user_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/user"
)

type world struct {
	*user.Registry
	t     *testing.T
	db    *pebblestore.DB
	clock *clocktest.Clock
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, clock: clocktest.At(time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC))}
	var err error
	if w.db, err = pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), Clock: w.clock.Now,
		CacheBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	})
	w.Registry = &user.Registry{Store: w.db, Clock: w.clock.Now}
	return w
}

func (w *world) save(user *user.User, also ...store.StateWrite) error {
	w.t.Helper()
	ws, err := w.Writes(user)
	if err != nil {
		return err
	}
	_, err = w.db.Commit(w.t.Context(), &store.Batch{State: append(ws, also...)})
	return err
}

func (w *world) made(login string) user.User {
	w.t.Helper()
	u, err := w.New(login, "Name", role.Roles{role.Administrator}, "", "")
	if err = errors.Join(err, w.save(&u)); err != nil {
		w.t.Fatal(err)
	}
	if u, err = w.Get(w.t.Context(), u.ID); err != nil {
		w.t.Fatal(err)
	}
	return u
}

// TestLoginsAreUnique checks that a login belongs to one user in every
// spelling, and that an identity at the hospital's provider belongs to one
// user.
func TestLoginsAreUnique(t *testing.T) {
	w := newWorld(t)
	ada := w.made("Ada.Muster")
	for _, typed := range []string{"ada.muster", " ADA.MUSTER ", "\uff21da.muster"} {
		if u, err := w.ByLogin(t.Context(), typed); err != nil || u.ID != ada.ID {
			t.Errorf("%q: %v", typed, err)
		}
		if u, err := w.New(typed, "Other", role.Roles{role.Auditor}, "", ""); err != nil ||
			fhir.KindOf(w.save(&u)) != fhir.Conflict {
			t.Errorf("%q is taken: %v", typed, err)
		}
	}
	ben := w.made("ben")
	tt := user.External{Issuer: "https://idp.example", Subject: "1"}
	ada.External = []user.External{tt}
	if err := w.save(&ada); err != nil {
		t.Fatal(err)
	}
	ben.External = []user.External{tt}
	if err := w.save(&ben); fhir.KindOf(err) != fhir.Conflict {
		t.Error("an outside identity of two:", err)
	}
	if u, err := w.ByExternal(t.Context(), tt.Issuer, tt.Subject); err != nil || u.ID != ada.ID {
		t.Error(err)
	}
	ada, _ = w.Get(t.Context(), ada.ID)
	ada.External = nil
	if err := w.save(&ada); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ByExternal(t.Context(), tt.Issuer, tt.Subject); fhir.KindOf(err) != fhir.NotFound {
		t.Error("an identity that was taken away:", err)
	}
	// The boundary between the two strings matters.
	if _, err := w.ByExternal(t.Context(), "https://idp.example\x00", "1"); fhir.KindOf(err) != fhir.NotFound {
		t.Error(err)
	}
}

// TestConcurrentChanges checks that exactly one of several concurrent changes
// succeeds and the others fail.
func TestConcurrentChanges(t *testing.T) {
	w := newWorld(t)
	u := w.made("ada")
	var wg sync.WaitGroup
	results := make([]error, 16)
	for i := range results {
		mine := u
		mine.Name = fmt.Sprint("Name ", i)
		wg.Go(func() { results[i] = w.save(&mine) })
	}
	wg.Wait()
	won := -1
	for i, err := range results {
		switch {
		case err == nil && won < 0:
			won = i
		case err == nil || fhir.KindOf(err) != fhir.Conflict:
			t.Errorf("%d after %d: %v", i, won, err)
		}
	}
	if now, err := w.Get(t.Context(), u.ID); err != nil || won < 0 || now.Name != fmt.Sprint("Name ", won) {
		t.Errorf("%d won, %q is stored: %v", won, now.Name, err)
	}
}

// TestInvite checks that a one-time link works once, for two days, and only
// until the user changes.
func TestInvite(t *testing.T) {
	w := newWorld(t)
	u := w.made("ada")
	link := func() string {
		t.Helper()
		token, write, err := w.Invite(&u, false)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(write.Key+string(write.Value), token) {
			t.Error("the secret is stored")
		}
		if _, err := w.db.Commit(t.Context(), &store.Batch{State: []store.StateWrite{write}}); err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := func(token string) bool {
		_, x, err := w.Invited(t.Context(), token)
		if err != nil && fhir.KindOf(err) != fhir.NotFound {
			t.Fatal(err)
		}
		return err == nil && x.ID == u.ID
	}
	first := link()
	if !good(first) || good("") || good(first+"x") || good(strings.Repeat("x", 200)) {
		t.Error("a link, or a guess")
	}
	inv, _, err := w.Invited(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	spend := &store.Batch{State: []store.StateWrite{inv.Redeem()}}
	if _, err := w.db.Commit(t.Context(), spend); err != nil || good(first) {
		t.Error("a link that was used:", err)
	}
	if _, err := w.db.Commit(t.Context(), spend); fhir.KindOf(err) != fhir.Conflict {
		t.Error("used twice:", err)
	}
	second := link()
	w.clock.Add(user.InviteLife - time.Second)
	if !good(second) {
		t.Error("a link of nearly two days")
	}
	w.clock.Add(time.Second)
	if good(second) {
		t.Error("a link of two days")
	}
	third := link()
	u.End()
	if err := w.save(&u); err != nil || good(third) {
		t.Error("a link from before a change:", err)
	}
	u, _ = w.Get(t.Context(), u.ID)
	fourth := link()
	u.Disabled = true
	if err := w.save(&u); err != nil || good(fourth) {
		t.Error("a link of who is disabled:", err)
	}
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	for name, tt := range map[string]struct {
		login, name, patient, practitioner string
		roles                              role.Roles
	}{
		"no login": {"", "N", "", "", role.Roles{role.Auditor}},
		"a space":  {"a b", "N", "", "", role.Roles{role.Auditor}},
		"no name":  {"a", "", "", "", role.Roles{role.Auditor}},
		"control":  {"a", "N\nM", "", "", role.Roles{role.Auditor}},
		"long":     {"a", strings.Repeat("n", 201), "", "", role.Roles{role.Auditor}},
		"no role":  {"a", "N", "", "", nil}, "unknown role": {"a", "N", "", "", role.Roles{"root"}},
		"acts and audits":          {"a", "N", "", "", role.Roles{role.Administrator, role.Auditor}},
		"patient who is none":      {"a", "N", "", "", role.Roles{role.Patient}},
		"practitioner who is none": {"a", "N", "p1", "", role.Roles{role.Practitioner}},
		"no id":                    {"a", "N", "../p", "", role.Roles{role.Patient}},
	} {
		if _, err := w.New(tt.login, tt.name, tt.roles, tt.patient, tt.practitioner); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
