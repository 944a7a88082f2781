package openapi

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"pulsegate/fhir"
)

// collectionSchema is the format of the collection.
const collectionSchema = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"

// described is the part of an OpenAPI document that Collection reads.
type described struct {
	Info       struct{ Title, Description string }
	Servers    []struct{ URL string }
	Tags       []struct{ Name string }
	Paths      map[string]map[string]json.RawMessage
	Components struct {
		Parameters    map[string]parameter
		RequestBodies map[string]struct {
			Content map[string]json.RawMessage
		}
		SecuritySchemes struct {
			Smart struct {
				Flows map[string]struct{ TokenURL string }
			}
		}
	}
}

type parameter struct{ Name, In, Description string }

// work is an operation of the document.
type work struct {
	OperationID, Summary, Description string
	Tags                              []string
	Parameters                        []struct {
		Ref string `json:"$ref"`
	}
	RequestBody struct {
		Ref string `json:"$ref"`
	}
	Security *[]map[string][]string
}

// item is a request or a folder of a collection.
type item struct {
	Name    string   `json:"name"`
	Item    []item   `json:"item,omitempty"`
	Request *request `json:"request,omitempty"`
	Text    string   `json:"description,omitempty"`
}

type request struct {
	Method      string   `json:"method"`
	Header      []pair   `json:"header"`
	URL         address  `json:"url"`
	Body        *content `json:"body,omitempty"`
	Auth        *auth    `json:"auth,omitempty"`
	Description string   `json:"description,omitempty"`
}

type pair struct {
	Key         string `json:"key"`
	Value       string `json:"value"`
	Description string `json:"description,omitempty"`
	Disabled    bool   `json:"disabled,omitempty"`
	Type        string `json:"type,omitempty"`
}

type address struct {
	Raw      string   `json:"raw"`
	Host     []string `json:"host"`
	Path     []string `json:"path"`
	Query    []pair   `json:"query,omitempty"`
	Variable []pair   `json:"variable,omitempty"`
}

type content struct {
	Mode       string `json:"mode"`
	Raw        string `json:"raw,omitempty"`
	URLEncoded []pair `json:"urlencoded,omitempty"`
}

type auth struct {
	Type   string `json:"type"`
	Bearer []pair `json:"bearer,omitempty"`
}

// Collection returns the requests of an OpenAPI document as a Postman collection. It has the
// variables base and token.
func Collection(document []byte) ([]byte, error) {
	const op = "openapi.Collection"
	var d described
	if err := json.Unmarshal(document, &d); err != nil || len(d.Servers) == 0 {
		return nil, fhir.Errorf(fhir.Internal, op, "the OpenAPI document cannot be read")
	}
	folders := map[string][]item{}
	for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(d.Paths[path])) {
			if method == "parameters" {
				continue
			}
			var w work
			if err := json.Unmarshal(d.Paths[path][method], &w); err != nil || len(w.Tags) == 0 {
				return nil, fhir.Errorf(fhir.Internal, op, "the operation %s %s cannot be read", method, path)
			}
			folders[w.Tags[0]] = append(folders[w.Tags[0]], d.request(path, method, &w))
		}
	}
	items := []item{}
	for _, t := range d.Tags {
		if len(folders[t.Name]) > 0 {
			items = append(items, item{Name: t.Name, Item: folders[t.Name]})
		}
	}
	out, err := json.Marshal(struct {
		Info     object `json:"info"`
		Auth     auth   `json:"auth"`
		Variable []pair `json:"variable"`
		Item     []item `json:"item"`
	}{object{"name": d.Info.Title, "description": d.Info.Description, "schema": collectionSchema},
		auth{Type: "bearer", Bearer: []pair{{Key: "token", Value: "{{token}}", Type: "string"}}},
		[]pair{{Key: "base", Value: d.Servers[0].URL}, {Key: "token", Value: ""}}, items})
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	return out, nil
}

// request converts an operation. Optional parameters are disabled until they are needed.
func (d *described) request(path, method string, w *work) item {
	r := &request{Method: strings.ToUpper(method), Header: []pair{}, Description: w.Description}
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, p := range parts {
		if name, ok := strings.CutPrefix(p, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			parts[i] = ":" + name
			r.URL.Variable = append(r.URL.Variable, pair{Key: name})
		}
	}
	r.URL.Host, r.URL.Path = []string{"{{base}}"}, parts
	r.URL.Raw = "{{base}}/" + strings.Join(parts, "/")
	for _, p := range w.Parameters {
		one := d.Components.Parameters[p.Ref[strings.LastIndex(p.Ref, "/")+1:]]
		entry := pair{Key: one.Name, Description: one.Description, Disabled: true}
		if one.In == "header" {
			r.Header = append(r.Header, entry)
		} else {
			r.URL.Query = append(r.URL.Query, entry)
		}
	}
	if name := w.RequestBody.Ref[strings.LastIndex(w.RequestBody.Ref, "/")+1:]; name != "" {
		types := slices.Sorted(maps.Keys(d.Components.RequestBodies[name].Content))
		switch {
		case types[0] == "application/x-www-form-urlencoded":
			r.Body = &content{Mode: "urlencoded", URLEncoded: []pair{}}
		case name == "Patch":
			r.Header = append(r.Header, pair{Key: "Content-Type", Value: "application/json-patch+json"})
			r.Body = &content{Mode: "raw", Raw: `[{"op":"replace","path":"","value":""}]`}
		case types[0] == "*/*":
			r.Body = &content{Mode: "raw"}
		default:
			r.Header = append(r.Header, pair{Key: "Content-Type", Value: types[0]})
			r.Body = &content{Mode: "raw", Raw: `{"resourceType":"` + name + `"}`}
		}
	}
	if w.Security != nil && len(*w.Security) == 0 {
		r.Auth = &auth{Type: "noauth"}
	}
	return item{Name: w.Summary, Request: r}
}
