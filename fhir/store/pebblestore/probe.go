package pebblestore

import (
	"context"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// Probe is of store.Store.
func (d *DB) Probe(ctx context.Context, ws []store.SeriesWrite) (store.Seq, [][]store.Presence, error) {
	const op = "pebblestore.Probe"
	v, err := d.enter(op)
	if err != nil {
		return 0, nil, err
	}
	defer d.leave(v)
	found := make([][]store.Presence, len(ws))
	for i := range ws {
		if ctx.Err() != nil {
			return 0, nil, canceled(op, ctx.Err())
		}
		found[i] = make([]store.Presence, ws[i].Columns.Len())
		if err := d.probe(v, &ws[i], found[i]); err != nil {
			return 0, nil, faulted(op, err)
		}
	}
	return v.meta.t, found, nil
}

func (d *DB) probe(v *view, w *store.SeriesWrite, found []store.Presence) error {
	n := len(found)
	if n == 0 {
		return nil
	}
	own, err := d.infos.ofTemplate(w.Template)
	if err != nil {
		return err
	}
	// An identity that no commit has touched has nothing.
	touched, err := get(v.snap, identityKey(w.Template.Identity))
	if err != nil || touched == nil {
		return err
	}
	first, last := w.Columns.Start[0], w.Columns.Start[n-1]
	err = d.members(v.snap, w.Template.Identity, func(in *seriesInfo) error {
		st, err := get(v.snap, tallyKey(in.id))
		if err != nil || st == nil {
			return err
		}
		state, err := decodeSeriesState(st)
		if err != nil || state.maxStart < first {
			return err
		}
		s := v.walkSeries(d, in, v.meta.t, false)
		err = s.seek(first, last+1)
		if err == nil {
			err = compareSamples(s, w, in.id == own.id, found)
		}
		closing(closer(s.close), &err)
		return err
	})
	if err != nil {
		return err
	}
	return d.probeDocuments(v, w, found)
}

// compareSamples holds the columns against a walk over the same time.
func compareSamples(s *samples, w *store.SeriesWrite, own bool, found []store.Presence) error {
	t := w.Template
	pace := yield.Counter{Every: yieldProbes}
	i := 0
	for i < len(found) && s.valid() {
		pace.Add(1)
		mine, theirs := w.Columns.At(i), s.sample()
		c := 0
		if mine.Start < theirs.Start {
			c = -1
		} else if mine.Start > theirs.Start {
			c = 1
		} else {
			a, b := t.Key(&mine), s.in.t.Key(&theirs)
			c = a.Compare(&b)
		}
		switch {
		case c < 0:
			i++
		case c > 0:
			if err := s.next(); err != nil {
				return err
			}
		default:
			theirs.Commit = series.Commit{}
			if found[i] = store.Other; own && mine == theirs {
				found[i] = store.Same
			}
			i++
		}
	}
	return nil
}

// probeDocuments finds the samples that are documents.
func (d *DB) probeDocuments(v *view, w *store.SeriesWrite, found []store.Presence) (err error) {
	a, b := w.Columns.At(0), w.Columns.At(len(found)-1)
	lo, hi := w.Template.Key(&a), w.Template.Key(&b)
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: idPrefix("Observation", lo.ID()),
		UpperBound: next(idPrefix("Observation", hi.ID()))})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	i := 0
	for ok := it.First(); ok; ok = it.Next() {
		_, rest, good := takeStr(it.Key()[1:])
		if !good {
			return errRow
		}
		id, _, good := takeStr(rest)
		if !good {
			return errRow
		}
		k, is := series.ParseID(id)
		if !is {
			continue
		}
		j, _ := slices.BinarySearch(w.Columns.Start[i:], k.Start)
		for i += j; i < len(found) && w.Columns.Start[i] == k.Start; i++ {
			s := w.Columns.At(i)
			if have := w.Template.Key(&s); have == k {
				found[i] = store.Other
				break
			} else if have.Compare(&k) > 0 {
				break
			}
		}
		if i == len(found) {
			break
		}
	}
	return it.Error()
}
