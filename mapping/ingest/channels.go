package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// channels records which channels have delivered for a patient and vendor. A
// channel is fine if it is not coarse; see sample.Sample.Coarse.
type channels struct {
	Fine bool `json:"fine,omitempty"`
	// Shared is set if a channel has SharedIDs (see sample.Sample.SharedID), and
	// Unshared if a fine channel has none.
	Shared   bool `json:"shared,omitempty"`
	Unshared bool `json:"unshared,omitempty"`
	// Unnamed is set if a coarse channel names no source.
	Unnamed bool `json:"anonymous,omitempty"`
	// Named holds the Devices that stand for the sources of a coarse channel.
	Named []string `json:"named,omitempty"`
	// NameOnly holds the Devices that stand for sources of which a fine channel
	// states only the name too.
	NameOnly []string `json:"plain,omitempty"`
	// Streams holds the streams of coarse channels.
	Streams []string `json:"streams,omitempty"`
}

// learn records one group or document of a channel and reports whether c
// changed.
func (c *channels) learn(coarse, shared, nameOnly bool, device, stream string) (changed bool) {
	if shared {
		changed, c.Shared = !c.Shared, true
	} else if !coarse {
		changed, c.Unshared = !c.Unshared, true
	}
	if coarse && stream != "" && !slices.Contains(c.Streams, stream) {
		changed, c.Streams = true, append(c.Streams, stream)
	}
	switch {
	case !coarse:
		changed, c.Fine = changed || !c.Fine, true
		if nameOnly && !slices.Contains(c.NameOnly, device) {
			changed, c.NameOnly = true, append(c.NameOnly, device)
		}
	case device == "":
		changed, c.Unnamed = changed || !c.Unnamed, true
	case !slices.Contains(c.Named, device):
		changed, c.Named = true, append(c.Named, device)
	}
	return changed
}

// hasCoarse reports whether a coarse channel has delivered.
func (c *channels) hasCoarse() bool { return c.Unnamed || len(c.Named) > 0 }

// isCoarse reports whether an Observation with the given device came from a
// coarse channel.
func (c *channels) isCoarse(device string) bool {
	return device == "" || slices.Contains(c.Named, strings.TrimPrefix(device, "Device/"))
}

// isNameOnly reports whether an Observation with the given device may have come
// from a fine or a coarse channel.
func (c *channels) isNameOnly(device string) bool {
	return slices.Contains(c.NameOnly, strings.TrimPrefix(device, "Device/"))
}

// mayBeFine reports whether an Observation with the given device may have come
// from a fine channel.
func (c *channels) mayBeFine(device string) bool { return !c.isCoarse(device) || c.isNameOnly(device) }

// confirmed reports whether current, the stored version of a fine channel,
// states the measurement of body, of a coarse channel.
func (c *channels) confirmed(body, current []byte) bool {
	var a, b measurement
	return json.Unmarshal(body, &a) == nil && json.Unmarshal(current, &b) == nil && c.mayBeFine(b.Device.Reference) &&
		a.equals(&b)
}

// learnChannels records the channels of b.
func (d *delivery) learnChannels(ctx context.Context, b *batch, a *commitAttempt) error {
	key, err := d.loadChannels(ctx, &a.channels)
	if err != nil {
		return err
	}
	changed := false
	learn := func(coarse, shared bool, device, source, stream string) {
		nameOnly := !coarse && source != "" && !d.learned[device+source] &&
			device == d.pipeline.Mapper.SourceDevice(d.request.Vendor, d.request.Patient, source).ID
		changed = a.channels.learn(coarse, shared, nameOnly, device, stream) || changed
	}
	for _, group := range b.groups {
		learn(group.coarse, false, group.device.ID, group.source, mapping.StreamID(group.template.Identity))
	}
	for i := range b.observations {
		if obs := &b.observations[i]; !obs.isDeletion() {
			learn(obs.coarse, obs.shared, obs.Device.ID, obs.source, obs.Stream)
		}
	}
	if err := d.learnSources(ctx, b, a); err != nil {
		return err
	}
	if !changed {
		return nil
	}
	raw, err := json.Marshal(&a.channels)
	if err != nil {
		return fhir.Wrap("ingest.channels", err)
	}
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: raw})
	return nil
}

// loadChannels reads the stored channels into c and returns their key.
func (d *delivery) loadChannels(ctx context.Context, c *channels) (key string, err error) {
	key = prefixChannels + d.request.Patient + "/" + d.request.Vendor
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err == nil && raw != nil {
		err = json.Unmarshal(raw, c)
	}
	return key, fhir.Wrap("ingest.channels", err)
}

// learnSources records the sources of the streams and Devices in b, because a
// coarse channel names only the source.
func (d *delivery) learnSources(ctx context.Context, b *batch, a *commitAttempt) error {
	var err error
	learn := func(coarse bool, id, source string) {
		if err != nil || coarse || id == "" || source == "" || d.learned[id+source] {
			return
		}
		d.learned[id+source] = true
		key, hash := d.sourceKey(id), sourceHash(source)
		var raw []byte
		if raw, err = d.pipeline.Store.Get(ctx, key); err != nil || strings.Contains(string(raw), hash) {
			return
		}
		for i := range a.batch.State {
			if a.batch.State[i].Key == key { // the batch has another source of id
				a.batch.State[i].Value = append(a.batch.State[i].Value, hash...)
				return
			}
		}
		a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: append(bytes.Clone(raw), hash...)})
	}
	for _, group := range b.groups {
		learn(group.coarse, mapping.StreamID(group.template.Identity), group.source)
		learn(group.coarse, group.device.ID, group.source)
	}
	for i := range b.observations {
		obs := &b.observations[i]
		learn(obs.coarse, obs.Stream, obs.source)
		learn(obs.coarse, obs.Device.ID, obs.source)
	}
	return fhir.Wrap("ingest.channels", err)
}

func (d *delivery) sourceKey(id string) string {
	return prefixSource + d.request.Patient + "/" + d.request.Vendor + "/" + id
}

// mayBeFrom reports whether a stored Observation of a metric may come from the
// source that a coarse channel names. A coarse channel that names no source may
// mean any. A sample that a coarse channel delivered first is still in the
// stream of that channel, which stands for the source that the channel named,
// or for any.
func (d *delivery) mayBeFrom(ctx context.Context, s *storedElements, metric, source string,
	a *commitAttempt) (bool, error) {
	if source == "" {
		return true, nil
	}
	id := s.identifier(mapping.StreamSystem)
	if slices.Contains(a.channels.Streams, id) {
		ids := d.pipeline.Mapper.CoarseStreams(d.request.Vendor, d.request.Patient, metric, source)
		if id != mapping.StreamID(ids[0]) {
			return id == mapping.StreamID(ids[1]), nil
		}
		id = ""
	}
	if id == "" {
		id = strings.TrimPrefix(s.Device.Reference, "Device/")
		if a.channels.isNameOnly(id) { // the Device is derived from the name of the source
			return d.mayStandFor(s.Device.Reference, source), nil
		}
	}
	raw, err := d.pipeline.Store.Get(ctx, d.sourceKey(id))
	return raw == nil || strings.Contains(string(raw), sourceHash(source)), fhir.Wrap("ingest.channels", err)
}

// mayStandFor reports whether a Device of a coarse channel may stand for
// source: it is derived from the name of the source, or there is none.
func (d *delivery) mayStandFor(device, source string) bool {
	return device == "" || device == "Device/"+
		d.pipeline.Mapper.SourceDevice(d.request.Vendor, d.request.Patient, source).ID
}
