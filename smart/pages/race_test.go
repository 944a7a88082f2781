package pages_test

import (
	"context"
	"fmt"
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

// concurrently runs f n times at the same time and counts the calls that return
// no error.
func concurrently(n int, f func(i int) error) (ok int, errs []error) {
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

// TestOneCodeOneSignIn checks that exactly one of many concurrent sign-ins with
// the same code, at two servers, succeeds.
func TestOneCodeOneSignIn(t *testing.T) {
	w := newWorld(t)
	const password = "correct horse battery"
	secret := w.browser().enrollPassword(w.invite("ada", "Ada Beispiel", "patient"), password)
	w.pass(time.Minute)
	code := authn.Code(secret, w.now())
	ok, errs := concurrently(6, func(i int) error {
		_, err := w.allSigns[i%2].Password(context.Background(),
			signin.From{Caller: audit.Caller{RemoteIP: "192.0.2.1"}},
			"ada", password, code, nil)
		return err
	})
	if ok != 1 {
		t.Errorf("%d sign-ins succeeded: %v", ok, errs)
	}
}

// TestConcurrentGuesses checks that concurrent guesses, at two servers, are delayed
// like sequential ones.
func TestConcurrentGuesses(t *testing.T) {
	w := newWorld(t)
	const password = "correct horse battery"
	secret := w.browser().enrollPassword(w.invite("ada", "Ada Beispiel", "patient"), password)
	w.pass(time.Minute)
	ok, _ := concurrently(12, func(i int) error {
		_, err := w.allSigns[i%2].Password(context.Background(),
			signin.From{Caller: audit.Caller{RemoteIP: "192.0.2.1"}},
			"ada",
			"guess guess guess", "000000", nil)
		return err
	})
	if ok != 0 {
		t.Fatal("a guess succeeded")
	}
	_, err := w.signs.Password(context.Background(), signin.From{Caller: audit.Caller{RemoteIP: "192.0.2.2"}},
		"ada", password,
		authn.Code(secret, w.now()), nil)
	if fhir.KindOf(err) != fhir.TooMany || err == nil {
		t.Errorf("after twelve concurrent guesses: %v", err)
	}
}

// TestOneLinkOneAccount checks that only one of two people who open a link at
// the same time can use it.
func TestOneLinkOneAccount(t *testing.T) {
	w := newWorld(t)
	link := w.invite("ada", "Ada Beispiel", "patient")
	token := strings.SplitN(link, "token=", 2)[1]
	inv, u, err := w.users.Invited(context.Background(), token)
	must(t, err)
	secret := authn.NewSecret()
	ok, errs := concurrently(4, func(i int) error {
		_, _, err := w.allSigns[i%2].EnrollPassword(context.Background(), signin.From{},
			signin.Enrollee{User: u, Invite: &inv},
			"correct horse battery", secret, authn.Code(secret, w.now()))
		return err
	})
	if ok != 1 {
		t.Errorf("%d enrolled: %v", ok, errs)
	}
}

// TestOneAdministratorLinkAtOnce checks that at most one of the bootstrap links that
// operators create at the same time at two servers is valid.
func TestOneAdministratorLinkAtOnce(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	tokens := make([]string, 8)
	_, errs := concurrently(len(tokens), func(i int) error {
		var err error
		_, tokens[i], err = w.allSigns[i%2].Bootstrap(ctx, "uid:0", fmt.Sprint("root", i), "Root Admin")
		return err
	})
	valid := 0
	for _, token := range tokens {
		if _, _, err := w.users.Invited(ctx, token); err == nil {
			valid++
		}
	}
	if valid != 1 {
		t.Errorf("%d links are valid; %v", valid, errs)
	}
}

// TestAuthenticatorChangesEndSessions checks that adding or removing a way to
// sign in ends the other sessions.
func TestAuthenticatorChangesEndSessions(t *testing.T) {
	w := newWorld(t)
	here := w.browser()
	k := here.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	there := w.browser()
	there.get("/auth/signin").passkey("/auth/passkey", k.Get)
	there.get("/auth/").at("/auth/")
	here.get("/auth/").post("/auth/remove",
		url.Values{"what": {"passkey"}, "id": {between(here.body, `name="id" value="`,
			`"`)}}).status(400).has("only way to sign in")
	here.get("/auth/enrol/password").status(200)
	secret := authn.ParseSecret(secretField.FindStringSubmatch(here.body)[1])
	here.post("/auth/enrol/password", url.Values{"password": {"correct horse battery"},
		"repeat": {"correct horse battery"}, "code": {authn.Code(secret, w.now())}}).status(200)
	here.get("/auth/").at("/auth/")
	there.get("/auth/").at("/auth/signin")
	w.pass(6 * time.Minute) // the last sign-in is too old for changes
	here.get("/auth/enrol").at("/auth/stepup")
}
