package terminology_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"pulsegate/fhir"
	"pulsegate/fhir/r4"
	"pulsegate/mapping/table"
	"pulsegate/mapping/terminology"
)

// pack is a pack with each kind of change.
const pack = `pack: acme
version: 1.2.3
vendor: oura
title: Acme
codes:
  acme: {url: https://acme.example/codes, title: Codes of Acme, publish: true, codes: {rest: Rested}}
  other: {url: https://other.example/codes, codes: {x: X}}
units:
  kg: {accepts: [{as: [stone], times: "6.35029318"}]}
metrics:
  - {metric: heartrate, codes: [loinc 8867-4, loinc 40443-4]}
  - {metric: tag, remove: true}
  - {metric: acme_rest, name: Rest, trust: sure, codes: [acme rest], category: survey, shape: codeable, values: {good: Good}}
`

func resources(t *testing.T, packs string) map[string]terminology.Resource {
	t.Helper()
	dir := fstest.MapFS{}
	if packs != "" {
		dir["acme.yaml"] = &fstest.MapFile{Data: []byte(packs)}
	}
	tab, err := table.LoadPacks(table.Builtin(), dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := terminology.Resources(tab)
	if err != nil {
		t.Fatal(err)
	}
	again, err := terminology.Resources(tab)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]terminology.Resource{}
	for i, r := range list {
		if !bytes.Equal(r.JSON, again[i].JSON) {
			t.Errorf("%s differs from one time to the next", r.URL)
		}
		if _, twice := out[r.Type+"/"+r.ID]; twice {
			t.Errorf("%s is there twice", r.ID)
		}
		out[r.Type+"/"+r.ID] = r
	}
	return out
}

// system holds the elements of a CodeSystem that the tests read.
type system struct {
	URL, Version, Content, Status string
	Concept                       []struct {
		Code, Display, Definition string
		Property                  []struct {
			Code, ValueCode string
			ValueBoolean    bool
		}
	}
}

// conceptMap holds the elements of a ConceptMap that the tests read.
type conceptMap struct {
	URL, Version string
	Group        []struct {
		Source, Target string
		Element        []struct {
			Code   string
			Target []target
		}
	}
}

type target struct{ Code, Display, Equivalence, Comment string }

func decode[T any](t *testing.T, r terminology.Resource) (v T) {
	t.Helper()
	if err := json.Unmarshal(r.JSON, &v); err != nil {
		t.Fatalf("%s: %v", r.URL, err)
	}
	return v
}

// TestResourcesAreValid validates everything that is published, with and without a pack
// of a tenant, like a resource that a client sends.
func TestResourcesAreValid(t *testing.T) {
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", pack} {
		for name, r := range resources(t, text) {
			if _, err := validator.Resource(r.Type, r.JSON, r.ID); err != nil {
				t.Errorf("%s: %s", name, r4.OutcomeJSON(err))
			}
			if !fhir.ValidID(r.ID) {
				t.Errorf("%s: the id is not valid", name)
			}
		}
	}
}

// TestCodesOfGoldenFiles checks that every code that a golden resource has in a system of
// this project is in the published CodeSystem. Only values that no row lists are not.
func TestCodesOfGoldenFiles(t *testing.T) {
	codes := map[string]map[string]bool{}
	for _, r := range resources(t, "") {
		if r.Type != "CodeSystem" {
			continue
		}
		s := decode[system](t, r)
		codes[s.URL] = map[string]bool{}
		for _, c := range s.Concept {
			if codes[s.URL][c.Code] {
				t.Errorf("%s has %s twice", s.URL, c.Code)
			}
			codes[s.URL][c.Code] = true
		}
	}
	files, err := filepath.Glob("../testdata/golden/*/*.json")
	if err != nil || len(files) < 300 {
		t.Fatal(len(files), err)
	}
	found := map[string]int{}
	var walk func(file string, v any)
	walk = func(file string, v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(file, e)
			}
		case map[string]any:
			url, _ := v["system"].(string)
			code, _ := v["code"].(string)
			if strings.HasPrefix(url, fhir.Canonical+"/CodeSystem/") && code != "SOMETHING" {
				if !codes[url][code] {
					t.Errorf("%s: %s has no code %s", file, url, code)
				}
				found[url]++
			}
			for _, e := range v {
				walk(file, e)
			}
		}
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		walk(f, v)
	}
	if len(found) < 6 {
		t.Errorf("the golden files have codes of %v only", found)
	}
}

// TestEqualCodes checks that a code that occurs with several displays has all of them,
// and says which one belongs where.
func TestEqualCodes(t *testing.T) {
	tab, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	all, several := resources(t, ""), 0
	for i := range tab.Vendors {
		v := &tab.Vendors[i]
		displays := map[string]map[string]bool{}
		add := func(code, display string) {
			if displays[code] == nil {
				displays[code] = map[string]bool{}
			}
			displays[code][display] = true
		}
		values := func(m map[string]string) {
			for code, display := range m {
				add(code, display)
			}
		}
		for j := range v.Rows {
			r := &v.Rows[j]
			add(r.Metric, r.Name)
			values(r.Values)
			for _, c := range r.Components {
				add(c.Name, c.Display)
				values(c.Values)
			}
		}
		s := decode[system](t, all["CodeSystem/"+v.System])
		if s.URL != v.SystemURL() || s.Version != v.Version || len(s.Concept) != len(displays) {
			t.Errorf("%s|%s with %d concepts, want %d", s.URL, s.Version, len(s.Concept), len(displays))
		}
		for _, c := range s.Concept {
			for display := range displays[c.Code] {
				if !strings.Contains(c.Display, display) {
					t.Errorf("%s: the display %q lacks %q", c.Code, c.Display, display)
				}
			}
			if len(displays[c.Code]) > 1 {
				several++
				if c.Definition == "" {
					t.Errorf("%s: no definition", c.Code)
				}
			} else if strings.Contains(c.Definition, ";") {
				t.Errorf("%s: definition %q", c.Code, c.Definition)
			}
			if len(c.Property) == 0 || c.Property[0].Code != "kind" {
				t.Errorf("%s: no kind", c.Code)
			}
		}
	}
	if several == 0 {
		t.Error("no code has several displays")
	}
}

// targetsOf returns the targets of a code in a ConceptMap as "code equivalence".
func targetsOf(m conceptMap, code string) (out []string) {
	for _, g := range m.Group {
		for _, e := range g.Element {
			for _, to := range e.Target {
				if e.Code == code {
					out = append(out, strings.TrimSpace(to.Code+" "+to.Equivalence))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestConceptMaps checks the relations of codes of each trust, and that every code of a
// row is a target.
func TestConceptMaps(t *testing.T) {
	all := resources(t, "")
	for _, c := range []struct{ pack, metric, want string }{
		{"fitbit", "daily-resting-heart-rate", "40443-4 equivalent,8867-4 wider"},
		{"withings", "measure.weight", "29463-7 equivalent"},
		{"apple", "HKQuantityTypeIdentifierWaistCircumference", "8280-0 inexact"},
		{"apple", "HKQuantityTypeIdentifierBloodGlucose", "15074-8 equivalent,2339-0 equivalent"},
		{"oura", "daily_readiness.score", "unmatched"},
		{"oura", "deep_sleep_duration", "93831-6 equivalent"},
		{"units", "degF", "Cel relatedto"},
		{"units", "kg", "g relatedto,kg equivalent"},
	} {
		m := decode[conceptMap](t, all["ConceptMap/"+c.pack])
		if got := strings.Join(targetsOf(m, c.metric), ","); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.pack, c.metric, got, c.want)
		}
	}
	tab, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	for i := range tab.Vendors {
		v := &tab.Vendors[i]
		m := decode[conceptMap](t, all["ConceptMap/"+v.Vendor])
		if m.URL != tab.Packs[i].URL() || m.Version != v.Version {
			t.Errorf("%s|%s", m.URL, m.Version)
		}
		for j := range v.Rows {
			r := &v.Rows[j]
			targets := strings.Join(targetsOf(m, r.Metric), ",")
			for _, name := range slices.Concat(r.Codes, r.Doubtful) {
				if !strings.Contains(targets, tab.Codes[name].Code+" ") {
					t.Errorf("%s %s: no target %s in %s", v.Vendor, r.Metric, name, targets)
				}
			}
			if targets == "" {
				t.Errorf("%s %s: no target and not unmatched", v.Vendor, r.Metric)
			}
		}
	}
	for name, r := range all {
		for _, g := range decode[conceptMap](t, r).Group {
			for _, e := range g.Element {
				for _, to := range e.Target {
					if to.Equivalence == "inexact" && to.Comment == "" ||
						(to.Equivalence == "unmatched") != (to.Code == "") {
						t.Errorf("%s: %s: %+v", name, e.Code, to) // R4, cmd-1
					}
				}
			}
		}
	}
	units := decode[conceptMap](t, all["ConceptMap/units"])
	for _, e := range units.Group[0].Element {
		for _, to := range e.Target {
			if e.Code == "degF" && to.Comment != "value * 5/9 + -160/9" {
				t.Errorf("%+v", to)
			}
		}
	}
}

// TestTenantPack checks what a pack changes: its own ConceptMap, the codes of the vendor,
// its code system and the units, each with a new version. The ConceptMap of the built-in
// pack stays as it is.
func TestTenantPack(t *testing.T) {
	before, after := resources(t, ""), resources(t, pack)
	changed := map[string]string{"CodeSystem/oura": "1.0.0+acme.1.2.3", "ConceptMap/units": "1.0.0+acme.1.2.3",
		"ConceptMap/acme": "1.2.3", "CodeSystem/acme-acme": "1.2.3"}
	for name, r := range after {
		if version, ok := changed[name]; ok {
			if delete(changed, name); r.Version != version || bytes.Equal(r.JSON, before[name].JSON) {
				t.Errorf("%s has the version %s, want %s", name, r.Version, version)
			}
		} else if !bytes.Equal(r.JSON, before[name].JSON) {
			t.Errorf("%s changed", name)
		}
	}
	if len(changed) > 0 {
		t.Errorf("missing: %v", changed)
	}
	m := decode[conceptMap](t, after["ConceptMap/acme"])
	for code, want := range map[string]string{"heartrate": "40443-4 equivalent,8867-4 wider", "tag": "unmatched",
		"acme_rest": "rest equivalent", "sleep": ""} {
		if got := strings.Join(targetsOf(m, code), ","); got != want {
			t.Errorf("%s: %s, want %s", code, got, want)
		}
	}
	inactive := map[string]bool{}
	for _, c := range decode[system](t, after["CodeSystem/oura"]).Concept {
		for _, p := range c.Property {
			if p.Code == "inactive" && p.ValueBoolean {
				inactive[c.Code] = true
			}
		}
	}
	if len(inactive) != 1 || !inactive["tag"] {
		t.Errorf("inactive: %v", inactive)
	}
	if s := decode[system](t, after["CodeSystem/acme-acme"]); s.URL != "https://acme.example/codes" ||
		len(s.Concept) != 1 {
		t.Errorf("%+v", s)
	}
}
