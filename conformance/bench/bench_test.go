package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// TestTarget runs all measurements of -target against servers with base URLs and
// Location headers that differ from Pulsegate's.
func TestTarget(t *testing.T) {
	for name, c := range map[string]struct{ base, location string }{
		"root, absolute Location":           {"", "http://HOST/Observation/%d/_history/1"},
		"another path, relative Location":   {"/baseR4", "Observation/%d/_history/1"},
		"/fhir, Location from the root":     {"/fhir", "/fhir/Observation/%d"},
		"two segments, absolute Location":   {"/hapi/fhir", "http://HOST/hapi/fhir/Observation/%d/_history/1"},
		"trailing slash, absolute Location": {"/r4/", "http://HOST/r4/Observation/%d/_history/1"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(foreign(strings.TrimSuffix(c.base, "/"), c.location))
			defer srv.Close()
			file := filepath.Join(t.TempDir(), "figures.json")
			err := run(options{target: srv.URL + c.base, token: "-", json: file, requests: 20, workers: 2, seedObs: 220})
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got struct{ Figures []figure }
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			have := map[string]bool{}
			for _, f := range got.Figures {
				have[f.Name] = f.Value > 0
			}
			for _, want := range []string{"create", "transaction bundles", "read",
				"search patient+code+date, 100 of many"} {
				if !have[want] {
					t.Errorf("no figure for %s among %v", want, have)
				}
			}
		})
	}
}

// foreign returns an R4 server that answers only below base and offers no export.
func foreign(base, location string) http.Handler {
	var n atomic.Int64
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, status int, body string) {
		w.Header().Set("Content-Type", "application/fhir+json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
	mux.HandleFunc("POST "+base+"/Patient", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 201, `{"resourceType":"Patient","id":"p1"}`)
	})
	mux.HandleFunc("POST "+base+"/Observation", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", strings.ReplaceAll(fmt.Sprintf(location, n.Add(1)), "HOST", r.Host))
		answer(w, 201, `{"resourceType":"Observation","id":"x"}`)
	})
	mux.HandleFunc("GET "+base+"/Observation/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, `{"resourceType":"Observation","id":"`+r.PathValue("id")+`"}`)
	})
	mux.HandleFunc("GET "+base+"/Observation", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, `{"resourceType":"Bundle","type":"searchset"}`)
	})
	root := base
	if root == "" {
		root = "/{$}"
	}
	mux.HandleFunc("POST "+root, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, `{"resourceType":"Bundle","type":"transaction-response"}`)
	})
	return mux
}

// TestTargetRefuses checks that the error for a wrong base URL names the URL and the
// status.
func TestTargetRefuses(t *testing.T) {
	srv := httptest.NewServer(foreign("/r4", "Observation/%d"))
	defer srv.Close()
	err := run(options{target: srv.URL + "/fhir", token: "-", requests: 1, workers: 1})
	if err == nil || !strings.Contains(err.Error(), srv.URL+"/fhir") ||
		!strings.Contains(err.Error(), "status 404") || strings.Contains(err.Error(), "%!") {
		t.Fatalf("error %v", err)
	}
}

func TestGrowth(t *testing.T) {
	for _, c := range []struct {
		before, after uint64
		created       int
		want          float64
	}{{1000, 3000, 100, 20}, {3000, 1000, 100, -20}, {3000, 3000, 0, 0}, {1 << 40, 0, 0, -(1 << 40)}} {
		if got := growth(c.before, c.after, c.created); got != c.want {
			t.Errorf("growth(%d, %d, %d) = %v, want %v", c.before, c.after, c.created, got, c.want)
		}
	}
}
