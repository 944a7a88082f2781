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

type nobody struct{}

func (nobody) Permits(string, *access.Facts) bool { return false }

// TestOverAgainstAModel: whatever is opened, ended and waited for, a user sees
// exactly the patients whose opening holds.
func TestOverAgainstAModel(t *testing.T) {
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
	g, err := breakglass.New(s, rec, clock.Now, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
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
		// of letters that no drawn id has
		users, patients := []string{prefix + "1", prefix + "2"}, []string{"ada-9", "ben-9"}
		views := map[string]access.Consents{}
		for _, u := range users {
			views[u] = g.For(nobody{}, u)
		}
		ends := map[[2]string]time.Time{}
		ids := map[[2]string]string{}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			k := [2]string{rapid.SampledFrom(users).Draw(t, "user"), rapid.SampledFrom(patients).Draw(t, "patient")}
			switch rapid.IntRange(0, 2).Draw(t, "act") {
			case 0:
				o, err := g.Open(ctx, audit.Caller{Principal: &access.Principal{Subject: k[0]}}, k[0], k[1],
					"unconscious after a fall")
				if open := clock.Now().Before(ends[k]); open != (fhir.KindOf(err) == fhir.Conflict && err != nil) ||
					!open && err != nil {
					t.Fatalf("open %v: %v", open, err)
				}
				if err == nil {
					ends[k], ids[k] = o.End, o.ID
				}
			case 1:
				if ids[k] == "" {
					continue
				}
				other := users[0]
				if other == k[0] {
					other = users[1]
				}
				if err := g.Close(ctx, audit.Caller{}, other, ids[k]); fhir.KindOf(err) != fhir.NotFound ||
					err == nil {
					t.Fatalf("another user ended it: %v", err)
				}
				if err := g.Close(ctx, audit.Caller{}, k[0], ids[k]); err != nil {
					t.Fatal(err)
				}
				if clock.Now().Before(ends[k]) {
					ends[k] = clock.Now()
				}
			default:
				clock.Add(time.Duration(rapid.IntRange(1, 300).Draw(t, "minutes")) * time.Minute)
			}
			for _, u := range users {
				for _, p := range patients {
					if got, want := views[u].Permits("app", &access.Facts{Type: "Observation", Patient: p}),
						clock.Now().Before(ends[[2]string{u, p}]); got != want {
						t.Fatalf("%s sees %s: %v, want %v", u, p, got, want)
					}
				}
				if views[u].Permits("app", &access.Facts{Type: "Observation"}) {
					t.Fatal("what is nobody's is seen")
				}
			}
		}
	})
	if strings.Contains(log.String(), "ada-9") || strings.Contains(log.String(), "ben-9") ||
		strings.Contains(log.String(), "unconscious") || strings.Contains(log.String(), "a fall") {
		t.Error("the log names the patient or the reason")
	}
	if !strings.Contains(log.String(), "level=WARN") {
		t.Error("no alert")
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
	g, err := breakglass.New(s, rec, time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	o, err := g.Open(ctx, audit.Caller{}, "doc", "ada", "unconscious after a fall")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		who, id, note string
		justified     bool
		want          fhir.Kind
	}{{"doc", o.ID, "", true, fhir.Forbidden}, {"aud", "none", "", true, fhir.NotFound},
		{"aud", o.ID, "", false, fhir.Invalid}} {
		if err := g.Review(ctx, audit.Caller{}, x.who, x.id, x.justified, x.note); err == nil ||
			fhir.KindOf(err) != x.want {
			t.Errorf("%+v: %v", x, err)
		}
	}
	if err := g.Review(ctx, audit.Caller{}, "aud", o.ID, true, ""); err != nil {
		t.Fatal(err)
	}
	if err := g.Review(ctx, audit.Caller{}, "aud", o.ID, false, "second thoughts"); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("reviewed twice: %v", err)
	}
	all, err := g.List(ctx)
	if err != nil || len(all) != 1 || !all[0].Justified || all[0].Waiting() {
		t.Errorf("%+v %v", all, err)
	}
}
