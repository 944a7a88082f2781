package ingest

import (
	"bytes"
	"context"
	"strconv"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// addObservations compares documents with the store and adds those that are new
// or changed.
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
		if err := d.collectDocument(obs); err != nil {
			return err
		}
		ok, err := d.covered(ctx, obs.Categories)
		if err != nil {
			return err
		}
		exists := heads[i].Version > 0 && !heads[i].Deleted
		if ok && obs.isDeletion() {
			if err := d.delete(ctx, refs[i], obs, exists, a); err != nil {
				return err
			}
			continue
		}
		if !ok || obs.retracted && !exists {
			a.count(obs.Metric, Counts{Dropped: 1})
			continue
		}
		older, err := d.isOlder(ctx, obs, a)
		if err != nil {
			return err
		}
		if older {
			a.count(obs.Metric, Counts{Unchanged: 1})
			continue
		}
		if exists && heads[i].Hash == obs.Hash {
			a.count(obs.Metric, Counts{Unchanged: 1})
			if !obs.Vague {
				b.wantDevice(obs.Device)
			}
			continue
		}
		body := obs.JSON
		if exists {
			if body, err = d.revise(ctx, b, refs[i], obs, &fine, a); err != nil {
				return err
			}
			if body == nil {
				continue
			}
		} else {
			b.wantDevice(obs.Device)
		}
		if obs.SegmentsOf != "" {
			a.addSegment(obs, obs.JSON)
		}
		if err := d.keepSample(obs, a); err != nil {
			return err
		}
		a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor, Hash: obs.Hash,
			SkipSame: true, Resource: fhir.Resource{Type: "Observation", ID: obs.ID, JSON: body}})
		a.metrics = append(a.metrics, obs.Metric)
		a.addRow(obs.Metric)
		if obs.Stream != "" && heads[i].Version == 0 {
			a.addStream(obs.Stream)
		} else {
			a.targets = append(a.targets, refs[i])
		}
	}
	return nil
}

// revise returns the new version of obs, which the store has with other content.
// It returns nil if there is nothing to write.
func (d *delivery) revise(ctx context.Context, b *batch, ref fhir.Ref, obs *observation, fine *fineStatements,
	a *commitAttempt) ([]byte, error) {
	earlier, err := d.readEarlier(ctx, ref, obs)
	if err != nil {
		return nil, err
	}
	if obs.coarse && !obs.retracted && earlier.status != statusRetracted && a.channels.Fine &&
		a.channels.confirmed(obs.JSON, earlier.current) {
		earlier.unchanged = true // the stored version has more detail
	}
	if a.channels.Shared && d.keepsShared(obs, &earlier, a) {
		earlier.unchanged = true
	}
	if !earlier.keptSource {
		b.wantDevice(obs.Device)
	}
	if earlier.unchanged {
		a.count(obs.Metric, Counts{Unchanged: 1})
		return nil, nil
	}
	if obs.coarse && !obs.retracted && a.channels.Fine && !d.isNight(obs.Metric) {
		isDuplicate, err := fine.has(ctx, d, obs, a)
		if err != nil {
			return nil, err
		}
		if isDuplicate {
			a.retractOwn(obs, &earlier)
			return nil, nil
		}
	}
	body := earlier.body
	if earlier.status != statusPreliminary && !obs.retracted && !obs.preliminary {
		body = withStatus(body, "amended")
	}
	if obs.SegmentsOf != "" {
		a.addSegment(obs, earlier.current)
	}
	return body, d.retractCoarse(ctx, obs, a)
}

// isOlder reports whether the vendor's own revision says that the store has a
// later statement than obs. If not, the revision of obs is stored.
func (d *delivery) isOlder(ctx context.Context, obs *observation, a *commitAttempt) (bool, error) {
	if obs.revision == 0 {
		return false, nil
	}
	key := prefixRevision + obs.ID
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil {
		return false, fhir.Wrap("ingest.revision", err)
	}
	if raw != nil {
		latest, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return false, fhir.Wrap("ingest.revision", err)
		}
		if latest >= obs.revision {
			return latest > obs.revision, nil
		}
	}
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: strconv.AppendInt(nil, obs.revision, 10)})
	return false, nil
}

// earlierVersion is the stored version of an Observation that is delivered
// again.
type earlierVersion struct {
	status     string
	current    []byte // JSON of the version
	version    fhir.Resource
	body       []byte // to be written; a vague sample gets the stored device
	keptSource bool   // body has the stored device
	unchanged  bool   // body has the content of the version
}

// readEarlier reads the current version of obs and compares it with obs.
func (d *delivery) readEarlier(ctx context.Context, ref fhir.Ref,
	obs *observation) (earlier earlierVersion, err error) {
	v, _, err := d.pipeline.Store.Read(ctx, ref, 0)
	if err != nil {
		return earlier, fhir.Wrap("ingest.observations", err)
	}
	if obs.joined && !v.Deleted && !obs.retracted && obs.addComponents(v.JSON) {
		if err := d.joinKept(ctx, obs, &v); err != nil {
			return earlier, err
		}
	}
	earlier.status, earlier.current, earlier.version, earlier.body = statusOf(v.JSON), v.JSON, v, obs.JSON
	if obs.Vague {
		earlier.body, earlier.keptSource = mapping.KeepSource(obs.JSON, v.JSON)
	}
	earlier.unchanged = equalContent(&v, earlier.body)
	return earlier, nil
}

// equalContent reports whether a stored version has the content of body. The
// version, the time and the status "amended" of the stored version do not
// count, unless body is retracted.
func equalContent(v *fhir.Resource, body []byte) bool {
	want := fhir.Stamp(body, v.Type, v.ID, v.Version, v.LastUpdated)
	if bytes.Equal(want, v.JSON) {
		return true
	}
	return statusOf(v.JSON) == "amended" && statusOf(body) != statusRetracted &&
		bytes.Equal(withStatus(want, "amended"), v.JSON)
}
