package decimal

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"62": "62", "62.0": "62.0", "0.97": "0.97", ".5": "0.5", "5.": "5", "+1.50": "1.50", "007.1": "7.1",
		"1.2E-3": "0.0012", "1e3": "1000", "-0.0": "-0.0", "0": "0", "-4.25": "-4.25", "00": "0",
	} {
		d, ok := Parse(in)
		if !ok || string(d.Append(nil)) != want {
			t.Errorf("Parse(%q) = %s, %v, want %s", in, d.Append(nil), ok, want)
		}
		if d.IsJSON() && !json.Valid([]byte(in)) {
			t.Errorf("%q is reported as a JSON number", in)
		}
	}
	for _, in := range []string{"", "NaN", "Infinity", "-", ".", "1.2.3", "1e", "1e999", "0x1", "1 ", "1,5",
		strings.Repeat("9", 60)} {
		if _, ok := Parse(in); ok {
			t.Errorf("Parse(%q) succeeded", in)
		}
	}
}

// FuzzParse checks that parseShort agrees with Parse and that every number is
// written as JSON.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"62", "0.97", "-1e-3", "NaN", "1e30", "00.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := Parse(s)
		v, isShort := parseShort(s)
		if w, fits := d.Short(); isShort && (!ok || !fits || v != w || string(v.Append(nil)) != s) {
			t.Fatalf("parseShort(%q) = %+v", s, v)
		}
		if !ok {
			return
		}
		if out := d.Append(nil); !json.Valid(out) || len(out) > 128 {
			t.Fatalf("%q is written as %s", s, out)
		}
		if d.IsJSON() && !json.Valid([]byte(s)) {
			t.Fatalf("%q is reported as a JSON number", s)
		}
	})
}
