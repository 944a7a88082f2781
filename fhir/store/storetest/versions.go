package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// versionsOf walks the versions that r selects, in steps of a number of rows if that is not
// 0, each of which begins where the one before ended.
func versionsOf(s store.Store, r store.VersionRange, rows int, stopAt int) (out []string, err error) {
	r.Rows = rows
	for {
		var last search.Position
		stopped := false
		rest, err := s.Versions(context.Background(), r, func(f *store.Found) bool {
			if stopped = stopAt > 0 && len(out) > 0 && len(out)%stopAt == 0 && last != ""; stopped {
				return false
			}
			last = strings.Clone(f.Pos)
			deleted := ""
			if f.Resource.Deleted {
				deleted = " deleted"
			}
			out = append(out, fmt.Sprintf("%s %d%s %v %s %s %s", f.Resource.Ref(), f.Resource.Version, deleted,
				f.Resource.LastUpdated, f.Facts.Patient, f.Pos, f.Resource.JSON))
			return true
		})
		switch {
		case err != nil:
			return out, err
		case stopped:
			r.After = last
		case rest != "":
			r.After = rest
		default:
			return out, nil
		}
	}
}

// briefly returns "Type/id version" of each of the versions.
func briefly(versions []string) (out []string) {
	for _, v := range versions {
		part := strings.SplitN(v, " ", 3)
		out = append(out, part[0]+" "+part[1])
	}
	return out
}

// testVersionsOfMany checks the order of the versions, the filter, the bounds in time, and
// that a walk in steps is a walk at once.
func testVersionsOfMany(t *testing.T, s store.Store) {
	r1 := commit(t, s, put("Patient", "p1", ""), put("Device", "d", `"patient":{"reference":"Patient/p1"}`))
	commit(t, s, put("Patient", "p1", `"gender":"male"`), put("Patient", "p2", ""))
	w := every(pulse("d1"), noon, 3, 60)
	ids := idsOf(w)
	r3 := sampled(t, s, w)
	commit(t, s, put("Observation", ids[1],
		`"status":"amended","code":{"text":"x"},"subject":{"reference":"Patient/p1"}`))
	r5 := commit(t, s, remove("Observation", ids[1]), remove("Device", "d"))
	observations := []string{"Observation/" + ids[1] + " 3", "Observation/" + ids[1] + " 2",
		"Observation/" + ids[0] + " 1",
		"Observation/" + ids[1] + " 1", "Observation/" + ids[2] + " 1"}
	everything := []string{observations[0], "Device/d 2", observations[1], observations[2], observations[3],
		observations[4],
		"Patient/p1 2", "Patient/p2 1", "Patient/p1 1", "Device/d 1"}
	types := []string{"Device", "Observation", "Organization", "Patient"}
	at := func(r store.Result) time.Time { return updatedAt(t, s, r) }
	granted := func(rules ...access.Rule) access.Filter {
		return (&access.Grant{Recipient: "c", Rules: rules, Consents: consents{}}).Filter(access.Read)
	}
	for name, c := range map[string]struct {
		r    store.VersionRange
		want []string
	}{
		"one type": {store.VersionRange{Types: []string{"Observation"}, Filter: all}, observations},
		"types":    {store.VersionRange{Types: types, Filter: all}, everything},
		"snapshot": {store.VersionRange{Types: types, Filter: all, At: r3.Seq}, everything[3:]},
		"of a patient": {store.VersionRange{Types: types, Patient: "p1",
			Filter: granted(access.Rule{Type: "*", May: access.Read, Patient: "p1"})},
			slices.DeleteFunc(slices.Clone(everything), func(v string) bool { return v == "Patient/p2 1" })},
		"filtered": {store.VersionRange{Types: types,
			Filter: granted(access.Rule{Type: "Device", May: access.Read})}, []string{"Device/d 2", "Device/d 1"}},
		"denied":     {store.VersionRange{Types: types}, nil},
		"since":      {store.VersionRange{Types: types, Filter: all, Since: at(r3)}, everything[:6]},
		"since then": {store.VersionRange{Types: types, Filter: all, Since: at(r3).Add(1)}, everything[:3]},
		"current at an instant": {store.VersionRange{Types: types, Filter: all, From: at(r3),
			To: at(r3).Add(time.Millisecond)},
			slices.Concat(everything[3:8], everything[9:])},
		"current until the deletion": {store.VersionRange{Types: types, Filter: all, From: at(r1), To: at(r5)},
			everything[2:]},
		"current after the deletion": {store.VersionRange{Types: types, Filter: all, From: at(r5).Add(time.Millisecond),
			To: at(r5).Add(time.Hour)}, []string{observations[2], observations[4], everything[6], everything[7]}},
		"current then, at an earlier snapshot": {store.VersionRange{Types: types, Filter: all, At: r3.Seq,
			From: at(r5).Add(time.Millisecond), To: at(r5).Add(time.Hour)},
			slices.Concat(everything[3:8], everything[9:])},
	} {
		for _, rows := range []int{0, 1, 2, 100} {
			for _, stopAt := range []int{0, 1, 3} {
				got, err := versionsOf(s, c.r, rows, stopAt)
				if err != nil || !slices.Equal(briefly(got), c.want) {
					t.Errorf("%s, %d rows, stopped after %d: %v, want %v: %v", name, rows, stopAt, briefly(got),
						c.want, err)
				}
			}
		}
	}
	if _, err := s.Versions(context.Background(), store.VersionRange{Types: types, Filter: all, After: "?"},
		func(*store.Found) bool { return true }); fhir.KindOf(err) != fhir.Invalid || err == nil {
		t.Errorf("a position of nothing: %v", err)
	}
}

// updatedAt returns the time of a commit.
func updatedAt(t *testing.T, s store.Store, r store.Result) (out time.Time) {
	t.Helper()
	_, err := s.Versions(context.Background(), store.VersionRange{Types: []string{"Device", "Observation", "Patient"},
		Filter: all, At: r.Seq}, func(f *store.Found) bool {
		out = f.Resource.LastUpdated
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// versions compares the versions of both stores, walked at once and in steps.
func (pr *pair) versions() {
	r := store.VersionRange{Types: []string{"Observation"}, Filter: pr.readFilter(), At: pr.at()}
	if r.At == 0 {
		r.At = pr.stores[0].LastSeq()
	}
	if patient := pr.of("only", "", "", "p1", "p2"); patient != "" {
		r.Patient = patient
		g := access.Grant{AllPatients: true, Rules: []access.Rule{{Type: "*", May: access.Read, Patient: patient}}}
		r.Filter = g.Filter(access.Read)
	}
	instant := func(what string) time.Time {
		return pr.clock.Now().Add(-time.Duration(pr.n(40, what)) * time.Millisecond * 500)
	}
	if pr.one(2, "since") {
		r.Since = instant("since when")
	}
	if pr.one(2, "at") {
		r.To = instant("to")
		r.From = r.To.Add(-time.Duration(1+pr.n(2000, "from")) * time.Millisecond)
	}
	var got [2]string
	for i, s := range pr.stores {
		list, err := versionsOf(s, r, 0, 0)
		got[i] = strings.Join(list, "\n")
		if err != nil {
			got[i] += fmt.Sprintf("\nkind %d", fhir.KindOf(err))
		}
	}
	what := fmt.Sprintf("versions at %d of %q since %v, from %v to %v", r.At, r.Patient, r.Since, r.From, r.To)
	pr.same(what, got[0], got[1])
	rows, stopAt := []int{0, 1, 3, 50}[pr.n(4, "rows")], []int{0, 1, 3}[pr.n(3, "stop")]
	list, err := versionsOf(pr.stores[1], r, rows, stopAt)
	if err != nil {
		list = append(list, fmt.Sprintf("kind %d", fhir.KindOf(err)))
	}
	pr.same(fmt.Sprintf("%s, in steps of %d rows and %d versions", what, rows, stopAt), got[1],
		strings.Join(list, "\n"))
}

// readFilter returns a filter of a random grant for reads.
func (pr *pair) readFilter() access.Filter {
	if pr.one(2, "everything") {
		return all
	}
	g := access.Grant{Recipient: "client", Consents: consents{patient: pr.of("reads of", "", "p1", "p2")},
		Rules: []access.Rule{{Type: "Observation", May: access.Read}}}
	return g.Filter(access.Read)
}
