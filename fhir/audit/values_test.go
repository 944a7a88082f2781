package audit

import (
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir/search"
)

// TestValuesEqualExtract checks that the index values of an event equal those that
// search.Extract finds in its JSON. Values of elements without a value are ignored,
// because they are not indexed.
func TestValuesEqualExtract(t *testing.T) {
	rec := testRecorder(t, 5)
	rapid.Check(t, func(t *rapid.T) {
		w, _, err := rec.Prepare(drawEvent(t))
		if err != nil {
			t.Fatal(err)
		}
		want, err := search.Extract("AuditEvent", w.Resource.JSON)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range want.ByParam {
			if v = slices.DeleteFunc(v, func(v search.Value) bool { return v.Unvalued }); len(v) == 0 {
				delete(want.ByParam, k)
			} else {
				want.ByParam[k] = v
			}
		}
		if !reflect.DeepEqual(w.Values, want) {
			for k, v := range want.ByParam {
				if !reflect.DeepEqual(v, w.Values.ByParam[k]) {
					t.Errorf("%s: %+v, extracted %+v", k, w.Values.ByParam[k], v)
				}
			}
			t.Fatalf("values %+v\nextracted %+v", w.Values, want)
		}
	})
}

func BenchmarkExtract(b *testing.B) {
	rec := testRecorder(b, 6)
	w, _, err := rec.Prepare(Event{Type: Rest, Interaction: "read", Patient: "p1"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := search.Extract("AuditEvent", w.Resource.JSON); err != nil {
			b.Fatal(err)
		}
	}
}
