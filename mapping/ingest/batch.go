package ingest

import (
	"time"

	"pulsegate/fhir/series"
	"pulsegate/mapping"
	"pulsegate/mapping/stream"
)

// batch is what one commit will take. It belongs to one goroutine at a time.
type batch struct {
	arena        []byte
	observations []observation
	seq          uint64 // samples so far, documents included
	samples      int    // in groups
	bytes        int    // of documents
	groups       []*seriesGroup
	byStream     map[*stream.Stream]*streamUse
	uses         []*streamUse // as they came
	byTemplate   map[*series.Template]*seriesGroup
	byDevice     map[string]*batchDevice // by id
	devices      []*batchDevice          // as they came
	items        []Item
	counts       map[string]Counts
	last         bool
	truncated    bool            // the last, of a payload that could not be read to its end
	overrun      map[string]Item // per reason and metric: counted without raw
}

func newBatch() *batch {
	return &batch{counts: map[string]Counts{}, byDevice: map[string]*batchDevice{}, byStream: map[*stream.Stream]*streamUse{},
		byTemplate: map[*series.Template]*seriesGroup{}}
}

func (b *batch) count(metric string, c Counts) {
	sum := b.counts[metric]
	sum.add(c)
	b.counts[metric] = sum
}

// device is what b knows of a Device.
func (b *batch) device(k mapping.DeviceKey) *batchDevice {
	f := b.byDevice[k.ID]
	if f == nil {
		f = &batchDevice{key: k}
		b.byDevice[k.ID] = f
		b.devices = append(b.devices, f)
	}
	return f
}

// want has the Device of a stored Observation written.
func (b *batch) wantDevice(k mapping.DeviceKey) {
	if f := b.byDevice[k.ID]; f != nil {
		f.written = true
	}
}

// seal ends the gathering of b: what its samples say of their devices, and
// how many were read.
func (b *batch) seal() {
	for _, use := range b.uses {
		if use.stream.Device.ID != "" {
			b.device(use.stream.Device).Learn(use.stream.Described, time.UnixMicro(use.latest))
		}
	}
	for _, group := range b.groups {
		b.count(group.metric, Counts{Read: group.columns.Len()})
	}
}

// deviceFacts is what a batch says of one Device.
type batchDevice struct {
	mapping.DeviceFacts
	key       mapping.DeviceKey
	written   bool     // something that is stored names it, or the payload describes it
	described []string // metrics of the samples that are about the Device itself
}
