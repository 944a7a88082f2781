package server

import (
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/capability/openapi"
	"pulsegate/fhir/guide"
	"pulsegate/fhir/rest"
)

// Paths of the documents for developers.
const (
	openAPIPath    = "/openapi.json"
	collectionPath = "/collection.json"
	guidePath      = "/guide.tgz"
)

// documents returns the descriptions of the API that are served beside it. They are made
// when they are first asked for, and again when the statement has changed.
func (s *services) documents(e *gin.Engine, statement func() []byte) []rest.Mounter {
	d := &describer{engine: e, base: s.base, statement: statement}
	pack := sync.OnceValues(s.guidePackage)
	return []rest.Mounter{
		rest.Document{Path: openAPIPath, ContentType: "application/vnd.oai.openapi+json;version=3.1", Body: d.openAPI},
		rest.Document{Path: collectionPath, ContentType: "application/json", Filename: "pulsegate.postman_collection.json",
			Body: d.collection},
		rest.Document{Path: guidePath, ContentType: "application/gzip", Filename: guide.PackageID + ".tgz",
			Body: func(*http.Request) ([]byte, error) { return pack() }},
	}
}

// guidePackage returns the FHIR package of the guide with the resources of this
// installation, such as the CodeSystems of its mapping packs.
func (s *services) guidePackage() ([]byte, error) {
	list, err := s.guideResources()
	if err != nil {
		return nil, err
	}
	// Package adds an ImplementationGuide of its own.
	return guide.Package(slices.DeleteFunc(list, func(r guide.Resource) bool { return r.Type == "ImplementationGuide" }))
}

// describer makes documents from the CapabilityStatement and the routes.
type describer struct {
	engine    *gin.Engine
	base      string
	statement func() []byte

	mu           sync.Mutex
	of           []byte // the statement that the documents describe; guarded by mu
	api, postman []byte // guarded by mu
}

// routes returns the routes of the server, without those that only refuse a method.
func (d *describer) routes() (out []openapi.Route) {
	for _, r := range d.engine.Routes() {
		if !strings.HasSuffix(r.Handler, ".noMethod-fm") {
			out = append(out, openapi.Route{Method: r.Method, Path: r.Path})
		}
	}
	return out
}

// openAPI returns the OpenAPI document of all types, or of those that the parameter types
// names.
func (d *describer) openAPI(r *http.Request) ([]byte, error) {
	if raw := r.URL.Query().Get("types"); raw != "" {
		types := strings.Split(raw, ",")
		for _, t := range types {
			if !fhir.KnownType(t) {
				return nil, fhir.Errorf(fhir.Invalid, "server.openAPI", "types must be a list of resource types of this server, separated by commas")
			}
		}
		return openapi.Document(openapi.Input{Statement: d.statement(), Base: d.base, Routes: d.routes(), Types: types})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.update()
	return d.api, err
}

// collection returns the Postman collection.
func (d *describer) collection(*http.Request) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.update()
	return d.postman, err
}

// update makes the documents if the statement is another one. The caller holds mu.
func (d *describer) update() error {
	now := d.statement()
	if d.of != nil && len(now) == len(d.of) && &now[0] == &d.of[0] {
		return nil
	}
	api, err := openapi.Document(openapi.Input{Statement: now, Base: d.base, Routes: d.routes()})
	if err != nil {
		return err
	}
	postman, err := openapi.Collection(api)
	if err != nil {
		return err
	}
	d.of, d.api, d.postman = now, api, postman
	return nil
}
