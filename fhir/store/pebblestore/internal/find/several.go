package find

import (
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// onePatient returns the patient to which a search is limited on a type whose
// resources may name several.
func (f *finder) onePatient() (id string, ok bool) {
	p, several := severalPatients(f.query.Type)
	if !several {
		return "", false
	}
	for i := range f.query.Clauses {
		c := &f.query.Clauses[i]
		if c.Param.Code != p.Code || len(c.Values) != 1 || c.Modifier != search.NoModifier &&
			c.Modifier != search.ModType {
			continue
		}
		if v := &c.Values[0]; v.RefType == "Patient" && !v.HasSystem {
			return v.RefID, true
		}
	}
	return "", false
}

// mergeSeveral merges a patient's cluster in order of date with the documents
// that name the patient and lie in another's cluster. These are known from
// the X rows alone, so that nothing but what is given out is read.
func (f *finder) mergeSeveral(patient string, desc bool, after []byte) (err error) {
	p, _ := severalPatients(f.query.Type)
	pre := keys.IndexPrefix(f.query.Type, p.Code, "Patient/"+patient)
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	f.patient, f.others = patient, nil
	own := keys.AppendString(nil, patient)
	for ok := it.First(); ok; ok = it.Next() {
		if err := f.step(); err != nil {
			return err
		}
		id, rest, good := keys.CutString(it.Key()[len(pre):])
		if !good || len(rest) != 8 {
			return fault.ErrRow
		}
		seq, val := store.Seq(binary.BigEndian.Uint64(rest)), it.Value()
		if !rows.Visible(val, seq, f.at) || len(val) >= 8+len(own) && string(val[8:8+len(own)]) == string(own) {
			continue
		}
		place, _, good := keys.CutLocation(val[8:])
		if !good {
			return fault.ErrRow
		}
		if len(f.others) == f.searcher.bounds.Others {
			f.others = nil
			return f.sorted([]search.SortKey{{Param: keys.DateParam(f.query.Type), Desc: desc}}, after)
		}
		f.others = append(f.others, keys.Row{Location: place, Type: f.query.Type, ID: id, Seq: seq})
	}
	if err := it.Error(); err != nil {
		return err
	}
	return f.merge(nil, desc, after)
}

// listed is the source of the other rows, nil when there are none to come.
func (f *finder) listed(phase byte, desc bool, from *sortPoint) *cursor {
	s := &cursor{row: keys.Row{Type: f.query.Type}}
	at := func(r keys.Row) sortPoint { return sortPoint{r.Start, r.ID, r.Seq} }
	for _, r := range f.others {
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
