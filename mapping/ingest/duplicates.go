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

// Presences of samples that the store has under another id, besides those of
// package store.
const (
	duplicate = store.Other + 1 + iota // and knows more of it
	adopted                            // and knows less of it: what is new goes there
	inBatch                            // or rather the batch has it, better
)

// twinsOf finds the samples of g that another channel brought. It marks them in
// found and returns those that complete what is there.
func (d *delivery) findDuplicates(ctx context.Context, b *batch, g *seriesGroup, found []store.Presence,
	a *commitAttempt) ([]observation, error) {
	if !slices.Contains(found, store.Missing) {
		return nil, nil
	}
	switch {
	case g.coarse && a.channels.Fine:
		if err := b.markDuplicates(g, found); err != nil {
			return nil, err
		}
		return nil, d.findInStore(ctx, g, found, a)
	case !g.coarse && a.channels.hasCoarse():
		return d.adoptCoarse(ctx, g, found, a)
	}
	return nil, nil
}

// adopt finds what a coarse channel brought before: its ids are known. It may
// not have told the end of what took time.
func (d *delivery) adoptCoarse(ctx context.Context, g *seriesGroup, found []store.Presence, a *commitAttempt) (out []observation, err error) {
	taken := map[string]bool{}
	for _, id := range d.pipeline.Mapper.CoarseStreams(d.request.Vendor, d.request.Patient, g.metric, g.source) {
		if !slices.Contains(a.channels.Streams, mapping.StreamID(id)) {
			continue
		}
		for _, endless := range []bool{false, true} {
			if id == g.template.Identity && !g.template.KeyValue && !endless {
				continue
			}
			more, err := d.adoptFromStream(ctx, g, found, a, id, endless, taken)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
	}
	return out, nil
}

// adoptFrom is adopt for one stream.
func (d *delivery) adoptFromStream(ctx context.Context, g *seriesGroup, found []store.Presence, a *commitAttempt, id series.Identity,
	endless bool, taken map[string]bool) (out []observation, err error) {
	t := series.Template{Identity: id}
	var at []int
	var refs []fhir.Ref
	for i, p := range found {
		s := g.columns.At(i)
		if p != store.Missing || endless && s.End == series.NoEnd {
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
		return nil, fhir.Wrap("ingest.adopt", err)
	}
	for j, h := range heads {
		if h.Version == 0 || h.Deleted || taken[refs[j].ID] {
			continue
		}
		v, _, err := d.pipeline.Store.Read(ctx, refs[j], 0)
		if err != nil {
			return nil, fhir.Wrap("ingest.adopt", err)
		}
		o := g.document(at[j])
		var mine, there measurement
		if json.Unmarshal(o.JSON, &mine) != nil || json.Unmarshal(v.JSON, &there) != nil ||
			there.Status == statusRetracted {
			continue
		}
		ours := mine.Device.Reference == there.Device.Reference
		restated := ours && !endless && !g.template.KeyValue
		if !restated && (!ours && !a.channels.isCoarse(there.Device.Reference) || !mine.equals(&there)) {
			continue // another measurement, or one that another source completed
		}
		o.JSON = bytes.ReplaceAll(o.JSON, []byte(`"`+o.Stream+`"`), []byte(`"`+mapping.StreamID(id)+`"`))
		o.Stream = mapping.StreamID(id)
		o.rename(refs[j].ID, "", "")
		found[at[j]], taken[refs[j].ID] = adopted, true
		out = append(out, o)
	}
	return out, nil
}

// beside finds the samples of g, of a coarse channel, that another one brought
// in the same batch.
func (b *batch) markDuplicates(g *seriesGroup, found []store.Presence) error {
	for _, f := range b.groups {
		if f.coarse || g.source != "" && f.source != g.source || f.metric != g.metric || f.columns.Len() == 0 {
			continue
		}
		for i, p := range found {
			start := g.columns.Start[i]
			j, _ := slices.BinarySearch(f.columns.Start, start)
			for ; p == store.Missing && j < f.columns.Len() && f.columns.Start[j] == start; j++ {
				var mine, there measurement
				if err := json.Unmarshal(g.document(i).JSON, &mine); err != nil {
					return fhir.Wrap("ingest.beside", err)
				}
				if err := json.Unmarshal(f.document(j).JSON, &there); err != nil {
					return fhir.Wrap("ingest.beside", err)
				}
				if mine.equals(&there) {
					p, found[i] = inBatch, inBatch
				}
			}
		}
	}
	return nil
}

// known finds what a channel that knows more brought before.
func (d *delivery) findInStore(ctx context.Context, g *seriesGroup, found []store.Presence, a *commitAttempt) error {
	starts := map[int64][]int{}
	from, to := int64(math.MaxInt64), int64(math.MinInt64)
	for i, p := range found {
		if p == store.Missing {
			sec := g.columns.Start[i] / 1e6
			starts[sec] = append(starts[sec], i)
			from, to = min(from, sec), max(to, sec)
		}
	}
	if len(starts) == 0 {
		return nil
	}
	own := mapping.StreamID(g.template.Identity)
	var bad error
	err := d.find(ctx, d.pipeline.Mapper.System(d.request.Vendor), g.metric, time.Unix(from, 0).UTC(), time.Unix(to+1, 0).UTC(),
		nil, func(f *store.Found, s *storedElements) bool {
			start, _, ok := s.effective()
			if !ok || s.Status == statusRetracted || !a.channels.mayBeFine(s.Device.Reference) {
				return true
			}
			for _, i := range starts[start.Unix()] {
				if found[i] != store.Missing {
					continue
				}
				var mine, there measurement
				if bad = json.Unmarshal(f.Resource.JSON, &there); bad != nil {
					return false
				}
				o := g.document(i)
				if bad = json.Unmarshal(o.JSON, &mine); bad != nil {
					return false
				}
				if !mine.equals(&there) {
					continue
				}
				if ok, bad = d.mayBeFrom(ctx, s, g.metric, g.source, a); bad != nil || !ok {
					return bad == nil
				}
				found[i] = duplicate
				if bad = d.confirm(ctx, f.Resource.Ref(), s.identifier(mapping.StreamSystem), own, a); bad != nil {
					return false
				}
				break
			}
			return true
		})
	if err == nil {
		err = bad
	}
	return fhir.Wrap("ingest.known", err)
}

// confirm has the Provenance of this commit name what another stream has, once
// for each pair.
func (d *delivery) confirm(ctx context.Context, ref fhir.Ref, stream, own string, a *commitAttempt) error {
	target := stream
	if target == "" {
		target = ref.ID
	}
	key := prefixConfirmed + target + "/" + own
	if slices.ContainsFunc(a.batch.State, func(w store.StateWrite) bool { return w.Key == key }) {
		return nil
	}
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil || raw != nil {
		return fhir.Wrap("ingest.confirm", err)
	}
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: []byte(d.pipeline.Clock().UTC().Format(time.RFC3339))})
	if stream != "" {
		a.addStream(stream)
	} else {
		a.targets = append(a.targets, ref)
	}
	return nil
}
