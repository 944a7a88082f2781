package ingest

import (
	"time"

	"pulsegate/fhir/series"
	"pulsegate/mapping"
	"pulsegate/mapping/stream"
)

// batch holds the content of one commit. It belongs to one goroutine at a time:
// to the decoding goroutine until flush, and then to the committing one.
type batch struct {
	arena        []byte
	observations []observation
	seq          uint64 // number of samples and documents so far
	samples      int    // number of samples in groups
	bytes        int    // size of the documents
	groups       []*seriesGroup
	byStream     map[*stream.Stream]*streamUse
	uses         []*streamUse // in order of their first samples
	byTemplate   map[*series.Template]*seriesGroup
	byDevice     map[string]*batchDevice // by the id of the Device
	devices      []*batchDevice          // in order of their first samples
	items        []Item
	counts       map[string]Counts
	// last marks the last batch of the payload. truncated is set in addition if
	// the payload could not be read to its end.
	last      bool
	truncated bool
	// overrun counts the items beyond Limits.KeepPerMetric, by reason, metric and
	// component.
	overrun map[string]Item
	unread  unread
}

func newBatch() *batch {
	return &batch{counts: map[string]Counts{}, byDevice: map[string]*batchDevice{},
		byStream:   map[*stream.Stream]*streamUse{},
		byTemplate: map[*series.Template]*seriesGroup{}}
}

func (b *batch) count(metric string, c Counts) {
	sum := b.counts[metric]
	sum.add(c)
	b.counts[metric] = sum
}

// device returns the facts that b states of a Device.
func (b *batch) device(k mapping.DeviceKey) *batchDevice {
	dev := b.byDevice[k.ID]
	if dev == nil {
		dev = &batchDevice{key: k}
		b.byDevice[k.ID] = dev
		b.devices = append(b.devices, dev)
	}
	return dev
}

// wantDevice marks a Device to be written because a stored Observation names
// it.
func (b *batch) wantDevice(k mapping.DeviceKey) {
	if dev := b.byDevice[k.ID]; dev != nil {
		dev.written = true
	}
}

// writtenDevices reports of each Device whether it must be written.
func (b *batch) writtenDevices() []bool {
	out := make([]bool, len(b.devices))
	for i, dev := range b.devices {
		out[i] = dev.written
	}
	return out
}

// seal completes b before it is committed: it collects the device facts of the
// samples and counts the samples.
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

// batchDevice holds the facts that a batch states of one Device.
type batchDevice struct {
	mapping.DeviceFacts
	key mapping.DeviceKey
	// written is set if the Device must be written: a stored Observation names it,
	// or a sample describes the Device itself.
	written   bool
	described []string // metrics of the samples that describe the Device itself
}
