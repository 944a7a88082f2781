package rest

import (
	"bytes"
	"strings"
	"testing"
)

// TestNestedElements tests _elements with an element inside of another: R4 names elements
// at the base of a resource only (search.html#elements). Strict handling refuses it and
// names the rule; lenient handling ignores the parameter, says so, and leaves it out of
// the self link.
func TestNestedElements(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		for _, value := range []string{"code.coding", "status,code.coding", "Observation.code.coding", "Patient.name"} {
			for _, path := range []string{"/Observation?_id=hr&", "/Observation/hr?", "/Observation/hr/_history?",
				"/Observation/$lastn?patient=ada&code=8867-4&"} {
				a := w.want(400, "all", "GET", path+"_elements="+value, "")
				if !strings.Contains(string(a.body), "base of the resource") {
					t.Errorf("%s%s: %s", path, value, a.body)
				}
			}
			a := w.want(200, "all", "GET", "/Observation?_id=hr&_elements="+value, "", "Prefer", "handling=lenient")
			if bytes.Contains(a.body, []byte("SUBSETTED")) || !bytes.Contains(a.body, []byte("parameter _elements is not")) ||
				strings.Contains(a.link("self"), "_elements") || len(a.modes("outcome")) != 1 {
				t.Errorf("lenient %s: %s", value, a.body)
			}
		}
		for _, value := range []string{"", "a/b", strings.Repeat("x", 60)} {
			status := map[bool]int{true: 200, false: 400}[value == ""]
			w.want(status, "all", "GET", "/Observation?_id=hr&_elements="+value, "", "Prefer", "handling=lenient")
		}
		// In a search of several types, the name of a type selects for this type.
		a := w.want(200, "all", "GET", "/?_type=Patient,Observation&_id=ada,hr&_elements=Patient.gender,Observation.status", "")
		if !bytes.Contains(a.body, []byte(`"gender"`)) || bytes.Contains(a.body, []byte(`"birthDate"`)) ||
			bytes.Contains(a.body, []byte(`"valueQuantity"`)) || len(a.modes("match")) != 2 {
			t.Errorf("several types: %s", a.body)
		}
		w.want(400, "all", "GET", "/?_type=Patient,Observation&_elements=Device.type", "")
	})
}

// TestTextWithoutIncludes tests that _summary=text and includes are kept apart: "the
// _include and _revinclude parameters cannot be mixed with _summary=text"
// (search.html#summary).
func TestTextWithoutIncludes(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		for _, include := range []string{"_include=Observation:device", "_revinclude=Provenance:target",
			"_include:iterate=Device:patient", "_include=*"} {
			for _, path := range []string{"/Observation?_id=hr&_summary=text&" + include,
				"/Observation?" + include + "&_summary=text&_id=hr",
				"/?_type=Observation,Device&_id=hr&_summary=text&" + include,
				"/Patient/ada/Observation?_summary=text&" + include,
				"/Observation/$lastn?patient=ada&code=8867-4&_summary=text&" + include} {
				a := w.want(400, "all", "GET", path, "")
				if !strings.Contains(string(a.body), "_summary=text") {
					t.Errorf("%s: %s", path, a.body)
				}
			}
			a := w.want(200, "all", "GET", "/Observation?_id=hr&_summary=text&"+include, "", "Prefer", "handling=lenient")
			name, _, _ := strings.Cut(strings.Split(include, "=")[0], ":")
			if len(a.modes("include")) != 0 || len(a.modes("match")) != 1 || !bytes.Contains(a.body, []byte("SUBSETTED")) ||
				!bytes.Contains(a.body, []byte("parameter "+name+" is not")) || strings.Contains(a.link("self"), "include") ||
				!strings.Contains(a.link("self"), "_summary=text") {
				t.Errorf("lenient %s: %s", include, a.body)
			}
			for _, summary := range []string{"true", "data", "false", "count"} {
				w.want(200, "all", "GET", "/Observation?_id=hr&_summary="+summary+"&"+include, "")
			}
		}
	})
}
