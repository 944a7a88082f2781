package clients

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pulsegate/conformance/browser"
)

// everything is the scope of a program that reads and writes all resources.
const everything = "system/*.cruds"

// TestPrograms runs programs that use the libraries with a token of SMART Backend
// Services: each calls what its library offers for FHIR, and reports every feature.
func TestPrograms(t *testing.T) {
	node := browser.Node(t)
	modules := filepath.Join(browser.Packages(t), "node_modules")
	w := newWorld(t)
	kit := filepath.Join(modules, "fhir-kit-client", "dist", "index.js")
	medplum := filepath.Join(modules, "@medplum", "core", "dist", "esm", "index.mjs")
	t.Run("bulk-data-client", func(t *testing.T) { bulkExports(t, w) })
	t.Run("fhir-kit-client with a narrow scope", func(t *testing.T) { reads(t, w, node, kit) })
	for _, p := range []struct {
		name, program, library string
		features               int
	}{
		{"medplum", "medplum.mjs", medplum, 18},
		{"fhir-kit-client", "kitwrites.mjs", kit, 12},
		{"fhirclient", "backend.cjs", filepath.Join(modules, "fhirclient", "lib", "entry", "node.js"), 8},
	} {
		t.Run(p.name, func(t *testing.T) {
			results := w.backend(p.name, everything).features(node, p.program, p.library, w.srv.Base)
			for name, problem := range results {
				if problem != "" {
					t.Errorf("%s: %s", name, problem)
				}
			}
			if len(results) != p.features {
				t.Errorf("%d features were used, want %d", len(results), p.features)
			}
		})
	}
	// A server without links to the next page fails what reads all pages, and nothing else.
	t.Run("control", func(t *testing.T) {
		proxy := w.withoutNext()
		defer proxy.Close()
		for name, problem := range w.backend("control", everything).features(node, "medplum.mjs", medplum, proxy.URL) {
			if (problem != "") != (name == "all pages") {
				t.Errorf("%s: %q", name, problem)
			}
		}
	})
}

// withoutNext returns a proxy of the server whose Bundles have no link to a next page.
func (w *world) withoutNext() *httptest.Server {
	w.t.Helper()
	to, err := url.Parse(w.srv.Base)
	w.must(err)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host
		r.Out.Header.Set("Accept-Encoding", "identity") // the answers are read
	}}
	proxy.ModifyResponse = func(resp *http.Response) error {
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/fhir+json") {
			return nil
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		var doc map[string]json.RawMessage
		if json.Unmarshal(body, &doc) == nil && bytes.Contains(doc["link"], []byte(`"next"`)) {
			delete(doc, "link")
			if body, err = json.Marshal(doc); err != nil {
				return err
			}
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	}
	return httptest.NewServer(proxy)
}
