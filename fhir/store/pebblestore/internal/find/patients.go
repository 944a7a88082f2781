package find

import (
	"slices"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
)

// patientsOf returns the patients to whom a search of Observations is limited, sorted, or
// nil if it is not limited to several.
func patientsOf(q *search.Query) []string {
	if q.Type != "Observation" || q.Patient != "" {
		return nil
	}
next:
	for i := range q.Clauses {
		c := &q.Clauses[i]
		if !plain(c) || c.Param.Code != "patient" && c.Param.Code != "subject" || len(c.Values) == 0 ||
			c.Modifier != search.NoModifier && c.Modifier != search.ModType {
			continue
		}
		var out []string
		for j := range c.Values {
			if v := &c.Values[j]; v.RefType != "Patient" || v.HasSystem {
				continue next
			}
			out = append(out, c.Values[j].RefID)
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return nil
}

// documentsOf walks the documents of some patients.
func (f *finder) documentsOf(patients []string, after []byte) error {
	if len(after) > 0 {
		if after[0] != posDoc || len(after) < 2 {
			return errPos(f.op)
		}
		p, _, ok := keys.CutString(after[2:])
		if !ok {
			return errPos(f.op)
		}
		i, _ := slices.BinarySearch(patients, p)
		patients = patients[i:]
	}
	y := *f
	more := true
	y.emit = func(m *snapshot.Match, pos []byte) bool {
		more = f.emit(m, pos)
		return more
	}
	for _, p := range patients {
		err := y.documents(p, true, after)
		if f.steps = y.steps; err != nil || !more {
			return err
		}
		after = nil
	}
	return nil
}
