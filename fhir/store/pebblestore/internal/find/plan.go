package find

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/sorted"
)

// A position begins with a letter that names the path that made it. Clients hold
// positions, so that the letters must not change.
const (
	posID      = 'i'
	posMerge   = 'm'
	posDoc     = 'd'
	posCode    = 'c'
	posIndex   = 'x'
	posRange   = 'r'
	posSort    = 's'
	posUpdated = 'u'
	posUnion   = 'n'
)

// run chooses the path. Without _sort, each path has its own order.
func (f *finder) run(sort []search.SortKey, after []byte) (err error) {
	if f.union, err = f.narrow(sort, after); err != nil {
		return err
	}
	if len(sort) > 0 {
		return f.inOrder(sort, after)
	}
	if len(after) > 0 && after[0] == posUpdated {
		return f.updateOrder(false, after)
	}
	if lo, _ := f.updateRange(); len(after) == 0 && lo != math.MinInt64 && idsOf(f.query) == nil {
		selective, err := f.selective()
		if err != nil {
			return err
		}
		if !selective {
			if few, err := f.fewUpdates(); err != nil || few {
				return cmp.Or(err, f.walkUpdates(false, nil))
			}
		}
	}
	return f.unsorted(after)
}

// selective reports whether a clause has X rows, and fewer than a probe counts if the
// type has rows of all parameters.
func (f *finder) selective() (bool, error) {
	if !rows.Generic(f.query.Type) {
		return indexClause(f.query) != nil, nil
	}
	d, err := f.choose()
	if err != nil {
		return false, err
	}
	return f.few(d)
}

// inOrder chooses a path that meets the rows in the wanted order, or sorts.
func (f *finder) inOrder(sort []search.SortKey, after []byte) error {
	if rows.Generic(f.query.Type) {
		if done, err := f.genericOrder(sort, after); done || err != nil {
			return err
		}
	} else if f.union != nil && (len(after) == 0 || after[0] != posUpdated) {
		return f.unionOrder(f.union, sort, after)
	} else if idsOf(f.query) != nil || patientsOf(f.query) != nil || len(after) > 0 && after[0] == posSort {
		return f.sorted(sort, after)
	}
	if len(sort) == 1 && sort[0].Param == keys.DateParam(f.query.Type) {
		one, several := f.onePatient()
		switch {
		case f.query.Patient != "":
			return f.mergeOrFew(sort[0].Desc, after)
		case several:
			return f.mergeSeveral(one, sort, after)
		case indexClause(f.query) == nil:
			return f.days(sort[0].Desc, after)
		}
	}
	if byUpdate(sort) && (f.query.Patient != "" || indexClause(f.query) == nil) {
		return f.updateOrder(sort[0].Desc, after)
	}
	return f.sorted(sort, after)
}

// mergeOrFew merges a patient's clusters in order of date, unless a bound on
// lastUpdated leaves few matches.
func (f *finder) mergeOrFew(desc bool, after []byte) error {
	few, err := f.fewUpdates()
	if err != nil {
		return err
	}
	if !few {
		return f.merger().merge(codesOf(f.query), desc, after)
	}
	phase, from, err := takeMergePos(f.op, after)
	if err != nil {
		return err
	}
	return f.fewDated(desc, phase, from)
}

// mergeSeveral merges a patient's cluster in order of date with the documents
// that name the patient and lie in other clusters, or sorts if these are many.
func (f *finder) mergeSeveral(patient string, sort []search.SortKey, after []byte) error {
	mr := &merger{finder: f, patient: patient}
	ok, err := mr.listOthers()
	if err != nil {
		return err
	}
	if !ok {
		return f.sorted(sort, after)
	}
	return mr.merge(nil, sort[0].Desc, after)
}

func (f *finder) merger() *merger { return &merger{finder: f, patient: f.query.Patient} }

// unsorted chooses the path that looks at the fewest rows.
func (f *finder) unsorted(after []byte) error {
	q := f.query
	if ids := idsOf(q); ids != nil {
		return f.byID(ids, after)
	}
	if rows.Generic(q.Type) {
		if done, err := f.generic(after); done || err != nil {
			return err
		}
	}
	if q.Patient != "" {
		if done, err := f.byIdentifier(after); done || err != nil {
			return err
		}
		if codes := codesOf(q); codes != nil {
			return f.merger().merge(codes, false, after)
		}
		return f.documents(q.Patient, true, after)
	}
	if c := indexClause(q); c != nil {
		return f.byIndex(c, after)
	}
	if f.union != nil && (len(after) == 0 || after[0] == posUnion) {
		return f.byUnion(f.union, after)
	}
	if codes := codesOf(q); codes != nil {
		return f.byCode(codes, after)
	}
	if ps := patientsOf(q); ps != nil {
		return f.documentsOf(ps, after)
	}
	return f.documents("", false, after)
}

// generic walks the rows of the most selective clause, for a type that has rows of all
// parameters. It does nothing if a walk of the documents is as good.
func (f *finder) generic(after []byte) (done bool, err error) {
	if len(after) > 0 {
		if after[0] != posRange {
			return false, nil
		}
		return true, f.byRanges(nil, after)
	}
	d, err := f.choose()
	if err != nil || d == nil {
		return false, err
	}
	if f.query.Patient != "" {
		if _, err := f.few(d); err != nil { // counts its rows
			return false, err
		}
		fewer, err := f.fewDocuments(d.rows)
		if err != nil || fewer {
			return false, err
		}
	}
	return true, f.byRanges(d, nil)
}

// fewDocuments reports whether the patient has at most n documents of the type.
func (f *finder) fewDocuments(n int) (few bool, err error) {
	pre := keys.Cluster(keys.TableDocument, f.query.Patient, f.query.Type)
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if err := f.step(); err != nil {
			return false, err
		}
		if n--; n < 0 {
			return false, nil
		}
	}
	return true, it.Error()
}

// genericOrder emits the matches of a type that has rows of all parameters in the order
// of such rows, or sorts. It does nothing if a path by date or by lastUpdated is better.
func (f *finder) genericOrder(sort []search.SortKey, after []byte) (done bool, err error) {
	if len(after) > 0 && after[0] != posSort {
		if byUpdate(sort) {
			return true, f.updateOrder(sort[0].Desc, after)
		}
		return false, nil
	}
	if idsOf(f.query) != nil {
		return true, f.sorted(sort, after)
	}
	var from *sorted.Position
	if len(after) > 0 {
		if from, err = sortPosition(f.op, sort, after); err != nil {
			return true, err
		}
		if r := f.searcher.Results.Take(sorted.ResultID(f.owner, f.query, sort, f.at)); r != nil {
			f.taken = r
			return true, f.sorted(sort, after)
		}
	} else if f.query.Patient != "" && len(sort) == 1 && sort[0].Param == keys.DateParam(f.query.Type) {
		return false, nil
	}
	d, err := f.choose()
	if err != nil {
		return true, err
	}
	few, err := f.few(d)
	if err == nil && !few && f.query.Patient != "" && !byUpdate(sort) {
		few, err = f.fewDocuments(int(f.searcher.bounds.Few))
	}
	if err != nil {
		return true, err
	}
	if few {
		return true, f.sorted(sort, after)
	}
	if from == nil && byUpdate(sort) {
		return true, f.updateOrder(sort[0].Desc, nil)
	}
	if _, several := f.onePatient(); several && from == nil && len(sort) == 1 &&
		sort[0].Param == keys.DateParam(f.query.Type) {
		return false, nil
	}
	return f.orderedRows(sort, from)
}

// sortPosition decodes a position in a sort.
func sortPosition(op string, sort []search.SortKey, after []byte) (*sorted.Position, error) {
	from := &sorted.Position{}
	if after[0] != posSort || json.Unmarshal(after[1:], from) != nil || len(from.Keys) != len(sort) {
		return nil, errPos(op)
	}
	return from, nil
}

// sorted emits the matches in an order that no rows have. It collects and sorts
// them once, and caches the result for the next pages.
func (f *finder) sorted(sort []search.SortKey, after []byte) error {
	var from *sorted.Position
	if len(after) > 0 {
		var err error
		if from, err = sortPosition(f.op, sort, after); err != nil {
			return err
		}
	}
	id := sorted.ResultID(f.owner, f.query, sort, f.at)
	r := f.taken
	if f.taken = nil; r == nil {
		r = f.searcher.Results.Take(id)
	}
	if r == nil {
		var err error
		if r, err = f.sort(sort); err != nil {
			return err
		}
		f.searcher.Results.Keep(id, f.owner, r)
	}
	defer f.searcher.Results.Release(r)
	return f.giveSorted(r, sort, from)
}

// sort collects the sort keys and ids of all matches into a result.
func (f *finder) sort(sort []search.SortKey) (r *sorted.Result, err error) {
	keyer, err := newKeyer(f.query, sort)
	if err != nil {
		return nil, err
	}
	w := f.searcher.Results.Writer(sort)
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Abandon())
		}
	}()
	y := *f
	y.passing = true // the keys are copied
	var failed error
	y.emit = func(m *snapshot.Match, _ []byte) bool {
		failed = w.Add(&sorted.Position{Keys: keyer.of(m), ID: strings.Clone(m.Row.ID)})
		return failed == nil
	}
	err = y.run(nil, nil)
	f.steps = y.steps
	if err = cmp.Or(failed, err); err != nil {
		return nil, err
	}
	return w.Finish(f.ctx)
}

// updateOrder emits the matches in order of lastUpdated. It sorts the matches of a
// code if they are few, and otherwise walks the rows in order.
func (f *finder) updateOrder(desc bool, after []byte) error {
	from, err := takeUpdatedPos(f.op, after)
	if err != nil {
		return err
	}
	if codesOf(f.query) != nil {
		ms, err := f.probe()
		if err == nil {
			return f.giveUpdates(ms, desc, from)
		}
		if !errors.Is(err, errProbe) {
			return err
		}
	}
	return f.walkUpdates(desc, from)
}

// probe collects all matches, or fails with errProbe.
func (f *finder) probe() (ms []*snapshot.Match, err error) {
	y := *f
	y.passing, y.reused, y.budget, y.steps = false, nil, f.searcher.bounds.Probe, 0
	y.emit = func(m *snapshot.Match, _ []byte) bool {
		// A walk's document aliases memory of its iterator.
		m.Document.JSON = bytes.Clone(m.Document.JSON)
		ms = append(ms, m)
		return true
	}
	err = y.unsorted(nil)
	f.steps += y.steps
	return ms, err
}
