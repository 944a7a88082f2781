package fhirpath

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"pulsegate/fhir/internal/fixtures"
)

// definition is a StructureDefinition or a SearchParameter.
type definition struct {
	ResourceType, ID, URL, Version, Type, Derivation, Code, Expression string
	Base                                                               []string
	Snapshot                                                           struct {
		Element []struct {
			ID, Path   string
			Constraint []constraint
		}
	}
}

type constraint struct {
	Key, Severity, Expression string
	compiled                  *Expression
}

// gzipLines calls f with each line of a compressed file.
func gzipLines(t testing.TB, path string, f func(line []byte)) {
	t.Helper()
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(z)
	s.Buffer(nil, 64<<20)
	for s.Scan() {
		f(s.Bytes())
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
}

// packageFiles calls f with each JSON file of an implementation guide's package.
func packageFiles(t testing.TB, path string, f func(name string, data []byte)) {
	t.Helper()
	r, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	for a := tar.NewReader(z); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, ".json") {
			data, err := io.ReadAll(a)
			if err != nil {
				t.Fatal(err)
			}
			f(h.Name, data)
		}
	}
}

// definitions returns R4's definitions and those of US Core.
func definitions(t testing.TB) []definition {
	dir := fixtures.Dir(t, "r4")
	var out []definition
	add := func(data []byte) {
		var d definition
		if json.Unmarshal(data, &d) == nil &&
			(d.ResourceType == "StructureDefinition" || d.ResourceType == "SearchParameter") {
			out = append(out, d)
		}
	}
	for _, f := range []string{"datatypes", "resources", "observation-profiles", "search-parameters"} {
		gzipLines(t, filepath.Join(dir, "hl7-core-4.0.1", f+".ndjson.gz"), add)
	}
	for _, f := range []string{"us_core_610.tgz", "us_core_700.tgz", "us_core_900.tgz"} {
		packageFiles(t, filepath.Join(dir, f), func(_ string, data []byte) { add(data) })
	}
	return out
}

var definitionsOnce sync.Once
var definitionsCached []definition // by definitionsOnce

func cachedDefinitions(t testing.TB) []definition {
	fixtures.Dir(t, "r4")
	definitionsOnce.Do(func() { definitionsCached = definitions(t) })
	return definitionsCached
}

// TestExpressionsCompile compiles the expressions of all search parameters and
// invariants of R4 and US Core, and checks them against the types of R4.
func TestExpressionsCompile(t *testing.T) {
	parameters, invariants := 0, 0
	seen, faulty := map[string]bool{}, map[string]bool{}
	try := func(what, expression, typ string) {
		if seen[typ+" "+expression] {
			return
		}
		seen[typ+" "+expression] = true
		e, err := Compile(expression)
		if err != nil {
			t.Errorf("%s: %v\n%s", what, err, expression)
			return
		}
		if typ == "" {
			return
		}
		if err = e.Check(typ); err != nil {
			if faulty[what] = true; checkFails[what] == "" {
				t.Errorf("%s on %s: %v\n%s", what, typ, err, expression)
			}
		}
	}
	for _, d := range cachedDefinitions(t) {
		if d.ResourceType == "SearchParameter" {
			for _, base := range d.Base {
				if d.Expression != "" {
					parameters++
					try(d.ID, d.Expression, base)
				}
			}
			continue
		}
		for _, e := range d.Snapshot.Element {
			for _, c := range e.Constraint {
				if c.Expression != "" {
					invariants++
					try(c.Key, c.Expression, typeOfPath(e.Path))
				}
			}
		}
	}
	for what := range checkFails {
		if !faulty[what] {
			t.Errorf("%s passes the check, but is listed", what)
		}
	}
	t.Logf("%d expressions of search parameters and %d of invariants compile, %d different ones", parameters,
		invariants, len(seen))
	if parameters < 1400 || invariants < 17000 {
		t.Error("expressions are missing")
	}
}

// typeOfPath returns the type of an element in a StructureDefinition, or "" if it has
// several.
func typeOfPath(path string) string {
	steps := strings.Split(path, ".")
	typ := steps[0]
	for _, s := range steps[1:] {
		id := model().byName[typ]
		if id == noType {
			return ""
		}
		name, choice := strings.CutSuffix(s, "[x]")
		e := model().types[id].elements[name]
		if e == nil || choice || len(e.types) != 1 {
			if m, ok := model().types[id].members[name]; ok && !choice {
				typ = model().types[m.typ].name
				continue
			}
			return ""
		}
		typ = model().types[e.types[0]].name
	}
	return typ
}

// checkFails lists the expressions that Check finds fault with.
var checkFails = map[string]string{ // read only
	"cid-0":                           "ChargeItemDefinition has no name",
	"example-extension":               "its base is Patient, but it is about DocumentReference",
	"us-core-condition-asserted-date": "the element is value, not valueDateTime",
}

// constraintsOfR4 returns the invariants of R4 by the path of their element, or the
// name of their type.
func constraintsOfR4(t testing.TB) map[string][]constraint {
	out := map[string][]constraint{}
	for _, d := range cachedDefinitions(t) {
		if d.ResourceType == "StructureDefinition" && d.Derivation != "constraint" {
			d.constraints(out)
		}
	}
	return out
}

// constraints adds the invariants of a StructureDefinition to out, by path. Those of
// slices are left out.
func (d *definition) constraints(out map[string][]constraint) {
	for _, e := range d.Snapshot.Element {
		for _, c := range e.Constraint {
			known := slices.ContainsFunc(out[e.Path], func(o constraint) bool { return o.Key == c.Key })
			if c.Expression != "" && !known && !strings.Contains(e.ID, ":") {
				c.compiled = MustCompile(c.Expression)
				out[e.Path] = append(out[e.Path], c)
			}
		}
	}
}

// constraintsOfProfiles returns the invariants of the profiles by URL, then path. Of
// several versions of a profile, the invariants of all are there.
func constraintsOfProfiles(t testing.TB) map[string]map[string][]constraint {
	out := map[string]map[string][]constraint{}
	for _, d := range cachedDefinitions(t) {
		if d.ResourceType == "StructureDefinition" && d.Derivation == "constraint" {
			if out[d.URL] == nil {
				out[d.URL] = map[string][]constraint{}
			}
			d.constraints(out[d.URL])
		}
	}
	return out
}

// invariantRun evaluates the invariants on everything in a resource.
type invariantRun struct {
	t           testing.TB
	constraints map[string][]constraint
	profiles    map[string]map[string][]constraint
	env         Env
	claimed     []map[string][]constraint // of the profiles of the resource
	count       int
	ofProfiles  int
	broken      []string
	failed      map[string]bool // of failingInvariants
}

// value evaluates the invariants of v: those of its type, of its element in the type of
// its parent, and of its path in the profiles of the resource.
func (r *invariantRun) value(v Value, element, path string) {
	isResource := v.typ != noType && model().types[v.typ].kind == "resource"
	env, claimed := r.env, r.claimed
	name := model().types[v.typ].name
	if isResource {
		if r.env.RootResource.IsZero() || r.env.Resource.typeName() == "Bundle" ||
			r.env.Resource.typeName() == "Parameters" {
			r.env.RootResource = v
		}
		r.env.Resource = v
		r.claimed, path = nil, name
		for _, meta := range v.Elements(nil, "meta") {
			for _, p := range meta.Elements(nil, "profile") {
				url, _ := p.Text()
				url, _, _ = strings.Cut(url, "|")
				r.claimed = append(r.claimed, r.profiles[url])
			}
		}
	}
	r.env.Context = v
	done := map[string]bool{}
	for _, c := range slices.Concat(r.constraints[element], r.constraints[name]) {
		if !done[c.Key] {
			done[c.Key] = true
			r.count++
			r.evaluate(v, c)
		}
	}
	for _, p := range r.claimed {
		for _, c := range p[path] {
			if !done[c.Key] {
				done[c.Key] = true
				r.ofProfiles++
				r.evaluate(v, c)
			}
		}
	}
	for _, e := range model().types[v.typ].order {
		suffix := "." + e.name
		if e.choice {
			suffix += "[x]"
		}
		for _, child := range v.member(e, nil) {
			r.value(child, name+suffix, path+suffix)
		}
	}
	r.env, r.claimed = env, claimed
}

func (r *invariantRun) evaluate(v Value, c constraint) {
	holds, err := c.compiled.Holds(context.Background(), v, &r.env)
	if err != nil && failingInvariants[c.Key] != "" {
		r.failed[c.Key] = true
		return
	}
	if err != nil {
		r.t.Errorf("%s at %s: %v\n%s", c.Key, v.Pointer(), err, c.Expression)
	}
	if !holds && c.Severity == "error" {
		r.broken = append(r.broken, c.Key+" "+v.Pointer())
	}
}

// failingInvariants lists the invariants with an error, with the reason.
var failingInvariants = map[string]string{ // read only
	"pd-1": "\"telecom or endpoint\" has no result for several items, by the rules for single items",
}

// brokenInvariants lists the invariants that do not hold in HL7's examples, with the
// reason.
var brokenInvariants = map[string]string{ // read only
	"codesystem-example csd-1 ":                    "the example has codes twice, as HL7's case testCombine1 says",
	"patient-container-example dom-3 ":             "a case of the test suite, not a valid resource",
	"patient-container-example org-1 /contained/0": "a case of the test suite, not a valid resource",
}

// TestInvariantsHold evaluates all invariants of R4 over HL7's and US Core's examples,
// and those of the profiles that an example claims.
func TestInvariantsHold(t *testing.T) {
	run := invariantRun{t: t, constraints: constraintsOfR4(t), profiles: constraintsOfProfiles(t),
		failed: map[string]bool{}}
	run.env = *testEnv()
	run.env.HTMLChecks = func(s string) bool { return strings.HasPrefix(s, "<div") }
	run.env.ConformsTo = func(context.Context, Value, string) (bool, error) { return true, nil }
	resources := 0
	found := map[string]bool{}
	one := func(name string, doc *Document) {
		resources++
		run.broken = nil
		run.value(doc.Root(), "", "")
		for _, b := range run.broken {
			key := strings.TrimSuffix(filepath.Base(name), ".json") + " " + b
			found[key] = true
			if brokenInvariants[key] == "" {
				t.Errorf("%s does not hold", key)
			}
		}
	}
	examples(t, one)
	for key := range failingInvariants {
		if !run.failed[key] {
			t.Errorf("%s has no error, but is listed", key)
		}
	}
	for key := range brokenInvariants {
		if !found[key] {
			t.Errorf("%s holds, but is listed as broken", key)
		}
	}
	t.Logf("%d evaluations of R4's invariants and %d of profiles' over %d resources", run.count, run.ofProfiles,
		resources)
	if resources < 500 || run.ofProfiles < 900 {
		t.Error("examples or profiles are missing")
	}
}

// examples calls f with each resource of HL7's and US Core's examples.
func examples(t testing.TB, f func(name string, doc *Document)) {
	t.Helper()
	one := func(name string, data []byte) {
		doc, err := Parse(data)
		if err == nil && doc.Root().typ != noType { // else a file of another suite
			f(name, doc)
		}
	}
	dir := fixtures.Dir(t, "r4")
	for _, pattern := range []string{"hl7-test-cases/*", "hl7-test-cases/examples/*", "hl7-phd/*", "r4-vitals/*"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		sort.Strings(names)
		for _, name := range names {
			data, err := os.ReadFile(name)
			switch {
			case err != nil:
				continue // a folder
			case strings.HasSuffix(name, ".xml"):
				one(strings.TrimSuffix(name, ".xml"), jsonOfXML(t, data))
			case strings.HasSuffix(name, ".json"):
				one(name, data)
			}
		}
	}
	for _, f := range []string{"us_core_610.tgz", "us_core_700.tgz", "us_core_900.tgz"} {
		packageFiles(t, filepath.Join(dir, f), func(name string, data []byte) {
			if strings.Contains(name, "/example/") {
				one(name, data)
			}
		})
	}
}
