package pebblestore

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

var errRow = errors.New("malformed row")

const (
	flagDeleted = 1 << iota
	flagCreated
	flagMoved  // I: version 1 of what was a sample
	flagSeries // L: samples of one series
	flagForm   // D: kept by form
)

// doc is a decoded D value.
type doc struct {
	to             store.Seq
	deleted        bool
	version        uint64
	updated        int64 // Unix ms
	vendor, author string
	categories     []string
	json           []byte
	// formed: instead of json there is its form and what is its own.
	formed bool
	form   [16]byte
	own    []byte
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (d *doc) encode() []byte {
	b := make([]byte, 0, len(d.json)+len(d.own)+96)
	b = appendU64(b, uint64(d.to))
	f := flags(d.deleted, false)
	if d.formed {
		f |= flagForm
	}
	b = append(b, f)
	b = binary.AppendUvarint(b, d.version)
	b = binary.AppendVarint(b, d.updated)
	b = appendText(appendText(b, d.vendor), d.author)
	b = binary.AppendUvarint(b, uint64(len(d.categories)))
	for _, c := range d.categories {
		b = appendText(b, c)
	}
	if d.formed {
		return append(append(b, d.form[:]...), d.own...)
	}
	return append(b, d.json...)
}

func flags(deleted, created bool) (f byte) {
	if deleted {
		f |= flagDeleted
	}
	if created {
		f |= flagCreated
	}
	return f
}

// reader reads varints and texts; bad stays set after the first fault.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) text() string { return string(r.take(r.uvarint())) }

func (r *reader) texts() []string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	var out []string
	for range n {
		out = append(out, r.text())
	}
	return out
}

func (r *reader) u64() uint64 {
	b := r.take(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (r *reader) byte() byte {
	b := r.take(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// recent remembers what the document before had, for neighbours have mostly
// the same. What it hands out is shared and must not be changed.
type recent struct {
	vendor, author string
	raw            string // of categories
	categories     []string
}

func (r *reader) same(last *string) string {
	if b := r.take(r.uvarint()); string(b) != *last {
		*last = string(b)
	}
	return *last
}

func (r *reader) sameTexts(last *recent) []string {
	b := r.b
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	for range n {
		r.take(r.uvarint())
	}
	if raw := b[:len(b)-len(r.b)]; !r.bad && string(raw) != last.raw {
		again := reader{b: b}
		last.categories, last.raw = again.texts(), string(raw)
	}
	return last.categories
}

// decodeDoc reads a D value; json and own alias v.
func decodeDoc(v []byte) (d doc, err error) { return new(recent).decodeDoc(v) }

func (last *recent) decodeDoc(v []byte) (d doc, err error) {
	r := reader{b: v}
	d.to = store.Seq(r.u64())
	f := r.byte()
	d.deleted, d.formed = f&flagDeleted != 0, f&flagForm != 0
	d.version, d.updated = r.uvarint(), r.varint()
	d.vendor, d.author = r.same(&last.vendor), r.same(&last.author)
	d.categories = r.sameTexts(last)
	if d.formed {
		copy(d.form[:], r.take(16))
		d.own = r.b
	} else {
		d.json = r.b
	}
	if r.bad {
		return d, errRow
	}
	return d, nil
}

// pointer is a decoded I value.
type pointer struct {
	place
	t       store.Seq
	version uint64
	deleted bool
	// moved: it is version 1 of what was a sample of series.
	moved  bool
	series series.SeriesID
	hash   [16]byte
}

func (p *pointer) encode() []byte {
	b := binary.AppendUvarint(nil, p.version)
	f := flags(p.deleted, false)
	if p.moved {
		f |= flagMoved
	}
	b = append(b, f)
	b = append(b, p.hash[:]...)
	if p.moved {
		b = append(b, p.series[:]...)
	}
	return p.place.append(b)
}

func decodePointer(key, v []byte) (p pointer, err error) {
	r := reader{b: v}
	p.version = r.uvarint()
	f := r.byte()
	p.deleted, p.moved = f&flagDeleted != 0, f&flagMoved != 0
	copy(p.hash[:], r.take(16))
	if p.moved {
		copy(p.series[:], r.take(8))
	}
	var ok bool
	if p.place, _, ok = takePlace(r.b); !ok || r.bad || len(key) < 8 {
		return p, errRow
	}
	p.t = uninverse(binary.BigEndian.Uint64(key[len(key)-8:]))
	return p, nil
}

// entry is a row of the change log.
type entry struct {
	place
	typ, id          string
	version          uint64
	created, deleted bool
	vendor, author   string
	categories       []string
}

func (e *entry) encode() []byte {
	b := []byte{flags(e.deleted, e.created)}
	b = binary.AppendUvarint(b, e.version)
	b = appendText(appendText(b, e.typ), e.id)
	b = appendText(appendText(b, e.vendor), e.author)
	b = binary.AppendUvarint(b, uint64(len(e.categories)))
	for _, c := range e.categories {
		b = appendText(b, c)
	}
	return e.place.append(b)
}

// samplesEntry is an L row that stands for samples of one series.
type samplesEntry struct {
	place
	id         series.SeriesID
	count      uint64
	first, end int64 // least and greatest start, Unix microseconds
}

func (e *samplesEntry) encode() []byte {
	b := append([]byte{flagSeries}, e.id[:]...)
	b = binary.AppendUvarint(b, e.count)
	b = binary.AppendVarint(binary.AppendVarint(b, e.first), e.end)
	return e.place.append(b)
}

func decodeSamplesEntry(v []byte) (e samplesEntry, err error) {
	r := reader{b: v}
	r.byte()
	copy(e.id[:], r.take(8))
	e.count, e.first, e.end = r.uvarint(), r.varint(), r.varint()
	var ok bool
	if e.place, _, ok = takePlace(r.b); !ok || r.bad {
		return e, errRow
	}
	return e, nil
}

func decodeEntry(v []byte) (e entry, err error) {
	r := reader{b: v}
	f := r.byte()
	e.deleted, e.created = f&flagDeleted != 0, f&flagCreated != 0
	e.version = r.uvarint()
	e.typ, e.id = r.text(), r.text()
	e.vendor, e.author = r.text(), r.text()
	e.categories = r.texts()
	var ok bool
	if e.place, _, ok = takePlace(r.b); !ok || r.bad {
		return e, errRow
	}
	return e, nil
}

// indexed reports whether a parameter of a type has X rows.
func indexed(p *search.Param) bool {
	switch p.Type {
	case search.TypeToken, search.TypeReference, search.TypeURI:
	default:
		return false
	}
	if few := indexedFew(p.ResourceType); few != nil {
		return slices.Contains(few, p.Code)
	}
	return p.Code != "_id"
}

var ( // read only
	fewOfObservation = []string{"identifier", "device"}
	fewOfAuditEvent  = []string{"patient", "entity"}
)

// indexedFew are the parameters of the types that have X rows for a few only.
func indexedFew(typ string) []string {
	switch typ {
	case "Observation":
		return fewOfObservation
	case "AuditEvent":
		return fewOfAuditEvent
	}
	return nil
}

// rowValues are the index values that a document's rows and its kind are made of,
// for the types of which there are many documents and few such rows.
var rowValues = sync.OnceValues(func() (map[string]*search.Selection, error) {
	out := map[string]*search.Selection{}
	for _, typ := range []string{"Observation", "AuditEvent"} {
		s, err := search.SelectStored(typ, append(kindParams[:], indexedFew(typ)...)...)
		if err != nil {
			return nil, err
		}
		out[typ] = s
	}
	return out, nil
})

// extractStored returns the values that the committer reads of a document;
// complete is false when it has others, too.
func extractStored(typ string, json []byte) (v *search.Values, complete bool, err error) {
	some, err := rowValues()
	if err != nil {
		return nil, false, err
	}
	if s := some[typ]; s != nil {
		v, err = search.Extractor{}.ExtractFor(s, json)
		return v, false, err
	}
	v, err = search.Extract(typ, json)
	return v, true, err
}

// indexValue is the value under which v has an X row; "" none.
func indexValue(k search.ParamType, v *search.Value) string {
	if k == search.TypeReference {
		if v.HasSystem { // a logical reference
			return ""
		}
		if v.RefType != "" {
			return v.RefType + "/" + v.RefID
		}
	}
	return v.Code
}

// under is the parameter under which a value has its X rows. A patient whom an
// AuditEvent names as an entity is one of its patients, too: those rows are
// enough.
func under(typ, code, value string) string {
	if typ == "AuditEvent" && code == "entity" && strings.HasPrefix(value, "Patient/") {
		return "patient"
	}
	return code
}

// indexRows calls fn with every X prefix of a document.
func indexRows(typ string, v *search.Values, fn func(prefix []byte)) {
	var seen []string
	of := func(code string, vals []search.Value) {
		p, ok := search.Lookup(typ, code)
		if !ok || !indexed(p) {
			return
		}
		seen = seen[:0]
		for i := range vals {
			x := indexValue(p.Type, &vals[i])
			if x == "" || under(typ, code, x) != code || slices.Contains(seen, x) {
				continue
			}
			seen = append(seen, x)
			fn(indexPrefix(typ, code, x))
		}
	}
	if few := indexedFew(typ); few != nil {
		for _, code := range few {
			of(code, v.ByParam[code])
		}
		return
	}
	for code, vals := range v.ByParam {
		of(code, vals)
	}
}

// otherCodes are the clusters of the codings beside the primary one.
func otherCodes(typ string, v *search.Values, primary [8]byte) [][8]byte {
	if typ != "Observation" {
		return nil
	}
	var out [][8]byte
	for i := range v.ByParam["code"] {
		c := v.ByParam["code"][i].Code
		if c == "" {
			continue
		}
		if h := codeHash(c); h != primary && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// resource builds what callers get of a version.
func (d *doc) resource(typ, id string) fhir.Resource {
	r := fhir.Resource{Type: typ, ID: id, Version: d.version, LastUpdated: time.UnixMilli(d.updated).UTC(),
		Deleted: d.deleted}
	if !d.deleted {
		r.JSON = d.json[:len(d.json):len(d.json)]
	}
	return r
}

// view of one document with its index values, extracted at most once.
type match struct {
	doc    doc // of a sample, json is nil until body
	row    row
	values *search.Values
	facts  access.Facts
	in     *seriesInfo // of a sample; nil for a document
	smp    series.Sample
}

// body is the stamped JSON.
func (m *match) body() []byte {
	if m.in != nil && m.doc.json == nil {
		m.doc.json = m.in.t.Append(make([]byte, 0, m.in.size), &m.smp)
	}
	return m.doc.json
}

// again is the same version for another reader, who extracts its index values
// anew when asked for them.
func (m *match) again() *match {
	m.body()
	x := *m
	x.values, x.facts.Tokens = nil, x.tokens
	return &x
}

// resource is what callers get.
func (m *match) resource() fhir.Resource {
	m.body()
	return m.doc.resource(m.row.typ, m.row.id)
}

func newMatch(r row, d doc) *match {
	m := &match{}
	m.facts.Tokens = m.tokens
	m.set(r, d)
	return m
}

// set makes m the match of another document.
func (m *match) set(r row, d doc) {
	m.doc, m.row, m.values = d, r, nil
	m.facts = access.Facts{Type: r.typ, ID: r.id, Patient: r.patient, Vendor: d.vendor, Author: d.author,
		Categories: d.categories, Tokens: m.facts.Tokens}
}

// index returns the values; a document that cannot be read has none, so that
// it matches nothing and no granular scope covers it.
func (m *match) index() *search.Values {
	if m.values == nil {
		v, err := search.Extract(m.row.typ, m.body())
		if err != nil {
			v = &search.Values{}
		}
		m.values = v
	}
	return m.values
}

func (m *match) tokens(param string) []access.Token {
	return tokensOf(m.index(), param)
}

func tokensOf(v *search.Values, param string) []access.Token {
	vals := v.ByParam[param]
	out := make([]access.Token, 0, len(vals))
	for i := range vals {
		x := &vals[i]
		switch {
		case x.RefType != "":
			out = append(out, access.Token{Code: x.RefType + "/" + x.RefID})
		case x.Code != "" || x.System != "":
			out = append(out, access.Token{System: x.System, Code: x.Code})
		}
	}
	return out
}
