package pebblestore

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
)

// sortKey is the key of one match under one element of _sort.
type sortKey struct {
	None   bool    `json:"z,omitempty"`
	Lo     int64   `json:"l,omitempty"`
	Num    float64 `json:"n,omitempty"`
	Code   string  `json:"c,omitempty"`
	System string  `json:"s,omitempty"`
}

// sortPos is the position of a match in a sorted result.
type sortPos struct {
	Keys []sortKey `json:"k"`
	ID   string    `json:"i"`
}

// encode appends p, behind its length.
func (p *sortPos) encode(b []byte) []byte {
	var body []byte
	for _, k := range p.Keys {
		if k.None {
			body = append(body, 0)
			continue
		}
		body = binary.AppendVarint(append(body, 1), k.Lo)
		body = appendU64(body, math.Float64bits(k.Num))
		body = appendText(appendText(body, k.Code), k.System)
	}
	body = append(body, p.ID...)
	return append(binary.AppendUvarint(b, uint64(len(body))), body...)
}

// decodeSortPos reads what encode wrote, without the length.
func decodeSortPos(b []byte, keys int) (p sortPos, err error) {
	r := reader{b: b}
	p.Keys = make([]sortKey, keys)
	for i := range p.Keys {
		k := &p.Keys[i]
		if k.None = r.byte() == 0; k.None {
			continue
		}
		k.Lo, k.Num = r.varint(), math.Float64frombits(r.u64())
		k.Code, k.System = r.text(), r.text()
	}
	p.ID = string(r.b)
	if r.bad {
		return p, errRow
	}
	return p, nil
}

// compare orders as search.CompareValues does, then by id.
func (p *sortPos) compare(o *sortPos, sort []search.SortKey) int {
	for i, s := range sort {
		a, b := p.Keys[i], o.Keys[i]
		switch {
		case a.None && b.None:
			continue
		case a.None:
			return 1
		case b.None:
			return -1
		}
		c := search.Compare(search.Value{Lo: a.Lo, Num: a.Num, Code: a.Code, System: a.System},
			search.Value{Lo: b.Lo, Num: b.Num, Code: b.Code, System: b.System})
		if c != 0 {
			if s.Desc {
				return -c
			}
			return c
		}
	}
	return strings.Compare(p.ID, o.ID)
}

// sorted gives out the matches in an order that no rows have: all of them are
// collected and sorted once, and the result is kept for the pages to come.
func (x *finder) sorted(sort []search.SortKey, after []byte) error {
	var from *sortPos
	if len(after) > 0 {
		from = &sortPos{}
		if after[0] != posSort || json.Unmarshal(after[1:], from) != nil || len(from.Keys) != len(sort) {
			return errPos(x.op)
		}
	}
	id := resultID(x.owner, x.q, sort, x.at)
	r := x.s.results.take(id)
	if r == nil {
		var err error
		if r, err = x.sort(sort); err != nil {
			return err
		}
		x.s.results.keep(id, x.owner, r)
	}
	defer x.s.results.release(r)
	return x.giveSorted(r, sort, from)
}

// sort collects the sort keys and ids of all matches into a result.
func (x *finder) sort(sort []search.SortKey) (r *result, err error) {
	keys, err := newKeyer(x.q.Type, sort)
	if err != nil {
		return nil, err
	}
	w := x.s.results.writer(sort)
	defer func() {
		if err != nil {
			err = errors.Join(err, w.abandon())
		}
	}()
	y := *x
	y.passing = true // keys are copied
	var failed error
	y.emit = func(m *match, _ []byte) bool {
		failed = w.add(&sortPos{keys.of(m), strings.Clone(m.row.id)})
		return failed == nil
	}
	err = y.run(nil, nil)
	x.steps = y.steps
	if err = cmp.Or(failed, err); err != nil {
		return nil, err
	}
	return w.finish(x.ctx)
}

// giveSorted gives out the matches behind from.
func (x *finder) giveSorted(r *result, sort []search.SortKey, from *sortPos) error {
	c, err := r.seek(sort, from)
	if err != nil {
		return err
	}
	for {
		p, err := c.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if from != nil && p.compare(from, sort) <= 0 {
			continue
		}
		if err := x.step(); err != nil {
			return err
		}
		m, err := x.v.current(fhir.Ref{Type: x.q.Type, ID: p.ID}, x.at)
		if err != nil {
			return err
		}
		// Consent and scope are those of the moment.
		if m == nil || m.in == nil && m.doc.deleted || !x.filter.Allow(&m.facts) {
			continue
		}
		pos, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if !x.emit(m, append([]byte{posSort}, pos...)) {
			return nil
		}
	}
}

// keyer makes sort keys. What a sample's template decides is not asked of the
// sample.
type keyer struct {
	typ  string
	sort []search.SortKey
	sel  *search.Selection
	vals search.Values // of a sample
	last *seriesInfo
	held []sortKey // of last
	dyn  []bool    // whether the key differs between its samples
}

func newKeyer(typ string, sort []search.SortKey) (*keyer, error) {
	q := &search.Query{Type: typ}
	for _, s := range sort {
		p, ok := search.Lookup(typ, s.Param)
		if !ok {
			return nil, fhir.Errorf(fhir.Invalid, "pebblestore.Find",
				"_sort names a parameter that %s does not have", typ)
		}
		q.Clauses = append(q.Clauses, search.Clause{Param: p})
	}
	sel, err := search.Select(q)
	return &keyer{typ: typ, sort: sort, sel: sel, vals: search.Values{ByParam: map[string][]search.Value{}}}, err
}

func (k *keyer) of(m *match) []sortKey {
	if m.in == nil || !k.simple(m.in) {
		v, err := search.Extractor{}.ExtractFor(k.sel, m.body())
		if err != nil {
			v = &search.Values{}
		}
		return keysOf(k.typ, v, k.sort)
	}
	out := slices.Clone(k.held)
	for i, s := range k.sort {
		if !k.dyn[i] {
			continue
		}
		v := search.Value{}
		switch s.Param {
		case "date":
			v.Lo, v.Hi = m.smp.Interval()
		case "_lastUpdated":
			v.Lo = m.smp.Commit.Updated
		case "_id":
			v.Code = m.row.id
		default:
			v.Num = m.smp.Values[0].Float()
		}
		k.vals.ByParam[s.Param] = append(k.vals.ByParam[s.Param][:0], v)
		out[i] = keysOf(k.typ, &k.vals, k.sort[i:i+1])[0]
	}
	return out
}

// simple reports whether the keys of a series' samples need no Observation.
func (k *keyer) simple(in *seriesInfo) bool {
	if in == k.last {
		return k.held != nil
	}
	k.last, k.held, k.dyn = in, nil, make([]bool, len(k.sort))
	for i, s := range k.sort {
		if k.dyn[i] = in.dynamic[s.Param]; !k.dyn[i] {
			continue
		}
		switch s.Param {
		case "date", "_lastUpdated", "_id":
		case "value-quantity", "combo-value-quantity":
			if in.t.Values != 1 || len(in.values.ByParam[s.Param]) != 1 {
				return false
			}
		default:
			return false
		}
	}
	k.held = keysOf(k.typ, in.values, k.sort)
	return true
}

func keysOf(typ string, v *search.Values, sort []search.SortKey) []sortKey {
	out := make([]sortKey, len(sort))
	for i, s := range sort {
		k, ok := search.Key(typ, v, s)
		// The key outlives the document: its strings share the extraction's slab.
		out[i] = sortKey{None: !ok, Lo: k.Lo, Num: k.Num, Code: strings.Clone(k.Code), System: strings.Clone(k.System)}
	}
	return out
}

// posReader reads entries in order.
type posReader struct {
	r    *bufio.Reader
	keys int
	buf  []byte
}

func (c *posReader) next() (p sortPos, err error) {
	n, err := binary.ReadUvarint(c.r)
	if err != nil {
		return p, err // io.EOF at the end
	}
	if n > maxEntry {
		return p, errRow
	}
	c.buf = slices.Grow(c.buf[:0], int(n))[:n]
	if _, err := io.ReadFull(c.r, c.buf); err != nil {
		return p, errRow
	}
	return decodeSortPos(c.buf, c.keys)
}

// resultWriter sorts what is added: in memory as far as that goes, in runs on
// disk behind that.
type resultWriter struct {
	rs   *results
	sort []search.SortKey
	held []sortPos
	size int // of held, about
	runs []*scratch
}

const (
	maxEntry   = 1 << 20 // bytes of one entry
	mergeRuns  = 16      // runs that are merged at a time
	indexEvery = 128     // entries between two that a seek can begin at, in a small result
	maxMarks   = 4096    // of a result
)

func (w *resultWriter) add(p *sortPos) error {
	w.size += 64 + len(p.ID) + 64*len(p.Keys)
	for i := range p.Keys {
		w.size += len(p.Keys[i].Code) + len(p.Keys[i].System)
	}
	w.held = append(w.held, *p)
	if w.size < w.rs.runBytes {
		return nil
	}
	return w.spill()
}

// spill writes what is held as a run.
func (w *resultWriter) spill() error {
	w.order()
	s, err := w.rs.scratch()
	if err != nil {
		return err
	}
	w.runs = append(w.runs, s)
	for i := range w.held {
		if err := s.write(w.held[i].encode(nil)); err != nil {
			return err
		}
	}
	w.held, w.size = w.held[:0], 0
	if err := s.flush(); err != nil || len(w.runs) < mergeRuns {
		return err
	}
	// Runs are merged as they come, so that few files are open.
	merged, err := w.rs.scratch()
	if err != nil {
		return err
	}
	if err := w.merge(merged.write); err != nil {
		return errors.Join(err, merged.remove())
	}
	err = errors.Join(merged.flush(), w.drop())
	w.runs = append(w.runs, merged)
	return err
}

func (w *resultWriter) order() {
	slices.SortFunc(w.held, func(a, b sortPos) int { return a.compare(&b, w.sort) })
}

func (w *resultWriter) drop() (err error) {
	for _, s := range w.runs {
		err = errors.Join(err, s.remove())
	}
	w.runs = nil
	return err
}

func (w *resultWriter) abandon() error { return w.drop() }

// finish makes the result. The caller holds it and releases it.
func (w *resultWriter) finish(ctx interface{ Err() error }) (*result, error) {
	r := &result{refs: 1, keys: len(w.sort), every: indexEvery}
	if len(w.runs) == 0 {
		w.order()
		var b []byte
		for i := range w.held {
			r.mark(&w.held[i], int64(len(b)))
			b = w.held[i].encode(b)
		}
		r.bytes, r.memory, r.at = int64(len(b)), true, bytes.NewReader(b)
		return r, nil
	}
	if err := w.spill(); err != nil {
		return nil, err
	}
	out, err := w.rs.scratch()
	if err != nil {
		return nil, err
	}
	n := 0
	err = w.merge(func(b []byte) error {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return canceled("pebblestore.Find", ctx.Err())
		}
		_, skip := binary.Uvarint(b)
		p, err := decodeSortPos(b[skip:], len(w.sort))
		if err != nil {
			return err
		}
		r.mark(&p, out.size)
		return out.write(b)
	})
	if err = errors.Join(err, out.flush(), w.drop()); err != nil {
		return nil, errors.Join(err, out.remove())
	}
	r.file, r.bytes, r.at = out, out.size, out
	return r, nil
}

// merge calls put with the entries of all runs in order.
func (w *resultWriter) merge(put func([]byte) error) error {
	h := &posHeap{sort: w.sort}
	for _, s := range w.runs {
		c := &posReader{r: bufio.NewReader(io.NewSectionReader(s, 0, s.size)), keys: len(w.sort)}
		if err := h.load(c); err != nil {
			return err
		}
	}
	heap.Init(h)
	for len(h.at) > 0 {
		if err := put(h.at[0].p.encode(nil)); err != nil {
			return err
		}
		p, err := h.at[0].c.next()
		switch {
		case err == io.EOF:
			heap.Pop(h)
		case err != nil:
			return err
		default:
			h.at[0].p = p
			heap.Fix(h, 0)
		}
	}
	return nil
}

// posHeap has the run with the least entry first.
type posHeap struct {
	sort []search.SortKey
	at   []posAt
}

type posAt struct {
	p sortPos
	c *posReader
}

func (h *posHeap) load(c *posReader) error {
	p, err := c.next()
	if err == io.EOF {
		return nil
	}
	h.at = append(h.at, posAt{p, c})
	return err
}

func (h *posHeap) Len() int           { return len(h.at) }
func (h *posHeap) Less(i, j int) bool { return h.at[i].p.compare(&h.at[j].p, h.sort) < 0 }
func (h *posHeap) Swap(i, j int)      { h.at[i], h.at[j] = h.at[j], h.at[i] }
func (h *posHeap) Push(x any)         { h.at = append(h.at, x.(posAt)) }
func (h *posHeap) Pop() any {
	last := h.at[len(h.at)-1]
	h.at = h.at[:len(h.at)-1]
	return last
}
