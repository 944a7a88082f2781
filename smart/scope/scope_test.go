package scope_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir/access"
	"pulsegate/smart/scope"
)

var parser = scope.Parser{TokenParam: func(typ, code string) bool {
	return code == "status" || typ == "Observation" && (code == "category" || code == "code")
}}

const vital = "http://terminology.hl7.org/CodeSystem/observation-category|vital-signs"

func TestParseAndWrite(t *testing.T) {
	for in, want := range map[string]string{
		"system/Observation.read":                 "",
		"system/*.read":                           "",
		"system/Observation.write":                "",
		"system/*.*":                              "",
		"system/Observation.rs":                   "",
		"system/*.cruds":                          "",
		" system/Patient.r  system/Device.s ":     "system/Patient.r system/Device.s",
		"system/Observation.rs?category=" + vital: "",
		"system/Observation.rs?status=final&category=" + vital: "system/Observation.rs?category=" + vital +
			"&status=final",
		"system/Observation.rs?category=a,b":                       "",
		"system/Observation.rs?category=|a":                        "",
		"system/Observation.rs?category=http://x|":                 "",
		"system/Observation.rs?category=http%3A%2F%2Fx%7Ca":        "system/Observation.rs?category=http://x|a",
		"system/Observation.rs?category=a%5C,b":                    "system/Observation.rs?category=a%5C%2Cb",
		"system/Observation.rs?category=http://x?y%3D1|a":          "system/Observation.rs?category=http://x%3Fy%3D1|a",
		"patient/Observation.read launch/patient openid fhirUser":  "",
		"user/*.cruds offline_access online_access profile launch": "",
		"patient/Observation.rs?category=" + vital:                 "",
		"system/Observation.rs?category=a&category=a&category=b":   "system/Observation.rs?category=a&category=b",
	} {
		got, err := parser.Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if want == "" {
			want = in
		}
		if got.String() != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                                        "empty",
		"email":                                   "scope 1: it is neither patient/",
		"launch/location":                         "scope 1: it is neither patient/",
		"system/Patient.rs group/Patient.r":       "scope 2: it is neither patient/",
		"System/Patient.rs":                       "neither patient/",
		"system/Patient":                          "no permission",
		"system/Patient.":                         "must be read",
		"system/Patient.sr":                       "must be read",
		"system/Patient.rr":                       "must be read",
		"system/Patient.READ":                     "must be read",
		"system/Coffee.rs":                        "does not store",
		"system/patient.rs":                       "does not store",
		"system/Observation.read?status=a":        "v2",
		"system/*.rs?status=a":                    "not *",
		"system/Observation.rs?":                  "only token",
		"system/Observation.rs?patient=a":         "only token",
		"system/Observation.rs?category:not=a":    "only token",
		"system/Observation.rs?category=":         "search value",
		"system/Observation.rs?category=|":        "search value",
		"system/Observation.rs?category=a,":       "search value",
		"system/Observation.rs?category=a|b|c":    "search value",
		"system/Observation.rs?category=%00|a":    "search value",
		"system/Observation.rs?category=%zz":      "percent",
		"system/Patient.rs\u00e9":                 "RFC 6749",
		"system/Patient.rs\tsystem/*.rs":          "RFC 6749",
		strings.Repeat("system/Patient.rs ", 100): "more than",
		strings.Repeat("x", 5000):                 "longer",
	} {
		if set, err := parser.Parse(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, %v", in, set, err)
		}
	}
}

func TestNarrow(t *testing.T) {
	for _, tt := range [][3]string{
		{"system/*.rs", "system/Observation.rs system/Patient.r", "system/Observation.rs system/Patient.r"},
		{"system/*.read", "system/Observation.cruds", "system/Observation.read"},
		{"system/*.*", "system/Observation.rs", "system/Observation.read"},
		{"system/*.*", "system/Observation.r", "system/Observation.r"},
		{"system/Observation.cruds", "system/*.rs", "system/Observation.rs"},
		{"system/Observation.rs", "system/Observation.rs?category=a", "system/Observation.rs?category=a"},
		{"system/Observation.rs?status=final", "system/Observation.rs?category=a",
			"system/Observation.rs?category=a&status=final"},
		{"system/Observation.rs?category=b", "system/Observation.rs?category=a",
			"system/Observation.rs?category=b&category=a"},
		{"system/Patient.rs", "system/Observation.rs", ""},
		{"system/Observation.c", "system/Observation.rs", ""},
		{"system/Observation.rs system/*.rs", "system/*.cruds", "system/*.rs"},
		{"patient/*.rs", "user/*.rs system/*.rs", ""},
		{"openid patient/*.rs launch", "launch patient/Observation.r user/*.rs", "patient/Observation.r launch"},
	} {
		a, b := must(t, tt[0]), must(t, tt[1])
		if got := scope.Narrow(a, b).String(); got != tt[2] {
			t.Errorf("%s and %s: %q, want %q", tt[0], tt[1], got, tt[2])
		}
	}
}

func must(t interface{ Fatal(...any) }, s string) scope.Set {
	set, err := parser.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestNarrowIsTheIntersection checks that a grant permits exactly the requests
// that both the requested and the registered scopes permit.
func TestNarrowIsTheIntersection(t *testing.T) {
	word := rapid.Custom(func(t *rapid.T) string {
		s := "system/" + rapid.SampledFrom([]string{"*", "Observation", "Patient"}).Draw(t, "type") + "."
		if rapid.Bool().Draw(t, "v1") {
			return s + rapid.SampledFrom([]string{"read", "write", "*"}).Draw(t, "perm")
		}
		s += rapid.SampledFrom([]string{"r", "s", "rs", "cu", "cruds", "cd"}).Draw(t, "perm")
		if strings.Contains(s, "Observation") {
			s += rapid.SampledFrom([]string{"", "?category=a", "?category=a,b", "?category=x|a",
				"?category=|a&status=f", "?category=a&category=b"}).Draw(t, "q")
		}
		return s
	})
	words := rapid.SliceOfN(word, 1, 4)
	rapid.Check(t, func(t *rapid.T) {
		a, b := must(t, strings.Join(words.Draw(t, "asked"), " ")), must(t, strings.Join(words.Draw(t, "allowed"), " "))
		n := scope.Narrow(a, b)
		if len(n) > 0 {
			n = must(t, n.String())
		}
		tokens := map[string][]access.Token{
			"category": rapid.SliceOfN(rapid.SampledFrom([]access.Token{{Code: "a"}, {System: "x", Code: "a"},
				{Code: "b"}, {System: "y", Code: "b"}}), 0, 2).Draw(t, "category"),
			"status": {{Code: rapid.SampledFrom([]string{"f", "g"}).Draw(t, "status")}},
		}
		f := &access.Facts{Type: rapid.SampledFrom([]string{"Observation", "Patient", "Device"}).Draw(t, "facts"),
			Tokens: func(p string) []access.Token { return tokens[p] }}
		allow := func(s scope.Set, i access.Interaction) bool {
			g := &access.Grant{AllPatients: true, Rules: s.Rules()}
			return g.Filter(i).Allow(f)
		}
		for i := access.Create; i <= access.Search; i <<= 1 {
			if got, want := allow(n, i), allow(a, i) && allow(b, i); got != want {
				t.Fatalf("%s and %s gave %s: interaction %d on %s: %v", a, b, n, i, f.Type, got)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"system/*.read", "system/Observation.rs?category=" + vital,
		"system/Observation.rs?status=%5C%7C,a|b", "patient/*.r ?"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		set, err := parser.Parse(s)
		if err != nil {
			return
		}
		again, err := parser.Parse(set.String())
		if err != nil {
			if len(set.String()) > scope.MaxLength {
				return
			}
			t.Fatalf("%q: %v", set.String(), err)
		}
		if again.String() != set.String() {
			t.Fatalf("%q became %q", set, again)
		}
	})
}

func TestRegisteredParameters(t *testing.T) {
	for in, want := range map[[2]string]bool{
		{"Observation", "category"}: true, {"Observation", "code"}: true, {"Observation", "status"}: true,
		{"Observation", "patient"}: false, {"Observation", "date"}: false, {"Observation", "nonsense"}: false,
		{"Patient", "category"}: false,
	} {
		if scope.Registered(in[0], in[1]) != want {
			t.Errorf("%v: %v", in, !want)
		}
	}
}
