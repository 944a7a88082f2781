package pebblestore

import (
	"bytes"
	"encoding/binary"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// appended is a SeriesWrite made ready where no order is needed: encoded but
// for the commit, which the headers will name.
type appended struct {
	in          *seriesInfo
	pieces      []piece
	count       int
	first, last int64 // start of the first and the last sample
	days        []sampleDay
}

// piece is one block.
type piece struct {
	head  series.Header
	check uint32 // of its first sample
	body  []byte
}

const maxSamples = 1 << 20 // of one SeriesWrite

func (d *DB) prepareSeries(w *store.SeriesWrite) (*appended, error) {
	const op = "pebblestore.Commit"
	n := w.Columns.Len()
	if n == 0 || n > maxSamples || len(w.Columns.Values) != w.Template.Values {
		return nil, fhir.Errorf(fhir.Invalid, op,
			"a series write has 1 to %d samples with the values of its template", maxSamples)
	}
	in, err := d.infos.ofTemplate(w.Template)
	if err != nil {
		return nil, err
	}
	if err := ordered(w); err != nil {
		return nil, err
	}
	a := &appended{in: in, count: n, first: w.Columns.Start[0], last: w.Columns.Start[n-1],
		days: sampleDays(w.Columns.Start)}
	for from := 0; from < n; from += blockSamples {
		cols := w.Columns.Slice(from, min(from+blockSamples, n))
		cols.Commits = make([]series.Commit, cols.Len())
		s := cols.At(0)
		p := piece{head: series.Summarise(&cols), check: in.t.Check(&s)}
		if p.body, err = d.codec.Encode(nil, &cols); err != nil {
			return nil, faulted(op, err)
		}
		a.pieces = append(a.pieces, p)
		if from+blockSamples < n {
			yield.Now()
		}
	}
	return a, nil
}

// ordered refuses columns that are not in order, or out of bounds.
func ordered(w *store.SeriesWrite) error {
	c, t := w.Columns, w.Template
	var before series.Key
	for i, start := range c.Start {
		bad := start < series.MinStart || start > series.MaxStart
		if i > 0 && start <= before.Start && !bad {
			a, b := c.At(i-1), c.At(i)
			x, y := t.Key(&a), t.Key(&b)
			bad = x.Compare(&y) >= 0
		}
		before.Start = start
		if bad {
			return fhir.Errorf(fhir.Invalid, "pebblestore.Commit", "sample %d is out of order or bounds", i)
		}
	}
	return nil
}

// distinct refuses a batch that has two writes of one series, or states a
// sample twice under two templates of one identity.
func distinct(ws []store.SeriesWrite) error {
	byIdentity := map[series.Identity][]int{}
	for i := range ws {
		id := ws[i].Template.Identity
		for _, j := range byIdentity[id] {
			if bytes.Equal(series.AppendTemplate(nil, ws[i].Template), series.AppendTemplate(nil, ws[j].Template)) {
				return fhir.Errorf(fhir.Invalid, "pebblestore.Commit", "series %d and %d are one", j, i)
			}
			if common(&ws[i], &ws[j]) {
				return fhir.Errorf(fhir.Invalid, "pebblestore.Commit", "series %d and %d state a sample twice", j, i)
			}
		}
		byIdentity[id] = append(byIdentity[id], i)
	}
	return nil
}

func common(a, b *store.SeriesWrite) bool {
	i, j := 0, 0
	for i < a.Columns.Len() && j < b.Columns.Len() {
		switch x, y := a.Columns.Start[i], b.Columns.Start[j]; {
		case x < y:
			i++
		case x > y:
			j++
		default:
			s, t := a.Columns.At(i), b.Columns.At(j)
			k, l := a.Template.Key(&s), b.Template.Key(&t)
			switch c := k.Compare(&l); {
			case c == 0:
				return true
			case c < 0:
				i++
			default:
				j++
			}
		}
	}
	return false
}

// tally is the K row of a series as the group sees it, nil for a new one.
func (s *stage) tally(id series.SeriesID) (*seriesState, error) {
	if st, ok := s.tallies[id]; ok {
		return st, nil
	}
	v, err := get(s.d.pdb, tallyKey(id))
	if err != nil || v == nil {
		return nil, err
	}
	st, err := decodeSeriesState(v)
	if err != nil {
		return nil, err
	}
	s.tallies[id] = &st
	return &st, nil
}

// changedAt is the commit that last touched an identity.
func (s *stage) changedAt(id series.Identity) (store.Seq, error) {
	if t, ok := s.touched[id]; ok {
		return t, nil
	}
	v, err := get(s.d.pdb, identityKey(id))
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, errRow
	}
	return store.Seq(binary.BigEndian.Uint64(v)), nil
}

func (s *stage) touch(id series.Identity, t store.Seq) error {
	s.touched[id] = t
	return s.batch.Set(identityKey(id), appendU64(nil, uint64(t)), nil)
}

// checkSeries refuses a batch whose samples may be there by now.
func (s *stage) checkSeries(r *request) error {
	for _, a := range r.series {
		t, err := s.changedAt(a.in.t.Identity)
		if err != nil {
			return err
		}
		if t > r.batch.Probed {
			return fhir.Errorf(fhir.Conflict, "pebblestore.Commit", "a stream has changed since it was probed")
		}
	}
	return nil
}

// putSeries writes the samples of one SeriesWrite.
func (s *stage) putSeries(a *appended, t store.Seq, updated int64, n uint32) error {
	in := a.in
	st, err := s.tally(in.id)
	if err != nil {
		return err
	}
	if st == nil {
		if err := s.register(in); err != nil {
			return err
		}
		st = &seriesState{maxStart: series.MinStart}
		s.tallies[in.id] = st
	}
	behind := st.samples == 0 || a.first > st.maxStart
	for i := range a.pieces {
		p := &a.pieces[i]
		p.head.MinT, p.head.MaxT = uint64(t), uint64(t)
		p.head.MinUpdated, p.head.MaxUpdated = updated, updated
		level, major, minor := byte(levelTail), uint64(t), n<<12|uint32(i)
		if behind && p.head.Count >= blockSamples/2 {
			level, major, minor = levelBase, sortable(p.head.MinStart), p.check
		} else {
			st.tails++
			st.loose += uint64(p.head.Count)
		}
		if err := s.setBlock(in.id, level, major, minor, &p.head, p.body); err != nil {
			return err
		}
	}
	st.samples += uint64(a.count)
	st.maxStart = max(st.maxStart, a.last)
	s.written[in.id], s.appended[in.t.Identity] = in, true
	s.meta.resources += uint64(a.count)
	if err := s.touch(in.t.Identity, t); err != nil {
		return err
	}
	if err := s.noteSamples(a); err != nil {
		return err
	}
	s.noteUpdate("Observation", in.patient, n, uint64(a.count))
	e := samplesEntry{place: in.place, id: in.id, count: uint64(a.count), first: a.first, end: a.last}
	return s.batch.Set(changeKey(t, n), e.encode(), nil)
}

func (s *stage) setBlock(id series.SeriesID, level byte, major uint64, minor uint32, h *series.Header,
	body []byte) error {
	if err := s.batch.Set(blockKey(tabHead, id, level, major, minor), series.AppendHeader(nil, h), nil); err != nil {
		return err
	}
	return s.batch.Set(blockKey(tabBlock, id, level, major, minor), body, nil)
}

// register writes the rows by which a new series is found.
func (s *stage) register(in *seriesInfo) error {
	where := in.place.append(nil)
	if err := s.batch.Set(seriesKey(tabSeries, &in.place, in.code, in.id), in.encoded, nil); err != nil {
		return err
	}
	for _, h := range in.others {
		if err := s.batch.Set(seriesKey(tabOther, &in.place, h, in.id), where, nil); err != nil {
			return err
		}
	}
	for _, tag := range in.tags {
		if err := s.batch.Set(append(tagPrefix(tag[0], tag[1]), memberKey(in.t.Identity, in.id)[1:]...), where,
			nil); err != nil {
			return err
		}
	}
	return s.batch.Set(memberKey(in.t.Identity, in.id), where, nil)
}

// takeOut removes a sample that becomes a document from its block.
func (s *stage) takeOut(l *located) error {
	b := s.blocks[string(l.head)]
	if b == nil {
		v, err := get(s.d.pdb, l.head)
		if err != nil {
			return err
		}
		h, err := series.DecodeHeader(v)
		if err != nil {
			return err
		}
		b = &openBlock{in: l.in, head: l.head}
		if err := s.d.block(s.d.pdb, l.head, &h, &b.cols); err != nil {
			return err
		}
		s.blocks[string(l.head)] = b
	}
	key := l.in.t.Key(&l.smp)
	for i := b.cols.Search(key.Start); i < b.cols.Len() && b.cols.Start[i] == key.Start; i++ {
		x := b.cols.At(i)
		if l.in.t.Check(&x) != key.Check {
			continue
		}
		b.cols.Remove(i)
		st, err := s.tally(l.in.id)
		if err != nil {
			return err
		}
		if st == nil {
			return errRow
		}
		st.samples--
		st.moves++
		if b.tail() {
			st.loose--
			if b.cols.Len() == 0 {
				st.tails--
			}
		}
		s.written[l.in.id] = l.in
		return nil
	}
	return errRow
}

// openBlock is a block that a group takes samples out of.
type openBlock struct {
	in   *seriesInfo
	head []byte
	cols series.Columns
}

func (b *openBlock) tail() bool { return b.head[1+8] == levelTail }

// finishSeries writes what the group has changed of blocks and tallies.
func (s *stage) finishSeries() error {
	for _, b := range s.blocks {
		body := append([]byte{tabBlock}, b.head[1:]...)
		if b.cols.Len() == 0 {
			if err := s.batch.Delete(b.head, nil); err != nil {
				return err
			}
			if err := s.batch.Delete(body, nil); err != nil {
				return err
			}
			continue
		}
		h := series.Summarise(&b.cols)
		enc, err := s.d.codec.Encode(nil, &b.cols)
		if err != nil {
			return err
		}
		if err := s.batch.Set(b.head, series.AppendHeader(nil, &h), nil); err != nil {
			return err
		}
		if err := s.batch.Set(body, enc, nil); err != nil {
			return err
		}
	}
	for id, in := range s.written {
		st := s.tallies[id]
		if err := s.batch.Set(tallyKey(id), st.encode(), nil); err != nil {
			return err
		}
		s.d.compactor.consider(in, st)
	}
	return nil
}
