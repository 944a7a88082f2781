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

// channels records which kinds of channels have delivered for a patient.
type channels struct {
	Fine bool `json:"fine,omitempty"`
	// Anonymous: a coarse channel that names no source.
	Unnamed bool `json:"anonymous,omitempty"`
	// Named are the Devices that stand for the sources of a coarse channel.
	Named []string `json:"named,omitempty"`
	// Plain are the Devices that stand for sources of which the channel that
	// knows more knows no more than the name, either.
	NameOnly []string `json:"plain,omitempty"`
	// Streams names the streams of coarse channels.
	Streams []string `json:"streams,omitempty"`
}

func (c *channels) learn(coarse, plain bool, device, stream string) (changed bool) {
	if coarse && stream != "" && !slices.Contains(c.Streams, stream) {
		changed, c.Streams = true, append(c.Streams, stream)
	}
	switch {
	case !coarse:
		changed, c.Fine = !c.Fine, true
		if plain && !slices.Contains(c.NameOnly, device) {
			changed, c.NameOnly = true, append(c.NameOnly, device)
		}
	case device == "":
		changed, c.Unnamed = changed || !c.Unnamed, true
	case !slices.Contains(c.Named, device):
		changed, c.Named = true, append(c.Named, device)
	}
	return changed
}

func (c *channels) hasCoarse() bool { return c.Unnamed || len(c.Named) > 0 }

// isCoarse reports whether an Observation with that device came through a
// coarse channel.
func (c *channels) isCoarse(device string) bool {
	return device == "" || slices.Contains(c.Named, strings.TrimPrefix(device, "Device/"))
}

// isPlain reports whether an Observation with that device may have come through
// either channel.
func (c *channels) isNameOnly(device string) bool {
	return slices.Contains(c.NameOnly, strings.TrimPrefix(device, "Device/"))
}

// mayKnow reports whether an Observation with that device may have come through
// a channel that knows more.
func (c *channels) mayBeFine(device string) bool { return !c.isCoarse(device) || c.isNameOnly(device) }

// better reports whether the stored version, of a channel that knows more,
// says what body of a coarse channel says.
func (c *channels) confirmed(body, current []byte) bool {
	var a, b measurement
	return json.Unmarshal(body, &a) == nil && json.Unmarshal(current, &b) == nil && c.mayBeFine(b.Device.Reference) &&
		a.equals(&b)
}

// learnChannels notes the kinds of channels of b.
func (d *delivery) learnChannels(ctx context.Context, b *batch, a *commitAttempt) error {
	key := prefixChannels + d.request.Patient + "/" + d.request.Vendor
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil {
		return fhir.Wrap("ingest.channels", err)
	}
	if raw != nil {
		if err := json.Unmarshal(raw, &a.channels); err != nil {
			return fhir.Wrap("ingest.channels", err)
		}
	}
	changed := false
	learn := func(coarse bool, device, source, stream string) {
		plain := !coarse && source != "" && !d.learned[device+source] &&
			device == d.pipeline.Mapper.SourceDevice(d.request.Vendor, d.request.Patient, source).ID
		changed = a.channels.learn(coarse, plain, device, stream) || changed
	}
	for _, group := range b.groups {
		learn(group.coarse, group.device.ID, group.source, mapping.StreamID(group.template.Identity))
	}
	for i := range b.observations {
		obs := &b.observations[i]
		learn(obs.coarse, obs.Device.ID, obs.source, obs.Stream)
	}
	if err := d.learnSources(ctx, b, a); err != nil {
		return err
	}
	if !changed {
		return nil
	}
	if raw, err = json.Marshal(&a.channels); err != nil {
		return fhir.Wrap("ingest.channels", err)
	}
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: raw})
	return nil
}

// learnSources notes which sources the streams and Devices of b stand for: a
// coarse channel names the source only.
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
			if a.batch.State[i].Key == key { // another source of it in this batch
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

// ofSource reports whether what is stored of a metric may be of the source that
// a coarse channel names; one that names none may mean any. A sample that a
// coarse channel brought first is in the stream of that channel still, which
// stands for the source that the channel named, or for any.
func (d *delivery) mayBeFrom(ctx context.Context, s *storedElements, metric, source string, a *commitAttempt) (bool, error) {
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
		if a.channels.isNameOnly(id) { // its name is all there is
			return d.mayStandFor(s.Device.Reference, source), nil
		}
	}
	raw, err := d.pipeline.Store.Get(ctx, d.sourceKey(id))
	return raw == nil || strings.Contains(string(raw), sourceHash(source)), fhir.Wrap("ingest.channels", err)
}

// standsFor reports whether a Device of a coarse channel may stand for source: it
// is made of the name of the source, or there is none and any may be meant.
func (d *delivery) mayStandFor(device, source string) bool {
	return device == "" || device == "Device/"+d.pipeline.Mapper.SourceDevice(d.request.Vendor, d.request.Patient, source).ID
}
