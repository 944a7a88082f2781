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
func (group *seriesGroup) find(k *series.Key) int {
	c := group.columns
	for i := sort.Search(c.Len(), func(i int) bool { return c.Start[i] >= k.Start }); i < c.Len() &&
		c.Start[i] == k.Start; i++ {
		if s := c.At(i); group.template.Check(&s) == k.Check {
			return i
		}
	}
	return -1
}

// pick copies the samples that keep says.
func (group *seriesGroup) pick(keep func(i int) bool) *series.Columns {
	out := &series.Columns{}
	for i := range group.columns.Len() {
		if keep(i) {
			s := group.columns.At(i)
			out.Append(&s, group.template.Values)
		}
	}
	return out
}

// document is sample i as Map would give it.
func (group *seriesGroup) document(i int) observation {
	s := group.columns.At(i)
	k := group.template.Key(&s)
	body := group.template.Append(nil, &s)
	return observation{Result: mapping.Result{ID: k.ID(), JSON: body, Hash: store.ContentHash(body),
		Categories: group.template.Categories,
		Metric:     group.metric, Start: time.UnixMicro(s.Start), Device: group.device, Vague: group.vague,
		Stream: mapping.StreamID(group.template.Identity), SegmentsOf: group.segments},
		source: group.source, coarse: group.coarse}
}
