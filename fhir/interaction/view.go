package interaction

import (
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
)

// View is the part of a resource that _summary and _elements ask for. The
// zero View is the whole resource.
type View struct {
	Summary  search.Summary
	Elements []string
}

// ParseView reads the View from the query string of a read of type typ.
func ParseView(typ, raw string) (View, error) {
	var v View
	if raw == "" {
		return v, nil
	}
	pairs, err := search.Pairs(raw)
	if err == nil {
		v.Summary, v.Elements, err = search.Display(typ, pairs)
	}
	return v, err
}

// Narrow replaces the content of r, which may be deleted, by the part that v
// asks for, tagged SUBSETTED.
func (v *View) Narrow(r *fhir.Resource) error {
	if r.Deleted || v.Summary == search.SummaryNone && len(v.Elements) == 0 {
		return nil
	}
	body, err := r4.Subset(r.Type, r.JSON, v.Summary, v.Elements)
	if err != nil {
		return err
	}
	r.JSON = body
	return nil
}

// query returns the parameters of v, for the links of a history.
func (v *View) query() string {
	out := ""
	if name := v.Summary.String(); name != "" {
		out += "&_summary=" + name
	}
	if len(v.Elements) > 0 {
		out += "&_elements=" + strings.Join(v.Elements, ",")
	}
	return out
}

// ignored adds an entry to a searchset that names the parameters which were
// ignored under lenient handling (R4 search.html#errors).
func (p *Page) ignored(parameters []string) {
	if len(parameters) == 0 {
		return
	}
	e := &fhir.Error{Kind: fhir.Invalid}
	for _, name := range parameters {
		e.Issues = append(e.Issues, fhir.Issue{Severity: "warning", Code: "not-supported",
			Diagnostics: "parameter " + name +
				" is not supported and was ignored: the result may hold more than was asked for"})
	}
	if p.count++; p.count > 1 {
		p.entries = append(p.entries, ',')
	}
	p.entries = append(p.entries, `{"resource":`...)
	p.entries = append(p.entries, r4.OutcomeJSON(e)...)
	p.entries = append(p.entries, `,"search":{"mode":"outcome"}}`...)
}
