package interaction

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
)

func TestRewriteLinks(t *testing.T) {
	l := &links{
		ids: map[string]string{"urn:uuid:1": "Patient/a", "http://x/Patient/2": "Patient/b",
			"urn:oid:1.2": "Device/d", "http://x/a?b=1&c=2": "Group/g"},
		root: "http://x/", conditional: map[string]string{"Patient?identifier=1": "Patient/c"}}
	for in, want := range map[string]string{
		`{"subject":{"reference":"urn:uuid:1"}}`:                                  `{"subject":{"reference":"Patient/a"}}`,
		`{"s":[{"reference" : "http://x/Patient/2","display":"urn:uuid:1"}]}`:     `{"s":[{"reference" : "Patient/b","display":"urn:uuid:1"}]}`,
		`{"s":{"reference":"urn:uuid\u003a1"},"n":62.0}`:                          `{"s":{"reference":"Patient/a"},"n":62.0}`,
		`{"identifier":{"value":"urn:uuid:1"},"reference":{"value":"reference"}}`: `{"identifier":{"value":"urn:uuid:1"},"reference":{"value":"reference"}}`,
		`{"s":{"reference":"#x"},"a":["reference","urn:uuid:1"]}`:                 `{"s":{"reference":"#x"},"a":["reference","urn:uuid:1"]}`,
		`{"s":{"reference":"https://pg.example/fhir/Patient/p"}}`:                 `{"s":{"reference":"Patient/p"}}`,
		`{"s":{"reference":"https:\/\/pg.example\/fhir\/Patient\/p"}}`:            `{"s":{"reference":"Patient/p"}}`,
		`{"s":{"reference":"https://pg.example/fhir?x=1"}}`:                       `{"s":{"reference":"https://pg.example/fhir?x=1"}}`,
		`{"s":{"reference":"https://pg.example/fhir/Patient?x=1"}}`:               "",
		`{"s":{"reference":"urn:uuid:9"}}`:                                        "",
		// Relative to the root of the entry's own fullUrl, with and without a version.
		`{"s":{"reference":"Patient/2"}}`:                     `{"s":{"reference":"Patient/b"}}`,
		`{"s":{"reference":"Patient/2/_history/3"}}`:          `{"s":{"reference":"Patient/b"}}`,
		`{"s":{"reference":"http://x/Patient/2/_history/3"}}`: `{"s":{"reference":"Patient/b"}}`,
		`{"s":{"reference":"Patient/3"}}`:                     `{"s":{"reference":"Patient/3"}}`,
		`{"s":{"reference":"Patient?identifier=1"}}`:          `{"s":{"reference":"Patient/c"}}`,
		// Elements of type uri, url, oid and uuid, not canonical and string.
		`{"policy":["http://p","urn:uuid:1"],"meta":{"source":"urn:oid:1.2","profile":["urn:uuid:1"]}}`:                           `{"policy":["http://p","Patient/a"],"meta":{"source":"Device/d","profile":["urn:uuid:1"]}}`,
		`{"extension":[{"url":"http://e","valueUri":"urn:uuid:1"},{"valueString":"urn:uuid:1"},{"valueCanonical":"urn:uuid:1"}]}`: `{"extension":[{"url":"http://e","valueUri":"Patient/a"},{"valueString":"urn:uuid:1"},{"valueCanonical":"urn:uuid:1"}]}`,
		`{"a":[{"valueUrl":"urn:uuid:1"},{"valueUuid":"urn:uuid:1"}]}`:                                                            `{"a":[{"valueUrl":"Patient/a"},{"valueUuid":"urn:uuid:1"}]}`,
		// Links of the narrative, not its words.
		`{"text":{"div":"<div>href=\"urn:uuid:1\" <a title='>' href=\"urn:uuid:1\">x</a><img alt=\"\" src='urn:oid:1.2'/></div>"}}`: `{"text":{"div":"<div>href=\"urn:uuid:1\" <a title='>' href=\"Patient/a\">x</a><img alt=\"\" src=\"Device/d\"/></div>"}}`,
		`{"text":{"div":"<div><a href=\"http://x/a?b=1&amp;c=2\">x</a><b src=\"urn:uuid:1\"/></div>"}}`:                             `{"text":{"div":"<div><a href=\"Group/g\">x</a><b src=\"urn:uuid:1\"/></div>"}}`,
	} {
		out, err := rewriteLinks([]byte(in), l, "https://pg.example/fhir")
		if string(out) != want || (err != nil) != (want == "") {
			t.Errorf("%s\n got %s %v\nwant %s", in, out, err, want)
		}
	}
}

// TestLateLinks: oid and uuid are replaced apart, after validation.
func TestLateLinks(t *testing.T) {
	l := &links{ids: map[string]string{"urn:uuid:1": "Patient/a", "urn:oid:1.2": "Device/d"}, deferred: true}
	in := `{"a":[{"valueUrl":"urn:uuid:1"},{"valueOid":"urn:oid:1.2"},{"valueUuid":"urn:uuid:1"},{"valueUuid":"urn:uuid:9"}],"s":{"reference":"urn:uuid:9"}}`
	want := `{"a":[{"valueUrl":"urn:uuid:1"},{"valueOid":"Device/d"},{"valueUuid":"Patient/a"},{"valueUuid":"urn:uuid:9"}],"s":{"reference":"urn:uuid:9"}}`
	if out, err := rewriteLinks([]byte(in), l, "https://pg.example/fhir"); string(out) != want || err != nil {
		t.Errorf("%s %v", out, err)
	}
}

// FuzzRewriteLinks: whatever the bytes, JSON stays JSON, and bytes without a
// known fullUrl stay the same.
func FuzzRewriteLinks(f *testing.F) {
	f.Add([]byte(`{"s":{"reference":"urn:uuid:1"},"v":1.50}`))
	f.Add([]byte(`{"reference":"a\"urn:uuid:1"}`))
	f.Add([]byte(`{"reference":`))
	f.Add([]byte(`{"text":{"div":"<a href=\"urn:uuid:1\"><img src='"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		conditionals("Observation", b, func(string, string) bool { return true })
		out, err := rewriteLinks(b, &links{ids: map[string]string{"urn:uuid:1": "Patient/a"}},
			"https://pg.example/fhir")
		if err != nil {
			return
		}
		if json.Valid(b) && !json.Valid(out) {
			t.Errorf("%q became %q", b, out)
		}
		if !bytes.Contains(b, []byte("urn:uuid:1")) && !bytes.Contains(b, []byte("https:")) &&
			!bytes.ContainsAny(b, `\&`) && !bytes.Equal(b, out) {
			t.Errorf("%q became %q", b, out)
		}
	})
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"Patient/1", "Patient", "Observation?code=1", "Patient/1/_history/2",
		"https://pg.example/fhir/Patient/1", "Patient/1/_history", "/Patient", "", "?x", "Patient/../x",
		"Patient/1/Observation?code=1", "Patient/1/*", "Patient/1/$everything", "Observation/$lastn?max=1", "Patient/$",
		"Patient/1/$x/y", "_history?_count=1", "/?_type=Patient"} {
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
		if got.typ == "" && (got.id != "" || got.within != "" || got.operation != nil) ||
			strings.ContainsAny(got.typ, "/?") || strings.ContainsAny(got.id, "/?") {
			t.Errorf("%q: %+v", raw, got)
		}
	})
}

func TestParseTags(t *testing.T) {
	for in, want := range map[string][]uint64{"": nil, `W/"3"`: {3}, `"12"`: {12}, `W/"1", "2",W/"x"`: {1, 2},
		`W/"0"`: nil, `"0x1"`: nil, `"01"`: nil, "*": {1, 2, 3, 12}} {
		got, err := ParseTags(in)
		if err != nil || got.Given() != (in != "") {
			t.Errorf("%q: %+v %v", in, got, err)
		}
		for _, v := range []uint64{0, 1, 2, 3, 12} {
			if got.Has(v) != slices.Contains(want, v) {
				t.Errorf("%q has %d: %v", in, v, got.Has(v))
			}
		}
	}
	for _, in := range []string{"3", `W/3`, `"`, `W/"1",`, `W/"1" W/"2"`, `*, "1"`, `"a b"`, "seven"} {
		if _, err := ParseTags(in); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}

// TestCriteria: what means the same has one key, what may mean the same
// resource by identifier shares a lock, and what differs shares none.
func TestCriteria(t *testing.T) {
	s := &Service{Base: "https://pg.example/fhir"}
	rq := &Request{Caller: audit.Caller{Principal: &access.Principal{Grant: access.All()}}}
	read := func(typ, raw string) *criteria {
		c, err := s.criteriaOf(rq, "test", "If-None-Exist", "POST x", typ, raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		return c
	}
	for _, same := range [][]string{
		{"identifier=urn:t|1", "identifier=urn%3At%7C1", "identifier=urn%3at|%31", "?identifier=urn:t|1",
			"Observation?identifier=urn:t|1", "identifier=urn:t|1&identifier=urn:t|1", "identifier=urn:t|1&_count=3"},
		{"code=a&status=final", "status=final&code=a", "&status=final&&code=a"},
		{"code=a,b", "code=b,a", "code=b%2Ca"},
		{"patient=p1&date=2026-01-01", "date=eq2026-01-01&patient=Patient/p1", "subject=Patient/p1&date=2026-01-01",
			"patient=https://pg.example/fhir/Patient/p1&date=2026-01-01", "subject:Patient=p1&date=2026-01-01"},
	} {
		for _, other := range same[1:] {
			if a, b := read("Observation", same[0]), read("Observation", other); a.key() != b.key() ||
				!slices.Equal(a.locks(), b.locks()) {
				t.Errorf("%q and %q: %q, %q", same[0], other, a.key(), b.key())
			}
		}
	}
	seen := map[string]string{}
	for _, raw := range []string{"identifier=urn:t|1", "identifier=1", "identifier=urn:t|2", "code=a", "code:not=a",
		"code:missing=true", "code:missing=false", "date=2026", "date=gt2026", "date=2026-01", "patient=p1",
		"patient=p2"} {
		k := read("Observation", raw).key()
		if seen[k] != "" {
			t.Errorf("%q and %q have one key", raw, seen[k])
		}
		seen[k] = raw
	}
	for _, raw := range []string{"identifier=urn:t|1", "identifier=1", "identifier=1&status=final", "identifier=|1"} {
		if l := read("Observation", raw).locks(); !slices.Equal(l, []string{"Observation#1"}) {
			t.Errorf("%q locks %q", raw, l)
		}
	}
	if a, b := read("Patient", "name=Ada").key(), read("Patient", "name=ADA").key(); a != b {
		t.Errorf("names that are compared without case: %q, %q", a, b)
	}
}
