package mapping

import (
	"pulsegate/fhir"
	"pulsegate/mapping/table"
)

// RowSystem is the system of the identifier that names a row of a pack in a
// Provenance: table.Pack.RowName.
const RowSystem = fhir.Canonical + "/identifier/mapping-row"

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
func rowEntities(row *table.Row) (b []byte) {
	for _, pack := range []*table.Pack{row.Pack, row.Base} {
		if pack == nil {
			continue
		}
		b = append(b, `,{"role":"source","what":{"reference":"ConceptMap/`...)
		b = append(b, pack.Name...)
		b = append(b, `","identifier":{"system":"`+RowSystem+`","value":`...)
		b = appendString(b, pack.RowName(row.Metric))
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
