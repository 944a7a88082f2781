package pages_test

import (
	"context"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/signin"
)

// together runs f n times at once and counts those without error.
func together(n int, f func(i int) error) (ok int, errs []error) {
	var wg sync.WaitGroup
	var good atomic.Int64
	var mu sync.Mutex
	for i := range n {
		wg.Go(func() {
			if err := f(i); err == nil {
				good.Add(1)
			} else {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return int(good.Load()), errs
}

// TestOneCodeOneSignIn: of many with the same code at once exactly one is let
// in.
func TestOneCodeOneSignIn(t *testing.T) {
	w := newWorld(t)
	const password = "correct horse battery"
	secret := w.browser().enrolPassword(w.invite("ada", "Ada Beispiel", "patient"), password)
	w.pass(time.Minute)
	code := authn.Code(secret, w.now())
	ok, errs := together(6, func(int) error {
		_, err := w.signs.Password(context.Background(), signin.From{Caller: audit.Caller{RemoteIP: "192.0.2.1"}},
			"ada", password, code, nil)
		return err
	})
	if ok != 1 {
		t.Errorf("%d were let in: %v", ok, errs)
	}
}

// TestGuessesAtOnce: to guess in parallel is not free.
func TestGuessesAtOnce(t *testing.T) {
	w := newWorld(t)
	const password = "correct horse battery"
	secret := w.browser().enrolPassword(w.invite("ada", "Ada Beispiel", "patient"), password)
	w.pass(time.Minute)
	ok, _ := together(12, func(int) error {
		_, err := w.signs.Password(context.Background(), signin.From{Caller: audit.Caller{RemoteIP: "192.0.2.1"}},
			"ada",
			"guess guess guess", "000000", nil)
		return err
	})
	if ok != 0 {
		t.Fatal("a guess was let in")
	}
	_, err := w.signs.Password(context.Background(), signin.From{Caller: audit.Caller{RemoteIP: "192.0.2.2"}},
		"ada", password,
		authn.Code(secret, w.now()), nil)
	if fhir.KindOf(err) != fhir.TooMany || err == nil {
		t.Errorf("after twelve guesses at once: %v", err)
	}
}

// TestOneLinkOneAccount: a link that two people open at once is one person's.
func TestOneLinkOneAccount(t *testing.T) {
	w := newWorld(t)
	link := w.invite("ada", "Ada Beispiel", "patient")
	token := strings.SplitN(link, "token=", 2)[1]
	inv, u, err := w.users.Invited(context.Background(), token)
	must(t, err)
	secret := authn.NewSecret()
	ok, errs := together(4, func(int) error {
		_, _, err := w.signs.EnrolPassword(context.Background(), signin.From{}, signin.Who{User: u, Invite: &inv},
			"correct horse battery", secret, authn.Code(secret, w.now()))
		return err
	})
	if ok != 1 {
		t.Errorf("%d enrolled: %v", ok, errs)
	}
}

// TestTakenAuthenticatorsEndSessions: a new way to sign in, and the loss of
// one, end the sessions elsewhere.
func TestTakenAuthenticatorsEndSessions(t *testing.T) {
	w := newWorld(t)
	here := w.browser()
	k := here.enrol(w.invite("ada", "Ada Beispiel", "patient"))
	there := w.browser()
	there.get("/auth/signin").passkey("/auth/passkey", k.Get)
	there.get("/auth/").at("/auth/")
	here.get("/auth/").post("/auth/remove",
		url.Values{"what": {"passkey"}, "id": {between(here.body, `name="id" value="`,
			`"`)}}).status(400).has("only way in")
	here.get("/auth/enrol/password").status(200)
	secret := authn.ParseSecret(secretField.FindStringSubmatch(here.body)[1])
	here.post("/auth/enrol/password", url.Values{"password": {"correct horse battery"},
		"repeat": {"correct horse battery"}, "code": {authn.Code(secret, w.now())}}).status(200)
	here.get("/auth/").at("/auth/")
	there.get("/auth/").at("/auth/signin")
	w.pass(6 * time.Minute) // a cookie that old changes nothing
	here.get("/auth/enrol").at("/auth/stepup")
}
