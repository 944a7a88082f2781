package uscore_test

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pulsegate/mapping/table"
	"pulsegate/mapping/uscore"
)

// rule is an ElementDefinition. A segment of its ID may name a slice, after a colon.
type rule struct {
	ID, Path string
	Min      *int
	Max      string
	Type     []struct{ Code string }
	Slicing  *struct{ Discriminator []struct{ Type, Path string } }
	Binding  *struct{ Strength, ValueSet string }
	value    any  // fixed[x] or pattern[x]
	exact    bool // value is fixed[x]
}

func (r *rule) UnmarshalJSON(b []byte) error {
	type plain rule
	if err := json.Unmarshal(b, (*plain)(r)); err != nil {
		return err
	}
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	for name, v := range all {
		if fixed := strings.HasPrefix(name, "fixed"); fixed || strings.HasPrefix(name, "pattern") {
			r.value, r.exact = v, fixed
		}
	}
	return nil
}

// definition is a StructureDefinition. The ones of US Core 9 have only a differential.
type definition struct {
	URL, BaseDefinition    string
	Snapshot, Differential struct{ Element []rule }
}

func (d *definition) rules() []rule {
	if len(d.Snapshot.Element) > 0 {
		return d.Snapshot.Element
	}
	return d.Differential.Element
}

// definitions holds profiles by canonical URL, and the codes of value sets.
type definitions struct {
	profiles map[string]*definition
	sets     map[string][]string
}

// loadDefinitions reads US Core 9 and the vital-signs profiles of R4.
func loadDefinitions(t *testing.T) *definitions {
	t.Helper()
	root := os.Getenv("PULSEGATE_FIXTURES")
	if root == "" {
		t.Skip("PULSEGATE_FIXTURES names no folder with HL7's definitions")
	}
	dir := filepath.Join(root, "r4")
	d := &definitions{profiles: map[string]*definition{}, sets: map[string][]string{}}
	packed := func(name string) (io.Reader, func()) {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		return z, func() { _ = f.Close() }
	}
	r, done := packed("us_core_900.tgz")
	defer done()
	for files := tar.NewReader(r); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(filepath.Base(h.Name), "StructureDefinition-us-core-") {
			b, err := io.ReadAll(files)
			if err != nil {
				t.Fatal(err)
			}
			d.add(t, b)
		}
	}
	r, done = packed("hl7-core-4.0.1/observation-profiles.ndjson.gz")
	defer done()
	lines := bufio.NewScanner(r)
	for lines.Buffer(nil, 16<<20); lines.Scan(); {
		d.add(t, lines.Bytes())
	}
	sets, err := filepath.Glob(filepath.Join(dir, "r4-vitals", "ValueSet-ucum-*.json"))
	if err != nil || len(sets) < 4 {
		t.Fatalf("%d value sets, %v", len(sets), err)
	}
	for _, name := range sets {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			URL     string
			Compose struct {
				Include []struct{ Concept []struct{ Code string } }
			}
		}
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		for _, i := range v.Compose.Include {
			for _, c := range i.Concept {
				d.sets[v.URL] = append(d.sets[v.URL], c.Code)
			}
		}
	}
	return d
}

func (d *definitions) add(t *testing.T, b []byte) {
	t.Helper()
	var def definition
	if err := json.Unmarshal(b, &def); err != nil {
		t.Fatal(err)
	}
	d.profiles[def.URL] = &def
}

// check returns the rules of a profile and its bases that a resource breaks, and the
// number of rules that applied.
func (d *definitions) check(url string, body []byte) (broken []string, applied int) {
	var root any
	if err := json.Unmarshal(body, &root); err != nil {
		return []string{err.Error()}, 0
	}
	for url, _, _ = strings.Cut(url, "|"); d.profiles[url] != nil; url = d.profiles[url].BaseDefinition {
		c := &checker{rules: d.profiles[url].rules(), sets: d.sets}
		for i := range c.rules {
			c.element(root, &c.rules[i])
		}
		for _, b := range c.broken {
			broken = append(broken, url+": "+b)
		}
		applied += c.applied
	}
	return broken, applied
}

// checker applies the rules of one StructureDefinition.
type checker struct {
	rules   []rule
	sets    map[string][]string
	broken  []string
	applied int
}

func (c *checker) fail(r *rule, format string, args ...any) {
	c.broken = append(c.broken, r.ID+": "+fmt.Sprintf(format, args...))
}

// element checks one rule at each place that its parents have.
func (c *checker) element(root any, r *rule) {
	segments := strings.Split(r.ID, ".")
	if len(segments) == 1 {
		return
	}
	parents := []any{root}
	id := segments[0]
	for _, s := range segments[1 : len(segments)-1] {
		id += "." + s
		var next []any
		for _, p := range parents {
			next = append(next, c.children(p, s, id)...)
		}
		parents = next
	}
	for _, p := range parents {
		c.applied++
		found := c.children(p, segments[len(segments)-1], r.ID)
		if r.Min != nil && len(found) < *r.Min {
			c.fail(r, "%d values, at least %d are required", len(found), *r.Min)
		}
		if r.Max == "0" && len(found) > 0 || r.Max == "1" && len(found) > 1 {
			c.fail(r, "%d values, at most %s are allowed", len(found), r.Max)
		}
		c.types(r, p, segments[len(segments)-1])
		for _, v := range found {
			c.node(r, v)
		}
	}
}

// types checks the type of a choice.
func (c *checker) types(r *rule, parent any, segment string) {
	name, ok := strings.CutSuffix(segment, "[x]")
	m, _ := parent.(map[string]any)
	if !ok || len(r.Type) == 0 {
		return
	}
	for key := range m {
		typ, isChoice := strings.CutPrefix(key, name)
		if isChoice && typ != "" && !slices.ContainsFunc(r.Type, func(t struct{ Code string }) bool {
			return strings.EqualFold(t.Code, typ)
		}) {
			c.fail(r, "the type %s is not allowed", typ)
		}
	}
}

func (c *checker) node(r *rule, v any) {
	switch {
	case r.value == nil:
	case r.exact && !reflect.DeepEqual(v, r.value):
		c.fail(r, "is %v, want %v", v, r.value)
	case !r.exact && !contains(v, r.value):
		c.fail(r, "is %v, want %v in it", v, r.value)
	}
	if r.Binding != nil && r.Binding.Strength == "required" {
		set, _, _ := strings.Cut(r.Binding.ValueSet, "|")
		if codes := c.sets[set]; codes != nil && !slices.Contains(codes, codeOf(v)) {
			c.fail(r, "%s is not in %s", codeOf(v), set)
		}
	}
}

// codeOf returns the code of a code, a Quantity or a CodeableConcept.
func codeOf(v any) string {
	if m, ok := v.(map[string]any); ok {
		if codings, _ := m["coding"].([]any); len(codings) > 0 {
			return codeOf(codings[0])
		}
		v = m["code"]
	}
	s, _ := v.(string)
	return s
}

// contains reports whether v matches a pattern: all members of the pattern, and for
// each item of a list one that matches.
func contains(v, pattern any) bool {
	switch p := pattern.(type) {
	case map[string]any:
		m, ok := v.(map[string]any)
		for name, want := range p {
			ok = ok && contains(m[name], want)
		}
		return ok
	case []any:
		list, _ := v.([]any)
		for _, want := range p {
			if !slices.ContainsFunc(list, func(have any) bool { return contains(have, want) }) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(v, pattern)
}

// children returns the values of a segment of the element id. A segment with a slice
// has the values that belong to the slice.
func (c *checker) children(parent any, segment, id string) []any {
	name, slice, sliced := strings.Cut(segment, ":")
	m, _ := parent.(map[string]any)
	var found []any
	if choice, ok := strings.CutSuffix(name, "[x]"); ok {
		for key, v := range m {
			if strings.HasPrefix(key, choice) && key != choice && (!sliced || key == slice) {
				found = append(found, v)
			}
		}
		return found
	}
	switch v := m[name].(type) {
	case nil:
	case []any:
		found = v
	default:
		found = []any{v}
	}
	if sliced {
		found = slices.DeleteFunc(slices.Clone(found), func(v any) bool { return !c.inSlice(v, id) })
	}
	return found
}

// inSlice reports whether v has the values of the discriminators of a slice.
func (c *checker) inSlice(v any, id string) bool {
	of := strings.TrimSuffix(id, id[strings.LastIndex(id, ":"):])
	i := slices.IndexFunc(c.rules, func(r rule) bool { return r.ID == of && r.Slicing != nil })
	if i < 0 {
		return false
	}
	for _, d := range c.rules[i].Slicing.Discriminator {
		for j := range c.rules {
			r := &c.rules[j]
			rest, ok := strings.CutPrefix(r.ID, id)
			if !ok || r.value == nil {
				continue
			}
			path := unsliced(strings.TrimPrefix(rest, "."))
			if path == "" {
				path = "$this"
			}
			if (path == d.Path || strings.HasPrefix(d.Path, path+".")) &&
				!slices.ContainsFunc(at(v, path), func(have any) bool { return contains(have, r.value) }) {
				return false
			}
		}
	}
	return true
}

// unsliced removes the names of slices from a path.
func unsliced(path string) string {
	parts := strings.Split(path, ".")
	for i := range parts {
		parts[i], _, _ = strings.Cut(parts[i], ":")
	}
	return strings.Join(parts, ".")
}

// at returns the values at a path.
func at(v any, path string) []any {
	out := []any{v}
	if path == "$this" {
		return out
	}
	for _, name := range strings.Split(path, ".") {
		var next []any
		for _, o := range out {
			m, _ := o.(map[string]any)
			switch x := m[name].(type) {
			case nil:
			case []any:
				next = append(next, x...)
			default:
				next = append(next, x)
			}
		}
		out = next
	}
	return out
}

// TestProfiles checks the forms against the StructureDefinitions of US Core 9 and the
// profiles of R4 below them: cardinalities, fixed values, patterns, slices, types of
// choices and required bindings of units.
func TestProfiles(t *testing.T) {
	d := loadDefinitions(t)
	eachExample(t, func(t *testing.T, name string, r *table.Row, src *uscore.Source) {
		body, _, ok, err := uscore.VitalSign(src)
		if err != nil || !ok {
			return // TestVitalSigns tells which rows have a form
		}
		var f form
		if err := json.Unmarshal(body, &f); err != nil {
			t.Fatal(err)
		}
		// Validators apply R4's profile of the code, too.
		for _, url := range append(f.Meta.Profile, "http://hl7.org/fhir/StructureDefinition/"+r.Profile) {
			broken, applied := d.check(url, body)
			if len(broken) > 0 || applied < 50 {
				t.Errorf("%s: %d rules applied, broken: %s", url, applied, strings.Join(broken, "\n"))
			}
		}
	})
}

// TestProfilesControl checks that the check finds faults, and none in the examples
// of US Core.
func TestProfilesControl(t *testing.T) {
	d := loadDefinitions(t)
	const us = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join("testdata", "vital-signs", name))
		if err != nil {
			t.Fatal(err)
		}
		_, body, _ := strings.Cut(string(b), "\n")
		return body
	}
	heart, pressure, oxygen := read("oura/heartrate.json"), read("withings/measure.blood_pressure.json"),
		read("oura/daily_spo2.spo2_percentage.json")
	temperature := read("withings/measure.body_temperature.json")
	for _, c := range []struct{ profile, body, old, now, want string }{
		{"heart-rate", heart, `"8867-4"`, `"8867-5"`, "Observation.code"},
		{"heart-rate", heart, `"code": "/min"`, `"code": "/h"`, "Observation.valueQuantity.code"},
		{"heart-rate", heart, `"unit": "/min",`, ``, "Observation.valueQuantity.unit"},
		{"heart-rate", heart, `"code": "vital-signs"`, `"code": "activity"`, "Observation.category:VSCat"},
		{"heart-rate", heart, `"subject"`, `"focus"`, "Observation.subject"},
		{"heart-rate", heart, `"effectiveDateTime"`, `"effectiveInstant"`, "Observation.effective[x]"},
		{"blood-pressure", pressure, `"8480-6"`, `"8480-7"`, "Observation.component:systolic"},
		{"blood-pressure", pressure, `"mm[Hg]"`, `"kPa"`, "valueQuantity.code"},
		{"pulse-oximetry", oxygen, `"2708-6"`, `"2708-7"`, "Observation.code.coding:O2Sat"},
		{"body-temperature", temperature, `"code": "Cel"`, `"code": "K"`, "ucum-bodytemp"},
	} {
		if broken, _ := d.check(us+c.profile+"|9.0.0", []byte(c.body)); len(broken) > 0 {
			t.Errorf("%s: %v", c.profile, broken)
		}
		changed := strings.Replace(c.body, c.old, c.now, 1)
		broken, _ := d.check(us+c.profile+"|9.0.0", []byte(changed))
		if changed == c.body || !strings.Contains(strings.Join(broken, "\n"), c.want) {
			t.Errorf("%s with %s for %s: broken %v, want %s", c.profile, c.now, c.old, broken, c.want)
		}
	}
}
