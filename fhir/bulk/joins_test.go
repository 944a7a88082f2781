package bulk

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
	"pulsegate/fhir/terminology"
)

// joined makes the exporter evaluate _typeFilter as searches are, over data with references.
func (w *world) joined() *interaction.Service {
	w.t.Helper()
	w.exporter.Close()
	s := &interaction.Service{Store: w.st, Base: base, Clock: time.Now, Audit: w.opts.Audit, Rand: w.opts.Rand}
	w.opts.Search = s
	w.start()
	for p, family := range map[string]string{"p1": "Smith", "p2": "Smithers", "p3": "Jones"} {
		w.put("Patient", p, `,"name":[{"family":"`+family+`"}],"gender":"female"`)
		w.put("Device", "d-"+p, `,"patient":{"reference":"Patient/`+p+`"},"status":"active","url":"https://d.example/`+p+`"`)
		for i, code := range []string{"8867-4", "8310-5"} {
			w.put("Observation", fmt.Sprintf("%s-o%d", p, i), `,"status":"final","code":{"coding":[{"system":"http://loinc.org",`+
				`"code":"`+code+`","display":"Some text"}],"text":"Some text"},"subject":{"reference":"Patient/`+p+`"},`+
				`"device":{"reference":"Device/d-`+p+`"},"effectiveDateTime":"2026-03-01T10:00:00Z",`+
				`"identifier":[{"type":{"coding":[{"system":"http://t.example","code":"MR"}]},"value":"`+p+`"}]`)
		}
	}
	w.put("Provenance", "v1", `,"recorded":"2026-03-01T10:00:00Z","target":[{"reference":"Observation/p1-o0"},{"reference":"Patient/p1"}],`+
		`"agent":[{"who":{"reference":"Patient/p1"}}]`)
	w.put("List", "l1", `,"status":"current","mode":"working","entry":[{"item":{"reference":"Observation/p2-o1"}}],`+
		`"subject":{"reference":"Patient/p2"}`)
	return s
}

// TestTypeFilterAsSearch compares exports with _typeFilter and searches with the same
// parameters: chained ones, _has, _list, and all modifiers.
func TestTypeFilterAsSearch(t *testing.T) {
	w := newWorld(t)
	s := w.joined()
	tx, err := terminology.New(t.Context(), w.st, base)
	if err != nil {
		t.Fatal(err)
	}
	s.Terminology = tx
	w.put("CodeSystem", "cs", `,"url":"http://c.example","status":"active","content":"complete","hierarchyMeaning":"is-a",`+
		`"concept":[{"code":"a","concept":[{"code":"b"}]}]`)
	w.put("ValueSet", "vs", `,"url":"http://v.example","status":"active",`+
		`"compose":{"include":[{"system":"http://loinc.org","concept":[{"code":"8867-4"}]}]}`)
	c := w.caller("ehr")
	rq := &interaction.Request{Caller: c}
	for query, want := range map[string]int{
		"subject:Patient.name=smith": 4, "patient.name:exact=Smith": 2, "subject.family=jones": 2, "patient.name=none": 0,
		"device.patient.name=jones": 2, "_has:Provenance:target:_id=v1": 1, "_list=l1": 1,
		"patient.name=smith&code=8867-4": 2, "patient._has:List:subject:status=current": 2,
		"code:not=8867-4": 3, "code:in=http://v.example": 3, "code:not-in=http://v.example": 3, "code:text=some": 6,
		"identifier:of-type=http://t.example|MR|p1": 2, "subject:missing=true": 0, "subject:missing=false": 6,
		"subject:Patient=p1": 2, "device:missing=false": 6, "patient.gender:not=female": 0,
	} {
		page, err := s.Search(t.Context(), rq, "Observation", query+"&_count=100")
		if err != nil {
			t.Fatal(query, err)
		}
		got := w.one(System, false, "Observation", "_typeFilter", "Observation?"+query)
		if n := strings.Count(string(page.Bytes()), `"mode":"match"`); len(got) != want || n != want {
			t.Errorf("%s: exported %v, found %d, want %d", query, got, n, want)
		}
	}
}

// TestJoinsSeeWhatTheClientSees checks that a resource that the client may not see decides
// nothing: by its scopes and by the consents, at the kick-off, before a download and during
// one; and that a download records the patients whose data decided what it has.
func TestJoinsSeeWhatTheClientSees(t *testing.T) {
	w := newWorld(t)
	w.joined()
	c := w.caller("ehr")
	// Observations of p3 that were made with the device of p1: p1 decides.
	for i := range 300 {
		w.put("Observation", fmt.Sprintf("shared%03d", i), `,"status":"final","code":{"text":"`+strings.Repeat("x", 2000)+
			`"},"subject":{"reference":"Patient/p3"},"device":{"reference":"Device/d-p1"}`)
	}
	r := func() Request {
		return Request{Level: System, Params: url.Values{"_type": {"Observation"},
			"_typeFilter": {"Observation?device.patient.name=smith&patient=p3"}}}
	}
	_, err := w.exporter.KickOff(t.Context(), w.caller("ehr", "Observation"), r())
	if fhir.KindOf(err) != fhir.Forbidden {
		t.Errorf("without a scope for Device: %v", err)
	}
	id := w.kick(c, r())
	m := w.manifest(c, id)
	if len(m.Output) != 1 || m.Output[0].Count != 300 {
		t.Fatalf("%+v", m.Output)
	}
	w.text(c, id, "Observation.ndjson")
	var patients []string
	err = w.st.Scan(t.Context(), store.ScanRange{Types: []string{"AuditEvent"}, Filter: c.Principal.Grant.Filter(access.Read)},
		func(f *store.Found) bool {
			for _, p := range []string{"p1", "p2", "p3"} {
				if body := string(f.Resource.JSON); strings.Contains(body, id) && strings.Contains(body, "Patient/"+p) {
					patients = append(patients, p)
				}
			}
			return true
		})
	slices.Sort(patients)
	if err != nil || strings.Join(patients, " ") != "p1 p3" {
		t.Errorf("recorded %v %v, want the patient of the data and the one who decided", patients, err)
	}
	f, err := w.exporter.Open(t.Context(), c, id, "Observation.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	out := &withdrawing{do: func() { w.withdraw("p1") }}
	if err := f.WriteTo(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n == 0 || n*2000 > partSize+4000 {
		t.Errorf("%d lines after the consent of the patient who decides was withdrawn", n)
	}
	if got := w.text(c, id, "Observation.ndjson"); got != "" {
		t.Errorf("a download after the withdrawal has %d bytes", len(got))
	}
	if got := w.one(System, false, "Observation", "_typeFilter", "Observation?device.patient.name=smith&patient=p3"); len(got) != 0 {
		t.Errorf("an export after the withdrawal: %v", got)
	}
}
