package ingest

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/mapping/sample"
)

// retract retracts data of Oura and checks how many Observations that changes.
func (w *world) retract(name string, want int, r Retraction) {
	w.t.Helper()
	r.Patient, r.Vendor, r.Caller = "p1", "oura", operator()
	sum, err := w.pipeline.Retract(w.t.Context(), r)
	if err != nil || sum.Counts != (Counts{Retracted: want}) {
		w.t.Fatalf("%s: %+v %v, want %d", name, sum.Counts, err, want)
	}
}

// TestRetractObject checks that all Observations of a deleted object are
// retracted, that the second call writes only an AuditEvent, and that a later
// delivery makes the object valid again.
func TestRetractObject(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		one, two := sleepDocument("n,1|$", oct(1, 23), 400, 41), sleepDocument("n2", oct(2, 23), 410, 42)
		w.expect("first", "oura", Counts{Read: 6, Created: 6}, nil, append(one, two...)...)
		w.retract("another type", 0, Retraction{Types: []string{"workout"}, VendorID: "n2"})
		w.retract("object", 3, Retraction{Types: []string{"sleep"}, VendorID: "n,1|$",
			Origin: Origin{Channel: "webhook", Link: "link-1"}})
		w.wantLabels("object", "-sleep n,1|$ 400", "-sleep.average_hrv n,1|$ 41", "-sleep.heart_rate n,1|$",
			"sleep n2 410", "sleep.average_hrv n2 42", "sleep.heart_rate n2")
		content, provenances, events := w.contentOf(), len(w.all("Provenance")), len(w.all("AuditEvent"))
		w.retract("again", 0, Retraction{Types: []string{"sleep"}, VendorID: "n,1|$"})
		if !maps.Equal(w.contentOf(), content) || len(w.all("Provenance")) != provenances ||
			len(w.all("AuditEvent")) != events+1 {
			t.Error("the second call wrote something")
		}
		w.expect("restated", "oura", Counts{Read: 3, Updated: 3}, nil, one...)
		for _, r := range w.all("Observation") {
			if bytes.Contains(r.JSON, []byte("n,1|$")) && (statusOf(r.JSON) != "amended" || r.Version != 3) {
				t.Errorf("%s", r.JSON)
			}
		}
		w.retract("any type", 3, Retraction{VendorID: "n2"})
	})
}

// TestRetractionIsRecorded checks the Provenance and the AuditEvent of a
// retraction.
func TestRetractionIsRecorded(t *testing.T) {
	w := newWorld(t)
	w.expect("first", "oura", Counts{Read: 3, Created: 3}, nil, sleepDocument("n1", oct(1, 23), 400, 41)...)
	before, events := w.all("Provenance"), w.all("AuditEvent")
	w.retract("object", 3, Retraction{Types: []string{"sleep"}, VendorID: "n1",
		Origin: Origin{Channel: "webhook", Link: "link-1"}})
	for id, r := range w.all("Provenance") {
		if _, old := before[id]; old {
			continue
		}
		for _, part := range []string{`"Organization/vendor-oura"`, `"code":"deprecate"`, `retraction-sha256`,
			`{"role":"source","what":{"identifier":{"system":"` + fhir.Canonical +
				`/identifier/link","value":"link-1"},"display":"webhook"}}]}`} {
			if !bytes.Contains(r.JSON, []byte(part)) {
				t.Errorf("no %s in %s", part, r.JSON)
			}
		}
		if n := bytes.Count(r.JSON, []byte(`"Observation/`)); n != 3 || bytes.Contains(r.JSON, []byte(`"n1"`)) {
			t.Errorf("%d Observations in %s", n, r.JSON)
		}
	}
	found := 0
	for id, r := range w.all("AuditEvent") {
		if _, old := events[id]; !old && bytes.Contains(r.JSON, []byte("retraction")) {
			found++
		}
	}
	if found != 1 || len(w.all("Provenance")) != len(before)+1 {
		t.Errorf("%d AuditEvents and %d Provenances", found, len(w.all("Provenance"))-len(before))
	}
}

// TestRetractTime checks the retraction of an interval and of days.
func TestRetractTime(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		w.expect("first", "oura", Counts{Read: 8, Created: 8}, nil, slices.Concat(
			[]any{pulse(oct(1, 8), 60), pulse(oct(1, 9), 61), pulse(oct(1, 10), 62)},
			sleepDocument("n1", oct(1, 23), 400, 41),
			activityDocument("a1", oct(1, 0), 100))...)
		w.retract("interval", 1, Retraction{Types: []string{"heartrate"}, From: oct(1, 9), To: oct(1, 10)})
		w.retract("again", 0, Retraction{Types: []string{"heartrate"}, From: oct(1, 9), To: oct(1, 10)})
		w.retract("by start", 0, Retraction{Types: []string{"sleep"}, From: oct(2, 0), To: oct(3, 0)})
		w.retract("by end", 3, Retraction{Types: []string{"sleep"}, From: oct(2, 0), To: oct(3, 0), ByEnd: true})
		w.retract("days", 2, Retraction{Types: []string{"daily_activity"}, From: oct(1, 0), To: oct(2, 0), Days: true})
		w.wantLabels("all", "heartrate 01T06:00:00 60", "-heartrate 01T07:00:00 61", "heartrate 01T08:00:00 62",
			"-sleep n1 400", "-sleep.average_hrv n1 41", "-sleep.heart_rate n1", "-daily_activity.steps a1 100",
			"-daily_activity.met a1")
	})
}

// TestRetractRemovesQuarantine checks that the items of a deleted object leave
// quarantine, so that a retry cannot make it valid, and that others stay.
func TestRetractRemovesQuarantine(t *testing.T) {
	w := newWorld(t)
	item := func(metric, id string) sample.Reject {
		return sample.Reject{Reason: sample.ReasonBadTime, Metric: metric, VendorID: id, Raw: []byte(metric + id)}
	}
	w.expect("first", "oura", Counts{Read: 4, Quarantined: 4}, nil, item("sleep", "n1"),
		item("sleep.average_hrv", "n1"),
		item("sleep", "n2"), item("workout", "n1"))
	w.retract("object", 0, Retraction{Types: []string{"sleep"}, VendorID: "n1"})
	var left []string
	for _, it := range w.items() {
		left = append(left, it.Metric+" "+it.VendorID)
	}
	slices.Sort(left)
	if !slices.Equal(left, []string{"sleep n2", "workout n1"}) {
		t.Errorf("%v", left)
	}
}

// TestBadRetractions checks that a retraction that names nothing, or two things,
// is refused and recorded.
func TestBadRetractions(t *testing.T) {
	w := newWorld(t)
	for name, r := range map[string]Retraction{
		"nothing":      {},
		"no types":     {From: oct(1, 0), To: oct(2, 0)},
		"no time":      {Types: []string{"sleep"}},
		"both":         {Types: []string{"sleep"}, VendorID: "n1", From: oct(1, 0), To: oct(2, 0)},
		"empty type":   {Types: []string{""}, VendorID: "n1"},
		"wrong order":  {Types: []string{"sleep"}, From: oct(2, 0), To: oct(1, 0)},
		"bad channel":  {Types: []string{"sleep"}, VendorID: "n1", Origin: Origin{Channel: "by Ada"}},
		"long channel": {Types: []string{"sleep"}, VendorID: "n1", Origin: Origin{Channel: strings.Repeat("a", 33)}},
		"bad link":     {Types: []string{"sleep"}, VendorID: "n1", Origin: Origin{Link: "a/b"}},
	} {
		events := len(w.all("AuditEvent"))
		r.Patient, r.Vendor, r.Caller = "p1", "oura", operator()
		if _, err := w.pipeline.Retract(t.Context(), r); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(w.all("AuditEvent")); n != events+1 {
			t.Errorf("%s: %d AuditEvents", name, n-events)
		}
	}
	for name, r := range map[string]Retraction{"patient": {Patient: "nobody", Vendor: "oura"},
		"vendor": {Patient: "p1", Vendor: "acme"}} {
		r.VendorID, r.Caller = "n1", operator()
		if _, err := w.pipeline.Retract(t.Context(), r); err == nil {
			t.Errorf("an unknown %s", name)
		}
	}
}

// TestOriginOfDelivery checks that the Provenance of a delivery names how it
// arrived, and nothing if that is not known.
func TestOriginOfDelivery(t *testing.T) {
	for _, c := range []struct {
		origin Origin
		want   string
	}{
		{Origin{}, `"}}}]}`},
		{Origin{Channel: "file"}, `"}}},{"role":"source","what":{"display":"file"}}]}`},
		{Origin{Link: "l1"}, `"}}},{"role":"source","what":{"identifier":{"system":"` + fhir.Canonical +
			`/identifier/link","value":"l1"}}}]}`},
	} {
		w := newWorld(t)
		sum, err := w.pipeline.Run(t.Context(), Request{Patient: "p1", Vendor: "oura", Name: "sleep.json",
			Body: strings.NewReader(night(27000)), Origin: c.origin, Caller: operator()})
		if err != nil || sum.Created != 1 {
			t.Fatalf("%+v %v", sum, err)
		}
		for _, r := range w.all("Provenance") {
			if !bytes.HasSuffix(r.JSON, []byte(c.want)) {
				t.Errorf("%s", r.JSON)
			}
		}
	}
}

// TestRetractUnidentifiedDocument checks that an object is found that another
// channel has restated without its id.
func TestRetractUnidentifiedDocument(t *testing.T) {
	w := newWorld(t)
	workout := func(id string, coarse bool) sample.Sample {
		s := sample.Sample{Metric: "HKWorkoutTypeIdentifier", Channel: "hae", VendorID: id, Coarse: coarse,
			Start: oct(1, 8), End: oct(1, 9),
			Value:  sample.Value{Kind: sample.Code, Text: "HKWorkoutActivityTypeRunning"},
			Source: sample.Source{Name: "Watch"}}
		if !coarse {
			s.Device = heartRate(time.Time{}, "").Device
		}
		return s
	}
	w.expect("with an id", "apple", Counts{Read: 1, Created: 1}, nil, workout("w1", true))
	w.expect("without", "apple", Counts{Read: 1, Updated: 1}, nil, workout("", false))
	r := Retraction{Patient: "p1", Vendor: "apple", Types: []string{"HKWorkoutTypeIdentifier"}, VendorID: "w1",
		Caller: operator()}
	if sum, err := w.pipeline.Retract(t.Context(), r); err != nil || sum.Retracted != 1 {
		t.Errorf("%+v %v", sum.Counts, err)
	}
}
