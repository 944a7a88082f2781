package pebblestore

import (
	"bytes"
	"hash/maphash"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// changeCheck compares the change log with what was written: every version of
// a document but an AuditEvent's stands in it once, and every commit of samples
// of a series with their count and range. Subscriptions and _since read it.
type changeCheck struct {
	*checker
	seed maphash.Seed
	rows uint64            // L rows that name a document's version
	t    store.Seq         // the commit whose L rows are being read
	here map[fhir.Ref]bool // the documents it names
	// Per series: the samples that the log names, less those that are there.
	missing map[series.SeriesID]int64
}

// changes checks the change log.
func (c *checker) changes() error {
	x := &changeCheck{checker: c, seed: maphash.MakeSeed(), missing: map[series.SeriesID]int64{}}
	if err := c.each(tabChange, x.row); err != nil {
		return err
	}
	versions, err := x.written(nil)
	if err != nil {
		return err
	}
	if versions != x.rows {
		if err := x.lost(); err != nil {
			return err
		}
	}
	return x.samples()
}

// key identifies a version of a document.
func (x *changeCheck) key(typ, id string, t store.Seq) uint64 {
	var h maphash.Hash
	h.SetSeed(x.seed)
	for _, s := range []string{typ, id} {
		if _, err := h.WriteString(s + "\x00"); err != nil {
			return 0 // a maphash.Hash does not fail
		}
	}
	return maphash.Comparable(x.seed, [2]uint64{h.Sum64(), uint64(t)})
}

func (x *changeCheck) row(k, val []byte) error {
	if len(k) != 1+8+4 || len(val) == 0 {
		x.problem("L: malformed row")
		return nil
	}
	r := reader{b: k[1:]}
	t := store.Seq(r.u64())
	if t == 0 || t > x.v.meta.t {
		x.problem("L: an entry of T %d is beyond the head", t)
		return nil
	}
	if t != x.t {
		x.t, x.here = t, map[fhir.Ref]bool{}
	}
	if isSeriesChange(val) {
		return x.series(t, val)
	}
	e, err := decodeEntry(val)
	if err != nil || !bytes.Equal(e.encode(), val) {
		x.problem("L: a malformed entry of T %d", t)
		return nil
	}
	return x.document(t, &e)
}

// ended reports whether err means that the check cannot go on, rather than that
// something cannot be read.
func (x *changeCheck) ended(err error) bool {
	return err != nil && (x.ctx.Err() != nil || x.stopped())
}

// document holds an entry to the version that it names.
func (x *changeCheck) document(t store.Seq, e *entry) error {
	ref := fhir.Ref{Type: e.typ, ID: e.id}
	if x.here[ref] {
		x.problem("L: T %d names %s twice", t, ref)
		return nil
	}
	x.here[ref] = true
	m, err := x.v.fetchRow(row{place: e.place, typ: e.typ, id: e.id, t: t})
	if x.ended(err) {
		return err
	}
	if err != nil {
		x.problem("L: T %d names %s, which it did not write there or which cannot be read", t, ref)
		return nil
	}
	x.rows++
	created := true
	if e.version > 1 {
		before, err := headOf(x.v.snap, ref, t-1)
		if err != nil {
			return err
		}
		created = before != nil && before.deleted
	}
	if f := &m.facts; e.typ == "AuditEvent" || m.doc.version != e.version || m.doc.deleted != e.deleted ||
		e.created != (created && !e.deleted) ||
		f.Vendor != e.vendor || f.Author != e.author || !slices.Equal(f.Categories, e.categories) {
		x.problem("L: the entry of %s at T %d is not what was written", ref, t)
	}
	return nil
}

// series reads the samples of an entry as the change log would give them out.
func (x *changeCheck) series(t store.Seq, val []byte) error {
	e, err := decodeSamplesEntry(val)
	if err != nil || !bytes.Equal(e.encode(), val) {
		x.problem("L: a malformed entry of T %d", t)
		return nil
	}
	x.missing[e.id] += int64(e.count)
	n, first, last := uint64(0), e.end, e.first
	_, err = x.v.sampleChanges(t, val, func(c *store.Change) bool {
		if k, ok := series.ParseID(c.Ref.ID); ok {
			n, first, last = n+1, min(first, k.Start), max(last, k.Start)
		}
		return n <= e.count
	})
	if x.ended(err) {
		return err
	}
	if err != nil || n != e.count || n == 0 || first != e.first || last != e.end {
		x.problem("L: the entry of series %x at T %d is not what was written", e.id, t)
	}
	return nil
}

// written walks the D rows: it counts the versions that the change log must
// name, and calls fn, when not nil, with each. It also checks that the I row of
// a version names this very row, so that no second row stands beside it.
func (x *changeCheck) written(fn func(row)) (versions uint64, err error) {
	err = x.each(tabDoc, func(k, val []byte) error {
		r, ok := parseRow(k)
		if !ok {
			return nil // documents reports it
		}
		key := idKey(r.typ, r.id, r.t)
		raw, err := get(x.v.snap, key)
		if err != nil || raw == nil { // documents reports what is missing
			return err
		}
		p, err := decodePointer(key, raw)
		switch {
		case err != nil: // ids reports it
			return nil
		case p.place != r.place:
			if fn == nil {
				x.problem("%s/%s: a D row at T %d that its I row does not name", r.typ, r.id, r.t)
			}
			return nil
		case r.typ == "AuditEvent":
			return nil
		case p.moved:
			if fn == nil {
				x.missing[p.series]--
			}
			return nil
		}
		versions++
		if fn != nil {
			fn(r)
		}
		return nil
	})
	return versions, err
}

// lost names the versions that the change log leaves out.
func (x *changeCheck) lost() error {
	entries := map[uint64]bool{}
	err := x.each(tabChange, func(k, val []byte) error {
		if len(k) != 1+8+4 || len(val) == 0 || isSeriesChange(val) {
			return nil
		}
		r := reader{b: k[1:]}
		if e, err := decodeEntry(val); err == nil {
			entries[x.key(e.typ, e.id, store.Seq(r.u64()))] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = x.written(func(r row) {
		if !entries[x.key(r.typ, r.id, r.t)] {
			x.problem("L: %s/%s: the version of T %d is not in the change log", r.typ, r.id, r.t)
		}
	})
	return err
}

// samples compares the samples that the log names with those of each series.
func (x *changeCheck) samples() error {
	err := x.each(tabTally, func(k, val []byte) error {
		st, err := decodeSeriesState(val)
		if err != nil || len(k) != 9 {
			return nil // series reports it
		}
		x.missing[series.SeriesID(k[1:])] -= int64(st.samples)
		return nil
	})
	for id, n := range x.missing {
		if n != 0 {
			x.problem("L: the change log and series %x differ by %d samples", id, n)
		}
	}
	return err
}
