package find

import (
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// listOthers finds the documents that name the patient and lie in the clusters of
// other patients. It reads X rows only. It returns false if there are more than
// Bounds.Others.
func (mr *merger) listOthers() (ok bool, err error) {
	p, _ := severalPatients(mr.query.Type)
	pre := keys.IndexPrefix(mr.query.Type, p.Code, "Patient/"+mr.patient)
	it, err := mr.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	own := keys.AppendString(nil, mr.patient)
	for ok := it.First(); ok; ok = it.Next() {
		if err := mr.step(); err != nil {
			return false, err
		}
		id, rest, good := keys.CutString(it.Key()[len(pre):])
		if !good || len(rest) != 8 {
			return false, fault.ErrRow
		}
		seq, val := store.Seq(binary.BigEndian.Uint64(rest)), it.Value()
		if !rows.Visible(val, seq, mr.at) || len(val) >= 8+len(own) && string(val[8:8+len(own)]) == string(own) {
			continue
		}
		loc, _, good := keys.CutLocation(val[8:])
		if !good {
			return false, fault.ErrRow
		}
		if len(mr.others) == mr.searcher.bounds.Others {
			return false, nil
		}
		mr.others = append(mr.others, keys.Row{Location: loc, Type: mr.query.Type, ID: id, Seq: seq})
	}
	return true, it.Error()
}

// listed returns the source of the other rows, or nil if there are none after from.
func (mr *merger) listed(phase byte, desc bool, from *sortPoint) *source {
	s := &source{row: keys.Row{Type: mr.query.Type}}
	at := func(r keys.Row) sortPoint { return sortPoint{r.Start, r.ID, r.Seq} }
	for _, r := range mr.others {
		if (r.Bucket == keys.BucketUndated) != (phase == 1) {
			continue
		}
		if from != nil {
			if c := at(r).compare(*from); c <= 0 && !desc || c >= 0 && desc {
				continue
			}
		}
		s.rest = append(s.rest, r)
	}
	slices.SortFunc(s.rest, func(a, b keys.Row) int {
		if desc {
			a, b = b, a
		}
		return at(a).compare(at(b))
	})
	if len(s.rest) == 0 {
		return nil
	}
	s.ok, s.row, s.rest = true, s.rest[0], s.rest[1:]
	return s
}
