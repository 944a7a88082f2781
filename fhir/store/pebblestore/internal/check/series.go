package check

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// series checks the sample tier: every series has all its rows, every block decodes
// and matches its header, the blocks of the base do not overlap, the tallies add
// up, and no sample is also a document.
func (c *checker) series() error {
	known := map[series.SeriesID]bool{}
	err := c.each(keys.TableSeries, func(k, val []byte) error {
		var id series.SeriesID
		if len(k) < 8 {
			c.problem("Q: malformed row")
			return nil
		}
		copy(id[:], k[len(k)-8:])
		known[id] = true
		ser, err := c.snap.Tier.SeriesOf(id, val)
		if err != nil {
			c.problem("series %x: malformed template", id)
			return nil
		}
		return c.oneSeries(ser, k)
	})
	if err != nil {
		return err
	}
	for _, tab := range []byte{keys.TableHeader, keys.TableBlock, keys.TableTally} {
		err := c.each(tab, func(k, _ []byte) error {
			var id series.SeriesID
			if len(k) < 9 || !known[series.SeriesID(k[1:9])] {
				copy(id[:], k[1:])
				c.problem("%c: a row of series %x, which does not exist", tab, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, tab := range []byte{keys.TableOtherSeries, keys.TableTag, keys.TableIdentity} {
		err := c.each(tab, func(k, val []byte) error {
			if tab == keys.TableIdentity && len(k) == 1+len(series.Identity{}) {
				if len(val) != 8 || store.Seq(binary.BigEndian.Uint64(val)) > c.snap.Head.Seq {
					c.problem("G: malformed row")
				}
				return nil
			}
			if len(k) < 9 || !known[series.SeriesID(k[len(k)-8:])] {
				c.problem("%c: a row of a series that does not exist", tab)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) oneSeries(ser *tier.Series, key []byte) error {
	want := [][]byte{keys.SeriesKey(keys.TableSeries, &ser.Location, ser.Code, ser.ID),
		keys.MemberKey(ser.Template.Identity, ser.ID),
		keys.IdentityKey(ser.Template.Identity)}
	if !bytes.Equal(want[0], key) {
		c.problem("series %x: its Q row is not at the location of its template", ser.ID)
	}
	for _, h := range ser.OtherCodes {
		want = append(want, keys.SeriesKey(keys.TableOtherSeries, &ser.Location, h, ser.ID))
	}
	for _, t := range ser.Tags {
		want = append(want, append(keys.TagPrefix(t[0], t[1]), keys.MemberKey(ser.Template.Identity, ser.ID)[1:]...))
	}
	for _, r := range want {
		v, err := rows.Get(c.snap.Reader, r)
		if err != nil {
			return err
		}
		if v == nil {
			c.problem("series %x: its %c row is missing", ser.ID, r[0])
		}
	}
	sum := rows.Tally{MaxStart: series.MinStart}
	for level := byte(0); level < tier.Levels; level++ {
		if err := c.level(ser, level, &sum); err != nil {
			return err
		}
	}
	raw, err := rows.Get(c.snap.Reader, keys.TallyKey(ser.ID))
	if err != nil {
		return err
	}
	st, err := rows.DecodeTally(raw)
	if err != nil {
		c.problem("series %x: its K row is missing or malformed", ser.ID)
		return nil
	}
	if st.Samples != sum.Samples || st.Tails != sum.Tails || st.TailSamples != sum.TailSamples ||
		st.MaxStart < sum.MaxStart {
		c.problem("series %x: its tally differs from its blocks", ser.ID)
	}
	return c.alsoDocuments(ser)
}

// level checks the blocks of one level and adds up their counts.
func (c *checker) level(ser *tier.Series, level byte, sum *rows.Tally) (err error) {
	pre := keys.LevelPrefix(keys.TableHeader, ser.ID, level)
	it, err := c.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	var cols series.Columns
	var last series.Key
	for ok, n := it.First(), 0; ok; ok, n = it.Next(), n+1 {
		if c.ctx.Err() != nil {
			return fault.Canceled("pebblestore.Check", c.ctx.Err())
		}
		where := fmt.Sprintf("series %x: block %x", ser.ID, it.Key()[9:])
		h, err := series.DecodeHeader(it.Value())
		if err != nil {
			c.problem("%s: malformed header", where)
			continue
		}
		if err := c.snap.Tier.ReadBlock(c.snap.Reader, it.Key(), &h, &cols); err != nil {
			c.problem("%s: cannot be read", where)
			continue
		}
		if err := c.beginsIn(ser, where, &cols); err != nil {
			return err
		}
		if again := series.Summarize(&cols); !reflect.DeepEqual(again, h) {
			c.problem("%s: its header differs from its samples", where)
		}
		for i := range cols.Len() {
			s := cols.At(i)
			k := ser.Template.Key(&s)
			if s.Class() != ser.Template.Class || store.Seq(s.Commit.Seq) > c.snap.Head.Seq || s.Commit.Seq == 0 {
				c.problem("%s: sample %d has a wrong class or commit", where, i)
			}
			if (i > 0 || level == tier.LevelBase && n > 0) && last.Compare(&k) >= 0 {
				c.problem("%s: sample %d is out of order", where, i)
			}
			last = k
		}
		sum.Samples += uint64(h.Count)
		sum.MaxStart = max(sum.MaxStart, h.MaxStart)
		if level == tier.LevelTail {
			sum.Tails++
			sum.TailSamples += uint64(h.Count)
		}
	}
	return it.Error()
}

// alsoDocuments looks for samples that have I rows.
func (c *checker) alsoDocuments(ser *tier.Series) (err error) {
	lo, hi := series.Key{Identity: ser.Template.Identity, Start: series.MinStart},
		series.Key{Identity: ser.Template.Identity, Start: series.MaxStart, Check: 1<<32 - 1}
	it, err := c.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: keys.IDPrefix("Observation", lo.ID()),
		UpperBound: keys.PrefixEnd(keys.IDPrefix("Observation", hi.ID()))})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		_, rest, _ := keys.CutString(it.Key()[1:])
		id, _, _ := keys.CutString(rest)
		k, is := series.ParseID(id)
		if !is {
			continue
		}
		l, err := c.snap.Tier.Locate(c.snap.Reader, ser, &k)
		if err != nil {
			return err
		}
		if l != nil {
			c.problem("%s: both a sample and a document", fhir.Ref{Type: "Observation", ID: id})
		}
	}
	return it.Error()
}
