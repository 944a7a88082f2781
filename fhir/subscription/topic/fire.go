package topic

import (
	"context"
	"time"

	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/search"
)

// limits bounds the evaluation of a FHIRPath criterion on one change.
var limits = fhirpath.Limits{Steps: 50_000, Items: 10_000, Bytes: 64 << 10} // read only

// Version is one version of a resource with what triggers have derived from it. It is
// not safe for concurrent use.
type Version struct {
	// JSON is the resource, or nil if there is no such version.
	JSON []byte
	// Time is meta.lastUpdated.
	Time time.Time

	values *search.Values
	bad    bool
	doc    *fhirpath.Document
}

// Values returns the index values of the version, or nil if it does not exist or
// cannot be read.
func (v *Version) Values(x search.Extractor, typ string) *search.Values {
	if v.values == nil && !v.bad && v.JSON != nil {
		values, err := x.Extract(typ, v.JSON)
		if v.bad = err != nil; !v.bad {
			values.SetLastUpdated(v.Time)
			v.values = values
		}
	}
	return v.values
}

// document returns the version for FHIRPath, or nil.
func (v *Version) document() (*fhirpath.Document, error) {
	if v.doc != nil || v.JSON == nil {
		return v.doc, nil
	}
	d, err := fhirpath.Parse(v.JSON)
	if err == nil {
		v.doc = d
	}
	return v.doc, err
}

// Bare reports whether the trigger depends on nothing but the type and the interaction.
func (r *Trigger) Bare() bool {
	return len(r.previous) == 0 && len(r.current) == 0 && r.expression == nil
}

// Fires reports whether a change fires the trigger. previous has no JSON for a create,
// current has none for a delete. t answers questions about terminology; it may be nil. It fails
// if a criterion cannot be evaluated.
func (r *Trigger) Fires(ctx context.Context, by Interaction, previous, current *Version, t fhirpath.Terminology) (
	bool, error) {
	if r.Interactions&by == 0 {
		return false, nil
	}
	if !r.query(previous, current) {
		return false, nil
	}
	if r.expression == nil {
		return true, nil
	}
	env := &fhirpath.Env{Variables: map[string]fhirpath.Collection{"previous": nil, "current": nil}, Limits: limits,
		Now: current.Time}
	env.Use(t)
	var focus fhirpath.Value
	for name, v := range map[string]*Version{"previous": previous, "current": current} {
		d, err := v.document()
		if err != nil {
			return false, err
		}
		if d != nil {
			env.Variables[name] = fhirpath.Collection{d.Root()}
			if name == "current" || focus.IsZero() {
				focus = d.Root()
			}
		}
	}
	return r.expression.Test(ctx, focus, env)
}

// query evaluates the queryCriteria.
func (r *Trigger) query(previous, current *Version) bool {
	if len(r.previous) == 0 && len(r.current) == 0 {
		return true
	}
	passes := func(clauses []search.Clause, v *Version, missing bool) bool {
		if v.JSON == nil {
			return missing
		}
		values := v.Values(r.extractor, r.Resource)
		return values != nil && Match(clauses, values)
	}
	before := passes(r.previous, previous, r.CreatePasses)
	after := passes(r.current, current, r.DeletePasses)
	switch {
	case len(r.previous) == 0:
		return after
	case len(r.current) == 0:
		return before
	case r.RequireBoth:
		return before && after
	}
	return before || after
}

// Match reports whether values satisfy all clauses.
func Match(clauses []search.Clause, values *search.Values) bool {
	for i := range clauses {
		if !search.MatchClause(&clauses[i], values) {
			return false
		}
	}
	return true
}
