package ingest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/fitbit"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// page is an adapter that emits prepared items: a sample.Sample, a sample.Reject,
// or an error, which ends decoding.
type page struct {
	vendor string
	items  []any
}

func (p page) Vendor() string                     { return p.vendor }
func (page) Name() string                         { return "Test" }
func (page) Formats() []adapters.Format           { return []adapters.Format{{Name: "page"}} }
func (page) Detect(string, []byte) (string, bool) { return "page", true }
func (p page) Decode(_ context.Context, _ adapters.Input, sink adapters.Sink) error {
	for _, item := range p.items {
		var err error
		switch item := item.(type) {
		case sample.Sample:
			err = sink.Sample(&item)
		case sample.Reject:
			err = sink.Reject(&item)
		case error:
			err = item
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deliver ingests items as one payload of a vendor, which is complete for a
// window if there is one.
func (w *world) deliver(vendor string, complete *Window, items ...any) (Summary, error) {
	w.pipeline.Adapters = []adapters.Adapter{page{vendor, items}}
	return w.pipeline.Run(w.t.Context(), Request{Patient: "p1", Vendor: vendor, Format: "page",
		Body: strings.NewReader("page"), Complete: complete, Caller: operator()})
}

func operator() audit.Caller {
	return audit.Caller{Principal: &access.Principal{Operator: "uid:0", Grant: access.All()}}
}

// expect delivers a payload and checks its counts.
func (w *world) expect(name, vendor string, want Counts, complete *Window, items ...any) {
	w.t.Helper()
	if sum, err := w.deliver(vendor, complete, items...); err != nil || sum.Counts != want {
		w.t.Fatalf("%s: %+v %v, want %+v", name, sum.Counts, err, want)
	}
}

// labels returns the Observations that are valid, and those that are
// entered-in-error after a "-": vendor's code, vendor's id or time, and value.
func (w *world) labels() []string {
	w.t.Helper()
	var out []string
	for _, r := range w.all("Observation") {
		out = append(out, labelOf(w.t, w.pipeline.Mapper, &r))
	}
	slices.Sort(out)
	return out
}

func labelOf(t tester, m *mapping.Mapper, r *fhir.Resource) string {
	t.Helper()
	vendor := "apple"
	if bytes.Contains(r.JSON, []byte("/identifier/oura")) {
		vendor = "oura"
	} else if bytes.Contains(r.JSON, []byte("/identifier/fitbit")) {
		vendor = "fitbit"
	}
	d := &delivery{pipeline: &Pipeline{Mapper: m}, request: Request{Vendor: vendor}}
	obs, err := d.statement(r.JSON)
	if err != nil {
		t.Fatal(err)
	}
	key := obs.vendorID
	if key == "" {
		from, _, _ := obs.effective()
		key = from.UTC().Format("02T15:04:05")
	}
	out := obs.metric + " " + key
	if _, rest, ok := bytes.Cut(r.JSON, []byte(`"valueQuantity":{"value":`)); ok {
		value, _, _ := bytes.Cut(rest, []byte(","))
		out += " " + string(value)
	}
	if obs.Status == statusRetracted {
		return "-" + out
	}
	return out
}

// pulse returns an Oura heart rate, a sample of a series.
func pulse(at time.Time, bpm int) sample.Sample {
	return sample.Sample{Metric: "heartrate", Channel: "v2", Start: at,
		Value: sample.Value{Kind: sample.Number, Num: strconv.Itoa(bpm), Unit: "bpm"}, Device: ringDevice}
}

var ringDevice = sample.Device{Name: "Oura Ring", Manufacturer: "Oura", Kind: "ring"}

// sleepDocument returns the samples of one Oura night. hrv is left out if it
// is 0.
func sleepDocument(id string, start time.Time, minutes, hrv int) []any {
	s := sample.Sample{Metric: "sleep", Channel: "v2", VendorID: id, Start: start, End: start.Add(8 * time.Hour),
		Value:  sample.Value{Kind: sample.Number, Num: strconv.Itoa(minutes * 60), Unit: "s"},
		Device: ringDevice}
	out := []any{s}
	if hrv > 0 {
		s.Metric, s.Value = "sleep.average_hrv", sample.Value{Kind: sample.Number, Num: strconv.Itoa(hrv), Unit: "ms"}
		out = append(out, s)
	}
	// The series begins later than the night.
	s.Metric, s.Start, s.End = "sleep.heart_rate", start.Add(10*time.Minute), start.Add(20*time.Minute)
	s.Value = sample.Value{Kind: sample.Series, Unit: "bpm",
		Series: &sample.SeriesData{Period: 5 * time.Minute, Unit: "bpm", Data: "55 54"}}
	return append(out, s)
}

// activityDocument returns the samples of one Oura day: a daily value and a
// series, which begins at 4 o'clock.
func activityDocument(id string, day time.Time, steps int) []any {
	s := sample.Sample{Metric: "daily_activity.steps", Channel: "v2", VendorID: id,
		Day:   sample.Date{Year: day.Year(), Month: day.Month(), Day: day.Day()},
		Value: sample.Value{Kind: sample.Number, Num: strconv.Itoa(steps), Unit: "count"}, Device: ringDevice}
	met := s
	met.Metric, met.Day, met.Start = "daily_activity.met", sample.Date{}, day.Add(4*time.Hour)
	met.End = met.Start.Add(2 * time.Minute)
	met.Value = sample.Value{Kind: sample.Series, Unit: "MET",
		Series: &sample.SeriesData{Period: time.Minute, Unit: "MET", Data: "0.9 1.1"}}
	return []any{s, met}
}

var october = time.Date(2026, 10, 1, 0, 0, 0, 0, time.FixedZone("", 7200))

func oct(day, hour int) time.Time {
	return october.AddDate(0, 0, day-1).Add(time.Duration(hour) * time.Hour)
}

// inEveryTier runs a test on stores with and without series.
func inEveryTier(t *testing.T, test func(t *testing.T, w *world)) {
	for _, tier := range []string{"series", "documents"} {
		t.Run(tier, func(t *testing.T) {
			w := newWorld(t)
			if tier == "documents" {
				w.pipeline.Store = store.Documents{Store: w.pipeline.Store}
			}
			test(t, w)
		})
	}
}

func (w *world) wantLabels(name string, want ...string) {
	w.t.Helper()
	want = slices.Sorted(slices.Values(want))
	if got := w.labels(); !slices.Equal(got, want) {
		w.t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestCompleteWindowOfSamples checks that samples in a complete window that the
// payload does not state are retracted, that others stay, that a repetition
// writes nothing, and that a later statement makes a sample valid again.
func TestCompleteWindowOfSamples(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		a, b, c, d := pulse(oct(1, 8), 60), pulse(oct(1, 9), 61), pulse(oct(1, 10), 62), pulse(oct(1, 11), 63)
		w.expect("first", "oura", Counts{Read: 4, Created: 4}, nil, a, b, c, d)
		window := &Window{Types: []string{"heartrate"}, From: oct(1, 9), To: oct(1, 11)}
		restated := pulse(oct(1, 9), 70)
		w.expect("complete", "oura", Counts{Read: 1, Updated: 1, Retracted: 1}, window, restated)
		want := []string{"heartrate 01T06:00:00 60", "heartrate 01T07:00:00 70", "-heartrate 01T08:00:00 62",
			"heartrate 01T09:00:00 63"}
		w.wantLabels("complete", want...)
		provenances := len(w.all("Provenance"))
		w.expect("again", "oura", Counts{Read: 1, Unchanged: 1}, window, restated)
		if n := len(w.all("Provenance")); n != provenances {
			t.Errorf("%d Provenances became %d", provenances, n)
		}
		w.expect("another type", "oura", Counts{}, &Window{Types: []string{"heart"}, From: oct(1, 0), To: oct(2, 0)})
		w.wantLabels("another type", want...)
		w.expect("stated again", "oura", Counts{Read: 2, Updated: 1, Unchanged: 1}, window, restated, c)
		for _, r := range w.all("Observation") {
			if strings.Contains(labelOf(t, w.pipeline.Mapper, &r), "62") &&
				(r.Version != 3 || statusOf(r.JSON) != "amended") {
				t.Errorf("%s", r.JSON)
			}
		}
		w.expect("nothing is left", "oura", Counts{Retracted: 2}, window)
		w.wantLabels("nothing is left", "heartrate 01T06:00:00 60", "-heartrate 01T07:00:00 70",
			"-heartrate 01T08:00:00 62", "heartrate 01T09:00:00 63")
	})
}

// TestCompleteWindowOfDocuments checks that a document is in the window or not
// as a whole, regardless of the times of its parts, and that the bound may be its end.
func TestCompleteWindowOfDocuments(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		one, two := sleepDocument("n1", oct(1, 23), 400, 41), sleepDocument("n2", oct(2, 23), 410, 42)
		w.expect("first", "oura", Counts{Read: 6, Created: 6}, nil, append(one, two...)...)
		all := []string{"sleep n1 400", "sleep.average_hrv n1 41", "sleep.heart_rate n1", "sleep n2 410",
			"sleep.average_hrv n2 42", "sleep.heart_rate n2"}
		// The series of n1 begins in this window, n1 does not.
		later := &Window{Types: []string{"sleep"}, From: oct(1, 23).Add(time.Minute), To: oct(2, 23)}
		w.expect("between", "oura", Counts{}, later)
		w.wantLabels("between", all...)
		// n1 ends in this window.
		ends := &Window{Types: []string{"sleep"}, From: oct(2, 1), To: oct(2, 23), ByEnd: true}
		w.expect("stated", "oura", Counts{Read: 3, Unchanged: 3}, ends, one...)
		w.wantLabels("stated", all...)
		// The vendor states n1 without its variability.
		w.expect("less", "oura", Counts{Read: 2, Unchanged: 2, Retracted: 1}, ends,
			sleepDocument("n1", oct(1, 23), 400, 0)...)
		all[1] = "-" + all[1]
		w.wantLabels("less", all...)
		w.expect("gone", "oura", Counts{Retracted: 2}, ends)
		all[0], all[2] = "-"+all[0], "-"+all[2]
		w.wantLabels("gone", all...)
		// n1 moves, and a part of it stays behind; a workout has the same id.
		workout := sleepDocument("n1", oct(9, 23), 1, 0)[0].(sample.Sample)
		workout.Metric, workout.Value = "workout", sample.Value{Kind: sample.Code, Text: "rowing"}
		w.expect("a workout", "oura", Counts{Read: 4, Created: 1, Updated: 3}, nil,
			append(slices.Clone(one), workout)...)
		moved := &Window{Types: []string{"sleep", "workout"}, From: oct(7, 0), To: oct(8, 0)}
		w.expect("moved", "oura", Counts{Read: 2, Updated: 2, Retracted: 1}, moved,
			sleepDocument("n1", oct(7, 23), 400, 0)...)
		w.wantLabels("moved", append(slices.Clone(all[3:]), "sleep n1 400", "-sleep.average_hrv n1 41",
			"sleep.heart_rate n1",
			"workout n1")...)
		// A window that ends with the minute of the night before its series begins.
		w.expect("whole", "oura", Counts{Retracted: 3},
			&Window{Types: []string{"sleep"}, From: oct(2, 23), To: oct(2, 23).Add(time.Minute)})
		w.expect("again", "oura", Counts{Read: 6, Updated: 6}, nil, append(slices.Clone(one), two...)...)
	})
}

// TestCompleteDays checks windows of calendar days: they hold daily values and
// the documents that have one.
func TestCompleteDays(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		one, two, three := activityDocument("a1", oct(1, 0), 100), activityDocument("a2", oct(2, 0), 200),
			activityDocument("a3", oct(3, 0), 300)
		night := sleepDocument("n1", oct(2, 1), 400, 0)
		w.expect("first", "oura", Counts{Read: 8, Created: 8}, nil, slices.Concat(one, two, three, night)...)
		all := []string{"daily_activity.steps a1 100", "daily_activity.met a1", "daily_activity.steps a2 200",
			"daily_activity.met a2", "daily_activity.steps a3 300", "daily_activity.met a3", "sleep n1 400",
			"sleep.heart_rate n1"}
		types := []string{"daily_activity", "sleep"}
		w.expect("instants", "oura", Counts{Read: 2, Unchanged: 2},
			&Window{Types: types, From: oct(1, 0), To: oct(2, 0)}, one...)
		w.wantLabels("instants", all...)
		days := &Window{Types: types, From: oct(2, 13), To: oct(3, 2), Days: true}
		w.expect("stated", "oura", Counts{Read: 2, Unchanged: 2}, days, two...)
		w.expect("without the series", "oura", Counts{Read: 1, Unchanged: 1, Retracted: 1}, days, two[0])
		w.expect("gone", "oura", Counts{Retracted: 1}, days)
		all[2], all[3] = "-"+all[2], "-"+all[3]
		w.wantLabels("gone", all...)
		w.expect("stated again", "oura", Counts{Read: 2, Updated: 2}, days, two...)
		w.expect("gone again", "oura", Counts{Retracted: 2}, days)
		w.wantLabels("gone again", all...)
		// The vendor may file the night under any day from 1 to 3 October.
		types = []string{"sleep"}
		w.expect("a day late", "oura", Counts{}, &Window{Types: types, From: oct(2, 0), To: oct(6, 0), Days: true})
		w.expect("a day early", "oura", Counts{}, &Window{Types: types, From: oct(-5, 0), To: oct(3, 0), Days: true})
		w.expect("all days", "oura", Counts{Retracted: 2},
			&Window{Types: types, From: oct(1, 0), To: oct(4, 0), Days: true})
	})
}

// TestIncompletePayloads checks that a payload that cannot be read to its end
// retracts nothing, and that an item in quarantine protects what it may state.
func TestIncompletePayloads(t *testing.T) {
	reject := func(metric, id string) sample.Reject {
		return sample.Reject{Reason: sample.ReasonBadTime, Metric: metric, VendorID: id, Detail: "test"}
	}
	implausible := pulse(oct(1, 9), 9999)
	night := sleepDocument("n1", oct(1, 23), 400, 41)
	broken := night[0].(sample.Sample)
	broken.Value.Num = "many"
	window := Window{Types: []string{"sleep", "heartrate"}, From: oct(1, 0), To: oct(3, 0)}
	for name, c := range map[string]struct {
		items []any
		gone  []string // of "n1 n2 8 9"
		fails bool
	}{
		"empty":                 {gone: []string{"n1", "n2", "8", "9"}},
		"breaks off":            {items: []any{errors.New("broken")}, fails: true},
		"breaks off later":      {items: []any{pulse(oct(1, 8), 60), errors.New("broken")}, fails: true},
		"a document with an id": {items: []any{reject("sleep", "n1")}, gone: []string{"n2", "8", "9"}},
		"a field of a document": {items: []any{reject("sleep.average_hrv", "n1")},
			gone: []string{"n2", "8", "9"}},
		"a sample with an id":      {items: []any{broken}, gone: []string{"n2", "8", "9"}},
		"a sample without an id":   {items: []any{implausible}, gone: []string{"n1", "n2", "8"}},
		"a document without an id": {items: []any{reject("sleep", "")}, gone: []string{"8", "9"}},
		"an item of another type":  {items: []any{reject("workout", "")}, gone: []string{"n1", "n2", "8", "9"}},
		"an item of a similar type": {items: []any{reject("sleep_time", "")},
			gone: []string{"n1", "n2", "8", "9"}},
		"an item without a type": {items: []any{reject("", "")}},
		"more items than are kept": {items: slices.Repeat([]any{reject("sleep", "x"), reject("sleep", "n1")},
			3), gone: []string{"n2", "8", "9"}},
		"a component of a stated sample": {items: append(slices.Clone(night),
			sample.Reject{Metric: "sleep", Component: "latency", Reason: sample.ReasonBadValue}),
			gone: []string{"n2", "8", "9"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.pipeline.Limits.KeepPerMetric = 2
			w.expect("first", "oura", Counts{Read: 8, Created: 8}, nil, slices.Concat(night,
				sleepDocument("n2", oct(2, 23), 410, 42), []any{pulse(oct(1, 8), 60), pulse(oct(1, 9), 61)})...)
			sum, err := w.deliver("oura", &window, c.items...)
			if (err != nil) != c.fails {
				t.Fatal(err)
			}
			var gone []string
			for _, l := range w.labels() {
				if rest, ok := strings.CutPrefix(l, "-sleep "); ok {
					gone = append(gone, rest[:2])
				} else if rest, ok := strings.CutPrefix(l, "-heartrate 01T"); ok {
					hour, _ := strconv.Atoi(rest[:2])
					gone = append(gone, strconv.Itoa(hour+2))
				}
			}
			slices.Sort(gone)
			slices.Sort(c.gone)
			if !slices.Equal(gone, c.gone) {
				t.Errorf("%v are retracted, want %v: %+v", gone, c.gone, sum.Counts)
			}
		})
	}
}

// TestCompleteWindowsAreChecked checks that a window without types or in the
// wrong order is refused before anything is stored, and so is an origin that
// cannot be recorded.
func TestCompleteWindowsAreChecked(t *testing.T) {
	w := newWorld(t)
	for _, window := range []Window{{}, {Types: []string{"sleep"}},
		{Types: []string{""}, From: oct(1, 0), To: oct(2, 0)},
		{Types: []string{"sleep"}, From: oct(2, 0), To: oct(1, 0)},
		{Types: []string{"sleep"}, From: oct(1, 0), To: oct(1, 0)},
		{Types: []string{"sleep"}, From: oct(1, 1), To: oct(1, 2), Days: true}} {
		if _, err := w.deliver("oura", &window, pulse(oct(1, 8), 60)); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%+v: %v", window, err)
		}
	}
	if n := len(w.all("Observation")); n != 0 {
		t.Errorf("%d Observations", n)
	}
}

// TestCompleteWindowIsBounded checks that a payload that states more than can be
// compared is stored, and retracts nothing.
func TestCompleteWindowIsBounded(t *testing.T) {
	var s statements
	for i := range uint64(3) {
		if err := s.add(i, i, i+1); err != nil {
			t.Fatal(err)
		}
	}
	if !s.has(0) || !s.has(3) || s.has(4) || len(s.hashes) != 4 {
		t.Errorf("%v", s.hashes)
	}
	for i := uint64(0); ; i += 1 << 16 {
		many := make([]uint64, 1<<16)
		for j := range many {
			many[j] = i + uint64(j)
		}
		if err := s.add(many...); err != nil {
			if fhir.KindOf(err) != fhir.TooLarge || len(s.hashes) < maxStated || cap(s.hashes) > 4*maxStated {
				t.Errorf("%v at %d of %d", err, len(s.hashes), cap(s.hashes))
			}
			return
		}
	}
}

// busyStore runs a function once, before a search.
type busyStore struct {
	store.Store
	before func()
}

func (s *busyStore) Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error {
	if before := s.before; before != nil {
		s.before = nil
		before()
	}
	return s.Store.Find(ctx, f, fn)
}

// TestConcurrentDeliveryIsKept checks that a complete window does not retract
// what another delivery has written since it began.
func TestConcurrentDeliveryIsKept(t *testing.T) {
	w := newWorld(t)
	w.expect("first", "oura", Counts{Read: 2, Created: 2}, nil, pulse(oct(1, 8), 60), pulse(oct(1, 9), 61))
	plain := w.pipeline.Store
	other := &Pipeline{Store: plain, Audit: w.pipeline.Audit, Consents: w.consents, Mapper: w.pipeline.Mapper,
		Clock: w.pipeline.Clock, Adapters: []adapters.Adapter{page{"oura",
			[]any{pulse(oct(1, 9), 71), pulse(oct(1, 10), 72)}}}}
	w.pipeline.Store = &busyStore{store.Documents{Store: plain}, func() {
		if _, err := other.Run(t.Context(), Request{Patient: "p1", Vendor: "oura", Format: "page",
			Body: strings.NewReader("page"), Caller: operator()}); err != nil {
			t.Error(err)
		}
	}}
	w.expect("complete", "oura", Counts{Retracted: 1},
		&Window{Types: []string{"heartrate"}, From: oct(1, 0), To: oct(2, 0)})
	w.wantLabels("complete", "-heartrate 01T06:00:00 60", "heartrate 01T07:00:00 71", "heartrate 01T08:00:00 72")
}

// TestCompleteWindowKeepsOtherChannels checks that neither another type, such as
// a roll-up, nor another channel of the vendor is retracted.
func TestCompleteWindowKeepsOtherChannels(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		steps := func(name string, coarse bool, hour int, source string) sample.Sample {
			s := sample.Sample{Metric: name, Channel: "v4", Start: oct(1, hour), End: oct(1, hour).Add(time.Minute),
				Value:  sample.Value{Kind: sample.Number, Num: "10", Unit: "count"},
				Coarse: coarse, Source: sample.Source{Name: source}}
			if !coarse {
				s.Device = sample.Device{Name: "Charge 6", Manufacturer: "Fitbit", Model: "Charge 6"}
			}
			return s
		}
		sedentary := func(name string, hour int) sample.Sample {
			s := steps(name, false, hour, "FITBIT")
			s.Value.Unit = "s"
			return s
		}
		day := steps("steps/day", false, 0, "")
		day.Start, day.End, day.Day = time.Time{}, time.Time{}, sample.Date{Year: 2026, Month: 10, Day: 1}
		list, merged := steps("steps", false, 8, "FITBIT"), steps("steps", true, 9, "")
		w.expect("first", "fitbit", Counts{Read: 6, Created: 6}, nil, list, merged, day,
			steps("steps/rollup", false, 7, ""),
			sedentary("sedentary-period", 5), sedentary("sedentary-period/rollup", 6))
		all := []string{"steps 01T06:00:00 10", "steps 01T07:00:00 10", "steps/day 01T00:00:00 10",
			"steps/rollup 01T05:00:00 10", "sedentary-period 01T03:00:00 0.17", "sedentary-period 01T04:00:00 0.17"}
		got := w.labels()
		for _, l := range []int{4, 5} { // the value in minutes does not matter here
			for _, g := range got {
				if prefix, _, _ := strings.Cut(all[l], " 0."); strings.HasPrefix(g, prefix) {
					all[l] = g
				}
			}
		}
		window := func(coarse bool, types ...string) *Window {
			return &Window{Types: types, From: oct(1, 0), To: oct(2, 0), Coarse: coarse}
		}
		w.expect("merged stream", "fitbit", Counts{Read: 1, Unchanged: 1}, window(false, "steps"), merged)
		w.wantLabels("merged stream", all...)
		w.expect("a shared row", "fitbit", Counts{}, window(false, "sedentary-period"))
		w.wantLabels("a shared row", all...)
		w.expect("days of a shared row", "fitbit", Counts{}, &Window{
			Types: []string{"sedentary-period/day", "sedentary-period"}, From: oct(-5, 0), To: oct(9, 0), Days: true})
		w.wantLabels("days of a shared row", all...)
		w.expect("list", "fitbit", Counts{Retracted: 1}, window(false, "steps"))
		all[0] = "-" + all[0]
		w.wantLabels("list", all...)
		w.expect("list again", "fitbit", Counts{Read: 1, Updated: 1}, window(false, "steps"), list)
		w.expect("empty merged stream", "fitbit", Counts{Retracted: 1}, window(true, "steps"))
		all[0], all[1] = strings.TrimPrefix(all[0], "-"), "-"+all[1]
		w.wantLabels("empty merged stream", all...)
		w.expect("both names", "fitbit", Counts{Retracted: 2},
			window(false, "sedentary-period", "sedentary-period/rollup"))
		w.expect("days", "fitbit", Counts{Retracted: 1},
			&Window{Types: []string{"steps/day"}, From: oct(1, 0), To: oct(2, 0), Days: true})
		if n := len(slices.DeleteFunc(w.labels(), func(l string) bool { return l[0] != '-' })); n != 4 {
			t.Errorf("%d are retracted", n)
		}
	})
}

// TestDuplicateIsStated checks that a payload of a coarse channel states the
// Observation that another channel delivered of the same measurement, and the
// other way around.
func TestDuplicateIsStated(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		page := func(complete *Window, body string) Summary {
			t.Helper()
			w.pipeline.Adapters = []adapters.Adapter{fitbit.New()}
			sum, err := w.pipeline.Run(t.Context(), Request{Patient: "p1", Vendor: "fitbit", Name: "page.json",
				Body: strings.NewReader(body), Complete: complete, Caller: operator()})
			if err != nil {
				t.Fatal(err)
			}
			return sum
		}
		list, merged := points("Sense", stepsPoint(0, 10), stepsPoint(1, 11)),
			points("", stepsPoint(0, 10), stepsPoint(1, 11))
		page(nil, merged)
		window := Window{Types: []string{"steps"}, From: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
			To: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
		for i, body := range []string{list, merged, list, merged} {
			if sum := page(&window, body); sum.Retracted != 0 {
				t.Errorf("%d: %+v", i, sum.Counts)
			}
		}
		if sum := page(&window, points("Sense", stepsPoint(0, 10))); sum.Retracted != 1 {
			t.Errorf("%+v", sum.Counts)
		}
	})
}

// TestRetractedSegments checks that the nights follow if segments are retracted.
func TestRetractedSegments(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		segment := func(minute, length int, stage string) sample.Sample {
			s := heartRate(oct(1, 23).Add(time.Duration(minute)*time.Minute), "")
			s.Metric, s.KeyValue, s.End = "HKCategoryTypeIdentifierSleepAnalysis", false,
				s.Start.Add(time.Duration(length)*time.Minute)
			s.Value = sample.Value{Kind: sample.Code, Text: "HKCategoryValueSleepAnalysis" + stage}
			return s
		}
		a, b := segment(0, 60, "AsleepCore"), segment(60, 120, "AsleepDeep")
		night := func() (out string) {
			for _, l := range w.labels() {
				if strings.Contains(l, "night/") {
					out = l[:strings.Index(l, "night")] + l[strings.LastIndexByte(l, ' '):]
				}
			}
			return out
		}
		w.expect("first", "apple", Counts{Read: 3, Created: 3}, nil, a, b)
		before := night()
		window := &Window{Types: []string{"HKCategoryTypeIdentifierSleepAnalysis"}, From: oct(1, 0), To: oct(3, 0)}
		if sum, err := w.deliver("apple", window, a); err != nil || sum.Retracted != 1 || sum.Updated != 1 {
			t.Fatalf("%+v %v", sum, err)
		}
		if after := night(); after == before || !strings.Contains(after, " 60") && !strings.Contains(after, " 1") {
			t.Errorf("night %q became %q", before, after)
		}
		w.expect("derived nights", "apple", Counts{}, &Window{Types: []string{"night"}, From: oct(1, 0), To: oct(3, 0)})
		r := Retraction{Patient: "p1", Vendor: "apple", Types: window.Types, From: oct(1, 0), To: oct(3, 0),
			Caller: operator()}
		if sum, err := w.pipeline.Retract(t.Context(), r); err != nil || sum.Retracted != 1 || sum.Updated != 1 {
			t.Fatalf("%+v %v", sum, err)
		}
		if after := night(); !strings.HasPrefix(after, "-") {
			t.Errorf("the night without segments is %q", after)
		}
	})
}

// TestUncoveredRetraction checks that the retraction of data that the consent
// does not cover is not recorded, like other statements about them.
func TestUncoveredRetraction(t *testing.T) {
	w := newWorld(t)
	w.expect("first", "oura", Counts{Read: 4, Created: 4}, nil,
		append(sleepDocument("n1", oct(1, 23), 400, 41), pulse(oct(1, 8), 60))...)
	w.consents.categories = map[string]bool{"activity": true, "sleep": true}
	w.expect("complete", "oura", Counts{Retracted: 1},
		&Window{Types: []string{"sleep", "heartrate"}, From: oct(1, 0), To: oct(3, 0)})
	w.consents.withdrawn = true
	if _, err := w.deliver("oura", &Window{Types: []string{"sleep"}, From: oct(1, 0),
		To: oct(3, 0)}); fhir.KindOf(err) != fhir.Forbidden {
		t.Error(err)
	}
	if _, err := w.pipeline.Retract(t.Context(), Retraction{Patient: "p1", Vendor: "oura", VendorID: "n1",
		Caller: operator()}); fhir.KindOf(err) != fhir.Forbidden {
		t.Error(err)
	}
}

// contentOf returns the current JSON of all Observations.
func (w *world) contentOf() map[string]string {
	out := map[string]string{}
	for id, r := range w.all("Observation") {
		out[id] = string(r.JSON)
	}
	return out
}

// TestRetractManyCommits checks a retraction that takes several commits.
func TestRetractManyCommits(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		var items []any
		for i := range 3 * sweepBatch {
			items = append(items, pulse(oct(1, 0).Add(time.Duration(i)*time.Second), 60+i%40))
		}
		w.expect("first", "oura", Counts{Read: len(items), Created: len(items)}, nil, items...)
		w.expect("complete", "oura", Counts{Read: 1, Unchanged: 1, Retracted: len(items) - 1},
			&Window{Types: []string{"heartrate"}, From: oct(1, 0), To: oct(2, 0)}, items[5])
		if n := len(slices.DeleteFunc(w.labels(), func(l string) bool { return l[0] == '-' })); n != 1 {
			t.Errorf("%d are valid", n)
		}
		before := w.contentOf()
		w.expect("again", "oura", Counts{Read: 1, Unchanged: 1},
			&Window{Types: []string{"heartrate"}, From: oct(1, 0), To: oct(2, 0)}, items[5])
		if !maps.Equal(before, w.contentOf()) {
			t.Error("a repetition wrote something")
		}
	})
}

// TestRollupOfSharedRow checks that a daily roll-up stays if a window of days is
// complete for the type that it shares a row with.
func TestRollupOfSharedRow(t *testing.T) {
	w := newWorld(t)
	day := sample.Sample{Metric: "sedentary-period/day", Channel: "v4-rollup",
		Day:    sample.Date{Year: 2026, Month: 10, Day: 1},
		Value:  sample.Value{Kind: sample.Number, Num: "600", Unit: "s"},
		Device: sample.Device{Name: "Google Health", Manufacturer: "Google", Kind: "app"}}
	w.expect("first", "fitbit", Counts{Read: 1, Created: 1}, nil, day)
	days := func(types ...string) *Window {
		return &Window{Types: types, From: oct(1, 0), To: oct(2, 0), Days: true}
	}
	w.expect("list", "fitbit", Counts{}, days("sedentary-period", "sedentary-period/rollup"))
	w.expect("roll-up", "fitbit", Counts{Retracted: 1}, days("sedentary-period/day"))
}
