package enforce

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/smart/policy"
)

// wholeWrites is a fault: granular scopes and the roles limit only reads.
type wholeWrites struct{ *policy.Engine }

func (e wholeWrites) Authenticate(r *http.Request) (*access.Principal, error) {
	p, err := e.Engine.Authenticate(r)
	if err != nil {
		return nil, err
	}
	q, g := *p, *p.Grant
	g.Rules = slices.Clone(g.Rules)
	for _, r := range p.Grant.Rules {
		if r.May &= access.Create | access.Update; r.May != 0 {
			r.Params = nil
			g.Rules = append(g.Rules, r)
		}
	}
	q.Grant = &g
	return &q, nil
}

// untags is a fault: what patients write is not tagged as theirs.
type untags struct{ *policy.Engine }

func (e untags) Authenticate(r *http.Request) (*access.Principal, error) {
	p, err := e.Engine.Authenticate(r)
	if err != nil {
		return nil, err
	}
	q := *p
	q.FHIRUser = ""
	return &q, nil
}

// writtenCats lists the categories of what is created. What is updated has one of the first
// three.
var writtenCats = [][]string{{"vital-signs"}, {"laboratory"}, {"activity"}, {"vital-signs", "laboratory"},
	nil} // read only

// scopedWrite is one random write by a token with another scope.
type scopedWrite struct {
	op        string // create, amend or delete
	doc, cats int    // indexes of docs and writtenCats
	patient   string // of what is created
	how       int    // alone, in a batch or in a transaction
	way       int    // of an amendment; even ways delete by criteria
}

func drawScopedWrite(t *rapid.T) scopedWrite {
	return scopedWrite{op: pick(t, "op", "create", "create", "amend", "amend", "amend", "amend", "amend", "delete"),
		doc: rapid.IntRange(0, 11).Draw(t, "doc"), cats: rapid.IntRange(0, len(writtenCats)-1).Draw(t, "cats"),
		patient: pick(t, "patient", "p1", "p2", "absent"), how: rapid.IntRange(0, 2).Draw(t, "how"),
		way: rapid.IntRange(0, 4).Draw(t, "way")}
}

// scopedWrites checks the drawn creates, updates, patches and conditional writes of Observations, alone, in
// batches and in transactions: the scopes and roles must cover the resource as it was and
// as it becomes, and what a patient writes has the tag patient-supplied.
func (r *run) scopedWrites(original *token) error {
	tok := *original
	level := "system/"
	if tok.person {
		level = pick2(len(r.tc.docs), "user/", "patient/")
	}
	tok.scopes = append(slices.Clone(tok.scopes), level+r.tc.phoneScope)
	if registeredPhones(tok.client) {
		return nil // what it creates is repaired (phone)
	}
	bearer := r.w.issue(&tok)
	for i := range r.tc.scoped {
		if err := r.scopedWrite(&tok, bearer, &r.tc.scoped[i]); err != nil {
			return fmt.Errorf("%+v with %v: %w", r.tc.scoped[i], tok.scopes, err)
		}
	}
	return r.written(&tok, bearer)
}

// scopedWrite checks one write.
func (r *run) scopedWrite(tok *token, bearer string, s *scopedWrite) error {
	ref := fmt.Sprint("Observation/o", s.doc%len(r.tc.docs))
	switch s.op {
	case "create":
		m := measure{patient: s.patient, author: tok.client, status: "final", code: codes[0], cats: writtenCats[s.cats],
			value: 55}
		return r.creation(tok, bearer, &m, s.how)
	case "amend":
		return r.amendment(tok, bearer, ref, writtenCats[s.cats%3], s.way)
	}
	return r.deletion(tok, bearer, ref, s.way%2 == 0)
}

// pick2 returns a for even numbers.
func pick2(n int, a, b string) string {
	if n%2 == 0 {
		return a
	}
	return b
}

// permitted returns the status of a create of v.
func (r *run) permitted(tok *token, v *version) int {
	switch {
	case !tok.may("c", "Observation") || !tok.covered("c", v):
		return 403
	case v.patient == "":
		if !consented(r.provisions, tok.client, v) {
			return 403
		}
	case v.patient == "absent" || !consented(r.provisions, tok.client, v):
		return 422
	}
	return 201
}

// bundle returns a Bundle with one entry.
func bundle(typ, method, url, resource string) string {
	if resource != "" {
		resource = `"resource":` + resource + `,`
	}
	return `{"resourceType":"Bundle","type":"` + typ + `","entry":[{` + resource + `"request":{"method":"` + method +
		`","url":"` + url + `"}}]}`
}

// request sends one interaction: alone, in a batch, or in a transaction. It returns its
// status, and the Location of a create.
func (r *run) request(bearer, method, url, body string, how int) (status int, location string) {
	patch := method == "PATCH"
	if how == 0 {
		var header []string
		if patch {
			header = []string{"Content-Type", "application/json-patch+json"}
		}
		a := r.w.do(bearer, method, "/"+url, body, header...)
		return a.status, a.header.Get("Location")
	}
	if patch {
		body = `{"resourceType":"Binary","contentType":"application/json-patch+json","data":"` +
			base64.StdEncoding.EncodeToString([]byte(body)) + `"}`
	}
	a := r.w.do(bearer, "POST", "", bundle([]string{"", "batch", "transaction"}[how], method, url, body))
	if list, _ := a.json["entry"].([]any); a.status == 200 && len(list) == 1 {
		response := list[0].(map[string]any)["response"].(map[string]any)
		if _, err := fmt.Sscanf(fmt.Sprint(response["status"]), "%d", &status); err != nil {
			return 0, ""
		}
		location, _ = response["location"].(string)
		return status, location
	}
	return a.status, ""
}

// creation creates an Observation.
func (r *run) creation(tok *token, bearer string, m *measure, how int) error {
	v := m.version("")
	if tok.patientSide() {
		v.tag()
	}
	want := r.permitted(tok, v)
	status, location := r.request(bearer, "POST", "Observation", `{"resourceType":"Observation"`+m.body()+`}`, how)
	r.count(fmt.Sprint("create ", want))
	if status != want {
		return fmt.Errorf("create of %s: %d, want %d", m.patient, status, want)
	}
	if want != 201 {
		return nil
	}
	v.id = strings.Split(location[strings.Index(location, "Observation/"):], "/")[1]
	r.d.add(v)
	if tok.patientSide() {
		r.count("create by a patient")
	}
	return nil
}

// amendment changes the categories of ref in one of five ways.
func (r *run) amendment(tok *token, bearer, ref string, cats []string, way int) error {
	old := r.d.current(ref)
	if old == nil || old.patient == "" {
		return nil
	}
	m := measure{patient: old.patient, vendor: old.vendor, author: old.author, status: "final", code: codes[0],
		cats: cats, at: old.at, value: old.value, supplied: old.supplied || tok.patientSide()}
	method, url, how := "PUT", ref, 0
	switch way {
	case 1, 2:
		how = way
	case 3:
		method = "PATCH"
	case 4:
		url = "Observation?_id=" + old.id
	}
	body := `{"resourceType":"Observation","id":"` + old.id + `"` + m.body() + `}`
	if method == "PATCH" { // all that the model knows, because the rest is kept
		body = fmt.Sprintf(`[{"op":"add","path":"/category","value":[{"coding":[{"system":"%s","code":"%s"}]}]},`+
			`{"op":"replace","path":"/status","value":"final"},`+
			`{"op":"replace","path":"/valueQuantity/code","value":"/min"},`+ // the unit of the code
			`{"op":"replace","path":"/code","value":{"coding":[{"system":"%s","code":"%s"}]}}]`,
			categoryOf(cats[0]).system, cats[0], loinc, codes[0])
		m.device = strings.TrimPrefix(strings.Join(old.refs["device"], ""), "Device/")
	}
	next := m.version(old.id)
	want := r.amended(tok, old, next, method == "PATCH", way == 4)
	status, _ := r.request(bearer, method, url, body, how)
	r.count(fmt.Sprint("scoped ", method, " ", want))
	if status != want {
		return fmt.Errorf("%s %s of %+v: %d, want %d", method, url, *old, status, want)
	}
	if want == 200 {
		r.d.add(next)
	}
	return nil
}

// amended returns the status of an update of old to next.
func (r *run) amended(tok *token, old, next *version, patch, conditional bool) int {
	switch {
	case !tok.may("u", "Observation") || conditional && !tok.may("s", "Observation"):
		return 403
	case tok.sees(r.provisions, "u", old) && (!conditional || tok.sees(r.provisions, "s", old)):
		if !tok.sees(r.provisions, "u", next) {
			return 403 // by scope or consent, for the patient whose data the caller writes anyway
		}
		return 200
	case tok.sees(r.provisions, "u", old): // it is not found, but its id is in use
		return 409
	case tok.sees(r.provisions, "r", old):
		return 403
	case patch:
		return 404
	}
	// To the caller, it is absent. The update would create it.
	fresh := *next
	fresh.vendor, fresh.author, fresh.supplied = "", tok.client, false
	fresh.tokens = map[string][]coded{"code": next.tokens["code"], "status": next.tokens["status"],
		"category": next.tokens["category"]}
	if tok.patientSide() {
		fresh.tag()
	}
	if status := r.permitted(tok, &fresh); status != 201 {
		return status
	}
	return 404
}

// deletion deletes ref, by its URL or by criteria.
func (r *run) deletion(tok *token, bearer, ref string, conditional bool) error {
	old := r.d.current(ref)
	if old == nil {
		return nil
	}
	url, want, gone := ref, 404, false
	if conditional {
		url = "Observation?_id=" + old.id
	}
	switch {
	case !tok.may("d", "Observation") || conditional && !tok.may("s", "Observation"):
		want = 403
	case conditional && !tok.sees(r.provisions, "s", old): // nothing is found
		want = 204
	case tok.sees(r.provisions, "d", old):
		want, gone = 204, true
	case tok.sees(r.provisions, "r", old):
		want = 403
	}
	status, _ := r.request(bearer, "DELETE", url, "", 0)
	r.count(fmt.Sprint("scoped DELETE ", want))
	if status != want {
		return fmt.Errorf("DELETE %s of %+v: %d, want %d", url, *old, status, want)
	}
	if gone {
		v := *old
		v.deleted = true
		r.d.add(&v)
	}
	return nil
}

// written checks what the writes have stored: the tag, and each version, which the scopes
// show by its own content.
func (r *run) written(tok *token, bearer string) error {
	for _, ref := range r.d.order {
		vs := r.d.all[ref]
		if vs[0].typ != "Observation" || len(vs) < 2 && vs[0].author != tok.client {
			continue
		}
		for _, v := range vs {
			want := 200
			switch {
			case !tok.may("r", "Observation"):
				want = 403
			case !tok.sees(r.provisions, "r", v):
				want = 404
			case v.deleted:
				want = 410
			}
			if a := r.w.get(bearer, fmt.Sprint("/", ref, "/_history/", v.number)); a.status != want {
				return fmt.Errorf("version %d of %s, after writes: %d, want %d", v.number, ref, a.status, want)
			}
		}
		last := vs[len(vs)-1]
		if last.deleted {
			continue
		}
		res, facts, err := r.w.db.Read(r.ctx(), fhir.Ref{Type: "Observation", ID: last.id}, 0)
		if err != nil || facts.Patient != last.patient || facts.Author != last.author || facts.Vendor != last.vendor ||
			bytes.Contains(res.JSON, []byte("patient-supplied")) != last.supplied {
			return fmt.Errorf("stored %s: %+v %s, want %+v; %w", ref, facts, res.JSON, *last, err)
		}
	}
	return nil
}
