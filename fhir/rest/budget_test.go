package rest

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"pulsegate/fhir"
	"pulsegate/fhir/budget"
)

// TestBodiesShareABudget tests that a body beyond the budget is refused with 503 and
// Retry-After before it is read, and accepted when other requests have finished.
func TestBodiesShareABudget(t *testing.T) {
	w := newWorld(t, newModelStore(time.Now))
	b := budget.New(3 * budget.Factor * budget.Small)
	w.srv.Config.Handler = b.Handler(w.srv.Config.Handler)
	note := strings.Repeat("z", 100<<10)
	body := `{"resourceType":"Observation","status":"final","code":{"text":"` + note +
		`"},"subject":{"reference":"Patient/p1"}}`
	other := b.Hold()
	if err := other.Grow(2*budget.Factor*budget.Small + 1); err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string][]string{"plain": nil, "gzip": {"Content-Encoding", "gzip"}} {
		send := body
		if header != nil {
			send = zip(t, body)
		}
		a := w.do("all", "POST", "/Observation", send, append(header, "Content-Type", "application/fhir+json")...)
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Errorf("%s, beside another: %d %s", name, a.status, a.body)
		}
	}
	other.Release()
	if a := w.do("all", "POST", "/Observation", body, "Content-Type", "application/fhir+json"); a.status != 201 {
		t.Errorf("alone: %d %s", a.status, a.body)
	}
	if b.Used() != 0 {
		t.Errorf("%d used at the end", b.Used())
	}
}

func zip(t *testing.T, s string) string {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := io.WriteString(z, s); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestInflationIsBounded tests the limits on compressed bodies.
func TestInflationIsBounded(t *testing.T) {
	held := budget.New(1 << 40).Hold()
	read := func(s string) (int, error) {
		counted := &countedReader{source: strings.NewReader(zip(t, s))}
		z, err := gzip.NewReader(counted)
		if err != nil {
			t.Fatal(err)
		}
		b, err := readBudgeted(z, held, func(n int64) error {
			if n > freeOfRatio && n > maxRatio*counted.count {
				return fhir.Errorf(fhir.TooLarge, "test", "ratio")
			}
			return nil
		})
		return len(b), err
	}
	if n, err := read(strings.Repeat(`{"url":"u:x","valueCode":"x"},`,
		350_000)); fhir.KindOf(err) != fhir.TooLarge || n > 4<<20 {
		t.Errorf("a bomb: %d bytes, %v", n, err)
	}
	var alike strings.Builder
	for i := range 5000 {
		alike.WriteString(strings.Replace(
			`{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"effectiveDateTime":"2026-01-01T00:00:NN.NNNZ","valueQuantity":{"value":60,"unit":"/min"}}`, "NN.NNN", string(rune('0'+i%10))+string(rune('0'+i/10%10)), 1))
	}
	if n, err := read(alike.String()); err != nil || n != alike.Len() {
		t.Errorf("Observations alike: %d of %d bytes, %v", n, alike.Len(), err)
	}
}
