package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pulsegate/cmd/internal/admin"
	"pulsegate/smart/oauth/register"
	"pulsegate/smart/oauth/token"
)

const (
	vitalsScope = "?category=http://terminology.hl7.org/CodeSystem/observation-category|vital-signs"
	fhirType    = "application/fhir+json"
)

// writing is a server with a patient, a practitioner and the apps that write vital signs.
type writing struct {
	t                        *testing.T
	all                      *peers
	ada                      *person  // signed in
	patient, doctor, backend []string // headers of requests with the tokens of the levels
	owner                    []string // a backend that may do everything
	// patientScope, doctorScope and backendScope are the granted scopes.
	patientScope, doctorScope, backendScope string
}

// newWriting starts the server. The apps request creates and updates of vital signs.
func newWriting(t *testing.T) *writing {
	w := &writing{t: t, all: newPeers(t, 2, nil)}
	w.all.patient(0, "ada")
	w.all.patient(0, "ben")
	c := w.all.client()
	w.owner = w.all.backend(0, "system/*.cruds", nil).bearer(t, c)
	send(t, c, http.StatusCreated, http.MethodPut, "/fhir/Practitioner/d1",
		`{"resourceType":"Practitioner","id":"d1","name":[{"family":"Muster"}]}`, w.owner...)
	send(t, c, http.StatusCreated, http.MethodPut, "/fhir/Device/cuff",
		`{"resourceType":"Device","id":"cuff","patient":{"reference":"Patient/ada"},"deviceName":[{"name":"Cuff","type":"other"}]}`,
		w.owner...)
	w.ada = w.all.enrolled("ada")
	w.patient, w.patientScope = w.app(w.ada, "launch/patient patient/Observation.c"+vitalsScope+" patient/Observation.u"+
		vitalsScope+" patient/Observation.rs")
	doctor := w.all.enrolledAs(admin.NewUser{Login: "dora", Name: "Dora", Roles: []string{"practitioner"},
		Practitioner: "d1"})
	w.doctor, w.doctorScope = w.app(doctor, "user/Observation.c"+vitalsScope+" user/Observation.u"+vitalsScope+
		" user/Observation.rs")
	app := w.all.registered(c, "system/Observation.c"+vitalsScope+" system/Observation.u"+vitalsScope+
		" system/Observation.rs")
	w.backend, w.backendScope = app.bearer(t, c), app.scope
	return w
}

// app registers an app over HTTP, lets a person allow it everything, and returns the
// headers of its requests and the granted scopes.
func (w *writing) app(p *person, scopes string) (header []string, granted string) {
	w.t.Helper()
	const callback = "https://app.example/cb"
	initial, err := w.all.nodes[0].ops().NewRegistrationToken(w.t.Context(), operatorOfTest,
		admin.NewRegistrationToken{Scope: scopes, Uses: 1, Seconds: 600})
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"client_name": "Heartbook", "scope": scopes,
		"redirect_uris": []string{callback}, "token_endpoint_auth_method": "none"})
	if err != nil {
		w.t.Fatal(err)
	}
	c := w.all.client()
	var app struct {
		ID    string `json:"client_id"`
		Scope string `json:"scope"`
	}
	send(w.t, c, http.StatusCreated, http.MethodPost, register.Path, string(body), "Content-Type", "application/json",
		"Authorization", "Bearer "+initial.Token).decode(w.t, &app)
	if app.Scope != scopes {
		w.t.Errorf("registered for %q, want %q", app.Scope, scopes)
	}
	code, verifier := p.launch(app.ID, callback, scopes)
	var out struct {
		Access string `json:"access_token"`
		Scope  string `json:"scope"`
	}
	send(w.t, c, http.StatusOK, http.MethodPost, token.Path, url.Values{"grant_type": {"authorization_code"},
		"code": {code}, "redirect_uri": {callback}, "client_id": {app.ID}, "code_verifier": {verifier}}.Encode(),
		formType...).decode(w.t, &out)
	return []string{"Authorization", "Bearer " + out.Access, "Content-Type", fhirType}, out.Scope
}

// pulse returns a heart rate of ada with the members in more.
func pulse(more string) string { return vital("ada", "vital-signs", "/min", more) }

func vital(patient, category, unit, more string) string {
	return fmt.Sprintf(`{"resourceType":"Observation",%s"status":"final","category":[{"coding":[{"system":
		"http://terminology.hl7.org/CodeSystem/observation-category","code":"%s"}]}],"code":{"coding":[{"system":
		"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/%s"},"effectiveDateTime":
		"2026-10-03T10:00:00+02:00","valueQuantity":{"value":61,"unit":"%s","system":"http://unitsofmeasure.org",
		"code":"%s"}}`, more, category, patient, unit, unit)
}

// observed is the part of an Observation that the tests read.
type observed struct {
	ID     string
	Status string
	Meta   struct {
		Tag []struct{ System, Code string }
	}
	Device struct{ Reference string }
	// Contained has the contained resources as they are.
	Contained []struct{ ResourceType, ID string }
	Performer []struct{ Reference string }
	Encounter *struct{ Reference string }
}

func (o *observed) supplied() bool {
	return slices.ContainsFunc(o.Meta.Tag, func(c struct{ System, Code string }) bool {
		return c.System == "http://hl7.org/fhir/us/core/CodeSystem/us-core-tags" && c.Code == "patient-supplied"
	})
}

// create creates an Observation and returns it as a read does.
func (w *writing) create(t *testing.T, as []string, body string) observed {
	t.Helper()
	c := w.all.client()
	a := send(t, c, http.StatusCreated, http.MethodPost, "/fhir/Observation", body, as...)
	var o observed
	location, _, _ := strings.Cut(a.Header.Get("Location"), "/_history/")
	send(t, c, http.StatusOK, http.MethodGet, location, "", as...).decode(t, &o)
	return o
}

// refused sends a request that the server must refuse with an OperationOutcome.
func (w *writing) refused(t *testing.T, status int, as []string, method, path, body string) {
	t.Helper()
	a := send(t, w.all.client(), status, method, path, body, as...)
	var o struct{ ResourceType string }
	if a.decode(t, &o); o.ResourceType != "OperationOutcome" {
		t.Errorf("%s %s: %d with %q", method, path, status, o.ResourceType)
	}
}

// statement returns the entry of Observation in the CapabilityStatement.
func (w *writing) statement(t *testing.T) (out struct {
	Documentation    string
	SupportedProfile []string
	Interaction      []struct{ Code string }
}) {
	t.Helper()
	var s struct {
		Rest []struct{ Resource []json.RawMessage }
	}
	send(t, w.all.client(), http.StatusOK, http.MethodGet, "/fhir/metadata", "").decode(t, &s)
	for _, raw := range s.Rest[0].Resource {
		var r struct{ Type string }
		if err := json.Unmarshal(raw, &r); err != nil {
			t.Fatal(err)
		}
		if r.Type == "Observation" {
			if err := json.Unmarshal(raw, &out); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

func (w *writing) documents(t *testing.T, words ...string) {
	t.Helper()
	text := w.statement(t).Documentation
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("the CapabilityStatement does not document %q", word)
		}
	}
}

// levels returns the tokens of the three levels.
func (w *writing) levels() map[string][]string {
	return map[string][]string{"patient": w.patient, "user": w.doctor, "system": w.backend}
}

// requirements lists the requirements for servers on US Core's page "Writing Vital Signs",
// in its order: section, sentence in short, and check. R4's status 201 is that of the
// corrected page.
var requirements = []struct {
	section, sentence string
	check             func(t *testing.T, w *writing)
}{
	{"Configuration", "SHALL list the interaction create of Observation, and update if supported", func(t *testing.T, w *writing) {
		s := w.statement(t)
		for _, code := range []string{"create", "update"} {
			if !slices.Contains(s.Interaction, struct{ Code string }{code}) {
				t.Error("no ", code)
			}
		}
		if !slices.Contains(s.SupportedProfile, "http://hl7.org/fhir/us/core/StructureDefinition/us-core-heart-rate") {
			t.Error("no profile of the heart rate: ", s.SupportedProfile)
		}
	}},
	{"Scopes", "SHALL register and authorize patient/Observation.c?category=…|vital-signs; SHOULD .u", func(t *testing.T, w *writing) {
		grants(t, w.patientScope, "patient/")
	}},
	{"Scopes", "SHALL register and authorize user/ and system/Observation.c?category=…|vital-signs; SHOULD .u", func(t *testing.T, w *writing) {
		grants(t, w.doctorScope, "user/")
		grants(t, w.backendScope, "system/")
	}},
	{"Scopes", "SHALL omit the scopes of those who are not enabled to write", func(t *testing.T, w *writing) {
		auditor := w.all.enrolledAs(admin.NewUser{Login: "otto", Name: "Otto", Roles: []string{"auditor"}})
		_, granted := w.app(auditor, "user/AuditEvent.rs user/Observation.c"+vitalsScope)
		if strings.Contains(granted, "Observation") {
			t.Error(granted)
		}
	}},
	{"Scopes", "SHALL refuse a write without the scopes; SHOULD include an OperationOutcome", func(t *testing.T, w *writing) {
		for _, as := range w.levels() {
			for _, category := range []string{"laboratory", "activity"} {
				w.refused(t, http.StatusForbidden, as, http.MethodPost, "/fhir/Observation", vital("ada", category, "/min", ""))
			}
			w.refused(t, http.StatusForbidden, as, http.MethodPost, "/fhir/Condition",
				`{"resourceType":"Condition","subject":{"reference":"Patient/ada"}}`)
			o := w.create(t, as, pulse(""))
			w.refused(t, http.StatusForbidden, as, http.MethodPut, "/fhir/Observation/"+o.ID,
				vital("ada", "laboratory", "/min", `"id":"`+o.ID+`",`))
			w.refused(t, http.StatusForbidden, as, http.MethodDelete, "/fhir/Observation/"+o.ID, "")
		}
		w.refused(t, http.StatusForbidden, w.patient, http.MethodPost, "/fhir/Observation",
			vital("ben", "vital-signs", "/min", ""))
		w.refused(t, http.StatusUnauthorized, []string{"Content-Type", fhirType}, http.MethodPost, "/fhir/Observation", pulse(""))
	}},
	{"Scopes", "SHALL list the scopes in scopes_supported", func(t *testing.T, w *writing) {
		var doc struct {
			Scopes []string `json:"scopes_supported"`
		}
		send(t, w.all.client(), http.StatusOK, http.MethodGet, "/fhir/.well-known/smart-configuration", "").decode(t, &doc)
		for _, level := range []string{"patient/", "user/", "system/"} {
			for _, may := range []string{"c", "u"} {
				if s := level + "Observation." + may + vitalsScope; !slices.Contains(doc.Scopes, s) {
					t.Error("not listed: ", s)
				}
			}
		}
	}},
	{"Submission", "SHALL take Observations that validate against a US Core profile, and answer with their Location", func(t *testing.T, w *writing) {
		for _, as := range w.levels() {
			a := send(t, w.all.client(), http.StatusCreated, http.MethodPost, "/fhir/Observation",
				pulse(`"meta":{"profile":["http://hl7.org/fhir/us/core/StructureDefinition/us-core-heart-rate"]},`), as...)
			if a.Header.Get("Location") == "" || a.Header.Get("ETag") != `W/"1"` {
				t.Error(a.Header)
			}
		}
		for name, body := range map[string]string{"unit": vital("ada", "vital-signs", "kg", ""),
			"time": strings.Replace(pulse(""), `"effectiveDateTime"`, `"issued"`, 1)} {
			for level, as := range map[string][]string{"patient": w.patient, "user": w.doctor} {
				t.Log(name, level)
				w.refused(t, http.StatusUnprocessableEntity, as, http.MethodPost, "/fhir/Observation", body)
			}
			w.refused(t, http.StatusUnprocessableEntity, w.backend, http.MethodPost, "/fhir/Observation", strings.Replace(
				body, `"status"`, `"meta":{"profile":["http://hl7.org/fhir/us/core/StructureDefinition/us-core-heart-rate"]},"status"`, 1))
		}
	}},
	{"Submission", "SHALL show created resources in later reads and searches", func(t *testing.T, w *writing) {
		for level, as := range w.levels() {
			o := w.create(t, as, pulse(""))
			a := send(t, w.all.client(), http.StatusOK, http.MethodGet, "/fhir/Observation?_id="+o.ID, "", as...)
			if !strings.Contains(a.body, `"total":1`) {
				t.Errorf("%s: %s", level, a.body)
			}
		}
	}},
	{"Submission", "MAY take several vital signs in a batch", func(t *testing.T, w *writing) {
		entry := func(body string) string {
			return `{"resource":` + body + `,"request":{"method":"POST","url":"Observation"}}`
		}
		a := send(t, w.all.client(), http.StatusOK, http.MethodPost, "/fhir", `{"resourceType":"Bundle","type":"batch","entry":[`+
			entry(pulse(""))+`,`+entry(vital("ada", "laboratory", "/min", ""))+`]}`, w.patient...)
		if !strings.Contains(a.body, `"201`) || !strings.Contains(a.body, `"403`) {
			t.Error(a.body)
		}
	}},
	{"meta.tag", "SHALL tag what a patient writes as patient-supplied, and take the tag from provider-facing apps", func(t *testing.T, w *writing) {
		const tag = `"meta":{"tag":[{"system":"http://hl7.org/fhir/us/core/CodeSystem/us-core-tags","code":"patient-supplied"}]},`
		for level, as := range w.levels() {
			if o := w.create(t, as, pulse("")); o.supplied() != (level == "patient") {
				t.Errorf("%s: tags %v", level, o.Meta.Tag)
			}
			if o := w.create(t, as, pulse(tag)); !o.supplied() || len(o.Meta.Tag) != 1 {
				t.Errorf("%s: tags %v", level, o.Meta.Tag)
			}
		}
	}},
	{"meta.tag", "MAY dissociate the tag by an explicit reconciliation only", func(t *testing.T, w *writing) {
		o := w.create(t, w.patient, pulse(""))
		var next observed
		send(t, w.all.client(), http.StatusOK, http.MethodPut, "/fhir/Observation/"+o.ID, pulse(`"id":"`+o.ID+`",`),
			w.doctor...).decode(t, &next)
		if !next.supplied() {
			t.Error("an update drops the tag")
		}
		const tags = `{"resourceType":"Parameters","parameter":[{"name":"meta","valueMeta":{"tag":[{"system":
			"http://hl7.org/fhir/us/core/CodeSystem/us-core-tags","code":"patient-supplied"}]}}]}`
		for _, tt := range []struct {
			as   []string
			kept bool
		}{{w.patient, true}, {w.doctor, false}} {
			send(t, w.all.client(), http.StatusOK, http.MethodPost, "/fhir/Observation/"+o.ID+"/$meta-delete", tags, tt.as...)
			send(t, w.all.client(), http.StatusOK, http.MethodGet, "/fhir/Observation/"+o.ID, "", tt.as...).decode(t, &next)
			if next.supplied() != tt.kept {
				t.Errorf("after $meta-delete, tagged %v, want %v", next.supplied(), tt.kept)
			}
			next = observed{}
		}
		w.refused(t, http.StatusForbidden, w.patient, http.MethodPut, "/fhir/Observation/"+o.ID, pulse(`"id":"`+o.ID+`",`))
	}},
	{"encounter", "SHOULD document whether encounter is required", func(t *testing.T, w *writing) {
		w.documents(t, "encounter is not required")
		if o := w.create(t, w.patient, pulse("")); o.Encounter != nil {
			t.Error(o.Encounter)
		}
	}},
	{"device", "SHALL return a reference to a Device", func(t *testing.T, w *writing) {
		if o := w.create(t, w.patient, pulse(`"device":{"reference":"Device/cuff"},`)); o.Device.Reference != "Device/cuff" {
			t.Error(o.Device)
		}
	}},
	{"device", "SHALL take a contained Device, and SHOULD document it", func(t *testing.T, w *writing) {
		w.documents(t, "Contained Device and Provenance resources are kept")
		for level, as := range w.levels() {
			o := w.create(t, as, pulse(`"contained":[{"resourceType":"Device","id":"d","deviceName":[{"name":"Cuff","type":
				"user-friendly-name"}]}],"device":{"reference":"#d"},`))
			if len(o.Contained) != 1 || o.Contained[0].ResourceType != "Device" || o.Device.Reference != "#d" {
				t.Errorf("%s: %+v", level, o)
			}
		}
	}},
	{"performer", "SHALL return performer", func(t *testing.T, w *writing) {
		o := w.create(t, w.patient, pulse(`"performer":[{"reference":"Patient/ada"}],`))
		if len(o.Performer) != 1 || o.Performer[0].Reference != "Patient/ada" {
			t.Error(o.Performer)
		}
	}},
	{"Discarding", "SHALL document which Observations close in time are discarded: none", func(t *testing.T, w *writing) {
		w.documents(t, "no Observation is discarded")
		if first, second := w.create(t, w.patient, pulse("")), w.create(t, w.patient, pulse("")); first.ID == second.ID {
			t.Error("merged")
		}
	}},
	{"Discarding", "SHALL document duplicates: If-None-Exist with an identifier", func(t *testing.T, w *writing) {
		w.documents(t, "If-None-Exist")
		body := pulse(`"identifier":[{"system":"https://app.example/ids","value":"7"}],`)
		as := append(slices.Clone(w.patient), "If-None-Exist", "identifier=https://app.example/ids|7")
		var first, second observed
		send(t, w.all.client(), http.StatusCreated, http.MethodPost, "/fhir/Observation", body, as...).decode(t, &first)
		send(t, w.all.client(), http.StatusOK, http.MethodPost, "/fhir/Observation", body, as...).decode(t, &second)
		if first.ID == "" || first.ID != second.ID {
			t.Errorf("%q and %q", first.ID, second.ID)
		}
	}},
	{"Updating", "SHOULD let patients mark what they wrote, from any app, entered-in-error", func(t *testing.T, w *writing) {
		o := w.create(t, w.patient, pulse(""))
		other, _ := w.app(w.ada, "launch/patient patient/Observation.u"+vitalsScope+" patient/Observation.rs")
		var next observed
		send(t, w.all.client(), http.StatusOK, http.MethodPut, "/fhir/Observation/"+o.ID, strings.Replace(
			pulse(`"id":"`+o.ID+`",`), "final", "entered-in-error", 1), other...).decode(t, &next)
		if next.Status != "entered-in-error" || !next.supplied() {
			t.Errorf("%+v", next)
		}
		w.refused(t, http.StatusForbidden, other, http.MethodPost, "/fhir/Observation", pulse(""))
		foreign := w.create(t, w.doctor, pulse("")) // of a practitioner
		w.refused(t, http.StatusForbidden, w.patient, http.MethodPut, "/fhir/Observation/"+foreign.ID, pulse(`"id":"`+foreign.ID+`",`))
	}},
	{"Provenance", "SHALL take contained Provenance resources", func(t *testing.T, w *writing) {
		const agents = `[{"type":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/provenance-participant-type",
			"code":"%s"}]},"who":{"display":"Heartbook"}}]`
		for level, as := range w.levels() {
			var contained []string
			for i, role := range []string{"author", "composer", "assembler", "transmitter"} {
				contained = append(contained, fmt.Sprintf(`{"resourceType":"Provenance","id":"p%d","target":[{"reference":"#"}],
					"recorded":"2026-10-03T10:00:00Z","agent":`+agents+`}`, i, role))
			}
			o := w.create(t, as, pulse(`"contained":[`+strings.Join(contained, ",")+`],`))
			if len(o.Contained) != 4 || o.Contained[3].ResourceType != "Provenance" {
				t.Errorf("%s: %+v", level, o.Contained)
			}
		}
	}},
}

// grants checks that the scopes to write vital signs were granted at a level.
func grants(t *testing.T, granted, level string) {
	t.Helper()
	for _, may := range []string{"c", "u"} {
		if s := level + "Observation." + may + vitalsScope; !slices.Contains(strings.Fields(granted), s) {
			t.Errorf("%s is not in %q", s, granted)
		}
	}
}

// TestWritingVitalSigns checks each requirement for servers on US Core's page "Writing
// Vital Signs" against the whole server.
func TestWritingVitalSigns(t *testing.T) {
	w := newWriting(t)
	for _, r := range requirements {
		t.Run(r.section+": "+r.sentence, func(t *testing.T) { r.check(t, w) })
	}
}
