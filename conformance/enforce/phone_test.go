package enforce

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/apple"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/interaction"
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/table"
)

var mapper = sync.OnceValue(func() *mapping.Mapper {
	return must(mapping.New(table.Builtin(), mapping.Options{Key: []byte(strings.Repeat("k", 32))}))
})

// collectsAnything is a fault: consents do not matter for the collection of data.
type collectsAnything struct{}

func (collectsAnything) Collects(context.Context, string, string) (fhir.Ref, bool, error) {
	return fhir.Ref{Type: "Consent", ID: "y0"}, true, nil
}

func (collectsAnything) CollectsCategory(context.Context, string, string, ...string) (bool, error) {
	return true, nil
}

// phones receives phone-made Observations by the pipeline of the server.
type phones struct {
	pipeline *ingest.Pipeline
	asSent   bool // a fault: what was sent counts as repaired
}

func newPhones(f fault, st faulty, rec *audit.Recorder, consents *consent.Engine) phones {
	p := phones{asSent: f == believesPhones, pipeline: &ingest.Pipeline{Store: st, Audit: rec, Consents: consents,
		Mapper: mapper(), Adapters: []adapters.Adapter{apple.New()}, Clock: time.Now, SpoolDir: os.TempDir()}}
	if f == collectsAll {
		p.pipeline.Consents = collectsAnything{}
	}
	return p
}

func (p phones) request(patient string, body []byte) ingest.Request {
	return ingest.Request{Patient: patient, Vendor: "apple", Format: "healthkit-fhir", Body: bytes.NewReader(body),
		Origin: ingest.Origin{Channel: "fhir"}}
}

// Repair implements interaction.Receiver.
func (p phones) Repair(ctx context.Context, patient string, body []byte) (interaction.Repaired, error) {
	r, err := p.pipeline.Repair(ctx, p.request(patient, body))
	if p.asSent {
		r.JSON = body
	}
	return interaction.Repaired{Vendor: "apple", Barred: r.Barred, Deletion: r.Deletion,
		Resource: fhir.Resource{Type: "Observation", ID: r.ID, JSON: r.JSON}}, err
}

// Receive implements interaction.Receiver.
func (p phones) Receive(ctx context.Context, by audit.Caller, patient string, body []byte,
	changes bool, _ interaction.Tie) (string, bool, error) {
	req := p.request(patient, nil)
	req.Caller, req.KeepStored = by, !changes
	return p.pipeline.Receive(ctx, req, body)
}

// ReceiveAll implements interaction.Receiver.
func (p phones) ReceiveAll(ctx context.Context, by audit.Caller, patient string, ids []string, bodies [][]byte,
	changes bool) ([]audit.DataRef, error) {
	out := make([]audit.DataRef, len(ids))
	for i, body := range bodies {
		id, _, err := p.Receive(ctx, by, patient, body, changes, interaction.Tie{})
		if err != nil {
			return nil, err
		}
		if id != "" {
			out[i].Ref = fhir.Ref{Type: "Observation", ID: id}
		}
	}
	return out, nil
}

// registeredPhones reports whether a client is registered as one that sends phone-made
// Observations. The others mark them by their profile.
func registeredPhones(client string) bool { return strings.HasPrefix(client, "cb") }

// phoneScopes lists scopes without their level.
var phoneScopes = []string{"Observation.c", "Observation.cu", "Observation.crs", "*.cruds", "Observation.rs",
	"Observation.c?category=" + sysCategory + "|vital-signs", "Observation.cr?category=activity",
	"Observation.cru?code=" + loinc + "|8867-4", "Observation.cu?category=vital-signs&status=final",
	"Observation.c?category=laboratory"} // read only

// covered reports whether the scopes cover do on v, regardless of consents.
func (tok *token) covered(do string, v *version) (out bool) {
	tok.each(do, v.typ, func(rest, line, patient string) {
		out = out || (patient == "" || patient == v.patient) && matchesQuery(rest, v) && matchesQuery(line, v)
	})
	return out
}

// collected reports whether the consents permit to collect v. For a permit, the recipient
// does not matter; a denial for one recipient does not prevent the collection.
func collected(provisions []provision, v *version) bool {
	permit := false
	for _, g := range provisions {
		if g.patient != v.patient || !g.active || g.ended || !g.permit && g.recipient != "any" {
			continue
		}
		g.recipient = "any"
		permits, denies := g.evaluate("", v)
		if denies {
			return false
		}
		permit = permit || permits
	}
	return permit
}

// phoneKinds lists phone-made samples. As sent, they claim another category.
var phoneKinds = []struct{ metric, code, unit, category, claim string }{ // read only
	{"HKQuantityTypeIdentifierOxygenSaturation", "2708-6", "%", "vital-signs", "activity"},
	{"HKQuantityTypeIdentifierBodyMass", "29463-7", "kg", "vital-signs", "laboratory"},
	{"HKQuantityTypeIdentifierFlightsClimbed", "", "{flights}", "activity", "vital-signs"},
}

// phone checks writes of phone-made Observations: what their scopes must cover is the
// repaired Observation, the consent of the patient must cover its collection, and the
// answer has the Observation only for those who may read it.
func (r *run) phone(original *token) error {
	tok := *original
	level := "system/"
	if tok.person {
		level = "user/"
	}
	tok.scopes = append(slices.Clone(tok.scopes), level+r.tc.phoneScope)
	bearer := r.w.issue(&tok)
	for i := range phoneKinds {
		refusals := map[string]string{}
		for _, p := range append(slices.Clone(patients), "absent") {
			body, err := r.post(&tok, bearer, i, p)
			if err != nil {
				return err
			}
			if body != "" {
				refusals[strings.ReplaceAll(body, p, "")] = p
			}
		}
		if len(refusals) > 1 {
			return fmt.Errorf("%s: different refusals: %v", phoneKinds[i].metric, refusals)
		}
	}
	return nil
}

// post sends a sample twice, with different values. It returns the answer if it was refused
// because of the patient.
func (r *run) post(tok *token, bearer string, i int, p string) (refused string, err error) {
	kind := &phoneKinds[i]
	v := &version{typ: "Observation", patient: p, vendor: "apple", cats: []string{kind.category}, measured: true,
		tokens: map[string][]coded{"code": {{loinc, kind.code}}, "status": {{"", "final"}},
			"category": {categoryOf(kind.category)}}}
	want := 201
	switch {
	case !tok.covered("c", v):
		want = 403
	case p == "absent" || !collected(r.provisions, v):
		want = 422
	}
	send := func(value int) answer {
		return r.w.do(bearer, "POST", "/Observation", r.sample(tok, i, p, value))
	}
	first := send(60)
	r.count(fmt.Sprint("phone ", want))
	what := fmt.Sprintf("%s of %s", kind.metric, p)
	if first.status != want {
		return "", fmt.Errorf("%s: %d %s, want %d", what, first.status, first.body, want)
	}
	if want == 422 {
		return string(first.body), nil
	}
	if want == 403 {
		return "", nil
	}
	v.id = strings.Split(strings.TrimPrefix(first.header.Get("Location"), base+"/"), "/")[1]
	reads := tok.sees(r.provisions, "r", v)
	shows := func(a answer, status, value int) error {
		switch {
		case !reads && a.status == 201 && len(a.body) == 0:
			r.count("phone without an answer")
		case reads && a.status == status && a.json["id"] == v.id && bytes.Contains(a.body,
			[]byte(fmt.Sprintf(`"value":%d`, value))) && bytes.Contains(a.body, []byte(`"`+kind.category+`"`)) &&
			!bytes.Contains(a.body, []byte("phone-made")):
		default:
			return fmt.Errorf("%s: %d %s, want %d with %d; visible: %v", what, a.status, a.body, status, value, reads)
		}
		return nil
	}
	if err := shows(first, 201, 60); err != nil {
		return "", err
	}
	second, value := send(61), 60
	if second.header.Get("Location") == "" {
		return "", fmt.Errorf("%s again: %d without a Location", what, second.status)
	}
	if tok.covered("u", v) {
		value = 61
		r.count("phone amended")
	} else {
		r.count("phone kept")
	}
	v.tokens["status"][0].code = map[int]string{60: "final", 61: "amended"}[value]
	reads = tok.sees(r.provisions, "r", v)
	if err := shows(second, 200, value); err != nil {
		return "", err
	}
	return "", r.received(tok, bearer, v, value)
}

// received checks what is stored, and who may read it.
func (r *run) received(tok *token, bearer string, v *version, value int) error {
	want := 200
	switch {
	case !tok.may("r", "Observation"):
		want = 403
	case !tok.sees(r.provisions, "r", v):
		want = 404
	}
	if a := r.w.get(bearer, "/Observation/"+v.id); a.status != want {
		return fmt.Errorf("read of %s: %d, want %d", v.id, a.status, want)
	}
	res, facts, err := r.w.db.Read(r.ctx(), fhir.Ref{Type: "Observation", ID: v.id}, 0)
	if err != nil || facts.Patient != v.patient || facts.Vendor != v.vendor ||
		!bytes.Contains(res.JSON, fmt.Appendf(nil, `"value":%d`, value)) {
		return fmt.Errorf("stored %s: %+v %s, want the value %d; %w", v.id, facts, res.JSON, value, err)
	}
	return nil
}

// sample returns a phone-made Observation of a token's client. Its claimed category is not
// the one that it has.
func (r *run) sample(tok *token, i int, p string, value int) string {
	kind := &phoneKinds[i]
	mark := ""
	if !registeredPhones(tok.client) {
		mark = `"meta":{"profile":["` + interaction.PhoneMadeProfile + `"]},`
	}
	number := fmt.Sprint(value)
	if kind.unit == "%" {
		number = fmt.Sprint(float64(value) / 100) // a fraction as percent, which is repaired
	}
	// The id of a sample is its UUID; that of each client and patient is another.
	uuid := fmt.Sprintf("%08X-0000-4000-8000-%012X", i+1, []byte(tok.client + p + "      ")[:6])
	return `{"resourceType":"Observation",` + mark + `"identifier":[{"id":"` + uuid + `"}],"id":"` + uuid +
		`","status":"final","category":[{"coding":[{"system":"` + sysCategory + `","code":"` + kind.claim +
		`"}]}],"code":{"coding":[{"system":"http://developer.apple.com/documentation/healthkit","code":"` + kind.metric +
		`"}]},"subject":{"reference":"Patient/` + p + `"},"effectiveDateTime":"2026-01-0` + fmt.Sprint(i+1) +
		map[bool]string{true: "T08:00:00Z", false: "T09:00:00Z"}[registeredPhones(tok.client)] +
		`","valueQuantity":{"value":` + number + `,"unit":"` + kind.unit +
		`","system":"http://unitsofmeasure.org","code":"` + kind.unit + `"}}`
}
