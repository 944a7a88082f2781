package find

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"sync/atomic"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/sorted"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// finder runs one search at one snapshot.
type finder struct {
	ctx      context.Context
	op       string
	searcher *Searcher
	snap     *snapshot.Snapshot
	at       store.Seq
	query    *search.Query
	filter   access.Filter
	owner    string // whose sorted results are kept
	steps    uint
	budget   uint              // steps after which a probe fails; 0 means none
	sel      *search.Selection // of q
	// matcher of q; nil until it is needed.
	matcher *search.Matcher
	recent  rows.Recent
	// documentsOnly leaves the samples out.
	documentsOnly  bool
	since          int64 // of a scan: only what was updated after it (Unix ms)
	evaluations    map[*tier.Series]*evaluation
	body           []byte // of the sample that a scan gives out
	lastEvaluation *evaluation
	// patient whose cluster merge walks, and the rows of a type with several
	// patients that lie in the clusters of others.
	patient string
	others  []keys.Row
	// passing: a match is of no use once emit has returned, and its position
	// of none at all.
	passing bool
	reused  *snapshot.Match
	idle    *idle // of a walk over days
	// Of documents of one shape, for their kinds.
	shapes        search.Shapes[*search.Values]
	signatureSel  *search.Selection
	lastSignature struct {
		values         *search.Values
		vendor, author string
	}
	// emit takes a match and the position behind which to go on; false ends.
	emit func(m *snapshot.Match, pos []byte) bool
}

// searcher answers searches. It holds what outlives one of them.
type Searcher struct {
	bounds   Bounds
	Results  *sorted.Results
	clusters signatureCache
	looked   atomic.Uint64 // rows that finished searches looked at
}

func New(r *sorted.Results, b Bounds) *Searcher {
	return &Searcher{bounds: b, Results: r, clusters: signatureCache{byID: map[Cluster]*signatures{}}}
}

// find implements store.Store.Find at a snapshot.
func (s *Searcher) Find(ctx context.Context, op string, snap *snapshot.Snapshot, req store.Find, fn func(*store.Found) bool) error {
	n := 0
	return s.each(ctx, op, snap, req, req.Query.Sort, func(m *snapshot.Match, pos []byte) bool {
		n++
		more := fn(&store.Found{Resource: m.Resource(), Facts: &m.Facts,
			Pos: base64.RawURLEncoding.EncodeToString(pos)})
		return more && (req.Limit <= 0 || n < req.Limit)
	})
}

// count implements store.Store.Count at a snapshot.
func (s *Searcher) Count(ctx context.Context, op string, snap *snapshot.Snapshot, req store.Find) (uint64, error) {
	var n uint64
	req.After = ""
	err := s.each(ctx, op, snap, req, nil, func(*snapshot.Match, []byte) bool { n++; return true })
	return n, err
}

func (s *Searcher) each(ctx context.Context, op string, snap *snapshot.Snapshot, req store.Find, sort []search.SortKey,
	emit func(*snapshot.Match, []byte) bool) error {
	at, err := snap.At(op, req.At)
	if err != nil {
		return err
	}
	after, err := base64.RawURLEncoding.DecodeString(req.After)
	if err != nil {
		return errPos(op)
	}
	sel, err := search.Select(req.Query)
	if err != nil {
		return err
	}
	var failed error
	if req.Undeleted && at < snap.Head.Seq {
		emit = undeleted(snap, emit, &failed)
	}
	f := &finder{ctx: ctx, op: op, searcher: s, snap: snap, at: at, query: req.Query, sel: sel, filter: req.Filter, owner: req.Owner,
		emit: emit}
	if err = f.run(sort, after); err == nil {
		err = failed
	}
	s.looked.Add(uint64(f.steps))
	return fault.Wrap(op, err)
}

// undeleted leaves out what is deleted now. A version that is still current
// need not be looked up.
func undeleted(snap *snapshot.Snapshot, emit func(*snapshot.Match, []byte) bool, failed *error) func(*snapshot.Match, []byte) bool {
	return func(m *snapshot.Match, pos []byte) bool {
		if m.Series != nil || m.Document.EndSeq == 0 {
			return emit(m, pos)
		}
		p, err := rows.HeadOf(snap.Reader, fhir.Ref{Type: m.Row.Type, ID: m.Row.ID}, snap.Head.Seq)
		if err != nil {
			*failed = err
			return false
		}
		return p == nil || p.Deleted || emit(m, pos)
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
func (f *finder) run(sort []search.SortKey, after []byte) error {
	f.patient = f.query.Patient
	if len(sort) > 0 {
		return f.inOrder(sort, after)
	}
	if len(after) > 0 && after[0] == posUpdated {
		return f.updateOrder(false, after)
	}
	if len(after) == 0 && idsOf(f.query) == nil && indexClause(f.query) == nil {
		if few, err := f.fewUpdates(); err != nil || few {
			return cmp.Or(err, f.walkUpdates(false, nil))
		}
	}
	return f.unsorted(after)
}

// inOrder chooses a path that meets the rows in the wanted order, or sorts.
func (f *finder) inOrder(sort []search.SortKey, after []byte) error {
	sorted := len(after) > 0 && after[0] == posSort
	if idsOf(f.query) != nil || sorted {
		return f.sorted(sort, after)
	}
	if len(sort) == 1 && sort[0].Param == keys.DateParam(f.query.Type) {
		one, several := f.onePatient()
		switch {
		case f.query.Patient != "":
			return f.mergeOrFew(sort[0].Desc, after)
		case several:
			return f.mergeSeveral(one, sort[0].Desc, after)
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
		return f.merge(codesOf(f.query), desc, after)
	}
	phase, from, err := takeMergePos(f.op, after)
	if err != nil {
		return err
	}
	return f.fewDated(desc, phase, from)
}

// unsorted chooses the path that looks at the fewest rows.
func (f *finder) unsorted(after []byte) error {
	q := f.query
	if ids := idsOf(q); ids != nil {
		return f.byID(ids, after)
	}
	if q.Patient != "" {
		if codes := codesOf(q); codes != nil {
			return f.merge(codes, false, after)
		}
		return f.documents(q.Patient, true, after)
	}
	if c := indexClause(q); c != nil {
		return f.byIndex(c, after)
	}
	if codes := codesOf(q); codes != nil {
		return f.byCode(codes, after)
	}
	return f.documents("", false, after)
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
			if h := keys.CodeHash(c.Values[j].Code); !slices.Contains(out, h) {
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
		if !rows.Indexed(c.Param) || len(c.Values) == 0 || c.Modifier != search.NoModifier && c.Modifier != search.ModType {
			continue
		}
		r := 1
		switch {
		case c.Param.Code == "identifier":
			r = 4
		case c.Param.Kind == search.TypeReference:
			r = 3
		case c.Param.Kind == search.TypeURI:
			r = 2
		}
		for j := range c.Values {
			if rows.IndexValue(c.Param.Kind, &c.Values[j]) == "" {
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
func (f *finder) step() error {
	f.steps++
	if f.budget > 0 && f.steps > f.budget {
		return errProbe
	}
	if f.steps%64 == 0 && f.ctx.Err() != nil {
		return fault.Canceled(f.op, f.ctx.Err())
	}
	return nil
}

// accept reports whether a document, known to be current at the snapshot, matches
// and may be seen.
func (f *finder) accept(m *snapshot.Match) bool {
	if m.Series != nil {
		return f.matchesSample(m.Series, &m.Sample) && f.filter.Allow(&m.Facts)
	}
	return !m.Document.Deleted && f.satisfied(m) && f.filter.Allow(&m.Facts)
}

// satisfied reports whether a document meets every clause of the query.
func (f *finder) satisfied(m *snapshot.Match) bool {
	if m.Values != nil {
		return search.Match(f.query, m.Values)
	}
	if f.matcher == nil {
		f.matcher = search.NewMatcher(f.query, f.sel)
	}
	return f.matcher.Match(m.Document.JSON)
}

func (f *finder) byID(ids []string, after []byte) error {
	from := ""
	if len(after) > 0 {
		if after[0] != posID {
			return errPos(f.op)
		}
		from = string(after[1:])
	}
	for _, id := range ids {
		if id <= from {
			continue
		}
		if err := f.step(); err != nil {
			return err
		}
		m, err := f.snap.Current(fhir.Ref{Type: f.query.Type, ID: id}, f.at)
		if err != nil {
			return err
		}
		if m == nil || f.documentsOnly && m.Series != nil {
			continue
		}
		if f.accept(m) && !f.emit(m, append([]byte{posID}, id...)) {
			return nil
		}
	}
	return nil
}

// documents walks D: one patient's cluster of the type, or every patient's.
func (f *finder) documents(patient string, one bool, after []byte) error {
	var from []byte
	if len(after) > 0 {
		if after[0] != posDoc || len(after) < 2 || after[1] != keys.TableDocument {
			return errPos(f.op)
		}
		from = append(slices.Clone(after[1:]), 0)
	}
	return f.rows(patient, one, from, func(key []byte, r keys.Row, t *table) (bool, error) {
		m, err := f.met(r, t)
		if err != nil || m == nil || !f.accept(m) {
			return true, err
		}
		if f.passing {
			return f.emit(m, nil), nil
		}
		return f.emit(m, append([]byte{posDoc}, key...)), nil
	})
}

// met is what a D row holds, nil when the snapshot does not see it.
func (f *finder) met(r keys.Row, t *table) (*snapshot.Match, error) {
	if err := f.step(); err != nil {
		return nil, err
	}
	if ser, s := t.sampled(); ser != nil {
		return snapshot.NewSample(ser, &s), nil
	}
	val := t.Value()
	if !rows.Visible(val, r.Seq, f.at) {
		return nil, nil
	}
	d, err := f.snap.Templates.Document(f.snap.Reader, &f.recent, r.Type, r.ID, val)
	if err != nil {
		return nil, err
	}
	if !f.passing {
		return snapshot.NewMatch(r, d), nil
	}
	if f.reused == nil {
		f.reused = snapshot.NewMatch(r, d)
	}
	f.reused.Set(r, d)
	return f.reused, nil
}

// rows calls fn for the D rows of the type in key order, from a key on (nil:
// the start), skipping other types of each patient with one seek.
func (f *finder) rows(patient string, one bool, from []byte,
	fn func(key []byte, r keys.Row, t *table) (bool, error)) (err error) {
	typ := f.query.Type
	lower, upper := []byte{keys.TableDocument}, []byte{keys.TableDocument + 1}
	if one {
		lower = keys.Cluster(keys.TableDocument, patient, typ)
		upper = keys.PrefixEnd(lower)
	}
	if from != nil && bytes.Compare(from, lower) > 0 {
		lower = from
	}
	if bytes.Compare(lower, upper) >= 0 {
		return nil
	}
	it, err := f.openTable(keys.TableDocument, lower, upper)
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	var cluster []byte
	var r keys.Row
	ok := it.First()
	for ok {
		k := it.Key()
		if cluster == nil || !bytes.HasPrefix(k, cluster) {
			p, rest, good := keys.CutString(k[1:])
			if !good {
				return fault.ErrRow
			}
			t, _, good := keys.CutString(rest)
			if !good {
				return fault.ErrRow
			}
			if c := strings.Compare(t, typ); c < 0 {
				ok = it.SeekGE(keys.Cluster(keys.TableDocument, p, typ))
				continue
			} else if c > 0 {
				ok = it.SeekGE(keys.PrefixEnd(keys.AppendString([]byte{keys.TableDocument}, p)))
				continue
			}
			cluster = keys.Cluster(keys.TableDocument, p, typ)
			r.Patient, r.Type = p, t
		}
		if !it.here && !r.ParseTail(k[len(cluster):]) {
			return fault.ErrRow
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
func (f *finder) byIndex(c *search.Clause, after []byte) error {
	var values []string
	for i := range c.Values {
		if s := rows.IndexValue(c.Param.Kind, &c.Values[i]); !slices.Contains(values, s) {
			values = append(values, s)
		}
	}
	slices.Sort(values)
	first := 0
	var from []byte
	if len(after) > 0 {
		if after[0] != posIndex || len(after) < 3 {
			return errPos(f.op)
		}
		if first = int(binary.BigEndian.Uint16(after[1:])); first >= len(values) {
			return errPos(f.op)
		}
		from = after[3:]
	}
	for i := first; i < len(values); i++ {
		more, err := f.oneValue(c, values, i, from)
		if err != nil || !more {
			return err
		}
		from = nil
	}
	return nil
}

// indexed is the document of an X row, nil when the snapshot does not see it.
func (f *finder) indexed(tail, val []byte) (*snapshot.Match, error) {
	id, rest, good := keys.CutString(tail)
	if !good || len(rest) != 8 {
		return nil, fault.ErrRow
	}
	seq := store.Seq(binary.BigEndian.Uint64(rest))
	if !rows.Visible(val, seq, f.at) {
		return nil, nil
	}
	p, _, good := keys.CutLocation(val[8:])
	if !good {
		return nil, fault.ErrRow
	}
	return f.snap.FetchRow(keys.Row{Location: p, Type: f.query.Type, ID: id, Seq: seq})
}

// indexPos is the beginning of a position in the walk of value i.
func indexPos(i int) []byte { return binary.BigEndian.AppendUint16([]byte{posIndex}, uint16(i)) }

// earlier reports whether m has a row under one of values.
func earlier(m *snapshot.Match, c *search.Clause, values []string) bool {
	if len(values) == 0 {
		return false
	}
	have := m.Index().ByParam[c.Param.Code]
	for i := range have {
		if slices.Contains(values, rows.IndexValue(c.Param.Kind, &have[i])) {
			return true
		}
	}
	return false
}

// bounds of what a search holds in memory. The tests make them small.
type Bounds struct {
	DayBatch int    // rows of a walk by date over all patients
	Probe    uint   // rows looked at to see whether the matches of a code are few
	Few      uint64 // resources that are few enough to be met by lastUpdated
	Others   int    // rows of mergeSeveral
}

var DefaultBounds = Bounds{DayBatch: 1024, Probe: 1024, Few: 4096, Others: 100_000}

// tidy lets go of sorted results that are no longer asked for.
func (s *Searcher) Tidy() { s.Results.Tidy() }

// close removes the sorted results.
func (s *Searcher) Close() error { return s.Results.Close() }

// note tells the searches of a document that the committer writes at t.
func (s *Searcher) Note(seq store.Seq, id Cluster, d *rows.Document, deleted bool, values *search.Values) {
	s.clusters.note(seq, id, d, deleted, values)
}

// rowsRead returns the number of rows that finished searches looked at.
func (s *Searcher) RowsRead() uint64 { return s.looked.Load() }
