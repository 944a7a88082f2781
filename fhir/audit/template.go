package audit

import (
	"strings"
	"sync/atomic"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// template holds most of the bytes and index values of all events with one
// templateKey. A busy client produces thousands of events per second that differ
// only in id, time, resource and request id.
type template struct {
	pattern pattern
	outcome string
	// head holds the bytes from after `"meta":{` to the time, tail those from the
	// time to the entities.
	head, tail []byte
	values     map[string][]search.Value
	// stored is set by the second event with this template; met by the first.
	met    atomic.Bool
	stored atomic.Pointer[store.Template]
}

// storeTemplate returns the store's template for an event with slots at cuts, or
// nil if the event must be stored whole.
func (t *template) storeTemplate(body []byte, id string, cuts []int) *store.Template {
	if len(cuts) == 0 || !t.met.Load() && !t.met.Swap(true) {
		return nil
	}
	from := len(fhir.Prefix("AuditEvent", id))
	stored := t.stored.Load()
	if stored == nil {
		stored = store.NewTemplate(body, from, cuts)
		t.stored.Store(stored)
	}
	if stored == nil || !stored.Fits(body, from, cuts) {
		return nil
	}
	return stored
}

// templateKey holds everything that a template depends on.
type templateKey struct {
	typ                                                      EventType
	interaction, outcome, reason, address                    string
	clientID, clientName, subject, issuer, tokenID, operator string
	patientAgent                                             string
	principal, person, query, request, extra                 bool
	data                                                     uint8 // 0, 1, or 2 for more
}

// maxTemplates bounds the number of cached templates, which take a few KiB each.
const maxTemplates = 1024

func keyOf(ev *Event, patient, outcome string) templateKey {
	k := templateKey{
		typ: ev.Type, interaction: ev.Interaction, outcome: outcome, reason: ev.Reason, address: clientAddress(ev),
		principal: ev.Principal != nil, person: patient != "", query: ev.Query != "",
		request: strings.TrimSpace(ev.RequestID) != "", extra: len(ev.Extra) > 0, data: uint8(min(len(ev.Data), 2)),
		patientAgent: patientAgent(ev),
	}
	if p := ev.Principal; p != nil {
		k.clientID, k.clientName, k.subject, k.issuer, k.tokenID, k.operator = p.ClientID, p.ClientName, p.Subject,
			p.Issuer, p.TokenID, p.Operator
	}
	return k
}

// template returns the template of an event from the cache or builds it.
func (r *Recorder) template(ev *Event, patient, outcome string) *template {
	if ev.Type == TokenIssue { // each event has another token
		return r.newTemplate(ev, patient, outcome)
	}
	k := keyOf(ev, patient, outcome)
	t, ok := r.templates.Get(k)
	if !ok {
		t = r.newTemplate(ev, patient, outcome)
		r.templates.Add(k, t)
	}
	return t
}

func (r *Recorder) newTemplate(ev *Event, patient, outcome string) *template {
	t := &template{pattern: patternOf(ev), outcome: outcome}
	s := &t.pattern
	s.claim(ev, patient, outcome)
	var b []byte
	if s.profile != "" {
		b = append(b, `"profile":["`...)
		b = append(b, profileBase...)
		b = append(b, s.profile...)
		b = append(b, `"]`...)
	}
	b = append(b, `},"type":`...)
	b = appendCoding(b, s.typ)
	b = append(b, `,"subtype":[`...)
	for i, c := range s.subtypes {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendCoding(b, c)
	}
	b = append(b, `],"action":"`...)
	b = append(b, s.action)
	t.head = append(b, `","recorded":"`...)

	b = append([]byte(nil), `","outcome":"`...)
	b = append(b, outcome...)
	b = append(b, '"')
	if outcome != Success && strings.TrimSpace(ev.Reason) != "" {
		b = append(b, `,"outcomeDesc":`...)
		b = appendString(b, ev.Reason)
	}
	b = append(b, `,"agent":[`...)
	b = r.appendAgents(b, ev, s)
	b = append(b, `],"source":{"observer":`...)
	b = append(b, r.observer...)
	b = append(b, `,"type":[`...)
	b = appendCoding(b, s.source)
	t.tail = append(b, `]}`...)
	t.values = r.templateValues(ev, t, patient)
	return t
}
