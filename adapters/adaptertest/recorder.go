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

// Recorder is a sink that keeps deep copies of all it receives.
type Recorder struct {
	Samples []*sample.Sample
	Rejects []*sample.Reject
	Drops   map[string]int // keyed by "reason metric"
	Bytes   int64
	// Fail, if set, is called before the n-th sample, counted from 0, is kept.
	// Its error is returned to the adapter.
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
	for _, part := range s.Components {
		part.Value = cloneValue(part.Value)
		c.Components = append(c.Components, part)
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

// Reject keeps a copy of reject.
func (r *Recorder) Reject(reject *sample.Reject) error {
	c := *reject
	c.Raw = slices.Clone(reject.Raw)
	r.Rejects = append(r.Rejects, &c)
	return nil
}

// Drop adds n to the count of the reason and the metric.
func (r *Recorder) Drop(reason, metric string, n int) { r.Drops[reason+" "+metric] += n }

// Progress keeps the latest number of bytes.
func (r *Recorder) Progress(n int64) { r.Bytes = n }

// counter is a sink that counts samples and measures the heap after every
// 20,000.
type counter struct {
	samples, bytes int64
	base, peak     uint64 // bytes of heap before decoding, and the greatest growth
}

func (c *counter) Sample(*sample.Sample) error {
	c.samples++
	if c.samples%20000 == 0 {
		// Collect first: garbage must not count.
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
