package pebblestore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// Salvaged says what a salvage copied and what it could not.
type Salvaged struct {
	// Rows were copied, by table.
	Rows map[string]uint64 `json:"rows"`
	// Unreadable are the ranges of rows that could not be read, by table and file.
	Unreadable map[string]int `json:"unreadable"`
	// Lost are the resources that are gone, or lost versions. Versions is 0
	// when the whole resource is left out.
	Lost []LostResource `json:"lost"`
	// LostBlocks are blocks of samples, LostSeries streams, LostChanges rows of
	// the change log whose resource is gone, MadeChanges rows that were made anew.
	LostBlocks  uint64 `json:"lostBlocks"`
	LostSeries  uint64 `json:"lostSeries"`
	LostChanges uint64 `json:"lostChanges"`
	MadeChanges uint64 `json:"madeChanges"`
	// Problems lists the findings of Check in the new store.
	Problems []string `json:"problems"`
}

// LostResource is a resource of which something is lost.
type LostResource struct {
	Type, ID string
	Versions int // lost; 0: all
}

// copied are the tables that a salvage copies. The others follow from them.
var copied = []byte{tabDoc, tabForm, tabID, tabChange, tabState, tabExpire, tabLog, tabMeta, tabSeries, tabIdentity,
	tabTally, tabHead, tabBlock}

const salvageBatch = 4 << 20 // bytes

// Salvage writes everything that can be read in the store in from to a new
// store in to. No server may use from. A resource whose newest version cannot
// be read is left out whole: an older one must not stand for it, for it may be
// a consent that was withdrawn.
func Salvage(ctx context.Context, from, to string, opts Options) (_ *Salvaged, err error) {
	const op = "pebblestore.Salvage"
	if opts.FS == nil {
		opts.FS = vfs.Default
	}
	if names, lerr := opts.FS.List(to); lerr == nil && len(names) > 0 {
		return nil, fhir.Errorf(fhir.Conflict, op, "%s exists already; name a directory that does not", to)
	}
	if names, lerr := opts.FS.List(from); lerr != nil || len(names) == 0 {
		return nil, fhir.Errorf(fhir.NotFound, op, "there is no store in %s", from)
	}
	s := &salvage{ctx: ctx, written: map[writtenSamples]*samplesEntry{},
		out: &Salvaged{Rows: map[string]uint64{}, Unreadable: map[string]int{}}}
	if err := s.copy(from, to, opts); err != nil {
		return nil, faulted(op, err)
	}
	d, err := Open(to, opts) // makes the U, V and W rows
	if err != nil {
		return nil, err
	}
	defer closing(d, &err)
	if err := d.pdb.Flush(); err != nil {
		return nil, faulted(op, err)
	}
	return s.out, d.Check(ctx, func(p string) { s.out.Problems = append(s.out.Problems, p) })
}

type salvage struct {
	ctx   context.Context
	out   *Salvaged
	d     *DB // of the new store, of which only what reading needs is there
	batch *pebble.Batch
	// made numbers the rows of the change log that are made anew.
	made uint32
	// changesLost is set when rows of the change log could not be read.
	changesLost bool
	written     map[writtenSamples]*samplesEntry // what is left of them
	top         meta                             // of the rows
}

// writtenSamples are the samples that a commit wrote of a series.
type writtenSamples struct {
	id series.SeriesID
	t  store.Seq
}

func (s *salvage) copy(from, to string, opts Options) (err error) {
	quiet := &DB{opts: opts, meters: nil}
	if quiet.opts.Logger == nil {
		quiet.opts.Logger = slog.New(slog.DiscardHandler)
	}
	po := &pebble.Options{FS: opts.FS, ReadOnly: true, Merger: setBits, Logger: &pebbleLog{d: quiet},
		EventListener: quiet.events()}
	src, err := pebble.Open(from, po)
	if err != nil {
		return refusal("the store cannot be opened: " + faultOf(err))
	}
	defer closing(src, &err)
	po = &pebble.Options{FS: opts.FS, FormatMajorVersion: pebble.FormatNewest, MemTableSize: 16 << 20,
		Merger: setBits, Logger: &pebbleLog{d: quiet}, EventListener: quiet.events()}
	dst, err := pebble.Open(to, po)
	if err != nil {
		return err
	}
	defer closing(dst, &err)
	s.d = &DB{pdb: dst, opts: quiet.opts, infos: newInfos(), forms: newForms()}
	if s.d.codec, err = series.NewCodec(); err != nil {
		return err
	}
	s.batch = dst.NewBatch()
	for _, tab := range copied {
		if err := s.table(src, tab); err != nil {
			return err
		}
	}
	for _, step := range []func() error{s.flush, s.versions, s.flush, s.documents, s.flush, s.changes, s.flush,
		s.allSeries, s.flush, s.orphans, s.flush, s.emptied, s.flush, s.head, s.flush} {
		if err := step(); err != nil {
			return err
		}
	}
	return errors.Join(s.batch.Close(), dst.Flush())
}

func (s *salvage) table(src *pebble.DB, tab byte) error {
	return walkReadable(s.ctx, src, []byte{tab}, []byte{tab + 1}, func(k, v []byte) error {
		s.out.Rows[string(rune(tab))]++
		return s.set(k, v)
	}, func(g gap) error {
		s.out.Unreadable[fmt.Sprintf("table %c, %s", tab, g.file)]++
		s.changesLost = s.changesLost || tab == tabChange
		return nil
	})
}

func (s *salvage) set(k, v []byte) error {
	if err := s.batch.Set(k, v, nil); err != nil {
		return err
	}
	return s.room()
}

func (s *salvage) remove(k []byte) error {
	if err := s.batch.Delete(k, nil); err != nil {
		return err
	}
	return s.room()
}

func (s *salvage) room() error {
	if s.batch.Len() < salvageBatch {
		return nil
	}
	return s.flush()
}

// flush makes what was written readable: a pass reads what the one before left.
func (s *salvage) flush() error {
	if err := s.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	s.batch = s.d.pdb.NewBatch()
	return nil
}

// each walks a table of the new store.
func (s *salvage) each(table byte, fn func(k, v []byte) error) (err error) {
	snap := s.d.pdb.NewSnapshot()
	defer closing(snap, &err)
	return walkReadable(s.ctx, snap, []byte{table}, []byte{table + 1}, fn, func(gap) error { return errRow })
}

// versions makes I rows for documents that have none. Their hash is not that of
// what a writer stated, so the next write of the same content is a version.
func (s *salvage) versions() error {
	return s.each(tabDoc, func(k, v []byte) error {
		r, d, ok := s.document(k, v)
		if !ok {
			return s.remove(k)
		}
		s.top.t, s.top.updated = max(s.top.t, r.t), max(s.top.updated, d.updated)
		have, err := get(s.d.pdb, idKey(r.typ, r.id, r.t))
		if err != nil || have != nil {
			return err
		}
		p := pointer{place: r.place, t: r.t, version: d.version, deleted: d.deleted, hash: store.ContentHash(d.json)}
		return s.set(idKey(r.typ, r.id, r.t), p.encode())
	})
}

// document reads a D row; ok is false when its form is lost or it is malformed.
func (s *salvage) document(k, v []byte) (r row, d doc, ok bool) {
	if r, ok = parseRow(k); !ok {
		return r, d, false
	}
	d, err := s.d.forms.doc(s.d.pdb, new(recent), r.typ, r.id, v)
	return r, d, err == nil
}

// salvagedVersion is one I row of a resource.
type salvagedVersion struct {
	key []byte
	p   pointer
	doc *doc // nil: lost
}

// documents drops versions whose document is lost, and the resources of which
// the newest is.
func (s *salvage) documents() error {
	var prefix []byte
	var have []salvagedVersion
	done := func() error {
		err := s.resource(prefix, have)
		have = nil
		return err
	}
	err := s.each(tabID, func(k, v []byte) error {
		p, err := decodePointer(k, v)
		if err != nil {
			return s.remove(k)
		}
		if prefix == nil || !bytes.Equal(prefix, k[:len(k)-8]) {
			if err := done(); err != nil {
				return err
			}
			prefix = slices.Clone(k[:len(k)-8])
		}
		x := salvagedVersion{key: slices.Clone(k), p: p}
		typ, id := refOf(prefix)
		raw, err := get(s.d.pdb, rowKey(tabDoc, &p.place, p.code, typ, id, p.t))
		if err != nil {
			return err
		}
		if raw != nil {
			if d, err := s.d.forms.doc(s.d.pdb, new(recent), typ, id, raw); err == nil {
				x.doc = &d
			}
		}
		have = append(have, x)
		return nil
	})
	if err != nil {
		return err
	}
	return done()
}

func refOf(idPrefix []byte) (typ, id string) {
	typ, rest, _ := takeStr(idPrefix[1:])
	id, _, _ = takeStr(rest)
	return typ, id
}

// resource decides on the versions of one resource, newest first.
func (s *salvage) resource(prefix []byte, have []salvagedVersion) error {
	if len(have) == 0 {
		return nil
	}
	typ, id := refOf(prefix)
	whole := have[0].doc == nil || have[0].doc.to != 0
	lost := 0
	for i := range have {
		x := &have[i]
		if whole || x.doc == nil {
			lost++
			if err := errors.Join(s.remove(x.key),
				s.remove(rowKey(tabDoc, &x.p.place, x.p.code, typ, id, x.p.t))); err != nil {
				return err
			}
			continue
		}
		if x.doc.deleted {
			continue
		}
		vals, err := search.Extract(typ, x.doc.json)
		if err != nil { // then it is found by its id only
			continue
		}
		if err := s.indexes(typ, id, x, vals); err != nil {
			return err
		}
	}
	if whole {
		s.out.Lost = append(s.out.Lost, LostResource{Type: typ, ID: id})
	} else if lost > 0 || have[len(have)-1].p.version != 1 || len(have) != int(have[0].p.version) {
		s.out.Lost = append(s.out.Lost, LostResource{typ, id, int(have[0].p.version) - len(have) + lost})
	}
	return nil
}

// indexes writes the P and X rows of a version.
func (s *salvage) indexes(typ, id string, x *salvagedVersion, vals *search.Values) (err error) {
	v := append(appendU64(nil, uint64(x.doc.to)), x.p.code[:]...)
	for _, h := range otherCodes(typ, vals, x.p.code) {
		if err := s.set(rowKey(tabCode, &x.p.place, h, typ, id, x.p.t), v); err != nil {
			return err
		}
	}
	v = x.p.place.append(appendU64(nil, uint64(x.doc.to)))
	indexRows(typ, vals, func(p []byte) {
		err = errors.Join(err, s.set(appendU64(appendStr(p, id), uint64(x.p.t)), v))
	})
	return err
}

// changes drops rows of the change log whose resource is lost, and makes rows
// for resources whose row is.
func (s *salvage) changes() error {
	err := s.each(tabChange, func(k, v []byte) error {
		ok, err := s.changed(k, v)
		if err != nil || ok {
			return err
		}
		s.out.LostChanges++
		return s.remove(k)
	})
	if err != nil || !s.changesLost {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	return s.each(tabDoc, func(k, v []byte) error {
		r, d, ok := s.document(k, v)
		if !ok || r.typ == "AuditEvent" {
			return nil
		}
		e := entry{place: r.place, typ: r.typ, id: r.id, version: d.version, created: d.version == 1,
			deleted: d.deleted, vendor: d.vendor, author: d.author, categories: d.categories}
		raw, err := get(s.d.pdb, idKey(r.typ, r.id, r.t))
		if err != nil || raw == nil {
			return err
		}
		if p, err := decodePointer(idKey(r.typ, r.id, r.t), raw); err != nil || p.moved {
			return err // its change is that of a series
		}
		if before, err := headOf(s.d.pdb, fhir.Ref{Type: r.typ, ID: r.id}, r.t-1); err == nil && before != nil &&
			before.deleted {
			e.created = true
		}
		return s.change(r.t, e.encode(), func(v []byte) bool {
			have, err := decodeEntry(v)
			return err == nil && v[0]&flagSeries == 0 && have.typ == r.typ && have.id == r.id
		})
	})
}

// changed reports whether what a row of the change log names is there.
func (s *salvage) changed(k, v []byte) (bool, error) {
	if len(k) != 13 {
		return false, nil
	}
	t := store.Seq(binary.BigEndian.Uint64(k[1:]))
	s.top.t = max(s.top.t, t)
	if len(v) > 0 && v[0]&flagSeries != 0 {
		e, err := decodeSamplesEntry(v)
		if err != nil {
			return false, nil
		}
		q, err := get(s.d.pdb, seriesKey(tabSeries, &e.place, e.code, e.id))
		return q != nil, err
	}
	e, err := decodeEntry(v)
	if err != nil {
		return false, nil
	}
	d, err := get(s.d.pdb, rowKey(tabDoc, &e.place, e.code, e.typ, e.id, t))
	return d != nil, err
}

// change adds a row to the change log of a commit unless it has it.
func (s *salvage) change(t store.Seq, v []byte, is func(v []byte) bool) (err error) {
	it, err := s.d.pdb.NewIter(&pebble.IterOptions{LowerBound: changeKey(t, 0), UpperBound: changeKey(t+1, 0)})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if is(it.Value()) {
			return nil
		}
	}
	s.made++
	s.out.MadeChanges++
	return errors.Join(it.Error(), s.set(changeKey(t, 1<<31|s.made), v))
}

// allSeries checks the blocks of each series and writes its other rows anew.
func (s *salvage) allSeries() error {
	return s.each(tabSeries, func(k, v []byte) error {
		if len(k) < 8 {
			return s.remove(k)
		}
		in, err := s.d.infoOf(series.SeriesID(k[len(k)-8:]), v)
		if err != nil {
			s.out.LostSeries++
			return s.remove(k)
		}
		st := seriesState{maxStart: series.MinStart}
		if raw, err := get(s.d.pdb, tallyKey(in.id)); err == nil {
			if old, err := decodeSeriesState(raw); err == nil {
				st.maxStart, st.moves, st.merges = old.maxStart, old.moves, old.merges
			}
		}
		written := map[uint64]*samplesEntry{}
		for level := byte(0); level < levels; level++ {
			if err := s.blocks(in, level, &st, written); err != nil {
				return err
			}
		}
		if err := s.set(tallyKey(in.id), st.encode()); err != nil {
			return err
		}
		for t, e := range written {
			s.written[writtenSamples{in.id, store.Seq(t)}] = e
		}
		return s.register(in, written)
	})
}

func (s *salvage) blocks(in *seriesInfo, level byte, st *seriesState, written map[uint64]*samplesEntry) (err error) {
	pre := levelPrefix(tabHead, in.id, level)
	it, err := s.d.pdb.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	var cols series.Columns
	for ok := it.First(); ok; ok = it.Next() {
		h, err := series.DecodeHeader(it.Value())
		if err == nil {
			err = s.d.block(s.d.pdb, it.Key(), &h, &cols)
		}
		if err != nil {
			s.out.LostBlocks++
			if err := errors.Join(s.remove(slices.Clone(it.Key())),
				s.remove(append([]byte{tabBlock}, it.Key()[1:]...))); err != nil {
				return err
			}
			continue
		}
		st.samples += uint64(h.Count)
		st.maxStart = max(st.maxStart, h.MaxStart)
		if level == levelTail {
			st.tails++
			st.loose += uint64(h.Count)
		}
		s.top.t, s.top.updated = max(s.top.t, store.Seq(h.MaxT)), max(s.top.updated, h.MaxUpdated)
		for i := range cols.Len() {
			x := cols.At(i)
			e := written[x.Commit.T]
			if e == nil {
				e = &samplesEntry{place: in.place, id: in.id, first: x.Start}
				written[x.Commit.T] = e
			}
			e.count++
			e.first, e.end = min(e.first, x.Start), max(e.end, x.Start)
			if e.count == 1 {
				e.end = x.Start
			}
		}
	}
	return it.Error()
}

// register writes the rows by which a series is found, and those of the change
// log that are lost.
func (s *salvage) register(in *seriesInfo, written map[uint64]*samplesEntry) error {
	where := in.place.append(nil)
	err := s.set(memberKey(in.t.Identity, in.id), where)
	for _, h := range in.others {
		err = errors.Join(err, s.set(seriesKey(tabOther, &in.place, h, in.id), where))
	}
	for _, tag := range in.tags {
		err = errors.Join(err, s.set(append(tagPrefix(tag[0], tag[1]), memberKey(in.t.Identity, in.id)[1:]...), where))
	}
	if have, gerr := get(s.d.pdb, identityKey(in.t.Identity)); gerr == nil && have == nil {
		err = errors.Join(err, s.set(identityKey(in.t.Identity), appendU64(nil, uint64(s.top.t))))
	}
	for _, t := range slices.Sorted(maps.Keys(written)) {
		if !s.changesLost {
			break
		}
		err = errors.Join(err, s.change(store.Seq(t), written[t].encode(), func(v []byte) bool {
			e, derr := decodeSamplesEntry(v)
			return derr == nil && v[0]&flagSeries != 0 && e.id == in.id
		}))
	}
	return err
}

// emptied makes rows of the change log say how many of their samples are left,
// and drops those that have none.
func (s *salvage) emptied() (err error) {
	v := &view{snap: s.d.pdb.NewSnapshot(), forms: &s.d.forms}
	defer closing(v.snap, &err)
	return s.each(tabChange, func(k, raw []byte) error {
		if len(raw) == 0 || raw[0]&flagSeries == 0 {
			return nil
		}
		e, err := decodeSamplesEntry(raw)
		if err != nil {
			return err
		}
		t := store.Seq(binary.BigEndian.Uint64(k[1:]))
		in, err := s.d.info(v.snap, &e.place, e.id)
		if err != nil {
			return err
		}
		moved, err := v.moved(in, t, e.first, e.end)
		if err != nil {
			return err
		}
		left := uint64(len(moved))
		if w := s.written[writtenSamples{e.id, t}]; w != nil {
			left += w.count
		}
		if left == e.count {
			return nil
		}
		s.out.LostChanges++
		if e.count = left; left > 0 {
			return s.set(slices.Clone(k), e.encode())
		}
		return s.remove(slices.Clone(k))
	})
}

// orphans drops rows of series that are lost.
func (s *salvage) orphans() error {
	known := map[series.SeriesID]bool{}
	err := s.each(tabSeries, func(k, _ []byte) error {
		known[series.SeriesID(k[len(k)-8:])] = true
		return nil
	})
	if err != nil {
		return err
	}
	gone := map[series.SeriesID]bool{}
	for _, tab := range []byte{tabHead, tabBlock, tabTally, tabIdentity} {
		err := s.each(tab, func(k, _ []byte) error {
			var id series.SeriesID
			switch {
			case tab != tabIdentity && len(k) >= 9:
				id = series.SeriesID(k[1:9])
			case tab == tabIdentity && len(k) == 1+len(series.Identity{})+8:
				id = series.SeriesID(k[len(k)-8:])
			case tab == tabIdentity:
				return nil
			}
			drop := !known[id]
			if drop && !gone[id] {
				gone[id] = true
				s.out.LostSeries++
			}
			if tab == tabBlock && !drop { // a block whose header is lost
				h, err := get(s.d.pdb, append([]byte{tabHead}, k[1:]...))
				if err != nil {
					return err
				}
				if drop = h == nil; drop {
					s.out.LostBlocks++
				}
			}
			if !drop {
				return nil
			}
			return s.remove(slices.Clone(k))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// head makes the N rows that are lost, and asks for the U, V and W rows to be
// made when the store is opened.
func (s *salvage) head() error {
	schema, err := get(s.d.pdb, schemaKey)
	if err != nil {
		return err
	}
	if schema == nil || string(schema) == Schema {
		if err := s.set(schemaKey, []byte(schemaThird)); err != nil {
			return err
		}
	}
	have, err := get(s.d.pdb, headKey)
	if err != nil || have != nil {
		return err
	}
	if err := s.leaves(); err != nil {
		return err
	}
	return s.set(headKey, s.top.encode())
}

// leaves counts the leaves of the log.
func (s *salvage) leaves() (err error) {
	pre := []byte{tabLog, logLeaves}
	it, err := s.d.pdb.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	if !it.Last() {
		return it.Error()
	}
	if len(it.Key()) != 10 {
		return errRow
	}
	s.top.leaves = binary.BigEndian.Uint64(it.Key()[2:])
	for i := uint64(0); ; i++ {
		l, err := leafIn(it.Value(), i)
		if err != nil || l == nil {
			return err
		}
		s.top.leaves++
	}
}

// String says a loss on one line.
func (l LostResource) String() string {
	if l.Versions == 0 {
		return l.Type + "/" + l.ID + ": lost"
	}
	return fmt.Sprintf("%s/%s: %d earlier versions lost", l.Type, l.ID, l.Versions)
}

// Whole reports whether nothing was lost.
func (s *Salvaged) Whole() bool {
	return len(s.Unreadable) == 0 && len(s.Lost) == 0 && s.LostBlocks == 0 && s.LostSeries == 0 &&
		s.LostChanges == 0 && len(s.Problems) == 0
}

// String is the report for the operator.
func (s *Salvaged) String() string {
	var b strings.Builder
	for _, t := range slices.Sorted(maps.Keys(s.Rows)) {
		fmt.Fprintf(&b, "table %s: %d rows copied\n", t, s.Rows[t])
	}
	for _, t := range slices.Sorted(maps.Keys(s.Unreadable)) {
		fmt.Fprintf(&b, "%s: %d ranges of rows cannot be read\n", t, s.Unreadable[t])
	}
	for _, l := range s.Lost {
		fmt.Fprintln(&b, l)
	}
	fmt.Fprintf(&b, "%d resources, %d blocks of samples, %d series, %d changes lost; %d changes made anew\n",
		len(s.Lost), s.LostBlocks, s.LostSeries, s.LostChanges, s.MadeChanges)
	for _, p := range s.Problems {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}
