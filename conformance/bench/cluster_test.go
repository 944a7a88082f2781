package main

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

func TestPlan(t *testing.T) {
	p, err := newPlan(options{})
	if err != nil || !slices.Equal(p.nodes, []int{1, 2, 4}) || !slices.Equal(p.joins, []int{20_000, 200_000}) ||
		!slices.Equal(p.latency, []time.Duration{0, 5 * time.Millisecond, 10 * time.Millisecond}) {
		t.Errorf("by default: %v, %v", p, err)
	}
	// The cluster grows, so that the order does not count.
	p, err = newPlan(options{nodes: "4, 1,4", latency: "1ms,0", joins: "none"})
	if err != nil || !slices.Equal(p.nodes, []int{1, 4}) || p.joins != nil ||
		!slices.Equal(p.latency, []time.Duration{0, time.Millisecond}) {
		t.Errorf("got %v, %v", p, err)
	}
	p, err = newPlan(options{mongodb: "mongodb://db/bench"})
	if err != nil || !slices.Equal(p.latency, []time.Duration{0}) {
		t.Errorf("with a replica set: %v, %v", p, err)
	}
	for want, o := range map[string]options{
		`-nodes: "0"`:      {nodes: "1,0"},
		`-nodes: "x"`:      {nodes: "x"},
		`-nodes: ""`:       {nodes: "1,"},
		`-joins: "-1"`:     {joins: "-1"},
		`-latency: "5"`:    {latency: "5"},
		`-latency: "-1ms"`: {latency: "-1ms"},
		`-latency: "2s"`:   {latency: "2s"},
		`-latency: with`:   {latency: "5ms", mongodb: "mongodb://db/bench"},
	} {
		if _, err := newPlan(o); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: error %v, want %s", o, err, want)
		}
	}
}

// TestSelected runs the step cluster only if it is named.
func TestSelected(t *testing.T) {
	for steps, want := range map[string][2]bool{"": {true, false}, "cluster": {false, true}, "read": {true, false},
		"read,cluster": {true, true}} {
		b := &bench{opt: options{steps: steps}}
		if got := [2]bool{b.selected("read"), b.selected(clusterStep)}; got != want {
			t.Errorf("-steps %q: read and cluster %v, want %v", steps, got, want)
		}
	}
}

// TestTurn sends the same number of requests to each process.
func TestTurn(t *testing.T) {
	var got [4]int
	for i := range 400 {
		got[turn(i, len(got))]++
	}
	if got != [4]int{100, 100, 100, 100} || turn(7, 1) != 0 {
		t.Errorf("requests by process: %v", got)
	}
}

// TestDuring numbers the calls without gaps, keeps a latency for each that succeeded,
// and reports errors but not the end.
func TestDuring(t *testing.T) {
	var mu sync.Mutex
	var numbers []int
	ended := 0
	load := func(failure error) (tally, error) {
		numbers, ended = nil, 0
		return during(3, time.Hour, func(int) (func(int) error, func() error, error) {
			return func(i int) error {
					mu.Lock()
					defer mu.Unlock()
					if len(numbers) == 50 {
						return failure
					}
					numbers = append(numbers, i)
					return nil
				}, func() error {
					mu.Lock()
					defer mu.Unlock()
					ended++
					return nil
				}, nil
		})
	}
	got, err := load(errDone)
	slices.Sort(numbers)
	distinct := slices.Compact(slices.Clone(numbers))
	if err != nil || got.done != 50 || len(got.lat) != 50 || len(distinct) != 50 || ended != 3 ||
		!slices.IsSorted(got.lat) {
		t.Errorf("%d calls, %d latencies, numbers %v, %d ends, error %v", got.done, len(got.lat), numbers, ended, err)
	}
	broken := errors.New("broken")
	if _, err := load(broken); !errors.Is(err, broken) || ended != 3 {
		t.Errorf("error %v, want %v; %d ends", err, broken, ended)
	}
	if _, err := during(2, time.Hour, func(int) (func(int) error, func() error, error) {
		return nil, nil, broken
	}); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

func TestTally(t *testing.T) {
	a := tally{done: 30, took: 2 * time.Second, lat: []time.Duration{time.Millisecond}}
	sum := a.merge(tally{done: 10, took: 2 * time.Second})
	if a.rate() != 15 || sum.rate() != 10 || share(sum, a) != "0.67" {
		t.Errorf("rates %v and %v, share %s, want 15, 10, 0.67", a.rate(), sum.rate(), share(sum, a))
	}
	if got := a.times(); got != "p50 1.00 ms, p99 1.00 ms" || (tally{}).times() != "none done" {
		t.Errorf("times %q", got)
	}
}

// TestLogged adds documents of a log as MongoDB has them.
func TestLogged(t *testing.T) {
	doc := func(count int64, rows int) bson.Raw {
		raw, err := bson.Marshal(bson.D{{Key: "_id", Value: "0000000000000001"}, {Key: "c", Value: count},
			{Key: "b", Value: make([]byte, rows)}})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var l logged
	one, two := doc(3, 100), doc(1, 1000)
	for _, d := range []bson.Raw{one, two} {
		if err := l.add(d); err != nil {
			t.Fatal(err)
		}
	}
	if want := (logged{2, 4, int64(len(one) + len(two))}); l != want || len(two) != len(one)+900 {
		t.Errorf("got %+v, want %+v", l, want)
	}
	if l.per(4) != float64(l.bytes)/4 || (&logged{bytes: 7}).per(0) != 7 {
		t.Errorf("%v bytes for each of 4 commits", l.per(4))
	}
	if got := l.groups(2 * time.Second); got != "2 commits/s in 1 entries/s" {
		t.Error(got)
	}
	if err := l.add(bson.Raw{5, 0, 0, 0, 0}); err == nil {
		t.Error("a document without a number of commits is accepted")
	}
	doc300, err := bson.Marshal(insertDoc(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if doc300, err = bson.Marshal(insertDoc(1, insertBytes-len(doc300))); err != nil || len(doc300) != insertBytes {
		t.Errorf("a document of the floor has %d bytes, want %d, %v", len(doc300), insertBytes, err)
	}
}

// TestSegmentsFrom picks segments among the other collections.
func TestSegmentsFrom(t *testing.T) {
	names := []string{"log_parts", "log_00000000000a", "log_000000000002", "log_first", "snapshot_files",
		"log_000000000001", "log_fffffffffffff", "log_identity", "log_layout", "bench_floor"}
	if got := segmentsFrom(names, 2); !slices.Equal(got, []string{"log_000000000002", "log_00000000000a"}) {
		t.Errorf("got %v", got)
	}
}

func TestNewDatabase(t *testing.T) {
	for in, want := range map[string]string{
		"mongodb://h:1/bench":                  "mongodb://h:1/bench_0a_loads",
		"mongodb+srv://u@h/b?authSource=admin": "mongodb+srv://u@h/b_0a_loads?authSource=admin",
	} {
		if got, err := newDatabase(in, []byte{10}, "loads"); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "h/b", "mongodb://h", "mongodb://h/", "mongodb://h/?w=1"} {
		if got, err := newDatabase(in, nil, "loads"); err == nil {
			t.Errorf("%q is accepted as %s", in, got)
		}
	}
}

// TestLogMeters reads metrics as a server prints them.
func TestLogMeters(t *testing.T) {
	const before = `# TYPE pulsegate_log_append_duration_seconds histogram
pulsegate_log_append_duration_seconds_bucket{error_type="",otel_scope_name="x",le="0.001"} 0
pulsegate_log_append_duration_seconds_sum{otel_scope_name="x"} 0.5
pulsegate_log_append_duration_seconds_count{otel_scope_name="x"} 10
pulsegate_log_look_duration_seconds_sum{otel_scope_name="x"} 1
pulsegate_log_look_duration_seconds_count{otel_scope_name="x"} 100
pulsegate_log_read_entries_total{otel_scope_name="x"} 7
`
	const after = `pulsegate_log_append_duration_seconds_sum{otel_scope_name="x"} 0.7
pulsegate_log_append_duration_seconds_sum{error_type="taken",otel_scope_name="x"} 0.1
pulsegate_log_append_duration_seconds_count{otel_scope_name="x"} 25
pulsegate_log_append_duration_seconds_count{error_type="taken",otel_scope_name="x"} 5
pulsegate_log_look_duration_seconds_sum{otel_scope_name="x"} 1.5
pulsegate_log_look_duration_seconds_count{otel_scope_name="x"} 2e+02
`
	var a, b logWork
	if err := errors.Join(a.add(strings.NewReader(before)), b.add(strings.NewReader(after))); err != nil {
		t.Fatal(err)
	}
	if got := b.note(a, 40); got != "0.50 appends of 15.0 ms and 2.50 looks of 5.0 ms per request" {
		t.Error(got)
	}
	if err := a.add(strings.NewReader("pulsegate_log_look_duration_seconds_sum{} x\n")); err == nil {
		t.Error("a metric that is no number is accepted")
	}
}

// TestHeartRates has as many samples as the step counts.
func TestHeartRates(t *testing.T) {
	seen := map[string]bool{}
	for i := range samplePushes {
		var p struct{ Data []struct{ Timestamp string } }
		if err := json.Unmarshal(heartRates(i), &p); err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Data {
			seen[s.Timestamp] = true
		}
	}
	if len(seen) != samplePushes*samplesEach {
		t.Errorf("%d different samples, want %d", len(seen), samplePushes*samplesEach)
	}
}
