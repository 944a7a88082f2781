package searchparameter

import (
	"context"
	"errors"
	"maps"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// State describes an active SearchParameter for one base type.
type State struct {
	ID, URL, Code, Base string
	// Problem is the reason why the definition has no effect, or "".
	Problem string
	// Index tells how far the index is built. Searches are complete regardless.
	Index store.IndexState
}

// States returns the active SearchParameters, by id and base type. One that has no effect
// because this server cannot take it has neither URL, Code nor Base.
func (p *Parameters) States(ctx context.Context, index store.Indexer) ([]State, error) {
	p.mu.Lock()
	defined, registry := maps.Clone(p.defined), p.registry.Load()
	_, problems := p.effective("")
	p.mu.Unlock()
	var out []State
	for _, id := range slices.Sorted(maps.Keys(defined)) {
		d := defined[id]
		if d == nil {
			out = append(out, State{ID: id, Problem: text(problems[id])})
			continue
		}
		for _, base := range slices.Sorted(slices.Values(d.Base)) {
			s := State{ID: id, URL: d.URL, Code: d.Code, Base: base, Problem: text(problems[id])}
			if param, ok := registry.Lookup(base, d.Code); ok && s.Problem == "" {
				var err error
				if s.Index, err = index.IndexState(ctx, param); err != nil {
					return nil, fhir.Wrap("searchparameter.States", err)
				}
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// text returns the diagnostics of an error, or "" for nil.
func text(err error) string {
	var e *fhir.Error
	if errors.As(err, &e) && len(e.Issues) > 0 {
		return e.Issues[0].Diagnostics
	}
	return ""
}
