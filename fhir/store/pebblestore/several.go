package pebblestore

import (
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// onePatient returns the patient to which a search is limited on a type whose
// resources may name several.
func (x *finder) onePatient() (id string, ok bool) {
	p, several := severalPatients(x.q.Type)
	if !several {
		return "", false
	}
	for i := range x.q.Clauses {
		c := &x.q.Clauses[i]
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
func (x *finder) mergeSeveral(patient string, desc bool, after []byte) (err error) {
	p, _ := severalPatients(x.q.Type)
	pre := indexPrefix(x.q.Type, p.Code, "Patient/"+patient)
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	x.patient, x.others = patient, nil
	own := appendStr(nil, patient)
	for ok := it.First(); ok; ok = it.Next() {
		if err := x.step(); err != nil {
			return err
		}
		id, rest, good := takeStr(it.Key()[len(pre):])
		if !good || len(rest) != 8 {
			return errRow
		}
		t, val := store.Seq(binary.BigEndian.Uint64(rest)), it.Value()
		if !visible(val, t, x.at) || len(val) >= 8+len(own) && string(val[8:8+len(own)]) == string(own) {
			continue
		}
		place, _, good := takePlace(val[8:])
		if !good {
			return errRow
		}
		if len(x.others) == x.s.bounds.others {
			x.others = nil
			return x.sorted([]search.SortKey{{Param: dateParam(x.q.Type), Desc: desc}}, after)
		}
		x.others = append(x.others, row{place: place, typ: x.q.Type, id: id, t: t})
	}
	if err := it.Error(); err != nil {
		return err
	}
	return x.merge(nil, desc, after)
}

// listed is the source of the other rows, nil when there are none to come.
func (x *finder) listed(phase byte, desc bool, from *where) *source {
	s := &source{row: row{typ: x.q.Type}}
	at := func(r row) where { return where{r.start, r.id, r.t} }
	for _, r := range x.others {
		if (r.bucket == bucketUndated) != (phase == 1) {
			continue
		}
		if from != nil {
			if c := at(r).compare(*from); c <= 0 && !desc || c >= 0 && desc {
				continue
			}
		}
		s.rest = append(s.rest, r)
	}
	slices.SortFunc(s.rest, func(a, b row) int {
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
