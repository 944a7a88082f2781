package pebblestore

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// A kind of documents is what the Observations of one cluster (a patient's, of
// one primary code) may differ in that tells what they are, rather than what
// was measured: the codings of the code, categories, status, who wrote it.
// There are few in a cluster, and when they are known the newest of each is
// found without reading the others. They are kept in memory for the clusters
// that were asked for: learned by reading all of one, then told by the
// committer.
type kind struct {
	codings        []string // "system|code", sorted
	vendor, author string
	categories     []string
	values         search.Values // of the parameters in kindParams
}

// kindParams are what kinds know of; no leaf of a Shape is part of them.
var kindParams = [...]string{"category", "code", "status"} // read only

const (
	maxKinds    = 64   // of a cluster; one with more is read whole
	maxClusters = 4096 // in memory
)

// clusterID is of a cluster.
type clusterID struct {
	patient string
	code    [8]byte
}

// clusters are the kinds of those that were asked for.
type clusters struct {
	mu     sync.Mutex
	staged store.Seq // the latest commit that note was told of, or a later one
	byID   *simplelru.LRU[clusterID, *cluster]
}

// cluster holds the kinds of all documents that any snapshot from learned on
// sees, and perhaps others.
type cluster struct {
	kinds   map[string]*kind
	open    bool      // more than are worth knowing
	needs   store.Seq // to learn it a snapshot must see this
	learned store.Seq // 0: not yet
}

// note tells of a document that the committer writes at t.
func (c *clusters) note(t store.Seq, cur *current) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.staged = max(c.staged, t)
	if cl, ok := c.byID.Peek(clusterID{cur.patient, cur.code}); ok && !cur.deleted {
		cl.add(newKind(cur.values, cur.doc.vendor, cur.doc.author, cur.doc.categories))
	}
}

// of returns the kinds of a cluster as of a snapshot that reads at t. When they
// are not known, learn may be given what a reading of all of it at t has shown,
// unless it is nil.
func (c *clusters) of(id clusterID, t, latest store.Seq) (kinds []*kind, known bool, learn func(map[string]*kind)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl, ok := c.byID.Get(id)
	if !ok {
		// What was staged before now is not noted: a snapshot must have it.
		cl = &cluster{kinds: map[string]*kind{}, needs: max(c.staged, latest)}
		c.byID.Add(id, cl)
	}
	switch {
	case cl.open:
		return nil, false, nil
	case cl.learned > 0 && t >= cl.learned:
		for _, k := range cl.kinds {
			kinds = append(kinds, k)
		}
		return kinds, true, nil
	case t < cl.needs:
		return nil, false, nil
	}
	return nil, false, func(seen map[string]*kind) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if cl.learned > 0 && cl.learned < t {
			return
		}
		for key, k := range seen {
			cl.add(key, k)
		}
		cl.learned = t
	}
}

func (cl *cluster) add(key string, k *kind) {
	if cl.open || cl.kinds[key] != nil {
		return
	}
	if len(k.codings) == 0 || len(cl.kinds) == maxKinds { // a text may be any
		cl.open, cl.kinds = true, nil
		return
	}
	cl.kinds[key] = k
}

// newKind is the kind of a document, and what tells it from others. It keeps
// nothing of its arguments.
func newKind(v *search.Values, vendor, author string, categories []string) (string, *kind) {
	k := &kind{vendor: strings.Clone(vendor), author: strings.Clone(author),
		values: search.Values{ByParam: map[string][]search.Value{}}}
	for _, c := range categories {
		k.categories = append(k.categories, strings.Clone(c))
	}
	b := appendText(appendText(nil, vendor), author)
	for _, p := range kindParams {
		b = binary.AppendUvarint(b, uint64(len(v.ByParam[p])))
		for _, x := range v.ByParam[p] {
			x = search.Value{System: strings.Clone(x.System), Code: strings.Clone(x.Code)}
			b = appendText(appendText(b, x.System), x.Code)
			k.values.ByParam[p] = append(k.values.ByParam[p], x)
			if c := x.System + "|" + x.Code; p == "code" && x.Code != "" && !slices.Contains(k.codings, c) {
				k.codings = append(k.codings, c)
			}
		}
	}
	slices.Sort(k.codings)
	return string(b), k
}

// may reports whether a document of the kind can match and be seen, as far as
// the kind tells.
func (x *finder) may(k *kind) bool {
	for i := range x.q.Clauses {
		c := &x.q.Clauses[i]
		if !slices.Contains(kindParams[:], c.Param.Code) || c.Modifier != search.NoModifier &&
			c.Modifier != search.ModNot && c.Modifier != search.ModMissing {
			continue
		}
		if !search.MatchClause(c, &k.values) {
			return false
		}
	}
	if slices.ContainsFunc(x.filter.Params("Observation"),
		func(p string) bool { return !slices.Contains(kindParams[:], p) }) {
		return true
	}
	return x.filter.Allow(&access.Facts{Type: "Observation", Patient: x.q.Patient, Vendor: k.vendor,
		Author: k.author, Categories: k.categories,
		Tokens: func(p string) []access.Token { return tokensOf(&k.values, p) }})
}

// newestDocuments gives out, of the documents of the query's patient that
// match, at least those that FindNewest promises.
func (x *finder) newestDocuments(n int, give func(*match) bool) (more bool, err error) {
	x.patient, x.matcher = x.q.Patient, search.NewMatcher(x.q, x.sel)
	if x.kindSel, err = kindSelection(); err != nil {
		return false, err
	}
	runs, err := x.documentRuns()
	if err != nil {
		return false, err
	}
	if codes := codesOf(x.q); codes != nil {
		other, err := x.otherCoding(codes)
		if err != nil {
			return false, err
		}
		if !other {
			runs = slices.DeleteFunc(runs, func(r run) bool { return !slices.Contains(codes, r.code) })
		}
	}
	for len(runs) > 0 {
		k := 1
		for k < len(runs) && runs[k].code == runs[0].code {
			k++
		}
		if more, err := x.newestIn(runs[:k], n, give); err != nil || !more {
			return false, err
		}
		runs = runs[k:]
	}
	return true, nil
}

// otherCoding reports whether a document of the patient may have one of the
// codes beside its primary one.
func (x *finder) otherCoding(codes [][8]byte) (found bool, err error) {
	base := clusterKey(tabCode, x.patient, x.q.Type)
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: base, UpperBound: next(base)})
	if err != nil {
		return false, err
	}
	defer closing(it, &err)
	for _, c := range codes {
		pre := append(slices.Clone(base), c[:]...)
		if it.SeekGE(pre) && bytes.HasPrefix(it.Key(), pre) {
			return true, nil
		}
	}
	return false, it.Error()
}

// newestIn does one cluster.
func (x *finder) newestIn(runs []run, n int, give func(*match) bool) (bool, error) {
	kinds, known, learn := x.d.clusters.of(clusterID{x.patient, runs[0].code}, x.at, x.v.meta.t)
	if !known {
		return x.wholeCluster(runs[0].code, learn, give)
	}
	w := &newest{n: n}
	for _, k := range kinds {
		if x.may(k) {
			w.expect(k.codings)
		}
	}
	if len(w.sets) == 0 {
		return true, nil
	}
	more, failed := true, false
	y := *x
	y.emit = func(m *match, _ []byte) bool {
		s := w.of(&y, m)
		if failed = s == nil; failed {
			return false
		}
		if w.done(m.row.start) {
			return false
		}
		if s.add(m.row.start, n) {
			more = give(m)
		}
		return more
	}
	goOn, err := y.mergePhase(runs, 0, true, nil)
	if err == nil && goOn && !w.done(undatedStart) {
		// The undated have no order of time: all that match are given out.
		y.emit = func(m *match, _ []byte) bool { more = give(m); return more }
		_, err = y.mergePhase(runs, 1, false, nil)
	}
	if failed && err == nil {
		err = errRow
	}
	return more, err
}

// wholeCluster gives out every match of a cluster, and learns its kinds.
func (x *finder) wholeCluster(code [8]byte, learn func(map[string]*kind),
	give func(*match) bool) (more bool, err error) {
	base := clusterKey(tabDoc, x.patient, x.q.Type)
	pre := append(slices.Clone(base), code[:]...)
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return false, err
	}
	defer closing(it, &err)
	t := &table{docs: it}
	r := row{place: place{patient: x.patient}, typ: x.q.Type}
	seen := map[string]*kind{}
	more, x.passing = true, true
	for ok := it.First(); ok; ok = it.Next() {
		if !r.tail(it.Key()[len(base):]) {
			return false, errRow
		}
		m, err := x.met(r, t)
		if err != nil {
			return false, err
		}
		if m == nil || m.doc.deleted {
			continue
		}
		if learn != nil && len(seen) <= maxKinds {
			x.kindOf(m, seen)
		}
		if more && x.accept(m) {
			if more = give(m); !more {
				return false, nil
			}
		}
	}
	if err := it.Error(); err != nil {
		return false, err
	}
	if learn != nil {
		learn(seen)
	}
	return true, nil
}

// kindOf adds the kind of a document to those that were seen.
func (x *finder) kindOf(m *match, seen map[string]*kind) {
	v := x.kindValues(m)
	if l := &x.kindLast; v == l.values && m.doc.vendor == l.vendor && m.doc.author == l.author {
		return // categories are among the values
	}
	x.kindLast.values, x.kindLast.vendor, x.kindLast.author = v, m.doc.vendor, m.doc.author
	if key, k := newKind(v, m.doc.vendor, m.doc.author, m.doc.categories); seen[key] == nil {
		seen[key] = k
	}
}

// kindValues are the values of kindParams of a document; of documents of one
// shape the same.
func (x *finder) kindValues(m *match) *search.Values {
	if v, _, ok := x.kindShapes.Find(m.doc.json); ok {
		return v
	}
	v, err := search.Extractor{}.ExtractFor(x.kindSel, m.doc.json)
	if err != nil {
		return &search.Values{}
	}
	x.kindShapes.Learn(m.doc.json, func(*search.Template, []search.Leaf) (*search.Values, bool) { return v, true })
	return v
}

// kindSelection selects kindParams.
func kindSelection() (*search.Selection, error) {
	q := &search.Query{Type: "Observation"}
	for _, code := range kindParams {
		p, ok := search.Lookup("Observation", code)
		if !ok {
			return nil, errRow
		}
		q.Clauses = append(q.Clauses, search.Clause{Param: p})
	}
	return search.Select(q)
}

// newest counts what a walk from the newest on has met.
type newest struct {
	n    int
	sets []*codingSet
	last *codingSet
	v    *search.Values // of last
}

// codingSet are the documents with the same codings.
type codingSet struct {
	codings []string
	got     int
	nth     int64 // start of the n-th
}

// undatedStart is before every start.
const undatedStart = -1 << 63

func (w *newest) expect(codings []string) *codingSet {
	for _, s := range w.sets {
		if slices.Equal(s.codings, codings) {
			return s
		}
	}
	s := &codingSet{codings: codings}
	w.sets = append(w.sets, s)
	return s
}

// of is the set of a document; nil for one without codings, which no known
// cluster has.
func (w *newest) of(x *finder, m *match) *codingSet {
	v := x.kindValues(m)
	if w.last != nil && w.v == v {
		return w.last
	}
	_, k := newKind(v, "", "", nil)
	if len(k.codings) == 0 {
		return nil
	}
	w.last, w.v = w.expect(k.codings), v
	return w.last
}

// add counts a match; false when it is not among the newest of its set.
func (s *codingSet) add(start int64, n int) bool {
	if s.got >= n && start < s.nth {
		return false
	}
	if s.got++; s.got == n {
		s.nth = start
	}
	return true
}

// done reports whether nothing that begins at start or before is among the
// newest of its group: of each set, or of one with all of its codings, the
// newest are there.
func (w *newest) done(start int64) bool {
	for _, s := range w.sets {
		if !slices.ContainsFunc(w.sets, func(o *codingSet) bool {
			return o.got >= w.n && start < o.nth &&
				!slices.ContainsFunc(s.codings, func(c string) bool { return !slices.Contains(o.codings, c) })
		}) {
			return false
		}
	}
	return true
}
