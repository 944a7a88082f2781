package enforce

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
)

// timeBuckets checks $time-buckets, by the minute, against the visible Observations in
// match.
func (r *run) timeBuckets(tok *token, bearer, p, code string, match []*version) error {
	q := "/Observation/$time-buckets?subject=Patient/" + p + "&coding=" + url.QueryEscape(loinc+"|"+code) +
		"&minutes=1&statistic=count,sum"
	a := r.w.get(bearer, q)
	if !tok.may("s", "Observation") {
		if a.status != 403 {
			return fmt.Errorf("%s: %d, want 403", q, a.status)
		}
		return nil
	}
	type bucket struct{ count, sum float64 }
	want := map[string]bucket{}
	for _, v := range match {
		if v.measured {
			at := start.Add(time.Duration(v.at) * time.Minute).Format(fhir.InstantLayout)
			b := want[at]
			want[at] = bucket{b.count + 1, b.sum + float64(v.value)}
		}
	}
	if r.count("time-buckets"); tok.patient != "" && tok.patient != p {
		r.count("time-buckets of another patient")
	}
	var out struct {
		Entry []struct {
			Resource struct {
				EffectivePeriod struct{ Start string }
				Component       []struct{ ValueQuantity struct{ Value float64 } }
			}
		}
	}
	if err := json.Unmarshal(a.body, &out); err != nil || a.status != 200 {
		return fmt.Errorf("%s: %d %s, %w", q, a.status, a.body, err)
	}
	got := map[string]bucket{}
	for _, e := range out.Entry {
		at, c := e.Resource.EffectivePeriod.Start, e.Resource.Component
		b := got[at] // of another unit
		got[at] = bucket{b.count + c[0].ValueQuantity.Value, b.sum + c[1].ValueQuantity.Value}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("%s: %v, want %v", q, got, want)
	}
	return nil
}

// compartment lists the types of $everything.
var compartment = []string{"Patient", "Consent", "Device", "List", "Observation", "Provenance"} // read only

// reference matches a reference in canonical JSON.
var reference = regexp.MustCompile(`"reference":"([A-Za-z]+/[A-Za-z0-9.-]+)"`)

// everything checks the pages of $everything: the visible resources of the compartment, and
// those of no patient to which they refer.
func (r *run) everything(tok *token, bearer, p string) error {
	q := "/Patient/" + p + "/$everything?_count=" + fmt.Sprint(r.tc.pageCount)
	types := slices.DeleteFunc(slices.Clone(compartment),
		func(t string) bool { return !tok.may("s", t) && !tok.may("r", t) })
	patient := r.d.current("Patient/" + p)
	status := 200
	switch {
	case len(types) == 0:
		status = 403
	case types[0] == "Patient" && (patient == nil || !tok.sees(r.provisions, "s", patient) &&
		!tok.sees(r.provisions, "r", patient)):
		status = 404
	}
	r.count(fmt.Sprint("everything ", status))
	if status != 200 {
		if a := r.w.get(bearer, q); a.status != status {
			return fmt.Errorf("%s: %d, want %d", q, a.status, status)
		}
		return nil
	}
	var want, includes []string
	for _, t := range types {
		do := "s"
		if !tok.may("s", t) {
			do = "r"
		}
		for _, ref := range r.visible(tok, do, r.of(t)) {
			if r.inCompartment(ref, p) {
				want = append(want, ref)
			}
		}
	}
	for _, ref := range want {
		id, _ := fhir.ParseRef(ref)
		res, _, err := r.w.db.Read(r.ctx(), id, 0)
		if err != nil {
			return err
		}
		for _, m := range reference.FindAllSubmatch(res.JSON, -1) {
			to := string(m[1])
			if v := r.d.current(to); v != nil && v.patient == "" && v.typ != "Patient" && !slices.Contains(want, to) &&
				!slices.Contains(includes, to) && (tok.sees(r.provisions, "s", v) || tok.sees(r.provisions, "r", v)) {
				includes = append(includes, to)
				r.count("everything with an include")
			}
		}
	}
	var got, included []string
	for next := q; next != ""; {
		a := r.w.get(bearer, next)
		if a.status != 200 {
			return fmt.Errorf("%s: %d %s", next, a.status, a.body)
		}
		got = append(got, a.entries("match")...)
		for _, ref := range a.entries("include") {
			if !slices.Contains(included, ref) {
				included = append(included, ref)
			}
		}
		next = a.link("next")
	}
	if !slices.Equal(sorted(got), sorted(want)) || !slices.Equal(sorted(included), sorted(includes)) {
		return fmt.Errorf("%s: %v and %v, want %v and %v", q, got, included, want, includes)
	}
	return nil
}

// inCompartment reports whether a resource is in the compartment of a patient.
func (r *run) inCompartment(ref, p string) bool {
	v := r.d.current(ref)
	if v.typ == "Provenance" && v.patient != p {
		return slices.Contains(v.refs["patient"], "Patient/"+p)
	}
	return v.patient == p
}

// ofEverything reports whether a query is one of $everything, which has no _count.
func ofEverything(q *search.Query) bool {
	return q.Count == -1 && len(q.Clauses) == 1 && len(q.Sort) == 0 &&
		(q.Clauses[0].Param.Code == "patient" || q.Type == "Patient" && q.Patient != "")
}
