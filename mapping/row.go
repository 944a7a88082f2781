package mapping

import (
	"pulsegate/fhir"
	"pulsegate/mapping/table"
)

// RowSystem is the system of the identifier that names a row of a pack in a
// Provenance: "PACK|VERSION#ID", where ID is that of RowID.
const RowSystem = fhir.Canonical + "/identifier/mapping-row"

// RowID returns the id of the row for a metric of a vendor in Provenances, or "". It is
// derived under the secret of the installation, because a Provenance may be disclosed to
// those who must not learn which metrics a patient has.
func (m *Mapper) RowID(vendor, metric string) string {
	if r := m.rules[vendor][metric]; r != nil {
		return m.rowID(vendor, r.row.Metric)
	}
	return ""
}

func (m *Mapper) rowID(vendor, metric string) string {
	return m.id(make(key, 0, 128).str("Row").str(vendor).str(metric))
}

// RowWithID returns the row with an id of RowID, and the code of its vendor. It returns
// nil if there is none.
func (m *Mapper) RowWithID(id string) (row *table.Row, vendor string) {
	for i := range m.table.Vendors {
		v := &m.table.Vendors[i]
		for j := range v.Rows {
			if m.rowID(v.Vendor, v.Rows[j].Metric) == id {
				return &v.Rows[j], v.Vendor
			}
		}
	}
	return nil, ""
}

// RowEntities returns the entities of a Provenance, as JSON that begins with a comma,
// that name the row for a metric of a vendor: the row of the pack that overrides it, if
// there is one, and that of the built-in pack. It returns nil if the metric has no row.
// The caller must not modify the slice.
func (m *Mapper) RowEntities(vendor, metric string) []byte {
	if r := m.rules[vendor][metric]; r != nil {
		return r.entities
	}
	return nil
}

// rowEntities returns the entities that name row.
func (m *Mapper) rowEntities(vendor string, row *table.Row) (b []byte) {
	for _, pack := range []*table.Pack{row.Pack, row.Base} {
		if pack == nil {
			continue
		}
		b = append(b, `,{"role":"source","what":{"reference":"ConceptMap/`...)
		b = append(b, pack.Name...)
		b = append(b, `","identifier":{"system":"`+RowSystem+`","value":`...)
		b = appendString(b, pack.RowName(m.rowID(vendor, row.Metric)))
		b = append(b, `}}}`...)
	}
	return b
}

// Row returns the row of the metric table that maps a metric of a vendor, or nil. The
// caller must not modify it.
func (m *Mapper) Row(vendor, metric string) *table.Row {
	if r := m.rules[vendor][metric]; r != nil {
		return r.row
	}
	return nil
}
