package pebblestore

import (
	"math"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// at resolves the snapshot a read names.
func (v *snapshot) at(op string, t store.Seq) (store.Seq, error) {
	if t == 0 {
		return v.meta.t, nil
	}
	if t > v.meta.t {
		return 0, fhir.Errorf(fhir.Gone, op, "the snapshot is not known to this store")
	}
	return t, nil
}

// fetch reads the document that p points to.
func (v *snapshot) fetch(ref fhir.Ref, p *pointer) (*match, error) {
	return v.fetchRow(row{place: p.place, typ: ref.Type, id: ref.ID, t: p.t})
}

func (v *snapshot) fetchRow(r row) (*match, error) {
	val, err := get(v.snap, rowKey(tabDoc, &r.place, r.code, r.typ, r.id, r.t))
	if err != nil {
		return nil, err
	}
	if val == nil {
		return nil, errRow
	}
	d, err := v.forms.doc(v.snap, new(recent), r.typ, r.id, val)
	if err != nil {
		return nil, err
	}
	return newMatch(r, d), nil
}

// current is the version of ref at t, nil when there is none: a document, or
// a sample.
func (v *snapshot) current(ref fhir.Ref, t store.Seq) (*match, error) {
	p, err := headOf(v.snap, ref, t)
	if err != nil {
		return nil, err
	}
	if p != nil {
		return v.fetch(ref, p)
	}
	s, err := v.tier.sampleOf(v.snap, ref)
	if err != nil || s == nil || store.Seq(s.smp.Commit.T) > t {
		return nil, err
	}
	return newSample(s.in, &s.smp), nil
}

// change calls fn with the change of one document.
func (v *snapshot) change(t store.Seq, raw []byte, fn func(*store.Change) bool) (bool, error) {
	e, err := decodeEntry(raw)
	if err != nil {
		return false, err
	}
	r := row{place: e.place, typ: e.typ, id: e.id, t: t}
	var m *match
	c := store.Change{Seq: t, Ref: fhir.Ref{Type: e.typ, ID: e.id}, Version: e.version, Created: e.created,
		Deleted: e.deleted,
		Facts: access.Facts{Type: e.typ, ID: e.id, Patient: e.patient, Vendor: e.vendor, Author: e.author,
			Categories: e.categories}}
	c.Facts.Tokens = func(param string) []access.Token {
		if m == nil {
			// A row that cannot be read has no tokens: nothing is let out for it.
			if m, _ = v.fetchRow(r); m == nil {
				return nil
			}
		}
		return m.tokens(param)
	}
	return fn(&c), nil
}

// sampleChanges calls fn with the samples of a SeriesWrite in order, those
// among them that have become documents too.
func (v *snapshot) sampleChanges(t store.Seq, raw []byte, fn func(*store.Change) bool) (more bool, err error) {
	e, err := decodeSamplesEntry(raw)
	if err != nil {
		return false, err
	}
	in, err := v.tier.info(v.snap, &e.place, e.id)
	if err != nil {
		return false, err
	}
	moved, err := v.moved(in, t, e.first, e.end)
	if err != nil {
		return false, err
	}
	w := v.walkSeries(in, t, false)
	w.pass = func(h *series.Header) bool { return store.Seq(h.MaxT) < t }
	defer closing(closer(w.close), &err)
	if err := w.seek(e.first, e.end+1); err != nil {
		return false, err
	}
	for w.valid() || len(moved) > 0 {
		var m *match
		if w.valid() {
			s := w.sample()
			if store.Seq(s.Commit.T) != t {
				if err := w.next(); err != nil {
					return false, err
				}
				continue
			}
			m = newSample(in, &s)
		}
		if len(moved) > 0 && (m == nil || moved[0].row.id < m.row.id) {
			m, moved = moved[0], moved[1:]
		} else if err := w.next(); err != nil {
			return false, err
		}
		if !fn(&store.Change{Seq: t, Ref: fhir.Ref{Type: "Observation", ID: m.row.id}, Version: 1, Created: true,
			Facts: m.facts}) {
			return false, nil
		}
	}
	return true, nil
}

// moved are the samples that a commit wrote within a time of one series and
// that have become documents since, by id.
func (v *snapshot) moved(in *seriesInfo, t store.Seq, first, last int64) (out []*match, err error) {
	lo, hi := series.Key{Identity: in.t.Identity, Start: first},
		series.Key{Identity: in.t.Identity, Start: last, Check: math.MaxUint32}
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: idPrefix("Observation", lo.ID()),
		UpperBound: next(idPrefix("Observation", hi.ID()))})
	if err != nil {
		return nil, err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		p, err := decodePointer(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		if !p.moved || p.t != t || p.series != in.id {
			continue
		}
		_, rest, _ := takeStr(it.Key()[1:])
		id, _, _ := takeStr(rest)
		m, err := v.fetch(fhir.Ref{Type: "Observation", ID: id}, &p)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, it.Error()
}

// view is what readers see: the durable state at one T.
type snapshot struct {
	snap  *pebble.Snapshot
	meta  meta
	forms *forms
	tier  *tier
}

// walkSeries begins a walk of a series at a snapshot.
func (v *snapshot) walkSeries(in *seriesInfo, at store.Seq, desc bool) *samples {
	return v.tier.walk(v.snap, in, at, desc)
}
