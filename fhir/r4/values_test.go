package r4

import (
	"strings"
	"testing"

	"pulsegate/fhir"
)

// small returns an Observation with n small extensions.
func small(n int) []byte {
	ext := strings.Repeat(`{"url":"u:x","valueCode":"x"},`, n)
	return []byte(`{"resourceType":"Observation","extension":[` + strings.TrimSuffix(ext, ",") +
		`],"contained":[{"resourceType":"Patient","id":"a"}],"subject":{"reference":"#a"},"status":"final","code":{"text":"x"}}`)
}

// TestValuesAreBounded tests that the number of values in a resource is limited
// independently of its size, so that validation has bounded time and memory.
func TestValuesAreBounded(t *testing.T) {
	d, err := New(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		"extensions": small(350_000),
		"strings in an array": []byte(`{"resourceType":"Patient","name":[{"given":[` +
			strings.TrimSuffix(strings.Repeat(`"x",`, 100_000), ",") + `]}]}`),
		"nested": []byte(`{"resourceType":"Observation","status":"final","code":{"text":"x"},"component":[` +
			strings.TrimSuffix(strings.Repeat(`{"code":{"coding":[{"code":"x"}]}},`, 30_000), ",") + `]}`),
	} {
		if len(body) > 10<<20+1<<10 {
			body = body[:10<<20]
		}
		typ := "Observation"
		if strings.Contains(string(body[:40]), "Patient") {
			typ = "Patient"
		}
		if _, err := d.Create(typ, body, "x"); err == nil || fhir.KindOf(err) != fhir.TooLarge &&
			fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := d.Create("Observation", small(100_000), "x"); fhir.KindOf(err) != fhir.TooLarge {
		t.Errorf("100,000 extensions: %v", err)
	}
	if _, err := d.Create("Observation", small(10_000), "x"); err != nil {
		t.Errorf("10,000 extensions: %v", err)
	}
	// A long text is one value.
	long := `{"resourceType":"Observation","status":"final","code":{"text":"` + strings.Repeat("a,b{c[", 200_000) +
		`"}}`
	if _, err := d.Create("Observation", []byte(long), "x"); fhir.KindOf(err) == fhir.TooLarge {
		t.Errorf("a long text: %v", err)
	}
}

func BenchmarkManyValues(b *testing.B) {
	d, err := New(Limits{})
	if err != nil {
		b.Fatal(err)
	}
	body := small(12_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Create("Observation", body, "x"); err != nil {
			b.Fatal(err)
		}
	}
}
