package pebblestore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// finder runs one search at one snapshot.
type finder struct {
	ctx    context.Context
	op     string
	v      *view
	at     store.Seq
	q      *search.Query
	filter access.Filter
	owner  string // whose sorted results are kept
	steps  uint
	budget uint              // steps after which a probe fails; 0 means none
	sel    *search.Selection // of q
	// matcher of q; nil until it is needed.
	matcher *search.Matcher
	recent  recent
	d       *DB
	// documentsOnly leaves the samples out.
	documentsOnly bool
	since         int64 // of a scan: only what was updated after it (Unix ms)
	series        map[*seriesInfo]*judged
	body          []byte // of the sample that a scan gives out
	last          *judged
	// patient whose cluster merge walks, and the rows of a type with several
	// patients that lie in the clusters of others.
	patient string
	others  []row
	// passing: a match is of no use once emit has returned, and its position
	// of none at all.
	passing bool
	room    *match
	free    *idle // of a walk over days
	// Of documents of one shape, for their kinds.
	kindShapes search.TemplateCache[*search.Values]
	kindSel    *search.Selection
	kindLast   struct {
		values         *search.Values
		vendor, author string
	}
	// emit takes a match and the position behind which to go on; false ends.
	emit func(m *match, pos []byte) bool
}

// Find is of store.Store.
func (d *DB) Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error {
	n := 0
	return d.find(ctx, "pebblestore.Find", f, f.Query.Sort, func(m *match, pos []byte) bool {
		n++
		more := fn(&store.Found{Resource: m.resource(), Facts: &m.facts,
			Pos: base64.RawURLEncoding.EncodeToString(pos)})
		return more && (f.Limit <= 0 || n < f.Limit)
	})
}

// Count is of store.Store.
func (d *DB) Count(ctx context.Context, f store.Find) (uint64, error) {
	var n uint64
	f.After = ""
	err := d.find(ctx, "pebblestore.Count", f, nil, func(*match, []byte) bool { n++; return true })
	return n, err
}

func (d *DB) find(ctx context.Context, op string, f store.Find, sort []search.SortKey,
	emit func(*match, []byte) bool) error {
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	at, err := v.at(op, f.At)
	if err != nil {
		return err
	}
	after, err := base64.RawURLEncoding.DecodeString(f.After)
	if err != nil {
		return errPos(op)
	}
	sel, err := search.Select(f.Query)
	if err != nil {
		return err
	}
	var failed error
	if f.Undeleted && at < v.meta.t {
		emit = v.undeleted(emit, &failed)
	}
	x := &finder{ctx: ctx, op: op, d: d, v: v, at: at, q: f.Query, sel: sel, filter: f.Filter, owner: f.Owner,
		emit: emit}
	if err = x.run(sort, after); err == nil {
		err = failed
	}
	d.looked.Add(uint64(x.steps))
	return faulted(op, err)
}

// undeleted leaves out what is deleted now. A version that is still current
// need not be looked up.
func (v *view) undeleted(emit func(*match, []byte) bool, failed *error) func(*match, []byte) bool {
	return func(m *match, pos []byte) bool {
		if m.in != nil || m.doc.to == 0 {
			return emit(m, pos)
		}
		p, err := headOf(v.snap, fhir.Ref{Type: m.row.typ, ID: m.row.id}, v.meta.t)
		if err != nil {
			*failed = err
			return false
		}
		return p == nil || p.deleted || emit(m, pos)
	}
}

func errPos(op string) error {
	return fhir.Errorf(fhir.Invalid, op, "the position does not belong to this search")
}

// Positions begin with a letter for the path that made them.
const (
	posID      = 'i'
	posMerge   = 'm'
	posDoc     = 'd'
	posCode    = 'c'
	posIndex   = 'x'
	posSort    = 's'
	posUpdated = 'u'
)

// run chooses the path. Without _sort each path has an order of its own.
func (x *finder) run(sort []search.SortKey, after []byte) error {
	x.patient = x.q.Patient
	if len(sort) > 0 {
		return x.inOrder(sort, after)
	}
	if len(after) > 0 && after[0] == posUpdated {
		return x.updateOrder(false, after)
	}
	if len(after) == 0 && idsOf(x.q) == nil && indexClause(x.q) == nil {
		if few, err := x.fewUpdates(); err != nil || few {
			return cmp.Or(err, x.walkUpdates(false, nil))
		}
	}
	return x.unsorted(after)
}

// inOrder chooses a path that meets the rows in the wanted order, or sorts.
func (x *finder) inOrder(sort []search.SortKey, after []byte) error {
	sorted := len(after) > 0 && after[0] == posSort
	if idsOf(x.q) != nil || sorted {
		return x.sorted(sort, after)
	}
	if len(sort) == 1 && sort[0].Param == dateParam(x.q.Type) {
		one, several := x.onePatient()
		switch {
		case x.q.Patient != "":
			return x.mergeOrFew(sort[0].Desc, after)
		case several:
			return x.mergeSeveral(one, sort[0].Desc, after)
		case indexClause(x.q) == nil:
			return x.days(sort[0].Desc, after)
		}
	}
	if byUpdate(sort) && (x.q.Patient != "" || indexClause(x.q) == nil) {
		return x.updateOrder(sort[0].Desc, after)
	}
	return x.sorted(sort, after)
}

// mergeOrFew merges a patient's clusters in order of date, unless a bound on
// lastUpdated leaves few matches.
func (x *finder) mergeOrFew(desc bool, after []byte) error {
	few, err := x.fewUpdates()
	if err != nil {
		return err
	}
	if !few {
		return x.merge(codesOf(x.q), desc, after)
	}
	phase, from, err := takeMergePos(x.op, after)
	if err != nil {
		return err
	}
	return x.fewDated(desc, phase, from)
}

// unsorted chooses the path that looks at the fewest rows.
func (x *finder) unsorted(after []byte) error {
	q := x.q
	if ids := idsOf(q); ids != nil {
		return x.byID(ids, after)
	}
	if q.Patient != "" {
		if codes := codesOf(q); codes != nil {
			return x.merge(codes, false, after)
		}
		return x.documents(q.Patient, true, after)
	}
	if c := indexClause(q); c != nil {
		return x.byIndex(c, after)
	}
	if codes := codesOf(q); codes != nil {
		return x.byCode(codes, after)
	}
	return x.documents("", false, after)
}

// dateParam is the parameter whose value is the start in a type's D keys, for
// types of patients with one clinical time.
func dateParam(typ string) string {
	switch typ {
	case "Observation", "Consent", "AuditEvent":
		return "date"
	case "Provenance":
		return "recorded"
	}
	return ""
}

// idsOf returns the wanted ids, sorted, when the query names them.
func idsOf(q *search.Query) []string {
	for i := range q.Clauses {
		c := &q.Clauses[i]
		if c.Param.Code != "_id" || c.Modifier != search.NoModifier || len(c.Values) == 0 {
			continue
		}
		ids := []string{}
		for j := range c.Values {
			ids = append(ids, c.Values[j].Code)
		}
		slices.Sort(ids)
		return slices.Compact(ids)
	}
	return nil
}

// codesOf returns the clusters of the query's code clause, nil when it has
// none that names codes.
func codesOf(q *search.Query) [][8]byte {
	if q.Type != "Observation" {
		return nil
	}
next:
	for i := range q.Clauses {
		c := &q.Clauses[i]
		if c.Param.Code != "code" || c.Modifier != search.NoModifier || len(c.Values) == 0 {
			continue
		}
		var out [][8]byte
		for j := range c.Values {
			if c.Values[j].Code == "" {
				continue next
			}
			if h := codeHash(c.Values[j].Code); !slices.Contains(out, h) {
				out = append(out, h)
			}
		}
		return out
	}
	return nil
}

// indexClause chooses the clause to look up in X, the most selective kind
// first; nil when none can be.
func indexClause(q *search.Query) *search.Clause {
	var best *search.Clause
	rank := 0
	for i := range q.Clauses {
		c := &q.Clauses[i]
		if !indexed(c.Param) || len(c.Values) == 0 || c.Modifier != search.NoModifier && c.Modifier != search.ModType {
			continue
		}
		r := 1
		switch {
		case c.Param.Code == "identifier":
			r = 4
		case c.Param.Type == search.TypeReference:
			r = 3
		case c.Param.Type == search.TypeURI:
			r = 2
		}
		for j := range c.Values {
			if indexValue(c.Param.Type, &c.Values[j]) == "" {
				r = 0
			}
		}
		if r > rank {
			best, rank = c, r
		}
	}
	return best
}

// step looks at the context now and then.
func (x *finder) step() error {
	x.steps++
	if x.budget > 0 && x.steps > x.budget {
		return errProbe
	}
	if x.steps%64 == 0 && x.ctx.Err() != nil {
		return canceled(x.op, x.ctx.Err())
	}
	return nil
}

// accept reports whether a document, known to be current at the snapshot, matches
// and may be seen.
func (x *finder) accept(m *match) bool {
	if m.in != nil {
		return x.fits(m.in, &m.smp) && x.filter.Allow(&m.facts)
	}
	return !m.doc.deleted && x.satisfied(m) && x.filter.Allow(&m.facts)
}

// satisfied reports whether a document meets every clause of the query.
func (x *finder) satisfied(m *match) bool {
	if m.values != nil {
		return search.Match(x.q, m.values)
	}
	if x.matcher == nil {
		x.matcher = search.NewMatcher(x.q, x.sel)
	}
	return x.matcher.Match(m.doc.json)
}

// visible looks at to-T before anything is decoded.
func visible(v []byte, from, at store.Seq) bool {
	if len(v) < 8 || from > at {
		return false
	}
	to := store.Seq(binary.BigEndian.Uint64(v))
	return to == 0 || to > at
}

func (x *finder) byID(ids []string, after []byte) error {
	from := ""
	if len(after) > 0 {
		if after[0] != posID {
			return errPos(x.op)
		}
		from = string(after[1:])
	}
	for _, id := range ids {
		if id <= from {
			continue
		}
		if err := x.step(); err != nil {
			return err
		}
		m, err := x.d.current(x.v, fhir.Ref{Type: x.q.Type, ID: id}, x.at)
		if err != nil {
			return err
		}
		if m == nil || x.documentsOnly && m.in != nil {
			continue
		}
		if x.accept(m) && !x.emit(m, append([]byte{posID}, id...)) {
			return nil
		}
	}
	return nil
}

// documents walks D: one patient's cluster of the type, or every patient's.
func (x *finder) documents(patient string, one bool, after []byte) error {
	var from []byte
	if len(after) > 0 {
		if after[0] != posDoc || len(after) < 2 || after[1] != tabDoc {
			return errPos(x.op)
		}
		from = append(slices.Clone(after[1:]), 0)
	}
	return x.rows(patient, one, from, func(key []byte, r row, t *table) (bool, error) {
		m, err := x.met(r, t)
		if err != nil || m == nil || !x.accept(m) {
			return true, err
		}
		if x.passing {
			return x.emit(m, nil), nil
		}
		return x.emit(m, append([]byte{posDoc}, key...)), nil
	})
}

// met is what a D row holds, nil when the snapshot does not see it.
func (x *finder) met(r row, t *table) (*match, error) {
	if err := x.step(); err != nil {
		return nil, err
	}
	if in, s := t.sampled(); in != nil {
		return newSample(in, &s), nil
	}
	val := t.Value()
	if !visible(val, r.t, x.at) {
		return nil, nil
	}
	d, err := x.d.forms.doc(x.v.snap, &x.recent, r.typ, r.id, val)
	if err != nil {
		return nil, err
	}
	if !x.passing {
		return newMatch(r, d), nil
	}
	if x.room == nil {
		x.room = newMatch(r, d)
	}
	x.room.set(r, d)
	return x.room, nil
}

// rows calls fn for the D rows of the type in key order, from a key on (nil:
// the start), skipping other types of each patient with one seek.
func (x *finder) rows(patient string, one bool, from []byte,
	fn func(key []byte, r row, t *table) (bool, error)) (err error) {
	typ := x.q.Type
	lower, upper := []byte{tabDoc}, []byte{tabDoc + 1}
	if one {
		lower = clusterKey(tabDoc, patient, typ)
		upper = next(lower)
	}
	if from != nil && bytes.Compare(from, lower) > 0 {
		lower = from
	}
	if bytes.Compare(lower, upper) >= 0 {
		return nil
	}
	it, err := x.openTable(tabDoc, lower, upper)
	if err != nil {
		return err
	}
	defer closing(it, &err)
	var cluster []byte
	var r row
	ok := it.First()
	for ok {
		k := it.Key()
		if cluster == nil || !bytes.HasPrefix(k, cluster) {
			p, rest, good := takeStr(k[1:])
			if !good {
				return errRow
			}
			t, _, good := takeStr(rest)
			if !good {
				return errRow
			}
			if c := strings.Compare(t, typ); c < 0 {
				ok = it.SeekGE(clusterKey(tabDoc, p, typ))
				continue
			} else if c > 0 {
				ok = it.SeekGE(next(appendStr([]byte{tabDoc}, p)))
				continue
			}
			cluster = clusterKey(tabDoc, p, typ)
			r.patient, r.typ = p, t
		}
		if !it.here && !r.tail(k[len(cluster):]) {
			return errRow
		}
		more, err := fn(k, r, it)
		if err != nil || !more {
			return err
		}
		ok = it.Next()
	}
	return it.Error()
}

// byIndex walks the X rows of each wanted value in turn. A resource that an
// earlier value has given out already is passed over.
func (x *finder) byIndex(c *search.Clause, after []byte) error {
	var values []string
	for i := range c.Values {
		if s := indexValue(c.Param.Type, &c.Values[i]); !slices.Contains(values, s) {
			values = append(values, s)
		}
	}
	slices.Sort(values)
	first := 0
	var from []byte
	if len(after) > 0 {
		if after[0] != posIndex || len(after) < 3 {
			return errPos(x.op)
		}
		if first = int(binary.BigEndian.Uint16(after[1:])); first >= len(values) {
			return errPos(x.op)
		}
		from = after[3:]
	}
	for i := first; i < len(values); i++ {
		more, err := x.oneValue(c, values, i, from)
		if err != nil || !more {
			return err
		}
		from = nil
	}
	return nil
}

// indexed is the document of an X row, nil when the snapshot does not see it.
func (x *finder) indexed(tail, val []byte) (*match, error) {
	id, rest, good := takeStr(tail)
	if !good || len(rest) != 8 {
		return nil, errRow
	}
	t := store.Seq(binary.BigEndian.Uint64(rest))
	if !visible(val, t, x.at) {
		return nil, nil
	}
	p, _, good := takePlace(val[8:])
	if !good {
		return nil, errRow
	}
	return x.v.fetchRow(row{place: p, typ: x.q.Type, id: id, t: t})
}

// indexPos is the beginning of a position in the walk of value i.
func indexPos(i int) []byte { return binary.BigEndian.AppendUint16([]byte{posIndex}, uint16(i)) }

// earlier reports whether m has a row under one of values.
func earlier(m *match, c *search.Clause, values []string) bool {
	if len(values) == 0 {
		return false
	}
	have := m.index().ByParam[c.Param.Code]
	for i := range have {
		if slices.Contains(values, indexValue(c.Param.Type, &have[i])) {
			return true
		}
	}
	return false
}
