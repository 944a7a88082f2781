package enforce

import (
	"fmt"
	"slices"
	"strings"
)

// lists checks _list: a List that is hidden from the caller decides no match, and one that
// is shown discloses only what the caller may see anyway.
func (r *run) lists(tok *token, bearer string) error {
	for i, typ := range []string{"Observation", "Device", "Patient"} {
		for _, id := range []string{"l1", "l2", "absent"} {
			q := "_list=" + id + "&_sort=_id"
			if !tok.may("s", "List") || !tok.may("s", typ) {
				r.count("_list 403")
				if a := r.w.get(bearer, "/"+typ+"?"+q); a.status != 403 {
					return fmt.Errorf("%s?%s: %d, want 403", typ, q, a.status)
				}
				continue
			}
			r.count("_list")
			all, err := r.w.operator(typ, "_sort=_id&_count=1000")
			if err != nil {
				return err
			}
			shown := r.visible(tok, "s", []string{"List/" + id})
			want := slices.DeleteFunc(r.visible(tok, "s", all), func(ref string) bool {
				return len(shown) == 0 || !slices.Contains(r.d.current(shown[0]).refs["item"], ref)
			})
			if err := r.search(tok, bearer, typ, q, want, i == len(r.tc.docs)%3); err != nil {
				return err
			}
		}
	}
	return nil
}

// members lists, for types in the compartment of a Patient, the query of a compartment
// without the id of the patient.
var members = []struct{ typ, query string }{ // read only
	{"Consent", "patient=Patient/"}, {"Group", "member=Patient/"}, {"List", "subject=Patient/"},
	{"Observation", "subject=Patient/"}, {"Patient", "_id="}, {"Provenance", "patient=Patient/"},
}

// compartments checks searches in the compartments of patients, of one type and of all types
// that the test has.
func (r *run) compartments(tok *token, bearer string) error {
	for _, p := range append(slices.Clone(patients), "absent") {
		var types, all []string
		may := true
		for i, m := range members {
			found, err := r.w.operator(m.typ, m.query+p+"&_sort=_id&_count=1000")
			if err != nil {
				return err
			}
			path, want := "Patient/"+p+"/"+m.typ, r.visible(tok, "s", found)
			r.count("compartment" + map[bool]string{false: " 403"}[tok.may("s", m.typ)])
			if err := r.searchAt(bearer, path, "_lastUpdated=gt2000&_sort=_id", tok.may("s", m.typ), want,
				i == len(r.tc.docs)%len(members)); err != nil {
				return err
			}
			if tok.may("s", m.typ) || len(p) > 2 { // all types that the token covers, or all
				types, all = append(types, m.typ), append(all, want...)
				may = may && tok.may("s", m.typ)
			}
		}
		if len(types) == 0 {
			continue
		}
		r.count("compartment of all types")
		if err := r.searchAt(bearer, "Patient/"+p+"/*", "_type="+strings.Join(types, ","), may, all, true); err != nil {
			return err
		}
	}
	return nil
}

// systemSearches checks searches of several types.
func (r *run) systemSearches(tok *token, bearer string) error {
	types := slices.DeleteFunc(slices.Clone(shared),
		func(t string) bool { return t == "AuditEvent" || t == "Subscription" || !tok.may("s", t) })
	lists := [][]string{types, {"Observation", "Device"}, {"Patient", "List"}, {"Provenance"}}
	for i, list := range lists {
		var want []string
		may := true
		for _, t := range list {
			found, err := r.w.operator(t, "_lastUpdated=gt2000&_count=1000")
			if err != nil {
				return err
			}
			want, may = append(want, r.visible(tok, "s", found)...), may && tok.may("s", t)
		}
		if len(list) == 0 {
			continue
		}
		r.count("system search" + map[bool]string{false: " 403"}[may])
		if err := r.searchAt(bearer, "", "_type="+strings.Join(list, ",")+"&_lastUpdated=gt2000", may, want,
			i == len(r.tc.docs)%len(lists)); err != nil {
			return err
		}
	}
	return nil
}
