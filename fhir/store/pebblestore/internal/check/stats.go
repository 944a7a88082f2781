package check

import (
	"cmp"
	"context"
	"slices"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// SeriesStat sums up the series of one code.
type SeriesStat struct {
	Vendor string
	Code   string // "system|code" of the first coding
	Series uint64
	// Samples counts all samples, Loose those in tails, which a compaction will
	// merge.
	Samples, Loose uint64
	Blocks, Tails  uint64
	Bytes          uint64 // of blocks and headers, before Pebble compresses them
}

// Stats reads the headers of every series.
func Stats(ctx context.Context, snap *snapshot.Snapshot) ([]SeriesStat, error) {
	c := &checker{ctx: ctx, snap: snap}
	of := map[series.SeriesID]*SeriesStat{}
	byCode := map[[2]string]*SeriesStat{}
	err := c.each(keys.TableSeries, func(k, val []byte) error {
		var id series.SeriesID
		copy(id[:], k[max(0, len(k)-len(id)):])
		ser, err := snap.Tier.SeriesOf(id, val)
		if err != nil {
			return err
		}
		key := [2]string{ser.Template.Vendor, ser.Values.Code}
		s := byCode[key]
		if s == nil {
			s = &SeriesStat{Vendor: key[0], Code: key[1]}
			byCode[key] = s
		}
		s.Series++
		of[id] = s
		return nil
	})
	if err != nil {
		return nil, err
	}
	var id series.SeriesID
	for _, tab := range []byte{keys.TableHeader, keys.TableBlock} {
		err := c.each(tab, func(k, val []byte) error {
			if len(k) < 10 {
				return fault.ErrRow
			}
			copy(id[:], k[1:])
			s := of[id]
			if s == nil {
				return fault.ErrRow
			}
			s.Bytes += uint64(len(k) + len(val))
			if tab == keys.TableBlock {
				return nil
			}
			h, err := series.DecodeHeader(val)
			if err != nil {
				return err
			}
			s.Samples += uint64(h.Count)
			s.Blocks++
			if k[9] == tier.LevelTail {
				s.Tails++
				s.Loose += uint64(h.Count)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var out []SeriesStat
	for _, s := range byCode {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b SeriesStat) int {
		return cmp.Or(-cmp.Compare(a.Samples, b.Samples), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Vendor, b.Vendor))
	})
	return out, nil
}
