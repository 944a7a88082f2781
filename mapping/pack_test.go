package mapping_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"pulsegate/mapping"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/table"
)

// TestPacksKeepIDs overrides every field of every row that may be overridden, and checks
// that the ids of Observations, streams and Devices stay the same while the content
// follows the packs, for samples with and without the value as part of their identity.
func TestPacksKeepIDs(t *testing.T) {
	tab := mappingtest.Table(t)
	dir := fstest.MapFS{}
	for _, v := range tab.Vendors {
		var b strings.Builder
		fmt.Fprintf(&b, "pack: all-%s\nversion: 1.0.0\nvendor: %[1]s\ncodes: {own: {url: https://own.example, codes: {x: X}}}\n"+
			"metrics:\n", v.Vendor)
		for i := range v.Rows {
			r := &v.Rows[i]
			fmt.Fprintf(&b, "  - {metric: %q, name: Overridden, method: by hand, profiles: [https://own.example/p]", r.Metric)
			if r.Profile == "" && r.Shape != table.ShapeDevice {
				b.WriteString(", trust: sure, codes: [own x], category: activity, refined: sleep")
			}
			if len(r.Range) == 2 {
				b.WriteString(", range: [-1000000, 10000000]")
			}
			if r.Rate > 0 {
				b.WriteString(", rate: 24")
			} else if r.Unit == "kg" {
				b.WriteString(", unit: g")
			}
			if r.Zero != "" {
				fmt.Fprintf(&b, ", zero: absent")
			}
			b.WriteString(", components: [")
			for j := range r.Components {
				fmt.Fprintf(&b, "{name: %q, display: Part, codes: [own x]}, ", r.Components[j].Name)
			}
			if r.Rate == 0 || r.Shape == table.ShapeQuantity {
				b.WriteString("{name: added, display: Added}")
			}
			b.WriteString("]}\n")
		}
		dir[v.Vendor+".yaml"] = &fstest.MapFile{Data: []byte(b.String())}
	}
	before := mappingtest.Mapper(t)
	after, err := mapping.New(table.Builtin(), mapping.Options{Packs: dir})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	mappingtest.EachRow(tab, func(v *table.Vendor, r *table.Row) {
		for _, daily := range []bool{false, true} {
			for _, keyValue := range []bool{false, true} {
				s := mappingtest.Example(t, tab, v, r, daily)
				s.KeyValue = keyValue
				old, err := before.Map(nil, v.Vendor, s, "p1", nil)
				if err != nil {
					t.Fatalf("%s: %v", r.Metric, err)
				}
				now, err := after.Map(nil, v.Vendor, s, "p1", nil)
				if err != nil {
					t.Fatalf("%s: %v", r.Metric, err)
				}
				n++
				if now.ID != old.ID || now.Stream != old.Stream || now.Device != old.Device ||
					now.Metric != old.Metric {
					t.Errorf("%s: %+v became %+v", r.Metric, old, now)
				}
				if old.JSON != nil && (!bytes.Contains(now.JSON, []byte("https://own.example/p")) ||
					!bytes.Contains(now.JSON, []byte("Overridden"))) {
					t.Errorf("%s: not overridden: %s", r.Metric, now.JSON)
				}
			}
		}
		if after.RowID(v.Vendor, r.Metric) != before.RowID(v.Vendor, r.Metric) {
			t.Errorf("%s: the id of the row changed", r.Metric)
		}
		row, vendor := after.RowWithID(after.RowID(v.Vendor, r.Metric))
		if vendor != v.Vendor || row.Metric != r.Metric {
			t.Errorf("%s: the id leads to %+v", r.Metric, row)
		}
	})
	if n < 1000 {
		t.Errorf("only %d samples", n)
	}
}
