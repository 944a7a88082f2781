package search

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/fhirpath"
)

// Definition is a SearchParameter resource that a Registry can take.
type Definition struct {
	URL        string
	Code       string
	Type       ParamType
	Base       []string // resource types
	Target     []string // of a reference; any type if it is empty
	expression map[string]*fhirpath.Expression
}

// Bounds of SearchParameter resources.
const (
	maxBases      = 143
	maxExpression = 4 << 10 // bytes
)

// fitting lists the data types of which an element has index values for a parameter
// type. Read only.
var fitting = map[ParamType][]string{
	TypeToken: {"Coding", "CodeableConcept", "Identifier", "ContactPoint", "code", "boolean", "string", "id", "uri",
		"System.Boolean", "System.String"},
	TypeDate:      {"date", "dateTime", "instant", "Period", "Timing", "System.Date", "System.DateTime"},
	TypeReference: {"Reference", "canonical", "uri"},
	TypeString:    {"string", "markdown", "HumanName", "Address", "System.String", "code", "id"},
	TypeQuantity: {"Quantity", "Age", "Duration", "Count", "Distance", "Money", "SimpleQuantity", "MoneyQuantity",
		"System.Quantity"},
	TypeURI:    {"uri", "url", "canonical", "oid", "uuid", "System.String"},
	TypeNumber: {"integer", "decimal", "positiveInt", "unsignedInt", "System.Integer", "System.Decimal"},
}

// ParseDefinition reads a SearchParameter resource that was validated as R4. It returns
// nil if the status is not active, and if the resource only documents how R4's parameter
// is used. The error is Unprocessable
// and names the element and the rule: the code is a name that does not begin with an
// underscore; the type is one of token, date, reference, string, quantity, uri and
// number; the expression compiles, and gives elements of such a type for each base.
func ParseDefinition(resource []byte) (*Definition, error) {
	var r struct {
		URL, Code, Status, Type, Expression, DerivedFrom string
		Base, Target                                     []string
	}
	if err := json.Unmarshal(resource, &r); err != nil {
		return nil, badDefinition("", "the SearchParameter cannot be read")
	}
	if r.Status != "active" {
		return nil, nil
	}
	d := &Definition{URL: r.URL, Code: r.Code, Type: paramTypes[r.Type], Base: r.Base, Target: r.Target,
		expression: map[string]*fhirpath.Expression{}}
	if d.documents(r.DerivedFrom) {
		return nil, nil
	}
	_, supported := fitting[d.Type]
	switch {
	case !isName(d.Code) || d.Code[0] == '_':
		return nil, badDefinition("code", "code must be a name of at most 48 letters, digits and hyphens")
	case !supported:
		return nil, badDefinition("type",
			"type must be token, date, reference, string, quantity, uri or number; composite and special are not supported")
	case d.URL == "":
		return nil, badDefinition("url", "url is required")
	case len(d.Base) == 0 || len(d.Base) > maxBases:
		return nil, badDefinition("base", "base must name resource types")
	case r.Expression == "" || len(r.Expression) > maxExpression:
		return nil, badDefinition("expression", "expression is required, with at most 4096 bytes")
	case slices.ContainsFunc(d.Target, func(t string) bool { return !fhir.IsR4Type(t) }):
		return nil, badDefinition("target", "target must name resource types")
	}
	e, err := fhirpath.Compile(r.Expression)
	if err != nil {
		return nil, badDefinition("expression", "expression: "+reason(err))
	}
	for _, base := range d.Base {
		if err := d.prepare(e, base); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// documents reports whether d is derived from R4's parameters of the same code and type,
// as most of US Core's are. R4: "the parameter should have the same meaning, and (usually)
// the functionality should be a proper subset of the underlying search parameter"
// (SearchParameter.derivedFrom). R4's parameter answers the searches.
func (d *Definition) documents(derivedFrom string) bool {
	from, _, _ := strings.Cut(derivedFrom, "|")
	return len(d.Base) > 0 && !slices.ContainsFunc(d.Base, func(base string) bool {
		p, ok := Lookup(base, d.Code)
		return !ok || p.URL != from || p.Type != d.Type
	})
}

// prepare checks the expression for one base.
func (d *Definition) prepare(e *fhirpath.Expression, base string) error {
	if !fhir.KnownType(base) {
		return badDefinition("base", "base must name resource types that the server stores")
	}
	if p, ok := Lookup(base, d.Code); ok && p.URL != d.URL {
		return badDefinition("code", base+" already has a search parameter of this code")
	}
	one, err := e.For(base)
	if err != nil {
		return badDefinition("expression", "expression, for "+base+": "+reason(err))
	}
	types, err := one.Types(base)
	if err != nil {
		return badDefinition("expression", "expression, for "+base+": "+reason(err))
	}
	fits := func(t string) bool { return slices.Contains(fitting[d.Type], strings.TrimPrefix(t, "FHIR.")) }
	if types != nil && !slices.ContainsFunc(types, fits) {
		return badDefinition("expression",
			"expression does not give elements that a parameter of this type can index, for "+
				base)
	}
	d.expression[base] = one
	return nil
}

// quoted matches what fhir/fhirpath quotes in an error: text of the expression, except
// the symbol after "expected".
var quoted = regexp.MustCompile(`(expected )?"(?:[^"\\]|\\.)*"`)

// reason returns the text of an error about an expression. It names the place and the
// rule, and leaves out the text of the expression.
func reason(err error) string {
	if e, ok := err.(*fhir.Error); ok && len(e.Issues) > 0 {
		return quoted.ReplaceAllStringFunc(e.Issues[0].Diagnostics, func(s string) string {
			if strings.HasPrefix(s, "expected ") {
				return s
			}
			return `"…"`
		})
	}
	return "it is not valid FHIRPath"
}

func badDefinition(element, text string) error {
	path := "SearchParameter"
	if element != "" {
		path += "." + element
	}
	return &fhir.Error{Kind: fhir.Unprocessable, Op: "search.ParseDefinition", Issues: []fhir.Issue{{Severity: "error",
		Code: "business-rule", Diagnostics: text, Expression: []string{path}}}}
}

// With returns the Registry with the parameters of definitions, which do not change r. A
// code that a type already has from another SearchParameter keeps its meaning, so that
// the order of definitions decides.
func (r *Registry) With(definitions ...*Definition) *Registry {
	var ps []Param
	taken := map[[2]string]bool{}
	for _, d := range definitions {
		for _, base := range d.Base {
			key := [2]string{base, d.Code}
			if _, ok := r.Lookup(base, d.Code); ok || taken[key] || d.expression[base] == nil {
				continue
			}
			taken[key] = true
			ps = append(ps, Param{ResourceType: base, Code: d.Code, Type: d.Type, URL: d.URL, Targets: d.Target,
				Expression: d.expression[base]})
		}
	}
	if len(ps) == 0 {
		return r
	}
	return r.Extend(ps...)
}
