package interaction

import (
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
)

// View is the part of a resource that _summary and _elements select. The zero View
// selects the whole resource.
type View struct {
	Summary  search.Summary
	Elements []string
}

// ParseView parses the View in the query string of a read.
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

// Narrow reduces r to the part that v selects, tagged SUBSETTED. It does nothing if
// r is deleted.
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

// ignored adds an entry that names the parameters ignored by lenient handling (R4
// search.html#errors).
func (p *Page) ignored(parameters []string) {
	if len(parameters) == 0 {
		return
	}
	e := &fhir.Error{Kind: fhir.Invalid}
	for _, name := range parameters {
		e.Issues = append(e.Issues, fhir.Issue{Severity: "warning", Code: "not-supported",
			Diagnostics: "parameter " + name +
				" is not supported and was ignored; the result may contain more than requested"})
	}
	if p.count++; p.count > 1 {
		p.entries = append(p.entries, ',')
	}
	p.entries = append(p.entries, `{"resource":`...)
	p.entries = append(p.entries, r4.OutcomeJSON(e)...)
	p.entries = append(p.entries, `,"search":{"mode":"outcome"}}`...)
}
