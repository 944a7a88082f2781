package admin

import (
	"context"
	"net/http"
)

// Pack is a mapping pack in force: one line of `pulsegate pack list`.
type Pack struct {
	Pack    string `json:"pack"`
	Version string `json:"version"`
	Vendor  string `json:"vendor"`
	Title   string `json:"title"`
	File    string `json:"file,omitempty"` // of a tenant's pack
	// Rows counts the rows in force. Added, Overridden and Removed list the metrics
	// that a tenant's pack changes.
	Rows       int      `json:"rows"`
	Added      []string `json:"added,omitempty"`
	Overridden []string `json:"overridden,omitempty"`
	Removed    []string `json:"removed,omitempty"`
}

// Packs is the answer of `pack list`.
type Packs struct {
	Packs []Pack `json:"packs"`
}

// PackRow is the answer of `pack show`.
type PackRow struct {
	Vendor string `json:"vendor"`
	Metric string `json:"metric"`
	Row    string `json:"row"`            // pack, version and metric
	Base   string `json:"base,omitempty"` // built-in row that the pack overrides
	Name   string `json:"name"`           // of the row in Provenances
	// Overridden lists the fields that the pack states.
	Overridden []string `json:"overridden,omitempty"`
	YAML       string   `json:"yaml"` // the row in force
}

// PackOperations are the operations on mapping packs.
type PackOperations interface {
	ListPacks(ctx context.Context, op Operator) (Packs, error)
	// ShowPackRow shows the row for a metric of a vendor, or the row with a name in
	// Provenances.
	ShowPackRow(ctx context.Context, op Operator, vendor, metric, name string) (PackRow, error)
}

func packs(m *mux, s *Server, o PackOperations) {
	get(m, s, "pack", func(ctx context.Context, op Operator, _ *http.Request) (Packs, error) {
		return o.ListPacks(ctx, op)
	})
	get(m, s, "pack/show", func(ctx context.Context, op Operator, r *http.Request) (PackRow, error) {
		return o.ShowPackRow(ctx, op, r.FormValue("vendor"), r.FormValue("metric"), r.FormValue("name"))
	})
}
