package definitions

import (
	"testing"
)

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

func TestX(t *testing.T) {
	s := R4()
	n, m, c := 0, 0, 0
	probes := 0
	for _, st := range s.structures {
		n++
		m += len(st.Members)
		mask := uint32(len(st.index) - 1)
		for i := range st.Members {
			h := hash([]byte(st.Members[i].Name)) & mask
			for st.index[h] != uint16(i+1) {
				h = (h + 1) & mask
				probes++
			}
			c++
		}
	}
	t.Log(n, m, len(s.names), float64(probes)/float64(c), len(s.elements))
}

func TestP(t *testing.T) {
	p := KnownProfiles()
	t.Log(len(p.list))
	for _, x := range p.Lookup("http://hl7.org/fhir/us/core/StructureDefinition/us-core-blood-pressure") {
		for _, l := range x.Lineage() {
			t.Log(l.URL, l.Version, len(l.Constraints))
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
