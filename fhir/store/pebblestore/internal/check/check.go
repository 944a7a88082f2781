package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
)

// All implements store.Store.Check at a snapshot. stopped reports whether the store
// has failed meanwhile.
func All(ctx context.Context, snap *snapshot.Snapshot, indexes *rows.Catalog, stopped func() bool,
	report func(problem string)) error {
	c := &checker{ctx: ctx, snap: snap, indexes: indexes, stopped: stopped, report: report}
	for _, f := range []func() error{c.readable, c.templates, c.documents, c.ids, c.codes, c.index, c.series, c.orders,
		c.log, c.changes} {
		if err := f(); err != nil && !fault.Damaged(err) {
			return err
		}
	}
	return nil
}

type checker struct {
	ctx     context.Context
	snap    *snapshot.Snapshot
	indexes *rows.Catalog
	report  func(string)
	stopped func() bool
}

func (c *checker) problem(format string, args ...any) { c.report(fmt.Sprintf(format, args...)) }

// each walks one table.
func (c *checker) each(table byte, fn func(k, v []byte) error) error {
	return c.within([]byte{table}, []byte{table + 1}, fn)
}

// within walks the rows [lower, upper) that can be read. It ignores lookups of fn
// that fail because of damage, which readable has reported.
func (c *checker) within(lower, upper []byte, fn func(k, v []byte) error) error {
	return fault.WalkReadable(c.ctx, c.snap.Reader, lower, upper, func(k, v []byte) error {
		err := fn(k, v)
		if err != nil && fault.Damaged(err) {
			return nil
		}
		return err
	}, func(fault.Gap) error { return nil })
}

// readable reads every row of every table and reports the ranges that cannot be
// read, by file and table.
func (c *checker) readable() error {
	for tab := byte('A'); tab <= 'Z'; tab++ {
		ranges := map[string]int{}
		err := fault.WalkReadable(c.ctx, c.snap.Reader, []byte{tab}, []byte{tab + 1},
			func(_, _ []byte) error { return nil },
			func(g fault.Gap) error { ranges[g.File]++; return nil })
		if err != nil {
			return err
		}
		for _, file := range slices.Sorted(maps.Keys(ranges)) {
			c.problem("table %c: %d ranges of rows cannot be read: %s", tab, ranges[file], file)
		}
	}
	return nil
}

// templates checks that each F row holds the template that its key names.
func (c *checker) templates() error {
	return c.each(keys.TableTemplate, func(k, val []byte) error {
		f, ok := store.DecodeTemplate(val)
		if !ok || !bytes.Equal(k, keys.TemplateKey(f.ID)) {
			c.problem("F: a template does not match its key")
		}
		return nil
	})
}

func (c *checker) documents() error {
	return c.each(keys.TableDocument, func(k, val []byte) error {
		r, ok := keys.ParseRow(k)
		if !ok {
			c.problem("D: malformed key")
			return nil
		}
		d, err := c.snap.Templates.Document(c.snap.Reader, new(rows.Recent), r.Type, r.ID, val)
		if err != nil {
			c.problem("%s/%s: malformed document of commit %d", r.Type, r.ID, r.Seq)
			return nil
		}
		if r.Seq > c.snap.Head.Seq {
			c.problem("%s/%s: commit %d is later than the head", r.Type, r.ID, r.Seq)
		}
		p, err := rows.Get(c.snap.Reader, keys.IDKey(r.Type, r.ID, r.Seq))
		if err != nil {
			return err
		}
		if p == nil {
			c.problem("%s/%s: the version of commit %d has no I row", r.Type, r.ID, r.Seq)
		}
		if d.Deleted {
			return nil
		}
		vals, err := search.Extract(r.Type, d.JSON)
		if err != nil {
			c.problem("%s/%s: the JSON of commit %d cannot be read", r.Type, r.ID, r.Seq)
			return nil
		}
		if err := c.begins(r, vals); err != nil {
			return err
		}
		for _, h := range rows.OtherCodes(r.Type, vals, r.Code) {
			if err := c.want(keys.RowKey(keys.TableCode, &r.Location, h, r.Type, r.ID, r.Seq), d.EndSeq, r,
				"P"); err != nil {
				return err
			}
		}
		c.indexes.EachWanted(r.Type, vals, d.JSON, func(p []byte) {
			if e := c.want(keys.AppendUint64(keys.AppendString(p, r.ID), uint64(r.Seq)), d.EndSeq, r, "X"); e != nil {
				err = e
			}
		})
		return err
	})
}

// want checks that an index row exists and has the same end as its document.
func (c *checker) want(key []byte, to store.Seq, r keys.Row, table string) error {
	v, err := rows.Get(c.snap.Reader, key)
	if err != nil {
		return err
	}
	if len(v) < 8 || store.Seq(binary.BigEndian.Uint64(v)) != to {
		c.problem("%s/%s: the version of commit %d has no correct %s row", r.Type, r.ID, r.Seq, table)
	}
	return nil
}

// ids checks that the versions of a resource count down to 1, that each names its
// document, and that each but the newest ended where the next began.
func (c *checker) ids() error {
	var prefix []byte
	var newer rows.Pointer
	flush := func() {
		if prefix != nil && newer.Version != 1 {
			c.problem("I: a resource's oldest version is %d", newer.Version)
		}
	}
	err := c.each(keys.TableID, func(k, val []byte) error {
		p, err := rows.DecodePointer(k, val)
		if err != nil {
			c.problem("I: malformed row")
			return nil
		}
		typ, rest, _ := keys.CutString(k[1:])
		id, _, _ := keys.CutString(rest)
		same := prefix != nil && bytes.Equal(prefix, k[:len(k)-8])
		var to store.Seq
		if same {
			to = newer.Seq
			if newer.Version != p.Version+1 {
				c.problem("%s/%s: version %d follows %d", typ, id, newer.Version, p.Version)
			}
		} else {
			flush()
			prefix = append([]byte(nil), k[:len(k)-8]...)
		}
		newer = p
		m, err := c.snap.FetchRow(keys.Row{Location: p.Location, Type: typ, ID: id, Seq: p.Seq})
		if errors.Is(err, fault.ErrRow) {
			c.problem("%s/%s: version %d has no document", typ, id, p.Version)
			return nil
		}
		if err != nil {
			return err
		}
		if m.Document.Version != p.Version || m.Document.Deleted != p.Deleted || m.Document.EndSeq != to {
			c.problem("%s/%s: version %d and its document disagree", typ, id, p.Version)
		}
		return nil
	})
	flush()
	return err
}

func (c *checker) codes() error {
	return c.each(keys.TableCode, func(k, val []byte) error {
		r, ok := keys.ParseRow(k)
		if !ok || len(val) != 16 {
			c.problem("P: malformed row")
			return nil
		}
		h := r.Code
		copy(r.Code[:], val[8:])
		return c.owner(r, "P", func(v *search.Values, _ []byte) bool {
			for _, x := range rows.OtherCodes(r.Type, v, r.Code) {
				if x == h {
					return true
				}
			}
			return false
		})
	})
}

// owner checks that the document of an index row exists and has the value.
func (c *checker) owner(r keys.Row, table string, has func(v *search.Values, body []byte) bool) error {
	m, err := c.snap.FetchRow(r)
	if errors.Is(err, fault.ErrRow) {
		c.problem("%s/%s: %s row of commit %d without a document", r.Type, r.ID, table, r.Seq)
		return nil
	}
	if err != nil {
		return err
	}
	if !has(m.Index(), m.Document.JSON) {
		c.problem("%s/%s: %s row of commit %d for a value that the document does not have", r.Type, r.ID, table, r.Seq)
	}
	return nil
}

func (c *checker) index() error {
	return c.each(keys.TableIndex, func(k, val []byte) error {
		typ, rest, ok1 := keys.CutString(k[1:])
		_, rest, ok2 := keys.CutString(rest)
		_, rest, ok3 := keys.CutString(rest)
		at := len(k) - len(rest)
		id, rest, ok4 := keys.CutString(rest)
		if !ok1 || !ok2 || !ok3 || !ok4 || len(rest) != 8 || len(val) < 8 {
			c.problem("X: malformed row")
			return nil
		}
		p, _, ok := keys.CutLocation(val[8:])
		if !ok {
			c.problem("X: malformed row")
			return nil
		}
		prefix := k[:at]
		return c.owner(keys.Row{Location: p, Type: typ, ID: id, Seq: store.Seq(binary.BigEndian.Uint64(rest))}, "X",
			func(v *search.Values, body []byte) bool { return c.indexes.May(typ, v, body, prefix) })
	})
}

// log recomputes the stored hashes from the leaves.
func (c *checker) log() (err error) {
	log, err := rows.OpenLog(c.snap.Reader)
	if err != nil {
		return err
	}
	defer fault.Close(log, &err)
	edge := map[int]tlog.Hash{}
	for i := range c.snap.Head.Leaves {
		if i%256 == 0 && c.ctx.Err() != nil {
			return fault.Canceled("pebblestore.Check", c.ctx.Err())
		}
		leaf, err := log.Leaf(i)
		if err != nil {
			return err
		}
		if leaf == nil {
			c.problem("log: leaf %d is missing", i)
			return nil
		}
		hs, err := tlog.StoredHashes(int64(i), leaf, tlog.HashReaderFunc(func(xs []int64) ([]tlog.Hash, error) {
			out := make([]tlog.Hash, len(xs))
			for j, x := range xs {
				level, _ := tlog.SplitStoredHashIndex(x)
				out[j] = edge[level]
			}
			return out, nil
		}))
		if err != nil {
			return err
		}
		first := tlog.StoredHashIndex(0, int64(i))
		for level, h := range hs {
			edge[level] = h
			have, err := log.Hash(first + int64(level))
			if err != nil {
				return err
			}
			if !bytes.Equal(have, h[:]) {
				c.problem("log: a stored hash of leaf %d differs from the leaf", i)
			}
		}
	}
	return nil
}
