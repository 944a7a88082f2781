package signin

import (
	"context"
	"errors"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/user"
)

// tally is a bucket that several servers share.
type tally struct {
	left int
	down bool
}

func (s *tally) Processes() int { return 4 }

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

// TestRefusalsTogether checks that the refused sign-ins that four servers record are
// bounded together.
func TestRefusalsTogether(t *testing.T) {
	clock := clocktest.At(time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC))
	for _, c := range []struct {
		name   string
		shared limit.Shared
		want   int
	}{
		{"together", &tally{left: recorded}, recorded},
		{"each its share", &tally{down: true}, recorded},
		{"the control: each for itself", nil, 4 * recorded},
	} {
		n := 0
		for range 4 {
			s, err := New(Options{Store: struct{ store.State }{}, Audit: struct{ audit.Trail }{},
				Users:    &user.Registry{},
				Sessions: &session.Sessions{}, Passwords: authn.NewPasswords(nil), Vault: &authn.Vault{},
				ResourceExists: func(context.Context, fhir.Ref) (bool, error) { return false, nil },
				EndAccess:      func(context.Context, *store.Batch, string, string, audit.Caller) error { return nil },
				Issuer:         "https://pg.example", Clock: clock.Now, Shared: c.shared})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 * recorded {
				if s.mayRecord() {
					n++
				}
			}
		}
		if n != c.want {
			t.Errorf("%s: %d recorded, want %d", c.name, n, c.want)
		}
	}
}
