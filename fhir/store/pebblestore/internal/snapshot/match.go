package snapshot

import (
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// Match is one version of a document, or a sample, with its index values, which are
// extracted at most once.
type Match struct {
	Document rows.Document // of a sample, JSON is nil until Body is called
	Row      keys.Row
	Values   *search.Values
	Facts    access.Facts
	Series   *tier.Series // nil for a document
	Sample   series.Sample

	snap   *Snapshot      // for before, as long as it is open
	before *search.Values // of the version that a deletion has deleted; see tokens
}

// Body returns the stamped JSON.
func (m *Match) Body() []byte {
	if m.Series != nil && m.Document.JSON == nil {
		m.Document.JSON = m.Series.Template.Append(make([]byte, 0, m.Series.Size), &m.Sample)
	}
	return m.Document.JSON
}

// Clone returns the same version for another reader, who extracts the index values
// again.
func (m *Match) Clone() *Match {
	m.Body()
	x := *m
	x.Values, x.Facts.Tokens, x.snap = nil, x.tokens, nil
	return &x
}

// Resource returns the version as the store's callers see it.
func (m *Match) Resource() fhir.Resource {
	m.Body()
	return m.Document.Resource(m.Row.Type, m.Row.ID)
}

// NewMatch returns the match of a document.
func NewMatch(r keys.Row, d rows.Document) *Match {
	m := &Match{}
	m.Facts.Tokens = m.tokens
	m.Set(r, d)
	return m
}

// Set makes m the match of another document.
func (m *Match) Set(r keys.Row, d rows.Document) {
	m.Document, m.Row, m.Values, m.before = d, r, nil, nil
	m.Facts = access.Facts{Type: r.Type, ID: r.ID, Patient: r.Patient, Vendor: d.Vendor, Author: d.Author,
		Categories: d.Categories, Tokens: m.Facts.Tokens}
}

// Index returns the index values. A document that cannot be read has none, so that
// it matches nothing and no granular scope covers it.
func (m *Match) Index() *search.Values {
	if m.Values == nil {
		v, err := search.Extract(m.Row.Type, m.Body())
		if err != nil {
			v = &search.Values{}
		}
		m.Values = v
	}
	return m.Values
}

// Within lets a deletion find its patients in the snapshot while that is open. Without
// it, only the operator sees a deletion that may concern several patients.
func (m *Match) Within(snap *Snapshot) *Match {
	m.snap = snap
	return m
}

// tokens returns the tokens of a parameter. A deletion marker has none, except the
// patients of the version that was deleted, if there may be several.
func (m *Match) tokens(param string) []access.Token {
	if m.Document.Deleted && access.Several(m.Row.Type) {
		if code, _ := access.PatientParam(m.Row.Type); param != code {
			return nil
		}
		if m.resolve(); m.before == nil {
			return access.Undecided(m.Row.Type)(param)
		}
		return m.before.Tokens(param)
	}
	return m.Index().Tokens(param)
}

// NewSample returns the match of a sample.
func NewSample(ser *tier.Series, s *series.Sample) *Match {
	k := ser.Template.Key(s)
	m := &Match{Series: ser, Sample: *s}
	m.Row = keys.Row{Location: ser.Location, Type: "Observation", ID: k.ID(), Seq: store.Seq(s.Commit.Seq)}
	m.Row.Start = keys.FloorMS(s.Start)
	m.Document = rows.Document{Version: 1, Updated: s.Commit.Updated, Vendor: ser.Template.Vendor,
		Categories: ser.Template.Categories}
	m.Facts = ser.Facts()
	m.Facts.ID, m.Facts.Tokens = m.Row.ID, m.tokens
	return m
}

// resolve reads the index values of the version that a deletion has deleted, if it can.
func (m *Match) resolve() {
	if m.before != nil || m.snap == nil || !m.Document.Deleted || !access.Several(m.Row.Type) || m.Row.Seq == 0 {
		return
	}
	ref := fhir.Ref{Type: m.Row.Type, ID: m.Row.ID}
	p, err := rows.HeadOf(m.snap.Reader, ref, m.Row.Seq-1)
	if err != nil || p == nil || p.Deleted {
		return
	}
	old, err := m.snap.Fetch(ref, p)
	if err != nil {
		return
	}
	if v, err := search.Extract(m.Row.Type, old.Body()); err == nil {
		m.before = v
	}
}
