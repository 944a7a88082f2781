package ingest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir/store"
	"pulsegate/mapping/sample"
)

// points returns a page of list with one source, or a page of reconcile if
// source is "".
func points(source string, body ...string) string {
	var out []string
	for _, b := range body {
		if source != "" {
			b = `"dataSource":{"platform":"FITBIT","recordingMethod":"PASSIVELY_MEASURED","device":{"displayName":"` + source + `","formFactor":"WATCH"}},` + b
		}
		out = append(out, "{"+b+"}")
	}
	return `{"dataPoints":[` + strings.Join(out, ",") + `]}`
}

func heartRatePoint(second, rate int) string {
	return fmt.Sprintf(`"heartRate":{"beatsPerMinute":"%d","sampleTime":{"physicalTime":"2026-05-11T03:01:%02dZ","utcOffset":"7200s"}}`, rate, second)
}

func stepsPoint(minute, count int) string {
	return fmt.Sprintf(`"steps":{"count":"%d","interval":{"startTime":"2026-05-11T10:%02d:00Z","startUtcOffset":"7200s","endTime":"2026-05-11T10:%02d:00Z","endUtcOffset":"7200s"}}`, count, minute, minute+1)
}

// weightPoint returns a measurement that has no stream and is a document.
func weightPoint(grams int) string {
	return fmt.Sprintf(`"weight":{"sampleTime":{"physicalTime":"2026-05-11T05:00:00Z","utcOffset":"7200s"},"weightGrams":%d}`, grams)
}

// TestListAndReconcileAreOne checks that a measurement that list and reconcile
// both deliver is stored once, in either order, with the source that list
// states and a Provenance of each, and that measurements of one of them are
// kept.
func TestListAndReconcileAreOne(t *testing.T) {
	list := points("Sense", heartRatePoint(1, 61), heartRatePoint(6, 62), stepsPoint(0, 30), weightPoint(70500))
	merged := points("", heartRatePoint(1, 61), heartRatePoint(6, 62), heartRatePoint(11, 63), stepsPoint(0, 30),
		weightPoint(70500))
	for _, order := range [][]string{{list, merged}, {merged, list}} {
		w := newWorld(t)
		for _, p := range order {
			w.must("fitbit", "page.json", p)
		}
		if n := len(w.all("Provenance")); n != 2 {
			t.Errorf("%d Provenances, want one of each delivery", n)
		}
		t1 := w.pipeline.Store.LastSeq()
		for range 2 {
			for _, p := range order {
				if s := w.must("fitbit", "page.json", p); s.Created+s.Updated != 0 {
					t.Errorf("again: %+v", s.Counts)
				}
			}
		}
		if n := w.pipeline.Store.LastSeq() - t1; n != 4 { // the AuditEvents
			t.Errorf("%d commits for four repeats", n)
		}
		if n := len(w.all("Observation")); n != 5 {
			t.Errorf("%d Observations, want 5", n)
		}
		for _, o := range slices.Concat(w.chart("heart-rate"), w.chart("steps"), w.chart("weight")) {
			known := o.Quantity.Value.String() != "63"
			if known != (o.Device.Reference != "") {
				t.Errorf("the source: %s", o.raw.JSON)
			}
		}
		one := newWorld(t) // both pages in one payload
		one.must("fitbit", "page.json", order[0]+"\n"+order[1])
		if n := len(one.all("Observation")); n != 5 {
			t.Errorf("%d Observations of one body, want 5", n)
		}
		// Both restate the value, one after the other.
		w.must("fitbit", "page.json", points("", stepsPoint(0, 35)))
		w.must("fitbit", "page.json", points("Sense", stepsPoint(0, 35)))
		w.wantValue("steps", "35")
	}
}

// TestEqualValuesOfTwoSources checks that equal measurements of two sources are
// two Observations.
func TestEqualValuesOfTwoSources(t *testing.T) {
	for _, order := range [][]string{{"Sense", "Phone", ""}, {"", "Sense", "Phone"}, {"Sense", "", "Phone"}} {
		w := newWorld(t)
		for _, source := range order {
			w.must("fitbit", "page.json", points(source, stepsPoint(0, 30), heartRatePoint(1, 61)))
		}
		if n := len(w.chart("steps")) + len(w.chart("heart-rate")); n != 4 {
			t.Errorf("%v: %d Observations, want 4", order, n)
		}
	}
}

// stepsWithEnd returns a count of steps in an export. A push does not state its
// end.
func stepsWithEnd(from, to, count string) string {
	return strings.Replace(recordXML(stepCountType, "count", count, from, "11.0"), `endDate="`+from, `endDate="`+to, 1)
}

// TestPushAndExport checks that Health Auto Export and the export of one phone
// result in one chart, with the device that the export states and a Provenance
// of each.
func TestPushAndExport(t *testing.T) {
	at := func(sec int) string { return fmt.Sprintf("2026-05-11 08:00:%02d +0200", sec) }
	pushed := haePayload(strings.Join([]string{
		fmt.Sprintf(`{"name":"heart_rate","units":"count/min","data":[{"date":%q,"Min":62,"Avg":62,"Max":62,"source":"Watch"},{"date":%q,"Min":64,"Avg":64,"Max":64,"source":"Watch"}]}`, at(3), at(9)),
		fmt.Sprintf(`{"name":"blood_oxygen_saturation","units":"%%","data":[{"date":%q,"qty":97,"source":"Watch"}]}`, at(4)),
		`{"name":"step_count","units":"count","data":[{"date":"2026-05-11 08:10:05 +0200","qty":21,"source":"Watch"}]}`,
		fmt.Sprintf(`{"name":"weight_body_mass","units":"kg","data":[{"date":%q,"qty":70.5,"source":"Watch"}]}`, at(5)),
		`{"name":"sleep_analysis","units":"hr","data":[` + lateEvening[0].json() + "," + lateEvening[1].json() +
			`]}`}, ","))
	exported := exportXML(recordXML(heartRateType, "count/min", "62", at(3), "11.0"),
		recordXML(heartRateType, "count/min", "64", at(9), "11.0"),
		recordXML(heartRateType, "count/min", "71", at(9), "11.0"),
		recordXML("HKQuantityTypeIdentifierOxygenSaturation", "%", "0.97", at(4), "11.0"),
		recordXML("HKQuantityTypeIdentifierBodyMass", "kg", "70.5", at(5), "11.0"), lateEvening[0].xml(),
		lateEvening[1].xml(),
		stepsWithEnd("2026-05-11 08:10:05 +0200", "2026-05-11 08:12:31 +0200", "21"),
		stepsWithEnd("2026-05-11 08:10:05 +0200", "2026-05-11 08:14:31 +0200", "25"))
	// A later export has two rates in a second for which the push had one.
	later := exportXML(recordXML(heartRateType, "count/min", "81", at(3), "11.0"))
	for _, order := range [][]string{{pushed, exported, later}, {exported, pushed, later},
		{pushed, exported, pushed, exported, later, pushed, exported}} {
		w := newWorld(t)
		for i, p := range order {
			name := "a.json"
			if p != pushed {
				name = "export.xml"
			}
			if s := w.must("apple", name, p); i > 1 && p != later && s.Created+s.Updated != 0 {
				t.Errorf("again: %+v", s.Counts)
			}
		}
		for code, n := range map[string]int{"8867-4": 4, "55423-8": 2, "2708-6": 1, "29463-7": 1,
			"HKCategoryTypeIdentifierSleepAnalysis": 2, "93832-4": 1} {
			got := w.chart(code)
			if len(got) != n {
				t.Errorf("%s: %d, want %d", code, len(got), n)
			}
			for _, o := range got {
				d := w.all("Device")[strings.TrimPrefix(o.Device.Reference, "Device/")]
				if !strings.Contains(string(d.JSON), "Watch6,7") {
					t.Errorf("%s: the device is not the watch: %s", code, o.raw.JSON)
				}
			}
		}
		w.wantNights("2026-04-14T22:40:00+02:00 to 2026-04-15T02:40:00+02:00: 240 min, " + w.nights()[0].status)
		if n := len(w.all("Provenance")); n < 2 {
			t.Errorf("%d Provenances", n)
		}
	}
}

func poolSwim(id, more string) string {
	return `{"data":{"workouts":[{"id":"` + id +
		`","name":"Pool Swim","start":"2026-05-11 19:00:00 +0200","end":"2026-05-11 19:45:00 +0200","duration":2640` + more + `}]}}`
}

// TestWorkoutUnderTwoIDs checks that one source, type, start and end is one
// workout, with any ids that an app gave it, within one payload too.
func TestWorkoutUnderTwoIDs(t *testing.T) {
	a := poolSwim("A-1", `,"avgHeartRate":{"qty":131,"units":"bpm"},"distance":{"qty":1.8,"units":"km"}`)
	b := poolSwim("B-2", `,"avgHeartRate":{"qty":0,"units":"bpm"},"distance":{"qty":1800,"units":"m"}`)
	both := strings.Replace(a, "}]}}", "},"+b[strings.Index(b, "[")+1:], 1)
	for _, order := range [][]string{{a, b}, {b, a}, {a, b, a, b}, {both}, {both, a}} {
		w := newWorld(t)
		for _, p := range order {
			w.must("apple", "a.json", p)
		}
		got := w.chart("73985-4")
		if len(got) != 1 || len(w.all("Observation")) != 1 {
			t.Fatalf("%d workouts, %d Observations", len(got), len(w.all("Observation")))
		}
		// Elements that only one of them has are kept.
		if strings.Contains(string(got[0].raw.JSON), `"value":0,`) ||
			!strings.Contains(string(got[0].raw.JSON), `"value":131,`) {
			t.Errorf("%s", got[0].raw.JSON)
		}
	}
	w := newWorld(t)
	for range 2 {
		w.must("apple", "a.json", a)
		w.must("apple", "a.json", b)
	}
	if v := w.chart("73985-4")[0].raw.Version; v > 2 {
		t.Errorf("version %d: the two take turns", v)
	}
	// The id identifies the workout if its end moves. Another time is another workout.
	w = newWorld(t)
	w.must("apple", "a.json", a)
	w.must("apple", "a.json", b)
	w.must("apple", "a.json", strings.Replace(b, "19:45", "19:50", 1))
	if got := w.chart("73985-4"); len(got) != 1 || got[0].EffectivePeriod.End != "2026-05-11T19:50:00+02:00" {
		t.Errorf("%d workouts: %s", len(got), got[0].raw.JSON)
	}
	w.must("apple", "a.json", strings.ReplaceAll(poolSwim("C-3", ""), " 19:", " 20:"))
	if n := len(w.chart("73985-4")); n != 2 {
		t.Errorf("%d workouts of two times", n)
	}
}

// TestChannelsInEveryStore checks that measurements of several sources,
// delivered by a channel that states the device, by one that states the name of
// the source, or by both, are each stored once with the best known device, in
// any order and split, as series and as documents.
func TestChannelsInEveryStore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var deliveries []sample.Sample
		var want []string
		values := map[string][]string{}
		fact := func(metric string, at time.Time, num, source string, fine bool) string {
			return fmt.Sprint(metric, " ", int(at.Sub(noon)/time.Second), "s ", strings.TrimSuffix(num, ".0"), " ",
				source, " ", fine)
		}
		kinds := rapid.Permutation(readingTypes).Draw(t, "kinds")[:rapid.IntRange(1, 2).Draw(t, "of them")]
		for range rapid.IntRange(1, 8).Draw(t, "measurements") {
			k := rapid.SampledFrom(kinds).Draw(t, "kind")
			second, source := rapid.IntRange(0, 1).Draw(t, "at"),
				rapid.SampledFrom([]string{"Watch", "Phone", appWithoutDevice}).Draw(t, "source")
			fine, coarse := k.samples(source, second)
			fine.Value.Num = rapid.SampledFrom([]string{"62", "63.0"}).Draw(t, "value")
			coarse.Value.Num = fine.Value.Num
			key := fmt.Sprint(k.metric, second, source)
			if slices.Contains(values[key], fine.Value.Num) {
				continue
			}
			which := 1
			if len(values[key]) == 0 { // the coarse channel has one value per second
				which = rapid.IntRange(1, 3).Draw(t, "channels")
			}
			values[key] = append(values[key], fine.Value.Num)
			if which&1 != 0 {
				deliveries = append(deliveries, fine)
			}
			if which&2 != 0 {
				deliveries = append(deliveries, coarse)
			}
			want = append(want, fact(k.metric, fine.Start, fine.Value.Num, source,
				which&1 != 0 || source == appWithoutDevice))
		}
		payloads := slices.Collect(slices.Chunk(rapid.Permutation(deliveries).Draw(t, "order"),
			rapid.IntRange(1, len(deliveries)).Draw(t, "size")))
		payloads = append(payloads, rapid.SampledFrom(payloads).Draw(t, "again"))
		slices.Sort(want)
		for _, tier := range []string{"series", "documents"} {
			w, done := newWorldOf(t)
			func() {
				defer done()
				if tier == "documents" {
					w.pipeline.Store = store.Documents{Store: w.pipeline.Store}
				}
				for i, p := range payloads {
					if _, err := w.take(fmt.Sprint(i), p...); err != nil {
						t.Fatal(err)
					}
				}
				var got []string
				for _, metric := range []string{heartRateType, stepCountType, bodyMass} {
					for _, o := range w.chart(metric) {
						at, _, _ := o.effective()
						source, fine := w.sourceOf(o.Device.Reference)
						got = append(got, fact(metric, at, o.Quantity.Value.String(), source, fine))
					}
				}
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Fatalf("%s: %v, want %v", tier, got, want)
				}
			}()
		}
	})
}

// TestChannelsDoNotDependOnOrder checks that any order and repetition of the
// deliveries of two channels results in one chart.
func TestChannelsDoNotDependOnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list, merged []string
		var want []string
		for i := range rapid.IntRange(1, 6).Draw(t, "points") {
			p, value := heartRatePoint(5*i, 60+i), fmt.Sprint(60+i)
			if rapid.Bool().Draw(t, "steps") {
				p, value = stepsPoint(i, 10+i), fmt.Sprint(10+i)
			}
			where := rapid.IntRange(1, 3).Draw(t, "where")
			if where&1 != 0 {
				list = append(list, points("Sense", p))
			}
			if where&2 != 0 {
				merged = append(merged, points("", p))
			}
			want = append(want, value)
		}
		slices.Sort(want)
		pages := rapid.Permutation(slices.Concat(list, merged)).Draw(t, "order")
		pages = append(pages, rapid.SampledFrom(pages).Draw(t, "again"))
		w, done := newWorldOf(t)
		defer done()
		for _, p := range pages {
			w.must("fitbit", "page.json", p)
		}
		var got []string
		for _, o := range slices.Concat(w.chart("heart-rate"), w.chart("steps")) {
			got = append(got, o.Quantity.Value.String())
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}
