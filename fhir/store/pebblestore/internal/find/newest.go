package find

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
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
)

// A signature holds the facts in which the Observations of one cluster (a patient
// and a primary code) differ, apart from what was measured: the codings of the
// code, the categories, the status and the writer. A cluster has few signatures. If
// they are known, the newest document of each is found without reading the others.
// Signatures are kept in memory for the clusters that were searched: the first
// search reads all of the cluster, and the committer adds the signatures of later
// documents.
type signature struct {
	codings        []string // "system|code", sorted
	vendor, author string
	categories     []string
	values         search.Values // of SignatureParams
}

const (
	maxSignatures = 64   // per cluster; clusters with more are read in full
	maxClusters   = 4096 // in memory
)

// Cluster identifies the documents of one patient and primary code.
type Cluster struct {
	Patient string
	Code    [8]byte
}

// signatureCache holds the signatures of the clusters that were searched.
type signatureCache struct {
	mu     sync.Mutex
	staged store.Seq // the latest commit passed to note, or a later one
	byID   *simplelru.LRU[Cluster, *signatures]
}

// signatures holds the signatures of all documents that a snapshot at or after
// learned shows, and possibly others.
type signatures struct {
	byKey   map[string]*signature
	tooMany bool      // there are too many to be useful
	needs   store.Seq // a snapshot that learns must include this commit
	learned store.Seq // 0 if not learned yet
}

// note adds the signature of a document that the committer writes at seq.
func (c *signatureCache) note(seq store.Seq, id Cluster, d *rows.Document, deleted bool, values *search.Values) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.staged = max(c.staged, seq)
	if cl, ok := c.byID.Peek(id); ok && !deleted {
		cl.add(newSignature(values, d.Vendor, d.Author, d.Categories))
	}
}

// noteRow is note for a document that is decoded only if its cluster is cached. A
// cluster that is added meanwhile needs a snapshot with the document.
func (c *signatureCache) noteRow(seq store.Seq, id Cluster,
	decode func() (*rows.Document, *search.Values, error)) {
	c.mu.Lock()
	c.staged = max(c.staged, seq)
	cached := c.byID.Contains(id)
	c.mu.Unlock()
	if !cached {
		return
	}
	d, values, err := decode()
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.byID.Remove(id)
		return
	}
	c.note(seq, id, d, d.Deleted, values)
}

// lookup returns the signatures of a cluster as of a snapshot at seq. If they are
// not cached, the caller may read the whole cluster at seq and pass its signatures
// to learn, unless learn is nil.
func (c *signatureCache) lookup(id Cluster, seq, latest store.Seq) (found []*signature, cached bool,
	learn func(map[string]*signature)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl, ok := c.byID.Get(id)
	if !ok {
		// note has not seen what was staged before now: a snapshot must include it.
		cl = &signatures{byKey: map[string]*signature{}, needs: max(c.staged, latest)}
		c.byID.Add(id, cl)
	}
	switch {
	case cl.tooMany:
		return nil, false, nil
	case cl.learned > 0 && seq >= cl.learned:
		for _, k := range cl.byKey {
			found = append(found, k)
		}
		return found, true, nil
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
	if cl.tooMany || cl.byKey[key] != nil {
		return
	}
	if len(k.codings) == 0 || len(cl.byKey) == maxSignatures { // a code with only a text has no codings
		cl.tooMany, cl.byKey = true, nil
		return
	}
	cl.byKey[key] = k
}

// newSignature returns the signature of a document and a key that identifies it. It
// retains nothing of its arguments.
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

// mayMatch reports whether a document with the signature can match and be allowed,
// as far as the signature shows.
func (f *finder) mayMatch(k *signature) bool {
	for i := range f.query.Clauses {
		c := &f.query.Clauses[i]
		if !plain(c) || !slices.Contains(rows.SignatureParams[:], c.Param.Code) || c.Modifier != search.NoModifier &&
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
		Tokens: k.values.Tokens})
}

// newestFinder finds the newest documents of each code of one patient.
type newestFinder struct {
	*merger
	// shapes caches the values of SignatureParams by the shape of the JSON.
	templates    search.TemplateCache[*search.Values]
	signatureSel *search.Selection
	// The values, vendor and author of the signature that was added last.
	lastSignature struct {
		values         *search.Values
		vendor, author string
	}
}

// find emits, of the matching documents of the query's patient, at least those that
// FindNewest promises.
func (nf *newestFinder) find(n int, give func(*snapshot.Match) bool) (more bool, err error) {
	nf.matcher, nf.defined = search.NewMatcher(nf.query, nf.sel), nf.query.Defined()
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

// otherCoding reports whether a document of the patient may have one of the codes
// as a coding other than the primary one.
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

// newestIn handles one cluster.
func (nf *newestFinder) newestIn(runs []run, n int, give func(*snapshot.Match) bool) (bool, error) {
	sigs, cached, learn := nf.searcher.clusters.lookup(Cluster{Patient: nf.patient, Code: runs[0].code}, nf.at,
		nf.snap.Head.Seq)
	if !cached {
		return nf.readCluster(runs[0].code, learn, give)
	}
	w := &newest{limit: n}
	for _, k := range sigs {
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
		// The undated have no order of time: emit all that match.
		y.emit = func(m *snapshot.Match, _ []byte) bool { more = give(m); return more }
		_, err = mr.mergePhase(runs, 1, false, nil)
	}
	if failed && err == nil {
		err = fault.ErrRow
	}
	return more, err
}

// readCluster emits every match of a cluster, and learns its signatures.
func (nf *newestFinder) readCluster(code [8]byte, learn func(map[string]*signature),
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

// addSignature adds the signature of a document to seen.
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

// signatureValues returns the values of SignatureParams of a document. Documents of
// one shape share them.
func (nf *newestFinder) signatureValues(m *snapshot.Match) *search.Values {
	if v, _, ok := nf.templates.Find(m.Document.JSON); ok {
		return v
	}
	v, err := search.Extractor{}.ExtractFor(nf.signatureSel, m.Document.JSON)
	if err != nil {
		return &search.Values{}
	}
	nf.templates.Learn(m.Document.JSON, func(*search.Template, []search.Leaf) (*search.Values, bool) { return v, true })
	return v
}

// selectSignature selects SignatureParams.
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

// newest counts the matches of a walk that starts at the newest.
type newest struct {
	limit      int
	sets       []*codingSet
	last       *codingSet
	lastValues *search.Values // of last
}

// codingSet counts the documents with the same codings.
type codingSet struct {
	codings []string
	count   int
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

// of returns the set of a document, or nil for a document without codings, which no
// cached cluster has.
func (w *newest) of(nf *newestFinder, m *snapshot.Match) *codingSet {
	v := nf.signatureValues(m)
	if w.last != nil && w.lastValues == v {
		return w.last
	}
	_, k := newSignature(v, "", "", nil)
	if len(k.codings) == 0 {
		return nil
	}
	w.last, w.lastValues = w.expect(k.codings), v
	return w.last
}

// add counts a match. It returns false if the match is not among the newest of its
// set.
func (s *codingSet) add(start int64, n int) bool {
	if s.count >= n && start < s.nth {
		return false
	}
	if s.count++; s.count == n {
		s.nth = start
	}
	return true
}

// done reports whether no document that begins at or before start is among the
// newest of its group: each set, or a set with all of its codings, has its newest
// n.
func (w *newest) done(start int64) bool {
	for _, s := range w.sets {
		if !slices.ContainsFunc(w.sets, func(o *codingSet) bool {
			return o.count >= w.limit && start < o.nth &&
				!slices.ContainsFunc(s.codings, func(c string) bool { return !slices.Contains(o.codings, c) })
		}) {
			return false
		}
	}
	return true
}
