package snapshot

import (
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/tier"
	"pulsegate/fhir/yield"
)

// yieldProbes is the number of samples after which a probe yields the processor. They
// take about 100 us.
const yieldProbes = 4096

// Probe fills found for the samples of a SeriesWrite.
func (snap *Snapshot) Probe(w *store.SeriesWrite, found []store.Presence) error {
	n := len(found)
	if n == 0 {
		return nil
	}
	own, err := snap.Tier.OfTemplate(w.Template)
	if err != nil {
		return err
	}
	// An identity that no commit has touched has no samples.
	touched, err := rows.Get(snap.Reader, keys.IdentityKey(w.Template.Identity))
	if err != nil || touched == nil {
		return err
	}
	first, last := w.Columns.Start[0], w.Columns.Start[n-1]
	err = snap.Tier.Members(snap.Reader, w.Template.Identity, func(ser *tier.Series) error {
		st, err := rows.Get(snap.Reader, keys.TallyKey(ser.ID))
		if err != nil || st == nil {
			return err
		}
		state, err := rows.DecodeTally(st)
		if err != nil || state.MaxStart < first {
			return err
		}
		s := snap.Walk(ser, snap.Head.Seq, false)
		err = s.SeekRange(first, last+1)
		if err == nil {
			err = compareSamples(s, w, ser.ID == own.ID, found)
		}
		fault.Close(fault.CloseFunc(s.Close), &err)
		return err
	})
	if err != nil {
		return err
	}
	return snap.probeDocuments(w, found)
}

// compareSamples compares the columns with a walk over the same time.
func compareSamples(s *tier.Walk, w *store.SeriesWrite, own bool, found []store.Presence) error {
	t := w.Template
	pace := yield.Counter{Every: yieldProbes}
	i := 0
	for i < len(found) && s.Valid() {
		pace.Add(1)
		mine, theirs := w.Columns.At(i), s.Sample()
		c := 0
		if mine.Start < theirs.Start {
			c = -1
		} else if mine.Start > theirs.Start {
			c = 1
		} else {
			a, b := t.Key(&mine), s.Series.Template.Key(&theirs)
			c = a.Compare(&b)
		}
		switch {
		case c < 0:
			i++
		case c > 0:
			if err := s.Next(); err != nil {
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
func (snap *Snapshot) probeDocuments(w *store.SeriesWrite, found []store.Presence) (err error) {
	a, b := w.Columns.At(0), w.Columns.At(len(found)-1)
	lo, hi := w.Template.Key(&a), w.Template.Key(&b)
	it, err := snap.Reader.NewIter(&pebble.IterOptions{LowerBound: keys.IDPrefix("Observation", lo.ID()),
		UpperBound: keys.PrefixEnd(keys.IDPrefix("Observation", hi.ID()))})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	i := 0
	for ok := it.First(); ok; ok = it.Next() {
		_, rest, good := keys.CutString(it.Key()[1:])
		if !good {
			return fault.ErrRow
		}
		id, _, good := keys.CutString(rest)
		if !good {
			return fault.ErrRow
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
