package audit

import (
	"strings"
	"time"

	"pulsegate/fhir"
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

func (x *index) coding(c coding) {
	x.all = append(x.all, search.Value{System: c.system, Code: clean(c.code), Text: search.Fold(c.display)})
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

// built is what build decided, for values.
type built struct {
	shape            shape
	id               string
	at               time.Time
	patient, outcome string
}

// values are the index values of the event.
func (r *Recorder) values(ev *Event, e *built) *search.Values {
	s := &e.shape
	x := &index{all: make([]search.Value, 0, 24+3*len(ev.Data)), m: make(map[string][]search.Value, 18)}
	ms := e.at.UnixMilli()
	x.put("_id", func() { x.code(e.id) })
	if s.profile != "" {
		x.put("_profile", func() { x.code(profileBase + s.profile) })
	}
	x.put("action", func() { x.code(actions[s.action]) })
	x.put("date", func() { x.all = append(x.all, search.Value{Lo: ms, Hi: ms + 1}) })
	x.put("outcome", func() { x.code(clean(e.outcome)) })
	x.put("type", func() { x.coding(s.typ) })
	x.put("subtype", func() {
		for _, c := range s.subtypes {
			x.coding(c)
		}
	})
	x.put("source", func() { x.identifier(sysURI, r.opts.Observer) })
	r.agentValues(x, ev)
	entityValues(x, ev, s, e.patient)
	v := &search.Values{ByParam: x.m, Start: ms, End: ms + 1}
	for i := range x.m["patient"] {
		v.Patient = x.m["patient"][i].RefID
		break
	}
	return v
}

// actions spare the conversion of a byte.
var actions = [256]string{'C': "C", 'R': "R", 'U': "U", 'D': "D", 'E': "E"} // read only

func (r *Recorder) agentValues(x *index, ev *Event) {
	p := ev.Principal
	token := p != nil && p.TokenID != "" && ev.Kind != TokenIssue
	x.put("address", func() {
		if a := clientAddress(ev); a != "" {
			x.words(a)
		}
		x.words(r.opts.Observer)
	})
	x.put("agent", func() {
		switch {
		case p == nil:
		case p.ClientID != "":
			x.identifier("", nonBlank(p.ClientID, "unknown"))
		default:
			x.identifier("", nonBlank(p.Operator, "unknown"))
		}
		x.identifier(sysURI, r.opts.Observer)
		if token {
			system := ""
			if p.Issuer != "" {
				system = uriSafe(p.Issuer)
			}
			x.identifier(system, nonBlank(p.Subject, p.ClientID))
		}
	})
	if p != nil && p.TokenID != "" {
		x.put("policy", func() { x.code(clean(jtiPrefix + uriSafe(p.TokenID))) })
	}
}

func entityValues(x *index, ev *Event, s *shape, patient string) {
	person := patient != "" && !s.closed
	asQuery := s.query || len(ev.Data) == 0 && ev.Query != ""
	query, data := asQuery && ev.Query != "", ev.Data
	if asQuery {
		data = nil
	}
	request := !s.closed && strings.TrimSpace(ev.RequestID) != ""
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
	x.put("entity-type", func() {
		if person {
			x.coding(entityPerson)
		}
		if query {
			x.coding(entityObject)
		}
		for range data {
			x.coding(entityObject)
		}
		if request {
			x.coding(entityRequest)
		}
		if !s.closed && len(ev.Extra) > 0 {
			x.coding(entityOther)
		}
	})
	x.put("entity-role", func() {
		if person {
			x.coding(rolePatient)
		}
		if query {
			x.coding(s.queryRole())
		}
		for range data {
			x.coding(roleResource)
		}
	})
}

// local reports whether ref is written as a literal reference.
func local(ref fhir.Ref) bool {
	parsed, ok := fhir.ParseRef(ref.String())
	return ok && parsed == ref && letters(ref.Type)
}

// clean is s as appendString writes it and a reader of JSON gets it back.
func clean(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 && c != '\n' && c != '\r' && c != '\t' || c >= 0x7f {
			return cleaned(s)
		}
	}
	return s
}

func cleaned(s string) string {
	var b strings.Builder
	for _, r := range s { // broken UTF-8 ranges as U+FFFD, byte by byte
		if r < 0x20 && r != '\n' && r != '\r' && r != '\t' || r == 0x7f {
			r = '\uFFFD'
		}
		b.WriteRune(r)
	}
	return b.String()
}
