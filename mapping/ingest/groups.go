package ingest

import (
	"sort"
	"time"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/stream"
)

// seriesGroup holds the samples of a batch for one series.
type seriesGroup struct {
	template *series.Template
	metric   string
	device   mapping.DeviceKey
	vague    bool
	segments string // metric that is derived from the samples, or ""
	source   string
	coarse   bool
	// columns holds the samples in the order of the payload, with their sequence
	// numbers in the payload in Commits. deduplicate sorts them.
	columns *series.Columns
	// exemplars holds those of the samples, in order of their first samples.
	exemplars []*stream.Exemplar
}

// streamUse refers to the samples of a batch for one stream.Stream.
type streamUse struct {
	stream *stream.Stream
	group  *seriesGroup
	latest int64 // start of the latest sample in Unix microseconds
}

// find returns the index of a sample in sorted columns, or -1.
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

// pick returns a copy of the samples for which keep returns true.
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

// document returns sample i as Mapper.Map would return it.
func (group *seriesGroup) document(i int) observation {
	s := group.columns.At(i)
	k := group.template.Key(&s)
	body := group.template.Append(nil, &s)
	return observation{Result: mapping.Result{ID: k.ID(), JSON: body, Hash: store.ContentHash(body),
		Categories: group.template.Categories,
		Metric:     group.metric, Start: time.UnixMicro(s.Start), Device: group.device, Vague: group.vague,
		Stream: mapping.StreamID(group.template.Identity), SegmentsOf: group.segments},
		source: group.source, coarse: group.coarse, group: group, row: s}
}
