package find

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// union says where the matches of a search of Observations can be: in the clusters of
// patients, or among the X rows of values. It serves clauses that are met in several ways,
// such as membership in the compartment of a Patient: subject or performer.
type union struct {
	patients []string // sorted
	values   []indexValue
	// others are the documents with one of the values outside of the clusters, and series
	// those whose samples have one. They are set if listed is.
	others []keys.Row
	series []*tier.Series
	listed bool
}

// indexValue is a value with X rows.
type indexValue struct {
	param *search.Param
	value string
}

func (a indexValue) compare(b indexValue) int {
	if c := strings.Compare(a.param.Code, b.param.Code); c != 0 {
		return c
	}
	return strings.Compare(a.value, b.value)
}

// findUnion returns the union of a clause of the query, or nil if there is none or another
// path is better.
func (f *finder) findUnion() (*union, error) {
	q := f.query
	if q.Type != "Observation" || q.Patient != "" || f.documentsOnly || idsOf(q) != nil ||
		indexClause(q) != nil || patientsOf(q) != nil {
		return nil, nil
	}
	for i := range q.Clauses {
		c := &q.Clauses[i]
		u := &union{}
		if !u.add(c) {
			continue
		}
		if ok, err := f.indexes.complete(); err != nil || !ok { // the rows of Late parameters
			return nil, err
		}
		slices.Sort(u.patients)
		u.patients = slices.Compact(u.patients)
		slices.SortFunc(u.values, indexValue.compare)
		u.values = slices.CompactFunc(u.values, func(a, b indexValue) bool { return a.compare(b) == 0 })
		return u, nil
	}
	return nil, nil
}

// add adds where the matches of a clause can be. It reports false if they can be anywhere.
func (u *union) add(c *search.Clause) bool {
	if c.Not || len(c.Joins) > 0 {
		return false
	}
	if c.Any != nil {
		for _, list := range c.Any {
			if !slices.ContainsFunc(list, func(c search.Clause) bool {
				part := &union{}
				if !part.add(&c) {
					return false
				}
				u.patients, u.values = append(u.patients, part.patients...), append(u.values, part.values...)
				return true
			}) {
				return false
			}
		}
		return true
	}
	if !plain(c) || !rows.Indexed(c.Param) && c.Param.Code != "patient" || len(c.Values) == 0 ||
		c.Modifier != search.NoModifier && c.Modifier != search.ModType {
		return false
	}
	for i := range c.Values {
		if !u.value(c.Param, &c.Values[i]) {
			return false
		}
	}
	return true
}

func (u *union) value(p *search.Param, v *search.Value) bool {
	if p.Type == search.TypeReference && v.HasSystem || v.Prefix != search.EQ || v.RefType == "" && v.Code == "" {
		return false
	}
	add := func(x string) { u.values = append(u.values, indexValue{p, x}) }
	if p.Code == "patient" { // its rows are those of subject
		p, _ = search.Lookup(p.ResourceType, "subject")
	}
	if p.Type == search.TypeReference && v.RefType != "" {
		own := rows.Late(p) && v.RefType == "Patient"
		if own {
			u.patients = append(u.patients, v.RefID)
		}
		if !own || p.Code != "subject" {
			add(v.RefType + "/" + v.RefID)
		}
	} else if v.Code == "" {
		return false
	}
	if v.Code != "" {
		add(v.Code)
	}
	return true
}

// in reports whether a document or sample lies in one of the clusters.
func (u *union) in(patient string) bool {
	_, ok := slices.BinarySearch(u.patients, patient)
	return ok
}

// narrow limits the search to a patient if all matches lie in one cluster, or else returns
// the union. It does neither for a position that such a search does not make.
func (f *finder) narrow(sort []search.SortKey, after []byte) (*union, error) {
	u, err := f.findUnion()
	if u == nil || err != nil {
		return nil, err
	}
	switch {
	case len(sort) == 1 && sort[0].Param == "date" && len(u.patients) < 2:
		u.listed, err = f.list(u, f.searcher.bounds.Group)
	case len(u.patients) == 1:
		u.listed, err = f.list(u, 0)
	}
	if err != nil {
		return nil, err
	}
	if len(u.patients) == 1 && u.listed && len(u.others) == 0 && len(u.series) == 0 &&
		(len(after) == 0 || after[0] != posCode && after[0] != posUnion) {
		one := *f.query
		one.Patient = u.patients[0]
		f.query = &one
		return nil, nil
	}
	return u, nil
}

// list finds the documents and series of the values outside of the clusters. It reads
// index rows only. It reports false if there are more than a limit.
func (f *finder) list(u *union, most int) (ok bool, err error) {
	for _, v := range u.values {
		if ok, err = f.listDocuments(u, v, most); err != nil || !ok {
			return false, err
		}
		if err = f.listSeries(u, v); err != nil || len(u.series) > most {
			return false, err
		}
	}
	slices.SortFunc(u.others, compareRows)
	u.others = slices.CompactFunc(u.others, func(a, b keys.Row) bool { return compareRows(a, b) == 0 })
	return true, nil
}

func compareRows(a, b keys.Row) int {
	return sortPoint{a.Start, a.ID, a.Seq}.compare(sortPoint{b.Start, b.ID, b.Seq})
}

func (f *finder) listDocuments(u *union, v indexValue, most int) (ok bool, err error) {
	pre := keys.IndexPrefix(f.query.Type, v.param.Code, v.value)
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if err := f.step(); err != nil {
			return false, err
		}
		id, rest, good := keys.CutString(it.Key()[len(pre):])
		if !good || len(rest) != 8 {
			return false, fault.ErrRow
		}
		seq, val := store.Seq(binary.BigEndian.Uint64(rest)), it.Value()
		if !rows.Visible(val, seq, f.at) {
			continue
		}
		loc, _, good := keys.CutLocation(val[8:])
		if !good {
			return false, fault.ErrRow
		}
		if u.in(loc.Patient) {
			continue
		}
		if len(u.others) == most {
			return false, nil
		}
		u.others = append(u.others, keys.Row{Location: loc, Type: f.query.Type, ID: id, Seq: seq})
	}
	return true, it.Error()
}

// listSeries adds the series of a value by their Y rows.
func (f *finder) listSeries(u *union, v indexValue) (err error) {
	t := &taggedSamples{finder: f}
	if err := t.list(v.param.Code, v.value); err != nil {
		return err
	}
	for _, ser := range t.left {
		if !u.in(ser.Location.Patient) &&
			!slices.ContainsFunc(u.series, func(s *tier.Series) bool { return s.ID == ser.ID }) {
			u.series = append(u.series, ser)
		}
	}
	if v.param.Code != "identifier" {
		return nil
	}
	if _, ok := series.ParseID(v.value); !ok { // the id of a sample is one of its identifiers
		return nil
	}
	l, err := f.snap.Tier.Sample(f.snap.Reader, fhir.Ref{Type: "Observation", ID: v.value})
	if err != nil || l == nil || u.in(l.Series.Location.Patient) {
		return err
	}
	u.series = append(u.series, l.Series)
	return nil
}

// byUnion emits the matches of each cluster, and then those of each value that lie in
// none of them and do not have an earlier value.
func (f *finder) byUnion(u *union, after []byte) error {
	first, inner := 0, []byte(nil)
	if len(after) > 0 {
		if after[0] != posUnion || len(after) < 4 {
			return errPos(f.op)
		}
		if first = int(binary.BigEndian.Uint16(after[1:])); first >= len(u.patients)+len(u.values) {
			return errPos(f.op)
		}
		inner = after[3:]
	}
	for i := first; i < len(u.patients)+len(u.values); i++ {
		more, err := f.unionPart(u, i, inner)
		if err != nil || !more {
			return err
		}
		inner = nil
	}
	return nil
}

func (f *finder) unionPart(u *union, i int, after []byte) (more bool, err error) {
	more = true
	y := *f
	defer func() { f.steps = y.steps }()
	give := func(m *snapshot.Match, pos []byte) bool {
		if !f.passing {
			pos = append(binary.BigEndian.AppendUint16([]byte{posUnion}, uint16(i)), pos...)
		}
		more = f.emit(m, pos)
		return more
	}
	if i < len(u.patients) {
		one := *f.query
		one.Patient = u.patients[i]
		y.query = &one
		y.emit = func(m *snapshot.Match, pos []byte) bool { return m.Row.Patient != one.Patient || give(m, pos) }
		err = y.unsorted(after)
		return more, err
	}
	j := i - len(u.patients)
	y.emit = func(m *snapshot.Match, pos []byte) bool {
		return u.in(m.Row.Patient) || hasValue(m, u.values[:j]) || give(m, bytes.TrimPrefix(pos, indexPos(0)))
	}
	v := u.values[j]
	_, err = y.oneValue(&search.Clause{Param: v.param}, []string{v.value}, 0, after)
	return more, err
}

// hasValue reports whether a match has a row of one of the values, which are sorted.
func hasValue(m *snapshot.Match, values []indexValue) bool {
	for i := 0; i < len(values); {
		p := values[i].param
		for _, v := range m.Index().ByParam[p.Code] {
			if _, ok := slices.BinarySearchFunc(values, indexValue{p, rows.IndexValue(p.Type, &v)},
				indexValue.compare); ok {
				return true
			}
		}
		n, _ := slices.BinarySearchFunc(values[i:], p.Code, func(x indexValue, code string) int {
			if x.param.Code > code {
				return 1
			}
			return -1
		})
		i += n // the next parameter
	}
	return false
}

// unionOrder emits the matches of a union in an order. By date, it merges the one cluster
// with the listed documents and series.
func (f *finder) unionOrder(u *union, sort []search.SortKey, after []byte) error {
	if len(u.patients) > 1 || !u.listed || len(sort) > 1 || sort[0].Param != "date" ||
		len(after) > 0 && after[0] != posMerge {
		return f.sorted(sort, after)
	}
	mr := &merger{finder: f, others: u.others, series: u.series}
	var codes [][8]byte
	if len(u.patients) == 1 {
		mr.patient, codes = u.patients[0], codesOf(f.query)
	}
	return mr.merge(codes, sort[0].Desc, after)
}
