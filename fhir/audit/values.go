package audit

import (
	"maps"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// indexer collects the index values of an AuditEvent by search parameter. It uses
// the Event, because parsing the JSON would cost more than building it. A test
// compares the values with those of search.Extract.
type indexer struct {
	all     []search.Value
	byParam map[string][]search.Value
}

// put files the values that fill adds under a parameter.
func (ix *indexer) put(param string, fill func()) {
	from := len(ix.all)
	fill()
	if to := len(ix.all); to > from {
		ix.byParam[param] = ix.all[from:to:to]
	}
}

func (ix *indexer) code(s string) { ix.all = append(ix.all, search.Value{Code: s}) }

func (ix *indexer) coding(c element.Coding) {
	ix.all = append(ix.all, search.Value{System: c.System, Code: clean(c.Code), Text: search.Fold(c.Display)})
}

// text adds a string parameter's value.
func (ix *indexer) text(s string) {
	s = clean(s)
	ix.all = append(ix.all, search.Value{Code: s, Text: search.Fold(s)})
}

func (ix *indexer) identifier(system, value string) {
	if value = clean(value); value != "" {
		ix.all = append(ix.all, search.Value{HasSystem: true, System: clean(system), Code: value})
	}
}

// templateValues returns the values that all events of a template share.
func (r *Recorder) templateValues(ev *Event, t *template, patient string) map[string][]search.Value {
	s := &t.pattern
	ix := &indexer{byParam: map[string][]search.Value{}}
	if s.profile != "" {
		ix.put("_profile", func() { ix.code(profileBase + s.profile) })
	}
	ix.put("action", func() { ix.code(actions[s.action]) })
	ix.put("outcome", func() { ix.code(clean(t.outcome)) })
	ix.put("type", func() { ix.coding(s.typ) })
	ix.put("subtype", func() {
		for _, c := range s.subtypes {
			ix.coding(c)
		}
	})
	ix.put("source", func() { ix.identifier(element.URI, r.opts.Observer) })
	r.agentValues(ix, ev)
	if len(ev.Data) <= 1 {
		entityCodes(ix, ev, s, patient)
	}
	return ix.byParam
}

// eventValues returns the index values of one event.
func eventValues(ev *Event, t *template, id string, at time.Time, patient string) *search.Values {
	ix := &indexer{all: make([]search.Value, 0, 5+2*len(ev.Data)),
		byParam: make(map[string][]search.Value, len(t.values)+6)}
	maps.Copy(ix.byParam, t.values)
	ms := at.UnixMilli()
	ix.put("_id", func() { ix.code(id) })
	ix.put("date", func() { ix.all = append(ix.all, search.Value{Lo: ms, Hi: ms + 1}) })
	entityRefs(ix, ev, &t.pattern, patient)
	if len(ev.Data) > 1 {
		entityCodes(ix, ev, &t.pattern, patient)
	}
	v := &search.Values{ByParam: ix.byParam, Start: ms, End: ms + 1}
	if ps := ix.byParam["patient"]; len(ps) > 0 {
		v.Patient = ps[0].RefID
	}
	return v
}

// actions maps the code of an action to a string without an allocation. Read only.
var actions = [256]string{'C': "C", 'R': "R", 'U': "U", 'D': "D", 'E': "E"}

func (r *Recorder) agentValues(ix *indexer, ev *Event) {
	p := ev.Principal
	token := p != nil && p.TokenID != "" && ev.Type != TokenIssue
	ix.put("address", func() {
		if a := clientAddress(ev); a != "" {
			ix.text(a)
		}
		ix.text(r.opts.Observer)
	})
	ix.put("agent", func() {
		switch {
		case p == nil:
		case p.ClientID == "" && p.Operator == "" && p.Subject != "":
			ix.identifier(uriSafe(p.Issuer), nonBlank(p.Subject, "unknown"))
		case p.ClientID != "":
			ix.identifier("", nonBlank(p.ClientID, "unknown"))
		default:
			ix.identifier("", nonBlank(p.Operator, "unknown"))
		}
		ix.identifier(element.URI, r.opts.Observer)
		if token {
			system := ""
			if p.Issuer != "" {
				system = uriSafe(p.Issuer)
			}
			ix.identifier(system, nonBlank(p.Subject, p.ClientID))
		}
		if namesPerson(ev) {
			system := ""
			if p.Issuer != "" {
				system = uriSafe(p.Issuer)
			}
			ix.identifier(system, p.Subject)
		}
		if id := patientAgent(ev); id != "" {
			ix.all = append(ix.all, search.Value{RefType: "Patient", RefID: id})
		}
	})
	if p != nil && p.TokenID != "" {
		ix.put("policy", func() { ix.code(clean(jtiPrefix + uriSafe(p.TokenID))) })
	}
}

// entities returns which entities an event has, in their order: the patient, the
// query, the data, the request id and the details.
func entities(ev *Event, s *pattern, patient string) (person, query bool, data []DataRef, request, extra bool) {
	data = ev.Data
	if s.query || len(data) == 0 && ev.Query != "" {
		query, data = ev.Query != "", nil
	}
	return patient != "" && !s.closed, query, data, !s.closed && strings.TrimSpace(ev.RequestID) != "",
		!s.closed && len(ev.Extra) > 0
}

func entityRefs(ix *indexer, ev *Event, s *pattern, patient string) {
	person, _, data, request, _ := entities(ev, s, patient)
	ix.put("entity", func() {
		if person {
			ix.all = append(ix.all, search.Value{RefType: "Patient", RefID: patient})
		}
		for i := range data {
			if local(data[i].Ref) {
				ix.all = append(ix.all, search.Value{RefType: data[i].Ref.Type, RefID: data[i].Ref.ID})
			}
		}
		if request {
			ix.identifier("", ev.RequestID)
		}
	})
	ix.put("patient", func() {
		if id := patientAgent(ev); id != "" {
			ix.all = append(ix.all, search.Value{RefType: "Patient", RefID: id})
		}
		if person {
			ix.all = append(ix.all, search.Value{RefType: "Patient", RefID: patient})
		}
		for i := range data {
			if data[i].Ref.Type == "Patient" && local(data[i].Ref) {
				ix.all = append(ix.all, search.Value{RefType: "Patient", RefID: data[i].Ref.ID})
			}
		}
	})
}

func entityCodes(ix *indexer, ev *Event, s *pattern, patient string) {
	person, query, data, request, extra := entities(ev, s, patient)
	ix.put("entity-type", func() {
		if person {
			ix.coding(entityPerson.coding)
		}
		if query {
			ix.coding(entityObject.coding)
		}
		for range data {
			ix.coding(entityObject.coding)
		}
		if request {
			ix.coding(entityRequest.coding)
		}
		if extra {
			ix.coding(entityOther.coding)
		}
	})
	ix.put("entity-role", func() {
		if person {
			ix.coding(rolePatient.coding)
		}
		if query {
			ix.coding(s.queryRole().coding)
		}
		for range data {
			ix.coding(roleResource.coding)
		}
	})
}

// local reports whether ref can be written as a literal reference.
func local(ref fhir.Ref) bool {
	parsed, ok := fhir.ParseRef(ref.String())
	return ok && parsed == ref && letters(ref.Type)
}
