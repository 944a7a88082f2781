package interaction

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestRewriteReferences(t *testing.T) {
	ids := map[string]string{"urn:uuid:1": "Patient/a", "http://x/Patient/2": "Patient/b"}
	for in, want := range map[string]string{
		`{"subject":{"reference":"urn:uuid:1"}}`:                                  `{"subject":{"reference":"Patient/a"}}`,
		`{"s":[{"reference" : "http://x/Patient/2","display":"urn:uuid:1"}]}`:     `{"s":[{"reference" : "Patient/b","display":"urn:uuid:1"}]}`,
		`{"s":{"reference":"urn:uuid\u003a1"},"n":62.0}`:                          `{"s":{"reference":"Patient/a"},"n":62.0}`,
		`{"identifier":{"value":"urn:uuid:1"},"reference":{"value":"reference"}}`: `{"identifier":{"value":"urn:uuid:1"},"reference":{"value":"reference"}}`,
		`{"s":{"reference":"#x"},"a":["reference","urn:uuid:1"]}`:                 `{"s":{"reference":"#x"},"a":["reference","urn:uuid:1"]}`,
		`{"s":{"reference":"https://pg.example/fhir/Patient/p"}}`:                 `{"s":{"reference":"Patient/p"}}`,
		`{"s":{"reference":"https://pg.example/fhir?x=1"}}`:                       `{"s":{"reference":"https://pg.example/fhir?x=1"}}`,
		`{"s":{"reference":"urn:uuid:9"}}`:                                        "",
	} {
		out, err := rewriteReferences([]byte(in), ids, "https://pg.example/fhir")
		if string(out) != want || (err != nil) != (want == "") {
			t.Errorf("%s\n got %s %v\nwant %s", in, out, err, want)
		}
	}
}

// FuzzRewriteReferences: whatever the bytes, JSON stays JSON, and bytes
// without a known fullUrl stay the same.
func FuzzRewriteReferences(f *testing.F) {
	f.Add([]byte(`{"s":{"reference":"urn:uuid:1"},"v":1.50}`))
	f.Add([]byte(`{"reference":"a\"urn:uuid:1"}`))
	f.Add([]byte(`{"reference":`))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := rewriteReferences(b, map[string]string{"urn:uuid:1": "Patient/a"}, "https://pg.example/fhir")
		if err != nil {
			return
		}
		if json.Valid(b) && !json.Valid(out) {
			t.Errorf("%q became %q", b, out)
		}
		if !bytes.Contains(b, []byte("reference")) && !bytes.Contains(b, []byte(`\u`)) && !bytes.Equal(b, out) {
			t.Errorf("%q became %q", b, out)
		}
	})
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"Patient/1", "Patient", "Observation?code=1", "Patient/1/_history/2", "https://pg.example/fhir/Patient/1", "Patient/1/_history", "/Patient", "", "?x", "Patient/../x"} {
		f.Add(s)
	}
	s := &Service{Base: "https://pg.example/fhir"}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := s.parseTarget("test", raw)
		if err != nil {
			if len(raw) > 8 && strings.Contains(err.Error(), raw) {
				t.Errorf("the error quotes its input: %q", err)
			}
			return
		}
		if got.typ == "" || strings.ContainsAny(got.typ, "/?") || strings.ContainsAny(got.id, "/?") {
			t.Errorf("%q: %+v", raw, got)
		}
	})
}

func TestParseETag(t *testing.T) {
	for in, want := range map[string]uint64{"": 0, `W/"3"`: 3, `"12"`: 12} {
		if got, err := ParseETag(in); got != want || err != nil {
			t.Errorf("%q: %d %v", in, got, err)
		}
	}
	for _, in := range []string{"3", `W/3`, `W/"0"`, `W/"x"`, `"`, "*", `W/"1", W/"2"`} {
		if _, err := ParseETag(in); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}
