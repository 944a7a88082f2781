package ingest

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// addSeries adds the samples that the store does not have to a and counts those
// that it has. It returns the samples that the store has with other content, as
// documents.
func (d *delivery) addSeries(ctx context.Context, b *batch, a *commitAttempt) ([]observation, error) {
	var groups []*seriesGroup
	var writes []store.SeriesWrite
	for _, group := range b.groups {
		n := group.columns.Len()
		if n == 0 {
			continue
		}
		ok, err := d.covered(ctx, group.template.Categories)
		if err != nil {
			return nil, err
		}
		if !ok {
			a.count(group.metric, Counts{Dropped: n})
			continue
		}
		groups = append(groups, group)
		writes = append(writes, store.SeriesWrite{Template: group.template, Columns: group.columns})
	}
	if len(writes) == 0 {
		return nil, nil
	}
	at, found, err := d.pipeline.Store.Probe(ctx, writes)
	if err != nil {
		return nil, fhir.Wrap("ingest.series", err)
	}
	a.batch.Probed = at
	var others []observation
	for i, group := range groups {
		duplicates, err := d.findDuplicates(ctx, b, group, found[i], a)
		if err != nil {
			return nil, err
		}
		others = append(others, duplicates...)
	}
	for i, group := range groups {
		var counts [inBatch + 1]int
		for _, presence := range found[i] {
			counts[presence]++
		}
		a.count(group.metric, Counts{Created: counts[store.Missing],
			Unchanged: counts[store.Same] + counts[duplicate], Dropped: counts[inBatch]})
		if counts[store.Missing] > 0 || counts[store.Same] > 0 && !group.vague {
			b.wantDevice(group.device)
		}
		if counts[store.Missing] > 0 {
			w := writes[i]
			if counts[store.Missing] < group.columns.Len() {
				w.Columns = group.pick(func(j int) bool { return found[i][j] == store.Missing })
			}
			a.batch.Series = append(a.batch.Series, w)
			a.samples += counts[store.Missing]
			if group.segments != "" {
				a.addSegments(group, w.Columns)
			}
			streamID := mapping.StreamID(group.template.Identity)
			a.addStream(streamID)
			a.addRow(group.metric)
			if err := d.keepExemplars(ctx, group, streamID, a); err != nil {
				return nil, err
			}
		}
		for j, presence := range found[i] {
			if presence == store.Other {
				others = append(others, group.document(j))
			}
		}
	}
	return others, nil
}
