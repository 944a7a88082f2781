package interaction_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
)

// lagging is the store of a process that shows an old state until Sync.
type lagging struct {
	store.Store
	lags bool
	ends error // of Sync
}

func (s *lagging) LastSeq() store.Seq {
	if s.lags {
		return 1
	}
	return s.Store.LastSeq()
}

func (s *lagging) Sync(context.Context) error {
	s.lags = s.lags && s.ends != nil
	return s.ends
}

// TestPageLinkOfNewerState opens the link to a second page at a process that lags behind
// the one that made it. The process must catch up first, and say that it cannot if it
// cannot. Only a link to a state that no process has is gone.
func TestPageLinkOfNewerState(t *testing.T) {
	here, there, mine := twoProcesses(t)
	for range 2 {
		if _, err := post("Organization", named, "")(there); err != nil {
			t.Fatal(err)
		}
	}
	search := func(s *interaction.Service, query string) (next string, err error) {
		p, err := s.Search(t.Context(), operator, "Organization", query)
		if err != nil {
			return "", err
		}
		var bundle struct {
			Link  []struct{ Relation, URL string }
			Entry []struct{}
		}
		if err := json.Unmarshal(p.Bytes(), &bundle); err != nil || len(bundle.Entry) != 1 {
			t.Fatalf("%v, %d entries", err, len(bundle.Entry))
		}
		for _, l := range bundle.Link {
			if l.Relation == "next" {
				u, err := url.Parse(l.URL)
				if err != nil {
					t.Fatal(err)
				}
				next = u.RawQuery
			}
		}
		return next, nil
	}
	link, err := search(there, "_count=1")
	if err != nil || !strings.Contains(link, "__page") {
		t.Fatal(link, err)
	}
	st := &lagging{Store: mine.Store, lags: true}
	here.Store = st
	if _, err := search(here, link); err != nil || st.lags {
		t.Errorf("%v, caught up: %v", err, !st.lags)
	}
	st.lags, st.ends = true, fhir.Errorf(fhir.Unavailable, "test", "the log does not answer")
	if _, err := search(here, link); !errors.Is(err, st.ends) {
		t.Errorf("the log does not answer: %v", err)
	}
	other, _, _ := twoProcesses(t)
	key, err := mine.Get(t.Context(), "page/key")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Store.Commit(t.Context(), &store.Batch{State: []store.StateWrite{{Key: "page/key",
		Value: key}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := search(other, link); fhir.KindOf(err) != fhir.Gone {
		t.Errorf("another store: %v", err)
	}
}
