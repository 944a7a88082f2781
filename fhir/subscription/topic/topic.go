package topic

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/search"
)

// Interaction is a set of interactions that change a resource.
type Interaction uint8

const (
	Create Interaction = 1 << iota
	Update
	Delete
)

// interactions lists the codes of Interactions in the order of their bits.
var interactions = []string{"create", "update", "delete"} // read only

// Topic is a compiled topic. It is immutable.
type Topic struct {
	// ID is the id of the Basic.
	ID                                     string
	URL, Version, Name, Title, Description string
	Status, Date                           string
	Triggers                               []Trigger
	Filters                                []FilterBy
	Shapes                                 []Shape
	// Feed marks US Core's Patient Data Feed: its events have trigger codes, filters
	// for several types are alternatives, and filters that the server does not support
	// are removed instead of refused.
	Feed bool
}

// Trigger is a resourceTrigger.
type Trigger struct {
	Description  string
	Resource     string // type
	Interactions Interaction
	// Previous and Current are queries without the type, or "".
	Previous, Current string
	// CreatePasses and DeletePasses say whether a missing previous or current version
	// passes its query.
	CreatePasses, DeletePasses bool
	RequireBoth                bool
	FHIRPath                   string

	previous, current []search.Clause
	expression        *fhirpath.Expression
	extractor         search.Extractor
}

// FilterBy is a canFilterBy.
type FilterBy struct {
	Description, Resource, Parameter string
	// Modifiers lists the modifiers that a filter may have.
	Modifiers []string
}

// Shape is a notificationShape: the resources that accompany a focus of a type.
type Shape struct {
	Resource string
	// Include and RevInclude list pairs of a type and a search parameter, such as
	// Observation:device and Provenance:target.
	Include, RevInclude []string
}

const (
	maxTriggers = 160 // one per type of R4
	maxFilters  = 640
	maxShapes   = 160
	maxIncludes = 16 // per shape, of each kind
	maxText     = 4 << 10
)

// refuse returns an Unprocessable error about an element.
func refuse(path, code, format string, args ...any) error {
	return &fhir.Error{Kind: fhir.Unprocessable, Op: "topic.Parse", Issues: []fhir.Issue{{
		Severity: "error", Code: code, Diagnostics: path + ": " + fmt.Sprintf(format, args...),
		Expression: []string{path}}}}
}

// compile checks a topic and prepares its triggers. base is the FHIR base URL.
func (t *Topic) compile(base string) error {
	u, err := url.Parse(t.URL)
	if err != nil || !u.IsAbs() || strings.ContainsAny(t.URL, "|? #\t\r\n") || len(t.URL) > 512 {
		return refuse("SubscriptionTopic.url", "value", "must be an absolute URL without version, query and fragment")
	}
	switch t.Status {
	case "draft", "active", "retired":
	default:
		return refuse("SubscriptionTopic.status", "value", "must be draft, active or retired")
	}
	for name, s := range map[string]string{"title": t.Title, "description": t.Description, "name": t.Name,
		"version": t.Version} {
		if len(s) > maxText {
			return refuse("SubscriptionTopic."+name, "too-long", "is longer than %d bytes", maxText)
		}
	}
	if len(t.Triggers) == 0 || len(t.Triggers) > maxTriggers {
		return refuse("SubscriptionTopic.resourceTrigger", "required", "must occur 1 to %d times", maxTriggers)
	}
	if len(t.Filters) > maxFilters {
		return refuse("SubscriptionTopic.canFilterBy", "too-long", "occurs more than %d times", maxFilters)
	}
	if len(t.Shapes) > maxShapes {
		return refuse("SubscriptionTopic.notificationShape", "too-long", "occurs more than %d times", maxShapes)
	}
	for i := range t.Triggers {
		if err := t.Triggers[i].compile(fmt.Sprintf("SubscriptionTopic.resourceTrigger[%d]", i), base); err != nil {
			return err
		}
	}
	for i := range t.Filters {
		if err := t.filter(fmt.Sprintf("SubscriptionTopic.canFilterBy[%d]", i), &t.Filters[i]); err != nil {
			return err
		}
	}
	for i := range t.Shapes {
		if err := t.shape(fmt.Sprintf("SubscriptionTopic.notificationShape[%d]", i), &t.Shapes[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *Trigger) compile(path, base string) error {
	if !storable(r.Resource) {
		return refuse(path+".resource", "not-supported", "must be a resource type that this server stores")
	}
	if r.Interactions == 0 {
		r.Interactions = Create | Update | Delete
	}
	if r.Previous == "" && r.Current == "" && (r.CreatePasses || r.DeletePasses || r.RequireBoth) {
		return refuse(path+".queryCriteria", "required", "needs previous or current")
	}
	var err error
	if r.previous, err = Criteria(path+".queryCriteria.previous", r.Resource, r.Previous, base); err != nil {
		return err
	}
	if r.current, err = Criteria(path+".queryCriteria.current", r.Resource, r.Current, base); err != nil {
		return err
	}
	r.extractor = search.Extractor{Base: base}
	if r.FHIRPath == "" {
		return nil
	}
	if len(r.FHIRPath) > maxText {
		return refuse(path+".fhirPathCriteria", "too-long", "is longer than %d bytes", maxText)
	}
	if r.expression, err = fhirpath.Compile(r.FHIRPath); err == nil {
		err = r.expression.Check(r.Resource)
	}
	if err != nil {
		return refuse(path+".fhirPathCriteria", "value", "is not an expression for this type: %v", reason(err))
	}
	return nil
}

// reason returns the diagnostics of an error of fhirpath or search.
func reason(err error) string {
	if e, ok := err.(*fhir.Error); ok && len(e.Issues) > 0 {
		return e.Issues[0].Diagnostics
	}
	return "it cannot be read"
}

// Criteria parses a query on one type and returns its clauses. It fails with
// Unprocessable, naming the element at path, unless all parameters select resources by
// their own content.
func Criteria(path, typ, query, base string) ([]search.Clause, error) {
	if query == "" {
		return nil, nil
	}
	if len(query) > maxText {
		return nil, refuse(path, "too-long", "is longer than %d bytes", maxText)
	}
	if t, rest, ok := strings.Cut(query, "?"); ok {
		if t != typ {
			return nil, refuse(path, "value", "must be a search on %s", typ)
		}
		query = rest
	}
	pairs, err := search.Pairs(query)
	if err != nil {
		return nil, refuse(path, "value", "%s", reason(err))
	}
	for _, p := range pairs {
		if strings.Trim(p[1], ", \t") == "" {
			// search.Parse ignores an empty parameter. A criterion that is ignored would
			// match more than its author wrote.
			return nil, refuse(path, "value", "each parameter needs a value")
		}
		if name, _, _ := strings.Cut(p[0], ":"); !strings.ContainsAny(name, "._") {
			if _, ok := search.Lookup(typ, name); !ok {
				return nil, refuse(path, "not-supported", "has a %s", noParameter)
			}
		}
	}
	q, err := search.Parse(typ, pairs, search.ParseOptions{Base: base})
	if err != nil {
		return nil, refuse(path, "not-supported", "%s", reason(err))
	}
	if len(q.Sort)+len(q.Elements)+len(q.Includes)+len(q.RevIncludes) > 0 || q.Count >= 0 || q.Total != 0 ||
		q.Summary != 0 || q.Page != "" || len(q.Clauses) != len(pairs) {
		return nil, refuse(path, "not-supported", "may only have parameters that select resources")
	}
	for i := range q.Clauses {
		if !plain(&q.Clauses[i]) {
			return nil, refuse(path, "not-supported", "chained parameters, _has and _filter are not supported here")
		}
	}
	return q.Clauses, nil
}

// noParameter describes a parameter that criteria and filters cannot have. Those that
// SearchParameter resources define may change or end while a Subscription is active, which
// would change what it notifies of.
const noParameter = "parameter that is none of R4 or US Core for the type; " +
	"parameters that SearchParameter resources define cannot be used in topics and subscriptions"

// plain reports whether a clause depends on nothing but the resource.
func plain(c *search.Clause) bool {
	return c.Param != nil && len(c.Joins) == 0 && len(c.Any) == 0
}

// storable reports whether a topic may be about a type: the server stores it and logs
// its changes. Subscriptions are left out, because they may contain secrets.
func storable(typ string) bool {
	return fhir.KnownType(typ) && typ != "AuditEvent" && typ != "Subscription"
}

// fires reports whether a topic has a trigger for a type.
func (t *Topic) fires(typ string) bool {
	return slices.ContainsFunc(t.Triggers, func(r Trigger) bool { return r.Resource == typ })
}

func (t *Topic) filter(path string, f *FilterBy) error {
	if f.Resource == "" && len(t.Types()) == 1 {
		f.Resource = t.Types()[0]
	}
	if !t.fires(f.Resource) {
		return refuse(path+".resource", "value", "must be the type of a trigger of this topic")
	}
	if f.Parameter == TriggerParameter && t.Feed {
		return nil
	}
	p, ok := search.Lookup(f.Resource, f.Parameter)
	if !ok || !p.Supported() {
		return refuse(path+".filterParameter", "not-supported",
			"has a %s", noParameter)
	}
	return nil
}

func (t *Topic) shape(path string, s *Shape) error {
	if !t.fires(s.Resource) {
		return refuse(path+".resource", "value", "must be the type of a trigger of this topic")
	}
	if len(s.Include) > maxIncludes || len(s.RevInclude) > maxIncludes {
		return refuse(path, "too-long", "has more than %d includes", maxIncludes)
	}
	for i, in := range s.Include {
		if typ, _, ok := reference(in); !ok || typ != s.Resource {
			return refuse(fmt.Sprintf("%s.include[%d]", path, i), "not-supported",
				"must be %s and a reference parameter, without :iterate", s.Resource)
		}
	}
	for i, in := range s.RevInclude {
		if _, p, ok := reference(in); !ok || len(p.Targets) > 0 && !slices.Contains(p.Targets, s.Resource) {
			return refuse(fmt.Sprintf("%s.revInclude[%d]", path, i), "not-supported",
				"must be a type and a parameter that refers to %s, without :iterate", s.Resource)
		}
	}
	return nil
}

// reference returns the type and the reference parameter that an include names.
func reference(include string) (typ string, p *search.Param, ok bool) {
	typ, code, _ := strings.Cut(include, ":")
	if !storable(typ) {
		return "", nil, false
	}
	p, ok = search.Lookup(typ, code)
	return typ, p, ok && p.Supported() && p.Type == search.TypeReference
}

// Types returns the types of the triggers, sorted.
func (t *Topic) Types() []string {
	var out []string
	for i := range t.Triggers {
		out = append(out, t.Triggers[i].Resource)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// MayFilter reports whether a Subscription may filter a type by a parameter with a
// modifier, which is "" for none.
func (t *Topic) MayFilter(typ, parameter, modifier string) bool {
	return slices.ContainsFunc(t.Filters, func(f FilterBy) bool {
		return f.Resource == typ && f.Parameter == parameter &&
			(modifier == "" || slices.Contains(f.Modifiers, modifier))
	})
}

// Parameters returns the parameters by which a type may be filtered.
func (t *Topic) Parameters(typ string) (out []string) {
	for _, f := range t.Filters {
		if f.Resource == typ {
			out = append(out, f.Parameter)
		}
	}
	return out
}

// ShapeOf returns the shape of notifications of a type, or nil.
func (t *Topic) ShapeOf(typ string) *Shape {
	for i := range t.Shapes {
		if t.Shapes[i].Resource == typ {
			return &t.Shapes[i]
		}
	}
	return nil
}
