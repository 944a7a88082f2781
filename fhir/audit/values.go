package audit

import (
	"maps"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// index collects the values of an AuditEvent under the search parameters of
// its type, from what build knew: to parse the bytes again would cost more
// than to make them. A test holds it to search.Extract.
type index struct {
	all []search.Value
	m   map[string][]search.Value
}

// put files what fill adds under a parameter.
func (x *index) put(param string, fill func()) {
	from := len(x.all)
	fill()
	if to := len(x.all); to > from {
		x.m[param] = x.all[from:to:to]
	}
}

func (x *index) code(s string) { x.all = append(x.all, search.Value{Code: s}) }

func (x *index) coding(c element.Coding) {
	x.all = append(x.all, search.Value{System: c.System, Code: clean(c.Code), Text: search.Fold(c.Display)})
}

func (x *index) words(s string) {
	s = clean(s)
	x.all = append(x.all, search.Value{Code: s, Text: search.Fold(s)})
}

func (x *index) identifier(system, value string) {
	if value = clean(value); value != "" {
		x.all = append(x.all, search.Value{HasSystem: true, System: clean(system), Code: value})
	}
}

// frameValues are the values that all events of a frame have.
func (r *Recorder) frameValues(ev *Event, f *frame, patient string) map[string][]search.Value {
	s := &f.shape
	x := &index{m: map[string][]search.Value{}}
	if s.profile != "" {
		x.put("_profile", func() { x.code(profileBase + s.profile) })
	}
	x.put("action", func() { x.code(actions[s.action]) })
	x.put("outcome", func() { x.code(clean(f.outcome)) })
	x.put("type", func() { x.coding(s.typ) })
	x.put("subtype", func() {
		for _, c := range s.subtypes {
			x.coding(c)
		}
	})
	x.put("source", func() { x.identifier(element.URI, r.opts.Observer) })
	r.agentValues(x, ev)
	if len(ev.Data) <= 1 {
		entityCodes(x, ev, s, patient)
	}
	return x.m
}

// eventValues are the index values of one event.
func eventValues(ev *Event, f *frame, id string, at time.Time, patient string) *search.Values {
	x := &index{all: make([]search.Value, 0, 5+2*len(ev.Data)), m: make(map[string][]search.Value, len(f.values)+6)}
	maps.Copy(x.m, f.values)
	ms := at.UnixMilli()
	x.put("_id", func() { x.code(id) })
	x.put("date", func() { x.all = append(x.all, search.Value{Lo: ms, Hi: ms + 1}) })
	entityRefs(x, ev, &f.shape, patient)
	if len(ev.Data) > 1 {
		entityCodes(x, ev, &f.shape, patient)
	}
	v := &search.Values{ByParam: x.m, Start: ms, End: ms + 1}
	if ps := x.m["patient"]; len(ps) > 0 {
		v.Patient = ps[0].RefID
	}
	return v
}

// actions spare the conversion of a byte.
var actions = [256]string{'C': "C", 'R': "R", 'U': "U", 'D': "D", 'E': "E"} // read only

func (r *Recorder) agentValues(x *index, ev *Event) {
	p := ev.Principal
	token := p != nil && p.TokenID != "" && ev.Type != TokenIssue
	x.put("address", func() {
		if a := clientAddress(ev); a != "" {
			x.words(a)
		}
		x.words(r.opts.Observer)
	})
	x.put("agent", func() {
		switch {
		case p == nil:
		case p.ClientID == "" && p.Operator == "" && p.Subject != "":
			x.identifier(uriSafe(p.Issuer), nonBlank(p.Subject, "unknown"))
		case p.ClientID != "":
			x.identifier("", nonBlank(p.ClientID, "unknown"))
		default:
			x.identifier("", nonBlank(p.Operator, "unknown"))
		}
		x.identifier(element.URI, r.opts.Observer)
		if token {
			system := ""
			if p.Issuer != "" {
				system = uriSafe(p.Issuer)
			}
			x.identifier(system, nonBlank(p.Subject, p.ClientID))
		}
		if namesPerson(ev) {
			system := ""
			if p.Issuer != "" {
				system = uriSafe(p.Issuer)
			}
			x.identifier(system, p.Subject)
		}
	})
	if p != nil && p.TokenID != "" {
		x.put("policy", func() { x.code(clean(jtiPrefix + uriSafe(p.TokenID))) })
	}
}

// entities says which entities an event has, in their order: the patient, the
// query, the data, the request id, and the rest.
func entities(ev *Event, s *shape, patient string) (person, query bool, data []DataRef, request, extra bool) {
	data = ev.Data
	if s.query || len(data) == 0 && ev.Query != "" {
		query, data = ev.Query != "", nil
	}
	return patient != "" && !s.closed, query, data, !s.closed && strings.TrimSpace(ev.RequestID) != "",
		!s.closed && len(ev.Extra) > 0
}

func entityRefs(x *index, ev *Event, s *shape, patient string) {
	person, _, data, request, _ := entities(ev, s, patient)
	x.put("entity", func() {
		if person {
			x.all = append(x.all, search.Value{RefType: "Patient", RefID: patient})
		}
		for i := range data {
			if local(data[i].Ref) {
				x.all = append(x.all, search.Value{RefType: data[i].Ref.Type, RefID: data[i].Ref.ID})
			}
		}
		if request {
			x.identifier("", ev.RequestID)
		}
	})
	x.put("patient", func() {
		if person {
			x.all = append(x.all, search.Value{RefType: "Patient", RefID: patient})
		}
		for i := range data {
			if data[i].Ref.Type == "Patient" && local(data[i].Ref) {
				x.all = append(x.all, search.Value{RefType: "Patient", RefID: data[i].Ref.ID})
			}
		}
	})
}

func entityCodes(x *index, ev *Event, s *shape, patient string) {
	person, query, data, request, extra := entities(ev, s, patient)
	x.put("entity-type", func() {
		if person {
			x.coding(entityPerson.coding)
		}
		if query {
			x.coding(entityObject.coding)
		}
		for range data {
			x.coding(entityObject.coding)
		}
		if request {
			x.coding(entityRequest.coding)
		}
		if extra {
			x.coding(entityOther.coding)
		}
	})
	x.put("entity-role", func() {
		if person {
			x.coding(rolePatient.coding)
		}
		if query {
			x.coding(s.queryRole().coding)
		}
		for range data {
			x.coding(roleResource.coding)
		}
	})
}

// local reports whether ref is written as a literal reference.
func local(ref fhir.Ref) bool {
	parsed, ok := fhir.ParseRef(ref.String())
	return ok && parsed == ref && letters(ref.Type)
}
