package check

import (
	"bytes"
	"hash/maphash"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// changeCheck compares the change log with the data. The log must name every
// version of a document once, except those of AuditEvents, and for every commit of
// samples of a series their count and range. Subscriptions and _since read it.
type changeCheck struct {
	*checker
	seed  maphash.Seed
	rows  uint64            // L rows that name a version of a document
	seq   store.Seq         // the commit of the current L row
	named map[fhir.Ref]bool // documents that the commit names
	// missing holds, per series, the samples that the log names minus those that
	// exist.
	missing map[series.SeriesID]int64
}

// changes checks the change log.
func (c *checker) changes() error {
	x := &changeCheck{checker: c, seed: maphash.MakeSeed(), missing: map[series.SeriesID]int64{}}
	if err := c.each(keys.TableChange, x.row); err != nil {
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
func (cc *changeCheck) key(typ, id string, seq store.Seq) uint64 {
	var h maphash.Hash
	h.SetSeed(cc.seed)
	for _, s := range []string{typ, id} {
		if _, err := h.WriteString(s + "\x00"); err != nil {
			return 0 // a maphash.Hash never fails
		}
	}
	return maphash.Comparable(cc.seed, [2]uint64{h.Sum64(), uint64(seq)})
}

func (cc *changeCheck) row(k, val []byte) error {
	if len(k) != 1+8+4 || len(val) == 0 {
		cc.problem("L: malformed row")
		return nil
	}
	r := rows.Reader{Bytes: k[1:]}
	seq := store.Seq(r.Uint64())
	if seq == 0 || seq > cc.snap.Head.Seq {
		cc.problem("L: an entry of commit %d is later than the head", seq)
		return nil
	}
	if seq != cc.seq {
		cc.seq, cc.named = seq, map[fhir.Ref]bool{}
	}
	if rows.IsSeriesChange(val) {
		return cc.series(seq, val)
	}
	e, err := rows.DecodeChange(val)
	if err != nil || !bytes.Equal(e.Encode(), val) {
		cc.problem("L: malformed entry of commit %d", seq)
		return nil
	}
	return cc.document(seq, &e)
}

// ended reports whether err ends the check, rather than telling that a row cannot
// be read.
func (cc *changeCheck) ended(err error) bool {
	return err != nil && (cc.ctx.Err() != nil || cc.stopped())
}

// document compares an entry with the version that it names.
func (cc *changeCheck) document(seq store.Seq, e *rows.Change) error {
	ref := fhir.Ref{Type: e.Type, ID: e.ID}
	if cc.named[ref] {
		cc.problem("L: commit %d names %s twice", seq, ref)
		return nil
	}
	cc.named[ref] = true
	m, err := cc.snap.FetchRow(keys.Row{Location: e.Location, Type: e.Type, ID: e.ID, Seq: seq})
	if cc.ended(err) {
		return err
	}
	if err != nil {
		cc.problem("L: commit %d names %s, which it did not write at that location or which cannot be read", seq, ref)
		return nil
	}
	cc.rows++
	created := true
	if e.Version > 1 {
		before, err := rows.HeadOf(cc.snap.Reader, ref, seq-1)
		if err != nil {
			return err
		}
		created = before != nil && before.Deleted
	}
	if f := &m.Facts; e.Type == "AuditEvent" || m.Document.Version != e.Version || m.Document.Deleted != e.Deleted ||
		e.Created != (created && !e.Deleted) ||
		f.Vendor != e.Vendor || f.Author != e.Author || !slices.Equal(f.Categories, e.Categories) {
		cc.problem("L: the entry of %s of commit %d differs from the version", ref, seq)
	}
	return nil
}

// series reads the samples of an entry as Changes would.
func (cc *changeCheck) series(seq store.Seq, val []byte) error {
	e, err := rows.DecodeSeriesChange(val)
	if err != nil || !bytes.Equal(e.Encode(), val) {
		cc.problem("L: malformed entry of commit %d", seq)
		return nil
	}
	cc.missing[e.Series] += int64(e.Count)
	n, first, last := uint64(0), e.Last, e.First
	_, err = cc.snap.SampleChanges(seq, val, func(c *store.Change) bool {
		if k, ok := series.ParseID(c.Ref.ID); ok {
			n, first, last = n+1, min(first, k.Start), max(last, k.Start)
		}
		return n <= e.Count
	})
	if cc.ended(err) {
		return err
	}
	if err != nil || n != e.Count || n == 0 || first != e.First || last != e.Last {
		cc.problem("L: the entry of series %x of commit %d differs from its samples", e.Series, seq)
	}
	return nil
}

// written walks the D rows. It counts the versions that the change log must name,
// and calls fn, if not nil, with each. It also checks that the I row of a version
// names this D row, so that there is no second one.
func (cc *changeCheck) written(fn func(keys.Row)) (versions uint64, err error) {
	err = cc.each(keys.TableDocument, func(k, val []byte) error {
		r, ok := keys.ParseRow(k)
		if !ok {
			return nil // reported by documents
		}
		key := keys.IDKey(r.Type, r.ID, r.Seq)
		raw, err := rows.Get(cc.snap.Reader, key)
		if err != nil || raw == nil { // reported by documents
			return err
		}
		p, err := rows.DecodePointer(key, raw)
		switch {
		case err != nil: // reported by ids
			return nil
		case p.Location != r.Location:
			if fn == nil {
				cc.problem("%s/%s: a D row of commit %d that its I row does not name", r.Type, r.ID, r.Seq)
			}
			return nil
		case r.Type == "AuditEvent":
			return nil
		case p.Moved:
			if fn == nil {
				cc.missing[p.Series]--
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

// lost reports the versions that the change log leaves out.
func (cc *changeCheck) lost() error {
	entries := map[uint64]bool{}
	err := cc.each(keys.TableChange, func(k, val []byte) error {
		if len(k) != 1+8+4 || len(val) == 0 || rows.IsSeriesChange(val) {
			return nil
		}
		r := rows.Reader{Bytes: k[1:]}
		if e, err := rows.DecodeChange(val); err == nil {
			entries[cc.key(e.Type, e.ID, store.Seq(r.Uint64()))] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = cc.written(func(r keys.Row) {
		if !entries[cc.key(r.Type, r.ID, r.Seq)] {
			cc.problem("L: %s/%s: the version of commit %d is not in the change log", r.Type, r.ID, r.Seq)
		}
	})
	return err
}

// samples compares the number of samples that the log names with the tally of each
// series.
func (cc *changeCheck) samples() error {
	err := cc.each(keys.TableTally, func(k, val []byte) error {
		st, err := rows.DecodeTally(val)
		if err != nil || len(k) != 9 {
			return nil // reported by series
		}
		cc.missing[series.SeriesID(k[1:])] -= int64(st.Samples)
		return nil
	})
	for id, n := range cc.missing {
		if n != 0 {
			cc.problem("L: the change log and series %x differ by %d samples", id, n)
		}
	}
	return err
}
