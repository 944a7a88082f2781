package server

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"pulsegate/fhir"
	"pulsegate/fhir/capability/openapi"
	"pulsegate/fhir/guide"
)

// described returns an engine with all routes and its answers to GET without a token.
func described(t *testing.T) ([]openapi.Route, func(path string, header ...string) *httptest.ResponseRecorder) {
	t.Helper()
	s := mustOpen(t, t.TempDir())
	e, err := s.engine(&health{store: s.embedded, draining: make(chan struct{})})
	if err != nil {
		t.Fatal(err)
	}
	return (&describer{engine: e}).routes(), func(path string, header ...string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, path, nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		e.ServeHTTP(w, r)
		return w
	}
}

// operationsOf is the part of an OpenAPI document that the comparison with the routes needs.
type operationsOf struct {
	Paths map[string]map[string]json.RawMessage
}

// covers reports whether a path of the document is one of a route. Names that begin with $,
// _ or . are no values of a parameter.
func covers(route, path string) bool {
	rs, ps := strings.Split(strings.TrimSuffix(route, "/"), "/"), strings.Split(path, "/")
	if len(rs) != len(ps) {
		return false
	}
	for i := range rs {
		switch {
		case rs[i] == ps[i]:
		case !strings.HasPrefix(rs[i], ":") && !strings.HasPrefix(rs[i], "*"),
			ps[i] == "", strings.ContainsAny(ps[i][:1], "$_."):
			return false
		}
	}
	return true
}

// differences lists the routes that the document lacks and its operations without a route.
func differences(routes []openapi.Route, d operationsOf) (out []string) {
	anyMethod := map[string]bool{} // handlers that look at the method themselves
	for _, r := range routes {
		anyMethod[r.Path] = anyMethod[r.Path] || r.Method == http.MethodConnect
	}
	for _, r := range routes {
		if openapi.ForPeople(r.Path) || r.Method == http.MethodOptions {
			continue
		}
		found := false
		for path, item := range d.Paths {
			method := strings.ToLower(strings.Replace(r.Method, http.MethodHead, http.MethodGet, 1))
			found = found || covers(r.Path, path) && (item[method] != nil || anyMethod[r.Path])
		}
		if !found {
			out = append(out, fmt.Sprintf("the document lacks %s %s", r.Method, r.Path))
		}
	}
	for path, item := range d.Paths {
		for method := range item {
			if method == "parameters" {
				continue
			}
			if !slices.ContainsFunc(routes, func(r openapi.Route) bool {
				return strings.EqualFold(r.Method, method) && covers(r.Path, path)
			}) {
				out = append(out, fmt.Sprintf("no route serves %s %s", method, path))
			}
		}
	}
	return out
}

// TestOpenAPI compares the OpenAPI document with the routes of the server, in both
// directions, and validates it.
func TestOpenAPI(t *testing.T) {
	routes, get := described(t)
	for _, query := range []string{"", "?types=Observation,AuditEvent"} {
		w := get(openAPIPath + query)
		if w.Code != http.StatusOK || w.Body.Len() > 3<<19 {
			t.Fatalf("%s: status %d, %d bytes, want at most 1.5 MiB", query, w.Code, w.Body.Len())
		}
		doc, err := openapi3.NewLoader().LoadFromData(w.Body.Bytes())
		if err != nil {
			t.Fatal(query, err)
		}
		if err := doc.Validate(t.Context()); err != nil || !doc.IsOpenAPI31OrLater() {
			t.Errorf("%s: OpenAPI %s: %v", query, doc.OpenAPI, err)
		}
		if one := doc.Paths.Value("/fhir/AuditEvent"); one == nil || one.Get == nil || one.Post != nil {
			t.Errorf("%s: AuditEvents can be searched but not created: %+v", query, one)
		}
		if n := len(doc.Paths.Value("/fhir/Observation").Get.Parameters); n < 40 {
			t.Errorf("%s: the search of Observations has %d parameters", query, n)
		}
	}
	var d operationsOf
	if err := json.Unmarshal(get(openAPIPath).Body.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	for _, typ := range fhir.Types {
		if d.Paths["/fhir/"+typ]["get"] == nil || d.Paths["/fhir/"+typ+"/{id}"]["get"] == nil {
			t.Errorf("%s can be neither searched nor read", typ)
		}
	}
	for _, problem := range differences(routes, d) {
		t.Error(problem)
	}
	// The controls: a route without an operation, and an operation without a route.
	more := append(slices.Clone(routes), openapi.Route{Method: http.MethodPost, Path: "/fhir/:type/$canary"})
	d.Paths["/fhir/Observation/$unknown"] = map[string]json.RawMessage{"get": nil}
	if got := differences(more, d); len(got) != 2 {
		t.Errorf("the controls found %v", got)
	}
}

// TestOpenAPIErrors sends types that the server does not have.
func TestOpenAPIErrors(t *testing.T) {
	_, get := described(t)
	for _, types := range []string{"Canary", "Observation,Observation", ","} {
		w := get(openAPIPath + "?types=" + types)
		if w.Code != http.StatusBadRequest || strings.Contains(w.Body.String(), "Canary") {
			t.Errorf("%s: %d %s", types, w.Code, w.Body)
		}
	}
}

// TestDocumentsAreKept asks for documents again with their entity tags.
func TestDocumentsAreKept(t *testing.T) {
	_, get := described(t)
	for _, path := range []string{openAPIPath, collectionPath, "/fhir/metadata"} {
		plain, zipped := get(path), get(path, "Accept-Encoding", "gzip")
		if zipped.Header().Get("Content-Encoding") != "gzip" || zipped.Body.Len() > plain.Body.Len()/8 {
			t.Errorf("%s: %d bytes, compressed %d", path, plain.Body.Len(), zipped.Body.Len())
		}
		tag := plain.Header().Get("ETag")
		if tag == "" || tag != zipped.Header().Get("ETag") {
			t.Errorf("%s: tags %q and %q", path, tag, zipped.Header().Get("ETag"))
		}
		if again := get(path, "If-None-Match", tag); again.Code != http.StatusNotModified || again.Body.Len() > 0 {
			t.Errorf("%s: status %d with the current tag", path, again.Code)
		}
		if other := get(path, "If-None-Match", `W/"0"`); other.Code != http.StatusOK {
			t.Errorf("%s: status %d with another tag", path, other.Code)
		}
	}
}

// TestGuidePackage reads the package that is served. It must have the guide's resources and
// those of the installation, each once, and the landing page must lead to it.
func TestGuidePackage(t *testing.T) {
	_, get := described(t)
	w := get(guidePath)
	z, err := gzip.NewReader(w.Body)
	if w.Code != http.StatusOK || err != nil {
		t.Fatalf("status %d: %v", w.Code, err)
	}
	names := map[string]int{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		names[h.Name]++
	}
	for _, name := range []string{"package.json", ".index.json", "ImplementationGuide-" + guide.PackageID + ".json"} {
		if names["package/"+name] != 1 {
			t.Errorf("%s is in the package %d times", name, names["package/"+name])
		}
	}
	if len(names) < len(guide.Resources())+3 {
		t.Errorf("%d files, but the guide has %d resources, and the metric table more", len(names), len(guide.Resources()))
	}
	page := get("/").Body.String()
	for _, path := range []string{openAPIPath, collectionPath, guidePath, "/fhir/metadata"} {
		if !strings.Contains(page, path+`"`) {
			t.Errorf("the landing page has no link to %s", path)
		}
	}
}

// TestCollection checks that the collection has a request for each operation of the
// OpenAPI document, and that it resolves the parameters of each.
func TestCollection(t *testing.T) {
	_, get := described(t)
	type folder struct {
		Name    string
		Item    []folder
		Request *struct {
			Method string
			URL    struct {
				Raw      string
				Query    []struct{ Key string }
				Variable []struct{ Key string }
			}
		}
	}
	var c struct {
		Info struct{ Schema string }
		Item []folder
	}
	if err := json.Unmarshal(get(collectionPath).Body.Bytes(), &c); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(c.Info.Schema, "v2.1.0") || len(c.Item) < len(fhir.Types) {
		t.Fatalf("schema %q, %d folders", c.Info.Schema, len(c.Item))
	}
	requests := map[string]bool{}
	for _, f := range c.Item {
		for _, i := range f.Item {
			if i.Request == nil {
				t.Fatalf("%s: %s has no request", f.Name, i.Name)
			}
			requests[i.Request.Method+" "+i.Request.URL.Raw] = true
			if n := strings.Count(i.Request.URL.Raw, "/:"); n != len(i.Request.URL.Variable) {
				t.Errorf("%s has %d variables", i.Request.URL.Raw, len(i.Request.URL.Variable))
			}
			for _, p := range i.Request.URL.Query {
				if p.Key == "" {
					t.Errorf("%s has a parameter without a name", i.Request.URL.Raw)
				}
			}
		}
	}
	var d operationsOf
	if err := json.Unmarshal(get(openAPIPath).Body.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	for path, item := range d.Paths {
		for method := range item {
			raw := strings.ToUpper(method) + " {{base}}" + strings.NewReplacer("{", ":", "}", "").Replace(path)
			if method != "parameters" && !requests[raw] {
				t.Errorf("the collection lacks %s", raw)
			}
		}
	}
}
