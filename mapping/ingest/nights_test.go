package ingest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
)

// sleepSegment is one segment of sleep.
type sleepSegment struct{ source, from, to, stage string }

// json returns the segment as Health Auto Export pushes it.
func (s sleepSegment) json() string {
	return fmt.Sprintf(`{"source":%q,"startDate":%q,"endDate":%q,"value":%q,"qty":1}`, s.source, s.from, s.to, s.stage)
}

// xml returns the segment as a record of an export.
func (s sleepSegment) xml() string {
	stage := map[string]string{"In Bed": "InBed", "Awake": "Awake", "Asleep": "AsleepUnspecified"}[s.stage]
	if stage == "" {
		stage = "Asleep" + s.stage
	}
	return fmt.Sprintf(`<Record type="HKCategoryTypeIdentifierSleepAnalysis" sourceName="%s" sourceVersion="11.0" device="&lt;&lt;HKDevice: 0x1&gt;, name:Apple Watch, manufacturer:Apple Inc., model:Watch, hardware:Watch6,7&gt;" startDate="%s" endDate="%s" value="HKCategoryValueSleepAnalysis%s"><MetadataEntry key="HKTimeZone" value="Europe/Paris"/></Record>`,
		s.source, s.from, s.to, stage)
}

func pushPayload(segments ...sleepSegment) string {
	var rows []string
	for _, s := range segments {
		rows = append(rows, s.json())
	}
	return haePayload(`{"name":"sleep_analysis","units":"hr","data":[` + strings.Join(rows, ",") + `]}`)
}

func haePayload(metrics string) string { return `{"data":{"metrics":[` + metrics + `]}}` }

// chartNight is one night of the chart.
type chartNight struct{ from, to, minutes, status string }

func (n chartNight) String() string {
	return n.from + " to " + n.to + ": " + n.minutes + " min, " + n.status
}

// nights returns the nights of the chart that are not retracted, by time.
func (w *world) nights() []chartNight {
	var out []chartNight
	for _, o := range w.chart("93832-4") {
		out = append(out, chartNight{o.EffectivePeriod.Start, o.EffectivePeriod.End, o.Quantity.Value.String(),
			o.Status})
	}
	slices.SortFunc(out, func(a, b chartNight) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// seenObservation holds the elements that tests compare.
type seenObservation struct {
	storedElements
	ID   string
	Code struct {
		Coding []coding `json:"coding"`
	} `json:"code"`
	Quantity struct {
		Value json.Number `json:"value"`
	} `json:"valueQuantity"`
	Component []struct {
		Code struct {
			Coding []coding `json:"coding"`
		} `json:"code"`
		Quantity struct {
			Value json.Number `json:"value"`
			Unit  string      `json:"unit"`
		} `json:"valueQuantity"`
	} `json:"component"`
	raw fhir.Resource
}

// chart returns the Observations with a code that are not retracted.
func (w *world) chart(code string) []seenObservation {
	w.t.Helper()
	var out []seenObservation
	for id, r := range w.containing("Observation", `"`+code+`"`) {
		o := seenObservation{ID: id, raw: r}
		if err := json.Unmarshal(r.JSON, &o); err != nil {
			w.t.Fatal(err)
		}
		if o.Status != "entered-in-error" &&
			slices.ContainsFunc(o.Code.Coding, func(c coding) bool { return c.Code == code }) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b seenObservation) int { return strings.Compare(a.ID, b.ID) })
	return out
}

func (w *world) wantNights(want ...string) {
	w.t.Helper()
	var got []string
	for _, n := range w.nights() {
		got = append(got, n.String())
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("nights\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

var (
	lateEvening = []sleepSegment{{"Band", "2026-04-14 22:40:00 +0200", "2026-04-15 01:10:00 +0200", "Core"},
		{"Band", "2026-04-15 01:10:00 +0200", "2026-04-15 02:40:00 +0200", "Deep"}}
	smallHours = []sleepSegment{{"Band", "2026-04-15 02:40:00 +0200", "2026-04-15 04:40:00 +0200", "REM"},
		{"Band", "2026-04-15 04:40:00 +0200", "2026-04-15 06:40:00 +0200", "Core"}}
)

// TestNightOfTwoPushes checks that a night is derived from all stored segments
// of its source, whichever payloads delivered them, in any order.
func TestNightOfTwoPushes(t *testing.T) {
	for _, order := range [][][]sleepSegment{{lateEvening, smallHours}, {smallHours, lateEvening},
		{lateEvening, smallHours, lateEvening}, {smallHours, lateEvening, smallHours}} {
		w := newWorld(t)
		for _, p := range order {
			w.must("apple", "a.json", pushPayload(p...))
		}
		w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T06:40:00+02:00: 480 min, amended")
	}
	w := newWorld(t)
	w.must("apple", "a.json", pushPayload(append(slices.Clone(lateEvening), smallHours...)...))
	w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T06:40:00+02:00: 480 min, final")
	before := w.pipeline.Store.LastSeq()
	w.must("apple", "a.json", pushPayload(append(slices.Clone(lateEvening), smallHours...)...))
	if w.pipeline.Store.LastSeq() != before+1 { // the AuditEvent
		t.Errorf("a repeat made %d commits", w.pipeline.Store.LastSeq()-before)
	}
}

// TestTwoNightsBecomeOne checks that two halves are two nights until the
// segments between them arrive, and that one of them is then retracted.
func TestTwoNightsBecomeOne(t *testing.T) {
	w := newWorld(t)
	w.must("apple", "a.json", pushPayload(sleepSegment{"Band", "2026-04-14 21:00:00 +0200",
		"2026-04-14 23:30:00 +0200", "Core"}))
	w.must("apple", "b.json", pushPayload(sleepSegment{"Band", "2026-04-15 03:00:00 +0200",
		"2026-04-15 06:00:00 +0200", "Core"}))
	w.wantNights("2026-04-14T21:00:00+02:00 to 2026-04-14T23:30:00+02:00: 150 min, final",
		"2026-04-15T03:00:00+02:00 to 2026-04-15T06:00:00+02:00: 180 min, final")
	w.must("apple", "c.json", pushPayload(sleepSegment{"Band", "2026-04-15 00:30:00 +0200",
		"2026-04-15 02:00:00 +0200", "REM"}))
	w.wantNights("2026-04-14T21:00:00+02:00 to 2026-04-15T06:00:00+02:00: 420 min, amended")
	gone := 0
	for _, o := range w.all("Observation") {
		if strings.Contains(string(o.JSON), `"status":"entered-in-error"`) {
			gone++
			if !strings.Contains(string(o.JSON), `"value":150`) {
				t.Errorf("%s", o.JSON)
			}
		}
	}
	if gone != 1 {
		t.Errorf("%d were taken back, want the first half", gone)
	}
}

// TestNightsBySource checks that the nights of two sources, and of other days,
// are separate.
func TestNightsBySource(t *testing.T) {
	w := newWorld(t)
	w.must("apple", "a.json", pushPayload(lateEvening...))
	var other []sleepSegment
	for _, s := range lateEvening {
		s.source = "Ring"
		other = append(other, s)
	}
	w.must("apple", "b.json", pushPayload(other...))
	w.must("apple", "c.json", pushPayload(sleepSegment{"Band", "2026-04-15 14:00:00 +0200",
		"2026-04-15 14:40:00 +0200", "Asleep"}))
	w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T02:40:00+02:00: 240 min, final",
		"2026-04-14T22:40:00+02:00 to 2026-04-15T02:40:00+02:00: 240 min, final",
		"2026-04-15T14:00:00+02:00 to 2026-04-15T14:40:00+02:00: 40 min, final")
}

// TestNightWithClockChange checks that the minutes are the elapsed ones and
// that start and end are written with their own offsets.
func TestNightWithClockChange(t *testing.T) {
	for _, c := range []struct{ evening, morning, minutes string }{
		{"2026-03-28 23:00:00 +0100", "2026-03-29 07:00:00 +0200", "420"},
		{"2026-10-24 23:00:00 +0200", "2026-10-25 07:00:00 +0100", "540"},
	} {
		w := newWorld(t)
		middle := strings.Replace(c.morning, " 07", " 03", 1)
		w.must("apple", "b.json", pushPayload(sleepSegment{"Band", middle, c.morning, "Core"}))
		w.must("apple", "a.json", pushPayload(sleepSegment{"Band", c.evening, middle, "Core"}))
		iso := func(s string) string {
			return strings.Replace(s[:len(s)-2], " ", "T", 1)[:19] + s[20:23] + ":00"
		}
		w.wantNights(iso(c.evening) + " to " + iso(c.morning) + ": " + c.minutes + " min, amended")
	}
}

// TestNightInProgress checks that a night that may continue is preliminary, and
// becomes final with the first delivery after it has ended.
func TestNightInProgress(t *testing.T) {
	w := newWorld(t)
	clock := clocktest.At(time.Date(2026, 4, 15, 5, 10, 0, 0, time.UTC))
	w.pipeline.Clock = clock.Now
	w.must("apple", "a.json", pushPayload(append(slices.Clone(lateEvening), smallHours...)...))
	w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T06:40:00+02:00: 480 min, preliminary")
	clock.Add(4 * time.Hour)
	w.must("apple", "b.json", haePayload(
		`{"name":"step_count","units":"count","data":[{"date":"2026-04-15 08:12:00 +0200","qty":11,"source":"Band"}]}`))
	w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T06:40:00+02:00: 480 min, final")
}

// statedNight returns a night that the source states as a whole.
func statedNight(source, from, to, hours string) string {
	return haePayload(fmt.Sprintf(`{"name":"sleep_analysis","units":"hr","data":[{"date":"2026-04-15 00:00:00 +0200","source":%q,"sleepStart":%q,"sleepEnd":%q,"totalSleep":%s,"core":%s,"deep":0,"rem":0,"asleep":0,"awake":0,"inBed":0}]}`,
		source, from, to, hours, hours))
}

// TestStatedNight checks that a stated night keeps its identity when it is
// stated with another start, and that a night derived from segments replaces
// it.
func TestStatedNight(t *testing.T) {
	w := newWorld(t)
	w.must("apple", "a.json", statedNight("Band", "2026-04-14 23:05:00 +0200", "2026-04-15 06:40:00 +0200", "7"))
	id := w.chart("93832-4")[0].ID
	w.must("apple", "b.json", statedNight("Band", "2026-04-14 22:40:00 +0200", "2026-04-15 06:40:00 +0200", "7.5"))
	w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T06:40:00+02:00: 450 min, amended")
	if again := w.chart("93832-4")[0].ID; again != id {
		t.Errorf("the night %s became %s", id, again)
	}
	w.must("apple", "b.json", statedNight("Ring", "2026-04-14 22:40:00 +0200", "2026-04-15 06:40:00 +0200", "6"))
	if n := len(w.nights()); n != 2 {
		t.Errorf("%d nights of two sources", n)
	}
	told := statedNight("Band", "2026-04-14 23:05:00 +0200", "2026-04-15 06:40:00 +0200", "7")
	segments := pushPayload(append(slices.Clone(lateEvening), smallHours...)...)
	for _, order := range [][]string{{told, segments}, {segments, told}, {told, segments, told}} {
		w := newWorld(t)
		for _, p := range order {
			w.must("apple", "a.json", p)
		}
		w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T06:40:00+02:00: 480 min, final")
	}
	// Several sources are stated as one.
	told = statedNight("Phone|Band", "2026-04-14 23:05:00 +0200", "2026-04-15 06:40:00 +0200", "7")
	for _, order := range [][]string{{told, segments}, {segments, told}, {told, segments, told}} {
		w := newWorld(t)
		for _, p := range order {
			w.must("apple", "a.json", p)
		}
		w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T06:40:00+02:00: 480 min, final")
	}
	// A stated night covers two stored ones.
	w = newWorld(t)
	w.must("apple", "a.json", statedNight("Band", "2026-04-14 22:40:00 +0200", "2026-04-15 02:00:00 +0200", "3"))
	w.must("apple", "a.json", statedNight("Band", "2026-04-15 03:00:00 +0200", "2026-04-15 06:00:00 +0200", "3"))
	w.must("apple", "a.json", statedNight("Band", "2026-04-14 22:40:00 +0200", "2026-04-15 06:00:00 +0200", "6.5"))
	w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T06:00:00+02:00: 390 min, amended")
}

// TestMovedSegment checks that time that a segment no longer covers leaves the
// night.
func TestMovedSegment(t *testing.T) {
	w := newWorld(t)
	seg := func(version int, from, to, stage string) string {
		return exportXML(strings.Replace(sleepSegment{"App", from, to, stage}.xml(), "<MetadataEntry",
			fmt.Sprintf(`<MetadataEntry key="HKMetadataKeySyncIdentifier" value="s1"/><MetadataEntry key="HKMetadataKeySyncVersion" value="%d"/><MetadataEntry`, version), 1))
	}
	w.must("apple", "export.xml", seg(1, "2026-04-11 23:00:00 +0200", "2026-04-12 06:00:00 +0200", "Core"))
	w.wantNights("2026-04-11T23:00:00+02:00 to 2026-04-12T06:00:00+02:00: 420 min, final")
	w.must("apple", "export.xml", seg(2, "2026-04-21 23:00:00 +0200", "2026-04-22 05:00:00 +0200", "Core"))
	w.wantNights("2026-04-21T23:00:00+02:00 to 2026-04-22T05:00:00+02:00: 360 min, final")
	w.must("apple", "export.xml", seg(1, "2026-04-11 23:00:00 +0200", "2026-04-12 06:00:00 +0200", "Core"))
	w.wantNights("2026-04-21T23:00:00+02:00 to 2026-04-22T05:00:00+02:00: 360 min, final")
}

// failingStore fails the n-th commit from now.
type failingStore struct {
	store.Store
	left int
}

// TestNightsAfterCrash checks that the next delivery derives the night if a
// delivery ends between its segments and the night.
func TestNightsAfterCrash(t *testing.T) {
	w := newWorld(t)
	sound := w.pipeline.Store
	w.pipeline.Store = &failingStore{sound, 1}
	if _, err := w.run("apple", "a.json", pushPayload(lateEvening...)); err == nil {
		t.Fatal("no error")
	}
	w.pipeline.Store = sound
	w.wantNights()
	w.must("apple", "b.json", haePayload(
		`{"name":"step_count","units":"count","data":[{"date":"2026-04-15 08:12:00 +0200","qty":11,"source":"Band"}]}`))
	w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T02:40:00+02:00: 240 min, final")
}

// TestNightsDoNotDependOnOrder checks that any split, order and repetition of
// payloads, by either channel, results in the same chart.
func TestNightsDoNotDependOnOrder(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		at := time.Date(2026, 3, 27, 20, 0, 0, 0, paris) // three nights, one with a clock change
		var all []sleepSegment
		seen := map[sleepSegment]bool{} // a second stage for an interval would be a restatement
		for range rapid.IntRange(1, 8).Draw(t, "segments") {
			from := at.Add(time.Duration(rapid.IntRange(0, 3*24*6).Draw(t, "start")) * 10 * time.Minute)
			to := from.Add(time.Duration(rapid.IntRange(1, 20).Draw(t, "length")) * 10 * time.Minute)
			all = append(all, sleepSegment{rapid.SampledFrom([]string{"Band", "Ring"}).Draw(t, "source"),
				from.Format("2006-01-02 15:04:05 -0700"), to.Format("2006-01-02 15:04:05 -0700"),
				rapid.SampledFrom([]string{"Core", "Deep", "REM", "Awake", "In Bed", "Asleep"}).Draw(t, "stage")})
			last := all[len(all)-1]
			if last.stage = ""; seen[last] {
				all = all[:len(all)-1]
			}
			seen[last] = true
		}
		xml := rapid.Bool().Draw(t, "xml")
		payload := func(ss []sleepSegment) (string, string) {
			if !xml {
				return "a.json", pushPayload(ss...)
			}
			var records []string
			for _, s := range ss {
				records = append(records, s.xml())
			}
			return "export.xml", exportXML(records...)
		}
		chart := func(w *world) string {
			lines := map[string]bool{}
			for _, o := range w.chart("93832-4") {
				line := o.EffectivePeriod.Start + " " + o.EffectivePeriod.End + " " + o.Quantity.Value.String() +
					" " + o.ID
				for _, c := range o.Component {
					line += " " + c.Code.Coding[0].Code + " " + c.Quantity.Value.String()
				}
				lines[line] = true
			}
			return strings.Join(slices.Sorted(maps.Keys(lines)), "\n")
		}
		one, done := newWorldOf(t)
		defer done()
		name, body := payload(all)
		one.must("apple", name, body)
		want := chart(one)
		many, done := newWorldOf(t)
		defer done()
		shuffled := rapid.Permutation(all).Draw(t, "order")
		for len(shuffled) > 0 {
			n := rapid.IntRange(1, len(shuffled)).Draw(t, "payload")
			name, body := payload(shuffled[:n])
			many.must("apple", name, body)
			if rapid.Bool().Draw(t, "again") {
				many.must("apple", name, body)
			}
			if n > 1 && rapid.Bool().Draw(t, "overlap") {
				n--
			}
			shuffled = shuffled[n:]
		}
		if got := chart(many); got != want {
			t.Fatalf("in parts\n%s\nwant\n%s", got, want)
		}
	})
}

func (b *failingStore) Commit(ctx context.Context, x *store.Batch) (store.Result, error) {
	if b.left--; b.left < 0 {
		return store.Result{}, fhir.Errorf(fhir.Unavailable, "test", "the store has stopped")
	}
	return b.Store.Commit(ctx, x)
}

// TestDenseNights checks that no night is missing if a period has more segments
// than are read for it.
func TestDenseNights(t *testing.T) {
	const nights, perNight = 350, 640 // segments of 45 seconds in nights of 8 hours
	var x strings.Builder
	x.WriteString(`<HealthData>`)
	begin := time.Date(2025, 11, 1, 22, 0, 0, 0, time.UTC)
	stages := []string{"Core", "Deep"}
	for n := range nights {
		at := begin.AddDate(0, 0, n)
		for i := range perNight {
			end := at.Add(45 * time.Second)
			x.WriteString(sleepSegment{"Watch", at.Format("2006-01-02 15:04:05 -0700"),
				end.Format("2006-01-02 15:04:05 -0700"), stages[i%2]}.xml())
			at = end
		}
	}
	x.WriteString(`</HealthData>`)
	w := newWorld(t)
	w.must("apple", "export.xml", x.String())
	got := w.nights()
	if len(got) != nights {
		t.Errorf("%d nights, want %d", len(got), nights)
	}
	for _, n := range got {
		if n.minutes != "480" || n.status != "final" {
			t.Fatal(n)
		}
	}
}
