package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// States of samples that are duplicates of measurements from another channel,
// in addition to the presences of package store.
const (
	// duplicate: a fine channel delivered the measurement before.
	duplicate = store.Other + 1 + iota
	// adopted: a coarse channel delivered the measurement before, and the sample
	// becomes a new version of it.
	adopted
	// inBatch: a fine channel delivers the measurement in the same batch.
	inBatch
)

// findDuplicates marks the samples of group in found that another channel
// delivered. It returns the samples that complete stored Observations of a
// coarse channel.
func (d *delivery) findDuplicates(ctx context.Context, b *batch, group *seriesGroup, found []store.Presence,
	a *commitAttempt) ([]observation, error) {
	if !slices.Contains(found, store.Missing) {
		return nil, nil
	}
	switch {
	case group.coarse && (a.channels.Fine || a.channels.Shared):
		if err := b.markDuplicates(group, found); err != nil {
			return nil, err
		}
		return nil, d.findInStore(ctx, group, found, a)
	case !group.coarse:
		return d.findOthers(ctx, group, found, a)
	}
	return nil, nil
}

// findOthers is findDuplicates for a fine channel.
func (d *delivery) findOthers(ctx context.Context, group *seriesGroup, found []store.Presence,
	a *commitAttempt) (out []observation, err error) {
	if a.channels.Shared {
		if out, err = d.findShared(ctx, group, found, a); err != nil {
			return nil, err
		}
	}
	if !a.channels.hasCoarse() {
		return out, nil
	}
	more, err := d.adoptCoarse(ctx, group, found, a)
	return append(out, more...), err
}

// adoptCoarse finds samples that a coarse channel delivered before, whose ids
// can be derived. A coarse channel may omit the end of a sample.
func (d *delivery) adoptCoarse(ctx context.Context, group *seriesGroup, found []store.Presence,
	a *commitAttempt) (out []observation, err error) {
	claimed := map[string]bool{}
	for _, id := range d.pipeline.Mapper.CoarseStreams(d.request.Vendor, d.request.Patient, group.metric,
		group.source) {
		if !slices.Contains(a.channels.Streams, mapping.StreamID(id)) {
			continue
		}
		for _, endless := range []bool{false, true} {
			if id == group.template.Identity && !group.template.KeyValue && !endless {
				continue
			}
			more, err := d.adoptFromStream(ctx, group, found, a, id, endless, claimed)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
	}
	return out, nil
}

// adoptFromStream is adoptCoarse for one stream. If endless is set, it looks
// for samples without an end.
func (d *delivery) adoptFromStream(ctx context.Context, group *seriesGroup, found []store.Presence,
	a *commitAttempt, id series.Identity,
	endless bool, claimed map[string]bool) (out []observation, err error) {
	t := series.Template{Identity: id}
	var at []int
	var refs []fhir.Ref
	for i, presence := range found {
		s := group.columns.At(i)
		if presence != store.Missing || endless && s.End == series.NoEnd {
			continue
		}
		if endless {
			s.End = series.NoEnd
		}
		k := t.Key(&s)
		at, refs = append(at, i), append(refs, fhir.Ref{Type: "Observation", ID: k.ID()})
	}
	if len(refs) == 0 {
		return nil, nil
	}
	heads, err := d.pipeline.Store.Heads(ctx, refs)
	if err != nil {
		return nil, fhir.Wrap("ingest.duplicates", err)
	}
	for j, h := range heads {
		if h.Version == 0 || h.Deleted || claimed[refs[j].ID] {
			continue
		}
		v, _, err := d.pipeline.Store.Read(ctx, refs[j], 0)
		if err != nil {
			return nil, fhir.Wrap("ingest.duplicates", err)
		}
		obs := group.document(at[j])
		var own, other measurement
		if json.Unmarshal(obs.JSON, &own) != nil || json.Unmarshal(v.JSON, &other) != nil ||
			other.Status == statusRetracted {
			continue
		}
		sameDevice := own.Device.Reference == other.Device.Reference
		restated := sameDevice && !endless && !group.template.KeyValue
		if !restated && (!sameDevice && !a.channels.isCoarse(other.Device.Reference) || !own.equals(&other)) {
			continue // another measurement, or one of another source
		}
		obs.JSON = bytes.ReplaceAll(obs.JSON, []byte(`"`+obs.Stream+`"`), []byte(`"`+mapping.StreamID(id)+`"`))
		obs.Stream = mapping.StreamID(id)
		d.adopt(&obs, refs[j].ID, other.identifier(d.sourceSystem()), a)
		found[at[j]], claimed[refs[j].ID] = adopted, true
		out = append(out, obs)
	}
	return out, nil
}

// markDuplicates marks the samples of group, of a coarse channel, that another
// channel delivered in the same batch.
func (b *batch) markDuplicates(group *seriesGroup, found []store.Presence) error {
	for _, fine := range b.groups {
		if fine.coarse || group.source != "" && fine.source != group.source || fine.metric != group.metric ||
			fine.columns.Len() == 0 {
			continue
		}
		for i, presence := range found {
			start := group.columns.Start[i]
			j, _ := slices.BinarySearch(fine.columns.Start, start)
			for ; presence == store.Missing && j < fine.columns.Len() && fine.columns.Start[j] == start; j++ {
				var own, other measurement
				if err := json.Unmarshal(group.document(i).JSON, &own); err != nil {
					return fhir.Wrap("ingest.duplicates", err)
				}
				if err := json.Unmarshal(fine.document(j).JSON, &other); err != nil {
					return fhir.Wrap("ingest.duplicates", err)
				}
				if own.equals(&other) {
					presence, found[i] = inBatch, inBatch
				}
			}
		}
	}
	return nil
}

// findInStore marks the samples of group, of a coarse channel, that another
// channel delivered before.
func (d *delivery) findInStore(ctx context.Context, group *seriesGroup, found []store.Presence,
	a *commitAttempt) error {
	starts := map[int64][]int{}
	from, to := int64(math.MaxInt64), int64(math.MinInt64)
	for i, presence := range found {
		if presence == store.Missing {
			sec := group.columns.Start[i] / 1e6
			starts[sec] = append(starts[sec], i)
			from, to = min(from, sec), max(to, sec)
		}
	}
	if len(starts) == 0 {
		return nil
	}
	stream := mapping.StreamID(group.template.Identity)
	var failure error
	err := d.find(ctx, d.pipeline.Mapper.System(d.request.Vendor), group.metric, time.Unix(from, 0).UTC(),
		time.Unix(to+1, 0).UTC(),
		nil, func(f *store.Found, s *storedElements) bool {
			start, _, ok := s.effective()
			shared := a.channels.isShared(s.identifier(d.sourceSystem()))
			if !ok || !shared && (s.Status == statusRetracted || !a.channels.mayBeFine(s.Device.Reference)) {
				return true
			}
			for _, i := range starts[start.Unix()] {
				if found[i] != store.Missing {
					continue
				}
				var own, other measurement
				if failure = json.Unmarshal(f.Resource.JSON, &other); failure != nil {
					return false
				}
				obs := group.document(i)
				if failure = json.Unmarshal(obs.JSON, &own); failure != nil {
					return false
				}
				if !own.equals(&other) {
					continue
				}
				if ok, failure = d.mayBeFrom(ctx, s, group.metric, group.source, a); failure != nil || !ok {
					return failure == nil
				}
				found[i] = duplicate
				if failure = d.confirm(ctx, f.Resource.Ref(), s.identifier(mapping.StreamSystem), stream,
					group.metric, a); failure != nil {
					return false
				}
				break
			}
			return true
		})
	if err == nil {
		err = failure
	}
	return fhir.Wrap("ingest.duplicates", err)
}

// confirm makes the stream or Observation that stream by confirms a target of
// the commit's Provenance, once for each pair.
func (d *delivery) confirm(ctx context.Context, ref fhir.Ref, stream, by, metric string, a *commitAttempt) error {
	target := stream
	if target == "" {
		target = ref.ID
	}
	key := prefixConfirmed + target + "/" + by
	if slices.ContainsFunc(a.batch.State, func(w store.StateWrite) bool { return w.Key == key }) {
		return nil
	}
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil || raw != nil {
		return fhir.Wrap("ingest.confirm", err)
	}
	a.batch.State = append(a.batch.State,
		store.StateWrite{Key: key, Value: []byte(d.pipeline.Clock().UTC().Format(time.RFC3339))})
	a.addRow(metric)
	if stream != "" {
		a.addStream(stream)
	} else {
		a.targets = append(a.targets, ref)
	}
	return nil
}
