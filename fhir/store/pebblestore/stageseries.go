package pebblestore

import (
	"encoding/binary"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// tally returns the tally of a series as the group sees it, or nil for a new
// series.
func (s *stage) tally(id series.SeriesID) (*rows.Tally, error) {
	if st, ok := s.tallies[id]; ok {
		return st, nil
	}
	v, err := rows.Get(s.from.reader, keys.TallyKey(id))
	if err != nil || v == nil {
		return nil, err
	}
	st, err := rows.DecodeTally(v)
	if err != nil {
		return nil, err
	}
	s.tallies[id] = &st
	return &st, nil
}

// changedAt returns the commit that last touched an identity.
func (s *stage) changedAt(id series.Identity) (store.Seq, error) {
	if seq, ok := s.touched[id]; ok {
		return seq, nil
	}
	v, err := rows.Get(s.from.reader, keys.IdentityKey(id))
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fault.ErrRow
	}
	return store.Seq(binary.BigEndian.Uint64(v)), nil
}

func (s *stage) touchStream(id series.Identity, seq store.Seq) error {
	s.touched[id] = seq
	return s.batch.Set(keys.IdentityKey(id), keys.AppendUint64(nil, uint64(seq)), nil)
}

// checkSeries refuses a batch whose streams have changed since they were probed.
func (s *stage) checkSeries(r *request) error {
	for _, a := range r.series {
		seq, err := s.changedAt(a.Series.Template.Identity)
		if err != nil {
			return err
		}
		if seq > r.batch.Probed {
			return fhir.Errorf(fhir.Conflict, "pebblestore.Commit", "a stream has changed since it was probed")
		}
	}
	return nil
}

// putSeries writes the samples of one SeriesWrite.
func (s *stage) putSeries(a *tier.Prepared, seq store.Seq, updated int64, n uint32) error {
	ser := a.Series
	st, err := s.tally(ser.ID)
	if err != nil {
		return err
	}
	if st == nil {
		if err := s.register(ser); err != nil {
			return err
		}
		st = &rows.Tally{MaxStart: series.MinStart}
		s.tallies[ser.ID] = st
	}
	behind := st.Samples == 0 || a.First > st.MaxStart
	for i := range a.Blocks {
		p := &a.Blocks[i]
		p.Header.MinSeq, p.Header.MaxSeq = uint64(seq), uint64(seq)
		p.Header.MinUpdated, p.Header.MaxUpdated = updated, updated
		level, major, minor := byte(tier.LevelTail), uint64(seq), n<<12|uint32(i)
		if behind && p.Header.Count >= tier.BlockSamples/2 {
			level, major, minor = tier.LevelBase, keys.Sortable(p.Header.MinStart), p.Check
		} else {
			st.Tails++
			st.TailSamples += uint64(p.Header.Count)
		}
		if err := s.setBlock(ser.ID, level, major, minor, &p.Header, p.Body); err != nil {
			return err
		}
	}
	st.Samples += uint64(a.Count)
	st.MaxStart = max(st.MaxStart, a.Last)
	s.written[ser.ID], s.appended[ser.Template.Identity] = ser, true
	s.meta.Resources += uint64(a.Count)
	if err := s.touchStream(ser.Template.Identity, seq); err != nil {
		return err
	}
	if err := s.days.PutSamples(s.batch, &ser.Location, ser.OtherCodes, a.Days); err != nil {
		return err
	}
	s.noteUpdate("Observation", ser.Patient, n, uint64(a.Count))
	e := rows.SeriesChange{Location: ser.Location, Series: ser.ID, Count: uint64(a.Count), First: a.First, Last: a.Last}
	return s.batch.Set(keys.ChangeKey(seq, n), e.Encode(), nil)
}

func (s *stage) setBlock(id series.SeriesID, level byte, major uint64, minor uint32, h *series.Header,
	body []byte) error {
	if err := s.batch.Set(keys.BlockKey(keys.TableHeader, id, level, major, minor), series.AppendHeader(nil, h),
		nil); err != nil {
		return err
	}
	return s.batch.Set(keys.BlockKey(keys.TableBlock, id, level, major, minor), body, nil)
}

// register writes the rows through which a new series is found.
func (s *stage) register(ser *tier.Series) error {
	where := ser.Location.Append(nil)
	if err := s.batch.Set(keys.SeriesKey(keys.TableSeries, &ser.Location, ser.Code, ser.ID), ser.Encoded,
		nil); err != nil {
		return err
	}
	for _, h := range ser.OtherCodes {
		if err := s.batch.Set(keys.SeriesKey(keys.TableOtherSeries, &ser.Location, h, ser.ID), where, nil); err != nil {
			return err
		}
	}
	for _, tag := range ser.Tags {
		if err := s.batch.Set(append(keys.TagPrefix(tag[0], tag[1]),
			keys.MemberKey(ser.Template.Identity, ser.ID)[1:]...), where,
			nil); err != nil {
			return err
		}
	}
	return s.batch.Set(keys.MemberKey(ser.Template.Identity, ser.ID), where, nil)
}

// takeOut removes a sample that becomes a document from its block.
func (s *stage) takeOut(l *tier.Located) error {
	b := s.blocks[string(l.HeaderKey)]
	if b == nil {
		v, err := rows.Get(s.from.reader, l.HeaderKey)
		if err != nil {
			return err
		}
		h, err := series.DecodeHeader(v)
		if err != nil {
			return err
		}
		b = &openBlock{in: l.Series, head: l.HeaderKey}
		if err := s.db.tier.ReadBlock(s.from.reader, l.HeaderKey, &h, &b.cols); err != nil {
			return err
		}
		s.blocks[string(l.HeaderKey)] = b
	}
	key := l.Series.Template.Key(&l.Sample)
	for i := b.cols.Search(key.Start); i < b.cols.Len() && b.cols.Start[i] == key.Start; i++ {
		x := b.cols.At(i)
		if l.Series.Template.Check(&x) != key.Check {
			continue
		}
		b.cols.Remove(i)
		st, err := s.tally(l.Series.ID)
		if err != nil {
			return err
		}
		if st == nil {
			return fault.ErrRow
		}
		st.Samples--
		st.Moves++
		if b.tail() {
			st.TailSamples--
			if b.cols.Len() == 0 {
				st.Tails--
			}
		}
		s.written[l.Series.ID] = l.Series
		return nil
	}
	return fault.ErrRow
}

// openBlock is a block from which a group removes samples.
type openBlock struct {
	in   *tier.Series
	head []byte
	cols series.Columns
}

func (b *openBlock) tail() bool { return b.head[1+8] == tier.LevelTail }

// finishSeries writes the blocks and tallies that the group has changed.
func (s *stage) finishSeries() error {
	for _, b := range s.blocks {
		body := append([]byte{keys.TableBlock}, b.head[1:]...)
		if b.cols.Len() == 0 {
			if err := s.batch.Delete(b.head, nil); err != nil {
				return err
			}
			if err := s.batch.Delete(body, nil); err != nil {
				return err
			}
			continue
		}
		h := series.Summarize(&b.cols)
		enc, err := s.db.tier.Encode(&b.cols)
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
	for id, ser := range s.written {
		st := s.tallies[id]
		if err := s.batch.Set(keys.TallyKey(id), st.Encode(), nil); err != nil {
			return err
		}
		s.grown = append(s.grown, grown{ser, st})
	}
	return nil
}
