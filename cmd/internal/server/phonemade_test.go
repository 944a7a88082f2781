package server

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"pgregory.net/rapid"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/rest"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/mapping/ingest"
)

// phoneApp is a server that an app writes phone-made Observations to. The app's grant is
// set by the test.
type phoneApp struct {
	*services
	t       testing.TB
	handler http.Handler
	grant   access.Grant
	patient string // in context
}

// Authenticate implements rest.Authenticator.
func (a *phoneApp) Authenticate(*http.Request) (*access.Principal, error) {
	g := a.grant
	g.Recipient, g.Consents = "app", a.consents
	return &access.Principal{ClientID: "app", ClientName: "App", Patient: a.patient, Grant: &g}, nil
}

func newPhoneApp(t testing.TB) *phoneApp {
	t.Helper()
	gin.SetMode(gin.TestMode)
	a := &phoneApp{t: t, services: mustOpen(t, t.TempDir())}
	a.addPatient("eve") // has no consent
	for _, id := range []string{"ada", "ben"} {
		a.patientWithConsent(id)
	}
	a.may(access.Create|access.Read|access.Update|access.Search, true)
	api := &rest.Server{Service: a.fhir, Auth: a, Logger: a.log, Clock: a.now, Rand: rand.Reader,
		Consents: a.services.consents,
		Metadata: func() []byte { return []byte("{}") }}
	a.handler = api.Handler()
	return a
}

func (a *phoneApp) addPatient(id string) {
	a.t.Helper()
	if _, err := (operations{a.services}).AddPatient(a.t.Context(), operatorOfTest, admin.NewPatient{ID: id, Given: id,
		Family: "Beispiel", TimeZone: "Europe/Berlin"}); err != nil {
		a.t.Fatal(err)
	}
}

// patientWithConsent adds a patient who permits the collection from the phone.
func (a *phoneApp) patientWithConsent(id string) {
	a.t.Helper()
	a.addPatient(id)
	if _, err := (operations{a.services}).GrantConsent(a.t.Context(), operatorOfTest, admin.NewConsent{Patient: id,
		Vendor: "apple", Recipient: "any"}); err != nil {
		a.t.Fatal(err)
	}
}

// may gives the app one rule for Observations. registered is set if it is registered as
// an app that sends phone-made Observations.
func (a *phoneApp) may(i access.Interaction, registered bool, params ...access.Param) {
	a.grant = access.Grant{Rules: []access.Rule{{Type: "Observation", May: i, Params: params}}, PhoneMade: registered}
}

func (a *phoneApp) do(method, path, body string, header ...string) *httptest.ResponseRecorder {
	a.t.Helper()
	r := httptest.NewRequest(method, "/fhir"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/fhir+json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return w
}

// post sends an Observation and checks the status.
func (a *phoneApp) post(status int, body string, header ...string) *httptest.ResponseRecorder {
	a.t.Helper()
	w := a.do("POST", "/Observation", body, header...)
	if w.Code != status {
		a.t.Errorf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	return w
}

// observations returns the stored Observations of a patient as JSON, by id.
func (a *phoneApp) observations(patient string) map[string]string {
	a.t.Helper()
	q, err := search.Parse("Observation", [][2]string{{"patient", patient}}, search.ParseOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	out := map[string]string{}
	err = a.store.Find(a.t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if f.Facts.Vendor != phoneVendor {
				a.t.Errorf("%s has the vendor %q", f.Resource.ID, f.Facts.Vendor)
			}
			out[f.Resource.ID] = string(f.Resource.JSON)
			return true
		})
	if err != nil {
		a.t.Fatal(err)
	}
	return out
}

const saturationID = "AAAAAAAA-0000-4000-8000-0000000000F1"

// saturation is a phone-made Observation with the usual faults: a fraction as percent, no
// category, no system of the identifier. more are further members, each with a comma.
func saturation(patient, id, value, more string) string {
	return `{"resourceType":"Observation","id":"` + id + `","identifier":[{"id":"` + id + `"}],"status":"final",` +
		more +
		`"code":{"coding":[{"system":"http://loinc.org","code":"59408-5"},` +
		`{"system":"http://developer.apple.com/documentation/healthkit",` +
		`"code":"HKQuantityTypeIdentifierOxygenSaturation"}]},` +
		`"subject":{"reference":"Patient/` + patient + `"},"effectiveDateTime":"2026-01-05T08:00:01+01:00",` +
		`"valueQuantity":{"value":` + value + `,"unit":"%","system":"http://unitsofmeasure.org","code":"%"}}`
}

const profiled = `"meta":{"profile":["` + interaction.PhoneMadeProfile + `"]},`

// TestPhoneMade posts phone-made Observations over plain FHIR.
func TestPhoneMade(t *testing.T) {
	a := newPhoneApp(t)
	first := a.post(201, saturation("ada", saturationID, "0.97", ""))
	for _, want := range []string{`"value":97`, `"code":"vital-signs"`, `"2708-6"`, saturationID,
		`"reference":"Patient/ada"`} {
		if !strings.Contains(first.Body.String(), want) {
			t.Errorf("%s is missing: %s", want, first.Body)
		}
	}
	// The same sample again, by another way of marking it: one Observation.
	a.may(access.Create|access.Read, false)
	second := a.post(200, saturation("ada", saturationID, "0.97", profiled))
	if second.Body.String() != first.Body.String() ||
		second.Header().Get("Location") != first.Header().Get("Location") {
		t.Errorf("%s\n%s", first.Body, second.Body)
	}
	if strings.Contains(second.Body.String(), "phone-made") {
		t.Errorf("the stored Observation has the profile: %s", second.Body)
	}
	// Without the mark it is stored as sent.
	if plain := a.post(201, saturation("ada", "x", "0.97", "")); strings.Contains(plain.Body.String(), `"value":97`) {
		t.Errorf("repaired without a mark: %s", plain.Body)
	}
}

// TestPhoneMadeRestated posts another value under the same UUID.
func TestPhoneMadeRestated(t *testing.T) {
	a := newPhoneApp(t)
	id := strings.Split(a.post(201, saturation("ada", saturationID, "0.97", "")).Header().Get("Location"), "/")[5]
	// Without the scope to update it, the stored one stays.
	a.may(access.Create|access.Read, true)
	if w := a.post(200, saturation("ada", saturationID, "0.95", "")); !strings.Contains(w.Body.String(), `"value":97`) {
		t.Errorf("%s", w.Body)
	}
	// With it, it is amended.
	a.may(access.Create|access.Read|access.Update, true)
	w := a.post(200, saturation("ada", saturationID, "0.95", ""))
	if !strings.Contains(w.Body.String(), `"value":95`) || !strings.Contains(w.Body.String(), `"amended"`) ||
		w.Header().Get("Etag") != `W/"2"` {
		t.Errorf("%s %s", w.Header().Get("Etag"), w.Body)
	}
	deletion := strings.Replace(saturation("ada", saturationID, "0.95", ""), "final", "entered-in-error", 1)
	a.may(access.Create|access.Read, true)
	a.post(403, deletion)
	a.may(access.Create|access.Read|access.Update, true)
	if w := a.post(201, deletion); !strings.Contains(w.Body.String(), `"entered-in-error"`) {
		t.Errorf("%s", w.Body)
	}
	all := a.observations("ada")
	if len(all) != 1 || !strings.Contains(all[id], `"entered-in-error"`) {
		t.Errorf("%s: %v", id, all)
	}
}

// TestPhoneMadeConceals tests that an app that may not read the Observations gets the same
// answer whether one is stored or not.
func TestPhoneMadeConceals(t *testing.T) {
	a := newPhoneApp(t)
	a.may(access.Create, true)
	first := a.post(201, saturation("ada", saturationID, "0.97", ""))
	second := a.post(201, saturation("ada", saturationID, "0.95", ""))
	same := func(x, y *httptest.ResponseRecorder) {
		t.Helper()
		if x.Body.String() != y.Body.String() || x.Body.Len() != 0 ||
			x.Header().Get("Location") != y.Header().Get("Location") ||
			x.Header().Get("Etag") != y.Header().Get("Etag") {
			t.Errorf("%v %s\n%v %s", x.Header(), x.Body, y.Header(), y.Body)
		}
	}
	same(first, second)
	// A patient without consent is like one who does not exist, and nothing is kept.
	absent := a.post(422, saturation("nobody", saturationID, "0.97", ""))
	barred := a.post(422, saturation("eve", saturationID, "0.97", ""))
	if absent.Body.String() != barred.Body.String() || len(a.observations("eve")) != 0 {
		t.Errorf("%s\n%s", absent.Body, barred.Body)
	}
}

// TestPhoneMadeScopes tests that the scopes must cover the repaired Observation.
func TestPhoneMadeScopes(t *testing.T) {
	a := newPhoneApp(t)
	category := func(code string) access.Param {
		return access.Param{Name: "category", Any: []access.Token{{Code: code}}}
	}
	// The Observation that was sent claims another category than the repaired one.
	claims := `"category":[{"coding":[{"code":"laboratory"}]}],`
	a.may(access.Create|access.Read, true, category("laboratory"))
	a.post(403, saturation("ada", saturationID, "0.97", claims))
	a.may(access.Create|access.Read, true, category("vital-signs"))
	a.post(201, saturation("ada", saturationID, "0.97", claims))

	a.may(access.Create|access.Read, true)
	a.grant.Rules[0].Patient, a.patient = "ben", "ben"
	a.post(403, saturation("ada", saturationID, "0.97", ""))
	// Without a subject, it is about the patient in context.
	a.post(201, strings.Replace(saturation("ben", saturationID, "0.97", ""),
		`"subject":{"reference":"Patient/ben"},`, "", 1))
	if len(a.observations("ada")) != 1 || len(a.observations("ben")) != 1 {
		t.Error("not one Observation each")
	}
	a.may(access.Read, true)
	a.post(403, saturation("ada", saturationID, "0.97", ""))
}

// TestPhoneMadeRefused tests that an Observation that cannot be repaired, and
// interactions that it cannot have, give an OperationOutcome with place and rule, and that
// nothing is kept.
func TestPhoneMadeRefused(t *testing.T) {
	a := newPhoneApp(t)
	before := a.store.LastSeq()
	good := saturation("ada", saturationID, "0.97", "")
	code := `"code":"HKQuantityTypeIdentifierOxygenSaturation"`
	for _, c := range []struct{ body, place string }{
		{saturation("ada", saturationID, "970", ""), "Observation.value"},
		{strings.Replace(good, code, `"code":"HKQuantityTypeIdentifierNovelty"`, 1), "Observation.code"},
		{strings.Replace(good, code, `"code":"HKQuantityTypeIdentifierBloodPressureSystolic"`, 1), "Observation.code"},
		{strings.Replace(good, code, `"code":"Oxygen"`, 1), "Observation.code"},
		{strings.Replace(good, `"%"}}`, `"[degF]"}}`, 1), "Observation.value"},
		{strings.Replace(good, "2026-01-05T", "2096-01-05T", 1), "Observation.effective"},
		{strings.Replace(good, "valueQuantity", "valueSampledData", 1), "Observation"},
		{strings.Replace(good, `"subject":{"reference":"Patient/ada"},`, "", 1), "Observation.subject"},
		{strings.Replace(good, "Patient/ada", "Group/g", 1), "Observation.subject"},
	} {
		w := a.do("POST", "/Observation", c.body)
		if w.Code != 422 && w.Code != 400 || !strings.Contains(w.Body.String(), `"OperationOutcome"`) ||
			!strings.Contains(w.Body.String(), c.place) || strings.Contains(w.Body.String(), "970") {
			t.Errorf("%s: %d %s", c.place, w.Code, w.Body)
		}
	}
	for _, hostile := range []string{"", "{", "[" + good + "]", good + good, `{"resourceType":"Observation"}`,
		`{"resourceType":"Patient"}`, strings.Repeat(`{"a":`, 2000), "\xff\xfe",
		strings.Replace(good, "0.97", "1e99999", 1),
		strings.Replace(good, "0.97", "{}", 1), strings.Replace(good, `"status":"final"`, `"status":{}`, 1),
		strings.Replace(good, profiled, "", 1)[:90]} {
		if w := a.do("POST", "/Observation", hostile); w.Code < 400 || w.Code >= 500 ||
			!strings.Contains(w.Body.String(), `"OperationOutcome"`) {
			t.Errorf("%.40q: %d %s", hostile, w.Code, w.Body)
		}
	}
	w := a.do("PUT", "/Observation/mine", strings.Replace(good, `"id":"`+saturationID, `"id":"mine`, 1))
	if w.Code != 422 || !strings.Contains(w.Body.String(), "use POST") {
		t.Errorf("PUT: %d %s", w.Code, w.Body)
	}
	if w := a.do("POST", "", bundleOf("transaction", good)); w.Code != 422 ||
		!strings.Contains(w.Body.String(), "use a batch") || !strings.Contains(w.Body.String(), "Bundle.entry[0]") {
		t.Errorf("transaction: %d %s", w.Code, w.Body)
	}
	if n := len(a.observations("ada")); n != 0 {
		t.Errorf("%d Observations", n)
	}
	if err := a.pipeline.List(t.Context(), "", func(item *ingest.Item) bool {
		t.Errorf("in quarantine: %s", item.Reason)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if a.store.LastSeq() == before {
		t.Error("nothing is in the trail")
	}
}

// bundleOf returns a Bundle that creates Observations.
func bundleOf(typ string, observations ...string) string {
	var list []string
	for _, o := range observations {
		list = append(list, `{"resource":`+o+`,"request":{"method":"POST","url":"Observation"}}`)
	}
	return `{"resourceType":"Bundle","type":"` + typ + `","entry":[` + strings.Join(list, ",") + `]}`
}

// TestPhoneMadeBatch tests that entries of a batch are like single requests, and that
// If-None-Exist is evaluated first.
func TestPhoneMadeBatch(t *testing.T) {
	a := newPhoneApp(t)
	good := saturation("ada", saturationID, "0.97", "")
	w := a.do("POST", "", bundleOf("batch", good, good, saturation("ada", saturationID[:35]+"2", "970", "")))
	var status struct {
		Entry []struct{ Response struct{ Status string } }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range status.Entry {
		got = append(got, e.Response.Status)
	}
	if !slices.Equal(got, []string{"201 Created", "200 OK", "422"}) {
		t.Errorf("%v: %s", got, w.Body)
	}
	other := saturation("ada", saturationID[:35]+"3", "0.9", "")
	found := a.post(200, other, "If-None-Exist", "identifier="+saturationID)
	if !strings.Contains(found.Body.String(), saturationID) {
		t.Errorf("%s", found.Body)
	}
	a.post(201, other, "If-None-Exist", "identifier=none")
	if n := len(a.observations("ada")); n != 2 {
		t.Errorf("%d Observations", n)
	}
}

// TestPhoneMadeTrail tests that a create has its event, which names the Observation and
// its version, in addition to that of the delivery, and a Provenance.
func TestPhoneMadeTrail(t *testing.T) {
	a := newPhoneApp(t)
	id := strings.Split(a.post(201, saturation("ada", saturationID, "0.97", "")).Header().Get("Location"), "/")[5]
	count := func(typ, name, value, text string) (n int) {
		t.Helper()
		q, err := search.Parse(typ, [][2]string{{name, value}}, search.ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		err = a.store.Find(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
			func(f *store.Found) bool {
				if bytes.Contains(f.Resource.JSON, []byte(text)) {
					n++
				}
				return true
			})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count("AuditEvent", "subtype", "create", "Observation/"+id+"/_history/1"); n != 1 {
		t.Errorf("%d events of the create", n)
	}
	if n := count("Provenance", "patient", "ada", `"display":"fhir"`); n != 1 {
		t.Errorf("%d Provenances", n)
	}
}

// TestPhoneMadeEqualsIngest tests that creates over FHIR and an ingested payload of the
// same Observations, in any order and with repetitions, store the same.
func TestPhoneMadeEqualsIngest(t *testing.T) {
	raw, err := os.ReadFile("../../../adapters/apple/testdata/healthkit-fhir/array.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	a := newPhoneApp(t)
	patients := 0
	rapid.Check(t, func(rt *rapid.T) {
		patients++
		posted, ingested := "p"+string(rune('a'+patients%26))+fhir.RandomID(), "i"+fhir.RandomID()
		ops := operations{a.services}
		for _, id := range []string{posted, ingested} {
			if _, err := ops.AddPatient(t.Context(), operatorOfTest, admin.NewPatient{ID: id, Given: "A",
				Family: "B"}); err != nil {
				rt.Fatal(err)
			}
			if _, err := ops.GrantConsent(t.Context(), operatorOfTest, admin.NewConsent{Patient: id, Vendor: "apple",
				Recipient: "any"}); err != nil {
				rt.Fatal(err)
			}
		}
		picks := rapid.SliceOfN(rapid.IntRange(0, len(list)-1), 1, 12).Draw(rt, "observations")
		for _, i := range picks {
			o := map[string]json.RawMessage{}
			if err := json.Unmarshal(list[i], &o); err != nil {
				rt.Fatal(err)
			}
			o["subject"] = json.RawMessage(`{"reference":"Patient/` + posted + `"}`)
			body, err := json.Marshal(o)
			if err != nil {
				rt.Fatal(err)
			}
			w := a.do("POST", "/Observation", string(body))
			valid := w.Code == 201 || w.Code == 200
			if !valid && w.Code != 422 && w.Code != 400 {
				rt.Fatalf("%d %s", w.Code, w.Body)
			}
			if w.Code == 400 { // not valid FHIR, which the format accepts
				continue
			}
			if _, err := a.pipeline.Run(t.Context(), ingest.Request{Patient: ingested, Vendor: phoneVendor,
				Format: phoneFormat, Body: bytes.NewReader(list[i])}); err != nil {
				rt.Fatal(err)
			}
		}
		got, want := normalized(a.observations(posted), posted), normalized(a.observations(ingested), ingested)
		if !slices.Equal(got, want) {
			rt.Fatalf("over FHIR:\n%s\n\ningested:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// normalized returns the Observations without what depends on the patient: the patient,
// ids and times of writing.
func normalized(all map[string]string, patient string) (out []string) {
	for id, body := range all {
		var o map[string]any
		if json.Unmarshal([]byte(body), &o) != nil {
			panic("not JSON")
		}
		delete(o, "id")
		delete(o, "device")
		if meta, ok := o["meta"].(map[string]any); ok {
			delete(meta, "lastUpdated")
		}
		list, _ := o["identifier"].([]any)
		o["identifier"] = slices.DeleteFunc(list, func(x any) bool {
			return !strings.HasSuffix(x.(map[string]any)["system"].(string), "/source")
		})
		b, err := json.Marshal(o)
		if err != nil {
			panic(err)
		}
		out = append(out, strings.ReplaceAll(strings.ReplaceAll(string(b), id, "ID"), patient, "PATIENT"))
	}
	slices.Sort(out)
	return out
}
