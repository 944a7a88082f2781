package interaction_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/pebbletest"
)

// halting is a store whose searches by one identifier wait to be let go.
type halting struct {
	store.Store
	code    string
	entered chan struct{} // one value per search that waits
	let     chan struct{}
}

func (s *halting) Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error {
	for _, c := range f.Query.Clauses {
		if len(c.Values) > 0 && c.Values[0].Code == s.code {
			s.entered <- struct{}{}
			select {
			case <-s.let:
			case <-ctx.Done():
				return fhir.Wrap("halting", ctx.Err())
			}
		}
	}
	return s.Store.Find(ctx, f, fn)
}

// entries is a validator that accepts everything and parses a Bundle of conditional
// creates: one per line of criteria.
type entries struct{ open }

func (entries) Bundle(body []byte) (*r4.Bundle, error) {
	b := &r4.Bundle{Type: "transaction"}
	for _, line := range strings.Fields(string(body)) {
		b.Entries = append(b.Entries, r4.Entry{Method: "POST", URL: "Organization", IfNoneExist: line,
			Resource: []byte(`,"name":"x"`)})
	}
	return b, nil
}

func newService(t *testing.T, wrap func(store.Store) store.Store) *interaction.Service {
	t.Helper()
	st := pebbletest.Open(t)
	rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pg.example"})
	if err != nil {
		t.Fatal(err)
	}
	return &interaction.Service{Store: wrap(st), Validator: entries{}, Audit: rec, Clock: time.Now,
		Rand: rand.Reader, Base: "https://pg.example/fhir"}
}

var operator = &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0",
	Grant: access.All()}}}

func organization(value string) []byte {
	return []byte(`,"identifier":[{"system":"urn:t","value":"` + value + `"}]`)
}

// TestSlowCriteriaConcernNobodyElse tests that a slow transaction of many conditional
// creates does not delay requests with other criteria, and that those with the same
// criteria wait until their context ends.
func TestSlowCriteriaConcernNobodyElse(t *testing.T) {
	h := &halting{code: "slow", entered: make(chan struct{}), let: make(chan struct{})}
	s := newService(t, func(st store.Store) store.Store { h.Store = st; return h })
	var lines []string
	for i := range 1000 {
		lines = append(lines, fmt.Sprint("identifier=urn:t|many", i))
	}
	lines = append(lines, "identifier=urn:t|slow")
	s.Limits.BundleEntries = len(lines)
	done := make(chan error)
	go func() {
		_, err := s.Bundle(context.Background(), operator, []byte(strings.Join(lines, " ")), interaction.ReturnMinimal)
		done <- err
	}()
	<-h.entered
	for i := range 600 { // more than any number of stripes that two could share
		if _, err := s.Create(context.Background(), operator, "Organization", organization(fmt.Sprint("other", i)),
			fmt.Sprint("identifier=urn:t|other", i)); err != nil {
			t.Fatal(err)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Create(ended, operator, "Organization", organization("many7"), "identifier=many7")
	if fhir.KindOf(err) != fhir.Unavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("the same criteria, with a context that ended: %v", err)
	}
	same := make(chan interaction.Written)
	go func() {
		w, err := s.Create(context.Background(), operator, "Organization", organization("many7"), "identifier=many7")
		if err != nil {
			t.Error(err)
		}
		same <- w
	}()
	select {
	case <-same:
		t.Error("two creates with the same criteria at once")
	case h.let <- struct{}{}:
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if w := <-same; w.Matched { // the transaction's own have no identifier
		t.Error("matched what the transaction did not make")
	}
}

// TestOneOfManySpellings tests that concurrent creates with differently spelled
// criteria make one resource.
func TestOneOfManySpellings(t *testing.T) {
	s := newService(t, func(st store.Store) store.Store { return st })
	for round := range 20 {
		value := fmt.Sprint("v", round)
		spellings := []string{"identifier=urn:t|" + value, "identifier=urn%3At%7C" + value, "identifier=" + value,
			"?identifier=urn:t|" + value, "Organization?identifier=urn:t%7c" + value,
			"identifier=urn:t|" + value + "&_count=1", "identifier=urn:t|" + value + "&identifier=" + value,
			"identifier=%75rn:t|" + value, "&identifier=urn:t|" + value,
			"identifier=urn:t|" + value + ",urn:t|none" + value}
		var wg sync.WaitGroup
		var mu sync.Mutex
		made := 0
		for _, c := range spellings {
			wg.Add(1)
			go func() {
				defer wg.Done()
				w, err := s.Create(context.Background(), operator, "Organization", organization(value), c)
				if err != nil {
					t.Error(err)
				}
				if mu.Lock(); w.Created {
					made++
				}
				mu.Unlock()
			}()
		}
		wg.Wait()
		if made != 1 {
			t.Fatalf("round %d: %d resources", round, made)
		}
	}
}
