package openapi

import (
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
)

// Route is a route of the server in the syntax of gin, such as /fhir/:type/:id.
type Route struct{ Method, Path string }

// Input is the input of Document.
type Input struct {
	// Statement is the CapabilityStatement as JSON.
	Statement []byte
	// Base is the base URL of the server without a path. The FHIR API is below Base/fhir.
	Base string
	// Routes lists the routes of the server, without those that only refuse a method.
	Routes []Route
	// Types restricts the document to these resource types. If it is empty, the document
	// has all types.
	Types []string
}

// object is an object of JSON. The encoder sorts the names.
type object = map[string]any

// statement holds the parts of a CapabilityStatement that Document reads.
type statement struct {
	Description string
	Software    struct{ Version string }
	Format      []string
	PatchFormat []string
	Rest        []struct {
		Documentation string
		Security      struct {
			Description string
			Extension   []struct {
				Extension []struct {
					URL      string
					ValueURI string `json:"valueUri"`
				}
			}
		}
		Resource    []resource
		Interaction []coded
		Operation   []operation
	}
}

type coded struct{ Code string }

type resource struct {
	Type              string
	SupportedProfile  []string
	Interaction       []coded
	ConditionalCreate bool
	ConditionalUpdate bool
	ConditionalDelete string
	SearchInclude     []string
	SearchRevInclude  []string
	SearchParam       []param
	Operation         []operation
}

type param struct{ Name, Type, Definition, Documentation string }

type operation struct{ Name, Definition, Documentation string }

// has reports whether the type offers the interaction.
func (r *resource) has(code string) bool { return slices.Contains(r.Interaction, coded{code}) }

// document collects the parts of an OpenAPI document.
type document struct {
	Input
	statement
	routes     map[Route]bool
	resources  []resource
	paths      map[string]object
	components map[string]object
	shared     map[string]string // types of search parameters by name; "" if they differ
	common     map[string]bool   // definitions of the operations that all types have
}

// Document returns the OpenAPI document as JSON.
func Document(in Input) ([]byte, error) {
	const op = "openapi.Document"
	d := &document{Input: in, routes: map[Route]bool{}, paths: map[string]object{}}
	if err := json.Unmarshal(in.Statement, &d.statement); err != nil || len(d.Rest) == 0 {
		return nil, fhir.Errorf(fhir.Internal, op, "the CapabilityStatement cannot be read")
	}
	for _, r := range in.Routes {
		d.routes[r] = true
	}
	for _, r := range d.Rest[0].Resource {
		if len(in.Types) == 0 || slices.Contains(in.Types, r.Type) {
			d.resources = append(d.resources, r)
		}
	}
	if len(d.resources) < len(in.Types) {
		return nil, fhir.Errorf(fhir.Invalid, op, "types must be a list of different resource types of this server")
	}
	d.share()
	d.addComponents()
	d.addSystem()
	for i := range d.resources {
		d.addType(&d.resources[i])
	}
	d.addCommonOperations()
	d.addEndpoints()
	b, err := json.Marshal(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Pulsegate", "version": d.version(), "summary": d.Description,
			"description": d.description(),
			"license":     object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers":    []object{{"url": in.Base}},
		"security":   []object{{"smart": []string{}}},
		"tags":       d.tags(),
		"paths":      d.paths,
		"components": d.components,
	})
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	return b, nil
}

func (d *document) version() string {
	if d.Software.Version == "" {
		return "unreleased"
	}
	return d.Software.Version
}

// description explains what OpenAPI has no elements for.
func (d *document) description() string {
	return "Derived from the CapabilityStatement at " + d.Base + "/fhir/metadata, which has more: profiles, includes and " +
		"canonical URLs.\n\n" +
		"Interactions that take GET take HEAD, too. Search parameters may carry modifiers and be chained, " +
		"which OpenAPI cannot express: `patient.name`, `code:in`, `_has:Observation:patient:code`. A parameter " +
		"that is repeated means AND, a list separated by commas means OR.\n\n" +
		d.Rest[0].Documentation + "\n\n" + d.Rest[0].Security.Description
}

// share finds out which search parameters have the same type wherever they occur, and
// which operations all types have.
func (d *document) share() {
	d.shared, d.common = map[string]string{}, map[string]bool{}
	for i := range d.Rest[0].Resource {
		r := &d.Rest[0].Resource[i]
		for _, p := range r.SearchParam {
			if t, ok := d.shared[p.Name]; ok && t != p.Type {
				d.shared[p.Name] = ""
			} else if !ok {
				d.shared[p.Name] = p.Type
			}
		}
		defined := map[string]bool{}
		for _, o := range r.Operation {
			defined[o.Definition] = i == 0 || d.common[o.Definition]
		}
		d.common = defined
	}
	for definition, everywhere := range d.common {
		if !everywhere {
			delete(d.common, definition)
		}
	}
}

// tags lists the tags: the types first, then the rest of the API.
func (d *document) tags() (out []object) {
	for _, r := range d.resources {
		out = append(out, object{"name": r.Type, "externalDocs": object{"url": "http://hl7.org/fhir/R4/" +
			strings.ToLower(r.Type) + ".html"}})
	}
	for _, t := range [][2]string{
		{tagSystem, "Interactions and operations of the whole system"},
		{tagAll, "Operations of every resource type"},
		{tagBulk, "Status and files of exports and submissions"},
		{tagOAuth, "Authorization by SMART App Launch"},
		{tagIngest, "Payloads of vendors"},
		{tagServer, "Health and descriptions of this server"},
	} {
		out = append(out, object{"name": t[0], "description": t[1]})
	}
	return out
}

// add adds an operation of the document if the server has its route. Path has the syntax
// of OpenAPI, route that of gin.
func (d *document) add(method, path, route string, o object) bool {
	if !d.routes[Route{method, route}] {
		return false
	}
	item := d.paths[path]
	if item == nil {
		item = object{}
		d.paths[path] = item
		var ps []object
		for segment := range strings.SplitSeq(path, "/") {
			if name, ok := strings.CutPrefix(segment, "{"); ok {
				ps = append(ps, ref("parameters", "path-"+strings.TrimSuffix(name, "}")))
			}
		}
		if ps != nil {
			item["parameters"] = ps
		}
	}
	item[strings.ToLower(method)] = o
	return true
}

func ref(kind, name string) object { return object{"$ref": "#/components/" + kind + "/" + name} }
