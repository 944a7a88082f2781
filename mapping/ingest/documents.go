package ingest

import (
	"bytes"
	"context"
	"strconv"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// observations puts the documents that are new or changed into a.
func (d *delivery) addObservations(ctx context.Context, b *batch, list []observation, a *commitAttempt) error {
	refs := make([]fhir.Ref, len(list))
	for i := range list {
		refs[i] = fhir.Ref{Type: "Observation", ID: list[i].ID}
	}
	heads, err := d.pipeline.Store.Heads(ctx, refs)
	if err != nil {
		return fhir.Wrap("ingest.observations", err)
	}
	fine := fineStatements{batch: b, observations: list}
	for i := range list {
		obs := &list[i]
		ok, err := d.covered(ctx, obs.Categories)
		if err != nil {
			return err
		}
		if !ok {
			a.count(obs.Metric, Counts{Dropped: 1})
			continue
		}
		h := heads[i]
		exists := h.Version > 0 && !h.Deleted
		if obs.retracted && !exists { // taken back before it was ever here
			a.count(obs.Metric, Counts{Dropped: 1})
			continue
		}
		old, err := d.isOlder(ctx, obs, a)
		if err != nil {
			return err
		}
		if old {
			a.count(obs.Metric, Counts{Unchanged: 1})
			continue
		}
		if exists && h.Hash == obs.Hash {
			a.count(obs.Metric, Counts{Unchanged: 1})
			if !obs.Vague {
				b.wantDevice(obs.Device)
			}
			continue
		}
		body, kept := obs.JSON, false
		if exists {
			earlier, err := d.readEarlier(ctx, refs[i], obs)
			if err != nil {
				return err
			}
			if obs.coarse && !obs.retracted && earlier.status != statusRetracted && a.channels.Fine &&
				a.channels.confirmed(obs.JSON, earlier.current) {
				earlier.unchanged = true // what it leaves out is known better
			}
			body, kept = earlier.body, earlier.keptSource
			if !kept {
				b.wantDevice(obs.Device)
			}
			if earlier.unchanged {
				a.count(obs.Metric, Counts{Unchanged: 1})
				continue
			}
			if obs.coarse && !obs.retracted && a.channels.Fine && !d.isNight(obs.Metric) {
				inFine, err := fine.has(ctx, d, obs, a)
				if err != nil {
					return err
				}
				if inFine {
					a.retractOwn(obs, &earlier)
					continue
				}
			}
			if earlier.status != statusPreliminary && !obs.retracted && !obs.preliminary {
				body = withStatus(body, "amended")
			}
			if obs.SegmentsOf != "" {
				a.addSegment(obs, earlier.current)
			}
			if err := d.retractCoarse(ctx, obs, a); err != nil {
				return err
			}
		} else {
			b.wantDevice(obs.Device)
		}
		if obs.SegmentsOf != "" {
			a.addSegment(obs, obs.JSON)
		}
		a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor, Hash: obs.Hash, SkipSame: true,
			Resource: fhir.Resource{Type: "Observation", ID: obs.ID, JSON: body}})
		a.metrics = append(a.metrics, obs.Metric)
		if obs.Stream != "" && h.Version == 0 {
			a.addStream(obs.Stream)
		} else {
			a.targets = append(a.targets, refs[i])
		}
	}
	return nil
}

// oldNews reports whether the store has a later word of the vendor's on o, by
// the vendor's own order. Otherwise the order of o is remembered.
func (d *delivery) isOlder(ctx context.Context, obs *observation, a *commitAttempt) (bool, error) {
	if obs.revision == 0 {
		return false, nil
	}
	key := prefixRevision + obs.ID
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil {
		return false, fhir.Wrap("ingest.oldNews", err)
	}
	if raw != nil {
		latest, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return false, fhir.Wrap("ingest.oldNews", err)
		}
		if latest >= obs.revision {
			return latest > obs.revision, nil
		}
	}
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: strconv.AppendInt(nil, obs.revision, 10)})
	return false, nil
}

// past holds the stored version of an observation that is delivered again.
type earlierVersion struct {
	status     string
	current    []byte // the current version
	version    fhir.Resource
	body       []byte // to be written: with the known device where the sample is vague
	keptSource bool   // the known device stands
	unchanged  bool   // nothing to write
}

// earlier compares with the current version.
func (d *delivery) readEarlier(ctx context.Context, ref fhir.Ref, obs *observation) (earlier earlierVersion, err error) {
	v, _, err := d.pipeline.Store.Read(ctx, ref, 0)
	if err != nil {
		return earlier, fhir.Wrap("ingest.earlier", err)
	}
	if obs.joined && !v.Deleted && !obs.retracted {
		obs.addComponents(v.JSON)
	}
	earlier.status, earlier.current, earlier.version, earlier.body = statusOf(v.JSON), v.JSON, v, obs.JSON
	if obs.Vague {
		earlier.body, earlier.keptSource = mapping.KeepSource(obs.JSON, v.JSON)
	}
	earlier.unchanged = equalContent(&v, earlier.body)
	return earlier, nil
}

// equalContent compares a stored version with mapped bytes, leaving the
// store's stamp and "amended" aside.
func equalContent(v *fhir.Resource, body []byte) bool {
	want := fhir.Stamp(body, v.Type, v.ID, v.Version, v.LastUpdated)
	if bytes.Equal(want, v.JSON) {
		return true
	}
	return statusOf(v.JSON) == "amended" && bytes.Equal(withStatus(want, "amended"), v.JSON)
}
