package pebblestore

import (
	"bytes"
	"encoding/binary"
	"slices"

	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// orders checks the U and V rows: each names what is there, and each change
// and AuditEvent is named.
func (c *checker) orders() error {
	for _, tab := range []byte{tabUpdated, tabTouched} {
		if err := c.each(tab, func(k, v []byte) error { return c.updates(tab, k, v) }); err != nil {
			return err
		}
	}
	l := &listedIn{c: c}
	err := c.each(tabChange, func(k, v []byte) error {
		if len(k) != 13 {
			c.problem("L: malformed row")
			return nil
		}
		t, n := store.Seq(binary.BigEndian.Uint64(k[1:])), binary.BigEndian.Uint32(k[9:])
		typ, patient, ok := changeOf(v)
		if !ok {
			c.problem("L: malformed row at T %d", t)
			return nil
		}
		if ok, err := l.has(typeUpdates(typ), t, n); err != nil || !ok {
			c.unlisted(err, "U", typ, t)
			return err
		}
		if _, single := search.PatientParam(typ); patient == "" || !single {
			return nil
		}
		ok, err := l.has(patientUpdates(patient, typ), t, n)
		if !ok {
			c.unlisted(err, "V", typ, t)
		}
		return err
	})
	if err != nil {
		return err
	}
	pre := []byte{tabID}
	pre = appendStr(pre, "AuditEvent")
	return c.within(pre, next(pre), func(k, v []byte) error {
		p, err := decodePointer(k, v)
		if err != nil {
			return nil // ids reports it
		}
		id, _, _ := takeStr(k[len(pre):])
		ok, err := l.hasEvent(id, p.t)
		if !ok {
			c.unlisted(err, "U", "AuditEvent", p.t)
		}
		return err
	})
}

func (c *checker) unlisted(err error, table, typ string, t store.Seq) {
	if err == nil {
		c.problem("%s: a change of type %s at T %d is not listed", table, typ, t)
	}
}

// changeOf is the type and patient of an L row.
func changeOf(v []byte) (typ, patient string, ok bool) {
	if isSeriesChange(v) {
		e, err := decodeSamplesEntry(v)
		return "Observation", e.patient, err == nil
	}
	e, err := decodeEntry(v)
	return e.typ, e.patient, err == nil
}

// updates checks one U or V row.
func (c *checker) updates(tab byte, k, v []byte) error {
	rest, patient, ok := k[1:], "", true
	if tab == tabTouched {
		patient, rest, ok = takeStr(rest)
	}
	typ := ""
	if ok {
		typ, rest, ok = takeStr(rest)
	}
	u, err := decodeUpdates(v)
	if !ok || err != nil || len(rest) != 12 {
		c.problem("%c: malformed row", tab)
		return nil
	}
	t := store.Seq(binary.BigEndian.Uint64(rest))
	if typ == "AuditEvent" {
		return c.listedEvents(&u, t)
	}
	ns, err := u.changes()
	if err != nil {
		c.problem("%c: malformed row at T %d", tab, t)
		return nil
	}
	for _, n := range ns {
		l, err := get(c.v.snap, changeKey(t, n))
		if err != nil {
			return err
		}
		is, of, ok := changeOf(l)
		if !ok || is != typ || tab == tabTouched && of != patient {
			c.problem("%c: a row of type %s at T %d names a change that is not there", tab, typ, t)
		}
	}
	return nil
}

func (c *checker) listedEvents(u *updates, t store.Seq) error {
	rows, err := u.events(t)
	if err != nil {
		c.problem("U: malformed row at T %d", t)
		return nil
	}
	for _, r := range rows {
		v, err := get(c.v.snap, rowKey(tabDoc, &r.place, r.code, r.typ, r.id, r.t))
		if err != nil {
			return err
		}
		if v == nil {
			c.problem("U: AuditEvent/%s at T %d is named and not there", r.id, t)
		}
	}
	return nil
}

// listedIn looks up what U and V rows name. It keeps the rows read last.
type listedIn struct {
	c      *checker
	prefix [2][]byte
	t      [2]store.Seq
	rows   [2][]updates
}

func (l *listedIn) of(prefix []byte, t store.Seq) ([]updates, error) {
	i := 0
	if prefix[0] == tabTouched {
		i = 1
	}
	if l.t[i] == t && bytes.Equal(l.prefix[i], prefix) {
		return l.rows[i], nil
	}
	l.prefix[i], l.t[i], l.rows[i] = prefix, t, nil
	err := l.c.within(updatesKey(prefix, t, 0), updatesKey(prefix, t+1, 0), func(_, v []byte) error {
		if u, err := decodeUpdates(bytes.Clone(v)); err == nil {
			l.rows[i] = append(l.rows[i], u)
		}
		return nil
	})
	return l.rows[i], err
}

func (l *listedIn) has(prefix []byte, t store.Seq, n uint32) (bool, error) {
	rows, err := l.of(prefix, t)
	for i := range rows {
		if ns, err := rows[i].changes(); err == nil && slices.Contains(ns, n) {
			return true, nil
		}
	}
	return false, err
}

func (l *listedIn) hasEvent(id string, t store.Seq) (bool, error) {
	rows, err := l.of(typeUpdates("AuditEvent"), t)
	for i := range rows {
		events, err := rows[i].events(t)
		if err == nil && slices.ContainsFunc(events, func(r row) bool { return r.id == id }) {
			return true, nil
		}
	}
	return false, err
}

// begins checks that the W rows of a document know when it begins.
func (c *checker) begins(r row, vals *search.Values) error {
	if dateParam(r.typ) == "" {
		return nil
	}
	day, slot := dayOf(r.start)
	k := dayKey(daysPrefix(r.typ, r.bucket), day)
	keys := [][]byte{dayRunKey(k, r.code, r.patient, tabDoc)}
	for _, h := range otherCodes(r.typ, vals, r.code) {
		keys = append(keys, dayRunKey(k, h, r.patient, tabCode))
	}
	for _, k := range keys {
		v, err := get(c.v.snap, k)
		if err != nil {
			return err
		}
		if b, err := decodeDayBits(v); err != nil || !b.docs.has(slot) {
			c.problem("%s/%s: version at T %d has no right W row", r.typ, r.id, r.t)
		}
	}
	return nil
}

// beginsIn checks the same of the samples of a block.
func (c *checker) beginsIn(in *seriesInfo, where string, cols *series.Columns) error {
	for _, d := range sampleDays(cols.Start) {
		k := dayKey(daysPrefix("Observation", in.bucket), d.day)
		keys := [][]byte{dayRunKey(k, in.code, in.patient, tabDoc)}
		for _, h := range in.others {
			keys = append(keys, dayRunKey(k, h, in.patient, tabCode))
		}
		for _, k := range keys {
			v, err := get(c.v.snap, k)
			if err != nil {
				return err
			}
			b, err := decodeDayBits(v)
			all := b.samples
			all.or(&d.bits)
			if err != nil || all != b.samples {
				c.problem("%s: a W row does not know when its samples begin", where)
			}
		}
	}
	return nil
}
