package pebblestore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
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
	"pulsegate/fhir/store/pebblestore/internal/tier"
	"pulsegate/fhir/store/sharedlog"
)

// documentRow is a D row of an entry.
type documentRow struct {
	at    keys.Row
	value []byte
}

// changeRow is an L row of an entry: of a document or of samples.
type changeRow struct {
	seq      store.Seq
	number   uint32
	document *rows.Change
	samples  *rows.SeriesChange
}

// foreign is an entry of another process, with the rows that have effects besides
// being stored. They alias the representation of the batch.
type foreign struct {
	entry     *sharedlog.Entry
	head      rows.Head
	hasHead   bool
	leaves    bool
	indexes   bool // the state of an index changed
	changed   []readcache.Key
	templates [][16]byte
	observed  []documentRow // of Observations
	changes   []changeRow
	documents map[string][]byte // D rows by key, for the facts of changes; nil without watchers
}

// scan checks the rows of an entry that follows head, and finds those that have
// effects.
func scan(e *sharedlog.Entry, repr []byte, head rows.Head, watched bool) (*foreign, error) {
	f := &foreign{entry: e}
	if watched {
		f.documents = map[string][]byte{}
	}
	if e.First != uint64(head.Seq)+1 { // this copy did not begin as the others did
		return nil, rejoin(fmt.Sprintf("entry %d of the log does not follow commit %d of this copy", e.Index, head.Seq))
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
		f.indexes = f.indexes || bytes.HasPrefix(k[1:], []byte(rows.IndexPrefix))
		f.changed = append(f.changed, readcache.StateKey(string(k[1:])))
	case keys.TableDocument:
		return f.document(set, k, v)
	case keys.TableChange:
		return f.change(set, k, v)
	case keys.TableTemplate:
		if !set || len(k) != 17 {
			return fault.ErrRow
		}
		f.templates = append(f.templates, [16]byte(k[1:]))
	case keys.TableLog:
		f.leaves = true
	case keys.TableMeta:
		if set && isMark(k) {
			return nil
		}
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
		f.observed = append(f.observed, documentRow{r, v})
	}
	if f.documents != nil && r.Type != "AuditEvent" {
		f.documents[string(k)] = slices.Clone(v)
	}
	return nil
}

func (f *foreign) change(set bool, k, v []byte) error {
	if !set || len(k) != 13 || binary.BigEndian.Uint64(k[1:])-f.entry.First >= f.entry.Count {
		return fault.ErrRow
	}
	x := changeRow{seq: store.Seq(binary.BigEndian.Uint64(k[1:])), number: binary.BigEndian.Uint32(k[9:])}
	if rows.IsSeriesChange(v) {
		e, err := rows.DecodeSeriesChange(v)
		if err != nil || e.Count > math.MaxInt32 {
			return fault.ErrRow
		}
		x.samples = &e
	} else {
		e, err := rows.DecodeChange(v)
		if err != nil {
			return err
		}
		x.document = &e
	}
	f.changes = append(f.changes, x)
	return nil
}

// settleForeign lets the effects of an entry take place whose rows were applied. Call
// it before a view shows the entry.
func (d *DB) settleForeign(f *foreign) {
	if f.leaves {
		d.edge = edge{}
	}
	if f.indexes {
		d.runtime.Store(true)
	}
	d.head = f.head
	for _, id := range f.templates {
		d.writtenTemplates.Add(id, struct{}{})
	}
	for _, guard := range f.entry.Touched {
		d.guards.touch(guard, f.head.Seq)
	}
	for i := range f.observed {
		w := &f.observed[i]
		d.search.NoteRow(f.head.Seq, find.Cluster{Patient: w.at.Patient, Code: w.at.Code},
			func() (*rows.Document, *search.Values, error) { return d.decodeDocument(&w.at, w.value) })
	}
	if !d.compactor.enabled.Load() {
		return
	}
	for i := range f.changes {
		if e := f.changes[i].samples; e != nil {
			if err := d.considerSamples(e); err != nil {
				d.opts.Logger.Warn("a series was not considered for compaction", "error", fault.Describe(err))
			}
		}
	}
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

// considerSamples queues the series of an L row for compaction if it is due.
func (d *DB) considerSamples(e *rows.SeriesChange) error {
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
func (d *DB) commits(f *foreign) []store.Commit {
	out := make([]store.Commit, f.entry.Count)
	for i := range out {
		out[i].Seq = store.Seq(f.entry.First) + store.Seq(i)
	}
	slices.SortFunc(f.changes, func(a, b changeRow) int {
		return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.number, b.number))
	})
	for i := range f.changes {
		x := &f.changes[i]
		c := &out[uint64(x.seq)-f.entry.First]
		if x.samples != nil {
			c.Samples += int(x.samples.Count)
		} else {
			c.Changes = append(c.Changes, d.change(x, f.documents))
		}
	}
	return out
}

// change returns the change of a document. It is valid for as long as its holder keeps
// it.
func (d *DB) change(x *changeRow, documents map[string][]byte) store.Change {
	e := x.document
	// A document that cannot be read has no tokens, so that no granular scope covers it.
	var json []byte
	if v := documents[string(keys.RowKey(keys.TableDocument, &e.Location, e.Code, e.Type, e.ID, x.seq))]; v != nil {
		if doc, err := d.templates.Document(d.pdb, new(rows.Recent), e.Type, e.ID, v); err == nil {
			json = doc.JSON
		}
	}
	if e.Deleted && access.Several(e.Type) {
		c := store.Change{Seq: x.seq, Ref: fhir.Ref{Type: e.Type, ID: e.ID}, Version: e.Version, Deleted: true}
		c.Facts = access.Facts{Type: e.Type, ID: e.ID, Patient: e.Patient, Vendor: e.Vendor, Author: e.Author,
			Categories: e.Categories, Tokens: access.Undecided(e.Type)}
		return c
	}
	values := sync.OnceValue(func() *search.Values {
		v, err := search.Extract(e.Type, json)
		if err != nil {
			v = &search.Values{}
		}
		return v
	})
	return store.Change{Seq: x.seq, Ref: fhir.Ref{Type: e.Type, ID: e.ID}, Version: e.Version, Created: e.Created,
		Deleted: e.Deleted,
		Facts: access.Facts{Type: e.Type, ID: e.ID, Patient: e.Patient, Vendor: e.Vendor, Author: e.Author,
			Categories: e.Categories,
			Tokens:     func(param string) []access.Token { return values().Tokens(param) }}}
}
