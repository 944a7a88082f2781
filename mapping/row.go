package mapping

import "pulsegate/mapping/table"

// Row returns the row of the metric table that maps a metric of a vendor, or nil. The
// caller must not modify it.
func (m *Mapper) Row(vendor, metric string) *table.Row {
	if r := m.rules[vendor][metric]; r != nil {
		return r.row
	}
	return nil
}
