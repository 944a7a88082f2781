package mapping

import "strings"

// Membership tells how the Observations of a metric belong to a type.
type Membership struct {
	Type string
	// Days and Times are set if the values of days, and those with a time, belong to
	// the type. If several names share a row, the Observation does not tell which of
	// them it was delivered as, and all that are possible must belong to types.
	Days, Times bool
}

// TypesOf returns the metrics of the vendor's rows that belong to one of types. A
// metric belongs to a type if it is the type or begins with the type and a dot:
// "sleep.average_hrv" belongs to "sleep". The name of a roll-up, which has a slash,
// is another type: "steps/day" does not belong to "steps".
//
// If a row has roll-ups among its names, its values of days are those of the roll-up
// that ends in "/day", and its values with a time may be those of another roll-up.
func (m *Mapper) TypesOf(vendor string, types []string) map[string]Membership {
	out := map[string]Membership{}
	m.eachRow(vendor, func(metric string, names []string) {
		var member Membership
		hasDay, dayBelongs, rollupsBelong := false, false, true
		for _, name := range names {
			typ, belongs := typeOf(name, types)
			if belongs && member.Type == "" {
				member.Type = typ
			}
			switch {
			case strings.HasSuffix(name, "/day"):
				hasDay, dayBelongs = true, belongs
			case strings.Contains(name, "/"):
				rollupsBelong = rollupsBelong && belongs
				fallthrough
			default:
				member.Times = member.Times || belongs
			}
		}
		member.Days = !hasDay || dayBelongs
		member.Times = member.Times && rollupsBelong
		if member.Type != "" {
			out[metric] = member
		}
	})
	return out
}

// ObjectTypesOf is TypesOf for an object that has an id of the vendor's, so that
// the names that share a row do not matter. If types is empty, it returns all
// metrics of the vendor.
func (m *Mapper) ObjectTypesOf(vendor string, types []string) map[string]Membership {
	out := map[string]Membership{}
	m.eachRow(vendor, func(metric string, names []string) {
		for _, name := range names {
			if typ, belongs := typeOf(name, types); belongs {
				out[metric] = Membership{Type: typ, Days: true, Times: true}
				return
			}
		}
	})
	return out
}

// eachRow calls fn for each row of a vendor with its metric and all its names.
func (m *Mapper) eachRow(vendor string, fn func(metric string, names []string)) {
	for i := range m.table.Vendors {
		v := &m.table.Vendors[i]
		for j := range v.Rows {
			if v.Vendor == vendor {
				fn(v.Rows[j].Metric, append([]string{v.Rows[j].Metric}, v.Rows[j].Also...))
			}
		}
	}
}

// typeOf returns the type that a metric belongs to. If types is empty, it is the
// metric up to the first dot.
func typeOf(metric string, types []string) (typ string, ok bool) {
	if len(types) == 0 {
		typ, _, _ = strings.Cut(metric, ".")
		return typ, true
	}
	for _, t := range types {
		if rest, found := strings.CutPrefix(metric, t); found && (rest == "" || rest[0] == '.') {
			return t, true
		}
	}
	return "", false
}

// RowMetric returns the metric of the row for a name of the vendor's, or "".
func (m *Mapper) RowMetric(vendor, name string) string {
	if r := m.rules[vendor][name]; r != nil {
		return r.row.Metric
	}
	return ""
}

// ObjectID returns the id of the Observation of a metric for an object with an
// id of the vendor's.
func (m *Mapper) ObjectID(vendor, patient, metric, vendorID string) string {
	return m.id(objectKey(vendor, patient, metric, vendorID))
}

func objectKey(vendor, patient, metric, vendorID string) key {
	k := make(key, 0, 256)
	return k.str("Observation").str(vendor).str(patient).str(metric).str("id").str(vendorID)
}
