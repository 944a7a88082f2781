package interaction

import (
	"maps"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
)

// TestThinnedRoundTrip checks that a page link keeps the position and the intervals.
func TestThinnedRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pos := rapid.String().Draw(t, "pos")
		last := rapid.MapOfN(rapid.StringN(1, 20, -1), rapid.Int64(), 0, maxStreams).Draw(t, "last")
		text := sealThinned(pos, last)
		gotPos, got, err := openThinned("test", text)
		if err != nil || gotPos != pos || !maps.Equal(got, last) {
			t.Fatalf("%q, %v, %v; want %q, %v", gotPos, got, err, pos, last)
		}
		cut := rapid.IntRange(0, len(text)).Draw(t, "cut")
		_, got, err = openThinned("test", text[:cut])
		if err != nil && fhir.KindOf(err) != fhir.Internal || len(got) > len(last) {
			t.Fatalf("cut to %d of %d bytes: %v, %v", cut, len(text), got, err)
		}
	})
}

func TestPatientReference(t *testing.T) {
	for s, want := range map[string]bool{"Patient/1": true, "https://ehr.example/r4/Patient/a-1": true,
		"http://localhost:8080/fhir/Patient/1": true, "": false, "Patient/": false, "Patient/1/_history/2": false,
		"Observation/1": false, "https://ehr.example/Patient": false, "https://u:p@ehr.example/Patient/1": false,
		"ftp://ehr.example/Patient/1": false, "https://ehr.example/Patient/1#x": false, "https:///Patient/1": false,
		"urn:uuid:1": false, "Patient/a\"b": false} {
		if got := patientReference(s); got != want {
			t.Errorf("%s: %v, want %v", s, got, want)
		}
	}
}
