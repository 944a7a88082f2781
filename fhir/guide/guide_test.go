package guide

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/r4"
)

// header holds the elements that all resources of the guide have.
type header struct {
	ResourceType, ID, URL, Version, Name, Title, Status, Publisher, Description string
}

// TestResources checks that each file is valid R4, is named as its name says, and has
// the elements that readers of a guide need.
func TestResources(t *testing.T) {
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	list := Resources()
	if len(list) < 20 || !slices.IsSortedFunc(list, byTypeAndID) {
		t.Fatalf("%d resources, sorted %v", len(list), slices.IsSortedFunc(list, byTypeAndID))
	}
	ig, err := ImplementationGuide(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range append(list, ig) {
		if _, err := validator.Resource(r.Type, r.JSON, r.ID); err != nil {
			t.Errorf("%s: %s", filename(r), r4.OutcomeJSON(err))
		}
		var h header
		if err := json.Unmarshal(r.JSON, &h); err != nil {
			t.Fatal(err)
		}
		if h.ResourceType != r.Type || h.ID != r.ID || h.URL != r.URL || h.Version != r.Version ||
			h.URL != fhir.Canonical+"/"+r.Type+"/"+r.ID {
			t.Errorf("%s: %+v", filename(r), h)
		}
		if h.Name == "" || h.Title == "" || h.Status != "active" || h.Publisher != "Pulsegate" || h.Description == "" ||
			!regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`).MatchString(h.Name) {
			t.Errorf("%s: %+v", filename(r), h)
		}
	}
}

// TestControl checks that the validation of TestResources finds a broken resource.
func TestControl(t *testing.T) {
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range Resources() {
		body := bytes.Replace(r.JSON, []byte(`"status": "active"`), []byte(`"status": "lively"`), 1)
		if _, err := validator.Resource(r.Type, body, r.ID); err == nil {
			t.Errorf("%s: a wrong status is valid", filename(r))
		}
	}
}

// TestEveryCanonical checks that the URLs under fhir.Canonical of profiles, extensions,
// operations, value sets and code systems in the sources have a definition: in this
// package, or in those that package mapping/terminology makes.
func TestEveryCanonical(t *testing.T) {
	defined := map[string]bool{}
	for _, r := range Resources() {
		defined["/"+r.Type+"/"+r.ID] = true
	}
	for _, id := range []string{"measures", "observation-category", "device-property", "vendor", "apple", "google-health",
		"oura", "withings"} {
		defined["/CodeSystem/"+id] = true
	}
	used := regexp.MustCompile(`(?:fhir\.Canonical ?\+ ?["` + "`" + `]|\x60|"|` + regexp.QuoteMeta(fhir.Canonical) + `)` +
		`(/(?:StructureDefinition|OperationDefinition|ValueSet|CodeSystem|SearchParameter)/[a-z0-9-]+)["` + "`" + `|\\]`)
	n := 0
	for _, dir := range []string{"../../fhir", "../../mapping", "../../smart", "../../cmd", "../../adapters"} {
		err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			for _, m := range used.FindAllSubmatch(text, -1) {
				if n++; !defined[string(m[1])] {
					t.Errorf("%s: %s%s has no definition", name, fhir.Canonical, m[1])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 15 {
		t.Errorf("only %d URLs were found", n)
	}
	for _, r := range Resources() {
		for _, m := range used.FindAllSubmatch(r.JSON, -1) {
			if !defined[string(m[1])] {
				t.Errorf("%s: %s%s has no definition", filename(r), fhir.Canonical, m[1])
			}
		}
	}
}

// TestOperations checks that the OperationDefinitions name the parameters that their
// operations read.
func TestOperations(t *testing.T) {
	want := map[string]string{"ehr-bundle": "start end code form subject every preferred _count return",
		"time-buckets":     "subject code system coding calendar minutes zone start end statistic device preferred return",
		"audit-checkpoint": "return", "audit-verify": "checkpoint return"}
	for _, r := range Resources() {
		if r.Type != "OperationDefinition" {
			continue
		}
		var d struct{ Parameter []struct{ Name string } }
		if err := json.Unmarshal(r.JSON, &d); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range d.Parameter {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != want[r.ID] {
			t.Errorf("%s: the parameters are %s", r.ID, got)
		}
		delete(want, r.ID)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}

// unpack returns the files of a package.
func unpack(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPackage checks the layout of a FHIR package, that its index and ImplementationGuide
// list every resource, and that equal inputs give equal bytes.
func TestPackage(t *testing.T) {
	extra := []Resource{
		{"CodeSystem", "oura", fhir.Canonical + "/CodeSystem/oura", "1.2.3",
			[]byte(`{"resourceType":"CodeSystem","id":"oura","name":"Oura","status":"active","content":"fragment"}`)},
		{"ValueSet", "oura", fhir.Canonical + "/ValueSet/oura", "9", []byte(`{"resourceType":"ValueSet","id":"oura"}`)}}
	b, err := Package(extra)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Package(slices.Clone(extra)); err != nil || !bytes.Equal(b, again) {
		t.Errorf("the bytes differ: %v", err)
	}
	files := unpack(t, b)
	var m manifest
	if err := json.Unmarshal(files["package/package.json"], &m); err != nil {
		t.Fatal(err)
	}
	if m.Name != PackageID || m.Version != Version || !slices.Equal(m.FHIRVersions, []string{"4.0.1"}) ||
		m.Dependencies["hl7.fhir.r4.core"] != "4.0.1" || m.Canonical != fhir.Canonical || m.URL == "" {
		t.Errorf("%+v", m)
	}
	var x index
	if err := json.Unmarshal(files["package/.index.json"], &x); err != nil {
		t.Fatal(err)
	}
	// The static resources and CodeSystem/oura, the ImplementationGuide, the manifest and the index.
	if want := len(Resources()) + 2; len(x.Files) != want || len(files) != want+2 {
		t.Errorf("%d of %d files in the index, want %d", len(x.Files), len(files), want)
	}
	var ig implementationGuide
	if err := json.Unmarshal(files["package/ImplementationGuide-"+PackageID+".json"], &ig); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{"ImplementationGuide/" + PackageID: true}
	for _, r := range ig.Definition.Resource {
		listed[r.Reference.Reference] = true
	}
	for _, f := range x.Files {
		var h header
		if err := json.Unmarshal(files["package/"+f.Filename], &h); err != nil || h.ID != f.ID ||
			h.ResourceType != f.ResourceType {
			t.Errorf("%+v: %v %+v", f, err, h)
		}
		if !listed[f.ResourceType+"/"+f.ID] {
			t.Errorf("the ImplementationGuide does not list %s", f.Filename)
		}
		if f.ResourceType == "StructureDefinition" && (f.Kind == "" || f.Type == "") {
			t.Errorf("%+v", f)
		}
	}
	if got := files["package/ValueSet-oura.json"]; !bytes.Equal(got, extra[1].JSON) {
		t.Errorf("extra does not win: %s", got)
	}
	if _, err := Package([]Resource{{Type: "ValueSet", ID: "x", JSON: []byte("{")}}); err == nil {
		t.Error("broken JSON is packed")
	}
}
