package ingest

import (
	"sort"
	"time"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/stream"
)

// group is what a batch has of one series.
type seriesGroup struct {
	template *series.Template
	metric   string
	device   mapping.DeviceKey
	vague    bool
	segments string // of what its samples are segments, "" mostly
	source   string
	coarse   bool
	// columns are as the samples came, their places in the payload in
	// Commits, until settle.
	columns *series.Columns
}

// use is what a batch has of one mapping.Stream.
type streamUse struct {
	stream *stream.Stream
	group  *seriesGroup
	latest int64 // start of the last of its samples, Unix microseconds
}

// find is the place of a sample in sorted columns, -1 if it is not there.
func (g *seriesGroup) find(k *series.Key) int {
	c := g.columns
	for i := sort.Search(c.Len(), func(i int) bool { return c.Start[i] >= k.Start }); i < c.Len() &&
		c.Start[i] == k.Start; i++ {
		if s := c.At(i); g.template.Check(&s) == k.Check {
			return i
		}
	}
	return -1
}

// pick copies the samples that keep says.
func (g *seriesGroup) pick(keep func(i int) bool) *series.Columns {
	out := &series.Columns{}
	for i := range g.columns.Len() {
		if keep(i) {
			s := g.columns.At(i)
			out.Append(&s, g.template.Values)
		}
	}
	return out
}

// document is sample i as Map would give it.
func (g *seriesGroup) document(i int) observation {
	s := g.columns.At(i)
	k := g.template.Key(&s)
	body := g.template.Append(nil, &s)
	return observation{Result: mapping.Result{ID: k.ID(), JSON: body, Hash: store.ContentHash(body),
		Categories: g.template.Categories,
		Metric:     g.metric, Start: time.UnixMicro(s.Start), Device: g.device, Vague: g.vague,
		Stream: mapping.StreamID(g.template.Identity), SegmentsOf: g.segments},
		source: g.source, coarse: g.coarse}
}
