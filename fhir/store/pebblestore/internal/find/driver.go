package find

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
)

// indexes says which X rows a search may rely on. It is read when first needed.
type indexes struct {
	reader  pebble.Reader
	read    bool
	builtin bool            // every document has the rows of R4's parameters
	runtime map[string]bool // by state key, of parameters defined at run time
}

// usable reports whether every document with a value of p has its X rows.
func (x *indexes) usable(p *search.Param) (bool, error) {
	if !rows.Indexed(p) && !rows.Ordered(p) {
		return false, nil
	}
	if rows.Runtime(p) {
		return x.usableRuntime(p)
	}
	if rows.IndexedBefore(p) {
		return true, nil
	}
	return x.complete()
}

func (x *indexes) complete() (bool, error) {
	if !x.read {
		v, err := rows.State(x.reader, rows.BuiltinIndex)
		if err != nil {
			return false, err
		}
		at, err := rows.DecodeIndex(v)
		if err != nil {
			return false, err
		}
		x.read, x.builtin = true, at.Complete()
	}
	return x.builtin, nil
}

func (x *indexes) usableRuntime(p *search.Param) (bool, error) {
	if !rows.Generic(p.ResourceType) {
		return false, nil
	}
	key := rows.RuntimeKey(p.ResourceType, rows.ParamKey(p))
	if ok, found := x.runtime[key]; found {
		return ok, nil
	}
	v, err := rows.State(x.reader, key)
	if err != nil {
		return false, err
	}
	at, err := rows.DecodeIndex(v)
	if err != nil {
		return false, err
	}
	if x.runtime == nil {
		x.runtime = map[string]bool{}
	}
	x.runtime[key] = at != nil && at.Done && !at.Dropping
	return x.runtime[key], nil
}

// span is a range of X keys. Its bounds never divide the rows of a value.
type span struct{ lower, upper []byte }

// within reports whether a key lies in one of some spans, which are sorted and do not
// overlap.
func within(spans []span, k []byte) bool {
	i, _ := slices.BinarySearchFunc(spans, k, func(s span, k []byte) int {
		if bytes.Compare(s.upper, k) <= 0 {
			return -1
		}
		return 1
	})
	return i < len(spans) && bytes.Compare(spans[i].lower, k) <= 0
}

// driver walks the X rows in spans, among which every match of a clause has one.
type driver struct {
	clause int
	spans  []span          // sorted, without overlaps
	params []*search.Param // whose rows are in the spans
	// class names the values in the spans of a clause on a date or number. A document with
	// one value has one row of the class.
	class string
	// single is set if a document has at most one row in the spans.
	single bool
	// exact is set if a document with a row in the spans matches the clause.
	exact bool
	// broad is set if the spans hold all values of a parameter. Such a walk is slower than
	// one of the documents, unless few of them have a value.
	broad bool
	// rows is the number of resources and values that a probe counted, if counted is set.
	rows    int
	counted bool
}

// driverOf returns the driver of a clause of the query, or nil. Clauses on one date or
// number, such as the two ends of a range, have a common driver.
func (f *finder) driverOf(i int) (*driver, error) {
	c := &f.query.Clauses[i]
	d, err := f.clauseDriver(c)
	if d == nil || err != nil {
		return nil, err
	}
	d.clause = i
	if d.class == "" {
		return d, nil
	}
	for j := range f.query.Clauses {
		if o := &f.query.Clauses[j]; j == i || o.Param != c.Param {
			continue
		}
		other, err := f.clauseDriver(&f.query.Clauses[j])
		if err != nil {
			return nil, err
		}
		if other != nil && other.class == d.class {
			several := keys.IndexPrefix(f.query.Type, rows.ParamKey(c.Param), string(rune(rows.ClassSeveral)))
			d.spans = join(append(common(d.spans, other.spans), span{several, keys.PrefixEnd(several)}))
		}
	}
	return d, nil
}

// common returns the parts that two sorted lists of spans have in common.
func common(a, b []span) (out []span) {
	for len(a) > 0 && len(b) > 0 {
		s := span{a[0].lower, a[0].upper}
		if bytes.Compare(b[0].lower, s.lower) > 0 {
			s.lower = b[0].lower
		}
		if bytes.Compare(b[0].upper, s.upper) < 0 {
			s.upper = b[0].upper
		}
		if bytes.Compare(s.lower, s.upper) < 0 {
			out = append(out, s)
		}
		if bytes.Compare(a[0].upper, b[0].upper) < 0 {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

func (f *finder) clauseDriver(c *search.Clause) (*driver, error) {
	if c.Not || len(c.Joins) > 0 {
		return nil, nil
	}
	if c.Any != nil {
		return f.anyDriver(c)
	}
	if c.Param == nil {
		return nil, nil
	}
	if ok, err := f.indexes.usable(c.Param); err != nil || !ok {
		return nil, err
	}
	b := spanBuilder{typ: f.query.Type, definition: c.Param, param: rows.ParamKey(c.Param)}
	if !b.clause(c) {
		return nil, nil
	}
	if b.logical { // these rows are not in schema 4
		if ok, err := f.indexes.complete(); err != nil || !ok && !rows.Runtime(c.Param) {
			return nil, err
		}
	}
	d := &driver{spans: join(b.spans), params: []*search.Param{c.Param}, exact: b.exact,
		class: b.class, broad: b.broad}
	d.single = b.points && len(d.spans) == 1
	return d, nil
}

// anyDriver returns the union of the drivers of each list of a clause, or nil if one of
// them has none.
func (f *finder) anyDriver(c *search.Clause) (*driver, error) {
	u := &driver{}
	for _, list := range c.Any {
		var all []*driver
		for i := range list {
			d, err := f.clauseDriver(&list[i])
			if err != nil {
				return nil, err
			}
			if d != nil {
				all = append(all, d)
			}
		}
		best, err := f.fewest(all)
		if best == nil || err != nil {
			return nil, err
		}
		u.spans, u.params = append(u.spans, best.spans...), append(u.params, best.params...)
		u.broad = u.broad || best.broad
	}
	u.spans = join(u.spans)
	return u, nil
}

// join sorts spans and merges those that overlap.
func join(in []span) []span {
	slices.SortFunc(in, func(a, b span) int { return bytes.Compare(a.lower, b.lower) })
	var out []span
	for _, s := range in {
		if bytes.Compare(s.lower, s.upper) >= 0 {
			continue
		}
		if n := len(out); n > 0 && bytes.Compare(s.lower, out[n-1].upper) <= 0 {
			if bytes.Compare(s.upper, out[n-1].upper) > 0 {
				out[n-1].upper = s.upper
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

const probedSpans = 32 // spans whose rows a probe counts; the others are estimated

// probeRows counts the resources and values in the rows of a driver, up to a bound.
func (f *finder) probeRows(d *driver, most int) (err error) {
	d.rows = 0
	if len(d.spans) == 0 {
		return nil
	}
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: d.spans[0].lower,
		UpperBound: d.spans[len(d.spans)-1].upper})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	for i, s := range d.spans {
		if i == probedSpans {
			d.rows = min(most, d.rows*len(d.spans)/probedSpans)
			break
		}
		if err := f.probeSpan(d, it, s, most); err != nil || d.rows >= most {
			return err
		}
	}
	return it.Error()
}

func (f *finder) probeSpan(d *driver, it *pebble.Iterator, s span, most int) error {
	var last []byte // value and id
	versions := 0   // rows of them
	for ok := it.SeekGE(s.lower); ok && bytes.Compare(it.Key(), s.upper) < 0; {
		if err := f.step(); err != nil {
			return err
		}
		k := it.Key()
		if len(k) < 8 {
			return fault.ErrRow
		}
		if head := k[:len(k)-8]; !bytes.Equal(head, last) {
			last, versions = append(last[:0], head...), 0
			if d.rows++; d.rows >= most {
				return nil
			}
		}
		if versions++; versions < versionsSkipped {
			ok = it.Next()
		} else {
			ok = it.SeekGE(keys.PrefixEnd(last))
		}
	}
	return nil
}

// choose returns the driver with the fewest rows, or nil if no clause has one. The rows
// of several are counted in rounds, so that a clause with few is found without counting
// those of the others.
func (f *finder) choose() (*driver, error) {
	if f.chosen || !rows.Generic(f.query.Type) {
		return f.driver, nil
	}
	var all []*driver
	for i := range f.query.Clauses {
		d, err := f.driverOf(i)
		if err != nil {
			return nil, err
		}
		if d != nil {
			all = append(all, d)
		}
	}
	slices.SortStableFunc(all, func(a, b *driver) int { // of two with many rows, prefer the narrow one
		if a.broad == b.broad {
			return 0
		} else if b.broad {
			return -1
		}
		return 1
	})
	best, err := f.fewest(all)
	if err == nil && best != nil && best.broad {
		most := broadProbes * int(f.searcher.bounds.Probe)
		if err = f.probeRows(best, most); best.rows >= most {
			best = nil
		} else {
			best.counted = true
		}
	}
	if err == nil {
		f.driver, f.chosen = best, true
	}
	return best, err
}

// broadProbes bounds the rows of a broad driver, as a multiple of those that a probe counts.
const broadProbes = 8

// firstProbe is the bound of the first round of probes. Each round has eight times the
// bound of the one before.
const firstProbe = 16

// fewest returns the driver with the fewest rows, or nil if there is none. If there is
// only one, its rows are not counted.
func (f *finder) fewest(all []*driver) (*driver, error) {
	if len(all) < 2 {
		return append(all, nil)[0], nil
	}
	for most := min(firstProbe, int(f.searcher.bounds.Probe)); ; most = min(8*most, int(f.searcher.bounds.Probe)) {
		best := all[0]
		for _, d := range all {
			if err := f.probeRows(d, most); err != nil {
				return nil, err
			}
			d.counted = true
			if d.rows < best.rows {
				best = d
			}
		}
		if best.rows < most || most == int(f.searcher.bounds.Probe) {
			return best, nil
		}
	}
}

// few reports whether a driver has fewer rows than a probe counts.
func (f *finder) few(d *driver) (bool, error) {
	if d == nil {
		return false, nil
	}
	if !d.counted {
		if err := f.probeRows(d, int(f.searcher.bounds.Probe)); err != nil {
			return false, err
		}
		d.counted = true
	}
	return d.rows < int(f.searcher.bounds.Probe), nil
}

// rangePos returns the position of a match in the walk of a driver.
func rangePos(d *driver, key []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{posRange}, uint16(d.clause)), key...)
}

// byRanges walks the rows of a driver. A document with several rows is emitted at the
// first of them.
func (f *finder) byRanges(d *driver, after []byte) error {
	var from []byte
	if len(after) > 0 {
		if len(after) < 4 || after[0] != posRange {
			return errPos(f.op)
		}
		i := int(binary.BigEndian.Uint16(after[1:]))
		if i >= len(f.query.Clauses) {
			return errPos(f.op)
		}
		var err error
		if d, err = f.driverOf(i); err != nil {
			return err
		}
		if d == nil {
			return errPos(f.op)
		}
		from = append(bytes.Clone(after[3:]), 0)
	}
	w := rangeWalk{finder: f, driver: d}
	if err := w.prepare(); err != nil {
		return err
	}
	return w.run(from)
}

// rangeWalk is a walk of a driver.
type rangeWalk struct {
	*finder
	driver *driver
	sel    *search.Selection // of the driver's parameters, if a document may have several rows
	rest   *evaluator        // the query without a clause that the rows decide
	it     *pebble.Iterator
}

// manyValues is the number of values of a clause from which on it is not evaluated
// again on documents whose rows decide it.
const manyValues = 8

func (w *rangeWalk) prepare() error {
	q := w.query
	if c := q.Clauses[w.driver.clause]; w.driver.exact && len(c.Values) >= manyValues {
		less := *q
		less.Clauses = slices.Delete(slices.Clone(q.Clauses), w.driver.clause, w.driver.clause+1)
		sel, err := search.Select(&less)
		if err != nil {
			return err
		}
		w.rest = &evaluator{query: &less, sel: sel}
	}
	if w.driver.single {
		return nil
	}
	var err error
	w.sel, err = selectionOf(q, w.driver.params)
	return err
}

// selectionOf returns the Selection of some parameters.
func selectionOf(q *search.Query, ps []*search.Param) (*search.Selection, error) {
	only := search.Query{Type: q.Type, Registry: q.Registry}
	for _, p := range ps {
		only.Clauses = append(only.Clauses, search.Clause{Param: p})
	}
	return search.Select(&only)
}

func (w *rangeWalk) run(from []byte) (err error) {
	spans := w.driver.spans
	if len(spans) == 0 {
		return nil
	}
	w.it, err = w.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: spans[0].lower,
		UpperBound: spans[len(spans)-1].upper})
	if err != nil {
		return err
	}
	defer fault.Close(w.it, &err)
	for i := range spans {
		lower := spans[i].lower
		if from != nil {
			if bytes.Compare(from, spans[i].upper) >= 0 {
				continue
			}
			if bytes.Compare(from, lower) > 0 {
				lower = from
			}
		}
		if more, err := w.span(i, lower); err != nil || !more {
			return err
		}
	}
	return nil
}

// versionsSkipped is the number of rows of superseded versions after which a walk seeks
// to the version that the snapshot may show.
const versionsSkipped = 4

func (w *rangeWalk) span(i int, lower []byte) (more bool, err error) {
	upper := w.driver.spans[i].upper
	var last []byte // value and id of the last row
	old := 0        // rows of it that the snapshot does not show
	for ok := w.it.SeekGE(lower); ok && bytes.Compare(w.it.Key(), upper) < 0; {
		if err := w.step(); err != nil {
			return false, err
		}
		k := w.it.Key()
		if len(k) < 8 {
			return false, fault.ErrRow
		}
		seq := store.Seq(binary.BigEndian.Uint64(k[len(k)-8:]))
		if !rows.Visible(w.it.Value(), seq, w.at) {
			head := k[:len(k)-8]
			if !bytes.Equal(head, last) {
				last, old = append(last[:0], head...), 0
			}
			if old++; old == versionsSkipped && seq <= w.at {
				ok = w.skip(last)
				continue
			}
			if old > versionsSkipped || seq > w.at { // the newest one is not shown either
				ok = w.it.SeekGE(keys.PrefixEnd(last))
				continue
			}
			ok = w.it.Next()
			continue
		}
		key := bytes.Clone(k)
		m, err := w.row(key, seq, w.it.Value())
		if err != nil {
			return false, err
		}
		if m != nil && !w.emit(m, w.position(key)) {
			return false, nil
		}
		last, old = append(last[:0], key[:len(key)-8]...), 0
		ok = w.it.Next()
	}
	return true, w.it.Error()
}

// skip moves to the newest row of a value and id at the snapshot.
func (w *rangeWalk) skip(head []byte) bool {
	return w.it.SeekLT(keys.AppendUint64(bytes.Clone(head), uint64(w.at)+1))
}

func (w *rangeWalk) position(key []byte) []byte {
	if w.passing {
		return nil
	}
	return rangePos(w.driver, key)
}

// row returns the match of a row, or nil.
func (w *rangeWalk) row(key []byte, seq store.Seq, val []byte) (*snapshot.Match, error) {
	rest, ok := keys.CutIndex(key)
	if !ok {
		return nil, fault.ErrRow
	}
	id, tail, ok := keys.CutString(rest)
	if !ok || len(tail) != 8 {
		return nil, fault.ErrRow
	}
	p, _, ok := keys.CutLocation(val[8:])
	if !ok {
		return nil, fault.ErrRow
	}
	m, err := w.snap.FetchRow(keys.Row{Location: p, Type: w.query.Type, ID: id, Seq: seq})
	if err != nil {
		return nil, err
	}
	if !w.acceptRow(m) || !w.driver.single && !w.first(m, key[:len(key)-len(rest)]) {
		return nil, nil
	}
	return m, nil
}

func (w *rangeWalk) acceptRow(m *snapshot.Match) bool {
	if w.rest == nil {
		return w.accept(m)
	}
	return !m.Document.Deleted && w.rest.matches(m) && w.filter.Allow(&m.Facts)
}

// first reports whether the row with a prefix is the first one of a document in the
// spans.
func (w *rangeWalk) first(m *snapshot.Match, prefix []byte) bool {
	v, err := search.Extractor{Registry: w.query.Registry}.ExtractFor(w.sel, m.Document.JSON)
	if err != nil {
		return false
	}
	first := true
	for _, p := range w.driver.params {
		rows.EachRow(p, v.ByParam[p.Code], func(other []byte) {
			first = first && (bytes.Compare(other, prefix) >= 0 || !within(w.driver.spans, other))
		})
	}
	return first
}
