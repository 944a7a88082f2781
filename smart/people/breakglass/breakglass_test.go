package breakglass_test

import (
	"context"
	"crypto/rand"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/people/breakglass"
)

type noConsent struct{}

func (noConsent) Permits(string, *access.Facts) bool { return false }

// TestConsentsModel compares the consents of a user at two processes with a model, for
// random sequences of overrides, early ends and waits, each at one of the processes.
func TestConsentsModel(t *testing.T) {
	clock := clocktest.At(time.Unix(1e9, 0))
	var log strings.Builder
	s, err := pebblestore.Open(filepath.Join(t.TempDir(), "s"),
		pebblestore.Options{Clock: clock.Now, Logger: slog.New(slog.DiscardHandler), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	rec, err := audit.NewRecorder(audit.Options{Store: s, Clock: clock.Now, Rand: rand.Reader,
		Observer: "https://pulse.example"})
	if err != nil {
		t.Fatal(err)
	}
	var processes [2]*breakglass.Service
	for i := range processes {
		if processes[i], err = breakglass.New(s, rec, clock.Now, slog.New(slog.NewTextHandler(&log, nil))); err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		prefix := "u" + strings.Repeat("x", round%40) + time.Duration(round).String()
		prefix = strings.Map(func(r rune) rune {
			if r < 'a' && (r < '0' || r > '9') || r > 'z' {
				return -1
			}
			return r
		}, prefix)
		// Generated ids have no hyphen, so the check of the log below cannot match
		// one by chance.
		users, patients := []string{prefix + "1", prefix + "2"}, []string{"ada-9", "ben-9"}
		views := map[string][]access.Consents{}
		for _, u := range users {
			for _, p := range processes {
				views[u] = append(views[u], p.Consents(noConsent{}, u))
			}
		}
		ends := map[[2]string]time.Time{}
		ids := map[[2]string]string{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			pair := [2]string{rapid.SampledFrom(users).Draw(t, "user"), rapid.SampledFrom(patients).Draw(t, "patient")}
			service := rapid.SampledFrom(processes[:]).Draw(t, "process")
			switch rapid.IntRange(0, 2).Draw(t, "act") {
			case 0:
				override, err := service.Open(ctx, audit.Caller{Principal: &access.Principal{Subject: pair[0]}},
					pair[0], pair[1],
					"unconscious after a fall")
				if open := clock.Now().Before(ends[pair]); open != (fhir.KindOf(err) == fhir.Conflict && err != nil) ||
					!open && err != nil {
					t.Fatalf("open %v: %v", open, err)
				}
				if err == nil {
					ends[pair], ids[pair] = override.End, override.ID
				}
			case 1:
				if ids[pair] == "" {
					continue
				}
				other := users[0]
				if other == pair[0] {
					other = users[1]
				}
				if err := service.Close(ctx, audit.Caller{}, other, ids[pair]); fhir.KindOf(err) != fhir.NotFound ||
					err == nil {
					t.Fatalf("another user ended the override: %v", err)
				}
				if err := service.Close(ctx, audit.Caller{}, pair[0], ids[pair]); err != nil {
					t.Fatal(err)
				}
				if clock.Now().Before(ends[pair]) {
					ends[pair] = clock.Now()
				}
			default:
				clock.Add(time.Duration(rapid.IntRange(1, 300).Draw(t, "minutes")) * time.Minute)
			}
			for _, u := range users {
				for _, p := range patients {
					permits(t, views[u], u, p, clock.Now().Before(ends[[2]string{u, p}]))
				}
				if views[u][0].Permits("app", &access.Facts{Type: "Observation"}) {
					t.Fatal("data without a patient is permitted")
				}
			}
		}
	})
	if strings.Contains(log.String(), "ada-9") || strings.Contains(log.String(), "ben-9") ||
		strings.Contains(log.String(), "unconscious") || strings.Contains(log.String(), "a fall") {
		t.Error("the log names the patient or the reason")
	}
	if !strings.Contains(log.String(), "level=WARN") {
		t.Error("no log line at level WARN")
	}
}

// permits checks the views of all processes.
func permits(t *rapid.T, views []access.Consents, user, patient string, want bool) {
	for i, view := range views {
		if got := view.Permits("app", &access.Facts{Type: "Observation", Patient: patient}); got != want {
			t.Fatalf("%s sees %s at process %d: %v, want %v", user, patient, i, got, want)
		}
	}
}

func TestReview(t *testing.T) {
	s, err := pebblestore.Open(filepath.Join(t.TempDir(), "s"),
		pebblestore.Options{Clock: time.Now, Logger: slog.New(slog.DiscardHandler), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	rec, err := audit.NewRecorder(audit.Options{Store: s, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pulse.example"})
	if err != nil {
		t.Fatal(err)
	}
	service, err := breakglass.New(s, rec, time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	override, err := service.Open(ctx, audit.Caller{}, "doc", "ada", "unconscious after a fall")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		who, id, note string
		justified     bool
		want          fhir.Kind
	}{{"doc", override.ID, "", true, fhir.Forbidden}, {"aud", "none", "", true, fhir.NotFound},
		{"aud", override.ID, "", false, fhir.Invalid}} {
		if err := service.Review(ctx, audit.Caller{}, tt.who, tt.id, tt.justified, tt.note); err == nil ||
			fhir.KindOf(err) != tt.want {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	if err := service.Review(ctx, audit.Caller{}, "aud", override.ID, true, ""); err != nil {
		t.Fatal(err)
	}
	if err := service.Review(ctx, audit.Caller{}, "aud", override.ID, false,
		"second thoughts"); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("reviewed twice: %v", err)
	}
	all, err := service.List(ctx)
	if err != nil || len(all) != 1 || !all[0].Justified || all[0].Pending() {
		t.Errorf("%+v %v", all, err)
	}
}
