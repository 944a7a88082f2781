package adaptertest

import (
	"runtime"
	"slices"

	"pulsegate/adapters"
	"pulsegate/mapping/sample"
)

var (
	_ adapters.Sink = (*Recorder)(nil)
	_ adapters.Sink = (*counter)(nil)
)

// Recorder is a sink that keeps deep copies of everything.
type Recorder struct {
	Samples []*sample.Sample
	Rejects []*sample.Reject
	Drops   map[string]int // "reason metric" -> count
	Bytes   int64
	// Fail, if set, is asked before the n-th sample (counted from 0) is
	// taken; its error is returned to the adapter.
	Fail func(n int) error
}

// NewRecorder returns an empty Recorder.
func NewRecorder() *Recorder { return &Recorder{Drops: map[string]int{}} }

// Sample keeps a copy of s.
func (r *Recorder) Sample(s *sample.Sample) error {
	if r.Fail != nil {
		if err := r.Fail(len(r.Samples)); err != nil {
			return err
		}
	}
	c := *s
	c.Value = cloneValue(s.Value)
	c.Components = nil
	for _, x := range s.Components {
		c.Components = append(c.Components, sample.Component{Name: x.Name, Value: cloneValue(x.Value)})
	}
	c.Device.Facts = slices.Clone(s.Device.Facts)
	r.Samples = append(r.Samples, &c)
	return nil
}

func cloneValue(v sample.Value) sample.Value {
	if v.Series != nil {
		c := *v.Series
		v.Series = &c
	}
	return v
}

// Reject keeps a copy of x.
func (r *Recorder) Reject(x *sample.Reject) error {
	c := *x
	c.Raw = slices.Clone(x.Raw)
	r.Rejects = append(r.Rejects, &c)
	return nil
}

// Drop counts.
func (r *Recorder) Drop(reason, metric string, n int) { r.Drops[reason+" "+metric] += n }

// Progress keeps the last figure.
func (r *Recorder) Progress(n int64) { r.Bytes = n }

// counter counts samples and watches the heap.
type counter struct {
	samples, bytes int64
	base, peak     uint64
}

func (c *counter) Sample(*sample.Sample) error {
	c.samples++
	if c.samples%20000 == 0 {
		// Without a collection garbage would count as held memory.
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if m.HeapAlloc > c.base {
			c.peak = max(c.peak, m.HeapAlloc-c.base)
		}
	}
	return nil
}

func (c *counter) Reject(*sample.Reject) error { return nil }
func (c *counter) Drop(string, string, int)    {}
func (c *counter) Progress(n int64)            { c.bytes = n }
