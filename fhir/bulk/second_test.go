package bulk

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// TestSecondPatientWithdraws checks that a resource that names two patients is not delivered
// any more once the second one has withdrawn the consent: in a download that is under way, in
// the next one, in deletions, and for each level, while resources of the first patient stay.
func TestSecondPatientWithdraws(t *testing.T) {
	w := newWorld(t)
	for _, p := range []string{"p1", "p2"} {
		w.put("Patient", p, "")
	}
	w.put("Group", "g", `,"type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p1"}}]`)
	appointment := func(id string, patients ...string) {
		var with []string
		for _, p := range patients {
			with = append(with, `{"actor":{"reference":"Patient/`+p+`"},"status":"accepted"}`)
		}
		w.put("Appointment", id, `,"status":"booked","comment":"`+strings.Repeat("x", 4000)+`","participant":[`+
			strings.Join(with, ",")+`]`)
	}
	c := w.caller("ehr")
	start := w.manifest(c, w.kick(c, Request{Level: System})).TransactionTime
	const n = 150
	for i := range n {
		appointment(fmt.Sprintf("own%03d", i), "p1")
		appointment(fmt.Sprintf("shared%03d", i), "p1", "p2")
		appointment(fmt.Sprintf("reversed%03d", i), "p2", "p1")
	}
	for _, id := range []string{"gone-own", "gone-shared"} {
		appointment(id, "p1", map[string]string{"gone-own": "p1", "gone-shared": "p2"}[id])
		w.remove("Appointment", id)
	}
	type count struct{ own, shared int }
	counts := func(text string) count {
		return count{strings.Count(text, `"id":"own`), strings.Count(text, `"id":"shared`) +
			strings.Count(text, `"id":"reversed`)}
	}
	ids := map[string]string{}
	for name, r := range map[string]Request{"system": {Level: System}, "patients": {Level: Patients},
		"group": {Level: Group, GroupID: "g"}} {
		r.Params = url.Values{"_type": {"Appointment"}, "_since": {start}}
		ids[name] = w.kick(c, r)
		if m := w.manifest(c, ids[name]); len(m.Deleted) != 1 {
			t.Fatalf("%s: deletions %v", name, m.Deleted)
		}
		if got := counts(w.text(c, ids[name], "Appointment.ndjson")); got != (count{n, 2 * n}) {
			t.Errorf("%s, with both consents: %+v", name, got)
		}
		if got := w.text(c, ids[name], deletedFile); strings.Count(got, "Appointment/gone-") != 2 {
			t.Errorf("%s, deletions with both consents: %s", name, got)
		}
	}
	f, err := w.exporter.Open(t.Context(), c, ids["system"], "Appointment.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	out, before := &withdrawing{}, count{}
	out.do = func() {
		before = counts(out.String())
		w.withdraw("p2")
	}
	if err := f.WriteTo(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	if got := counts(out.String()); before.own+before.shared == 0 || before.shared == 2*n ||
		got.shared != before.shared || got.own != n {
		t.Errorf("during a download: %+v, of which %+v were sent before", got, before)
	}
	for name, id := range ids {
		if got := counts(w.text(c, id, "Appointment.ndjson")); got != (count{n, 0}) {
			t.Errorf("%s, after the withdrawal: %+v", name, got)
		}
		if got := w.text(c, id, deletedFile); !strings.Contains(got, "Appointment/gone-own") ||
			strings.Contains(got, "gone-shared") {
			t.Errorf("%s, deletions after the withdrawal: %s", name, got)
		}
	}
}
