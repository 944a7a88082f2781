package ingest

import (
	"bytes"
	"context"
	"encoding/json"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// addDevices adds the Devices that are new or of which the batch states more or
// later facts.
func (d *delivery) addDevices(ctx context.Context, b *batch, a *commitAttempt) error {
	for _, dev := range b.devices {
		if !dev.written {
			continue
		}
		facts, err := d.loadDevice(ctx, dev.key.ID)
		if err != nil {
			return err
		}
		if !facts.Merge(&dev.DeviceFacts) {
			dev.count(a, Counts{Unchanged: 1})
			continue
		}
		state, err := json.Marshal(facts)
		if err != nil {
			return fhir.Wrap("ingest.devices", err)
		}
		a.batch.State = append(a.batch.State, store.StateWrite{Key: prefixDevice + dev.key.ID, Value: state})
		ref := fhir.Ref{Type: "Device", ID: dev.key.ID}
		body := facts.Device(d.request.Vendor, d.request.Patient, dev.key)
		same, exists, err := d.compareDevice(ctx, ref, body)
		switch {
		case err != nil:
			return err
		case same:
			dev.count(a, Counts{Unchanged: 1})
		case exists:
			dev.count(a, Counts{Updated: 1})
		default:
			dev.count(a, Counts{Created: 1})
		}
		if !same {
			a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor,
				Resource: fhir.Resource{Type: "Device", ID: dev.key.ID, JSON: body}})
			a.targets = append(a.targets, ref)
			for _, metric := range dev.described {
				a.addRow(metric)
			}
		}
	}
	return nil
}

// loadDevice returns the stored facts of a Device.
func (d *delivery) loadDevice(ctx context.Context, id string) (*mapping.DeviceFacts, error) {
	if facts := d.devices[id]; facts != nil {
		return facts, nil
	}
	raw, err := d.pipeline.Store.Get(ctx, prefixDevice+id)
	if err != nil {
		return nil, fhir.Wrap("ingest.devices", err)
	}
	facts := &mapping.DeviceFacts{}
	if raw != nil {
		if err := json.Unmarshal(raw, facts); err != nil {
			return nil, fhir.Wrap("ingest.devices", err)
		}
	}
	d.devices[id] = facts
	return facts, nil
}

// compareDevice reports whether a Device is stored, and whether it has the
// content of body.
func (d *delivery) compareDevice(ctx context.Context, ref fhir.Ref, body []byte) (same, exists bool, err error) {
	heads, err := d.pipeline.Store.Heads(ctx, []fhir.Ref{ref})
	if err != nil {
		return false, false, fhir.Wrap("ingest.devices", err)
	}
	if heads[0].Version == 0 || heads[0].Deleted {
		return false, false, nil
	}
	v, _, err := d.pipeline.Store.Read(ctx, ref, 0)
	if err != nil {
		return false, true, fhir.Wrap("ingest.devices", err)
	}
	return bytes.Equal(fhir.Stamp(body, ref.Type, ref.ID, v.Version, v.LastUpdated), v.JSON), true, nil
}

// count counts the samples that describe the Device: the first one with the
// outcome c, the others as unchanged.
func (f *batchDevice) count(a *commitAttempt, c Counts) {
	for _, metric := range f.described {
		a.count(metric, c)
		c = Counts{Unchanged: 1}
	}
}
