package salvage

import (
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

const rebuildBatch = 4096 // rows read between two commits

// rebuilder writes the U, V and W rows of the stored data.
type rebuilder struct {
	db    *pebble.DB
	snap  *snapshot.Snapshot
	batch *pebble.Batch
	known *rows.Days
	days  rows.DayWriter
	read  uint32
}

// RebuildOrders deletes the U, V and W rows and writes them again.
func RebuildOrders(db *pebble.DB, f *rows.Templates, t *tier.Tier) (err error) {
	r := &rebuilder{db: db, snap: &snapshot.Snapshot{Reader: db.NewSnapshot(), Templates: f, Tier: t},
		batch: db.NewBatch(), known: rows.NewDays()}
	r.days = r.known.Writer(nil)
	defer fault.Close(r.snap.Reader, &err)
	for _, tab := range []byte{keys.TableUpdate, keys.TablePatientUpdate, keys.TableDay} {
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
	}{{keys.TableDocument, r.document}, {keys.TableSeries, r.series}, {keys.TableChange, r.change}} {
		if err := r.each(pass.table, pass.fn); err != nil {
			return err
		}
	}
	return errors.Join(r.flush(), r.batch.Close())
}

func (r *rebuilder) each(table byte, fn func(k, v []byte) error) (err error) {
	it, err := r.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: []byte{table}, UpperBound: []byte{table + 1}})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if err := fn(it.Key(), it.Value()); err != nil {
			return err
		}
		if r.read++; r.read%rebuildBatch == 0 {
			if err := r.flush(); err != nil {
				return err
			}
		}
	}
	return it.Error()
}

// flush commits the rows written so far.
func (r *rebuilder) flush() error {
	if err := r.batch.Commit(pebble.Sync); err != nil {
		return err
	}
	r.batch = r.db.NewBatch()
	r.known.Add(&r.days)
	r.days = r.known.Writer(nil)
	return nil
}

func (r *rebuilder) document(k, v []byte) error {
	w, ok := keys.ParseRow(k)
	if !ok {
		return fault.ErrRow
	}
	d, err := r.snap.Templates.Document(r.snap.Reader, new(rows.Recent), w.Type, w.ID, v)
	if err != nil {
		return err
	}
	if w.Type == "AuditEvent" {
		if err := r.update(keys.TypeUpdates(w.Type), w.Seq, d.Updated, 1,
			w.Location.Append(rows.AppendText(nil, w.ID))); err != nil {
			return err
		}
	}
	if d.Deleted || keys.DateParam(w.Type) == "" {
		return nil
	}
	vals, _, err := rows.ExtractStored(w.Type, d.JSON)
	if err != nil {
		return fault.ErrRow
	}
	return r.days.PutDocument(r.batch, w.Type, &w.Location, vals)
}

// update writes the row of one entry.
func (r *rebuilder) update(prefix []byte, seq store.Seq, updated int64, count uint64, list []byte) error {
	return r.batch.Set(keys.UpdateKey(prefix, seq, r.read), rows.EncodeUpdates(updated, count, list), nil)
}

func (r *rebuilder) series(k, v []byte) error {
	if len(k) < 8 {
		return fault.ErrRow
	}
	ser, err := r.snap.Tier.SeriesOf(series.SeriesID(k[len(k)-8:]), v)
	if err != nil {
		return err
	}
	for level := byte(0); level < tier.Levels; level++ {
		if err := r.blocks(ser, level); err != nil {
			return err
		}
	}
	return nil
}

func (r *rebuilder) blocks(ser *tier.Series, level byte) (err error) {
	pre := keys.LevelPrefix(keys.TableHeader, ser.ID, level)
	it, err := r.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	var cols series.Columns
	for ok := it.First(); ok; ok = it.Next() {
		h, err := series.DecodeHeader(it.Value())
		if err != nil {
			return err
		}
		if err := r.snap.Tier.ReadBlock(r.snap.Reader, it.Key(), &h, &cols); err != nil {
			return err
		}
		if err := r.days.PutSamples(r.batch, &ser.Location, ser.OtherCodes, rows.SampleDays(cols.Start)); err != nil {
			return err
		}
	}
	return it.Error()
}

// change writes the U and V rows of one L row.
func (r *rebuilder) change(k, v []byte) error {
	if len(k) != 13 {
		return fault.ErrRow
	}
	seq, n := store.Seq(binary.BigEndian.Uint64(k[1:])), binary.BigEndian.Uint32(k[9:])
	typ, patient, count, updated := "Observation", "", uint64(1), int64(0)
	if rows.IsSeriesChange(v) {
		e, err := rows.DecodeSeriesChange(v)
		if err != nil {
			return err
		}
		if updated, err = r.writtenAt(seq, &e); err != nil {
			return err
		}
		patient, count = e.Patient, e.Count
	} else {
		e, err := rows.DecodeChange(v)
		if err != nil {
			return err
		}
		m, err := r.snap.FetchRow(keys.Row{Location: e.Location, Type: e.Type, ID: e.ID, Seq: seq})
		if err != nil {
			return err
		}
		typ, patient, updated = e.Type, e.Patient, m.Document.Updated
	}
	list := binary.AppendUvarint(nil, uint64(n))
	if err := r.update(keys.TypeUpdates(typ), seq, updated, count, list); err != nil {
		return err
	}
	if _, single := search.PatientParam(typ); patient == "" || !single {
		return nil
	}
	return r.update(keys.PatientUpdates(patient, typ), seq, updated, count, list)
}

// writtenAt returns the lastUpdated of the samples that a commit wrote.
func (r *rebuilder) writtenAt(seq store.Seq, e *rows.SeriesChange) (updated int64, err error) {
	ser, err := r.snap.Tier.Series(r.snap.Reader, &e.Location, e.Series)
	if err != nil {
		return 0, err
	}
	w := r.snap.Walk(ser, seq, false)
	w.Only = seq
	defer fault.Close(fault.CloseFunc(w.Close), &err)
	if err := w.SeekRange(e.First, e.Last+1); err != nil {
		return 0, err
	}
	if w.Valid() {
		s := w.Sample()
		return s.Commit.Updated, nil
	}
	moved, err := r.snap.Moved(ser, seq, e.First, e.Last)
	if err != nil || len(moved) == 0 {
		return 0, err
	}
	return moved[0].Document.Updated, nil
}
