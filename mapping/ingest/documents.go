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
func (d *delivery) addObservations(ctx context.Context, b *batch, obs []observation, a *commitAttempt) error {
	refs := make([]fhir.Ref, len(obs))
	for i := range obs {
		refs[i] = fhir.Ref{Type: "Observation", ID: obs[i].ID}
	}
	heads, err := d.pipeline.Store.Heads(ctx, refs)
	if err != nil {
		return fhir.Wrap("ingest.observations", err)
	}
	better := fineStatements{batch: b, observations: obs}
	for i := range obs {
		o := &obs[i]
		ok, err := d.covered(ctx, o.Categories)
		if err != nil {
			return err
		}
		if !ok {
			a.count(o.Metric, Counts{Dropped: 1})
			continue
		}
		h := heads[i]
		exists := h.Version > 0 && !h.Deleted
		if o.retracted && !exists { // taken back before it was ever here
			a.count(o.Metric, Counts{Dropped: 1})
			continue
		}
		old, err := d.isOlder(ctx, o, a)
		if err != nil {
			return err
		}
		if old {
			a.count(o.Metric, Counts{Unchanged: 1})
			continue
		}
		if exists && h.Hash == o.Hash {
			a.count(o.Metric, Counts{Unchanged: 1})
			if !o.Vague {
				b.wantDevice(o.Device)
			}
			continue
		}
		body, kept := o.JSON, false
		if exists {
			was, err := d.readEarlier(ctx, refs[i], o)
			if err != nil {
				return err
			}
			if o.coarse && !o.retracted && was.status != statusRetracted && a.channels.Fine &&
				a.channels.confirmed(o.JSON, was.current) {
				was.unchanged = true // what it leaves out is known better
			}
			body, kept = was.body, was.keptSource
			if !kept {
				b.wantDevice(o.Device)
			}
			if was.unchanged {
				a.count(o.Metric, Counts{Unchanged: 1})
				continue
			}
			if o.coarse && !o.retracted && a.channels.Fine && !d.isNight(o.Metric) {
				twice, err := better.has(ctx, d, o, a)
				if err != nil {
					return err
				}
				if twice {
					a.retractOwn(o, &was)
					continue
				}
			}
			if was.status != statusPreliminary && !o.retracted && !o.preliminary {
				body = withStatus(body, "amended")
			}
			if o.SegmentsOf != "" {
				a.addSegment(o, was.current)
			}
			if err := d.retractCoarse(ctx, o, a); err != nil {
				return err
			}
		} else {
			b.wantDevice(o.Device)
		}
		if o.SegmentsOf != "" {
			a.addSegment(o, o.JSON)
		}
		a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor, Hash: o.Hash, SkipSame: true,
			Resource: fhir.Resource{Type: "Observation", ID: o.ID, JSON: body}})
		a.metrics = append(a.metrics, o.Metric)
		if o.Stream != "" && h.Version == 0 {
			a.addStream(o.Stream)
		} else {
			a.targets = append(a.targets, refs[i])
		}
	}
	return nil
}

// oldNews reports whether the store has a later word of the vendor's on o, by
// the vendor's own order. Otherwise the order of o is remembered.
func (d *delivery) isOlder(ctx context.Context, o *observation, a *commitAttempt) (bool, error) {
	if o.revision == 0 {
		return false, nil
	}
	key := prefixRevision + o.ID
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil {
		return false, fhir.Wrap("ingest.oldNews", err)
	}
	if raw != nil {
		known, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return false, fhir.Wrap("ingest.oldNews", err)
		}
		if known >= o.revision {
			return known > o.revision, nil
		}
	}
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: strconv.AppendInt(nil, o.revision, 10)})
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
func (d *delivery) readEarlier(ctx context.Context, ref fhir.Ref, o *observation) (was earlierVersion, err error) {
	v, _, err := d.pipeline.Store.Read(ctx, ref, 0)
	if err != nil {
		return was, fhir.Wrap("ingest.earlier", err)
	}
	if o.joined && !v.Deleted && !o.retracted {
		o.addComponents(v.JSON)
	}
	was.status, was.current, was.version, was.body = statusOf(v.JSON), v.JSON, v, o.JSON
	if o.Vague {
		was.body, was.keptSource = mapping.KeepSource(o.JSON, v.JSON)
	}
	was.unchanged = equalContent(&v, was.body)
	return was, nil
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
