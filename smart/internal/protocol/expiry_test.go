package protocol

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"pulsegate/smart/client"
)

// TestExpiredTokenError checks that the challenge for an expired token names
// the reason (RFC 6750 3.1), and that the challenge for a forged token does
// not.
func TestExpiredTokenError(t *testing.T) {
	w := newWorld(t)
	tok := w.authorize(w.app(client.None, nil), offline)["access_token"].(string)
	challenge := func(tok string) string {
		t.Helper()
		r, err := http.NewRequest("GET", w.base+"/fhir/Patient/p1", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+tok)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != 401 {
			t.Fatalf("status %d", res.StatusCode)
		}
		return res.Header.Get("WWW-Authenticate")
	}
	w.clock.add(2 * time.Hour)
	if got := challenge(tok); !strings.HasPrefix(got, `Bearer error="invalid_token", error_description="`) ||
		!strings.Contains(got, "expired") {
		t.Errorf("expired: %s", got)
	}
	forged := tok[:len(tok)-8] + "AAAAAAAA"
	if got := challenge(forged); strings.Contains(got, "expired") || !strings.Contains(got, `error="invalid_token"`) {
		t.Errorf("forged and expired: %s", got)
	}
}
