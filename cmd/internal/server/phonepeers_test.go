package server

import (
	"context"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// overtaken is the store of a server that is overtaken once, between the criteria of a
// conditional create and its commit.
type overtaken struct {
	store.Store
	by        func()
	unguarded bool // commits ignore the guards of criteria, as a control
}

func (s *overtaken) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	conditional := func(guard string) bool { return strings.HasPrefix(guard, "criteria/") }
	if by := s.by; by != nil && slices.ContainsFunc(b.Guards, conditional) {
		s.by = nil
		by()
	}
	if s.unguarded {
		b.Guards = slices.DeleteFunc(b.Guards, conditional)
	}
	return s.Store.Commit(ctx, b)
}

// TestPhoneMadeCriteriaOfTwoServers lets a conditional create of a phone-made Observation
// at one server overtake one at another. The later one must find the match.
func TestPhoneMadeCriteriaOfTwoServers(t *testing.T) {
	for _, unguarded := range []bool{false, true} {
		all := newPeers(t, 2, map[string]string{"preferred": "false"})
		all.patient(0, "ada")
		all.patient(0, "ben")
		create := func(n *peer, patient, uuid string) (matched bool) {
			ops := n.ops()
			w, err := ops.fhir.Create(t.Context(), ops.request(operatorOfTest), "Observation",
				[]byte(saturation(patient, uuid, "0.97", profiled)), "status=final")
			if err != nil {
				t.Fatal(err)
			}
			return w.Matched
		}
		st := &overtaken{Store: all.nodes[0].store, unguarded: unguarded, by: func() {
			if create(all.nodes[1], "ben", strings.Replace(saturationID, "F1", "F2", 1)) {
				t.Error("the first create has found a match")
			}
		}}
		all.nodes[0].pipeline.Store = st
		matched := create(all.nodes[0], "ada", saturationID)
		q, err := search.Parse("Observation", [][2]string{{"status", "final"}}, search.ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := all.nodes[0].ops().store.Count(t.Context(), store.Find{Query: q,
			Filter: access.All().Filter(access.Search)})
		if err != nil {
			t.Fatal(err)
		}
		if st.by != nil {
			t.Fatal("the create was not overtaken")
		}
		if want := uint64(1); !unguarded && (n != want || !matched) || unguarded && (n == want || matched) {
			t.Errorf("unguarded %v: %d Observations, matched %v", unguarded, n, matched)
		}
	}
}
