package rows

import (
	"fmt"
	"testing"

	"pulsegate/fhir/search"
)

// TestManyValues makes the rows of documents with 200,000 values. If the time for a value
// grew with their number, it would take minutes, and writers would wait for it.
func TestManyValues(t *testing.T) {
	const n = 200_000
	for _, c := range []struct {
		typ, param string
		value      func(i int) search.Value
		each       func(vals *search.Values, fn func([]byte))
	}{
		{"Group", "member", func(i int) search.Value {
			return search.Value{RefType: "Patient", RefID: fmt.Sprint("p", i)}
		}, nil},
		{"Patient", "identifier", func(i int) search.Value { return search.Value{Code: fmt.Sprint(i)} }, nil},
		{"Patient", "given", func(i int) search.Value { return search.Value{Text: fmt.Sprint("n", i)} }, nil},
		{"RiskAssessment", "probability", func(i int) search.Value { return search.Value{Num: float64(i)} }, nil},
		{"Observation", "code", func(i int) search.Value { return search.Value{Code: fmt.Sprint(i)} },
			func(vals *search.Values, fn func([]byte)) {
				for _, h := range OtherCodes("Observation", vals, [8]byte{}) {
					fn(h[:])
				}
			}},
	} {
		vals := &search.Values{ByParam: map[string][]search.Value{}}
		for i := range n {
			v := c.value(i)
			vals.ByParam[c.param] = append(vals.ByParam[c.param], v, v)
		}
		each := c.each
		if each == nil {
			each = func(vals *search.Values, fn func([]byte)) { EachIndexPrefix(c.typ, vals, true, fn) }
		}
		made := map[string]bool{}
		each(vals, func(prefix []byte) {
			if made[string(prefix)] {
				t.Errorf("%s %s: a row is made twice", c.typ, c.param)
			}
			made[string(prefix)] = true
		})
		if len(made) < n || len(made) > n+3 { // strings and numbers have rows for the whole document, too
			t.Errorf("%s %s: %d rows of %d values", c.typ, c.param, len(made), n)
		}
	}
}
