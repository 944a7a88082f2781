package pebblestore

import (
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

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

// newSample is the match of a sample.
func newSample(in *seriesInfo, s *series.Sample) *match {
	k := in.t.Key(s)
	m := &match{in: in, smp: *s}
	m.row = row{place: in.place, typ: "Observation", id: k.ID(), t: store.Seq(s.Commit.T)}
	m.row.start = floorMS(s.Start)
	m.doc = doc{version: 1, updated: s.Commit.Updated, vendor: in.t.Vendor, categories: in.t.Categories}
	m.facts = in.facts()
	m.facts.ID, m.facts.Tokens = m.row.id, m.tokens
	return m
}
