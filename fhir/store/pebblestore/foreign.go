package pebblestore

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/find"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/readcache"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
	"pulsegate/fhir/store/sharedlog"
)

// row is a row of an entry.
type row struct{ key, value []byte }

// foreign is an entry of another process, with the rows that have effects besides
// being stored. They alias the representation of the batch.
type foreign struct {
	entry     *sharedlog.Entry
	head      rows.Head
	hasHead   bool
	leaves    bool
	changed   []readcache.Key
	templates [][16]byte
	observed  []row             // D rows of Observations
	changes   []row             // L rows
	documents map[string][]byte // D rows by key, for the facts of changes; nil without watchers
}

// scan checks the rows of an entry that follows head, and finds those that have
// effects.
func scan(e *sharedlog.Entry, repr []byte, head rows.Head, watched bool) (*foreign, error) {
	f := &foreign{entry: e}
	if watched {
		f.documents = map[string][]byte{}
	}
	if e.First != uint64(head.Seq)+1 || e.Count > 1<<32 {
		return nil, malformed(e, "its sequence numbers do not follow those before")
	}
	if err := eachRow(repr, f.row); err != nil {
		return nil, malformed(e, err.Error())
	}
	if !f.hasHead || uint64(f.head.Seq) != e.First+e.Count-1 || f.head.Updated < head.Updated ||
		f.head.Leaves < head.Leaves {
		return nil, malformed(e, "its head row does not agree with its sequence numbers")
	}
	return f, nil
}

// row checks one row and notes its effects.
func (f *foreign) row(kind pebble.InternalKeyKind, k, v []byte) error {
	if (kind == pebble.InternalKeyKindMerge) != (k[0] == keys.TableDay) ||
		kind == pebble.InternalKeyKindMerge && len(v) != 2*keys.SlotBytes {
		return fault.ErrRow
	}
	set := kind == pebble.InternalKeyKindSet
	switch k[0] {
	case keys.TableID:
		typ, rest, ok := keys.CutString(k[1:])
		id, _, ok2 := keys.CutString(rest)
		if !ok || !ok2 {
			return fault.ErrRow
		}
		if typ != "AuditEvent" { // which is not cached
			f.changed = append(f.changed, readcache.Key{Ref: fhir.Ref{Type: typ, ID: id}})
		}
	case keys.TableState:
		f.changed = append(f.changed, readcache.StateKey(string(k[1:])))
	case keys.TableDocument:
		return f.document(set, k, v)
	case keys.TableChange:
		if !set || len(k) != 13 || binary.BigEndian.Uint64(k[1:])-f.entry.First >= f.entry.Count {
			return fault.ErrRow
		}
		f.changes = append(f.changes, row{k, v})
	case keys.TableTemplate:
		if !set || len(k) != 17 {
			return fault.ErrRow
		}
		f.templates = append(f.templates, [16]byte(k[1:]))
	case keys.TableLog:
		f.leaves = true
	case keys.TableMeta:
		if !set || !bytes.Equal(k, keys.Head) {
			return fault.ErrRow
		}
		var err error
		f.head, err = rows.DecodeHead(v)
		f.hasHead = true
		return err
	case keys.TableCode, keys.TableIndex, keys.TableExpiry, keys.TableUpdate, keys.TablePatientUpdate, keys.TableDay,
		keys.TableSeries, keys.TableOtherSeries, keys.TableIdentity, keys.TableTag, keys.TableTally, keys.TableHeader,
		keys.TableBlock:
	default:
		return fault.ErrRow
	}
	return nil
}

func (f *foreign) document(set bool, k, v []byte) error {
	r, ok := keys.ParseRow(k)
	if !ok || !set {
		return fault.ErrRow
	}
	if r.Type == "Observation" {
		f.observed = append(f.observed, row{k, v})
	}
	if f.documents != nil && r.Type != "AuditEvent" {
		f.documents[string(k)] = slices.Clone(v)
	}
	return nil
}

// settleForeign lets the effects of an entry take place whose rows were applied. Call
// it before a view shows the entry.
func (d *DB) settleForeign(f *foreign) error {
	if f.leaves {
		d.edge = edge{}
	}
	d.head = f.head
	for _, id := range f.templates {
		d.writtenTemplates.Add(id, struct{}{})
	}
	for _, guard := range f.entry.Touched {
		d.guards.touch(guard, f.head.Seq)
	}
	for _, w := range f.observed {
		r, ok := keys.ParseRow(w.key)
		if !ok {
			return fault.ErrRow
		}
		d.search.NoteRow(f.head.Seq, find.Cluster{Patient: r.Patient, Code: r.Code},
			func() (*rows.Document, *search.Values, error) { return d.decodeDocument(&r, w.value) })
	}
	if !d.compactor.enabled.Load() {
		return nil
	}
	for _, w := range f.changes {
		if err := d.considerChange(w.value); err != nil {
			return err
		}
	}
	return nil
}

// decodeDocument decodes the value of a D row of an Observation, with the index values
// of its signature.
func (d *DB) decodeDocument(r *keys.Row, v []byte) (*rows.Document, *search.Values, error) {
	doc, err := d.templates.Document(d.pdb, new(rows.Recent), r.Type, r.ID, v)
	if err != nil || doc.Deleted {
		return &doc, nil, err
	}
	vals, _, err := rows.ExtractStored(r.Type, doc.JSON)
	return &doc, vals, err
}

// considerChange queues the series of an L row for compaction if it is due.
func (d *DB) considerChange(raw []byte) error {
	if !rows.IsSeriesChange(raw) {
		return nil
	}
	e, err := rows.DecodeSeriesChange(raw)
	if err != nil {
		return err
	}
	v, err := rows.Get(d.pdb, keys.TallyKey(e.Series))
	if err != nil || v == nil {
		return err
	}
	st, err := rows.DecodeTally(v)
	if err != nil || !tier.Due(&st) {
		return err
	}
	ser, err := d.tier.Series(d.pdb, &e.Location, e.Series)
	if err != nil {
		return err
	}
	d.compactor.consider(ser, &st)
	return nil
}

// commits returns the commits of an entry for watchers.
func (d *DB) commits(f *foreign) ([]store.Commit, error) {
	out := make([]store.Commit, f.entry.Count)
	for i := range out {
		out[i].Seq = store.Seq(f.entry.First) + store.Seq(i)
	}
	slices.SortFunc(f.changes, func(a, b row) int { return bytes.Compare(a.key, b.key) })
	for _, w := range f.changes {
		c := &out[binary.BigEndian.Uint64(w.key[1:])-f.entry.First]
		if rows.IsSeriesChange(w.value) {
			e, err := rows.DecodeSeriesChange(w.value)
			if err != nil {
				return nil, err
			}
			c.Samples += int(e.Count)
			continue
		}
		x, err := d.change(c.Seq, w.value, f.documents)
		if err != nil {
			return nil, err
		}
		c.Changes = append(c.Changes, x)
	}
	return out, nil
}

// change returns the change of an L row. It is valid for as long as its holder keeps
// it.
func (d *DB) change(seq store.Seq, raw []byte, documents map[string][]byte) (c store.Change, err error) {
	e, err := rows.DecodeChange(raw)
	if err != nil {
		return c, err
	}
	var doc rows.Document
	v := documents[string(keys.RowKey(keys.TableDocument, &e.Location, e.Code, e.Type, e.ID, seq))]
	if v == nil {
		return c, fault.ErrRow
	}
	if doc, err = d.templates.Document(d.pdb, new(rows.Recent), e.Type, e.ID, v); err != nil {
		return c, err
	}
	values := sync.OnceValue(func() *search.Values {
		x, err := search.Extract(e.Type, doc.JSON)
		if err != nil { // no granular scope covers a document that cannot be read
			x = &search.Values{}
		}
		return x
	})
	return store.Change{Seq: seq, Ref: fhir.Ref{Type: e.Type, ID: e.ID}, Version: e.Version, Created: e.Created,
		Deleted: e.Deleted,
		Facts: access.Facts{Type: e.Type, ID: e.ID, Patient: e.Patient, Vendor: e.Vendor, Author: e.Author,
			Categories: e.Categories,
			Tokens:     func(param string) []access.Token { return snapshot.Tokens(values(), param) }}}, nil
}
