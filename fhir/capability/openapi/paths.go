package openapi

import (
	"net/http"
	"slices"
	"strings"
)

// Tags of the operations that belong to no resource type.
const (
	tagSystem = "System"
	tagAll    = "All types"
	tagBulk   = "Bulk Data"
	tagOAuth  = "OAuth"
	tagIngest = "Ingestion"
	tagServer = "Server"
)

const base = "/fhir"

// made is a FHIR interaction as an operation of the document.
type made struct {
	// code of the interaction in the statement, and the condition for its conditional form
	code   string
	when   func(*resource) bool
	method string
	path   string // below /fhir, in gin's syntax
	id     string // operationId without the type
	title  string // summary; T stands for the type
	params []string
	search bool   // the parameters of the search are added
	body   string // component with the body; T stands for the type
	status map[string]string
}

func conditionalUpdate(r *resource) bool { return r.ConditionalUpdate }
func conditionalDelete(r *resource) bool {
	return r.ConditionalDelete != "" && r.ConditionalDelete != "not-supported"
}

// interactions lists the interactions of a type. T stands for the type.
var interactions = []made{ // read only
	{code: "search-type", method: http.MethodGet, path: "/:type", id: "search", title: "Search T",
		search: true, status: map[string]string{"200": "Bundle"}},
	{code: "search-type", method: http.MethodPost, path: "/:type/_search", id: "searchForm",
		title: "Search T with the parameters in the body", body: "Search", status: map[string]string{"200": "Bundle"}},
	{code: "create", method: http.MethodPost, path: "/:type", id: "create", title: "Create T",
		params: []string{"If-None-Exist", "Prefer"}, body: "T", status: map[string]string{"200": "T", "201": "T"}},
	{code: "update", when: conditionalUpdate, method: http.MethodPut, path: "/:type", id: "updateWhere",
		title: "Update or create T by the criteria in the query", params: []string{"If-Match", "Prefer"}, body: "T",
		status: map[string]string{"200": "T", "201": "T"}},
	{code: "patch", when: conditionalUpdate, method: http.MethodPatch, path: "/:type", id: "patchWhere",
		title: "Patch T by the criteria in the query", params: []string{"If-Match", "Prefer"}, body: "Patch",
		status: map[string]string{"200": "T"}},
	{code: "delete", when: conditionalDelete, method: http.MethodDelete, path: "/:type", id: "deleteWhere",
		title: "Delete T by the criteria in the query", params: []string{"If-Match"}, status: map[string]string{"204": "Empty"}},
	{code: "history-type", method: http.MethodGet, path: "/:type/_history", id: "historyOfType", title: "History of all T",
		params: []string{"_since", "_at", "_count"}, status: map[string]string{"200": "Bundle"}},
	{code: "read", method: http.MethodGet, path: "/:type/:id", id: "read", title: "Read T",
		params: []string{"If-None-Match", "If-Modified-Since", "_summary", "_elements", "_format"},
		status: map[string]string{"200": "T", "304": "Empty"}},
	{code: "update", method: http.MethodPut, path: "/:type/:id", id: "update", title: "Update or create T",
		params: []string{"If-Match", "If-None-Match", "Prefer"}, body: "T", status: map[string]string{"200": "T", "201": "T"}},
	{code: "patch", method: http.MethodPatch, path: "/:type/:id", id: "patch", title: "Patch T",
		params: []string{"If-Match", "Prefer"}, body: "Patch", status: map[string]string{"200": "T"}},
	{code: "delete", method: http.MethodDelete, path: "/:type/:id", id: "delete", title: "Delete T",
		params: []string{"If-Match"}, status: map[string]string{"204": "Empty"}},
	{code: "history-instance", method: http.MethodGet, path: "/:type/:id/_history", id: "history", title: "History of T",
		params: []string{"_since", "_at", "_count"}, status: map[string]string{"200": "Bundle"}},
	{code: "vread", method: http.MethodGet, path: "/:type/:id/_history/:vid", id: "vread", title: "Read a version of T",
		params: []string{"_format"}, status: map[string]string{"200": "T"}},
}

// addType adds the interactions and operations of a type.
func (d *document) addType(r *resource) {
	for i := range interactions {
		m := &interactions[i]
		if r.has(m.code) && (m.when == nil || m.when(r)) {
			d.addInteraction(m, r)
		}
	}
	for _, o := range r.Operation {
		if d.common[o.Definition] {
			continue
		}
		d.addOperation(ofType(r.Type), o)
		if !ofTypeOnly(o) {
			d.addOperation(ofInstance(r.Type), o)
		}
	}
}

// ofTypeOnly reports whether an operation has no instance level, although another one of
// its name has: the definition of $export is another at each level.
func ofTypeOnly(o operation) bool { return strings.HasSuffix(o.Definition, "/patient-export") }

func (d *document) addInteraction(m *made, r *resource) {
	of := func(s string) string {
		if s == "T" {
			return r.Type
		}
		return s
	}
	o := object{"operationId": m.id + r.Type, "tags": []string{r.Type},
		"summary": strings.ReplaceAll(m.title, " T", " "+r.Type)}
	answers := object{"default": ref("responses", "Error")}
	for status, name := range m.status {
		answers[status] = ref("responses", of(name))
	}
	o["responses"] = answers
	var ps []object
	for _, p := range m.params {
		ps = append(ps, ref("parameters", p))
	}
	if m.search {
		for _, p := range r.SearchParam {
			ps = append(ps, ref("parameters", d.parameterName(p)))
		}
		for _, p := range resultParameters {
			ps = append(ps, ref("parameters", p[0]))
		}
	}
	if ps != nil {
		o["parameters"] = ps
	}
	if m.body != "" {
		o["requestBody"] = ref("requestBodies", of(m.body))
	}
	if m.search && len(r.SupportedProfile) > 0 {
		o["description"] = "Supported profiles: " + strings.Join(r.SupportedProfile, ", ")
	}
	d.add(m.method, base+openPath(strings.Replace(m.path, ":type", r.Type, 1)), base+m.path, o)
}

// openPath converts a path from gin's syntax to that of OpenAPI.
func openPath(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if name, ok := strings.CutPrefix(strings.Replace(p, "*", ":", 1), ":"); ok {
			parts[i] = "{" + name + "}"
		}
	}
	return strings.Join(parts, "/")
}

// place is a level at which an operation is called.
type place struct {
	path   string   // below the base URL, in the syntax of OpenAPI
	routes []string // in gin's syntax; the server has at most one of them
	tag    string
	suffix string // of the operationId
}

// ofSystem, ofType and ofInstance return the places of the levels. If typ is "", the type
// is a parameter of the path.
func ofSystem() place { return place{"", []string{base}, tagSystem, "System"} }

func ofType(typ string) place {
	if typ == "" {
		return place{"/{type}", []string{base + "/:type"}, tagAll, "Any"}
	}
	return place{"/" + typ, []string{base + "/:type", base + "/" + typ}, typ, typ}
}

func ofInstance(typ string) place {
	p := ofType(typ)
	p.path, p.routes, p.suffix = p.path+"/{id}", []string{base + "/:type/:id"}, p.suffix+"-id"
	return p
}

// addOperation adds a FHIR operation at a place by the methods that have a route.
func (d *document) addOperation(at place, o operation) {
	text := "Definition: " + o.Definition
	if o.Documentation != "" {
		text = o.Documentation + "\n\n" + text
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		one := object{"operationId": strings.ToLower(method) + "-" + o.Name + "-" + at.suffix, "tags": []string{at.tag},
			"summary": "$" + o.Name, "description": text,
			"responses": object{"200": ref("responses", "Result"), "default": ref("responses", "Error")}}
		switch {
		case o.Name == "export" || o.Name == "bulk-submit-status":
			one["responses"] = object{"202": ref("responses", "Accepted"), "default": ref("responses", "Error")}
		case o.Name == "bulk-publish":
			one["security"] = []object{}
		}
		if method == http.MethodPost {
			one["requestBody"] = ref("requestBodies", "Parameters")
		}
		for _, r := range at.routes {
			if d.add(method, base+at.path+"/$"+o.Name, r+"/$"+o.Name, one) {
				break
			}
		}
	}
}

// addSystem adds the interactions and operations of the whole system, and the searches in
// compartments.
func (d *document) addSystem() {
	has := func(code string) bool { return slices.Contains(d.Rest[0].Interaction, coded{code}) }
	one := func(id, summary, body string, params ...string) object {
		o := object{"operationId": id, "tags": []string{tagSystem}, "summary": summary,
			"responses": object{"200": ref("responses", "Bundle"), "default": ref("responses", "Error")}}
		var ps []object
		for _, p := range params {
			ps = append(ps, ref("parameters", p))
		}
		if ps != nil {
			o["parameters"] = ps
		}
		if body != "" {
			o["requestBody"] = ref("requestBodies", body)
		}
		return o
	}
	results := []string{"_type"}
	for _, p := range resultParameters {
		results = append(results, p[0])
	}
	if has("batch") || has("transaction") {
		d.add(http.MethodPost, base, base, one("bundle", "Batch or transaction", "Bundle", "Prefer"))
	}
	if has("search-system") {
		d.add(http.MethodGet, base, base, one("searchSystem", "Search several types", "", results...))
		d.add(http.MethodPost, base+"/_search", base+"/_search",
			one("searchSystemForm", "Search several types with the parameters in the body", "Search"))
	}
	if has("history-system") {
		d.add(http.MethodGet, base+"/_history", base+"/_history",
			one("historyOfSystem", "History of all resources", "", "_since", "_at", "_count"))
	}
	const members = base + "/{compartment}/{id}/{type}"
	d.add(http.MethodGet, members, base+"/:type/:id/:compartment",
		one("searchCompartment", "Search in a compartment", "", results[1:]...))
	d.add(http.MethodPost, members+"/_search", base+"/:type/:id/:compartment/_search",
		one("searchCompartmentForm", "Search in a compartment with the parameters in the body", "Search"))
	for _, o := range d.Rest[0].Operation {
		d.addOperation(ofSystem(), o)
	}
}

// addCommonOperations adds the operations that all types have, with the type as a
// parameter of the path.
func (d *document) addCommonOperations() {
	for _, o := range d.Rest[0].Resource[0].Operation {
		if d.common[o.Definition] {
			d.addOperation(ofType(""), o)
			d.addOperation(ofInstance(""), o)
		}
	}
}
