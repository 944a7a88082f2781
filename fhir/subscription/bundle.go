package subscription

import (
	"encoding/hex"
	"io"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/subscription/topic"
)

// event is one numbered event, as it is stored.
type event struct {
	Number  uint64    `json:"n"`
	At      time.Time `json:"at"`
	Type    string    `json:"y,omitempty"` // type of the resource, empty for Observation
	ID      string    `json:"id"`          // id of the resource
	Version uint64    `json:"v"`
	Created bool      `json:"c,omitempty"`
	Deleted bool      `json:"d,omitempty"`
}

// ref returns the resource of the event.
func (e *event) ref() fhir.Ref {
	if e.Type == "" {
		return fhir.Ref{Type: "Observation", ID: e.ID}
	}
	return fhir.Ref{Type: e.Type, ID: e.ID}
}

// by returns the interaction that the event tells of.
func (e *event) by() topic.Interaction {
	switch {
	case e.Deleted:
		return topic.Delete
	case e.Created:
		return topic.Create
	}
	return topic.Update
}

// item is an event with the parts of it that the owner may see.
type item struct {
	event
	visible  bool
	patients []string // to whom the resource belongs
	json     []byte   // nil for a deletion
	context  []related
}

// related is a resource that accompanies the focus of an event.
type related struct {
	ref      fhir.Ref
	version  uint64
	patients []string
	json     []byte
}

// header holds the parts of a SubscriptionStatus that do not depend on events.
type header struct {
	id, status, notificationType, criteria string
	total                                  uint64
	content                                Content
	reason                                 string // for status error
	// codes is set if events have trigger codes.
	codes bool
	spec  *Spec // nil if the configuration does not support the Subscription
}

// appendStatus appends the SubscriptionStatus as an R4 Parameters resource.
func appendStatus(b []byte, base, uuid string, h *header, items []item) []byte {
	b = append(b, `{"resourceType":"Parameters","id":"`...)
	b = append(b, uuid...)
	b = append(b, `","meta":{"profile":["`+extBase+
		`backport-subscription-status-r4"]},"parameter":[{"name":"subscription","valueReference":{"reference":`...)
	b = element.AppendHTMLSafe(b, base+"/Subscription/"+h.id)
	b = append(b, `}}`...)
	if h.content != empty {
		b = append(b, `,{"name":"topic","valueCanonical":`...)
		b = element.AppendHTMLSafe(b, h.criteria)
		b = append(b, '}')
	}
	b = append(b, `,{"name":"status","valueCode":`...)
	b = element.AppendHTMLSafe(b, h.status)
	b = append(b, `},{"name":"type","valueCode":`...)
	b = element.AppendHTMLSafe(b, h.notificationType)
	b = append(b, `},{"name":"events-since-subscription-start","valueString":"`...)
	b = strconv.AppendUint(b, h.total, 10)
	b = append(b, `"}`...)
	for i := range items {
		it := &items[i]
		b = append(b, `,{"name":"notification-event","part":[{"name":"event-number","valueString":"`...)
		b = strconv.AppendUint(b, it.Number, 10)
		b = append(b, `"},{"name":"timestamp","valueInstant":"`...)
		b = it.At.UTC().AppendFormat(b, fhir.InstantLayout)
		b = append(b, `"}`...)
		if it.visible && h.content != empty {
			b = append(b, `,{"name":"focus","valueReference":{"reference":`...)
			b = element.AppendHTMLSafe(b, base+"/"+it.ref().String())
			b = append(b, `}}`...)
			for _, r := range it.context {
				b = append(b, `,{"name":"additional-context","valueReference":{"reference":`...)
				b = element.AppendHTMLSafe(b, base+"/"+r.ref.String())
				b = append(b, `}}`...)
			}
		}
		if h.codes {
			for _, c := range topic.Codes(it.by()) {
				b = append(b, `,{"name":"trigger","valueCoding":`...)
				b = append(c.Append(b, element.AppendHTMLSafe), '}')
			}
		}
		b = append(b, `]}`...)
	}
	if h.reason != "" {
		b = append(b, `,{"name":"error","valueCodeableConcept":{"text":`...)
		b = element.AppendHTMLSafe(b, h.reason)
		b = append(b, `}}`...)
	}
	return append(b, `]}`...)
}

// appendNotification appends a notification Bundle.
func appendNotification(b []byte, base, bundleID, uuid string, at time.Time, h *header, items []item) []byte {
	b = append(b, `{"resourceType":"Bundle","id":"`...)
	b = append(b, bundleID...)
	b = append(b, `","meta":{"profile":["`+extBase+
		`backport-subscription-notification-r4"]},"type":"history","timestamp":"`...)
	b = at.UTC().AppendFormat(b, fhir.InstantLayout)
	b = append(b, `","entry":[{"fullUrl":"urn:uuid:`...)
	b = append(b, uuid...)
	b = append(b, `","resource":`...)
	b = appendStatus(b, base, uuid, h, items)
	b = append(b, `,"request":{"method":"GET","url":`...)
	b = element.AppendHTMLSafe(b, base+"/Subscription/"+h.id+"/$status")
	b = append(b, `},"response":{"status":"200"}}`...)
	shown := map[fhir.Ref]bool{}
	for i := range items {
		it := &items[i]
		if !it.visible || h.content == empty {
			continue
		}
		b = it.appendEntry(b, base, h.content)
		shown[it.ref()] = true
	}
	for i := range items {
		for _, r := range items[i].context {
			if !items[i].visible || h.content == empty || shown[r.ref] {
				continue
			}
			shown[r.ref] = true
			b = append(b, `,{"fullUrl":`...)
			b = element.AppendHTMLSafe(b, base+"/"+r.ref.String())
			if h.content == fullResource {
				b = append(append(b, `,"resource":`...), r.json...)
			}
			b = append(b, `,"request":{"method":"GET","url":`...)
			b = element.AppendHTMLSafe(b, r.ref.String())
			b = append(b, `},"response":{"status":"200"}}`...)
		}
	}
	return append(b, `]}`...)
}

// appendEntry appends the entry of the focus, with the request that caused the event.
func (e *item) appendEntry(b []byte, base string, content Content) []byte {
	ref := e.ref()
	b = append(b, `,{"fullUrl":`...)
	b = element.AppendHTMLSafe(b, base+"/"+ref.String())
	if content == fullResource && e.json != nil {
		b = append(b, `,"resource":`...)
		b = append(b, e.json...)
	}
	method, url, status := "PUT", ref.String(), "200"
	switch {
	case e.Deleted:
		method, status = "DELETE", "204"
	case e.Created:
		method, url, status = "POST", ref.Type, "201"
	}
	b = append(b, `,"request":{"method":"`+method+`","url":`...)
	b = element.AppendHTMLSafe(b, url)
	return append(b, `},"response":{"status":"`+status+`"}}`...)
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID(r io.Reader) (string, error) {
	var u [16]byte
	if _, err := io.ReadFull(r, u[:]); err != nil {
		return "", fhir.Wrap("subscription.newUUID", err)
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
}
