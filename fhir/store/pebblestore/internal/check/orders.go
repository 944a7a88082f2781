package check

import (
	"bytes"
	"encoding/binary"
	"slices"

	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// orders checks that each U and V row names existing changes, and that they name
// each change and AuditEvent.
func (c *checker) orders() error {
	for _, tab := range []byte{keys.TableUpdate, keys.TablePatientUpdate} {
		if err := c.each(tab, func(k, v []byte) error { return c.updates(tab, k, v) }); err != nil {
			return err
		}
	}
	l := &listing{checker: c}
	err := c.each(keys.TableChange, func(k, v []byte) error {
		if len(k) != 13 {
			c.problem("L: malformed row")
			return nil
		}
		seq, n := store.Seq(binary.BigEndian.Uint64(k[1:])), binary.BigEndian.Uint32(k[9:])
		typ, patient, ok := changeOf(v)
		if !ok {
			c.problem("L: malformed row of commit %d", seq)
			return nil
		}
		if ok, err := l.has(keys.TypeUpdates(typ), seq, n); err != nil || !ok {
			c.unlisted(err, "U", typ, seq)
			return err
		}
		if _, single := search.PatientParam(typ); patient == "" || !single {
			return nil
		}
		ok, err := l.has(keys.PatientUpdates(patient, typ), seq, n)
		if !ok {
			c.unlisted(err, "V", typ, seq)
		}
		return err
	})
	if err != nil {
		return err
	}
	pre := []byte{keys.TableID}
	pre = keys.AppendString(pre, "AuditEvent")
	return c.within(pre, keys.PrefixEnd(pre), func(k, v []byte) error {
		p, err := rows.DecodePointer(k, v)
		if err != nil {
			return nil // reported by ids
		}
		id, _, _ := keys.CutString(k[len(pre):])
		ok, err := l.hasEvent(id, p.Seq)
		if !ok {
			c.unlisted(err, "U", "AuditEvent", p.Seq)
		}
		return err
	})
}

func (c *checker) unlisted(err error, table, typ string, seq store.Seq) {
	if err == nil {
		c.problem("%s: a change of type %s of commit %d is not listed", table, typ, seq)
	}
}

// changeOf returns the type and patient of an L row.
func changeOf(v []byte) (typ, patient string, ok bool) {
	if rows.IsSeriesChange(v) {
		e, err := rows.DecodeSeriesChange(v)
		return "Observation", e.Patient, err == nil
	}
	e, err := rows.DecodeChange(v)
	return e.Type, e.Patient, err == nil
}

// updates checks one U or V row.
func (c *checker) updates(tab byte, k, v []byte) error {
	rest, patient, ok := k[1:], "", true
	if tab == keys.TablePatientUpdate {
		patient, rest, ok = keys.CutString(rest)
	}
	typ := ""
	if ok {
		typ, rest, ok = keys.CutString(rest)
	}
	u, err := rows.DecodeUpdates(v)
	if !ok || err != nil || len(rest) != 12 {
		c.problem("%c: malformed row", tab)
		return nil
	}
	seq := store.Seq(binary.BigEndian.Uint64(rest))
	if typ == "AuditEvent" {
		return c.listedEvents(&u, seq)
	}
	ns, err := u.Changes()
	if err != nil {
		c.problem("%c: malformed row of commit %d", tab, seq)
		return nil
	}
	for _, n := range ns {
		l, err := rows.Get(c.snap.Reader, keys.ChangeKey(seq, n))
		if err != nil {
			return err
		}
		is, of, ok := changeOf(l)
		if !ok || is != typ || tab == keys.TablePatientUpdate && of != patient {
			c.problem("%c: a row of type %s of commit %d names a change that does not exist", tab, typ, seq)
		}
	}
	return nil
}

func (c *checker) listedEvents(u *rows.Updates, seq store.Seq) error {
	events, err := u.Events(seq)
	if err != nil {
		c.problem("U: malformed row of commit %d", seq)
		return nil
	}
	for _, r := range events {
		v, err := rows.Get(c.snap.Reader, keys.RowKey(keys.TableDocument, &r.Location, r.Code, r.Type, r.ID, r.Seq))
		if err != nil {
			return err
		}
		if v == nil {
			c.problem("U: AuditEvent/%s of commit %d is listed but does not exist", r.ID, seq)
		}
	}
	return nil
}

// listing looks up the changes that U and V rows name. It caches the rows read
// last.
type listing struct {
	checker *checker
	prefix  [2][]byte
	seqs    [2]store.Seq
	rows    [2][]rows.Updates
}

func (l *listing) of(prefix []byte, seq store.Seq) ([]rows.Updates, error) {
	i := 0
	if prefix[0] == keys.TablePatientUpdate {
		i = 1
	}
	if l.seqs[i] == seq && bytes.Equal(l.prefix[i], prefix) {
		return l.rows[i], nil
	}
	l.prefix[i], l.seqs[i], l.rows[i] = prefix, seq, nil
	err := l.checker.within(keys.UpdateKey(prefix, seq, 0), keys.UpdateKey(prefix, seq+1, 0), func(_, v []byte) error {
		if u, err := rows.DecodeUpdates(bytes.Clone(v)); err == nil {
			l.rows[i] = append(l.rows[i], u)
		}
		return nil
	})
	return l.rows[i], err
}

func (l *listing) has(prefix []byte, seq store.Seq, n uint32) (bool, error) {
	updates, err := l.of(prefix, seq)
	for i := range updates {
		if ns, err := updates[i].Changes(); err == nil && slices.Contains(ns, n) {
			return true, nil
		}
	}
	return false, err
}

func (l *listing) hasEvent(id string, seq store.Seq) (bool, error) {
	updates, err := l.of(keys.TypeUpdates("AuditEvent"), seq)
	for i := range updates {
		events, err := updates[i].Events(seq)
		if err == nil && slices.ContainsFunc(events, func(r keys.Row) bool { return r.ID == id }) {
			return true, nil
		}
	}
	return false, err
}

// begins checks that the W rows of a document have the bit of its start.
func (c *checker) begins(r keys.Row, vals *search.Values) error {
	if keys.DateParam(r.Type) == "" {
		return nil
	}
	day, slot := keys.DayOf(r.Start)
	k := keys.DayKey(keys.DayPrefix(r.Type, r.Bucket), day)
	want := [][]byte{keys.DayRunKey(k, r.Code, r.Patient, keys.TableDocument)}
	for _, h := range rows.OtherCodes(r.Type, vals, r.Code) {
		want = append(want, keys.DayRunKey(k, h, r.Patient, keys.TableCode))
	}
	for _, k := range want {
		v, err := rows.Get(c.snap.Reader, k)
		if err != nil {
			return err
		}
		if b, err := rows.DecodeDayBits(v); err != nil || !b.Documents.Has(slot) {
			c.problem("%s/%s: the version of commit %d has no correct W row", r.Type, r.ID, r.Seq)
		}
	}
	return nil
}

// beginsIn checks that the W rows of a block have the bits of its samples.
func (c *checker) beginsIn(ser *tier.Series, where string, cols *series.Columns) error {
	for _, d := range rows.SampleDays(cols.Start) {
		k := keys.DayKey(keys.DayPrefix("Observation", ser.Bucket), d.Day)
		want := [][]byte{keys.DayRunKey(k, ser.Code, ser.Patient, keys.TableDocument)}
		for _, h := range ser.OtherCodes {
			want = append(want, keys.DayRunKey(k, h, ser.Patient, keys.TableCode))
		}
		for _, k := range want {
			v, err := rows.Get(c.snap.Reader, k)
			if err != nil {
				return err
			}
			b, err := rows.DecodeDayBits(v)
			all := b.Samples
			all.Or(&d.Slots)
			if err != nil || all != b.Samples {
				c.problem("%s: a W row lacks the start of a sample", where)
			}
		}
	}
	return nil
}
