package enforce

import (
	"fmt"
	"net/url"
	"slices"
)

// joinLimit is Limits.Joined of the tested services, by which a fault recognizes the
// searches of joins.
const joinLimit = 997

// joinQueries lists chained parameters and _has. A join is defined by the searches that
// it stands for: of the joined type with query, and of the type with by and the id of each
// match.
var joinQueries = []struct{ typ, param, joined, query, by string }{ // read only
	{"Observation", "subject:Patient.", "Patient", "_lastUpdated=gt2000", "subject=Patient/"},
	{"Observation", "device.", "Device", "_lastUpdated=gt2000", "device=Device/"},
	{"Device", "patient.", "Patient", "_lastUpdated=gt2000", "patient=Patient/"},
	{"Consent", "patient.", "Patient", "_lastUpdated=gt2000", "patient=Patient/"},
	{"Provenance", "target:Observation.", "Observation", "_lastUpdated=gt2000", "target=Observation/"},
	{"Patient", "_has:Observation:subject:", "Observation", "_lastUpdated=gt2000", "_has:Observation:subject:_id="},
	{"Device", "_has:Observation:device:", "Observation", "_lastUpdated=gt2000", "_has:Observation:device:_id="},
	{"Observation", "_has:Provenance:target:", "Provenance", "_lastUpdated=gt2000", "_has:Provenance:target:_id="},
}

// joins checks that what is hidden from the caller decides no match of a chained parameter
// or of _has, and is not added by _revinclude.
func (r *run) joins(tok *token, bearer string) error {
	for i, j := range joinQueries {
		q := j.param + j.query + "&_sort=_id"
		if !tok.may("s", j.joined) {
			if a := r.w.get(bearer, "/"+j.typ+"?"+q); a.status != 403 {
				return fmt.Errorf("%s?%s: %d, want 403", j.typ, q, a.status)
			}
			continue
		}
		matches, err := r.joined(tok, i)
		if err != nil {
			return err
		}
		all, err := r.w.operator(j.typ, "_sort=_id&_count=1000")
		if err != nil {
			return err
		}
		want := slices.DeleteFunc(r.visible(tok, "s", all), func(ref string) bool { return !matches[ref] })
		if err := r.search(tok, bearer, j.typ, q, want, i%3 == len(r.tc.docs)%3); err != nil {
			return err
		}
	}
	return r.reverseIncludes(tok, bearer)
}

// joined returns the resources that match the query with an index in joinQueries for a caller.
func (r *run) joined(tok *token, i int) (map[string]bool, error) {
	j := joinQueries[i]
	within, err := r.w.operator(j.joined, j.query+"&_count=1000")
	if err != nil {
		return nil, err
	}
	matches := map[string]bool{}
	for _, ref := range r.visible(tok, "s", within) {
		found, err := r.w.operator(j.typ, j.by+ref[len(j.joined)+1:]+"&_count=1000")
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			matches[f] = true
		}
	}
	return matches, nil
}

// exportJoins checks that what is hidden from the caller decides no match of _typeFilter with a
// chained parameter or _has.
func (r *run) exportJoins(tok *token, bearer string) error {
	i := len(r.tc.docs) % len(joinQueries)
	j := joinQueries[i]
	if tok.person || !tok.may("r", j.typ) {
		return nil
	}
	path := "/$export?_type=" + j.typ + "&_typeFilter=" + url.QueryEscape(j.typ+"?"+j.param+j.query)
	a := r.w.do(bearer, "GET", path, "", "Prefer", "respond-async")
	want := 202
	if !tok.may("s", j.joined) {
		want = 403
	}
	r.count("export joined " + fmt.Sprint(want))
	if a.status != want {
		return fmt.Errorf("%s: %d, want %d", path, a.status, want)
	}
	if want != 202 {
		return nil
	}
	matches, err := r.joined(tok, i)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, ref := range r.visible(tok, "r", r.of(j.typ)) {
		if matches[ref] {
			wanted[ref] = true
		}
	}
	return r.files(bearer, path, a.header.Get("Content-Location"), wanted)
}

// reverseIncludes checks that _revinclude adds the visible resources that refer to
// matches.
func (r *run) reverseIncludes(tok *token, bearer string) error {
	for _, q := range []struct{ typ, source, param string }{
		{"Patient", "Observation", "subject"}, {"Patient", "Device", "patient"}, {"Device", "Observation", "device"},
		{"Observation", "Provenance", "target"},
	} {
		if !tok.may("s", q.typ) {
			continue
		}
		match := r.visible(tok, "s", r.of(q.typ))
		var want []string
		for _, ref := range r.of(q.source) {
			v := r.d.current(ref)
			if tok.may("s", q.source) && !slices.Contains(match, ref) &&
				tok.sees(r.provisions, "s", v) &&
				slices.ContainsFunc(v.refs[q.param], func(to string) bool { return slices.Contains(match, to) }) {
				want = append(want, ref)
				r.count("revinclude")
			}
		}
		path := "/" + q.typ + "?_revinclude=" + q.source + ":" + q.param + "&_count=1000"
		a := r.w.get(bearer, path)
		if got := a.entries("include"); a.status != 200 || !slices.Equal(sorted(got), sorted(want)) {
			return fmt.Errorf("%s: %d, included %v, want %v", path, a.status, got, want)
		}
	}
	return nil
}
