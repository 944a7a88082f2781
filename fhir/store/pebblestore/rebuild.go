package pebblestore

import (
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

const rebuildBatch = 4096 // rows looked at between two commits of a rebuild

// rebuilder writes the U, V and W rows of what is stored. A store of an older
// schema has none.
type rebuilder struct {
	db    *pebble.DB
	v     *snapshot
	batch *pebble.Batch
	days  dayWriter
	n     uint32
}

// rebuildOrders makes the U, V and W rows anew.
func rebuildOrders(db *pebble.DB, f *forms, t *tier) (err error) {
	r := &rebuilder{db: db, v: &snapshot{snap: db.NewSnapshot(), forms: f, tier: t}, batch: db.NewBatch(),
		days: newDayWriter()}
	defer closing(r.v.snap, &err)
	for _, tab := range []byte{tabUpdated, tabTouched, tabDay} {
		if err := r.batch.DeleteRange([]byte{tab}, []byte{tab + 1}, nil); err != nil {
			return err
		}
	}
	if err := r.flush(); err != nil {
		return err
	}
	for _, pass := range []struct {
		table byte
		fn    func(k, v []byte) error
	}{{tabDoc, r.document}, {tabSeries, r.series}, {tabChange, r.change}} {
		if err := r.each(pass.table, pass.fn); err != nil {
			return err
		}
	}
	return errors.Join(r.flush(), r.batch.Close())
}

func (r *rebuilder) each(table byte, fn func(k, v []byte) error) (err error) {
	it, err := r.v.snap.NewIter(&pebble.IterOptions{LowerBound: []byte{table}, UpperBound: []byte{table + 1}})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if err := fn(it.Key(), it.Value()); err != nil {
			return err
		}
		if r.n++; r.n%rebuildBatch == 0 {
			if err := r.flush(); err != nil {
				return err
			}
		}
	}
	return it.Error()
}

// flush commits what was written so far. Bits that were not committed would be
// lost with the rows that the committer remembers.
func (r *rebuilder) flush() error {
	if err := r.batch.Commit(pebble.Sync); err != nil {
		return err
	}
	r.batch = r.db.NewBatch()
	r.days.trim()
	return nil
}

func (r *rebuilder) document(k, v []byte) error {
	w, ok := parseRow(k)
	if !ok {
		return errRow
	}
	d, err := r.v.forms.doc(r.v.snap, new(recent), w.typ, w.id, v)
	if err != nil {
		return err
	}
	if w.typ == "AuditEvent" {
		if err := r.update(typeUpdates(w.typ), w.t, d.updated, 1,
			w.place.append(appendText(nil, w.id))); err != nil {
			return err
		}
	}
	if d.deleted || dateParam(w.typ) == "" {
		return nil
	}
	vals, _, err := extractStored(w.typ, d.json)
	if err != nil {
		return errRow
	}
	return r.days.document(r.batch, w.typ, &w.place, vals)
}

// update writes a row of its own for one entry.
func (r *rebuilder) update(prefix []byte, t store.Seq, updated int64, count uint64, list []byte) error {
	return r.batch.Set(updatesKey(prefix, t, r.n), encodeUpdates(updated, count, list), nil)
}

func (r *rebuilder) series(k, v []byte) error {
	if len(k) < 8 {
		return errRow
	}
	in, err := r.v.tier.infoOf(series.SeriesID(k[len(k)-8:]), v)
	if err != nil {
		return err
	}
	for level := byte(0); level < levels; level++ {
		if err := r.blocks(in, level); err != nil {
			return err
		}
	}
	return nil
}

func (r *rebuilder) blocks(in *seriesInfo, level byte) (err error) {
	pre := levelPrefix(tabHead, in.id, level)
	it, err := r.v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	var cols series.Columns
	for ok := it.First(); ok; ok = it.Next() {
		h, err := series.DecodeHeader(it.Value())
		if err != nil {
			return err
		}
		if err := r.v.tier.block(r.v.snap, it.Key(), &h, &cols); err != nil {
			return err
		}
		if err := r.days.samples(r.batch, &in.place, in.others, sampleDays(cols.Start)); err != nil {
			return err
		}
	}
	return it.Error()
}

// change writes the U and V rows of one L row.
func (r *rebuilder) change(k, v []byte) error {
	if len(k) != 13 {
		return errRow
	}
	t, n := store.Seq(binary.BigEndian.Uint64(k[1:])), binary.BigEndian.Uint32(k[9:])
	typ, patient, count, updated := "Observation", "", uint64(1), int64(0)
	if isSeriesChange(v) {
		e, err := decodeSamplesEntry(v)
		if err != nil {
			return err
		}
		if updated, err = r.writtenAt(t, &e); err != nil {
			return err
		}
		patient, count = e.patient, e.count
	} else {
		e, err := decodeEntry(v)
		if err != nil {
			return err
		}
		m, err := r.v.fetchRow(row{place: e.place, typ: e.typ, id: e.id, t: t})
		if err != nil {
			return err
		}
		typ, patient, updated = e.typ, e.patient, m.doc.updated
	}
	list := binary.AppendUvarint(nil, uint64(n))
	if err := r.update(typeUpdates(typ), t, updated, count, list); err != nil {
		return err
	}
	if _, single := search.PatientParam(typ); patient == "" || !single {
		return nil
	}
	return r.update(patientUpdates(patient, typ), t, updated, count, list)
}

// writtenAt is the lastUpdated of the samples that a commit wrote.
func (r *rebuilder) writtenAt(t store.Seq, e *samplesEntry) (updated int64, err error) {
	in, err := r.v.tier.info(r.v.snap, &e.place, e.id)
	if err != nil {
		return 0, err
	}
	w := r.v.walkSeries(in, t, false)
	w.only = t
	defer closing(closer(w.close), &err)
	if err := w.seek(e.first, e.end+1); err != nil {
		return 0, err
	}
	if w.valid() {
		s := w.sample()
		return s.Commit.Updated, nil
	}
	moved, err := r.v.moved(in, t, e.first, e.end)
	if err != nil || len(moved) == 0 {
		return 0, err
	}
	return moved[0].doc.updated, nil
}
