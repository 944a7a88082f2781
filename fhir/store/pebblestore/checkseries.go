package pebblestore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// series checks the sample tier: every series is found by all its rows, every
// block decodes and is what its header says, the base does not overlap, tallies
// add up, and no sample is a document too.
func (c *checker) series() error {
	known := map[series.SeriesID]bool{}
	err := c.each(tabSeries, func(k, val []byte) error {
		var id series.SeriesID
		if len(k) < 8 {
			c.problem("Q: malformed row")
			return nil
		}
		copy(id[:], k[len(k)-8:])
		known[id] = true
		in, err := c.d.infoOf(id, val)
		if err != nil {
			c.problem("series %x: malformed template", id)
			return nil
		}
		return c.oneSeries(in, k)
	})
	if err != nil {
		return err
	}
	for _, tab := range []byte{tabHead, tabBlock, tabTally} {
		err := c.each(tab, func(k, _ []byte) error {
			var id series.SeriesID
			if len(k) < 9 || !known[series.SeriesID(k[1:9])] {
				copy(id[:], k[1:])
				c.problem("%c: a row of series %x, which is not there", tab, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, tab := range []byte{tabOther, tabTag, tabIdentity} {
		err := c.each(tab, func(k, val []byte) error {
			if tab == tabIdentity && len(k) == 1+len(series.Identity{}) {
				if len(val) != 8 || store.Seq(binary.BigEndian.Uint64(val)) > c.v.meta.t {
					c.problem("G: malformed row")
				}
				return nil
			}
			if len(k) < 9 || !known[series.SeriesID(k[len(k)-8:])] {
				c.problem("%c: a row of a series that is not there", tab)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) oneSeries(in *seriesInfo, key []byte) error {
	rows := [][]byte{seriesKey(tabSeries, &in.place, in.code, in.id), memberKey(in.t.Identity, in.id),
		identityKey(in.t.Identity)}
	if !bytes.Equal(rows[0], key) {
		c.problem("series %x: its Q row lies elsewhere than its template says", in.id)
	}
	for _, h := range in.others {
		rows = append(rows, seriesKey(tabOther, &in.place, h, in.id))
	}
	for _, t := range in.tags {
		rows = append(rows, append(tagPrefix(t[0], t[1]), memberKey(in.t.Identity, in.id)[1:]...))
	}
	for _, r := range rows {
		v, err := get(c.v.snap, r)
		if err != nil {
			return err
		}
		if v == nil {
			c.problem("series %x: its %c row is missing", in.id, r[0])
		}
	}
	sum := seriesState{maxStart: series.MinStart}
	for level := byte(0); level < levels; level++ {
		if err := c.level(in, level, &sum); err != nil {
			return err
		}
	}
	raw, err := get(c.v.snap, tallyKey(in.id))
	if err != nil {
		return err
	}
	st, err := decodeSeriesState(raw)
	if err != nil {
		c.problem("series %x: its K row is missing or malformed", in.id)
		return nil
	}
	if st.samples != sum.samples || st.tails != sum.tails || st.loose != sum.loose || st.maxStart < sum.maxStart {
		c.problem("series %x: its tally is not what its blocks add up to", in.id)
	}
	return c.alsoDocuments(in)
}

// level checks the blocks of one level and adds them up.
func (c *checker) level(in *seriesInfo, level byte, sum *seriesState) (err error) {
	pre := levelPrefix(tabHead, in.id, level)
	it, err := c.v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	var cols series.Columns
	var last series.Key
	for ok, n := it.First(), 0; ok; ok, n = it.Next(), n+1 {
		if c.ctx.Err() != nil {
			return canceled("pebblestore.Check", c.ctx.Err())
		}
		where := fmt.Sprintf("series %x: block %x", in.id, it.Key()[9:])
		h, err := series.DecodeHeader(it.Value())
		if err != nil {
			c.problem("%s: malformed header", where)
			continue
		}
		if err := c.d.block(c.v.snap, it.Key(), &h, &cols); err != nil {
			c.problem("%s: cannot be read", where)
			continue
		}
		if err := c.beginsIn(in, where, &cols); err != nil {
			return err
		}
		if again := series.Summarize(&cols); !reflect.DeepEqual(again, h) {
			c.problem("%s: its header is not that of its samples", where)
		}
		for i := range cols.Len() {
			s := cols.At(i)
			k := in.t.Key(&s)
			if s.Class() != in.t.Class || store.Seq(s.Commit.Seq) > c.v.meta.t || s.Commit.Seq == 0 {
				c.problem("%s: sample %d is of another class or commit", where, i)
			}
			if (i > 0 || level == levelBase && n > 0) && last.Compare(&k) >= 0 {
				c.problem("%s: sample %d is out of order", where, i)
			}
			last = k
		}
		sum.samples += uint64(h.Count)
		sum.maxStart = max(sum.maxStart, h.MaxStart)
		if level == levelTail {
			sum.tails++
			sum.loose += uint64(h.Count)
		}
	}
	return it.Error()
}

// alsoDocuments looks for samples that have I rows.
func (c *checker) alsoDocuments(in *seriesInfo) (err error) {
	lo, hi := series.Key{Identity: in.t.Identity, Start: series.MinStart},
		series.Key{Identity: in.t.Identity, Start: series.MaxStart, Check: 1<<32 - 1}
	it, err := c.v.snap.NewIter(&pebble.IterOptions{LowerBound: idPrefix("Observation", lo.ID()),
		UpperBound: next(idPrefix("Observation", hi.ID()))})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		_, rest, _ := takeStr(it.Key()[1:])
		id, _, _ := takeStr(rest)
		k, is := series.ParseID(id)
		if !is {
			continue
		}
		l, err := c.d.locate(c.v.snap, in, &k)
		if err != nil {
			return err
		}
		if l != nil {
			c.problem("%s: it is a sample and a document", fhir.Ref{Type: "Observation", ID: id})
		}
	}
	return it.Error()
}
