package find

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
)

// A kind of documents is what the Observations of one cluster (a patient's, of
// one primary code) may differ in that tells what they are, rather than what
// was measured: the codings of the code, categories, status, who wrote it.
// There are few in a cluster, and when they are known the newest of each is
// found without reading the others. They are kept in memory for the clusters
// that were asked for: learned by reading all of one, then told by the
// committer.
type signature struct {
	codings        []string // "system|code", sorted
	vendor, author string
	categories     []string
	values         search.Values // of the parameters in kindParams
}

const (
	maxSignatures = 64   // of a cluster; one with more is read whole
	maxClusters   = 4096 // in memory
)

// clusterID is of a cluster.
type Cluster struct {
	Patient string
	Code    [8]byte
}

// clusters are the kinds of those that were asked for.
type signatureCache struct {
	mu     sync.Mutex
	staged store.Seq // the latest commit that note was told of, or a later one
	byID   map[Cluster]*signatures
}

// cluster holds the kinds of all documents that any snapshot from learned on
// sees, and perhaps others.
type signatures struct {
	byKey   map[string]*signature
	open    bool      // more than are worth knowing
	needs   store.Seq // to learn it a snapshot must see this
	learned store.Seq // 0: not yet
}

// note tells of a document that the committer writes at t.
func (c *signatureCache) note(seq store.Seq, id Cluster, d *rows.Document, deleted bool, values *search.Values) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.staged = max(c.staged, seq)
	if cl := c.byID[id]; cl != nil && !deleted {
		cl.add(newSignature(values, d.Vendor, d.Author, d.Categories))
	}
}

// of returns the kinds of a cluster as of a snapshot that reads at t. When they
// are not known, learn may be given what a reading of all of it at t has shown,
// unless it is nil.
func (c *signatureCache) lookup(id Cluster, seq, latest store.Seq) (kinds []*signature, known bool, learn func(map[string]*signature)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.byID[id]
	if cl == nil {
		if len(c.byID) >= maxClusters {
			clear(c.byID)
		}
		// What was staged before now is not noted: a snapshot must have it.
		cl = &signatures{byKey: map[string]*signature{}, needs: max(c.staged, latest)}
		c.byID[id] = cl
	}
	switch {
	case cl.open:
		return nil, false, nil
	case cl.learned > 0 && seq >= cl.learned:
		for _, k := range cl.byKey {
			kinds = append(kinds, k)
		}
		return kinds, true, nil
	case seq < cl.needs:
		return nil, false, nil
	}
	return nil, false, func(seen map[string]*signature) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if cl.learned > 0 && cl.learned < seq {
			return
		}
		for key, k := range seen {
			cl.add(key, k)
		}
		cl.learned = seq
	}
}

func (cl *signatures) add(key string, k *signature) {
	if cl.open || cl.byKey[key] != nil {
		return
	}
	if len(k.codings) == 0 || len(cl.byKey) == maxSignatures { // a text may be any
		cl.open, cl.byKey = true, nil
		return
	}
	cl.byKey[key] = k
}

// newKind is the kind of a document, and what tells it from others. It keeps
// nothing of its arguments.
func newSignature(v *search.Values, vendor, author string, categories []string) (string, *signature) {
	k := &signature{vendor: strings.Clone(vendor), author: strings.Clone(author),
		values: search.Values{ByParam: map[string][]search.Value{}}}
	for _, c := range categories {
		k.categories = append(k.categories, strings.Clone(c))
	}
	b := rows.AppendText(rows.AppendText(nil, vendor), author)
	for _, p := range rows.SignatureParams {
		b = binary.AppendUvarint(b, uint64(len(v.ByParam[p])))
		for _, x := range v.ByParam[p] {
			x = search.Value{System: strings.Clone(x.System), Code: strings.Clone(x.Code)}
			b = rows.AppendText(rows.AppendText(b, x.System), x.Code)
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
func (f *finder) mayMatch(k *signature) bool {
	for i := range f.query.Clauses {
		c := &f.query.Clauses[i]
		if !slices.Contains(rows.SignatureParams[:], c.Param.Code) || c.Modifier != search.NoModifier &&
			c.Modifier != search.ModNot && c.Modifier != search.ModMissing {
			continue
		}
		if !search.MatchClause(c, &k.values) {
			return false
		}
	}
	if slices.ContainsFunc(f.filter.Params("Observation"),
		func(p string) bool { return !slices.Contains(rows.SignatureParams[:], p) }) {
		return true
	}
	return f.filter.Allow(&access.Facts{Type: "Observation", Patient: f.query.Patient, Vendor: k.vendor,
		Author: k.author, Categories: k.categories,
		Tokens: func(p string) []access.Token { return snapshot.Tokens(&k.values, p) }})
}

// newestFinder finds the newest documents of each code of one patient.
type newestFinder struct {
	*merger
	// shapes caches the values of SignatureParams by the shape of the JSON.
	shapes       search.Shapes[*search.Values]
	signatureSel *search.Selection
	// The values, vendor and author of the signature that was added last.
	lastSignature struct {
		values         *search.Values
		vendor, author string
	}
}

// find gives out, of the documents of the query's patient that
// match, at least those that FindNewest promises.
func (nf *newestFinder) find(n int, give func(*snapshot.Match) bool) (more bool, err error) {
	nf.matcher = search.NewMatcher(nf.query, nf.sel)
	if nf.signatureSel, err = selectSignature(); err != nil {
		return false, err
	}
	runs, err := nf.documentRuns()
	if err != nil {
		return false, err
	}
	if codes := codesOf(nf.query); codes != nil {
		other, err := nf.otherCoding(codes)
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
		if more, err := nf.newestIn(runs[:k], n, give); err != nil || !more {
			return false, err
		}
		runs = runs[k:]
	}
	return true, nil
}

// otherCoding reports whether a document of the patient may have one of the
// codes beside its primary one.
func (nf *newestFinder) otherCoding(codes [][8]byte) (found bool, err error) {
	base := keys.Cluster(keys.TableCode, nf.patient, nf.query.Type)
	it, err := nf.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: base, UpperBound: keys.PrefixEnd(base)})
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	for _, c := range codes {
		pre := append(slices.Clone(base), c[:]...)
		if it.SeekGE(pre) && bytes.HasPrefix(it.Key(), pre) {
			return true, nil
		}
	}
	return false, it.Error()
}

// newestIn does one cluster.
func (nf *newestFinder) newestIn(runs []run, n int, give func(*snapshot.Match) bool) (bool, error) {
	kinds, known, learn := nf.searcher.clusters.lookup(Cluster{Patient: nf.patient, Code: runs[0].code}, nf.at, nf.snap.Head.Seq)
	if !known {
		return nf.wholeCluster(runs[0].code, learn, give)
	}
	w := &newest{n: n}
	for _, k := range kinds {
		if nf.mayMatch(k) {
			w.expect(k.codings)
		}
	}
	if len(w.sets) == 0 {
		return true, nil
	}
	more, failed := true, false
	y := *nf.finder
	mr := &merger{finder: &y, patient: nf.patient}
	y.emit = func(m *snapshot.Match, _ []byte) bool {
		s := w.of(nf, m)
		if failed = s == nil; failed {
			return false
		}
		if w.done(m.Row.Start) {
			return false
		}
		if s.add(m.Row.Start, n) {
			more = give(m)
		}
		return more
	}
	goOn, err := mr.mergePhase(runs, 0, true, nil)
	if err == nil && goOn && !w.done(undatedStart) {
		// The undated have no order of time: all that match are given out.
		y.emit = func(m *snapshot.Match, _ []byte) bool { more = give(m); return more }
		_, err = mr.mergePhase(runs, 1, false, nil)
	}
	if failed && err == nil {
		err = fault.ErrRow
	}
	return more, err
}

// wholeCluster gives out every match of a cluster, and learns its kinds.
func (nf *newestFinder) wholeCluster(code [8]byte, learn func(map[string]*signature),
	give func(*snapshot.Match) bool) (more bool, err error) {
	base := keys.Cluster(keys.TableDocument, nf.patient, nf.query.Type)
	pre := append(slices.Clone(base), code[:]...)
	it, err := nf.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	t := &table{docs: it}
	r := keys.Row{Location: keys.Location{Patient: nf.patient}, Type: nf.query.Type}
	seen := map[string]*signature{}
	more, nf.passing = true, true
	for ok := it.First(); ok; ok = it.Next() {
		if !r.ParseTail(it.Key()[len(base):]) {
			return false, fault.ErrRow
		}
		m, err := nf.met(r, t)
		if err != nil {
			return false, err
		}
		if m == nil || m.Document.Deleted {
			continue
		}
		if learn != nil && len(seen) <= maxSignatures {
			nf.addSignature(m, seen)
		}
		if more && nf.accept(m) {
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
func (nf *newestFinder) addSignature(m *snapshot.Match, seen map[string]*signature) {
	v := nf.signatureValues(m)
	if l := &nf.lastSignature; v == l.values && m.Document.Vendor == l.vendor && m.Document.Author == l.author {
		return // categories are among the values
	}
	nf.lastSignature.values, nf.lastSignature.vendor, nf.lastSignature.author = v, m.Document.Vendor, m.Document.Author
	if key, k := newSignature(v, m.Document.Vendor, m.Document.Author, m.Document.Categories); seen[key] == nil {
		seen[key] = k
	}
}

// kindValues are the values of kindParams of a document; of documents of one
// shape the same.
func (nf *newestFinder) signatureValues(m *snapshot.Match) *search.Values {
	if v, _, ok := nf.shapes.Find(m.Document.JSON); ok {
		return v
	}
	v, err := search.Extractor{}.ExtractFor(nf.signatureSel, m.Document.JSON)
	if err != nil {
		return &search.Values{}
	}
	nf.shapes.Learn(m.Document.JSON, func(*search.Template, []search.Leaf) (*search.Values, bool) { return v, true })
	return v
}

// kindSelection selects kindParams.
func selectSignature() (*search.Selection, error) {
	q := &search.Query{Type: "Observation"}
	for _, code := range rows.SignatureParams {
		p, ok := search.Lookup("Observation", code)
		if !ok {
			return nil, fault.ErrRow
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
func (w *newest) of(nf *newestFinder, m *snapshot.Match) *codingSet {
	v := nf.signatureValues(m)
	if w.last != nil && w.v == v {
		return w.last
	}
	_, k := newSignature(v, "", "", nil)
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
