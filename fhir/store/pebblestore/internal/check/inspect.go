package check

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
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
)

// inspector walks every row of one type.
type inspector struct {
	ctx     context.Context
	snap    *snapshot.Snapshot
	indexes *rows.Catalog
	stopped func() bool
	typ     string
	at      store.Seq
	fn      func(*store.Row)
	report  func(id, problem string)
	recent  rows.Recent
	steps   int
	listing *listing // see orders
	current string   // id of the document that is checked
}

// Inspect implements store.Store at a snapshot. It reads the D rows, from which
// searches answer, and then the I and X rows through which they are found.
func Inspect(ctx context.Context, snap *snapshot.Snapshot, indexes *rows.Catalog, stopped func() bool, typ string,
	at store.Seq, fn func(*store.Row), report func(id, problem string)) error {
	ins := &inspector{ctx: ctx, snap: snap, indexes: indexes, stopped: stopped, typ: typ, at: at, fn: fn,
		report: report}
	for _, walk := range []func() error{ins.documents, ins.ids, ins.index, ins.updates, ins.days} {
		if err := walk(); err != nil {
			return err
		}
	}
	return nil
}

// walk calls fn for the rows in [lower, upper).
func (ins *inspector) walk(lower, upper []byte, fn func(it *pebble.Iterator) (ok bool, err error)) (err error) {
	it, err := ins.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; {
		if ins.steps++; ins.steps%256 == 0 && ins.ctx.Err() != nil {
			return fault.Canceled("pebblestore.Inspect", ins.ctx.Err())
		}
		if ok, err = fn(it); err != nil {
			return err
		}
	}
	return it.Error()
}

// documents walks the D rows of the type, of every patient and commit.
func (ins *inspector) documents() error {
	return ins.walk([]byte{keys.TableDocument}, []byte{keys.TableDocument + 1},
		func(it *pebble.Iterator) (bool, error) {
			k := it.Key()
			patient, rest, ok1 := keys.CutString(k[1:])
			typ, _, ok2 := keys.CutString(rest)
			if !ok1 || !ok2 {
				ins.report("", "a D row has a malformed key")
				return it.Next(), nil
			}
			switch c := strings.Compare(typ, ins.typ); {
			case c < 0:
				return it.SeekGE(keys.Cluster(keys.TableDocument, patient, ins.typ)), nil
			case c > 0:
				return it.SeekGE(keys.PrefixEnd(keys.AppendString([]byte{keys.TableDocument}, patient))), nil
			}
			if err := ins.document(k, it.Value()); err != nil {
				return false, err
			}
			return it.Next(), nil
		})
}

func (ins *inspector) document(k, val []byte) error {
	r, ok := keys.ParseRow(k)
	if !ok {
		ins.report("", "a D row has a malformed key")
		return nil
	}
	if r.Seq > ins.snap.Head.Seq {
		ins.report(r.ID, "a D row belongs to a commit that does not exist")
		return nil
	}
	d, err := ins.snap.Templates.Document(ins.snap.Reader, &ins.recent, r.Type, r.ID, val)
	if errors.Is(err, fault.ErrRow) {
		ins.report(r.ID, "its D row cannot be read")
		return nil
	}
	if err != nil {
		return err
	}
	raw, err := rows.Get(ins.snap.Reader, keys.IDKey(r.Type, r.ID, r.Seq))
	if err != nil {
		return err
	}
	p, err := rows.DecodePointer(keys.IDKey(r.Type, r.ID, r.Seq), raw)
	switch {
	case raw == nil:
		ins.report(r.ID, "its D row has no I row")
	case err != nil:
		ins.report(r.ID, "its I row cannot be read")
	case p.Location != r.Location || p.Version != d.Version || p.Deleted != d.Deleted:
		ins.report(r.ID, "its I row names another D row")
	}
	if err := ins.rowsOf(r, &d); err != nil {
		return err
	}
	if r.Seq > ins.at {
		return nil
	}
	m := snapshot.NewMatch(r, d)
	ins.fn(&store.Row{Resource: m.Resource(), Seq: r.Seq, Hash: p.Hash, Facts: &m.Facts})
	return nil
}

// rowsOf checks that a D row is at the location that its document gives, ends where
// the next version begins, and has its X rows.
func (ins *inspector) rowsOf(r keys.Row, d *rows.Document) error {
	if d.EndSeq != 0 {
		if p, err := rows.Get(ins.snap.Reader, keys.IDKey(r.Type, r.ID, d.EndSeq)); err != nil {
			return err
		} else if p == nil {
			ins.report(r.ID, "its D row ends at a commit that did not write it")
		}
	}
	vals, err := search.Extract(r.Type, d.JSON)
	if err != nil {
		ins.report(r.ID, "its JSON cannot be read")
		return nil
	}
	stamp := fhir.Stamp([]byte(fhir.Prefix(r.Type, r.ID)+"}}"), r.Type, r.ID, d.Version, time.UnixMilli(d.Updated))
	if !d.Deleted && !bytes.HasPrefix(d.JSON, stamp[:len(stamp)-2]) {
		ins.report(r.ID, "its D row and its JSON disagree on version or time")
	}
	if keys.LocationOf(vals) != r.Location || !slices.Equal(vals.Categories, d.Categories) {
		ins.report(r.ID, "its D row is not at the location of its JSON")
	}
	if err := ins.ordered(r, vals); err != nil {
		return err
	}
	if d.Deleted {
		return nil
	}
	var want [][]byte
	ins.indexes.EachWanted(r.Type, vals, d.JSON, func(p []byte) {
		want = append(want,
			keys.AppendUint64(keys.AppendString(p, r.ID), uint64(r.Seq)))
	})
	for _, h := range rows.OtherCodes(r.Type, vals, r.Code) {
		want = append(want, keys.RowKey(keys.TableCode, &r.Location, h, r.Type, r.ID, r.Seq))
	}
	for _, k := range want {
		val, err := rows.Get(ins.snap.Reader, k)
		if err != nil {
			return err
		}
		if len(val) < 8 || store.Seq(binary.BigEndian.Uint64(val)) != d.EndSeq {
			ins.report(r.ID, "one of its index rows is missing or changed")
		}
	}
	return nil
}

// ids walks the I rows of the type: each must name a D row, the versions of a
// resource must count down to 1, and each but the newest must end where the next
// begins.
func (ins *inspector) ids() error {
	lower := keys.AppendString([]byte{keys.TableID}, ins.typ)
	var prefix []byte
	var newer rows.Pointer
	var newerID string
	oldest := func() {
		if prefix != nil && newer.Version != 1 {
			ins.report(newerID, "its oldest version has no I row")
		}
	}
	err := ins.walk(lower, keys.PrefixEnd(lower), func(it *pebble.Iterator) (bool, error) {
		k := it.Key()
		p, err := rows.DecodePointer(k, it.Value())
		id, tail, ok := keys.CutString(k[len(lower):])
		if err != nil || !ok || len(tail) != 8 {
			ins.report(id, "an I row cannot be read")
			return it.Next(), nil
		}
		if p.Seq > ins.snap.Head.Seq {
			ins.report(id, "an I row belongs to a commit that does not exist")
		}
		var to store.Seq
		if prefix != nil && bytes.Equal(prefix, k[:len(k)-8]) {
			to = newer.Seq
			if newer.Version != p.Version+1 {
				ins.report(id, "a version is missing between two I rows")
			}
		} else {
			oldest()
			prefix = append(prefix[:0], k[:len(k)-8]...)
		}
		newer, newerID = p, id
		m, err := ins.snap.FetchRow(keys.Row{Location: p.Location, Type: ins.typ, ID: id, Seq: p.Seq})
		switch {
		case errors.Is(err, fault.ErrRow):
			ins.report(id, "its I row names a D row that does not exist or cannot be read")
		case err != nil:
			return false, err
		case m.Document.Version != p.Version || m.Document.Deleted != p.Deleted || m.Document.EndSeq != to || p.Moved &&
			ins.typ != "Observation":
			ins.report(id, "its I row and its D row disagree")
		}
		return it.Next(), nil
	})
	oldest()
	return err
}

// index walks the X rows of the type: each must name a D row that has its value.
func (ins *inspector) index() error {
	lower := keys.AppendString([]byte{keys.TableIndex}, ins.typ)
	return ins.walk(lower, keys.PrefixEnd(lower), func(it *pebble.Iterator) (bool, error) {
		id, problem, err := ins.indexRow(lower, it.Key(), it.Value())
		if problem != "" {
			ins.report(id, problem)
		}
		return err == nil && it.Next(), err
	})
}

func (ins *inspector) indexRow(lower, k, val []byte) (id, problem string, err error) {
	const malformed = "an index row cannot be read"
	_, rest, ok1 := keys.CutString(k[len(lower):])
	_, rest, ok2 := keys.CutString(rest)
	prefix := k[:len(k)-len(rest)]
	id, rest, ok3 := keys.CutString(rest)
	if !ok1 || !ok2 || !ok3 || len(rest) != 8 || len(val) < 8 {
		return id, malformed, nil
	}
	p, tail, ok := keys.CutLocation(val[8:])
	if !ok || len(tail) > 0 {
		return id, malformed, nil
	}
	m, err := ins.snap.FetchRow(keys.Row{Location: p, Type: ins.typ, ID: id,
		Seq: store.Seq(binary.BigEndian.Uint64(rest))})
	if errors.Is(err, fault.ErrRow) {
		return id, "an index row names a D row that does not exist or cannot be read", nil
	}
	if err != nil {
		return id, "", err
	}
	if !ins.indexes.May(ins.typ, m.Index(), m.Document.JSON, prefix) || m.Document.Deleted ||
		m.Document.EndSeq != store.Seq(binary.BigEndian.Uint64(val)) {
		return id, "an index row names a value that the document does not have", nil
	}
	return id, "", nil
}
