package vendors

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestAll checks that each adapter has a code that is valid in a URL, a name, a
// directory with testdata, and formats with a summary.
func TestAll(t *testing.T) {
	code := regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	var codes []string
	for _, a := range All() {
		codes = append(codes, a.Vendor())
		if !code.MatchString(a.Vendor()) || strings.TrimSpace(a.Name()) == "" {
			t.Errorf("invalid code %q or name %q", a.Vendor(), a.Name())
		}
		if _, err := os.Stat("../" + a.Vendor() + "/testdata/canaries.txt"); err != nil {
			t.Errorf("%s: %v", a.Vendor(), err)
		}
		for _, f := range a.Formats() {
			if f.Name == "" || f.Name == "auto" || strings.ContainsAny(f.Name, ":/ ") || f.Summary == "" {
				t.Errorf("%s: invalid format %+v", a.Vendor(), f)
			}
			for _, d := range f.Delivery {
				if d != strings.ToLower(d) {
					t.Errorf("%s: delivery fact %s is not in lower case", a.Vendor(), d)
				}
			}
		}
		if !strings.Contains(Codes(), a.Vendor()) || !strings.Contains(Names(), a.Name()) ||
			Name(a.Vendor()) != a.Name() {
			t.Errorf("%s is missing from %q or %q", a.Vendor(), Codes(), Names())
		}
	}
	if !slices.IsSorted(codes) || len(slices.Compact(slices.Clone(codes))) != len(codes) {
		t.Errorf("unsorted or duplicate codes: %v", codes)
	}
	if Name("unknown") != "unknown" {
		t.Errorf("Name of an unknown vendor: %q", Name("unknown"))
	}
}

// TestEveryAdapterIsListed checks that each directory of an adapter is in All.
func TestEveryAdapterIsListed(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := os.Stat("../" + e.Name() + "/testdata/canaries.txt"); err == nil &&
			!slices.Contains(strings.FieldsFunc(Codes(), func(r rune) bool { return r == ' ' || r == ',' }), e.Name()) {
			t.Errorf("adapters/%s is missing from All", e.Name())
		}
	}
}

func TestCode(t *testing.T) {
	for in, want := range map[string]string{"apple": "apple", "Apple": "apple", "APPLE HEALTH": "apple",
		" oura ": "oura", "FitBit": "fitbit", "garmin": "garmin", "": ""} {
		if got := Code(in); got != want {
			t.Errorf("Code(%q) = %q, want %q", in, got, want)
		}
	}
}
