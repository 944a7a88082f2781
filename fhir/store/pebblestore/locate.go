package pebblestore

import (
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// located is a sample and the block that holds it.
type located struct {
	in   *seriesInfo
	smp  series.Sample
	head []byte // H key
	at   int    // index in the block
}

// hash identifies the content as Write.Hash does.
func (l *located) hash() [16]byte {
	s := l.smp
	s.Commit = series.Commit{}
	return store.ContentHash(l.in.t.Append(nil, &s))
}

// sampleOf finds the sample that an id names, nil when there is none.
func (t *tier) sampleOf(r pebble.Reader, ref fhir.Ref) (*located, error) {
	if ref.Type != "Observation" {
		return nil, nil
	}
	k, ok := series.ParseID(ref.ID)
	if !ok {
		return nil, nil
	}
	var found *located
	err := t.members(r, k.Identity, func(in *seriesInfo) error {
		if found != nil {
			return nil
		}
		l, err := t.locate(r, in, &k)
		found = l
		return err
	})
	return found, err
}

// locate looks for a sample in one series.
func (t *tier) locate(r pebble.Reader, in *seriesInfo, k *series.Key) (*located, error) {
	for level := byte(0); level < levels; level++ {
		l, err := t.locateIn(r, in, k, level)
		if l != nil || err != nil {
			return l, err
		}
	}
	return nil, nil
}

func (t *tier) locateIn(r pebble.Reader, in *seriesInfo, k *series.Key, level byte) (_ *located, err error) {
	pre := levelPrefix(tabHead, in.id, level)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return nil, err
	}
	defer closing(it, &err)
	var ok bool
	if level == 0 {
		ok = it.First()
	} else if ok = it.SeekLT(blockKey(tabHead, in.id, level, sortable(k.Start), 0)); !ok {
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
			if in.t.Check(&s) == k.Check {
				return &located{in: in, smp: s, head: slices.Clone(it.Key()), at: i}, nil
			}
		}
	}
	return nil, it.Error()
}
