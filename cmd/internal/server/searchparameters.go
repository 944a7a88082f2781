package server

import (
	"context"

	"pulsegate/cmd/internal/admin"
)

// SearchParameters lists the active SearchParameters and how far their indexes are built.
func (ops operations) SearchParameters(ctx context.Context, op admin.Operator) (admin.SearchParameters, error) {
	out := admin.SearchParameters{Parameters: []admin.SearchParameter{}}
	if err := ops.record(ctx, ops.request(op), "store search-parameters", ""); err != nil {
		return out, err
	}
	states, err := ops.parameters.States(ctx, ops.embedded)
	if err != nil {
		return out, err
	}
	for _, s := range states {
		p := admin.SearchParameter{ID: s.ID, URL: s.URL, Code: s.Code, Base: s.Base, State: "indexing",
			Indexed: s.Index.Documents, Total: s.Index.Total, Problem: s.Problem}
		switch {
		case s.Problem != "":
			p.State = "no effect"
		case s.Index.Ready:
			p.State = "indexed"
		}
		out.Parameters = append(out.Parameters, p)
	}
	return out, nil
}
