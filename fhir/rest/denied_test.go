package rest

import (
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// tally is a bucket that several servers share.
type tally struct {
	left int
	down bool
}

func (s *tally) Processes() int { return 2 }

func (s *tally) Take(_ []byte, _, _, _ float64, _ int) (int, time.Duration, bool, error) {
	if s.down {
		return 0, 0, false, errors.New("down")
	}
	if s.left == 0 {
		return 0, time.Second, false, nil
	}
	s.left--
	return 0, 0, true, nil
}

// TestDeniedTogether checks that the requests without a valid token that two servers
// record are bounded together.
func TestDeniedTogether(t *testing.T) {
	clock := clocktest.At(time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC))
	for _, c := range []struct {
		name   string
		shared limit.Shared
		want   int
	}{
		{"together", &tally{left: 6}, 6},
		{"each its share", &tally{down: true}, 6},
		{"the control: each for itself", nil, 12},
	} {
		st, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
		if err != nil {
			t.Fatal(err)
		}
		rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: clock.Now, Rand: rand.Reader,
			Observer: "https://pg.example"})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			s := &Server{Service: &interaction.Service{Store: st, Audit: rec, Clock: clock.Now, Rand: rand.Reader},
				Auth: tokens{}, Metadata: func() []byte { return []byte("{}") },
				Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Clock: clock.Now, Rand: rand.Reader,
				Limits: Limits{Denied: 6, Shared: c.shared}}
			e := s.Engine()
			for range 20 {
				w := httptest.NewRecorder()
				e.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/fhir/Patient/a", nil))
				if w.Code != http.StatusUnauthorized {
					t.Fatalf("status %d: %s", w.Code, w.Body)
				}
			}
		}
		n := 0
		err = st.Scan(t.Context(), store.ScanRange{Types: []string{"AuditEvent"}, At: st.LastSeq(),
			Filter: access.All().Filter(access.Read)}, func(*store.Found) bool { n++; return true })
		if err != nil || n != c.want {
			t.Errorf("%s: %d recorded, want %d; %v", c.name, n, c.want, err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}
