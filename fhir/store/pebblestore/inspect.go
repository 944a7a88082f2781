package pebblestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// inspector walks every row of one type.
type inspector struct {
	ctx     context.Context
	v       *snapshot
	stopped func() bool
	typ     string
	at      store.Seq
	fn      func(*store.Row)
	report  func(id, problem string)
	recent  recent
	steps   int
	listed  *listedIn // see orders
	now     string    // the document that it is asked about
}

// inspect implements store.Store.Inspect at a snapshot. It reads the D rows, out of
// which searches answer, then the I rows and the X rows by which they are found.
func inspect(ctx context.Context, v *snapshot, stopped func() bool, typ string, at store.Seq, fn func(*store.Row),
	report func(id, problem string)) error {
	x := &inspector{ctx: ctx, v: v, stopped: stopped, typ: typ, at: at, fn: fn, report: report}
	for _, walk := range []func() error{x.documents, x.ids, x.index, x.updates, x.days} {
		if err := walk(); err != nil {
			return err
		}
	}
	return nil
}

// walk calls fn for the rows in [lower, upper).
func (x *inspector) walk(lower, upper []byte, fn func(it *pebble.Iterator) (ok bool, err error)) (err error) {
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; {
		if x.steps++; x.steps%256 == 0 && x.ctx.Err() != nil {
			return canceled("pebblestore.Inspect", x.ctx.Err())
		}
		if ok, err = fn(it); err != nil {
			return err
		}
	}
	return it.Error()
}

// documents walks the D rows of the type, of every patient and every commit.
func (x *inspector) documents() error {
	return x.walk([]byte{tabDoc}, []byte{tabDoc + 1}, func(it *pebble.Iterator) (bool, error) {
		k := it.Key()
		patient, rest, ok1 := takeStr(k[1:])
		typ, _, ok2 := takeStr(rest)
		if !ok1 || !ok2 {
			x.report("", "a D row has a malformed key")
			return it.Next(), nil
		}
		switch c := strings.Compare(typ, x.typ); {
		case c < 0:
			return it.SeekGE(clusterKey(tabDoc, patient, x.typ)), nil
		case c > 0:
			return it.SeekGE(next(appendStr([]byte{tabDoc}, patient))), nil
		}
		if err := x.document(k, it.Value()); err != nil {
			return false, err
		}
		return it.Next(), nil
	})
}

func (x *inspector) document(k, val []byte) error {
	r, ok := parseRow(k)
	if !ok {
		x.report("", "a D row has a malformed key")
		return nil
	}
	if r.t > x.v.meta.t {
		x.report(r.id, "a D row is of a commit that has not happened")
		return nil
	}
	d, err := x.v.forms.doc(x.v.snap, &x.recent, r.typ, r.id, val)
	if errors.Is(err, errRow) {
		x.report(r.id, "its D row cannot be read")
		return nil
	}
	if err != nil {
		return err
	}
	raw, err := get(x.v.snap, idKey(r.typ, r.id, r.t))
	if err != nil {
		return err
	}
	p, err := decodePointer(idKey(r.typ, r.id, r.t), raw)
	switch {
	case raw == nil:
		x.report(r.id, "its D row has no I row")
	case err != nil:
		x.report(r.id, "its I row cannot be read")
	case p.place != r.place || p.version != d.version || p.deleted != d.deleted:
		x.report(r.id, "its I row names another D row")
	}
	if err := x.rowsOf(r, &d); err != nil {
		return err
	}
	if r.t > x.at {
		return nil
	}
	m := newMatch(r, d)
	x.fn(&store.Row{Resource: m.resource(), Seq: r.t, Hash: p.hash, Facts: &m.facts})
	return nil
}

// rowsOf checks that a D row lies where its document says, ends where the next
// version begins, and has its X rows.
func (x *inspector) rowsOf(r row, d *doc) error {
	if d.to != 0 {
		if p, err := get(x.v.snap, idKey(r.typ, r.id, d.to)); err != nil {
			return err
		} else if p == nil {
			x.report(r.id, "its D row ends at a commit that did not write it")
		}
	}
	vals, err := search.Extract(r.typ, d.json)
	if err != nil {
		x.report(r.id, "its JSON cannot be read")
		return nil
	}
	stamp := fhir.Stamp([]byte(fhir.Prefix(r.typ, r.id)+"}}"), r.typ, r.id, d.version, time.UnixMilli(d.updated))
	if !d.deleted && !bytes.HasPrefix(d.json, stamp[:len(stamp)-2]) {
		x.report(r.id, "its D row and its JSON disagree on version or time")
	}
	if placeOf(vals) != r.place || !slices.Equal(vals.Categories, d.categories) {
		x.report(r.id, "its D row lies elsewhere than its JSON says")
	}
	if err := x.ordered(r, vals); err != nil {
		return err
	}
	if d.deleted {
		return nil
	}
	var rows [][]byte
	indexRows(r.typ, vals, func(p []byte) { rows = append(rows, appendU64(appendStr(p, r.id), uint64(r.t))) })
	for _, h := range otherCodes(r.typ, vals, r.code) {
		rows = append(rows, rowKey(tabCode, &r.place, h, r.typ, r.id, r.t))
	}
	for _, k := range rows {
		val, err := get(x.v.snap, k)
		if err != nil {
			return err
		}
		if len(val) < 8 || store.Seq(binary.BigEndian.Uint64(val)) != d.to {
			x.report(r.id, "an index row by which it is found is missing or changed")
		}
	}
	return nil
}

// ids walks the I rows of the type: each names a D row, the versions of a
// resource count down to 1, and each but the newest ends where the next began.
func (x *inspector) ids() error {
	lower := appendStr([]byte{tabID}, x.typ)
	var prefix []byte
	var newer pointer
	var newerID string
	oldest := func() {
		if prefix != nil && newer.version != 1 {
			x.report(newerID, "its oldest version has no I row")
		}
	}
	err := x.walk(lower, next(lower), func(it *pebble.Iterator) (bool, error) {
		k := it.Key()
		p, err := decodePointer(k, it.Value())
		id, tail, ok := takeStr(k[len(lower):])
		if err != nil || !ok || len(tail) != 8 {
			x.report(id, "an I row cannot be read")
			return it.Next(), nil
		}
		if p.t > x.v.meta.t {
			x.report(id, "an I row is of a commit that has not happened")
		}
		var to store.Seq
		if prefix != nil && bytes.Equal(prefix, k[:len(k)-8]) {
			to = newer.t
			if newer.version != p.version+1 {
				x.report(id, "a version is missing between two I rows")
			}
		} else {
			oldest()
			prefix = append(prefix[:0], k[:len(k)-8]...)
		}
		newer, newerID = p, id
		m, err := x.v.fetchRow(row{place: p.place, typ: x.typ, id: id, t: p.t})
		switch {
		case errors.Is(err, errRow):
			x.report(id, "its I row names a D row that is not there or cannot be read")
		case err != nil:
			return false, err
		case m.doc.version != p.version || m.doc.deleted != p.deleted || m.doc.to != to || p.moved &&
			x.typ != "Observation":
			x.report(id, "its I row and its D row disagree")
		}
		return it.Next(), nil
	})
	oldest()
	return err
}

// index walks the X rows of the type: each names a D row that has its value.
func (x *inspector) index() error {
	lower := appendStr([]byte{tabIndex}, x.typ)
	return x.walk(lower, next(lower), func(it *pebble.Iterator) (bool, error) {
		id, problem, err := x.indexRow(lower, it.Key(), it.Value())
		if problem != "" {
			x.report(id, problem)
		}
		return err == nil && it.Next(), err
	})
}

func (x *inspector) indexRow(lower, k, val []byte) (id, problem string, err error) {
	const malformed = "an index row cannot be read"
	_, rest, ok1 := takeStr(k[len(lower):])
	_, rest, ok2 := takeStr(rest)
	prefix := k[:len(k)-len(rest)]
	id, rest, ok3 := takeStr(rest)
	if !ok1 || !ok2 || !ok3 || len(rest) != 8 || len(val) < 8 {
		return id, malformed, nil
	}
	p, tail, ok := takePlace(val[8:])
	if !ok || len(tail) > 0 {
		return id, malformed, nil
	}
	m, err := x.v.fetchRow(row{place: p, typ: x.typ, id: id, t: store.Seq(binary.BigEndian.Uint64(rest))})
	if errors.Is(err, errRow) {
		return id, "an index row names a D row that is not there or cannot be read", nil
	}
	if err != nil {
		return id, "", err
	}
	found := false
	indexRows(x.typ, m.index(), func(have []byte) { found = found || bytes.Equal(have, prefix) })
	if !found || m.doc.deleted || m.doc.to != store.Seq(binary.BigEndian.Uint64(val)) {
		return id, "an index row names a value that it does not have", nil
	}
	return id, "", nil
}
