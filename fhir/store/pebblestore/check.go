package pebblestore

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
)

// checkAll implements store.Store.Check at a snapshot. stopped says that the store
// has failed meanwhile.
func checkAll(ctx context.Context, v *snapshot, stopped func() bool, report func(problem string)) error {
	c := &checker{ctx: ctx, v: v, stopped: stopped, report: report}
	for _, f := range []func() error{c.readable, c.forms, c.documents, c.ids, c.codes, c.index, c.series, c.orders,
		c.log, c.changes} {
		if err := f(); err != nil && !damaged(err) {
			return err
		}
	}
	return nil
}

type checker struct {
	ctx     context.Context
	v       *snapshot
	report  func(string)
	stopped func() bool
}

func (c *checker) problem(format string, args ...any) { c.report(fmt.Sprintf(format, args...)) }

// each walks one table.
func (c *checker) each(table byte, fn func(k, v []byte) error) error {
	return c.within([]byte{table}, []byte{table + 1}, fn)
}

// within walks the rows [lower, upper) that can be read. What a callback could
// not look up because of damage is passed over: readable has reported it.
func (c *checker) within(lower, upper []byte, fn func(k, v []byte) error) error {
	return walkReadable(c.ctx, c.v.snap, lower, upper, func(k, v []byte) error {
		err := fn(k, v)
		if err != nil && damaged(err) {
			return nil
		}
		return err
	}, func(gap) error { return nil })
}

// readable reads every row of every table and reports the ranges that cannot
// be read, by file and table.
func (c *checker) readable() error {
	for tab := byte('A'); tab <= 'Z'; tab++ {
		ranges := map[string]int{}
		err := walkReadable(c.ctx, c.v.snap, []byte{tab}, []byte{tab + 1}, func(_, _ []byte) error { return nil },
			func(g gap) error { ranges[g.file]++; return nil })
		if err != nil {
			return err
		}
		for _, file := range slices.Sorted(maps.Keys(ranges)) {
			c.problem("table %c: %d ranges of rows cannot be read: %s", tab, ranges[file], file)
		}
	}
	return nil
}

// forms checks that each is what its key says.
func (c *checker) forms() error {
	return c.each(tabForm, func(k, val []byte) error {
		f, ok := store.DecodeTemplate(val)
		if !ok || !bytes.Equal(k, formKey(f.ID)) {
			c.problem("F: a form is not what its key says")
		}
		return nil
	})
}

func (c *checker) documents() error {
	return c.each(tabDoc, func(k, val []byte) error {
		r, ok := parseRow(k)
		if !ok {
			c.problem("D: malformed key")
			return nil
		}
		d, err := c.v.forms.doc(c.v.snap, new(recent), r.typ, r.id, val)
		if err != nil {
			c.problem("%s/%s: malformed document at T %d", r.typ, r.id, r.t)
			return nil
		}
		if r.t > c.v.meta.t {
			c.problem("%s/%s: T %d is beyond the head", r.typ, r.id, r.t)
		}
		p, err := get(c.v.snap, idKey(r.typ, r.id, r.t))
		if err != nil {
			return err
		}
		if p == nil {
			c.problem("%s/%s: version at T %d has no I row", r.typ, r.id, r.t)
		}
		if d.deleted {
			return nil
		}
		vals, err := search.Extract(r.typ, d.json)
		if err != nil {
			c.problem("%s/%s: bytes at T %d cannot be read", r.typ, r.id, r.t)
			return nil
		}
		if err := c.begins(r, vals); err != nil {
			return err
		}
		for _, h := range otherCodes(r.typ, vals, r.code) {
			if err := c.want(rowKey(tabCode, &r.place, h, r.typ, r.id, r.t), d.to, r, "P"); err != nil {
				return err
			}
		}
		indexRows(r.typ, vals, func(p []byte) {
			if e := c.want(appendU64(appendStr(p, r.id), uint64(r.t)), d.to, r, "X"); e != nil {
				err = e
			}
		})
		return err
	})
}

// want looks for an index row and compares its to-T.
func (c *checker) want(key []byte, to store.Seq, r row, table string) error {
	v, err := get(c.v.snap, key)
	if err != nil {
		return err
	}
	if len(v) < 8 || store.Seq(binary.BigEndian.Uint64(v)) != to {
		c.problem("%s/%s: version at T %d has no right %s row", r.typ, r.id, r.t, table)
	}
	return nil
}

// ids checks that versions count down to 1 and each names its document, and
// that each but the newest ended where the next began.
func (c *checker) ids() error {
	var prefix []byte
	var newer pointer
	flush := func() {
		if prefix != nil && newer.version != 1 {
			c.problem("I: a resource's oldest version is %d", newer.version)
		}
	}
	err := c.each(tabID, func(k, val []byte) error {
		p, err := decodePointer(k, val)
		if err != nil {
			c.problem("I: malformed row")
			return nil
		}
		typ, rest, _ := takeStr(k[1:])
		id, _, _ := takeStr(rest)
		same := prefix != nil && bytes.Equal(prefix, k[:len(k)-8])
		var to store.Seq
		if same {
			to = newer.t
			if newer.version != p.version+1 {
				c.problem("%s/%s: version %d follows %d", typ, id, newer.version, p.version)
			}
		} else {
			flush()
			prefix = append([]byte(nil), k[:len(k)-8]...)
		}
		newer = p
		m, err := c.v.fetchRow(row{place: p.place, typ: typ, id: id, t: p.t})
		if errors.Is(err, errRow) {
			c.problem("%s/%s: version %d has no document", typ, id, p.version)
			return nil
		}
		if err != nil {
			return err
		}
		if m.doc.version != p.version || m.doc.deleted != p.deleted || m.doc.to != to {
			c.problem("%s/%s: version %d and its document disagree", typ, id, p.version)
		}
		return nil
	})
	flush()
	return err
}

func (c *checker) codes() error {
	return c.each(tabCode, func(k, val []byte) error {
		r, ok := parseRow(k)
		if !ok || len(val) != 16 {
			c.problem("P: malformed row")
			return nil
		}
		h := r.code
		copy(r.code[:], val[8:])
		return c.owner(r, "P", func(v *search.Values) bool {
			for _, x := range otherCodes(r.typ, v, r.code) {
				if x == h {
					return true
				}
			}
			return false
		})
	})
}

// owner checks that the document of an index row is there and has the value.
func (c *checker) owner(r row, table string, has func(*search.Values) bool) error {
	m, err := c.v.fetchRow(r)
	if errors.Is(err, errRow) {
		c.problem("%s/%s: %s row at T %d without a document", r.typ, r.id, table, r.t)
		return nil
	}
	if err != nil {
		return err
	}
	if !has(m.index()) {
		c.problem("%s/%s: %s row at T %d for a value it does not have", r.typ, r.id, table, r.t)
	}
	return nil
}

func (c *checker) index() error {
	return c.each(tabIndex, func(k, val []byte) error {
		typ, rest, ok1 := takeStr(k[1:])
		_, rest, ok2 := takeStr(rest)
		_, rest, ok3 := takeStr(rest)
		at := len(k) - len(rest)
		id, rest, ok4 := takeStr(rest)
		if !ok1 || !ok2 || !ok3 || !ok4 || len(rest) != 8 || len(val) < 8 {
			c.problem("X: malformed row")
			return nil
		}
		p, _, ok := takePlace(val[8:])
		if !ok {
			c.problem("X: malformed row")
			return nil
		}
		prefix := k[:at]
		return c.owner(row{place: p, typ: typ, id: id, t: store.Seq(binary.BigEndian.Uint64(rest))}, "X",
			func(v *search.Values) bool {
				found := false
				indexRows(typ, v, func(x []byte) { found = found || bytes.Equal(x, prefix) })
				return found
			})
	})
}

// log recomputes the stored hashes from the leaves.
func (c *checker) log() (err error) {
	rows, err := openLog(c.v.snap)
	if err != nil {
		return err
	}
	defer closing(rows, &err)
	edge := map[int]tlog.Hash{}
	for i := range c.v.meta.leaves {
		if i%256 == 0 && c.ctx.Err() != nil {
			return canceled("pebblestore.Check", c.ctx.Err())
		}
		leaf, err := rows.leaf(i)
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
			have, err := rows.hash(first + int64(level))
			if err != nil {
				return err
			}
			if !bytes.Equal(have, h[:]) {
				c.problem("log: a stored hash of leaf %d is not what the leaf gives", i)
			}
		}
	}
	return nil
}
