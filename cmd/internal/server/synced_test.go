package server

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// unconfirmed is a store that cannot confirm that it is up to date.
type unconfirmed struct {
	store.Store
	synced *int // number of calls of Sync
}

func (u unconfirmed) Sync(context.Context) error {
	*u.synced++
	return errors.New("the log does not answer")
}

// unconfirmedHealth is the same for health.
type unconfirmedHealth struct{ *pebblestore.DB }

func (unconfirmedHealth) Ready() error { return errors.New("the log does not answer") }

// TestSyncBeforeEveryRoute sends a request to every route while the store cannot
// confirm that it is up to date. All but the listed ones must refuse it before they
// look at its token, with an answer that the client of the route understands.
func TestSyncBeforeEveryRoute(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	var synced int
	s.fhir.Store = unconfirmed{s.store, &synced}
	e, err := s.engine(&health{store: unconfirmedHealth{s.embedded}, draining: make(chan struct{})})
	if err != nil {
		t.Fatal(err)
	}
	send := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
		return w
	}
	served := map[string]int{}
	for _, r := range e.Routes() {
		if r.Method == http.MethodOptions || r.Method == http.MethodConnect {
			continue
		}
		path := strings.NewReplacer(":type", "Patient", ":id", "ada", ":vid", "1", ":client", "c", ":job", "j",
			":file", "f",
			":vendor", "apple", ":format", "export.xml", "*page", "signin").Replace(r.Path)
		before := synced
		w := send(r.Method, path)
		if synced == before {
			served[r.Path] = w.Code
			continue
		}
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || synced != before+1 {
			t.Errorf("%s %s: status %d, Retry-After %q, %d calls of Sync", r.Method, r.Path, w.Code,
				w.Header().Get("Retry-After"), synced-before)
		}
		if r.Method != http.MethodHead {
			understood(t, path, w)
		}
	}
	want := map[string]int{"/": 200, "/favicon.ico": 200, "/livez": 200, "/readyz": 503,
		openAPIPath: 200, collectionPath: 200, guidePath: 200}
	if !maps.Equal(served, want) {
		t.Errorf("answered without Sync: %v, want %v", served, want)
	}
	for path, status := range map[string]int{"/fhir/no/such/path/at/all": 503, "/no/such/path": 503,
		"/auth/static/none.css": 404, "/auth/static/../users": 503, "/auth/static/%2e%2e/users": 503,
		"/auth/static%2Fnone.css": 503, "/auth/static/a%2Fb": 503} {
		if w := send(http.MethodGet, path); w.Code != status {
			t.Errorf("%s: status %d, want %d", path, w.Code, status)
		}
	}
	if w := send(http.MethodPatch, "/fhir/Patient/ada"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a method that is not offered: status %d", w.Code)
	}
}

// understood checks that the client of a path understands an error.
func understood(t *testing.T, path string, w *httptest.ResponseRecorder) {
	t.Helper()
	kind, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	var body struct {
		ResourceType string
		Error        string
	}
	if kind != "text/html" {
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Errorf("%s: %v: %s", path, err, w.Body)
		}
	}
	switch {
	case strings.HasPrefix(path, "/fhir") || strings.HasPrefix(path, "/ingest/"):
		if kind != "application/fhir+json" || body.ResourceType != "OperationOutcome" {
			t.Errorf("%s: %s is no OperationOutcome", path, w.Body)
		}
	case strings.HasPrefix(path, "/auth/") || path == "/oauth/authorize":
		if kind != "text/html" || !strings.Contains(w.Body.String(), "try again") {
			t.Errorf("%s: %s: %s", path, kind, w.Body)
		}
	default:
		if kind != "application/json" || body.Error != "temporarily_unavailable" {
			t.Errorf("%s: %s is no OAuth error", path, w.Body)
		}
	}
}

// TestSyncBeforeEveryCommand calls every operation of the admin socket while the store
// cannot confirm that it is up to date.
func TestSyncBeforeEveryCommand(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	var synced int
	a := &admin.Server{Ops: operations{s}, Log: s.log, Sync: unconfirmed{s.store, &synced}.Sync}
	h := a.Handler(operatorOfTest)
	var served []string
	for _, pattern := range a.Routes() {
		method, path, _ := strings.Cut(pattern, " ")
		before := synced
		w := httptest.NewRecorder()
		if path == "/debug/pprof/profile" || path == "/debug/pprof/trace" {
			continue // would run for 30 seconds
		}
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader("{}")))
		if synced == before {
			served = append(served, path)
		} else if w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s: status %d", pattern, w.Code)
		}
	}
	if !slices.Equal(served, []string{"/debug/pprof/"}) {
		t.Errorf("answered without Sync: %q", served)
	}
}
