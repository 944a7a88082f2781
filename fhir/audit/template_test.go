package audit

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// TestEventsShareTemplate checks that reads, searches and rejections of one caller
// use the store template from the second event on, and that events with a varying
// number of slots do not.
func TestEventsShareTemplate(t *testing.T) {
	r, err := NewRecorder(Options{Store: nullStore{}, Clock: time.Now, Rand: rand.NewChaCha8([32]byte{}),
		Observer: "https://x.example/fhir"})
	if err != nil {
		t.Fatal(err)
	}
	p := &access.Principal{ClientID: "c", ClientName: `"quoted" \ name`, TokenID: "j", Issuer: "https://i.example",
		Subject: "c"}
	data := func(n, version int) []DataRef {
		return []DataRef{{Ref: fhir.Ref{Type: "Observation", ID: fmt.Sprint("o", n)}, Version: uint64(version)}}
	}
	for name, c := range map[string]struct {
		make     func(n int) Event
		template bool
	}{
		"read": {func(n int) Event {
			return Event{Type: Rest, Interaction: "read", Patient: fmt.Sprint("p", n), Data: data(n, 1+n*n)}
		}, true},
		"refused": {func(n int) Event {
			return Event{Type: Rest, Interaction: "read", Outcome: Minor, Reason: "x", Data: data(n, 0)}
		}, true},
		"search": {func(n int) Event {
			return Event{Type: Rest, Interaction: "search-type", Query: fmt.Sprint("GET x?", n)}
		}, true},
		"two": {func(n int) Event {
			return Event{Type: Rest, Interaction: "read", Data: append(data(n, 1), data(n+1, 1)...)}
		}, false},
		"extra": {func(n int) Event {
			return Event{Type: Rest, Interaction: "read", Data: data(n, 1), Extra: [][2]string{{"a", "b"}}}
		}, false},
		"token": {func(n int) Event { return Event{Type: TokenIssue, Query: "grant_type=x"} }, false},
	} {
		var first *store.Template
		for n := range 5 {
			ev := c.make(n)
			ev.Principal, ev.RemoteIP, ev.RequestID = p, "127.0.0.1", fmt.Sprintf(`id"%d<`, n)
			w, leaf, err := r.Prepare(ev)
			if err != nil {
				t.Fatal(err)
			}
			if (w.Template != nil) != (c.template && n > 0) {
				t.Fatalf("%s %d: template %v", name, n, w.Template != nil)
			}
			if f, ok := parseLeaf(leaf); !ok || !f.matches(w.Resource.JSON) {
				t.Fatalf("%s: the leaf does not match the event", name)
			}
			if w.Template == nil {
				continue
			}
			if first == nil {
				first = w.Template
			}
			slots := store.AppendSlots(nil, w.Resource.JSON, w.Cuts)
			json, ok := w.Template.JSON("AuditEvent", w.Resource.ID, slots)
			if w.Template != first || !ok || string(json) != string(w.Resource.JSON) || len(slots) > 250 {
				t.Errorf("%s: slots of %d bytes give %s", name, len(slots), json)
			}
		}
	}
}
