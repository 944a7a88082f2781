package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/fhir/internal/fixtures"
)

// TestSnapshotsAreCurrent checks that the files of the guide are those that the generator
// writes.
func TestSnapshotsAreCurrent(t *testing.T) {
	core, dir := fixtures.Dir(t, "r4/hl7-core-4.0.1"), t.TempDir()
	files, err := filepath.Glob("../resources/StructureDefinition-*.json")
	if err != nil || len(files) < 7 {
		t.Fatal(files, err)
	}
	want := map[string][]byte{}
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		want[filepath.Base(f)] = body
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(core, dir); err != nil {
		t.Fatal(err)
	}
	for name, body := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, body) {
			t.Errorf("%s is not current: run go generate ./fhir/guide", name)
		}
	}
}

// TestSnapshot checks the rules of merging on a small type.
func TestSnapshot(t *testing.T) {
	const base = `[{"id":"A","path":"A","comment":"c","constraint":[{"key":"a"}]},` +
		`{"id":"A.b","path":"A.b","min":0,"max":"*","mapping":[]},{"id":"A.b.c","path":"A.b.c","min":0,"max":"1"},` +
		`{"id":"A.d","path":"A.d","min":0,"max":"1"}]`
	var elements []object
	if err := json.Unmarshal([]byte(base), &elements); err != nil {
		t.Fatal(err)
	}
	bases := map[string][]object{"http://a": elements}
	snapshotOf := func(differential string) (string, error) {
		out, err := withSnapshot([]byte(`{"resourceType":"StructureDefinition","baseDefinition":"http://a",`+
			`"differential":{"element":[`+differential+`]}}`), bases)
		var sd struct {
			Snapshot struct{ Element json.RawMessage }
		}
		if err == nil {
			err = json.Unmarshal(out, &sd)
		}
		var compact bytes.Buffer
		if err == nil {
			err = json.Compact(&compact, sd.Snapshot.Element)
		}
		return compact.String(), err
	}
	got, err := snapshotOf(`{"id":"A","path":"A","constraint":[{"key":"b"}]},{"id":"A.b","path":"A.b","slicing":{"rules":"open"},"min":1},` +
		`{"id":"A.b:x","path":"A.b","sliceName":"x","max":"1"},{"id":"A.b:x.c","path":"A.b.c","fixedCode":"v","min":1},` +
		`{"id":"A.b:y","path":"A.b","sliceName":"y"},{"id":"A.d","path":"A.d","max":"0"}`)
	want := `[{"id":"A","path":"A","constraint":[{"key":"a"},{"key":"b"}]},` +
		`{"id":"A.b","path":"A.b","slicing":{"rules":"open"},"min":1,"max":"*"},{"id":"A.b.c","path":"A.b.c","min":0,"max":"1"},` +
		`{"id":"A.b:x","path":"A.b","sliceName":"x","min":1,"max":"1"},` +
		`{"id":"A.b:x.c","path":"A.b.c","min":1,"max":"1","fixedCode":"v"},` +
		`{"id":"A.b:y","path":"A.b","sliceName":"y","min":1,"max":"*"},{"id":"A.b:y.c","path":"A.b.c","min":0,"max":"1"},` +
		`{"id":"A.d","path":"A.d","min":0,"max":"0"}]`
	if err != nil || got != want {
		t.Errorf("%v\n%s, want\n%s", err, got, want)
	}
	for differential, text := range map[string]string{`{"id":"A.x","path":"A.x"}`: "not in the base",
		`{"id":"A.x:y","path":"A.x"}`: "unknown element"} {
		if _, err := snapshotOf(differential); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", differential, err)
		}
	}
}
