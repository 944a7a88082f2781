package budget

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pulsegate/fhir"
)

func TestBudget(t *testing.T) {
	b := New(100)
	one, two := b.Hold(), b.Hold()
	if err := one.Grow(60); err != nil {
		t.Fatal(err)
	}
	if err := two.Grow(41); fhir.KindOf(err) != fhir.Unavailable || b.Used() != 60 {
		t.Errorf("beyond the limit: %v, %d used", err, b.Used())
	}
	if err := two.Grow(40); err != nil {
		t.Error(err)
	}
	one.Release()
	one.Release()
	if err := two.Grow(60); err != nil {
		t.Error(err)
	}
	two.Release()
	if b.Used() != 0 {
		t.Errorf("%d used at the end", b.Used())
	}
	var none *Held
	if err := none.Grow(1 << 40); err != nil {
		t.Error(err)
	}
	none.Release()
}

// TestHandler: a reservation ends with its request, even after a panic or an error.
func TestHandler(t *testing.T) {
	b := New(100)
	for name, c := range map[string]struct {
		length int64
		coding string
		want   bool
	}{"small": {10, "", false}, "compressed": {10, "gzip", true}, "large": {Small + 1, "", true},
		"of no length": {-1, "", true}} {
		h := b.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if held := Of(r.Context()); (held != nil) != c.want {
				t.Errorf("%s: reserved %v", name, held != nil)
			}
			if err := Of(r.Context()).Grow(100); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			panic(http.ErrAbortHandler)
		}))
		r := httptest.NewRequest("POST", "/", strings.NewReader("0123456789"))
		r.ContentLength = c.length
		r.Header.Set("Content-Encoding", c.coding)
		if c.coding == "" {
			r.Header.Del("Content-Encoding")
		}
		func() {
			defer func() { _ = recover() }()
			h.ServeHTTP(httptest.NewRecorder(), r)
		}()
		if b.Used() != 0 {
			t.Errorf("%s: %d used after the request", name, b.Used())
		}
	}
}
