package uscore_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/r4"
	"pulsegate/mapping"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/table"
	"pulsegate/mapping/uscore"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	base     = "https://pulsegate.example/fhir"
	receiver = "Patient/ehr-7"
)

// stored is the time of the version that the examples have in the store.
var stored = time.Date(2026, 10, 2, 6, 30, 0, 0, time.UTC) // read only

// provenance is a Provenance as package ingest writes it.
const provenance = `{"resourceType":"Provenance","id":"pv","meta":{"versionId":"1"},"target":[{"reference":"Patient/p1"}],` +
	`"recorded":"2026-10-02T06:29:59.123Z","agent":[{"type":{"coding":[{"code":"author"}]},"who":{"reference":"Organization/vendor-oura","display":"oura"}},` +
	`{"type":{"coding":[{"code":"transmitter"}]},"who":{"reference":"Organization/pulsegate","display":"Pulsegate"}}]}`

// source returns the Source of an Observation of a vendor, stored as version 3.
func source(t *testing.T, vendor, id string, observation, device []byte) *uscore.Source {
	t.Helper()
	body := fhir.Stamp(observation, "Observation", id, 3, stored)
	if body == nil {
		t.Fatalf("not canonical: %s", observation)
	}
	src := &uscore.Source{Observation: body, Device: device, Provenance: []byte(provenance), Vendor: vendor,
		VendorName: "The " + vendor + " cloud", VendorURL: "https://" + vendor + ".example", PatientRef: receiver,
		Base: base}
	if vendor == "apple" { // data of a phone come from no cloud
		src.VendorURL = ""
	}
	return src
}

// eachExample calls fn with the Source of an example of each row, and of one of a day for
// rows that are mapped by day or have the code of a day.
func eachExample(t *testing.T, fn func(t *testing.T, name string, r *table.Row, src *uscore.Source)) {
	m, tab := mappingtest.Mapper(t), mappingtest.Table(t)
	mappingtest.EachRow(tab, func(v *table.Vendor, r *table.Row) {
		cases := []bool{false}
		if slices.ContainsFunc(r.Variants, func(v table.Variant) bool { return v.When.Day != nil }) ||
			slices.ContainsFunc(r.Codes, func(code string) bool {
				return slices.Contains([]string{"loinc 41950-7", "loinc 41979-6", "loinc 40443-4"}, code)
			}) {
			cases = append(cases, true)
		}
		for _, daily := range cases {
			name := v.Vendor + "/" + strings.ReplaceAll(r.Metric, "/", "_")
			if daily {
				name += "@day"
			}
			t.Run(name, func(t *testing.T) {
				s := mappingtest.Example(t, tab, v, r, daily)
				res, err := m.Map(nil, v.Vendor, s, "p1", nil)
				if err != nil {
					t.Fatal(err)
				}
				if res.JSON == nil {
					return // a row of facts about the Device
				}
				fn(t, name, r, source(t, v.Vendor, res.ID, res.JSON, mapping.Device(v.Vendor, "p1", res.Device, s)))
			})
		}
	})
}

// TestVitalSigns checks the form of an example of each row against its golden file and
// R4. A row has a form if it has a profile and is no series.
func TestVitalSigns(t *testing.T) {
	v, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var claimed []string
	g := newGolden("vital-signs")
	eachExample(t, func(t *testing.T, name string, r *table.Row, src *uscore.Source) {
		body, query, ok, err := uscore.VitalSign(src)
		if err != nil {
			t.Fatal(err)
		}
		if want := r.Profile != "" && r.Shape != table.ShapeSampled; ok != want {
			t.Fatalf("ok is %v, want %v", ok, want)
		}
		if !ok {
			return
		}
		again, _, _, _ := uscore.VitalSign(src)
		if !bytes.Equal(body, again) {
			t.Error("two calls differ")
		}
		f := checkForm(t, v, body)
		claimed = append(claimed, f.Meta.Profile...)
		checkQuery(t, query, f)
		g.check(t, name, query, body)
	})
	g.complete(t)
	slices.Sort(claimed)
	if got := slices.Compact(claimed); len(got) != 8 {
		t.Errorf("the rows claim %v, want all 8 profiles", got)
	}
}

// form holds the elements of a result that the tests read.
type form struct {
	ID   string
	Meta struct {
		VersionID string
		Profile   []string
		Tag       []struct{ System, Code string }
	}
	Status     string
	Identifier []struct{ System, Value string }
	Performer  []struct{ Reference string }
	Subject    struct{ Reference string }
	Device     *struct{ Reference string }
	Contained  []struct {
		ResourceType string
		DeviceName   []struct{ Name string }
		Recorded     string
		Agent        []struct {
			Type struct{ Coding []struct{ Code string } }
			Who  struct {
				Display    string
				Identifier *struct{ System, Value string }
			}
		}
	}
}

// checkForm checks that body is valid R4, and the rules of US Core that no profile
// states.
func checkForm(t *testing.T, v *r4.Validator, body []byte) *form {
	t.Helper()
	if _, err := v.Create("Observation", body, "received"); err != nil {
		t.Errorf("not valid R4: %s", r4.OutcomeJSON(err))
	}
	var f form
	if err := json.Unmarshal(body, &f); err != nil {
		t.Fatal(err)
	}
	if f.ID != "" || f.Meta.VersionID != "" {
		t.Error("the form has an id or a version of this server")
	}
	if len(f.Meta.Tag) != 1 || f.Meta.Tag[0].Code != "patient-supplied" ||
		f.Meta.Tag[0].System != "http://hl7.org/fhir/us/core/CodeSystem/us-core-tags" {
		t.Errorf("tags %v, want only patient-supplied", f.Meta.Tag)
	}
	if f.Subject.Reference != receiver || len(f.Performer) != 1 || f.Performer[0].Reference != receiver {
		t.Errorf("subject %v and performer %v, want %s", f.Subject, f.Performer, receiver)
	}
	for _, internal := range []string{"Patient/p1", "Device/", "Organization/", "SampledData", "identifier/series",
		"CodeSystem/measures"} {
		if bytes.Contains(body, []byte(internal)) {
			t.Errorf("the form contains %s", internal)
		}
	}
	return &f
}

func checkQuery(t *testing.T, query string, f *form) {
	t.Helper()
	if len(f.Identifier) != 1 {
		t.Fatalf("%d identifiers, want 1", len(f.Identifier))
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := q.Get("identifier"), f.Identifier[0].System+"|"+f.Identifier[0].Value; got != want || len(q) != 1 {
		t.Errorf("the query %s, want identifier=%s", query, want)
	}
}

// golden compares results with the files of a folder of testdata.
type golden struct {
	dir  string
	seen map[string]bool
}

func newGolden(dir string) *golden { return &golden{filepath.Join("testdata", dir), map[string]bool{}} }

func (g *golden) check(t *testing.T, name string, parts ...any) {
	t.Helper()
	file := filepath.Join(g.dir, filepath.FromSlash(name)+".json")
	g.seen[file] = true
	var buf bytes.Buffer
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			buf.WriteString(`"` + p + `"`)
		case []byte:
			if err := json.Indent(&buf, p, "", "  "); err != nil {
				t.Fatal(err)
			}
		}
		buf.WriteByte('\n')
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("no golden file (run with -update): %v", err)
	}
	if !bytes.Equal(buf.Bytes(), want) {
		t.Errorf("the result differs from %s:\n%s", file, buf.Bytes())
	}
}

// complete checks that each file belongs to a case.
func (g *golden) complete(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(g.dir, "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !g.seen[f] {
			t.Errorf("%s belongs to no row", f)
		}
	}
}

// heart returns an Observation of a heart rate with replacements, in pairs.
func heart(t *testing.T, replace ...string) *uscore.Source {
	t.Helper()
	body := `{"resourceType":"Observation","id":"o1","meta":{"tag":[{"system":"https://pulsegate.dev/fhir/CodeSystem/measures","code":"zone-unknown"}]},` +
		`"identifier":[{"system":"https://pulsegate.dev/fhir/identifier/oura","value":"o1"},{"system":"https://pulsegate.dev/fhir/identifier/series","value":"s"}],` +
		`"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],` +
		`"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p1"},` +
		`"effectiveDateTime":"2026-10-01T08:00:00+02:00",` +
		`"valueQuantity":{"value":62.50,"system":"http://unitsofmeasure.org","code":"/min"}}`
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(body, replace[i]) {
			t.Fatalf("%s is not in the Observation", replace[i])
		}
		body = strings.Replace(body, replace[i], replace[i+1], 1)
	}
	return source(t, "oura", "o1", []byte(body), nil)
}

func TestDoesNotQualify(t *testing.T) {
	const quantity = `"valueQuantity":{"value":62.50,`
	for name, src := range map[string]*uscore.Source{
		"preliminary":               heart(t, `"final"`, `"preliminary"`),
		"retracted":                 heart(t, `"final"`, `"entered-in-error"`),
		"other category":            heart(t, `"vital-signs"`, `"activity"`),
		"other code":                heart(t, `8867-4`, `103222-6`),
		"other system":              heart(t, `http://loinc.org`, `http://loinc.org/x`),
		"comparator":                heart(t, quantity, quantity+`"comparator":"<",`),
		"unit":                      heart(t, `"/min"`, `"/h"`),
		"no UCUM":                   heart(t, `http://unitsofmeasure.org`, `http://units.example`),
		"no number":                 heart(t, `"value":62.50,`, ``),
		"no time":                   heart(t, `"effectiveDateTime":"2026-10-01T08:00:00+02:00",`, ``),
		"modifier":                  heart(t, `"status"`, `"modifierExtension":[{"url":"urn:x"}],"status"`),
		"implicit rules":            heart(t, `"identifier"`, `"implicitRules":"urn:x","identifier"`),
		"measured by other":         heart(t, `"status"`, `"performer":[{"reference":"Practitioner/d"}],"status"`),
		"saturation of a blood gas": heart(t, `8867-4"`, `2708-6"`, `/min`, `%`),
	} {
		body, _, ok, err := uscore.VitalSign(src)
		if err != nil || ok || body != nil {
			t.Errorf("%s: ok is %v, error %v, want neither", name, ok, err)
		}
	}
	client := heart(t)
	client.Vendor = ""
	if _, _, ok, _ := uscore.VitalSign(client); ok {
		t.Error("a client's Observation without a performer qualifies")
	}
	own := heart(t, `"status"`, `"performer":[{"reference":"Patient/p1"}],"status"`)
	own.Vendor = ""
	body, _, ok, err := uscore.VitalSign(own)
	if err != nil || !ok {
		t.Fatalf("an Observation that the patient performed: %v, %v", ok, err)
	}
	if !bytes.Contains(body, []byte(`"who":{"reference":"`+receiver+`"}`)) {
		t.Errorf("the patient is not the author: %s", body)
	}
}

// TestDerived checks a value that was derived from several sources and has no vendor.
func TestDerived(t *testing.T) {
	src := heart(t, `zone-unknown`, `preferred`)
	src.Vendor, src.VendorName, src.VendorURL = "", "", ""
	body, _, ok, err := uscore.VitalSign(src)
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	var f form
	if err := json.Unmarshal(body, &f); err != nil {
		t.Fatal(err)
	}
	if who := f.Contained[0].Agent[0].Who; who.Display != "Pulsegate" || who.Identifier.Value != base {
		t.Errorf("the author is %+v, want this server", who)
	}
}

func TestKeepsDigitsAndWritesUnit(t *testing.T) {
	body, _, _, err := uscore.VitalSign(heart(t))
	if err != nil {
		t.Fatal(err)
	}
	const want = `"valueQuantity":{"value":62.50,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}`
	if !bytes.Contains(body, []byte(want)) {
		t.Errorf("%s, want %s", body, want)
	}
}

func TestIdentifiers(t *testing.T) {
	queryOf := func(src *uscore.Source) string {
		_, query, ok, err := uscore.VitalSign(src)
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		return q.Get("identifier")
	}
	const system = "https://pulsegate.dev/fhir/identifier/oura"
	restated := heart(t)
	restated.Revision = 2
	if got := queryOf(restated); got != system+"|o1/_history/2" {
		t.Errorf("a restated value has %s", got)
	}
	none := heart(t, `"identifier":[{"system":"`+system+
		`","value":"o1"},{"system":"https://pulsegate.dev/fhir/identifier/series","value":"s"}],`, ``)
	if got := queryOf(none); got != "urn:ietf:rfc:3986|"+base+"/Observation/o1" {
		t.Errorf("an Observation without an identifier has %s", got)
	}
	none.Base = ""
	if _, _, ok, _ := uscore.VitalSign(none); ok {
		t.Error("an Observation without an identifier qualifies")
	}
	if got := queryOf(heart(t, `"value":"o1"`, `"value":"a,b|c$d"`)); got != system+`|a\,b\|c\$d` {
		t.Errorf("separators: %s", got)
	}
}

func TestContained(t *testing.T) {
	contained := func(device, provenance string) (*form, []byte) {
		src := heart(t)
		src.Device, src.Provenance = nil, nil
		if device != "" {
			src.Device = []byte(device)
		}
		if provenance != "" {
			src.Provenance = []byte(provenance)
		}
		body, _, ok, err := uscore.VitalSign(src)
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		var f form
		if err := json.Unmarshal(body, &f); err != nil {
			t.Fatal(err)
		}
		return &f, body
	}
	f, body := contained(`{"resourceType":"Device","id":"d","serialNumber":"SECRET","modelNumber":"Ring4"}`, provenance)
	if f.Device == nil || f.Device.Reference != "#device" || f.Contained[0].DeviceName[0].Name != "Ring4" ||
		bytes.Contains(body, []byte("SECRET")) {
		t.Errorf("a Device without a name: %s", body)
	}
	p := f.Contained[1]
	if p.Recorded != "2026-10-02T06:29:59.123Z" || len(p.Agent) != 2 || p.Agent[0].Type.Coding[0].Code != "author" ||
		p.Agent[0].Who.Identifier.System != "urn:ietf:rfc:3986" ||
		p.Agent[0].Who.Identifier.Value != "https://oura.example" ||
		p.Agent[0].Who.Display == "" || p.Agent[1].Type.Coding[0].Code != "transmitter" ||
		p.Agent[1].Who.Identifier.Value != base {
		t.Errorf("the Provenance is %+v", p)
	}
	f, body = contained(`{"resourceType":"Device","id":"d","status":"active"}`, "")
	if f.Device != nil || len(f.Contained) != 1 || f.Contained[0].Recorded != "2026-10-02T06:30:00.000Z" {
		t.Errorf("a Device that nothing names, no Provenance: %s", body)
	}
}

// TestBloodPressure checks that one of the two pressures may be absent, with a reason.
func TestBloodPressure(t *testing.T) {
	const (
		low    = `{"code":{"coding":[{"system":"http://loinc.org","code":"8462-4"}]},"valueQuantity":{"value":80,"system":"http://unitsofmeasure.org","code":"mm[Hg]"}}`
		absent = `{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},"dataAbsentReason":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/data-absent-reason","code":"unknown"}]}}`
		pulse  = `{"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"valueQuantity":{"value":70,"system":"http://unitsofmeasure.org","code":"/min"}}`
	)
	with := func(components string) *uscore.Source {
		return heart(t, `8867-4`, `85354-9`,
			`"valueQuantity":{"value":62.50,"system":"http://unitsofmeasure.org","code":"/min"}`,
			`"component":[`+components+`]`)
	}
	body, _, ok, err := uscore.VitalSign(with(absent + "," + low + "," + pulse))
	if err != nil || !ok || bytes.Contains(body, []byte("8867-4")) ||
		!bytes.Contains(body, []byte("data-absent-reason")) {
		t.Errorf("%v, %v: %s", ok, err, body)
	}
	for _, components := range []string{low, absent + "," + strings.Replace(absent, "8480-6", "8462-4", 1),
		strings.Replace(low, "8462-4", "8480-6", 1) + "," + strings.Replace(low, "mm[Hg]", "kPa", 1)} {
		if _, _, ok, _ := uscore.VitalSign(with(components)); ok {
			t.Errorf("%s qualifies", components)
		}
	}
}

func TestEnteredInError(t *testing.T) {
	v, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	sent, query, _, err := uscore.VitalSign(heart(t))
	if err != nil {
		t.Fatal(err)
	}
	body, again, ok, err := uscore.EnteredInError(heart(t), "")
	want := bytes.Replace(sent, []byte(`"final"`), []byte(`"entered-in-error"`), 1)
	if err != nil || !ok || again != query || !bytes.Equal(body, want) {
		t.Errorf("%v, %v, %s: %s, want only the status of %s changed", ok, err, again, body, sent)
	}
	const value = `"valueQuantity":{"value":62.50,"system":"http://unitsofmeasure.org","code":"/min"}`
	for _, src := range []*uscore.Source{
		heart(t, value, `"dataAbsentReason":{"text":"gone"}`, `"final"`, `"entered-in-error"`),
		heart(t, value, `"note":[{"text":"gone"}]`, `8867-4`, `85354-9`),
	} {
		body, _, ok, err = uscore.EnteredInError(src, "ehr-1")
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		if _, err := v.Resource("Observation", body, "ehr-1"); err != nil {
			t.Errorf("not valid R4: %s", r4.OutcomeJSON(err))
		}
	}
	if _, _, ok, _ := uscore.EnteredInError(heart(t, `8867-4`, `80404-7`), ""); ok {
		t.Error("an Observation without a profile has a form")
	}
}

func TestMarkEnteredInError(t *testing.T) {
	const received = `{ "component":[{"status":"final"}], "status" : "amended","x":"status"}`
	body, changed, err := uscore.MarkEnteredInError([]byte(`{"resourceType":"Observation",` + received[1:]))
	if want := `{"resourceType":"Observation",` +
		strings.Replace(received[1:], `"amended"`, `"entered-in-error"`, 1); err != nil ||
		!changed || string(body) != want {
		t.Errorf("%v, %v: %s, want %s", changed, err, body, want)
	}
	if again, changed, err := uscore.MarkEnteredInError(body); err != nil || changed || !bytes.Equal(again, body) {
		t.Errorf("a second time: %v, %v: %s", changed, err, again)
	}
	for _, bad := range []string{``, `[]`, `{"resourceType":"Patient","status":"final"}`,
		`{"resourceType":"Observation"}`,
		`{"resourceType":"Observation","status":`} {
		if _, _, err := uscore.MarkEnteredInError([]byte(bad)); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestErrors checks that errors contain nothing of the resources.
func TestErrors(t *testing.T) {
	broken := []byte(`{"resourceType":"Observation","status":{"SECRET":1}}`)
	for name, change := range map[string]func(*uscore.Source){
		"Observation": func(s *uscore.Source) { s.Observation = broken },
		"Device":      func(s *uscore.Source) { s.Device = []byte(`{"deviceName":"SECRET"}`) },
		"Provenance":  func(s *uscore.Source) { s.Provenance = []byte(`SECRET`) },
		"PatientRef":  func(s *uscore.Source) { s.PatientRef = "" },
	} {
		src := heart(t)
		change(src)
		_, _, ok, err := uscore.VitalSign(src)
		if err == nil || ok || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if _, _, _, err := uscore.VitalSign(&uscore.Source{Observation: []byte(`{"resourceType":"Patient"}`),
		PatientRef: receiver}); fhir.KindOf(err) != fhir.Invalid {
		t.Errorf("a Patient: %v", err)
	}
}

func FuzzForms(f *testing.F) {
	f.Add([]byte(`{"resourceType":"Observation","status":"final"}`), []byte(`{}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, observation, device, provenance []byte) {
		src := &uscore.Source{Observation: observation, Device: device, Provenance: provenance, Vendor: "oura",
			PatientRef: receiver, Base: base}
		if body, query, ok, err := uscore.VitalSign(src); ok && (err != nil || !json.Valid(body) || query == "") {
			t.Errorf("%v: %s", err, body)
		}
		if body, changed, err := uscore.MarkEnteredInError(observation); err == nil && changed && !json.Valid(body) {
			t.Errorf("not JSON: %s", body)
		}
	})
}
