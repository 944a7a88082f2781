package subscription

import (
	"encoding/hex"
	"io"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// event is one numbered event, as it is stored.
type event struct {
	Number  uint64    `json:"n"`
	At      time.Time `json:"at"`
	ID      string    `json:"id"` // id of the Observation
	Version uint64    `json:"v"`
	Created bool      `json:"c,omitempty"`
}

// item is an event with the parts of it that the owner may see.
type item struct {
	event
	visible bool
	patient string
	json    []byte
}

// header holds the parts of a SubscriptionStatus that do not depend on events.
type header struct {
	id, status, notificationType, criteria string
	total                                  uint64
	content                                Content
	reason                                 string // for status error
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
			b = element.AppendHTMLSafe(b, base+"/Observation/"+it.ID)
			b = append(b, `}}`...)
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
	for i := range items {
		it := &items[i]
		if !it.visible || h.content == empty {
			continue
		}
		b = append(b, `,{"fullUrl":`...)
		b = element.AppendHTMLSafe(b, base+"/Observation/"+it.ID)
		if h.content == fullResource {
			b = append(b, `,"resource":`...)
			b = append(b, it.json...)
		}
		if it.Created {
			b = append(b, `,"request":{"method":"POST","url":"Observation"},"response":{"status":"201"}}`...)
		} else {
			b = append(b, `,"request":{"method":"PUT","url":`...)
			b = element.AppendHTMLSafe(b, "Observation/"+it.ID)
			b = append(b, `},"response":{"status":"200"}}`...)
		}
	}
	return append(b, `]}`...)
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
