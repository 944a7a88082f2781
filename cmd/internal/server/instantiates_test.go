package server

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"pulsegate/adapters/adaptertest"
	"pulsegate/fhir/element"
)

// statement holds the compared parts of a CapabilityStatement.
type statement struct {
	Instantiates []string
	Format       []string
	Rest         []struct {
		Resource    []statementType
		Interaction []expected
		Operation   []expected
	}
}

type statementType struct {
	expected
	Type             string
	Interaction      []expected
	SearchParam      []expected
	Operation        []expected
	SearchInclude    []string
	SearchRevInclude []string
	SupportedProfile []string
}

// expected is an item with the extension that says how much a guide demands it.
type expected struct {
	Code, Name, Definition string
	Extension              []struct{ URL, ValueCode string }
}

func (e expected) is(level string) bool {
	for _, x := range e.Extension {
		if x.URL == element.StructureDefinition+"capabilitystatement-expectation" {
			return x.ValueCode == level
		}
	}
	return false
}

// TestInstantiates compares the CapabilityStatement with those of the guides that it
// instantiates: it must have all that they demand or recommend.
func TestInstantiates(t *testing.T) {
	_, get := described(t)
	var own statement
	if err := json.Unmarshal(get("/fhir/metadata").Body.Bytes(), &own); err != nil {
		t.Fatal(err)
	}
	guides := map[string][]byte{}
	for _, v := range []string{"9.0.0", "7.0.0", "6.1.0"} {
		file := adaptertest.Fixtures(t, "r4/us_core_"+strings.ReplaceAll(v, ".", "")+".tgz")
		guides[element.HL7+"us/core/CapabilityStatement/us-core-server|"+v] = packed(t, file,
			"CapabilityStatement-us-core-server.json")
	}
	const subscriptions = "CapabilityStatement-backport-subscription-server-r4.json"
	b, err := os.ReadFile(adaptertest.Fixtures(t, "r4/subscriptions-backport/"+subscriptions))
	if err != nil {
		t.Fatal(err)
	}
	guides[element.SubscriptionsBackport+"CapabilityStatement/backport-subscription-server-r4"] = b
	for url, body := range guides {
		if !slices.Contains(own.Instantiates, url) {
			t.Errorf("%s is not instantiated", url)
		}
		var guide statement
		if err := json.Unmarshal(body, &guide); err != nil {
			t.Fatal(err)
		}
		if n := compareStatements(&own, &guide, func(what string) { t.Errorf("%s: %s is missing", url, what) }); n == 0 {
			t.Errorf("%s demands nothing", url)
		}
		first := guide.Rest[0].Resource[0].Interaction // the control: a demand that no server meets
		first[slices.IndexFunc(first, func(x expected) bool { return x.is("SHALL") })].Code = "dance"
		found := 0
		if compareStatements(&own, &guide, func(string) { found++ }); found == 0 {
			t.Errorf("%s: an interaction that the server does not have was not found", url)
		}
	}
}

// TestStatementInPart asks for parts of the CapabilityStatement.
func TestStatementInPart(t *testing.T) {
	_, get := described(t)
	read := func(q string, status int) (out map[string]json.RawMessage) {
		w := get("/fhir/metadata" + q)
		if w.Code != status || json.Unmarshal(w.Body.Bytes(), &out) != nil {
			t.Errorf("%s: status %d, want %d", q, w.Code, status)
		}
		return out
	}
	whole := read("", 200)
	for q, want := range map[string]struct{ software, rest bool }{
		"?_elements=software": {true, false}, "?_elements=rest": {false, true},
		"?_elements=rest,software": {true, true},
		"?_summary=false":          {true, true}, "?_summary=text": {false, false}, "?_summary=data": {true, true},
	} {
		part := read(q, 200)
		// fhirVersion, format, kind, date and status are mandatory, and in every part.
		if part["fhirVersion"] == nil || (part["rest"] != nil) != want.rest ||
			part["rest"] != nil && !bytes.Equal(part["rest"], whole["rest"]) || (part["software"] != nil) != want.software {
			t.Errorf("%s: %d of %d members, rest is there: %t", q, len(part), len(whole), part["rest"] != nil)
		}
	}
	for _, q := range []string{"?_summary=canary", "?mode=canary"} {
		if part := read(q, 400); strings.Contains(string(part["issue"]), "canary") {
			t.Errorf("%s: %s", q, part["issue"])
		}
	}
}

// compareStatements calls missing for each item that guide demands or recommends and own
// does not have, and returns the number of items compared.
func compareStatements(own, guide *statement, missing func(string)) (n int) {
	check := func(has bool, what ...string) {
		if n++; !has {
			missing(strings.Join(what, " "))
		}
	}
	for i := range guide.Rest[0].Resource {
		want := &guide.Rest[0].Resource[i]
		at := slices.IndexFunc(own.Rest[0].Resource, func(r statementType) bool { return r.Type == want.Type })
		if check(at >= 0, want.Type); at < 0 {
			continue
		}
		have := &own.Rest[0].Resource[at]
		for _, list := range []struct{ want, have []expected }{{want.Interaction, have.Interaction},
			{want.SearchParam, have.SearchParam}, {want.Operation, have.Operation}} {
			for _, w := range list.want {
				if !w.is("SHALL") && !w.is("SHOULD") {
					continue
				}
				has := func(h expected) bool { return h.Code == w.Code && h.Name == w.Name }
				check(slices.ContainsFunc(list.have, has), want.Type, w.Code+w.Name)
			}
		}
		for _, v := range want.SearchInclude {
			if parts := strings.Split(v, ":"); len(parts) == 3 { // the target may be named with every _include
				v = parts[0] + ":" + parts[1]
			}
			check(slices.Contains(have.SearchInclude, v), want.Type, "_include", v)
		}
		for _, v := range want.SearchRevInclude {
			check(slices.Contains(have.SearchRevInclude, v), want.Type, "_revinclude", v)
		}
		for _, p := range want.SupportedProfile {
			url, _, _ := strings.Cut(p, "|")
			if strings.Contains(url, "/uv/sdc/") { // recommended, and of another guide
				continue
			}
			check(slices.Contains(have.SupportedProfile, url), want.Type, url)
		}
	}
	return n
}

// packed returns a file of a package.
func packed(t *testing.T, file, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if path.Base(h.Name) == name {
			body, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return body
		}
	}
}
