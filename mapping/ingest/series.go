package ingest

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// series puts the samples that the store does not have into a, counts those
// that it has, and returns those that it has otherwise, as documents.
func (d *delivery) addSeries(ctx context.Context, b *batch, a *commitAttempt) ([]observation, error) {
	var gs []*seriesGroup
	var ws []store.SeriesWrite
	for _, g := range b.groups {
		n := g.columns.Len()
		if n == 0 {
			continue
		}
		ok, err := d.covered(ctx, g.template.Categories)
		if err != nil {
			return nil, err
		}
		if !ok {
			a.count(g.metric, Counts{Dropped: n})
			continue
		}
		gs, ws = append(gs, g), append(ws, store.SeriesWrite{Template: g.template, Columns: g.columns})
	}
	if len(ws) == 0 {
		return nil, nil
	}
	at, found, err := d.pipeline.Store.Probe(ctx, ws)
	if err != nil {
		return nil, fhir.Wrap("ingest.series", err)
	}
	a.batch.Probed = at
	var others []observation
	for i, g := range gs {
		known, err := d.findDuplicates(ctx, b, g, found[i], a)
		if err != nil {
			return nil, err
		}
		others = append(others, known...)
	}
	for i, g := range gs {
		var n [inBatch + 1]int
		for _, p := range found[i] {
			n[p]++
		}
		a.count(g.metric, Counts{Created: n[store.Missing], Unchanged: n[store.Same] + n[duplicate], Dropped: n[inBatch]})
		if n[store.Missing] > 0 || n[store.Same] > 0 && !g.vague {
			b.wantDevice(g.device)
		}
		if n[store.Missing] > 0 {
			w := ws[i]
			if n[store.Missing] < g.columns.Len() {
				w.Columns = g.pick(func(j int) bool { return found[i][j] == store.Missing })
			}
			a.batch.Series = append(a.batch.Series, w)
			a.samples += n[store.Missing]
			if g.segments != "" {
				a.addSegments(g, w.Columns)
			}
			a.addStream(mapping.StreamID(g.template.Identity))
		}
		for j, p := range found[i] {
			if p == store.Other {
				others = append(others, g.document(j))
			}
		}
	}
	return others, nil
}
