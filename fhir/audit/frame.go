package audit

import (
	"strings"
	"sync/atomic"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// frame is what all events of one caller and kind of request have in common:
// most of an event's bytes and index values. A busy client makes thousands of
// events a second that differ in id, time, resource and request id only.
type frame struct {
	shape   shape
	outcome string
	// head goes from behind `"meta":{` to the time, tail from the time to the
	// entities.
	head, tail []byte
	values     map[string][]search.Value
	// form is made when a second event of the frame comes.
	met  atomic.Bool
	form atomic.Pointer[store.Template]
}

// formOf is the form of an event whose own bytes are in cuts; nil when it has
// none.
func (f *frame) formOf(body []byte, id string, cuts []int) *store.Template {
	if len(cuts) == 0 || !f.met.Load() && !f.met.Swap(true) {
		return nil
	}
	from := len(fhir.Prefix("AuditEvent", id))
	x := f.form.Load()
	if x == nil {
		x = store.NewTemplate(body, from, cuts)
		f.form.Store(x)
	}
	if x == nil || !x.Fits(body, from, cuts) {
		return nil
	}
	return x
}

// frameKey is all that a frame depends on.
type frameKey struct {
	kind                                                EventType
	interaction, outcome, reason, address               string
	clientID, clientName, subject, issuer, jti, operate string
	principal, person, query, request, extra            bool
	data                                                uint8 // 0, 1, or 2 for more
}

// maxFrames bounds the memory of the frames (some KiB each).
const maxFrames = 1024

func keyOf(ev *Event, patient, outcome string) frameKey {
	k := frameKey{
		kind: ev.Type, interaction: ev.Interaction, outcome: outcome, reason: ev.Reason, address: clientAddress(ev),
		principal: ev.Principal != nil, person: patient != "", query: ev.Query != "",
		request: strings.TrimSpace(ev.RequestID) != "", extra: len(ev.Extra) > 0, data: uint8(min(len(ev.Data), 2)),
	}
	if p := ev.Principal; p != nil {
		k.clientID, k.clientName, k.subject, k.issuer, k.jti, k.operate = p.ClientID, p.ClientName, p.Subject,
			p.Issuer, p.TokenID, p.Operator
	}
	return k
}

// frame returns the frame of an event, made once.
func (r *Recorder) frame(ev *Event, patient, outcome string) *frame {
	if ev.Type == TokenIssue { // a token of its own each
		return r.newFrame(ev, patient, outcome)
	}
	k := keyOf(ev, patient, outcome)
	f, ok := r.frames.Get(k)
	if !ok {
		f = r.newFrame(ev, patient, outcome)
		r.frames.Add(k, f)
	}
	return f
}

func (r *Recorder) newFrame(ev *Event, patient, outcome string) *frame {
	f := &frame{shape: shapeOf(ev), outcome: outcome}
	s := &f.shape
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
	f.head = append(b, `","recorded":"`...)

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
	f.tail = append(b, `]}`...)
	f.values = r.frameValues(ev, f, patient)
	return f
}
