package ingest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/store"
	"pulsegate/mapping/sample"
)

// appWithoutDevice is a source whose device no channel knows.
const appWithoutDevice = "App"

const bodyMass = "HKQuantityTypeIdentifierBodyMass"

// reading is a measurement of one source with the channels that deliver it.
type reading struct {
	source      string
	fine, named bool
}

// readingType describes how both channels state a measurement.
type readingType struct {
	metric, unit   string
	hasEnd         bool
	coarseOmitsEnd bool // the coarse channel does not state the end
}

var readingTypes = []readingType{
	{metric: heartRateType, unit: "count/min"},
	{metric: stepCountType, unit: "count", hasEnd: true},
	{metric: stepCountType, unit: "count", hasEnd: true, coarseOmitsEnd: true},
	{metric: bodyMass, unit: "kg"},
}

// samples returns the measurement of a source as the channel that states the
// device delivers it, and as the channel that states only the name of the
// source does.
func (typ *readingType) samples(source string, second int) (fine, coarse sample.Sample) {
	fine = heartRate(noon.Add(time.Duration(second)*time.Second), "62")
	fine.Metric, fine.Value.Unit = typ.metric, typ.unit
	fine.Source.Name, fine.Device.Hardware = source, source+"1,1"
	if source == appWithoutDevice {
		fine.Device = sample.Device{}
	}
	if typ.hasEnd {
		fine.End = fine.Start.Add(time.Minute)
	}
	coarse = fine
	coarse.Coarse, coarse.KeyValue, coarse.Channel, coarse.Device = true, false, "hae", sample.Device{}
	if typ.coarseOmitsEnd {
		coarse.End = time.Time{}
	}
	return fine, coarse
}

// orders calls fn with each permutation of list.
func orders[T any](list []T, fn func([]T)) {
	var place func(n int)
	place = func(n int) {
		if n == len(list) {
			fn(slices.Clone(list))
			return
		}
		for i := n; i < len(list); i++ {
			list[n], list[i] = list[i], list[n]
			place(n + 1)
			list[n], list[i] = list[i], list[n]
		}
	}
	place(0)
}

// TestSourcesInAnyOrder checks two sources that measure the same value in the
// same second. Each must keep one Observation with the best known device,
// whichever channels deliver it, in each order, in separate payloads or in one,
// as series and as documents.
func TestSourcesInAnyOrder(t *testing.T) {
	for _, typ := range readingTypes {
		for masks := range 18 {
			sources := []reading{{source: "Phone"}, {source: "Watch"}}
			if masks >= 9 {
				sources[0].source = appWithoutDevice
			}
			for i, mask := range []int{masks/3%3 + 1, masks%3 + 1} {
				sources[i].fine, sources[i].named = mask&1 != 0, mask&2 != 0
			}
			var deliveries []sample.Sample
			for _, s := range sources {
				fine, coarse := typ.samples(s.source, 0)
				if s.fine {
					deliveries = append(deliveries, fine)
				}
				if s.named {
					deliveries = append(deliveries, coarse)
				}
			}
			orders(deliveries, func(order []sample.Sample) {
				for _, tier := range []string{"series", "documents"} {
					for _, size := range []int{1, len(order)} {
						typ.checkOrder(t, tier, sources, slices.Collect(slices.Chunk(order, size)))
					}
				}
			})
		}
	}
}

// checkOrder delivers the payloads twice.
func (typ *readingType) checkOrder(t *testing.T, tier string, sources []reading, payloads [][]sample.Sample) {
	t.Helper()
	w, done := newWorldOf(t)
	defer done()
	if tier == "documents" {
		w.pipeline.Store = store.Documents{Store: w.pipeline.Store}
	}
	var names []string
	for _, p := range payloads {
		for i := range p {
			names = append(names, fmt.Sprintf("%s coarse=%t", p[i].Source.Name, p[i].Coarse))
		}
	}
	order := fmt.Sprintf("%s endless=%t, %s, %d payloads: %s", typ.metric, typ.coarseOmitsEnd, tier, len(payloads),
		strings.Join(names, ", "))
	for again := range 2 {
		for i, p := range payloads {
			s, err := w.take(fmt.Sprint(i), p...)
			if err != nil {
				t.Fatal(err)
			}
			if again > 0 && s.Created+s.Updated != 0 {
				t.Errorf("%s: again: %+v", order, s.Counts)
			}
		}
		var got, want []string
		for _, o := range w.chart(typ.metric) {
			source, fine := w.sourceOf(o.Device.Reference)
			got = append(got, fmt.Sprint(source, " ", fine))
		}
		for _, s := range sources {
			want = append(want, fmt.Sprint(s.source, " ", s.fine || s.source == appWithoutDevice))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: again=%d: %v, want %v", order, again, got, want)
		}
	}
}

// TestSourceIsRecordedAfterConflict checks that a batch that is tried again
// records the source of its stream, so that an equal value of another source is
// not mistaken for a duplicate.
func TestSourceIsRecordedAfterConflict(t *testing.T) {
	for _, typ := range readingTypes[:3] {
		w := newWorld(t)
		w.othersWrite = true
		competing := &competingStore{Store: w.pipeline.Store, t: t, times: 1}
		w.pipeline.Store = competing
		watch, _ := typ.samples("Watch", 0)
		_, phone := typ.samples("Phone", 0)
		for i, s := range []sample.Sample{watch, phone} {
			if _, err := w.take(fmt.Sprint(i), s); err != nil {
				t.Fatal(err)
			}
		}
		if competing.conflicts != 1 {
			t.Fatalf("%d conflicts", competing.conflicts)
		}
		if n := len(w.chart(typ.metric)); n != 2 {
			t.Errorf("%s endless=%t: %d Observations, want 2", typ.metric, typ.coarseOmitsEnd, n)
		}
	}
}

// TestNameOnlyDeviceStandsForItsSource checks that an app's Observation from a
// coarse channel is not attributed to another source, even while the first
// payload is stored that shows that no channel knows the device of the app.
func TestNameOnlyDeviceStandsForItsSource(t *testing.T) {
	for _, typ := range readingTypes {
		w := newWorld(t)
		_, first := typ.samples(appWithoutDevice, 0)
		_, watch := typ.samples("Watch", 0)
		other, _ := typ.samples(appWithoutDevice, 9)
		for i, p := range [][]sample.Sample{{first}, {other, watch}} {
			if _, err := w.take(fmt.Sprint(i), p...); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(w.chart(typ.metric)); n != 3 {
			t.Errorf("%s endless=%t: %d Observations, want 3", typ.metric, typ.coarseOmitsEnd, n)
		}
	}
}

// sourceOf returns the source that a Device reference stands for, and whether
// it refers to the best known Device of that source.
func (w *world) sourceOf(ref string) (source string, isFine bool) {
	for _, source := range []string{"Phone", "Watch", appWithoutDevice} {
		fine, named := readingTypes[0].samples(source, 0)
		for _, s := range []*sample.Sample{&fine, &named} {
			res, err := w.pipeline.Mapper.Map(nil, "apple", s, "p1", nil)
			if err != nil {
				w.t.Fatal(err)
			}
			if ref == "Device/"+res.Device.ID {
				return source, s == &fine
			}
		}
	}
	return ref, false
}
