package bulk

import (
	"encoding/json"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// TestPublisher checks the manifest and the files of $bulk-publish: the server's own
// terminology and nothing else, names that change with the content, and a grace period.
func TestPublisher(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.put("CodeSystem", "c1", `,"url":"`+fhir.Canonical+`/CodeSystem/c1","status":"active","content":"complete"`)
	p := NewPublisher(w.st, base)
	defer p.Close()
	read := func() (m publishManifest, tag string) {
		body, tag, err := p.Manifest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		return m, tag
	}
	m, tag := read()
	if len(m.Output) != 1 || m.Output[0].Type != "CodeSystem" || m.Output[0].Count != 1 || m.RequiresAccessToken {
		t.Fatalf("%+v", m)
	}
	res, _, err := w.st.Read(t.Context(), fhir.Ref{Type: "CodeSystem", ID: "c1"}, 0)
	if err != nil || m.TransactionTime != res.LastUpdated.UTC().Format(fhir.InstantLayout) {
		t.Errorf("%s %v", m.TransactionTime, err)
	}
	file := func(u string) string {
		b, err := p.File(t.Context(), strings.TrimPrefix(u, base+"/$bulk-publish-file/"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := m.Output[0].URL
	if text := file(first); text != string(res.JSON)+"\n" || int64(len(text)) != m.Output[0].FileSize {
		t.Errorf("%q", text)
	}
	w.observation("more", "p1")
	if _, again := read(); again != tag {
		t.Error("the tag changes with other data")
	}
	w.put("CodeSystem", "c2", `,"url":"`+fhir.Canonical+`/CodeSystem/c2","status":"active","content":"complete"`)
	m, again := read()
	if again == tag || m.Output[0].URL == first || m.Output[0].Count != 2 {
		t.Errorf("%+v", m)
	}
	if file(first) == "" {
		t.Error("the file before is gone at once")
	}
	for _, name := range []string{"", "Patient.ndjson", "CodeSystem.ndjson", "../x"} {
		if file(name) != "" {
			t.Errorf("%q", name)
		}
	}
	// A CodeSystem of another publisher stays private.
	w.put("CodeSystem", "c3", `,"url":"https://clinic.example/CodeSystem/c3","status":"active","content":"complete"`)
	if _, same := read(); same != again {
		t.Error("a CodeSystem of another publisher is published")
	}
	if isOwn(&store.Found{Resource: fhir.Resource{Type: "CodeSystem", JSON: res.JSON}, Facts: &access.Facts{Author: "ehr"}}) {
		t.Error("a CodeSystem that a client wrote is published")
	}
}
