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
	v     *Snapshot
	batch *pebble.Batch
	days  DayWriter
	n     uint32
}

// rebuildOrders makes the U, V and W rows anew.
func RebuildOrders(db *pebble.DB, f *Templates, t *Tier) (err error) {
	r := &rebuilder{db: db, v: &Snapshot{Reader: db.NewSnapshot(), Templates: f, Tier: t}, batch: db.NewBatch(),
		days: NewDayWriter()}
	defer Close(r.v.Reader, &err)
	for _, tab := range []byte{TableUpdate, TablePatientUpdate, TableDay} {
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
	}{{TableDocument, r.document}, {TableSeries, r.series}, {TableChange, r.change}} {
		if err := r.each(pass.table, pass.fn); err != nil {
			return err
		}
	}
	return errors.Join(r.flush(), r.batch.Close())
}

func (r *rebuilder) each(table byte, fn func(k, v []byte) error) (err error) {
	it, err := r.v.Reader.NewIter(&pebble.IterOptions{LowerBound: []byte{table}, UpperBound: []byte{table + 1}})
	if err != nil {
		return err
	}
	defer Close(it, &err)
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
	r.days.Trim()
	return nil
}

func (r *rebuilder) document(k, v []byte) error {
	w, ok := ParseRow(k)
	if !ok {
		return ErrRow
	}
	d, err := r.v.Templates.Document(r.v.Reader, new(Recent), w.Type, w.ID, v)
	if err != nil {
		return err
	}
	if w.Type == "AuditEvent" {
		if err := r.update(TypeUpdates(w.Type), w.Seq, d.Updated, 1,
			w.Location.Append(AppendText(nil, w.ID))); err != nil {
			return err
		}
	}
	if d.Deleted || DateParam(w.Type) == "" {
		return nil
	}
	vals, _, err := ExtractStored(w.Type, d.JSON)
	if err != nil {
		return ErrRow
	}
	return r.days.PutDocument(r.batch, w.Type, &w.Location, vals)
}

// update writes a row of its own for one entry.
func (r *rebuilder) update(prefix []byte, seq store.Seq, updated int64, count uint64, list []byte) error {
	return r.batch.Set(UpdateKey(prefix, seq, r.n), EncodeUpdates(updated, count, list), nil)
}

func (r *rebuilder) series(k, v []byte) error {
	if len(k) < 8 {
		return ErrRow
	}
	ser, err := r.v.Tier.SeriesOf(series.SeriesID(k[len(k)-8:]), v)
	if err != nil {
		return err
	}
	for level := byte(0); level < Levels; level++ {
		if err := r.blocks(ser, level); err != nil {
			return err
		}
	}
	return nil
}

func (r *rebuilder) blocks(ser *Series, level byte) (err error) {
	pre := LevelPrefix(TableHeader, ser.ID, level)
	it, err := r.v.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer Close(it, &err)
	var cols series.Columns
	for ok := it.First(); ok; ok = it.Next() {
		h, err := series.DecodeHeader(it.Value())
		if err != nil {
			return err
		}
		if err := r.v.Tier.ReadBlock(r.v.Reader, it.Key(), &h, &cols); err != nil {
			return err
		}
		if err := r.days.PutSamples(r.batch, &ser.Location, ser.OtherCodes, SampleDays(cols.Start)); err != nil {
			return err
		}
	}
	return it.Error()
}

// change writes the U and V rows of one L row.
func (r *rebuilder) change(k, v []byte) error {
	if len(k) != 13 {
		return ErrRow
	}
	seq, n := store.Seq(binary.BigEndian.Uint64(k[1:])), binary.BigEndian.Uint32(k[9:])
	typ, patient, count, updated := "Observation", "", uint64(1), int64(0)
	if IsSeriesChange(v) {
		e, err := DecodeSeriesChange(v)
		if err != nil {
			return err
		}
		if updated, err = r.writtenAt(seq, &e); err != nil {
			return err
		}
		patient, count = e.Patient, e.Count
	} else {
		e, err := DecodeChange(v)
		if err != nil {
			return err
		}
		m, err := r.v.FetchRow(Row{Location: e.Location, Type: e.Type, ID: e.ID, Seq: seq})
		if err != nil {
			return err
		}
		typ, patient, updated = e.Type, e.Patient, m.Document.Updated
	}
	list := binary.AppendUvarint(nil, uint64(n))
	if err := r.update(TypeUpdates(typ), seq, updated, count, list); err != nil {
		return err
	}
	if _, single := search.PatientParam(typ); patient == "" || !single {
		return nil
	}
	return r.update(PatientUpdates(patient, typ), seq, updated, count, list)
}

// writtenAt is the lastUpdated of the samples that a commit wrote.
func (r *rebuilder) writtenAt(seq store.Seq, e *SeriesChange) (updated int64, err error) {
	ser, err := r.v.Tier.Series(r.v.Reader, &e.Location, e.Series)
	if err != nil {
		return 0, err
	}
	w := r.v.Walk(ser, seq, false)
	w.Only = seq
	defer Close(CloseFunc(w.Close), &err)
	if err := w.SeekRange(e.First, e.Last+1); err != nil {
		return 0, err
	}
	if w.Valid() {
		s := w.Sample()
		return s.Commit.Updated, nil
	}
	moved, err := r.v.Moved(ser, seq, e.First, e.Last)
	if err != nil || len(moved) == 0 {
		return 0, err
	}
	return moved[0].Document.Updated, nil
}
