package enforce

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// loggedEvent is the content of an AuditEvent, read from its JSON when it is committed.
type loggedEvent struct {
	patient string
	refs    []string // references of data entities, without versions
	query   string
}

// trailLog holds the events of each request.
type trailLog struct {
	mu        sync.Mutex
	byRequest map[string][]loggedEvent
}

// auditEvent is the part of an AuditEvent that the checks need.
type auditEvent struct {
	Subtype []struct{ Code string }
	Entity  []struct {
		What struct {
			Reference  string
			Identifier struct{ Value string }
		}
		Type  struct{ Code string }
		Role  struct{ Code string }
		Query []byte
	}
}

// logged returns the request id and the content of the event.
func (e *auditEvent) logged() (request string, w loggedEvent) {
	for _, entity := range e.Entity {
		ref, _, _ := strings.Cut(entity.What.Reference, "/_history/")
		switch {
		case entity.Type.Code == "XrequestId":
			request = entity.What.Identifier.Value
		case entity.Role.Code == "1":
			w.patient = strings.TrimPrefix(ref, "Patient/")
		case ref != "":
			if p, ok := strings.CutPrefix(ref, "Patient/"); ok && w.patient == "" {
				w.patient = p
			}
			w.refs = append(w.refs, ref)
		}
		w.query += string(entity.Query)
	}
	return request, w
}

// Commit applies the faults to AuditEvents and logs the AuditEvents.
func (s faulty) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	c := *b
	c.Writes = nil
	searches := slices.ContainsFunc(b.Writes, func(w store.Write) bool {
		return w.Resource.Type == "AuditEvent" && bytes.Contains(w.Resource.JSON, []byte(`"code":"search-type"`))
	})
	type noted struct {
		request string
		event   loggedEvent
	}
	var notes []noted
	for _, w := range b.Writes {
		if w.Resource.Type == "AuditEvent" {
			var e auditEvent
			if err := json.Unmarshal(w.Resource.JSON, &e); err != nil {
				return store.Result{}, err
			}
			request, event := e.logged()
			if s.fault == omitsMatches && searches && len(e.Subtype) > 0 && e.Subtype[0].Code == "read" {
				continue
			}
			if s.drops(w.Resource.JSON, &event) {
				continue
			}
			if s.fault == namesOthers && event.patient != "" && event.query != "" {
				line := "GET /fhir/Patient?_id=" + strings.Join(patients, ",")
				old := base64.StdEncoding.EncodeToString([]byte(event.query))
				w.Resource.JSON = bytes.Replace(w.Resource.JSON, []byte(old),
					[]byte(base64.StdEncoding.EncodeToString([]byte(line))), 1)
				w.Template, w.Cuts, event.query = nil, nil, line
			}
			notes = append(notes, noted{request, event})
		}
		if s.fault == derivesFreely && isDerived(w.Resource.JSON) {
			w.Vendor = ""
		}
		c.Writes = append(c.Writes, w)
	}
	res, err := s.database.Commit(ctx, &c)
	if err == nil && len(c.Writes) == len(b.Writes) {
		*b = c
	}
	if err == nil && s.log != nil {
		s.log.mu.Lock()
		defer s.log.mu.Unlock()
		for _, n := range notes {
			s.log.byRequest[n.request] = append(s.log.byRequest[n.request], n.event)
		}
	}
	return res, err
}

// disclosure is a resource of which an answer discloses the content or existence. listed
// says that it is in a list of matches, for which an event with the patient and the query
// suffices.
type disclosure struct {
	ref    string
	listed bool
}

// named matches references in the texts of an OperationOutcome.
var named = regexp.MustCompile(`\b(` + strings.Join(shared, "|") + `)/[A-Za-z0-9.-]{1,64}`)

// disclosures returns the resources that an answer discloses. The history of a type or of
// the system is a list.
func (a *answer) disclosures(method, path string) (out []disclosure) {
	path, _, _ = strings.Cut(strings.TrimPrefix(strings.TrimPrefix(path, base), "/"), "?")
	ref := func(s string, listed bool) {
		s = strings.TrimPrefix(s, base+"/")
		s, _, _ = strings.Cut(s, "/_history")
		if r, ok := fhir.ParseRef(s); ok && slices.Contains(shared, r.Type) {
			out = append(out, disclosure{s, listed})
		}
	}
	switch a.status {
	case 200, 201, 204, 304, 409, 410, 412:
		ref(path, false)
	}
	ref(a.header.Get("Location"), false)
	ref(a.header.Get("Content-Location"), false)
	for line := range bytes.Lines(a.body) {
		var x map[string]any
		if json.Unmarshal(line, &x) == nil {
			walk(x, a.json == nil || path == "_history" ||
				!strings.Contains(strings.TrimSuffix(path, "/_history"), "/"), ref)
		}
	}
	return out
}

// walk calls ref for the resources that a resource in an answer discloses.
func walk(x map[string]any, listed bool, ref func(string, bool)) {
	typ, _ := x["resourceType"].(string)
	switch typ {
	case "Bundle":
		listed = x["type"] == "searchset" || x["type"] == "history" && listed
		list, _ := x["entry"].([]any)
		for _, e := range list {
			m, _ := e.(map[string]any)
			r, _ := m["response"].(map[string]any)
			inner, _ := m["resource"].(map[string]any)
			for _, s := range []any{m["fullUrl"], r["location"]} {
				if s, ok := s.(string); ok {
					ref(s, listed)
				}
			}
			for _, part := range []any{inner, r["outcome"]} {
				if part, ok := part.(map[string]any); ok && part != nil {
					walk(part, listed, ref)
				}
			}
			if x["type"] == "batch" || x["type"] == "transaction" {
				for _, s := range submitted(inner) {
					ref(s, true)
				}
			}
		}
	case "Parameters":
		list, _ := x["parameter"].([]any)
		for _, p := range list {
			m, _ := p.(map[string]any)
			if inner, ok := m["resource"].(map[string]any); ok {
				walk(inner, true, ref)
			}
		}
	case "OperationOutcome":
		if b, err := json.Marshal(x); err == nil {
			for _, s := range named.FindAllString(string(b), -1) {
				ref(s, false)
			}
		}
	default:
		if id, ok := x["id"].(string); ok {
			ref(typ+"/"+id, listed)
		}
	}
}

// owners returns the patients with versions of a resource in their compartments, or nil
// if the resource does not exist.
func (w *world) owners(ref string) map[string]bool {
	r, ok := fhir.ParseRef(ref)
	if !ok {
		return nil
	}
	var out map[string]bool
	err := w.db.History(context.Background(), r, w.db.LastSeq(), 0, func(_ fhir.Resource, f *access.Facts) bool {
		if out == nil {
			out = map[string]bool{}
		}
		out[f.Patient] = true
		return true
	})
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil
	}
	return out
}

// ids matches the ids of the resources of this test in a query.
var ids = regexp.MustCompile(`\b[a-z][0-9]\b`)

// pageParam matches the parameter of a page link. Its random characters may contain an id.
var pageParam = regexp.MustCompile(`__page=[^&\s]*`)

// checkTrail compares an answer with the events of its request. An event of its patient
// must name each disclosed resource, and no event of a patient may name resources of
// another.
func (w *world) checkTrail(method, path, request string, a *answer) error {
	w.log.mu.Lock()
	evs := w.log.byRequest[request]
	delete(w.log.byRequest, request)
	w.log.mu.Unlock()
	for _, t := range a.disclosures(method, path) {
		owners := w.owners(t.ref)
		if owners == nil {
			continue // the resource does not exist
		}
		if !slices.ContainsFunc(evs, func(e loggedEvent) bool {
			return owners[e.patient] && (slices.Contains(e.refs, t.ref) || t.listed && e.query != "") ||
				t.listed && owners[""] && e.query != ""
		}) {
			return fmt.Errorf("%s %s: %d discloses %s, which no event of %v names: %+v", method, path, a.status,
				t.ref, owners, evs)
		}
	}
	for _, e := range evs {
		if e.patient == "" {
			continue
		}
		for _, ref := range e.refs {
			if owners := w.owners(ref); owners != nil && !owners[e.patient] && !owners[""] {
				return fmt.Errorf("%s %s: the event of %s names %s of %v", method, path, e.patient, ref, owners)
			}
		}
		for _, id := range ids.FindAllString(pageParam.ReplaceAllString(e.query, ""), -1) {
			for _, typ := range shared {
				if owners := w.owners(typ + "/" + id); owners != nil && !owners[e.patient] && !owners[""] {
					return fmt.Errorf("%s %s: the query in the event of %s names %s/%s of %v: %s", method, path,
						e.patient, typ, id, owners, e.query)
				}
			}
		}
	}
	return nil
}

// writes checks the disclosures in answers to writes, such as the match of a conditional
// create. It is the last step, because it changes the data.
func (r *run) writes(*token, string) error {
	writer := token{client: "writer", scopes: []string{"system/*.cruds"}}
	r.w.register(&writer, writer.scopes)
	bearer := r.w.issue(&writer)
	m := measure{patient: "p1", author: writer.client, status: "final", code: codes[0]}
	res := `{"resourceType":"Observation"` + m.body() + `}`
	create := func(criteria string) string {
		return `{"resource":` + res + `,"request":{"method":"POST","url":"Observation","ifNoneExist":"` + criteria +
			`"}}`
	}
	put := func(id, match string) string {
		return `{"resource":{"id":"` + id + `",` + res[1:] + `,"request":{"method":"PUT","url":"Observation/` + id +
			`"` + match + `}}`
	}
	send := func(typ string, entries ...string) answer {
		return r.w.do(bearer, "POST", "",
			`{"resourceType":"Bundle","type":"`+typ+`","entry":[`+strings.Join(entries, ",")+`]}`)
	}
	var all []string
	answered := func(a answer, path string, list []string) error {
		if a.status >= 500 || len(list) == 0 {
			return fmt.Errorf("%s: %d %s", path, a.status, a.body)
		}
		return nil
	}
	for i := range r.tc.docs {
		id := fmt.Sprint("o", i)
		c := "_id=" + id
		all = append(all, create(c))
		a := r.w.do(bearer, "POST", "/Observation", res, "If-None-Exist", c)
		if err := answered(a, c, all); err != nil {
			return err
		}
		if a.status == 200 {
			r.count("matched")
		}
		r.w.do(bearer, "PUT", "/Observation/"+id, `{"id":"`+id+`",`+res[1:], "If-Match", `W/"99"`)
		send("transaction", create(c), put(id, `,"ifMatch":"W/\"99\""`))
		send("batch", create(c), put(id, `,"ifMatch":"W/\"99\""`), put(id, `,"ifNoneMatch":"*"`))
	}
	if a := send("transaction", all...); a.status == 200 {
		r.count("matched in a transaction")
	}
	for _, c := range []string{"code=" + codes[0], "patient=p1,p2", "patient=p2&status=final", "_id=o0,o1,o2",
		"_id=absent"} {
		r.w.do(bearer, "POST", "/Observation", res, "If-None-Exist", c)
		send("transaction", create(c))
		send("batch", create(c))
	}
	for _, ref := range []string{"Patient?_id=p2", "Patient?_id=p2,absent", "Patient?gender=female",
		"Patient?_id=absent"} {
		a := send("transaction", `{"resource":`+strings.Replace(res, `Patient/p1`, ref, 1)+
			`,"request":{"method":"POST","url":"Observation"}}`)
		if a.status == 200 {
			r.count("conditional reference")
		}
	}
	if err := r.conditionals(bearer, res, send); err != nil {
		return err
	}
	for i := range r.tc.docs {
		path := fmt.Sprint("Observation/o", i)
		remove := `{"request":{"method":"DELETE","url":"` + path + `"}}`
		send("transaction", remove)
		send("transaction", remove)
		r.w.do(bearer, "DELETE", "/"+path, "")
		r.w.get(bearer, "/"+path)
	}
	return nil
}

// conditionals checks the disclosures in answers to patches and conditional writes, alone, in
// batches and in transactions.
func (r *run) conditionals(bearer, res string, send func(string, ...string) answer) error {
	binary := func(patch string) string {
		return `{"resourceType":"Binary","contentType":"application/json-patch+json","data":"` +
			base64.StdEncoding.EncodeToString([]byte(patch)) + `"}`
	}
	request := func(method, url, resource string) string {
		if resource != "" {
			resource = `"resource":` + resource + `,`
		}
		return `{` + resource + `"request":{"method":"` + method + `","url":"` + url + `"}}`
	}
	const fails = `[{"op":"test","path":"/status","value":"nothing"}]`
	const noted = `[{"op":"add","path":"/note","value":[{"text":"x"}]}]`
	urls := []string{"Observation?_id=o0,o1,o2", "Observation?patient=p1,p2", "Observation?_id=absent"}
	for i := range r.tc.docs {
		urls = append(urls, fmt.Sprint("Observation/o", i), fmt.Sprint("Observation?_id=o", i))
	}
	for _, url := range urls {
		for _, patch := range []string{fails, noted} {
			a := r.w.do(bearer, "PATCH", "/"+url, patch, "Content-Type", "application/json-patch+json")
			if a.status >= 500 {
				return fmt.Errorf("PATCH %s: %d %s", url, a.status, a.body)
			}
			r.count(fmt.Sprint("patch ", a.status))
			for _, typ := range []string{"batch", "transaction"} {
				send(typ, request("PATCH", url, binary(patch)))
			}
		}
		if strings.Contains(url, "?") {
			a := r.w.do(bearer, "PUT", "/"+url, res)
			r.count(fmt.Sprint("conditional update ", a.status))
			send("batch", request("PUT", url, res), request("DELETE", url+"&status=unknown", ""))
			send("transaction", request("PUT", url, res))
		}
	}
	for _, url := range urls {
		if strings.Contains(url, "?") {
			a := r.w.do(bearer, "DELETE", "/"+url, "")
			r.count(fmt.Sprint("conditional delete ", a.status))
			send("transaction", request("DELETE", url, ""))
		}
	}
	return nil
}

// trailErrors returns the errors of checkTrail so far.
func (w *world) trailErrors() error { return errors.Join(w.trailErrs...) }
