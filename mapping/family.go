package mapping

import (
	"slices"
	"strings"
)

// TypesOf returns the metrics of the vendor's rows that belong to one of types,
// each with that type. A metric belongs to a type if it is the type or begins
// with the type and a dot: "sleep.average_hrv" belongs to "sleep", "steps/day"
// does not belong to "steps".
//
// The name of a roll-up is a type and a slash with a suffix. Several names may
// share a row, and the Observation does not tell which of them it was delivered
// as. A row that stands for a roll-up too therefore belongs to types only if its
// roll-ups do: that of a day ("/day") for values of days, the others for values
// with a time.
func (m *Mapper) TypesOf(vendor string, types []string, days bool) map[string]string {
	return m.typesOf(vendor, types, func(name string) bool {
		rollup := strings.Contains(name, "/")
		return rollup && strings.HasSuffix(name, "/day") == days
	})
}

// ObjectTypesOf is TypesOf for an object that has an id of the vendor's. If types
// is empty, all metrics of the vendor are returned.
func (m *Mapper) ObjectTypesOf(vendor string, types []string) map[string]string {
	return m.typesOf(vendor, types, func(string) bool { return false })
}

// typesOf returns the metrics of rows of which one name belongs to types, and all
// required names do.
func (m *Mapper) typesOf(vendor string, types []string, required func(name string) bool) map[string]string {
	out := map[string]string{}
	for i := range m.table.Vendors {
		v := &m.table.Vendors[i]
		if v.Vendor != vendor {
			continue
		}
		for j := range v.Rows {
			row := &v.Rows[j]
			names := append([]string{row.Metric}, row.Also...)
			typ, ok := "", false
			for _, name := range names {
				if t, belongs := typeOf(name, types); belongs && !ok {
					typ, ok = t, true
				}
			}
			missing := slices.ContainsFunc(names, func(name string) bool {
				_, belongs := typeOf(name, types)
				return required(name) && !belongs
			})
			if ok && !missing {
				out[row.Metric] = typ
			}
		}
	}
	return out
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
