package tier

import (
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// Located is a sample and the block that holds it.
type Located struct {
	Series    *Series
	Sample    series.Sample
	HeaderKey []byte // key of the H row
	at        int    // index in the block
}

// Hash identifies the content as Write.Hash does.
func (l *Located) Hash() [16]byte {
	s := l.Sample
	s.Commit = series.Commit{}
	return store.ContentHash(l.Series.Template.Append(nil, &s))
}

// Sample returns the sample with the id of ref, or nil if there is none.
func (t *Tier) Sample(r pebble.Reader, ref fhir.Ref) (*Located, error) {
	if ref.Type != "Observation" {
		return nil, nil
	}
	k, ok := series.ParseID(ref.ID)
	if !ok {
		return nil, nil
	}
	var found *Located
	err := t.Members(r, k.Identity, func(ser *Series) error {
		if found != nil {
			return nil
		}
		l, err := t.Locate(r, ser, &k)
		found = l
		return err
	})
	return found, err
}

// Locate returns the sample of one series with key k, or nil if there is none.
func (t *Tier) Locate(r pebble.Reader, ser *Series, k *series.Key) (*Located, error) {
	for level := byte(0); level < Levels; level++ {
		l, err := t.locateIn(r, ser, k, level)
		if l != nil || err != nil {
			return l, err
		}
	}
	return nil, nil
}

func (t *Tier) locateIn(r pebble.Reader, ser *Series, k *series.Key, level byte) (_ *Located, err error) {
	pre := keys.LevelPrefix(keys.TableHeader, ser.ID, level)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return nil, err
	}
	defer fault.Close(it, &err)
	var ok bool
	if level == 0 {
		ok = it.First()
	} else if ok = it.SeekLT(keys.BlockKey(keys.TableHeader, ser.ID, level, keys.Sortable(k.Start), 0)); !ok {
		ok = it.First()
	}
	for ; ok; ok = it.Next() {
		h, err := series.DecodeHeader(it.Value())
		if err != nil {
			return nil, err
		}
		if h.MinStart > k.Start {
			if level > 0 {
				break
			}
			continue
		}
		if h.MaxStart < k.Start {
			continue
		}
		cols, err := t.decoded.block(t, r, it.Key(), &h)
		if err != nil {
			return nil, err
		}
		for i := cols.Search(k.Start); i < cols.Len() && cols.Start[i] == k.Start; i++ {
			s := cols.At(i)
			if ser.Template.Check(&s) == k.Check {
				return &Located{Series: ser, Sample: s, HeaderKey: slices.Clone(it.Key()), at: i}, nil
			}
		}
	}
	return nil, it.Error()
}
