package definitions

import (
	"slices"
	"strings"
	"testing"
)

func TestR4(t *testing.T) {
	s := R4()
	if n := len(s.Resources()); n != 146 {
		t.Errorf("%d resource types, want 146", n)
	}
	o := s.Structure("Observation")
	for _, c := range []struct {
		name, element, typ string
		many, choice       bool
	}{
		{"id", "id", "id", false, false},
		{"status", "status", "code", false, false},
		{"category", "category", "CodeableConcept", true, false},
		{"valueQuantity", "value", "Quantity", false, true},
		{"valueDateTime", "value", "dateTime", false, true},
		{"component", "component", "BackboneElement", true, false},
		{"contained", "contained", "Resource", true, false},
	} {
		m := o.LookupString(c.name)
		if m == nil || o.Elements[m.Element].Name != c.element || m.TypeName() != c.typ || m.Many != c.many ||
			m.Choice != c.choice {
			t.Errorf("%s: %+v", c.name, m)
		}
	}
	for _, name := range []string{"", "value", "_status", "Status", "valueAddress", strings.Repeat("x", 300)} {
		if m := o.LookupString(name); m != nil {
			t.Errorf("Lookup(%q) finds %s", name, m.Name)
		}
	}
	status := o.LookupString("status")
	if !status.Codes.HasCode([]byte("final")) || status.Codes.HasCode([]byte("Final")) ||
		!status.Codes.Has([]byte("http://hl7.org/fhir/observation-status"), []byte("final")) ||
		status.Codes.Has([]byte("http://a.test"), []byte("final")) {
		t.Errorf("codes of status: %+v", status.Codes)
	}
	subject := o.LookupString("subject")
	if !slices.Equal(subject.Targets.Names(), []string{"Patient", "Group", "Device", "Location"}) {
		t.Errorf("targets of subject: %v", subject.Targets.Names())
	}
	if o.LookupString("focus").Targets != nil {
		t.Error("focus may refer to any type")
	}
	for _, c := range []struct{ path, name, structure string }{
		{"Bundle.entry", "link", "Bundle.link"},
		{"Questionnaire.item", "item", "Questionnaire.item"},
		{"Observation.component", "referenceRange", "Observation.referenceRange"},
		{"Range", "low", "SimpleQuantity"},
	} {
		if m := s.Structure(c.path).LookupString(c.name); m.Structure == nil || m.Structure.Name != c.structure {
			t.Errorf("%s.%s: %+v", c.path, c.name, m)
		}
	}
	if s.Structure("SimpleQuantity").LookupString("comparator") != nil ||
		s.Structure("SimpleQuantity").Type != "Quantity" {
		t.Error("SimpleQuantity is a Quantity without comparator")
	}
	if !s.IsElement([]byte("valueQuantity")) || !s.IsElement([]byte("value")) || s.IsElement([]byte("values")) {
		t.Error("IsElement")
	}
}

// TestLookup tests that every member is found, and that the hash spreads them.
func TestLookup(t *testing.T) {
	members, probes := 0, 0
	for st := range R4().All {
		for i := range st.Members {
			m := &st.Members[i]
			if st.LookupString(m.Name) != m {
				t.Errorf("%s.%s is not found", st.Name, m.Name)
			}
			members++
			mask := uint32(len(st.index) - 1)
			for h := hash([]byte(m.Name)) & mask; st.index[h] != uint16(i+1); h = (h + 1) & mask {
				probes++
			}
		}
	}
	if members < 8000 || probes > members/2 {
		t.Errorf("%d members need %d further probes", members, probes)
	}
}

// TestInvariants tests that every expression and text is there, and that keys
// have one expression each except for those that HL7 uses twice.
func TestInvariants(t *testing.T) {
	byKey := map[string]map[string]bool{}
	add := func(list []*Invariant) {
		for _, inv := range list {
			if inv.Key == "" || inv.Expression == "" || inv.Human == "" {
				t.Errorf("%+v is incomplete", inv)
			}
			if byKey[inv.Key] == nil {
				byKey[inv.Key] = map[string]bool{}
			}
			byKey[inv.Key][inv.Expression] = true
		}
	}
	for st := range R4().All {
		add(st.Invariants)
		for i := range st.Elements {
			add(st.Elements[i].Invariants)
		}
	}
	for key, expressions := range byKey {
		if len(expressions) > 1 && key != "inv-1" {
			t.Errorf("%s has %d expressions", key, len(expressions))
		}
	}
	if len(byKey) < 200 {
		t.Errorf("only %d invariants", len(byKey))
	}
}

func TestProfiles(t *testing.T) {
	all := KnownProfiles()
	const url = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-blood-pressure"
	versions := all.Lookup(url)
	if len(versions) != 3 || versions[0].Version != "9.0.0" || versions[2].Version != "6.1.0" {
		t.Fatalf("%d versions", len(versions))
	}
	if p := all.Lookup(url + "|7.0.0"); len(p) != 1 || p[0] != versions[1] {
		t.Error("a version is not found")
	}
	if all.Lookup(url+"|1.0.0") != nil || all.Lookup("http://a.test") != nil {
		t.Error("finds what is not there")
	}
	var names []string
	for _, p := range versions[2].Lineage() {
		names = append(names, p.URL[strings.LastIndexByte(p.URL, '/')+1:]+" "+p.Version)
	}
	if want := []string{"vitalsigns 4.0.1", "us-core-vital-signs 6.1.0", "us-core-blood-pressure 6.1.0"}; !slices.Equal(
		names, want) {
		t.Errorf("lineage: %v", names)
	}
	for _, p := range all.All() {
		if R4().Structure(p.Type) == nil {
			t.Errorf("%s constrains the unknown type %s", p.URL, p.Type)
		}
	}
}

// TestDecodeRefusesDamage tests that records that are cut or changed are not
// taken for tables.
func TestDecodeRefusesDamage(t *testing.T) {
	for _, text := range []string{"X\ta", "E\ta\t0\t1\t\t\t\tstring", "T\tA\tr\tA\t\nE\ta\tx\t1\t\t\t\tstring",
		"T\tA\tr\tA\t\nE\ta\t0\t1\t\t\t7\tstring", "T\tA\tr\tA\t\nE\ta\t0\t1\t\t\t\tNothing", "T\tA\tr\tA\t9", "T\tA"} {
		if _, err := decode(text); err == nil {
			t.Errorf("%q is decoded", text)
		}
	}
	for _, text := range []string{"P\ta\tb\tc", "G\t1\nC\t\t\t\t\t\t\t\t", "G\t1\nP\ta\tb\tc\nC\t\tx\t\t\t\t\t\t\t",
		"G\t1\nP\ta\tb\tc\nC\t\t\tx\t\t\t\t\t\t"} {
		if _, err := decodeProfiles(text, R4()); err == nil {
			t.Errorf("%q is decoded", text)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		text, err := inflate(r4Compressed)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := decode(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeProfiles(b *testing.B) {
	R4()
	b.ReportAllocs()
	for b.Loop() {
		text, err := inflate(profilesCompressed)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := decodeProfiles(text, R4()); err != nil {
			b.Fatal(err)
		}
	}
}
