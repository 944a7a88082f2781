package enforce

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

const (
	sysCategory = "http://terminology.hl7.org/CodeSystem/observation-category"
	sysSleep    = fhir.Canonical + "/CodeSystem/observation-category"
	sysTags     = "http://hl7.org/fhir/us/core/CodeSystem/us-core-tags"
	loinc       = "http://loinc.org"
)

var (
	patients = []string{"p1", "p2", "p3"}
	codes    = []string{"8867-4", stepsCode, "93832-4"}
	start    = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
)

// measure is a random Observation, Device or series.
type measure struct {
	patient, vendor, author, status, code, device string
	cats                                          []string
	at, value                                     int
	supplied                                      bool // has the tag patient-supplied
}

// testCase is one random case.
type testCase struct {
	docs           []measure
	changed        []measure // new versions of docs[i % len(docs)]
	removed        []int     // indexes of docs
	streams        []measure
	devices        []measure // patient, vendor, author, status
	provenances    []string  // targets
	provisions     []provision
	nextProvisions []provision // the provisions after the change
	group          []string
	a, b           token
	scopes         []string  // registered scopes of the backends
	notify         bool      // test notifications
	added          []measure // Observations stored while a Subscription is active
	content        string    // payload content of the Subscription
	pageCount      int
	phoneScope     string // a further scope, without its level, of those that send from phones
	scoped         []scopedWrite
}

// pick draws one of the values in from.
func pick[T any](t *rapid.T, name string, from ...T) T { return rapid.SampledFrom(from).Draw(t, name) }

func drawMeasure(t *rapid.T) measure {
	m := measure{patient: pick(t, "patient", "p1", "p1", "p2", "p2", "p3", ""),
		vendor: pick(t, "vendor", "", "apple", "apple", "oura"),
		status: pick(t, "status", "final", "final", "amended", "entered-in-error"), code: pick(t, "code", codes...),
		device: pick(t, "device", "", "v0", "v1", "v2"), at: rapid.IntRange(0, 5).Draw(t, "at"),
		value: rapid.IntRange(50, 60).Draw(t, "value"),
		cats: pick(t, "cats", nil, []string{"vital-signs"}, []string{"vital-signs"}, []string{"activity"},
			[]string{"sleep", "activity"}, []string{"vital-signs", "activity"}, []string{"activity", "location"})}
	if m.vendor == "" {
		m.author = pick(t, "author", "", "ca", "ca", "cb")
		m.supplied = m.value%2 == 0
	}
	return m
}

func drawProvision(t *rapid.T, i int) provision {
	g := provision{id: fmt.Sprint("c", i), patient: pick(t, "patient", patients...),
		active: rapid.IntRange(0, 5).Draw(t, "active") > 0,
		permit: rapid.IntRange(0, 4).Draw(t, "permit") > 0, ended: rapid.IntRange(0, 7).Draw(t, "ended") == 0,
		recipient: pick(t, "recipient", "any", "any", "ca", "cb"), vendor: pick(t, "vendor", "", "", "apple", "oura"),
		cats: pick(t, "cats", nil, nil, []string{"vital-signs"}, []string{"activity"}, []string{"sleep"},
			[]string{"vital-signs", "activity"}, []string{"location"}, []string{"activity", "location"})}
	if g.permit {
		g.denyCat = pick(t, "deny", "", "", "vital-signs", "activity", "sleep", "location")
		g.denyWho = pick(t, "who", "any", "ca", "cb")
	}
	return g
}

// drawScope draws a scope of one of the levels.
func drawScope(t *rapid.T, levels ...string) string {
	s := pick(t, "level", levels...) + "/" +
		pick(t, "type", "*", "Observation", "Observation", "Observation", "Patient", "Device", "Provenance",
			"Consent", "Group", "AuditEvent", "Subscription") + "."
	if rapid.IntRange(0, 3).Draw(t, "v1") == 0 {
		return s + pick(t, "perm", "read", "read", "*", "write")
	}
	s += pick(t, "perm", "r", "s", "rs", "rs", "rs", "cu", "cruds")
	switch {
	case strings.Contains(s, "/Observation"):
		s += pick(t, "narrow", "", "", "?category="+sysCategory+"|vital-signs", "?category=activity,sleep",
			"?category="+sysSleep+"|", "?code="+loinc+"|8867-4,"+loinc+"|55423-8",
			"?status=final", "?category=vital-signs&status=final,amended", "?code=|8867-4")
	case strings.Contains(s, "/Device"):
		s += pick(t, "narrow", "", "?status=active")
	case strings.Contains(s, "/AuditEvent"):
		s += pick(t, "narrow", "", "?action=R", "?action=C,U")
	case strings.Contains(s, "/Subscription"):
		s += pick(t, "narrow", "", "?status=off", "?status=active")
	case strings.Contains(s, "/Patient"):
		s += pick(t, "narrow", "", "?gender=female")
	}
	return s
}

// backend draws a token of a backend.
func backend(t *rapid.T, client string) token {
	scopes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return drawScope(t, "system") }), 1, 4).Draw(t,
		"scopes")
	return token{client: client, scopes: append(scopes,
		pick(t, "broad", "system/*.rs", "system/*.read", "system/Subscription.r", "system/Group.rs"))}
}

// drawToken draws a token of a backend or of a person.
func drawToken(t *rapid.T, client string) token {
	if rapid.Bool().Draw(t, "backend") {
		return backend(t, client)
	}
	tok := token{client: client + "-app", person: true}
	tok.scopes = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return drawScope(t, "patient", "user") }), 1,
		4).Draw(t, "scopes")
	tok.scopes = append(tok.scopes, pick(t, "broad", "patient/*.rs", "user/*.rs", "patient/*.read", "openid"))
	if rapid.Bool().Draw(t, "fhirUser") {
		tok.scopes = append(tok.scopes, "openid", "fhirUser")
	}
	tok.patient = pick(t, "context", "", "p1", "p1", "p2")
	tok.user = pick(t, "user", "Practitioner/d1", "Practitioner/d1", "Patient/p1", "Patient/p2", "")
	tok.roles = pick(t, "roles", []string{"practitioner"}, []string{"practitioner"}, []string{"patient"},
		[]string{"patient", "practitioner"}, []string{"administrator"}, []string{"auditor"}, nil)
	return tok
}

var cases = rapid.Custom(func(t *rapid.T) testCase {
	some := func(name string, from, to int) []measure {
		return rapid.SliceOfN(rapid.Custom(drawMeasure), from, to).Draw(t, name)
	}
	tc := testCase{docs: some("docs", 6, 12), changed: some("changed", 0, 4), devices: some("devices", 3, 3),
		streams: some("streams", 0, 3), added: some("fresh", 2, 4),
		removed: rapid.SliceOfN(rapid.IntRange(0, 11), 0, 2).Draw(t, "removed"),
		provenances: rapid.SliceOfN(rapid.SampledFrom([]string{"Patient/p1", "Patient/p2", "Observation/o0",
			"Observation/o1"}), 0, 4).Draw(t, "proofs"),
		group: rapid.SliceOfNDistinct(rapid.SampledFrom(patients), 0, 3, rapid.ID).Draw(t, "group"),
		a:     drawToken(t, "ca"), b: drawToken(t, "cb"), notify: rapid.Bool().Draw(t, "notify"),
		content: pick(t, "content", "full-resource", "id-only"), pageCount: pick(t, "count", 1, 1, 2, 3),
		phoneScope: pick(t, "phone", phoneScopes...),
		scopes: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return drawScope(t, "system") }), 1,
			3).Draw(t, "registered")}
	if tc.notify { // only backends can have Subscriptions
		tc.a = backend(t, "ca")
		tc.scopes = append(tc.scopes, pick(t, "notified", "system/*.rs", "system/Observation.r",
			"system/Observation.rs?category=vital-signs"))
	}
	// In most cases, all patients consent to everything at first.
	if pick(t, "agreed", true, true, false) {
		for i, p := range patients {
			tc.provisions = append(tc.provisions,
				provision{id: fmt.Sprint("y", i), patient: p, active: true, permit: true, recipient: "any"})
		}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "provisions") {
		tc.provisions = append(tc.provisions, drawProvision(t, i))
	}
	tc.nextProvisions = slices.Clone(tc.provisions)
	// Notifications are sent again after a withdrawal, without the resources hidden by it.
	if withdrawn := rapid.Bool().Draw(t, "withdrawn"); len(tc.nextProvisions) > 0 && (withdrawn || tc.notify) {
		tc.nextProvisions[rapid.IntRange(0, len(tc.nextProvisions)-1).Draw(t, "which")].active = false
	} else {
		tc.nextProvisions = append(tc.nextProvisions, drawProvision(t, 9))
	}
	tc.scoped = rapid.SliceOfN(rapid.Custom(drawScopedWrite), 8, 8).Draw(t, "writes")
	for i := range tc.streams { // ingested samples have a patient and a vendor
		m := &tc.streams[i]
		m.supplied = false
		if m.author = ""; m.vendor == "" {
			m.vendor = "oura"
		}
		if m.patient == "" {
			m.patient = "p1"
		}
	}
	return tc
})

// data holds every stored version for the model.
type data struct {
	world *world
	all   map[string][]*version // by reference
	order []string              // references in the order of their first version
}

// add adds a version to the model.
func (d *data) add(v *version) {
	ref := v.typ + "/" + v.id
	v.reference = ref
	if d.all[ref] == nil {
		d.order = append(d.order, ref)
	}
	v.number = len(d.all[ref]) + 1
	d.all[ref] = append(d.all[ref], v)
}

// current returns the current version, or nil if there is none or it is deleted.
func (d *data) current(ref string) *version {
	if vs := d.all[ref]; len(vs) > 0 && !vs[len(vs)-1].deleted {
		return vs[len(vs)-1]
	}
	return nil
}

// put stores a version and adds it to the model.
func (d *data) put(v *version, body string) {
	d.add(v)
	must(d.world.db.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Vendor: v.vendor, Author: v.author,
		Resource: fhir.Resource{Type: v.typ, ID: v.id,
			JSON: []byte(fhir.Prefix(v.typ, v.id) + v.meta() + "}" + body + "}")}}}}))
}

// meta returns the members of the Meta of v.
func (v *version) meta() string {
	if !v.supplied {
		return ""
	}
	return `"tag":[{"system":"` + sysTags + `","code":"patient-supplied"}]`
}

// tag marks v as supplied by a patient.
func (v *version) tag() {
	v.supplied = true
	v.tokens["_tag"] = []coded{{sysTags, "patient-supplied"}}
}

// remove deletes a resource.
func (d *data) remove(ref string) {
	old := d.current(ref)
	if old == nil {
		return
	}
	v := *old
	v.deleted = true // the content before the deletion decides about access
	d.add(&v)
	must(d.world.db.Commit(context.Background(),
		&store.Batch{Writes: []store.Write{{Op: store.Remove, Vendor: v.vendor, Author: v.author,
			Resource: fhir.Resource{Type: v.typ, ID: v.id}}}}))
}

// categoryOf returns a category with its system.
func categoryOf(c string) coded {
	if c == "sleep" || c == "location" {
		return coded{sysSleep, c}
	}
	return coded{sysCategory, c}
}

// version returns the Observation for the model.
func (m *measure) version(id string) *version {
	v := &version{typ: "Observation", id: id, patient: m.patient, vendor: m.vendor, author: m.author, cats: m.cats,
		code: m.code, at: m.at, value: m.value,
		measured: m.status != "entered-in-error",
		tokens:   map[string][]coded{"code": {{loinc, m.code}}, "status": {{"", m.status}}},
		refs:     map[string][]string{}}
	for _, c := range m.cats {
		v.tokens["category"] = append(v.tokens["category"], categoryOf(c))
	}
	if m.patient != "" {
		v.refs["subject"], v.refs["patient"] = []string{"Patient/" + m.patient}, []string{"Patient/" + m.patient}
	}
	if m.device != "" {
		v.refs["device"] = []string{"Device/" + m.device}
	}
	if m.supplied {
		v.tag()
	}
	return v
}

// head returns the JSON of the Observation before its time.
func (m *measure) head() string {
	b := `,"status":"` + m.status + `"`
	for i, c := range m.cats {
		b += []string{`,"category":[`, `,`}[min(i, 1)] + fmt.Sprintf(`{"coding":[{"system":"%s","code":"%s"}]}`,
			categoryOf(c).system, c)
	}
	if len(m.cats) > 0 {
		b += "]"
	}
	b += `,"code":{"coding":[{"system":"` + loinc + `","code":"` + m.code + `"}]}`
	if m.patient != "" {
		b += `,"subject":{"reference":"Patient/` + m.patient + `"}`
	}
	return b
}

// tail returns the JSON of the Observation after its value.
func (m *measure) tail() string {
	unit := "/min"
	if m.code == stepsCode {
		unit = "{steps}"
	}
	b := `,"unit":"` + unit + `","system":"http://unitsofmeasure.org","code":"` + unit + `"}`
	if m.device != "" {
		b += `,"device":{"reference":"Device/` + m.device + `"}`
	}
	return b
}

// body returns the JSON of the Observation.
func (m *measure) body() string {
	return m.head() + `,"effectiveDateTime":"` + start.Add(time.Duration(m.at)*time.Minute).Format(time.RFC3339) +
		`","valueQuantity":{"value":` + fmt.Sprint(m.value) + m.tail()
}

// stream stores three samples as a series.
func (d *data) stream(i int, m measure) {
	m.status = "final"
	t := &series.Template{Patient: m.patient, Vendor: m.vendor, Categories: m.cats, Values: 1,
		Slots: []series.Slot{series.SlotEffective, series.SlotValue},
		Parts: [][]byte{[]byte("}" + m.head() + ","), []byte(`,"valueQuantity":{"value":`), []byte(m.tail() + "}")}}
	copy(t.Identity[:], fmt.Sprint("stream ", i, " ", m.patient))
	c := &series.Columns{}
	for j := range 3 {
		s := series.Sample{Start: start.Add(time.Duration(m.at+j) * time.Minute).UnixMicro(), End: series.NoEnd}
		s.Values[0] = series.Decimal{Mant: int64(m.value + j)}
		c.Append(&s, 1)
		one := m
		one.at, one.value = m.at+j, m.value+j
		key := t.Key(&s)
		d.add(one.version(key.ID()))
	}
	must(d.world.db.Commit(context.Background(),
		&store.Batch{Series: []store.SeriesWrite{{Template: t, Columns: c}}, Probed: d.world.db.LastSeq()}))
}

// body returns the JSON of the Consent.
func (g *provision) body() string {
	concept := func(system, code string) map[string]any {
		return map[string]any{"coding": []any{map[string]any{"system": system, "code": code}}}
	}
	actor := func(who string) []any {
		return []any{map[string]any{"role": concept("http://terminology.hl7.org/CodeSystem/v3-ParticipationType",
			"IRCP"),
			"reference": map[string]any{"identifier": map[string]any{"system": consent.ClientSystem, "value": who}}}}
	}
	p := map[string]any{"type": map[bool]string{true: "permit", false: "deny"}[g.permit], "actor": actor(g.recipient)}
	var list []any
	if g.vendor != "" {
		list = append(list, concept(consent.VendorSystem, g.vendor))
	}
	for _, c := range g.cats {
		list = append(list, concept(categoryOf(c).system, c))
	}
	if list != nil {
		p["code"] = list
	}
	if g.ended {
		p["period"] = map[string]any{"end": "2020-01-01"}
	}
	if g.denyCat != "" {
		p["provision"] = []any{map[string]any{"type": "deny", "actor": actor(g.denyWho),
			"code": []any{concept(categoryOf(g.denyCat).system, g.denyCat)}}}
	}
	out := must(json.Marshal(map[string]any{"status": map[bool]string{true: "active", false: "inactive"}[g.active],
		"scope":      concept("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy"),
		"category":   []any{concept(loinc, "59284-0")},
		"patient":    map[string]any{"reference": "Patient/" + g.patient},
		"policyRule": concept("http://terminology.hl7.org/CodeSystem/v3-ActCode", "OPTIN"), "provision": p}))
	return "," + strings.TrimSuffix(string(out[1:]), "}")
}

// consent stores a Consent.
func (d *data) consent(g *provision) {
	d.put(&version{typ: "Consent", id: g.id, patient: g.patient,
		refs: map[string][]string{"patient": {"Patient/" + g.patient}}}, g.body())
}

// trail stores an old AuditEvent, about a patient unless patient is empty.
func (d *data) trail(id, patient, action string) {
	v := &version{typ: "AuditEvent", id: id, patient: patient, tokens: map[string][]coded{"action": {{"", action}}},
		refs: map[string][]string{}}
	entity := ""
	if patient != "" {
		entity = `,"entity":[{"what":{"reference":"Patient/` + patient + `"}}]`
		v.refs["patient"] = []string{"Patient/" + patient}
	}
	d.put(v, `,"type":{"system":"http://terminology.hl7.org/CodeSystem/audit-event-type","code":"rest"},"action":"`+
		action+
		`","recorded":"2019-05-01T10:00:00Z","outcome":"0","agent":[{"requestor":true}],"source":{"observer":{"display":"test"}}`+entity)
}

// list stores a List about a patient.
func (d *data) list(id, patient, vendor string, items ...string) {
	entries := ""
	for i, ref := range items {
		entries += []string{`,"entry":[`, `,`}[min(i, 1)] + `{"item":{"reference":"` + ref + `"}}`
	}
	d.put(&version{typ: "List", id: id, patient: patient, vendor: vendor,
		refs: map[string][]string{"item": items, "subject": {"Patient/" + patient}}},
		`,"status":"current","mode":"working","subject":{"reference":"Patient/`+patient+`"}`+entries+`]`)
}

// load stores the initial data of a case.
func load(w *world, tc *testCase) *data {
	d := &data{world: w, all: map[string][]*version{}}
	for i, p := range patients {
		sex := []string{"female", "male"}[i%2]
		d.put(&version{typ: "Patient", id: p, patient: p, tokens: map[string][]coded{"gender": {{"", sex}}}},
			`,"gender":"`+sex+`","name":[{"family":"Invented"}],"managingOrganization":{"reference":"Organization/h1"}`)
	}
	d.put(&version{typ: "Practitioner", id: "d1"}, `,"name":[{"family":"Invented"}]`)
	d.put(&version{typ: "Practitioner", id: "d2"}, ``)
	d.put(&version{typ: "Organization", id: "h1"}, `,"name":"Invented"`)
	d.put(&version{typ: "CodeSystem", id: "s1"}, `,"url":"https://example.org/s1","status":"active","content":"complete"`)
	d.put(&version{typ: "ConceptMap", id: "m1"}, `,"url":"https://example.org/m1","status":"active"`)
	members, refs := "", []string{}
	for i, p := range tc.group {
		members += []string{`,"member":[`, `,`}[min(i, 1)] + `{"entity":{"reference":"Patient/` + p + `"}}`
		refs = append(refs, "Patient/"+p)
	}
	if members != "" {
		members += "]"
	}
	d.put(&version{typ: "Group", id: "g1", refs: map[string][]string{"member": refs}},
		`,"type":"person","actual":true`+members)
	for i, m := range tc.devices {
		status, body := []string{"active", "inactive"}[m.at%2], ""
		v := &version{typ: "Device", id: fmt.Sprint("v", i), patient: m.patient, vendor: m.vendor, author: m.author,
			refs: map[string][]string{}}
		v.tokens = map[string][]coded{"status": {{"", status}}}
		if m.patient != "" {
			body = `,"patient":{"reference":"Patient/` + m.patient + `"}`
			v.refs["patient"] = []string{"Patient/" + m.patient}
		}
		d.put(v, `,"status":"`+status+`","type":{"text":"`+deviceKinds[v.id]+`"},"deviceName":[{"name":"`+v.id+
			`","type":"other"}]`+body)
	}
	for i := range tc.docs {
		d.put(tc.docs[i].version(fmt.Sprint("o", i)), tc.docs[i].body())
	}
	// An Observation for EHRs with a Device in no compartment, which is rare by chance.
	d.put(&version{typ: "Device", id: "v3", tokens: map[string][]coded{"status": {{"", "active"}}}},
		`,"status":"active","deviceName":[{"name":"v3","type":"other"}]`)
	vital := measure{patient: "p1", vendor: "apple", status: "final", code: codes[0], device: "v3",
		cats: []string{"vital-signs"}, value: 55}
	d.put(vital.version("e1"), vital.body())
	for i := range tc.streams {
		d.stream(i, tc.streams[i])
	}
	for i, target := range tc.provenances {
		v := &version{typ: "Provenance", id: fmt.Sprint("r", i), vendor: "apple",
			refs: map[string][]string{"target": {target}}}
		v.patient, _ = strings.CutPrefix(target, "Patient/")
		if strings.Contains(v.patient, "/") {
			v.patient = ""
		}
		d.put(v, `,"recorded":"2026-03-01T10:00:00Z","target":[{"reference":"`+target+`"}]`)
	}
	d.list("l1", "p1", "apple", "Observation/o0", "Observation/o1", "Observation/o2", "Device/v0", "Patient/p2")
	d.list("l2", "p2", "", "Observation/o0", "Observation/o3", "Device/v1", "Patient/p1", "Patient/p2")
	for i, p := range []string{"p1", "p2", "p1", ""} {
		d.trail(fmt.Sprint("a", i), p, []string{"R", "C"}[i/2])
	}
	// Subscriptions belong to their authors: backends, apps and the operator. They are
	// off, so that no notifications are sent.
	for i, author := range []string{"ca", "cb", "ca-app", "cb-app", ""} {
		d.put(&version{typ: "Subscription", id: fmt.Sprint("u", i), author: author,
			tokens: map[string][]coded{"status": {{"", "off"}}}},
			`,"status":"off","reason":"test","criteria":"`+fhir.Canonical+
				`/SubscriptionTopic/observation-recorded","channel":{"type":"rest-hook","endpoint":"https://hook.example.org/`+fmt.Sprint(i)+`"}`)
	}
	for i := range tc.provisions {
		d.consent(&tc.provisions[i])
	}
	for i, m := range tc.changed {
		old := d.current(fmt.Sprint("Observation/o", i%len(tc.docs)))
		m.vendor, m.author = old.vendor, old.author
		d.put(m.version(old.id), m.body())
	}
	for _, i := range tc.removed {
		d.remove(fmt.Sprint("Observation/o", i))
	}
	return d
}
