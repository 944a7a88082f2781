package server

import (
	"context"
	"strings"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/mapping/table"
)

// ListPacks lists the mapping packs in force.
func (ops operations) ListPacks(ctx context.Context, op admin.Operator) (admin.Packs, error) {
	t := ops.pipeline.Mapper.Table()
	out := admin.Packs{}
	for _, p := range t.Packs {
		one := admin.Pack{Pack: p.Name, Version: p.Version, Vendor: p.Vendor, Title: p.Title, File: p.File}
		for i := range t.Vendors {
			for j := range t.Vendors[i].Rows {
				if t.Vendors[i].Rows[j].Pack == p {
					one.Rows++
				}
			}
		}
		for i := range p.Changes {
			c := &p.Changes[i]
			switch c.Kind {
			case table.ChangeAdd:
				one.Added = append(one.Added, c.Metric)
			case table.ChangeOverride:
				one.Overridden = append(one.Overridden, c.Metric)
			case table.ChangeRemove:
				one.Removed = append(one.Removed, c.Metric)
			}
		}
		out.Packs = append(out.Packs, one)
	}
	return out, ops.record(ctx, ops.request(op), "pack list", "")
}

// ShowPackRow shows the row in force for a metric of a vendor, by any of its names, or
// the one that Provenances name.
func (ops operations) ShowPackRow(ctx context.Context, op admin.Operator, vendor, metric,
	name string) (admin.PackRow, error) {
	m := ops.pipeline.Mapper
	row := m.Table().Row(vendor, metric)
	if _, id, ok := strings.Cut(name, "#"); ok {
		row, vendor = m.RowWithID(id)
	}
	if row == nil {
		return admin.PackRow{}, fhir.Errorf(fhir.NotFound, "server.ShowPackRow",
			"no pack has a row for this vendor and metric")
	}
	out := admin.PackRow{Vendor: vendor, Metric: row.Metric, Row: row.Pack.RowName(row.Metric), YAML: row.YAML(),
		Name: row.Pack.RowName(m.RowID(vendor, row.Metric))}
	if row.Base != nil {
		out.Base = row.Base.RowName(row.Metric)
		for _, c := range row.Pack.Changes {
			if c.Metric == row.Metric {
				out.Overridden = c.Fields
			}
		}
	}
	return out, ops.record(ctx, ops.request(op), "pack show", "")
}
