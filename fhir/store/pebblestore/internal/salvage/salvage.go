package salvage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// Report says what a salvage copied and what it lost.
type Report struct {
	// Rows counts the copied rows by table.
	Rows map[string]uint64 `json:"rows"`
	// Unreadable counts the ranges of rows that could not be read, by table and
	// file.
	Unreadable map[string]int `json:"unreadable"`
	// Lost lists the resources that are lost, or that have lost versions.
	Lost []LostResource `json:"lost"`
	// LostBlocks counts blocks of samples, LostSeries streams, LostChanges rows of
	// the change log whose resource is lost, and MadeChanges rows of the change log
	// that were recreated.
	LostBlocks  uint64 `json:"lostBlocks"`
	LostSeries  uint64 `json:"lostSeries"`
	LostChanges uint64 `json:"lostChanges"`
	MadeChanges uint64 `json:"madeChanges"`
	// Problems lists the findings of Check in the new store.
	Problems []string `json:"problems"`
}

// LostResource is a resource that is lost, or has lost versions.
type LostResource struct {
	Type, ID string
	Versions int // number of lost versions; 0 if the whole resource is lost
}

// copied lists the tables that a salvage copies. It derives the others from them.
var copied = []byte{keys.TableDocument, keys.TableTemplate, keys.TableID, keys.TableChange, keys.TableState,
	keys.TableExpiry, keys.TableLog, keys.TableMeta, keys.TableSeries, keys.TableIdentity,
	keys.TableTally, keys.TableHeader, keys.TableBlock}

const salvageBatch = 4 << 20 // bytes

type salvager struct {
	ctx       context.Context
	report    *Report
	db        *pebble.DB // the new store
	templates *rows.Templates
	tier      *tier.Tier
	batch     *pebble.Batch
	// made numbers the recreated rows of the change log.
	recreated uint32
	// changesLost is set if rows of the change log could not be read.
	changesLost bool
	written     map[writtenSamples]*rows.SeriesChange // samples that were copied
	top         rows.Head                             // derived from the copied rows
	schema      []byte
}

// writtenSamples identifies the samples that a commit wrote of a series.
type writtenSamples struct {
	id  series.SeriesID
	seq store.Seq
}

// Copy copies the readable rows of one store to a new one, and derives the rest. If
// the row of the schema version is lost, it writes schema.
func Copy(ctx context.Context, src, dst *pebble.DB, schema string) (*Report, error) {
	t, err := tier.New()
	if err != nil {
		return nil, err
	}
	s := &salvager{ctx: ctx, db: dst, templates: rows.NewTemplates(), tier: t, schema: []byte(schema),
		batch:   dst.NewBatch(),
		written: map[writtenSamples]*rows.SeriesChange{},
		report:  &Report{Rows: map[string]uint64{}, Unreadable: map[string]int{}}}
	for _, tab := range copied {
		if err := s.table(src, tab); err != nil {
			return nil, err
		}
	}
	for _, step := range []func() error{s.flush, s.versions, s.flush, s.documents, s.flush, s.changes, s.flush,
		s.allSeries, s.flush, s.orphans, s.flush, s.emptied, s.flush, s.head, s.flush, s.rebuild, s.version, s.flush} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return s.report, errors.Join(s.batch.Close(), dst.Flush())
}

func (s *salvager) table(src *pebble.DB, tab byte) error {
	return fault.WalkReadable(s.ctx, src, []byte{tab}, []byte{tab + 1}, func(k, v []byte) error {
		if bytes.Equal(k, keys.Schema) {
			s.schema = slices.Clone(v)
			return nil
		}
		if bytes.Equal(k, keys.Position) {
			return nil // the copy has not read the log that the store shared
		}
		if bytes.HasPrefix(k, keys.StateKey(rows.IndexPrefix)) {
			return nil // the rows of R4's parameters are written, and the others are built later
		}
		s.report.Rows[string(rune(tab))]++
		return s.set(k, v)
	}, func(g fault.Gap) error {
		s.report.Unreadable[fmt.Sprintf("table %c, %s", tab, g.File)]++
		s.changesLost = s.changesLost || tab == keys.TableChange
		return nil
	})
}

func (s *salvager) set(k, v []byte) error {
	if err := s.batch.Set(k, v, nil); err != nil {
		return err
	}
	return s.flushIfLarge()
}

func (s *salvager) remove(k []byte) error {
	if err := s.batch.Delete(k, nil); err != nil {
		return err
	}
	return s.flushIfLarge()
}

func (s *salvager) flushIfLarge() error {
	if s.batch.Len() < salvageBatch {
		return nil
	}
	return s.flush()
}

// flush makes the written rows readable for the next pass.
func (s *salvager) flush() error {
	if err := s.batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	s.batch = s.db.NewBatch()
	return nil
}

// each walks a table of the new store.
func (s *salvager) each(table byte, fn func(k, v []byte) error) (err error) {
	snap := s.db.NewSnapshot()
	defer fault.Close(snap, &err)
	return fault.WalkReadable(s.ctx, snap, []byte{table}, []byte{table + 1}, fn,
		func(fault.Gap) error { return fault.ErrRow })
}

// versions recreates missing I rows. Their hash is not the one that the writer
// gave, so that the next write of the same content is a new version.
func (s *salvager) versions() error {
	return s.each(keys.TableDocument, func(k, v []byte) error {
		r, d, ok := s.document(k, v)
		if !ok {
			return s.remove(k)
		}
		s.top.Seq, s.top.Updated = max(s.top.Seq, r.Seq), max(s.top.Updated, d.Updated)
		have, err := rows.Get(s.db, keys.IDKey(r.Type, r.ID, r.Seq))
		if err != nil || have != nil {
			return err
		}
		p := rows.Pointer{Location: r.Location, Seq: r.Seq, Version: d.Version, Deleted: d.Deleted,
			Hash: store.ContentHash(d.JSON)}
		return s.set(keys.IDKey(r.Type, r.ID, r.Seq), p.Encode())
	})
}

// document decodes a D row. It reports false if the row is malformed or its
// template is lost.
func (s *salvager) document(k, v []byte) (r keys.Row, d rows.Document, ok bool) {
	if r, ok = keys.ParseRow(k); !ok {
		return r, d, false
	}
	d, err := s.templates.Document(s.db, new(rows.Recent), r.Type, r.ID, v)
	return r, d, err == nil
}

// salvagedVersion is one I row of a resource.
type salvagedVersion struct {
	key     []byte
	pointer rows.Pointer
	doc     *rows.Document // nil if lost
}

// documents removes versions whose document is lost, and resources whose newest
// document is lost.
func (s *salvager) documents() error {
	var prefix []byte
	var have []salvagedVersion
	done := func() error {
		err := s.resource(prefix, have)
		have = nil
		return err
	}
	err := s.each(keys.TableID, func(k, v []byte) error {
		p, err := rows.DecodePointer(k, v)
		if err != nil {
			return s.remove(k)
		}
		if prefix == nil || !bytes.Equal(prefix, k[:len(k)-8]) {
			if err := done(); err != nil {
				return err
			}
			prefix = slices.Clone(k[:len(k)-8])
		}
		x := salvagedVersion{key: slices.Clone(k), pointer: p}
		typ, id := refOf(prefix)
		raw, err := rows.Get(s.db, keys.RowKey(keys.TableDocument, &p.Location, p.Code, typ, id, p.Seq))
		if err != nil {
			return err
		}
		if raw != nil {
			if d, err := s.templates.Document(s.db, new(rows.Recent), typ, id, raw); err == nil {
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
	typ, rest, _ := keys.CutString(idPrefix[1:])
	id, _, _ = keys.CutString(rest)
	return typ, id
}

// resource decides on the versions of one resource, newest first.
func (s *salvager) resource(prefix []byte, have []salvagedVersion) error {
	if len(have) == 0 {
		return nil
	}
	typ, id := refOf(prefix)
	lostAll := have[0].doc == nil || have[0].doc.EndSeq != 0
	lost := 0
	for i := range have {
		x := &have[i]
		if lostAll || x.doc == nil {
			lost++
			if err := errors.Join(s.remove(x.key),
				s.remove(keys.RowKey(keys.TableDocument, &x.pointer.Location, x.pointer.Code, typ, id,
					x.pointer.Seq))); err != nil {
				return err
			}
			continue
		}
		if x.doc.Deleted {
			continue
		}
		vals, err := search.Extract(typ, x.doc.JSON)
		if err != nil { // it can be found by its id only
			continue
		}
		if err := s.indexes(typ, id, x, vals); err != nil {
			return err
		}
	}
	if lostAll {
		s.report.Lost = append(s.report.Lost, LostResource{Type: typ, ID: id})
	} else if lost > 0 || have[len(have)-1].pointer.Version != 1 || len(have) != int(have[0].pointer.Version) {
		s.report.Lost = append(s.report.Lost, LostResource{typ, id, int(have[0].pointer.Version) - len(have) + lost})
	}
	return nil
}

// indexes writes the P and X rows of a version.
func (s *salvager) indexes(typ, id string, x *salvagedVersion, vals *search.Values) (err error) {
	v := append(keys.AppendUint64(nil, uint64(x.doc.EndSeq)), x.pointer.Code[:]...)
	for _, h := range rows.OtherCodes(typ, vals, x.pointer.Code) {
		if err := s.set(keys.RowKey(keys.TableCode, &x.pointer.Location, h, typ, id, x.pointer.Seq), v); err != nil {
			return err
		}
	}
	v = x.pointer.Location.Append(keys.AppendUint64(nil, uint64(x.doc.EndSeq)))
	rows.EachIndexPrefix(typ, vals, s.ordered(), func(p []byte) {
		err = errors.Join(err, s.set(keys.AppendUint64(keys.AppendString(p, id), uint64(x.pointer.Seq)), v))
	})
	return err
}

// changes removes rows of the change log whose resource is lost, and recreates
// missing ones.
func (s *salvager) changes() error {
	err := s.each(keys.TableChange, func(k, v []byte) error {
		ok, err := s.changed(k, v)
		if err != nil || ok {
			return err
		}
		s.report.LostChanges++
		return s.remove(k)
	})
	if err != nil || !s.changesLost {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	return s.each(keys.TableDocument, func(k, v []byte) error {
		r, d, ok := s.document(k, v)
		if !ok || r.Type == "AuditEvent" {
			return nil
		}
		e := rows.Change{Location: r.Location, Type: r.Type, ID: r.ID, Version: d.Version, Created: d.Version == 1,
			Deleted: d.Deleted, Vendor: d.Vendor, Author: d.Author, Categories: d.Categories}
		raw, err := rows.Get(s.db, keys.IDKey(r.Type, r.ID, r.Seq))
		if err != nil || raw == nil {
			return err
		}
		if p, err := rows.DecodePointer(keys.IDKey(r.Type, r.ID, r.Seq), raw); err != nil || p.Moved {
			return err // the change of its series covers it
		}
		if before, err := rows.HeadOf(s.db, fhir.Ref{Type: r.Type, ID: r.ID}, r.Seq-1); err == nil && before != nil &&
			before.Deleted {
			e.Created = true
		}
		return s.change(r.Seq, e.Encode(), func(v []byte) bool {
			have, err := rows.DecodeChange(v)
			return err == nil && !rows.IsSeriesChange(v) && have.Type == r.Type && have.ID == r.ID
		})
	})
}

// changed reports whether the data that a row of the change log names exists.
func (s *salvager) changed(k, v []byte) (bool, error) {
	if len(k) != 13 {
		return false, nil
	}
	seq := store.Seq(binary.BigEndian.Uint64(k[1:]))
	s.top.Seq = max(s.top.Seq, seq)
	if rows.IsSeriesChange(v) {
		e, err := rows.DecodeSeriesChange(v)
		if err != nil {
			return false, nil
		}
		q, err := rows.Get(s.db, keys.SeriesKey(keys.TableSeries, &e.Location, e.Code, e.Series))
		return q != nil, err
	}
	e, err := rows.DecodeChange(v)
	if err != nil {
		return false, nil
	}
	d, err := rows.Get(s.db, keys.RowKey(keys.TableDocument, &e.Location, e.Code, e.Type, e.ID, seq))
	return d != nil, err
}

// change adds a row to the change log of a commit unless it exists.
func (s *salvager) change(seq store.Seq, v []byte, is func(v []byte) bool) (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keys.ChangeKey(seq, 0),
		UpperBound: keys.ChangeKey(seq+1, 0)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if is(it.Value()) {
			return nil
		}
	}
	s.recreated++
	s.report.MadeChanges++
	return errors.Join(it.Error(), s.set(keys.ChangeKey(seq, 1<<31|s.recreated), v))
}

// allSeries checks the blocks of each series and writes its other rows.
func (s *salvager) allSeries() error {
	return s.each(keys.TableSeries, func(k, v []byte) error {
		if len(k) < 8 {
			return s.remove(k)
		}
		ser, err := s.tier.SeriesOf(series.SeriesID(k[len(k)-8:]), v)
		if err != nil {
			s.report.LostSeries++
			return s.remove(k)
		}
		st := rows.Tally{MaxStart: series.MinStart}
		if raw, err := rows.Get(s.db, keys.TallyKey(ser.ID)); err == nil {
			if old, err := rows.DecodeTally(raw); err == nil {
				st.MaxStart, st.Moves, st.Merges = old.MaxStart, old.Moves, old.Merges
			}
		}
		written := map[uint64]*rows.SeriesChange{}
		for level := byte(0); level < tier.Levels; level++ {
			if err := s.blocks(ser, level, &st, written); err != nil {
				return err
			}
		}
		if err := s.set(keys.TallyKey(ser.ID), st.Encode()); err != nil {
			return err
		}
		for t, e := range written {
			s.written[writtenSamples{ser.ID, store.Seq(t)}] = e
		}
		return s.register(ser, written)
	})
}

func (s *salvager) blocks(ser *tier.Series, level byte, st *rows.Tally,
	written map[uint64]*rows.SeriesChange) (err error) {
	pre := keys.LevelPrefix(keys.TableHeader, ser.ID, level)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	var cols series.Columns
	for ok := it.First(); ok; ok = it.Next() {
		h, err := series.DecodeHeader(it.Value())
		if err == nil {
			err = s.tier.ReadBlock(s.db, it.Key(), &h, &cols)
		}
		if err != nil {
			s.report.LostBlocks++
			if err := errors.Join(s.remove(slices.Clone(it.Key())),
				s.remove(append([]byte{keys.TableBlock}, it.Key()[1:]...))); err != nil {
				return err
			}
			continue
		}
		st.Samples += uint64(h.Count)
		st.MaxStart = max(st.MaxStart, h.MaxStart)
		if level == tier.LevelTail {
			st.Tails++
			st.TailSamples += uint64(h.Count)
		}
		s.top.Seq, s.top.Updated = max(s.top.Seq, store.Seq(h.MaxSeq)), max(s.top.Updated, h.MaxUpdated)
		for i := range cols.Len() {
			x := cols.At(i)
			e := written[x.Commit.Seq]
			if e == nil {
				e = &rows.SeriesChange{Location: ser.Location, Series: ser.ID, First: x.Start}
				written[x.Commit.Seq] = e
			}
			e.Count++
			e.First, e.Last = min(e.First, x.Start), max(e.Last, x.Start)
			if e.Count == 1 {
				e.Last = x.Start
			}
		}
	}
	return it.Error()
}

// register writes the rows through which a series is found, and the missing rows of
// the change log.
func (s *salvager) register(ser *tier.Series, written map[uint64]*rows.SeriesChange) error {
	where := ser.Location.Append(nil)
	err := s.set(keys.MemberKey(ser.Template.Identity, ser.ID), where)
	for _, h := range ser.OtherCodes {
		err = errors.Join(err, s.set(keys.SeriesKey(keys.TableOtherSeries, &ser.Location, h, ser.ID), where))
	}
	for _, tag := range ser.Tags {
		err = errors.Join(err, s.set(append(keys.TagPrefix(tag[0], tag[1]),
			keys.MemberKey(ser.Template.Identity, ser.ID)[1:]...), where))
	}
	if have, gerr := rows.Get(s.db, keys.IdentityKey(ser.Template.Identity)); gerr == nil && have == nil {
		err = errors.Join(err, s.set(keys.IdentityKey(ser.Template.Identity),
			keys.AppendUint64(nil, uint64(s.top.Seq))))
	}
	for _, t := range slices.Sorted(maps.Keys(written)) {
		if !s.changesLost {
			break
		}
		err = errors.Join(err, s.change(store.Seq(t), written[t].Encode(), func(v []byte) bool {
			e, derr := rows.DecodeSeriesChange(v)
			return derr == nil && rows.IsSeriesChange(v) && e.Series == ser.ID
		}))
	}
	return err
}

// emptied corrects the counts of rows of the change log whose samples are lost, and
// removes rows without samples.
func (s *salvager) emptied() (err error) {
	snap := &snapshot.Snapshot{Reader: s.db.NewSnapshot(), Templates: s.templates, Tier: s.tier}
	defer fault.Close(snap.Reader, &err)
	return s.each(keys.TableChange, func(k, raw []byte) error {
		if !rows.IsSeriesChange(raw) {
			return nil
		}
		e, err := rows.DecodeSeriesChange(raw)
		if err != nil {
			return err
		}
		seq := store.Seq(binary.BigEndian.Uint64(k[1:]))
		ser, err := s.tier.Series(snap.Reader, &e.Location, e.Series)
		if err != nil {
			return err
		}
		moved, err := snap.Moved(ser, seq, e.First, e.Last)
		if err != nil {
			return err
		}
		left := uint64(len(moved))
		if w := s.written[writtenSamples{e.Series, seq}]; w != nil {
			left += w.Count
		}
		if left == e.Count {
			return nil
		}
		s.report.LostChanges++
		if e.Count = left; left > 0 {
			return s.set(slices.Clone(k), e.Encode())
		}
		return s.remove(slices.Clone(k))
	})
}

// orphans removes the rows of lost series.
func (s *salvager) orphans() error {
	known := map[series.SeriesID]bool{}
	err := s.each(keys.TableSeries, func(k, _ []byte) error {
		known[series.SeriesID(k[len(k)-8:])] = true
		return nil
	})
	if err != nil {
		return err
	}
	gone := map[series.SeriesID]bool{}
	for _, tab := range []byte{keys.TableHeader, keys.TableBlock, keys.TableTally, keys.TableIdentity} {
		err := s.each(tab, func(k, _ []byte) error {
			var id series.SeriesID
			switch {
			case tab != keys.TableIdentity && len(k) >= 9:
				id = series.SeriesID(k[1:9])
			case tab == keys.TableIdentity && len(k) == 1+len(series.Identity{})+8:
				id = series.SeriesID(k[len(k)-8:])
			case tab == keys.TableIdentity:
				return nil
			}
			drop := !known[id]
			if drop && !gone[id] {
				gone[id] = true
				s.report.LostSeries++
			}
			if tab == keys.TableBlock && !drop { // the header of the block is lost
				h, err := rows.Get(s.db, append([]byte{keys.TableHeader}, k[1:]...))
				if err != nil {
					return err
				}
				if drop = h == nil; drop {
					s.report.LostBlocks++
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

// head writes the head row if it is lost.
func (s *salvager) head() error {
	have, err := rows.Get(s.db, keys.Head)
	if err != nil || have != nil {
		return err
	}
	if err := s.leaves(); err != nil {
		return err
	}
	return s.set(keys.Head, s.top.Encode())
}

// rebuild writes the U, V and W rows.
func (s *salvager) rebuild() error { return RebuildOrders(s.db, s.templates, s.tier) }

// version writes the schema version last. Open refuses a store without one, and
// thus the result of an interrupted salvage.
func (s *salvager) version() error {
	if s.ordered() {
		x := rows.Index{Version: rows.BuiltinVersion, Done: true}
		if err := s.set(keys.StateKey(rows.BuiltinIndex), append(make([]byte, 8), x.Encode()...)); err != nil {
			return err
		}
	}
	return s.set(keys.Schema, s.schema)
}

// ordered reports whether the store has ordered rows.
func (s *salvager) ordered() bool {
	n, err := strconv.Atoi(string(s.schema))
	return err == nil && n >= rows.OrderedSchema
}

// leaves counts the leaves of the log.
func (s *salvager) leaves() (err error) {
	pre := []byte{keys.TableLog, keys.LogLeaves}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	if !it.Last() {
		return it.Error()
	}
	if len(it.Key()) != 10 {
		return fault.ErrRow
	}
	s.top.Leaves = binary.BigEndian.Uint64(it.Key()[2:])
	for i := uint64(0); ; i++ {
		l, err := rows.LeafIn(it.Value(), i)
		if err != nil || l == nil {
			return err
		}
		s.top.Leaves++
	}
}

// String describes the loss on one line.
func (l LostResource) String() string {
	if l.Versions == 0 {
		return l.Type + "/" + l.ID + ": lost"
	}
	return fmt.Sprintf("%s/%s: %d earlier versions lost", l.Type, l.ID, l.Versions)
}

// Complete reports whether nothing was lost.
func (s *Report) Complete() bool {
	return len(s.Unreadable) == 0 && len(s.Lost) == 0 && s.LostBlocks == 0 && s.LostSeries == 0 &&
		s.LostChanges == 0 && len(s.Problems) == 0
}

// String returns the report for the operator.
func (s *Report) String() string {
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
